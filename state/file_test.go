package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"certd.internal/rotation"
)

// sample fills a journal so that every bucket has records, some over several
// pages, and some have been deleted.
func sample(t testing.TB, dir string) { sampleOf(t, dir, 60) }

// sampleOf is a sample with so many issuers.
func sampleOf(t testing.TB, dir string, issuers int) {
	t.Helper()
	c := &clock{noon}
	j := openTest(t, dir, Options{Now: c.now, NoSync: true, Reserve: -1})
	for i := range issuers {
		cluster := fmt.Sprint("c", i%3)
		cert := issuer(cluster, fmt.Sprintf("%02x", i), c.t)
		step(t, j, signing(cluster, cert.Serial), rotation.Outcome{Result: rotation.OK, SignRequest: fmt.Sprint("req-", i), Certificate: &cert})
		ok(t, j.SaveCluster(rotation.ClusterRecord{Name: cluster, Enrolled: true, LastContact: c.t, Status: bytes.Repeat([]byte("{}"), 20*i)}))
		c.advance(time.Hour)
	}
	ok(t, j.Prune(noon.Add(200*time.Hour)))
	for _, id := range []string{"g1", "g2"} {
		step(t, j, signing("", "1"), rotation.Outcome{Result: rotation.OK, Anchor: &rotation.Anchor{ID: id, Key: "k-" + id, CreatedAt: c.t}})
	}
	for _, id := range []string{"w1", "w2"} {
		ca := rotation.WebhookCA{Cluster: "c1", Anchor: rotation.Anchor{ID: id, Key: "k-" + id, CreatedAt: c.t}}
		step(t, j, signing("c1", "1"), rotation.Outcome{Result: rotation.OK, WebhookCA: &ca})
	}
	change := rotation.Change{From: "g1", To: "g2", Stage: rotation.StageBridge, StartedAt: c.t, StageAt: c.t}
	step(t, j, signing("", "1"), rotation.Outcome{Result: rotation.OK, Change: &change})
	for range 3 {
		must[uint64](t)(j.Begin(signing("c0", "77")))
	}
	ok(t, j.Notify(NotifyChange{Put: []Notice{{Cluster: "c1", Finding: "IssuerExpired", Since: c.t}}, Add: []Outgoing{{ID: "a", Receiver: "pager", At: c.t, Body: []byte("{}")}},
		Receivers: []ReceiverRecord{{Name: "pager", LastOKAt: c.t}}, Told: &Told{Trust: &TrustMark{Stage: "bridge"}}}))
	ok(t, j.Close())
}

// readAll returns everything a journal can be asked, as text.
func readAll(j *Journal) (string, error) {
	var b strings.Builder
	var errs []error
	add := func(v any, err error) { fmt.Fprintf(&b, "%+v\n", v); errs = append(errs, err) }
	change, err := j.Change()
	if change == nil {
		change = &rotation.Change{}
	}
	add(*change, err)
	n, err := j.Notifications()
	if n.Told.Trust != nil {
		add(*n.Told.Trust, nil)
		n.Told.Trust = nil
	}
	add(n, err)
	e, err := j.Entries(Filter{})
	add(e, err)
	p, err := j.Pending()
	add(p, err)
	a, err := j.Anchors()
	add(a, err)
	all, err := j.AllCertificates()
	add(all, err)
	for _, name := range []string{"c0", "c1", "c2"} {
		some, err := j.Certificates(name, 5, time.Time{})
		add(some, err)
		cas, err := j.WebhookCAs(name)
		add(cas, err)
		c, err := j.Cluster(name)
		add(c, err)
	}
	cs, err := j.Clusters()
	add(cs, err)
	at, err := j.LastSigned("acme-anchor-1")
	add(at, err)
	add(j.Fleet(), nil)
	return b.String(), errors.Join(errs...)
}

func writeJournal(t testing.TB, dir string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, fileName)
	ok(t, os.WriteFile(path, data, 0o600))
	return path
}

// tamper changes a file with bbolt, past the journal, and with care: the number of
// the commit is right.
func tamper(t testing.TB, path string, f func(*bbolt.Tx)) {
	t.Helper()
	db := must[*bbolt.DB](t)(bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second}))
	ok(t, db.Update(func(tx *bbolt.Tx) error {
		f(tx)
		txn := &txn{tx: tx}
		if txn.bucket(bucketMeta) == nil {
			return nil // another program's
		}
		if _, err := txn.get(bucketMeta, []byte(keyState), &txn.state); err != nil || txn.state.Commit == 0 {
			return err
		}
		return txn.writeState()
	}))
	ok(t, db.Close())
}

// inUse is how many bytes of a journal bbolt may look at.
func inUse(t testing.TB, data []byte) int {
	t.Helper()
	m, err := readMetas(bytes.NewReader(data), int64(len(data)))
	ok(t, err)
	return int(m.high) * int(m.pageSize)
}

func isKnown(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign) || errors.Is(err, ErrNewer)
}

func TestFlippedBitsAreNoticedOrHarmless(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	data := must[[]byte](t)(os.ReadFile(filepath.Join(dir, fileName)))
	j := openTest(t, dir, Options{ReadOnly: true})
	want, err := readAll(j)
	ok(t, err)
	epoch := j.Epoch()
	ok(t, j.Close())

	size := inUse(t, data)
	at := func(page, offset int) int { return page*filePageSize + offset }
	var places []int
	for page := range size / filePageSize {
		places = append(places, at(page, 0), at(page, 10), at(page, 12), at(page, 24))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		places = append(places, random.IntN(size))
	}
	noticed := 0
	for _, place := range places {
		bit := byte(1) << random.IntN(8)
		flipped := bytes.Clone(data)
		flipped[place] ^= bit
		name := fmt.Sprintf("bit %#x at page %d offset %d", bit, place/filePageSize, place%filePageSize)
		writeJournal(t, dir, flipped)

		r, err := Open(dir, Options{Fleet: "acme", ReadOnly: true})
		if err == nil {
			got, readErr := readAll(r)
			report, verifyErr := r.Verify()
			if readErr == nil && got != want {
				t.Errorf("%s: read as something else, without an error", name)
			}
			if readErr != nil && verifyErr == nil && report.Problem == "" {
				t.Errorf("%s: verify finds nothing, yet: %v", name, readErr)
			}
			if err = readErr; err == nil && report.Problem != "" {
				err = fmt.Errorf("%s: %w", report.Problem, ErrDamaged)
			}
			r.Close()
		}
		w, writeErr := Open(dir, Options{Fleet: "acme", NoSync: true, Reserve: -1})
		switch {
		case writeErr == nil && err != nil:
			t.Errorf("%s: opened for writing, although: %v", name, err)
		case writeErr == nil:
			if got, err := readAll(w); err != nil || got != want || w.Epoch() != epoch+1 {
				t.Errorf("%s: a writer sees something else: %v", name, err)
			}
		case !isKnown(writeErr):
			t.Errorf("%s: %v", name, writeErr)
		default:
			noticed++
			if !bytes.Equal(flipped, must[[]byte](t)(os.ReadFile(filepath.Join(dir, fileName)))) {
				t.Errorf("%s: refused, and changed all the same", name)
			}
		}
		if writeErr == nil {
			w.Close()
		}
		if err != nil && !isKnown(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Logf("%d flips, %d noticed, the others in unused space", len(places), noticed)
}

func TestFlipUnderARunningCertd(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	path := filepath.Join(dir, fileName)
	data := must[[]byte](t)(os.ReadFile(path))
	j := openTest(t, dir, Options{})
	file := must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
	defer file.Close()
	record := []byte(`"cluster":"c1","kind":"issuer"`)
	for at := 0; bytes.Contains(data[at:], record); at++ { // in free pages too
		at += bytes.Index(data[at:], record)
		must[int](t)(file.WriteAt([]byte("X"), int64(at+12)))
	}
	_, err := j.AllCertificates()
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "bucket certificates, key \"c1") {
		t.Errorf("%v", err)
	}
	if _, err := j.Anchors(); err != nil {
		t.Errorf("what is whole is no longer read: %v", err)
	}
}

func TestVerifyNamesTheFirstBadEntry(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	for i := range 40 {
		step(t, j, signing("eu", fmt.Sprint("serial-", i+1)), rotation.Outcome{Result: rotation.OK})
	}
	ok(t, j.Close())
	path := filepath.Join(dir, fileName)
	data := must[[]byte](t)(os.ReadFile(path))
	relink := func(tx *bbolt.Tx, seq uint64) { // what a careful forger does, short of the whole rest
		b := tx.Bucket([]byte(bucketEntries))
		value := bytes.Clone(b.Get(number(seq)))
		record := bytes.Replace(value[64:], []byte("schedule"), []byte("scheming"), 1)
		hash := link(seq, digest(value[:32]), record)
		ok(t, b.Put(number(seq), append(append(value[:32:32], hash[:]...), record...)))
	}
	for _, row := range []struct {
		name   string
		tamper func(*bbolt.Tx)
		bad    uint64
		why    string
	}{
		{"a word was changed", func(tx *bbolt.Tx) {
			b := tx.Bucket([]byte(bucketEntries))
			ok(t, b.Put(number(7), bytes.Replace(b.Get(number(7)), []byte("serial-7"), []byte("serial-8"), 1)))
		}, 7, "does not match its hash"},
		{"an entry was taken out", func(tx *bbolt.Tx) { ok(t, tx.Bucket([]byte(bucketEntries)).Delete(number(9))) }, 9, "missing"},
		{"the first was taken out", func(tx *bbolt.Tx) { ok(t, tx.Bucket([]byte(bucketEntries)).Delete(number(1))) }, 1, "missing"},
		{"the last was taken out", func(tx *bbolt.Tx) { ok(t, tx.Bucket([]byte(bucketEntries)).Delete(number(40))) }, 40, "missing"},
		{"an entry was forged with its hash", func(tx *bbolt.Tx) { relink(tx, 11) }, 12, "does not follow the one before"},
		{"the last was forged with its hash", func(tx *bbolt.Tx) { relink(tx, 40) }, 40, "should end here"},
		{"one was added", func(tx *bbolt.Tx) {
			record := []byte("{}")
			hash := link(41, digest{}, record)
			ok(t, tx.Bucket([]byte(bucketEntries)).Put(number(41), append(append(make([]byte, 32), hash[:]...), record...)))
		}, 41, "does not follow the one before"},
	} {
		writeJournal(t, dir, data)
		tamper(t, path, row.tamper)
		r := openTest(t, dir, Options{ReadOnly: true})
		report, err := r.Verify()
		if err != nil || report.BadSeq != row.bad || !strings.Contains(report.Problem, row.why) {
			t.Errorf("%s: %+v, %v", row.name, report, err)
		}
		ok(t, r.Close())
		if _, err := Open(dir, Options{Fleet: "acme"}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: open for writing: %v", row.name, err)
		}
	}
}

func TestNoRecordVanishes(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	path := filepath.Join(dir, fileName)
	data := must[[]byte](t)(os.ReadFile(path))
	for _, bucket := range sealedBuckets() {
		writeJournal(t, dir, data)
		tamper(t, path, func(tx *bbolt.Tx) {
			key, _ := tx.Bucket([]byte(bucket)).Cursor().First()
			ok(t, tx.Bucket([]byte(bucket)).Delete(key))
		})
		for _, readOnly := range []bool{true, false} {
			_, err := Open(dir, Options{Fleet: "acme", ReadOnly: readOnly})
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "bucket "+bucket) {
				t.Errorf("%s, read-only %v: %v", bucket, readOnly, err)
			}
		}
	}
}

func TestFilesThatAreNoJournal(t *testing.T) {
	good := t.TempDir()
	sample(t, good)
	data := must[[]byte](t)(os.ReadFile(filepath.Join(good, fileName)))
	size := inUse(t, data)
	meta := bytes.Clone(data)
	meta[filePageSize+pageHeader+50] ^= 1
	other := filepath.Join(t.TempDir(), "other.db")
	tamper(t, other, func(tx *bbolt.Tx) { must[*bbolt.Bucket](t)(tx.CreateBucket([]byte("x"))) })
	v1 := bytes.Clone(data)
	binary.NativeEndian.PutUint32(v1, 77)

	type row struct {
		name string
		data []byte
		want error
		why  string
	}
	rows := []row{
		{"an empty file", nil, ErrDamaged, "0 bytes"},
		{"a text", bytes.Repeat([]byte("hello world\n"), 2000), ErrForeign, "no bbolt file"},
		{"zeros", make([]byte, 32<<10), ErrDamaged, "overwritten"},
		{"zeros over the first page", append(make([]byte, filePageSize), data[filePageSize:]...), ErrDamaged, "page 0"},
		{"another program's bbolt file", must[[]byte](t)(os.ReadFile(other)), ErrForeign, "bucket meta"},
		{"a damaged second page", meta, ErrDamaged, "page 1"},
		{"a first page with another number", v1, ErrDamaged, "page 0"},
	}
	for _, n := range []int{1, 16, 79, 1023, 1024, 4095, 4096, 4096 + 80, 8191, 8192, 12288, 16384, size / 2, size - 1} {
		rows = append(rows, row{fmt.Sprint("the first ", n, " bytes"), data[:n], ErrDamaged, "bytes"})
	}
	for _, r := range rows {
		for _, readOnly := range []bool{false, true} {
			dir := t.TempDir()
			path := writeJournal(t, dir, r.data)
			_, err := Open(dir, Options{Fleet: "acme", ReadOnly: readOnly, Reserve: -1})
			if !errors.Is(err, r.want) || !strings.Contains(err.Error(), r.why) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", r.name, err)
			}
			if !bytes.Equal(r.data, must[[]byte](t)(os.ReadFile(path))) {
				t.Errorf("%s: the file was changed", r.name)
			}
		}
	}
}

func TestTruncatedUnderARunningCertd(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	j := openTest(t, dir, Options{Reserve: -1})
	ok(t, os.Truncate(filepath.Join(dir, fileName), 2*filePageSize))
	if _, err := j.Entries(Filter{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("reading: %v", err)
	}
	if _, err := j.Begin(signing("eu", "1")); !errors.Is(err, ErrDamaged) {
		t.Errorf("writing: %v", err)
	}
	ok(t, j.Close())
	aside := must[string](t)(SetAside(dir, noon))
	if want := filepath.Join(dir, "certd.db.damaged-20261124T120000Z"); aside != want {
		t.Errorf("set aside as %s", aside)
	}
	if j := openTest(t, dir, Options{}); !j.Created() {
		t.Error("no new journal was made")
	}
}

func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	if _, err := SetAside(dir, noon); !errors.Is(err, ErrLocked) {
		t.Errorf("under a running certd: %v", err)
	}
	ok(t, j.Close())
	first := must[string](t)(SetAside(dir, noon))
	ok(t, openTest(t, dir, Options{}).Close())
	second := must[string](t)(SetAside(dir, noon))
	if second != first+"-2" {
		t.Errorf("%s, then %s", first, second)
	}
	if _, err := SetAside(dir, noon); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

func TestWhoseJournalItIs(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Options{Fleet: "acme", ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading where there is none: %v", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a journal for no fleet: %v", err)
	}
	ok(t, openTest(t, dir, Options{Fleet: "acme"}).Close())
	_, err := Open(dir, Options{Fleet: "globex"})
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), `"acme"`) || !strings.Contains(err.Error(), `"globex"`) {
		t.Errorf("another fleet: %v", err)
	}
	j := must[*Journal](t)(Open(dir, Options{ReadOnly: true}))
	if j.Fleet() != "acme" || j.Epoch() != 1 {
		t.Errorf("fleet %q, epoch %d", j.Fleet(), j.Epoch())
	}
	for name, err := range map[string]error{
		"begin":        func() error { _, err := j.Begin(signing("eu", "1")); return err }(),
		"finish":       j.Finish(1, rotation.Outcome{Result: rotation.OK}),
		"save cluster": j.SaveCluster(rotation.ClusterRecord{Name: "eu"}),
		"raise epoch":  func() error { _, err := j.RaiseEpoch(9); return err }(),
		"prune":        j.Prune(noon),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok(t, j.Close())
	ok(t, os.Chmod(filepath.Join(dir, fileName), 0o644))
	ok(t, openTest(t, dir, Options{}).Close())
	if info := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, fileName))); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestSchemas(t *testing.T) {
	old := layout{version: 1, minReader: 1}
	rename := func(txn *txn) error {
		r := clusterRecord{Name: "eu"}
		if _, err := txn.get(bucketClusters, []byte("eu"), &r); err != nil {
			return err
		}
		r.Target = "migrated " + r.Target
		_, err := txn.put(bucketClusters, []byte("eu"), r)
		return err
	}
	for _, row := range []struct {
		name     string
		next     layout
		writeErr error
		readErr  error
	}{
		{"readers of the old schema understand the new one", layout{version: 2, minReader: 1, steps: map[int]func(*txn) error{1: rename}}, ErrNewer, nil},
		{"they do not", layout{version: 2, minReader: 2, steps: map[int]func(*txn) error{1: rename}}, ErrNewer, ErrNewer},
	} {
		dir := t.TempDir()
		o := Options{Fleet: "acme", Reserve: -1}
		j := must[*Journal](t)(open(dir, o, old))
		ok(t, j.SaveCluster(rotation.ClusterRecord{Name: "eu", Target: "t"}))
		ok(t, j.Close())
		read := o
		read.ReadOnly = true
		if _, err := open(dir, read, row.next); err == nil || !strings.Contains(err.Error(), "certd run") {
			t.Errorf("%s: a reader of the new schema on an old file: %v", row.name, err)
		}

		j = must[*Journal](t)(open(dir, o, row.next))
		if c := must[rotation.ClusterRecord](t)(j.Cluster("eu")); c.Target != "migrated t" {
			t.Errorf("%s: target %q", row.name, c.Target)
		}
		ok(t, j.Close())
		j = must[*Journal](t)(open(dir, o, row.next))
		if c := must[rotation.ClusterRecord](t)(j.Cluster("eu")); c.Target != "migrated t" {
			t.Errorf("%s: migrated twice: %q", row.name, c.Target)
		}
		ok(t, j.Close())

		_, err := open(dir, o, old)
		if !errors.Is(err, row.writeErr) || !strings.Contains(err.Error(), "schema 2") || !strings.Contains(err.Error(), "knows 1") {
			t.Errorf("%s: an older writer: %v", row.name, err)
		}
		if j, err = open(dir, read, old); !errors.Is(err, row.readErr) {
			t.Errorf("%s: an older reader: %v", row.name, err)
		} else if err == nil {
			if c := must[rotation.ClusterRecord](t)(j.Cluster("eu")); c.Target != "migrated t" {
				t.Errorf("%s: an older reader reads %q", row.name, c.Target)
			}
			ok(t, j.Close())
		}
		// The copy from before is what the older certd can go back to.
		ok(t, os.Rename(filepath.Join(dir, fileName+".schema-1"), filepath.Join(dir, fileName)))
		j = must[*Journal](t)(open(dir, o, old))
		if c := must[rotation.ClusterRecord](t)(j.Cluster("eu")); c.Target != "t" {
			t.Errorf("%s: back on the old schema: %q", row.name, c.Target)
		}
		ok(t, j.Close())
		if _, err := open(dir, o, layout{version: 2}); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: without a way there: %v", row.name, err)
		}
	}
}

// schema1 is a journal that a certd of schema 1 wrote: an anchor g1, an issuer
// "01" in each of eu and us, and one intent in us that nothing closed.
func schema1(t *testing.T) []byte {
	t.Helper()
	if order.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt's files are in the byte order of the machine, and this one is little-endian")
	}
	return must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-1.db")))
}

// checkSchema1 looks for everything that stands in it.
func checkSchema1(t *testing.T, j *Journal) {
	t.Helper()
	anchors := must[[]rotation.Anchor](t)(j.Anchors())
	if len(anchors) != 1 || anchors[0].ID != "g1" || anchors[0].Key != "acme-anchor-1" || anchors[0].Certificate.Subject.CommonName != "root.linkerd.cluster.local" {
		t.Errorf("anchors: %+v", anchors)
	}
	for i, cluster := range []string{"eu", "us"} {
		want := []rotation.CertificateRecord{issuer(cluster, "01", noon.Add(time.Duration(i+1)*time.Hour))}
		if d := cmp.Diff(want, must[[]rotation.CertificateRecord](t)(j.Certificates(cluster, 0, time.Time{}))); d != "" {
			t.Errorf("certificates of %s (-want +got):\n%s", cluster, d)
		}
		if cas := must[[]rotation.WebhookCA](t)(j.WebhookCAs(cluster)); len(cas) != 0 {
			t.Errorf("webhook CAs of %s: %+v", cluster, cas)
		}
	}
	want := rotation.ClusterRecord{Name: "us", Enrolled: true, Target: "uid-1", LastContact: noon, Error: "no route", Status: []byte(`{"a":1}`)}
	if d := cmp.Diff(want, must[rotation.ClusterRecord](t)(j.Cluster("us"))); d != "" {
		t.Errorf("cluster us (-want +got):\n%s", d)
	}
	if p := must[[]rotation.PendingIntent](t)(j.Pending()); len(p) != 1 || p[0].ID != 4 || p[0].Intent != signing("us", "02") {
		t.Errorf("pending: %+v", p)
	}
	if at := must[time.Time](t)(j.LastSigned("acme-anchor-1")); !at.Equal(noon.Add(2 * time.Hour)) {
		t.Errorf("last signed at %v", at)
	}
	const head = "a160b8bf72146c0d3b5660fed02d2137afef186334b4147751f62e7d31f742a5"
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 3 || r.Head != head {
		t.Errorf("%+v", r)
	}
}

func TestSchema1IsMigrated(t *testing.T) {
	dir, before := t.TempDir(), schema1(t)
	path := writeJournal(t, dir, before)
	j := openTest(t, dir, Options{Reserve: -1})
	checkSchema1(t, j)
	if j.Epoch() != 2 {
		t.Errorf("epoch %d", j.Epoch())
	}
	ca := rotation.WebhookCA{Cluster: "us", Anchor: rotation.Anchor{ID: "w1", Key: "acme-webhook-us-1", Backend: "vault", CreatedAt: noon, Certificate: testCertificate(t)}}
	ok(t, j.Finish(4, rotation.Outcome{Result: rotation.OK, WebhookCA: &ca}))
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path+".schema-1"))) {
		t.Error("the copy from before is not what was there")
	}

	j = openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff([]rotation.WebhookCA{ca}, must[[]rotation.WebhookCA](t)(j.WebhookCAs("us"))); d != "" {
		t.Errorf("webhook CAs (-want +got):\n%s", d)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 4 {
		t.Errorf("%+v", r)
	}
	ok(t, j.Close())

	// A certd of schema 1 would take webhooks' certificates for issuers.
	for _, readOnly := range []bool{true, false} {
		_, err := open(dir, Options{Fleet: "acme", ReadOnly: readOnly, Reserve: -1}, layout{version: 1, minReader: 1})
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "schema 8") {
			t.Errorf("a certd of schema 1, read-only %v: %v", readOnly, err)
		}
	}
}

func TestMigrationThatDiesChangesNothing(t *testing.T) {
	for _, point := range []string{"open: before", "open: after"} {
		dir, before := t.TempDir(), schema1(t)
		path := writeJournal(t, dir, before)
		func() {
			defer func() { _ = recover() }()
			_, _ = Open(dir, Options{Fleet: "acme", Reserve: -1, CrashPoint: func(p string) {
				if p == point {
					panic("dies here")
				}
			}})
		}()
		if same := bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))); same != (point == "open: before") {
			t.Errorf("%s: the file is as it was: %v", point, same)
		}
		checkSchema1(t, openTest(t, dir, Options{Reserve: -1}))
	}
}

// `certd status` of a newer version works before the new daemon was started.
func TestSchema1IsReadAsItIs(t *testing.T) {
	dir, before := t.TempDir(), schema1(t)
	path := writeJournal(t, dir, before)
	j := openTest(t, dir, Options{ReadOnly: true})
	checkSchema1(t, j)
	ok(t, j.Close())
	j = must[*Journal](t)(OpenCopy(dir, t.TempDir(), Options{Fleet: "acme"}))
	checkSchema1(t, j)
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("reading changed the file")
	}

	for _, bucket := range sealedBucketsOf(1) {
		writeJournal(t, dir, before)
		tamper(t, path, func(tx *bbolt.Tx) { ok(t, tx.DeleteBucket([]byte(bucket))) })
		for _, readOnly := range []bool{true, false} {
			if _, err := Open(dir, Options{Fleet: "acme", ReadOnly: readOnly, Reserve: -1}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "bucket "+bucket) {
				t.Errorf("without bucket %s, read-only %v: %v", bucket, readOnly, err)
			}
		}
	}
}

func TestFileStaysBoundedOverYears(t *testing.T) {
	c := &clock{noon}
	j := openTest(t, t.TempDir(), Options{Now: c.now, NoSync: true, Reserve: -1})
	var after []int64
	for day := range 3 * 365 {
		cert := issuer("eu", fmt.Sprint(day), c.t)
		step(t, j, signing("eu", cert.Serial), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
		ok(t, j.SaveCluster(rotation.ClusterRecord{Name: "eu", LastContact: c.t, Status: make([]byte, day%8000)}))
		if day%30 == 29 {
			ok(t, j.Prune(c.t.AddDate(0, 0, -180)))
		}
		if day%365 == 364 {
			after = append(after, j.Size())
		}
		c.advance(24 * time.Hour)
	}
	if first, last := after[0], after[len(after)-1]; last > 2*first || last > 4<<20 {
		t.Errorf("sizes after each year: %v", after)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Last != 3*365 || r.Entries > 250 {
		t.Errorf("%+v", r)
	}
}
