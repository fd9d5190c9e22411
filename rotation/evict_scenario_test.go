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

// With trust.restartWorkloads: auto the pods of ReplicaSets that no Deployment owns
// are replaced one by one, each once, while certd is killed again and again. At no
// time is another workload begun before, and never do two pods of one lack.
func TestPodsOfReplicaSetsAreReplacedOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 41, 9, func(p *rotation.FleetPolicy) { p.Trust.Restarts = true },
			func(cfg *memory.ClusterConfig) { cfg.ReplicaSets = 2 }, "east", "west")
		before := c.restarts()
		c.begin()
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 5*day; time.Sleep(5 * time.Second) {
			if c.rotation().Stage == "restart" && c.chance.IntN(10) == 0 {
				c.end()
				c.start()
				time.Sleep(time.Second)
			}
			for name := range c.clusters {
				begun := c.begunIn(name, before)
				half := 0
				for _, n := range begun {
					if n < 3 {
						half++
					}
				}
				if half > 1 {
					t.Fatalf("%s: %d workloads are under way at once: %v", name, half, begun)
				}
				if down := c.clusters[name].Down(); len(down) > 1 {
					t.Fatalf("%s: pods lack in %v", name, down)
				}
			}
			c.sound()
		}
		time.Sleep(day)
		c.ended("g2")
		c.restartedOnce(before, "app/")
		evictions := c.count(func(e rotation.Entry) bool { return e.Intent.Step == rotation.StepPodEvict && e.Result == rotation.OK })
		if evictions < 12 {
			t.Errorf("%d evictions are in the journal; 12 pods were replaced", evictions)
		}
		if n := c.count(func(e rotation.Entry) bool {
			return e.Intent.Step == rotation.StepPodEvict && e.Result == rotation.Failed
		}); n > 0 {
			t.Errorf("%d evictions failed", n)
		}
		c.end()
	})
}

// begunIn says of each workload of which pods were created anew how many were.
func (c *changing) begunIn(cluster string, before map[string]map[string]int) map[string]int {
	begun := map[string]int{}
	for place, n := range c.clusters[cluster].Restarts() {
		if owner, ok := strings.CutPrefix(place, "app/"); ok && n > before[cluster][place] {
			begun[owner[:strings.LastIndex(owner, "-")]]++
		}
	}
	return begun
}

// A PodDisruptionBudget that allows nothing, a label, and a pod that does not come up
// again: the first two hold up themselves alone, the last everything that is left.
// Each is named.
func TestEvictionsAreHeldUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 42, 15, func(p *rotation.FleetPolicy) { p.Trust.Restarts = true },
			func(cfg *memory.ClusterConfig) { cfg.ReplicaSets = 4 }, "east")
		east := c.clusters["east"]
		east.SetBudget("app-0", 3)
		east.NeverRestart("app-1")
		before := c.restarts()
		c.begin()
		for begun := time.Now(); c.rotation().Stage != "restart"; time.Sleep(time.Minute) {
			if time.Since(begun) > 3*day {
				t.Fatalf("%+v", c.rotation())
			}
		}
		// Of app-2 the second pod does not come up. app-4 is a Deployment, and was the first.
		for begun := time.Now(); c.begunIn("east", before)["app-2"] < 1; time.Sleep(time.Second) {
			if time.Since(begun) > day {
				t.Fatalf("%+v, %v", c.rotation(), c.begunIn("east", before))
			}
		}
		restarts := east.Restarts()
		for _, place := range east.Places() {
			if strings.HasPrefix(place, "app/app-2-") && restarts[place] == before["east"][place] {
				east.SetUnwell(place, true)
				break
			}
		}
		time.Sleep(2 * time.Hour)
		if begun := c.begunIn("east", before); begun["app-0"] != 0 || begun["app-1"] != 0 || begun["app-2"] != 2 || begun["app-3"] != 0 || begun["app-4"] != 3 {
			t.Errorf("pods were created anew: %v", begun)
		}
		if w := c.rotation().WaitingFor; len(w) != 1 || !strings.Contains(w[0], "pods of app/ReplicaSet/app-2 that are being deleted, or not ready yet: 1") {
			t.Errorf("it waits for %q", w)
		}
		for _, place := range east.Places() {
			east.SetUnwell(place, false)
		}
		time.Sleep(30 * time.Minute)
		if w := c.rotation().WaitingFor; len(w) != 1 || !strings.Contains(w[0], "the disruption budget app-0 needs 3 healthy pods and has 3") {
			t.Errorf("it waits for %q", w)
		}
		if f, ok := c.finding("east", "RestartWaits"); !ok || !strings.Contains(f.Message, "the disruption budget app-0 needs") {
			t.Errorf("findings %+v", c.cluster("east").Findings)
		}
		east.SetBudget("app-0", 2)
		time.Sleep(30 * time.Minute)
		if begun := c.begunIn("east", before); begun["app-0"] != 3 || begun["app-1"] != 0 || begun["app-2"] != 3 || begun["app-3"] != 3 {
			t.Errorf("pods were created anew: %v", begun)
		}
		if w := c.rotation().WaitingFor; len(w) != 1 || !strings.Contains(w[0], "certd.io/restart: never") {
			t.Errorf("it waits for %q", w)
		}
		c.until("idle", 3*day) // a person restarts app-1
		time.Sleep(day)
		c.ended("g2")
		c.restartedOnce(before, "app/")
		c.end()
	})
}

// Whoever turns away from an anchor at once has all pods evicted at once, but for what
// budgets keep.
func TestEvictionsWhenCompromised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 43, 6, func(p *rotation.FleetPolicy) { p.Trust.Restarts = true },
			func(cfg *memory.ClusterConfig) { cfg.ReplicaSets = 2 }, "east")
		c.clusters["east"].SetBudget("app-1", 2)
		before := c.restarts()
		c.compromise()
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 3*time.Hour; time.Sleep(time.Second) {
			if down := c.clusters["east"].Down(); slices.Contains(down, "app/app-1-0") && slices.Contains(down, "app/app-1-1") {
				t.Fatalf("pods lack in %v", down)
			}
		}
		c.mesh.ForgetViolations()
		time.Sleep(day)
		c.leads("g2")
		c.restartedOnce(before, "app/")
		c.end()
	})
}

// Of how many workloads, certd has restarted how many, and how many needed none of it:
// that is told in each cluster and of all, over restarts of certd, and not where the
// journal no longer knows.
func TestRestartsOfAChangeAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChangingIn(t, 44, 12, func(p *rotation.FleetPolicy) { p.Trust.Restarts = true },
			func(cfg *memory.ClusterConfig) { cfg.ReplicaSets = 1 }, "east", "west")
		c.begin()
		told := func(w *rotation.WorkloadsStatus) string {
			if w == nil {
				return "nothing"
			}
			text := fmt.Sprintf("of %d, %d stale", w.Total, w.Stale)
			if w.Restarted != nil && w.Avoided != nil {
				text += fmt.Sprintf(", %d restarted, %d avoided", *w.Restarted, *w.Avoided)
			}
			return text
		}
		for begun := time.Now(); c.rotation().Stage != "restart"; time.Sleep(10 * time.Second) {
			if time.Since(begun) > 3*day {
				t.Fatalf("%+v", c.rotation())
			}
			if got := told(c.rotation().Workloads); got != "nothing" {
				t.Fatalf("in stage %s: %s", c.rotation().Stage, got)
			}
			for name, app := range map[string]string{"east": "app-1", "west": "app-2"} { // an ordinary deployment, when the bundle has turned
				b := c.cluster(name).Bundle
				if c.asked[name].IsZero() && len(b.Anchors) == 1 && b.Anchors[0].ID == "g2" {
					c.asked[name] = time.Now()
					time.AfterFunc(4*time.Minute, func() { c.clusters[name].RollOut(app) })
				}
			}
		}
		kills := 0
		for begun := time.Now(); c.rotation().Stage == "restart" && time.Since(begun) < day; time.Sleep(20 * time.Second) {
			if c.chance.IntN(3) == 0 {
				c.end()
				c.start()
				time.Sleep(time.Second)
				kills++
			}
		}
		c.end()
		c.start()
		time.Sleep(5 * time.Minute)
		if r := c.rotation(); r.Stage != "finish" || kills == 0 {
			t.Fatalf("%+v, after %d kills", r, kills)
		}
		// Four apps and the three of the control plane.
		for _, name := range []string{"east", "west"} {
			if got, want := told(c.cluster(name).Proxies.Workloads), "of 7, 0 stale, 6 restarted, 1 avoided"; got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		if got, want := told(c.rotation().Workloads), "of 14, 0 stale, 12 restarted, 2 avoided"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		c.end()
		c.dir = journalDir(t)
		c.start()
		for begun := time.Now(); c.rotation().Stage != "restart" && c.rotation().Stage != "finish"; time.Sleep(time.Second) {
			if time.Since(begun) > 3*day {
				t.Fatalf("%+v", c.rotation())
			}
		}
		time.Sleep(2 * time.Minute)
		if got, want := told(c.rotation().Workloads), "of 14, 0 stale"; got != want {
			t.Errorf("with the journal lost: %s, want %s", got, want)
		}
		c.until("idle", 5*day)
		if got := told(c.rotation().Workloads); got != "nothing" {
			t.Errorf("after it: %s", got)
		}
		c.end()
	})
}
