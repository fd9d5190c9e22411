package backendtest

import (
	"bytes"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// What a cluster came with is taken over without a byte of it being changed.

func marksAlone(t *testing.T, w *world) {
	w.namespace(t)
	text := append([]byte("# made by hand\n"), bytes.TrimSpace(w.bundle.PEM())...)
	w.Edit(t, rotation.BundleObject, func(data map[string][]byte) { data[payload.BundleKey] = text })
	for epoch := range uint64(3) {
		o := w.observe(t)
		rev, err := w.c.WriteBundle(w.ctx, rotation.BundleWrite{Revision: o.Bundle.Revision, Fleet: "acme", Epoch: epoch + 1})
		if err != nil {
			t.Fatal(err)
		}
		o = w.observe(t)
		if want := (rotation.Marks{Fleet: "acme", Epoch: epoch + 1, Keep: true, Label: true}); o.Bundle.Marks != want || o.Bundle.Revision != rev {
			t.Errorf("marks %+v at %s, want %+v at %s", o.Bundle.Marks, o.Bundle.Revision, want, rev)
		}
		if !bytes.Equal(o.BundleText, text) {
			t.Errorf("the text is now\n%s", o.BundleText)
		}
		if !o.BundleWrittenAt.IsZero() {
			t.Errorf("it counts as written by certd at %s", o.BundleWrittenAt)
		}
	}
	// What certd has written itself, the marks alone leave, too.
	o := w.observe(t)
	if _, err := w.c.WriteBundle(w.ctx, w.bundleWrite(o.Bundle.Revision, 4)); err != nil {
		t.Fatal(err)
	}
	o = w.observe(t)
	if _, err := w.c.WriteBundle(w.ctx, rotation.BundleWrite{Revision: o.Bundle.Revision, Fleet: "acme", Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	if o = w.observe(t); !bytes.Equal(o.BundleText, w.bundle.PEM()) || o.Bundle.Marks.Epoch != 5 {
		t.Errorf("epoch %d, and the text is\n%s", o.Bundle.Marks.Epoch, o.BundleText)
	}
}

func missingNames(t *testing.T, w *world) {
	w.namespace(t)
	cred := w.anchors.Issuer(t)
	crt, key := append(cred.ChainPEM(), []byte("\n")...), cred.KeyPEM()
	crt = crt[:len(crt)-2] // trimmed, as Helm does
	w.Edit(t, rotation.IssuerObject, func(data map[string][]byte) { data[payload.CrtPEM], data[payload.KeyPEM] = crt, key })
	if w.observe(t).IssuerFacts.Readable {
		t.Fatal("it counts as readable under either scheme")
	}
	for epoch := range uint64(2) {
		o := w.observe(t)
		write := rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Epoch: epoch + 1, Serial: pki.Serial(cred.Chain()[0]), Bundle: w.bundle, Missing: true}
		if _, err := w.c.WriteIssuer(w.ctx, write); err != nil {
			t.Fatal(err)
		}
		data := w.Data(t, rotation.IssuerObject)
		for name, want := range map[string][]byte{payload.CrtPEM: crt, payload.KeyPEM: key, payload.TLSCert: crt, payload.TLSKey: key, payload.CACert: w.bundle.PEM()} {
			if !bytes.Equal(data[name], want) {
				t.Errorf("%s is not what it should be (%d bytes, want %d)", name, len(data[name]), len(want))
			}
		}
		if o := w.observe(t); !o.IssuerFacts.Readable || o.Issuer.Marks.Epoch != epoch+1 || o.IssuerFacts.Problem != "" {
			t.Errorf("readable %t, marks %+v, problem %q", o.IssuerFacts.Readable, o.Issuer.Marks, o.IssuerFacts.Problem)
		}
	}
}

// second makes a further certificate for an issuer, under the newest anchor.
func (a *Anchors) second(t *testing.T, of *x509.Certificate) *x509.Certificate {
	t.Helper()
	n := len(a.certs) - 1
	template, err := pki.NewSecondTemplate(time.Now(), pki.IssuerProfile{Backdate: 10 * time.Minute}, of, a.certs[n])
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.SignIssuer(template, a.certs[n], publicOf(t, of), a.keys[n])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func otherChain(t *testing.T, w *world) {
	_, _, cred := w.fill(t)
	key := w.Data(t, rotation.IssuerObject)[payload.TLSKey]
	more := w.anchors.Second(t)
	first := cred.Chain()[0]
	chain := []*x509.Certificate{more.second(t, first), first}
	o := w.observe(t)
	if _, err := w.c.WriteIssuer(w.ctx, rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Epoch: 2, Serial: pki.Serial(chain[0]), Chain: chain, Bundle: more.Bundle(t)}); err != nil {
		t.Fatal(err)
	}
	data := w.Data(t, rotation.IssuerObject)
	if !bytes.Equal(data[payload.TLSKey], key) || !bytes.Equal(data[payload.KeyPEM], key) {
		t.Error("the key did not stay")
	}
	want := pki.EncodeCertificates(chain...)
	if !bytes.Equal(data[payload.TLSCert], want) || !bytes.Equal(data[payload.CrtPEM], want) || !bytes.Equal(data[payload.CACert], more.Bundle(t).PEM()) {
		t.Error("the certificates beside it are not those that were given")
	}
	for _, anchors := range []pki.Bundle{w.bundle, more.Bundle(t)} {
		if err := w.observe(t).IssuerFacts.Verify(anchors, time.Now()); err != nil {
			t.Error(err)
		}
	}
}

func chainMismatch(t *testing.T, w *world) {
	w.fill(t)
	before, o := w.Data(t, rotation.IssuerObject), w.observe(t)
	other := w.anchors.Issuer(t)
	_, err := w.c.WriteIssuer(w.ctx, rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Epoch: 2, Chain: other.Chain(), Bundle: w.bundle})
	if !errors.Is(err, rotation.ErrChanged) {
		t.Errorf("%v", err)
	}
	if after := w.Data(t, rotation.IssuerObject); !payload.Same(before, after) {
		t.Error("it was written all the same")
	}
}
