// Package backendtest says what the interfaces in rotation promise, as tests
// that every implementation runs.
package backendtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// Hands reach behind a cluster's back, as people and other programs do.
type Hands struct {
	// As is the name under which Edit writes; "" if this kind of cluster
	// cannot tell.
	As string
	// Edit changes an object's data, making the object if need be.
	Edit func(t testing.TB, object string, edit func(data map[string][]byte))
	// StripMarks takes away certd's label and annotations.
	StripMarks func(t testing.TB, object string)
	// Delete removes an object.
	Delete func(t testing.TB, object string)
	// Data returns an object's data as a reader finds it; nil if absent.
	Data func(t testing.TB, object string) map[string][]byte
	// Again opens the same cluster a second time, as another certd would.
	Again func(t testing.TB) rotation.Cluster
	// Identity is that of the control plane there.
	Identity pki.Identity
}

// watchLimit is how long a change may stay unseen by Watch. It is generous
// for slow machines; what is usual is well under a second.
const watchLimit = 10 * time.Second

// TestCluster checks that what open returns keeps the promises of
// rotation.Cluster. open returns an empty cluster without the Linkerd
// namespace, another one at each call.
func TestCluster(t *testing.T, open func(t *testing.T) (rotation.Cluster, Hands)) {
	for _, row := range []struct {
		name string
		test func(t *testing.T, w *world)
	}{
		{"a cluster without the namespace is an observation, not an error", noNamespace},
		{"the namespace is made once and again", namespaceTwice},
		{"what is absent is observed as absent", absent},
		{"a bundle is made and read back with its marks", bundleRoundTrip},
		{"an issuer is made and read back with its marks", issuerRoundTrip},
		{"an observation holds no private key", noPrivateKey},
		{"writing the same again changes nothing", idempotent},
		{"a new epoch is written", newEpoch},
		{"making what exists changes nothing", createOverExisting},
		{"writing at an old revision changes nothing", staleRevision},
		{"writing what is gone makes nothing", writeGone},
		{"a credential replaces the one before", replaceIssuer},
		{"without a credential the pair stays and its copies are mended", keepPair},
		{"without a credential a pair that does not match stays as it is", keepMismatch},
		{"without a credential nothing is made", keepNothing},
		{"what others wrote stays where the marks alone are written", marksAlone},
		{"names that are missing are filled in, and those that are there stay", missingNames},
		{"other certificates stand beside the key that stays", otherChain},
		{"certificates for another key leave all as it is", chainMismatch},
		{"keys of others survive", foreignKeys},
		{"marks that were taken away are seen and put back", strippedMarks},
		{"an edit is seen, named where it can be, and undone", foreignEdit},
		{"a damaged issuer is observed", damagedIssuer},
		{"a damaged bundle is observed as it stands", damagedBundle},
		{"of two that make an object one wins", raceToCreate},
		{"of two that write an object one wins", raceToWrite},
		{"a call whose context has ended does nothing", contextEnded},
		{"events can be told again and again", events},
		{"one object is read again, as a look would show it", rereads},
		{"a watch tells of an edit, a deletion and a return", watchChanges},
		{"a watch ends with its context", watchEnds},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, hands := open(t)
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			row.test(t, newWorld(t, c, hands))
		})
	}
}

// world is a cluster and the material to fill it with.
type world struct {
	*Hands
	c       rotation.Cluster
	ctx     context.Context
	anchors *Anchors
	bundle  pki.Bundle
}

func newWorld(t *testing.T, c rotation.Cluster, hands Hands) *world {
	anchors := NewAnchors(t, hands.Identity)
	return &world{Hands: &hands, c: c, ctx: t.Context(), anchors: anchors, bundle: anchors.Bundle(t)}
}

func (w *world) observe(t testing.TB) rotation.Observation {
	t.Helper()
	o, err := w.c.Observe(w.ctx)
	if err != nil {
		t.Fatalf("observe: %v", err)
	}
	return o
}

func (w *world) namespace(t testing.TB) {
	t.Helper()
	if err := w.c.CreateNamespace(w.ctx); err != nil {
		t.Fatalf("create the namespace: %v", err)
	}
}

func (w *world) bundleWrite(revision string, epoch uint64) rotation.BundleWrite {
	return rotation.BundleWrite{Revision: revision, Fleet: "acme", Epoch: epoch, Bundle: w.bundle}
}

func (w *world) issuerWrite(revision string, cred *pki.Credential, epoch uint64) rotation.IssuerWrite {
	i := rotation.IssuerWrite{Revision: revision, Fleet: "acme", Epoch: epoch, Bundle: w.bundle, Credential: cred}
	if cred != nil {
		i.Serial = pki.Serial(cred.Chain()[0])
	}
	return i
}

// fill makes the namespace and both objects.
func (w *world) fill(t testing.TB) (bundle, issuer string, cred pki.Credential) {
	t.Helper()
	w.namespace(t)
	bundle, err := w.c.WriteBundle(w.ctx, w.bundleWrite("", 1))
	if err != nil {
		t.Fatalf("make the bundle: %v", err)
	}
	cred = w.anchors.Issuer(t)
	issuer, err = w.c.WriteIssuer(w.ctx, w.issuerWrite("", &cred, 1))
	if err != nil {
		t.Fatalf("make the issuer: %v", err)
	}
	return bundle, issuer, cred
}

func noNamespace(t *testing.T, w *world) {
	o := w.observe(t)
	if o.Namespace || o.Bundle.Exists || o.Issuer.Exists {
		t.Errorf("namespace %t, bundle %t, issuer %t; want none", o.Namespace, o.Bundle.Exists, o.Issuer.Exists)
	}
	if o.Target == "" {
		t.Error("the target is empty: two configured clusters could not be told apart")
	}
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite("", 1)); err == nil {
		t.Error("a bundle was written into a namespace that does not exist")
	}
}

func namespaceTwice(t *testing.T, w *world) {
	w.namespace(t)
	w.namespace(t)
	if !w.observe(t).Namespace {
		t.Error("the namespace is not observed")
	}
}

func absent(t *testing.T, w *world) {
	w.namespace(t)
	o := w.observe(t)
	if o.Bundle.Exists || o.Issuer.Exists || o.Bundle.Revision != "" || o.Issuer.Revision != "" {
		t.Errorf("bundle %+v, issuer %+v; want both absent", o.Bundle, o.Issuer)
	}
}

func bundleRoundTrip(t *testing.T, w *world) {
	w.namespace(t)
	rev, err := w.c.WriteBundle(w.ctx, w.bundleWrite("", 7))
	if err != nil {
		t.Fatalf("make the bundle: %v", err)
	}
	o := w.observe(t)
	want := rotation.Marks{Fleet: "acme", Epoch: 7, Keep: true, Label: true}
	if !o.Bundle.Exists || o.Bundle.Revision != rev || o.Bundle.Marks != want {
		t.Errorf("bundle %+v; want revision %q and marks %+v", o.Bundle, rev, want)
	}
	if !bytes.Equal(o.BundleText, w.bundle.PEM()) {
		t.Errorf("bundle reads\n%s\nwant\n%s", o.BundleText, w.bundle.PEM())
	}
	if len(o.Bundle.Writers) > 0 {
		t.Errorf("writers %v beside certd", o.Bundle.Writers)
	}
}

func issuerRoundTrip(t *testing.T, w *world) {
	_, rev, cred := w.fill(t)
	o := w.observe(t)
	want := rotation.Marks{Fleet: "acme", Serial: pki.Serial(cred.Chain()[0]), Epoch: 1, Keep: true, Label: true}
	if !o.Issuer.Exists || o.Issuer.Revision != rev || o.Issuer.Marks != want {
		t.Errorf("issuer %+v; want revision %q and marks %+v", o.Issuer, rev, want)
	}
	f := o.IssuerFacts
	if f.Problem != "" || !f.Complete || len(f.Chain) != 1 || pki.Fingerprint(f.Chain[0]) != pki.Fingerprint(cred.Chain()[0]) {
		t.Errorf("problem %q, complete %t, %d certificates", f.Problem, f.Complete, len(f.Chain))
	}
	if !bytes.Equal(f.CABundle, w.bundle.PEM()) {
		t.Error("ca.crt is not the bundle")
	}
	if err := f.Verify(w.bundle, time.Now()); err != nil {
		t.Errorf("leaves of it do not verify: %v", err)
	}
	for _, key := range payload.IssuerKeys() {
		if len(w.Data(t, rotation.IssuerObject)[key]) == 0 {
			t.Errorf("%s is missing", key)
		}
	}
	if len(o.Issuer.Writers) > 0 {
		t.Errorf("writers %v beside certd", o.Issuer.Writers)
	}
}

func noPrivateKey(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	key := cred.KeyPEM()
	o := w.observe(t)
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	secret := strings.Split(string(key), "\n")[1]
	for _, s := range []string{string(text), fmt.Sprintf("%+v %#v", o, o)} {
		if strings.Contains(s, "PRIVATE KEY") || strings.Contains(s, secret) {
			t.Fatal("the observation holds a private key")
		}
	}
}

func idempotent(t *testing.T, w *world) {
	bundle, issuer, cred := w.fill(t)
	for range 2 {
		again, err := w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 1))
		if err != nil || again != bundle {
			t.Errorf("bundle: revision %q, %v; want %q", again, err, bundle)
		}
		again, err = w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &cred, 1))
		if err != nil || again != issuer {
			t.Errorf("issuer: revision %q, %v; want %q", again, err, issuer)
		}
		kept := w.issuerWrite(issuer, nil, 1)
		kept.Serial = pki.Serial(cred.Chain()[0])
		again, err = w.c.WriteIssuer(w.ctx, kept)
		if err != nil || again != issuer {
			t.Errorf("issuer kept: revision %q, %v; want %q", again, err, issuer)
		}
	}
	if o := w.observe(t); o.Bundle.Revision != bundle || o.Issuer.Revision != issuer {
		t.Errorf("revisions %q and %q; want %q and %q", o.Bundle.Revision, o.Issuer.Revision, bundle, issuer)
	}
}

func newEpoch(t *testing.T, w *world) {
	bundle, issuer, cred := w.fill(t)
	if rev, err := w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 2)); err != nil || rev == bundle {
		t.Errorf("bundle: revision %q, %v; want a new one", rev, err)
	}
	if rev, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &cred, 1<<63)); err != nil || rev == issuer {
		t.Errorf("issuer: revision %q, %v; want a new one", rev, err)
	}
	if o := w.observe(t); o.Bundle.Marks.Epoch != 2 || o.Issuer.Marks.Epoch != 1<<63 {
		t.Errorf("epochs %d and %d", o.Bundle.Marks.Epoch, o.Issuer.Marks.Epoch)
	}
}

// refused wants a write to end in ErrChanged and to leave everything alone.
func (w *world) refused(t *testing.T, write func() (string, error)) {
	t.Helper()
	before := w.observe(t)
	if rev, err := write(); !errors.Is(err, rotation.ErrChanged) || rev != "" {
		t.Errorf("revision %q, error %v; want ErrChanged", rev, err)
	}
	after := w.observe(t)
	if before.Bundle.Revision != after.Bundle.Revision || before.Issuer.Revision != after.Issuer.Revision {
		t.Error("a refused write changed something")
	}
}

func createOverExisting(t *testing.T, w *world) {
	w.fill(t)
	other := w.anchors.Issuer(t)
	w.refused(t, func() (string, error) { return w.c.WriteBundle(w.ctx, w.bundleWrite("", 2)) })
	w.refused(t, func() (string, error) { return w.c.WriteIssuer(w.ctx, w.issuerWrite("", &other, 2)) })
}

func staleRevision(t *testing.T, w *world) {
	bundle, issuer, cred := w.fill(t)
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &cred, 2)); err != nil {
		t.Fatal(err)
	}
	other := w.anchors.Issuer(t)
	w.refused(t, func() (string, error) { return w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 3)) })
	w.refused(t, func() (string, error) { return w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &other, 3)) })
	w.refused(t, func() (string, error) { return w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, nil, 3)) })
}

func writeGone(t *testing.T, w *world) {
	bundle, issuer, cred := w.fill(t)
	w.Delete(t, rotation.BundleObject)
	w.Delete(t, rotation.IssuerObject)
	w.refused(t, func() (string, error) { return w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 1)) })
	w.refused(t, func() (string, error) { return w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &cred, 1)) })
	if o := w.observe(t); o.Bundle.Exists || o.Issuer.Exists {
		t.Error("a refused write made an object")
	}
}

func replaceIssuer(t *testing.T, w *world) {
	_, issuer, _ := w.fill(t)
	next := w.anchors.Issuer(t)
	rev, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &next, 1))
	if err != nil || rev == issuer {
		t.Fatalf("revision %q, %v", rev, err)
	}
	o := w.observe(t)
	if o.IssuerFacts.Problem != "" || !o.IssuerFacts.Complete || pki.Serial(o.IssuerFacts.Chain[0]) != pki.Serial(next.Chain()[0]) {
		t.Errorf("problem %q, complete %t", o.IssuerFacts.Problem, o.IssuerFacts.Complete)
	}
}

func rereads(t *testing.T, w *world) {
	bundle, issuer, _ := w.fill(t)
	last := w.observe(t)
	same := func(when, object string) {
		t.Helper()
		got, err := w.c.Reread(w.ctx, last, object)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		want := w.observe(t)
		if object == rotation.BundleObject && (!reflect.DeepEqual(got.Bundle, want.Bundle) || !bytes.Equal(got.BundleText, want.BundleText) || !got.BundleWrittenAt.Equal(want.BundleWrittenAt)) {
			t.Errorf("%s: bundle %+v\n%s, a look shows %+v\n%s", when, got.Bundle, got.BundleText, want.Bundle, want.BundleText)
		}
		if object == rotation.IssuerObject && (!reflect.DeepEqual(got.Issuer, want.Issuer) || !reflect.DeepEqual(got.IssuerFacts, want.IssuerFacts) || !got.IssuerWrittenAt.Equal(want.IssuerWrittenAt) || got.IssuerReload != want.IssuerReload) {
			t.Errorf("%s: issuer %+v\n%+v, a look shows %+v\n%+v", when, got.Issuer, got.IssuerFacts, want.Issuer, want.IssuerFacts)
		}
		if got.Target != last.Target || got.Namespace != last.Namespace {
			t.Errorf("%s: target %q, namespace %t; was %q, %t", when, got.Target, got.Namespace, last.Target, last.Namespace)
		}
	}
	next := w.anchors.Issuer(t)
	revision, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &next, 1))
	if err != nil {
		t.Fatal(err)
	}
	same("after a write", rotation.IssuerObject)
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(revision, &next, 1)); err != nil {
		t.Fatal(err)
	}
	same("after a write of the same", rotation.IssuerObject)
	third := w.anchors.Issuer(t)
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(revision, &third, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(revision, &next, 1)); !errors.Is(err, rotation.ErrChanged) {
		t.Errorf("a write at an old revision: %v", err)
	}
	same("after a write that was refused", rotation.IssuerObject)
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(bundle, 2)); err != nil {
		t.Fatal(err)
	}
	same("after a write", rotation.BundleObject)
	for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
		w.Edit(t, object, func(data map[string][]byte) {
			for key := range data {
				data[key] = []byte("not a certificate")
			}
		})
		same("after an edit", object)
		w.Delete(t, object)
		same("after a deletion", object)
	}
}

func keepPair(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	before := w.Data(t, rotation.IssuerObject)
	w.Edit(t, rotation.IssuerObject, func(data map[string][]byte) {
		delete(data, payload.CrtPEM)
		data[payload.KeyPEM] = []byte("gone\n")
		data[payload.CACert] = []byte("not a certificate\n")
	})
	o := w.observe(t)
	if o.IssuerFacts.Problem != "" || o.IssuerFacts.Complete {
		t.Errorf("problem %q, complete %t; want a usable issuer with damaged copies", o.IssuerFacts.Problem, o.IssuerFacts.Complete)
	}
	keep := w.issuerWrite(o.Issuer.Revision, nil, 2)
	keep.Serial = pki.Serial(cred.Chain()[0])
	rev, err := w.c.WriteIssuer(w.ctx, keep)
	if err != nil || rev == o.Issuer.Revision {
		t.Fatalf("revision %q, %v", rev, err)
	}
	after := w.Data(t, rotation.IssuerObject)
	for _, key := range payload.IssuerKeys() {
		if !bytes.Equal(before[key], after[key]) {
			t.Errorf("%s is not what it was", key)
		}
	}
	if o := w.observe(t); !o.IssuerFacts.Complete || o.Issuer.Marks.Serial != keep.Serial {
		t.Errorf("complete %t, marks %+v", o.IssuerFacts.Complete, o.Issuer.Marks)
	}
}

func keepMismatch(t *testing.T, w *world) {
	w.fill(t)
	other := w.anchors.Issuer(t)
	w.Edit(t, rotation.IssuerObject, func(data map[string][]byte) { data[payload.TLSKey] = other.KeyPEM() })
	o := w.observe(t)
	if o.IssuerFacts.Problem == "" {
		t.Error("a key that does not match is no problem")
	}
	w.refused(t, func() (string, error) {
		return w.c.WriteIssuer(w.ctx, w.issuerWrite(o.Issuer.Revision, nil, 2))
	})
}

func keepNothing(t *testing.T, w *world) {
	w.namespace(t)
	w.refused(t, func() (string, error) { return w.c.WriteIssuer(w.ctx, w.issuerWrite("", nil, 1)) })
}

func foreignKeys(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
		w.Edit(t, object, func(data map[string][]byte) { data["theirs.txt"] = []byte("theirs\n") })
	}
	o := w.observe(t)
	w.bundle = w.anchors.Second(t).Bundle(t)
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(o.Bundle.Revision, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(o.Issuer.Revision, &cred, 2)); err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
		if got := w.Data(t, object)["theirs.txt"]; string(got) != "theirs\n" {
			t.Errorf("%s: theirs.txt is %q", object, got)
		}
	}
}

func strippedMarks(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	w.StripMarks(t, rotation.BundleObject)
	w.StripMarks(t, rotation.IssuerObject)
	o := w.observe(t)
	if o.Bundle.Marks != (rotation.Marks{}) || o.Issuer.Marks != (rotation.Marks{}) {
		t.Errorf("marks %+v and %+v; want none", o.Bundle.Marks, o.Issuer.Marks)
	}
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(o.Bundle.Revision, 1)); err != nil {
		t.Fatal(err)
	}
	keep := w.issuerWrite(o.Issuer.Revision, nil, 1)
	keep.Serial = pki.Serial(cred.Chain()[0])
	if _, err := w.c.WriteIssuer(w.ctx, keep); err != nil {
		t.Fatal(err)
	}
	o = w.observe(t)
	if o.Bundle.Marks.Fleet != "acme" || !o.Bundle.Marks.Keep || !o.Bundle.Marks.Label || o.Issuer.Marks.Serial != keep.Serial || !o.Issuer.Marks.Keep {
		t.Errorf("marks %+v and %+v after repair", o.Bundle.Marks, o.Issuer.Marks)
	}
}

func foreignEdit(t *testing.T, w *world) {
	bundle, _, _ := w.fill(t)
	w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = []byte("theirs\n") })
	o := w.observe(t)
	if string(o.BundleText) != "theirs\n" || o.Bundle.Revision == bundle {
		t.Errorf("bundle reads %q at revision %q", o.BundleText, o.Bundle.Revision)
	}
	if w.As != "" && (len(o.Bundle.Writers) == 0 || o.Bundle.Writers[0].Name != w.As) {
		t.Errorf("writers %v; want %s first", o.Bundle.Writers, w.As)
	}
	if len(o.Bundle.Writers) > 0 && time.Since(o.Bundle.Writers[0].At).Abs() > time.Minute {
		t.Errorf("the writer wrote at %s", o.Bundle.Writers[0].At)
	}
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(o.Bundle.Revision, 1)); err != nil {
		t.Fatal(err)
	}
	o = w.observe(t)
	if !bytes.Equal(o.BundleText, w.bundle.PEM()) || len(o.Bundle.Writers) > 0 {
		t.Errorf("after the repair: %q, writers %v", o.BundleText, o.Bundle.Writers)
	}
}

func damagedIssuer(t *testing.T, w *world) {
	w.fill(t)
	good := w.Data(t, rotation.IssuerObject)
	for name, text := range map[string][]byte{
		"empty":             {},
		"not PEM":           []byte("garbage\x00\xff"),
		"PEM of nothing":    []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
		"huge":              bytes.Repeat([]byte("x"), 300<<10),
		"many certificates": bytes.Repeat(w.bundle.PEM(), 65),
		"the wrong kind":    good[payload.TLSKey],
	} {
		w.Edit(t, rotation.IssuerObject, func(data map[string][]byte) {
			data[payload.TLSCert], data[payload.CrtPEM] = text, text
		})
		o := w.observe(t)
		if !o.Issuer.Exists || o.IssuerFacts.Problem == "" {
			t.Errorf("%s: exists %t, problem %q", name, o.Issuer.Exists, o.IssuerFacts.Problem)
		}
		if strings.Contains(o.IssuerFacts.Problem, "PRIVATE") && strings.Contains(o.IssuerFacts.Problem, "MI") {
			t.Errorf("%s: the problem quotes a key", name)
		}
	}
	o := w.observe(t)
	next := w.anchors.Issuer(t)
	if _, err := w.c.WriteIssuer(w.ctx, w.issuerWrite(o.Issuer.Revision, &next, 1)); err != nil {
		t.Fatal(err)
	}
	if o := w.observe(t); o.IssuerFacts.Problem != "" || !o.IssuerFacts.Complete {
		t.Errorf("after the repair: problem %q, complete %t", o.IssuerFacts.Problem, o.IssuerFacts.Complete)
	}
}

func damagedBundle(t *testing.T, w *world) {
	w.fill(t)
	for name, text := range map[string]string{
		"empty":         "",
		"not PEM":       "garbage\n",
		"a second line": string(w.bundle.PEM()) + "\n",
		"huge":          strings.Repeat("y", 700<<10),
	} {
		w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = []byte(text) })
		if o := w.observe(t); !o.Bundle.Exists || string(o.BundleText) != text {
			t.Errorf("%s: exists %t, %d bytes; want %d", name, o.Bundle.Exists, len(o.BundleText), len(text))
		}
	}
	w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { delete(data, payload.BundleKey) })
	o := w.observe(t)
	if !o.Bundle.Exists || len(o.BundleText) != 0 {
		t.Errorf("without its key: exists %t, %q", o.Bundle.Exists, o.BundleText)
	}
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(o.Bundle.Revision, 1)); err != nil {
		t.Fatal(err)
	}
	if o := w.observe(t); !bytes.Equal(o.BundleText, w.bundle.PEM()) {
		t.Error("the bundle was not repaired")
	}
}

// race lets two certds write and wants exactly one to win.
func (w *world) race(t *testing.T, write func(c rotation.Cluster, i int) error) {
	t.Helper()
	other := w.Again(t)
	t.Cleanup(func() { other.Close() })
	results := make(chan error, 2)
	for i, c := range []rotation.Cluster{w.c, other} {
		go func() { results <- write(c, i) }()
	}
	won := 0
	for range 2 {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, rotation.ErrChanged):
			t.Errorf("the loser got %v; want ErrChanged", err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won", won)
	}
}

func raceToCreate(t *testing.T, w *world) {
	w.namespace(t)
	w.race(t, func(c rotation.Cluster, i int) error {
		_, err := c.WriteBundle(w.ctx, w.bundleWrite("", uint64(i+1)))
		return err
	})
	creds := []pki.Credential{w.anchors.Issuer(t), w.anchors.Issuer(t)}
	w.race(t, func(c rotation.Cluster, i int) error {
		_, err := c.WriteIssuer(w.ctx, w.issuerWrite("", &creds[i], uint64(i+1)))
		return err
	})
	if o := w.observe(t); o.IssuerFacts.Problem != "" || !o.IssuerFacts.Complete {
		t.Errorf("the issuer is torn: problem %q, complete %t", o.IssuerFacts.Problem, o.IssuerFacts.Complete)
	}
}

func raceToWrite(t *testing.T, w *world) {
	bundle, issuer, _ := w.fill(t)
	for n := range 5 {
		w.race(t, func(c rotation.Cluster, i int) error {
			_, err := c.WriteBundle(w.ctx, w.bundleWrite(bundle, uint64(10*n+i+2)))
			return err
		})
		creds := []pki.Credential{w.anchors.Issuer(t), w.anchors.Issuer(t)}
		w.race(t, func(c rotation.Cluster, i int) error {
			_, err := c.WriteIssuer(w.ctx, w.issuerWrite(issuer, &creds[i], uint64(10*n+i+2)))
			return err
		})
		o := w.observe(t)
		if o.IssuerFacts.Problem != "" || !o.IssuerFacts.Complete {
			t.Fatalf("the issuer is torn: problem %q, complete %t", o.IssuerFacts.Problem, o.IssuerFacts.Complete)
		}
		bundle, issuer = o.Bundle.Revision, o.Issuer.Revision
	}
}

func contextEnded(t *testing.T, w *world) {
	bundle, issuer, cred := w.fill(t)
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	_, err := w.c.Observe(ctx)
	_, bundleErr := w.c.WriteBundle(ctx, w.bundleWrite(bundle, 5))
	_, issuerErr := w.c.WriteIssuer(ctx, w.issuerWrite(issuer, &cred, 5))
	for call, err := range map[string]error{"observe": err, "bundle": bundleErr, "issuer": issuerErr, "namespace": w.c.CreateNamespace(ctx)} {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("%s: %v; want ErrUnavailable and the context's error", call, err)
		}
	}
	if o := w.observe(t); o.Bundle.Revision != bundle || o.Issuer.Revision != issuer {
		t.Error("something was written")
	}
}

func events(t *testing.T, w *world) {
	w.fill(t)
	for _, e := range []rotation.Event{
		{Reason: "CertdIssuerRotated", Object: rotation.IssuerObject, Message: "issuer renewed"},
		{Reason: "CertdIssuerRotated", Object: rotation.IssuerObject, Message: "issuer renewed"},
		{Reason: "CertdFailed", Object: rotation.BundleObject, Warning: true, Message: strings.Repeat("long ", 1000)},
	} {
		if err := w.c.Event(w.ctx, e); err != nil {
			t.Errorf("%s: %v", e.Reason, err)
		}
	}
}

func watchChanges(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	w.observe(t)
	ctx, stop := context.WithCancel(w.ctx)
	told := make(chan struct{}, 1000)
	ended := make(chan error, 1)
	go func() { ended <- w.c.Watch(ctx, func() { told <- struct{}{} }) }()
	defer func() {
		stop()
		<-ended
	}()
	w.settle(t, told)
	for _, change := range []struct {
		name string
		make func()
	}{
		{"an edit of the bundle", func() {
			w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = []byte("theirs\n") })
		}},
		{"another one", func() {
			w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = []byte("others\n") })
		}},
		{"an edit of the issuer", func() {
			w.Edit(t, rotation.IssuerObject, func(data map[string][]byte) { data[payload.CACert] = []byte("theirs\n") })
		}},
		{"marks taken away", func() { w.StripMarks(t, rotation.IssuerObject) }},
		{"the issuer's deletion", func() { w.Delete(t, rotation.IssuerObject) }},
		{"the issuer's return", func() {
			other := w.Again(t)
			defer other.Close()
			if _, err := other.WriteIssuer(w.ctx, w.issuerWrite("", &cred, 1)); err != nil {
				t.Fatal(err)
			}
		}},
		{"the bundle's deletion", func() { w.Delete(t, rotation.BundleObject) }},
	} {
		for len(told) > 0 {
			<-told
		}
		begun := time.Now()
		change.make()
		select {
		case <-told:
			t.Logf("%s was told after %s", change.name, time.Since(begun).Round(time.Millisecond))
		case <-time.After(watchLimit):
			t.Fatalf("%s was not told within %s", change.name, watchLimit)
		}
		w.observe(t)
	}
}

// settle waits until a watch stands: until it tells of a probing edit.
func (w *world) settle(t *testing.T, told <-chan struct{}) {
	t.Helper()
	deadline := time.After(watchLimit)
	for i := 0; ; i++ {
		for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
			w.Edit(t, object, func(data map[string][]byte) { data["probe.txt"] = fmt.Append(nil, i) })
		}
		w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = fmt.Append(nil, i) })
		select {
		case <-told:
			if i >= 2 {
				return
			}
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("the watch tells nothing")
		}
	}
}

func watchEnds(t *testing.T, w *world) {
	w.fill(t)
	ctx, stop := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.c.Watch(ctx, func() {}) }()
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended with %v", err)
		}
	case <-time.After(watchLimit):
		t.Error("the watch goes on without its context")
	}
}
