package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// rite is a ceremony over a journal in a folder.
func (w *world) rite(wrap func(rotation.Journal) rotation.Journal, dry bool) (a rotation.Anchor, created bool, said string, err error) {
	w.t.Helper()
	j, err := state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Close()
	var journal rotation.Journal = j
	if wrap != nil {
		journal = wrap(j)
	} else if _, err := rotation.SettleFleet(j); err != nil {
		w.t.Fatal(err)
	}
	c := rotation.Ceremony{Journal: journal, Creator: w.keys, Signer: w.keys, Policy: w.policy, Actor: "lee@cli", Reason: "certd init", DryRun: dry,
		Say: func(format string, args ...any) { said += fmt.Sprintf(format, args...) + "\n" }}
	a, created, err = c.Run(w.t.Context())
	return a, created, said, err
}

func TestCeremony(t *testing.T) {
	for _, row := range []struct {
		sentence string
		before   func(w *world)
		dry      bool
		created  bool
		err      error
		text     string // in what was said, or in the error
		keys     int    // that the backend was asked to make
	}{
		{"an empty world gets its anchor", func(*world) {}, false, true, nil, "made; its private part stays", 1},
		{"a second time finds it", func(w *world) { w.ceremony() }, false, false, nil, "is there already", 1},
		{"a dry run makes nothing", func(*world) {}, true, false, nil, "does not exist yet", 0},
		{"a foreign key under the name is refused", func(w *world) {
			if _, err := w.keys.CreateKey(context.Background(), "acme-anchor-1"); err != nil {
				w.t.Fatal(err)
			}
		}, false, false, rotation.ErrKeyExists, "this journal did not make it", 1},
		{"a foreign key is refused in a dry run, too", func(w *world) {
			if _, err := w.keys.CreateKey(context.Background(), "acme-anchor-1"); err != nil {
				w.t.Fatal(err)
			}
		}, true, false, rotation.ErrKeyExists, "this journal did not make it", 1},
		{"the creator may not", func(w *world) {
			w.keys.SetFaults(func(c memory.KeyCall, _ string) memory.KeyFault {
				if c == memory.CallCreateKey {
					return memory.KeyFault{Err: rotation.ErrDenied}
				}
				return memory.KeyFault{}
			})
		}, false, false, rotation.ErrDenied, "create key acme-anchor-1", 1},
		{"the key backend is away", func(w *world) { w.keys.SetFaults(away) }, false, false, rotation.ErrUnavailable, "look for key", 0},
		{"the key has become exportable", func(w *world) { w.ceremony(); w.keys.SetExportable("acme-anchor-1") }, false, false, rotation.ErrKeyUnfit, "acme-anchor-1", 1},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t, "east")
			row.before(w)
			a, created, said, err := w.rite(nil, row.dry)
			if created != row.created || !errors.Is(err, row.err) || (err == nil) != (row.err == nil) {
				t.Errorf("created %t, %v", created, err)
			}
			if text := said + fmt.Sprint(err); !strings.Contains(text, row.text) {
				t.Errorf("says %q", text)
			}
			if err == nil && (a.ID != "g1" || a.Key != "acme-anchor-1" || (a.Certificate == nil) != row.dry) {
				t.Errorf("anchor %+v", a)
			}
			if got := w.keys.Calls(memory.CallCreateKey); got != row.keys {
				t.Errorf("%d keys were asked for, want %d", got, row.keys)
			}
			if row.dry && len(w.keys.Signatures()) > 0 {
				t.Error("a dry run signed")
			}
		})
	}
}

// Whether or not a key was made whose answer was lost, the ceremony goes on with it: at once
// where the key backend can be asked, else when it is done again.
func TestAKeyWhoseAnswerIsLost(t *testing.T) {
	for _, row := range []struct {
		sentence   string
		made, away bool // the key is; the key backend is, afterwards
		err        error
		asked      int // for a key, in the end
	}{
		{"it was made, and is seen", true, false, nil, 1},
		{"it was made, and cannot be seen", true, true, rotation.ErrOutcomeUnknown, 1},
		{"it was not made", false, false, rotation.ErrOutcomeUnknown, 2},
		{"it was not made, and that cannot be seen", false, true, rotation.ErrOutcomeUnknown, 2},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t, "east")
			lost := false
			w.keys.SetFaults(func(c memory.KeyCall, _ string) memory.KeyFault {
				switch {
				case c == memory.CallCreateKey && !lost:
					lost = true
					return memory.KeyFault{Err: rotation.ErrOutcomeUnknown, Lost: row.made}
				case lost && row.away:
					return memory.KeyFault{Err: rotation.ErrUnavailable}
				}
				return memory.KeyFault{}
			})
			a, _, _, err := w.rite(nil, false)
			if !errors.Is(err, row.err) || (err == nil) != (row.err == nil) {
				t.Errorf("the first time: %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "run it again") {
				t.Errorf("it does not say what to do: %v", err)
			}
			w.keys.SetFaults(nil)
			if err != nil {
				a, _, _, err = w.rite(nil, false)
			}
			if err != nil || a.Certificate == nil || a.CreatedAt.IsZero() {
				t.Errorf("in the end: %+v, %v", a, err)
			}
			if n := w.keys.Calls(memory.CallCreateKey); n != row.asked {
				t.Errorf("%d keys were asked for, want %d", n, row.asked)
			}
		})
	}
}

// Killed at each write of the journal, the ceremony is done again and ends
// with one key and one anchor.
func TestACeremonyThatDies(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			died := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east")
				_, _, _, err := w.rite(func(j rotation.Journal) rotation.Journal {
					return &mortal{Journal: j, left: n, late: late, onEnd: func() { died = true; w.keys.SetFaults(away) }}
				}, false)
				if died == (err == nil) {
					t.Errorf("late %t, write %d: died %t, %v", late, n, died, err)
				}
				w.keys.SetFaults(nil)
				a, _, _, err := w.rite(nil, false)
				if err != nil || a.Certificate == nil || w.keys.Calls(memory.CallCreateKey) != 1 {
					t.Errorf("late %t, write %d: %+v, %d keys, %v", late, n, a.ID, w.keys.Calls(memory.CallCreateKey), err)
				}
				if got := len(w.keys.Signatures()); got > 2 {
					t.Errorf("late %t, write %d: %d signatures", late, n, got)
				}
				w.start()
				time.Sleep(time.Minute)
				w.holds("after the ceremony")
				w.accounted()
				w.end()
			})
			if !died || t.Failed() {
				if n < 5 {
					t.Errorf("late %t: only %d writes were seen", late, n-1)
				}
				break
			}
		}
	}
}
