package backendtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// WebhookHands reach behind a cluster's back where its webhooks are concerned.
type WebhookHands struct {
	// As is the name under which they write; "" if this kind of cluster cannot
	// tell.
	As string
	// Spec is a mutating webhook with its namespace and one object, and no
	// check. The cluster was told to look for it under the same name, but
	// without namespace and DNS names.
	Spec rotation.WebhookSpec
	// APIService is likewise an aggregated API server. Its name is "" where
	// this kind of cluster has none to try.
	APIService rotation.WebhookSpec
	// Install makes or overwrites the objects of a webhook, and its Secret if
	// secret is not nil; its namespace is made if need be.
	Install func(t testing.TB, spec rotation.WebhookSpec, caBundle []byte, secret map[string][]byte)
	// Remove takes the objects away.
	Remove func(t testing.TB, spec rotation.WebhookSpec)
	// SetCABundle changes the caBundle of the objects.
	SetCABundle func(t testing.TB, spec rotation.WebhookSpec, text []byte)
	// EditSecret changes the data of the Secret.
	EditSecret func(t testing.TB, spec rotation.WebhookSpec, edit func(data map[string][]byte))
	// DeleteSecret removes the Secret.
	DeleteSecret func(t testing.TB, spec rotation.WebhookSpec)
	// Secret and CABundle return what stands there; nil if absent.
	Secret   func(t testing.TB, spec rotation.WebhookSpec) map[string][]byte
	CABundle func(t testing.TB, spec rotation.WebhookSpec) []byte
	// Again opens the same cluster a second time, as another certd would.
	Again func(t testing.TB) rotation.Cluster
}

// TestWebhooks checks that what open returns keeps the promises of
// rotation.Cluster about webhooks. open returns a cluster where no webhook is
// installed, another one at each call.
func TestWebhooks(t *testing.T, open func(t *testing.T) (rotation.Cluster, WebhookHands)) {
	for _, row := range []struct {
		name   string
		object bool // it depends on the kind of object, so that an APIService is tried, too
		test   func(t *testing.T, w *hookWorld)
	}{
		{"a webhook that is not installed is observed as such", true, notInstalled},
		{"namespace and names of an installed one are filled in", true, filledIn},
		{"a caBundle is written and read back with its marks", true, caBundleRoundTrip},
		{"a certificate is written and read back with its marks", false, servingRoundTrip},
		{"an observation holds no private key", false, noServingKey},
		{"writing the same again changes nothing", true, hookIdempotent},
		{"a new epoch is written", true, hookEpoch},
		{"writing at an old revision changes nothing", true, hookStale},
		{"making what exists changes nothing", true, hookOverExisting},
		{"writing what is gone makes nothing", true, hookGone},
		{"a credential replaces the one before", false, replaceServing},
		{"without a credential the pair stays and what is beside it changes", false, keepServing},
		{"without a credential a pair that does not match stays as it is", false, keepServingMismatch},
		{"without a credential nothing is made", false, keepServingNothing},
		{"asking for a reload changes nothing else", false, reloadOnly},
		{"keys of others survive", false, hookForeignKeys},
		{"a reset caBundle is seen, named where it can be, and undone", true, caBundleReset},
		{"an edited Secret is seen, named where it can be, and undone", false, secretReset},
		{"removal and return are seen", true, removedAndBack},
		{"a damaged Secret is observed and can be replaced", false, damagedSecret},
		{"a key in SEC 1 is usable, but not complete", false, sec1Key},
		{"a caBundle of nothing is observed as empty and can be replaced", true, damagedCABundle},
		{"a caBundle of nothing is never written", true, emptyCABundle},
		{"when certd wrote is told", true, writtenAt},
		{"of two that make a Secret one wins", false, raceToCreateServing},
		{"of two that write one wins", true, raceToWriteHook},
		{"a probe has an answer for each webhook", false, probeAnswers},
		{"a call whose context has ended does nothing", true, hookContextEnded},
		{"a watch tells of an installation", true, watchInstallation},
		{"a watch tells of resets, edits and deletions", true, watchHookChanges},
	} {
		t.Run(row.name, func(t *testing.T) { runHookRow(t, open, row.test, false) })
		if row.object {
			t.Run(row.name+" (APIService)", func(t *testing.T) { runHookRow(t, open, row.test, true) })
		}
	}
}

func runHookRow(t *testing.T, open func(t *testing.T) (rotation.Cluster, WebhookHands), test func(t *testing.T, w *hookWorld), apiService bool) {
	c, hands := open(t)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	spec := hands.Spec
	if apiService {
		spec = hands.APIService
	}
	if spec.Name == "" {
		t.Skip("there is no APIService to try")
	}
	test(t, &hookWorld{WebhookHands: &hands, c: c, ctx: t.Context(), spec: spec, ca: NewWebhookCA(t)})
}

// hookWorld is a cluster, the webhook in question and the material for it.
type hookWorld struct {
	*WebhookHands
	c    rotation.Cluster
	ctx  context.Context
	spec rotation.WebhookSpec
	ca   *WebhookCA
}

func (w *hookWorld) name() string { return w.spec.Service + "." + w.spec.Namespace + ".svc" }

func (w *hookWorld) serving(t testing.TB) pki.Credential {
	t.Helper()
	return w.ca.Serving(t, w.name())
}

// look observes the webhook in question.
func (w *hookWorld) look(t testing.TB) rotation.Webhook {
	t.Helper()
	o, err := w.c.Observe(w.ctx)
	if err != nil {
		t.Fatalf("observe: %v", err)
	}
	for _, hook := range o.Webhooks {
		if hook.Spec.Name == w.spec.Name {
			if hook.Err != nil {
				t.Fatalf("observe %s: %v", w.spec.Name, hook.Err)
			}
			return hook
		}
	}
	t.Fatalf("%s is not among the %d webhooks observed", w.spec.Name, len(o.Webhooks))
	return rotation.Webhook{}
}

// object is the one object of a webhook that is installed.
func object(t testing.TB, hook rotation.Webhook) rotation.WebhookObject {
	t.Helper()
	if len(hook.Objects) != 1 {
		t.Fatalf("%d objects; want 1", len(hook.Objects))
	}
	return hook.Objects[0]
}

func (w *hookWorld) install(t testing.TB) {
	t.Helper()
	if err := w.c.CreateNamespace(w.ctx); err != nil {
		t.Fatalf("create the namespace: %v", err)
	}
	w.Install(t, w.spec, w.ca.Set().PEM(), nil)
}

func (w *hookWorld) servingWrite(revision string, cred *pki.Credential, epoch uint64) rotation.WebhookWrite {
	write := rotation.WebhookWrite{Spec: w.spec, Revision: revision, Fleet: "acme", Epoch: epoch, Credential: cred, CAs: w.ca.Set()}
	if cred != nil {
		write.Serial = pki.Serial(cred.Chain()[0])
	}
	return write
}

func (w *hookWorld) caWrite(revision string, epoch uint64) rotation.CABundleWrite {
	return rotation.CABundleWrite{Spec: w.spec, Object: w.spec.Objects[0], Revision: revision, Fleet: "acme", Epoch: epoch, CAs: w.ca.Set()}
}

// take installs the webhook and has certd write both Secret and caBundle.
func (w *hookWorld) take(t testing.TB) (secret, caBundle string, cred pki.Credential) {
	t.Helper()
	w.install(t)
	cred = w.serving(t)
	secret, err := w.c.WriteWebhook(w.ctx, w.servingWrite("", &cred, 1))
	if err != nil {
		t.Fatalf("make the Secret: %v", err)
	}
	caBundle, err = w.c.WriteCABundle(w.ctx, w.caWrite(object(t, w.look(t)).Revision, 1))
	if err != nil {
		t.Fatalf("write the caBundle: %v", err)
	}
	return secret, caBundle, cred
}

func notInstalled(t *testing.T, w *hookWorld) {
	if hook := w.look(t); len(hook.Objects) > 0 {
		t.Errorf("%d objects of a webhook that is not installed", len(hook.Objects))
	}
	w.install(t)
	w.Remove(t, w.spec)
	if hook := w.look(t); len(hook.Objects) > 0 {
		t.Errorf("%d objects of a webhook that was removed", len(hook.Objects))
	}
}

func filledIn(t *testing.T, w *hookWorld) {
	w.install(t)
	hook := w.look(t)
	if hook.Spec.Namespace != w.spec.Namespace || !slices.Equal(hook.Spec.DNSNames, []string{w.name()}) {
		t.Errorf("namespace %q, names %q; want %q and %q", hook.Spec.Namespace, hook.Spec.DNSNames, w.spec.Namespace, w.name())
	}
	o := object(t, hook)
	if o.Ref != w.spec.Objects[0] || !o.Exists || o.Revision == "" || o.Marks != (rotation.Marks{}) {
		t.Errorf("object %+v", o)
	}
	if !o.CABundle.Equal(w.ca.Set()) || !bytes.Equal(o.CAText, w.ca.Set().PEM()) {
		t.Errorf("the caBundle reads %q", o.CAText)
	}
	if hook.Secret.Exists || hook.Renewer != "" || hook.Reload != "" || !hook.WrittenAt.IsZero() {
		t.Errorf("Secret %+v, renewer %q, reload %q, written at %s; want none", hook.Secret, hook.Renewer, hook.Reload, hook.WrittenAt)
	}
}

func caBundleRoundTrip(t *testing.T, w *hookWorld) {
	_, rev, _ := w.take(t)
	w.ca = NewWebhookCA(t)
	next, err := w.c.WriteCABundle(w.ctx, w.caWrite(rev, 1<<63))
	if err != nil || next == rev {
		t.Fatalf("revision %q, %v; want a new one", next, err)
	}
	o := object(t, w.look(t))
	// The rest of the marks would be for an object of certd's own.
	if o.Revision != next || o.Marks != (rotation.Marks{Fleet: "acme", Epoch: 1 << 63}) {
		t.Errorf("revision %q, marks %+v; want %q, fleet and epoch", o.Revision, o.Marks, next)
	}
	if !o.CABundle.Equal(w.ca.Set()) || !bytes.Equal(o.CAText, w.ca.Set().PEM()) || !bytes.Equal(w.CABundle(t, w.spec), w.ca.Set().PEM()) {
		t.Errorf("the caBundle reads %q", o.CAText)
	}
	if len(o.Writers) > 0 {
		t.Errorf("writers %v beside certd", o.Writers)
	}
}

func servingRoundTrip(t *testing.T, w *hookWorld) {
	rev, _, cred := w.take(t)
	hook := w.look(t)
	want := rotation.Marks{Fleet: "acme", Serial: pki.Serial(cred.Chain()[0]), Epoch: 1, Keep: true, Label: true}
	if !hook.Secret.Exists || hook.Secret.Revision != rev || hook.Secret.Marks != want {
		t.Errorf("Secret %+v; want revision %q and marks %+v", hook.Secret, rev, want)
	}
	if len(hook.Secret.Writers) > 0 {
		t.Errorf("writers %v beside certd", hook.Secret.Writers)
	}
	f := hook.Facts
	if f.Problem != "" || !f.Complete || len(f.Chain) != 1 || !f.Chain[0].Equal(cred.Chain()[0]) || !f.CAs.Equal(w.ca.Set()) || !bytes.Equal(f.CAText, w.ca.Set().PEM()) {
		t.Errorf("problem %q, complete %t, %d certificates, ca.crt %q", f.Problem, f.Complete, len(f.Chain), f.CAText)
	}
	if err := object(t, hook).CABundle.Verify(f.Chain, hook.Spec.DNSNames[0], time.Now()); err != nil {
		t.Errorf("what was written does not verify: %v", err)
	}
	data := w.Secret(t, w.spec)
	for key, text := range map[string][]byte{payload.TLSCert: cred.ChainPEM(), payload.TLSKey: cred.KeyPEM(), payload.CACert: w.ca.Set().PEM()} {
		if !bytes.Equal(data[key], text) {
			t.Errorf("%s is not what was written", key)
		}
	}
}

func noServingKey(t *testing.T, w *hookWorld) {
	_, _, cred := w.take(t)
	w.EditSecret(t, w.spec, func(data map[string][]byte) { data[payload.CACert] = cred.KeyPEM() })
	o, err := w.c.Observe(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	secret := strings.Split(string(cred.KeyPEM()), "\n")[1]
	for _, s := range []string{string(text), fmt.Sprintf("%+v %#v", o, o)} {
		if strings.Contains(s, "PRIVATE KEY") || strings.Contains(s, secret) {
			t.Fatal("the observation holds a private key")
		}
	}
	for _, b := range [][]byte{[]byte("PRIVATE KEY"), []byte(secret)} { // a byte slice in %+v is numbers
		if bytes.Contains(w.look(t).Facts.CAText, b) {
			t.Fatal("ca.crt shows a private key")
		}
	}
}

func hookIdempotent(t *testing.T, w *hookWorld) {
	secret, caBundle, cred := w.take(t)
	kept := w.servingWrite(secret, nil, 1)
	kept.Serial = pki.Serial(cred.Chain()[0])
	for range 2 {
		if again, err := w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &cred, 1)); err != nil || again != secret {
			t.Errorf("Secret: revision %q, %v; want %q", again, err, secret)
		}
		if again, err := w.c.WriteWebhook(w.ctx, kept); err != nil || again != secret {
			t.Errorf("Secret kept: revision %q, %v; want %q", again, err, secret)
		}
		if again, err := w.c.WriteCABundle(w.ctx, w.caWrite(caBundle, 1)); err != nil || again != caBundle {
			t.Errorf("caBundle: revision %q, %v; want %q", again, err, caBundle)
		}
	}
	if hook := w.look(t); hook.Secret.Revision != secret || object(t, hook).Revision != caBundle {
		t.Errorf("revisions %q and %q; want %q and %q", hook.Secret.Revision, object(t, hook).Revision, secret, caBundle)
	}
}

func hookEpoch(t *testing.T, w *hookWorld) {
	secret, caBundle, cred := w.take(t)
	if rev, err := w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &cred, 2)); err != nil || rev == secret {
		t.Errorf("Secret: revision %q, %v; want a new one", rev, err)
	}
	if rev, err := w.c.WriteCABundle(w.ctx, w.caWrite(caBundle, 3)); err != nil || rev == caBundle {
		t.Errorf("caBundle: revision %q, %v; want a new one", rev, err)
	}
	if hook := w.look(t); hook.Secret.Marks.Epoch != 2 || object(t, hook).Marks.Epoch != 3 {
		t.Errorf("epochs %d and %d; want 2 and 3", hook.Secret.Marks.Epoch, object(t, hook).Marks.Epoch)
	}
}

// refused wants a write to end in ErrChanged and to leave everything alone.
func (w *hookWorld) refused(t *testing.T, what string, write func() (string, error)) {
	t.Helper()
	data, text := w.Secret(t, w.spec), w.CABundle(t, w.spec)
	before := w.look(t)
	if rev, err := write(); !errors.Is(err, rotation.ErrChanged) || rev != "" {
		t.Errorf("%s: revision %q, error %v; want ErrChanged", what, rev, err)
	}
	after := w.look(t)
	same := before.Secret.Revision == after.Secret.Revision && len(before.Objects) == len(after.Objects) && bytes.Equal(text, w.CABundle(t, w.spec))
	for i := range min(len(before.Objects), len(after.Objects)) {
		same = same && before.Objects[i].Revision == after.Objects[i].Revision
	}
	now := w.Secret(t, w.spec)
	if !same || (data == nil) != (now == nil) || !payload.Same(now, data) {
		t.Errorf("%s: a refused write changed something", what)
	}
}

func hookStale(t *testing.T, w *hookWorld) {
	secret, caBundle, cred := w.take(t)
	if _, err := w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &cred, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.WriteCABundle(w.ctx, w.caWrite(caBundle, 2)); err != nil {
		t.Fatal(err)
	}
	other := w.serving(t)
	w.refused(t, "a Secret", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &other, 3)) })
	w.refused(t, "a Secret kept", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite(secret, nil, 3)) })
	w.refused(t, "a caBundle", func() (string, error) { return w.c.WriteCABundle(w.ctx, w.caWrite(caBundle, 3)) })
}

// A caBundle is never made, so that an empty revision fits no object.
func hookOverExisting(t *testing.T, w *hookWorld) {
	w.take(t)
	other := w.serving(t)
	w.refused(t, "a Secret", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite("", &other, 2)) })
	w.refused(t, "a caBundle", func() (string, error) { return w.c.WriteCABundle(w.ctx, w.caWrite("", 2)) })
}

func hookGone(t *testing.T, w *hookWorld) {
	secret, caBundle, cred := w.take(t)
	w.DeleteSecret(t, w.spec)
	w.refused(t, "a Secret", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &cred, 1)) })
	w.Remove(t, w.spec)
	w.refused(t, "a caBundle", func() (string, error) { return w.c.WriteCABundle(w.ctx, w.caWrite(caBundle, 1)) })
	w.refused(t, "a caBundle of nothing", func() (string, error) { return w.c.WriteCABundle(w.ctx, w.caWrite("", 1)) })
}

func replaceServing(t *testing.T, w *hookWorld) {
	secret, _, _ := w.take(t)
	next := w.serving(t)
	rev, err := w.c.WriteWebhook(w.ctx, w.servingWrite(secret, &next, 1))
	if err != nil || rev == secret {
		t.Fatalf("revision %q, %v", rev, err)
	}
	if f := w.look(t).Facts; f.Problem != "" || !f.Complete || !f.Chain[0].Equal(next.Chain()[0]) {
		t.Errorf("problem %q, complete %t", f.Problem, f.Complete)
	}
}

func keepServing(t *testing.T, w *hookWorld) {
	_, _, cred := w.take(t)
	w.EditSecret(t, w.spec, func(data map[string][]byte) { data[payload.CACert] = []byte("not a certificate\n") })
	hook := w.look(t)
	if hook.Facts.Problem != "" || !hook.Facts.CAs.IsZero() {
		t.Errorf("problem %q, CAs %v; want a usable pair beside a ca.crt of nothing", hook.Facts.Problem, hook.Facts.CAs.Certificates())
	}
	keep := w.servingWrite(hook.Secret.Revision, nil, 2)
	keep.Serial, keep.Reload = pki.Serial(cred.Chain()[0]), "7"
	rev, err := w.c.WriteWebhook(w.ctx, keep)
	if err != nil || rev == hook.Secret.Revision {
		t.Fatalf("revision %q, %v", rev, err)
	}
	data := w.Secret(t, w.spec)
	for key, text := range map[string][]byte{payload.TLSCert: cred.ChainPEM(), payload.TLSKey: cred.KeyPEM(), payload.CACert: w.ca.Set().PEM(), payload.ReloadKey: []byte("7")} {
		if !bytes.Equal(data[key], text) {
			t.Errorf("%s is not what it should be", key)
		}
	}
	if hook := w.look(t); hook.Reload != "7" || hook.Secret.Marks.Serial != keep.Serial || !hook.Facts.CAs.Equal(w.ca.Set()) {
		t.Errorf("reload %q, marks %+v, ca.crt %q", hook.Reload, hook.Secret.Marks, hook.Facts.CAText)
	}
}

func keepServingMismatch(t *testing.T, w *hookWorld) {
	w.take(t)
	other := w.serving(t)
	w.EditSecret(t, w.spec, func(data map[string][]byte) { data[payload.TLSKey] = other.KeyPEM() })
	hook := w.look(t)
	if hook.Facts.Problem == "" {
		t.Error("a key that does not match is no problem")
	}
	w.refused(t, "a mismatched pair", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite(hook.Secret.Revision, nil, 2)) })
}

func keepServingNothing(t *testing.T, w *hookWorld) {
	w.install(t)
	w.refused(t, "no pair", func() (string, error) { return w.c.WriteWebhook(w.ctx, w.servingWrite("", nil, 1)) })
}

func reloadOnly(t *testing.T, w *hookWorld) {
	rev, _, cred := w.take(t)
	before := w.Secret(t, w.spec)
	for _, reload := range []string{"1", "2"} {
		write := w.servingWrite(rev, nil, 1)
		write.Serial, write.Reload = pki.Serial(cred.Chain()[0]), reload
		next, err := w.c.WriteWebhook(w.ctx, write)
		if err != nil || next == rev {
			t.Fatalf("reload %s: revision %q, %v; want a new one", reload, next, err)
		}
		rev = next
		after := w.Secret(t, w.spec)
		if string(after[payload.ReloadKey]) != reload || w.look(t).Reload != reload {
			t.Errorf("reload is %q in the Secret and observed as %q; want %q", after[payload.ReloadKey], w.look(t).Reload, reload)
		}
		delete(after, payload.ReloadKey)
		if !payload.Same(after, before) || len(after) != len(before) {
			t.Errorf("reload %s changed other keys", reload)
		}
	}
	write := w.servingWrite(rev, nil, 2) // without a word about reloading
	write.Serial = pki.Serial(cred.Chain()[0])
	if _, err := w.c.WriteWebhook(w.ctx, write); err != nil {
		t.Fatal(err)
	}
	if got := w.look(t).Reload; got != "2" {
		t.Errorf("reload is %q after a write without one; want 2", got)
	}
}

func hookForeignKeys(t *testing.T, w *hookWorld) {
	w.take(t)
	w.EditSecret(t, w.spec, func(data map[string][]byte) { data["theirs.txt"] = []byte("theirs\n") })
	next := w.serving(t)
	if _, err := w.c.WriteWebhook(w.ctx, w.servingWrite(w.look(t).Secret.Revision, &next, 2)); err != nil {
		t.Fatal(err)
	}
	if got := w.Secret(t, w.spec)["theirs.txt"]; string(got) != "theirs\n" {
		t.Errorf("theirs.txt is %q", got)
	}
}

// byAs wants As to be named as the last writer, just now.
func (w *hookWorld) byAs(t *testing.T, writers []rotation.Writer) {
	t.Helper()
	if w.As != "" && (len(writers) == 0 || writers[0].Name != w.As) {
		t.Errorf("writers %v; want %s first", writers, w.As)
	}
	if len(writers) > 0 && time.Since(writers[0].At).Abs() > time.Minute {
		t.Errorf("the writer wrote at %s", writers[0].At)
	}
}

func caBundleReset(t *testing.T, w *hookWorld) {
	_, rev, _ := w.take(t)
	theirs := NewWebhookCA(t).Set()
	w.SetCABundle(t, w.spec, theirs.PEM())
	o := object(t, w.look(t))
	if !o.CABundle.Equal(theirs) || o.Revision == rev {
		t.Errorf("the caBundle reads %q at revision %q", o.CAText, o.Revision)
	}
	w.byAs(t, o.Writers)
	w.refused(t, "a caBundle that was reset meanwhile", func() (string, error) { return w.c.WriteCABundle(w.ctx, w.caWrite(rev, 2)) })
	if _, err := w.c.WriteCABundle(w.ctx, w.caWrite(o.Revision, 1)); err != nil {
		t.Fatal(err)
	}
	if o := object(t, w.look(t)); !o.CABundle.Equal(w.ca.Set()) || len(o.Writers) > 0 {
		t.Errorf("after the repair: %q, writers %v", o.CAText, o.Writers)
	}
}

func secretReset(t *testing.T, w *hookWorld) {
	rev, _, cred := w.take(t)
	theirs := ChartPair(t, w.name())
	w.Install(t, w.spec, theirs[payload.TLSCert], theirs) // as an upgrade of the chart does
	hook := w.look(t)
	if len(hook.Facts.Chain) != 1 || hook.Facts.Chain[0].Equal(cred.Chain()[0]) || hook.Secret.Revision == rev {
		t.Errorf("%d certificates at revision %q", len(hook.Facts.Chain), hook.Secret.Revision)
	}
	if err := object(t, hook).CABundle.Verify(hook.Facts.Chain, w.name(), time.Now()); err != nil {
		t.Errorf("the chart's own pair does not verify: %v", err)
	}
	w.byAs(t, hook.Secret.Writers)
	w.byAs(t, object(t, hook).Writers)
	if _, err := w.c.WriteWebhook(w.ctx, w.servingWrite(hook.Secret.Revision, &cred, 1)); err != nil {
		t.Fatal(err)
	}
	if hook := w.look(t); !hook.Facts.Chain[0].Equal(cred.Chain()[0]) || !hook.Facts.Complete || len(hook.Secret.Writers) > 0 {
		t.Errorf("after the repair: problem %q, writers %v", hook.Facts.Problem, hook.Secret.Writers)
	}
}

func removedAndBack(t *testing.T, w *hookWorld) {
	_, rev, _ := w.take(t)
	w.Remove(t, w.spec)
	if hook := w.look(t); len(hook.Objects) > 0 {
		t.Errorf("%d objects of a webhook that was removed", len(hook.Objects))
	}
	w.ca = NewWebhookCA(t)
	w.Install(t, w.spec, w.ca.Set().PEM(), nil)
	o := object(t, w.look(t))
	if !o.CABundle.Equal(w.ca.Set()) || o.Revision == rev || o.Marks != (rotation.Marks{}) || !o.WrittenAt.IsZero() {
		t.Errorf("back at revision %q with marks %+v, written at %s, caBundle %q", o.Revision, o.Marks, o.WrittenAt, o.CAText)
	}
	if _, err := w.c.WriteCABundle(w.ctx, w.caWrite(o.Revision, 2)); err != nil {
		t.Errorf("write to what came back: %v", err)
	}
}

func damagedSecret(t *testing.T, w *hookWorld) {
	_, _, cred := w.take(t)
	for name, text := range map[string][]byte{
		"empty":             {},
		"not PEM":           []byte("garbage\x00\xff"),
		"PEM of nothing":    []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
		"huge":              bytes.Repeat([]byte("x"), 300<<10),
		"many certificates": bytes.Repeat(w.ca.Set().PEM(), 65),
		"the wrong kind":    cred.KeyPEM(),
	} {
		for _, key := range []string{payload.TLSCert, payload.TLSKey} {
			w.EditSecret(t, w.spec, func(data map[string][]byte) {
				data[payload.TLSCert], data[payload.TLSKey] = cred.ChainPEM(), cred.KeyPEM()
				data[key] = text
			})
			hook := w.look(t)
			if good := key == payload.TLSKey && name == "the wrong kind"; !hook.Secret.Exists || (hook.Facts.Problem == "") != good || hook.Facts.Complete != good {
				t.Errorf("%s in %s: exists %t, problem %q, complete %t", name, key, hook.Secret.Exists, hook.Facts.Problem, hook.Facts.Complete)
			}
			if strings.Contains(hook.Facts.Problem, strings.Split(string(cred.KeyPEM()), "\n")[1]) {
				t.Errorf("%s in %s: the problem quotes a key", name, key)
			}
		}
	}
	next := w.serving(t)
	if _, err := w.c.WriteWebhook(w.ctx, w.servingWrite(w.look(t).Secret.Revision, &next, 1)); err != nil {
		t.Fatal(err)
	}
	if f := w.look(t).Facts; f.Problem != "" || !f.Complete {
		t.Errorf("after the repair: problem %q, complete %t", f.Problem, f.Complete)
	}
}

func sec1Key(t *testing.T, w *hookWorld) {
	_, _, cred := w.take(t)
	block, _ := pem.Decode(cred.KeyPEM())
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", key)
	}
	der, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	w.EditSecret(t, w.spec, func(data map[string][]byte) {
		data[payload.TLSKey] = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	})
	hook := w.look(t)
	if hook.Facts.Problem != "" || hook.Facts.Complete {
		t.Errorf("problem %q, complete %t; want a usable pair that is not complete", hook.Facts.Problem, hook.Facts.Complete)
	}
	keep := w.servingWrite(hook.Secret.Revision, nil, 2)
	keep.Serial = pki.Serial(cred.Chain()[0])
	if _, err := w.c.WriteWebhook(w.ctx, keep); err != nil {
		t.Fatal(err)
	}
	if f := w.look(t).Facts; f.Problem != "" || !f.Complete || !bytes.Equal(w.Secret(t, w.spec)[payload.TLSKey], cred.KeyPEM()) {
		t.Errorf("after the repair: problem %q, complete %t", f.Problem, f.Complete)
	}
}

func damagedCABundle(t *testing.T, w *hookWorld) {
	w.take(t)
	for name, text := range map[string][]byte{
		"empty":             nil,
		"not PEM":           []byte("garbage\n"),
		"PEM of nothing":    []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
		"huge":              bytes.Repeat([]byte("y"), 300<<10),
		"many certificates": bytes.Repeat(w.ca.Set().PEM(), 65),
	} {
		w.SetCABundle(t, w.spec, text)
		if o := object(t, w.look(t)); !o.Exists || !o.CABundle.IsZero() {
			t.Errorf("%s: exists %t, %d CAs", name, o.Exists, len(o.CABundle.Certificates()))
		}
	}
	if _, err := w.c.WriteCABundle(w.ctx, w.caWrite(object(t, w.look(t)).Revision, 2)); err != nil {
		t.Fatal(err)
	}
	if o := object(t, w.look(t)); !o.CABundle.Equal(w.ca.Set()) {
		t.Errorf("after the repair: %q", o.CAText)
	}
}

// An empty caBundle has the API server go by the roots of its own host.
func emptyCABundle(t *testing.T, w *hookWorld) {
	_, rev, _ := w.take(t)
	write := w.caWrite(rev, 2)
	write.CAs = pki.CASet{}
	if got, err := w.c.WriteCABundle(w.ctx, write); err == nil || got != "" {
		t.Errorf("revision %q, error %v; want it refused", got, err)
	}
	if o := object(t, w.look(t)); o.Revision != rev || !o.CABundle.Equal(w.ca.Set()) {
		t.Errorf("revision %q, caBundle %q", o.Revision, o.CAText)
	}
}

func writtenAt(t *testing.T, w *hookWorld) {
	w.install(t)
	pair := ChartPair(t, w.name())
	w.Install(t, w.spec, pair[payload.TLSCert], pair)
	hook := w.look(t)
	if !hook.WrittenAt.IsZero() || !object(t, hook).WrittenAt.IsZero() {
		t.Errorf("written at %s and %s by certd, which wrote nothing yet", hook.WrittenAt, object(t, hook).WrittenAt)
	}
	cred := w.serving(t)
	if _, err := w.c.WriteWebhook(w.ctx, w.servingWrite(hook.Secret.Revision, &cred, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.WriteCABundle(w.ctx, w.caWrite(object(t, hook).Revision, 1)); err != nil {
		t.Fatal(err)
	}
	hook = w.look(t)
	for what, at := range map[string]time.Time{"Secret": hook.WrittenAt, "caBundle": object(t, hook).WrittenAt} {
		if time.Since(at).Abs() > time.Minute {
			t.Errorf("the %s was written at %s, it is said", what, at)
		}
	}
}

// race lets two certds write and wants exactly one to win.
func (w *hookWorld) race(t *testing.T, write func(c rotation.Cluster, i int) error) {
	t.Helper()
	(&world{Hands: &Hands{Again: w.Again}, c: w.c, ctx: w.ctx}).race(t, write)
}

// whole wants a Secret that is not torn between two writers.
func (w *hookWorld) whole(t *testing.T) rotation.Webhook {
	t.Helper()
	hook := w.look(t)
	if hook.Facts.Problem != "" || !hook.Facts.Complete || hook.Secret.Marks.Serial != pki.Serial(hook.Facts.Chain[0]) {
		t.Fatalf("the Secret is torn: problem %q, complete %t, marks %+v", hook.Facts.Problem, hook.Facts.Complete, hook.Secret.Marks)
	}
	return hook
}

func raceToCreateServing(t *testing.T, w *hookWorld) {
	w.install(t)
	creds := []pki.Credential{w.serving(t), w.serving(t)}
	w.race(t, func(c rotation.Cluster, i int) error {
		_, err := c.WriteWebhook(w.ctx, w.servingWrite("", &creds[i], uint64(i+1)))
		return err
	})
	w.whole(t)
}

func raceToWriteHook(t *testing.T, w *hookWorld) {
	secret, caBundle, _ := w.take(t)
	for n := range 5 {
		creds := []pki.Credential{w.serving(t), w.serving(t)}
		w.race(t, func(c rotation.Cluster, i int) error {
			_, err := c.WriteWebhook(w.ctx, w.servingWrite(secret, &creds[i], uint64(10*n+i+2)))
			return err
		})
		w.race(t, func(c rotation.Cluster, i int) error {
			_, err := c.WriteCABundle(w.ctx, w.caWrite(caBundle, uint64(10*n+i+2)))
			return err
		})
		hook := w.whole(t)
		secret, caBundle = hook.Secret.Revision, object(t, hook).Revision
	}
}

func probeAnswers(t *testing.T, w *hookWorld) {
	absent := w.c.ProbeWebhooks(w.ctx, []rotation.WebhookSpec{w.spec})
	w.take(t)
	spec := w.look(t).Spec
	for state, found := range map[string]map[string]rotation.WebhookEvidence{"absent": absent, "installed": w.c.ProbeWebhooks(w.ctx, []rotation.WebhookSpec{spec})} {
		e, ok := found[spec.Name]
		if !ok || len(found) != 1 || time.Since(e.At).Abs() > time.Minute {
			t.Errorf("%s: an answer %t, of %d, begun at %s", state, ok, len(found), e.At)
		}
		if e.Check.State != "" {
			t.Errorf("%s: the check says %q of a webhook that has none", state, e.Check.State)
		}
		for _, r := range e.Replicas {
			if r.Evidence == "" {
				t.Errorf("%s: replica %s without evidence", state, r.Pod)
			}
		}
	}
	if found := w.c.ProbeWebhooks(w.ctx, nil); len(found) > 0 {
		t.Errorf("%d answers to no question", len(found))
	}
}

func hookContextEnded(t *testing.T, w *hookWorld) {
	secret, caBundle, cred := w.take(t)
	ctx, cancel := context.WithCancel(w.ctx)
	cancel()
	_, secretErr := w.c.WriteWebhook(ctx, w.servingWrite(secret, &cred, 5))
	_, caBundleErr := w.c.WriteCABundle(ctx, w.caWrite(caBundle, 5))
	restartErr := w.c.Restart(ctx, w.spec.Namespace, rotation.ObjectRef{Kind: "Deployment", Name: w.spec.Service})
	for call, err := range map[string]error{"Secret": secretErr, "caBundle": caBundleErr, "restart": restartErr} {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("%s: %v; want ErrUnavailable and the context's error", call, err)
		}
	}
	asked := w.spec
	asked.DNSNames, asked.Check = []string{w.name()}, rotation.CheckAvailable
	e, ok := w.c.ProbeWebhooks(ctx, []rotation.WebhookSpec{asked})[w.spec.Name]
	if !ok || e.Check.State != "unknown" || e.Check.Evidence == "" || slices.ContainsFunc(e.Replicas, func(r rotation.WebhookReplica) bool { return r.Served != nil }) {
		t.Errorf("probe: an answer %t, check %+v, %d replicas; want an unknown one", ok, e.Check, len(e.Replicas))
	}
	if hook := w.look(t); hook.Secret.Revision != secret || object(t, hook).Revision != caBundle {
		t.Error("something was written")
	}
}

// watch runs a watch for as long as the test.
func (w *hookWorld) watch(t *testing.T) (told chan struct{}) {
	ctx, stop := context.WithCancel(w.ctx)
	told = make(chan struct{}, 1000)
	ended := make(chan error, 1)
	go func() { ended <- w.c.Watch(ctx, func() { told <- struct{}{} }) }()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return told
}

// tells wants a watch to tell of a change, then looks, as the loop does.
func (w *hookWorld) tells(t *testing.T, told <-chan struct{}, name string, change func()) {
	t.Helper()
	for len(told) > 0 {
		<-told
	}
	begun := time.Now()
	change()
	select {
	case <-told:
		t.Logf("%s was told after %s", name, time.Since(begun).Round(time.Millisecond))
	case <-time.After(watchLimit):
		t.Fatalf("%s was not told within %s", name, watchLimit)
	}
	w.look(t)
}

func watchInstallation(t *testing.T, w *hookWorld) {
	if err := w.c.CreateNamespace(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.look(t)
	told := w.watch(t)
	// Nothing is there yet that could be changed to find out whether the watch
	// stands.
	time.Sleep(time.Second)
	w.tells(t, told, "the installation", func() { w.Install(t, w.spec, w.ca.Set().PEM(), nil) })
	w.tells(t, told, "a reset after it", func() { w.SetCABundle(t, w.spec, NewWebhookCA(t).Set().PEM()) })
}

func watchHookChanges(t *testing.T, w *hookWorld) {
	_, _, cred := w.take(t)
	w.look(t)
	told := w.watch(t)
	w.settleHook(t, told)
	pair := ChartPair(t, w.name())
	w.tells(t, told, "a reset of the caBundle", func() { w.SetCABundle(t, w.spec, w.ca.Set().PEM()) })
	w.tells(t, told, "an edit of the Secret", func() {
		w.EditSecret(t, w.spec, func(data map[string][]byte) { data[payload.CACert] = []byte("theirs\n") })
	})
	w.tells(t, told, "another one", func() {
		w.EditSecret(t, w.spec, func(data map[string][]byte) { maps.Copy(data, pair) })
	})
	w.tells(t, told, "the Secret's deletion", func() { w.DeleteSecret(t, w.spec) })
	w.tells(t, told, "the Secret's return", func() {
		other := w.Again(t)
		defer other.Close()
		if _, err := other.WriteWebhook(w.ctx, w.servingWrite("", &cred, 1)); err != nil {
			t.Fatal(err)
		}
	})
	w.tells(t, told, "the webhook's removal", func() { w.Remove(t, w.spec) })
	w.tells(t, told, "the webhook's return", func() { w.Install(t, w.spec, pair[payload.TLSCert], nil) })
	w.tells(t, told, "a reset after it", func() { w.SetCABundle(t, w.spec, w.ca.Set().PEM()) })
}

// settleHook waits until a watch stands: until it tells of probing edits.
func (w *hookWorld) settleHook(t *testing.T, told <-chan struct{}) {
	t.Helper()
	deadline := time.After(watchLimit)
	for i := 0; ; i++ {
		w.EditSecret(t, w.spec, func(data map[string][]byte) { data["probe.txt"] = fmt.Append(nil, i) })
		w.SetCABundle(t, w.spec, NewWebhookCA(t).Set().PEM())
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
