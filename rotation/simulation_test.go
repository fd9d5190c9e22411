package rotation_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// world is a fleet in memory with the real loop and the real journal.
type world struct {
	t        *testing.T
	dir      string
	keys     *memory.Keys
	clusters map[string]*memory.Cluster
	policy   rotation.FleetPolicy
	resync   time.Duration
	wrap     func(rotation.Journal) rotation.Journal               // nil: as it is
	tried    func(rotation.Attempt)                                // nil: nobody is told
	mirror   rotation.Mirror                                       // nil: there is none
	now      func() time.Time                                      // nil: as it is
	through  func(name string, c *memory.Cluster) rotation.Cluster // nil: straight
	leads    func() error                                          // nil: there is no election

	journal *state.Journal
	loop    *rotation.Reconciler
	stop    context.CancelFunc
	done    chan error
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{t: t, dir: journalDir(t), keys: memory.NewKeys(), clusters: map[string]*memory.Cluster{}, resync: time.Minute,
		policy: rotation.FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Trust: rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: 10 * time.Minute, RenewBefore: 730 * day}}}
	for _, name := range names {
		w.clusters[name] = memory.NewCluster(memory.ClusterConfig{Name: name, Namespace: "linkerd", TrustDomain: "cluster.local", Replicas: 2, Lag: 90 * time.Second})
		w.policy.Clusters = append(w.policy.Clusters, weekly(t, name))
	}
	return w
}

const day = 24 * time.Hour

// thinned leaves out all rows but the first and the last, under the race detector.
func thinned(row, rows int) bool { return raced && row > 0 && row < rows-1 }

// journalDir is in memory where the machine offers that: these tests commit
// tens of thousands of times, and what a disk does is tested elsewhere.
func journalDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "certd-simulation-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// weekly is the policy that the documentation gives by default.
func weekly(t *testing.T, name string) rotation.Policy {
	schedule, err := rotation.ParseSchedule("0 3 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return rotation.Policy{Cluster: name, Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local",
		LeafLifetime: day, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
		Issuer: rotation.RenewalPolicy{Lifetime: 7 * day, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule, Spread: 30 * time.Minute}}
}

// start opens the journal and runs the loop, as certd does when it starts.
func (w *world) start() {
	w.t.Helper()
	j, err := state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1, Now: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.journal = j
	clusters := map[string]rotation.Cluster{}
	for name, c := range w.clusters {
		clusters[name] = c
		if w.through != nil {
			clusters[name] = w.through(name, c)
		}
	}
	var journal rotation.Journal = j
	if w.wrap != nil {
		journal = w.wrap(j)
	}
	var fence *rotation.Fence
	if w.mirror != nil {
		fence = rotation.NewFence(w.mirror, j, w.keys, w.keys, "acme", "host-"+w.dir)
		fence.Under(w.leads)
		_, _ = fence.TakeOver(w.t.Context()) // one that does not answer is asked again
	}
	w.loop, err = rotation.NewReconciler(rotation.Options{Journal: journal, Fence: fence, Keys: w.keys, Policy: w.policy, Clusters: clusters, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Resync: w.resync, Tried: w.tried})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.done = stop, make(chan error, 1)
	go func() { w.done <- w.loop.Run(ctx) }()
}

func (w *world) end() {
	w.t.Helper()
	w.stop()
	if err := <-w.done; err != nil {
		w.t.Error(err)
	}
	if err := w.journal.Close(); err != nil {
		w.t.Error(err)
	}
}

// ceremony makes the anchor, as `certd init` does.
func (w *world) ceremony() {
	w.t.Helper()
	j, err := state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Close()
	if _, _, err := (rotation.Ceremony{Journal: j, Creator: w.keys, Signer: w.keys, Policy: w.policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// holds checks the promises in every cluster and that each signature the key
// backend gave is in the journal, once.
func (w *world) holds(when string) {
	w.t.Helper()
	anchors, err := w.journal.Anchors()
	if err != nil {
		w.t.Fatal(err)
	}
	f := rotation.Fleet{Policy: w.policy, Anchors: anchors, Epoch: w.journal.Epoch()}
	for _, p := range w.policy.Clusters {
		o, err := w.clusters[p.Cluster].Observe(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		certs, err := w.journal.Certificates(p.Cluster, 1, time.Time{})
		if err != nil {
			w.t.Fatal(err)
		}
		v := rotation.View{Policy: p, Observed: &o, Certificates: certs}
		for _, bad := range rotation.Violations(f, v, time.Now()) {
			w.t.Errorf("%s, %s: %s does not hold in %s: %s", when, time.Now().Format(time.RFC3339), bad.Promise, bad.Cluster, bad.Message)
		}
	}
}

// accounted checks I7: signatures given and journal entries match one to one.
func (w *world) accounted() {
	w.t.Helper()
	entries, err := w.journal.Entries(state.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	journal := map[string]int{}
	for _, e := range entries {
		if e.Intent.Digest != "" {
			journal[e.Intent.Digest]++
		}
	}
	pending, err := w.journal.Pending()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range pending {
		if p.Digest != "" {
			journal[p.Digest]++
		}
	}
	for _, s := range w.keys.Signatures() {
		if time.Since(s.At) < 390*day && journal[s.Digest] == 0 { // older entries are dropped
			w.t.Errorf("the key backend signed %s, and the journal knows nothing of it", s.Digest)
		}
	}
}

func TestAnEmptyFleetBecomesValidAndThenStaysUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "north", "west")
		w.ceremony()
		w.start()
		time.Sleep(10 * time.Second)
		w.holds("after the start")
		before := map[string]map[string]int{}
		for name, c := range w.clusters {
			before[name] = c.Writes()
			if got := before[name]; got[rotation.BundleObject] != 1 || got[rotation.IssuerObject] != 1 {
				t.Errorf("%s was written %v times, want each object once", name, got)
			}
		}
		signed := len(w.keys.Signatures())
		time.Sleep(20 * time.Hour) // before any firing that matters, and before a canary is due
		w.end()
		w.start() // a restart is no reason to write either
		time.Sleep(time.Hour)
		for name, c := range w.clusters {
			if got := c.Writes(); !maps.Equal(got, before[name]) {
				t.Errorf("%s was written although nothing was due: %v, before %v", name, got, before[name])
			}
		}
		if got := len(w.keys.Signatures()); got != signed {
			t.Errorf("%d signatures while nothing was due", got-signed)
		}
		w.accounted()
		w.end()
	})
}

func TestTenYears(t *testing.T) {
	t.Parallel()
	days := 3652
	if raced {
		days = 200
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "north", "west")
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Fatal(err)
		}
		w.policy.Clusters[1].Issuer.Schedule, err = rotation.ParseSchedule("30 2 * * *", berlin) // in the hour that summer time takes and gives
		if err != nil {
			t.Fatal(err)
		}
		w.policy.Trust.Lifetime = 4000 * day // so that the anchor is not what ends
		w.resync = 6 * time.Hour
		w.ceremony()
		w.start()
		time.Sleep(time.Minute)
		start := time.Now()
		least, rotations := map[string]time.Duration{}, map[string]int{}
		serials := map[string]string{}
		var largest int64
		for time.Since(start) < time.Duration(days)*day {
			time.Sleep(12 * time.Hour)
			for _, c := range w.loop.Status().Clusters {
				if c.Issuer == nil || c.Issuer.Delivered == nil {
					t.Fatalf("%s has no issuer at %s", c.Name, time.Now())
				}
				if left := time.Until(c.Issuer.Delivered.NotAfter); least[c.Name] == 0 || left < least[c.Name] {
					least[c.Name] = left
				}
				if s := c.Issuer.Delivered.Serial; s != serials[c.Name] {
					serials[c.Name] = s
					rotations[c.Name]++
				}
				if c.State != rotation.StateOK {
					t.Errorf("%s is %s at %s: %+v", c.Name, c.State, time.Now().Format(time.RFC3339), c.Findings)
				}
			}
			largest = max(largest, w.journal.Size())
		}
		w.holds("after ten years")
		entries, err := w.journal.Entries(state.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		windows := map[string]rotation.Schedule{}
		for _, p := range w.policy.Clusters {
			windows[p.Cluster] = p.Issuer.Schedule
		}
		for _, e := range entries {
			if e.Intent.Step != rotation.StepIssuer || !strings.HasPrefix(e.Intent.Reason, "due since") {
				continue
			}
			firing := windows[e.Intent.Cluster].Next(e.At.Add(-time.Hour))
			if firing.After(e.At) || e.At.Sub(firing) > 31*time.Minute {
				t.Errorf("the issuer of %s was rotated at %s, its firing is at %s", e.Intent.Cluster, e.At, firing)
			}
		}
		for name, n := range rotations {
			// Seven days, of which three and a half are to be left and one
			// firing may be missed: a new one every second or third day.
			if n < days/3 || n > days/2+2 {
				t.Errorf("%s was rotated %d times in %d days", name, n, days)
			}
			if least[name] < 84*time.Hour {
				t.Errorf("%s once had only %s left, the floor is 84h", name, least[name])
			}
		}
		if r, err := w.journal.Verify(); err != nil || r.BadSeq != 0 {
			t.Errorf("the chain does not hold: %+v, %v", r, err)
		}
		t.Logf("rotations %v, least time left %v, journal at most %d bytes", rotations, least, largest)
		if largest > 32<<20 {
			t.Errorf("the journal grew to %d bytes", largest)
		}
		w.accounted()
		w.end()
	})
}

// Seeds decide what breaks: calls that fail before they took effect or after,
// clusters out of reach, hands that delete and damage, a key backend that does
// not answer. While it is calm again everything converges, and nothing is
// unaccounted for.
func TestFaultsNeverLeaveAFleetBroken(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if raced {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { faultyMonths(t, seed) })
		})
	}
}

func faultyMonths(t *testing.T, seed uint64) {
	w := newWorld(t, "east", "west")
	w.resync = 20 * time.Minute
	// Each actor has a stream of its own, so that who comes first changes
	// nothing for the others; a stream is used under its actor's lock.
	streams := uint64(0)
	stream := func() *rand.Rand {
		streams++
		return rand.New(rand.NewPCG(seed, streams))
	}
	rnd := stream() // of the hands and the clock
	w.ceremony()
	w.start()
	time.Sleep(time.Minute)
	for range 20 {
		worse := rnd.Float64() * 0.5
		faults := func(rnd *rand.Rand) func(memory.Call) memory.ClusterFault {
			return func(memory.Call) memory.ClusterFault {
				switch p := rnd.Float64(); {
				case p > worse:
					return memory.ClusterFault{}
				case p < worse/3:
					return memory.ClusterFault{Err: rotation.ErrUnavailable}
				case p < worse*2/3:
					return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true}
				}
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Delay: time.Duration(rnd.IntN(40)) * time.Second}
			}
		}
		for _, name := range []string{"east", "west"} {
			w.clusters[name].SetFaults(faults(stream()))
		}
		vault := stream()
		w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
			if vault.Float64() < worse {
				return memory.KeyFault{Err: rotation.ErrUnavailable}
			}
			return memory.KeyFault{}
		})
		for range rnd.IntN(4) {
			c := w.clusters[[]string{"east", "west"}[rnd.IntN(2)]]
			object := []string{rotation.BundleObject, rotation.IssuerObject}[rnd.IntN(2)]
			if rnd.IntN(2) == 0 {
				c.Delete(object)
			} else {
				c.Edit(object, "kubectl-edit", func(data map[string][]byte, marks *rotation.Marks) {
					for k := range data {
						data[k] = append([]byte("#"), data[k]...)
						break
					}
					marks.Keep = rnd.IntN(2) == 0
				})
			}
			time.Sleep(time.Duration(rnd.IntN(7200)) * time.Second)
		}
		if rnd.IntN(3) == 0 {
			w.end()
			time.Sleep(time.Duration(rnd.IntN(12)) * time.Hour)
			w.start()
		}
		time.Sleep(time.Duration(rnd.IntN(48)) * time.Hour)
		for _, c := range w.clusters {
			c.SetFaults(nil)
		}
		w.keys.SetFaults(nil)
		time.Sleep(2 * time.Hour)
		w.holds(fmt.Sprintf("seed %d, calm", seed))
	}
	w.accounted()
	if pending, err := w.journal.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("open intents in a calm world: %v, %v", pending, err)
	}
	w.end()
}
