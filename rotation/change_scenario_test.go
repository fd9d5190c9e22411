package rotation_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// changing is a fleet of linked clusters with meshed pods, before its trust
// anchor is changed, and the person who restarts what certd asks for.
type changing struct {
	*world
	mesh   *memory.Mesh
	chance *rand.Rand
	asked  map[string]time.Time // of an owner that was restarted
}

// leaf is how long leaves live here: long beside what else takes its time.
const leaf = 4 * time.Hour

func newChanging(t *testing.T, seed uint64, names ...string) *changing {
	return newLargeChanging(t, seed, 9, names...)
}

// newShort is a fleet whose first anchor lives for so long.
func newShort(t *testing.T, anchor time.Duration) *changing {
	return newChangingOf(t, 34, 9, func(p *rotation.FleetPolicy) { p.Trust.Lifetime = anchor }, "east", "west")
}

// newLargeChanging has so many meshed pods in each cluster beside Linkerd's own.
func newLargeChanging(t *testing.T, seed uint64, pods int, names ...string) *changing {
	return newChangingOf(t, seed, pods, func(*rotation.FleetPolicy) {}, names...)
}

func newChangingOf(t *testing.T, seed uint64, pods int, policy func(*rotation.FleetPolicy), names ...string) *changing {
	return newChangingIn(t, seed, pods, policy, func(*memory.ClusterConfig) {}, names...)
}

// newChangingIn is a fleet of clusters that cluster has changed.
func newChangingIn(t *testing.T, seed uint64, pods int, policy func(*rotation.FleetPolicy), cluster func(*memory.ClusterConfig), names ...string) *changing {
	w := newWorld(t, names...)
	policy(&w.policy)
	var all []*memory.Cluster
	for i, name := range names {
		cfg := memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local",
			Replicas: 2, Lag: time.Duration(20+60*i) * time.Second, Proxies: pods, LeafLifetime: leaf, Seed: seed}
		cluster(&cfg)
		w.clusters[name] = memory.NewCluster(cfg)
		w.policy.Clusters[i].LeafLifetime = leaf
		all = append(all, w.clusters[name])
	}
	w.ceremony()
	w.start()
	time.Sleep(20 * time.Minute) // everything runs, and is counted
	c := &changing{world: w, chance: rand.New(rand.NewPCG(seed, 1)), asked: map[string]time.Time{}}
	t.Cleanup(func() { // a test that gives up leaves nothing running
		c.stop()
		synctest.Wait()
	})
	c.mesh = memory.NewMesh(all...)
	if all := c.mesh.Broken(); len(all) > 0 {
		t.Fatalf("the mesh is broken before it begins: %v", all)
	}
	return c
}

// begin makes the next anchor and has the fleet change to it.
func (c *changing) begin() {
	c.t.Helper()
	a, adopts := c.loop.MovesTo()
	var err error
	if !adopts || a.Certificate == nil {
		a, err = (rotation.Ceremony{Journal: c.journal, Creator: c.keys, Signer: c.keys, Policy: c.policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Next(c.t.Context())
	}
	if err == nil {
		err = c.loop.BeginChange(a, "lee@cli", "drill", false)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *changing) rotation() rotation.RotationStatus { return *c.loop.Status().Trust.Rotation }

// obey restarts what the findings ask for, in an order of chance, each owner
// once in half an hour.
func (c *changing) obey() {
	type owner struct{ cluster, name string }
	var owners []owner
	for _, s := range c.loop.Status().Clusters {
		if s.Proxies == nil {
			continue
		}
		for _, o := range s.Proxies.Restart {
			if o.Namespace == "app" {
				owners = append(owners, owner{s.Name, o.Name})
			}
		}
	}
	c.chance.Shuffle(len(owners), func(i, j int) { owners[i], owners[j] = owners[j], owners[i] })
	for _, o := range owners {
		if key := o.cluster + " " + o.name; time.Since(c.asked[key]) > 30*time.Minute {
			c.asked[key] = time.Now()
			c.clusters[o.cluster].RollOut(o.name)
			return
		}
	}
}

// until lets time pass, and restarts what is asked for, until the change has
// come to a stage ("idle": it has ended).
func (c *changing) until(phase string, most time.Duration) {
	c.t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Minute) {
		r := c.rotation()
		if r.Phase == phase || r.Stage == phase {
			return
		}
		if time.Since(begun) > most {
			c.t.Fatalf("not %s after %s, but %+v", phase, most, r)
		}
		c.obey()
		c.sound()
	}
}

// alone is until where a cluster has been left out: what it and the others think of each other is
// no matter.
func (c *changing) alone(phase string) {
	c.t.Helper()
	for begun := time.Now(); c.rotation().Phase != phase; time.Sleep(time.Minute) {
		if time.Since(begun) > 3*day {
			c.t.Fatalf("not %s: %+v", phase, c.rotation())
		}
		c.obey()
	}
}

// sound checks that nothing was refused so far.
func (c *changing) sound() {
	c.t.Helper()
	for _, v := range c.mesh.ForgetViolations() {
		c.t.Errorf("%s, stage %s: %s: %s", v.At.Format(time.RFC3339), c.rotation().Stage, v.By, v.Text)
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// restarts are how often each pod was created anew since before, by cluster.
func (c *changing) restarts() map[string]map[string]int {
	all := map[string]map[string]int{}
	for name, cl := range c.clusters {
		all[name] = cl.Restarts()
	}
	return all
}

// restartedOnce checks that each pod whose place begins so was created anew once
// since before; linkerd-identity's twice.
func (c *changing) restartedOnce(before map[string]map[string]int, prefix string) {
	c.t.Helper()
	for name, places := range c.restarts() {
		for place, n := range places {
			want := 1
			if strings.HasPrefix(place, "linkerd/linkerd-identity") {
				want = 2
			}
			if n -= before[name][place]; strings.HasPrefix(place, prefix) && n != want {
				c.t.Errorf("%s in %s was created anew %d times, want %d", place, name, n, want)
			}
		}
	}
}

// ended checks where a change has led to: one anchor, of the generation given,
// everywhere and alone.
func (c *changing) ended(want string) {
	c.t.Helper()
	c.leads(want)
	for name, cl := range c.clusters {
		if n := cl.Skipped(); n > 0 { // I2
			c.t.Errorf("%s: linkerd-identity refused %d issuers", name, n)
		}
	}
}

// leads is ended but for what linkerd-identity refused on the way.
func (c *changing) leads(want string) {
	c.t.Helper()
	c.stands(want)
	c.accounted()
}

// stands is leads with a journal that does not know all of what was signed.
func (c *changing) stands(want string) {
	c.t.Helper()
	s := c.loop.Status()
	if s.Trust.Active == nil || s.Trust.Active.ID != want || len(s.Trust.Others) != 0 || s.State != rotation.StateOK {
		c.t.Errorf("state %s, active %+v, others %+v, findings %+v", s.State, s.Trust.Active, s.Trust.Others, s.Findings)
	}
	for _, cl := range s.Clusters {
		if cl.State != rotation.StateOK || !cl.Bundle.Current || len(cl.Bundle.Anchors) != 1 || cl.Bundle.Anchors[0].ID != want || cl.Issuer.Delivered.Anchor != want || cl.Proxies.Stale != 0 {
			c.t.Errorf("%s: %s, bundle %+v, issuer %+v, proxies %+v, findings %+v", cl.Name, cl.State, cl.Bundle, cl.Issuer.Delivered, cl.Proxies, cl.Findings)
		}
	}
	c.sound()
	c.holds("after the change")
}

// A change of the trust anchor in three linked clusters, one of them slow:
// nobody refuses anybody, and every pod is created anew exactly once but
// linkerd-identity's, which load the bundle when they start and so turn in two
// steps.
func TestTheTrustAnchorIsChanged(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		if raced && seed > 0 {
			continue
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, seed, "east", "north", "west")
				before := c.restarts()
				c.begin()
				var stages []string
				for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 10*day; time.Sleep(time.Minute) {
					if s := c.rotation().Stage; s != "" && (len(stages) == 0 || stages[len(stages)-1] != s) {
						stages = append(stages, s)
					}
					c.obey()
					c.sound()
				}
				if want := []string{"bridge", "spread", "restart", "finish", "retire"}; !slices.Equal(stages, want) {
					t.Errorf("it went through %v, and is %+v", stages, c.rotation())
				}
				time.Sleep(day)
				c.ended("g2")
				c.restartedOnce(before, "")
				c.end()
			})
		})
	}
}

// From every stage the change can be turned around, and the way back is as safe.
// A new one after it starts from the anchor that was kept.
func TestAChangeIsTurnedAround(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"bridge", "spread", "restart", "finish", "retire"} {
		if thinned(i, 5) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 7, "east", "west")
				c.begin()
				c.until(stage, 10*day)
				time.Sleep(time.Duration(c.chance.IntN(int(10 * time.Minute))))
				if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "drill"); err != nil {
					t.Fatal(err)
				}
				if r := c.rotation(); r.Phase != "rollback" || r.From != "g2" || r.To != "g1" {
					t.Errorf("%+v", r)
				}
				c.until("idle", 12*day)
				time.Sleep(day)
				c.ended("g1")
				if stage == "restart" {
					c.begin()
					c.until("idle", 10*day)
					time.Sleep(day)
					c.ended("g3")
				}
				c.end()
			})
		})
	}
}

// A bundle that is deleted after a change was turned around twice comes back with both
// anchors: the cluster is on the far side already, and its leaves are of the new one alone.
func TestABundleIsMendedOnTheFarSide(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 7, "east", "west")
		c.begin()
		c.until("retire", 10*day)
		for range 2 {
			if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "drill"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if r := c.rotation(); r.Stage != "bridge" || r.From != "g1" || r.To != "g2" {
			t.Fatalf("this test shows nothing: %+v", r)
		}
		c.clusters["west"].Delete(rotation.BundleObject)
		time.Sleep(10 * time.Minute)
		o, err := c.clusters["west"].Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(o.BundleText), "BEGIN CERTIFICATE"); n != 2 {
			t.Errorf("the bundle is mended with %d anchors", n)
		}
		c.sound()
		c.until("idle", 12*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// A pod that no census shows until the issuers have turned, or until after that,
// is not cut off for long: they are signed under both again by themselves.
func TestAHiddenPodIsMadeGoodFor(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"finish", "retire"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 5, "east", "west")
				hidden := "app/app-1-2"
				c.clusters["west"].HideProxy(hidden)
				c.begin()
				c.until("restart", 10*day)
				// It is one that nobody restarts: its Deployment is left alone, and the
				// others of it are restarted by hand.
				c.asked["west app-1"] = time.Now().Add(1000 * day)
				c.clusters["west"].RestartProxy("app/app-1-0")
				c.clusters["west"].RestartProxy("app/app-1-1")
				for begun := time.Now(); c.rotation().Stage != stage && time.Since(begun) < 10*day; time.Sleep(time.Minute) {
					c.obey()
				}
				for begun := time.Now(); len(c.mesh.Broken()) == 0 && time.Since(begun) < 2*leaf; {
					time.Sleep(10 * time.Minute)
				}
				if len(c.mesh.Broken()) == 0 || c.rotation().Stage != stage {
					t.Fatalf("the hidden pod refuses nobody: this test shows nothing; %+v", c.rotation())
				}
				c.mesh.ForgetViolations()
				c.clusters["west"].ShowProxy(hidden)
				time.Sleep(5 * time.Minute)
				if r := c.rotation(); r.Stage != "restart" {
					t.Errorf("five minutes after it was seen: %+v", r)
				}
				found := false
				for _, o := range c.cluster("west").Proxies.Restart {
					found = found || o.Name == "app-1" && o.Pods == 1
				}
				if !found {
					t.Errorf("it is not named: %+v", c.cluster("west").Proxies)
				}
				time.Sleep(leaf + 2*time.Hour) // every leaf is from a dual issuer again
				if left := c.mesh.Broken(); len(left) > 0 {
					t.Errorf("still refused: %v", left)
				}
				c.mesh.ForgetViolations()
				delete(c.asked, "west app-1")
				c.until("idle", 10*day)
				time.Sleep(day)
				c.ended("g2")
				c.end()
			})
		})
	}
}

// Certd is killed again and again, at writes to its journal and between them,
// and the change goes on from where it was.
func TestAChangeOutlivesItsDaemon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 11, "east", "west")
		before := c.restarts()
		c.begin()
		kills := 0
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 12*day; {
			time.Sleep(time.Duration(1+c.chance.IntN(20)) * time.Minute)
			c.end()
			c.wrap = func(j rotation.Journal) rotation.Journal {
				return &mortal{Journal: j, left: 1 + c.chance.IntN(12), late: c.chance.IntN(2) == 0, onEnd: func() { kills++ }}
			}
			c.start()
			time.Sleep(time.Duration(1+c.chance.IntN(20)) * time.Minute)
			c.end()
			c.wrap = nil
			c.start()
			time.Sleep(3 * time.Minute)
			c.obey()
			c.sound()
		}
		if kills < 20 {
			t.Errorf("it died %d times only", kills)
		}
		c.until("idle", day)
		time.Sleep(day)
		c.ended("g2")
		c.restartedOnce(before, "app/")
		c.end()
	})
}

// A cluster out of reach holds the change up, and is told of, until somebody
// goes on without it; when it is back, it is brought along.
func TestAChangeWaitsForAClusterOutOfReach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east", "west")
		c.begin()
		c.until("spread", 10*day)
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		for range 24 {
			time.Sleep(time.Hour)
			c.obey()
		}
		if r := c.rotation(); r.Stage != "spread" || !slices.ContainsFunc(r.WaitingFor, func(s string) bool { return strings.HasPrefix(s, "west: ") }) {
			t.Fatalf("after a day: %+v", r)
		}
		c.sound()
		c.clusters["west"].SetFaults(nil)
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// While it is held nothing moves on; issuers are renewed all the same.
func TestAChangeIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 2, "east", "west")
		c.begin()
		c.until("spread", 10*day)
		if _, err := c.loop.SteerChange(rotation.ChangeHold, nil, "lee@cli", "freeze"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		bundle := c.cluster("east").Bundle.SHA256
		serial := c.cluster("east").Issuer.Delivered.Serial
		for range 4 * 24 / pace {
			time.Sleep(time.Hour)
			c.sound()
		}
		if r := c.rotation(); r.Stage != "spread" || !r.Held || c.cluster("east").Bundle.SHA256 != bundle {
			t.Errorf("after four days: %+v", r)
		}
		if !raced && c.cluster("east").Issuer.Delivered.Serial == serial {
			t.Error("the issuer was not renewed meanwhile")
		}
		if _, err := c.loop.SteerChange(rotation.ChangeResume, nil, "lee@cli", "freeze is over"); err != nil {
			t.Fatal(err)
		}
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// Where a cluster has windows, nothing of it is restarted outside of them; the
// others go on, and wait at the end of the stage. Issuers are renewed at any time.
func TestAChangeKeepsToWindows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 21, "east", "west")
		opens, err := rotation.ParseSchedule("0 22 * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		c.policy.Trust.Restarts = true
		c.policy.Clusters = slices.Clone(c.policy.Clusters)
		c.policy.Clusters[1].Windows = []rotation.Window{{Name: "nights", Opens: opens, For: 2 * time.Hour}}
		c.policy.Clusters[1].Freezes = []rotation.Freeze{{Name: "feast", From: time.Now().Add(20 * time.Hour), To: time.Now().Add(60 * time.Hour)}}
		if err := c.loop.Apply(c.policy, map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"]}); err != nil {
			t.Fatal(err)
		}
		before := c.restarts()
		c.begin()
		told, frozen, eastDone := false, false, time.Time{}
		sum := func() (n int) {
			for _, k := range c.clusters["west"].Restarts() {
				n += k
			}
			return n
		}
		for begun, last := time.Now(), sum(); c.rotation().Phase != "idle"; time.Sleep(time.Minute) {
			if time.Since(begun) > 10*day {
				t.Fatalf("not over: %+v", c.rotation())
			}
			c.sound()
			if n := sum(); n != last {
				// A rollout that has begun is not broken off.
				if since := time.Now().UTC().Add(-20 * time.Minute); since.Hour() < 21 || since.Hour() >= 24 {
					t.Errorf("%d pods of west were created anew at %s", n-last, time.Now().UTC().Format(time.RFC3339))
				}
				last = n
			}
			for _, w := range c.rotation().WaitingFor {
				told = told || strings.HasPrefix(w, "west: window nights opens ")
				frozen = frozen || strings.HasPrefix(w, "west: freeze feast ends ")
			}
			if s := c.cluster("east"); eastDone.IsZero() && len(s.Bundle.Anchors) == 1 && s.Bundle.Anchors[0].ID == "g2" {
				eastDone = time.Now()
			}
		}
		if !told || !frozen || eastDone.IsZero() {
			t.Errorf("told of the window: %t, of the freeze: %t; east was there %s", told, frozen, eastDone)
		}
		time.Sleep(day)
		c.ended("g2")
		c.restartedOnce(before, "")
		c.end()
	})
}

// Where proxies are older than what is known to accept an issuer with two certificates,
// and where Linkerd itself cannot be told of another anchor, a change does not begin;
// an upgrade makes it possible.
func TestAChangeDoesNotBeginWithOldProxies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 45, 6, func(*rotation.FleetPolicy) {}, func(cfg *memory.ClusterConfig) {
			if cfg.ProxyVersion = "stable-2.14.10"; cfg.Name == "west" {
				cfg.ProxyVersion = "stable-2.13.6"
			}
		}, "east", "west")
		refused := func(says string) {
			t.Helper()
			if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "east: ") {
				t.Errorf("%v; want it to say %q", err, says)
			}
		}
		time.Sleep(2 * time.Hour) // they are counted once an hour
		refused("west: of 12 of 12 meshed pods the proxy is older than 2.13.7")
		west := c.clusters["west"]
		west.SetProxyVersion("edge-24.1.3")
		for _, owner := range []string{"linkerd-identity", "linkerd-destination", "linkerd-proxy-injector", "app-0"} {
			west.RollOut(owner)
		}
		time.Sleep(2 * time.Hour)
		refused("west: of 3 of 12 meshed pods the proxy is older than 2.13.7 (2.14.1 of Linkerd 2.14, edge-23.10 of edge), and whether it accepts an issuer with two certificates is not known: app/Deployment app-1 (stable-2.13.6);")
		west.SetProxyVersion("a-build-of-ours")
		west.RollOut("app-1")
		time.Sleep(2 * time.Hour)
		if notes := c.loop.ChangeNotes(); len(notes) != 1 || !strings.HasPrefix(notes[0], "west: of 3 of 12 meshed pods it is not known which version the proxy is") || !strings.Contains(notes[0], "app/Deployment app-1 (a-build-of-ours)") {
			t.Errorf("to be known: %q", notes)
		}
		c.begin()
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// A second writer would undo each stage of a change: it does not begin before that one is quiet.
func TestAChangeDoesNotBeginBesideASecondWriter(t *testing.T) {
	t.Parallel()
	for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
		t.Run(object, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 46, "east", "west")
				for range 3 {
					c.clusters["west"].Edit(object, "argocd-controller", func(data map[string][]byte, _ *rotation.Marks) {
						for k := range data {
							data[k] = []byte("mine")
						}
					})
					time.Sleep(10 * time.Minute)
				}
				if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), "west: bundle or issuer were changed by somebody else, and put right, 3 times in the last hour") || strings.Contains(err.Error(), "east: ") {
					t.Errorf("%v", err)
				}
				time.Sleep(time.Hour)
				if err := c.loop.CheckChange(); err != nil {
					t.Errorf("an hour later: %v", err)
				}
			})
		})
	}
}

// A replica of linkerd-identity that has missed an issuer holds a change up before it
// begins, and that is said, until certd has helped it.
func TestAStuckReplicaHoldsAChangeUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 47, "east")
		c.clusters["east"].DeafIdentity(1)
		if r := <-c.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"}); r.Result != rotation.OK {
			t.Fatal(r)
		}
		time.Sleep(3 * time.Minute)
		const says = "east: linkerd-identity has not loaded the issuer that was delivered 3m 0s ago; "
		if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want it to say %q", err, says)
		}
		time.Sleep(15 * time.Minute)
		if err := c.loop.CheckChange(); err != nil {
			t.Errorf("a quarter of an hour later: %v", err)
		}
		c.end()
	})
}

// Linkerd 2.10 is not changed before it is upgraded.
func TestAChangeDoesNotBeginWithoutTheConfigMap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 46, 3, func(*rotation.FleetPolicy) {}, func(cfg *memory.ClusterConfig) { cfg.OwnRoots = cfg.Name == "west" }, "east", "west")
		if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || !strings.Contains(err.Error(), "west: linkerd-identity does not read ConfigMap linkerd-identity-trust-roots (Linkerd before 2.11)") {
			t.Errorf("it could begin: %v", err)
		}
		c.end()
	})
}

// Begun with --manual, each stage waits for a person's word, which may come before
// it has come to its end.
func TestAChangeStepByStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 33, "east", "west")
		a, err := (rotation.Ceremony{Journal: c.journal, Creator: c.keys, Signer: c.keys, Policy: c.policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Next(t.Context())
		if err == nil {
			err = c.loop.BeginChange(a, "lee@cli", "drill", true)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, stage := range []string{"bridge", "spread", "restart", "finish", "retire"} {
			time.Sleep(time.Minute)
			if i == 3 {
				c.advance() // before its time
			}
			for range 20 {
				time.Sleep(30 * time.Minute)
				c.obey()
				c.sound()
			}
			if i == 3 {
				continue
			}
			if r := c.rotation(); r.Stage != stage || len(r.WaitingFor) != 1 || !strings.Contains(r.WaitingFor[0], "certd trust advance") {
				t.Fatalf("want %s: %+v", stage, r)
			}
			c.end() // it is remembered
			c.start()
			time.Sleep(10 * time.Minute)
			c.advance()
		}
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

func (c *changing) advance() {
	c.t.Helper()
	if _, err := c.loop.SteerChange(rotation.ChangeAdvance, nil, "lee@cli", "go on"); err != nil {
		c.t.Fatal(err)
	}
}

// A change that is held until the old anchor's end comes near need not be overtaken
// by it: the anchor can be renewed, and the change goes on.
func TestAHeldChangeOutlivesItsAnchor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newShort(t, 62*day)
		c.policy.Trust.Lifetime = 3650 * day // of the next
		c.begin()
		c.until("spread", 10*day)
		if _, err := c.loop.SteerChange(rotation.ChangeHold, nil, "lee@cli", "freeze"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.loop.RenewAnchor(t.Context(), "lee@cli", "drill"); !errors.Is(err, rotation.ErrUnsupported) {
			t.Errorf("renewed with more than 60 days left: %v", err)
		}
		time.Sleep(2*day + time.Hour)
		a, err := c.loop.RenewAnchor(t.Context(), "lee@cli", "its end comes near")
		if err != nil || a.ID != "g1" {
			t.Fatalf("%+v, %v", a, err)
		}
		time.Sleep(2 * time.Hour)
		c.sound()
		for _, s := range c.loop.Status().Clusters {
			if i := slices.IndexFunc(s.Bundle.Anchors, func(a rotation.AnchorRef) bool { return a.ID == "g1" }); i < 0 || time.Until(s.Bundle.Anchors[i].NotAfter) < 60*day {
				t.Errorf("%s: %+v", s.Name, s.Bundle)
			}
		}
		if _, err := c.loop.SteerChange(rotation.ChangeResume, nil, "lee@cli", "freeze is over"); err != nil {
			t.Fatal(err)
		}
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// Whoever goes on without a cluster cuts it off for a while; when it is back it
// is brought along, and only then the old anchor is retired.
func TestAChangeGoesOnWithoutACluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 4, "east", "north", "west")
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		time.Sleep(time.Minute)
		if err := c.loop.CheckChange(); err == nil || !strings.Contains(err.Error(), "west: it does not answer") {
			t.Errorf("a change could begin while west is away: %v", err)
		}
		c.clusters["west"].SetFaults(nil)
		time.Sleep(6 * time.Minute)
		c.begin()
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		time.Sleep(2 * day)
		if r := c.rotation(); r.Stage != "bridge" {
			t.Errorf("with west away: %+v", r)
		}
		for _, names := range [][]string{nil, {"nowhere"}, {"east", "north", "west"}} {
			if _, err := c.loop.SteerChange(rotation.ChangeAdvance, names, "lee@cli", "drill"); err == nil {
				t.Errorf("it would go on without %v", names)
			}
		}
		if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "drill"); err != nil {
			t.Fatal(err)
		}
		retire := func() {
			for begun := time.Now(); c.rotation().Stage != "retire" && time.Since(begun) < 10*day; time.Sleep(time.Minute) {
				c.obey()
			}
		}
		retire()
		time.Sleep(5 * time.Hour)
		if r := c.rotation(); r.Stage != "retire" || len(c.loop.Status().Trust.Others) != 1 {
			t.Fatalf("without west: %+v", r)
		}
		time.Sleep(2 * leaf)      // its issuers are still good
		c.mesh.ForgetViolations() // this is what the person was told of
		c.clusters["west"].SetFaults(nil)
		time.Sleep(10 * time.Minute)
		if r := c.rotation(); r.Stage != "restart" {
			t.Errorf("west is back: %+v", r)
		}
		for range 6 * 6 {
			time.Sleep(10 * time.Minute)
			c.obey()
		}
		// Between it and the others it takes a while until every leaf is good for
		// both. At no time does it cut off its own.
		for _, v := range c.mesh.ForgetViolations() {
			if strings.Count(v.Text, " in west") > 1 {
				t.Errorf("%s: %s", v.At.Format(time.RFC3339), v.Text)
			}
		}
		if all := c.mesh.Broken(); len(all) > 0 {
			t.Errorf("a while after its return: %v", all)
		}
		c.mesh.ForgetViolations()
		c.until("idle", 10*day)
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// A mesh of another origin that is listed amid a change, and that this goes on without, can be taken
// over afterwards as any other: it never had the anchor that the others had.
func TestAMeshIsListedAmidAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 48, "east", "west")
		m := meshes(t)[0]
		north := memory.NewCluster(memory.ClusterConfig{Name: "north", Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true,
			Scheme: m.scheme(), Replicas: 2, Proxies: 3, LeafLifetime: leaf, Seed: 48})
		m.install(north)
		c.begin()
		c.until("bridge", day)
		p := c.policy
		added := p.Clusters[0]
		added.Cluster = "north"
		p.Clusters = append(slices.Clone(p.Clusters), added)
		if err := c.loop.Apply(p, map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"], "north": north}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		for begun := time.Now(); c.rotation().Phase != "idle"; { // each stage asks for it
			if time.Since(begun) > 10*day {
				t.Fatalf("it does not end: %+v", c.rotation())
			}
			_, _ = c.loop.SteerChange(rotation.ChangeAdvance, []string{"north"}, "lee@cli", "drill")
			time.Sleep(10 * time.Minute)
			c.obey()
			c.sound()
		}
		time.Sleep(day)
		if s := c.cluster("north"); s.Mode != "watched" {
			t.Errorf("it is %s: %+v", s.Mode, s.Findings)
		}
		if _, err := c.loop.Adopt("north", "lee@cli", "drill", false); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		if s := c.cluster("north"); s.Mode != "managed" || c.rotation().Phase != "idle" {
			t.Errorf("afterwards it is %s: %+v, %+v", s.Mode, s.Findings, c.rotation())
		}
		if writes := north.Writes(); writes[rotation.BundleObject] != 1 {
			t.Errorf("written %v", writes)
		}
		c.end()
	})
}

// A cluster that is taken out of the configuration before a change of the trust anchor, or amid
// one, and put back after it, has what it had: it is brought along from there.
func TestAClusterIsTakenOutForAChange(t *testing.T) {
	t.Parallel()
	for row, stage := range []string{"idle", "bridge", "spread", "restart", "finish"} {
		if thinned(row, 5) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, uint64(20+row), "east", "west")
				all := map[string]rotation.Cluster{"east": c.clusters["east"], "west": c.clusters["west"]}
				apply := func(names ...string) {
					t.Helper()
					p, clusters := c.policy, map[string]rotation.Cluster{}
					p.Clusters = nil
					for i, name := range names {
						p.Clusters, clusters[name] = append(p.Clusters, c.policy.Clusters[i]), all[name]
					}
					if err := c.loop.Apply(p, clusters); err != nil {
						t.Fatal(err)
					}
				}
				if stage != "idle" {
					c.begin()
					c.until(stage, 10*day)
					time.Sleep(time.Duration(c.chance.IntN(int(10 * time.Minute))))
				}
				apply("east")
				if stage == "idle" {
					time.Sleep(5 * time.Minute)
					c.begin()
				}
				c.alone("idle")
				time.Sleep(time.Duration(c.chance.IntN(int(day))))
				if stage == "spread" { // it is remembered
					c.end()
					c.start()
					apply("east")
				}
				c.mesh.ForgetViolations()
				apply("east", "west")
				time.Sleep(10 * time.Minute)
				c.alone("idle")
				for _, v := range c.mesh.ForgetViolations() {
					if n := strings.Count(v.Text, " in west"); n != 1 {
						t.Errorf("%s: %s", v.At.Format(time.RFC3339), v.Text)
					}
				}
				time.Sleep(day)
				c.leads("g2")
				c.end()
			})
		})
	}
}

// A cluster that is away for the whole of two changes is left behind by a person's
// word, twice; when it is back it is brought along from what it has, by itself.
func TestAClusterIsAwayForTwoChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 14, "east", "north", "west")
		before := c.restarts()
		c.begin()
		away := func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} }
		c.clusters["west"].SetFaults(away)
		advance := func() {
			if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "it burnt"); err != nil {
				t.Fatal(err)
			}
		}
		advance()
		c.alone("retire")
		time.Sleep(6 * time.Hour)
		if r := c.rotation(); r.Stage != "retire" {
			t.Fatalf("it ended without west, and nobody said so: %+v", r)
		}
		advance()
		c.alone("idle")
		if r := c.rotation(); r.Phase != "idle" || c.loop.Status().Trust.Active.ID != "g2" {
			t.Fatalf("%+v", r)
		}
		c.begin()
		c.alone("idle")
		if s := c.loop.Status(); s.Trust.Active.ID != "g3" {
			t.Fatalf("%+v", s.Trust)
		}
		for _, name := range []string{"east", "north"} {
			if s := c.cluster(name); len(s.Bundle.Anchors) != 1 || s.Bundle.Anchors[0].ID != "g3" {
				t.Errorf("%s: %+v", name, s.Bundle)
			}
		}
		c.end() // it is remembered
		c.start()
		time.Sleep(5 * time.Minute)
		c.mesh.ForgetViolations()
		c.clusters["west"].SetFaults(nil)
		time.Sleep(6 * time.Minute) // it is not asked more often
		if r := c.rotation(); r.Phase != "bridge" || r.To != "g3" || r.From != "" {
			t.Errorf("west is back: %+v, %+v", r, c.cluster("west").Findings)
		}
		if _, ok := c.finding("west", "LeftBehind"); !ok {
			t.Errorf("%+v", c.cluster("west").Findings)
		}
		c.alone("idle")
		// It never cut off its own.
		for _, v := range c.mesh.ForgetViolations() {
			if strings.Count(v.Text, " in west") > 1 || strings.Count(v.Text, " in west") == 0 {
				t.Errorf("%s: %s", v.At.Format(time.RFC3339), v.Text)
			}
		}
		time.Sleep(day)
		c.ended("g3")
		for place, n := range c.clusters["west"].Restarts() {
			if strings.HasPrefix(place, "app/") && n-before["west"][place] != 1 {
				t.Errorf("%s in west was created anew %d times", place, n-before["west"][place])
			}
		}
		c.end()
	})
}

// Replicas of linkerd-identity start anew at any moment, some on nodes that
// still show files of three minutes ago, and one has lost its watch: none
// crashes, none is left behind.
func TestAChangeWithRestlessIdentities(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 9, "east", "west")
		c.begin()
		c.clusters["east"].DeafIdentity(1)
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 12*day; {
			time.Sleep(time.Duration(30+c.chance.IntN(600)) * time.Second)
			name := []string{"east", "west"}[c.chance.IntN(2)]
			c.clusters[name].RestartIdentityReplica(c.chance.IntN(2), c.chance.IntN(3) > 0)
			c.obey()
			c.sound()
		}
		if c.rotation().Phase != "idle" {
			t.Errorf("it does not end: %+v", c.rotation())
		}
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}

// The journal is lost in each stage: what the clusters show is enough to go on.
func TestAChangeOutlivesItsJournal(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"bridge", "spread", "restart", "finish", "retire"} {
		if thinned(i, 5) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 13, "east", "west")
				c.begin()
				c.until(stage, 10*day)
				time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
				c.end()
				c.dir = journalDir(t)
				c.start()
				time.Sleep(10 * time.Minute)
				c.sound()
				if r := c.rotation(); r.Phase == "idle" && stage != "retire" {
					t.Errorf("the change is forgotten: %+v, active %+v, others %+v", r, c.loop.Status().Trust.Active, c.loop.Status().Trust.Others)
				}
				c.until("idle", 12*day)
				time.Sleep(day)
				c.sound()
				if a := c.loop.Status().Trust; a.Active == nil || a.Active.ID != "g2" || len(a.Others) != 0 {
					t.Errorf("%+v", a)
				}
				c.end()
			})
		})
	}
}

// With trust.restartWorkloads: auto nobody has to do anything. certd is killed
// during the wave; no workload is restarted twice, and at no time two at once.
func TestWorkloadsAreRestartedOneAfterAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 6, "east", "west")
		c.policy.Trust.Restarts = true
		c.end()
		c.start()
		time.Sleep(20 * time.Minute)
		before := c.restarts()
		c.begin()
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 5*day; time.Sleep(10 * time.Second) {
			if c.rotation().Stage == "restart" && c.chance.IntN(3) == 0 {
				c.end()
				c.start()
				time.Sleep(time.Second)
			}
			for name, places := range c.restarts() {
				begun, ended := map[string]bool{}, map[string]int{}
				for place, n := range places {
					if owner, ok := strings.CutPrefix(place, "app/"); ok && n > before[name][place] {
						owner = owner[:strings.LastIndex(owner, "-")]
						begun[owner] = true
						ended[owner]++
					}
				}
				half := 0
				for owner := range begun {
					if ended[owner] < 3 {
						half++
					}
				}
				if half > 1 {
					t.Fatalf("%s: %d workloads are being restarted at once", name, half)
				}
			}
			c.sound()
		}
		time.Sleep(day)
		c.ended("g2")
		c.restartedOnce(before, "app/")
		c.end()
	})
}

// Two thousand pods, and certd killed five times during the wave: each is created
// anew once.
func TestAWaveOfTwoThousandPods(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newLargeChanging(t, 8, 2000, "east")
		c.policy.Trust.Restarts = true
		c.end()
		c.start()
		time.Sleep(20 * time.Minute)
		before := c.restarts()
		c.begin()
		kills := 0
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 9*day; time.Sleep(11 * time.Minute) {
			if kills < 5 && c.rotation().Stage == "restart" {
				time.Sleep(time.Duration(c.chance.IntN(900)) * time.Second)
				c.wrap = nil
				c.end()
				c.start()
				time.Sleep(time.Second)
				kills++
			}
			c.sound()
		}
		if kills != 5 {
			t.Errorf("certd was stopped %d times during the wave", kills)
		}
		time.Sleep(2 * time.Hour)
		c.ended("g2")
		c.restartedOnce(before, "app/")
		c.end()
	})
}

// A schedule of minutes, as `certd run --dev` has it, goes on through a change:
// no signature fails for want of an end that is not taken.
func TestAChangeUnderAScheduleOfMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		minutely, err := rotation.ParseSchedule("* * * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"east", "west"} {
			p := &w.policy.Clusters[i]
			p.LeafLifetime, p.ClockError, p.Repair = 5*time.Minute, 5*time.Second, time.Minute
			p.Issuer = rotation.RenewalPolicy{Lifetime: 30 * time.Minute, RenewBefore: 10 * time.Minute, Backdate: 10 * time.Minute, Schedule: minutely, EveryFiring: true}
			w.clusters[name] = memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local"})
		}
		w.ceremony()
		w.start()
		time.Sleep(2*time.Hour + 30*time.Second)
		c := &changing{world: w, mesh: memory.NewMesh()}
		c.begin()
		for range 2 * 90 {
			time.Sleep(30 * time.Second)
			if c.rotation().Phase == "idle" {
				break
			}
			for _, cl := range c.loop.Status().Clusters {
				for _, f := range cl.Findings {
					t.Errorf("%s: %s: %s", cl.Name, f.ID, f.Message)
				}
				if left := time.Until(cl.Issuer.Delivered.NotAfter); left < 10*time.Minute {
					t.Errorf("%s: %s are left of a new issuer", cl.Name, left)
				}
			}
		}
		if s := c.loop.Status(); s.Trust.Rotation.Phase != "idle" || s.Trust.Active.ID != "g2" {
			t.Errorf("after an hour and a half: %+v", s.Trust.Rotation)
		}
		if n := w.count(func(e rotation.Entry) bool { return e.Result != rotation.OK }); n > 0 {
			t.Errorf("%d steps failed", n)
		}
		w.holds("after the change")
		w.end()
	})
}

// Issuers that come more often than the loop keeps certificates at hand: in the time that
// leaves live there are more than a hundred. A change still sees since when a cluster
// signs as it does, also with a daemon that starts anew each hour.
func TestAChangeWithManyIssuersInADrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		every, err := rotation.ParseSchedule("*/2 * * * *", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		c := newChangingOf(t, 5, 3, func(p *rotation.FleetPolicy) {
			for i := range p.Clusters {
				p.Clusters[i].Issuer.Schedule, p.Clusters[i].Issuer.EveryFiring = every, true
			}
		}, "east")
		for c.loop.CheckChange() != nil { // an issuer is on its way to linkerd-identity
			time.Sleep(10 * time.Second)
		}
		c.begin()
		for hours := 0; c.rotation().Phase != "idle"; hours++ {
			if hours > 24 {
				t.Fatalf("not over after a day: %+v", c.rotation())
			}
			c.end()
			c.start()
			for range 60 {
				time.Sleep(time.Minute)
				c.obey()
				c.sound()
			}
		}
		c.ended("g2")
		c.end()
	})
}
