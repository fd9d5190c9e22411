package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// generations are the anchors of a fleet of three clusters in the middle of a
// change: g4's key is made, g3 signs, g2 is still trusted, g1 is retired.
var generations = func() func() api.TrustList {
	made := sync.OnceValue(func() []api.TrustAnchor {
		anchor := func(id, state, subject string, from time.Time, in int) api.TrustAnchor {
			key, err := pki.GenerateKey()
			if err != nil {
				panic(err)
			}
			c, err := pki.SelfSignAnchor(from, pki.AnchorProfile{CommonName: subject, Lifetime: 3650 * day, Backdate: hour}, key)
			if err != nil {
				panic(err)
			}
			return api.TrustAnchor{ID: id, State: state, Subject: subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter, SHA256: pki.Fingerprint(c), SKI: pki.SKI(c),
				Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-anchor-" + id[1:], CheckedAt: after(-hour)}, Clusters: in, CreatedAt: from, CertificatePEM: string(pki.EncodeCertificates(c))}
		}
		list := []api.TrustAnchor{
			{ID: "g4", State: api.AnchorUnsigned, Key: rotation.KeyStatus{Name: "acme-mesh-anchor-4"}, CreatedAt: now},
			anchor("g3", api.AnchorActive, "root.linkerd.cluster.local 2026-3", now.Add(-69*day), 3),
			anchor("g2", api.AnchorTrusted, "root.linkerd.cluster.local 2019-2", now.Add(-2700*day), 2),
			anchor("g1", api.AnchorRetired, "root.linkerd.cluster.local 2016-1", now.Add(-3700*day), 0),
		}
		list[3].RetiredAt = now.Add(-2000 * day)
		return list
	})
	return func() api.TrustList {
		return api.TrustList{APIVersion: rotation.APIVersion, Kind: "TrustList", Fleet: "acme-mesh", ObservedAt: now, Source: "daemon", Clusters: 3, Items: slices.Clone(made())}
	}
}()

func TestAnchorsOnTheScreen(t *testing.T) {
	list := generations()
	for i := range list.Items {
		if list.Items[i].SHA256 != "" {
			list.Items[i].SHA256 = strings.Repeat(list.Items[i].ID[1:], 4) + digest[4:]
		}
	}
	trouble := generations()
	trouble.Unseen, trouble.Items = 1, trouble.Items[1:3]
	for i := range trouble.Items {
		trouble.Items[i].SHA256 = digest
	}
	trouble.Items[0].Key.Exportable = true
	trouble.Items[1].Key = rotation.KeyStatus{Backend: "file", Name: "acme-mesh-anchor-2", Exportable: true}
	trouble.Items[1].NotAfter = now.Add(-day)
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow, pipe, ascii := plain, plain, plain
	narrow.width, pipe.width, ascii.ascii = 80, 0, true
	for _, row := range []struct {
		name  string
		style style
		list  api.TrustList
	}{
		{"list", plain, list}, {"list-80", narrow, list}, {"list-pipe", pipe, list}, {"list-ascii", ascii, list}, {"list-trouble", plain, trouble},
	} {
		t.Run(row.name, func(t *testing.T) {
			golden(t, "trust-"+row.name, row.style.anchors(row.list))
		})
	}
	for width := 60; width < 200; width++ {
		s := style{zone: time.UTC, now: now, width: width, color: width%2 == 0, ascii: width%3 == 0}
		for _, l := range s.anchors(trouble) {
			if problem := misfit(l, s); problem != "" {
				t.Errorf("width %d: %s in %q", width, problem, l)
			}
		}
	}
}

func TestTheTrustListForPrograms(t *testing.T) {
	a, out, _ := testApp()
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		return &scripted{st: healthy(), anchor: true}, journalNote, func() error { return nil }, nil
	}
	if code := a.run(t.Context(), []string{"trust", "list", "-o", "json"}); code != 0 {
		t.Fatalf("exit %d", code)
	}
	var doc map[string]any
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	fields := func(v any) []string {
		var list []string
		for k := range v.(map[string]any) {
			list = append(list, k)
		}
		slices.Sort(list)
		return list
	}
	items := doc["items"].([]any)
	for _, row := range []struct {
		of   any
		want string
	}{
		{doc, "apiVersion clusters fleet items kind observedAt source unseen"},
		{items[0], "clusters createdAt id key state"},
		{items[1], "certificatePEM clusters createdAt id key notAfter notBefore sha256 ski state subject"},
		{items[3], "certificatePEM clusters createdAt id key notAfter notBefore retiredAt sha256 ski state subject"},
		{items[0].(map[string]any)["key"], "backend exportable imported name"},
		{items[1].(map[string]any)["key"], "backend checkedAt exportable imported name"},
	} {
		if got := strings.Join(fields(row.of), " "); got != row.want {
			t.Errorf("fields %q, want %q", got, row.want)
		}
	}
	if doc["kind"] != "TrustList" || items[0].(map[string]any)["state"] != "unsigned" || items[1].(map[string]any)["notAfter"] != generations().Items[1].NotAfter.Format(time.RFC3339) {
		t.Errorf("%s", out)
	}
}

// What is exported has the form of what certd publishes, to the byte.
func TestTheExportedBundleIsCanonical(t *testing.T) {
	a, out, errs := testApp()
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		return &scripted{st: healthy("prod-eu-1"), anchor: true}, journalNote, func() error { return nil }, nil
	}
	g := generations().Items
	want := g[1].CertificatePEM + g[2].CertificatePEM
	for _, args := range [][]string{{"trust", "export"}, {"trust", "export", "prod-eu-1"}} {
		out.Reset()
		if code := a.run(t.Context(), args); code != 0 || out.String() != want {
			t.Errorf("%q: exit %d, %s", args, code, cmp.Diff(want, out.String()))
		}
	}
	if b, err := pki.ParseBundle(out.Bytes()); err != nil || string(b.PEM()) != want {
		t.Errorf("it is not canonical: %v", err)
	}
	if !strings.Contains(errs.String(), journalNote) || strings.Contains(errs.String(), "trust domain") {
		t.Errorf("stderr %q", errs)
	}
}

// A reader that knows the two specifications and not certd gets the anchors.
func TestTheSPIFFEBundleIsReadBack(t *testing.T) {
	ec, err := pki.ParseBundle([]byte(generations().Items[1].CertificatePEM))
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "an RSA root"}, NotBefore: now.Add(-9 * day), NotAfter: now.Add(900 * day), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, rsaKey.Public(), rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaRoot, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.NewBundle(ec.Anchors()[0], rsaRoot)
	if err != nil {
		t.Fatal(err)
	}
	text, err := spiffeBundle(b, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Keys     []map[string]any
		Sequence *int64   `json:"spiffe_sequence"`
		Refresh  *float64 `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Sequence == nil || *doc.Sequence != b.Anchors()[0].NotBefore.Unix() || doc.Refresh == nil || *doc.Refresh != 3600 {
		t.Errorf("sequence and refresh: %s", text)
	}
	// After a change that was turned around the older anchor is the only one, and
	// the number must not fall.
	retired := b.Anchors()[0].NotBefore.Add(time.Hour)
	if text, err := spiffeBundle(b, retired); err != nil || !strings.Contains(text, fmt.Sprintf(`"spiffe_sequence": %d`, retired.Unix())) {
		t.Errorf("an anchor was retired since: %v\n%s", err, text)
	}
	var found []*x509.Certificate
	for _, k := range doc.Keys {
		number := func(name string, octets int) *big.Int {
			raw, err := base64.RawURLEncoding.DecodeString(k[name].(string))
			if err != nil || octets > 0 && len(raw) != octets {
				t.Errorf("%s: %v, %d octets", name, err, len(raw))
			}
			return new(big.Int).SetBytes(raw)
		}
		chain := k["x5c"].([]any)
		raw, err := base64.StdEncoding.DecodeString(chain[0].(string))
		if err != nil || len(chain) != 1 {
			t.Fatalf("x5c: %v, %d certificates", err, len(chain))
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		members := map[string]bool{"kty": true, "use": true, "x5c": true}
		switch pub := c.PublicKey.(type) {
		case *ecdsa.PublicKey:
			members["crv"], members["x"], members["y"] = true, true, true
			point := append([]byte{4}, number("x", 32).FillBytes(make([]byte, 32))...)
			key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(point, number("y", 32).FillBytes(make([]byte, 32))...))
			if err != nil || k["kty"] != "EC" || k["crv"] != "P-256" || !pub.Equal(key) {
				t.Errorf("the key is not the certificate's: %v", k)
			}
		case *rsa.PublicKey:
			members["n"], members["e"] = true, true
			if k["kty"] != "RSA" || !pub.Equal(&rsa.PublicKey{N: number("n", 256), E: int(number("e", 0).Int64())}) || k["e"] != "AQAB" {
				t.Errorf("the key is not the certificate's: %v", k)
			}
		}
		for name := range k { // kid above all must not be there
			if !members[name] {
				t.Errorf("a member %q", name)
			}
		}
		if k["use"] != "x509-svid" {
			t.Errorf("use %v", k["use"])
		}
		found = append(found, c)
	}
	if got, err := pki.NewBundle(found...); err != nil || !got.Equal(b) || !found[0].Equal(b.Anchors()[0]) || len(found) != 2 {
		t.Errorf("%d anchors came back: %v", len(found), err)
	}
}

func TestAKeyWithoutACertificateIsNoBundle(t *testing.T) {
	list := generations()
	for _, items := range [][]api.TrustAnchor{nil, list.Items[:1], list.Items[3:]} {
		list.Items = items
		if _, err := published(list); err == nil || codeOf(err) != 1 {
			t.Errorf("%d anchors: %v", len(items), err)
		}
	}
}
