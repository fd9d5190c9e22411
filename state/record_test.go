package state

import (
	"bytes"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"certd.internal/rotation"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestFileFormat holds what stands in the file, byte for byte. A released
// record keeps its meaning: a difference here needs a new schema version,
// unless it only adds a field that may be absent.
func TestFileFormat(t *testing.T) {
	dir, c := t.TempDir(), &clock{noon}
	j := openTest(t, dir, Options{Now: c.now, Reserve: -1})
	anchor := rotation.Anchor{ID: "g1", Key: "acme-anchor-1", Backend: "vault", CheckedAt: noon, CreatedAt: noon.Add(time.Nanosecond),
		RetiredAt: noon.AddDate(10, 0, 0), Certificate: &x509.Certificate{Raw: []byte("DER")}}
	full := rotation.Intent{Step: rotation.StepRepairIssuer, Cluster: "eu", Actor: "lee@cli", Reason: "<lost>", Anchor: "g1", Serial: "01",
		Key: "acme-anchor-1", Digest: "ab", Object: "linkerd-identity-issuer", Writer: "kubectl-edit"}
	cert := issuer("eu", "01", noon)
	cert.DeliveredAt = noon.Add(time.Hour)
	step(t, j, full, rotation.Outcome{Result: rotation.Failed, Detail: "no answer", SignRequest: "req", Revision: "12", Certificate: &cert, Anchor: &anchor, Enrolled: true})
	sign := signing("eu", "02")
	c.advance(1500 * time.Millisecond)
	step(t, j, sign, rotation.Outcome{Result: rotation.OK})
	webhook := rotation.CertificateRecord{Cluster: "eu", Kind: "webhook", Name: "proxy-injector", Serial: "03", NotBefore: noon, NotAfter: noon.AddDate(0, 0, 30)}
	ca := rotation.WebhookCA{Cluster: "eu", Anchor: rotation.Anchor{ID: "w1", Key: "acme-webhook-eu-1", Backend: "vault", CreatedAt: noon, Certificate: &x509.Certificate{Raw: []byte("DER")}}}
	step(t, j, rotation.Intent{Step: rotation.StepWebhook, Cluster: "eu", Actor: "certd", Reason: "due", Webhook: "proxy-injector"},
		rotation.Outcome{Result: rotation.OK, Certificate: &webhook, WebhookCA: &ca})
	change := rotation.Change{From: "g1", To: "g2", Stage: rotation.StageFinish, Back: true, Held: true, Compromised: true, Alone: true, Manual: true, Proceed: true, Without: []string{"us"}, Behind: []string{"us"}, Actor: "lee@cli", TurnedBy: "kim@cli", Reason: "drill",
		StartedAt: noon, StageAt: noon.Add(time.Hour), First: "eu", CanaryAt: noon.Add(2 * time.Hour), ProvedAt: noon.Add(3 * time.Hour),
		Approval: &rotation.Approval{Actor: "lee@cli", Reason: "seen", At: noon.Add(4 * time.Hour)}}
	dual := issuer("eu", "04", noon.Add(time.Hour))
	dual.Second = "g2"
	step(t, j, rotation.Intent{Step: rotation.StepTrustChange, Actor: "lee@cli", Reason: "drill", Anchor: "g2"}, rotation.Outcome{Result: rotation.OK, Change: &change, Certificate: &dual})
	came := rotation.Anchor{ID: "x1", CreatedAt: noon, Certificate: &x509.Certificate{Raw: []byte("DER")}}
	step(t, j, rotation.Intent{Step: rotation.StepAdopt, Cluster: "asia", Actor: "lee@cli", Reason: "drill", Anchor: "x1"},
		rotation.Outcome{Result: rotation.OK, Anchor: &came, Adopted: &rotation.Adoption{Anchor: "x1", Issuer: []byte("crt"), Bundle: []byte("roots"), At: noon}, Enrolled: true})
	step(t, j, rotation.Intent{Step: rotation.StepPause, Cluster: "eu", Actor: "lee@cli", Reason: "drill"},
		rotation.Outcome{Result: rotation.OK, Pauses: &[]rotation.Pause{{At: noon, Actor: "lee@cli", Reason: "drill"}, {Cluster: "eu", At: noon, Until: noon.Add(time.Hour), Actor: "lee@cli", Reason: "drill"}}})
	must[uint64](t)(j.Begin(rotation.Intent{Step: rotation.StepStart, Actor: "certd", Reason: "start"}))
	ok(t, j.SaveCluster(rotation.ClusterRecord{Name: "us", Target: "uid", TargetSince: noon, LastContact: noon, Error: "down",
		Terms: []rotation.LeafTerms{{Lifetime: 48 * time.Hour, Skew: 20 * time.Second}, {Lifetime: 72 * time.Hour, Until: noon}}, Status: []byte("{}")}))

	ok(t, j.Notify(NotifyChange{
		Put:       []Notice{{Cluster: "eu", Finding: "IssuerExpired", Severity: rotation.StateCritical, Message: "<ended>", Since: noon, Told: []string{"pager"}, Summed: []string{"soc"}}},
		Add:       []Outgoing{{ID: "msg_1", Receiver: "pager", At: noon, Body: []byte(`{"a":1}`)}},
		Receivers: []ReceiverRecord{{Name: "pager", LastOKAt: noon, FailingSince: noon.Add(time.Hour), Error: "503", Lost: 2, LostSince: noon.Add(2 * time.Hour)}},
		Told:      &Told{Trust: &TrustMark{Stage: "bridge", From: "g1", To: "g2", Back: true}, DigestAt: noon},
	}))

	var b strings.Builder
	ok(t, j.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(key, value []byte) error {
				head := sealSize
				if string(name) == bucketEntries {
					head = 64
				}
				fmt.Fprintf(&b, "%s %s\n  %x\n  %s\n", name, keyText(string(name), key), value[:head], value[head:])
				return nil
			})
		})
	}))
	golden := filepath.Join("testdata", "records.golden")
	if *update {
		ok(t, os.MkdirAll("testdata", 0o755))
		ok(t, os.WriteFile(golden, []byte(b.String()), 0o644))
	}
	want := string(must[[]byte](t)(os.ReadFile(golden)))
	if b.String() != want {
		t.Errorf("the records differ from %s:\n%s", golden, b.String())
	}
}

// records returns one of each kind.
func records() []any {
	return []any{new(stateRecord), new(pendingRecord), new(entryRecord), new(anchorRecord), new(certificateRecord), new(clusterRecord), new(signedRecord),
		new(webhookCARecord), new(noticeRecord), new(outgoingRecord), new(receiverRecord), new(toldRecord)}
}

func TestNoRecordHasRoomForAKey(t *testing.T) {
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
			return
		}
		for f := range typ.Fields() {
			if name := strings.ToLower(f.Name); strings.Contains(name, "private") || strings.Contains(name, "pem") || strings.Contains(name, "secret") {
				t.Errorf("%s.%s", path, f.Name)
			}
			walk(f.Type, path+"."+f.Name)
		}
	}
	for _, r := range records() {
		walk(reflect.TypeOf(r).Elem(), reflect.TypeOf(r).Elem().Name())
	}
}

func TestDecodeIsStrict(t *testing.T) {
	good := `{"at":"2026-11-24T12:00:00.5Z","intent":{"step":"sign","actor":"certd","reason":"due"}}`
	ok(t, decode([]byte(good), new(pendingRecord), true))
	for name, text := range map[string]string{
		"an unknown field":         strings.Replace(good, `"step"`, `"colour":"red","step"`, 1),
		"a field twice":            strings.Replace(good, `"step"`, `"step":"canary","step"`, 1),
		"another order":            `{"intent":{"step":"sign","actor":"certd","reason":"due"},"at":"2026-11-24T12:00:00.5Z"}`,
		"another letter case":      strings.Replace(good, `"step"`, `"Step"`, 1),
		"a space":                  good + " ",
		"a second record":          good + good,
		"a time spelled at length": strings.Replace(good, ".5Z", ".50Z", 1),
		"an empty field":           strings.Replace(good, `"reason"`, `"cluster":"","reason"`, 1),
		"half of it":               good[:40],
		"nothing":                  "",
	} {
		if decode([]byte(text), new(pendingRecord), true) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	// What a newer schema added does not keep an older certd from reading.
	ok(t, decode([]byte(strings.Replace(good, `"step"`, `"colour":"red","step"`, 1)), new(pendingRecord), false))
}

func FuzzDecode(f *testing.F) {
	f.Add(uint8(1), []byte(`{"at":"2026-11-24T12:00:00Z","intent":{"step":"sign","actor":"certd","reason":"due"}}`))
	f.Add(uint8(4), []byte(`{"kind":"issuer","serial":"01","notBefore":"2026-11-24T12:00:00Z","notAfter":"2026-11-24T12:00:00.000000001Z"}`))
	f.Add(uint8(0), []byte(`{"fleet":"","epoch":0,"nextIntent":1,"first":1,"last":0,"base":"","head":"","sums":{}}`))
	f.Fuzz(func(t *testing.T, kind uint8, text []byte) {
		r := records()[int(kind)%len(records())]
		if decode(text, r, true) != nil {
			return
		}
		again, err := encode(r)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q reads as %q", text, again)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("eu", "due <by> schedule & more", "no\u2028route", int64(1), uint64(3), uint16(9))
	f.Fuzz(func(t *testing.T, cluster, reason, detail string, nanos int64, id uint64, flip uint16) {
		want := entryRecord{At: time.Unix(nanos%1e11, nanos).UTC(), IntentID: id, Result: rotation.Unknown, Detail: clip(detail),
			Intent: rotation.Intent{Step: rotation.StepSign, Cluster: clip(cluster), Actor: "certd", Reason: clip(reason)}}
		text, err := encode(want)
		if err != nil {
			return // a key, or a year that no text can hold
		}
		var got entryRecord
		if err := decode(text, &got, true); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
		if !recordedAt(text).Equal(want.At) {
			t.Errorf("recorded at %v, not %v", recordedAt(text), want.At)
		}
		key := number(id)
		value := sealed(bucketPending, key, text)
		if _, back, err := unseal(bucketPending, key, value); err != nil || !bytes.Equal(back, text) {
			t.Fatal(err)
		}
		if _, _, err := unseal(bucketClusters, key, value); err == nil {
			t.Error("the seal holds in another bucket")
		}
		value[int(flip)/8%len(value)] ^= 1 << (flip % 8)
		if _, _, err := unseal(bucketPending, key, value); err == nil {
			t.Errorf("a flipped bit %d goes unnoticed", flip)
		}
	})
}

// FuzzCheckPages overwrites eight bytes of a journal and cuts it: whatever
// checkPages lets pass, bbolt can walk from end to end.
func FuzzCheckPages(f *testing.F) {
	dir := f.TempDir()
	sample(f, dir)
	data := must[[]byte](f)(os.ReadFile(filepath.Join(dir, fileName)))
	f.Add(uint32(0), uint64(0), uint32(0))
	f.Add(uint32(filePageSize+64), uint64(1), uint32(0))
	f.Add(uint32(5*filePageSize+8), uint64(0xFFFF0002), uint32(0))
	f.Add(uint32(2*filePageSize+10), uint64(7), uint32(filePageSize))
	var broken []byte // of one execution after the other, as is the file
	path := filepath.Join(f.TempDir(), fileName)
	f.Fuzz(func(t *testing.T, at uint32, value uint64, cut uint32) {
		broken = append(broken[:0], data[:len(data)-int(cut)%len(data)]...)
		if n := len(broken) - 8; n > 0 {
			order.PutUint64(broken[int(at)%n:], value)
		}
		if checkPages(bytes.NewReader(broken), int64(len(broken))) != nil {
			return
		}
		ok(t, os.WriteFile(path, broken, 0o600))
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		ok(t, err)
		defer db.Close()
		ok(t, db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return b.ForEach(func(_, _ []byte) error { return nil }) })
		}))
	})
}

func BenchmarkBeginFinish(b *testing.B) {
	for name, noSync := range map[string]bool{"sync": false, "nosync": true} {
		b.Run(name, func(b *testing.B) {
			j := openTest(b, b.TempDir(), Options{NoSync: noSync})
			cert := issuer("eu", "1", noon)
			for b.Loop() {
				step(b, j, signing("eu", "1"), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
			}
		})
	}
}

// inventory is a journal with 100 certificates in each of 100 clusters.
func inventory(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	j := openTest(b, dir, Options{NoSync: true, Reserve: -1})
	for n := range 10_000 {
		cluster := fmt.Sprintf("cluster-%03d", n%100)
		cert := issuer(cluster, fmt.Sprintf("%016x", n), noon.Add(time.Duration(n)*time.Minute))
		step(b, j, signing(cluster, cert.Serial), rotation.Outcome{Result: rotation.OK, Certificate: &cert})
	}
	ok(b, j.Close())
	return dir
}

func BenchmarkStatusInventory10k(b *testing.B) {
	j := openTest(b, inventory(b), Options{ReadOnly: true})
	for b.Loop() {
		for n := range 100 {
			if got, err := j.Certificates(fmt.Sprintf("cluster-%03d", n), 3, time.Time{}); err != nil || len(got) != 3 {
				b.Fatal(len(got), err)
			}
		}
	}
}

func BenchmarkOpen10k(b *testing.B) {
	dir := inventory(b)
	for b.Loop() {
		ok(b, must[*Journal](b)(Open(dir, Options{Fleet: "acme", Reserve: -1})).Close())
	}
}
