package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"certd.internal/rotation"
)

// saved is a copy of the journal in dir.
func saved(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	j := must[*Journal](t)(Open(dir, Options{ReadOnly: true}))
	defer j.Close()
	_, err := SaveCopy(path, "acme", must[[]byte](t)(j.Snapshot()), false)
	ok(t, err)
	return path
}

func TestASavedCopyIsTheJournal(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	path := saved(t, dir)
	if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	j := openTest(t, dir, Options{ReadOnly: true})
	want := must[string](t)(readAll(j))
	report := must[Report](t)(j.Verify())
	c := must[Contents](t)(Inspect(path, "acme"))
	if c.Fleet != "acme" || c.Entries != report.Entries || c.Last != report.Last || c.Head != report.Head || c.Epoch != j.Epoch() ||
		len(c.Anchors) != 2 || c.Change == nil || c.Clusters != 3 || c.Pending != 3 || !c.At.After(noon) {
		t.Errorf("%+v", c)
	}
	other := t.TempDir()
	ok(t, os.Rename(path, filepath.Join(other, fileName)))
	if got := must[string](t)(readAll(openTest(t, other, Options{ReadOnly: true}))); got != want {
		t.Error("the copy reads as something else")
	}
	if left := must[[]string](t)(filepath.Glob(filepath.Join(filepath.Dir(path), "*"))); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// While certd writes, a copy is what stood there between two writes.
func TestCopiesUnderARunningCertd(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{NoSync: true, Reserve: -1})
	var writing sync.WaitGroup
	stop := make(chan struct{})
	writing.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			cert := issuer("eu", strings.Repeat("a", n%50+1), noon.Add(time.Duration(n)*time.Hour))
			step(t, j, signing("eu", cert.Serial), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
		}
	})
	path := filepath.Join(t.TempDir(), "copy.db")
	var last uint64
	for range 8 {
		c, err := SaveCopy(path, "acme", must[[]byte](t)(j.Snapshot()), true)
		ok(t, err)
		if c.Last < last {
			t.Errorf("a later copy ends with entry %d, an earlier one with %d", c.Last, last)
		}
		last = c.Last
	}
	close(stop)
	writing.Wait()
	if last == 0 {
		t.Error("nothing was written meanwhile")
	}
}

func TestACopyIsRefused(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	good := must[[]byte](t)(os.ReadFile(saved(t, dir)))
	changed := filepath.Join(t.TempDir(), "changed.db")
	ok(t, os.WriteFile(changed, good, 0o600))
	tamper(t, changed, func(tx *bbolt.Tx) {
		b := tx.Bucket([]byte(bucketEntries))
		key, value := b.Cursor().Last()
		ok(t, b.Put(key, bytes.Replace(value, []byte("due by schedule"), []byte("due by calendar"), 1)))
	})
	withKey := append(bytes.Clone(good), make([]byte, filePageSize)...)
	copy(withKey[len(good):], "-----BEGIN EC PRIVATE KEY-----")
	for name, row := range map[string]struct {
		data  []byte
		fleet string
		want  error
	}{
		"cut off":                       {good[:len(good)-filePageSize], "acme", ErrDamaged},
		"a changed record":              {must[[]byte](t)(os.ReadFile(changed)), "acme", ErrDamaged},
		"empty":                         {nil, "acme", ErrDamaged},
		"something else":                {bytes.Repeat([]byte("hello\n"), 9999), "acme", ErrForeign},
		"of another fleet":              {good, "globex", ErrForeign},
		"a private key in unused space": {withKey, "acme", ErrKeyMaterial},
	} {
		path := filepath.Join(t.TempDir(), "copy.db")
		if _, err := SaveCopy(path, row.fleet, row.data, false); !errors.Is(err, row.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s, saved: %v", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file is there all the same", name)
		}
		ok(t, os.WriteFile(path, row.data, 0o600))
		target := t.TempDir()
		j := openTest(t, target, Options{Fleet: row.fleet})
		ok(t, j.Close())
		before := must[[]byte](t)(os.ReadFile(filepath.Join(target, fileName)))
		if _, err := Restore(target, path, Options{Fleet: row.fleet}, "lee", "", false); !errors.Is(err, row.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s, restored: %v", name, err)
		}
		if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(filepath.Join(target, fileName)))) {
			t.Errorf("%s: refused, and the journal changed all the same", name)
		}
	}
	path := saved(t, dir)
	if _, err := SaveCopy(path, "acme", good, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if _, err := SaveCopy(t.TempDir(), "acme", good, true); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a folder: %v", err)
	}
	if _, err := SaveCopy(path, "acme", good, true); err != nil {
		t.Errorf("told to replace it: %v", err)
	}
}

func TestRestore(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	path := saved(t, dir)
	before := must[Contents](t)(Inspect(path, "acme"))
	j := openTest(t, dir, Options{Reserve: -1})
	step(t, j, signing("eu", "99"), rotation.Outcome{Result: rotation.OK})
	epoch := must[uint64](t)(j.RaiseEpoch(uint64(noon.Unix()) + 1000))
	if _, err := Restore(dir, path, Options{Fleet: "acme"}, "lee@cli", "", false); !errors.Is(err, ErrLocked) {
		t.Errorf("under a running certd: %v", err)
	}
	if _, err := Restore(dir, path, Options{Fleet: "acme"}, "lee@cli", "", true); !errors.Is(err, ErrLocked) {
		t.Errorf("a rehearsal under a running certd: %v", err)
	}
	ok(t, j.Close())
	if _, err := Restore(dir, filepath.Join(dir, fileName), Options{Fleet: "acme"}, "lee@cli", "", false); err == nil {
		t.Error("the journal itself was taken for a copy of it")
	}

	o := Options{Fleet: "acme", Now: func() time.Time { return noon }}
	was := must[[]byte](t)(os.ReadFile(filepath.Join(dir, fileName)))
	would := must[Restoring](t)(Restore(dir, path, o, "lee@cli", "the disk was replaced", true))
	if would.From.Head != before.Head || would.Present == nil || would.Present.Last != before.Last+1 || !bytes.Equal(was, must[[]byte](t)(os.ReadFile(filepath.Join(dir, fileName)))) {
		t.Errorf("a rehearsal: %+v", would)
	}
	r := must[Restoring](t)(Restore(dir, path, o, "lee@cli", "the disk was replaced", false))
	if !bytes.Equal(was, must[[]byte](t)(os.ReadFile(r.Aside))) {
		t.Error("what was there was not kept")
	}
	if r.Epoch <= epoch {
		t.Errorf("epoch %d after one of %d: an earlier daemon's late write would land", r.Epoch, epoch)
	}
	now := must[Contents](t)(Inspect(filepath.Join(dir, fileName), "acme"))
	if now.Last != before.Last+1 || now.Epoch != r.Epoch {
		t.Errorf("restored: %+v", now)
	}
	j = openTest(t, dir, Options{Reserve: -1})
	entries := must[[]rotation.Entry](t)(j.Entries(Filter{Limit: 1}))
	if e := entries[0]; e.PrevHash != before.Head || e.Intent.Step != rotation.StepRestore || e.Intent.Actor != "lee@cli" || !strings.Contains(e.Intent.Reason, "the disk was replaced") {
		t.Errorf("the history says %+v", e)
	}
	ok(t, j.Close())
	// What was kept is a copy like any other: this is how to undo it.
	ok(t, os.Remove(path))
	undone := must[Restoring](t)(Restore(dir, r.Aside, o, "lee@cli", "", false))
	if undone.From.Last != before.Last+1 || undone.Epoch <= r.Epoch {
		t.Errorf("undone: %+v", undone)
	}
	if left := must[[]string](t)(filepath.Glob(filepath.Join(dir, "certd.restore-*"))); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What the stages of a change need was proved before the copy was made, and may have come
// undone since.
func TestRestoreHasAChangeBeginAnew(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	want := rotation.Change{From: "g1", To: "g2", Stage: rotation.StageFinish, Actor: "lee@cli", Reason: "yearly", StartedAt: noon, StageAt: noon.Add(time.Hour), First: "eu", CanaryAt: noon.Add(2 * time.Hour), ProvedAt: noon.Add(3 * time.Hour)}
	step(t, j, rotation.Intent{Step: rotation.StepTrustChange, Actor: "lee@cli", Reason: "yearly"}, rotation.Outcome{Result: rotation.OK, Change: &want})
	ok(t, j.Close())
	path := saved(t, dir)
	later := noon.Add(5 * time.Hour)
	must[Restoring](t)(Restore(dir, path, Options{Fleet: "acme", Now: func() time.Time { return later }}, "lee@cli", "", false))
	want.Stage, want.StageAt, want.CanaryAt, want.ProvedAt = rotation.StageBridge, later, time.Time{}, time.Time{}
	j = openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff(&want, must[*rotation.Change](t)(j.Change())); d != "" {
		t.Errorf("change (-want +got):\n%s", d)
	}
	ok(t, j.Close())
}

func TestRestoreWhereThereIsNoJournalOrADamagedOne(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	path := saved(t, dir)
	fresh := filepath.Join(t.TempDir(), "state")
	if r, err := Restore(fresh, path, Options{Fleet: "acme"}, "lee@cli", "", true); err != nil || r.Present != nil || r.Unreadable != nil {
		t.Errorf("a rehearsal: %+v, %v", r, err)
	}
	if _, err := os.Stat(fresh); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a rehearsal made the folder: %v", err)
	}
	if r, err := Restore(fresh, path, Options{Fleet: "acme"}, "lee@cli", "", false); err != nil || r.Aside != "" {
		t.Errorf("%+v, %v", r, err)
	}
	ok(t, openTest(t, fresh, Options{}).Close())

	writeJournal(t, dir, []byte("hello"))
	r := must[Restoring](t)(Restore(dir, path, Options{Fleet: "acme"}, "lee@cli", "", false))
	if !errors.Is(r.Unreadable, ErrDamaged) || string(must[[]byte](t)(os.ReadFile(r.Aside))) != "hello" {
		t.Errorf("over a damaged one: %+v", r)
	}
	ok(t, openTest(t, dir, Options{}).Close())
}

// A copy that an earlier certd made is restored, and brought to this schema.
func TestRestoreACopyOfSchema1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	ok(t, os.WriteFile(path, schema1(t), 0o600))
	dir := t.TempDir()
	r := must[Restoring](t)(Restore(dir, path, Options{Fleet: "acme", Reserve: -1}, "lee@cli", "", false))
	if r.From.Schema != 1 {
		t.Errorf("schema %d", r.From.Schema)
	}
	if c := must[Contents](t)(Inspect(filepath.Join(dir, fileName), "acme")); c.Schema != currentLayout().version || c.Last != r.From.Last+1 {
		t.Errorf("%+v", c)
	}
}

// A copy with one bit flipped, or cut off, at any of two thousand places: it is
// refused, or it is the journal to the last record.
func TestDamagedCopiesAreNoticedOrHarmless(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	good := must[[]byte](t)(os.ReadFile(saved(t, dir)))
	open := func(data []byte) (string, error) {
		writeJournal(t, dir, data)
		if _, err := Inspect(filepath.Join(dir, fileName), "acme"); err != nil {
			return "", err
		}
		j, err := Open(dir, Options{ReadOnly: true})
		if err != nil {
			return "", err
		}
		defer j.Close()
		return readAll(j)
	}
	want := must[string](t)(open(good))
	random := rand.New(rand.NewPCG(3, 4))
	noticed := 0
	for n := range 2000 {
		data, what := bytes.Clone(good), ""
		if n%4 == 0 {
			at := random.IntN(len(data))
			data, what = data[:at], fmt.Sprintf("cut off after %d bytes", at)
		} else {
			at, bit := random.IntN(len(data)), byte(1)<<random.IntN(8)
			data[at] ^= bit
			what = fmt.Sprintf("bit %#x at %d", bit, at)
		}
		switch got, err := open(data); {
		case err != nil && !isKnown(err):
			t.Errorf("%s: %v", what, err)
		case err != nil:
			noticed++
		case got != want:
			t.Errorf("%s: read as something else, without an error", what)
		}
	}
	if noticed < 500 {
		t.Errorf("only %d were noticed", noticed)
	}
	t.Logf("%d of 2000 were noticed, the others in unused space", noticed)
}
