package simulate

import (
	"encoding/hex"
	"math/rand/v2"
	"runtime/debug"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/rotation"
)

// newHardChange is a small fleet that is about to change its trust anchor; with found, it came
// with one of its own.
func newHardChange(t testing.TB, seed uint64, found bool) *hard {
	h := &hard{keyless: found}
	h.init(t, seed)
	// What kind of life it is has a chance of its own: what happens in it does not depend on that.
	kind := rand.New(rand.NewPCG(seed, 3))
	p := usual(t, []string{"a", "b", "c"}[:2+kind.IntN(2)]...)
	for i := range p.Clusters {
		c := &p.Clusters[i]
		c.LeafLifetime, c.ClockError = time.Hour, time.Minute
		c.Issuer.Lifetime, c.Issuer.RenewBefore = 90*day, 45*day
		if i > 0 || seed%2 != 0 {
			c.Webhooks.Specs = nil
		}
	}
	p.Trust.Restarts = kind.IntN(4) > 0
	h.haste = []int{20, 100, 100, 400}[kind.IntN(4)]
	if kind.IntN(2) == 0 { // clocks may be as wrong as certd bears them
		for i := range p.Clusters {
			p.Clusters[i].ClockError = 0
		}
	}
	h.turns = kind.IntN(3)
	h.needApproval(&p)
	h.enter(p)
	return h
}

// hardChange goes through the days in which a trust anchor is changed and, in every other
// fleet, a webhook CA, too.
func hardChange(t testing.TB, seed uint64) *hard {
	const longest = 2 * day // then it is calm, whether or not it is over
	h := newHardChange(t, seed, false)
	defer h.close()
	h.settle()
	h.afflict()
	h.at(h.now.Add(time.Duration(h.chance.IntN(60))*time.Minute), h.beginChange)
	if seed%2 == 0 {
		h.at(h.now.Add(time.Duration(h.chance.IntN(120))*time.Minute), func() {
			if h.loop != nil {
				for _, spec := range rotation.LinkerdWebhooks() {
					if ownPart(spec) && h.chance.IntN(3) == 0 {
						h.say("a: a pod of %s misses the next certificate", spec.Name)
						h.clusters["a"].MissNext(spec.Name, h.chance.IntN(replicas))
					}
				}
				h.say("a: somebody asks for a new %s", rotation.TargetWebhookCA)
				h.loop.Rotate(rotation.TargetWebhookCA, []string{"a"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			}
		})
	}
	if h.chance.IntN(4) == 0 {
		h.at(h.now.Add(time.Duration(h.chance.IntN(90))*time.Minute), h.leaveBehind)
	}
	h.changeWithin(longest)
	return h
}

// changeWithin goes on until a change of the trust anchor is over, then calm comes.
func (h *hard) changeWithin(longest time.Duration) {
	for until, least := h.now.Add(longest), h.now.Add(3*time.Hour); h.now.Before(until) && len(h.bad) == 0; {
		h.step(until)
		h.look()
		switch {
		case h.loop == nil || h.now.Before(least) || !h.idle():
		case h.changes > 0:
			until = h.now
		default: // certd was off, or away from what it needs
			h.survive(h.beginChange)
			least = h.now.Add(10 * time.Minute)
		}
	}
	if len(h.bad) == 0 {
		h.calm()
	}
}

// Each seed is one change of the trust anchor in a small fleet while everything goes wrong
// that does in a hard life, much denser.
func TestHardChanges(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1600))
	run := scoreboard.Start(t, "hard changes", 30)
	for seed := range run.Seeds() {
		h := shrunkLife(t, func() *hard { return hardChange(t, seed) })
		h.report(t)
		run.Add("approved", uint64(h.approvals.given))
		t.Logf("seed %d, over %s, %d changes, killed %d times, %s", seed, h.now.Sub(begin), h.changes, h.deaths, hex.EncodeToString(h.sum.Sum(nil))[:12])
		if t.Failed() {
			break
		}
	}
}
