package rotation

import (
	"slices"
	"time"
)

// clockReading is what two clocks said at one moment: the daemon's, which can be set, and
// the machine's monotonic one.
type clockReading struct{ wall, monotonic time.Time }

func (r *Reconciler) clock() clockReading {
	now := clockReading{r.wall(), time.Now()}
	switch {
	case r.monotonic != nil:
		now.monotonic = r.monotonic()
	case r.alone:
		now.monotonic = now.wall
	}
	return now
}

// round is what the clocks say as the loop comes round. After a step everything is looked at
// again.
func (r *Reconciler) round() clockReading {
	now := r.clock()
	if now.steppedSince(r.last) {
		r.log.Warn("the wall clock stepped or the host slept: looking at everything again", "by", now.step(r.last))
		r.forgetTimes()
		r.lookAgain()
	}
	r.last = now
	return now
}

// forgetTimes has nothing count any more whose time was read from a clock that has been set
// since: evidence would stay new for as long as that was ahead, and what is not to be tried
// again before a time would wait as long.
func (r *Reconciler) forgetTimes() {
	for _, m := range r.all() {
		m.mu.Lock()
		m.proxies = Proxies{}
		m.evidence, m.failures = nil, nil
		m.mu.Unlock()
	}
}

// mendTimes corrects what was dated by a clock that was ahead, once an API server agrees with
// the one there is: a delivery yet to come was made by now at the latest, and what was asked for
// in a time to come was asked for before. Who waits for what follows it would wait as long as
// that clock was ahead. A folder has no clock that could agree: there it is about requests alone.
func (r *Reconciler) mendTimes(m *member, now time.Time) {
	toCome := func(t time.Time) bool { return t.Sub(now) > 2*MaxClockSkew }
	m.mu.Lock()
	o := m.observed
	if o == nil || m.obsErr != nil || o.ClockSkew.Abs() > MaxClockSkew {
		m.mu.Unlock()
		return
	}
	for target, req := range m.requests { // else whatever is made would be older than that
		if req.At.After(now) {
			asked := *req
			asked.At = now
			m.requests[target] = &asked
		}
	}
	for i := range m.waiters {
		if m.waiters[i].at.After(now) {
			m.waiters[i].at = now
		}
	}
	if o.Version == "" {
		m.mu.Unlock()
		return
	}
	if toCome(m.record.TargetSince) {
		m.record.TargetSince = now
	}
	for l, times := range m.repairs {
		if slices.ContainsFunc(times, toCome) {
			m.repairs = with(m.repairs, l, slices.DeleteFunc(slices.Clone(times), toCome))
		}
	}
	if slices.ContainsFunc(m.certificates, func(c CertificateRecord) bool { return toCome(c.DeliveredAt) }) {
		m.certificates = slices.Clone(m.certificates)
		for i := range m.certificates {
			if c := &m.certificates[i]; toCome(c.DeliveredAt) {
				c.DeliveredAt = now
			}
		}
	}
	m.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.change == nil {
		return
	}
	c := *r.change
	for _, t := range []*time.Time{&c.StartedAt, &c.StageAt, &c.CanaryAt, &c.ProvedAt} {
		if toCome(*t) {
			*t = now
		}
	}
	if c.StartedAt != r.change.StartedAt || !c.sameStage(*r.change) || c.CanaryAt != r.change.CanaryAt || c.ProvedAt != r.change.ProvedAt {
		r.change = &c
	}
}

// steppedSince says whether the clock was set since the cluster was last looked at: then
// what the look found of the clock says nothing any more.
func (m *member) steppedSince(now clockReading) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.observed != nil && m.obsErr == nil && now.steppedSince(m.seenAt)
}

// clockUnsure says why care must not go by the clock: most API servers disagree with it, or
// have yet to be asked since it was set.
func (r *Reconciler) clockUnsure() string {
	now := r.clock()
	for _, m := range r.all() {
		if m.steppedSince(now) {
			return "certd's clock was set, and " + m.name + " has not been looked at since"
		}
	}
	return r.clockDoubt()
}

// step is by how much the daemon's clock moved beyond the time that passed since an
// earlier reading: forwards when it was set on or the host slept, since the
// monotonic clock stands still then.
func (now clockReading) step(last clockReading) time.Duration {
	return now.wall.Sub(last.wall) - now.monotonic.Sub(last.monotonic)
}

func (now clockReading) steppedSince(last clockReading) bool {
	return now.step(last).Abs() > clockJump
}
