package rotation_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/directory"
	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// unwatched is a folder whose changes nobody tells of: waiting for the kernel to do so would
// hold up virtual time.
type unwatched struct{ *directory.Cluster }

func (unwatched) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// soak is one daemon's life: its loop, its journal, and folders for clusters.
type soak struct {
	t        *testing.T
	dir      string
	policy   rotation.FleetPolicy
	clusters map[string]rotation.Cluster
	keys     *memory.Keys
	journal  *state.Journal
	loop     *rotation.Reconciler
	stop     context.CancelFunc
	done     chan error
}

func (s *soak) start() {
	s.t.Helper()
	var err error
	if s.journal, err = state.Open(filepath.Join(s.dir, "state"), state.Options{Fleet: "acme", NoSync: true, Reserve: -1}); err != nil {
		s.t.Fatal(err)
	}
	s.loop, err = rotation.NewReconciler(rotation.Options{Journal: s.journal, Keys: s.keys, Policy: s.policy, Clusters: s.clusters, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Resync: 6 * time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.done = stop, make(chan error, 1)
	go func() { s.done <- s.loop.Run(ctx) }()
}

func (s *soak) end() {
	s.t.Helper()
	s.stop()
	if err := <-s.done; err != nil {
		s.t.Error(err)
	}
	if err := s.journal.Close(); err != nil {
		s.t.Error(err)
	}
}

// held is what the process holds when nothing is going on.
type held struct {
	heap       uint64
	goroutines int
	files      int
	journal    int64
}

func (s *soak) measure() held {
	s.t.Helper()
	synctest.Wait()
	s.keys.Forget()
	// Twice: finalizers, and what is kept for one cycle (sync.Pool).
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	h := held{heap: m.HeapAlloc, goroutines: runtime.NumGoroutine()}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	h.files = len(open)
	if s.journal != nil {
		h.journal = s.journal.Size()
	}
	return h
}

// Years of rotations leave nothing behind: no memory, no goroutine, no descriptor, and a
// journal that has found its size. Each seed is a life of its own. (Line R14.)
func TestTenThousandRotations(t *testing.T) {
	run := scoreboard.Start(t, "R14", 1)
	for seed := range run.Seeds() {
		random := rand.New(rand.NewPCG(seed, 14))
		clusters, days := 1, 600
		switch {
		case run.Long():
			clusters = 4 + random.IntN(4)
			days = 10_000/(2*clusters) + 1
		case raced: // it would measure the detector's memory
			days = 60
		}
		synctest.Test(t, func(t *testing.T) { soakLife(t, run, seed, random, clusters, days) })
	}
}

// soakLife runs a fleet that renews every issuer twice a day, and starts certd anew every 40
// days.
func soakLife(t *testing.T, run *scoreboard.Run, seed uint64, random *rand.Rand, clusters, days int) {
	s := &soak{t: t, dir: journalDir(t), clusters: map[string]rotation.Cluster{}, keys: memory.NewKeys(),
		policy: rotation.FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Trust: rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: 10 * time.Minute, RenewBefore: 730 * day}}}
	for i := range clusters {
		name := fmt.Sprint("c", i)
		c, err := directory.New(directory.Config{Cluster: name, Dir: filepath.Join(s.dir, name), Namespace: "linkerd", TrustDomain: "cluster.local"})
		if err != nil {
			t.Fatal(err)
		}
		s.clusters[name] = unwatched{c}
		p := weekly(t, name)
		p.Directory = true
		p.Issuer.EveryFiring = true
		if p.Issuer.Schedule, err = rotation.ParseSchedule(fmt.Sprintf("%d 3,15 * * *", random.IntN(60)), time.UTC); err != nil {
			t.Fatal(err)
		}
		s.policy.Clusters = append(s.policy.Clusters, p)
	}
	s.measure() // the first look at files has Go open what it waits for files with
	empty := s.measure()
	j, err := state.Open(filepath.Join(s.dir, "state"), state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (rotation.Ceremony{Journal: j, Creator: s.keys, Signer: s.keys, Policy: s.policy, Actor: "test", Reason: "test", Say: func(string, ...any) {}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s.start()
	time.Sleep(time.Hour)
	first, last := s.measure(), held{}
	const (
		kept  = 410 // days after which the journal drops as much as it takes up
		every = 40  // days from start to start
	)
	perDay := 2 * clusters
	// The heap just before each restart since the journal found its size: of equal age.
	var heaps []uint64
	var grown int64 // the journal by then
	for n := range days {
		time.Sleep(day)
		if n%every != every-1 {
			continue
		}
		last = s.measure()
		if n > kept {
			heaps = append(heaps, last.heap)
		}
		if n > kept && grown == 0 {
			grown = last.journal
		}
		s.end()
		s.start()
		time.Sleep(time.Hour)
	}
	status := s.loop.Status()
	entries, err := s.journal.Entries(state.Filter{Limit: 1})
	if err != nil || len(entries) == 0 {
		t.Fatal(entries, err)
	}
	if status.Summary.OK != len(s.clusters) {
		t.Errorf("seed %d: not all is well in the end: %+v", seed, status.Summary)
	}
	if least := uint64(days * perDay * 2); entries[0].Seq < least {
		t.Errorf("seed %d: only %d entries for %d rotations", seed, entries[0].Seq, days*perDay)
	}
	growth, heap := 0.0, float64(last.heap)
	if n := len(heaps); n > 1 {
		// Halves, and the least of each: what is kept, without what happened to be there.
		was, is := slices.Min(heaps[:n/2]), slices.Min(heaps[n/2:])
		growth = 100 * (float64(is)/float64(was) - 1)
		if growth >= 2 {
			t.Errorf("seed %d: the heap grew by %.2f %%: %d", seed, growth, heaps)
		}
		t.Logf("seed %d: heaps %d", seed, heaps)
	} else if !raced {
		t.Errorf("seed %d: %d days are too few to tell of memory", seed, days)
	}
	if last.goroutines != first.goroutines {
		t.Errorf("seed %d: %d goroutines, at first %d", seed, last.goroutines, first.goroutines)
	}
	if last.files != first.files {
		t.Errorf("seed %d: %d open files, at first %d", seed, last.files, first.files)
	}
	size := s.journal.Size()
	if grown > 0 && size > grown {
		t.Errorf("seed %d: the journal grew from %d to %d bytes, although it drops what is too old", seed, grown, size)
	}
	s.end()
	s.journal, s.loop = nil, nil
	if after := s.measure(); after.goroutines != empty.goroutines || after.files != empty.files {
		t.Errorf("seed %d: %d goroutines and %d open files after the end, before the start %d and %d", seed, after.goroutines, after.files, empty.goroutines, empty.files)
	}
	run.Add("rotations", uint64(days*perDay))
	run.Add("restarts", uint64(days/every))
	run.Most("most heap growth in %", growth)
	run.Most("most goroutines more", float64(last.goroutines-first.goroutines))
	run.Most("most descriptors more", float64(last.files-first.files))
	run.Most("largest journal in MB", float64(size)/1e6)
	run.Most("heap in MB", heap/1e6)
}
