package rotation_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// wrongClock is certd's, and says later than it is.
type wrongClock struct {
	ahead atomic.Int64
	after atomic.Pointer[func(memory.Call)] // called when a call to a cluster is over; nil: nobody is
}

func (c *wrongClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *wrongClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// once has the clock be set wrong as soon as a call is over.
func (c *wrongClock) once(call memory.Call, ahead time.Duration) {
	set := func(did memory.Call) {
		if did == call {
			c.set(ahead)
			c.after.Store(nil)
		}
	}
	c.after.Store(&set)
}

// through has a cluster seen by the clock.
func (c *wrongClock) through(_ string, m *memory.Cluster) rotation.Cluster { return seenBy{m, c} }

type seenBy struct {
	*memory.Cluster
	clock *wrongClock
}

func (s seenBy) over(call memory.Call) {
	if after := s.clock.after.Load(); after != nil {
		(*after)(call)
	}
}

func (s seenBy) Observe(ctx context.Context) (rotation.Observation, error) {
	ahead := time.Duration(s.clock.ahead.Load())
	o, err := s.Cluster.Observe(ctx)
	o.At, o.ClockSkew = o.At.Add(ahead), o.ClockSkew-ahead
	if o.Identity != nil {
		for i := range o.Identity.Replicas {
			o.Identity.Replicas[i].At = o.Identity.Replicas[i].At.Add(ahead)
		}
	}
	s.over(memory.CallObserve)
	return o, err
}

func (s seenBy) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	o, err := s.Cluster.Reread(ctx, last, object)
	o.ClockSkew -= time.Duration(s.clock.ahead.Load())
	s.over(memory.CallObserve)
	return o, err
}

func (s seenBy) CountProxies(ctx context.Context) rotation.Proxies {
	ahead := time.Duration(s.clock.ahead.Load())
	p := s.Cluster.CountProxies(ctx)
	p.At = p.At.Add(ahead)
	s.over(memory.CallProxies)
	return p
}

func (s seenBy) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	revision, err := s.Cluster.WriteIssuer(ctx, w)
	s.over(memory.CallIssuer)
	return revision, err
}

// clocked has a world live by a clock.
func clocked(w *world) *wrongClock {
	clock := &wrongClock{}
	w.end()
	w.now, w.through = clock.now, clock.through
	w.start()
	time.Sleep(time.Minute)
	return clock
}

// What a look found of the clock says nothing of what it was set to since: an issuer would
// be dated tomorrow.
func TestAClockSetBetweenTheLookAndTheSignature(t *testing.T) {
	for _, step := range []time.Duration{day, -day, 10 * 365 * day} {
		synctest.Test(t, func(t *testing.T) {
			w := settled(t, "east")
			clock := clocked(w)
			east, signed := w.clusters["east"], len(w.keys.Signatures())
			clock.once(memory.CallObserve, step)
			east.Delete(rotation.IssuerObject)
			time.Sleep(5 * time.Minute)
			if _, ok := w.finding("east", "ClockSkew"); !ok || east.Data(rotation.IssuerObject) != nil || len(w.keys.Signatures()) > signed+1 { // one of them a canary
				t.Errorf("the clock is off by %s: %d signatures, %+v", step, len(w.keys.Signatures())-signed, w.cluster("east").Findings)
			}
			clock.set(0)
			time.Sleep(2 * time.Minute)
			if c := w.cluster("east"); c.State != rotation.StateOK {
				t.Errorf("the clock is right again, and east is %s: %+v", c.State, c.Findings)
			}
			w.holds("the clock is right again")
			w.accounted()
			w.end()
		})
	}
}

// What is asked for while the clock is ahead is asked for once: until the time at which that
// was, all that is made is older.
func TestWhatIsAskedForByAClockThatIsAhead(t *testing.T) {
	for _, row := range []struct {
		target rotation.Target
		ahead  time.Duration
		most   int // signatures, one of them a canary
	}{
		{rotation.TargetIssuer, 4 * time.Minute, 2}, // certd goes by it
		{rotation.TargetWebhookCA, 4 * time.Minute, 2 + len(components())},
		{rotation.TargetWebhookCA, 8 * time.Hour, 2 + len(components())},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := hooked(t, "east")
			w.helm("east", true)
			w.ceremony()
			w.start()
			time.Sleep(30 * time.Minute)
			clock := clocked(w)
			clock.set(row.ahead)
			time.Sleep(2 * time.Minute)
			signed := len(w.keys.Signatures())
			if row.ahead < rotation.MaxClockSkew {
				clock.once(memory.CallObserve, 0)
			}
			w.loop.Rotate(row.target, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			time.Sleep(time.Minute)
			clock.set(0)
			time.Sleep(day)
			if got := len(w.keys.Signatures()) - signed; got < 2 || got > row.most {
				t.Errorf("the clock was ahead by %s when a new %s was asked for: %d signatures", row.ahead, row.target, got)
			}
			if c := w.cluster("east"); c.State != rotation.StateOK {
				t.Errorf("east is %s: %+v", c.State, c.Findings)
			}
			w.accounted()
			w.end()
		})
	}
}

// A step of the clock in the midst of a write dates the delivery: a change would wait for it to
// come about, for years.
func TestAnIssuerDeliveredAsTheClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 7, "east", "west")
		clock := clocked(c.world)
		time.Sleep(20 * time.Minute)
		clock.once(memory.CallIssuer, 9*365*day)
		c.begin()
		time.Sleep(10 * time.Minute)
		clock.set(0)
		c.until("idle", 5*day)
		c.holds("afterwards")
		c.end()
	})
}

// What lasts is not done by a clock that is wrong: an anchor is not renewed, the journal is not
// pruned, and no anchor is made to be turned to.
func TestAWrongClockDoesNothingThatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 8, "east", "west")
		c.policy.Trust.Renews = true
		clock := clocked(c.world)
		time.Sleep(20 * time.Minute)
		entries := func() int {
			all, err := c.journal.Entries(state.Filter{})
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		anchor := c.loop.Status().Trust.Active.SHA256
		before := entries()
		for _, ahead := range []time.Duration{time.Hour, 9 * 365 * day, -day, 9 * 365 * day} {
			clock.set(ahead)
			time.Sleep(time.Hour)
			if err := c.loop.CheckChange(); !errors.Is(err, rotation.ErrNotNow) || ahead == time.Hour && !strings.Contains(err.Error(), "clock") {
				t.Errorf("the clock is ahead by %s, and the trust anchor can be changed: %v", ahead, err)
			}
			clock.set(0)
			time.Sleep(40 * time.Minute)
		}
		if got := c.loop.Status().Trust.Active.SHA256; got != anchor {
			t.Error("the trust anchor was renewed nine years too early")
		}
		if got := entries(); got < before {
			t.Errorf("of %d entries %d are left", before, got)
		}
		if err := c.loop.CheckChange(); err != nil {
			t.Errorf("the clock is right again: %v", err)
		}
		c.end()
	})
}

// A certd whose host's clock was years ahead when it started has left an epoch that no other
// start comes up to. Whoever is started instead is deposed by it, and the next start of that one
// goes on: the one that is to go on is started last.
func TestAnEpochOfTheFuture(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		w.ceremony()
		w.start()
		time.Sleep(5 * time.Minute)
		backup := w.backup()
		ahead := rotation.Marks{}
		w.clusters["east"].Edit(rotation.BundleObject, "certd", func(_ map[string][]byte, marks *rotation.Marks) {
			marks.Epoch = uint64(time.Now().Add(3 * 365 * day).Unix())
			ahead = *marks
		})
		w.clusters["west"].Edit(rotation.IssuerObject, "mallory", func(_ map[string][]byte, marks *rotation.Marks) { marks.Epoch = 1<<64 - 2 })
		w.restore(backup)
		w.start()
		time.Sleep(10 * time.Minute)
		if _, ok := w.finding("east", "Deposed"); !ok {
			t.Errorf("the restored one: %+v", w.cluster("east").Findings)
		}
		w.clusters["east"].Delete(rotation.BundleObject) // and what bore the epoch with it
		time.Sleep(10 * time.Minute)
		if _, ok := w.finding("east", "Deposed"); !ok {
			t.Errorf("after a deletion: %+v", w.cluster("east").Findings)
		}
		w.end()
		w.start()
		time.Sleep(10 * 24 * time.Hour)
		if c := w.cluster("east"); c.State != rotation.StateOK {
			t.Errorf("the one that was started last: %s, %+v", c.State, c.Findings)
		}
		if e := w.journal.Epoch(); e <= ahead.Epoch || e > ahead.Epoch+10 {
			t.Errorf("its epoch is %d, after %d", e, ahead.Epoch)
		}
		if _, ok := w.finding("west", "Deposed"); !ok { // nobody gets above that
			t.Errorf("an epoch at the end of all: %+v", w.cluster("west").Findings)
		}
		w.end()
	})
}
