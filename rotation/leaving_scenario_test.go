package rotation_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// A replica of linkerd-identity that missed the issuer with two certificates is replaced,
// and goes on signing with the older one for hours for who is connected to it: the change
// waits until it is gone, and restarts nothing more for it.
func TestAChangeWaitsForReplicasThatAreBeingDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const grace = 3 * time.Hour
		c := newChangingIn(t, 47, 9, func(*rotation.FleetPolicy) {}, func(cfg *memory.ClusterConfig) { cfg.Grace = grace }, "east", "west")
		c.clusters["east"].DeafIdentity(0)
		c.begin()
		before, told := c.restarts(), false
		for begun := time.Now(); c.rotation().Phase != "idle"; time.Sleep(time.Minute) {
			if time.Since(begun) > 10*day {
				t.Fatalf("%+v", c.rotation())
			}
			for _, w := range c.rotation().WaitingFor {
				told = told || strings.HasPrefix(w, "east: linkerd-identity-0 is being deleted, and may sign with what it has until it is gone") && c.rotation().Stage == "bridge"
			}
			c.obey()
			c.sound()
		}
		if !told {
			t.Error("nobody is told what is waited for")
		}
		// Once for the issuer that was missed, and twice since trust turned.
		for place, want := range map[string]int{"linkerd/linkerd-identity-0": 3, "linkerd/linkerd-identity-1": 3} {
			if n := c.clusters["east"].Restarts()[place] - before["east"][place]; n != want {
				t.Errorf("%s in east was created anew %d times, want %d", place, n, want)
			}
		}
		c.restartedOnce(before, "app/")
		time.Sleep(day)
		c.ended("g2")
		c.end()
	})
}
