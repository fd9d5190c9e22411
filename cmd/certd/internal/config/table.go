package config

import (
	"time"

	"certd.internal/rotation"
)

// A field is one entry of the table that the decoder, the schema, the example
// and `config show` are made from.
type field struct {
	name     string
	doc      string
	kind     kind
	builtin  string        // as one would write it; "" if there is no default
	words    []string      // for kindWord and kindWords
	fields   []field       // for kindObject; of each element for kindList and kindMap
	oneOf    []string      // for kindObject, and the elements of others: exactly one of these must be there
	min, max time.Duration // for kindDuration; max 0 is 100 years
	most     int           // for kindCount: from 1 to this
	required bool
	refused  string // why nobody can have it; it is in no schema
	filled   bool   // for kindList, kindDomains and kindWords: not empty
}

type kind int

const (
	kindText   kind = iota // any string
	kindID                 // any but the empty one
	kindName               // a DNS label (RFC 1123): a-z, 0-9 and -, up to 63
	kindDomain             // DNS labels with dots between
	kindPath               // relative to the folder of the file
	kindURL                // http or https
	kindListen             // host and port to listen on
	kindMount              // of a Vault engine or login method, "/" inside
	kindWord               // one of a few
	kindBool
	kindDuration
	kindZone     // of the IANA time zone database
	kindSchedule // read together with its zone
	kindDate     // as 2026-12-18
	kindSelector // as in kubectl -l
	kindLabels   // string to string, as in Kubernetes
	kindSecret   // {file:}, {env:} or {credential:}
	kindDomains  // a list of kindDomain
	kindWords    // a list of kindWord
	kindCount    // a whole number
	kindObject
	kindList // of objects
	kindMap  // of objects
)

const day = 24 * time.Hour

// root returns the table of a whole file.
func root() field {
	return field{kind: kindObject, doc: "A fleet of clusters with one trust anchor.", fields: []field{
		{name: "apiVersion", kind: kindWord, words: []string{"certd/v1"}, required: true, doc: "Version of this format."},
		{name: "kind", kind: kindWord, words: []string{"Fleet"}, required: true, doc: "What this file describes."},
		{name: "name", kind: kindName, required: true, doc: "Name of the fleet: in the trust anchor's subject, on every object certd manages."},
		{name: "stateDir", kind: kindPath, builtin: "/var/lib/certd", doc: "Folder of the journal, certd.db. Nothing secret is kept there."},
		{name: "keys", kind: kindObject, required: true, oneOf: []string{"vault", "file", "kms"}, fields: keyFields(), doc: "Where the CA keys live."},
		{name: "trust", kind: kindObject, doc: "The trust anchor.", fields: []field{
			{name: "lifetime", kind: kindDuration, builtin: "10y", min: time.Hour, doc: "How long a new trust anchor lives. A year is 365 days."},
			{name: "renewBefore", kind: kindDuration, builtin: "2y", min: time.Minute, doc: "With no more than this left, the anchor is renewed, or reported."},
			{name: "onDue", kind: kindWord, words: []string{"renew", "ask"}, builtin: "renew", doc: "What happens then: renew gives the anchor new dates, with the same key, and no workload is restarted; ask reports it."},
			{name: "restartWorkloads", kind: kindWord, words: []string{"ask", "auto", "never"}, builtin: "ask", doc: "What becomes of workloads that hold the old anchor while it is changed: ask and never name them, auto has certd restart Deployments, StatefulSets and DaemonSets, and evict the pods of ReplicaSets that no Deployment owns, one by one."},
			{name: "restartsAtOnce", kind: kindCount, builtin: "1", most: 100, doc: "With restartWorkloads: auto, how many workloads of a cluster may be under way at once. The first always goes ahead alone."},
		}},
		{name: "defaults", kind: kindObject, fields: policyFields(), doc: "What holds in every cluster; groups override it, then the cluster."},
		{name: "groups", kind: kindMap, doc: "Overrides for clusters by label, by name of the group. The later group wins.", fields: append([]field{
			{name: "select", kind: kindSelector, required: true, doc: "Which clusters: a label selector, as in kubectl -l."},
		}, policyFields()...)},
		{name: "windows", kind: kindMap, doc: "When Linkerd's control plane and workloads may be restarted while the trust anchor is changed, by name. Clusters name theirs; those that name none are always open. Renewals take no notice.", fields: []field{
			{name: "opens", kind: kindSchedule, required: true, doc: "When it opens: a cron expression of five fields, in the cluster's timeZone."},
			{name: "for", kind: kindDuration, required: true, min: 10 * time.Minute, max: 31 * day, doc: "How long it stays open."},
		}},
		{name: "freezes", kind: kindList, doc: "Days on which nothing is restarted for a change of the trust anchor, whatever windows say.", fields: []field{
			{name: "name", kind: kindName, required: true, doc: "What certd calls it."},
			{name: "from", kind: kindDate, required: true, doc: "The first day, in each cluster's timeZone."},
			{name: "to", kind: kindDate, required: true, doc: "The last day."},
			{name: "reason", kind: kindText, doc: "Why, for status."},
		}},
		{name: "approvals", kind: kindObject, doc: "How many people it takes for what cannot be undone.", fields: []field{
			{name: "retire", kind: kindCount, builtin: "1", most: 2, doc: "To retire a trust anchor, the end of a change of it: 2 has the change wait for certd trust approve by somebody else than who began it."},
			{name: "restore", refused: "can wait for nobody: certd restore replaces the files of a certd that does not run, and whoever may write them can do that without certd, too; leave it out"},
		}},
		{name: "clusters", kind: kindList, fields: clusterFields(), oneOf: clusterTargets(), doc: "The clusters of the fleet."},
		{name: "clustersDir", kind: kindPath, doc: "Folder with more clusters, one in each .yaml file."},
		{name: "backup", kind: kindObject, doc: "Copies of the journal that the daemon makes; none if left out.", fields: []field{
			{name: "dir", kind: kindPath, required: true, doc: "Folder of the copies, made if it is missing; on another disk than stateDir."},
			{name: "schedule", kind: kindSchedule, builtin: "0 4 * * *", doc: "When: a cron expression of five fields."},
			{name: "timeZone", kind: kindZone, builtin: "UTC", doc: "Where its wall clock hangs."},
			{name: "keep", kind: kindCount, builtin: "7", most: 1000, doc: "How many are kept; older ones are deleted."},
		}},
		{name: "leaderElection", kind: kindObject, doc: "Several certd, each with a stateDir of its own, of which one works at a time: it holds a Kubernetes Lease, and the others stand by. Needs keys.vault.mirror. Left out: there is one.", fields: []field{
			{name: "lease", kind: kindObject, required: true, doc: "Which Lease; the first of them makes it.", fields: []field{
				{name: "namespace", kind: kindName, required: true, doc: "Its namespace, which has to exist."},
				{name: "name", kind: kindDomain, required: true, doc: "Its name. It is this fleet's alone."},
			}},
			{name: "cluster", kind: kindName, doc: "In which of clusters the Lease is; the one that certd runs in, by its pod's service account, if left out."},
			{name: "leaseDuration", kind: kindDuration, builtin: "15s", min: time.Second, max: time.Hour, doc: "How long the others wait since they last saw the Lease renewed, before one of them takes it."},
			{name: "renewDeadline", kind: kindDuration, builtin: "10s", min: time.Second, max: time.Hour, doc: "For how long the leader tries to renew it before it stops; less than leaseDuration."},
			{name: "retryPeriod", kind: kindDuration, builtin: "2s", min: time.Second, max: time.Hour, doc: "What lies between two tries; less than five sixths of renewDeadline."},
		}},
		{name: "server", kind: kindObject, doc: "How to reach the daemon.", fields: []field{
			{name: "socket", kind: kindPath, builtin: "/run/certd/certd.sock", doc: "Admin socket; its file mode says who may connect."},
			{name: "listen", kind: kindListen, doc: "Where certd answers over HTTP, read only, as HOST:PORT, such as 127.0.0.1:9843: metrics, probes, the status and the trust bundle. Left out: nowhere."},
		}},
		{name: "log", kind: kindObject, doc: "What the daemon writes to its standard error.", fields: []field{
			{name: "level", kind: kindWord, words: []string{"debug", "info", "warn", "error"}, builtin: "info", doc: "The least that is written."},
			{name: "format", kind: kindWord, words: []string{"json", "text"}, doc: "How lines are written. Left out: text on a terminal, JSON elsewhere."},
		}},
		{name: "notify", kind: kindObject, fields: notifyFields(), doc: "Who is told of findings, and of changes of the trust anchor."},
	}}
}

func keyFields() []field {
	return []field{
		{name: "vault", kind: kindObject, doc: "HashiCorp Vault or OpenBao; a key never leaves it.", fields: []field{
			{name: "address", kind: kindURL, doc: "Of Vault; $VAULT_ADDR if left out."},
			{name: "namespace", kind: kindText, doc: "Vault Enterprise namespace; $VAULT_NAMESPACE if left out."},
			{name: "caFile", kind: kindPath, doc: "CA certificates (PEM) that Vault's is checked against; $VAULT_CACERT if left out."},
			{name: "auth", kind: kindObject, oneOf: []string{"token", "tokenFile", "appRole", "kubernetes", "cert", "jwt"},
				doc: "How the daemon logs in; with $VAULT_TOKEN if left out.", fields: []field{
					{name: "token", kind: kindSecret, doc: "A token."},
					{name: "tokenFile", kind: kindPath, doc: "A file that holds a token, read afresh at each login (Vault Agent)."},
					{name: "appRole", kind: kindObject, doc: "AppRole.", fields: []field{
						{name: "mount", kind: kindMount, builtin: "approle", doc: "Where the method is mounted."},
						{name: "roleID", kind: kindID, required: true, doc: "The role's id; not a secret."},
						{name: "secretIDFrom", kind: kindSecret, required: true, doc: "The secret id."},
					}},
					{name: "kubernetes", kind: kindObject, doc: "Kubernetes service account.", fields: []field{
						{name: "mount", kind: kindMount, builtin: "kubernetes", doc: "Where the method is mounted."},
						{name: "role", kind: kindID, required: true, doc: "The role in Vault."},
						{name: "tokenFile", kind: kindPath, builtin: "/var/run/secrets/kubernetes.io/serviceaccount/token",
							doc: "The service account's token, read afresh at each login."},
					}},
					{name: "cert", kind: kindObject, doc: "TLS client certificate.", fields: []field{
						{name: "mount", kind: kindMount, builtin: "cert", doc: "Where the method is mounted."},
						{name: "role", kind: kindText, doc: "The role in Vault; any that matches if left out."},
						{name: "certFile", kind: kindPath, required: true, doc: "Client certificate chain, PEM."},
						{name: "keyFile", kind: kindPath, required: true, doc: "Its private key, PEM."},
					}},
					{name: "jwt", kind: kindObject, doc: "JSON web token.", fields: []field{
						{name: "mount", kind: kindMount, builtin: "jwt", doc: "Where the method is mounted."},
						{name: "role", kind: kindText, doc: "The role in Vault; the method's default if left out."},
						{name: "tokenFrom", kind: kindSecret, required: true, doc: "The token, read afresh at each login."},
					}},
				}},
			{name: "transit", kind: kindObject, doc: "Sign with keys of the Transit engine (the default).", fields: []field{
				{name: "mount", kind: kindMount, builtin: "certd-transit", doc: "Mount of the anchors' keys, certd's own; not beside pki."},
				{name: "webhookMount", kind: kindMount, builtin: "certd-transit-webhooks", doc: "Mount of the webhook CAs' keys, beside pki too."},
				{name: "keyPrefix", kind: kindName, doc: "Keys are called PREFIX-anchor-1, PREFIX-webhook-CLUSTER-1 and so on; the fleet's name if left out."},
			}},
			{name: "pki", kind: kindObject, doc: "Sign issuers with an existing root of Vault's PKI engine instead; webhook CAs stay in Transit.", fields: []field{
				{name: "mount", kind: kindMount, required: true, doc: "Mount of the PKI engine."},
				{name: "issuer", kind: kindID, builtin: "default", doc: "Which of the engine's issuers, by name or id."},
			}},
			{name: "mirror", kind: kindObject, doc: "A copy of what certd knows of anchors and their change, outside of stateDir: a lost journal is rebuilt from it, and a second daemon is kept from writing by it. Nothing in it is secret.", fields: []field{
				{name: "mount", kind: kindMount, required: true, doc: "Mount of a KV engine of version 2."},
				{name: "path", kind: kindMount, required: true, doc: "Path of the one secret in it that is this fleet's."},
			}},
		}},
		{name: "file", kind: kindObject, doc: "Encrypted key files.", fields: []field{
			{name: "dir", kind: kindPath, required: true, doc: "Folder of the key files."},
			{name: "passphraseFrom", kind: kindSecret, required: true, doc: "What they are encrypted under."},
		}},
		{name: "kms", kind: kindObject, doc: "A key management system, such as PKCS#11.", fields: []field{
			{name: "uri", kind: kindID, required: true, doc: `Such as "pkcs11:module-path=/usr/lib/softhsm/libsofthsm2.so;token=certd?pin-source=/etc/certd/pin".`},
		}},
	}
}

// policyFields are what defaults, a group and a cluster can say.
func policyFields() []field {
	return []field{
		{name: "timeZone", kind: kindZone, builtin: "UTC", doc: "Where the schedules' wall clock hangs, such as Europe/Berlin."},
		{name: "linkerd", kind: kindObject, doc: "How Linkerd is installed.", fields: []field{
			{name: "namespace", kind: kindName, builtin: "linkerd", doc: "Of Linkerd's control plane."},
			{name: "createNamespace", kind: kindBool, builtin: "false", doc: "Create the namespace if it is missing."},
			{name: "trustDomain", kind: kindDomain, builtin: "cluster.local", doc: "Linkerd's identityTrustDomain."},
			{name: "leafLifetime", kind: kindDuration, builtin: "24h", min: time.Second, max: 365 * day, doc: "How long workload certificates live, at least; a running identity's own figure counts if it is larger."},
			{name: "clockSkew", kind: kindDuration, builtin: "20s", max: time.Hour, doc: "How far clocks may differ, at least; likewise."},
			{name: "clockError", kind: kindDuration, builtin: "5m", min: time.Second, max: time.Hour, doc: "How far the clocks of nodes may be off all the same; while the trust anchor is changed, certd waits twice as long more for the last leaf from before."},
		}},
		{name: "repair", kind: kindDuration, builtin: "12h", max: 365 * day, doc: "How long an outage of Vault, a cluster or certd must be survivable."},
		{name: "issuer", kind: kindObject, doc: "The issuer certificates.", fields: []field{
			{name: "lifetime", kind: kindDuration, builtin: "7d", min: time.Minute, doc: "From notBefore to notAfter."},
			{name: "renewBefore", kind: kindDuration, builtin: "84h", min: time.Second, doc: "With no more than this left, certd renews at any hour."},
			{name: "schedule", kind: kindSchedule, builtin: "0 3 * * *", doc: "When renewing is wanted: a cron expression of five fields, or @daily and the like."},
			{name: "rotate", kind: kindWord, words: []string{"when-due", "every-firing"}, builtin: "when-due", doc: "Renew when one missed firing more would reach renewBefore, or at each firing."},
			{name: "backdate", kind: kindDuration, builtin: "10m", max: time.Hour, doc: "How far notBefore lies in the past, for clocks that are late; part of the lifetime."},
			{name: "spread", kind: kindDuration, builtin: "30m", max: 30 * time.Minute, doc: "Firings are delayed by up to this and a tenth of the gap between them, each cluster by its own; 0s for none."},
		}},
		{name: "webhooks", kind: kindObject, fields: webhookFields(), doc: "The certificates of Linkerd's webhooks and of tap, and the CA over them."},
		{name: "foreignAnchors", kind: kindList, doc: "Trust anchors of partner meshes, kept in the bundle besides certd's own. The list that stands closest to a cluster holds whole.", fields: []field{
			{name: "name", kind: kindName, required: true, doc: "The partner's name, for status and findings."},
			{name: "file", kind: kindPath, required: true, doc: "Its anchors, PEM. A changed file is taken over without a restart of certd."},
		}},
		{name: "windows", kind: kindDomains, doc: "Names of the windows that hold here. The list that stands closest to a cluster holds whole."},
	}
}

func webhookFields() []field {
	return []field{
		{name: "manage", kind: kindWord, words: []string{"auto", "none"}, builtin: "auto", doc: "auto: look after the webhooks that are found; none: leave all of them alone."},
		{name: "lifetime", kind: kindDuration, builtin: "30d", min: time.Minute, doc: "Of a serving certificate, from notBefore to notAfter."},
		{name: "renewBefore", kind: kindDuration, builtin: "15d", min: time.Second, doc: "With no more than this left, certd renews at any hour."},
		{name: "schedule", kind: kindSchedule, builtin: "30 3 * * *", doc: "When renewing is wanted, the CA included: a cron expression of five fields, or @daily and the like."},
		{name: "caLifetime", kind: kindDuration, builtin: "2y", min: time.Hour, doc: "Of the cluster's webhook CA, from notBefore to notAfter."},
		{name: "caRenewBefore", kind: kindDuration, builtin: "180d", min: time.Minute, doc: "With no more than this left, certd makes a new CA at any hour."},
		{name: "backdate", kind: kindDuration, builtin: "10m", max: time.Hour, doc: "How far notBefore of a serving certificate lies in the past, for clocks that are late; part of the lifetime."},
		{name: "spread", kind: kindDuration, builtin: "30m", max: 30 * time.Minute, doc: "Firings are delayed by up to this and a tenth of the gap between them, each cluster by its own; 0s for none."},
		{name: "settle", kind: kindDuration, builtin: "30s", max: time.Hour, doc: "From a change of a caBundle until every API server goes by it."},
		{name: "projection", kind: kindDuration, builtin: "3m", min: time.Second, max: time.Hour, doc: "From a change of a Secret until every kubelet shows it to its pods; a replica that does not serve the new certificate by then is helped along."},
		{name: "probeEvery", kind: kindDuration, builtin: "5m", min: time.Second, max: 24 * time.Hour, doc: "How often it is looked what each replica really serves, and whether the webhook does its work, while nothing changes."},
		{name: "probeNamespace", kind: kindName, builtin: "certd", doc: "Where the dry runs that show this are made. Nothing is left there; Linkerd's own namespace will not do, since its webhooks are not asked about it."},
		{name: "extra", kind: kindList, doc: "Webhooks of your own to look after likewise. The list that stands closest to a cluster holds whole: lists are not joined.", fields: []field{
			{name: "name", kind: kindName, required: true, doc: "What certd calls it; not a name of Linkerd's."},
			{name: "secret", kind: kindObject, required: true, doc: "Where it gets its certificate from: tls.crt and tls.key of this Secret.", fields: []field{
				{name: "namespace", kind: kindName, required: true, doc: "The Secret's namespace."},
				{name: "name", kind: kindDomain, required: true, doc: "The Secret's name."},
			}},
			{name: "dnsNames", kind: kindDomains, required: true, filled: true, doc: "What it serves under; the name that the API server calls it by first, such as quota.quota.svc."},
			{name: "objects", kind: kindList, required: true, filled: true, doc: "What holds the caBundle that it is checked against.", fields: []field{
				{name: "kind", kind: kindWord, words: []string{rotation.KindMutating, rotation.KindValidating, rotation.KindAPIService}, required: true, doc: "The object's kind."},
				{name: "name", kind: kindDomain, required: true, doc: "The object's name."},
			}},
		}},
	}
}

func clusterTargets() []string { return []string{"kubeconfig", "inCluster", "directory"} }

func clusterFields() []field {
	return append([]field{
		{name: "name", kind: kindName, required: true, doc: "The cluster's name in this fleet."},
		{name: "labels", kind: kindLabels, doc: "For groups and for -l."},
		{name: "kubeconfig", kind: kindObject, doc: "Reach it through a kubeconfig.", fields: []field{
			{name: "file", kind: kindPath, required: true, doc: "The kubeconfig file."},
			{name: "context", kind: kindText, doc: "Its context; the current one if left out."},
		}},
		{name: "knownAs", kind: kindName, doc: "What the Links of other clusters call it; its name if left out."},
		{name: "inCluster", kind: kindBool, doc: "It is the cluster that certd runs in."},
		{name: "directory", kind: kindPath, doc: "A folder of files instead of a cluster."},
		{name: "adopt", kind: kindBool, doc: "Take it over if it has trust material that certd did not make, as certd adopt does."},
	}, policyFields()...)
}

// sub returns the field called name, or nil.
func (f field) sub(name string) *field {
	for i := range f.fields {
		if f.fields[i].name == name {
			return &f.fields[i]
		}
	}
	return nil
}

// names lists the fields that can be had.
func (f field) names() []string {
	var names []string
	for _, sub := range f.fields {
		if sub.refused == "" {
			names = append(names, sub.name)
		}
	}
	return names
}
