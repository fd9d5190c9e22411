package kube

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// place is a namespace of the lab with both objects in it.
type place struct {
	kubectl
	c       *Cluster
	anchors *backendtest.Anchors
	o       rotation.Observation
}

func fill(t *testing.T) *place {
	t.Helper()
	l, _, admin := lab(t)
	p := &place{kubectl: kubectl{admin, newNamespaceName()}}
	t.Cleanup(func() { deleteNamespace(admin, p.ns) })
	p.c = open(t, l, p.ns)
	p.anchors = backendtest.NewAnchors(t, pki.Identity{Namespace: p.ns, TrustDomain: "cluster.local"})
	if err := p.c.CreateNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.publish(t); err != nil {
		t.Fatal(err)
	}
	return p
}

// publish writes both objects over whatever is there, and looks again.
func (p *place) publish(t *testing.T) error {
	t.Helper()
	look := func() rotation.Observation {
		o, err := p.c.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := look()
	cred := p.anchors.Issuer(t)
	_, err := p.c.WriteBundle(t.Context(), rotation.BundleWrite{Revision: o.Bundle.Revision, Fleet: "acme", Epoch: 3, Bundle: p.anchors.Bundle(t)})
	_, issuerErr := p.c.WriteIssuer(t.Context(), rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Epoch: 3, Serial: "1", Credential: &cred, Bundle: p.anchors.Bundle(t)})
	p.o = look()
	return errors.Join(err, issuerErr)
}

func (p *place) issuer(t *testing.T) *corev1.Secret {
	t.Helper()
	s, err := p.admin.CoreV1().Secrets(p.ns).Get(t.Context(), rotation.IssuerObject, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIssuerObjectIsAsLinkerdWantsIt(t *testing.T) {
	s := fill(t).issuer(t)
	if s.Type != corev1.SecretTypeTLS {
		t.Errorf("type %s", s.Type)
	}
	if s.Labels["app.kubernetes.io/managed-by"] != "certd" {
		t.Errorf("labels %v", s.Labels)
	}
	for name, want := range map[string]string{"certd.io/fleet": "acme", "certd.io/serial": "1", "certd.io/epoch": "3", "helm.sh/resource-policy": "keep"} {
		if s.Annotations[name] != want {
			t.Errorf("annotation %s is %q; want %q", name, s.Annotations[name], want)
		}
	}
	for _, key := range []string{"tls.crt", "tls.key", "ca.crt", "crt.pem", "key.pem"} {
		if len(s.Data[key]) == 0 {
			t.Errorf("%s is missing", key)
		}
	}
}

// A Secret's type cannot change: the one of Helm's Secret stays.
func TestTypeOfAnExistingSecretStays(t *testing.T) {
	p := fill(t)
	p.delete(t, rotation.IssuerObject)
	_, err := p.admin.CoreV1().Secrets(p.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: rotation.IssuerObject},
		Data: map[string][]byte{payload.CrtPEM: []byte("x"), payload.KeyPEM: []byte("x")}}, metav1.CreateOptions{FieldManager: "helm"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.publish(t); err != nil {
		t.Fatal(err)
	}
	if s := p.issuer(t); s.Type != corev1.SecretTypeOpaque || !p.o.IssuerFacts.Complete {
		t.Errorf("type %s, complete %t", s.Type, p.o.IssuerFacts.Complete)
	}
	if len(p.o.Issuer.Writers) > 0 {
		t.Errorf("writers %v after certd took all its fields", p.o.Issuer.Writers)
	}
}

// What certd made by create it owns by apply from the second write on, so
// that a rival's later apply conflicts with it.
func TestLaterAppliesOwnTheFields(t *testing.T) {
	p := fill(t)
	if err := p.publish(t); err != nil {
		t.Fatal(err)
	}
	applied := slices.ContainsFunc(p.issuer(t).ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && dataFields([]string{payload.TLSKey})(e.FieldsV1.GetRawBytes())
	})
	if !applied {
		t.Error("certd does not own tls.key by apply")
	}
}

// Of an immutable object the data stays; its label and annotations are put right all the same.
func TestImmutableObjectIsNamed(t *testing.T) {
	p := fill(t)
	yes := true
	p.secret(t, func(s *corev1.Secret) { s.Immutable, s.Labels = &yes, nil })
	p.configMap(t, func(m *corev1.ConfigMap) { m.Immutable, m.Labels = &yes, nil })
	o, err := p.c.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.c.WriteBundle(t.Context(), rotation.BundleWrite{Revision: o.Bundle.Revision, Fleet: "acme", Epoch: 3, Bundle: p.anchors.Bundle(t)})
	_, issuerErr := p.c.WriteIssuer(t.Context(), rotation.IssuerWrite{Revision: o.Issuer.Revision, Fleet: "acme", Epoch: 3, Serial: "1", Bundle: p.anchors.Bundle(t)})
	if o, _ = p.c.Observe(t.Context()); err != nil || issuerErr != nil || !o.Bundle.Marks.Label || !o.Issuer.Marks.Label {
		t.Errorf("%v, %v: bundle %+v, issuer %+v", err, issuerErr, o.Bundle.Marks, o.Issuer.Marks)
	}
	p.anchors = p.anchors.Second(t)
	if err := p.publish(t); !errors.Is(err, rotation.ErrDenied) || strings.Count(err.Error(), "marked immutable") != 2 {
		t.Errorf("error %v", err)
	}
}

func TestEventStandsBesideTheObject(t *testing.T) {
	p := fill(t)
	if err := p.c.Event(t.Context(), rotation.Event{Reason: "CertdIssuerRotated", Object: rotation.IssuerObject, Message: "renewed"}); err != nil {
		t.Fatal(err)
	}
	list, err := p.admin.CoreV1().Events(p.ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=CertdIssuerRotated"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d events, %v", len(list.Items), err)
	}
	e := list.Items[0]
	if e.InvolvedObject.Kind != "Secret" || e.InvolvedObject.UID != p.issuer(t).UID || e.ReportingController != "certd" || e.Message != "renewed" || e.Type != "Normal" {
		t.Errorf("event %+v", e)
	}
}

// certd's own writes are not news to it; everything else is.
func TestWatchIgnoresOwnWrites(t *testing.T) {
	p := fill(t)
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- p.c.Watch(ctx, func() { told <- struct{}{} }) }()
	if err := p.publish(t); err != nil {
		t.Fatal(err)
	}
	p.edit(t, rotation.BundleObject, func(data map[string][]byte) { data["theirs.txt"] = []byte("x") })
	<-told
	stop()
	<-done
	// An event may overtake the answer to the write that caused it: each of
	// the two writes may have been told once, no more.
	if n := len(told); n > 2 {
		t.Errorf("told %d times beyond the edit", n)
	}
}
