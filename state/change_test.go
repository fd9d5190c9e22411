package state

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

// A change of the trust anchor is there from the moment it is recorded until
// its end is, also after the file was closed.
func TestChangeOfTrust(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	put := func(c rotation.Change) {
		t.Helper()
		step(t, j, rotation.Intent{Step: rotation.StepTrustChange, Actor: "lee@cli", Reason: "drill"}, rotation.Outcome{Result: rotation.OK, Change: &c})
	}
	if c := must[*rotation.Change](t)(j.Change()); c != nil {
		t.Errorf("before there is one: %+v", c)
	}
	want := rotation.Change{From: "g1", To: "g2", Stage: rotation.StageBridge, Actor: "lee@cli", Reason: "drill", StartedAt: noon, StageAt: noon}
	put(want)
	want.Stage, want.StageAt, want.Without, want.ProvedAt = rotation.StageSpread, noon.Add(time.Hour), []string{"eu"}, noon.Add(2*time.Hour)
	put(want)
	ok(t, j.Close())
	j = openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff(&want, must[*rotation.Change](t)(j.Change())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	put(rotation.Change{From: "g1", To: "g2"})
	if c := must[*rotation.Change](t)(j.Change()); c != nil {
		t.Errorf("after its end: %+v", c)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 3 {
		t.Errorf("%+v", r)
	}
	ok(t, j.Close())
}

// A file of an older schema has no change in it, also where it is only read.
func TestNoChangeInAnOlderFile(t *testing.T) {
	dir := t.TempDir()
	writeJournal(t, dir, schema1(t))
	j := openTest(t, dir, Options{ReadOnly: true})
	if c := must[*rotation.Change](t)(j.Change()); c != nil {
		t.Errorf("%+v", c)
	}
	ok(t, j.Close())
}
