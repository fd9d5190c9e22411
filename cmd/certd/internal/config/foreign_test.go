package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// partner is the PEM text of one anchor.
func partner(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: name, Lifetime: 24 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pki.EncodeCertificates(c))
}

const withPartners = `apiVersion: certd/v1
kind: Fleet
name: acme
keys: {file: {dir: keys, passphraseFrom: {file: pass}}}
groups:
  linked: {select: "tier=prod", foreignAnchors: [{name: initech, file: initech.pem}, {name: globex, file: globex.pem}]}
clusters:
  - {name: east, labels: {tier: prod}, directory: east}
  - {name: west, directory: west}
  - {name: north, labels: {tier: prod}, directory: north, foreignAnchors: [{name: globex, file: globex.pem}]}
`

// The list that stands closest to a cluster holds, and its files are watched.
func TestForeignAnchors(t *testing.T) {
	initech, globex := partner(t, "initech"), partner(t, "globex")
	path := write(t, map[string]string{"certd.yaml": withPartners, "initech.pem": initech, "globex.pem": globex + initech})
	c := loaded(t, path)
	for i, want := range []string{"initech globex globex", "", "globex globex"} {
		var names []string
		for _, a := range c.Clusters[i].Policy.Foreign {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s trusts %q besides, want %q", c.Clusters[i].Policy.Cluster, got, want)
		}
	}
	watched := strings.Join(c.Read, " ")
	if !strings.Contains(watched, "initech.pem") || strings.Count(watched, "globex.pem") != 1 {
		t.Errorf("watched: %s", watched)
	}
}

func TestBadForeignAnchors(t *testing.T) {
	good := partner(t, "good")
	for _, row := range []struct{ name, text, want string }{
		{"a file that is not there", "", "no such file"},
		{"text around", "# theirs\n" + good, "not PEM"},
		{"a key beside it", good + "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n", "nothing else"},
		{"twice the same", good + good, "repeats"},
		{"more than there is room for", partner(t, "1") + partner(t, "2") + partner(t, "3") + partner(t, "4") + partner(t, "5") + partner(t, "6"), "all partners together may have 5"},
	} {
		files := map[string]string{"certd.yaml": withPartners, "globex.pem": good}
		if row.text != "" {
			files["initech.pem"] = row.text
		}
		_, problems := Load(write(t, files), Options{Getenv: func(string) string { return "" }, Now: time.Now()})
		text := problems.Error()
		if len(problems) != 1 || !strings.Contains(text, row.want) || !strings.Contains(text, "certd.yaml:6:") || strings.Contains(text, "MIGH") {
			t.Errorf("%s: %s", row.name, text)
		}
	}
}
