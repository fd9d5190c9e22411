package check

import "certd.internal/rotation"

// The categories, in their order.
const (
	CategoryConfig       = "config"
	CategoryDaemon       = "daemon"
	CategoryKeys         = "keys"
	CategoryClusters     = "clusters"
	CategoryTrust        = "trust"
	CategoryIssuers      = "issuers"
	CategoryWebhooks     = "webhooks"
	CategoryMulticluster = "multicluster"
)

// Categories lists them.
func Categories() []string {
	return []string{CategoryConfig, CategoryDaemon, CategoryKeys, CategoryClusters, CategoryTrust, CategoryIssuers, CategoryWebhooks, CategoryMulticluster}
}

// Claim is one thing that must hold.
type Claim struct {
	ID       string // never changes
	Category string
	Says     string // in the positive
	// Runbook is the name to give to `certd runbook`: the ID of the finding that
	// says the same, or else the claim's.
	Runbook string
	// Findings are those of certd's own that say that it does not hold; each has
	// a runbook of its own.
	Findings []string
	// Pre: it is judged before there are a daemon and a trust anchor, too.
	Pre bool

	judge func(*judgement) []verdict // nil: Findings say all
}

// Claims on which others rest: without configValid none is judged, and of a cluster
// that clusterReachable does not hold for nothing else is known. Likewise of Vault,
// one after the other.
const (
	configValid      = "config-valid"
	clusterReachable = "cluster-reachable"
	keysReachable    = "keys-reachable"
	vaultUnsealed    = "vault-unsealed"
	vaultLogin       = "vault-login"
)

// Claims are all that there are. docs/reference/check.md has a line for each, and
// each has a runbook.
func Claims() []Claim {
	all := []Claim{
		{ID: configValid, Category: CategoryConfig, Says: "configuration is valid", Pre: true, judge: (*judgement).configValid},
		{ID: "config-surprises", Category: CategoryConfig, Says: "nothing in the configuration may surprise", Pre: true, judge: (*judgement).configSurprises},
		{ID: "issuer-policy-60-days", Category: CategoryConfig, Says: "issuers keep 60 days, so that `linkerd check` stays green", Pre: true, judge: (*judgement).issuerPolicy},
		{ID: "webhook-policy-60-days", Category: CategoryConfig, Says: "webhooks keep 60 days, so that `linkerd check` stays green", Pre: true, judge: (*judgement).webhookPolicy},
		{ID: "schedules-fire", Category: CategoryConfig, Says: "schedules fire twice before anything must be renewed", Pre: true, judge: (*judgement).schedules},
		{ID: "schedules-clock-changes", Category: CategoryConfig, Says: "no firing is moved when clocks change", Pre: true, judge: (*judgement).clockChanges},
		{ID: "state-dir", Category: CategoryConfig, Says: "the state folder can be written", Findings: []string{"JournalFailed"}, Pre: true, judge: (*judgement).stateDir},
		{ID: "socket-dir", Category: CategoryConfig, Says: "the folder of the admin socket can be written", Pre: true, judge: (*judgement).socketDir},
		{ID: "journal-chain", Category: CategoryConfig, Says: "the journal opens, and its hash chain holds", Pre: true, judge: (*judgement).journal},

		{ID: "daemon-runs", Category: CategoryDaemon, Says: "the daemon runs", Findings: []string{"DaemonNotRunning"}, judge: (*judgement).daemonRuns},
		{ID: "daemon-cycles", Category: CategoryDaemon, Says: "the daemon looks at the clusters", judge: (*judgement).daemonCycles},
		{ID: "daemon-version", Category: CategoryDaemon, Says: "the daemon is of this command's version", judge: (*judgement).daemonVersion},
		{ID: "daemon-config", Category: CategoryDaemon, Says: "the daemon goes by the configuration as it is", Findings: []string{"ConfigReloadFailed"}, judge: (*judgement).daemonOnly},
		{ID: "one-daemon", Category: CategoryDaemon, Says: "no other certd has taken over", Findings: []string{"Deposed"}, judge: (*judgement).eachSeen},
		{ID: "anchors-recovered", Category: CategoryDaemon, Says: "nothing of a lost journal is missing", Findings: []string{"AnchorNotRecovered"}, judge: (*judgement).daemonOnly},
		{ID: "receivers-tested", Category: CategoryDaemon, Says: "each receiver of notifications has taken one lately", Findings: []string{"NotifyFailing"}, judge: (*judgement).receivers},
		{ID: "other-findings", Category: CategoryDaemon, Says: "certd finds nothing else", judge: (*judgement).others},

		{ID: keysReachable, Category: CategoryKeys, Says: "the key backend answers", Findings: []string{"KeysUnavailable"}, Pre: true, judge: (*judgement).keysReachable},
		{ID: "vault-tls", Category: CategoryKeys, Says: "Vault's certificate verifies, and lasts", Pre: true, judge: (*judgement).vaultTLS},
		{ID: vaultUnsealed, Category: CategoryKeys, Says: "Vault is unsealed", Pre: true, judge: (*judgement).vaultUnsealed},
		{ID: "vault-clock", Category: CategoryKeys, Says: "Vault's clock agrees with certd's", Pre: true, judge: (*judgement).vaultClock},
		{ID: vaultLogin, Category: CategoryKeys, Says: "certd can log in to Vault", Pre: true, judge: (*judgement).vaultLogin},
		{ID: "vault-token", Category: CategoryKeys, Says: "certd's token can be renewed, or had anew", Pre: true, judge: (*judgement).vaultToken},
		{ID: "keys-rights", Category: CategoryKeys, Says: "certd may do there what it must", Findings: []string{"KeysDenied"}, Pre: true, judge: (*judgement).keysRights},
		{ID: "keys-rights-excess", Category: CategoryKeys, Says: "certd may do there no more than it must", Pre: true, judge: (*judgement).keysExcess},
		{ID: "vault-audit", Category: CategoryKeys, Says: "an audit device is on", Pre: true, judge: (*judgement).vaultAudit},
		{ID: "key-files-private", Category: CategoryKeys, Says: "the folder of the keys is certd's alone", Pre: true, judge: (*judgement).keyFiles},
		{ID: "anchor-exists", Category: CategoryKeys, Says: "there is a trust anchor", Findings: []string{"NoAnchor"}, judge: (*judgement).anchorExists},
		{ID: "anchor-key-exists", Category: CategoryKeys, Says: "each anchor's key is there, and the certificate's", Findings: []string{"KeyUnfit"}, Pre: true, judge: (*judgement).anchorKeys},
		{ID: "anchor-key-not-exportable", Category: CategoryKeys, Says: "no anchor's key can be exported", Findings: []string{"KeyExportable"}, Pre: true, judge: (*judgement).notExportable},
		{ID: "anchor-key-not-deletable", Category: CategoryKeys, Says: "no anchor's key can be deleted", Pre: true, judge: (*judgement).notDeletable},
		{ID: "anchor-key-version", Category: CategoryKeys, Says: "each anchor's key has its first version, and no other", Pre: true, judge: (*judgement).pinned},
		{ID: "anchor-key-held", Category: CategoryKeys, Says: "certd has the key of each anchor in use", Findings: []string{"AnchorKeyElsewhere"}, judge: (*judgement).eachSeen},
		{ID: "webhook-ca-keys", Category: CategoryKeys, Says: "each webhook CA's key is there, and the certificate's", Pre: true, judge: (*judgement).webhookCAKeys},

		{ID: clusterReachable, Category: CategoryClusters, Says: "the cluster answers", Findings: []string{"ClusterUnreachable", "NotSeenYet", "NotSeenLately"}, Pre: true, judge: (*judgement).reachable},
		{ID: "cluster-clock", Category: CategoryClusters, Says: "its clock agrees with certd's", Findings: []string{"ClockSkew"}, Pre: true, judge: (*judgement).clock},
		{ID: "cluster-distinct", Category: CategoryClusters, Says: "no other name stands for the same cluster", Findings: []string{"SameCluster"}, Pre: true, judge: (*judgement).distinct},
		{ID: "cluster-credential", Category: CategoryClusters, Says: "what certd is let in by there lasts", Findings: []string{"CredentialEnds"}, Pre: true, judge: (*judgement).credential},
		{ID: "cluster-rights", Category: CategoryClusters, Says: "certd may do there what it must, verb by verb", Findings: []string{"ClusterDenied", "WebhookDenied"}, Pre: true, judge: (*judgement).rights},
		{ID: "cluster-rights-excess", Category: CategoryClusters, Says: "certd may do there no more than it must", Pre: true, judge: (*judgement).rightsExcess},
		{ID: "linkerd-namespace", Category: CategoryClusters, Says: "Linkerd's namespace is there, or certd may make it", Findings: []string{"NamespaceMissing"}, Pre: true, judge: (*judgement).namespace},
		{ID: "linkerd-version", Category: CategoryClusters, Says: "Linkerd is of a version that certd supports", Pre: true, judge: (*judgement).linkerdVersion},
		{ID: "linkerd-external-ca", Category: CategoryClusters, Says: "Linkerd leaves the bundle to others (identity.externalCA)", Pre: true, judge: (*judgement).externalCA},
		{ID: "linkerd-issuer-scheme", Category: CategoryClusters, Says: "Linkerd leaves the issuer to others (kubernetes.io/tls)", Pre: true, judge: (*judgement).issuerScheme},
		{ID: "linkerd-webhook-secrets", Category: CategoryClusters, Says: "Linkerd leaves webhooks' Secrets to others (externalSecret)", Pre: true, judge: (*judgement).webhookSecrets},
		{ID: "kube-system-label", Category: CategoryClusters, Says: "kube-system does without Linkerd's webhooks", Pre: true, judge: (*judgement).kubeSystem},
		{ID: "one-writer", Category: CategoryClusters, Says: "nobody else writes bundle and issuer", Findings: []string{"SecondWriter", "RepairHeldBack"}, Pre: true, judge: (*judgement).oneWriter},
		{ID: "cluster-managed", Category: CategoryClusters, Says: "certd looks after it, and is neither only watching nor paused", Findings: []string{"WatchedOnly", "Paused"}, judge: (*judgement).eachSeen},
		{ID: "cluster-converged", Category: CategoryClusters, Says: "it is as certd wants it", Findings: []string{"NotConverged", "StepFailed", "SignatureBudget"}, judge: (*judgement).eachSeen},

		{ID: "anchors-readable", Category: CategoryTrust, Says: "trust anchors are PEM that all of Linkerd reads alike", Findings: []string{"BundleUnusable"}, Pre: true, judge: (*judgement).anchorsReadable},
		{ID: "anchors-algorithm", Category: CategoryTrust, Says: "trust anchors are of an algorithm that Linkerd takes", Pre: true, judge: (*judgement).anchorsAlgorithm},
		{ID: "anchors-time-valid", Category: CategoryTrust, Says: "each trust anchor is valid now", Findings: []string{"AnchorExpired"}, Pre: true, judge: (*judgement).anchorsValid},
		{ID: "anchors-60-days", Category: CategoryTrust, Says: "each trust anchor is valid for 60 days", Findings: []string{"AnchorExpiring", "AnchorEnds", "AnchorNotRenewed"}, Pre: true, judge: (*judgement).anchors60Days},
		{ID: "foreign-anchors", Category: CategoryTrust, Says: "anchors of partner meshes are valid, and last", Findings: []string{"ForeignAnchorExpiring", "ForeignAnchorExpired"}, Pre: true, judge: (*judgement).foreignAnchors},
		{ID: "identity-anchor-dates", Category: CategoryTrust, Says: "linkerd-identity has loaded the anchor's latest dates", Findings: []string{"IdentityTrustsOldDates"}, judge: (*judgement).eachSeen},
		{ID: "proxies-bundle", Category: CategoryTrust, Says: "meshed pods trust the bundle, and nothing else", Findings: []string{"ProxiesStale"}, judge: (*judgement).proxies},
		{ID: "proxies-text", Category: CategoryTrust, Says: "`linkerd check --proxy` finds the bundle's very text in pods", judge: (*judgement).proxiesText},
		{ID: "trust-change", Category: CategoryTrust, Says: "no change of the trust anchor needs anybody", Findings: []string{"TrustChangeHeld", "ApprovalWanted", "TrustChangeWithout", "TrustCompromised", "LeftBehind"}, judge: (*judgement).eachSeen},

		{ID: "issuer-usable", Category: CategoryIssuers, Says: "certificate, key and ca.crt are there and fit", Findings: []string{"IssuerUnusable", "IssuerLost"}, Pre: true, judge: (*judgement).issuerUsable},
		{ID: "issuer-algorithm", Category: CategoryIssuers, Says: "the issuer is ECDSA P-256", Pre: true, judge: (*judgement).issuerAlgorithm},
		{ID: "issuer-time-valid", Category: CategoryIssuers, Says: "the issuer is valid now", Findings: []string{"IssuerExpired"}, Pre: true, judge: (*judgement).issuerValid},
		{ID: "issuer-60-days", Category: CategoryIssuers, Says: "the issuer is valid for 60 days, or short-lived by policy", Pre: true, judge: (*judgement).issuer60Days},
		{ID: "issuer-under-anchor", Category: CategoryIssuers, Says: "the issuer is under the anchors, by Go's and proxies' rules", Pre: true, judge: (*judgement).issuerUnderAnchor},
		{ID: "issuer-renewed-in-time", Category: CategoryIssuers, Says: "the issuer has more left than a repair may take", Findings: []string{"RenewalOverdue", "IssuerBelowFloor"}, judge: (*judgement).issuers},
		{ID: "issuer-lifetime", Category: CategoryIssuers, Says: "issuers live long enough for linkerd-identity's leaves", Findings: []string{"LifetimeTooShort"}, Pre: true, judge: (*judgement).issuers},
		{ID: "issuer-loaded", Category: CategoryIssuers, Says: "the issuer in use is the one that was delivered", Findings: []string{"IssuerNotLoaded", "IssuerLoadUnknown"}, judge: (*judgement).issuerLoaded},

		{ID: "webhook-seen", Category: CategoryWebhooks, Says: "each webhook can be looked at", Findings: []string{"WebhookUnseen"}, Pre: true, judge: (*judgement).webhooksSeen},
		{ID: "webhook-installed", Category: CategoryWebhooks, Says: "each webhook that is named is installed", Findings: []string{"WebhookMissing"}, judge: (*judgement).webhooks},
		{ID: "webhook-one-writer", Category: CategoryWebhooks, Says: "nobody else issues webhooks' certificates", Findings: []string{"WebhookManagedElsewhere"}, Pre: true, judge: (*judgement).webhooksRenewer},
		{ID: "webhook-cert-valid", Category: CategoryWebhooks, Says: "certificates and caBundles are valid, and fit", Findings: []string{"WebhookUntrusted", "WebhookUnusable", "WebhookExpired"}, Pre: true, judge: (*judgement).webhookCertificates},
		{ID: "webhook-60-days", Category: CategoryWebhooks, Says: "certificates are valid for 60 days, or short-lived by policy", Pre: true, judge: (*judgement).webhook60Days},
		{ID: "webhook-renewed-in-time", Category: CategoryWebhooks, Says: "certificates have more left than a repair may take", Findings: []string{"WebhookOverdue", "WebhookBelowFloor", "WebhookCAEnds"}, judge: (*judgement).webhooks},
		{ID: "webhook-served", Category: CategoryWebhooks, Says: "pods serve what was delivered", Findings: []string{"WebhookNotServed", "WebhookServedUnknown"}, judge: (*judgement).webhooks},
		{ID: "webhook-works", Category: CategoryWebhooks, Says: "webhooks do what they are for", Findings: []string{"WebhookBroken", "WebhookCheckUnknown"}, judge: (*judgement).webhooks},

		{ID: "bundles-agree", Category: CategoryMulticluster, Says: "all clusters trust the same anchors of the fleet", Pre: true, judge: (*judgement).bundlesAgree},
		{ID: "configured-anchors-agree", Category: CategoryMulticluster, Says: "clusters were installed with the same anchors, or none", Pre: true, judge: (*judgement).configuredAnchors},
		{ID: "pairs-accepted", Category: CategoryMulticluster, Says: "pods of each cluster accept those of each other", judge: (*judgement).pairs},
	}
	for i := range all {
		c := &all[i]
		if c.Runbook = c.ID; len(c.Findings) > 0 {
			c.Runbook = c.Findings[0]
		}
	}
	return all
}

// judgement is the evidence, with what was told already.
type judgement struct {
	Evidence
	said map[string]bool // findings that are judged better by what a claim itself saw
}

// judge judges a claim: what was seen, and what certd finds by itself.
func (j *judgement) judge(c Claim) []verdict {
	var all []verdict
	if c.judge != nil {
		all = c.judge(j)
	}
	for _, id := range c.Findings {
		for _, f := range j.Findings {
			if f.ID == id && !j.said[f.Cluster+"/"+id] && (!j.Pre || c.Pre) {
				all = append(all, found(f))
			}
		}
	}
	return all
}

// found is what a finding of certd's own comes to.
func found(f Finding) verdict {
	v := verdict{cluster: f.Cluster, say: f.Message, hint: f.Fix, result: Unknown, runbook: f.ID}
	switch f.Severity {
	case rotation.StateCritical:
		v.result = Error
	case rotation.StateWarning:
		v.result = Warning
	}
	return v
}
