package rotation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

func person(name, uid string) rotation.Person {
	return rotation.Person{Actor: name + "@cli", ByID: "uid" + uid + "@cli"}
}

// newApproved is a fleet whose configuration asks for a second person.
func newApproved(t *testing.T) *changing {
	return newChangingOf(t, 7, 4, func(p *rotation.FleetPolicy) { p.Trust.SecondPerson = true }, "east", "west")
}

func (c *changing) approves(id string, who rotation.Person, want error) {
	c.t.Helper()
	if _, err := c.loop.Approve(id, who, "seen", false); !errors.Is(err, want) || (err == nil) != (want == nil) {
		c.t.Fatalf("%s approves %s: %v, want %v", who.Actor, id, err, want)
	}
}

// comesThrough lets a change come through its last stage, until it waits for approval alone.
func (c *changing) comesThrough() {
	c.t.Helper()
	c.until("retire", 12*day)
	for begun := time.Now(); c.wanted() == nil; time.Sleep(time.Minute) {
		c.sound()
		if time.Since(begun) > 2*day {
			c.t.Fatalf("it does not wait for approval: %+v", c.rotation())
		}
	}
}

// wanted is the finding that asks for approval, nil if none is asked for.
func (c *changing) wanted() *rotation.Finding {
	st := c.loop.Status()
	i := slices.IndexFunc(st.Findings, func(f rotation.Finding) bool { return f.ID == "ApprovalWanted" })
	if i < 0 {
		return nil
	}
	return &st.Findings[i]
}

// A change waits for a second person for as long as it takes, in which issuers are renewed
// and drift is repaired. Who began it is none, also after certd was restarted; the approval
// outlives a restart, and both names are in the history.
func TestASecondPersonApproves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newApproved(t)
		c.begin()
		c.until("restart", 10*day)
		c.approves("g1", person("kim", "1001"), rotation.ErrNotNow)
		c.until("retire", 10*day)
		if r := c.rotation(); r.Approval == nil || r.Approval.Of != "g1" || r.Approval.Not != "lee@cli" || r.Approval.Since != nil || r.Approval.By != "" || c.wanted() != nil {
			t.Errorf("at the beginning of its last stage: %+v, finding %+v", r.Approval, c.wanted())
		}
		c.comesThrough()
		since := c.rotation().Approval.Since
		if f := c.wanted(); since == nil || f.Severity != rotation.StateWarning || f.Fix != "certd trust approve g1" || !strings.Contains(f.Message, "approved by a second person, not lee@cli") {
			t.Errorf("since %v: %+v", since, f)
		}
		before := c.loop.Status().Clusters[0].Issuer.Delivered.Serial
		time.Sleep(7 * day)
		c.sound()
		r := c.rotation()
		if want := []string{"approval by a second person, not lee@cli: certd trust approve g1"}; r.Stage != "retire" || !slices.Equal(r.WaitingFor, want) || !r.Approval.Since.Equal(*since) {
			t.Errorf("after a week: %+v, approval %+v", r, r.Approval)
		}
		if now := c.loop.Status().Clusters[0].Issuer.Delivered.Serial; now == before {
			t.Error("no issuer was renewed while it waited")
		}
		c.clusters["west"].Delete(rotation.BundleObject)
		time.Sleep(5 * time.Minute)
		if o, err := c.clusters["west"].Observe(t.Context()); err != nil || strings.Count(string(o.BundleText), "BEGIN CERTIFICATE") != 1 {
			t.Errorf("a deleted bundle is not mended while it waits: %v", err)
		}
		c.approves("g1", person("lee", "1000"), rotation.ErrDenied)
		c.end()
		c.start()
		time.Sleep(10 * time.Minute)
		c.approves("g1", person("lee", "1000"), rotation.ErrDenied)
		c.approves("g2", person("kim", "1001"), rotation.ErrUnsupported)
		if _, err := c.loop.Approve("g1", person("kim", "1001"), "seen", true); err != nil {
			t.Errorf("a dry run: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if c.wanted() == nil {
			t.Fatal("a dry run approves")
		}
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} }) // so that it does not end before certd does
		time.Sleep(10 * time.Minute)
		c.approves("g1", person("kim", "1001"), nil)
		c.approves("g1", person("ann", "1002"), rotation.ErrNotNow)
		c.end()
		c.start()
		time.Sleep(10 * time.Minute)
		if r := c.rotation(); r.Stage != "retire" || r.Approval == nil || r.Approval.By != "kim@cli" || r.Approval.Reason != "seen" || r.Approval.At == nil || c.wanted() != nil {
			t.Errorf("after a restart: %+v, %+v", r, r.Approval)
		}
		c.clusters["west"].SetFaults(nil)
		c.until("idle", 2*day)
		time.Sleep(day)
		c.ended("g2")
		var told []string
		for _, e := range c.entries() {
			if e.Intent.Step == rotation.StepTrustChange && (strings.Contains(e.Intent.Reason, "may be retired") || e.Detail == "ended") {
				told = append(told, e.Intent.Actor+": "+e.Intent.Reason)
			}
		}
		if want := []string{"kim@cli: g1 may be retired (lee@cli asked for that): seen", "certd: g1 is trusted and used nowhere; kim@cli has approved that it is retired"}; !slices.Equal(told, want) {
			t.Errorf("the history has %q", told)
		}
		c.end()
	})
}

// An approval holds for what was read: not for a change that was turned around, that goes
// on without another cluster, or that is to be compromised. What is retired after a turn is
// approved anew, not by who turned it.
func TestAnApprovalEndsWithWhatWasApproved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newApproved(t)
		lee, kim := person("lee", "1000"), person("kim", "1001")
		steer := func(how rotation.ChangeOrder, who rotation.Person, clusters ...string) {
			t.Helper()
			if _, err := c.loop.SteerChange(how, clusters, who.Actor, "drill"); err != nil {
				t.Fatal(err)
			}
		}
		c.begin()
		c.until("retire", 10*day)
		c.approves("g1", kim, nil) // before the wait is over
		steer(rotation.ChangeAdvance, kim, "west")
		if r := c.rotation(); r.Approval == nil || r.Approval.By != "" {
			t.Errorf("gone on without a cluster: %+v", r.Approval)
		}
		c.approves("g1", kim, nil)
		steer(rotation.ChangeRollback, kim)
		steer(rotation.ChangeRollback, kim) // it leads to g2 again, by kim's word
		c.approves("g1", lee, rotation.ErrNotNow)
		c.until("retire", 12*day)
		if r := c.rotation(); r.From != "g1" || r.Approval == nil || r.Approval.By != "" || r.Approval.Not != "kim@cli" {
			t.Fatalf("the approval from before it was turned around counts: %+v, %+v", r, r.Approval)
		}
		steer(rotation.ChangeRollback, kim)
		c.approves("g1", lee, rotation.ErrUnsupported)
		c.comesThrough()
		c.approves("g2", kim, rotation.ErrDenied)
		c.approves("g2", lee, nil)
		c.until("idle", day)
		time.Sleep(day)
		c.ended("g1")
		c.end()
	})
}

// Where it is taken out of the configuration nothing waits any more; where it is put in
// during a change, that waits.
func TestApprovalsFollowTheConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingOf(t, 7, 4, func(*rotation.FleetPolicy) {}, "east", "west")
		asks := func(second bool) {
			t.Helper()
			c.policy.Trust.SecondPerson = second
			if err := c.loop.Apply(c.policy, map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"]}); err != nil {
				t.Fatal(err)
			}
		}
		c.begin()
		c.until("retire", 10*day)
		if r := c.rotation(); r.Approval != nil {
			t.Errorf("nobody asks for it: %+v", r.Approval)
		}
		asks(true)
		c.comesThrough()
		time.Sleep(day)
		if c.wanted() == nil {
			t.Fatalf("it does not wait: %+v", c.rotation())
		}
		asks(false)
		if f, r := c.wanted(), c.rotation(); f != nil || r.Approval != nil {
			t.Errorf("it still waits: %+v, %+v", f, r.Approval)
		}
		c.until("idle", time.Hour)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// Turning away from a compromised anchor waits for nobody, and takes no approval with it.
func TestACompromisedAnchorWaitsForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newApproved(t)
		c.policy.Trust.Restarts = true
		if err := c.loop.Apply(c.policy, map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"]}); err != nil {
			t.Fatal(err)
		}
		c.begin()
		c.until("retire", 10*day)
		c.approves("g1", person("kim", "1001"), nil)
		_, to, _, err := c.loop.Compromised()
		if err != nil || to == nil {
			t.Fatal(to, err)
		}
		if err := c.loop.BeginCompromised(t.Context(), *to, "lee@cli", "laptop stolen"); err != nil {
			t.Fatal(err)
		}
		c.approves("g1", person("kim", "1001"), rotation.ErrNotNow)
		if r := c.rotation(); c.wanted() != nil || r.Approval != nil {
			t.Errorf("it waits for approval, or has one: %+v, %+v", r, r.Approval)
		}
		if now, err := c.journal.Change(); err != nil || now.Approval != nil {
			t.Errorf("what was approved is another change: %+v, %v", now, err)
		}
		c.until("idle", day)
		if st := c.loop.Status(); st.Trust.Active.ID != "g2" || len(st.Trust.Others) > 0 {
			t.Errorf("%+v", st.Trust)
		}
		c.end()
	})
}

// Who has a change lead where it does, and who has approved, is in the mirror: another
// certd, or a new journal, goes on with that.
func TestAnApprovalIsInTheMirror(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newApproved(t)
		c.end()
		c.mirror = &memory.Mirror{}
		c.start()
		time.Sleep(20 * time.Minute)
		c.begin()
		c.until("spread", 10*day)
		for range 2 {
			if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "kim@cli", "drill"); err != nil {
				t.Fatal(err)
			}
		}
		loses := func() {
			time.Sleep(10 * time.Second)
			c.end()
			c.dir = journalDir(t)
			c.start()
		}
		c.until("retire", 10*day)
		loses()
		c.approves("g1", person("kim", "1001"), rotation.ErrDenied)
		c.approves("g1", person("lee", "1000"), nil)
		loses()
		if r := c.rotation(); r.Stage != "retire" || r.Approval == nil || r.Approval.By != "lee@cli" || r.Approval.Not != "kim@cli" {
			t.Fatalf("%+v, %+v", r, r.Approval)
		}
		c.until("idle", 2*day)
		time.Sleep(day)
		c.sound()
		if st := c.loop.Status(); st.Trust.Active.ID != "g2" || len(st.Trust.Others) != 0 || st.State != rotation.StateOK {
			t.Errorf("%+v", st.Trust)
		}
		c.end()
	})
}
