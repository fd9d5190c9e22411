package receiver

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

// What Alertmanager is told of findings, in labels and times.
func TestAlerts(t *testing.T) {
	now := at24.Add(time.Minute)
	opened := finding(Opened, rotation.StateWarning)
	escalated := finding(Escalated, rotation.StateCritical)
	escalated.Formerly = rotation.StateWarning
	cleared := finding(Cleared, rotation.StateCritical)
	fleet := finding(Opened, rotation.StateUnknown)
	fleet.Cluster, fleet.Finding.Message, fleet.Finding.Fix, fleet.Finding.Deadline = "", "", "", nil
	future := finding(Opened, rotation.StateWarning)
	later := now.Add(time.Hour)
	future.Since, future.At = &later, later
	test := Message{Event: Test, Fleet: "acme-mesh", At: at24, Severity: StateInfo, Summary: "a test"}
	for _, row := range []struct {
		story  string
		m      Message
		alerts []string
	}{
		{"it opens", opened, []string{"CertdIssuerNotLoaded prod-eu-1 warning 11:00 to 12:06"}},
		{"it escalates: the former alert ends", escalated, []string{"CertdIssuerNotLoaded prod-eu-1 critical 11:00 to 12:06", "CertdIssuerNotLoaded prod-eu-1 warning 11:00 to 12:00"}},
		{"it is over", cleared, []string{"CertdIssuerNotLoaded prod-eu-1 critical 11:00 to 12:00"}},
		{"it is the fleet's", fleet, []string{"CertdIssuerNotLoaded  unknown 11:00 to 12:06"}},
		{"the clock was set back", future, []string{"CertdIssuerNotLoaded prod-eu-1 warning 12:01 to 12:06"}},
		{"a test", test, []string{"CertdTest  info 12:00 to 12:06"}},
		{"no finding", Message{Event: TrustStage}, nil},
	} {
		var got []string
		for _, a := range alertsOf(row.m, now) {
			if err := a.check(); err != nil {
				t.Errorf("%s: %v", row.story, err)
			}
			got = append(got, strings.Join([]string{a.Labels["alertname"], a.Labels["cluster"], a.Labels["severity"], a.StartsAt.Format("15:04"), "to", a.EndsAt.Format("15:04")}, " "))
		}
		if d := cmp.Diff(row.alerts, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", row.story, d)
		}
	}
}

// Alertmanager answers 200 to alerts that it makes nothing of, so certd looks
// first.
func TestAlertsAreCheckedFirst(t *testing.T) {
	for story, spoil := range map[string]func(*alert){
		"no name":                 func(a *alert) { delete(a.Labels, "alertname") },
		"an empty label":          func(a *alert) { a.Labels["cluster"] = "" },
		"a label of another form": func(a *alert) { a.Labels["a-b"] = "x" },
		"a label that is no text": func(a *alert) { a.Labels["cluster"] = "\xff" },
		"an annotation without":   func(a *alert) { a.Annotations["summary"] = "" },
		"an end before its begin": func(a *alert) { a.EndsAt = a.StartsAt.Add(-time.Second) },
		"no beginning":            func(a *alert) { a.StartsAt = time.Time{} },
	} {
		a := alertsOf(finding(Opened, rotation.StateWarning), at24)[0]
		spoil(&a)
		if a.check() == nil {
			t.Errorf("%s is taken", story)
		}
	}
	f := newFake(t, 200)
	bad := finding(Opened, rotation.StateWarning)
	bad.Fleet = ""
	if err := (Alertmanager{URL: f.URL}).Send(t.Context(), []Message{bad}); err == nil || len(f.got) > 0 {
		t.Errorf("%v, and %d requests", err, len(f.got))
	}
}

func TestAlertmanagerIsToldWhoAsks(t *testing.T) {
	f := newFake(t, 200)
	for want, a := range map[string]Alertmanager{
		"":                       {URL: f.URL + "/am"},
		"Basic Y2VydGQ6czNjcmV0": {URL: f.URL + "/am", User: "certd", Password: kept("s3cret")},
		"Bearer s3cret":          {URL: f.URL + "/am/", Bearer: kept("s3cret")},
	} {
		if err := a.Send(t.Context(), []Message{finding(Opened, rotation.StateWarning)}); err != nil {
			t.Fatal(err)
		}
		if got := f.got[len(f.got)-1]; got.header.Get("Authorization") != want || got.path != "/am/api/v2/alerts" {
			t.Errorf("%s: %q", got.path, got.header.Get("Authorization"))
		}
	}
	many := make([]Message, alertsAtOnce+1)
	for i := range many {
		many[i] = finding(Opened, rotation.StateWarning)
	}
	f.got = nil
	if err := (Alertmanager{URL: f.URL}).Send(t.Context(), many); err != nil || len(f.got) != 2 {
		t.Errorf("%v, and %d requests", err, len(f.got))
	}
}

// startAlertmanager runs Debian's, and returns its URL.
func startAlertmanager(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "am.yml")
	if err := os.WriteFile(config, []byte("route: {receiver: none}\nreceivers: [{name: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus-alertmanager", "--config.file="+config, "--storage.path="+dir, "--web.listen-address=127.0.0.1:0", "--cluster.listen-address=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal("a real Alertmanager is needed (make deps): ", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	listening := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, out)
			return "http://" + m[1]
		}
		said.WriteString(lines.Text() + "\n")
	}
	t.Fatalf("Alertmanager does not listen:\n%s", &said)
	return ""
}

// alertsIn reads back what an Alertmanager holds as active.
func alertsIn(t *testing.T, url string) (all []alert) {
	t.Helper()
	resp, err := http.Get(url + "/api/v2/alerts?active=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

// A real Alertmanager takes what certd sends and shows it, the escalated alert in
// place of the former, and nothing once it is over.
func TestARealAlertmanager(t *testing.T) {
	url := startAlertmanager(t)
	a := Alertmanager{URL: url}
	send := func(m ...Message) {
		t.Helper()
		now := time.Now().UTC()
		for i := range m {
			since := now.Add(-time.Hour)
			m[i].At, m[i].Since = now, &since
		}
		if err := a.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(want ...string) {
		t.Helper()
		var got []string
		for _, a := range alertsIn(t, url) {
			got = append(got, a.Labels["alertname"]+" "+a.Labels["cluster"]+" "+a.Labels["severity"]+" "+a.Annotations["fix"])
			if left := time.Until(a.EndsAt); left < 4*time.Minute || left > 6*time.Minute {
				t.Errorf("%s ends in %s", a.Labels["alertname"], left)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	const fix = " kubectl -n linkerd rollout restart deploy/linkerd-identity"
	send(finding(Opened, rotation.StateWarning))
	shown("CertdIssuerNotLoaded prod-eu-1 warning" + fix)
	escalated := finding(Escalated, rotation.StateCritical)
	escalated.Formerly = rotation.StateWarning
	send(escalated)
	shown("CertdIssuerNotLoaded prod-eu-1 critical" + fix)
	send(finding(Cleared, rotation.StateCritical))
	shown()
}
