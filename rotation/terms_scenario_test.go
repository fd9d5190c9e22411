package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// An upgrade of Linkerd amid a change has leaves live shorter than before. Those from before
// it are waited for all the same, also by a certd that was started since, or has lost its
// journal and has the mirror.
func TestLeavesFromBeforeAnUpgradeAreWaitedFor(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(t *testing.T, c *changing){
		"one certd":   func(*testing.T, *changing) {},
		"another one": func(_ *testing.T, c *changing) { c.end(); c.start() },
		"without its journal": func(t *testing.T, c *changing) {
			c.end()
			c.dir = journalDir(t)
			c.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const longer = 3 * leaf // than the configuration says
				c := newChangingIn(t, 11, 9, func(*rotation.FleetPolicy) {}, func(cfg *memory.ClusterConfig) { cfg.LeafLifetime = longer }, "east", "west")
				c.mesh.Entitle(rotation.MaxClockSkew)
				c.end()
				c.mirror = &memory.Mirror{}
				c.start()
				time.Sleep(20 * time.Minute)
				c.begin()
				c.until("bridge", time.Hour)
				for c.rotation().ProvedAt == nil {
					time.Sleep(time.Minute)
				}
				proved := time.Now()
				for _, cl := range c.clusters {
					cl.SetLeaves(leaf)
				}
				time.Sleep(30 * time.Minute)
				dir := c.dir
				then(t, c)
				c.until("spread", 10*day)
				if passed := time.Since(proved); passed < longer {
					t.Errorf("the bridge was left %s after each replica used an issuer with two certificates; leaves from before live for %s", passed, longer)
				}
				spread := time.Now()
				c.until("idle", 10*day)
				// Three more drains, of the shorter leaves.
				if passed := time.Since(spread); passed > 3*longer {
					t.Errorf("the rest took %s", passed)
				}
				time.Sleep(day)
				if c.dir == dir { // a journal that was lost knows not all that was signed
					c.ended("g2")
				}
				c.sound()
				c.end()
			})
		})
	}
}
