package simulate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/kube/payload"
	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// churn is a mesh of three clusters whose pods come and go all the time, and in which the
// trust anchor is changed again and again. Whenever anything has changed, some of its
// proxies connect to each other: with the keys and certificates that they hold, over TLS,
// each against the bundle that it was created with.
type churn struct {
	*world
	t      testing.TB
	chance *rand.Rand
	each   int // handshakes at each instant

	pools      map[string]*x509.CertPool // by the bundle's digest
	changes    int
	handshakes int
	apart      int // of them, between pods that trust or present something else
	across     int // of them, between clusters
	first      int // of them, to linkerd-identity by a pod without a certificate
	failed     []string
}

func newChurn(t testing.TB, seed uint64, each int) *churn {
	c := &churn{t: t, chance: rand.New(rand.NewPCG(seed, 7)), each: each, pools: map[string]*x509.CertPool{}}
	p := slow(t, "a", "b", "c")
	for i := range p.Clusters {
		p.Clusters[i].Webhooks.Specs = nil
		p.Clusters[i].LeafLifetime = []time.Duration{day, time.Hour, 6 * time.Hour}[seed%3]
		p.Clusters[i].Issuer.Lifetime, p.Clusters[i].Issuer.RenewBefore = 4*day, 2*day // a change of the anchor takes days
	}
	p.Trust.Restarts = seed%2 == 0
	var err error
	if c.world, err = newWorld(t.Context(), p, begin, seed, nil, nil); err == nil {
		err = c.begin()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pass lets time pass, at most until something is so, and says whether it is.
func (w *world) pass(d time.Duration, until func() bool) bool {
	for end := w.now.Add(d); w.now.Before(end); {
		w.turn(end)
		if until() {
			return true
		}
	}
	return false
}

// settle has the mesh be there, and what happens in it begin.
func (c *churn) settle() {
	c.pass(2*time.Hour, never)
	c.mesh.ForgetViolations()
	c.mesh.OnChange(c.met)
	c.sometimes(2*time.Hour, func(name string, cluster *memory.Cluster) {
		app := fmt.Sprintf("app-%d", c.chance.IntN(pods/3))
		switch c.chance.IntN(5) {
		case 0:
			cluster.RollOut(app)
		case 1:
			cluster.Scale(app, 1+c.chance.IntN(5))
		case 2:
			cluster.RestartIdentityReplica(c.chance.IntN(replicas), true)
		case 3:
			cluster.RollOut([]string{"linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"}[c.chance.IntN(3)])
		default:
			places := cluster.Places()
			cluster.RestartProxy(places[c.chance.IntN(len(places))])
		}
		if c.chance.IntN(8) == 0 {
			cluster.MissIdentity(c.chance.IntN(replicas))
		}
		c.stir(name)
	})
	c.sometimes(time.Hour, c.obey)
}

// sometimes has something happen to any cluster again and again, about every so often.
func (c *churn) sometimes(every time.Duration, do func(name string, cluster *memory.Cluster)) {
	c.again(c.chance, every, func() {
		p := c.policy.Clusters[c.chance.IntN(len(c.policy.Clusters))]
		do(p.Cluster, c.clusters[p.Cluster])
	})
}

// again has something happen again and again, about every so often.
func (w *world) again(chance *rand.Rand, every time.Duration, do func()) {
	var again func()
	again = func() {
		do()
		w.at(w.now.Add(time.Duration(chance.ExpFloat64()*float64(every))), again)
	}
	w.at(w.now.Add(every), again)
}

// obey restarts a workload that certd wants restarted.
func (c *churn) obey(name string, cluster *memory.Cluster) {
	if c.loop == nil {
		return
	}
	for _, s := range c.loop.Status().Clusters {
		if s.Name != name || s.Proxies == nil {
			continue
		}
		for _, o := range s.Proxies.Restart {
			if o.Namespace == "app" {
				cluster.RollOut(o.Name)
				c.stir(name)
				return
			}
		}
	}
}

// change changes the trust anchor, from its beginning until the old one is in no bundle.
func (c *churn) change() {
	next := c.beginChange()
	done := func() bool {
		trust := c.loop.Status().Trust
		return trust.Active != nil && trust.Active.ID == next.ID && len(trust.Others) == 0 && (trust.Rotation == nil || trust.Rotation.Stage == "")
	}
	if !c.pass(40*day, done) {
		c.t.Fatalf("the change is not done after 40 days: %+v", c.loop.Status().Trust)
	}
	c.changes++
}

// beginChange begins to change the trust anchor, as soon as certd says that it may.
func (c *churn) beginChange() (next rotation.Anchor) {
	next, err := (rotation.Ceremony{Journal: c.journal, Creator: c.keys, Signer: c.keys, Policy: c.policy, Actor: "lee@cli", Reason: "drill", Say: func(string, ...any) {}}).Next(c.ctx)
	if err != nil {
		c.t.Fatalf("make the next trust anchor: %v", err)
	}
	if !c.pass(10*day, func() bool {
		err = c.loop.BeginChange(next, "lee@cli", "drill", false)
		return err == nil
	}) {
		c.t.Fatalf("change the trust anchor: %v", err)
	}
	for _, p := range c.policy.Clusters {
		c.stir(p.Cluster)
	}
	return next
}

// met is told of all pods at each instant. One that gets its first certificate, or waits for
// it, connects to linkerd-identity, without one.
func (c *churn) met(at time.Time, all []memory.Proxy) {
	ready := slices.DeleteFunc(slices.Clone(all), func(p memory.Proxy) bool { return p.Issued.IsZero() })
	for _, p := range all {
		if p.Identifies || !p.Issued.IsZero() && !p.Created.Equal(at) {
			continue
		}
		of := slices.DeleteFunc(slices.Clone(ready), func(o memory.Proxy) bool { return !o.Identifies || o.Cluster != p.Cluster })
		if len(of) > 0 {
			c.first++
			p.Issued = time.Time{}
			c.meet(p, of[c.chance.IntN(len(of))], at)
		}
	}
	if len(ready) < 2 {
		return
	}
	for range c.each {
		a, b := c.pair(ready)
		if !a.Alike(b) {
			c.apart++
		}
		if a.Cluster != b.Cluster {
			c.across++
		}
		c.meet(a, b, at)
	}
}

func (c *churn) meet(client, server memory.Proxy, at time.Time) {
	c.handshakes++
	if err := c.connect(client, server, at); err != nil {
		c.failed = append(c.failed, fmt.Sprintf("%s %s to %s: %v", at.Format(time.DateTime), client.Pod, server.Pod, err))
	}
}

// pair picks two pods, more often than not one that has just got what it presents, or was
// just created, and one that has had its own for longest.
func (c *churn) pair(all []memory.Proxy) (client, server memory.Proxy) {
	client, server = all[c.chance.IntN(len(all))], all[c.chance.IntN(len(all))]
	newest := func(a, b memory.Proxy) int { return a.Issued.Compare(b.Issued) }
	oldest := func(a, b memory.Proxy) int { return a.Created.Compare(b.Created) }
	if c.chance.IntN(3) > 0 {
		client = slices.MaxFunc(all, newest)
	}
	switch c.chance.IntN(4) {
	case 0:
		server = slices.MinFunc(all, oldest)
	case 1, 2: // any that is not like it
		for range 20 {
			if !server.Alike(client) {
				break
			}
			server = all[c.chance.IntN(len(all))]
		}
	}
	if c.chance.IntN(2) == 0 {
		client, server = server, client
	}
	return client, server
}

// connect is a handshake of one proxy with another. Each asks for the other's certificate,
// verifies it under its own bundle, and asks for the other's name in it, as Linkerd's
// proxies do (linkerd2-proxy, linkerd/meshtls): by Go's rules on the wire, and by
// those of webpki besides.
func (c *churn) connect(client, server memory.Proxy, at time.Time) error {
	ours, err := c.side(client, server.Identity, x509.ExtKeyUsageServerAuth, at)
	if err != nil {
		return err
	}
	theirs, err := c.side(server, client.Identity, x509.ExtKeyUsageClientAuth, at)
	if err != nil {
		return err
	}
	if !client.Issued.IsZero() {
		theirs.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return shake(ours, theirs)
}

// side is what one proxy brings to a handshake.
func (c *churn) side(p memory.Proxy, peer string, as x509.ExtKeyUsage, at time.Time) (*tls.Config, error) {
	bundle, err := p.Trusts()
	if err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", p.Pod, err)
	}
	var mine []tls.Certificate
	if !p.Issued.IsZero() {
		held, err := p.Presents()
		if err != nil {
			return nil, err
		}
		mine = append(mine, *held)
	}
	key := bundle.SHA256()
	pool := c.pools[key]
	if pool == nil {
		pool = x509.NewCertPool()
		for _, a := range bundle.Anchors() {
			pool.AddCert(a)
		}
		c.pools[key] = pool
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}, Time: func() time.Time { return at },
		Certificates: mine, RootCAs: pool, ClientCAs: pool, ServerName: peer, SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 { // and none was asked for
				return nil
			}
			if err := s.PeerCertificates[0].VerifyHostname(peer); err != nil {
				return err
			}
			if err := pki.VerifyWebPKI(s.PeerCertificates, bundle, peer, as, at); err != nil {
				return fmt.Errorf("by the proxies' rules: %w", err)
			}
			return nil
		}}, nil
}

// shake is a handshake over a pipe, and a byte from the server: in TLS 1.3 a client is done
// before the server has looked at its certificate.
func shake(client, server *tls.Config) error {
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() {
		defer b.Close()
		_, err := tls.Server(b, server).Write([]byte{1})
		served <- err
	}()
	_, asked := tls.Client(a, client).Read(make([]byte, 1))
	a.Close()
	switch answered := <-served; {
	case refuses(answered):
		return fmt.Errorf("the server refuses: %w", answered)
	case asked != nil:
		return fmt.Errorf("the client refuses: %w", asked)
	}
	return nil
}

// refuses says whether an end of a handshake is one's own doing: the other side's shows as an
// alert from there, or as a pipe that was closed.
func refuses(err error) bool {
	var alert *net.OpError
	return err != nil && !errors.As(err, &alert) && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.EOF)
}

// Line R7: handshakes of real TLS while the trust anchor is changed again and again and pods
// come and go: none fails.
func TestHandshakesThroughAnchorRotations(t *testing.T) {
	const changes = 3
	run := scoreboard.Start(t, "R7", 1)
	for seed := range run.Seeds() {
		each := 1
		if run.Long() && seed%3 != 1 { // leaves of an hour are renewed, and met, often enough
			each = 4
		}
		c := newChurn(t, seed, each)
		c.settle()
		for range changes {
			c.change()
		}
		for _, v := range c.mesh.ForgetViolations() {
			if v.By == memory.ByCertd || v.By == memory.ByTime {
				c.failed = append(c.failed, v.String())
			}
		}
		for _, f := range c.failed[:min(len(c.failed), 5)] {
			t.Errorf("seed %d: %s", seed, f)
		}
		run.Add("handshakes", uint64(c.handshakes))
		run.Add("of pods that trust or present another", uint64(c.apart))
		run.Add("with linkerd-identity for a first certificate", uint64(c.first))
		run.Add("between clusters", uint64(c.across))
		run.Add("anchor rotations", uint64(c.changes))
		run.Add("failures", uint64(len(c.failed)))
		t.Logf("seed %d: %d handshakes, %d failed, until %s", seed, c.handshakes, len(c.failed), c.now.Format(time.DateOnly))
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("again: CERTD_SEEDS=%d:%d go test -run TestHandshakesThroughAnchorRotations ./cmd/certd/internal/simulate", seed, seed+1)
			break
		}
	}
}

// Handshakes fail where an anchor is dropped before all trust the next: the check is one.
func TestHandshakesFailWithoutAnAnchor(t *testing.T) {
	c := newChurn(t, 0, 1)
	defer c.close()
	c.settle()
	next := c.beginChange()
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if c.pass(6*time.Hour, never); len(c.failed) > 0 {
		t.Fatal(c.failed[0])
	}
	c.clusters["b"].Edit(rotation.BundleObject, "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) {
		data[payload.BundleKey] = pki.EncodeCertificates(next.Certificate)
	})
	c.pass(day, never)
	if len(c.failed) == 0 {
		t.Fatalf("of %d handshakes none fails", c.handshakes)
	}
	for _, f := range c.failed {
		if !strings.Contains(f, "unknown authority") {
			t.Errorf("of %d handshakes %d fail, one for another reason: %s", c.handshakes, len(c.failed), f)
			break
		}
	}
}

func never() bool { return false }
