package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

// fullDisk takes no more than room bytes.
type fullDisk struct{ room int }

var errFull = errors.New("no space left on device")

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		return d.room, errFull
	}
	d.room -= len(p)
	return len(p), nil
}

// An answer that could not be written is an error, told once, also where the command takes no
// notice; a worse exit code stays.
func TestALostAnswerIsAnError(t *testing.T) {
	for _, row := range []struct {
		args string
		out  io.Writer
		code int
		told string
	}{
		{"version", io.Discard, 0, ""},
		{"version", &fullDisk{room: 10}, 1, "write the answer to standard output: no space left on device"},
		{"runbook KeysUnavailable", &fullDisk{room: 100}, 1, "no space left on device"},
		{"--help", &fullDisk{}, 1, "no space left on device"},
		{"completion bash", &fullDisk{room: 100}, 1, "no space left on device"},
		{"version --nope", &fullDisk{}, 64, ""},
	} {
		var errs strings.Builder
		a := &App{Stdin: strings.NewReader(""), Stdout: row.out, Stderr: &errs, Getenv: func(string) string { return "" }, Now: time.Now}
		if code := a.run(t.Context(), strings.Fields(row.args)); code != row.code || !strings.Contains(errs.String(), row.told) || strings.Count(errs.String(), "no space") > 1 {
			t.Errorf("%s: exit %d, %q", row.args, code, errs.String())
		}
	}
}

// What somebody is to type names the configuration where certd reads it, before any pipe.
func TestTheConfigurationOfACommandToType(t *testing.T) {
	for command, want := range map[string]string{
		"certd status c1": "  → certd status c1 --config x.yaml",
		"certd clusters rbac c1 | kubectl apply -f -": "  → certd clusters rbac c1 --config x.yaml | kubectl apply -f -",
		"kubectl apply -f deploy/rbac/certd.yaml":     "  → kubectl apply -f deploy/rbac/certd.yaml",
		"certd status --config y.yaml":                "  → certd status --config y.yaml",
	} {
		if got := strings.Join(style{config: "x.yaml"}.next(command), "\n"); got != want {
			t.Errorf("%q: %q, want %q", command, got, want)
		}
	}
}

// A column of a cluster that could not be seen does not say that there is nothing there.
func TestWhatCouldNotBeSeenIsNotNone(t *testing.T) {
	yes, no := true, false
	for _, row := range []struct {
		sentence string
		c        rotation.ClusterStatus
		want     string
	}{
		{"seen", rotation.ClusterStatus{State: rotation.StateOK, Reachable: &yes}, "-"},
		{"seen, with something unknown", rotation.ClusterStatus{State: rotation.StateUnknown, Reachable: &yes}, "-"},
		{"as the journal has it", rotation.ClusterStatus{State: rotation.StateOK}, "-"},
		{"out of reach", rotation.ClusterStatus{State: rotation.StateUnknown, Reachable: &no}, "?"},
		{"out of reach, and due", rotation.ClusterStatus{State: rotation.StateCritical, Reachable: &no}, "?"},
		{"not known to the journal", rotation.ClusterStatus{State: rotation.StateUnknown}, "?"},
	} {
		v := statusView{}
		for i, got := range []cell{v.loaded(row.c), v.bundle(row.c), v.webhooks(row.c), v.proxies(row.c)} {
			if got.text != row.want {
				t.Errorf("%s: column %d has %q, want %q", row.sentence, i, got.text, row.want)
			}
		}
	}
}

// How long nothing breaks is said of what is known, where an issuer never was seen.
func TestHowLongNothingBreaks(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	end, no := noon.Add(9*365*24*time.Hour), false
	issuer := &rotation.IssuerStatus{Delivered: &rotation.Delivered{NotAfter: end}}
	for _, row := range []struct {
		c    rotation.ClusterStatus
		want string
	}{
		{rotation.ClusterStatus{State: rotation.StateOK, Issuer: issuer}, "nothing breaks before Tue 20 Nov 2035 (9y), even if certd stops now"},
		{rotation.ClusterStatus{State: rotation.StateUnknown, Reachable: &no, Issuer: issuer}, "nothing breaks before Tue 20 Nov 2035 (9y), even if certd stops now"},
		{rotation.ClusterStatus{State: rotation.StateUnknown}, "nothing known breaks before Tue 20 Nov 2035 (9y)"},
	} {
		v := statusView{style: style{now: noon, zone: time.UTC}, doc: rotation.FleetStatus{NothingBreaksBefore: &end, Clusters: []rotation.ClusterStatus{row.c}}}
		if got, _ := v.breaking(); got != row.want {
			t.Errorf("%+v: %q, want %q", row.c.State, got, row.want)
		}
	}
}
