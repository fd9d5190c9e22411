package memory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

func clusterConfig() ClusterConfig {
	return ClusterConfig{Name: "east", Namespace: "linkerd", TrustDomain: "cluster.local"}
}

func clusterIdentity() pki.Identity {
	return pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}
}

// shared is a second handle: closing it leaves the cluster alone.
type shared struct{ *Cluster }

func (shared) Close() error { return nil }

func TestCluster(t *testing.T) {
	backendtest.TestCluster(t, func(t *testing.T) (rotation.Cluster, backendtest.Hands) {
		c := NewCluster(clusterConfig())
		return c, backendtest.Hands{
			As:       "kubectl-edit",
			Identity: clusterIdentity(),
			Edit: func(_ testing.TB, object string, edit func(map[string][]byte)) {
				c.Edit(object, "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { edit(data) })
			},
			StripMarks: func(_ testing.TB, object string) {
				c.Edit(object, "kubectl-edit", func(_ map[string][]byte, m *rotation.Marks) { *m = rotation.Marks{} })
			},
			Delete: func(_ testing.TB, object string) { c.Delete(object) },
			Data:   func(_ testing.TB, object string) map[string][]byte { return c.Data(object) },
			Again:  func(testing.TB) rotation.Cluster { return shared{c} },
		}
	})
}

func TestWebhooks(t *testing.T) {
	injector := rotation.WebhookSpec{Name: "proxy-injector", Service: "linkerd-proxy-injector", Secret: "linkerd-proxy-injector-k8s-tls",
		Objects: []rotation.ObjectRef{{Kind: rotation.KindMutating, Name: "linkerd-proxy-injector-webhook-config"}}}
	tap := rotation.WebhookSpec{Name: "tap", Service: "tap", Secret: "tap-k8s-tls",
		Objects: []rotation.ObjectRef{{Kind: rotation.KindAPIService, Name: "v1alpha1.tap.linkerd.io"}}}
	backendtest.TestWebhooks(t, func(t *testing.T) (rotation.Cluster, backendtest.WebhookHands) {
		cfg := clusterConfig()
		cfg.Webhooks = []rotation.WebhookSpec{injector, tap}
		c := NewCluster(cfg)
		secret := func(spec rotation.WebhookSpec) string { return spec.Namespace + "/" + spec.Secret }
		hands := backendtest.WebhookHands{
			As: "kubectl-edit", Spec: injector, APIService: tap,
			Install: func(_ testing.TB, spec rotation.WebhookSpec, caBundle []byte, secret map[string][]byte) {
				c.InstallWebhook(spec, WebhookInstall{Writer: "kubectl-edit", CABundle: caBundle, Secret: secret})
			},
			Remove: func(_ testing.TB, spec rotation.WebhookSpec) { c.RemoveWebhook(spec.Name) },
			SetCABundle: func(_ testing.TB, spec rotation.WebhookSpec, text []byte) {
				for _, ref := range spec.Objects {
					c.SetCABundle(ref, "kubectl-edit", text)
				}
			},
			EditSecret: func(_ testing.TB, spec rotation.WebhookSpec, edit func(map[string][]byte)) {
				c.Edit(secret(spec), "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) { edit(data) })
			},
			DeleteSecret: func(_ testing.TB, spec rotation.WebhookSpec) { c.Delete(secret(spec)) },
			Secret:       func(_ testing.TB, spec rotation.WebhookSpec) map[string][]byte { return c.Data(secret(spec)) },
			CABundle:     func(_ testing.TB, spec rotation.WebhookSpec) []byte { return c.CABundle(spec.Objects[0]) },
			Again:        func(testing.TB) rotation.Cluster { return shared{c} },
		}
		hands.Spec.Namespace, hands.APIService.Namespace = "linkerd", "linkerd-viz"
		return c, hands
	})
}

func TestClusterFaults(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault ClusterFault
		err   error
		after time.Duration // how long the call takes
		wrote bool
	}{
		{"nothing goes wrong", ClusterFault{}, nil, 0, true},
		{"it is out of reach", ClusterFault{Err: rotation.ErrUnavailable}, rotation.ErrUnavailable, 0, false},
		{"the answer is lost", ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true}, rotation.ErrOutcomeUnknown, 0, true},
		{"it is slow", ClusterFault{Delay: 3 * time.Second}, nil, 3 * time.Second, true},
		{"it is slower than the caller waits", ClusterFault{Delay: time.Hour}, context.DeadlineExceeded, 10 * time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := NewCluster(clusterConfig())
				c.SetFaults(func(call Call) ClusterFault {
					if call == CallNamespace {
						return row.fault
					}
					return ClusterFault{}
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun := time.Now()
				if err := c.CreateNamespace(ctx); !errors.Is(err, row.err) {
					t.Errorf("error %v; want %v", err, row.err)
				}
				if took := time.Since(begun); took != row.after {
					t.Errorf("took %s; want %s", took, row.after)
				}
				o, err := c.Observe(t.Context())
				if err != nil || o.Namespace != row.wrote || c.Writes()["namespace"] != map[bool]int{true: 1}[row.wrote] {
					t.Errorf("namespace %t, writes %v, %v", o.Namespace, c.Writes(), err)
				}
			})
		})
	}
}

// Replicas take a new issuer up one after another, each after its volume's
// lag, and keep the one they have if the new one does not chain to the roots
// they started with.
func TestSimulatedIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := clusterConfig()
		cfg.Existing, cfg.Replicas, cfg.Lag = true, 2, time.Minute
		c := NewCluster(cfg)
		anchors := backendtest.NewAnchors(t, clusterIdentity())
		publish := func(a *backendtest.Anchors) time.Time {
			o, err := c.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.WriteBundle(t.Context(), rotation.BundleWrite{Revision: o.Bundle.Revision, Bundle: a.Bundle(t)}); err != nil {
				t.Fatal(err)
			}
			cred := a.Issuer(t)
			if _, err := c.WriteIssuer(t.Context(), rotation.IssuerWrite{Revision: o.Issuer.Revision, Bundle: a.Bundle(t), Credential: &cred}); err != nil {
				t.Fatal(err)
			}
			return cred.Chain()[0].NotAfter
		}
		loaded := func() (at []time.Time) {
			o, err := c.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range o.Identity.Replicas {
				at = append(at, r.NotAfter)
			}
			return at
		}
		first := publish(anchors)
		if got := loaded(); len(got) != 0 {
			t.Errorf("replicas run before their volumes are there: %v", got)
		}
		time.Sleep(time.Minute)
		if got := loaded(); len(got) != 2 || !got[0].Equal(first) || !got[1].Equal(first) {
			t.Errorf("loaded %v; want %s twice", got, first)
		}
		time.Sleep(time.Hour)
		second := publish(anchors)
		time.Sleep(30 * time.Second)
		if got := loaded(); !got[0].Equal(second) || !got[1].Equal(first) {
			t.Errorf("loaded %v; want %s, then %s", got, second, first)
		}
		time.Sleep(30 * time.Second)
		publish(anchors.Second(t))
		time.Sleep(time.Hour)
		if got := loaded(); !got[0].Equal(second) || !got[1].Equal(second) || c.Skipped() != 2 {
			t.Errorf("loaded %v, skipped %d; an issuer under an anchor the replicas do not know was taken up", got, c.Skipped())
		}
		c.RestartIdentity()
		if got := loaded(); got[0].Equal(second) {
			t.Error("a restart did not read the new trust roots")
		}
	})
}
