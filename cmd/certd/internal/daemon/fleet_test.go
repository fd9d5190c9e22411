package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
	"certd.internal/state"
)

const head = "apiVersion: certd/v1\nkind: Fleet\nname: acme\nstateDir: state\n"

// loadText reads a configuration in a folder of its own.
func loadText(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "certd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, problems := config.Load(path, config.Options{Getenv: func(string) string { return "" }, Now: time.Now()})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

// One login serves both mounts, whatever the anchors' keys are in.
func TestWebhookKeysShareTheVault(t *testing.T) {
	for _, engine := range []string{"transit: {mount: a}", "pki: {mount: root}"} {
		c := loadText(t, head+"keys: {vault: {address: 'https://127.0.0.1:1', auth: {tokenFile: token}, "+engine+"}}\n")
		k, err := openKeys(c, func(string) string { return "" }, slog.New(slog.DiscardHandler), nil)
		anchors, webhooks := k.anchors, k.webhooks
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := webhooks.(*vault.Transit); !ok || webhooks == anchors {
			t.Errorf("%s: webhook keys in %T", engine, webhooks)
		}
		if err := errors.Join(anchors.Close(), webhooks.Close()); err != nil {
			t.Errorf("%s: closed: %v", engine, err)
		}
	}
	c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\n")
	if k, err := openKeys(c, nil, nil, nil); err != nil || k.anchors != k.webhooks || k.vault != nil {
		t.Errorf("key files: %+v, %v", k, err)
	}
}

// A reload that changes which webhooks to look for makes the cluster anew;
// one that changes how long their certificates live does not.
func TestLikenessKnowsTheWebhooks(t *testing.T) {
	of := func(webhooks string) string {
		c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\nclusters:\n  - {name: home, inCluster: true, webhooks: {"+webhooks+"}}\n")
		return likeness(c.Clusters[0])
	}
	extra := func(dns string) string {
		return "extra: [{name: quota, secret: {namespace: q, name: q}, dnsNames: [" + dns + "], objects: [{kind: APIService, name: v1.q}]}]"
	}
	usual := of("lifetime: 30d")
	if of("lifetime: 31d") != usual {
		t.Error("another lifetime makes another cluster")
	}
	seen := map[string]string{usual: "the defaults"}
	for _, webhooks := range []string{"manage: none", extra("q.q.svc"), extra("q.q.svc, q")} {
		like := of(webhooks)
		if other, twice := seen[like]; twice {
			t.Errorf("%s is like %s", webhooks, other)
		}
		seen[like] = webhooks
	}
}

func TestAClusterThatCannotBeOpenedHidesItsWebhooks(t *testing.T) {
	l := &lazyCluster{name: "east", open: func() (rotation.Cluster, error) { return nil, errors.New("read the kubeconfig: gone") }}
	found := l.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{{Name: "tap"}, {Name: "tap-injector"}})
	for _, name := range []string{"tap", "tap-injector"} {
		if c := found[name].Check; c.State != "unknown" || !strings.Contains(c.Evidence, "gone") || found[name].At.IsZero() {
			t.Errorf("%s: %+v", name, found[name])
		}
	}
}

func TestExport(t *testing.T) {
	c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\nclusters:\n"+
		"  - {name: home, inCluster: true, linkerd: {namespace: mesh, trustDomain: acme.example}}\n  - {name: vms, directory: vms}\n")
	j, err := state.Open(c.StateDir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	f := &fleet{journal: j, config: c}
	want := api.ClusterExport{APIVersion: "certd/v1", Kind: "ClusterExport", Cluster: "home", Namespace: "mesh", TrustDomain: "acme.example", Webhooks: true}
	if got, err := f.Export(t.Context(), "home"); err != nil || got != want {
		t.Errorf("before there is anything: %+v, %v", got, err)
	}
	for _, ca := range []rotation.Anchor{
		{ID: "w1", Key: "k1", RetiredAt: time.Now(), Certificate: selfSigned(t, "old")},
		{ID: "w2", Key: "k2", Certificate: selfSigned(t, "now")},
		{ID: "w3", Key: "k3"},
	} {
		id, err := j.Begin(rotation.Intent{Step: rotation.StepWebhookCA, Cluster: "home", Actor: "certd", Reason: "due"})
		if err == nil {
			err = j.Finish(id, rotation.Outcome{Result: rotation.OK, WebhookCA: &rotation.WebhookCA{Cluster: "home", Anchor: ca}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Export(t.Context(), "home")
	if err != nil || strings.Count(got.WebhookCAPEM, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("one webhook CA in use, one retired, one not signed yet: %+v, %v", got, err)
	}
	if got, err := f.Export(t.Context(), "vms"); err != nil || !got.Directory || got.Webhooks || got.WebhookCAPEM != "" {
		t.Errorf("a folder: %+v, %v", got, err)
	}
	if _, err := f.Export(context.Background(), "nowhere"); !errors.Is(err, api.ErrUsage) {
		t.Errorf("an unknown cluster: %v", err)
	}
}

func selfSigned(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
