package notify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
	"certd.internal/state"
)

// What comes from a cluster can break no line, hold no key, and be of no length.
func TestTextsFromElsewhere(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                                     "plain",
		"two\nlines\r\n\x00and\u2028more":           "two lines   and more",
		"not \xff UTF-8":                            "not \uFFFD UTF-8",
		"-----BEGIN PRIVATE KEY-----":               "(withheld: it looks like a private key)",
		"it is MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwE": "(withheld: it looks like a private key)",
		strings.Repeat("ü", 30):                     strings.Repeat("ü", 18) + "…",
	} {
		if got := clean(text, 40); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestSight(t *testing.T) {
	soon, late := time.Unix(1000, 0), time.Unix(2000, 0)
	st := rotation.FleetStatus{Findings: []rotation.Finding{{ID: "NoAnchor", Severity: rotation.StateWarning}}, Clusters: []rotation.ClusterStatus{
		{Name: "eu", Findings: []rotation.Finding{
			{ID: "WebhookNotServed", Severity: rotation.StateWarning, Message: "tap", Deadline: &soon},
			{ID: "WebhookNotServed", Severity: rotation.StateCritical, Message: "injector", Deadline: &late},
			{ID: "WebhookNotServed", Severity: rotation.StateWarning, Message: "jaeger"}}},
		{Name: "us", Findings: []rotation.Finding{{ID: "NotSeenYet", Severity: rotation.StateUnknown}}},
		{Name: "ap", Findings: []rotation.Finding{{ID: "ClusterUnreachable", Severity: rotation.StateUnknown}}},
	}}
	s := sightOf(st)
	var keys []string
	for _, k := range s.keys() {
		keys = append(keys, named(k))
	}
	if want := []string{"NoAnchor", "ap: ClusterUnreachable", "eu: WebhookNotServed"}; !slices.Equal(keys, want) {
		t.Errorf("%q, want %q", keys, want)
	}
	f := s.found[key{"eu", "WebhookNotServed"}]
	if f.Message != "injector (and 2 more)" || f.Severity != rotation.StateCritical || !f.Deadline.Equal(soon) {
		t.Errorf("%+v", f)
	}
	if s.obscured["eu"] || !s.obscured["us"] || !s.obscured["ap"] || s.obscured[""] {
		t.Errorf("obscured: %v", s.obscured)
	}
}

func TestWhoIsToldOfWhat(t *testing.T) {
	dev, err := labels.Parse("tier=dev")
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{Receivers: map[string]Receiver{"a": {}, "b": {}, "c": {}, "d": {}}, Default: []string{"d", "nobody"}, Routes: []Route{
		{Labels: dev},
		{Events: []string{EventTrust}, Receivers: []string{"c"}},
		{Severities: []rotation.State{rotation.StateCritical}, Receivers: []string{"a"}, Continue: true},
		{Clusters: []string{"eu"}, Findings: []string{"IssuerExpired", "IssuerLost"}, Receivers: []string{"b", "a"}},
	}}
	crit, warn := rotation.StateCritical, rotation.StateWarning
	for _, row := range []struct {
		story string
		s     subject
		want  string
	}{
		{"a development cluster", subject{event: EventFinding, severity: crit, cluster: "x", labels: map[string]string{"tier": "dev"}, finding: "IssuerExpired"}, ""},
		{"labels are never the fleet's", subject{event: EventFinding, severity: warn, finding: "NoAnchor"}, "d"},
		{"a stage", subject{event: EventTrust, severity: receiver.StateInfo}, "c"},
		{"continued, and matched again", subject{event: EventFinding, severity: crit, cluster: "eu", finding: "IssuerExpired"}, "a b"},
		{"continued, and not matched again", subject{event: EventFinding, severity: crit, cluster: "us", finding: "IssuerExpired"}, "a"},
		{"not critical", subject{event: EventFinding, severity: warn, cluster: "eu", finding: "IssuerLost"}, "b a"},
		{"no route", subject{event: EventFinding, severity: warn, cluster: "eu", finding: "ProxiesStale"}, "d"},
	} {
		if got := strings.Join(p.to(row.s), " "); got != row.want {
			t.Errorf("%s: %q, want %q", row.story, got, row.want)
		}
	}
}

// A summary fits into a record, whatever it is of, and counts what it leaves out.
func TestSummariesFit(t *testing.T) {
	n := &Notifier{fleet: "acme"}
	var all []receiver.Message
	for i := range 300 {
		k := key{fmt.Sprint("c", i), "StepFailed"}
		all = append(all, n.about(receiver.Opened, k, rotation.Finding{ID: k.finding, Message: strings.Repeat("<", 5000)}, state.Notice{Severity: rotation.StateWarning}, time.Now()))
	}
	m := n.sumUp(append(all, n.sumUp(all, "x", time.Now())), "they came too fast", time.Now())
	for _, m := range []receiver.Message{m, all[0]} {
		o, err := outgoing(&m, "ops")
		if err != nil || len(o.Body) > state.MaxBody {
			t.Errorf("%d bytes, %v", len(o.Body), err)
		}
		var read receiver.Message
		if err := json.Unmarshal(o.Body, &read); err != nil || m.Event == receiver.Summary && len(read.Items)+read.Omitted != 600 {
			t.Errorf("%v: %d items and %d more", err, len(read.Items), read.Omitted)
		}
	}
}

// What looks like a key neither gets out nor keeps anything else from being told.
func TestAFindingThatHoldsAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := slack()
		w := newWorld(t, map[string]*inbox{"ops": ops}, "eu", "us")
		w.policy.After = 0
		w.start()
		w.mu.Lock()
		w.st.Clusters[0].Findings = []rotation.Finding{{ID: "StepFailed", Severity: rotation.StateWarning, Message: "read MIGHAgEAMBMGByqGSM49", Fix: "-----BEGIN EC PRIVATE KEY-----"}}
		w.mu.Unlock()
		w.find("us", "ProxiesStale warning")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, m := range ops.got {
			if text := m.Text(); state.HoldsKey(text) {
				t.Error(text)
			}
		}
		w.got("both", "ops", "opened warning eu StepFailed", "opened warning us ProxiesStale")
		w.end()
	})
}

// After a restart nobody knows whether Vault is back before it is asked.
func TestWhatARestartedCertdHasNotFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := slack()
		w := newWorld(t, map[string]*inbox{"ops": ops}, "eu")
		w.start()
		w.find("", "KeysUnavailable warning", "KeysDenied warning")
		time.Sleep(10 * time.Minute)
		w.end()
		ops.clear()
		w.find("", "KeysDenied warning")
		w.start()
		time.Sleep(10 * time.Minute)
		w.find("")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		var got []string
		for _, m := range ops.got {
			got = append(got, m.Text())
		}
		want := []string{"[acme] over: KeysUnavailable, after 10m (certd was restarted, and has not found it since)", "[acme] over: KeysDenied, after 21m"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		w.end()
	})
}
