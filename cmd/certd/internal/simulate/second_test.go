package simulate

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"certd.internal/rotation"
	"certd.internal/state"
)

// options are of a journal that is saved or restored.
func (h *hard) options() state.Options {
	return state.Options{Fleet: h.policy.Fleet, NoSync: true, Reserve: -1, Now: h.clock}
}

// save copies the journal, as `certd backup` does while certd works.
func (h *hard) save() {
	if h.deaf() {
		return
	}
	data, err := h.journal.Snapshot()
	if err == nil {
		_, err = state.SaveCopy(h.backup(), h.policy.Fleet, data, true)
	}
	if err != nil {
		h.wrong("the journal is not saved: %v", err)
		return
	}
	h.saved = h.now
	h.say("the journal is saved")
}

func (h *hard) backup() string { return filepath.Join(h.copies, "backup.db") }

// afflictJournals has older copies of the journal come back: in place of the one in use, or
// for another certd, which somebody begins elsewhere without having ended the first.
func (h *hard) afflictJournals(longest time.Duration) {
	h.sometimes("saved", 60*day, h.save)
	h.sometimes("restored", 500*day, func() {
		if h.loop == nil || h.saved.IsZero() {
			return
		}
		h.die("the journal of %s is restored", h.saved.Format(time.DateTime))
		h.at(h.now.Add(time.Minute), func() {
			if h.loop != nil { // somebody was quicker
				return
			}
			if _, err := state.Restore(h.dir, h.backup(), h.options(), "lee@cli", "drill", false); err != nil {
				h.wrong("the journal is not restored: %v", err)
			}
			h.lost, h.approvals.other = true, true
			h.rise()
		})
	})
	h.sometimes("second", 100*day, func() {
		if h.deaf() || h.other != nil {
			return
		}
		if h.saved.IsZero() || h.chance.IntN(2) == 0 {
			h.save()
		}
		d := time.Duration(h.chance.Float64() * float64(longest))
		if h.chance.IntN(2) == 0 {
			d = time.Duration(h.chance.IntN(3600)) * time.Second
		}
		stays := h.chance.IntN(2) == 0
		h.say("another certd begins with the journal of %s, for %s", h.saved.Format(time.DateTime), d)
		h.double()
		h.at(h.now.Add(d), func() { h.part(stays) })
		if d > time.Hour {
			h.at(h.now.Add(time.Duration(h.chance.Float64()*float64(d))), h.steerOther)
		}
	})
}

// double has another certd begin, on a host of its own.
func (h *hard) double() {
	dir, err := os.MkdirTemp(inMemory(), "certd-simulation-")
	if err != nil {
		h.t.Fatal(err)
	}
	d := &daemon{in: &h.kernel, dir: dir}
	o := h.options()
	o.Now = d.clock
	if _, err := state.Restore(dir, h.backup(), o, "lee@cli", "drill", false); err != nil {
		h.wrong("the journal is not restored elsewhere: %v", err)
		return
	}
	h.lost, h.torn, h.other = true, true, d // neither journal knows what the other certd does
	h.acting = d
	defer func() { h.acting = nil }()
	if err = d.open(h.policy.Fleet); err == nil {
		err = h.start(d)
	}
	if err != nil {
		h.wrong("the other certd does not start: %v", err)
	}
}

// steerOther has people turn around the change of the trust anchor that the other certd has, or
// begin one there.
func (h *hard) steerOther() {
	d := h.other
	if d == nil || d.loop == nil {
		return
	}
	h.acting = d
	defer func() { h.acting = nil }()
	if d.loop.Status().Trust.Rotation.Stage != "" {
		_, err := d.loop.SteerChange(rotation.ChangeRollback, nil, "kim@cli", "drill")
		h.say("the other certd's change is turned around: %t", err == nil)
		return
	}
	err := d.loop.CheckChange()
	if err == nil {
		var next rotation.Anchor
		next, err = (rotation.Ceremony{Journal: d.journal, Creator: h.keys, Signer: h.keys, Policy: h.policy, Actor: "kim@cli", Reason: "drill", Say: func(string, ...any) {}}).Next(h.ctx)
		if err == nil {
			err = d.loop.BeginChange(next, "kim@cli", "drill", false)
		}
	}
	h.say("the other certd's trust anchor is to be changed: %t", err == nil)
}

// part ends one of two certds: the first, or the one that was begun beside it. Who stays is
// started anew, since it may have been told that the fleet is another's.
func (h *hard) part(firstStays bool) {
	if h.other == nil {
		return
	}
	gone := h.other
	if h.die("one of two certds is ended, the first one stays: %t", firstStays); !firstStays {
		gone, h.daemon = h.daemon, h.other
		if err := h.stop(); err != nil {
			h.wrong("the journal is not closed: %v", err)
		}
	}
	h.other, h.approvals.other = nil, true
	if err := gone.stop(); err != nil {
		h.wrong("the journal is not closed: %v", err)
	}
	if err := os.RemoveAll(gone.dir); err != nil {
		h.t.Fatal(err)
	}
	h.at(h.now.Add(5*time.Second), h.rise)
}

// startLast starts certd anew where another one, which is gone, keeps it from a cluster: the one
// that is to go on is started last.
func (h *hard) startLast() {
	if h.loop == nil || h.other != nil || !slices.ContainsFunc(h.loop.Status().Clusters, func(c rotation.ClusterStatus) bool {
		return slices.ContainsFunc(c.Findings, func(f rotation.Finding) bool { return f.ID == "Deposed" })
	}) {
		return
	}
	h.die("certd is to be the one that was started last")
	h.advance(h.now.Add(10 * time.Second))
	h.rise()
}

// secondActs says whether it is the other certd that does something: nothing befalls it.
func (h *hard) secondActs() bool {
	return h.world != nil && h.acting != nil && h.acting == h.other
}

// ahead is how much later it is by the clock of who acts than it is.
func (h *hard) ahead() time.Duration {
	if h.secondActs() {
		return h.other.machine.ahead
	}
	return h.machine.ahead
}
