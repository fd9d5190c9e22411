package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// folders is a fleet of two folders with key files, as yet without anything.
func folders(t *testing.T) (d Daemon, file string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passphrase": "correct horse\n", "certd.yaml": head + "keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\nserver: {socket: run/certd.sock}\n" +
		"clusters:\n  - {name: east, directory: clusters/east, linkerd: {createNamespace: true}}\n  - {name: west, directory: clusters/west, linkerd: {createNamespace: true}}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Daemon{Getenv: func(string) string { return "" }, Stdout: io.Discard, Log: func(slog.Leveler, string) *slog.Logger { return slog.New(slog.DiscardHandler) }, Version: "1.0.0"}, filepath.Join(dir, "certd.yaml")
}

// tree is everything under a folder, with its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text := ""
		if e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(b)
		}
		all[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func notHeld(r check.Report) map[string]string {
	all := map[string]string{}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Result != check.Success {
				all[c.ID] = string(c.Result) + ": " + c.Error
			}
		}
	}
	return all
}

// Before there is anything, all that certd will need is there, and the look leaves
// no trace.
func TestCheckBeforeTheBeginning(t *testing.T) {
	d, file := folders(t)
	before := tree(t, filepath.Dir(file))
	r, err := d.Check(t.Context(), file, check.Select{}, true, "")
	if got := notHeld(r); err != nil || len(got) > 0 || r.State != rotation.StateOK || r.Summary.Claims < 12 {
		t.Errorf("%v, state %s, %v", err, r.State, got)
	}
	after := tree(t, filepath.Dir(file))
	if len(before) != len(after) {
		t.Errorf("there were %d files, now there are %d", len(before), len(after))
	}
	for path, text := range before {
		if after[path] != text {
			t.Errorf("%s was changed", path)
		}
	}

	// What would be in the way is found.
	for _, row := range []struct {
		claim, says string
		do          func(dir string) error
	}{
		{"state-dir", "is no folder", func(dir string) error { return os.WriteFile(filepath.Join(dir, "state"), nil, 0o600) }},
		{"socket-dir", "is no folder", func(dir string) error { return os.WriteFile(filepath.Join(dir, "run"), nil, 0o600) }},
		{"keys-reachable", "no such file", func(dir string) error { return os.Remove(filepath.Join(dir, "passphrase")) }},
		{"key-files-private", "others may look into", func(dir string) error { return os.Mkdir(filepath.Join(dir, "keys"), 0o755) }},
		{"cluster-reachable", "west: ", func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "clusters"), 0o755), os.WriteFile(filepath.Join(dir, "clusters/west"), nil, 0o600))
		}},
		{"config-valid", "certd.yaml:1:", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "certd.yaml"), []byte("apiversion: 1\n"), 0o600)
		}},
	} {
		d, file := folders(t)
		if err := row.do(filepath.Dir(file)); err != nil {
			t.Fatal(err)
		}
		r, err := d.Check(t.Context(), file, check.Select{}, true, "")
		if got := notHeld(r); err != nil || !strings.Contains(got[row.claim], row.says) {
			t.Errorf("%s: %v, %v", row.claim, err, got)
		}
	}
	if _, err := d.Check(t.Context(), file, check.Select{Clusters: []string{"north"}}, true, ""); !errors.Is(err, api.ErrUsage) {
		t.Errorf("a cluster that is not there: %v", err)
	}
}

// Without a daemon the command sees what the daemon would, from journal, keys and
// clusters.
func TestCheckWithoutADaemon(t *testing.T) {
	d, file := folders(t)
	svc, _, done, err := d.Open(t.Context(), file, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Init(t.Context(), api.InitRequest{Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := done(); err != nil {
		t.Fatal(err)
	}
	r, err := d.Check(t.Context(), file, check.Select{}, false, "no daemon answers")
	if err != nil {
		t.Fatal(err)
	}
	got := notHeld(r)
	if !strings.Contains(got["daemon-runs"], "no daemon answers") || r.Source != "command" {
		t.Errorf("from %s: %v", r.Source, got)
	}
	// The clusters are as empty as they were: that is not as it should be.
	if !strings.Contains(got["cluster-converged"], "warning: ") || !strings.Contains(got["issuer-usable"], "there is no Secret") {
		t.Errorf("%v", got)
	}
	for _, id := range []string{"journal-chain", "anchor-exists", "anchor-key-exists", "keys-reachable", "cluster-reachable"} {
		if got[id] != "" {
			t.Errorf("%s: %s", id, got[id])
		}
	}

	// Another passphrase: the key cannot be opened.
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "passphrase"), []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err = d.Check(t.Context(), file, check.Select{Categories: []string{"keys"}}, false, "no daemon answers"); err != nil || r.Success || !strings.Contains(notHeld(r)["keys-rights"], "the passphrase does not open it") {
		t.Errorf("%v, %v", err, notHeld(r))
	}
	text := tree(t, filepath.Dir(file))
	for path := range text {
		if strings.Contains(path, "certd.sock") {
			t.Errorf("%s was made", path)
		}
	}
}

// looked is a cluster that answers after a while, or when nobody waits any more.
type looked struct {
	rotation.Cluster
	takes time.Duration
}

func (l looked) Observe(ctx context.Context) (rotation.Observation, error) {
	select {
	case <-ctx.Done():
		return rotation.Observation{}, fmt.Errorf("look: %w: %w", ctx.Err(), rotation.ErrUnavailable)
	case <-time.After(l.takes):
		return rotation.Observation{At: time.Now(), Namespace: true}, nil
	}
}

// Clusters that hang take the time that one look may take, for all of them together,
// and those that answer are none the worse for it.
func TestClustersThatHangDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{clusters: map[string]*lazyCluster{}}
		var known rotation.Fleet
		for i := range 2 * checksAtOnce {
			name, takes := fmt.Sprintf("c%02d", i), time.Second
			if i < checksAtOnce-1 {
				takes = time.Hour
			}
			f.clusters[name] = &lazyCluster{name: name, open: func() (rotation.Cluster, error) { return looked{takes: takes}, nil }}
			known.Policy.Clusters = append(known.Policy.Clusters, rotation.Policy{Cluster: name})
		}
		began := time.Now()
		all := f.lookAtClusters(t.Context(), check.Evidence{Pre: true, Fleet: known}, check.Select{})
		// One slot is left for those that answer.
		if took := time.Since(began); took > 2*checkWait+time.Second || took < checkWait {
			t.Errorf("it took %s", took)
		}
		for i, c := range all {
			if hangs := i < checksAtOnce-1; hangs != (c.Err != nil) || hangs == (c.Observed != nil) {
				t.Errorf("%s: %v, %v", c.Policy.Cluster, c.Observed, c.Err)
			}
		}
		if one := f.lookAtClusters(t.Context(), check.Evidence{Pre: true, Fleet: known}, check.Select{Clusters: []string{"c40"}}); len(one) != 1 || one[0].Err != nil {
			t.Errorf("%+v", one)
		}
	})
}
