package rotation

import (
	"fmt"
	"time"
)

// company is what all clusters say together. Each pass asks, so it is made anew only once
// one of them says something else than before.
type company struct {
	turn            uint64
	targets         map[string][]placed // by what each turned out to be
	unseen          int                 // how many were never looked at
	agree, disagree int                 // API servers, with certd's clock
}

// placed is a cluster and where its objects are.
type placed struct {
	name string
	objects
}

// bearing is what one cluster says for that.
type bearing struct {
	target string
	unseen bool
	clock  int // 1: its API server agrees with certd's clock, -1: it does not, 0: it cannot be asked
}

// bearing is for who holds mu.
func (m *member) bearing() bearing {
	b := bearing{target: m.record.Target, unseen: m.observed == nil && m.lookFails == 0}
	if o := m.observed; o != nil && o.Version != "" && m.obsErr == nil {
		b.clock = 1
		if o.ClockSkew.Abs() > MaxClockSkew {
			b.clock = -1
		}
	}
	return b
}

// turned has the company made anew if m, whose mu the caller holds, says something else
// than it did.
func (r *Reconciler) turned(m *member, did bearing) {
	if m.bearing() != did {
		r.turns.Add(1)
	}
}

func (r *Reconciler) together() *company {
	turn := r.turns.Load() // before anything is read: what turns meanwhile makes it anew once more
	if c := r.company.Load(); c != nil && c.turn == turn {
		return c
	}
	c := &company{turn: turn, targets: map[string][]placed{}}
	for _, m := range r.all() {
		m.mu.Lock()
		b, at := m.bearing(), placed{m.name, m.policy.objects()}
		m.mu.Unlock()
		switch b.clock {
		case 1:
			c.agree++
		case -1:
			c.disagree++
		}
		if b.unseen {
			c.unseen++
		}
		if b.target != "" {
			c.targets[b.target] = append(c.targets[b.target], at)
		}
	}
	r.company.Store(c)
	return c
}

// others says what the other clusters mean for m, which was looked at: which of them has
// turned out to be m itself, if any, and whether one has yet to be looked at for the first
// time, and may turn out so. Both are of one moment: one that is seen for the first time
// meanwhile is either waited for or known. The waiting keeps nobody for long: a cluster that
// hangs holds up no other.
func (r *Reconciler) others(m *member, now time.Time) (twin string, unseen bool) {
	m.mu.Lock()
	own, at := m.bearing(), m.policy.objects()
	m.mu.Unlock()
	r.mu.Lock()
	begun := r.begun
	r.mu.Unlock()
	c := r.together()
	waits := c.unseen
	if own.unseen {
		waits--
	}
	unseen = waits > 0 && now.Sub(begun) <= firstLooks && !now.Before(begun)
	if own.target == "" {
		return "", unseen
	}
	for _, o := range c.targets[own.target] {
		if o.name != m.name && at.sameObjects(o.objects) && (twin == "" || o.name < twin) {
			twin = o.name
		}
	}
	return twin, unseen
}

// clockDoubt says why certd's own clock is not to be trusted, "" if there is
// no reason: most of the API servers that were seen disagree with it.
func (r *Reconciler) clockDoubt() string {
	c := r.together()
	if c.disagree <= c.agree {
		return ""
	}
	return fmt.Sprintf("certd's clock disagrees with %d of %d API servers", c.disagree, c.agree+c.disagree)
}
