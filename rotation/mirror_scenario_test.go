package rotation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

func (w *world) fleetFinding(id string) (f rotation.Finding, ok bool) {
	for _, f := range w.loop.Status().Findings {
		if f.ID == id {
			return f, true
		}
	}
	return f, false
}

// mirrored is a settled fleet with a mirror.
func mirrored(t *testing.T, m rotation.Mirror, names ...string) *world {
	w := newWorld(t, names...)
	w.mirror = m
	w.ceremony()
	w.start()
	time.Sleep(2 * time.Minute)
	return w
}

// With a mirror, a daemon that another one follows stops everywhere at once, also
// where nothing of the other's is to be seen: not one intent more is recorded,
// and not one signature asked for.
func TestASecondDaemonDeposesTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mirror := &memory.Mirror{}
		old := mirrored(t, mirror, "east", "west")
		if f := old.loop.Status().Findings; len(f) > 0 {
			t.Fatalf("alone: %+v", f)
		}
		young := *old
		young.dir = journalDir(t)
		young.start()
		before, writes := len(old.entries()), old.clusters["east"].Writes()[rotation.BundleObject]
		// The younger one is told nothing of it at first: its looks fail.
		old.clusters["east"].Edit(rotation.BundleObject, "kubectl", func(_ map[string][]byte, m *rotation.Marks) { m.Keep = false })
		time.Sleep(2 * time.Minute)
		if f, ok := old.fleetFinding("SecondDaemon"); !ok || f.Severity != rotation.StateCritical || !strings.Contains(f.Message, young.dir) {
			t.Errorf("the first says %+v", old.loop.Status().Findings)
		}
		if f := young.loop.Status().Findings; len(f) > 0 {
			t.Errorf("the second says %+v", f)
		}
		time.Sleep(9 * day)
		if got := len(old.entries()); got != before {
			t.Errorf("the first recorded %d steps after the second had taken over", got-before)
		}
		if got := old.clusters["east"].Writes()[rotation.BundleObject]; got <= writes {
			t.Error("nobody repaired the bundle")
		}
		young.holds("two daemons")
		// What signed after the second's start is in the second's journal.
		known := digests(t, young.journal)
		for _, s := range young.keys.Signatures() {
			if s.At.After(young.entries()[0].At) && !slices.Contains(known, s.Digest) {
				t.Errorf("the first asked for signature %s at %s", s.Digest, s.At)
			}
		}
		// Started anew, the first is the one that goes on.
		old.end()
		old.start()
		time.Sleep(2 * time.Minute)
		if _, ok := young.fleetFinding("SecondDaemon"); !ok {
			t.Error("the second goes on beside the first")
		}
		if f := old.loop.Status().Findings; len(f) > 0 {
			t.Errorf("started last, the first says %+v", f)
		}
		old.end()
		young.end()
	})
}

// A mirror that does not answer, or whose answers are lost, keeps nobody from
// renewing, and makes no daemon take itself for another.
func TestAMirrorThatFails(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string]func(*rand.Rand) func(memory.MirrorCall) memory.MirrorFault{
		"away": func(*rand.Rand) func(memory.MirrorCall) memory.MirrorFault {
			return func(memory.MirrorCall) memory.MirrorFault { return memory.MirrorFault{Err: rotation.ErrUnavailable} }
		},
		"answers are lost": func(*rand.Rand) func(memory.MirrorCall) memory.MirrorFault {
			return func(c memory.MirrorCall) memory.MirrorFault {
				if c == memory.CallSave {
					return memory.MirrorFault{Err: rotation.ErrOutcomeUnknown, Done: true}
				}
				return memory.MirrorFault{}
			}
		},
		"now and then": func(random *rand.Rand) func(memory.MirrorCall) memory.MirrorFault {
			return func(memory.MirrorCall) memory.MirrorFault {
				switch random.IntN(4) {
				case 0:
					return memory.MirrorFault{Err: rotation.ErrUnavailable}
				case 1:
					return memory.MirrorFault{Err: rotation.ErrOutcomeUnknown, Done: true}
				}
				return memory.MirrorFault{}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mirror := &memory.Mirror{}
				mirror.SetFaults(faults(rand.New(rand.NewPCG(1, 2))))
				w := mirrored(t, mirror, "east", "west")
				epoch := w.journal.Epoch()
				for range 8 {
					time.Sleep(day)
					w.holds(name)
					if f, ok := w.fleetFinding("SecondDaemon"); ok {
						t.Fatalf("it takes itself for another: %+v", f)
					}
				}
				if _, ok := w.fleetFinding("MirrorFailed"); name == "away" && !ok {
					t.Errorf("nothing is said of it: %+v", w.loop.Status().Findings)
				}
				// What took effect is found there.
				if name == "answers are lost" {
					if f := w.loop.Status().Findings; len(f) > 0 || w.journal.Epoch() > epoch+1 {
						t.Errorf("all that was written is there, and the epoch went from %d to %d, findings %+v", epoch, w.journal.Epoch(), f)
					}
				}
				mirror.SetFaults(nil)
				time.Sleep(2 * time.Minute)
				if f := w.loop.Status().Findings; len(f) > 0 {
					t.Errorf("it answers again: %+v", f)
				}
				w.accounted()
				w.end()
			})
		})
	}
}

// The state directory is lost in the middle of a change of the trust anchor. The
// mirror says in which stage it was: it goes on there, ends as it would have, and
// no workload is restarted twice.
func TestTheStateDirectoryIsLostAndTheMirrorIsNot(t *testing.T) {
	t.Parallel()
	for i, stage := range []string{"spread", "restart", "retire"} {
		if thinned(i, 3) {
			continue
		}
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 13, "east", "west")
				c.end()
				c.mirror = &memory.Mirror{}
				c.start()
				time.Sleep(20 * time.Minute)
				before := c.restarts()
				c.begin()
				c.until(stage, 10*day)
				time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
				if _, err := c.loop.Pause([]string{"west"}, time.Now().Add(time.Hour), "lee@cli", "its disk"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				was := c.rotation()
				c.end()
				c.dir = journalDir(t)
				c.start()
				if all := c.loop.Pauses(); len(all) != 1 || all[0].Cluster != "west" || all[0].Reason != "its disk" {
					t.Errorf("paused is %+v", all)
				}
				if r := c.rotation(); r.Stage != was.Stage {
					t.Errorf("it is in stage %q, and was in %q", r.Stage, was.Stage)
				}
				recovered := 0
				for _, e := range c.entries() {
					if e.Intent.Step == rotation.StepRecover && strings.Contains(e.Intent.Reason, "mirror") {
						recovered++
					}
				}
				if recovered < 2 {
					t.Errorf("%d records are from the mirror", recovered)
				}
				time.Sleep(10 * time.Minute)
				c.sound()
				c.until("idle", 12*day)
				time.Sleep(day)
				c.sound()
				if s := c.loop.Status(); s.State != rotation.StateOK || s.Trust.Active == nil || s.Trust.Active.ID != "g2" || len(s.Trust.Others) != 0 {
					t.Errorf("state %s, active %+v, others %+v, findings %+v", s.State, s.Trust.Active, s.Trust.Others, s.Findings)
				}
				c.restartedOnce(before, "app/")
				c.end()
			})
		})
	}
}

// What the mirror says counts only as far as the key backend bears it out: who
// can write the mirror cannot have certd publish an anchor.
func TestAForgedMirrorIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mirror := &memory.Mirror{}
		w := mirrored(t, mirror, "east")
		w.end()
		stranger := newWorld(t, "north")
		stranger.mirror = &memory.Mirror{}
		stranger.ceremony()
		stranger.start()
		time.Sleep(time.Minute)
		stranger.end()
		forged, _, err := stranger.mirror.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, version, err := mirror.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mirror.Save(t.Context(), forged, version); err != nil {
			t.Fatal(err)
		}
		bundle := fmt.Sprint(w.bundleOf("east"))
		w.dir = journalDir(t)
		w.start()
		time.Sleep(time.Hour)
		if got := fmt.Sprint(w.bundleOf("east")); got != bundle {
			t.Errorf("the bundle is %s, and was %s", got, bundle)
		}
		if a := w.loop.Status().Trust; a.Active == nil || len(a.Others) != 0 {
			t.Errorf("%+v", a)
		}
		w.end()
	})
}

// A mirror that a newer certd wrote is not taken over: an older one would write it without
// what it does not know.
func TestTheMirrorOfANewerCertdIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mirror := &memory.Mirror{}
		w := mirrored(t, mirror, "east")
		w.end()
		text, version, err := mirror.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		doc["format"], doc["approvals"] = doc["format"].(float64)+1, []string{"of a time to come"}
		if text, err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
		if version, err = mirror.Save(t.Context(), text, version); err != nil {
			t.Fatal(err)
		}
		j, err := state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		fence := rotation.NewFence(mirror, j, w.keys, w.keys, "acme", "here")
		if _, err := fence.TakeOver(t.Context()); !errors.Is(err, rotation.ErrUnsupported) || !strings.Contains(err.Error(), "newer certd") {
			t.Errorf("it was taken over: %v", err)
		}
		if _, now, err := mirror.Load(t.Context()); err != nil || now != version {
			t.Errorf("it was written: version %d, was %d, %v", now, version, err)
		}
	})
}

func (w *world) bundleOf(name string) string {
	w.t.Helper()
	o, err := w.clusters[name].Observe(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return string(o.BundleText)
}
