package rotation_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// undone is a cluster in which somebody changes the bundle back as soon as it is written.
type undone struct {
	*memory.Cluster
	begun *atomic.Bool
	undo  func(*memory.Cluster)
}

func (u undone) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	revision, err := u.Cluster.WriteBundle(ctx, w)
	if err == nil && u.begun.Load() {
		u.undo(u.Cluster)
	}
	return revision, err
}

// Whatever is not as it should be beside it, and cannot be put right, the issuer is renewed
// before its floor.
func TestTheFloorHoldsBehindARepairThatBringsNothing(t *testing.T) {
	t.Parallel()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.SelfSignAnchor(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), pki.AnchorProfile{CommonName: "Acme", Lifetime: 3650 * day, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	other := func(c *memory.Cluster) { // beside what certd publishes, as a trust-manager does
		c.Edit(rotation.BundleObject, "trust-manager", func(data map[string][]byte, _ *rotation.Marks) {
			if added := pki.EncodeCertificates(foreign); !bytes.Contains(data["ca-bundle.crt"], added) {
				data["ca-bundle.crt"] = append(data["ca-bundle.crt"], added...)
			}
		})
	}
	label := func(c *memory.Cluster) {
		c.Edit(rotation.BundleObject, "", func(_ map[string][]byte, m *rotation.Marks) { m.Label = false })
	}
	denied := func(c memory.Call) memory.ClusterFault {
		if c == memory.CallBundle {
			return memory.ClusterFault{Err: rotation.ErrDenied}
		}
		return memory.ClusterFault{}
	}
	for name, row := range map[string]struct {
		undo   func(*memory.Cluster)
		faults func(memory.Call) memory.ClusterFault
	}{
		"a policy sets another label":                  {undo: label},
		"somebody adds an anchor":                      {undo: other},
		"the label is off, and a write of it refused":  {undo: label, faults: denied},
		"an anchor more, and a write of it is refused": {undo: other, faults: denied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east")
				var begun atomic.Bool
				w.through = func(_ string, c *memory.Cluster) rotation.Cluster { return undone{c, &begun, row.undo} }
				w.ceremony()
				w.start()
				defer func() { // a test that gives up leaves nothing running
					w.stop()
					synctest.Wait()
				}()
				time.Sleep(time.Minute)
				begun.Store(true)
				row.undo(w.clusters["east"])
				w.clusters["east"].SetFaults(row.faults)
				least, signed := 365*day, len(w.keys.Signatures())
				for range 10 * 24 {
					time.Sleep(time.Hour)
					o, err := w.clusters["east"].Observe(t.Context())
					if err != nil || len(o.IssuerFacts.Chain) == 0 {
						t.Fatalf("%+v, %v", o.IssuerFacts, err)
					}
					least = min(least, time.Until(o.IssuerFacts.Chain[0].NotAfter))
				}
				if p := w.policy.Clusters[0]; least < p.Issuer.RenewBefore-2*time.Hour {
					t.Errorf("the issuer had %s left; it is to be renewed with %s", least, p.Issuer.RenewBefore)
				}
				if n := len(w.keys.Signatures()) - signed; n > 20 { // one a day for the key's own check
					t.Errorf("%d signatures in 10 days", n)
				}
				w.end()
			})
		})
	}
}

// resetting is a cluster in which somebody resets each caBundle as soon as it is written.
type resetting struct {
	*memory.Cluster
	to atomic.Pointer[map[rotation.ObjectRef][]byte] // nil: nobody does
}

func (r *resetting) WriteCABundle(ctx context.Context, w rotation.CABundleWrite) (string, error) {
	revision, err := r.Cluster.WriteCABundle(ctx, w)
	if to := r.to.Load(); err == nil && to != nil && (*to)[w.Object] != nil {
		r.SetCABundle(w.Object, "argocd-controller", (*to)[w.Object])
	}
	return revision, err
}

// Where a new webhook CA cannot be trusted, since somebody puts back what there was, each webhook
// is renewed under the former one before its floor, and no call fails.
func TestWebhooksAreRenewedWhereANewCAIsNotTrusted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		p := &w.policy.Clusters[0].Webhooks
		p.Specs = p.Specs[:1]
		p.Leaf.Lifetime, p.Leaf.RenewBefore = 6*day, 3*day
		rival := &resetting{Cluster: w.clusters["east"]}
		w.through = func(string, *memory.Cluster) rotation.Cluster { return rival }
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(time.Hour)
		w.clusters["east"].ForgetViolations()
		to := map[rotation.ObjectRef][]byte{}
		for _, ref := range p.Specs[0].Objects {
			to[ref] = w.clusters["east"].Data(ref.String())["caBundle"]
		}
		rival.to.Store(&to)
		w.loop.Rotate(rotation.TargetWebhookCA, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
		least, signed := 365*day, len(w.keys.Signatures())
		for range 8 * 4 {
			time.Sleep(6 * time.Hour)
			w.admits("a rival resets the caBundle", "")
			for _, h := range w.cluster("east").Webhooks {
				if h.Delivered != nil {
					least = min(least, time.Until(h.Delivered.NotAfter))
				}
			}
		}
		if least < p.Leaf.RenewBefore-2*time.Hour {
			t.Errorf("a certificate had %s left; it is to be renewed with %s", least, p.Leaf.RenewBefore)
		}
		if n := len(w.keys.Signatures()) - signed; n > 60 { // most are the keys' own checks
			t.Errorf("%d signatures in 8 days", n)
		}
		rival.to.Store(nil)
		time.Sleep(day)
		w.admits("the rival is gone", "")
		w.looked("the rival is gone", "east", "w2")
		w.end()
	})
}
