package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
)

// The daemon is killed while it renews the issuers of all clusters, and its journal is lost:
// the next one closes what was open, brings what was begun to its end, signs nothing twice
// and, with a new journal, nothing at all. How long that takes is counted, and no reason to
// fail. (Line R12.)
func TestCrashToConverged(t *testing.T) {
	run := scoreboard.Start(t, "R12", 2)
	clusters := 10
	if run.Long() {
		clusters = 100
	}
	dir, err := os.MkdirTemp("/tmp", "certd-cost-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("files are kept in %s", dir)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	l, err := startLab(t.Context(), "../..", dir, clusters)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := l.settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := newRecovery(t.Context(), "../..", l)
	defer func() {
		if r == nil || r.cmd == nil {
			return
		}
		if err := r.stop(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	const within, rebuiltWithin = 2 * time.Second, 30 * time.Second
	var all, rebuilt []time.Duration
	for _, what := range []string{"kills", "kills in the middle", "open intents left", "lost or done twice", "clusters", "clusters within 2 s", "journals lost", "of these rebuilt within 30 s"} {
		run.Add(what, 0)
	}
	for seed := range run.Seeds() {
		c, err := r.crash(t.Context(), rand.New(rand.NewPCG(seed, 12)), seed%2 == 1)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		run.Add("kills", 1)
		if len(c.open) > 0 || c.done > 0 && c.done < clusters {
			run.Add("kills in the middle", 1)
		}
		run.Add("open intents left", uint64(len(c.open)))
		run.Add("clusters", uint64(len(c.took)))
		var slowest time.Duration
		for _, d := range c.took {
			all, slowest = append(all, d), max(slowest, d)
			if d <= within {
				run.Add("clusters within 2 s", 1)
			}
		}
		t.Logf("seed %d: killed with %d of %d done and %d intents open; all as begun after %s", seed, c.done, clusters, len(c.open), slowest)
		wrong := c.wrong
		if seed%5 == 1 { // before a cluster has had as many signatures as it may have in an hour
			took, more, err := r.lose(t.Context())
			if err != nil {
				t.Fatalf("seed %d: the journal is lost: %v", seed, err)
			}
			wrong = append(wrong, more...)
			run.Add("journals lost", 1)
			if rebuilt = append(rebuilt, took); took <= rebuiltWithin {
				run.Add("of these rebuilt within 30 s", 1)
			}
			t.Logf("seed %d: the journal is lost; all known again after %s", seed, took)
		}
		for _, w := range wrong {
			run.Add("lost or done twice", 1)
			t.Errorf("seed %d: %s", seed, w)
		}
	}
	for what, times := range map[string][]time.Duration{"crash to converged": all, "journal lost to rebuilt": rebuilt} {
		if len(times) == 0 {
			continue
		}
		slices.Sort(times)
		for name, i := range map[string]int{"median": len(times) / 2, "p99": (len(times)*99+99)/100 - 1, "slowest": len(times) - 1} {
			run.Most(name+" "+what+", ms", float64(times[i].Microseconds())/1000)
		}
	}
}
