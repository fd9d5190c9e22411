package rotation

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The fleet's state follows from its clusters' and its own findings.
func TestConclude(t *testing.T) {
	const ok, warning, critical, unknown = StateOK, StateWarning, StateCritical, StateUnknown
	for _, row := range []struct {
		sentence string
		clusters []State
		findings []State
		want     State
	}{
		{"all is well", []State{ok, ok, ok}, nil, ok},
		{"no cluster is configured", nil, nil, ok},
		{"one of three cannot be seen", []State{ok, unknown, ok}, nil, warning},
		{"nothing can be seen", []State{unknown, unknown}, nil, unknown},
		{"nothing can be seen, and a finding of the fleet warns", []State{unknown, unknown}, []State{warning}, unknown},
		{"nothing can be seen, and a key is unfit", []State{unknown}, []State{critical}, critical},
		{"one cluster warns", []State{ok, warning}, nil, warning},
		{"one cluster is critical, the others unknown", []State{critical, unknown, unknown}, nil, critical},
		{"a finding of the fleet is unknown", []State{ok}, []State{unknown}, warning},
		{"a finding of the fleet is critical", []State{ok}, []State{critical}, critical},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			var s FleetStatus
			for _, c := range row.clusters {
				s.Clusters = append(s.Clusters, ClusterStatus{State: c})
			}
			for _, f := range row.findings {
				s.Findings = append(s.Findings, Finding{Severity: f})
			}
			s.Conclude()
			if s.State != row.want {
				t.Errorf("%s, want %s", s.State, row.want)
			}
			if sum := s.Summary; sum.OK+sum.Warning+sum.Critical+sum.Unknown != len(row.clusters) {
				t.Errorf("the summary %+v does not add up", sum)
			}
		})
	}
}

// Each finding says what prints its runbook, in status and in plan.
func TestFindingsNameTheirRunbooks(t *testing.T) {
	s := FleetStatus{Findings: []Finding{{ID: "NoAnchor"}}, Clusters: []ClusterStatus{{Name: "eu", Findings: []Finding{{ID: "ClockSkew"}, {ID: "IssuerExpired"}}}}}
	s.Conclude()
	p := Project(s, FleetPolicy{}, start, start.Add(time.Hour), false)
	for _, f := range slices.Concat(s.Findings, s.Clusters[0].Findings, p.Findings) {
		if f.Runbook != "certd runbook "+f.ID {
			t.Errorf("finding %s has %q for its runbook", f.ID, f.Runbook)
		}
	}
	if len(p.Findings) != 3 {
		t.Errorf("the plan has %d findings, want 3", len(p.Findings))
	}
}

// saved is what the daemon left in the journal about the bench's cluster.
func (b *bench) saved(at time.Time) ClusterRecord {
	b.t.Helper()
	b.view.Record.LastContact = at
	text, err := json.Marshal(clusterStatus(b.fleet, b.view, Decide(b.fleet, b.view, at), at))
	if err != nil {
		b.t.Fatal(err)
	}
	return ClusterRecord{Name: "eu", Status: text}
}

// Time goes on while nobody looks.
func TestJournalStatus(t *testing.T) {
	for _, row := range []struct {
		sentence string
		at       time.Time
		cluster  State
		fleet    State
		finding  string
	}{
		{"a moment after the daemon ended the cluster is well, the fleet is not", hours(1.1), StateOK, StateWarning, ""},
		{"an hour later nobody knows", hours(2), StateUnknown, StateUnknown, "NotSeenLately"},
		{"the renewal was missed", hours(90), StateCritical, StateCritical, "RenewalOverdue"},
		{"the issuer ended while nobody looked", hours(200), StateCritical, StateCritical, "IssuerExpired"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			b := newBench(t)
			s := JournalStatus(b.fleet, []ClusterRecord{b.saved(hours(1))}, row.at)
			c := s.Clusters[0]
			if c.State != row.cluster || s.State != row.fleet || s.Source != "journal" || row.finding != "" && !contains(c.Findings, row.finding) {
				t.Errorf("cluster %s, fleet %s, findings %v", c.State, s.State, ids(c.Findings))
			}
			if !contains(s.Findings, "DaemonNotRunning") {
				t.Errorf("findings %v", ids(s.Findings))
			}
			if s.NothingBreaksBefore == nil || !s.NothingBreaksBefore.Equal(b.view.Certificates[0].NotAfter) {
				t.Errorf("nothing breaks before %v", s.NothingBreaksBefore)
			}
		})
	}
	t.Run("a cluster the journal has not heard of is unknown", func(t *testing.T) {
		b := newBench(t)
		if s := JournalStatus(b.fleet, nil, hours(1)); s.State != StateUnknown || s.Clusters[0].State != StateUnknown {
			t.Errorf("%+v", s)
		}
	})
	t.Run("what is no status is not believed", func(t *testing.T) {
		b := newBench(t)
		if s := JournalStatus(b.fleet, []ClusterRecord{{Name: "eu", Status: []byte(`{"state":`)}}, hours(1)); s.Clusters[0].State != StateUnknown {
			t.Errorf("%+v", s)
		}
	})
}

// A cluster that has not been seen since the start shows what the journal
// remembers, and is not well.
func TestAnUnseenClusterShowsWhatTheJournalRemembers(t *testing.T) {
	b := newBench(t)
	b.view.Observed, b.view.Err, b.view.ErrSince = nil, ErrUnavailable, hours(1)
	b.view.Certificates = append([]CertificateRecord{{Serial: "signed, never delivered", NotAfter: hours(900)}}, b.view.Certificates...)
	s := LiveStatus(b.fleet, []View{b.view}, hours(2))
	c := s.Clusters[0]
	if c.State != StateUnknown || c.Issuer == nil || c.Issuer.Delivered.Serial != b.view.Certificates[1].Serial || c.Issuer.MustRenewBy == nil {
		t.Errorf("%s, %+v", c.State, c.Issuer)
	}
	if s.FirstToBreak == nil || s.FirstToBreak.Cluster != "eu" {
		t.Errorf("first to break: %+v", s.FirstToBreak)
	}
}

// What the last look came to is said, and what nobody looked at is not.
func TestWhetherAClusterIsReachable(t *testing.T) {
	b := newBench(t)
	reachable := func(change func(*View)) string {
		v := b.view
		change(&v)
		if r := clusterStatus(b.fleet, v, Decide(b.fleet, v, hours(1)), hours(1)).Reachable; r != nil {
			return fmt.Sprint(*r)
		}
		return "not known"
	}
	for _, row := range []struct {
		sentence string
		change   func(*View)
		want     string
	}{
		{"seen", func(*View) {}, "true"},
		{"seen before, and not now", func(v *View) { v.Err = ErrUnavailable }, "false"},
		{"never seen", func(v *View) { v.Observed, v.Err = nil, ErrDenied }, "false"},
		{"not looked at yet", func(v *View) { v.Observed = nil }, "not known"},
	} {
		if got := reachable(row.change); got != row.want {
			t.Errorf("%s: %s, want %s", row.sentence, got, row.want)
		}
	}
	if c := JournalStatus(b.fleet, []ClusterRecord{b.saved(hours(1))}, hours(1.1)).Clusters[0]; c.Reachable != nil || c.LastContact == nil {
		t.Errorf("without a daemon: reachable %v, last contact %v", *c.Reachable, c.LastContact)
	}
}

// The floor is that of what the cluster runs with, where it is higher.
func TestTheFloorIsReported(t *testing.T) {
	b := newBench(t)
	b.view.Policy.LeafLifetime, b.view.Policy.ClockSkew, b.view.Policy.Repair = 24*time.Hour, 20*time.Second, 12*time.Hour+time.Millisecond
	floor := func() int64 {
		return clusterStatus(b.fleet, b.view, Decide(b.fleet, b.view, hours(1)), hours(1)).Issuer.FloorSeconds
	}
	if got, want := floor(), int64(36*3600+41); got != want {
		t.Errorf("%d, want %d", got, want)
	}
	b.view.Observed.Identity = &Identity{LeafLifetime: 48 * time.Hour}
	if got, want := floor(), int64(60*3600+41); got != want {
		t.Errorf("with leaves of 48h %d, want %d", got, want)
	}
	b.view.Observed, b.view.Err = nil, ErrUnavailable
	if got, want := floor(), int64(36*3600+41); got != want {
		t.Errorf("unseen %d, want %d", got, want)
	}
}

func TestWhenTheAnchorIsToBeRenewed(t *testing.T) {
	b := newBench(t)
	b.fleet.Policy.Trust.RenewBefore = time.Hour
	if got, want := newFleetStatus(b.fleet, hours(1), "daemon").Trust.RenewAt, b.fleet.Active().Certificate.NotAfter.Add(-time.Hour); got == nil || !got.Equal(want) {
		t.Errorf("%v, want %s", got, want)
	}
	b.fleet.Anchors = nil
	if got := newFleetStatus(b.fleet, hours(1), "daemon").Trust.RenewAt; got != nil {
		t.Errorf("without an anchor: %s", got)
	}
}

// A change comes nearer its end where a cluster gets to the end of the stage or
// fewer pods are stale than ever in it; not by what is seen for the first time.
func TestAChangeComesNearerItsEnd(t *testing.T) {
	c := Change{From: "g1", To: "g2", Stage: StageRestart, StageAt: hours(0)}
	var n nearer
	stale := func(pods int) Progress { return Progress{Change: c, Waits: "pods", Stale: pods} }
	waits, through := Progress{Change: c, Waits: "its bundle"}, Progress{Change: c}
	for i, row := range []struct {
		sentence string
		progress map[string]Progress
		nearer   bool
	}{
		{"seen for the first time", map[string]Progress{"east": stale(50), "west": waits}, false},
		{"nothing new", map[string]Progress{"east": stale(50), "west": waits}, false},
		{"the other is counted", map[string]Progress{"east": stale(50), "west": stale(7)}, false},
		{"fewer pods", map[string]Progress{"east": stale(49), "west": stale(7)}, true},
		{"more again", map[string]Progress{"east": stale(60)}, false},
		{"as few as before", map[string]Progress{"east": stale(49)}, false},
		{"one is through", map[string]Progress{"east": stale(49), "west": through}, true},
		{"it still is", map[string]Progress{"east": stale(49), "west": through}, false},
		{"of another stage", map[string]Progress{"east": {Change: Change{Stage: StageSpread}}}, false},
		{"waits for something else", map[string]Progress{"east": waits}, false},
		{"all are through", map[string]Progress{"east": through, "west": through}, true},
	} {
		was := n.at
		n.note(c, row.progress, hours(float64(i)))
		if got := !n.at.Equal(was); got != row.nearer {
			t.Errorf("%s: nearer is %t", row.sentence, got)
		}
	}
	c.StageAt = hours(20)
	if n.note(c, nil, hours(20)); !n.at.IsZero() {
		t.Errorf("a new stage: %s", n.at)
	}
	c.ProvedAt = hours(21)
	if s := c.Status(); s.ProgressAt == nil || !s.ProgressAt.Equal(hours(21)) {
		t.Errorf("since it was proved: %v", s.ProgressAt)
	}
}

// An issuer that cannot serve breaks things now, not when it ends.
func TestAnUnusableIssuerBreaksNow(t *testing.T) {
	b := newBench(t)
	b.view.Observed.IssuerFacts.Problem = "key and certificate do not belong together"
	s := LiveStatus(b.fleet, []View{b.view}, hours(1))
	if s.State != StateCritical || s.NothingBreaksBefore == nil || !s.NothingBreaksBefore.Equal(hours(1)) {
		t.Errorf("%s, nothing breaks before %v", s.State, s.NothingBreaksBefore)
	}
}

// Without a journal nobody has been deposed by what certd itself wrote there, and the fleet is not
// one that has no trust anchor yet.
func TestLiveStatusWithoutAJournal(t *testing.T) {
	b := newBench(t)
	b.view.Record, b.view.Certificates = ClusterRecord{}, nil
	s := LiveStatus(Fleet{Policy: b.fleet.Policy}, []View{b.view}, hours(1))
	if len(s.Findings) > 0 {
		t.Errorf("of the fleet: %v", s.Findings)
	}
	if f := s.Clusters[0].Findings; len(f) != 1 || f[0].ID != "NoAnchor" || !strings.Contains(f[0].Message, "certd run learns the anchor") {
		t.Errorf("of the cluster: %v", f)
	}
	b.view.Observed.Issuer.Marks.Epoch = 1 << 40
	if f := LiveStatus(Fleet{Policy: b.fleet.Policy}, []View{b.view}, hours(1)).Clusters[0].Findings; len(f) != 1 || f[0].ID != "Deposed" {
		t.Errorf("an epoch that no certd gets to: %v", f)
	}
	b.view.Observed.Issuer.Marks.Epoch = 8
	if f := LiveStatus(b.fleet, []View{b.view}, hours(1)).Clusters[0].Findings; len(f) != 1 || f[0].ID != "Deposed" {
		t.Errorf("with the journal of an earlier certd: %v", f)
	}
}

func TestTimesInStatusAreWholeSeconds(t *testing.T) {
	b := newBench(t)
	odd := hours(1).Add(123456789)
	b.view.Certificates[0].SignedAt = odd
	b.view.Record.LastContact = odd
	b.replica(b.view.Certificates[0].NotAfter, odd)
	b.view.Policy.Issuer.RenewBefore = 167 * time.Hour // so that the dates lean on signedAt
	text, err := json.Marshal(LiveStatus(b.fleet, []View{b.view}, odd))
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(string(text), ".123456"); i >= 0 {
		t.Errorf("fractions of a second in …%s…", text[max(0, i-60):i+10])
	}
}

// What certd tries by itself is said in numbers, not only in words.
func TestFindingsTellWhatWasTried(t *testing.T) {
	b := newBench(t)
	b.view.Failures = map[lane]*StepFailure{{"", IssuerObject}: {Step: StepIssuer, Err: errors.New("Vault is sealed"), Since: hours(80), Until: hours(91), Tries: 47}}
	d := Decide(b.fleet, b.view, hours(90))
	i := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.ID == "StepFailed" })
	if i < 0 {
		t.Fatalf("findings %v", ids(d.Findings))
	}
	want := Tried{Step: StepIssuer, Times: 47, Since: hours(80), Next: wholeSecond(hours(91))}
	if got := d.Findings[i].Tried; got == nil || got.Step != want.Step || got.Times != want.Times || !got.Since.Equal(want.Since) || !got.Next.Equal(*want.Next) {
		t.Errorf("tried %+v, want %+v", got, want)
	}
	b.view.Err, b.view.ErrSince, b.view.Looks = ErrUnavailable, hours(3), 5
	d = Decide(b.fleet, b.view, hours(4))
	i = slices.IndexFunc(d.Findings, func(f Finding) bool { return f.ID == "ClusterUnreachable" })
	if i < 0 || d.Findings[i].Tried == nil || d.Findings[i].Tried.Times != 5 || d.Findings[i].Tried.Step != "" || !d.Findings[i].Tried.Since.Equal(hours(3)) {
		t.Errorf("findings %+v", d.Findings)
	}
}

func TestAPlanTellsWhenWorkloadsMayBeRestarted(t *testing.T) {
	b := newBench(t)
	nights, err := ParseSchedule("0 22 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	p := &b.fleet.Policy.Clusters[0]
	p.Windows = []Window{{Name: "nights", Opens: nights, For: 8 * time.Hour}}
	p.Freezes = []Freeze{{Name: "over", From: hours(-48), To: hours(0)}, {Name: "year-end", Reason: "holidays", From: hours(100), To: hours(200)}}
	twin := *p
	twin.Cluster = "us"
	b.fleet.Policy.Clusters = append(b.fleet.Policy.Clusters, twin)
	plan := Project(LiveStatus(b.fleet, []View{b.view}, hours(1)), b.fleet.Policy, hours(1), hours(24*30), false)
	if len(plan.Windows) != 1 || plan.Windows[0].Clusters != 2 || plan.Windows[0].OpensAt.Hour() != 22 || plan.Windows[0].ClosesAt.Sub(plan.Windows[0].OpensAt) != 8*time.Hour || !plan.Windows[0].ClosesAt.After(hours(1)) {
		t.Errorf("windows %+v", plan.Windows)
	}
	if len(plan.Freezes) != 1 || plan.Freezes[0].Name != "year-end" || plan.Freezes[0].Clusters != 2 || !plan.Freezes[0].To.Equal(hours(200)) {
		t.Errorf("freezes %+v", plan.Freezes)
	}
}

// A plan that would have too many steps is cut, says so, and says up to where it is whole.
func TestAPlanIsCutWhereItSaysSo(t *testing.T) {
	b := newBench(t)
	until := hours(24 * 365)
	b.view.Policy.Issuer.Lifetime, b.view.Policy.Issuer.RenewBefore, b.view.Policy.Issuer.Backdate = 30*time.Minute, 20*time.Minute, time.Minute
	s, err := ParseSchedule("* * * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	b.view.Policy.Issuer.Schedule, b.view.Policy.Issuer.Spread = s, 0
	other := b.view.Policy
	other.Cluster = "us"
	b.fleet.Policy.Clusters = []Policy{b.view.Policy, other}
	st := LiveStatus(b.fleet, []View{b.view}, hours(1))
	st.Clusters = append(st.Clusters, st.Clusters[0])
	st.Clusters[1].Name = "us"
	for clusters := 1; clusters <= 2; clusters++ {
		st.Clusters = st.Clusters[:clusters:2]
		p := Project(st, b.fleet.Policy, hours(1), until, false)
		if !p.Cut || len(p.Items) != mostItems || !p.Until.Equal(p.Items[mostItems-1].At) || !p.Until.Before(until) {
			t.Fatalf("%d clusters: cut %t after %d steps, until %s", clusters, p.Cut, len(p.Items), p.Until)
		}
		if whole := Project(st, b.fleet.Policy, hours(1), p.Items[mostItems/clusters/2].At, false); whole.Cut {
			t.Errorf("%d clusters: one with %d steps is cut", clusters, len(whole.Items))
		}
	}
}

func TestProject(t *testing.T) {
	b := newBench(t)
	b.fleet.Policy.Clusters[0] = b.view.Policy
	plan := func(at, until time.Time, ifStopped bool) Plan {
		return Project(LiveStatus(b.fleet, []View{b.view}, at), b.fleet.Policy, at, until, ifStopped)
	}
	p := plan(hours(1), hours(24*30), true)
	if len(p.Items) < 9 || len(p.Items) > 16 {
		t.Fatalf("%d renewals in a month: %+v", len(p.Items), p.Items)
	}
	for i, item := range p.Items {
		if item.At.Hour() != 3 || item.Step != StepIssuer || item.Reason == "" || item.At.Before(item.Due) {
			t.Errorf("%+v is not at its firing", item)
		}
		if i > 0 && !item.At.After(p.Items[i-1].At) {
			t.Errorf("%s comes after %s", item.At, p.Items[i-1].At)
		}
	}
	if len(p.Breaks) != 2 || p.Breaks[0].Kind != "issuer" || p.Breaks[1].Kind != "anchor" {
		t.Errorf("what breaks if certd stops: %+v", p.Breaks)
	}
	// The first renewal is the one that the loop decides on.
	if d := Decide(b.fleet, b.view, hours(1)); !p.Items[0].At.Equal(d.Dates.NextRun) {
		t.Errorf("planned at %s, decided for %s", p.Items[0].At, d.Dates.NextRun)
	}
	// A renewal that is due is planned once, for now.
	late := plan(hours(90), hours(24*10), false)
	now := slices.DeleteFunc(slices.Clone(late.Items), func(i PlanItem) bool { return i.At.After(hours(90)) })
	if len(now) != 1 || len(late.Items) < 2 {
		t.Errorf("an overdue renewal is planned as %+v", late.Items)
	}
	if late.Breaks != nil {
		t.Errorf("breaks %+v", late.Breaks)
	}
	// What is left when it is renewed, at the closest, is no less than the floor.
	if len(p.Least) != 1 || p.Least[0].Cluster != "eu" || p.Least[0].Kind != "issuer" ||
		time.Duration(p.Least[0].LeftSeconds)*time.Second < b.view.Policy.Issuer.RenewBefore || p.Least[0].LeftSeconds > int64((168*time.Hour).Seconds()) {
		t.Errorf("least left: %+v", p.Least)
	}
	// Nothing is planned where certd only watches.
	b.view.Record, b.view.Certificates = ClusterRecord{}, nil
	b.view.Observed.Bundle.Marks, b.view.Observed.Issuer.Marks = Marks{}, Marks{}
	if p := plan(hours(1), hours(24*30), false); len(p.Items) > 0 || !contains(p.Findings, "WatchedOnly") {
		t.Errorf("a watched cluster is planned for: %+v", p)
	}
}
