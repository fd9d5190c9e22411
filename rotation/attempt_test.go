package rotation_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// tried collects what a loop tells.
type tried struct {
	mu  sync.Mutex
	all []rotation.Attempt
}

func (a *tried) add(x rotation.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, x)
}

// take returns what was told of one kind of step, and forgets everything.
func (a *tried) take(step rotation.Step) (found []rotation.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.all {
		if x.Step == step {
			found = append(found, x)
		}
	}
	a.all = nil
	return found
}

// Each step is told of, with what came of it, also where nothing of it got into
// the journal.
func TestStepsAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &tried{}
		w := newWorld(t, "east")
		w.tried, w.policy.Trust.Lifetime, w.policy.Trust.RenewBefore = told.add, 100*day, 20*day
		w.ceremony()
		w.start()
		time.Sleep(time.Minute)
		one := func(when string, step rotation.Step) rotation.Attempt {
			t.Helper()
			all := told.take(step)
			if len(all) != 1 || all[0].Cluster != "east" || all[0].Err != nil {
				t.Fatalf("%s: %+v", when, all)
			}
			return all[0]
		}
		rotate := func() rotation.RotateResult {
			r := <-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "test", Reason: "test"})
			synctest.Wait() // who asked may be answered before it is told of
			return r
		}
		one("enrolled", rotation.StepIssuer)

		w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault { return memory.KeyFault{Delay: 3 * time.Second} })
		rotate()
		if a := one("with a slow key backend", rotation.StepIssuer); a.Took < 3*time.Second || a.Took > 20*time.Second || a.Object != rotation.IssuerObject {
			t.Errorf("%+v", a)
		}

		entries := len(w.entries())
		w.keys.SetFaults(away)
		if r := rotate(); r.Result != rotation.Failed {
			t.Errorf("without keys: %+v", r)
		}
		if all := told.take(rotation.StepIssuer); len(all) == 0 || !errors.Is(all[0].Err, rotation.ErrUnavailable) || len(w.entries()) > entries {
			t.Errorf("without keys, of which the journal has %d entries: %+v", len(w.entries())-entries, all)
		}
		w.keys.SetFaults(nil)
		time.Sleep(time.Minute)
		one("with keys again", rotation.StepIssuer)

		w.clusters["east"].Edit(rotation.BundleObject, "helm", func(data map[string][]byte, _ *rotation.Marks) { data["ca-bundle.crt"] = []byte("nonsense") })
		time.Sleep(time.Minute)
		if a := one("mended", rotation.StepRepairBundle); a.Object != rotation.BundleObject || a.Writer != "helm" {
			t.Errorf("%+v", a)
		}

		// Somebody is quicker, once.
		quicker := 1
		w.clusters["east"].SetFaults(func(c memory.Call) (f memory.ClusterFault) {
			if c == memory.CallIssuer && quicker > 0 {
				quicker--
				f.Err = rotation.ErrChanged
			}
			return f
		})
		rotate()
		one("after a race", rotation.StepIssuer)

		// The answer is lost, and so is the look after it.
		lost := true
		w.clusters["east"].SetFaults(func(c memory.Call) (f memory.ClusterFault) {
			switch {
			case c == memory.CallIssuer:
				f.Err, f.Lost, lost = rotation.ErrOutcomeUnknown, true, true
			case c == memory.CallObserve && lost:
				f.Err = rotation.ErrUnavailable
			}
			return f
		})
		lost = false
		w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "test", Reason: "test"})
		time.Sleep(time.Second)
		w.clusters["east"].SetFaults(nil)
		time.Sleep(10 * time.Minute)
		if all := told.take(rotation.StepIssuer); len(all) != 2 || !errors.Is(all[0].Err, rotation.ErrOutcomeUnknown) || all[1].Err != nil || all[1].Took != 0 {
			t.Errorf("a lost answer: %+v", all)
		}

		if _, err := w.loop.RenewAnchor(t.Context(), "test", "test"); !errors.Is(err, rotation.ErrNoGain) || len(told.take(rotation.StepTrustRenew)) > 0 {
			t.Errorf("an anchor that there is no use in renewing: %v", err)
		}
		time.Sleep(36 * time.Hour)
		told.take("")
		if _, err := w.loop.RenewAnchor(t.Context(), "test", "test"); err != nil {
			t.Error(err)
		}
		if all := told.take(rotation.StepTrustRenew); len(all) != 1 || all[0].Err != nil || all[0].Cluster != "" || all[0].Object != "g1" {
			t.Errorf("a renewed anchor: %+v", all)
		}
		w.end()
	})
}

// A change of the trust anchor is told of when it has ended.
func TestAChangeThatEndsIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &tried{}
		c := newChanging(t, 3, "east")
		c.world.end()
		c.tried = told.add
		c.start()
		time.Sleep(20 * time.Minute)
		c.begin()
		c.until("retire", 10*day)
		if all := told.take(rotation.StepTrustChange); len(all) > 0 {
			t.Errorf("under way: %+v", all)
		}
		c.until("idle", 10*day)
		if all := told.take(rotation.StepTrustChange); len(all) != 1 || all[0].Err != nil || all[0].Cluster != "" {
			t.Errorf("ended: %+v", all)
		}
		c.end()
	})
}

// The report says when a change last came nearer its end: while nobody restarts
// anything it does not, and by each restart it does.
func TestTheProgressOfAChangeIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east")
		c.begin()
		c.until("restart", 10*day)
		time.Sleep(2 * time.Hour) // what certd restarts itself, is restarted
		before := c.rotation()
		if before.ProgressAt == nil || before.ProgressAt.Before(*before.StageAt) || time.Since(*before.ProgressAt) < time.Hour {
			t.Fatalf("two hours without a restart: %+v", before)
		}
		time.Sleep(6 * time.Hour)
		if r := c.rotation(); !r.ProgressAt.Equal(*before.ProgressAt) {
			t.Errorf("eight hours without: at %s, before at %s", r.ProgressAt, before.ProgressAt)
		}
		c.obey()
		time.Sleep(10 * time.Minute)
		if r := c.rotation(); r.Stage != "restart" || time.Since(*r.ProgressAt) > 10*time.Minute {
			t.Errorf("ten minutes after a restart: %+v", r)
		}
		c.end()
	})
}
