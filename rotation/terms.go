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
	return few(all)
}

// joined are the terms by which leaves may live in either of two places.
func joined(all, others []LeafTerms) []LeafTerms {
	all = slices.Clone(all)
	for _, t := range others {
		i := slices.IndexFunc(all, func(a LeafTerms) bool { return a.Lifetime == t.Lifetime && a.Skew == t.Skew })
		if i < 0 {
			all = append(all, t)
		} else {
			all[i] = eitherOf(all[i], t)
		}
	}
	return few(all)
}

// few takes the last ones for one where there are more than are kept.
func few(all []LeafTerms) []LeafTerms {
	for len(all) > maxTerms {
		all[len(all)-2] = eitherOf(all[len(all)-2], all[len(all)-1])
		all = all[:len(all)-1]
	}
	return slices.Clip(all)
}

// eitherOf are terms for as long, and until as late, as those of one of two.
func eitherOf(a, b LeafTerms) LeafTerms {
	until := latest(a.Until, b.Until)
	if a.Until.IsZero() || b.Until.IsZero() {
		until = time.Time{}
	}
	return LeafTerms{max(a.Lifetime, b.Lifetime), max(a.Skew, b.Skew), until}
}
