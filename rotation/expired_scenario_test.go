package rotation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// typed does what a finding says to type, to the letter. What it says has to be
// one of the commands that change something.
func (w *world) typed(fix string) error {
	w.t.Helper()
	words := strings.Fields(fix)
	switch {
	case strings.HasPrefix(fix, "certd rotate "):
		targets := map[string]rotation.Target{"issuer": rotation.TargetIssuer, "webhooks": rotation.TargetWebhooks, "webhook-ca": rotation.TargetWebhookCA}
		r := <-w.loop.Rotate(targets[words[2]], words[3:4], rotation.Request{Actor: "lee@cli", Reason: "by hand"})
		if r.Result != rotation.OK {
			return fmt.Errorf("%s: %s", r.Cluster, r.Detail)
		}
		return nil
	case fix == "certd trust renew":
		_, err := w.loop.RenewAnchor(w.t.Context(), "lee@cli", "by hand")
		return err
	case fix == "kubectl -n linkerd rollout restart deploy/linkerd-identity":
		for _, c := range w.clusters {
			c.RollOut("linkerd-identity")
		}
		return nil
	}
	w.t.Errorf("%q is nothing to type about what has ended", fix)
	return nil
}

// red returns the finding of that id, of the fleet for "", which has to be
// critical.
func (w *world) red(cluster, id string) rotation.Finding {
	w.t.Helper()
	findings := w.loop.Status().Findings
	if cluster != "" {
		findings = w.cluster(cluster).Findings
	}
	i := slices.IndexFunc(findings, func(f rotation.Finding) bool { return f.ID == id && f.Severity == rotation.StateCritical })
	if i < 0 {
		w.t.Errorf("%s is not reported of %q: %+v", id, cluster, findings)
		return rotation.Finding{}
	}
	if m := findings[i].Message; strings.Contains(m, " -") {
		w.t.Errorf("%s counts backwards: %s", id, m)
	}
	return findings[i]
}

// green fails unless all is well within a time, in every cluster, and what runs
// uses what was delivered; it says how long that took.
func (w *world) green(within time.Duration) time.Duration {
	w.t.Helper()
	begun := time.Now()
	for {
		s := w.loop.Status()
		ok := s.State == rotation.StateOK
		for _, c := range s.Clusters {
			ok = ok && c.Issuer != nil && (c.Issuer.Loaded == nil || c.Issuer.Loaded.State == "yes") && len(w.clusters[c.Name].Broken()) == 0
		}
		if took := time.Since(begun); ok {
			w.holds("all is well again")
			return took
		} else if took > within {
			w.t.Errorf("still %s after %s: %+v %+v", s.State, took, s.Findings, s.Clusters)
			return took
		}
		time.Sleep(time.Second)
	}
}

// steps counts what was done since a time.
func (w *world) steps(since time.Time) map[rotation.Step]int {
	w.t.Helper()
	n := map[rotation.Step]int{}
	for _, e := range w.entries() {
		if !e.At.Before(since) {
			n[e.Intent.Step]++
		}
	}
	return n
}

// away for some time: certd is started again when it is over, the key backend
// not back yet.
func (w *world) awayUntil(at time.Time) {
	w.t.Helper()
	w.end()
	time.Sleep(time.Until(at))
	w.keys.SetFaults(away)
	w.start()
	time.Sleep(time.Minute)
}

// The key backend was away until the issuer had ended. Once it is back, so is
// everything, without a person; who does not want to wait types what the finding
// says. Replicas of linkerd-identity that were restarted meanwhile are in a crash
// loop and try again at least every five minutes.
func TestAnExpiredIssuerComesBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		late    time.Duration // after its end
		crashed bool
		typed   bool
		within  time.Duration
	}{
		{"a moment late", time.Second, false, false, 4 * time.Minute},
		{"a month late", 30 * day, false, false, 4 * time.Minute},
		{"and linkerd-identity was restarted", 2 * time.Hour, true, false, 7 * time.Minute},
		{"and somebody asks for it", 2 * time.Hour, false, true, 4 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := settled(t, "east", "west")
				w.awayUntil(w.cluster("east").Issuer.Delivered.NotAfter.Add(row.late))
				if row.crashed {
					w.clusters["east"].RestartIdentity()
				}
				time.Sleep(time.Hour)
				fix := w.red("east", "IssuerExpired").Fix
				if fix != "certd rotate issuer east" {
					t.Errorf("to be typed: %q", fix)
				}
				if err := w.typed(fix); err == nil || !strings.Contains(err.Error(), "unavailable") {
					t.Errorf("typed while no key can be used: %v", err)
				}
				signed, back := len(w.keys.Signatures()), time.Now()
				w.keys.SetFaults(nil)
				if row.typed {
					if err := w.typed(fix); err != nil {
						t.Error(err)
					}
				}
				w.green(row.within)
				if n := len(w.keys.Signatures()) - signed; n > 3 { // one for each cluster, and the canary's
					t.Errorf("%d signatures for it", n)
				}
				if n := w.steps(back); n[rotation.StepIssuer] != 2 || n[rotation.StepIdentityRestart] != 0 || n[rotation.StepRepairIssuer] != 0 {
					t.Errorf("done for it: %v", n)
				}
				w.accounted()
				w.end()
			})
		})
	}
}

// The same of webhooks: their certificates, or the CA over them as well. Since
// nothing that is served works, nothing is waited for.
func TestExpiredWebhooksComeBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		after time.Duration
		ca    string // that signs in the end
	}{
		{"their certificates", 31 * day, "w1"},
		{"and the CA over them", 91 * day, "w2"},
	} {
		for _, typed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by hand %t", row.name, typed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := hooked(t, "east")
					w.policy.Clusters[0].Webhooks.CA.Lifetime, w.policy.Clusters[0].Webhooks.CA.RenewBefore = 90*day, 40*day
					w.ceremony()
					w.helm("east", true)
					w.start()
					time.Sleep(20 * time.Minute)
					w.awayUntil(time.Now().Add(row.after))
					if len(w.clusters["east"].Broken()) == 0 {
						t.Error("nothing is broken: the test is none")
					}
					fix := w.red("east", "WebhookExpired").Fix
					if fix != "certd rotate webhooks east" {
						t.Errorf("to be typed: %q", fix)
					}
					if f, found := w.finding("east", "WebhookBroken"); found {
						t.Errorf("that it has ended is said; %s says it once more", f.ID)
					}
					w.keys.SetFaults(nil)
					if typed {
						if err := w.typed(fix); err != nil {
							t.Error(err)
						}
					}
					took := w.green(5 * time.Minute)
					if n := len(w.clusters["east"].Broken()); n > 0 {
						t.Errorf("%d calls still fail after %s", n, took)
					}
					time.Sleep(20 * time.Minute)
					w.looked("afterwards", "east", row.ca)
					w.accounted()
					w.end()
				})
			})
		}
	}
}

// The trust anchor itself has ended, and with it every issuer under it. Its key
// signs new dates, by itself where it is to and else when a person types what
// each finding says; linkerd-identity, which holds the old dates, is restarted
// once; no workload is. Until then nothing is signed, or tried, in vain.
func TestAnExpiredAnchorComesBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		renews  bool
		late    time.Duration
		crashed bool
		within  time.Duration
	}{
		{"by itself", true, 3 * day, false, 8 * time.Minute},
		{"by itself, and linkerd-identity was restarted", true, 3 * day, true, 8 * time.Minute},
		{"by hand", false, 3 * day, false, 8 * time.Minute},
		{"by hand, and linkerd-identity was restarted", false, 3 * day, true, 8 * time.Minute},
		{"by hand, after years", false, 1000 * day, false, 8 * time.Minute},
		{"by hand, a moment late", false, time.Second, false, 8 * time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east", "west")
				w.policy.Trust.Lifetime, w.policy.Trust.RenewBefore, w.policy.Trust.Renews = 40*day, 20*day, row.renews
				w.ceremony()
				w.start()
				time.Sleep(time.Minute)
				first := *w.loop.Status().Trust.Active
				w.awayUntil(first.NotAfter.Add(row.late))
				if row.crashed {
					w.clusters["east"].RestartIdentity()
				}
				if row.late > time.Minute {
					time.Sleep(time.Hour)
				}
				fixes := []string{w.red("", "AnchorExpired").Fix, w.red("east", "IssuerExpired").Fix}
				for _, fix := range fixes {
					if fix != "certd trust renew" {
						t.Errorf("to be typed: %q", fix)
					}
				}
				for _, id := range []string{"SignatureBudget", "StepFailed"} {
					if f, found := w.finding("east", id); found {
						t.Errorf("what cannot be signed is tried: %+v", f)
					}
				}
				// To ask for an issuer is answered by what has to come first.
				if err := w.typed("certd rotate issuer east"); err == nil || !strings.Contains(err.Error(), "trust anchor g1") {
					t.Errorf("an issuer is asked for: %v", err)
				}
				signed, back := len(w.keys.Signatures()), time.Now()
				w.keys.SetFaults(nil)
				if !row.renews {
					if row.late > time.Minute {
						time.Sleep(10 * time.Minute)
					}
					w.red("", "AnchorExpired")
					if err := w.typed(fixes[0]); err != nil {
						t.Error(err)
					}
				}
				took := w.green(row.within)
				if a := w.loop.Status().Trust.Active; a.SKI != first.SKI || a.SHA256 == first.SHA256 || time.Until(a.NotAfter) < 39*day {
					t.Errorf("after %s the anchor is %+v, was %+v", took, a, first)
				}
				n := w.steps(back)
				// Of a cluster whose replicas were in a crash loop none held the old dates.
				if restarts := map[bool]int{false: 2, true: 1}[row.crashed]; n[rotation.StepIdentityRestart] != restarts || n[rotation.StepIssuer] != 2 || n[rotation.StepTrustRenew] != 1 || n[rotation.StepIssuerReload] != 0 {
					t.Errorf("done for it: %v", n)
				}
				if n := w.count(func(e rotation.Entry) bool {
					return e.Intent.Step == rotation.StepBundle && strings.Contains(e.Intent.Reason, "holds a former certificate of")
				}); n != 2 {
					t.Errorf("%d bundles are said to hold a former certificate", n)
				}
				if n := len(w.keys.Signatures()) - signed; n > 4 { // the anchor, an issuer for each cluster, the canary's
					t.Errorf("%d signatures for it", n)
				}
				time.Sleep(day)
				w.green(0)
				w.accounted()
				w.end()
			})
		})
	}
}

// Everything has ended at once: anchor, issuers, webhooks' certificates and the
// CA over them, and the key backend comes back last of all.
func TestEverythingExpiredComesBack(t *testing.T) {
	t.Parallel()
	for _, typed := range []bool{false, true} {
		t.Run(fmt.Sprintf("by hand %t", typed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := hooked(t, "east", "west")
				for i := range w.policy.Clusters {
					p := &w.policy.Clusters[i]
					p.Webhooks.CA.Lifetime, p.Webhooks.CA.RenewBefore = 90*day, 40*day
					w.clusters[p.Cluster] = memory.NewCluster(memory.ClusterConfig{Name: p.Cluster, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true,
						Replicas: 2, Lag: 90 * time.Second, APILag: 20 * time.Second, Webhooks: p.Webhooks.Specs})
				}
				w.policy.Trust.Lifetime, w.policy.Trust.RenewBefore, w.policy.Trust.Renews = 80*day, 40*day, !typed
				w.ceremony()
				for name := range w.clusters {
					w.helm(name, true)
				}
				w.start()
				time.Sleep(20 * time.Minute)
				w.awayUntil(time.Now().Add(100 * day))
				for name, c := range w.clusters {
					c.RestartIdentity()
					w.red(name, "WebhookExpired")
					w.red(name, "IssuerExpired")
				}
				w.red("", "AnchorExpired")
				w.keys.SetFaults(nil)
				if typed {
					// Whatever is typed first, nothing refuses because something else is red.
					for _, c := range w.loop.Status().Clusters {
						for _, f := range c.Findings {
							if f.ID == "WebhookExpired" {
								if err := w.typed(f.Fix); err != nil {
									t.Error(err)
								}
								break
							}
						}
					}
					if err := w.typed(w.red("", "AnchorExpired").Fix); err != nil {
						t.Error(err)
					}
				}
				w.green(10 * time.Minute)
				time.Sleep(20 * time.Minute)
				for name := range w.clusters {
					w.looked("afterwards", name, "w2")
				}
				w.accounted()
				w.end()
			})
		})
	}
}
