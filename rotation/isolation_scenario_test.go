package rotation_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// One cluster of five hundred is well, and its name is the last of all. Its issuer is renewed
// and loaded less than two seconds and less than a tenth later than where it is alone, from
// the first minute on, and after a restart. Only a cluster that is yet to be enrolled waits
// three seconds besides: it might be one of those that do not answer, under a second name.
func TestClustersThatHangHoldUpNoOther(t *testing.T) {
	if raced {
		t.Skip("500 clusters take long under the race detector, and share no more than 5 do")
	}
	alone := howLong(t, 0)
	among := howLong(t, 499)
	for i, what := range []string{"enrolling", "a renewal at once", "a renewal after an hour", "enrolling anew after a restart"} {
		t.Logf("%s: %s alone, %s among 499 that hang", what, alone[i], among[i])
		most := 2 * time.Second
		if i == 0 {
			most = 3*time.Second + 100*time.Millisecond
		}
		if late := among[i] - alone[i]; late > most || late > alone[i]/10 {
			t.Errorf("%s takes %s, and %s alone", what, among[i], alone[i])
		}
	}
}

// howLong it takes until a cluster's issuer is loaded by all replicas, at several times, beside
// so many that hang.
func howLong(t *testing.T, others int) (took []time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"zz-well"}
		for i := range others {
			names = append(names, fmt.Sprintf("hangs-%03d", i))
		}
		w := newWorld(t, names...)
		w.ceremony()
		for name, c := range w.clusters {
			if name != "zz-well" {
				c.SetFaults(hang)
			}
		}
		w.start()
		loaded := func(after string) (serial string) {
			for begun := time.Now(); ; time.Sleep(49 * time.Millisecond) {
				synctest.Wait() // what happens at this very moment has happened
				c := w.cluster("zz-well")
				if c.Issuer != nil && c.Issuer.Delivered != nil && c.Issuer.Delivered.Serial != after && c.Issuer.Loaded != nil && c.Issuer.Loaded.State == "yes" {
					took = append(took, time.Since(begun))
					return c.Issuer.Delivered.Serial
				}
				if time.Since(begun) > time.Hour {
					t.Fatalf("not within an hour: %+v", c)
				}
			}
		}
		serial := loaded("")
		for _, later := range []time.Duration{0, time.Hour} {
			time.Sleep(later)
			w.loop.Rotate(rotation.TargetIssuer, []string{"zz-well"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			serial = loaded(serial)
		}
		w.end()
		w.clusters["zz-well"].Delete(rotation.IssuerObject)
		w.start()
		loaded(serial)
		w.end()
	})
	return took
}

// A look that takes longer than a cluster may keep its slot still has the loop know when the
// cluster is due again.
func TestASlowClusterIsComeBackTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "hangs", "slow")
		w.ceremony()
		w.clusters["hangs"].SetFaults(hang)
		w.clusters["slow"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Delay: 100 * time.Millisecond} })
		w.start()
		time.Sleep(5 * time.Second)
		if c := w.cluster("slow"); c.Issuer == nil || c.Issuer.Delivered == nil {
			t.Errorf("it has no issuer after five seconds: %+v", c)
		}
		w.end()
	})
}

// A cluster that tells of changes all the time, and cannot be looked at, is looked at ever more
// rarely.
func TestWhoCannotBeSeenCriesInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.ceremony()
		w.clusters["east"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		w.start()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			w.loop.Look("east")
		}
		if n := w.clusters["east"].Calls()[memory.CallObserve]; n < 5 || n > 15 {
			t.Errorf("it was looked at %d times in a minute", n)
		}
		w.clusters["east"].SetFaults(nil)
		time.Sleep(10 * time.Second)
		w.loop.Look("east")
		time.Sleep(10 * time.Second)
		if c := w.cluster("east"); c.Issuer == nil || c.Issuer.Delivered == nil {
			t.Errorf("it has no issuer after it is back: %+v", c)
		}
		w.end()
	})
}
