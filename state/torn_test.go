package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"

	"certd.internal/.ci/scoreboard"
	"certd.internal/rotation"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// diskWrite is one write that bbolt asked the kernel for.
type diskWrite struct {
	at   int64
	data []byte
}

func (w diskWrite) isMeta() bool { return w.at < 2*filePageSize }

// commitWrites is one commit as the disk saw it. bbolt syncs a grown file, then all
// pages, then the meta page (tx.go: Commit), so that a power cut leaves any part of
// one of these and nothing of what follows.
type commitWrites struct {
	size  int64 // of the file while it was written
	pages []diskWrite
	meta  diskWrite
	text  string // what the journal says afterwards
}

// recording is a journal file and all that was written to it since.
type recording struct {
	base    []byte
	text    string
	commits []commitWrites
}

// tap makes record see every write of a database.
func tap(t testing.TB, db *bbolt.DB, record func(diskWrite)) {
	t.Helper()
	field := reflect.ValueOf(db).Elem().FieldByName("ops").FieldByName("writeAt")
	if !field.IsValid() || field.Type() != reflect.TypeFor[func([]byte, int64) (int, error)]() {
		t.Fatal("bbolt no longer writes through db.ops.writeAt: this test has to look for another place")
	}
	writeAt := (*func([]byte, int64) (int, error))(unsafe.Pointer(field.UnsafeAddr()))
	kernel := *writeAt
	*writeAt = func(b []byte, at int64) (int, error) {
		record(diskWrite{at, bytes.Clone(b)})
		return kernel(b, at)
	}
}

// journalText is everything a journal says, its epoch included.
func journalText(j *Journal) (string, error) {
	text, err := readAll(j)
	return fmt.Sprintf("epoch %d\n%s", j.Epoch(), text), err
}

// record keeps a journal for some commits of every kind, and writes down what the
// disk saw of each.
func record(t testing.TB, dir string, seed uint64) recording {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 5))
	c := &clock{noon}
	ok(t, os.RemoveAll(filepath.Join(dir, fileName)))
	sampleOf(t, dir, 12)
	j := openTest(t, dir, Options{Now: c.now, NoSync: true, Reserve: -1})
	defer func() { ok(t, j.Close()) }()
	r := recording{base: must[[]byte](t)(os.ReadFile(filepath.Join(dir, fileName))), text: must[string](t)(journalText(j))}
	var commit commitWrites
	tap(t, j.db, func(w diskWrite) {
		commit.size = j.Size()
		if w.isMeta() {
			commit.meta = w
		} else {
			commit.pages = append(commit.pages, w)
		}
	})
	var open []uint64
	for n := 0; len(r.commits) < 24; n++ {
		cluster := fmt.Sprint("c", random.IntN(3))
		cert := issuer(cluster, fmt.Sprintf("%02x%02x", seed&0xff, n), c.t)
		commit = commitWrites{}
		switch random.IntN(8) {
		case 0, 1, 2:
			open = append(open, must[uint64](t)(j.Begin(signing(cluster, cert.Serial))))
		case 3, 4:
			if len(open) > 0 {
				ok(t, j.Finish(open[0], rotation.Outcome{Result: rotation.OK, Certificate: &cert, Detail: string(bytes.Repeat([]byte("x"), random.IntN(3000)))}))
				open = open[1:]
			}
		case 5:
			ok(t, j.SaveCluster(rotation.ClusterRecord{Name: cluster, Enrolled: true, LastContact: c.t, Status: bytes.Repeat([]byte("{}"), random.IntN(3000))}))
		case 6:
			ok(t, j.Prune(noon.Add(time.Duration(n)*time.Hour)))
		case 7:
			must[uint64](t)(j.RaiseEpoch(j.Epoch() + uint64(n)))
		}
		c.advance(time.Hour)
		if commit.meta.data == nil {
			continue // there was nothing to write
		}
		commit.text = must[string](t)(journalText(j))
		r.commits = append(r.commits, commit)
	}
	return r
}

// image is the file after the first n commits.
func (r recording) image(n int) []byte {
	image := bytes.Clone(r.base)
	for _, c := range r.commits[:n] {
		image = c.grow(image)
		for _, w := range append(c.pages[:len(c.pages):len(c.pages)], c.meta) {
			copy(image[w.at:], w.data)
		}
	}
	return image
}

func (c commitWrites) grow(image []byte) []byte {
	return append(image, make([]byte, max(0, c.size-int64(len(image))))...)
}

// textAfter is what the journal said after the first n commits.
func (r recording) textAfter(n int) string {
	if n == 0 {
		return r.text
	}
	return r.commits[n-1].text
}

// tear writes some sectors of w: none, all, those before some place, or any.
func tear(random *rand.Rand, image []byte, w diskWrite) {
	sectors := (len(w.data) + sector - 1) / sector
	first, rest := random.IntN(sectors+1), random.IntN(4)
	for n := range sectors {
		from, to := n*sector, min((n+1)*sector, len(w.data))
		if rest == 0 || rest == 1 && n < first || rest == 2 && random.IntN(2) == 0 {
			copy(image[w.at+int64(from):], w.data[from:to])
		}
	}
}

// damage is one way in which a file comes to differ from what was written.
type damage struct {
	name  string
	image []byte
	// may are the commits after which the journal may be found, the last that is
	// allowed first; refused says whether it may be found damaged instead.
	may     []int
	refused bool
}

// powerCut is what a disk that keeps its word leaves of commit n: all before it, and
// any part of what had not been synced.
func (r recording) powerCut(random *rand.Rand, n int) damage {
	image, c := r.image(n-1), r.commits[n-1]
	if random.IntN(8) > 0 {
		image = c.grow(image)
		for _, w := range c.pages {
			tear(random, image, w)
		}
	}
	return damage{fmt.Sprintf("a power cut in commit %d, before its meta page", n), image, []int{n - 1}, false}
}

// powerCutLate is what it leaves once the pages are there: the meta page fits into one
// sector, so it is old or new.
func (r recording) powerCutLate(random *rand.Rand, n int) damage {
	image, c := r.image(n-1), r.commits[n-1]
	image = c.grow(image)
	for _, w := range c.pages {
		copy(image[w.at:], w.data)
	}
	if random.IntN(2) == 0 {
		return damage{fmt.Sprintf("a power cut in commit %d, at its meta page", n), image, []int{n - 1}, false}
	}
	copy(image[c.meta.at:], c.meta.data)
	return damage{fmt.Sprintf("a power cut right after commit %d", n), image, []int{n}, false}
}

// lies is what a disk leaves that says it has synced and has not: any part of any write
// of the last few commits. That a whole earlier state comes back nobody could tell from
// the file; a mixture has to be noticed.
func (r recording) lies(random *rand.Rand, n int) damage {
	from := max(0, n-1-random.IntN(3))
	image := r.image(from)
	for _, c := range r.commits[from:n] {
		image = c.grow(image)
		for _, w := range c.pages {
			tear(random, image, w)
		}
		if random.IntN(4) > 0 {
			copy(image[c.meta.at:], c.meta.data)
		}
	}
	d := damage{fmt.Sprintf("a disk that lied about commits %d to %d", from+1, n), image, nil, true}
	for k := n; k >= from; k-- {
		d.may = append(d.may, k)
	}
	return d
}

// flips is what decay or memory does.
func (r recording) flips(random *rand.Rand, n int) damage {
	image := r.image(n)
	for range 1 + random.IntN(3) {
		image[random.IntN(len(image))] ^= 1 << random.IntN(8)
	}
	return damage{"flipped bits", image, []int{n}, true}
}

// misplaced is what a disk leaves that loses its place: sectors that are zero, random,
// from elsewhere in the file or from an earlier commit, or a file cut short. Where it was the
// sector of the last meta page, the one before rules.
func (r recording) misplaced(random *rand.Rand, n int) damage {
	image := r.image(n)
	older := r.image(random.IntN(n + 1))
	older = append(older, make([]byte, len(image)-len(older))...)
	for range 1 + random.IntN(4) {
		to, from := random.IntN(len(image)/sector)*sector, random.IntN(len(image)/sector)*sector
		if random.IntN(8) == 0 && len(image) > 2*filePageSize {
			to = random.IntN(2) * filePageSize
		}
		switch random.IntN(5) {
		case 0:
			clear(image[to : to+sector])
		case 1:
			for i := range sector {
				image[to+i] = byte(random.Uint32())
			}
		case 2:
			copy(image[to:to+sector], image[from:from+sector])
		case 3:
			copy(image[to:to+sector], older[to:to+sector])
		case 4:
			image = image[:max(to, sector)]
			older = older[:len(image)]
		}
	}
	d := damage{"misplaced sectors", image, nil, true}
	for k := n; k >= 0; k-- {
		d.may = append(d.may, k)
	}
	return d
}

// verdict opens the image in dir and says what came of it: the commit after which it was
// found, or -1 if it was refused.
func (r recording) verdict(dir string, d damage, writes bool) (found int, err error) {
	if err := os.WriteFile(filepath.Join(dir, fileName), d.image, 0o600); err != nil {
		return 0, err
	}
	j, err := Open(dir, Options{Fleet: "acme", ReadOnly: !writes, NoSync: true, Reserve: -1})
	if err == nil {
		defer j.Close()
		var text string
		if text, err = journalText(j); err == nil && writes {
			// Opening raised the epoch.
			_, rest, _ := bytes.Cut([]byte(text), []byte("\n"))
			text = fmt.Sprintf("epoch %d\n%s", j.Epoch()-1, rest)
		}
		if err == nil {
			for _, k := range d.may {
				if r.textAfter(k) == text {
					return k, r.goesOn(j, writes)
				}
			}
			return 0, errors.New("it is read as something that was never there, without an error")
		}
	}
	if !isKnown(err) {
		return 0, err
	}
	if !d.refused {
		return 0, fmt.Errorf("it is refused: %w", err)
	}
	if left, readErr := os.ReadFile(filepath.Join(dir, fileName)); readErr != nil || !bytes.Equal(left, d.image) {
		return 0, errors.Join(readErr, errors.New("it is refused, and was changed all the same"))
	}
	return -1, nil
}

// goesOn takes a step in a journal that was opened.
func (r recording) goesOn(j *Journal, writes bool) error {
	if report, err := j.Verify(); err != nil || report.Problem != "" {
		return fmt.Errorf("verify says %q, %w", report.Problem, cmp.Or(err, errors.New("without an error")))
	}
	if !writes {
		return nil
	}
	id, err := j.Begin(signing("c0", "after"))
	if err == nil {
		err = j.Finish(id, rotation.Outcome{Result: rotation.OK})
	}
	return err
}

// damageOf is what a seed does to a recording.
func (r recording) damageOf(random *rand.Rand) damage {
	n := 1 + random.IntN(len(r.commits))
	switch p := random.IntN(20); {
	case p < 8:
		return r.powerCut(random, n)
	case p < 10:
		return r.powerCutLate(random, n)
	case p < 15:
		return r.lies(random, n)
	case p < 18:
		return r.flips(random, n)
	}
	return r.misplaced(random, n)
}

// Of what a power cut may leave certd reads all it acknowledged; a disk that lies, decays
// or loses its place is noticed, or has left a state that once was whole. Nothing is ever
// read as what was never written. (Line R5 of the scoreboard.)
func TestTornAndLostWrites(t *testing.T) {
	run := scoreboard.Start(t, "R5", 2000)
	dir := ramDir(t)
	const imagesPerRecording = 500
	var rec recording
	recorded, have := uint64(0), false
	for seed := range run.Seeds() {
		if which := seed / imagesPerRecording; !have || which != recorded {
			rec, recorded, have = record(t, dir, which), which, true
			for n := range len(rec.commits) + 1 { // the recording is what was written
				if k, err := rec.verdict(dir, damage{"none", rec.image(n), []int{n}, false}, false); err != nil || k != n {
					t.Fatalf("recording %d: commit %d cannot be made from what was recorded: %v", which, n, err)
				}
			}
			run.Add("writes recorded", rec.writes())
		}
		d := rec.damageOf(rand.New(rand.NewPCG(seed, 6)))
		for _, writes := range []bool{false, true} {
			if !writes && seed%4 != 0 {
				continue // a reader checks the less
			}
			found, err := rec.verdict(dir, d, writes)
			switch {
			case err != nil:
				kept := filepath.Join(os.TempDir(), fmt.Sprintf("certd-torn-%d.db", seed))
				_ = os.WriteFile(kept, d.image, 0o600)
				t.Errorf("seed %d, %s, for writing %v: %v (the image is kept in %s)", seed, d.name, writes, err, kept)
				run.Add("wrong", 1)
			case !writes: // a reader leaves the chain to Verify; what certd runs on is the writer
			case found < 0:
				run.Add("noticed", 1)
			case found == d.may[0]:
				run.Add("read right", 1)
			default:
				run.Add("read as a whole earlier state", 1)
			}
		}
		run.Add("images", 1)
		if t.Failed() && !run.Long() {
			break
		}
	}
	run.Add("wrong", 0)
}

func (r recording) writes() (n uint64) {
	for _, c := range r.commits {
		n += uint64(len(c.pages)) + 1
	}
	return n
}

// ramDir is in memory where the machine offers that.
func ramDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "certd-torn-")
	if errors.Is(err, fs.ErrNotExist) {
		return t.TempDir()
	}
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A disk that loses the pages of commits and keeps the last meta page leaves a file in which
// an old journal can stand whole. It is noticed by the number of the commit.
func TestAnOldStateUnderANewMetaPageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	sampleOf(t, dir, 12)
	path := filepath.Join(dir, fileName)
	old := must[[]byte](t)(os.ReadFile(path))
	renumber := func(by uint64) []byte {
		image := bytes.Clone(old)
		for _, page := range [][]byte{image[:filePageSize], image[filePageSize : 2*filePageSize]} {
			meta := page[pageHeader:]
			order.PutUint64(meta[48:], order.Uint64(meta[48:])+by)
			sum := fnv.New64a()
			sum.Write(meta[:metaSize-8])
			order.PutUint64(meta[metaSize-8:], sum.Sum64())
		}
		return image
	}
	for _, by := range []uint64{0, 2} {
		for _, readOnly := range []bool{true, false} {
			writeJournal(t, dir, renumber(by))
			j, err := Open(dir, Options{Fleet: "acme", ReadOnly: readOnly, Reserve: -1})
			if err == nil {
				ok(t, j.Close())
			}
			if by == 0 && err != nil || by > 0 && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "commit was lost")) {
				t.Errorf("%d commits later, read-only %v: %v", by, readOnly, err)
			}
		}
	}
}
