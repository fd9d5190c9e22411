package rotation_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// A fleet that is paused for forty days has nothing written to it but what cannot
// wait, also after a restart of certd, and nothing of it ends or breaks. When the time
// is over, certd goes on by itself.
func TestAPausedFleetLivesAtItsFloors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.policy.Clusters[0].Webhooks.ProbeEvery = 30 * day
		w.resync = 12 * time.Hour
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(time.Hour)
		w.clusters["east"].ForgetViolations()
		if _, err := w.loop.Pause(nil, time.Now().Add(40*day), "lee@cli", "the network is moved"); err != nil {
			t.Fatal(err)
		}
		w.end()
		w.start()
		time.Sleep(time.Minute)
		c := w.cluster("east")
		if c.Mode != "paused" || c.Pause == nil || !c.Pause.Fleet || c.Pause.By != "lee@cli" || c.Issuer.NextRun == nil || !c.Issuer.NextRun.Equal(*c.Issuer.MustRenewBy) {
			t.Errorf("mode %s, %+v, next run %v", c.Mode, c.Pause, c.Issuer.NextRun)
		}
		plan := w.loop.Plan(time.Now().Add(5*day), false)
		if i := slices.IndexFunc(plan.Items, func(i rotation.PlanItem) bool { return i.Step == rotation.StepIssuer }); i < 0 || !plan.Items[i].At.Equal(*c.Issuer.MustRenewBy) || !strings.Contains(plan.Items[i].Reason, "paused") {
			t.Errorf("the plan is %+v", plan.Items)
		}
		renewals := slices.DeleteFunc(slices.Clone(w.loop.Plan(time.Now().Add(20*day), false).Items), func(i rotation.PlanItem) bool { return i.Step != rotation.StepIssuer })
		if n := len(renewals); n != 5 { // one for each 84h
			t.Errorf("%d issuers are planned for 20 days: %+v", n, renewals)
		}
		w.clusters["east"].Edit(rotation.BundleObject, "kubectl-label", func(_ map[string][]byte, m *rotation.Marks) { m.Label = false })
		least, leaf := 365*day, 365*day
		for range 39 * 4 {
			time.Sleep(6 * time.Hour)
			for _, c := range w.loop.Status().Clusters {
				least = min(least, time.Until(c.Issuer.Delivered.NotAfter))
				for _, h := range c.Webhooks {
					leaf = min(leaf, time.Until(h.Delivered.NotAfter))
				}
			}
			w.holds("while it is paused")
		}
		w.admits("while it is paused", "")
		if least < 83*time.Hour || least > 90*time.Hour { // it is looked at every 6h
			t.Errorf("an issuer once had %s left; the floor is 84h, and nothing is renewed before", least)
		}
		if leaf < 15*day-time.Hour || leaf > 15*day+6*time.Hour {
			t.Errorf("a webhook's certificate once had %s left; the floor is 15d", leaf)
		}
		w.helm("east", false)
		time.Sleep(30 * time.Second)
		w.admits("after an upgrade that resets each caBundle", "helm")
		if w.count(func(e rotation.Entry) bool { return e.Intent.Step == rotation.StepRepairMetadata }) != 0 {
			t.Error("labels were put right meanwhile")
		}
		time.Sleep(2 * day)
		w.admits("afterwards", "")
		if c := w.cluster("east"); c.Mode != "managed" || c.State != rotation.StateOK {
			t.Errorf("afterwards it is %s, %s: %+v", c.Mode, c.State, c.Findings)
		}
		if w.count(func(e rotation.Entry) bool {
			return e.Intent.Step == rotation.StepRepairMetadata && e.Intent.Cluster == "east"
		}) == 0 {
			t.Error("labels were not put right afterwards")
		}
		w.accounted()
		w.end()
	})
}

// A cluster that is paused in the middle of a change of the trust anchor is waited
// for, by name, whatever the stage; its neighbours refuse nobody meanwhile.
func TestAChangeWaitsForAPausedCluster(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"bridge", "spread", "restart", "finish"} {
		if thinned(i, 4) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, uint64(60+i), "east", "west")
				c.begin()
				c.until(stage, 10*day)
				if _, err := c.loop.Pause([]string{"west"}, time.Time{}, "lee@cli", "network"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				bundle, order := c.cluster("west").Bundle.SHA256, signers(t, c.clusters["west"])
				for range 3 * 24 / pace {
					time.Sleep(time.Hour)
					c.obey()
					c.sound()
				}
				west := c.cluster("west")
				if west.Bundle.SHA256 != bundle || signers(t, c.clusters["west"]) != order {
					t.Errorf("it moved on: bundle %s, then %s; issuers %s, then %s", bundle, west.Bundle.SHA256, order, signers(t, c.clusters["west"]))
				}
				r := c.rotation()
				if told := slices.ContainsFunc(r.WaitingFor, func(w string) bool { return strings.HasPrefix(w, "west: paused by lee@cli") }); !told && r.Stage == stage && stage != "restart" {
					t.Errorf("stage %s waits for %q", r.Stage, r.WaitingFor)
				}
				if _, err := c.loop.Resume([]string{"west"}, "lee@cli", "done"); err != nil {
					t.Fatal(err)
				}
				c.until("idle", 20*day)
				time.Sleep(day)
				c.ended("g2")
				c.end()
			})
		})
	}
}

// signers are the key identifiers of whom an issuer file is under, in its order.
func signers(t *testing.T, c *memory.Cluster) string {
	t.Helper()
	o, err := c.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, cert := range o.IssuerFacts.Chain {
		all = append(all, pki.AKI(cert))
	}
	return strings.Join(all, " ")
}
