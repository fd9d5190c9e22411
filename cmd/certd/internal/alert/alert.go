// Package alert is the one table that certd's alerts, recording rules and dashboard
// are made from. What to do about each stands in docs/runbooks.
package alert

import (
	"slices"
	"strings"
	"time"
)

// A Severity is what an alert asks of people.
type Severity string

// The severities. Which one follows the time that is left, not surprise.
const (
	Page   Severity = "critical" // now, at any hour
	Ticket Severity = "warning"  // on the next working day
)

// An Alert is one alerting rule.
type Alert struct {
	Name     string
	Severity Severity
	Expr     string        // PromQL; its samples have the label job, and those that Summary names
	For      time.Duration // that Expr has to hold without a gap
	When     string        // for people: when it fires, a line for the index
	Summary  string        // template of Prometheus, as Description
	// Description says how long there is, and what to look at first.
	Description string
	// ByFinding: the samples have the label id, of a finding, and its runbook is the
	// one to read.
	ByFinding bool
	// Findings are those that it tells of when they are critical, so that
	// CertdCriticalFinding need not.
	Findings []string
}

// A Record is one recording rule.
type Record struct {
	Name string
	Expr string
}

// Records are the recording rules, in the order in which they are evaluated, all
// of them before the alerts.
//
// A second certd that stands by has series of its own under the same job: what is
// aggregated by job is of the two together.
func Records() []Record {
	return []Record{
		{"certd:certificate_left:seconds", `min by (job, cluster, kind, name) (certd_certificate_not_after_timestamp_seconds) - time()`},
		{"certd:emergency_floor:seconds", `max by (job, cluster) (certd_emergency_floor_seconds)`},
		// What certd said last is kept for when it is gone, until a month after the end.
		{"certd:nothing_breaks_before:timestamp_seconds", `min by (job) (certd_nothing_breaks_before_timestamp_seconds)
or on (job)
(last_over_time(certd:nothing_breaks_before:timestamp_seconds[1d]) > time() - 30 * 86400)`},
		{"certd:emergency_floor:max_seconds", `max by (job) (certd_emergency_floor_seconds)
or on (job)
(last_over_time(certd:emergency_floor:max_seconds[1d]) and on (job) certd:nothing_breaks_before:timestamp_seconds)`},
		{"certd:rotation_errors:ratio_rate1h", `sum by (job) (rate(certd_rotations_total{result="error"}[1h])) / sum by (job) (rate(certd_rotations_total[1h]))`},
		{"certd:rotation_errors:ratio_rate6h", `sum by (job) (rate(certd_rotations_total{result="error"}[6h])) / sum by (job) (rate(certd_rotations_total[6h]))`},
	}
}

// Alerts are the alerting rules, pages first.
//
// Thresholds are in proportion to certd_emergency_floor_seconds: the least that an
// issuer of the cluster must have left, so that a leaf signed at the last moment
// lives, and what prevented a renewal can be repaired. Fixed ones would be wrong for
// issuers that live a week, or for those that live a year.
func Alerts() []Alert {
	alerts := []Alert{
		{
			Name: "CertdIssuerExpired", Severity: Page, For: time.Minute,
			Findings:    []string{"IssuerExpired"},
			When:        "an issuer that is in use has ended",
			Expr:        `certd:certificate_left:seconds{kind="issuer"} <= 0`,
			Summary:     `The issuer of {{ $labels.cluster }} has ended`,
			Description: `Every workload certificate of {{ $labels.cluster }} ended in the same second: meshed connections are refused, and pods that start do not get ready. certd signs a new issuer as soon as it can; what keeps it from that is in certd status {{ $labels.cluster }}.`,
		},
		{
			Name: "CertdWebhookExpired", Severity: Page, For: time.Minute,
			Findings:    []string{"WebhookExpired"},
			When:        "a webhook's certificate has ended",
			Expr:        `certd:certificate_left:seconds{kind="webhook"} <= 0`,
			Summary:     `The certificate of webhook {{ $labels.name }} in {{ $labels.cluster }} has ended`,
			Description: `The API server refuses pods, or starts them without a proxy and tells nobody (failurePolicy Ignore). The mesh itself goes on. certd status {{ $labels.cluster }} says what keeps certd from renewing it.`,
		},
		{
			Name: "CertdCertificateExpiresSoon", Severity: Page, For: 5 * time.Minute,
			Findings: []string{"IssuerBelowFloor", "WebhookBelowFloor"},
			When:     "an issuer or webhook certificate in use has less left than the cluster's emergency floor",
			// A webhook's floor is lower than the issuer's, and cert-manager renews in the
			// last hour by design: it counts from when certd should have renewed it.
			Expr: `(
    certd:certificate_left:seconds{kind="issuer"}
  or
    (
      certd:certificate_left:seconds{kind="webhook"}
        and on (job, cluster, kind, name)
      (certd_certificate_planned_rotation_timestamp_seconds < time())
    )
)
> 0
< on (job, cluster) group_left ()
certd:emergency_floor:seconds`,
			Summary:     `The {{ $labels.kind }} in use in {{ $labels.cluster }} ends in {{ $value | humanizeDuration }}`,
			Description: `{{ $labels.name }} has less left than a repair may take. certd renews it at any hour as soon as it can; certd status {{ $labels.cluster }} says what keeps it from that.`,
		},
		{
			Name: "CertdClusterUnreachableAndDue", Severity: Page, For: 15 * time.Minute,
			When: "a cluster does not answer, something is due there, and less than twice the floor is left",
			Expr: `min by (job, cluster) (
  certd:certificate_left:seconds{kind=~"issuer|webhook"}
    and on (job, cluster, kind, name)
  (certd_certificate_planned_rotation_timestamp_seconds < time())
)
< on (job, cluster)
2 * certd:emergency_floor:seconds
and on (job, cluster)
(max by (job, cluster) (certd_cluster_up) == 0)`,
			Summary:     `{{ $labels.cluster }} does not answer, and a certificate there ends in {{ $value | humanizeDuration }}`,
			Description: `A renewal is due in {{ $labels.cluster }} and certd cannot reach it. When the issuer ends, every workload certificate there ends in the same second.`,
		},
		{
			Name: "CertdWebhookBroken", Severity: Page, For: 10 * time.Minute, ByFinding: true,
			Findings:    []string{"WebhookBroken", "WebhookUntrusted", "WebhookUnusable"},
			When:        "a webhook is not accepted by the API server, or does not do its work",
			Expr:        `sum by (job, cluster, id) (certd_findings{id=~"WebhookBroken|WebhookUntrusted|WebhookUnusable"}) > 0`,
			Summary:     `A webhook in {{ $labels.cluster }} does not work ({{ $labels.id }})`,
			Description: `The API server refuses pods, or starts them without a proxy and tells nobody (failurePolicy Ignore). certd mends what it can within minutes, and did not. certd status {{ $labels.cluster }} names the webhook.`,
		},
		{
			Name: "CertdKeyExportable", Severity: Page, For: 5 * time.Minute,
			Findings:    []string{"KeyExportable"},
			When:        "the trust anchor's key can be exported from Vault",
			Expr:        `sum by (job) (certd_findings{id="KeyExportable"}) > 0`,
			Summary:     `The trust anchor's key can be exported ({{ $labels.job }})`,
			Description: `Whoever has a copy of it can make certificates for the whole mesh. Nothing is broken by this alone; find out who turned it on, and whether the key was read.`,
		},
		{
			Name: "CertdAbsentAndDue", Severity: Page, For: 15 * time.Minute,
			When: "no certd that leads is scraped any more, and by what it last said less than twice the floor is left",
			Expr: `certd:nothing_breaks_before:timestamp_seconds - time()
< on (job)
2 * certd:emergency_floor:max_seconds
unless on (job)
(max by (job) (certd_leader) == 1)`,
			Summary:     `certd ({{ $labels.job }}) is gone, and the first certificate ends in {{ $value | humanizeDuration }}`,
			Description: `Nobody renews anything: no certd answers, or all that do stand by. Start certd again, or let one lead: it catches up at once. certd plan --if-stopped says what ends first.`,
		},
		{
			Name: "CertdTrustAnchorExpires", Severity: Page, For: time.Hour,
			Findings: []string{"AnchorExpired", "AnchorExpiring"},
			When:     "less than 60 days are left of a trust anchor, and it is not renewed a day after that was due",
			Expr: `min by (job, name) (certd:certificate_left:seconds{kind="anchor"}) < 60 * 86400
unless on (job, name)
(max by (job, name) (certd_certificate_renew_at_timestamp_seconds{kind="anchor"}) > time() - 86400)`,
			Summary:     `Trust anchor {{ $labels.name }} ends in {{ $value | humanizeDuration }}`,
			Description: `When it ends, every issuer and every workload certificate under it has ended. Its own key gives it new dates, and no workload is restarted for that.`,
		},
		{
			Name: "CertdTrustAnchorExpires", Severity: Ticket, For: time.Hour,
			When: "less than a year is left of a trust anchor, and it is not renewed a day after that was due",
			Expr: `min by (job, name) (certd:certificate_left:seconds{kind="anchor"}) < 365 * 86400 >= 60 * 86400
and on (job, name)
(max by (job, name) (certd_certificate_renew_at_timestamp_seconds{kind="anchor"}) < time() - 86400)`,
			Summary:     `Trust anchor {{ $labels.name }} ends in {{ $value | humanizeDuration }}`,
			Description: `It had to be renewed a day ago or more. Its own key gives it new dates, and no workload is restarted for that.`,
		},
		{
			Name: "CertdIssuerNotLoaded", Severity: Ticket, For: 15 * time.Minute,
			Findings:    []string{"IssuerNotLoaded"},
			When:        "the issuer was delivered, and a replica of linkerd-identity still uses an older one",
			Expr:        `max by (job, cluster) (certd_issuer_loaded) == 0`,
			Summary:     `linkerd-identity in {{ $labels.cluster }} does not use the issuer that was delivered`,
			Description: `Nothing is broken until the older issuer ends; then every workload certificate in {{ $labels.cluster }} ends. certd status {{ $labels.cluster }} says when that is. It becomes a page by itself (CertdCertificateExpiresSoon).`,
		},
		{
			Name: "CertdRotationOverdue", Severity: Ticket, For: 15 * time.Minute,
			Findings:    []string{"RenewalOverdue", "WebhookOverdue"},
			When:        "a renewal has not been done a sixth of the floor after the time it was planned for",
			Expr:        "time() - max by (job, cluster, kind, name) (certd_certificate_planned_rotation_timestamp_seconds)\n> on (job, cluster) group_left ()\ncertd:emergency_floor:seconds / 6",
			Summary:     `The {{ $labels.kind }} {{ $labels.name }} in {{ $labels.cluster }} should have been renewed {{ $value | humanizeDuration }} ago`,
			Description: `certd tries again by itself. certd status {{ $labels.cluster }} says what keeps it from that, and how long the certificate in use lasts.`,
		},
		{
			Name: "CertdClusterUnreachable", Severity: Ticket, For: time.Hour,
			Findings:    []string{"ClusterUnreachable", "ClusterDenied"},
			When:        "a cluster has not answered for an hour",
			Expr:        `max by (job, cluster) (certd_cluster_up) == 0`,
			Summary:     `certd has not reached {{ $labels.cluster }} for an hour`,
			Description: `The mesh there goes on with what it has. certd status {{ $labels.cluster }} says until when nothing is due there. It becomes a page by itself (CertdClusterUnreachableAndDue).`,
		},
		{
			Name: "CertdTrustBundleNotCurrent", Severity: Ticket, For: time.Hour,
			When:        "a cluster publishes other trust anchors than certd would have it, for an hour",
			Expr:        `min by (job, cluster) (certd_trust_bundle_current) == 0`,
			Summary:     `The trust bundle of {{ $labels.cluster }} is not what it should be`,
			Description: `certd repairs it within seconds, unless it cannot write there or somebody else puts theirs back. Pods that are created meanwhile trust the wrong anchors.`,
		},
		{
			Name: "CertdDriftRepeats", Severity: Ticket, For: 5 * time.Minute,
			When:        "certd repaired the same object more than three times in an hour",
			Expr:        `sum by (job, cluster, object, by) (increase(certd_drift_repaired_total[1h])) > 3`,
			Summary:     `Somebody keeps changing {{ $labels.object }} in {{ $labels.cluster }}`,
			Description: `Written by: {{ $labels.by }}. certd repairs it more and more seldom, every ten minutes at last.`,
		},
		{
			Name: "CertdRotationsFailing", Severity: Ticket, For: 10 * time.Minute,
			When: "more than a fifth of all rotations fail, over an hour and over six, and still do",
			// Rotations are few: one that took a second attempt is no fifth of anything.
			Expr: `certd:rotation_errors:ratio_rate1h > 0.2
and
certd:rotation_errors:ratio_rate6h > 0.2
and
sum by (job) (increase(certd_rotations_total{result="error"}[1h])) > 3
and
sum by (job) (increase(certd_rotations_total{result="error"}[15m])) > 0`,
			Summary:     `{{ $value | humanizePercentage }} of certd's rotations fail ({{ $labels.job }})`,
			Description: `So many at once have one cause: the key backend, the network, or rights. certd status names it. What is in use goes on to work.`,
		},
		{
			Name: "CertdTrustRotationStalled", Severity: Ticket,
			When: "a change of the trust anchor has not moved for twice the floor",
			Expr: `(max by (job, phase) (certd_trust_rotation_phase{phase!="idle"}) == 1)
and on (job)
(
    time() - max by (job) (certd_trust_rotation_progress_timestamp_seconds)
  > on (job)
    2 * certd:emergency_floor:max_seconds
)`,
			Summary:     `The change of the trust anchor has not moved in stage {{ $labels.phase }}`,
			Description: `Every stage is safe to stay in. certd trust status says what this one waits for: as a rule for workloads that somebody has to restart, or for a cluster.`,
		},
		{
			Name: "CertdProxiesStale", Severity: Ticket, For: 12 * time.Hour,
			When: "meshed pods have trusted other anchors than the bundle for twelve hours, and none are being changed",
			Expr: `sum by (job, cluster) (certd_proxies{trust="stale"}) > 0
unless on (job)
(max by (job) (certd_trust_rotation_phase{phase="idle"}) == 0)`,
			Summary:     `{{ $value }} meshed pods in {{ $labels.cluster }} trust other anchors than the bundle`,
			Description: `A pod keeps the anchors it was created with. certd status {{ $labels.cluster }} lists the workloads to restart.`,
		},
		{
			Name: "CertdCannotSign", Severity: Ticket, For: 30 * time.Minute, ByFinding: true,
			Findings:    []string{"KeyUnfit"},
			When:        "the key backend does not answer, refuses certd, or its key is not what it was, for half an hour",
			Expr:        `sum by (job, id) (certd_findings{id=~"KeysUnavailable|KeysDenied|KeyUnfit"}) > 0`,
			Summary:     `certd ({{ $labels.job }}) cannot sign ({{ $labels.id }})`,
			Description: `Nothing new can be signed. What is in use goes on to work until its end: certd plan --if-stopped says when the first is.`,
		},
		{
			Name: "CertdVaultUnavailable", Severity: Ticket, For: 15 * time.Minute,
			When:        "Vault has not answered, or has been sealed, for a quarter of an hour",
			Expr:        `max by (job) (certd_vault_up) == 0`,
			Summary:     `certd ({{ $labels.job }}) cannot use Vault`,
			Description: `Nothing new can be signed. What is in use goes on to work until its end: certd plan --if-stopped says when the first is.`,
		},
		{
			Name: "CertdVaultTokenExpires", Severity: Ticket, For: 5 * time.Minute,
			When: "certd's Vault token has less than a fifth of its life left",
			// How long it lives is not known: the most it had left in a month stands for it.
			Expr: `min by (job) (certd_vault_token_expiration_timestamp_seconds) - time()
< on (job)
0.2 * max_over_time((min by (job) (certd_vault_token_expiration_timestamp_seconds) - time())[30d:1h])`,
			Summary:     `The Vault token of certd ({{ $labels.job }}) ends in {{ $value | humanizeDuration }}`,
			Description: `certd renews it at half of its life, or logs in anew; that does not succeed. Without a token nothing is signed; what is in use goes on to work.`,
		},
		{
			Name: "CertdCycleStalled", Severity: Ticket, For: 5 * time.Minute,
			When:        "certd runs and has not looked at the clusters for half an hour",
			Expr:        `time() - max by (job) (certd_cycle_last_success_timestamp_seconds) > 1800`,
			Summary:     `certd ({{ $labels.job }}) has not looked at its clusters for {{ $value | humanizeDuration }}`,
			Description: `It looks every minute. Nothing is renewed or repaired meanwhile; what is in use goes on to work.`,
		},
		{
			Name: "CertdAbsent", Severity: Ticket, For: 15 * time.Minute,
			When:        "no certd is scraped",
			Expr:        `absent(certd_build_info)`,
			Summary:     `No certd is scraped`,
			Description: `It does not run, or Prometheus does not reach it. The mesh goes on without it: certd plan --if-stopped says until when. It becomes a page by itself (CertdAbsentAndDue).`,
		},
		{
			Name: "CertdNobodyLeads", Severity: Ticket, For: 15 * time.Minute,
			When: "each certd that is scraped stands by for another",
			// One that another has deposed says so by a finding of its own.
			Expr: `max by (job) (certd_leader) == 0
unless on (job)
count by (job) (certd_findings{id=~"Deposed|SecondDaemon"} > 0)`,
			Summary:     `No certd ({{ $labels.job }}) leads`,
			Description: `Those that answer stand by, and nothing is renewed or repaired: the cluster with the Lease, Vault or the mirror does not let one lead. The mesh goes on without it. It becomes a page by itself (CertdAbsentAndDue).`,
		},
		{
			Name: "CertdClockSkew", Severity: Ticket, For: 15 * time.Minute,
			Findings:    []string{"ClockSkew"},
			When:        "certd's clock and a cluster's differ by more than five minutes",
			Expr:        `sum by (job, cluster) (certd_findings{id="ClockSkew"}) > 0`,
			Summary:     `The clocks of certd and of {{ $labels.cluster }} do not agree`,
			Description: `Nothing is signed or written there until they do. What is in use goes on to work until its end: certd status {{ $labels.cluster }} has it.`,
		},
		{
			Name: "CertdConfigReloadFailed", Severity: Ticket, For: 5 * time.Minute,
			When:        "the configuration was changed and refused",
			Expr:        `min by (job) (certd_config_last_reload_successful) == 0`,
			Summary:     `certd ({{ $labels.job }}) refused its changed configuration`,
			Description: `The former one stays in force until certd is started anew; then it does not start. certd config validate names file, line and column.`,
		},
		{
			Name: "CertdNotifyFailing", Severity: Ticket, For: 15 * time.Minute,
			When: "a receiver of notifications has taken none for an hour, and some were sent",
			Expr: `sum by (job, receiver) (increase(certd_notifications_total{result!="ok"}[1h])) > 0
unless on (job, receiver)
(sum by (job, receiver) (increase(certd_notifications_total{result="ok"}[1h])) > 0)`,
			Summary:     `Notifications do not reach {{ $labels.receiver }}`,
			Description: `certd keeps them and tries again. Until it succeeds nobody is told in that way; certd status has everything.`,
		},
	}
	return append(alerts, Alert{
		Name: "CertdCriticalFinding", Severity: Ticket, For: 15 * time.Minute, ByFinding: true,
		When:        "a critical finding stands that no other alert is about",
		Expr:        `sum by (job, cluster, id) (certd_findings{severity="critical", id!~"` + told(alerts) + `"}) > 0`,
		Summary:     `{{ $labels.id }}{{ with $labels.cluster }} in {{ . }}{{ end }}`,
		Description: `certd status says what it is about, how long there is, and what to type.`,
	})
}

// told are the findings that alerts of their own tell of, as a pattern.
func told(alerts []Alert) string {
	var ids []string
	for _, a := range alerts {
		ids = append(ids, a.Findings...)
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), "|")
}
