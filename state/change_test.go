package state

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
	want.TurnedBy, want.Approval = "kim@cli", &rotation.Approval{Actor: "lee@cli", Reason: "seen", At: noon.Add(3 * time.Hour)}
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
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 4 {
		t.Errorf("%+v", r)
	}
	ok(t, j.Close())
}

// An anchor that is forgotten leaves nothing that would keep it from being learnt anew.
func TestAnAnchorIsForgotten(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	recovered := rotation.Intent{Step: rotation.StepRecover, Actor: "certd", Reason: "drill"}
	a, b := rotation.Anchor{ID: "g1", Key: "acme-anchor-1", Certificate: testCertificate(t)}, rotation.Anchor{ID: "g2", Key: "acme-anchor-2", Certificate: testCertificate(t)}
	step(t, j, recovered, rotation.Outcome{Result: rotation.OK, Anchor: &a})
	step(t, j, recovered, rotation.Outcome{Result: rotation.OK, Anchor: &b, Forgotten: []string{"g1"}})
	ok(t, j.Close())
	j = openTest(t, dir, Options{Reserve: -1})
	if all := must[[]rotation.Anchor](t)(j.Anchors()); len(all) != 1 || all[0].ID != "g2" {
		t.Errorf("%+v", all)
	}
	step(t, j, recovered, rotation.Outcome{Result: rotation.OK, Anchor: &a})
	if all := must[[]rotation.Anchor](t)(j.Anchors()); len(all) != 2 || all[0].ID != "g1" {
		t.Errorf("%+v", all)
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

// What is left alone is known to the next certd, and ends with the word that ends it.
func TestPauses(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	record := func(step rotation.Step, all ...rotation.Pause) {
		t.Helper()
		id := must[uint64](t)(j.Begin(rotation.Intent{Step: step, Cluster: "eu", Actor: "lee@cli", Reason: "network"}))
		ok(t, j.Finish(id, rotation.Outcome{Result: rotation.OK, Pauses: &all}))
	}
	if p := must[[]rotation.Pause](t)(j.Pauses()); len(p) != 0 {
		t.Errorf("a new journal has %+v", p)
	}
	record(rotation.StepResume)
	all := []rotation.Pause{
		{At: noon, Actor: "lee@cli", Reason: "network"},
		{Cluster: "eu", At: noon, Until: noon.Add(time.Hour), Actor: "lee@cli", Reason: "network"},
	}
	record(rotation.StepPause, all...)
	ok(t, j.Close())
	j = openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff(all, must[[]rotation.Pause](t)(j.Pauses())); d != "" {
		t.Errorf("after a restart (-want +got):\n%s", d)
	}
	record(rotation.StepResume, all[1:]...)
	record(rotation.StepResume)
	if p := must[[]rotation.Pause](t)(j.Pauses()); len(p) != 0 {
		t.Errorf("left: %+v", p)
	}
	id := must[uint64](t)(j.Begin(rotation.Intent{Step: rotation.StepPause, Actor: "lee@cli", Reason: "network"}))
	if err := j.Finish(id, rotation.Outcome{Result: rotation.OK, Pauses: &[]rotation.Pause{{Reason: string(pemKey(t))}}}); !errors.Is(err, ErrKeyMaterial) {
		t.Errorf("a private key for a reason: %v", err)
	}
	ok(t, j.Close())
}

// A journal of schema 5, of a certd that knew no pauses, is read as it is and
// migrated by whoever writes; that certd may still read it.
func TestSchema5IsMigrated(t *testing.T) {
	if order.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt's files are in the byte order of the machine, and this one is little-endian")
	}
	dir, before := t.TempDir(), must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-5.db")))
	path := writeJournal(t, dir, before)
	check := func(j *Journal) {
		t.Helper()
		n := must[Notifications](t)(j.Notifications())
		if len(n.Outbox) != 1 || n.Outbox[0].ID != "a" || len(n.Notices) != 1 || n.Notices[0].Finding != "ClockSkew" {
			t.Errorf("notifications: %+v", n)
		}
		if c := must[*rotation.Change](t)(j.Change()); c == nil || c.To != "g2" {
			t.Errorf("change: %+v", c)
		}
		if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 5 {
			t.Errorf("%+v", r)
		}
	}
	j := openTest(t, dir, Options{ReadOnly: true})
	check(j)
	if p := must[[]rotation.Pause](t)(j.Pauses()); len(p) != 0 {
		t.Errorf("pauses: %+v", p)
	}
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("reading changed the file")
	}
	j = openTest(t, dir, Options{Reserve: -1})
	check(j)
	id := must[uint64](t)(j.Begin(rotation.Intent{Step: rotation.StepPause, Cluster: "eu", Actor: "lee@cli", Reason: "network"}))
	ok(t, j.Finish(id, rotation.Outcome{Result: rotation.OK, Pauses: &[]rotation.Pause{{Cluster: "eu", At: noon, Actor: "lee@cli", Reason: "network"}}}))
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path+".schema-5"))) {
		t.Error("the copy from before is not what was there")
	}
	older := layout{version: 5, minReader: 4}
	if _, err := open(dir, Options{Fleet: "acme", Reserve: -1}, older); !errors.Is(err, ErrNewer) {
		t.Errorf("a certd of schema 5 writes: %v", err)
	}
	j = must[*Journal](t)(open(dir, Options{Fleet: "acme", ReadOnly: true}, older))
	if c := must[*rotation.Change](t)(j.Change()); c == nil || c.To != "g2" {
		t.Errorf("a certd of schema 5 reads %+v", c)
	}
	ok(t, j.Close())
}

// A journal of schema 6, of a certd whose commits had no number, is read as it is and
// migrated by whoever writes; that certd may still read it.
func TestSchema6IsMigrated(t *testing.T) {
	if order.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt's files are in the byte order of the machine, and this one is little-endian")
	}
	dir, before := t.TempDir(), must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-6.db")))
	path := writeJournal(t, dir, before)
	check := func(j *Journal) {
		t.Helper()
		if p := must[[]rotation.Pause](t)(j.Pauses()); len(p) != 1 || p[0].Cluster != "eu" {
			t.Errorf("pauses: %+v", p)
		}
		if p := must[[]rotation.PendingIntent](t)(j.Pending()); len(p) != 1 || p[0].Cluster != "us" {
			t.Errorf("pending: %+v", p)
		}
		const head = "f738265f590b7fe41f92d681892df3b64b6dfa2a8d60f416ea353f29ebe1f910"
		if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 2 || r.Head != head {
			t.Errorf("%+v", r)
		}
	}
	j := openTest(t, dir, Options{ReadOnly: true})
	check(j)
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("reading changed the file")
	}
	for range 2 {
		j = openTest(t, dir, Options{Reserve: -1})
		check(j)
		ok(t, j.Close())
	}
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path+".schema-6"))) {
		t.Error("the copy from before is not what was there")
	}
	older := layout{version: 6, minReader: 4}
	if _, err := open(dir, Options{Fleet: "acme", Reserve: -1}, older); !errors.Is(err, ErrNewer) {
		t.Errorf("a certd of schema 6 writes: %v", err)
	}
	j = must[*Journal](t)(open(dir, Options{Fleet: "acme", ReadOnly: true}, older))
	check(j)
	ok(t, j.Close())
}

// A journal of schema 7, of a certd whose changes nobody had to approve, is read as it is
// and migrated by whoever writes; that certd may still read it, with an approval in it.
func TestSchema7IsMigrated(t *testing.T) {
	if order.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt's files are in the byte order of the machine, and this one is little-endian")
	}
	dir, before := t.TempDir(), must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-7.db")))
	path := writeJournal(t, dir, before)
	want := rotation.Change{From: "g1", To: "g2", Stage: rotation.StageRetire, Actor: "lee@cli", Reason: "yearly", StartedAt: noon, StageAt: noon.Add(time.Hour), ProvedAt: noon.Add(2 * time.Hour)}
	check := func(j *Journal) {
		t.Helper()
		if d := cmp.Diff(&want, must[*rotation.Change](t)(j.Change())); d != "" {
			t.Errorf("change (-want +got):\n%s", d)
		}
		if p := must[[]rotation.PendingIntent](t)(j.Pending()); len(p) != 1 || p[0].Cluster != "us" {
			t.Errorf("pending: %+v", p)
		}
	}
	const head = "a8c7b3715ce2eea79a9d1b7ee18faf253d923c47b77a36f6fcf3ebc330b66db1"
	j := openTest(t, dir, Options{ReadOnly: true})
	check(j)
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 2 || r.Head != head {
		t.Errorf("%+v", r)
	}
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("reading changed the file")
	}
	j = openTest(t, dir, Options{Reserve: -1})
	check(j)
	approved := want
	approved.Approval = &rotation.Approval{Actor: "kim@cli", Reason: "seen", At: noon.Add(3 * time.Hour)}
	step(t, j, rotation.Intent{Step: rotation.StepTrustChange, Actor: "kim@cli", Reason: "seen"}, rotation.Outcome{Result: rotation.OK, Change: &approved})
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path+".schema-7"))) {
		t.Error("the copy from before is not what was there")
	}
	older := layout{version: 7, minReader: 4}
	if _, err := open(dir, Options{Fleet: "acme", Reserve: -1}, older); !errors.Is(err, ErrNewer) {
		t.Errorf("a certd of schema 7 writes: %v", err)
	}
	want = approved
	j = must[*Journal](t)(open(dir, Options{Fleet: "acme", ReadOnly: true}, older))
	check(j)
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 3 {
		t.Errorf("%+v", r)
	}
	ok(t, j.Close())
}
