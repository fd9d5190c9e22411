package rotation_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/rotation"
)

// Whoever comes amid a change and is not looked after holds it, in each stage before
// leaves are under the new anchor alone, until a person says that they are seen to;
// more of the same, and the way back, wait for nobody.
func TestOutsidersHoldAChange(t *testing.T) {
	for _, stage := range []string{"bridge", "spread", "restart"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 3, "east", "west")
				c.clusters["west"].SetOutside(rotation.Outside{External: 2})
				time.Sleep(2 * time.Hour) // it is seen
				c.begin()
				c.until(stage, 2*day)
				c.clusters["west"].SetOutside(rotation.Outside{External: 5})
				c.clusters["east"].SetOutside(rotation.Outside{Links: []rotation.Link{{Name: "mc/lab", Target: "lab"}}})
				for range 48 {
					time.Sleep(time.Hour)
					c.obey()
					c.sound()
				}
				r := c.rotation()
				waiting := strings.Join(r.WaitingFor, "; ")
				if r.Stage != stage || !strings.Contains(waiting, `Link mc/lab calls "lab"`) || !strings.Contains(waiting, "certd trust advance --outsiders") || strings.Contains(waiting, "ExternalWorkloads") {
					t.Fatalf("two days after the Link was made: %+v", r)
				}
				if _, err := c.loop.SeeToOutsiders("lee@cli", "the lab trusts both", true); err != nil || c.rotation().Stage != stage {
					t.Fatalf("a dry run: %v", err)
				}
				if _, err := c.loop.SeeToOutsiders("lee@cli", "the lab trusts both", false); err != nil {
					t.Fatal(err)
				}
				if _, err := c.loop.SeeToOutsiders("lee@cli", "again", false); !errors.Is(err, rotation.ErrNotNow) {
					t.Errorf("a second time: %v", err)
				}
				c.until("idle", 10*day)
				time.Sleep(day)
				c.ended("g2")
				c.end()
			})
		})
	}
}

// On the way back nobody is waited for: outsiders trust what the fleet goes back to.
func TestOutsidersDoNotHoldTheWayBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 4, "east", "west")
		c.begin()
		c.until("spread", 2*day)
		c.clusters["east"].SetOutside(rotation.Outside{External: 1})
		if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "the VMs know g1 only"); err != nil {
			t.Fatal(err)
		}
		c.until("idle", 10*day)
		c.end()
	})
}
