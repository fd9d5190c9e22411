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

func TestNotificationsAreThereAfterReopening(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Reserve: -1})
	if d := cmp.Diff(Notifications{}, must[Notifications](t)(j.Notifications())); d != "" {
		t.Errorf("at first (-want +got):\n%s", d)
	}
	expired := Notice{Cluster: "eu", Finding: "IssuerExpired", Severity: rotation.StateCritical, Message: "it ended", Since: noon, Told: []string{"pager", "soc"}}
	vault := Notice{Finding: "KeysUnavailable", Severity: rotation.StateWarning, Since: noon.Add(time.Hour)}
	first := NotifyChange{Put: []Notice{expired, vault},
		Add:       []Outgoing{{ID: "a", Receiver: "pager", At: noon, Body: []byte("1")}, {ID: "a", Receiver: "soc", At: noon, Body: []byte("2")}, {ID: "b", Receiver: "soc", At: noon, Body: []byte("3")}},
		Receivers: []ReceiverRecord{{Name: "soc", FailingSince: noon, Error: "503", Lost: 1, LostSince: noon}, {Name: "pager", LastOKAt: noon}},
		Told:      &Told{Trust: &TrustMark{}, DigestAt: noon}}
	ok(t, j.Notify(first))
	for i, o := range first.Add {
		if o.Seq != uint64(i+1) {
			t.Errorf("message %d has place %d", i, o.Seq)
		}
	}
	ok(t, j.Close())

	j = openTest(t, dir, Options{Reserve: -1})
	want := Notifications{Notices: []Notice{vault, expired}, Outbox: first.Add, Receivers: []ReceiverRecord{first.Receivers[1], first.Receivers[0]}, Told: *first.Told}
	if d := cmp.Diff(want, must[Notifications](t)(j.Notifications())); d != "" {
		t.Errorf("reopened (-want +got):\n%s", d)
	}
	// A place is taken anew in the commit that empties it, and what is gone already is no error.
	ok(t, j.Notify(NotifyChange{Over: []Notice{{Cluster: "eu", Finding: "IssuerExpired"}, {Finding: "None"}}, Sent: []uint64{1, 2, 9},
		Add: []Outgoing{{Seq: 2, ID: "c", Receiver: "soc", At: noon, Body: []byte("4")}, {ID: "d", Receiver: "soc", At: noon}}, Forget: []string{"pager", "none"}}))
	got := must[Notifications](t)(j.Notifications())
	if len(got.Notices) != 1 || len(got.Receivers) != 1 || got.Receivers[0].Name != "soc" || got.Told.Trust == nil {
		t.Errorf("%+v", got)
	}
	var places []uint64
	for _, o := range got.Outbox {
		places = append(places, o.Seq)
	}
	if d := cmp.Diff([]uint64{2, 3, 4}, places); d != "" || got.Outbox[0].ID != "c" {
		t.Errorf("places (-want +got):\n%s%+v", d, got.Outbox)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 0 {
		t.Errorf("notifications are no history: %+v", r)
	}
}

func TestNotificationsThatNoRecordHolds(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{Reserve: -1})
	key := string(pemKey(t))
	for story, c := range map[string]NotifyChange{
		"a notice of nothing":     {Put: []Notice{{Cluster: "eu"}}},
		"a message without id":    {Add: []Outgoing{{Receiver: "a"}}},
		"a message for nobody":    {Add: []Outgoing{{ID: "a"}}},
		"a message as long":       {Add: []Outgoing{{ID: "a", Receiver: "a", Body: make([]byte, MaxBody+1)}}},
		"a receiver without name": {Receivers: []ReceiverRecord{{}}},
	} {
		if err := j.Notify(c); err == nil {
			t.Errorf("%s is taken", story)
		}
	}
	for story, c := range map[string]NotifyChange{
		"a notice":   {Put: []Notice{{Finding: "F", Message: key}}},
		"a message":  {Add: []Outgoing{{ID: "a", Receiver: "a", Body: []byte(key)}}},
		"a receiver": {Receivers: []ReceiverRecord{{Name: "a", Error: key}}},
	} {
		if err := j.Notify(c); !errors.Is(err, ErrKeyMaterial) {
			t.Errorf("a private key in %s: %v", story, err)
		}
	}
	before := must[os.FileInfo](t)(os.Stat(j.path)).ModTime()
	ok(t, j.Notify(NotifyChange{}))
	if !must[os.FileInfo](t)(os.Stat(j.path)).ModTime().Equal(before) {
		t.Error("a change of nothing is written")
	}
	if got := must[Notifications](t)(j.Notifications()); cmp.Diff(Notifications{}, got) != "" {
		t.Errorf("%+v", got)
	}
}

func pemKey(t *testing.T) []byte {
	return append(append([]byte("-----BEGIN PRIVATE KEY-----\n"), pkcs8(t)...), "\n-----END PRIVATE KEY-----\n"...)
}

// schema4 is a journal that a certd of schema 4 wrote: an anchor g1, an issuer
// and a webhook CA in eu, a change of the trust anchor, an adopted cluster asia,
// and one intent in us that nothing closed.
func schema4(t *testing.T) []byte {
	t.Helper()
	if order.Uint16([]byte{1, 0}) != 1 {
		t.Skip("bbolt's files are in the byte order of the machine, and this one is little-endian")
	}
	return must[[]byte](t)(os.ReadFile(filepath.Join("testdata", "schema-4.db")))
}

func checkSchema4(t *testing.T, j *Journal) {
	t.Helper()
	if anchors := must[[]rotation.Anchor](t)(j.Anchors()); len(anchors) != 1 || anchors[0].ID != "g1" {
		t.Errorf("anchors: %+v", anchors)
	}
	if cas := must[[]rotation.WebhookCA](t)(j.WebhookCAs("eu")); len(cas) != 1 || cas[0].ID != "w1" {
		t.Errorf("webhook CAs: %+v", cas)
	}
	if c := must[*rotation.Change](t)(j.Change()); c == nil || c.Stage != rotation.StageBridge || c.To != "g2" {
		t.Errorf("change: %+v", c)
	}
	if c := must[rotation.ClusterRecord](t)(j.Cluster("asia")); c.Adopted != "x1" || string(c.AdoptedBundle) != "roots" {
		t.Errorf("asia: %+v", c)
	}
	if p := must[[]rotation.PendingIntent](t)(j.Pending()); len(p) != 1 || p[0].Cluster != "us" {
		t.Errorf("pending: %+v", p)
	}
	if d := cmp.Diff(Notifications{}, must[Notifications](t)(j.Notifications())); d != "" {
		t.Errorf("notifications (-want +got):\n%s", d)
	}
	const head = "bd2d693845d8523ceada2c19187edfcdd62fb6f67c387ffb4175ae55d41edbb2"
	if r := must[Report](t)(j.Verify()); r.Problem != "" || r.Entries != 5 || r.Head != head {
		t.Errorf("%+v", r)
	}
}

// A journal of schema 4 is read as it is, migrated by whoever writes, and from
// then on one for certd of schema 5 to write, while the older one may read it.
func TestSchema4IsMigrated(t *testing.T) {
	dir, before := t.TempDir(), schema4(t)
	path := writeJournal(t, dir, before)
	j := openTest(t, dir, Options{ReadOnly: true})
	checkSchema4(t, j)
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path))) {
		t.Error("reading changed the file")
	}

	j = openTest(t, dir, Options{Reserve: -1})
	checkSchema4(t, j)
	ok(t, j.Notify(NotifyChange{Add: []Outgoing{{ID: "a", Receiver: "soc", At: noon, Body: []byte("1")}}}))
	ok(t, j.Close())
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(path+".schema-4"))) {
		t.Error("the copy from before is not what was there")
	}
	j = openTest(t, dir, Options{Reserve: -1})
	if n := must[Notifications](t)(j.Notifications()); len(n.Outbox) != 1 {
		t.Errorf("%+v", n)
	}
	ok(t, j.Close())

	older := layout{version: 4, minReader: 4}
	if _, err := open(dir, Options{Fleet: "acme", Reserve: -1}, older); !errors.Is(err, ErrNewer) {
		t.Errorf("a certd of schema 4 writes: %v", err)
	}
	j = must[*Journal](t)(open(dir, Options{Fleet: "acme", ReadOnly: true}, older))
	if c := must[*rotation.Change](t)(j.Change()); c == nil || c.To != "g2" {
		t.Errorf("a certd of schema 4 reads %+v", c)
	}
	ok(t, j.Close())
}
