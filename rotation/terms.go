package rotation

import (
	"slices"
	"time"
)

// LeafTerms are what linkerd-identity was seen to be told of leaves. Those that it has
// signed by them live on when it is told otherwise.
type LeafTerms struct {
	Lifetime, Skew time.Duration
	Until          time.Time // the first look that showed others; zero: the last one showed these
}

// maxTerms bounds how many are kept of one cluster.
const maxTerms = 16

// told are the terms by which leaves may live, once a look that ended at now has shown o.
func (c ClusterRecord) told(o *Observation, p Policy, now time.Time) []LeafTerms {
	if o.Identity == nil || !o.Identity.Deployed && o.runsIdentity() {
		return c.Terms // it was not seen what it is told
	}
	var all []LeafTerms
	is := LeafTerms{Lifetime: o.Identity.LeafLifetime, Skew: o.Identity.ClockSkew}
	if is != (LeafTerms{}) {
		all = append(all, is)
	}
	for _, t := range c.Terms {
		if t.Lifetime == is.Lifetime && t.Skew == is.Skew {
			continue
		}
		if t.Until.IsZero() || t.Until.After(now) { // that was by a clock that has been set back
			t.Until = now
		}
		if now.Before(t.Until.Add(p.drain(t.Lifetime, t.Skew))) {
			all = append(all, t)
		}
	}
	for len(all) > maxTerms {
		a, b := all[len(all)-2], all[len(all)-1]
		all = append(all[:len(all)-2], LeafTerms{max(a.Lifetime, b.Lifetime), max(a.Skew, b.Skew), latest(a.Until, b.Until)})
	}
	return slices.Clip(all)
}
