package scoreboard

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	for text, want := range map[string]Range{"5": {0, 5}, "10:20": {10, 20}} {
		if got, err := ParseRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "0", "5:5", "6:5", "-1", "1:2:3"} {
		if _, err := ParseRange(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestARunWritesDownWhatItCounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "records")
	t.Setenv(Dir, dir)
	t.Setenv(Seeds, "3:6")
	t.Run("line", func(t *testing.T) {
		r := Start(t, "R99", 100)
		for seed := range r.Seeds() {
			r.Add("seeds seen", 1)
			r.Most("largest", float64(seed))
		}
	})
	records, err := Read(dir)
	if err != nil || len(records) != 1 {
		t.Fatalf("%+v, %v", records, err)
	}
	r := records[0]
	if r.Line != "R99" || r.Range != (Range{3, 6}) || r.Counts["seeds seen"] != 3 || r.Largest["largest"] != 5 || r.Failed || len(r.Commit) < 40 {
		t.Errorf("%+v", r)
	}
}

func TestWithoutAWordFromOutsideItIsTheShare(t *testing.T) {
	t.Setenv(Dir, "")
	t.Setenv(Seeds, "")
	r, want := Start(t, "R99", 50), uint64(50)
	if raced {
		want = 10
	}
	if r.Range() != (Range{0, want}) || r.Long() {
		t.Errorf("%+v", r.Range())
	}
	if r.Limit(5); r.Range() != (Range{0, 5}) {
		t.Errorf("%+v", r.Range())
	}
}

func TestRunsOfOneCommitAddUp(t *testing.T) {
	of := func(from, to uint64, change ...func(*Record)) Record {
		r := Record{Line: "R5", Range: Range{from, to}, Commit: "a", Counts: map[string]uint64{"images": to - from}, Largest: map[string]float64{"ms": float64(to)}, Seconds: 1}
		for _, c := range change {
			c(&r)
		}
		return r
	}
	j := Join([]Record{
		of(10, 20), of(0, 10),
		of(5, 15),  // again: counts once
		of(40, 50), // a gap before it
		of(20, 30, func(r *Record) { r.Commit = "b" }),
		of(20, 30, func(r *Record) { r.Line = "R4" }),
	}, "R5", "a")
	if want := []Part{{"", []Range{{0, 20}, {40, 50}}}}; !reflect.DeepEqual(j.Parts, want) || j.Counts["images"] != 30 || j.Largest["ms"] != 50 || len(j.Failed) != 0 {
		t.Errorf("%+v", j)
	}
	if got := j.SeedsText() + "; " + j.CountsText(); got != "seeds 0–19, 40–49; 30 images, ms 50" {
		t.Error(got)
	}
	for _, row := range []struct {
		n, limit uint64
		want     Range
	}{{5, 0, Range{20, 25}}, {100, 0, Range{20, 40}}, {100, 22, Range{20, 22}}, {5, 20, Range{20, 20}}} {
		if got := j.Next("", row.n, row.limit); got != row.want {
			t.Errorf("next %d up to %d: %v, want %v", row.n, row.limit, got, row.want)
		}
	}
	// Each part has seeds of its own; a failure is not hidden by a run that went well.
	in := func(part string) func(*Record) { return func(r *Record) { r.Part = part } }
	j = Join([]Record{of(0, 1000, in("x")), of(0, 2000, in("y")), of(0, 500, in("x"), func(r *Record) { r.Failed = true })}, "R5", "a")
	if got := j.SeedsText(); got != "2 × 1,000 to 2,000" || len(j.Failed) != 1 || j.Next("y", 7, 0) != (Range{2000, 2007}) || j.Next("z", 7, 0) != (Range{0, 7}) {
		t.Errorf("%s, %+v", got, j)
	}
}

func TestCommitTellsOfChanges(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-m", "x")
	clean, err := Commit(dir)
	if err != nil || len(clean) != 40 {
		t.Fatalf("%q, %v", clean, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if changed, err := Commit(dir); err != nil || changed != clean+"-changed" {
		t.Errorf("%q, %v", changed, err)
	}
	if _, err := Commit(t.TempDir()); err == nil || !strings.Contains(err.Error(), "git") {
		t.Errorf("outside of a work tree: %v", err)
	}
}
