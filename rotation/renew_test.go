package rotation_test

import (
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/rotation"
)

// A replica of linkerd-identity that missed an issuer is moved: one that misses
// a single change by swapping its files once more, one whose watch has ended by
// a restart.
func TestAReplicaThatMissedItsIssuerIsMoved(t *testing.T) {
	for _, row := range []struct {
		name    string
		trouble func(w *world)
		steps   []rotation.Step
	}{
		{"it misses one change", func(w *world) { w.clusters["east"].MissIdentity(1) }, []rotation.Step{rotation.StepIssuerReload}},
		{"it hears nothing any more", func(w *world) { w.clusters["east"].DeafIdentity(0) }, []rotation.Step{rotation.StepIssuerReload, rotation.StepIdentityRestart}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := settled(t, "east")
				row.trouble(w)
				if r := <-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"}); r.Result != rotation.OK {
					t.Fatalf("%+v", r)
				}
				signed := len(w.keys.Signatures())
				time.Sleep(20 * time.Minute)
				if c := w.cluster("east"); c.Issuer.Loaded.State != "yes" || c.State != rotation.StateOK {
					t.Errorf("after 20 minutes: loaded %+v, findings %+v", c.Issuer.Loaded, c.Findings)
				}
				for _, step := range row.steps {
					if n := w.count(func(e rotation.Entry) bool { return e.Intent.Step == step && e.Result == rotation.OK }); n != 1 {
						t.Errorf("step %s was done %d times", step, n)
					}
				}
				if n := len(w.keys.Signatures()) - signed; n != 0 {
					t.Errorf("%d signatures for it", n)
				}
				before := w.clusters["east"].Writes()
				time.Sleep(5 * time.Hour)
				if got := w.clusters["east"].Writes(); !maps.Equal(got, before) {
					t.Errorf("it goes on writing: %v, before %v", got, before)
				}
				w.holds("moved")
				w.end()
			})
		})
	}
}

// Where issuers are renewed every other minute, a replica whose watch has ended is
// moved as well: it is always the last issuer that it has had no time to load.
func TestAReplicaThatMissesEveryIssuerIsMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		schedule, err := rotation.ParseSchedule("*/2 * * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		w.policy.Clusters[0].Issuer.Schedule, w.policy.Clusters[0].Issuer.EveryFiring = schedule, true
		w.ceremony()
		w.start()
		time.Sleep(10 * time.Minute)
		w.clusters["east"].DeafIdentity(0)
		time.Sleep(20 * time.Minute)
		if n := w.count(func(e rotation.Entry) bool {
			return e.Intent.Step == rotation.StepIdentityRestart && e.Result == rotation.OK
		}); n != 1 {
			t.Errorf("linkerd-identity was restarted %d times", n)
		}
		if c := w.cluster("east"); c.State != rotation.StateOK {
			t.Errorf("findings %+v", c.Findings)
		}
		w.holds("moved")
		w.end()
	})
}

// An anchor is renewed when its time has come, with the same key and subject;
// every cluster publishes the renewed one, what was issued before stays
// accepted, nothing else is restarted, and linkerd-identity in time.
func TestAnAnchorIsRenewedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		w.policy.Trust = rotation.TrustPolicy{Lifetime: 400 * day, Backdate: 10 * time.Minute, RenewBefore: 200 * day, Renews: true}
		w.resync = 6 * time.Hour
		w.ceremony()
		w.start()
		time.Sleep(time.Minute)
		watch := w.oversee()
		first := *w.loop.Status().Trust.Active
		time.Sleep(time.Until(first.NotAfter.Add(-198 * day)))
		s := w.loop.Status()
		if s.Trust.Active.ID != first.ID || s.Trust.Active.SKI != first.SKI || s.Trust.Active.SHA256 == first.SHA256 || s.Trust.Active.NotAfter.Before(first.NotAfter.Add(190*day)) {
			t.Errorf("two days after it was due: %+v, before %+v", s.Trust.Active, first)
		}
		if s.State != rotation.StateOK {
			t.Errorf("%s: %+v", s.State, s.Findings)
		}
		for _, c := range s.Clusters {
			if !c.Bundle.Current || len(c.Bundle.Anchors) != 1 || c.Bundle.Anchors[0].SHA256 != s.Trust.Active.SHA256 {
				t.Errorf("%s publishes %+v", c.Name, c.Bundle)
			}
		}
		// Long before the former certificate ends, linkerd-identity has the new.
		time.Sleep(time.Until(first.NotAfter.Add(-80 * day)))
		for name := range w.clusters {
			if n := w.count(func(e rotation.Entry) bool {
				return e.Intent.Cluster == name && e.Intent.Step == rotation.StepIdentityRestart
			}); n != 1 {
				t.Errorf("%s: linkerd-identity was restarted %d times", name, n)
			}
		}
		time.Sleep(time.Until(first.NotAfter.Add(day)))
		w.holds("after the end of the former certificate")
		if s := w.loop.Status(); s.State != rotation.StateOK {
			t.Errorf("%s: %+v %+v", s.State, s.Findings, s.Clusters)
		}
		for name, c := range w.clusters {
			if n := c.Skipped(); n > 0 {
				t.Errorf("%s: %d issuers were skipped", name, n)
			}
		}
		watch.report(t)
		w.accounted()
		w.end()
	})
}

// By hand it is renewed at any time at which that gains something; a key
// backend that is away makes it wait, and says so.
func TestAnAnchorIsRenewedByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.policy.Trust = rotation.TrustPolicy{Lifetime: 400 * day, Backdate: 10 * time.Minute, RenewBefore: 100 * day, Renews: true}
		w.resync = 6 * time.Hour
		w.ceremony()
		w.start()
		time.Sleep(time.Minute)
		if _, err := w.loop.RenewAnchor(t.Context(), "lee@cli", "drill"); !errors.Is(err, rotation.ErrNoGain) {
			t.Errorf("a minute after it was made: %v", err)
		}
		time.Sleep(30 * day)
		a, err := w.loop.RenewAnchor(t.Context(), "lee@cli", "drill")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := w.loop.Status(); s.Trust.Active.NotAfter != a.Certificate.NotAfter || !s.Clusters[0].Bundle.Current {
			t.Errorf("%+v, %+v", s.Trust.Active, s.Clusters[0].Bundle)
		}
		time.Sleep(time.Until(a.Certificate.NotAfter.Add(-101 * day)))
		w.keys.SetFaults(away)
		time.Sleep(2 * day)
		found := false
		for _, f := range w.loop.Status().Findings {
			found = found || f.ID == "AnchorNotRenewed"
		}
		if !found {
			t.Errorf("nothing is said of it: %+v", w.loop.Status().Findings)
		}
		w.keys.SetFaults(nil)
		time.Sleep(day)
		if s := w.loop.Status(); !s.Trust.Active.NotAfter.After(a.Certificate.NotAfter) {
			t.Errorf("Vault is back, and the anchor still ends at %s: %+v", s.Trust.Active.NotAfter, s.Findings)
		}
		w.holds("renewed twice")
		w.accounted()
		w.end()
	})
}
