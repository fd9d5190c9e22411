package rotation_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// backup saves the journal, as `certd backup` does while the daemon works.
func (w *world) backup() string {
	w.t.Helper()
	data, err := w.journal.Snapshot()
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(journalDir(w.t), "backup.db")
	if _, err := state.SaveCopy(path, "acme", data, false); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// restore ends the daemon and puts a backup in its journal's place.
func (w *world) restore(path string) {
	w.t.Helper()
	w.end()
	if _, err := state.Restore(w.dir, path, state.Options{Fleet: "acme", NoSync: true, Reserve: -1}, "test", "", false); err != nil {
		w.t.Fatal(err)
	}
}

// A backup that is older than the world: it was made in one stage of a change of
// the trust anchor, or before it, and is restored in a later one, or after it.
// certd goes on from what the world shows: nobody is refused, and the change
// comes to the end it would have had.
func TestARestoredJournalIsOlderThanTheWorld(t *testing.T) {
	t.Parallel()
	stages := []string{"idle", "bridge", "spread", "restart", "finish", "retire", "over"}
	row := -1
	for from, saved := range stages {
		for to, restored := range stages {
			if to != from+1 && (to <= from || restored != "over") { // in the next one, and after the end
				continue
			}
			row++
			if thinned(row, 11) {
				continue
			}
			t.Run(fmt.Sprintf("saved in %s, restored in %s", saved, restored), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := newChanging(t, uint64(row), "east", "west")
					backup := ""
					if saved == "idle" {
						backup = c.backup()
						time.Sleep(8 * day) // issuers are renewed
					}
					c.begin()
					for _, stage := range stages[1:] {
						if stage == "over" {
							c.until("idle", 12*day)
						} else {
							c.until(stage, 10*day)
						}
						if stage == saved {
							time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
							backup = c.backup()
						}
						if stage == restored {
							break
						}
					}
					time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
					if restored == "over" {
						time.Sleep(day)
					}
					before := c.restarts()
					c.restore(backup)
					c.start()
					time.Sleep(10 * time.Minute)
					c.sound()
					c.until("idle", 14*day)
					time.Sleep(day)
					c.stands("g2")
					if restored == "over" {
						for name, places := range c.restarts() {
							for place, n := range places {
								if n -= before[name][place]; n > 0 {
									t.Errorf("%s in %s was created anew %d times after the change was over", place, name, n)
								}
							}
						}
					}
					c.end()
				})
			})
		}
	}
}

// A backup that is older still: since then one change of the trust anchor has ended, and
// another is under way, of which the journal knows nothing. What it does know, the world has
// left behind: certd goes on with what the world shows, and nobody is refused.
func TestARestoredJournalIsFromBeforeAnotherChange(t *testing.T) {
	t.Parallel()
	row := -1
	for _, saved := range []string{"idle", "bridge", "finish"} {
		for _, turned := range []bool{false, true} {
			for _, restored := range []string{"bridge", "spread", "restart", "finish", "retire", "over"} {
				row++
				if thinned(row, 36) {
					continue
				}
				t.Run(fmt.Sprintf("saved in %s, turned around: %t, restored in %s", saved, turned, restored), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						c := newChanging(t, uint64(row), "east", "west")
						backup := ""
						if saved == "idle" {
							backup = c.backup()
						}
						c.begin()
						if saved != "idle" {
							c.until(saved, 10*day)
							time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
							backup = c.backup()
						}
						if turned {
							if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "drill"); err != nil {
								t.Fatal(err)
							}
						}
						c.until("idle", 12*day)
						time.Sleep(day)
						c.begin()
						if restored == "over" {
							c.until("idle", 12*day)
							time.Sleep(day)
						} else {
							c.until(restored, 10*day)
						}
						time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
						c.restore(backup)
						c.start()
						time.Sleep(10 * time.Minute)
						c.sound()
						c.until("idle", 14*day)
						time.Sleep(day)
						c.stands("g3")
						c.end()
					})
				})
			}
		}
	}
}

// As above, and one cluster was left behind by the change that has ended. What it has, is found
// when it comes back: nothing is done there until it can be brought along.
func TestARestoredJournalKnowsNotWhoWasLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 15, "east", "north", "west")
		backup := c.backup()
		c.begin()
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		for _, stage := range []string{"retire", "idle"} {
			if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "it burnt"); err != nil {
				t.Fatal(err)
			}
			c.alone(stage)
		}
		c.begin()
		c.alone("spread")
		c.restore(backup)
		c.start()
		time.Sleep(10 * time.Minute)
		if r := c.rotation(); r.From != "g2" || r.To != "g3" {
			t.Fatalf("%+v", r)
		}
		c.mesh.ForgetViolations()
		c.clusters["west"].SetFaults(nil)
		time.Sleep(10 * time.Minute)
		if _, ok := c.finding("west", "LeftBehind"); !ok {
			t.Errorf("west is back: %+v", c.cluster("west").Findings)
		}
		c.alone("idle") // the change that begins at once to bring it along, too
		for _, v := range c.mesh.ForgetViolations() {
			if n := strings.Count(v.Text, " in west"); n != 1 { // east, north and west refuse each other, none itself
				t.Errorf("%s: %s", v.At.Format(time.RFC3339), v.Text)
			}
		}
		time.Sleep(day)
		c.stands("g3")
		c.end()
	})
}

// A journal is restored that is from before a cluster was brought along which the others had been
// changed without: nothing is begun for it, and it is known to have what they have.
func TestARestoredJournalKnowsNotWhoWasBroughtAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 16, "east", "north", "west")
		c.begin()
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		for _, stage := range []string{"retire", "idle"} {
			if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "it burnt"); err != nil {
				t.Fatal(err)
			}
			c.alone(stage)
		}
		backup := c.backup()
		c.clusters["west"].SetFaults(nil)
		time.Sleep(6 * time.Minute)
		c.alone("idle")
		time.Sleep(day)
		c.mesh.ForgetViolations()
		before := c.clusters["west"].Writes()
		c.restore(backup)
		c.start()
		for range 60 {
			time.Sleep(time.Minute)
			if r := c.rotation(); r.Phase != "idle" {
				t.Fatalf("%+v", r)
			}
		}
		if got := c.clusters["west"].Writes(); !maps.Equal(got, before) {
			t.Errorf("writes %v, before %v", got, before)
		}
		c.stands("g2")
		c.end()
	})
}

// turnedElsewhere has another certd go on with a backup, in a folder of its own, and its people
// turn the change around.
func (c *changing) turnedElsewhere(backup string) {
	c.t.Helper()
	c.dir = journalDir(c.t)
	c.restore(backup)
	c.start()
	if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "kim@cli", "drill"); err != nil {
		c.t.Fatal(err)
	}
}

// backIn starts the first certd again, in its own folder: the change from g1 to g2 begins anew, and
// comes to its end.
func (c *changing) backIn(first string) {
	c.t.Helper()
	c.end()
	c.dir = first
	c.start()
	time.Sleep(10 * time.Minute)
	c.sound()
	if r := c.rotation(); r.Stage != "bridge" || r.From != "g1" {
		c.t.Errorf("%+v", r)
	}
	c.until("idle", 14*day)
	time.Sleep(day)
	c.stands("g2")
	c.end()
}

// Amid a change of the trust anchor, another certd goes on with a backup elsewhere, and its people
// turn the change around. The first one is started again, which knows nothing of that: what it
// has proved of a stage has come undone, and it goes through all of them anew.
func TestAnotherCertdHasUndoneTheChange(t *testing.T) {
	t.Parallel()
	for row, stage := range []string{"spread", "restart", "finish", "retire"} {
		for _, undone := range []string{"partly", "wholly"} {
			if thinned(2*row, 8) {
				continue
			}
			t.Run(stage+", "+undone, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := newChanging(t, uint64(row), "east", "west")
					c.begin()
					c.until(stage, 10*day)
					time.Sleep(time.Duration(1+c.chance.IntN(9)) * time.Minute)
					backup, first := c.backup(), c.dir
					c.turnedElsewhere(backup)
					if undone == "wholly" {
						c.until("idle", 12*day)
					} else {
						c.until("spread", 12*day)
						time.Sleep(time.Duration(c.chance.IntN(240)) * time.Minute)
					}
					c.backIn(first)
				})
			})
		}
	}
}

// Another certd, with a journal from amid a change of the trust anchor, turns it around after the
// first has ended it. The change begins anew: pods trust the old anchor alone again.
func TestAnotherCertdHasUndoneAChangeThatIsOver(t *testing.T) {
	t.Parallel()
	for row, undone := range []string{"to the bridge", "partly", "wholly"} {
		t.Run(undone, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, uint64(row), "east", "west")
				c.begin()
				c.until("retire", 12*day)
				backup, first := c.backup(), c.dir
				c.until("idle", 12*day)
				c.turnedElsewhere(backup)
				switch undone {
				case "wholly":
					c.until("idle", 12*day)
				case "partly":
					c.until("restart", 12*day)
					time.Sleep(time.Duration(c.chance.IntN(240)) * time.Minute)
				default:
					time.Sleep(time.Hour)
				}
				c.backIn(first)
			})
		})
	}
}

// Whoever may write to one cluster, and has no key, does not make the fleet trust an anchor again
// that was retired.
func TestARetiredAnchorIsNotUsedAgainForItsCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 9, "east", "west")
		old := c.bundleOf("east")
		c.begin()
		c.until("idle", 12*day)
		time.Sleep(day)
		c.clusters["east"].Edit(rotation.BundleObject, "certd", func(data map[string][]byte, m *rotation.Marks) {
			data["ca-bundle.crt"] = append([]byte(old), data["ca-bundle.crt"]...)
			m.Epoch++
		})
		for range 60 {
			time.Sleep(time.Minute)
			if r := c.rotation(); r.Phase != "idle" {
				t.Fatalf("%+v", r)
			}
			if strings.Contains(c.bundleOf("west"), strings.TrimSpace(old)) {
				t.Fatal("west trusts it again")
			}
		}
		c.end()
	})
}

// While bundles turn, somebody puts an issuer back that is from before the change. Leaves of it verify
// under the old anchor alone, so that no bundle may lose that before they have ended.
func TestAnIssuerFromBeforeTheChangeIsPutBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 31, "east", "west")
		old := c.clusters["west"].Data(rotation.IssuerObject)
		c.begin()
		c.until("spread", 10*day)
		time.Sleep(time.Minute)
		c.clusters["west"].Edit(rotation.IssuerObject, "velero", func(data map[string][]byte, _ *rotation.Marks) { maps.Copy(data, old) })
		back := time.Now()
		c.mesh.ForgetViolations() // velero's
		time.Sleep(10 * time.Minute)
		if r := c.rotation(); r.Stage != "bridge" || !strings.Contains(strings.Join(r.WaitingFor, " "), "leaves") {
			t.Errorf("%+v", r)
		}
		for c.rotation().Stage == "bridge" {
			time.Sleep(time.Minute)
			c.obey()
			c.sound()
		}
		if d := time.Since(back); d < leaf {
			t.Errorf("it goes on after %s, and leaves live for %s", d, leaf)
		}
		c.until("idle", 12*day)
		time.Sleep(day)
		c.leads("g2")
		c.end()
	})
}

// The same in the bridge, once every cluster had an issuer with two certificates, and the wait for
// the last leaf from before had begun: it begins anew.
func TestAnIssuerFromBeforeTheChangeIsPutBackInTheBridge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 32, "east", "west")
		old := c.clusters["west"].Data(rotation.IssuerObject)
		c.begin()
		for c.rotation().ProvedAt == nil {
			time.Sleep(time.Minute)
		}
		time.Sleep(leaf / 2)
		c.clusters["west"].Edit(rotation.IssuerObject, "velero", func(data map[string][]byte, _ *rotation.Marks) { maps.Copy(data, old) })
		back := time.Now()
		c.until("spread", 10*day)
		if d := time.Since(back); d < leaf {
			t.Errorf("bundles turn after %s, and leaves live for %s", d, leaf)
		}
		c.until("idle", 12*day)
		time.Sleep(day)
		c.leads("g2")
		c.end()
	})
}
