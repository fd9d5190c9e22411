package rotation_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

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
					c.sound()
					s := c.loop.Status()
					if s.State != rotation.StateOK || s.Trust.Active == nil || s.Trust.Active.ID != "g2" || len(s.Trust.Others) != 0 {
						t.Errorf("state %s, active %+v, others %+v, rotation %+v, findings %+v", s.State, s.Trust.Active, s.Trust.Others, s.Trust.Rotation, s.Findings)
					}
					for _, cl := range s.Clusters {
						if cl.State != rotation.StateOK || len(cl.Bundle.Anchors) != 1 || cl.Bundle.Anchors[0].ID != "g2" {
							t.Errorf("%s: %s, bundle %+v, findings %+v", cl.Name, cl.State, cl.Bundle, cl.Findings)
						}
					}
					c.holds("after the change")
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
