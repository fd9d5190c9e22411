package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// The loop comes round while clusters hang and the key backend is away, and no longer
// than it runs.
func TestTheLoopBeatsWhateverClustersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		w.ceremony()
		w.start()
		beating := func(when string) {
			t.Helper()
			for range 200 {
				time.Sleep(97 * time.Second)
				if since := time.Since(w.loop.Beat()); since > w.resync {
					t.Fatalf("%s the loop has not come round for %s", when, since)
				}
			}
		}
		beating("with little to do")
		w.clusters["east"].SetFaults(hang)
		w.keys.SetFaults(away)
		w.loop.Rotate(rotation.TargetIssuer, []string{"west"}, rotation.Request{Actor: "test", Reason: "test"})
		beating("beside a cluster that hangs, without keys")
		w.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		beating("with no cluster that answers")
		w.clusters["east"].SetFaults(nil)
		w.end()
		time.Sleep(5 * time.Minute)
		if since := time.Since(w.loop.Beat()); since < 5*time.Minute {
			t.Errorf("it has ended and came round %s ago", since)
		}
	})
}
