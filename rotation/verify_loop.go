package rotation

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// evidenceWait bounds how long the evidence is waited for: longer than a look
	// may take, so that a cluster that hangs is told from one that is slow.
	evidenceWait = lookTimeout + 5*time.Second
	// evidenceEvery is how often it is looked whether it is there.
	evidenceEvery = 50 * time.Millisecond
	// keyReads is how many keys are read side by side.
	keyReads = 4
)

// Evidence has every cluster looked at and its meshed pods counted anew, reads
// the flags of the anchors' keys, and returns what all of that shows, with what
// is known from before where the answer takes longer than evidenceWait. Journal
// is left to the caller. It returns early, with what there is, when ctx ends.
func (r *Reconciler) Evidence(ctx context.Context) Evidence {
	asked := r.wall()
	ctx, cancel := context.WithTimeout(ctx, evidenceWait)
	defer cancel()
	r.mu.Lock()
	for _, m := range r.members {
		m.mu.Lock()
		m.countFrom = asked
		m.mu.Unlock()
	}
	r.mu.Unlock()
	r.lookAgain()
	r.poke()
	keys := make(chan []KeyEvidence, 1)
	go func() { keys <- r.readKeys(ctx) }()
	tick := time.NewTicker(evidenceEvery)
	defer tick.Stop()
	for ctx.Err() == nil && !r.fresh(asked) {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	e := Evidence{Fleet: r.fleet(), Asked: asked, Keys: <-keys, At: r.wall()}
	e.Fleet.ClockDoubt = r.clockDoubt()
	e.Findings = newFleetStatus(e.Fleet, e.At, "daemon").Findings
	r.mu.Lock()
	e.Findings = append(e.Findings, slices.SortedFunc(maps.Values(r.findings), func(a, b Finding) int { return cmp.Compare(a.ID, b.ID) })...)
	if e.Fleet.Change != nil {
		e.Waiting = slices.Clone(r.waiting)
	}
	members := make([]*member, 0, len(r.members))
	waits := map[*member]bool{}
	for _, p := range e.Fleet.Policy.Clusters {
		if m := r.members[p.Cluster]; m != nil {
			members = append(members, m)
			waits[m] = !m.busy
		}
	}
	r.mu.Unlock()
	for _, m := range members {
		m.mu.Lock()
		c := ClusterEvidence{View: m.viewNow(), Trail: m.trail, LookedAt: m.lookedAt}
		m.mu.Unlock()
		c.SameTarget, _ = r.others(m, e.At)
		c.Waits = waits[m] && c.LookedAt.Before(asked)
		e.Clusters = append(e.Clusters, c)
	}
	return e
}

// fresh says whether every cluster was looked at since then, and, where that
// succeeded, its pods were counted.
func (r *Reconciler) fresh(since time.Time) bool {
	for _, m := range r.all() {
		m.mu.Lock()
		there := !m.lookedAt.Before(since) && (m.obsErr != nil || !m.proxies.At.Before(since))
		m.mu.Unlock()
		if !there {
			return false
		}
	}
	return true
}

// wantsCount says whether somebody has asked for a census that begins later than
// the last one did.
func (m *member) wantsCount() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.obsErr == nil && m.observed != nil && m.proxies.At.Before(m.countFrom)
}

// readKeys has the key backend say what the keys of the anchors in use are.
func (r *Reconciler) readKeys(ctx context.Context) []KeyEvidence {
	var inUse []Anchor
	for _, a := range r.fleet().Anchors {
		if a.Certificate != nil && a.RetiredAt.IsZero() && !a.keyless() {
			inUse = append(inUse, a)
		}
	}
	all := make([]KeyEvidence, len(inUse))
	slots, reading := make(chan struct{}, keyReads), sync.WaitGroup{}
	for i, a := range inUse {
		reading.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			all[i].Anchor = a.ID
			key, err := r.signer.keys.OpenKey(ctx, a.Key, a.Certificate.PublicKey)
			if all[i].Err = err; err == nil {
				all[i].Info = key.Info()
			}
		})
	}
	reading.Wait()
	return all
}
