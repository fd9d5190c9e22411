package main

import (
	"encoding/json"
	"maps"
	"syscall"
	"testing"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// checked is what `certd check -o json` says, and its exit code.
func (s *site) checked(args ...string) (check.Report, int) {
	s.t.Helper()
	out, errs, code := s.certd(append([]string{"check", "--config", "certd.yaml", "-o", "json"}, args...)...)
	var r check.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		s.t.Fatalf("check %v: exit %d: %v\n%s%s", args, code, err, out, errs)
	}
	return r, code
}

// troubles are the claims that do not hold, and why.
func troubles(r check.Report) map[string]string {
	all := map[string]string{}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Result != check.Success && !c.Ignored {
				all[c.ID] = string(c.Result) + ": " + c.Error
			}
		}
	}
	return all
}

// From before the beginning to a daemon that hangs, there is an answer.
func TestCheckOfFolders(t *testing.T) {
	s := newFolders(t)
	was := s.tree(".")
	if r, code := s.checked("--pre"); code != 0 || len(troubles(r)) > 0 {
		t.Errorf("before the beginning: exit %d, %v", code, troubles(r))
	}
	if now := s.tree("."); !maps.Equal(was, now) {
		t.Errorf("--pre left traces: %v, there was %v", now, was)
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	if r, code := s.checked("--wait", "20s"); code != 0 || r.Source != "daemon" || r.Summary.Claims < 40 {
		t.Errorf("a healthy fleet: exit %d from %s, %v", code, r.Source, troubles(r))
	}
	if r, code := s.checked("--cluster", "east", "--category", "issuers"); code != 0 || len(r.Categories) != 1 || r.Categories[0].Checks[0].Clusters.Total != 1 {
		t.Errorf("one category of one cluster: exit %d, %+v", code, r)
	}
	if _, _, code := s.certd("check", "--config", "certd.yaml", "--cluster", "north"); code != 64 {
		t.Errorf("a cluster that is not there: exit %d", code)
	}

	// A daemon that hangs counts as none.
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r, code := s.checked()
	if got := troubles(r); code != 2 || r.Source != "command" || got["daemon-runs"] == "" || len(got) != 1 {
		t.Errorf("a daemon that hangs: exit %d from %s, %v", code, r.Source, got)
	}
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.term()
	if r, code := s.checked("--fail-on", "error"); code != 2 || r.State != rotation.StateCritical {
		t.Errorf("no daemon: exit %d, %s", code, r.State)
	}
}
