package memory

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

func TestEvictions(t *testing.T) {
	backendtest.TestEvictions(t, func(t *testing.T, test func(t *testing.T)) { synctest.Test(t, test) }, func(t *testing.T) (rotation.Cluster, backendtest.EvictHands) {
		cfg := clusterConfig()
		cfg.Existing, cfg.Replicas, cfg.Lag, cfg.Proxies, cfg.ReplicaSets = true, 1, time.Minute, 3, 1
		c := NewCluster(cfg)
		anchors := backendtest.NewAnchors(t, clusterIdentity())
		cred := anchors.Issuer(t)
		publish := func(revision string, b pki.Bundle) string {
			t.Helper()
			revision, err := c.WriteBundle(t.Context(), rotation.BundleWrite{Revision: revision, Fleet: "acme", Bundle: b})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute)
			return revision
		}
		old, both := anchors.Bundle(t), anchors.Second(t).Bundle(t)
		revision := publish("", old)
		if _, err := c.WriteIssuer(t.Context(), rotation.IssuerWrite{Fleet: "acme", Credential: &cred, Bundle: old}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		publish(revision, both)
		unwell := 0
		pods := func() (all map[string]bool, available int) {
			all = map[string]bool{}
			c.onLinkerd(func(l *linkerd, _ time.Time) {
				for _, pl := range l.places {
					if pl.owner != "app-0" || pl.pod == nil {
						continue
					}
					set, err := pl.pod.roots.set()
					all[fmt.Sprintf("%s-%d-%d", pl.owner, pl.index, pl.restarts)] = err == nil && set.Trusts(both)
					if pl.available() {
						available++
					}
				}
			})
			return all, available
		}
		return c, backendtest.EvictHands{Namespace: appNamespace, Old: old, New: both,
			Label:  func(testing.TB) { c.NeverRestart("app-0") },
			Budget: func(_ testing.TB, healthy int) { c.SetBudget("app-0", healthy) },
			Unwell: func(testing.TB) {
				c.SetUnwell(fmt.Sprintf("%s/app-0-%d", appNamespace, unwell), true)
				unwell++
			},
			Settle: func(t testing.TB) {
				t.Helper()
				for i := range unwell {
					c.SetUnwell(fmt.Sprintf("%s/app-0-%d", appNamespace, i), false)
				}
				time.Sleep(time.Minute)
				if all, available := pods(); len(all) != 3 || available != 3 {
					t.Fatalf("pods %v, %d available", all, available)
				}
			},
			Pods: func(testing.TB) map[string]bool { all, _ := pods(); return all },
		}
	})
}
