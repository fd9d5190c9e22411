package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// electing is a fleet that two daemons look after in turn, each with a disk of its own;
// of what one does the other knows what the mirror and the clusters show.
type electing struct {
	*changing
	mirror *memory.Mirror
	other  string // the disk of the one that does not run
}

func newElecting(t *testing.T, seed uint64, names ...string) *electing {
	e := &electing{changing: newChanging(t, seed, names...), mirror: &memory.Mirror{}, other: journalDir(t)}
	e.end()
	e.world.mirror, e.world.leads = e.mirror, func() error { return nil }
	e.start()
	time.Sleep(20 * time.Minute)
	return e
}

// turn has the daemon that runs die, with what it has yet to save, and the other one
// take over.
func (e *electing) turn() {
	e.t.Helper()
	e.mirror.SetFaults(func(memory.MirrorCall) memory.MirrorFault { return memory.MirrorFault{Err: rotation.ErrUnavailable} })
	e.end()
	e.mirror.SetFaults(nil)
	e.dir, e.other = e.other, e.dir
	e.start()
}

// However often they take turns in a change of the trust anchor, the one that has never
// led and the one whose journal is of long ago: it goes on in the stage it was in, nobody
// is refused, and no workload is restarted twice. The change is over for both of them.
func TestDaemonsTakeTurnsInAChange(t *testing.T) {
	t.Parallel()
	for i, turns := range [][]string{
		{"bridge", "spread", "restart", "finish", "retire"},
		{"bridge", "retire"},
		{"spread", "idle"},
		{"restart"},
	} {
		if thinned(i, 4) {
			continue
		}
		t.Run(fmt.Sprint(turns), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newElecting(t, 13, "east", "west")
				before := e.restarts()
				e.begin()
				for _, stage := range turns {
					e.until(stage, 12*day)
					time.Sleep(time.Duration(1+e.chance.IntN(9)) * time.Minute)
					e.turn()
					if r := e.rotation(); r.Stage != stage && r.Phase != stage {
						t.Errorf("it was in stage %q, and the other one is in %q", stage, r.Stage)
					}
				}
				e.until("idle", 14*day)
				time.Sleep(day)
				for range 2 {
					e.sound()
					e.holds("after the change")
					s := e.loop.Status()
					if s.State != rotation.StateOK || s.Trust.Rotation.Phase != "idle" || s.Trust.Active == nil || s.Trust.Active.ID != "g2" || len(s.Trust.Others) != 0 {
						t.Errorf("state %s, active %+v, others %+v, rotation %+v, findings %+v", s.State, s.Trust.Active, s.Trust.Others, s.Trust.Rotation, s.Findings)
					}
					for _, cl := range s.Clusters {
						if cl.State != rotation.StateOK || len(cl.Bundle.Anchors) != 1 || cl.Bundle.Anchors[0].ID != "g2" {
							t.Errorf("%s: %s, bundle %+v, findings %+v", cl.Name, cl.State, cl.Bundle, cl.Findings)
						}
					}
					e.restartedOnce(before, "app/")
					e.turn()
					time.Sleep(time.Hour)
				}
				e.end()
			})
		})
	}
}

// Turning away from a compromised anchor goes on as such, with a daemon that knew the
// fleet before it and with one that knew nothing: no bundle takes the anchor back.
func TestACompromisedAnchorIsLeftByTheOther(t *testing.T) {
	t.Parallel()
	for _, fresh := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := newElecting(t, 3, "east", "west")
			if !fresh {
				e.turn()
				time.Sleep(time.Hour)
				e.turn()
				time.Sleep(time.Hour)
			}
			e.compromise()
			time.Sleep(90 * time.Second)
			e.turn()
			if r := e.rotation(); r.Phase == "idle" {
				t.Fatalf("fresh %t: the other one knows nothing of it: %+v", fresh, r)
			}
			e.away(5*time.Hour, true)
			e.mesh.ForgetViolations()
			time.Sleep(day)
			if s := e.loop.Status(); s.State != rotation.StateOK || s.Trust.Active.ID != "g2" || len(s.Trust.Others) != 0 {
				t.Errorf("fresh %t: %s, %+v, %+v", fresh, s.State, s.Trust, s.Findings)
			}
			e.end()
		})
	}
}

// What people paused, and set going again, holds for the one that takes over.
func TestPausesPassToTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElecting(t, 5, "east", "west")
		if _, err := e.loop.Pause([]string{"west"}, time.Now().Add(day), "lee@cli", "its disk"); err != nil {
			t.Fatal(err)
		}
		e.turn() // at once: it was in the mirror before the command had its answer
		if all := e.loop.Pauses(); len(all) != 1 || all[0].Cluster != "west" || all[0].Reason != "its disk" {
			t.Fatalf("paused is %+v", all)
		}
		if _, err := e.loop.Resume([]string{"west"}, "lee@cli", "mended"); err != nil {
			t.Fatal(err)
		}
		e.turn()
		if all := e.loop.Pauses(); len(all) != 0 {
			t.Errorf("it was set going again, and paused is %+v", all)
		}
		e.end()
	})
}

// A daemon that no longer leads begins nothing and writes nowhere, from that moment on,
// also where nobody has taken its place and the mirror is still its own.
func TestOnlyTheLeaderWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElecting(t, 8, "east", "west")
		e.end()
		var leads atomic.Bool
		leads.Store(true)
		e.resync = 10 * time.Minute
		e.world.leads = func() error {
			if !leads.Load() {
				return rotation.ErrNotLeader
			}
			return nil
		}
		e.start()
		time.Sleep(time.Hour)
		leads.Store(false)
		entries, signed, east, west := len(e.entries()), len(e.keys.Signatures()), fmt.Sprint(e.clusters["east"].Writes()), fmt.Sprint(e.clusters["west"].Writes())
		_, version, err := e.mirror.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e.clusters["east"].Edit(rotation.BundleObject, "kubectl", func(_ map[string][]byte, m *rotation.Marks) { m.Keep = false })
		time.Sleep(9 * day)
		if _, err := e.loop.Pause([]string{"west"}, time.Now().Add(day), "lee@cli", "its disk"); !errors.Is(err, rotation.ErrNotLeader) {
			t.Errorf("it takes orders: %v", err)
		}
		_, now, err := e.mirror.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := len(e.entries()); got != entries || now != version || len(e.keys.Signatures()) != signed ||
			fmt.Sprint(e.clusters["west"].Writes()) != west || fmt.Sprint(e.clusters["east"].Writes()) != east {
			t.Errorf("%d entries and %d; mirror version %d and %d; %d signatures and %d; writes %v %v, before %s %s", entries, got, version, now, signed, len(e.keys.Signatures()), e.clusters["east"].Writes(), e.clusters["west"].Writes(), east, west)
		}
		leads.Store(true)
		time.Sleep(time.Hour)
		e.holds("it leads again")
		e.end()
	})
}

// A step that is under way when the lead is lost is not waited for.
func TestLosingTheLeadEndsWhatIsInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElecting(t, 9, "east")
		e.end()
		e.start()
		time.Sleep(time.Minute)
		e.stop()
		<-e.done
		ctx, lose := context.WithCancelCause(t.Context())
		go func() { e.done <- e.loop.Run(ctx) }()
		e.clusters["east"].SetFaults(func(c memory.Call) memory.ClusterFault {
			if c == memory.CallBundle {
				return memory.ClusterFault{Delay: time.Hour}
			}
			return memory.ClusterFault{}
		})
		e.clusters["east"].Edit(rotation.BundleObject, "kubectl", func(_ map[string][]byte, m *rotation.Marks) { m.Keep = false })
		time.Sleep(10 * time.Second)
		begun := time.Now()
		lose(rotation.ErrNotLeader)
		<-e.done
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it went on for %s", took)
		}
		if err := e.journal.Close(); err != nil {
			t.Error(err)
		}
	})
}
