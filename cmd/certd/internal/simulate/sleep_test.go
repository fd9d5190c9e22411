package simulate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// Line R9: certd, the key backend and the clusters are off for an hour to nine years, in every
// combination. Where the anchor lives, all comes back without anybody's help.
func TestSleep(t *testing.T) {
	lengths := []time.Duration{time.Hour, day, 30 * day, 360 * day, 3 * 365 * day, 9 * 365 * day}
	run := scoreboard.Start(t, "R9", 32) // up to 360 days: a world of nine years takes half a minute
	run.Limit(uint64(8 * len(lengths)))
	for seed := range run.Seeds() {
		length, who := lengths[seed/8], seed%8
		var off []string
		for i, name := range []string{"certd", "vault", "clusters"} {
			if who>>i&1 == 1 {
				off = append(off, name)
			}
		}
		name := fmt.Sprintf("%s off for %s", strings.Join(off, " and "), rotation.FormatDuration(length))
		if bad := sleep(t, seed, off, length); len(bad) > 0 {
			t.Errorf("%s: %s", name, strings.Join(bad, "\n"))
			continue
		}
		run.Add("sleeps recovered from", 1)
	}
}

// sleep returns what is wrong some days after the sleepers have woken.
func sleep(t *testing.T, seed uint64, off []string, length time.Duration) (bad []string) {
	p := usual(t, "east", "west")
	p.Clusters[1].Webhooks.Specs = nil
	w, err := newWorld(t.Context(), p, begin, seed, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.begin(); err != nil {
		t.Fatal(err)
	}
	pass := func(d time.Duration) {
		for until := w.now.Add(d); w.now.Before(until); {
			w.turn(until)
		}
	}
	pass(40 * day)
	// When it is back the world knows, so that years of tries in vain are left out.
	back := w.now.Add(length)
	for _, name := range off {
		switch name {
		case "certd":
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
		case "vault":
			w.away[Vault] = back
			w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
				return memory.KeyFault{Err: rotation.ErrUnavailable}
			})
		case "clusters":
			for name, c := range w.clusters {
				w.away[name] = back
				c.SetFaults(func(memory.Call) memory.ClusterFault {
					return memory.ClusterFault{Err: rotation.ErrUnavailable}
				})
			}
		}
	}
	pass(length)
	w.keys.SetFaults(nil)
	for _, c := range w.clusters {
		c.SetFaults(nil)
	}
	if w.loop == nil {
		if err := w.open(); err != nil {
			return []string{err.Error()}
		}
		if err := w.begin(); err != nil {
			return []string{err.Error()}
		}
	}
	for _, c := range p.Clusters {
		w.stir(c.Cluster)
	}
	pass(2 * day)
	st := w.loop.Status()
	for _, c := range st.Clusters {
		for _, f := range c.Findings {
			bad = append(bad, c.Name+" "+f.ID+": "+f.Message)
		}
	}
	for _, f := range st.Findings {
		bad = append(bad, f.ID+": "+f.Message)
	}
	for _, r := range w.mesh.Broken() {
		bad = append(bad, r.String())
	}
	for _, c := range w.clusters {
		for _, a := range c.Broken() {
			bad = append(bad, a.String())
		}
	}
	return bad
}
