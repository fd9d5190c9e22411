package words

import (
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

var (
	now   = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)
	clock = Clock{Now: now, Zone: time.UTC}
)

const day = 24 * time.Hour

func after(d time.Duration) *time.Time { t := now.Add(d); return &t }

func TestHowLongThereIs(t *testing.T) {
	for _, row := range []struct {
		name        string
		at          *time.Time
		first       rotation.Break
		long, short string
	}{
		{"nothing is known", nil, rotation.Break{}, "", ""},
		{"there is time", after(117*day + time.Hour), rotation.Break{Kind: "issuer"}, "nothing breaks before Fri 19 Mar 2027 (117d), even if certd stops now", "nothing breaks before Fri 19 Mar 2027 (117d)"},
		{"an issuer ended", after(-3 * time.Hour), rotation.Break{Cluster: "east", Kind: "issuer", At: now.Add(-3 * time.Hour)}, "east issuer ended Sun 22 Nov 07:40 UTC (3h ago)", "east issuer ended Sun 22 Nov 07:40 UTC"},
		{"a webhook ended", after(-day), rotation.Break{Cluster: "east", Kind: "webhook", Name: "tap", At: now.Add(-day)}, "east webhook tap ended Sat 21 Nov 10:40 UTC (1d ago)", "east webhook tap ended Sat 21 Nov 10:40 UTC"},
		{"a webhook does not work", after(0), rotation.Break{Cluster: "east", Kind: "webhook", Name: "tap", At: now}, "east webhook tap is refused by the API server", "east webhook tap is refused"},
	} {
		st := rotation.FleetStatus{ObservedAt: now, NothingBreaksBefore: row.at}
		if row.at != nil {
			st.FirstToBreak = &row.first
		}
		if long, short := clock.Breaking(st); long != row.long || short != row.short {
			t.Errorf("%s: %q, %q", row.name, long, short)
		}
	}
}

func TestAlikeFindingsAreOneProblem(t *testing.T) {
	down := rotation.Finding{ID: "KeysUnavailable", Severity: rotation.StateWarning, Message: "Vault is sealed"}
	late := rotation.Finding{ID: "RenewalOverdue", Severity: rotation.StateWarning, Message: "late"}
	soon, later := late, late
	soon.Deadline, later.Deadline = after(day), after(2*day)
	gone := rotation.Finding{ID: "ClusterUnreachable", Severity: rotation.StateUnknown, Message: "gone"}
	broken := rotation.Finding{ID: "IssuerExpired", Severity: rotation.StateCritical, Message: "over"}
	var got []string
	for _, p := range Gather([]rotation.Finding{down}, []rotation.ClusterStatus{
		{Name: "a", Findings: []rotation.Finding{gone, later}}, {Name: "b", Findings: []rotation.Finding{soon}}, {Name: "c", Findings: []rotation.Finding{broken}},
	}) {
		got = append(got, strings.TrimSpace(p.ID+" "+Which(p.Clusters)))
		if p.ID == "RenewalOverdue" && !p.Deadline.Equal(*soon.Deadline) {
			t.Errorf("its deadline is %s", p.Deadline)
		}
	}
	if want := "IssuerExpired c; RenewalOverdue a, b; KeysUnavailable; ClusterUnreachable a"; strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}

func TestWhatComesNext(t *testing.T) {
	issuer := func(at *time.Time) *rotation.IssuerStatus { return &rotation.IssuerStatus{NextRun: at} }
	what, at := Next([]rotation.ClusterStatus{
		{Name: "a", Issuer: issuer(after(2 * day))},
		{Name: "b", Issuer: issuer(after(day)), Webhooks: []rotation.WebhookStatus{{NextRun: after(3 * day)}}},
		{Name: "c", Mode: string(rotation.Watched), Issuer: issuer(after(time.Hour))},
		{Name: "d", Issuer: issuer(after(5 * day)), Webhooks: []rotation.WebhookStatus{{NextRun: after(day)}}},
	})
	if at == nil || !at.Equal(now.Add(day)) || strings.Join(what, ", ") != "b: issuer, d: webhooks" {
		t.Errorf("%v at %v", what, at)
	}
	if what, at := Next(nil); what != nil || at != nil {
		t.Errorf("of nothing: %v at %v", what, at)
	}
}
