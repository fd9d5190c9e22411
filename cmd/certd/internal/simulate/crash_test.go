package simulate

import (
	"fmt"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/rotation"
)

// rotateAll is a fleet's first issuers and webhooks, a new issuer, a new webhook CA and a
// change of the trust anchor, in which certd dies at given effects: before or after a
// record or a write. It returns what is wrong in the end, and how many effects there were.
func rotateAll(t *testing.T, fatal []int) (bad []string, effects int) {
	h := &hard{fatal: fatal}
	h.init(t, 1)
	p := usual(t, "east", "west")
	for i := range p.Clusters {
		p.Clusters[i].LeafLifetime, p.Clusters[i].ClockError = time.Hour, time.Minute
		p.Clusters[i].Issuer.Lifetime, p.Clusters[i].Issuer.RenewBefore = 90*day, 45*day
	}
	p.Clusters[1].Webhooks.Specs = nil
	p.Trust.Restarts = true
	w, err := newWorld(t.Context(), p, begin, 1, func(a rotation.Attempt) { h.say("certd: %s %s %s %t", a.Cluster, a.Step, a.Object, a.Err == nil) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	h.takePart(w)
	pass := func(d time.Duration) {
		for until := h.now.Add(d); h.now.Before(until); {
			h.step(until)
			h.look()
		}
	}
	pass(time.Hour)
	h.bad = nil // the webhooks had no certificate before
	ask := func(target rotation.Target) {
		for h.loop == nil {
			pass(time.Minute)
		}
		h.loop.Rotate(target, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
		h.stirAll()
		pass(2 * time.Hour)
	}
	ask(rotation.TargetIssuer)
	ask(rotation.TargetWebhookCA)
	for tries := 0; tries < 5; tries++ {
		h.survive(h.beginChange)
		pass(10 * time.Minute)
		if h.loop != nil && (!h.idle() || len(h.loop.Status().Trust.Others) > 0) {
			break
		}
	}
	for range 20 {
		pass(6 * time.Hour)
		h.stirAll()
		if h.loop != nil && h.idle() && h.loop.Status().Trust.Active.ID == "g2" {
			break
		}
	}
	h.over = true
	pass(day)
	st := h.loop.Status()
	if st.State != rotation.StateOK || !h.idle() || st.Trust.Active == nil || st.Trust.Active.ID != "g2" || len(st.Trust.Others) > 0 {
		h.wrong("in the end it is %s under %+v, beside %+v: %+v", st.State, st.Trust.Active, st.Trust.Others, st.Findings)
		for _, c := range st.Clusters {
			h.wrong("%s: %+v", c.Name, c.Findings)
		}
	}
	h.leftBehind()
	return h.bad, h.effects
}

// Line R3: certd dies at each effect of all rotations there are, and at each ordered pair of
// effects; in the end everything is as it would have been.
func TestACrashAtEachEffect(t *testing.T) {
	bad, all := rotateAll(t, []int{})
	if len(bad) > 0 {
		t.Fatalf("without a crash: %v", bad)
	}
	run := scoreboard.Start(t, "R3", 6)
	n := uint64(all)
	run.Limit(n + n*n)
	for seed := range run.Seeds() {
		var fatal []int
		if seed < n {
			at := seed
			if !run.Long() { // a share of them that is spread over all
				at = seed * n / 6
			}
			fatal = []int{int(at) + 1}
			run.Add("crashes", 1)
		} else {
			i, j := (seed-n)/n, (seed-n)%n
			fatal = []int{int(i) + 1, int(i) + 1 + int(j) + 1} // the second is counted from the first on
			run.Add("ordered pairs", 1)
		}
		if bad, _ := rotateAll(t, fatal); len(bad) > 0 {
			t.Errorf("died at %v of %d: %s", fatal, n, fmt.Sprint(bad[:min(len(bad), 3)]))
		}
	}
	t.Logf("there are %d effects", n)
}
