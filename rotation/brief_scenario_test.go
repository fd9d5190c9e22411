package rotation_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// deaf is a cluster whose watch tells nothing. It notes what is asked and written.
type deaf struct {
	*memory.Cluster
	*deeds
}

type deeds struct {
	mu  sync.Mutex
	did []string
}

func (d *deeds) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.did = append(d.did, what)
}

// forget empties the list and returns what was on it.
func (d *deeds) forget() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	did := d.did
	d.did = nil
	return did
}

func (d deaf) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

func (d deaf) Observe(ctx context.Context) (rotation.Observation, error) {
	d.note("look")
	return d.Cluster.Observe(ctx)
}

func (d deaf) Reread(ctx context.Context, last rotation.Observation, object string) (rotation.Observation, error) {
	d.note("read " + object)
	return d.Cluster.Reread(ctx, last, object)
}

func (d deaf) WriteBundle(ctx context.Context, w rotation.BundleWrite) (string, error) {
	d.note("write " + rotation.BundleObject)
	return d.Cluster.WriteBundle(ctx, w)
}

func (d deaf) WriteIssuer(ctx context.Context, w rotation.IssuerWrite) (string, error) {
	d.note("write " + rotation.IssuerObject)
	return d.Cluster.WriteIssuer(ctx, w)
}

func (d deaf) CountProxies(ctx context.Context) rotation.Proxies {
	d.note("count")
	return d.Cluster.CountProxies(ctx)
}

// noted is a settled fleet of one cluster, east, whose deeds are noted.
func noted(t *testing.T) (*world, *deeds) {
	t.Helper()
	deeds := &deeds{}
	w := newWorld(t, "east")
	w.through = func(_ string, m *memory.Cluster) rotation.Cluster { return deaf{m, deeds} }
	w.ceremony()
	w.start()
	time.Sleep(30 * time.Minute)
	return w, deeds
}

// A new issuer that somebody asks for takes one look at the bundle and one at what was
// written. What changed since the last look, untold, is noticed all the same.
func TestANewIssuerTakesTwoReads(t *testing.T) {
	const bundle, issuer = rotation.BundleObject, rotation.IssuerObject
	for _, c := range []struct {
		what string
		do   func(w *world)
		want []string
	}{
		{"nothing has changed", func(*world) {}, []string{"read " + bundle, "write " + issuer, "read " + issuer}},
		{"the bundle is gone", func(w *world) { w.clusters["east"].Delete(bundle) },
			[]string{"read " + bundle, "look", "write " + bundle, "look", "write " + issuer, "read " + issuer}},
		{"somebody has written to the issuer", func(w *world) {
			w.clusters["east"].Edit(issuer, "kubectl-edit", func(_ map[string][]byte, m *rotation.Marks) { m.Label = false })
		}, []string{"read " + bundle, "write " + issuer, "look"}},
		{"the last look is a minute old", func(*world) { time.Sleep(time.Minute - time.Second) }, nil},
		{"it is not known whether something has changed", func(w *world) { w.loop.Look("east") }, []string{"look"}}, // the look may be over when the issuer is asked for
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, deeds := noted(t)
				deeds.forget()
				for len(deeds.forget()) == 0 { // until right after a regular look
					time.Sleep(time.Second)
					synctest.Wait()
				}
				before := w.cluster("east").Issuer.Delivered.Serial
				c.do(w)
				if r := <-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "test"}); r.Result != rotation.OK {
					t.Errorf("it was not renewed: %+v", r)
				}
				synctest.Wait()
				did := deeds.forget()
				if c.want != nil && !slices.Equal(did[:min(len(did), len(c.want))], c.want) {
					t.Errorf("certd did %q, want %q", did, c.want)
				}
				time.Sleep(3 * time.Minute)
				if after := w.cluster("east").Issuer.Delivered.Serial; after == before {
					t.Error("status shows the former issuer")
				}
				if st := w.cluster("east"); st.State != rotation.StateOK {
					t.Errorf("east is %s: %+v", st.State, st.Findings)
				}
				w.holds("in the end")
				w.accounted()
				w.end()
			})
		})
	}
}

// A new bundle takes one look, and one read of each object that it is written to.
func TestANewBundleTakesOneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, deeds := noted(t)
		key, err := pki.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		partner, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 3650 * day, Backdate: time.Hour}, key)
		if err != nil {
			t.Fatal(err)
		}
		p := w.policy
		p.Clusters = slices.Clone(p.Clusters)
		p.Clusters[0].Foreign = []rotation.ForeignAnchor{{Name: "partner", Certificate: partner}}
		deeds.forget()
		if err := w.loop.Apply(p, map[string]rotation.Cluster{"east": deaf{w.clusters["east"], deeds}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		const bundle, issuer = rotation.BundleObject, rotation.IssuerObject
		if did, want := deeds.forget(), []string{"look", "write " + bundle, "read " + bundle, "write " + issuer, "read " + issuer}; !slices.Equal(did, want) {
			t.Errorf("certd did %q, want %q", did, want)
		}
		if st := w.cluster("east"); st.State != rotation.StateOK {
			t.Errorf("east is %s: %+v", st.State, st.Findings)
		}
		w.end()
	})
}

// What a census has found takes no look if there is nothing to do about it.
func TestACensusTakesNoLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, deeds := noted(t)
		w.end()
		deeds.forget()
		w.start()
		time.Sleep(10 * time.Second)
		if did, want := deeds.forget(), []string{"look", "count"}; !slices.Equal(did, want) {
			t.Errorf("certd did %q, want %q", did, want)
		}
		time.Sleep(time.Minute)
		if did := deeds.forget(); len(did) == 0 {
			t.Error("the census put off the regular look")
		}
		w.end()
	})
}
