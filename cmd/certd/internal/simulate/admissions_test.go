package simulate

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// admitted is a cluster whose webhooks get a new CA again and again, while their pods come
// and go, miss changes and start with what their Secret was before, and while
// `helm upgrade` sets back what certd has written. Whenever anything has changed
// each API server calls each pod of each webhook, over TLS: it goes by the
// caBundle that it knows of, and asks for the webhook's name.
type admitted struct {
	*world
	t       testing.TB
	chance  *mathrand.Rand
	cluster *memory.Cluster
	specs   []rotation.WebhookSpec
	fails   bool // failurePolicy of all webhooks is Fail; else the injector's is Ignore
	pinned  []byte
	pools   map[string]*x509.CertPool // by the caBundle's text

	rotations, upgrades int
	within              int // upgrades in the middle of a rotation
	admissions          int
	rival               int // calls that fail for what the rival wrote, before certd's answer could have come through
	unmeshed            int // of them, those of pods that are created without a proxy
	failed              []string
}

// mends is how long certd may take to answer a rival's write. Until the last API server knows
// of the answer apiLag passes besides.
const mends = 5 * time.Second

func newAdmitted(t testing.TB, seed uint64) *admitted {
	a := &admitted{t: t, chance: mathrand.New(mathrand.NewPCG(seed, 8)), fails: seed%2 == 0, pools: map[string]*x509.CertPool{}}
	p := slow(t, "a")
	p.Clusters[0].Webhooks.Leaf.Lifetime, p.Clusters[0].Webhooks.Leaf.RenewBefore = 30*day, 15*day
	var err error
	if a.world, err = newWorld(t.Context(), p, begin, seed, nil, nil); err == nil {
		err = a.begin()
	}
	if err != nil {
		t.Fatal(err)
	}
	a.cluster = a.clusters["a"]
	for _, s := range p.Clusters[0].Webhooks.Specs {
		if ownPart(s) {
			s.Namespace = "linkerd"
			a.specs = append(a.specs, s)
		}
	}
	return a
}

// settle has the webhooks get their first certificates, and what happens begin.
func (a *admitted) settle() {
	a.pass(time.Hour, never)
	for _, s := range a.specs {
		a.cluster.InstallWebhook(s, memory.WebhookInstall{Ignore: a.ignored(s), CABundle: a.cluster.CABundle(s.Objects[0])})
	}
	a.pass(time.Hour, never)
	a.pinned = a.cluster.CABundle(a.specs[0].Objects[0])
	a.cluster.ForgetViolations()
	a.cluster.OnCalls(a.called)
	a.cluster.SetFaults(func(memory.Call) memory.ClusterFault {
		return memory.ClusterFault{Delay: time.Duration(a.chance.IntN(100)) * time.Millisecond}
	})
	a.again(a.chance, 4*time.Minute, func() {
		s, replica := a.specs[a.chance.IntN(len(a.specs))], a.chance.IntN(replicas)
		switch a.chance.IntN(6) {
		case 0:
			a.cluster.MissNext(s.Name, replica)
		case 1:
			a.cluster.Deafen(s.Name, replica)
		case 2:
			a.cluster.SetStaleStarts(s.Name, a.chance.IntN(2) == 0)
		default:
			a.cluster.RestartPod(s.Name, replica)
		}
		a.stir("a")
	})
}

func (a *admitted) ignored(s rotation.WebhookSpec) bool {
	return !a.fails && s.Check == rotation.CheckInjected
}

// usually is how long a rotation takes where Helm leaves it alone.
const usually = 6 * time.Minute

// rotate replaces the webhooks' CA, with an upgrade of the chart at any time within.
func (a *admitted) rotate() {
	within := a.upgrades
	a.at(a.now.Add(time.Duration(a.chance.Int64N(int64(usually)))), a.upgrade)
	results := a.loop.Rotate(rotation.TargetWebhookCA, []string{"a"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
	a.stir("a")
	var result rotation.RotateResult
	if !a.pass(day, func() bool {
		select {
		case result = <-results:
			return true
		default:
			return false
		}
	}) || result.Result != rotation.OK {
		a.t.Fatalf("the webhook CA is not rotated after a day: %+v: %+v", result, a.loop.Status().Clusters[0].Findings)
	}
	a.rotations++
	a.within += a.upgrades - within
	if a.pass(2*time.Hour, never); a.chance.IntN(2) == 0 { // until the next, more repairs are allowed
		a.pinned = a.cluster.CABundle(a.specs[0].Objects[0])
	}
}

// upgrade is `helm upgrade`. Helm resets what its chart renders, on every upgrade: with
// default values to a new self-signed certificate and Secret, else to the caBundle in
// the values, or to none where somebody else is to fill it in.
func (a *admitted) upgrade() {
	a.upgrades++
	how := a.chance.IntN(3)
	for _, s := range a.specs {
		in := memory.WebhookInstall{Writer: "helm", Ignore: a.ignored(s)}
		switch how {
		case 0:
			crt, key := a.selfSigned(s.Service + ".linkerd.svc")
			in.CABundle, in.Secret = crt, map[string][]byte{"tls.crt": crt, "tls.key": key}
		case 1:
			in.CABundle = a.pinned
		}
		a.cluster.InstallWebhook(s, in)
	}
	a.at(a.now.Add(apiLag+mends+time.Second), func() { // whoever has not answered by then is seen
		a.cluster.RestartPod(a.specs[a.chance.IntN(len(a.specs))].Name, a.chance.IntN(replicas))
	})
}

// selfSigned is what genSelfSignedCert makes in Linkerd's charts: a certificate that is no CA
// and its own caBundle. The charts' keys are RSA; what is asked here is the same of any.
func (a *admitted) selfSigned(name string) (crt, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(a.now.UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: a.now.Add(-time.Minute), NotAfter: a.now.Add(365 * day),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// called is told of all calls that can be made at an instant, and makes them.
func (a *admitted) called(at time.Time, all []memory.WebhookCall) {
	for _, w := range all {
		a.admissions++
		err := a.call(w, at)
		switch {
		case err == nil:
		case byRival(w, at):
			a.rival++
			if !a.fails && w.Webhook == "proxy-injector" {
				a.unmeshed++
			}
		default:
			a.failed = append(a.failed, fmt.Sprintf("%s API server %d calls %s (%s), served by %s of %s, trusted by %s of %s: %v", at.Format(time.DateTime), w.Server, w.Webhook, w.Pod,
				w.ServedBy, w.ServedWritten.Format(time.TimeOnly), w.CAsBy, w.CAsWritten.Format(time.TimeOnly), err))
		}
	}
}

// byRival says whether a call that fails does so for what Helm wrote, and before an answer of
// certd's to that could have come through: the later of what is served and what is
// trusted is Helm's, and just written.
func byRival(w memory.WebhookCall, at time.Time) bool {
	when, by := w.CAsWritten, w.CAsBy
	if w.ServedWritten.After(when) {
		when, by = w.ServedWritten, w.ServedBy
	}
	return by == "helm" && at.Sub(when) <= apiLag+mends
}

// call is a handshake as kube-apiserver has it with a webhook. Without a caBundle it goes by
// the system's roots, which know of no webhook: none here.
func (a *admitted) call(w memory.WebhookCall, at time.Time) error {
	if w.Pod == "" {
		return errors.New("no endpoints available for service")
	}
	pair, err := w.Serves()
	if err != nil {
		return err
	}
	pool := a.pools[string(w.CABundle)]
	if pool == nil {
		pool = x509.NewCertPool()
		pool.AppendCertsFromPEM(w.CABundle)
		a.pools[string(w.CABundle)] = pool
	}
	now := func() time.Time { return at }
	curves := []tls.CurveID{tls.X25519}
	return shake(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: w.Name, Time: now, CurvePreferences: curves},
		&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*pair}, Time: now, CurvePreferences: curves, SessionTicketsDisabled: true})
}

// Line R8: calls of webhooks over real TLS while their CA is rotated again and again, kubelets
// lag, and Helm sets back what certd has written: none fails by certd.
func TestAdmissionsThroughWebhookCARotations(t *testing.T) {
	run := scoreboard.Start(t, "R8", 1)
	for seed := range run.Seeds() {
		a := newAdmitted(t, seed)
		a.settle()
		for range 5 {
			a.rotate()
		}
		for _, f := range a.failed[:min(len(a.failed), 5)] {
			t.Errorf("seed %d: %s", seed, f)
		}
		run.Add("admissions", uint64(a.admissions))
		run.Add("webhook CA rotations", uint64(a.rotations))
		run.Add("upgrades by Helm", uint64(a.upgrades))
		run.Add("upgrades in the middle of a rotation", uint64(a.within))
		run.Add("failures", uint64(len(a.failed)))
		run.Add("broken by Helm's own write", uint64(a.rival))
		run.Add("of what Helm broke let through without a proxy", uint64(a.unmeshed))
		t.Logf("seed %d: %d admissions, %d failed, %d broken by Helm in %d upgrades, until %s", seed, a.admissions, len(a.failed), a.rival, a.upgrades, a.now.Format(time.DateTime))
		if err := a.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("again: CERTD_SEEDS=%d:%d go test -run TestAdmissionsThroughWebhookCARotations ./cmd/certd/internal/simulate", seed, seed+1)
			break
		}
	}
}

// replaces is a cluster to which a certd writes that trusts a new CA in place of the old one.
type replaces struct{ *memory.Cluster }

func (r replaces) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	newest := w.CAs.Certificates()[0]
	for _, c := range w.CAs.Certificates() {
		if c.NotBefore.After(newest.NotBefore) {
			newest = c
		}
	}
	w.CAs = pki.NewCASet(newest)
	return r.Cluster.WriteCABundle(ctx, w)
}

// Admissions fail, and by certd, where a caBundle is replaced and not added to: the check is
// one.
func TestAdmissionsFailWithoutTheOldCA(t *testing.T) {
	a := newAdmitted(t, 0)
	defer a.close()
	a.settle()
	a.clusterOf = func(_ string, m *memory.Cluster) rotation.Cluster { return replaces{m} }
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if err := a.open(); err != nil {
		t.Fatal(err)
	}
	if err := a.begin(); err != nil {
		t.Fatal(err)
	}
	if a.pass(time.Hour, never); len(a.failed) > 0 {
		t.Fatalf("before the rotation: %s", a.failed[0])
	}
	a.loop.Rotate(rotation.TargetWebhookCA, []string{"a"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
	a.stir("a")
	a.pass(time.Hour, never)
	if len(a.failed) == 0 || a.rival > 0 {
		t.Fatalf("of %d admissions %d fail, %d by Helm", a.admissions, len(a.failed), a.rival)
	}
}

// Where Helm's values bring a caBundle that nobody serves under, all calls fail until certd has
// answered; none does for longer.
func TestWhatHelmBreaksIsCountedApart(t *testing.T) {
	a := newAdmitted(t, 0)
	defer a.close()
	a.settle()
	crt, _ := a.selfSigned("nobody")
	a.pinned = crt
	for a.rival == 0 {
		a.upgrade()
		a.pass(3*time.Hour, never)
	}
	if len(a.failed) > 0 {
		t.Errorf("%d failed by certd, first %s", len(a.failed), a.failed[0])
	}
	if bytes.Equal(a.cluster.CABundle(a.specs[0].Objects[0]), crt) {
		t.Error("the caBundle is still Helm's")
	}
}
