package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// alone is a fleet of two folders with keys in files, as `run --dev` makes it:
// it needs no lab.
func alone(t *testing.T) *site {
	s := &site{t: t, dir: shortDir(t)}
	d := s.dev()
	s.eventually(30*time.Second, func() string {
		if out, errs, code := s.certd("status", "--config", devConfig); code != 0 || strings.Contains(errs, "; reading ") {
			return out + errs
		}
		return ""
	})
	d.stop()
	return s
}

// dev starts `certd run --dev`.
func (s *site) dev() *process {
	s.t.Helper()
	d := &process{s: s, cmd: exec.Command(program, "run", "--dev"), log: &bytes.Buffer{}, done: make(chan struct{})}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = s.dir, d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { d.cmd.Wait(); close(d.done) }()
	s.t.Cleanup(func() {
		d.stop()
		if s.t.Failed() {
			s.t.Logf("the daemon said:\n%s", d.log)
		}
	})
	return d
}

func (d *process) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

func (s *site) file(name string) string {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

const (
	devConfig  = "certd-dev/certd.yaml"
	devJournal = "certd-dev/state/certd.db"
	devBundle  = "certd-dev/clusters/east/linkerd/" + rotation.BundleObject + "/ca-bundle.crt"
	devIssuer  = "certd-dev/clusters/east/linkerd/" + rotation.IssuerObject + "/tls.crt"
)

// A backup that the daemon gives while it works is restored with the daemon
// stopped, in the place of one that is damaged; certd goes on, and nothing of
// what it had made since is lost.
func TestBackupAndRestore(t *testing.T) {
	s := alone(t)
	d := s.dev()
	s.eventually(20*time.Second, func() string {
		if _, errs, code := s.certd("backup", "--config", devConfig, "a.db", "--force"); code != 0 || strings.Contains(errs, "; reading ") {
			return errs
		}
		return ""
	})
	if info, err := os.Stat(filepath.Join(s.dir, "a.db")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup: %v %v", info, err)
	}
	if _, errs, code := s.certd("backup", "--config", devConfig, "a.db"); code != 64 || !strings.Contains(errs, "--force") {
		t.Errorf("over a file that is there: exit %d\n%s", code, errs)
	}
	for _, args := range [][]string{{"--yes"}, {"--dry-run"}} {
		if _, errs, code := s.certd(append([]string{"restore", "--config", devConfig, "a.db"}, args...)...); code != 75 || !strings.Contains(errs, "another process holds the journal") {
			t.Errorf("restore %v under a running daemon: exit %d\n%s", args, code, errs)
		}
	}
	for _, c := range []string{"east", "west"} {
		if _, errs, code := s.certd("rotate", "issuer", "--config", devConfig, c, "--yes", "--wait", "--reason", "after the backup"); code != 0 {
			t.Fatalf("rotate: exit %d\n%s", code, errs)
		}
	}
	d.stop()
	bundle := s.file(devBundle)

	s.write(devJournal, s.file(devJournal)[:5000])
	if _, errs, code := s.certd("status", "--config", devConfig); code == 0 || !strings.Contains(errs, "damaged") {
		t.Fatalf("of a damaged journal: exit %d\n%s", code, errs)
	}
	var reply api.RestoreReply
	out := s.must("restore", "--config", devConfig, "a.db", "--yes", "--reason", "the disk was torn", "-o", "json")
	if err := json.Unmarshal([]byte(out), &reply); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if reply.Unreadable == "" || reply.Aside == "" || reply.Copy.Entries == 0 || reply.Epoch <= reply.Copy.Epoch {
		t.Errorf("%+v", reply)
	}
	s.dev()
	s.eventually(90*time.Second, func() string { // an issuer at the next minute
		out, errs, code := s.certd("status", "--config", devConfig)
		if code != 0 || strings.Contains(errs, "; reading ") {
			return out + errs
		}
		if !chains([]byte(s.file(devIssuer)), s.file(devBundle)) {
			return "east has no valid chain"
		}
		return ""
	})
	if s.file(devBundle) != bundle {
		t.Error("the trust bundle is another")
	}
	if out, _, code := s.certd("history", "--config", devConfig, "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
	restored := 0
	var list rotation.HistoryList
	if err := json.Unmarshal([]byte(s.must("history", "--config", devConfig, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Step == rotation.StepRestore {
			restored++
			if !strings.Contains(e.Reason, "the disk was torn") || !strings.Contains(e.Actor, "@cli") {
				t.Errorf("the history says %+v", e)
			}
		}
	}
	if restored != 1 {
		t.Errorf("%d entries of it", restored)
	}
}

// A journal that is gone, or is no journal any more, is rebuilt from what the clusters
// show and the key backend bears out; a daemon that runs is not deposed for it, and
// without the keys nothing is believed.
func TestRecover(t *testing.T) {
	s := alone(t)
	d := s.dev()
	s.eventually(20*time.Second, func() string {
		if out, errs, code := s.certd("status", "--config", devConfig); code != 0 || strings.Contains(errs, "; reading ") {
			return out + errs
		}
		return ""
	})
	for _, args := range [][]string{{"--yes"}, {"--dry-run"}} {
		if _, errs, code := s.certd(append([]string{"recover", "--config", devConfig}, args...)...); code != 75 || !strings.Contains(errs, "another process holds the journal") {
			t.Errorf("recover %v under a running daemon: exit %d\n%s", args, code, errs)
		}
	}
	was := s.must("trust", "export", "--config", devConfig)
	d.stop()
	bundle, issuer := s.file(devBundle), s.file(devIssuer)
	s.write(devJournal, "no journal at all")

	keys := filepath.Join(s.dir, "certd-dev", "keys")
	if err := os.Rename(keys, keys+".away"); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := s.certd("recover", "--config", devConfig, "--yes"); code == 0 {
		t.Errorf("without the keys: exit %d\n%s", code, errs)
	}
	if got := s.file(devJournal); got != "no journal at all" {
		t.Errorf("without the keys the journal became %d bytes", len(got))
	}
	if err := errors.Join(os.RemoveAll(keys), os.Rename(keys+".away", keys)); err != nil {
		t.Fatal(err)
	}

	// Whoever looks meanwhile is told what is lost, and of no second certd or fleet without an anchor.
	if out, errs, code := s.certd("status", "--config", devConfig, "--live"); code != 2 || !strings.Contains(out, "JournalFailed") || !strings.Contains(out, "certd run") || strings.Contains(out, "another certd") || strings.Contains(out, "certd init") || errs != "" {
		t.Errorf("status --live beside a damaged journal: exit %d\n%s%s", code, out, errs)
	}
	if out, _, _ := s.certd("check", "--config", devConfig); strings.Contains(out, "another certd") || strings.Contains(out, "certd init") {
		t.Errorf("check beside a damaged journal:\n%s", out)
	}
	journal := filepath.Join(s.dir, devJournal)
	if err := os.Rename(journal, journal+".away"); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := s.certd("status", "--config", devConfig, "--live"); code != 1 || strings.Contains(out, "another certd") || strings.Contains(out, "certd init") || errs != "" {
		t.Errorf("status --live without a journal: exit %d\n%s%s", code, out, errs)
	}
	if _, errs, code := s.certd("status", "--config", devConfig); code != 3 || !strings.Contains(errs, "goes on with certd run") {
		t.Errorf("status without a journal: exit %d\n%s", code, errs)
	}
	if err := os.Rename(journal+".away", journal); err != nil {
		t.Fatal(err)
	}

	if out := s.must("recover", "--config", devConfig, "--dry-run"); !strings.Contains(out, "east  looked at") || !strings.Contains(out, "anchors  g1 active") || !strings.Contains(out, "cannot be read") {
		t.Errorf("the rehearsal says\n%s", out)
	}
	if got := s.file(devJournal); got != "no journal at all" {
		t.Errorf("a rehearsal made the journal %d bytes", len(got))
	}
	var reply api.RecoverReply
	if out := s.must("recover", "--config", devConfig, "--yes", "--reason", "the disk was lost", "-o", "json"); json.Unmarshal([]byte(out), &reply) != nil || reply.Aside == "" || reply.Epoch == 0 || len(reply.Clusters) != 2 {
		t.Errorf("the reply is\n%s", out)
	}
	if s.file(devBundle) != bundle || s.file(devIssuer) != issuer {
		t.Error("a cluster was written to")
	}
	if now := s.must("trust", "export", "--config", devConfig); now != was {
		t.Errorf("the bundle is now\n%s", now)
	}
	s.dev()
	s.eventually(90*time.Second, func() string {
		out, errs, code := s.certd("status", "--config", devConfig)
		if code != 0 || strings.Contains(errs, "; reading ") {
			return out + errs
		}
		return ""
	})
	if s.file(devBundle) != bundle {
		t.Error("the trust bundle was changed")
	}
	if out := s.must("history", "--config", devConfig); !strings.Contains(out, "certd recover: the disk was lost") {
		t.Errorf("the history does not tell:\n%s", out)
	}
}
