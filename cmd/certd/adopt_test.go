package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

// madeCA makes a CA certificate as others would. parent nil: it signs itself.
func madeCA(t *testing.T, cn string, pub crypto.PublicKey, life time.Duration, parent *x509.Certificate, by crypto.Signer) (*x509.Certificate, []byte) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func sec1Key(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// installed puts a mesh into a cluster as a tool called manager does, with Linkerd's
// own record of its values.
func (s *site) installed(i int, manager string, annotations map[string]string, roots string, secret map[string][]byte) {
	s.t.Helper()
	ctx, by := context.Background(), metav1.CreateOptions{FieldManager: manager}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "linkerd"}}
	if _, err := s.kube[i].CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		s.t.Fatal(err)
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Annotations: annotations} }
	for _, cm := range []*corev1.ConfigMap{
		{ObjectMeta: meta(rotation.BundleObject), Data: map[string]string{"ca-bundle.crt": roots}},
		{ObjectMeta: meta("linkerd-config"), Data: map[string]string{"values": "identity:\n  externalCA: false\n  issuer:\n    scheme: linkerd.io/tls\n"}},
	} {
		if _, err := s.kube[i].CoreV1().ConfigMaps("linkerd").Create(ctx, cm, by); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.kube[i].CoreV1().Secrets("linkerd").Create(ctx, &corev1.Secret{ObjectMeta: meta(rotation.IssuerObject), Data: secret}, by); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := s.kube[i].CoreV1().ConfigMaps("linkerd").Delete(ctx, "linkerd-config", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	})
}

// Two linked meshes, one of `linkerd install`, whose anchor is its issuer, one of
// Helm, are taken over: no pod, no byte of the bundle and of the issuer changes, and
// who else writes is named within a minute. Then, without the anchor's key, they are
// brought to an anchor in Vault, while proxies connect to each other, certd is
// killed again and again, and nobody refuses anybody.
func TestMeshesAreTakenOverAndBroughtHome(t *testing.T) {
	s := newSite(t, 2, quick)
	rootKey, issuerKey := newECDSA(t), newECDSA(t)
	root, rootText := madeCA(t, "identity.linkerd.cluster.local", rootKey.Public(), 90*24*time.Hour, nil, rootKey)
	_, issuerText := madeCA(t, "identity.linkerd.cluster.local west", issuerKey.Public(), 60*24*time.Hour, root, rootKey)
	roots := strings.TrimSpace(string(rootText))
	s.installed(0, "kubectl-client-side-apply", nil, roots, map[string][]byte{"crt.pem": rootText, "key.pem": sec1Key(t, rootKey)})
	s.installed(1, "helm", map[string]string{"meta.helm.sh/release-name": "linkerd-control-plane", "meta.helm.sh/release-namespace": "linkerd"},
		roots, map[string][]byte{"crt.pem": issuerText, "key.pem": sec1Key(t, issuerKey)})
	p := &proxies{s: s}
	for i := range s.kube {
		s.allowCounting(i)
		s.installIdentity(i, "-leaf-lifetime", "10s", "-scheme", "linkerd.io/tls")
		p.mesh(i, 2)
	}
	ended := p.talking()
	d := s.run()
	east, west := s.lab.Clusters[0].Name, s.lab.Clusters[1].Name
	s.found(east, "WatchedOnly", "did not make")
	s.found(west, "WatchedOnly", "did not make")
	before, running := []map[string][]byte{s.secret(0).Data, s.secret(1).Data}, s.running()
	if out := s.must("adopt", east, west, "--config", "certd.yaml", "--dry-run"); !strings.Contains(out, "its issuer is its trust anchor") || !strings.Contains(out, "Helm (release linkerd-control-plane)") {
		t.Errorf("the dry run says\n%s", out)
	}
	s.must("adopt", east, west, "--config", "certd.yaml", "--yes", "--reason", "drill")
	s.eventually(time.Minute, func() string {
		st, _ := s.status()
		for _, name := range []string{east, west} {
			text := ""
			for _, f := range clusterOf(st, name).Findings {
				text += f.ID + " " + f.Message + "\n"
			}
			if !strings.Contains(text, "AnchorKeyElsewhere") || strings.Count(text, "SecondWriter") != 2 || name == west && !strings.Contains(text, "Helm (release linkerd-control-plane)") {
				return name + ": " + text
			}
		}
		return ""
	})
	// What is found in a cluster is told before the first step there is done.
	s.eventually(time.Minute, func() string {
		for i, was := range before {
			have := s.secret(i).Data
			if string(have["tls.crt"]) != string(was["crt.pem"]) || len(have["tls.key"]) == 0 || len(have["ca.crt"]) == 0 {
				return fmt.Sprintf("cluster %d: names are missing", i)
			}
			if keep := s.bundle(i).Annotations["helm.sh/resource-policy"]; keep != "keep" {
				return fmt.Sprintf("cluster %d: helm.sh/resource-policy %q", i, keep)
			}
		}
		return ""
	})
	for i, was := range before {
		if got := s.bundle(i).Data["ca-bundle.crt"]; got != roots {
			t.Errorf("cluster %d: the bundle was changed to\n%s", i, got)
		}
		have := s.secret(i).Data
		for name, text := range was {
			if string(have[name]) != string(text) {
				t.Errorf("cluster %d: %s was changed", i, name)
			}
		}
	}
	if now := s.running(); !maps.Equal(running, now) {
		t.Errorf("pods changed: %v, then %v", running, now)
	}
	if out, errs, code := s.certd("trust", "rotate", "--config", "certd.yaml", "--yes"); code != 75 || !strings.Contains(errs, "would undo it") {
		t.Errorf("a change begins although others write: exit %d\n%s%s", code, out, errs)
	}
	// An upgrade with the values of `certd export helm-values`.
	for i := range s.kube {
		cm, err := s.kube[i].CoreV1().ConfigMaps("linkerd").Get(t.Context(), "linkerd-config", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm.Data["values"] = "identity:\n  externalCA: true\n  issuer:\n    scheme: kubernetes.io/tls\n"
		if _, err := s.kube[i].CoreV1().ConfigMaps("linkerd").Update(t.Context(), cm, metav1.UpdateOptions{FieldManager: "helm"}); err != nil {
			t.Fatal(err)
		}
		s.installIdentity(i, "-leaf-lifetime", "10s", "-scheme", "kubernetes.io/tls")
	}
	s.eventually(4*time.Minute, func() string {
		out, errs, code := s.certd("trust", "rotate", "--config", "certd.yaml", "--dry-run")
		if code != 0 {
			return out + errs
		}
		return ""
	})
	s.must("trust", "rotate", "--config", "certd.yaml", "--yes", "--reason", "drill")
	d, _ = s.through(d, p, "bridge spread restart finish retire")
	ended()
	s.eventually(2*time.Minute, func() string {
		for i, key := range [][]byte{before[0]["key.pem"], before[1]["key.pem"]} {
			if st, _ := s.status(); st.State != rotation.StateOK || st.Trust.Active == nil || st.Trust.Active.ID != "g1" || len(st.Trust.Others) != 0 {
				return fmt.Sprintf("%s: active %+v, others %+v, findings %+v %+v", st.State, st.Trust.Active, st.Trust.Others, st.Findings, st.Clusters)
			}
			secret := s.secret(i).Data
			if samePrivate(t, secret["tls.key"], key) {
				return fmt.Sprintf("cluster %d still has the key that it came with", i)
			}
			for what, text := range map[string]string{"bundle": s.bundle(i).Data["ca-bundle.crt"], "ca.crt": string(secret["ca.crt"]), "tls.crt": string(secret["tls.crt"])} {
				if n := strings.Count(text, "BEGIN CERTIFICATE"); n != 1 || what != "tls.crt" && strings.Contains(text, roots) {
					return fmt.Sprintf("cluster %d: %s holds %d certificates", i, what, n)
				}
			}
		}
		return ""
	})
	p.eachCreatedTwice()
	s.must("history", "--verify", "--config", "certd.yaml")
	d.term()
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// samePrivate compares two keys, whatever their form.
func samePrivate(t *testing.T, now, was []byte) bool {
	t.Helper()
	a, b := parsedKey(t, now), parsedKey(t, was)
	return a.Equal(b)
}

func parsedKey(t *testing.T, text []byte) *ecdsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("there is no key")
	}
	if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return k
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("it is %T", k)
	}
	return key
}

// running are the pods of Linkerd and of the mesh, by UID.
func (s *site) running() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	for i := range s.kube {
		for _, ns := range []string{s.ns, s.meshed()} {
			list, err := s.kube[i].CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{})
			if err != nil {
				s.t.Fatal(err)
			}
			for _, pod := range list.Items {
				all[string(pod.UID)] = pod.Name
			}
		}
	}
	return all
}
