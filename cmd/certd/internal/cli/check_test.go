package cli

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"certd.internal/backends/kube"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/check/checktest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// checkEvidence is that of a fleet of n clusters: healthy, unseen, overdue, or
// anything else for one in which much is wrong.
func checkEvidence(t testing.TB, which string, n int) check.Evidence {
	t.Helper()
	w := checktest.New(t, now)
	clusters := []string{"prod-eu-1", "prod-us-1", "stage-eu-1"}
	for i := len(clusters); i < n; i++ {
		clusters = append(clusters, fmt.Sprintf("edge-%03d", i))
	}
	e := w.Healthy(checktest.Quiet, clusters[:max(n, 2)]...)
	cut := func(c *check.Cluster) {
		c.Kube, c.Observed, c.Err = nil, nil, fmt.Errorf("get namespaces kube-system: dial tcp 10.40.7.2:6443: i/o timeout: %w", rotation.ErrUnavailable)
	}
	switch us := &e.Clusters[1]; which {
	case "healthy":
	case "unseen":
		e.Trust.State, e.Trust.Unseen = rotation.StateUnknown, []string{"prod-us-1 was last seen 2h 41m ago: i/o timeout"}
	case "overdue":
		e.Findings = []check.Finding{{Cluster: us.Policy.Cluster, Finding: rotation.Finding{ID: "IssuerNotLoaded", Severity: rotation.StateWarning,
			Message: "the issuer was delivered 1d 6h ago, and linkerd-identity-6c7d still uses one that ends in 73d 16h", Deadline: after(73 * day), Fix: "kubectl -n linkerd rollout restart deploy/linkerd-identity"}}}
	default:
		e.Config = checktest.Config(t, now, "", clusters[:max(n, 2)]...)
		e.Journal.BadSeq, e.Journal.Problem = 7, "its hash does not cover it"
		e.Keys.Anchors[0].Err = fmt.Errorf("open key /var/lib/certd/keys/acme-mesh-anchor-1.pem: there is no such file: %w", rotation.ErrKeyNotFound)
		us.Observed.ClockSkew = 7 * time.Minute
		_, soon := w.NewAnchor("root.linkerd.cluster.local 2016-1", 100*day)
		us.Observed.BundleText = pki.EncodeCertificates(soon, w.Anchor)
		us.Observed.Webhooks[1].Objects[0].CABundle = pki.NewCASet(w.Anchor)
		us.Proxies.Unread, us.Proxies.Odd = 2, []string{"shop/cart-0: its anchors are empty\x1b[2J", "shop/cart-1: its anchors are empty"}
		us.Kube.Linkerd.ExternalCA, us.Kube.Labels = false, nil
		us.Kube.Missing = []kube.Right{{Verb: "patch", Resource: "secrets", Name: "linkerd-identity-issuer", Namespace: "linkerd", Manifest: "certd.yaml"}, {Verb: "list", Resource: "pods", Manifest: "certd-proxies.yaml", Lost: "pods cannot be counted"}}
		us.Kube.Excess = []string{"delete secrets in linkerd"}
		us.Observed.Webhooks[0].Err = errors.New("get secrets linkerd-proxy-injector-k8s-tls in namespace linkerd: not permitted")
		e.Trust.State, e.Trust.Evidence = rotation.StateCritical, []string{"prod-us-1 -> prod-eu-1: leaves of issuer 5e910001 of prod-us-1 (under g1) are refused"}
		for i := 2; i < len(e.Clusters); i++ {
			cut(&e.Clusters[i])
		}
	}
	return e
}

// onVault is a fleet whose anchor is in Vault, with a token that may do too much.
func onVault(t testing.TB) check.Evidence {
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1")
	w.OnVault(&e)
	e.Keys.Vault.Rights.Excess = []string{"certd-transit/keys/acme-mesh-anchor-1/config (update)", "sys/mounts/certd-transit (delete)"}
	e.Keys.Vault.Audit, e.Keys.Vault.AuditErr = nil, fmt.Errorf("list Vault's audit devices: %w", rotation.ErrDenied)
	return e
}

func TestAReportOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 80}
	wide, ascii, pipe := plain, plain, plain
	wide.width, ascii.ascii, pipe.width = 100, true, 0
	pre := checkEvidence(t, "healthy", 3)
	pre.Pre, pre.Source, pre.Daemon = true, "command", nil
	for _, row := range []struct {
		name  string
		style style
		e     check.Evidence
		short bool
	}{
		{"healthy-80", plain, checkEvidence(t, "healthy", 3), false},
		{"healthy-pipe", pipe, checkEvidence(t, "healthy", 3), false},
		{"healthy-short", plain, checkEvidence(t, "healthy", 3), true},
		{"overdue-80", plain, checkEvidence(t, "overdue", 3), false},
		{"overdue-short-ascii", ascii, checkEvidence(t, "overdue", 3), true},
		{"broken-80", plain, checkEvidence(t, "broken", 3), false},
		{"broken-100", wide, checkEvidence(t, "broken", 3), false},
		{"many-short-80", plain, checkEvidence(t, "broken", 12), true},
		{"pre-80", plain, pre, false},
		{"vault-80", plain, onVault(t), false},
		{"invalid-80", plain, check.Evidence{Now: now, Problems: []string{`certd.yaml:9:22: defaults.issuer.schedule: "0 0 31 2 *" never fires`, "certd.yaml:10:1: bakery: unknown field"}}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			golden(t, "check-"+row.name, checkView{row.style, check.Judge(row.e, check.Select{}), row.short}.lines())
		})
	}
	broken, healthy := check.Judge(checkEvidence(t, "broken", 5), check.Select{}), check.Judge(checkEvidence(t, "healthy", 3), check.Select{})
	for width := 60; width < 200; width++ {
		s := style{zone: time.UTC, now: now, width: width, color: width%2 == 0, ascii: width%3 == 0}
		for _, doc := range []check.Report{broken, healthy} {
			for _, l := range (checkView{s, doc, width%5 == 0}).lines() {
				if problem := misfit(l, s); problem != "" {
					t.Errorf("width %d: %s in %q", width, problem, l)
				}
			}
		}
	}
}
