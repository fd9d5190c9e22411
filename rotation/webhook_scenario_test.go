package rotation_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// hooked is a fleet whose clusters run Linkerd's webhooks, three replicas each,
// behind two API servers that learn a caBundle one after another.
func hooked(t *testing.T, names ...string) *world {
	t.Helper()
	w := newWorld(t, names...)
	schedule, err := rotation.ParseSchedule("30 3 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.policy.Clusters {
		p := &w.policy.Clusters[i]
		p.Webhooks = rotation.WebhookPolicy{Specs: rotation.LinkerdWebhooks(), Settle: 30 * time.Second, Projection: 3 * time.Minute, ProbeEvery: 5 * time.Minute,
			Leaf: rotation.RenewalPolicy{Lifetime: 30 * day, RenewBefore: 15 * day, Backdate: 10 * time.Minute, Schedule: schedule, Spread: 30 * time.Minute},
			CA:   rotation.RenewalPolicy{Lifetime: 730 * day, RenewBefore: 180 * day, Backdate: time.Hour, Schedule: schedule, Spread: 30 * time.Minute}}
		w.clusters[p.Cluster] = memory.NewCluster(memory.ClusterConfig{Name: p.Cluster, Namespace: "linkerd", TrustDomain: "cluster.local", Existing: true,
			Lag: 90 * time.Second, APILag: 20 * time.Second, Webhooks: p.Webhooks.Specs})
	}
	return w
}

// components are the webhooks that a control plane of today has.
func components() []rotation.WebhookSpec {
	return slices.DeleteFunc(rotation.LinkerdWebhooks(), func(s rotation.WebhookSpec) bool { return s.Name == "jaeger-injector" })
}

// namespaceOf is where a chart puts a webhook.
func namespaceOf(s rotation.WebhookSpec) rotation.WebhookSpec {
	s.Namespace = "linkerd"
	if strings.HasPrefix(s.Name, "tap") {
		s.Namespace = "linkerd-viz"
	}
	return s
}

// secretOf is what the cluster in memory calls a webhook's Secret.
func secretOf(s rotation.WebhookSpec) string {
	if s.Namespace == "linkerd" {
		return s.Secret
	}
	return s.Namespace + "/" + s.Secret
}

// helm installs or upgrades every component as the charts do: with a new
// self-signed certificate at each rendering or, external, with none.
func (w *world) helm(cluster string, external bool) {
	w.t.Helper()
	for _, spec := range components() {
		w.helmOne(cluster, spec, external)
	}
}

func (w *world) helmOne(cluster string, spec rotation.WebhookSpec, external bool) {
	w.t.Helper()
	spec = namespaceOf(spec)
	in := memory.WebhookInstall{Writer: "helm", Ignore: spec.Check == rotation.CheckInjected}
	if spec.Name == "policy-validator" {
		in.Reload = memory.ReloadReread
	}
	if !external {
		crt, key := selfSigned(w.t, spec.Service+"."+spec.Namespace+".svc")
		in.CABundle, in.Secret = crt, map[string][]byte{"tls.crt": crt, "tls.key": key}
	}
	w.clusters[cluster].InstallWebhook(spec, in)
}

// rsaKey is made once: what Helm does with it takes long enough.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// selfSigned is what genSelfSignedCert makes in Linkerd's charts: an RSA
// certificate that is no CA and its own caBundle.
func selfSigned(t *testing.T, name string) (crt, key []byte) {
	t.Helper()
	k, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(365 * day),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
}

// admits fails where an API server would have called a webhook in vain, now or
// since the last time, but for what the one named has done.
func (w *world) admits(when, but string) {
	w.t.Helper()
	for name, c := range w.clusters {
		for _, b := range c.Broken() {
			w.t.Errorf("%s: %s: %s", when, name, b)
		}
		for _, v := range c.ForgetViolations() {
			if v.By != but || but == "" {
				w.t.Errorf("%s: %s: %s", when, name, v)
			}
		}
	}
}

// looked says of one cluster's webhooks that each is served, accepted and does
// its work under a given CA alone.
func (w *world) looked(when, cluster, ca string) {
	w.t.Helper()
	c := w.cluster(cluster)
	if c.State != rotation.StateOK || c.WebhookCA == nil || c.WebhookCA.ID != ca || len(c.Webhooks) != len(components()) {
		w.t.Errorf("%s: %s is %s under %+v with %d webhooks: %+v", when, cluster, c.State, c.WebhookCA, len(c.Webhooks), c.Findings)
	}
	for _, h := range c.Webhooks {
		if h.Delivered == nil || h.Delivered.Anchor != ca || h.Served == nil || h.Served.State != "yes" || h.Check == nil || h.Check.State != "yes" || !h.CABundle.Current || len(h.CABundle.CAs) != 1 || h.CABundle.CAs[0].ID != ca {
			w.t.Errorf("%s: %s: delivered %+v, served %+v, check %+v, caBundle %+v", when, h.Name, h.Delivered, h.Served, h.Check, h.CABundle)
		}
	}
}

func (w *world) bench(begun *int) int {
	n := len(w.keys.Signatures()) - *begun
	*begun += n
	return n
}

// A control plane that is installed with nothing but the request for its
// certificates gets them, and is then left alone.
func TestWebhooksGetTheirFirstCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.start()
		time.Sleep(10 * time.Second)
		signed := 0
		w.bench(&signed)
		time.Sleep(time.Hour)
		if got := w.cluster("east"); len(got.Webhooks) != 0 || got.WebhookCA != nil || w.bench(&signed) != 0 {
			t.Errorf("without webhooks: %+v, CA %+v", got.Webhooks, got.WebhookCA)
		}
		w.helm("east", true)
		time.Sleep(5 * time.Second) // one watch event, and what follows
		for _, h := range w.cluster("east").Webhooks {
			if h.Delivered == nil {
				t.Errorf("%s has no certificate 5 s after its installation", h.Name)
			}
		}
		time.Sleep(10 * time.Minute)
		w.clusters["east"].ForgetViolations()
		w.looked("installed", "east", "w1")
		w.holds("installed")
		if n := w.bench(&signed); n != 1+len(components()) {
			t.Errorf("%d signatures for a CA and %d certificates", n, len(components()))
		}
		before := w.clusters["east"].Writes()
		time.Sleep(10 * time.Hour)
		w.end()
		w.start()
		time.Sleep(time.Hour)
		if got := w.clusters["east"].Writes(); !maps.Equal(got, before) || w.bench(&signed) != 0 {
			t.Errorf("written although nothing was due: %v, before %v", got, before)
		}
		w.admits("idle", "")
		w.accounted()
		w.end()
	})
}

// What Helm made, a self-signed RSA certificate that is its own CA, is taken
// over without a failed call, and so is a component that comes later.
func TestWebhooksAreTakenOverFromHelm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.helm("east", false)
		w.clusters["east"].RemoveWebhook("tap")
		w.start()
		time.Sleep(20 * time.Minute)
		w.admits("the others are taken over", "")
		w.helmOne("east", components()[3], false)
		time.Sleep(20 * time.Minute)
		w.admits("tap is taken over", "")
		w.looked("taken over", "east", "w1")
		w.holds("taken over")
		w.accounted()
		w.end()
	})
}

// A new CA, and new certificates under the same one, whatever the replicas do:
// no call fails, each replica is moved, and the old CA is gone in the end.
func TestWebhookCARotation(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		trouble func(c *memory.Cluster)
	}{
		{"nothing is in the way", func(*memory.Cluster) {}},
		{"a replica misses one change", func(c *memory.Cluster) { c.MissNext("proxy-injector", 1) }},
		{"a replica hears nothing any more", func(c *memory.Cluster) { c.Deafen("proxy-injector", 2); c.Deafen("policy-validator", 0) }},
		{"replicas cannot be seen", func(c *memory.Cluster) { c.Unreachable("sp-validator", true) }},
		{"pods that start find what their Secret was a while ago", func(c *memory.Cluster) {
			for _, s := range components() {
				c.SetStaleStarts(s.Name, true)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := hooked(t, "east")
				w.ceremony()
				w.helm("east", true)
				w.start()
				time.Sleep(20 * time.Minute)
				w.clusters["east"].ForgetViolations()
				row.trouble(w.clusters["east"])
				results := w.loop.Rotate(rotation.TargetWebhookCA, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
				// Pods come and go meanwhile.
				rnd := mathrand.New(mathrand.NewPCG(1, 2))
				for range 40 {
					time.Sleep(30 * time.Second)
					w.clusters["east"].RestartPod(components()[rnd.IntN(5)].Name, rnd.IntN(2)*2)
				}
				select {
				case r := <-results:
					if r.Result != rotation.OK {
						t.Errorf("the rotation ended with %+v", r)
					}
				default:
					t.Errorf("the rotation is not done after 20 minutes: %+v", w.cluster("east").Findings)
				}
				time.Sleep(10 * time.Minute)
				w.admits("rotated", "")
				w.clusters["east"].Unreachable("sp-validator", false)
				time.Sleep(10 * time.Minute)
				w.looked("rotated", "east", "w2")
				cas, err := w.journal.WebhookCAs("east")
				if err != nil || len(cas) != 2 || cas[0].RetiredAt.IsZero() || !cas[1].RetiredAt.IsZero() {
					t.Errorf("webhook CAs %+v, %v", cas, err)
				}
				for _, e := range w.entries() {
					if strings.HasPrefix(e.Intent.Reason, "asked for") && e.Intent.Actor != "lee@cli" {
						t.Errorf("%s was asked for by %s", e.Intent.Step, e.Intent.Actor)
					}
				}
				w.accounted()
				w.end()
			})
		})
	}
}

func (w *world) entries() []rotation.Entry {
	w.t.Helper()
	entries, err := w.journal.Entries(state.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}

// A Helm upgrade renders everything anew: Secrets and caBundles. What is served
// is trusted again within two seconds, helm is named, and in the end certd's
// certificates are back without one more failed call. It does so in the middle
// of a CA rotation, too.
func TestAHelmUpgradeIsMendedInSeconds(t *testing.T) {
	t.Parallel()
	for _, rotating := range []time.Duration{0, 10 * time.Second, 45 * time.Second, 2 * time.Minute, 5 * time.Minute} {
		t.Run(fmt.Sprintf("%s into a rotation", rotating), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := hooked(t, "east")
				w.ceremony()
				w.helm("east", true)
				w.start()
				time.Sleep(20 * time.Minute)
				w.clusters["east"].ForgetViolations()
				ca := "w1"
				if rotating > 0 {
					ca = "w2"
					w.loop.Rotate(rotation.TargetWebhookCA, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
					time.Sleep(rotating)
				}
				w.admits("before the upgrade", "")
				// certd's calls take a moment: it mends nothing before this test has looked.
				w.clusters["east"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Delay: 100 * time.Millisecond} })
				w.helm("east", false)
				if len(w.clusters["east"].Broken()) == 0 {
					t.Error("the upgrade broke nothing: it does not show what is to be shown")
				}
				w.clusters["east"].SetFaults(nil)
				time.Sleep(2 * time.Second)
				own := w.clusters["east"].Broken()
				if own = slices.DeleteFunc(own, func(a memory.Admission) bool { return a.Server > 0 }); len(own) > 0 { // the other API server learns 20 s later
					t.Errorf("2 s after the upgrade: %s", own[0])
				}
				time.Sleep(25 * time.Second)
				w.admits("half a minute after the upgrade", "helm")
				time.Sleep(time.Hour)
				w.admits("an hour after the upgrade", "")
				w.looked("an hour after the upgrade", "east", ca)
				named := w.count(func(e rotation.Entry) bool { return e.Intent.Writer == "helm" })
				if named == 0 {
					t.Error("helm is not named")
				}
				w.accounted()
				w.end()
			})
		})
	}
}

// Somebody who resets a caBundle every ten seconds is not fought without end,
// and where both are trusted either way works.
func TestARivalIsNotFoughtWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(20 * time.Minute)
		spec := namespaceOf(components()[0])
		crt, _ := selfSigned(t, "rival")
		writes := w.clusters["east"].Writes()[spec.Objects[0].String()]
		for range 360 {
			w.clusters["east"].SetCABundle(spec.Objects[0], "argocd-controller", crt)
			time.Sleep(10 * time.Second)
		}
		if n := w.clusters["east"].Writes()[spec.Objects[0].String()] - writes; n > 20 {
			t.Errorf("%d repairs in an hour", n)
		}
		if f, ok := w.finding("east", "RepairHeldBack"); !ok || !strings.Contains(f.Message, "argocd-controller") {
			t.Errorf("the rival is not named: %+v", w.cluster("east").Findings)
		}
		time.Sleep(2 * time.Hour)
		w.clusters["east"].ForgetViolations()
		w.looked("the rival is gone", "east", "w1")
		w.accounted()
		w.end()
	})
}

// What cert-manager issues into is watched; when its Certificate is deleted,
// certd takes over without a failed call.
func TestWebhooksAreTakenOverFromCertManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.helm("east", false)
		for _, s := range components() {
			w.clusters["east"].SetRenewer(s.Name, "Certificate linkerd/"+s.Secret)
			for _, ref := range s.Objects {
				w.clusters["east"].SetInjector(ref, "Certificate linkerd/"+s.Secret)
			}
		}
		w.start()
		time.Sleep(time.Hour)
		if got := w.cluster("east"); got.WebhookCA != nil || got.Webhooks[0].Mode != string(rotation.Watched) || got.State != rotation.StateWarning {
			t.Errorf("while cert-manager issues: %+v", got)
		}
		for _, s := range components() {
			w.clusters["east"].SetRenewer(s.Name, "")
		}
		time.Sleep(time.Hour)
		w.admits("taken over", "")
		w.looked("taken over", "east", "w1")
		w.end()
	})
}

// Two years: certificates and CA are renewed within their windows, never below
// the floor, and no call ever fails.
func TestTwoYearsOfWebhooks(t *testing.T) {
	t.Parallel()
	days := 2 * 365
	if raced {
		days = 120
	}
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.policy.Clusters[0].Webhooks.ProbeEvery = 30 * day
		w.resync = 12 * time.Hour
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(time.Hour)
		w.clusters["east"].ForgetViolations()
		least, serials := 365*day, map[string]map[string]bool{}
		for range days {
			time.Sleep(day)
			for _, c := range w.loop.Status().Clusters {
				for _, h := range c.Webhooks {
					if h.Delivered == nil {
						t.Fatalf("%s: %s has no certificate", c.Name, h.Name)
					}
					least = min(least, time.Until(h.Delivered.NotAfter))
					name := c.Name + "/" + h.Name
					if serials[name] == nil {
						serials[name] = map[string]bool{}
					}
					serials[name][h.Delivered.Serial] = true
				}
			}
		}
		w.holds("after two years")
		w.admits("in two years", "")
		if least < 15*day {
			t.Errorf("a certificate once had only %s left", least)
		}
		for name, s := range serials {
			if n := len(s); n < days/15 || n > days/12 {
				t.Errorf("%s had %d certificates", name, n)
			}
		}
		if cas, err := w.journal.WebhookCAs("east"); !raced && (err != nil || len(cas) != 2 || cas[0].RetiredAt.IsZero()) {
			t.Errorf("webhook CAs %+v, %v", cas, err)
		}
		w.accounted()
		w.end()
	})
}

// Seeds decide what breaks, as for issuers. While no hand touches a webhook no
// call fails but for want of what a hand took away before; when it is calm
// again everything is served and accepted.
func TestFaultsNeverBreakAdmission(t *testing.T) {
	t.Parallel()
	seeds := uint64(6)
	if raced {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { faultyHooks(t, seed) })
		})
	}
}

func faultyHooks(t *testing.T, seed uint64) {
	w := hooked(t, "east")
	w.resync = 20 * time.Minute
	c := w.clusters["east"]
	rnd, calls, vault := mathrand.New(mathrand.NewPCG(seed, 1)), mathrand.New(mathrand.NewPCG(seed, 2)), mathrand.New(mathrand.NewPCG(seed, 3))
	w.ceremony()
	w.helm("east", seed%2 == 0)
	w.start()
	time.Sleep(20 * time.Minute)
	c.ForgetViolations()
	for round := range 10 {
		worse := rnd.Float64() * 0.5
		c.SetFaults(func(memory.Call) memory.ClusterFault {
			switch p := calls.Float64(); {
			case p > worse:
				return memory.ClusterFault{}
			case p < worse/3:
				return memory.ClusterFault{Err: rotation.ErrUnavailable}
			case p < worse*2/3:
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true}
			}
			return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Delay: time.Duration(calls.IntN(40)) * time.Second}
		})
		w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
			if vault.Float64() < worse {
				return memory.KeyFault{Err: rotation.ErrUnavailable}
			}
			return memory.KeyFault{}
		})
		// Rotations, restarts and deaf replicas break nothing, however calls fail.
		for range 3 {
			target := []rotation.Target{rotation.TargetWebhooks, rotation.TargetWebhookCA}[rnd.IntN(2)]
			w.loop.Rotate(target, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			name := components()[rnd.IntN(5)].Name
			switch rnd.IntN(4) {
			case 0:
				c.Deafen(name, rnd.IntN(3))
			case 1:
				c.MissNext(name, rnd.IntN(3))
			case 2:
				c.RestartPod(name, rnd.IntN(3))
			case 3:
				w.end()
				time.Sleep(time.Duration(rnd.IntN(600)) * time.Second)
				w.start()
			}
			time.Sleep(time.Duration(rnd.IntN(1200)) * time.Second)
		}
		for _, v := range c.ForgetViolations() {
			t.Errorf("seed %d, round %d: %s", seed, round, v)
		}
		// Hands do.
		spec := namespaceOf(components()[rnd.IntN(5)])
		switch rnd.IntN(4) {
		case 0:
			w.helm("east", false)
		case 1:
			c.SetCABundle(spec.Objects[0], "kubectl-edit", nil)
		case 2:
			c.Delete(secretOf(spec))
		case 3:
			c.Edit(secretOf(spec), "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { data["tls.key"] = []byte("gone") })
		}
		time.Sleep(time.Duration(rnd.IntN(7200)) * time.Second)
		c.SetFaults(nil)
		w.keys.SetFaults(nil)
		time.Sleep(2 * time.Hour)
		c.ForgetViolations()
		time.Sleep(30 * time.Minute)
		w.admits(fmt.Sprintf("seed %d, round %d, calm", seed, round), "")
		w.holds(fmt.Sprintf("seed %d, round %d, calm", seed, round))
		for _, h := range w.cluster("east").Webhooks {
			if h.Served == nil || h.Served.State != "yes" || !h.CABundle.Current || len(h.CABundle.CAs) != 1 {
				t.Errorf("seed %d, round %d, calm: %s: served %+v, caBundle %+v", seed, round, h.Name, h.Served, h.CABundle)
			}
		}
	}
	w.accounted()
	if pending, err := w.journal.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("open intents in a calm world: %v, %v", pending, err)
	}
	w.end()
}

// Killed at each write of the journal while webhooks are taken over, or while
// their CA changes, certd always comes to the same end, with each signature
// accounted for, and no call fails on the way.
func TestACrashAtAnyWriteAboutWebhooks(t *testing.T) {
	t.Parallel()
	step := 1
	if raced {
		step = 4
	}
	for _, rotating := range []bool{false, true} {
		for _, late := range []bool{false, true} {
			for _, lost := range []bool{false, true} {
				t.Run(fmt.Sprintf("rotating %t, late %t, lost %t", rotating, late, lost), func(t *testing.T) {
					deaths := 0
					for n := 1; ; n += step {
						died := false
						synctest.Test(t, func(t *testing.T) { died = dieAmongHooks(t, n, rotating, late, lost) })
						if !died || t.Failed() {
							break
						}
						deaths++
					}
					if deaths < 8/step {
						t.Errorf("only %d writes were seen", deaths)
					}
				})
			}
		}
	}
}

func dieAmongHooks(t *testing.T, n int, rotating, late, lost bool) (died bool) {
	w := hooked(t, "east")
	w.policy.Clusters[0].Webhooks.ProbeEvery = day
	w.resync = 6 * time.Hour
	c := w.clusters["east"]
	w.ceremony()
	for _, spec := range components()[:2] {
		w.helmOne("east", spec, false)
	}
	if rotating {
		w.start()
		time.Sleep(20 * time.Minute)
		w.end()
	}
	var m *mortal
	w.wrap = func(j rotation.Journal) rotation.Journal {
		m = &mortal{Journal: j, left: n, late: late, onEnd: func() {
			c.SetFaults(func(memory.Call) memory.ClusterFault {
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: lost}
			})
			w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault { return memory.KeyFault{Err: rotation.ErrUnavailable} })
		}}
		return m
	}
	w.start()
	if rotating {
		time.Sleep(time.Second)
		w.loop.Rotate(rotation.TargetWebhookCA, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
	}
	for range 20 {
		time.Sleep(time.Minute)
		m.mu.Lock()
		died = m.dead
		m.mu.Unlock()
		if died {
			break
		}
	}
	w.end()
	c.SetFaults(nil)
	w.keys.SetFaults(nil)
	w.wrap = nil
	w.start()
	time.Sleep(time.Second)
	if rotating && w.cluster("east").WebhookCA.ID == "w1" {
		w.loop.Rotate(rotation.TargetWebhookCA, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"}) // the request died with it
	}
	time.Sleep(40 * time.Minute)
	ca := map[bool]string{false: "w1", true: "w2"}[rotating]
	for _, h := range w.cluster("east").Webhooks {
		if h.Delivered.Anchor != ca || h.Served == nil || h.Served.State != "yes" || len(h.CABundle.CAs) != 1 || h.CABundle.CAs[0].ID != ca {
			t.Errorf("died at write %d: %s: delivered %+v, served %+v, caBundle %+v", n, h.Name, h.Delivered, h.Served, h.CABundle)
		}
	}
	w.admits(fmt.Sprintf("died at write %d", n), "")
	w.holds(fmt.Sprintf("died at write %d", n))
	w.accounted()
	if pending, err := w.journal.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("died at write %d: open intents %+v, %v", n, pending, err)
	}
	w.end()
	return died
}

// With the journal lost, certd finds its webhook CA in the cluster and in the
// key backend, and goes on under it.
func TestALostJournalFindsItsWebhookCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(20 * time.Minute)
		w.end()
		before := w.clusters["east"].Writes()
		signed := len(w.keys.Signatures())
		w.dir = journalDir(t)
		w.clusters["east"].ForgetViolations()
		w.start()
		time.Sleep(20 * time.Minute)
		w.looked("after the loss", "east", "w1")
		if got := w.clusters["east"].Writes(); !maps.Equal(got, before) {
			t.Errorf("written although nothing was due: %v, before %v", got, before)
		}
		if n := len(w.keys.Signatures()) - signed; n > 1 { // a canary
			t.Errorf("%d signatures", n)
		}
		w.admits("after the loss", "")
		w.end()
	})
}
