// Package simulate goes through years of a fleet's life in seconds: the decisions, the loop,
// the certificates and the journal are those of the daemon, the clusters and the key backend
// are in memory, and time is a number. All of it happens in one goroutine, in an order
// that a seed decides.
package simulate

import (
	"container/heap"
	"context"
	"time"
)

// kernel keeps the time, and what is yet to happen in the world. It is a
// memory.Clock.
type kernel struct {
	now    time.Time
	events agenda
	seq    int // of the next event: of two at one time, the first to be planned comes first
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

// Now implements memory.Clock.
func (k *kernel) Now() time.Time { return k.now }

// Sleep implements memory.Clock: a backend takes its time, in which the world goes on.
func (k *kernel) Sleep(_ context.Context, d time.Duration) { k.advance(k.now.Add(d)) }

// at has something happen later.
func (k *kernel) at(t time.Time, do func()) {
	heap.Push(&k.events, event{t, k.seq, do})
	k.seq++
}

// advance lets time pass until to.
func (k *kernel) advance(to time.Time) {
	for len(k.events) > 0 && !k.events[0].at.After(to) {
		e := heap.Pop(&k.events).(event)
		if e.at.After(k.now) { // else something else has taken its time
			k.now = e.at
		}
		e.do()
	}
	if to.After(k.now) {
		k.now = to
	}
}

// next is when something happens, the zero time if nothing does.
func (k *kernel) next() time.Time {
	if len(k.events) == 0 {
		return time.Time{}
	}
	return k.events[0].at
}

type agenda []event

func (a agenda) Len() int      { return len(a) }
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a agenda) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].seq < a[j].seq
}
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}
