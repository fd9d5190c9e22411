package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
)

// material is an anchor and an issuer under it, with its key.
type material struct {
	anchor, issuer, key []byte // PEM
	issuerDER           []byte
}

func issued(t testing.TB, at time.Time) material {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := pki.GenerateKey()
	check(err)
	anchor, err := pki.SelfSignAnchor(at, pki.AnchorProfile{CommonName: "root.linkerd.cluster.local 2026-1", Lifetime: 3650 * day, Backdate: hour}, root)
	check(err)
	key, err := pki.GenerateKey()
	check(err)
	template, err := pki.NewIssuerTemplate(at, pki.IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: 7 * day, Backdate: hour}, anchor)
	check(err)
	issuer, err := pki.SignIssuer(template, anchor, key.PublicKey(), root)
	check(err)
	return material{pki.EncodeCertificates(anchor), pki.EncodeCertificates(issuer), key.PKCS8PEM(), issuer.Raw}
}

func secret(fields map[string][]byte) []byte {
	data := map[string]string{}
	for k, v := range fields {
		data[k] = base64.StdEncoding.EncodeToString(v)
	}
	b, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": "linkerd-identity-issuer", "namespace": "linkerd"}, "data": data})
	return b
}

func TestInspectExplainsEveryForm(t *testing.T) {
	m, late := issued(t, now.Add(-hour)), issued(t, now.Add(-30*day))
	other := issued(t, now.Add(-hour))
	full := map[string][]byte{"tls.crt": m.issuer, "tls.key": m.key, "crt.pem": m.issuer, "key.pem": m.key, "ca.crt": m.anchor}
	wrongKey := map[string][]byte{"tls.crt": m.issuer, "tls.key": other.key, "ca.crt": m.anchor}
	wrongRoot := map[string][]byte{"tls.crt": m.issuer, "tls.key": m.key, "ca.crt": other.anchor}
	configMap := []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: linkerd-identity-trust-roots}\ndata:\n  ca-bundle.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(string(m.anchor)), "\n", "\n    ") + "\n")
	for name, row := range map[string]struct {
		input []byte
		roles string
		keys  int
		says  []string
	}{
		"an issuer":                      {m.issuer, "issuer", 0, []string{"usable as a Linkerd issuer: yes: as far as it shows", "6d 21h left", "which is not given", "identity.linkerd.cluster.local"}},
		"an issuer in DER":               {m.issuerDER, "issuer", 0, []string{"usable as a Linkerd issuer: yes"}},
		"an issuer that ended":           {late.issuer, "issuer", 0, []string{"usable as a Linkerd issuer: no: it ended 23d", "ended 23d"}},
		"an issuer with its anchor":      {append(bytes.Clone(m.issuer), m.anchor...), "issuer anchor", 0, []string{"an anchor given vouches for it", "by itself", "the signature holds"}},
		"an issuer with another anchor":  {append(bytes.Clone(m.issuer), other.anchor...), "issuer anchor", 0, []string{"usable as a Linkerd issuer: no: no anchor given vouches for it"}},
		"a bundle":                       {append(bytes.Clone(m.anchor), other.anchor...), "anchor anchor", 0, []string{"usable as a Linkerd trust bundle: yes, 2 anchors"}},
		"a bundle with text between":     {append(append(bytes.Clone(m.anchor), "# the other\n"...), other.anchor...), "anchor anchor", 0, []string{"usable as a Linkerd trust bundle: no", "block 2"}},
		"a bundle with CR LF":            {bytes.ReplaceAll(m.anchor, []byte("\n"), []byte("\r\n")), "anchor", 0, []string{"usable as a Linkerd trust bundle: no: its lines end in CR LF"}},
		"a ConfigMap":                    {configMap, "anchor", 0, []string{"usable as a Linkerd trust bundle: yes, 1 anchor", "2026-1 (ca-bundle.crt)"}},
		"a complete Secret":              {secret(full), "anchor issuer", 2, []string{"usable as a Linkerd issuer: yes: the key is its own, and a leaf of it verifies under ca.crt", "(crt.pem, tls.crt)", "2 private keys (not shown)"}},
		"a Secret with another's key":    {secret(wrongKey), "anchor issuer", 1, []string{"usable as a Linkerd issuer: no"}},
		"a Secret with another's anchor": {secret(wrongRoot), "anchor issuer", 1, []string{"usable as a Linkerd issuer: no: a leaf of it would not verify under ca.crt"}},
		"a Secret with broken base64":    {[]byte("kind: Secret\ndata: {tls.crt: '%%%', ca.crt: " + base64.StdEncoding.EncodeToString(m.anchor) + "}\n"), "anchor", 0, []string{"tls.crt: is not base64"}},
		"a List of manifests":            {[]byte("kind: List\nitems:\n- " + string(secret(full)) + "\n"), "anchor issuer", 2, []string{"usable as a Linkerd issuer: yes"}},
		"two documents":                  {append(append(secret(full), "\n---\n"...), configMap...), "anchor issuer", 2, []string{"(linkerd-identity-issuer/crt.pem and 1 more)"}},
		"a private key":                  {m.key, "", 1, []string{"1 private key (not shown)"}},
		"a certificate with its key":     {append(bytes.Clone(m.issuer), m.key...), "issuer", 1, []string{"1 private key (not shown)"}},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := inspect("x", row.input, now)
			if err != nil {
				t.Fatal(err)
			}
			var roles []string
			for _, c := range doc.Certificates {
				roles = append(roles, c.Role)
			}
			if got := strings.Join(roles, " "); got != row.roles || doc.PrivateKeys != row.keys {
				t.Errorf("roles %q with %d keys, want %q with %d", got, doc.PrivateKeys, row.roles, row.keys)
			}
			lines := style{zone: time.UTC, now: now, width: 100}.inspection(doc)
			text := strings.Join(lines, "\n")
			for _, want := range row.says {
				if !strings.Contains(strings.Join(strings.Fields(text), " "), strings.Join(strings.Fields(want), " ")) {
					t.Errorf("it does not say %q:\n%s", want, text)
				}
			}
			b, _ := json.Marshal(doc)
			noKey(t, string(b)+text, m.key)
			for _, l := range lines {
				if problem := misfit(l, style{width: 100}); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
			// Six lines each, and an empty one.
			per := style{zone: time.UTC, now: now, width: 100}.inspection(Inspection{Certificates: doc.Certificates})
			if n := len(doc.Certificates); n > 0 && len(per) > 7*n {
				t.Errorf("%d lines for %d certificates", len(per), n)
			}
		})
	}
	if _, err := inspect("x", []byte("hello"), now); err == nil {
		t.Error("inspect explained a greeting")
	}
}

// noKey looks for any line of the key's body.
func noKey(t *testing.T, text string, key []byte) {
	t.Helper()
	block, _ := pem.Decode(key)
	for _, secret := range append(strings.Split(strings.TrimSpace(string(key)), "\n")[1:3], base64.StdEncoding.EncodeToString(block.Bytes), fmt.Sprintf("%x", block.Bytes)) {
		if strings.Contains(text, secret) {
			t.Fatal("the private key is shown")
		}
	}
}

func FuzzInspect(f *testing.F) {
	m := issued(f, now)
	f.Add(m.issuer)
	f.Add(append(bytes.Clone(m.anchor), m.key...))
	f.Add(secret(map[string][]byte{"tls.crt": m.issuer, "tls.key": m.key, "ca.crt": m.anchor}))
	f.Add([]byte("kind: Secret\ndata: {tls.crt: aGVsbG8=}\n---\nkind: List\nitems: [{kind: ConfigMap}]\n"))
	f.Add(m.issuerDER)
	f.Add([]byte("apiVersion: certd/v1\nkind: Webhook\nname: tap\nchain: |\n  -----BEGIN x\nobjects: [{object: a/b}]\nreplicas: [{pod: p, evidence: \"\\e[31m\"}]\ncheck: {state: no}\n"))
	s := style{zone: time.UTC, now: now, width: 80}
	f.Fuzz(func(t *testing.T, input []byte) {
		doc, err := inspect("fuzz", input, now)
		if err != nil {
			return
		}
		if len(doc.Certificates) == 0 && doc.PrivateKeys == 0 && len(doc.Webhooks) == 0 {
			t.Error("neither a certificate nor an error")
		}
		for _, l := range s.inspection(doc) {
			if problem := misfit(l, s); problem != "" {
				t.Errorf("%s in %q", problem, l)
			}
		}
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		noKey(t, string(b), m.key)
	})
}

func TestInspectFindsWhatIsNamed(t *testing.T) {
	m := issued(t, now.Add(-hour))
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, m.issuer, 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // inspect hangs up after the handshake
	server.StartTLS()
	defer server.Close()
	for name, row := range map[string]struct {
		arg  string
		exit int
		says string
	}{
		"a file":                {file, 0, "usable as a Linkerd issuer: yes"},
		"standard input":        {"-", 0, "anchor  CN=root"},
		"a cluster's issuer":    {"east/issuer", 0, "asked east issuer: "},
		"a cluster":             {"east", 0, "asked east : "},
		"a TLS server":          {server.URL, 0, "O=Acme Co"},
		"a server that is gone": {"https://127.0.0.1:1", 69, ""},
		"no address":            {"https://", 64, ""},
		"an unknown cluster":    {"west", 64, ""},
		"a cluster's webhook":   {"east/webhook/tap", 0, "asked east webhook/tap: "},
		"a webhook, not named":  {"east/webhook", 0, "asked east webhook: "}, // the cluster says which there are
		"an unknown part":       {"east/webhooks/x", 64, ""},
		"a part too deep":       {"east/webhook/x/y", 64, ""},
		"a folder":              {t.TempDir(), 64, ""},
		"nothing":               {"", 64, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, out, errs := testApp()
			a.Stdin = bytes.NewReader(m.anchor)
			a.InspectCluster = func(_ context.Context, _, cluster, part string) ([]byte, error) {
				if cluster != "east" {
					return nil, fmt.Errorf("cluster %q is not configured: %w", cluster, api.ErrUsage)
				}
				fmt.Fprintf(a.Stdout, "asked %s %s: ", cluster, part)
				return m.anchor, nil
			}
			if code := a.run(t.Context(), []string{"inspect", row.arg}); code != row.exit || !strings.Contains(out.String(), row.says) {
				t.Errorf("exit %d, want %d; stdout %s stderr %s", code, row.exit, out, errs)
			}
		})
	}
}

func TestInspectOnTheScreen(t *testing.T) {
	doc := Inspection{Certificates: []Inspected{
		{From: []string{"tls.crt", "crt.pem"}, Role: "issuer", Subject: "CN=identity.linkerd.cluster.local", Issuer: "CN=root.linkerd.cluster.local 2026-1", KeyType: "ECDSA P-256", CA: true, PathLength: new(int), Names: []string{"identity.linkerd.cluster.local"},
			Serial: "5e91000000000000000000000000000c", SKI: digest[:40], AKI: digest[8:48], NotBefore: now.Add(-day), NotAfter: now.Add(178*day + 17*hour), SHA256: digest, SignedBy: digest[2:] + "00"},
		{From: []string{"ca.crt"}, Role: "anchor", Subject: "CN=root.linkerd.cluster.local 2026-1", Issuer: "CN=root.linkerd.cluster.local 2026-1", KeyType: "ECDSA P-256", CA: true,
			Serial: "01", SKI: digest[8:48], AKI: digest[8:48], NotBefore: now.Add(-day), NotAfter: now.Add(3580 * day), SHA256: digest[2:] + "00", SignedBy: digest[2:] + "00"},
	}, PrivateKeys: 2, Issuer: &Judgement{true, "the key is its own, and a leaf of it verifies under ca.crt"}, Bundle: &BundleReport{Judgement{false, "block 2: there is a blank line; linkerd-identity would stop there"}, 1, ""},
		Problems: []string{"ca.crt: block 2: there is a blank line; linkerd-identity would stop there"}}
	golden(t, "inspect", style{zone: berlin(t), now: now, width: 100}.inspection(doc))
}
