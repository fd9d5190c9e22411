// Package scoreboard lets a test tell what it measured: how many seeds it went
// through, and what it counted on the way. `make test` runs a share of each
// line, `make scoreboard` the long form of the same test, and prints what the
// runs themselves wrote down.
package scoreboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What a long run is told through its environment.
const (
	// Dir is the variable that names the folder for records; without it nothing
	// is written down.
	Dir = "CERTD_SCOREBOARD"
	// Seeds is the variable that names the seeds, "from:to" or a number of them
	// from 0 on; without it a test takes the share that it brings.
	Seeds = "CERTD_SEEDS"
)

// Range is the seeds from From on, To excluded.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Len is how many seeds there are in r.
func (r Range) Len() uint64 { return r.To - r.From }

// ParseRange reads "from:to" or a number of seeds.
func ParseRange(text string) (Range, error) {
	from, to, both := strings.Cut(text, ":")
	if !both {
		from, to = "0", text
	}
	low, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return Range{}, fmt.Errorf("seeds %q: want FROM:TO or a number of seeds", text)
	}
	high, err := strconv.ParseUint(to, 10, 64)
	if err != nil || high <= low {
		return Range{}, fmt.Errorf("seeds %q: want FROM:TO, FROM less than TO, or a number of seeds", text)
	}
	return Range{low, high}, nil
}

// Record is what one run of one line measured.
type Record struct {
	Line string `json:"line"` // "R5"
	// Part is what the seeds belong to where a line has several, such as a fuzz
	// target; seeds of different parts have nothing to do with each other.
	Part string `json:"part,omitempty"`
	Range
	Commit  string             `json:"commit"`
	Raced   bool               `json:"raced,omitempty"` // the race detector was on
	Failed  bool               `json:"failed,omitempty"`
	Counts  map[string]uint64  `json:"counts"`         // add up over runs
	Largest map[string]float64 `json:"most,omitempty"` // of which the largest counts
	Began   time.Time          `json:"began"`
	Seconds float64            `json:"seconds"`
}

// Run counts for one line of the scoreboard. It is safe for concurrent use.
type Run struct {
	t     testing.TB
	began time.Time

	mu     sync.Mutex
	record Record
}

// Start begins a line's run: over the seeds that the environment names, else
// over the first share of them, of which the race detector leaves a fifth. When
// the test ends the record is written.
func Start(t testing.TB, line string, share uint64) *Run {
	t.Helper()
	if raced {
		share = (share + 4) / 5
	}
	r := &Run{t: t, began: time.Now(), record: Record{Line: line, Range: Range{0, share}, Raced: raced, Counts: map[string]uint64{}, Largest: map[string]float64{}}}
	if text := os.Getenv(Seeds); text != "" {
		var err error
		if r.record.Range, err = ParseRange(text); err != nil {
			t.Fatalf("$%s: %v", Seeds, err)
		}
	}
	t.Cleanup(r.finish)
	return r
}

// Long tells whether this is a run for the scoreboard, not a share of `make test`.
func (r *Run) Long() bool { return os.Getenv(Seeds) != "" }

// Seeds goes through the run's seeds.
func (r *Run) Seeds() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for seed := r.record.From; seed < r.record.To; seed++ {
			if !yield(seed) {
				return
			}
		}
	}
}

// Range is the run's seeds.
func (r *Run) Range() Range { return r.record.Range }

// Limit leaves out what lies beyond the last seed that there is.
func (r *Run) Limit(all uint64) {
	r.record.To = min(r.record.To, all)
	r.record.From = min(r.record.From, r.record.To)
}

// Add counts n more of what.
func (r *Run) Add(what string, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Counts[what] += n
}

// Most keeps the largest value of what; its unit is in its name.
func (r *Run) Most(what string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.record.Largest[what]; !ok || value > was {
		r.record.Largest[what] = value
	}
}

func (r *Run) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.Began, r.record.Seconds = r.began.UTC().Round(0), time.Since(r.began).Seconds()
	r.record.Failed = r.t.Failed()
	r.t.Log(r.record.String())
	dir := os.Getenv(Dir)
	if dir == "" {
		return
	}
	var err error
	if r.record.Commit, err = Commit("."); err == nil {
		err = Write(dir, r.record)
	}
	if err != nil {
		r.t.Errorf("write down what was measured: %v", err)
	}
}

// String is the record in one line.
func (r Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: seeds %d to %d", r.Line, r.From, r.To)
	for _, what := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(&b, ", %d %s", r.Counts[what], what)
	}
	for _, what := range slices.Sorted(maps.Keys(r.Largest)) {
		fmt.Fprintf(&b, ", %s %.4g", what, r.Largest[what])
	}
	return b.String()
}

// Write puts a record into dir, in a file of its own, whole or not at all.
func Write(dir string, r Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	part := strings.NewReplacer("/", "-", " ", "-").Replace(r.Part)
	f, err := os.CreateTemp(dir, fmt.Sprintf(".%s-%s-%d-%d-*", r.Line, part, r.From, r.To))
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, strings.TrimPrefix(filepath.Base(f.Name()), ".")+".json"))
}

// Read returns the records in dir, none where there is no such folder.
func Read(dir string) ([]Record, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var records []Record
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var r Record
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("record %s: %w", name, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// Commit is the commit of the work tree around dir; "-changed" is added where
// files differ from it, so that nothing is said of a commit that is not there.
func Commit(dir string) (string, error) {
	git := func(args ...string) ([]byte, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
		}
		return bytes.TrimSpace(out), nil
	}
	head, err := git("rev-parse", "HEAD")
	if err != nil {
		return "", err
	}
	changes, err := git("status", "--porcelain", "--untracked-files=normal")
	if err != nil {
		return "", err
	}
	if len(changes) > 0 {
		head = append(head, "-changed"...)
	}
	return string(head), nil
}
