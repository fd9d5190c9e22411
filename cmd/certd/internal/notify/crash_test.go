package notify

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/state"
)

var errDead = errors.New("the process is dead")

// mortal is a journal whose process dies at its nth write: before it is on disk
// or, with late, right after. Nothing works from then on.
type mortal struct {
	Journal
	mu    sync.Mutex
	left  int
	late  bool
	dead  bool
	onEnd func()
}

func (m *mortal) Notify(c state.NotifyChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead || c.Empty() {
		return errDead
	}
	if m.left--; m.left > 0 {
		return m.Journal.Notify(c)
	}
	m.dead = true
	m.onEnd()
	if m.late {
		_ = m.Journal.Notify(c) // on disk, and nobody hears of it
	}
	return errDead
}

// Killed at each write of the journal - between event and outbox, outbox and
// send, send and acknowledgement - certd tells each receiver of each event, in
// order; what comes twice has the same id.
func TestACrashAtAnyWriteOfTheOutbox(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %t", late), func(t *testing.T) {
			deaths := 0
			for n := 1; ; n++ {
				died := false
				synctest.Test(t, func(t *testing.T) { died = dieAt(t, n, late, 0) })
				if !died || t.Failed() {
					break
				}
				deaths++
			}
			if deaths < 15 {
				t.Errorf("only %d writes were seen", deaths)
			}
		})
	}
}

// Killed with a send under way, whether the receiver has got it by then or not.
func TestACrashDuringASend(t *testing.T) {
	for n := 1; n <= 16; n++ {
		died := false
		synctest.Test(t, func(t *testing.T) { died = dieAt(t, 0, false, n) })
		if !died {
			t.Errorf("there was no send %d", n)
		}
	}
}

// dieAt says whether there was an nth write, or an nth send to ops and pager.
func dieAt(t *testing.T, write int, late bool, send int) (died bool) {
	boxes := map[string]*inbox{"ops": slack(), "pager": pager(), "am": alertBox()}
	w := newWorld(t, boxes, "eu", "us")
	w.policy.After = 0
	down := func() { // a dead process sends nothing
		for _, b := range boxes {
			b.answers(func(int, []receiver.Message) (bool, error) { return false, errDead })
		}
	}
	var m *mortal
	w.wrap = func(j Journal) Journal { m = &mortal{Journal: j, left: write, late: late, onEnd: down}; return m }
	if write == 0 {
		w.wrap = func(j Journal) Journal { m = &mortal{Journal: j, left: 1 << 30, onEnd: func() {}}; return m }
	}
	var mu sync.Mutex
	sends := 0
	for _, b := range boxes {
		b.answers(func(int, []receiver.Message) (bool, error) {
			mu.Lock()
			sends++
			dies := sends == send
			dead := send > 0 && sends > send
			mu.Unlock()
			if dies {
				m.mu.Lock()
				m.dead = true
				m.mu.Unlock()
				return send%2 == 0, errDead // it may have arrived
			}
			if dead {
				return false, errDead
			}
			return true, nil
		})
	}
	w.start()
	turns := []func(){
		func() { w.find("eu", "IssuerNotLoaded warning") },
		func() { w.find("us", "ProxiesStale warning"); w.stage("bridge", 2, false) },
		func() { w.find("eu", "IssuerNotLoaded critical") },
		func() { w.find("us") },
		func() { w.find("eu"); w.stage("", 0, false) },
		func() {},
	}
	for _, turn := range turns {
		turn()
		for range 3 {
			time.Sleep(5 * time.Second)
			m.mu.Lock()
			is := m.dead
			m.mu.Unlock()
			if is && !died {
				died = true
				// It is started again within a moment, and sees what the dead one did not.
				w.end()
				w.wrap = nil
				for _, b := range boxes {
					b.answers(nil)
				}
				w.start()
				time.Sleep(10 * time.Second)
			}
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	when := fmt.Sprintf("died at write %d (late %t), send %d", write, late, send)
	finding := []string{"opened warning eu IssuerNotLoaded", "opened warning us ProxiesStale", "escalated critical eu IssuerNotLoaded",
		"cleared warning us ProxiesStale", "cleared critical eu IssuerNotLoaded"}
	stages := []string{"trust.stage the change of the trust anchor from g1 to g2 has begun: stage bridge (2 of 6)", "trust.stage the change of the trust anchor from g1 to g2 is over"}
	for name, b := range boxes {
		ids, order := map[string]string{}, []string{}
		for _, m := range b.got {
			if b.traits.Batch && m.Event == receiver.Opened {
				continue // comes again and again
			}
			l := line(m)
			if id, twice := ids[l]; !twice {
				order = append(order, l)
			} else if id != m.ID {
				t.Errorf("%s: %s was told %q as %s and as %s", when, name, l, id, m.ID)
			}
			ids[l] = m.ID
		}
		want := finding
		if name == "am" {
			want = slices.Concat(finding[2:3], finding[3:])
		}
		var got []string
		for _, l := range order {
			if !slices.Contains(stages, l) {
				got = append(got, l)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s was told\n%q\nwant\n%q", when, name, got, want)
		}
		if name == "am" {
			continue
		}
		for _, l := range stages {
			if ids[l] == "" {
				t.Errorf("%s: %s was not told %q", when, name, l)
			}
		}
	}
	w.empty(when)
	w.end()
	return died
}
