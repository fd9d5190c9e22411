package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"certd.internal/rotation"
)

// quick is a mesh whose leaves live for ten seconds, so that a change of the
// trust anchor takes minutes.
const quick = `
defaults:
  linkerd: {createNamespace: true, leafLifetime: 10s, clockSkew: 1s, clockError: 1s}
  repair: 1m
  issuer: {schedule: "*/2 * * * *", rotate: every-firing, lifetime: 30m, renewBefore: 10m, spread: 0s}
  webhooks: {projection: 10s}
`

// proxy stands for the proxy of a meshed pod: it trusts what the pod was created
// with, and gets a new certificate at 70 % of the life of the last.
type proxy struct {
	cluster int
	name    string
	hidden  bool // there is no such pod for the API server
	kept    bool // nobody restarts it
	text    string
	roots   *x509.CertPool
	cert    tls.Certificate
	refresh time.Time
	made    int // how often the pod was created
	// asks is what linkerd-identity signs with; nil: what is in the Secret.
	asks func() *corev1.Secret
}

// proxies talk to each other all the time.
type proxies struct {
	s  *site
	mu sync.Mutex

	all        []*proxy
	every      time.Duration // between two rounds; 0: a quarter of a second
	handshakes int
	refused    []string
	// excused says of two proxies that they may refuse each other now.
	excused func(client, server *proxy) bool
	excuses int
}

// create makes the pod anew, as the injector would: with the bundle that the
// cluster publishes.
func (p *proxies) create(x *proxy) {
	p.s.t.Helper()
	text := p.s.bundle(x.cluster).Data["ca-bundle.crt"]
	if !x.hidden {
		p.place(x, text)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x.text, x.roots = text, x509.NewCertPool()
	x.roots.AppendCertsFromPEM([]byte(text))
	x.made++
	if err := p.renew(x); err != nil {
		p.refused = append(p.refused, fmt.Sprintf("%s is created and gets no certificate: %v", x.name, err))
	}
}

// place has the pod be there, told to trust a bundle.
func (p *proxies) place(x *proxy, text string) {
	p.s.t.Helper()
	ctx, pods := context.Background(), p.s.kube[x.cluster].CoreV1().Pods(p.s.meshed())
	now := int64(0)
	if err := pods.Delete(ctx, x.name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
		p.s.t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: x.name, Namespace: p.s.meshed(), Labels: map[string]string{"linkerd.io/control-plane-ns": p.s.ns}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "linkerd-proxy", Image: "proxy", Env: []corev1.EnvVar{{Name: "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", Value: text}}}}}}
	p.s.eventually(20*time.Second, func() string {
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
}

// renew gets a certificate as linkerd-identity makes it of what is in the
// Secret, and has the proxy verify it before it uses it.
func (p *proxies) renew(x *proxy) error {
	secret := p.s.secret(x.cluster)
	if x.asks != nil {
		secret = x.asks()
	}
	crt, key := "tls.crt", "tls.key"
	if len(secret.Data[crt]) == 0 {
		crt, key = "crt.pem", "key.pem"
	}
	issuer, err := tls.X509KeyPair(secret.Data[crt], secret.Data[key])
	if err != nil {
		return err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), DNSNames: []string{x.name + ".mesh"}, Subject: pkix.Name{CommonName: x.name},
		NotBefore: now.Add(-20 * time.Second), NotAfter: now.Add(30 * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Leaf, private.Public(), issuer.PrivateKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	chain := [][]byte{der}
	for _, c := range issuer.Certificate {
		chain = append(chain, c)
		if crt, err := x509.ParseCertificate(c); err == nil {
			between.AddCert(crt)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: x.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("it refuses its own new certificate: %w", err)
	}
	x.cert = tls.Certificate{Certificate: chain, PrivateKey: private, Leaf: leaf}
	x.refresh = now.Add(7 * time.Second)
	return nil
}

// talk has each proxy connect to each other once, over TCP and TLS 1.3.
func (p *proxies) talk() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.all {
		if time.Now().After(x.refresh) {
			if err := p.renew(x); err != nil {
				if p.excused != nil && p.excused(x, x) {
					p.excuses++
				} else {
					p.refused = append(p.refused, fmt.Sprintf("%s: %v", x.name, err))
				}
				x.refresh = time.Now().Add(time.Second)
			}
		}
	}
	for _, client := range p.all {
		for _, server := range p.all {
			if err := handshake(client, server); err != nil && p.excused != nil && p.excused(client, server) {
				p.excuses++
			} else if err != nil {
				p.refused = append(p.refused, fmt.Sprintf("%s %s to %s: %v", time.Now().Format(time.TimeOnly), client.name, server.name, err))
			}
			p.handshakes++
		}
	}
}

func handshake(client, server *proxy) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			err = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{server.cert}, ClientCAs: server.roots, ClientAuth: tls.RequireAndVerifyClientCert}).Handshake()
		}
		served <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{client.cert}, RootCAs: client.roots, ServerName: server.name + ".mesh"}).Handshake(); err != nil {
		return err
	}
	return <-served
}

// allowCounting gives certd what deploy/rbac asks for counting proxies, until
// the test ends.
func (s *site) allowCounting(i int) {
	s.t.Helper()
	text, err := os.ReadFile("../../deploy/rbac/certd-proxies.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, doc := range strings.Split(string(text), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			s.t.Fatal(err)
		}
		path := "/apis/rbac.authorization.k8s.io/v1/" + strings.ToLower(o.Kind) + "s"
		err := s.kube[i].RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/yaml").Body([]byte(doc)).Do(context.Background()).Error()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.t.Fatalf("%s: %v", path, err)
		}
		s.t.Cleanup(func() {
			if err := s.kube[i].RESTClient().Delete().AbsPath(path, o.Metadata.Name).Do(context.Background()).Error(); err != nil {
				s.t.Error(err)
			}
		})
	}
}

// verified is what `certd verify` says, and its exit code.
func (s *site) verified() (doc rotation.Verification, code int) {
	s.t.Helper()
	out, errs, code := s.certd("verify", "--config", "certd.yaml", "-o", "json")
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		s.t.Fatalf("certd verify: exit %d, %v: %s", code, err, errs)
	}
	return doc, code
}

// staleIsToldOf has a pod turn up that trusts the anchor of before alone: it
// refuses the others in a handshake, and certd verify says so.
func (p *proxies) staleIsToldOf(x *proxy, old string) {
	p.s.t.Helper()
	if err := p.renew(p.all[0]); err != nil {
		p.s.t.Fatal(err)
	}
	p.place(x, old)
	x.roots, x.cert = x509.NewCertPool(), p.all[0].cert
	x.roots.AppendCertsFromPEM([]byte(old))
	if handshake(p.all[0], x) == nil {
		p.s.t.Fatalf("%s, who trusts the old anchor alone, refuses nobody", x.name)
	}
	doc, code := p.s.verified()
	verifier := p.s.lab.Clusters[x.cluster].Name
	for _, v := range doc.Matrix {
		want := rotation.PairAccepted
		if v.Verifier == verifier {
			want = rotation.PairRefused
		} else if v.Peer == verifier { // what the pod presents may have ended, and in time it has
			want = rotation.PairUnknown
			if v.State == rotation.PairRefused && strings.Contains(v.Why, x.name) {
				continue
			}
		}
		if v.State != want || want == rotation.PairRefused && (v.Pods != 1 || !strings.Contains(v.Why, x.name)) {
			p.s.t.Errorf("with a stale pod in %s: %s -> %s: %s, %d pods: %s", verifier, v.Peer, v.Verifier, v.State, v.Pods, v.Why)
		}
	}
	if code != 2 {
		p.s.t.Errorf("certd verify ends with %d", code)
	}
}

// The trust anchor is changed in three clusters with real parts: Vault, API
// servers, linkerd-identity of the lab, in one cluster on slow nodes. Proxies
// connect to each other all the while, certd is killed again and again, and
// nobody refuses anybody. Each pod is created anew once, in an order of chance.
func TestTheTrustAnchorIsChanged(t *testing.T) {
	s := newSite(t, 3, quick)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	ctx := context.Background()
	p := &proxies{s: s}
	for i := range s.kube {
		s.allowCounting(i)
		s.installIdentity(i, "-leaf-lifetime", "10s")
		if i == 2 {
			slow := []byte(`{"spec":{"template":{"metadata":{"annotations":{"lab/projection-lag":"7s"}}}}}`)
			if _, err := s.kube[i].AppsV1().Deployments(s.ns).Patch(ctx, "linkerd-identity", types.StrategicMergePatchType, slow, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		p.mesh(i, 2)
	}
	ended := p.talking()
	d.term() // a start counts at once, now that it may
	d = s.run()
	s.eventually(2*time.Minute, func() string {
		out, errs, code := s.certd("trust", "rotate", "--config", "certd.yaml", "--dry-run")
		if code != 0 {
			return out + errs
		}
		return ""
	})
	before := map[string]bool{}
	for i := range s.kube {
		for _, pod := range s.pods(i) {
			before[string(pod.UID)] = true
		}
	}
	s.must("trust", "rotate", "--config", "certd.yaml", "--yes", "--reason", "drill")
	old := s.bundle(0).Data["ca-bundle.crt"]
	_, kills := s.through(d, p, "bridge spread restart finish retire")
	ended()
	p.eachCreatedTwice()
	s.converged()
	st, _ := s.status()
	if st.Trust.Active.ID != "g2" || len(st.Trust.Others) != 0 {
		t.Errorf("active %+v, others %+v", st.Trust.Active, st.Trust.Others)
	}
	s.eventually(time.Minute, func() string {
		if doc, code := s.verified(); doc.Pairs.Accepted != 9 || code > 1 { // a signature whose answer a kill cut off is a warning
			return fmt.Sprintf("exit %d: %+v: %+v", code, doc.Pairs, doc.Promises)
		}
		return ""
	})
	stale := &proxy{cluster: 0, name: "app-0-stale"}
	p.staleIsToldOf(stale, old)
	now := int64(0)
	if err := s.kube[0].CoreV1().Pods(s.meshed()).Delete(ctx, stale.name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Error(err)
	}
	for i := range s.kube {
		for what, text := range map[string]string{"bundle": s.bundle(i).Data["ca-bundle.crt"], "ca.crt": string(s.secret(i).Data["ca.crt"]), "tls.crt": string(s.secret(i).Data["tls.crt"])} {
			if n := strings.Count(text, "BEGIN CERTIFICATE"); n != 1 {
				t.Errorf("cluster %d: %s holds %d certificates", i, what, n)
			}
		}
		block, _ := pem.Decode([]byte(s.bundle(i).Data["ca-bundle.crt"]))
		if c, err := x509.ParseCertificate(block.Bytes); err != nil || !strings.HasSuffix(c.Subject.CommonName, "-2") {
			t.Errorf("cluster %d trusts %v: %v", i, c.Subject, err)
		}
		for _, pod := range s.pods(i) {
			if before[string(pod.UID)] {
				t.Errorf("%s is from before the change", pod.Name)
			}
		}
	}
	// A signature whose answer a kill cut off is in the history without its id.
	signs, _ := s.audit()
	logged, journalled := map[string]bool{}, 0
	for _, a := range signs {
		logged[a.ID] = !a.Failed
	}
	for _, e := range s.history() {
		if e.SignRequest != "" {
			journalled++
			if !logged[e.SignRequest] {
				t.Errorf("Vault knows nothing of signing request %s", e.SignRequest)
			}
		}
	}
	if lost := len(signs) - journalled; lost > kills || journalled == 0 {
		t.Errorf("Vault logged %d signing requests, and the history has %d", len(signs), journalled)
	}
	if out := s.must("history", "--verify", "--config", "certd.yaml"); !strings.Contains(out, "entries") {
		t.Error(out)
	}
	restarts := map[string]int{}
	for _, e := range s.history() {
		if e.Step == rotation.StepIdentityRestart && e.Outcome == rotation.OK {
			restarts[e.Cluster]++
		}
	}
	for _, c := range s.lab.Clusters[:3] {
		if restarts[c.Name] != 2 {
			t.Errorf("linkerd-identity of %s was restarted %d times", c.Name, restarts[c.Name])
		}
	}
}
