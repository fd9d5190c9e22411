package check_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/backends/kube"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/check/checktest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

const day = 24 * time.Hour

var now = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)

// results are the claims that do not simply hold, by id.
func results(r check.Report) map[string]check.Check {
	all := map[string]check.Check{}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Result != check.Success {
				all[c.ID] = c
			}
		}
	}
	return all
}

func claim(t *testing.T, r check.Report, id string) check.Check {
	t.Helper()
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.ID == id {
				return c
			}
		}
	}
	t.Fatalf("nothing is said of claim %s", id)
	return check.Check{}
}

func TestEveryClaimHoldsInAHealthyFleet(t *testing.T) {
	w := checktest.New(t, now)
	r := check.Judge(w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1"), check.Select{})
	for id, c := range results(r) {
		t.Errorf("%s: %s: %s", id, c.Result, c.Error)
	}
	if r.State != rotation.StateOK || !r.Success || r.Summary.Hold != r.Summary.Claims || r.Summary.Claims < 40 {
		t.Errorf("state %s, success %t, %+v", r.State, r.Success, r.Summary)
	}
	for _, k := range r.Categories {
		for _, c := range k.Checks {
			if c.Clusters != nil && (c.Clusters.Total != 2 || c.Clusters.Hold != 2) {
				t.Errorf("%s holds in %d of %d clusters", c.ID, c.Clusters.Hold, c.Clusters.Total)
			}
		}
	}
}

// Each row breaks one thing, and says which claims no longer hold for it, how
// gravely, and what is said.
func TestClaims(t *testing.T) {
	type want map[string]check.Result
	first := func(e *check.Evidence) *check.Cluster { return &e.Clusters[0] }
	at := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	for _, row := range []struct {
		name  string
		broke func(w *checktest.World, e *check.Evidence)
		want  want
		says  string
	}{
		{"the state folder cannot be written", func(_ *checktest.World, e *check.Evidence) {
			e.StateDir.Err = errors.New("uid 1000 cannot write to /var/lib/certd: permission denied")
		}, want{"state-dir": check.Error}, "uid 1000 cannot write"},
		{"the journal's chain is broken", func(_ *checktest.World, e *check.Evidence) {
			e.Journal.BadSeq, e.Journal.Problem = 7, "its hash does not cover it"
		}, want{"journal-chain": check.Error}, "entry 7: its hash does not cover it"},
		{"no daemon answers", func(_ *checktest.World, e *check.Evidence) {
			e.Daemon, e.Unanswered = nil, "no daemon answers on /run/certd/certd.sock"
		}, want{"daemon-runs": check.Error}, "no daemon answers on /run/certd/certd.sock"},
		{"the daemon no longer looks", func(_ *checktest.World, e *check.Evidence) { e.Daemon.LastCycleAt = at(-10 * time.Minute) },
			want{"daemon-cycles": check.Error}, "the last look ended 10m ago"},
		{"the daemon is an older one", func(_ *checktest.World, e *check.Evidence) { e.DaemonVersion = "0.9.0" },
			want{"daemon-version": check.Warning}, "the daemon is 0.9.0, the command 1.0.0"},
		{"receivers that are silent", func(_ *checktest.World, e *check.Evidence) {
			e.Daemon.Receivers = []rotation.ReceiverStatus{{Name: "ops", LastDelivery: at(-40 * 24 * time.Hour)}, {Name: "soc"}, {Name: "pager", LastDelivery: at(-time.Hour)}}
		}, want{"receivers-tested": check.Warning}, "soc has never taken a notification"},
		{"a receiver that fails", func(_ *checktest.World, e *check.Evidence) {
			e.Daemon.Receivers = []rotation.ReceiverStatus{{Name: "ops", FailingSince: at(-time.Hour)}}
			e.Findings = []check.Finding{{Finding: rotation.Finding{ID: "NotifyFailing", Severity: rotation.StateWarning, Message: "ops answers 503"}}}
		}, want{"receivers-tested": check.Warning}, "ops answers 503"},
		{"a reload was refused", func(_ *checktest.World, e *check.Evidence) {
			e.Findings = []check.Finding{{Finding: rotation.Finding{ID: "ConfigReloadFailed", Severity: rotation.StateWarning, Message: "the old one is in force"}}}
		}, want{"daemon-config": check.Warning}, "the old one is in force"},
		{"a finding that no claim is about", func(_ *checktest.World, e *check.Evidence) {
			e.Findings = []check.Finding{{Finding: rotation.Finding{ID: "SomethingNew", Severity: rotation.StateCritical, Message: "is new", Fix: "certd history"}}}
		}, want{"other-findings": check.Error}, "is new"},
		{"the passphrase is not there", func(_ *checktest.World, e *check.Evidence) {
			e.Keys.Files.Passphrase = errors.New("read secret: environment variable PASSPHRASE is not set")
		}, want{"keys-reachable": check.Error}, "PASSPHRASE is not set"},
		{"others may look into the keys", func(_ *checktest.World, e *check.Evidence) { e.Keys.Files.Private = false },
			want{"key-files-private": check.Warning}, "others may look into"},
		{"the anchor's key is gone", func(_ *checktest.World, e *check.Evidence) {
			e.Keys.Anchors[0].Err = fmt.Errorf("open key: no such file: %w", rotation.ErrKeyNotFound)
		}, want{"anchor-key-exists": check.Error}, "g1: open key: no such file"},
		{"the key backend is away", func(_ *checktest.World, e *check.Evidence) {
			e.Keys.Anchors[0].Err = fmt.Errorf("read key: connection refused: %w", rotation.ErrUnavailable)
		}, want{"keys-reachable": check.Error, "anchor-key-exists": check.Unknown}, "connection refused"},
		{"the anchor's key can be exported", func(_ *checktest.World, e *check.Evidence) {
			e.Keys.Anchors[0].Info = rotation.KeyInfo{Backend: "vault-transit", Exportable: true}
		}, want{"anchor-key-not-exportable": check.Error}, "can be exported or backed up in clear, and may have been"},
		{"there is no anchor", func(_ *checktest.World, e *check.Evidence) { e.Fleet.Anchors = nil },
			want{"anchor-exists": check.Warning}, "there is no trust anchor yet"},

		{"a cluster does not answer", func(_ *checktest.World, e *check.Evidence) {
			c := first(e)
			c.Kube, c.Observed, c.Err = nil, nil, fmt.Errorf("get namespaces: i/o timeout: %w", rotation.ErrUnavailable)
		}, want{"cluster-reachable": check.Error, "cluster-clock": check.Unknown, "bundles-agree": check.Unknown}, "prod-eu-1: get namespaces: i/o timeout"},
		{"a cluster's clock is off", func(_ *checktest.World, e *check.Evidence) { first(e).Observed.ClockSkew = -20 * time.Second },
			want{"cluster-clock": check.Warning}, "differs from certd's by 20s"},
		{"a cluster's clock is far off", func(_ *checktest.World, e *check.Evidence) { first(e).Observed.ClockSkew = 6 * time.Minute },
			want{"cluster-clock": check.Error}, "nothing is signed or written there"},
		{"certd's token there ends soon", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Credential = &rotation.Credential{Kind: "token", From: "/etc/certd/kube/eu", Begun: now.Add(-300 * day), Ends: now.Add(10 * day)}
		}, want{"cluster-credential": check.Warning}, "own token there (/etc/certd/kube/eu) ends"},
		{"certd's certificate there has ended", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Credential = &rotation.Credential{Kind: "client certificate", Begun: now.Add(-300 * day), Ends: now.Add(-time.Hour)}
		}, want{"cluster-credential": check.Error}, "nothing can be renewed there"},
		{"two names stand for one cluster", func(_ *checktest.World, e *check.Evidence) {
			e.Clusters[1].Observed.Target = first(e).Observed.Target
		}, want{"cluster-distinct": check.Error}, "prod-us-1: is the same cluster as prod-eu-1"},
		{"Linkerd's namespace is missing", func(_ *checktest.World, e *check.Evidence) { first(e).Observed.Namespace = false },
			want{"linkerd-namespace": check.Warning}, "namespace linkerd does not exist"},
		{"somebody else writes the bundle", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Bundle.Writers = []rotation.Writer{{Name: "kubectl-edit", At: now.Add(-time.Hour)}}
		}, want{"one-writer": check.Warning}, "kubectl-edit wrote fields of ConfigMap linkerd-identity-trust-roots"},

		{"a right is missing", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Missing = []kube.Right{
				{Verb: "get", Resource: "secrets", Name: "linkerd-identity-issuer", Namespace: "linkerd", Manifest: "certd.yaml"},
				{Verb: "patch", Resource: "secrets", Name: "linkerd-identity-issuer", Namespace: "linkerd", Manifest: "certd.yaml"},
			}
		}, want{"cluster-rights": check.Error}, "prod-eu-1: it may not get/patch secrets linkerd-identity-issuer in namespace linkerd"},
		{"a right is missing that it can do without", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Missing = []kube.Right{{Verb: "create", Resource: "pods", Namespace: "certd", Manifest: "certd.yaml", Lost: "whether webhooks work cannot be seen"}}
		}, want{"cluster-rights": check.Warning}, "it may not create pods in namespace certd: whether webhooks work cannot be seen"},
		{"the widest look was not granted", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Missing = []kube.Right{{Verb: "list", Resource: "pods", Manifest: kube.ManifestProxies, Lost: "pods cannot be counted"}}
		}, want{}, ""},
		{"a right too much", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Excess = []string{"delete secrets in linkerd"}
		}, want{"cluster-rights-excess": check.Warning}, "may also delete secrets in linkerd"},
		{"no policies narrow the rights", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Narrowed = new(bool) }, want{}, ""},
		{"rights cannot be asked for", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.RightsErr = errors.New("i/o timeout") },
			want{"cluster-rights": check.Unknown}, "i/o timeout"},
		{"the cluster denies all", func(_ *checktest.World, e *check.Evidence) {
			c := first(e)
			c.Observed, c.Err, c.Kube.LinkerdErr = nil, fmt.Errorf("get namespaces: %w", rotation.ErrDenied), fmt.Errorf("get configmaps: %w", rotation.ErrDenied)
			c.Kube.Missing = []kube.Right{{Verb: "get", Resource: "namespaces", Name: "kube-system", Manifest: "certd.yaml"}}
			e.Findings = []check.Finding{{Cluster: "prod-eu-1", Finding: rotation.Finding{ID: "ClusterDenied", Severity: rotation.StateUnknown, Message: "could not be seen"}}}
		}, want{"cluster-rights": check.Error}, "it may not get namespaces kube-system"},
		{"Linkerd is too old", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Linkerd.Version = "stable-2.9.4" },
			want{"linkerd-version": check.Error}, "older than 2.10"},
		{"Linkerd has no bundle of its own", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Linkerd.Version, first(e).Kube.Linkerd.ExternalCA = "stable-2.10.2", false
		}, want{"linkerd-version": check.Warning}, "cannot give it a bundle"},
		{"Linkerd's check compares with another", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Linkerd.Version = "edge-21.8.1" },
			want{"linkerd-version": check.Warning}, "compares pods with other anchors"},
		{"Linkerd is of a version of somebody's own", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Linkerd.Version = "git-abc" },
			want{"linkerd-version": check.Unknown}, `it is "git-abc"`},
		{"Linkerd's chart writes the bundle", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Linkerd.ExternalCA = false },
			want{"linkerd-external-ca": check.Warning}, "identity.externalCA is false"},
		{"Linkerd's chart writes the issuer", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Linkerd.Scheme = "linkerd.io/tls" },
			want{"linkerd-issuer-scheme": check.Warning}, `identity.issuer.scheme is "linkerd.io/tls"`},
		{"Linkerd's chart writes a webhook's Secret", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Linkerd.External["sp-validator"] = false
		}, want{"linkerd-webhook-secrets": check.Warning}, "externalSecret is false for sp-validator"},
		{"kube-system waits for the injector", func(_ *checktest.World, e *check.Evidence) { first(e).Kube.Labels = map[string]string{} },
			want{"kube-system-label": check.Warning}, "config.linkerd.io/admission-webhooks=disabled is missing"},
		{"the API server goes on without the injector", func(_ *checktest.World, e *check.Evidence) {
			first(e).Kube.Labels, first(e).Observed.Webhooks[0].Objects[0].Ignores = nil, true
		}, want{}, ""},
		{"clusters were installed with different anchors", func(w *checktest.World, e *check.Evidence) {
			first(e).Kube.Linkerd.Anchors = string(pki.EncodeCertificates(w.Anchor))
		}, want{"configured-anchors-agree": check.Warning}, "prod-eu-1 | prod-us-1"},

		{"a blank line ends the bundle", func(w *checktest.World, e *check.Evidence) {
			first(e).Observed.BundleText = append(first(e).Observed.BundleText, '\n')
		}, want{"anchors-readable": check.Error}, "Linkerd cannot read it"},
		{"an anchor is about to end", func(w *checktest.World, e *check.Evidence) {
			_, soon := w.NewAnchor("soon", 100*day)
			first(e).Observed.BundleText = pki.EncodeCertificates(soon, w.Anchor)
		}, want{"anchors-60-days": check.Warning, "bundles-agree": check.Error}, `"soon" in ConfigMap linkerd-identity-trust-roots ends in 30d`},
		{"an anchor has ended", func(w *checktest.World, e *check.Evidence) {
			_, gone := w.NewAnchor("gone", 60*day)
			first(e).Observed.BundleText = pki.EncodeCertificates(gone, w.Anchor)
		}, want{"anchors-time-valid": check.Error, "bundles-agree": check.Error}, `"gone" in ConfigMap`},
		{"pods could not be read", func(_ *checktest.World, e *check.Evidence) {
			first(e).Proxies.Unread, first(e).Proxies.Odd = 1, []string{"shop/cart-0: its anchors are empty"}
		}, want{"proxies-bundle": check.Unknown}, "shop/cart-0: its anchors are empty"},
		{"pods may not be counted", func(_ *checktest.World, e *check.Evidence) {
			first(e).Proxies = rotation.Proxies{At: now, Err: fmt.Errorf("list pods: %w", rotation.ErrDenied)}
		}, want{"proxies-bundle": check.Unknown}, "they were not counted"},
		{"pods trust something else", func(_ *checktest.World, e *check.Evidence) {
			e.Findings = []check.Finding{{Cluster: "prod-eu-1", Finding: rotation.Finding{ID: "ProxiesStale", Severity: rotation.StateWarning, Message: "3 of 120 meshed pods trust other anchors"}}}
		}, want{"proxies-bundle": check.Warning}, "3 of 120"},

		{"pods hold the same anchors in other words", func(_ *checktest.World, e *check.Evidence) {
			first(e).Proxies.Sets[0].Texts["another"] = 2
		}, want{"proxies-text": check.Warning}, "2 pods of before the bundle was last written"},

		{"the issuer is gone", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Issuer, first(e).Observed.IssuerFacts = rotation.ObjectState{}, pki.IssuerFacts{}
		}, want{"issuer-usable": check.Error}, "there is no Secret linkerd-identity-issuer"},
		{"ca.crt is gone", func(_ *checktest.World, e *check.Evidence) { first(e).Observed.IssuerFacts.CABundle = nil },
			want{"issuer-usable": check.Error}, "ca.crt is missing"},
		{"the issuer has ended", func(w *checktest.World, e *check.Evidence) {
			first(e).Observed.IssuerFacts = w.Observe("x", w.Issuer(now.Add(-8*day), 7*day)).IssuerFacts
		}, want{"issuer-time-valid": check.Error, "issuer-under-anchor": check.Error}, "it ended at"},
		{"the issuer is short-lived against its policy", func(w *checktest.World, e *check.Evidence) {
			first(e).Observed.IssuerFacts = w.Observe("x", w.Issuer(now.Add(-day), 7*day)).IssuerFacts
		}, want{"issuer-60-days": check.Warning}, "it ends in 5d"},
		{"ca.crt has another anchor", func(w *checktest.World, e *check.Evidence) {
			_, other := w.NewAnchor("other", 3650*day)
			first(e).Observed.IssuerFacts.CABundle = pki.EncodeCertificates(other)
		}, want{"issuer-under-anchor": check.Error}, "by the anchors in ca.crt of Secret linkerd-identity-issuer"},
		{"the issuer is not loaded", func(_ *checktest.World, e *check.Evidence) {
			e.Findings = []check.Finding{{Cluster: "prod-eu-1", Finding: rotation.Finding{ID: "IssuerNotLoaded", Severity: rotation.StateWarning, Message: "still uses one that ends in 3d"}}}
		}, want{"issuer-loaded": check.Warning}, "still uses one"},

		{"a webhook could not be seen", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Webhooks[0].Err = errors.New("get secrets: nope")
		}, want{"webhook-seen": check.Unknown}, "proxy-injector: get secrets: nope"},
		{"cert-manager issues into a webhook's Secret", func(_ *checktest.World, e *check.Evidence) {
			first(e).Observed.Webhooks[0].Renewer = "Certificate linkerd/injector"
		}, want{"webhook-one-writer": check.Warning}, "proxy-injector: Certificate linkerd/injector issues into Secret"},
		{"a caBundle does not know what is in the Secret", func(w *checktest.World, e *check.Evidence) {
			first(e).Observed.Webhooks[1].Objects[0].CABundle = pki.NewCASet(w.Anchor)
		}, want{"webhook-cert-valid": check.Error}, "sp-validator: Secret linkerd/linkerd-sp-validator-k8s-tls is refused by the caBundle"},
		{"a CA in a caBundle has ended", func(w *checktest.World, e *check.Evidence) {
			_, gone := w.NewAnchor("gone", 60*day)
			o := &first(e).Observed.Webhooks[1].Objects[0]
			o.CABundle = o.CABundle.Union(pki.NewCASet(gone))
		}, want{"webhook-cert-valid": check.Error}, `"gone" in the caBundle`},
		{"a webhook's certificate is about to end", func(w *checktest.World, e *check.Evidence) {
			first(e).Observed.Webhooks[2] = w.Webhook(rotation.LinkerdWebhooks()[2], now.Add(-day), 30*day)
		}, want{"webhook-60-days": check.Warning}, "policy-validator: it ends in 28d"},

		{"a pair refuses", func(_ *checktest.World, e *check.Evidence) {
			e.Trust.State, e.Trust.Evidence = rotation.StateCritical, []string{"prod-us-1 -> prod-eu-1: leaves are refused"}
		}, want{"pairs-accepted": check.Error}, "prod-us-1 -> prod-eu-1"},
		{"a pair is not known", func(_ *checktest.World, e *check.Evidence) {
			e.Trust.State, e.Trust.Unseen = rotation.StateUnknown, []string{"prod-us-1 was last seen 3h ago"}
		}, want{"pairs-accepted": check.Unknown}, "was last seen 3h ago"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := checktest.New(t, now)
			e := w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1")
			row.broke(w, &e)
			r := check.Judge(e, check.Select{})
			got := results(r)
			for id, result := range row.want {
				if c := got[id]; c.Result != result {
					t.Errorf("%s: %q, want %q", id, c.Result, result)
				}
			}
			said := row.says == ""
			worst := rotation.StateOK
			for id, c := range got {
				said = said || strings.Contains(c.Error, row.says)
				switch {
				case row.want[id] == "" && c.Result != check.Unknown:
					t.Errorf("%s: %s: %s", id, c.Result, c.Error)
				case c.Result == check.Error:
					worst = rotation.StateCritical
				case c.Result == check.Warning && worst != rotation.StateCritical:
					worst = rotation.StateWarning
				case c.Result == check.Unknown && worst == rotation.StateOK && !c.Ignored:
					worst = rotation.StateUnknown
				}
				if c.Runbook == "" || c.Result == check.Error && c.Hint == "" {
					t.Errorf("%s: runbook %q, hint %q", id, c.Runbook, c.Hint)
				}
			}
			if !said {
				t.Errorf("nothing says %q: %v", row.says, got)
			}
			if r.State != worst || r.Success != (worst != rotation.StateCritical) {
				t.Errorf("state %s, success %t, want %s", r.State, r.Success, worst)
			}
		})
	}
}

// The same for Vault.
func TestClaimsAboutVault(t *testing.T) {
	type want map[string]check.Result
	for _, row := range []struct {
		name  string
		broke func(v *vault.Examination, k *check.Key)
		want  want
		says  string
	}{
		{"all is well", func(*vault.Examination, *check.Key) {}, nil, ""},
		{"it does not answer", func(v *vault.Examination, _ *check.Key) { v.HealthErr = errors.New("connection refused") },
			want{"keys-reachable": check.Error, "vault-unsealed": check.Unknown, "vault-tls": check.Unknown, "vault-clock": check.Unknown, "vault-login": check.Unknown, "vault-token": check.Unknown, "keys-rights": check.Unknown, "keys-rights-excess": check.Unknown, "vault-audit": check.Unknown}, "connection refused"},
		{"it is sealed", func(v *vault.Examination, _ *check.Key) { v.Health.Sealed = true },
			want{"vault-unsealed": check.Error, "vault-login": check.Unknown, "vault-token": check.Unknown, "keys-rights": check.Unknown, "keys-rights-excess": check.Unknown, "vault-audit": check.Unknown}, "it is sealed"},
		{"it lets nobody in", func(v *vault.Examination, _ *check.Key) { v.LoginErr = errors.New("invalid role or secret ID") },
			want{"vault-login": check.Error, "vault-token": check.Unknown, "keys-rights": check.Unknown, "keys-rights-excess": check.Unknown, "vault-audit": check.Unknown}, "invalid role or secret ID"},
		{"the community edition was given a namespace", func(v *vault.Examination, _ *check.Key) { v.Health.NamespaceProblem = "it ignores the namespace" },
			want{"keys-reachable": check.Error, "vault-unsealed": check.Unknown, "vault-tls": check.Unknown, "vault-clock": check.Unknown, "vault-login": check.Unknown, "vault-token": check.Unknown, "keys-rights": check.Unknown, "keys-rights-excess": check.Unknown, "vault-audit": check.Unknown}, "ignores the namespace"},
		{"its certificate ends soon", func(v *vault.Examination, _ *check.Key) { v.Health.TLSEnds = now.Add(3 * day) }, want{"vault-tls": check.Warning}, "it ends in 3d"},
		{"its clock is off", func(v *vault.Examination, _ *check.Key) { v.Health.Skew = -time.Minute }, want{"vault-clock": check.Warning}, "differs by 1m0s"},
		{"a token that is not replaced", func(v *vault.Examination, _ *check.Key) { v.Token.Renewable, v.Token.Lasting = false, false }, want{"vault-token": check.Error}, "cannot be renewed, and certd has no way to another"},
		{"a token that cannot be looked up", func(v *vault.Examination, _ *check.Key) { v.TokenErr = errors.New("permission denied") }, want{"vault-token": check.Warning}, "does not know when it ends"},
		{"a right is missing", func(v *vault.Examination, _ *check.Key) {
			v.Rights.Missing = []vault.Right{{Path: "certd-transit/sign/acme-mesh-anchor-1", Capability: "update", Policy: "certd-run.hcl"}}
		}, want{"keys-rights": check.Error}, `"update" on certd-transit/sign/acme-mesh-anchor-1 is missing`},
		{"a right too much", func(v *vault.Examination, _ *check.Key) {
			v.Rights.Excess = []string{"certd-transit/keys/acme-mesh-anchor-1/config (update)"}
		}, want{"keys-rights-excess": check.Warning}, "whoever steals its token also has certd-transit/keys/acme-mesh-anchor-1/config (update)"},
		{"a root token", func(v *vault.Examination, _ *check.Key) { v.Rights.Root = true }, want{"keys-rights-excess": check.Warning}, "it is a root token"},
		{"no audit device", func(v *vault.Examination, _ *check.Key) { v.Audit = nil }, want{"vault-audit": check.Warning}, "none is"},
		{"a key that can be exported", func(_ *vault.Examination, k *check.Key) {
			k.Flags.Exportable, k.Err = true, fmt.Errorf("exportable=true: %w", rotation.ErrKeyUnfit)
		}, want{"anchor-key-not-exportable": check.Error}, "that cannot be undone"},
		{"a key with a plaintext backup", func(_ *vault.Examination, k *check.Key) {
			k.Flags.PlaintextBackup, k.Err = true, fmt.Errorf("allow_plaintext_backup=true: %w", rotation.ErrKeyUnfit)
		}, want{"anchor-key-not-exportable": check.Error}, "backed up in clear"},
		{"a key that can be deleted", func(_ *vault.Examination, k *check.Key) { k.Flags.DeletionAllowed = true }, want{"anchor-key-not-deletable": check.Warning}, "deletion_allowed=true"},
		{"a key that was rotated", func(_ *vault.Examination, k *check.Key) {
			k.Flags.NotPinned, k.Err = "latest_version=2", fmt.Errorf("latest_version=2: %w", rotation.ErrKeyUnfit)
		}, want{"anchor-key-version": check.Error}, "latest_version=2"},
		{"a key that is another", func(_ *vault.Examination, k *check.Key) {
			k.Err = fmt.Errorf("its public key is not the certificate's: %w", rotation.ErrKeyUnfit)
		}, want{"anchor-key-exists": check.Error}, "not the certificate's"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := checktest.New(t, now)
			e := w.Healthy(checktest.Quiet, "prod-eu-1")
			w.OnVault(&e)
			row.broke(e.Keys.Vault, &e.Keys.Anchors[0])
			r := check.Judge(e, check.Select{})
			got, said := results(r), row.says == ""
			for id, c := range got {
				said = said || strings.Contains(c.Error, row.says)
				if c.Result != row.want[id] {
					t.Errorf("%s: %s: %s", id, c.Result, c.Error)
				}
				if c.Result == check.Unknown && !c.Follows() {
					t.Errorf("%s is told of beside what it rests on: %s", id, c.Error)
				}
			}
			if len(got) != len(row.want) || !said {
				t.Errorf("nothing says %q: %v", row.says, got)
			}
		})
	}

	// What certd is not to see by the shipped policy, and what is not tried, count for
	// nothing, before the beginning as well.
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1")
	w.OnVault(&e)
	e.Keys.Vault.Audit, e.Keys.Vault.AuditErr = nil, fmt.Errorf("list audit devices: %w", rotation.ErrDenied)
	r := check.Judge(e, check.Select{})
	if c := claim(t, r, "vault-audit"); !c.Ignored || c.Result != check.Unknown || r.State != rotation.StateOK {
		t.Errorf("%+v, state %s", c, r.State)
	}
	e.Keys.Vault.Wrapped, e.Pre = true, true
	if r := check.Judge(e, check.Select{Categories: []string{"keys"}}); r.State != rotation.StateOK || claim(t, r, "vault-login").Result != check.Unknown {
		t.Errorf("state %s", r.State)
	}
}

// `linkerd check` warns below 60 days whatever a certificate lives. Where the policy
// has it so, that is told once, with the reason, and not of each certificate.
func TestShortLivesAreToldOnce(t *testing.T) {
	w := checktest.New(t, now)
	r := check.Judge(w.Healthy("", "prod-eu-1", "prod-us-1"), check.Select{})
	got := results(r)
	if len(got) != 2 || got["issuer-policy-60-days"].Result != check.Warning || got["webhook-policy-60-days"].Result != check.Warning {
		t.Errorf("%v", got)
	}
	if e := got["issuer-policy-60-days"].Error; !strings.Contains(e, "renewed with 84h left") || !strings.Contains(e, "prod-eu-1, prod-us-1") {
		t.Errorf("%q", e)
	}
}

func TestClockChanges(t *testing.T) {
	w := checktest.New(t, now)
	for schedule, want := range map[string]string{
		"30 2 * * *":   "02:30 of 28 Mar 2027 does not exist, and it fires at 03:00 CEST",
		"0 3 * * *":    "",
		"*/10 * * * *": "", // nobody waits for one of these
	} {
		more := fmt.Sprintf("defaults: {timeZone: Europe/Berlin, issuer: {lifetime: 90d, renewBefore: 61d, schedule: %q}, webhooks: {lifetime: 90d, renewBefore: 61d}}", schedule)
		c := claim(t, check.Judge(w.Healthy(more, "prod-eu-1"), check.Select{}), "schedules-clock-changes")
		if (c.Result == check.Success) != (want == "") || !strings.Contains(c.Error, want) {
			t.Errorf("%s: %s: %q", schedule, c.Result, c.Error)
		}
	}
}

// Before the beginning, what there is to come is not missing.
func TestBeforeThereIsAnything(t *testing.T) {
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1")
	e.Pre, e.Source, e.Daemon, e.Journal, e.Fleet.Anchors, e.Keys.Anchors = true, "command", nil, check.Journal{}, nil, nil
	e.StateDir.Exists, e.Keys.Files.Dir.Exists, e.Trust, e.Unjudged = false, false, nil, "it was not asked for"
	for i := range e.Clusters {
		c := &e.Clusters[i]
		c.Record, c.Proxies = rotation.ClusterRecord{Name: c.Policy.Cluster}, rotation.Proxies{}
		c.Kube.Linkerd = kube.Linkerd{}
		c.Observed = &rotation.Observation{At: now, Target: c.Policy.Cluster, Version: "v1.36.3", Namespace: true, Identity: &rotation.Identity{}}
	}
	r := check.Judge(e, check.Select{})
	if got := results(r); len(got) > 0 || r.State != rotation.StateOK {
		t.Errorf("state %s: %v", r.State, got)
	}
	for _, k := range r.Categories {
		if k.CategoryName == check.CategoryDaemon {
			t.Error("the daemon is asked for")
		}
	}
}

func TestAnInvalidConfigurationIsAllThereIs(t *testing.T) {
	r := check.Judge(check.Evidence{Now: now, Problems: []string{`certd.yaml:9:22: never fires`, `certd.yaml:10:1: unknown field`}}, check.Select{})
	if r.Loads() || r.State != rotation.StateCritical || r.Summary.Claims != 1 {
		t.Errorf("loads %t, state %s, %+v", r.Loads(), r.State, r.Summary)
	}
	if c := claim(t, r, "config-valid"); len(c.Reasons) != 2 {
		t.Errorf("%+v", c)
	}
}

func TestSelection(t *testing.T) {
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1")
	e.Clusters[0].Observed.ClockSkew = time.Hour
	r := check.Judge(e, check.Select{Clusters: []string{"prod-us-1"}, Categories: []string{"clusters", "issuers"}})
	if len(r.Categories) != 2 || r.State != rotation.StateOK {
		t.Errorf("state %s, %d categories", r.State, len(r.Categories))
	}
	if c := claim(t, r, "cluster-clock"); c.Clusters.Total != 1 {
		t.Errorf("%+v", c)
	}
}

// What certd is not given the right to see does not make a good fleet a bad one; it
// is told of all the same.
func TestWhatCannotBeSeenByRights(t *testing.T) {
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1")
	e.Clusters[0].Proxies = rotation.Proxies{At: now, Err: fmt.Errorf("list pods: %w", rotation.ErrDenied)}
	e.Trust.State, e.Trust.Unseen = rotation.StateUnknown, []string{"prod-eu-1: its meshed pods could not be counted in whole: list pods: not permitted"}
	r := check.Judge(e, check.Select{})
	if c := claim(t, r, "proxies-bundle"); !c.Ignored || c.Result != check.Unknown || r.State != rotation.StateOK || r.Summary.Unknown != 2 {
		t.Errorf("%+v, state %s", c, r.State)
	}
	if c := claim(t, r, "pairs-accepted"); !c.Ignored || !c.Follows() {
		t.Errorf("%+v", c)
	}

	// But that they could not be counted for another reason counts.
	e.Clusters[0].Proxies.Err = fmt.Errorf("list pods: %w", rotation.ErrUnavailable)
	if r := check.Judge(e, check.Select{}); r.State != rotation.StateUnknown {
		t.Errorf("state %s", r.State)
	}
}

// A hundred clusters with one trouble are one reason.
func TestAlikeReasonsAreOne(t *testing.T) {
	w := checktest.New(t, now)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("edge-%02d", i))
	}
	e := w.Healthy(checktest.Quiet, names...)
	for i := range e.Clusters {
		if i%2 == 0 {
			e.Clusters[i].Observed.Namespace = false
		}
	}
	c := claim(t, check.Judge(e, check.Select{}), "linkerd-namespace")
	if len(c.Reasons) != 1 || len(c.Reasons[0].Clusters) != 10 || c.Clusters.Hold != 10 || c.Clusters.Total != 20 {
		t.Errorf("%+v", c)
	}
	if want := "edge-00, edge-02, edge-04 and 7 more: namespace linkerd does not exist"; c.Error != want {
		t.Errorf("%q, want %q", c.Error, want)
	}
}

// The table: ids never repeat and are written alike, categories are known, and each
// finding is of one claim at most.
func TestTheTable(t *testing.T) {
	ids, findings := map[string]bool{}, map[string]string{}
	for _, c := range check.Claims() {
		if ids[c.ID] || !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(c.ID) {
			t.Errorf("id %q is taken, or of another form", c.ID)
		}
		ids[c.ID] = true
		if !slices.Contains(check.Categories(), c.Category) || c.Runbook == "" || len(c.Says) > 62 {
			t.Errorf("%s: category %q, runbook %q, %d letters", c.ID, c.Category, c.Runbook, len(c.Says))
		}
		for _, f := range c.Findings {
			if findings[f] != "" {
				t.Errorf("finding %s is of %s and of %s", f, findings[f], c.ID)
			}
			findings[f] = c.ID
		}
	}
	doc, err := os.ReadFile("../../../../docs/reference/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` ").FindAllStringSubmatch(string(doc), -1) {
		known[m[1]] = true
	}
	for f, id := range findings {
		if !known[f] {
			t.Errorf("%s goes by finding %s, which certd never has", id, f)
		}
	}
}

func TestJSONHasTheNounsOfLinkerdCheck(t *testing.T) {
	w := checktest.New(t, now)
	e := w.Healthy(checktest.Quiet, "prod-eu-1", "prod-us-1")
	e.Clusters[0].Observed.Namespace = false
	text, err := json.Marshal(check.Judge(e, check.Select{Categories: []string{"clusters"}}))
	if err != nil {
		t.Fatal(err)
	}
	// As linkerd2 has them (cli/cmd/check.go).
	var doc struct {
		Success    *bool `json:"success"`
		Categories []struct {
			Name   string `json:"categoryName"`
			Checks []struct {
				Description string `json:"description"`
				Hint        string `json:"hint"`
				Error       string `json:"error"`
				Result      string `json:"result"`
			} `json:"checks"`
		} `json:"categories"`
	}
	if err := json.Unmarshal(text, &doc); err != nil || doc.Success == nil || !*doc.Success || len(doc.Categories) != 1 {
		t.Fatalf("%v\n%s", err, text)
	}
	i := slices.IndexFunc(doc.Categories[0].Checks, func(c struct {
		Description string `json:"description"`
		Hint        string `json:"hint"`
		Error       string `json:"error"`
		Result      string `json:"result"`
	}) bool {
		return c.Result == "warning"
	})
	if i < 0 {
		t.Fatalf("no warning in %s", text)
	}
	if c := doc.Categories[0].Checks[i]; c.Hint == "" || c.Error != "prod-eu-1: namespace linkerd does not exist" || c.Description == "" {
		t.Errorf("%+v", c)
	}
}
