package rotation

import (
	"fmt"
	"sync"
	"time"
)

// company is what all configured clusters say together. Each pass asks; a cluster that says
// something else than before changes its own part alone, since at a start each of them does.
type company struct {
	mu              sync.Mutex // taken after a member's, where both are
	said            map[*member]bearing
	targets         map[string]map[*member]objects // by what each turned out to be, and where its objects are
	unseen          int                            // how many were never looked at
	agree, disagree int                            // API servers, with certd's clock
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

// join has m, whose mu the caller holds, in the company as it is now, be it there or not.
func (c *company) join(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(m)
	c.add(m)
}

// leave has m in the company no more.
func (c *company) leave(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(m)
}

// turned has the company know if m, whose mu the caller holds, says something else than it
// did. One that is no longer configured says nothing.
func (c *company) turned(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if said, there := c.said[m]; there && said != m.bearing() {
		c.drop(m)
		c.add(m)
	}
}

// add is for who holds both locks, drop for who holds the company's.
func (c *company) add(m *member) {
	if c.said == nil {
		c.said, c.targets = map[*member]bearing{}, map[string]map[*member]objects{}
	}
	b := m.bearing()
	c.said[m] = b
	c.count(b, 1)
	if b.target == "" {
		return
	}
	if c.targets[b.target] == nil {
		c.targets[b.target] = map[*member]objects{}
	}
	c.targets[b.target][m] = m.policy.objects()
}

func (c *company) drop(m *member) {
	b, there := c.said[m]
	if !there {
		return
	}
	delete(c.said, m)
	c.count(b, -1)
	if delete(c.targets[b.target], m); len(c.targets[b.target]) == 0 {
		delete(c.targets, b.target)
	}
}

func (c *company) count(b bearing, by int) {
	switch b.clock {
	case 1:
		c.agree += by
	case -1:
		c.disagree += by
	}
	if b.unseen {
		c.unseen += by
	}
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
	c := &r.company
	c.mu.Lock()
	defer c.mu.Unlock()
	waits := c.unseen
	if own.unseen {
		waits--
	}
	unseen = waits > 0 && now.Sub(begun) <= firstLooks && !now.Before(begun)
	if own.target == "" {
		return "", unseen
	}
	for o, there := range c.targets[own.target] {
		if o.name != m.name && at.sameObjects(there) && (twin == "" || o.name < twin) {
			twin = o.name
		}
	}
	return twin, unseen
}

// clockDoubt says why certd's own clock is not to be trusted, "" if there is
// no reason: most of the API servers that were seen disagree with it.
func (r *Reconciler) clockDoubt() string {
	c := &r.company
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disagree <= c.agree {
		return ""
	}
	return fmt.Sprintf("certd's clock disagrees with %d of %d API servers", c.disagree, c.agree+c.disagree)
}
