package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// unpacked is a bundle by file.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
	}
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "certd-bundle/")] = string(text)
	}
}

// Secrets are planted wherever certd could meet them: the passphrase, a
// kubeconfig, the environment, and what a careless person gives as a reason. None
// is in the bundle, and what helps is.
func TestABundleHasNoSecrets(t *testing.T) {
	s := newFolders(t)
	const (
		passphrase = "correct horse battery staple"
		kube       = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJlLWl0c2VsZg"
		vault      = "hvs.CAESIPlantedPlantedPlantedPlantedPlanted"
	)
	s.write("kubeconfig", `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:9"}}]
users: [{name: u, user: {token: `+kube+`}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`)
	s.write("certd.yaml", folders+"  - {name: north, kubeconfig: {file: kubeconfig}}\nlog: {level: debug}\n")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run("VAULT_TOKEN=" + vault)
	s.eventually(30*time.Second, func() string {
		if st, _ := s.status(); clusterOf(st, "north").LastContact == nil && clusterOf(st, "east").Issuer != nil && len(clusterOf(st, "north").Findings) > 0 {
			return ""
		}
		return "east is not issued, or north is not tried yet"
	})
	s.must("rotate", "issuer", "east", "--config", "certd.yaml", "--yes", "--wait", "--reason", "it said "+passphrase+", and "+vault)
	s.must("debug", "bundle", "support.tar.gz", "--config", "certd.yaml")
	files := unpacked(t, filepath.Join(s.dir, "support.tar.gz"))
	d.term()
	s.must("debug", "bundle", "alone.tar.gz", "--config", "certd.yaml")
	for name, text := range unpacked(t, filepath.Join(s.dir, "alone.tar.gz")) {
		files["alone/"+name] = text
	}
	for name, text := range files {
		for _, secret := range []string{passphrase, "horse", kube, kube[:40], vault, "CAESIPlanted"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has the secret %q", name, secret)
			}
		}
	}
	for name, want := range map[string]string{
		"version.json":          `"goVersion"`,
		"config.json":           `\{file: .*passphrase\}`,
		"config-validate.txt":   `fleet folders`,
		"status.json":           `"kind": "FleetStatus"`,
		"status.txt":            `north`,
		"plan.json":             `"breaks"`,
		"trust.json":            `"g1"`,
		"history.json":          `\(hidden\)`,
		"journal.json":          `"head"`,
		"verification.json":     `"Verification"`,
		"daemon/diagnosis.json": `"logLevel": "debug"`,
		"daemon/goroutines.txt": `rotation\.\(\*Reconciler\)\.Run`,
		"daemon/logs.jsonl":     `"event":"decision"`,
		"README.txt":            `daemon/logs\.jsonl`,
		"alone/status.json":     `"source": "journal"`,
		"alone/README.txt":      `Not to be had:\ndaemon/diagnosis\.json`,
	} {
		if !regexp.MustCompile(want).MatchString(files[name]) {
			t.Errorf("%s: %q is not in %.300q", name, want, files[name])
		}
	}
}

// The level changes in the running daemon, and falls back by itself.
func TestTheLogLevelFallsBack(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	level := func() (level string, set bool) {
		var doc struct {
			Level string
			Until *time.Time
		}
		if err := json.Unmarshal([]byte(s.must("debug", "log-level", "-o", "json", "--config", "certd.yaml")), &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Level, doc.Until != nil
	}
	if l, set := level(); l != "info" || set {
		t.Errorf("at first: %s, set %v", l, set)
	}
	s.must("debug", "log-level", "debug", "--for", "2s", "--config", "certd.yaml")
	if l, set := level(); l != "debug" || !set {
		t.Errorf("after it was set: %s, set %v", l, set)
	}
	s.eventually(20*time.Second, func() string {
		if l, set := level(); l != "info" || set {
			return "the level is " + l
		}
		return ""
	})
	d.term()
	log := d.log.String()
	for _, want := range []string{`"event":"log_level_changed"`, `"event":"log_level_fell_back"`, `"event":"certd_runs"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// The format of the log is the configured one, wherever it goes.
func TestTheLogHasTheConfiguredFormat(t *testing.T) {
	for format, first := range map[string]string{"": `{"time":`, "log: {format: json}\n": `{"time":`, "log: {format: text}\n": `time=`} {
		s := newFolders(t)
		s.write("certd.yaml", folders+format)
		s.must("init", "--config", "certd.yaml", "--yes")
		d := s.run()
		s.converged()
		d.term()
		for line := range strings.Lines(d.log.String()) {
			if !strings.HasPrefix(line, first) || !strings.Contains(line, "event") {
				t.Errorf("%q: %s", format, line)
			}
		}
	}
}
