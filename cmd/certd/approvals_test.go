package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certd.internal/rotation"
)

// A change of the trust anchor waits until another user of the host approves of its end: the
// kernel says who that is. Both are in the history.
func TestTwoUsersOfAHostRetireAnAnchor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user as well")
	}
	s := newFolders(t)
	s.edit("{createNamespace: true}", "{createNamespace: true, leafLifetime: 1s, clockSkew: 0s, clockError: 1s}\n  webhooks: {projection: 1s}", "defaults:", "approvals: {retire: 2}\ndefaults:")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()

	// Somebody in the socket's group, whom each host has a name for.
	kim := filepath.Join(s.dir, "certd")
	if out, err := exec.Command("cp", program, kim).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "certd": 0o755, "certd.yaml": 0o644} {
		if err := os.Chmod(s.path(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	other := func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command(kim, append(args, "--config", "certd.yaml")...)
		cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "NO_COLOR=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: uint32(os.Getegid())}}
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}

	s.refused(75, "the trust anchor is not being changed\n", nil, "trust", "approve", "g1", "--yes", "--config", "certd.yaml")
	s.must("trust", "rotate", "--reason", "yearly", "--yes", "--config", "certd.yaml")
	wanted := func() string {
		st, _ := s.status()
		for _, f := range st.Findings {
			if f.ID == "ApprovalWanted" && f.Fix == "certd trust approve g1" {
				return ""
			}
		}
		return "it does not wait for approval: " + strings.Join(st.Trust.Rotation.WaitingFor, "; ")
	}
	s.eventually(5*time.Minute, func() string {
		time.Sleep(time.Second)
		s.must("trust", "resume", "--yes", "--config", "certd.yaml") // else it looks at folders once a minute
		return wanted()
	})
	s.refused(77, "root@cli began the change, and so it takes somebody else", nil, "trust", "approve", "g1", "--yes", "--config", "certd.yaml")
	s.refused(64, `"g2" is not what is retired: the change from g1 to g2 retires g1`, nil, "trust", "approve", "g2", "--yes", "--config", "certd.yaml")
	s.refused(1, "certd trust approve g1", nil, "status", "--config", "certd.yaml")
	d.term()
	d = s.run()
	s.eventually(time.Minute, wanted)
	if out, code := other("trust", "approve", "g1", "--dry-run"); code != 0 {
		t.Errorf("a dry run: exit %d\n%s", code, out)
	}
	if out, code := other("trust", "approve", "g1", "--reason", "seen by both of us", "--yes"); code != 0 || !strings.Contains(out, "nobody@cli has approved that g1 is retired") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	s.eventually(time.Minute, func() string {
		if st, _ := s.status(); st.Trust.Rotation.Phase != "idle" || st.Trust.Active.ID != "g2" || st.State != rotation.StateOK {
			return "g1 is not retired"
		}
		return ""
	})
	var told []string
	for _, h := range s.history() {
		if h.Step == rotation.StepTrustChange && (strings.Contains(h.Reason, "may be retired") || h.Detail == "ended") {
			told = append(told, h.Actor+": "+h.Reason)
		}
	}
	if want := []string{"nobody@cli: g1 may be retired (root@cli asked for that): seen by both of us", "certd: g1 is trusted and used nowhere; nobody@cli has approved that it is retired"}; !slices.Equal(told, want) {
		t.Errorf("the history has %q", told)
	}
	d.term()
}
