package state

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// clock is a time that a test sets.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func openTest(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	if o.Fleet == "" {
		o.Fleet = "acme"
	}
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func signing(cluster, serial string) rotation.Intent {
	return rotation.Intent{Step: rotation.StepSign, Cluster: cluster, Actor: "certd", Reason: "due by schedule",
		Anchor: "g1", Serial: serial, Key: "acme-anchor-1", Digest: strings.Repeat("ab", 32)}
}

func issuer(cluster, serial string, notBefore time.Time) rotation.CertificateRecord {
	return rotation.CertificateRecord{Cluster: cluster, Kind: "issuer", Serial: serial, SHA256: fmt.Sprintf("%064s", serial),
		SKI: "aa", AKI: "bb", Subject: "CN=identity.linkerd.cluster.local", Anchor: "g1",
		NotBefore: notBefore, NotAfter: notBefore.Add(7 * 24 * time.Hour), SignedAt: notBefore.Add(10 * time.Minute)}
}

// step records one step with its outcome.
func step(t testing.TB, j *Journal, in rotation.Intent, out rotation.Outcome) uint64 {
	t.Helper()
	id := must[uint64](t)(j.Begin(in))
	ok(t, j.Finish(id, out))
	return id
}

func testCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "root.linkerd.cluster.local"},
		NotBefore: noon, NotAfter: noon.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

func pkcs8(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	return must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
}

func TestWhatIsRecordedIsThereAfterReopening(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "a", "state"), &clock{noon}
	j := openTest(t, dir, Options{Now: c.now})
	if !j.Created() || j.Epoch() != 1 || j.Fleet() != "acme" {
		t.Errorf("created %v, epoch %d, fleet %q", j.Created(), j.Epoch(), j.Fleet())
	}

	anchor := rotation.Anchor{ID: "g1", Key: "acme-anchor-1", Backend: "vault", CheckedAt: noon, CreatedAt: noon, Certificate: testCertificate(t)}
	step(t, j, rotation.Intent{Step: rotation.StepAnchor, Actor: "lee@cli", Reason: "ceremony", Anchor: "g1"}, rotation.Outcome{Result: rotation.OK, Anchor: &anchor})
	step(t, j, rotation.Intent{Step: rotation.StepBundle, Cluster: "eu", Actor: "certd", Reason: "listed"}, rotation.Outcome{Result: rotation.OK, Enrolled: true})
	// Flags of its key alone, and those of an anchor that there is not.
	anchor.Exportable = true
	step(t, j, signing("eu", "00"), rotation.Outcome{Result: rotation.OK, Checked: &rotation.Anchor{ID: "g1", Backend: "vault", Exportable: true, CheckedAt: noon}})
	step(t, j, signing("eu", "00"), rotation.Outcome{Result: rotation.OK, Checked: &rotation.Anchor{ID: "g9"}})
	c.advance(time.Hour)
	cert := issuer("eu", "01", noon)
	signID := must[uint64](t)(j.Begin(signing("eu", "01")))
	c.advance(time.Second)
	ok(t, j.Finish(signID, rotation.Outcome{Result: rotation.OK, SignRequest: "req-1", Certificate: &cert}))
	open := must[uint64](t)(j.Begin(signing("us", "02")))
	ok(t, j.SaveCluster(rotation.ClusterRecord{Name: "us", Target: "uid-1", LastContact: noon, Error: "no route", Status: []byte(`{"a":1}`)}))
	ok(t, j.Close())

	j = openTest(t, dir, Options{Now: c.now})
	if j.Created() || j.Epoch() != 2 {
		t.Errorf("reopened: created %v, epoch %d", j.Created(), j.Epoch())
	}
	check := func(what string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	check("anchors", []rotation.Anchor{anchor}, must[[]rotation.Anchor](t)(j.Anchors()))
	check("certificates", []rotation.CertificateRecord{cert}, must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 0, time.Time{})))
	check("pending", []rotation.PendingIntent{{ID: open, At: c.t, Intent: signing("us", "02")}}, must[[]rotation.PendingIntent](t)(j.Pending()))
	check("clusters", []rotation.ClusterRecord{
		{Name: "eu", Enrolled: true},
		{Name: "us", Target: "uid-1", LastContact: noon, Error: "no route", Status: []byte(`{"a":1}`)},
	}, must[[]rotation.ClusterRecord](t)(j.Clusters()))
	check("unknown cluster", rotation.ClusterRecord{}, must[rotation.ClusterRecord](t)(j.Cluster("nowhere")))
	check("last signed", c.t, must[time.Time](t)(j.LastSigned("acme-anchor-1")))
	check("never signed", time.Time{}, must[time.Time](t)(j.LastSigned("other")))
	entries := must[[]rotation.Entry](t)(j.Entries(Filter{}))
	if len(entries) != 5 {
		t.Fatalf("%d entries", len(entries))
	}
	last := entries[4]
	check("entry", rotation.Entry{Seq: 5, IntentID: signID, IntentAt: c.t.Add(-time.Second), At: c.t, Intent: signing("eu", "01"),
		Result: rotation.OK, SignRequest: "req-1", PrevHash: entries[3].Hash, Hash: last.Hash}, last)
	if entries[0].PrevHash != strings.Repeat("00", 32) {
		t.Errorf("the first entry follows %s", entries[0].PrevHash)
	}
	if id := must[uint64](t)(j.Begin(signing("eu", "03"))); id != open+1 {
		t.Errorf("id %d after %d", id, open)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700 | fs.ModeDir, filepath.Join(dir, fileName): 0o600, filepath.Join(dir, reserveName): 0o600} {
		if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode() != mode {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestBeginRefuses(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	change := func(f func(*rotation.Intent)) rotation.Intent { in := signing("eu", "01"); f(&in); return in }
	const pem = "-----BEGIN EC PRIVATE KEY-----"
	for _, row := range []struct {
		name string
		in   rotation.Intent
		want string
		is   error
	}{
		{"an intent without a step", change(func(in *rotation.Intent) { in.Step = "" }), "no step", nil},
		{"one without an actor", change(func(in *rotation.Intent) { in.Actor = "" }), "no actor", nil},
		{"one without a reason", change(func(in *rotation.Intent) { in.Reason = "" }), "no reason", nil},
		{"a key in the reason", change(func(in *rotation.Intent) { in.Reason = pem }), "reason: ", ErrKeyMaterial},
		{"a key in the name of an object", change(func(in *rotation.Intent) { in.Object = pem }), "object: ", ErrKeyMaterial},
		{"a key in the name of a webhook", change(func(in *rotation.Intent) { in.Webhook = pem }), "webhook: ", ErrKeyMaterial},
		{"a PKCS#8 key in base64", change(func(in *rotation.Intent) { in.Writer = "MIGHAgEAMBMGByqGSM49AgEG" }), "writer: ", ErrKeyMaterial},
		{"a name that is no text", change(func(in *rotation.Intent) { in.Cluster = "a\x00b" }), "cluster", nil},
		{"a name that fills the disk", change(func(in *rotation.Intent) { in.Serial = strings.Repeat("f", maxField+1) }), "1025 bytes", nil},
	} {
		_, err := j.Begin(row.in)
		if err == nil || !strings.Contains(err.Error(), row.want) || row.is != nil && !errors.Is(err, row.is) {
			t.Errorf("%s: %v", row.name, err)
		} else if strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: the error shows the key", row.name)
		}
	}
	if open := must[[]rotation.PendingIntent](t)(j.Pending()); len(open) != 0 {
		t.Errorf("pending: %v", open)
	}
}

func TestFinish(t *testing.T) {
	for _, row := range []struct {
		name string
		out  rotation.Outcome
		want string
		is   error
	}{
		{"a result that is none", rotation.Outcome{Result: "done"}, "no result", nil},
		{"a certificate without a serial", rotation.Outcome{Result: rotation.OK, Certificate: &rotation.CertificateRecord{Kind: "issuer"}}, "serial", nil},
		{"a certificate that brings a key", rotation.Outcome{Result: rotation.OK, Certificate: &rotation.CertificateRecord{Kind: "issuer", Serial: "1", Subject: "PRIVATE KEY"}}, "subject", ErrKeyMaterial},
		{"a webhook's certificate that brings a key", rotation.Outcome{Result: rotation.OK, Certificate: &rotation.CertificateRecord{Kind: "webhook", Serial: "1", Name: "PRIVATE KEY"}}, "name", ErrKeyMaterial},
		{"a webhook CA of no cluster", rotation.Outcome{Result: rotation.OK, WebhookCA: &rotation.WebhookCA{Anchor: rotation.Anchor{ID: "w1"}}}, "no cluster", nil},
		{"a webhook CA without an id", rotation.Outcome{Result: rotation.OK, WebhookCA: &rotation.WebhookCA{Cluster: "eu"}}, "generation id", nil},
		{"a webhook CA whose key is one", rotation.Outcome{Result: rotation.OK, WebhookCA: &rotation.WebhookCA{Cluster: "eu", Anchor: rotation.Anchor{ID: "w1", Key: "PRIVATE KEY"}}}, "key", ErrKeyMaterial},
		{"a webhook CA whose certificate is a key", rotation.Outcome{Result: rotation.OK, WebhookCA: &rotation.WebhookCA{Cluster: "eu",
			Anchor: rotation.Anchor{ID: "w1", Certificate: &x509.Certificate{Raw: pkcs8(t)}}}}, "private key", ErrKeyMaterial},
		{"an anchor without an id", rotation.Outcome{Result: rotation.OK, Anchor: &rotation.Anchor{}}, "generation id", nil},
		{"a request id that is a key", rotation.Outcome{Result: rotation.OK, SignRequest: "PRIVATE KEY"}, "request id", ErrKeyMaterial},
	} {
		j := openTest(t, t.TempDir(), Options{Reserve: -1})
		id := must[uint64](t)(j.Begin(signing("eu", "01")))
		err := j.Finish(id, row.out)
		if err == nil || !strings.Contains(err.Error(), row.want) || row.is != nil && !errors.Is(err, row.is) {
			t.Errorf("%s: %v", row.name, err)
		}
		if len(must[[]rotation.PendingIntent](t)(j.Pending())) != 1 || len(must[[]rotation.Entry](t)(j.Entries(Filter{}))) != 0 {
			t.Errorf("%s: it left a trace", row.name)
		}
	}

	j := openTest(t, t.TempDir(), Options{})
	id := step(t, j, signing("eu", ""), rotation.Outcome{Result: rotation.Unknown, Serial: "0a", Detail: "x\n-----BEGIN PRIVATE KEY-----\nMHc"})
	e := must[[]rotation.Entry](t)(j.Entries(Filter{}))[0]
	if e.Intent.Serial != "0a" {
		t.Errorf("the signer's serial is lost: %+v", e)
	}
	if strings.Contains(e.Detail, "BEGIN") || !strings.Contains(e.Detail, "withheld") {
		t.Errorf("detail %q", e.Detail)
	}
	if at := must[time.Time](t)(j.LastSigned("acme-anchor-1")); !at.IsZero() {
		t.Errorf("an unknown outcome counts as a signature at %v", at)
	}
	if err := j.Finish(id, rotation.Outcome{Result: rotation.OK}); !errors.Is(err, ErrNotPending) {
		t.Errorf("a second outcome: %v", err)
	}
	id = must[uint64](t)(j.Begin(signing("eu", "1")))
	ok(t, j.Finish(id, rotation.Outcome{Result: rotation.Failed, Detail: strings.Repeat("é", maxText)}))
	if e := must[[]rotation.Entry](t)(j.Entries(Filter{Limit: 1}))[0]; len(e.Detail) > maxText || !strings.HasSuffix(e.Detail, "é…") {
		t.Errorf("a long detail has %d bytes and ends in %q", len(e.Detail), e.Detail[len(e.Detail)-8:])
	}
	step(t, j, rotation.Intent{Step: rotation.StepCanary, Actor: "certd", Reason: "daily", Key: "acme-anchor-1"}, rotation.Outcome{Result: rotation.OK})
	if at := must[time.Time](t)(j.LastSigned("acme-anchor-1")); at.IsZero() {
		t.Error("a canary does not count as a signature")
	}
}

func TestInventory(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{Reserve: -1})
	add := func(c rotation.CertificateRecord) {
		t.Helper()
		step(t, j, signing(c.Cluster, c.Serial), rotation.Outcome{Result: rotation.OK, Certificate: &c})
	}
	serials := func(cluster string, limit int, since time.Time) string {
		var s []string
		for _, c := range must[[]rotation.CertificateRecord](t)(j.Certificates(cluster, limit, since)) {
			s = append(s, c.Serial)
		}
		return strings.Join(s, " ")
	}
	day := 24 * time.Hour
	add(issuer("eu", "2", noon.Add(day)))
	add(issuer("eu", "1", noon))
	add(issuer("eu", "3", noon.Add(2*day)))
	add(issuer("eu-2", "9", noon.Add(9*day)))
	add(issuer("us", "8", noon))
	late := issuer("eu", "0", noon.Add(2*day)) // by its serial it would come before "3"
	late.SignedAt = late.SignedAt.Add(time.Millisecond)
	add(late)
	foreign := rotation.CertificateRecord{Cluster: "eu", Kind: "anchor", Serial: "77", NotBefore: noon, NotAfter: noon}
	add(foreign)
	for _, row := range []struct {
		name, cluster string
		limit         int
		since         time.Time
		want          string
	}{
		{"the newest comes first", "eu", 0, time.Time{}, "0 3 2 1"},
		{"no more than asked for", "eu", 2, time.Time{}, "0 3"},
		{"as many as asked for, if older", "eu", 2, noon.Add(9 * day), "0 3"},
		{"more than asked for, if valid since", "eu", 1, issuer("eu", "2", noon.Add(day)).NotBefore, "0 3 2"},
		{"another cluster whose name begins alike is another", "eu-2", 0, time.Time{}, "9"},
		{"an unknown cluster has none", "e", 0, time.Time{}, ""},
	} {
		if got := serials(row.cluster, row.limit, row.since); got != row.want {
			t.Errorf("%s: %q, not %q", row.name, got, row.want)
		}
	}

	delivered := issuer("eu", "3", noon.Add(2*day))
	delivered.SignedAt, delivered.DeliveredAt = time.Time{}, noon.Add(3*day)
	add(delivered)
	add(issuer("eu", "3", noon.Add(2*day)))
	if got := serials("eu", 0, time.Time{}); got != "0 3 2 1" {
		t.Errorf("recorded again: %q", got)
	}
	want := issuer("eu", "3", noon.Add(2*day))
	want.DeliveredAt = noon.Add(3 * day)
	if d := cmp.Diff(want, must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 2, time.Time{}))[1]); d != "" {
		t.Errorf("what was known is lost (-want +got):\n%s", d)
	}
	if n := len(must[[]rotation.CertificateRecord](t)(j.AllCertificates())); n != 7 {
		t.Errorf("%d certificates in all", n)
	}

	for _, id := range []string{"g10", "g2", "g1"} {
		step(t, j, signing("", "1"), rotation.Outcome{Result: rotation.OK, Anchor: &rotation.Anchor{ID: id}})
	}
	step(t, j, signing("", "1"), rotation.Outcome{Result: rotation.OK, Anchor: &rotation.Anchor{ID: "g2", Key: "k2"}})
	var ids []string
	for _, a := range must[[]rotation.Anchor](t)(j.Anchors()) {
		ids = append(ids, a.ID+a.Key)
	}
	if got := strings.Join(ids, " "); got != "g1 g2k2 g10" {
		t.Errorf("anchors: %s", got)
	}
}

func TestSaveClusterReplacesAndIdleIsFree(t *testing.T) {
	commits := 0
	j := openTest(t, t.TempDir(), Options{CrashPoint: func(p string) {
		if p == "cluster: after" {
			commits++
		}
	}})
	rec := rotation.ClusterRecord{Name: "eu", Enrolled: true, Target: "t", LastContact: noon.In(time.FixedZone("CET", 3600)), Terms: []rotation.LeafTerms{{Lifetime: time.Hour, Until: noon}}}
	for range 3 {
		ok(t, j.SaveCluster(rec))
	}
	if commits != 1 {
		t.Errorf("%d commits for one change", commits)
	}
	rec = rotation.ClusterRecord{Name: "eu", Error: "down"}
	ok(t, j.SaveCluster(rec))
	if d := cmp.Diff(rec, must[rotation.ClusterRecord](t)(j.Cluster("eu"))); d != "" {
		t.Error(d)
	}
	for name, bad := range map[string]rotation.ClusterRecord{
		"no name":           {},
		"a key":             {Name: "a", Error: "PRIVATE KEY"},
		"a key in status":   {Name: "a", Status: []byte("PRIVATE KEY")},
		"an endless status": {Name: "a", Status: make([]byte, maxStatus+1)},
	} {
		if j.SaveCluster(bad) == nil {
			t.Errorf("%s: saved", name)
		}
	}
}

func TestEntriesFilter(t *testing.T) {
	c := &clock{noon}
	j := openTest(t, t.TempDir(), Options{Now: c.now, Reserve: -1})
	for i, cluster := range []string{"eu", "us", "eu", "", "eu", "us"} {
		if i == 4 {
			c.advance(-100 * time.Hour) // the clock was wrong for one step
		}
		step(t, j, signing(cluster, "1"), rotation.Outcome{Result: rotation.OK})
		if i == 4 {
			c.advance(100 * time.Hour)
		}
		c.advance(time.Hour)
	}
	for _, row := range []struct {
		name string
		f    Filter
		want string
	}{
		{"all", Filter{}, "[1 2 3 4 5 6]"},
		{"one cluster", Filter{Cluster: "eu"}, "[1 3 5]"},
		{"since a moment, which counts", Filter{Since: noon.Add(2 * time.Hour)}, "[3 4 6]"},
		{"after an entry", Filter{After: 4}, "[5 6]"},
		{"the newest two", Filter{Limit: 2}, "[5 6]"},
		{"the newest two of a cluster", Filter{Limit: 2, Cluster: "eu"}, "[3 5]"},
		{"after the last", Filter{After: 6}, "[]"},
	} {
		var seqs []uint64
		for _, e := range must[[]rotation.Entry](t)(j.Entries(row.f)) {
			seqs = append(seqs, e.Seq)
		}
		if got := fmt.Sprint(seqs); got != row.want {
			t.Errorf("%s: %s, not %s", row.name, got, row.want)
		}
	}
}

// The entries of some steps since a time, and from when on the journal can tell.
func TestRecent(t *testing.T) {
	c := &clock{noon}
	j := openTest(t, t.TempDir(), Options{Now: c.now, Reserve: -1})
	if entries, from, err := j.Recent(noon, rotation.StepPodEvict); err != nil || len(entries) > 0 || !from.IsZero() {
		t.Errorf("in an empty journal: %v from %s, %v", entries, from, err)
	}
	for _, s := range []rotation.Step{rotation.StepStart, rotation.StepPodEvict, rotation.StepIssuer, rotation.StepWorkloadRestart, rotation.StepPodEvict} {
		step(t, j, rotation.Intent{Step: s, Cluster: "eu", Actor: "certd", Reason: "test"}, rotation.Outcome{Result: rotation.OK})
		c.advance(time.Hour)
	}
	for _, row := range []struct {
		since, from time.Time
		want        string
	}{
		{noon.Add(-time.Hour), noon, "[2 4 5]"},
		{noon.Add(90 * time.Minute), noon.Add(90 * time.Minute), "[4 5]"},
	} {
		entries, from, err := j.Recent(row.since, rotation.StepPodEvict, rotation.StepWorkloadRestart)
		var seqs []uint64
		for _, e := range entries {
			seqs = append(seqs, e.Seq)
		}
		if got := fmt.Sprint(seqs); err != nil || got != row.want || !from.Equal(row.from) {
			t.Errorf("since %s: %s from %s, %v; want %s from %s", row.since, got, from, err, row.want, row.from)
		}
	}
}

func TestEpochGrows(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	for _, row := range []struct {
		name       string
		seen, want uint64
	}{
		{"a smaller one changes nothing", 0, 1},
		{"an equal one is passed", 1, 2},
		{"a larger one is passed", 40, 41},
		{"what was passed stays so", 3, 41},
	} {
		if got := must[uint64](t)(j.RaiseEpoch(row.seen)); got != row.want || j.Epoch() != row.want {
			t.Errorf("%s: %d and %d, not %d", row.name, got, j.Epoch(), row.want)
		}
	}
	if _, err := j.RaiseEpoch(math.MaxUint64); err == nil {
		t.Error("the epoch overflowed")
	}
	for _, seen := range []uint64{90, 50} {
		if must[uint64](t)(j.SawEpoch(seen)); j.Epoch() != 41 {
			t.Errorf("what was seen changes nothing now: %d", j.Epoch())
		}
	}
	ok(t, j.Close())
	for _, want := range []uint64{91, 92} {
		j := openTest(t, dir, Options{})
		if before := must[uint64](t)(j.SawEpoch(0)); j.Epoch() != want || before != 90 {
			t.Errorf("after a restart: %d, after %d, not %d", j.Epoch(), before, want)
		}
		ok(t, j.Close())
	}
}

func TestPruneKeepsTheChainWhole(t *testing.T) {
	c := &clock{noon}
	j := openTest(t, t.TempDir(), Options{Now: c.now, NoSync: true, Reserve: -1})
	open := must[uint64](t)(j.Begin(signing("eu", "0")))
	for i := range 300 {
		cert := issuer("eu", fmt.Sprint(i), c.t)
		step(t, j, signing("eu", fmt.Sprint(i)), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
		c.advance(24 * time.Hour)
	}
	before := must[[]rotation.Entry](t)(j.Entries(Filter{}))
	ok(t, j.Prune(noon.Add(50*24*time.Hour)))
	after := must[[]rotation.Entry](t)(j.Entries(Filter{}))
	if d := cmp.Diff(before[50:], after); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
	if n := len(must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 0, time.Time{}))); n != 300-43 {
		t.Errorf("%d certificates", n)
	}
	r := must[Report](t)(j.Verify())
	if d := cmp.Diff(Report{Entries: 250, First: 51, Last: 300, Head: after[249].Hash}, r); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	ok(t, j.Prune(c.t.AddDate(50, 0, 0)))
	if n := len(must[[]rotation.Entry](t)(j.Entries(Filter{}))); n != keepEntries {
		t.Errorf("%d entries kept", n)
	}
	if p := must[[]rotation.PendingIntent](t)(j.Pending()); len(p) != 1 || p[0].ID != open {
		t.Errorf("pending: %v", p)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" {
		t.Error(r.Problem)
	}
}

func TestWebhookCAs(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	enter := func(ca rotation.WebhookCA) {
		t.Helper()
		step(t, j, rotation.Intent{Step: rotation.StepWebhookCA, Cluster: ca.Cluster, Actor: "certd", Reason: "due"}, rotation.Outcome{Result: rotation.OK, WebhookCA: &ca})
	}
	generation := func(cluster, id string) rotation.WebhookCA {
		return rotation.WebhookCA{Cluster: cluster, Anchor: rotation.Anchor{ID: id, Key: "acme-webhook-" + cluster + "-" + id, Backend: "vault", CreatedAt: noon}}
	}
	ids := func(cluster string) string {
		t.Helper()
		var s []string
		for _, ca := range must[[]rotation.WebhookCA](t)(j.WebhookCAs(cluster)) {
			s = append(s, ca.Cluster+"/"+ca.ID)
		}
		return strings.Join(s, " ")
	}
	for _, id := range []string{"w10", "w2", "w1"} {
		enter(generation("eu", id))
	}
	enter(generation("eu-2", "w1"))
	signed := generation("eu", "w2")
	signed.Certificate, signed.RetiredAt = testCertificate(t), noon.AddDate(1, 0, 0)
	enter(signed)
	for cluster, want := range map[string]string{"eu": "eu/w1 eu/w2 eu/w10", "eu-2": "eu-2/w1", "e": "", "": ""} {
		if got := ids(cluster); got != want {
			t.Errorf("%q has %q, not %q", cluster, got, want)
		}
	}
	ok(t, j.Close())
	j = openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff([]rotation.WebhookCA{generation("eu", "w1"), signed, generation("eu", "w10")}, must[[]rotation.WebhookCA](t)(j.WebhookCAs("eu"))); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
	if anchors := must[[]rotation.Anchor](t)(j.Anchors()); len(anchors) != 0 {
		t.Errorf("among the anchors: %v", anchors)
	}

	last := generation("eu-2", "w1")
	last.Certificate = signed.Certificate
	enter(last)
	end := signed.Certificate.NotAfter
	for _, row := range []struct {
		name   string
		before time.Time
		want   string
	}{
		{"one that is retired, and valid at the limit, stays", end, "eu/w1 eu/w2 eu/w10 eu-2/w1"},
		{"one that ended before goes; one without a certificate, and a cluster's newest, stay", end.Add(time.Second), "eu/w1 eu/w10 eu-2/w1"},
	} {
		ok(t, j.Prune(row.before))
		if got := ids("eu") + " " + ids("eu-2"); got != row.want {
			t.Errorf("%s: %q, not %q", row.name, got, row.want)
		}
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" {
		t.Error(r.Problem)
	}
}

func TestCertificatesAreIssuers(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{Reserve: -1})
	for i, kind := range []string{"issuer", "webhook", "webhook-ca", "issuer", "webhook"} {
		cert := issuer("eu", fmt.Sprint(i), noon.Add(time.Duration(i)*time.Hour))
		if cert.Kind = kind; kind == "webhook" {
			cert.Name = "proxy-injector"
		}
		step(t, j, signing("eu", cert.Serial), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
	}
	var got []string
	for _, c := range append(must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 0, time.Time{})), must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 1, time.Time{}))...) {
		got = append(got, c.Kind+" "+c.Serial)
	}
	if want := "issuer 3, issuer 0, issuer 3"; strings.Join(got, ", ") != want {
		t.Errorf("%q, not %q", got, want)
	}
	all := must[[]rotation.CertificateRecord](t)(j.AllCertificates())
	if len(all) != 5 || all[0].Name != "proxy-injector" {
		t.Errorf("the inventory holds %+v", all)
	}
	ok(t, j.Prune(noon.AddDate(1, 0, 0)))
	if all := must[[]rotation.CertificateRecord](t)(j.AllCertificates()); len(all) != 0 {
		t.Errorf("kept beyond their time: %+v", all)
	}
}

func TestManyAtOnce(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{NoSync: true})
	var wg sync.WaitGroup
	const workers, steps = 8, 25
	for w := range workers {
		wg.Go(func() {
			cluster := fmt.Sprint("c", w)
			for i := range steps {
				cert := issuer(cluster, fmt.Sprint(i), noon.Add(time.Duration(i)*time.Hour))
				id, err := j.Begin(signing(cluster, fmt.Sprint(i)))
				err = errors.Join(err, j.Finish(id, rotation.Outcome{Result: rotation.OK, Certificate: &cert}),
					j.SaveCluster(rotation.ClusterRecord{Name: cluster, Target: fmt.Sprint(i)}))
				got, readErr := j.Certificates(cluster, 1, time.Time{})
				if err = errors.Join(err, readErr); err != nil || got[0].Serial != fmt.Sprint(i) {
					t.Errorf("%s: %v, %v", cluster, err, got)
					return
				}
			}
		})
	}
	wg.Wait()
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != workers*steps {
		t.Errorf("%+v", r)
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	ok(t, j.Close())
	ok(t, j.Close())
	if _, err := j.Begin(signing("eu", "1")); !errors.Is(err, ErrClosed) {
		t.Errorf("begin: %v", err)
	}
	if _, err := j.Pending(); !errors.Is(err, ErrClosed) {
		t.Errorf("pending: %v", err)
	}
}

func TestVirtualTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j := openTest(t, dir, Options{})
		defer j.Close()
		start := time.Now()
		id := must[uint64](t)(j.Begin(signing("eu", "1")))
		time.Sleep(365 * 24 * time.Hour)
		ok(t, j.Finish(id, rotation.Outcome{Result: rotation.OK}))
		e := must[[]rotation.Entry](t)(j.Entries(Filter{}))[0]
		if !e.IntentAt.Equal(start) || e.At.Sub(e.IntentAt) != 365*24*time.Hour {
			t.Errorf("from %v to %v", e.IntentAt, e.At)
		}
		if _, err := Open(dir, Options{Fleet: "acme", LockTimeout: time.Minute}); !errors.Is(err, ErrLocked) {
			t.Errorf("a second daemon: %v", err)
		}
	})
}
