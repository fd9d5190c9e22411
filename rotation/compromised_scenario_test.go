package rotation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// compromise turns the fleet away from its anchor at once.
func (c *changing) compromise() {
	c.t.Helper()
	_, to, costs, err := c.loop.Compromised()
	if err != nil || len(costs) != len(c.clusters) {
		c.t.Fatalf("%q, %v", costs, err)
	}
	a := to
	if a == nil {
		made, err := (rotation.Ceremony{Journal: c.journal, Creator: c.keys, Signer: c.keys, Policy: c.policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Next(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		a = &made
	}
	if err := c.loop.BeginCompromised(context.Background(), *a, "lee@cli", "laptop stolen"); err != nil {
		c.t.Fatal(err)
	}
}

// away lets time pass until nobody trusts the former anchor, and checks that no
// bundle ever holds both. It returns how long some refused others.
func (c *changing) away(most time.Duration, obey bool) (outage time.Duration) {
	c.t.Helper()
	for begun := time.Now(); c.rotation().Phase != "idle"; time.Sleep(10 * time.Second) {
		if time.Since(begun) > most {
			c.t.Fatalf("not over after %s: %+v", most, c.rotation())
		}
		for name, cl := range c.clusters {
			if n := strings.Count(string(cl.Data(rotation.BundleObject)["ca-bundle.crt"]), "BEGIN"); n != 1 {
				c.t.Fatalf("the bundle of %s holds %d anchors", name, n)
			}
		}
		if len(c.mesh.Broken()) > 0 {
			outage += 10 * time.Second
		}
		if obey {
			c.obey()
		}
	}
	return outage
}

// A compromised anchor is left at once: no bundle holds it beside the new one, every
// pod is created anew once, and what has to be refused is refused for minutes.
func TestACompromisedAnchorIsLeftAtOnce(t *testing.T) {
	t.Parallel()
	for _, auto := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newChanging(t, 3, "east", "west")
			c.policy.Trust.Restarts = auto
			if err := c.loop.Apply(c.policy, map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"]}); err != nil {
				t.Fatal(err)
			}
			before := c.restarts()
			c.compromise()
			if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "oops"); !errors.Is(err, rotation.ErrUnsupported) {
				t.Errorf("there is a way back: %v", err)
			}
			if s := c.loop.Status(); s.State != rotation.StateCritical || !slices.ContainsFunc(s.Findings, func(f rotation.Finding) bool { return f.ID == "TrustCompromised" }) {
				t.Errorf("%s: %+v", s.State, s.Findings)
			}
			begun := time.Now()
			outage := c.away(3*time.Hour, !auto)
			t.Logf("auto %t: over after %s; some refused others for %s", auto, time.Since(begun), outage)
			if auto && time.Since(begun) > 40*time.Minute {
				t.Errorf("it took %s", time.Since(begun))
			}
			c.mesh.ForgetViolations()
			time.Sleep(day)
			c.leads("g2")
			c.restartedOnce(before, "app/")
			c.end()
		})
	}
}

// An anchor that has ended or whose key is gone is left in the same way: it signs
// nothing any more, so that what is restarted and what is not refuse each other.
func TestAnAnchorThatSignsNothingIsLeft(t *testing.T) {
	t.Parallel()
	for _, story := range []string{"its key is gone", "it has ended"} {
		synctest.Test(t, func(t *testing.T) {
			var c *changing
			if story == "it has ended" {
				c = newShort(t, 8*day)
				c.policy.Trust.Lifetime = 3650 * day
				time.Sleep(8*day + time.Hour)
			} else {
				c = newShort(t, 3650*day)
				c.keys.SetFaults(func(_ memory.KeyCall, name string) memory.KeyFault {
					if name == "acme-anchor-1" {
						return memory.KeyFault{Err: rotation.ErrKeyNotFound}
					}
					return memory.KeyFault{}
				})
			}
			before := c.restarts()
			c.compromise()
			for begun := time.Now(); c.rotation().Phase != "idle"; time.Sleep(time.Minute) {
				if time.Since(begun) > 5*time.Hour {
					t.Fatalf("%s: not over: %+v, %+v", story, c.rotation(), c.cluster("east").Findings)
				}
				c.obey()
			}
			c.mesh.ForgetViolations()
			time.Sleep(day)
			if all := c.mesh.Broken(); len(all) > 0 {
				t.Errorf("%s: %v", story, all)
			}
			for _, name := range []string{"east", "west"} {
				if s := c.cluster(name); len(s.Bundle.Anchors) != 1 || s.Bundle.Anchors[0].ID != "g2" || s.Issuer.Delivered.Anchor != "g2" || s.Proxies.Stale != 0 {
					t.Errorf("%s: %s: %+v, %+v", story, name, s.Bundle, s.Issuer.Delivered)
				}
			}
			if story != "it has ended" {
				c.restartedOnce(before, "app/")
			}
			c.end()
		})
	}
}

// Other ways into it: out of a change that is under way, from a mesh that was
// taken over, with a cluster out of reach and certd killed in between.
func TestOtherWaysAwayFromACompromisedAnchor(t *testing.T) {
	t.Parallel()
	t.Run("out of a change", func(t *testing.T) {
		for _, stage := range []string{"bridge", "spread", "restart"} {
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 4, "east", "west")
				c.begin()
				c.until(stage, 10*day)
				if stage == "bridge" {
					time.Sleep(30 * time.Minute)
				}
				c.compromise()
				for begun := time.Now(); c.rotation().Phase != "idle"; time.Sleep(10 * time.Second) {
					if time.Since(begun) > 5*time.Hour {
						t.Fatalf("%s: not over: %+v", stage, c.rotation())
					}
					c.obey()
				}
				c.mesh.ForgetViolations()
				time.Sleep(day)
				c.leads("g2")
				c.end()
			})
		}
	})
	t.Run("a mesh that was taken over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := meshes(t)[0]
			installed := map[string]mesh{"east": m, "west": m}
			c := adopting(t, 5, installed)
			c.adopt(installed)
			before := c.restarts()
			c.compromise()
			c.away(5*time.Hour, true)
			c.mesh.ForgetViolations()
			time.Sleep(day)
			c.leads("g1")
			c.appsRestartedOnce(before, "east", "west")
			c.end()
		})
	})
	t.Run("a cluster out of reach, certd killed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newChanging(t, 6, "east", "west")
			c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
			time.Sleep(5 * time.Minute)
			_, _, costs, err := c.loop.Compromised()
			if err != nil || !strings.Contains(strings.Join(costs, "; "), "west: it does not answer") {
				t.Errorf("%q, %v", costs, err)
			}
			c.compromise()
			for range 60 {
				time.Sleep(time.Minute)
				c.obey()
				if c.chance.IntN(10) == 0 {
					c.end()
					c.start()
					time.Sleep(5 * time.Second)
				}
			}
			if r := c.rotation(); r.Stage != "restart" || len(r.WaitingFor) != 1 || !strings.HasPrefix(r.WaitingFor[0], "west") {
				t.Errorf("%+v", r)
			}
			if s := c.cluster("east"); len(s.Bundle.Anchors) != 1 || s.Bundle.Anchors[0].ID != "g2" || s.Proxies.Stale != 0 {
				t.Errorf("east: %+v, %+v", s.Bundle, s.Proxies)
			}
			c.clusters["west"].SetFaults(nil)
			c.away(5*time.Hour, true)
			c.mesh.ForgetViolations()
			time.Sleep(day)
			c.leads("g2")
			c.end()
		})
	})
}
