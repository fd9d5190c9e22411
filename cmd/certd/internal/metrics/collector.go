package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"certd.internal/rotation"
)

// What kind of certificate a series is about.
const (
	kindAnchor    = "anchor"
	kindForeign   = "foreign-anchor"
	kindIssuer    = "issuer"
	kindWebhook   = "webhook"
	kindWebhookCA = "webhook-ca"
)

// vaultFor is how long it counts what was found about Vault.
const vaultFor = 3 * time.Minute

// Source is where the metrics of a daemon come from.
type Source struct {
	// Status is the report behind certd status. It must not wait for anything.
	Status func() rotation.FleetStatus
	// TokenExpires is when certd's token for Vault ends, zero if it never does or
	// there is none. Nil: the keys are not in Vault.
	TokenExpires                 func() time.Time
	Recorder                     *Recorder
	Version, Revision, GoVersion string
}

// Handler answers a scrape. What cannot be collected is left out and logged by
// errors, and the rest is served.
func Handler(s Source, errors promhttp.Logger) http.Handler {
	reg := s.registry()
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, ErrorLog: errors, ErrorHandling: promhttp.ContinueOnError})
}

func (s Source) registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	r := s.Recorder
	reg.MustRegister(newCollector(s), r.rotations, r.rotationTook, r.repairs, r.vaultTook, r.notifications,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// reported is what is read from the report.
type reported struct {
	build, clusters, up, contact                                *prometheus.Desc
	notAfter, renewAt, planned, info                            *prometheus.Desc
	loaded, bundle, floor, proxies                              *prometheus.Desc
	findings, deadline                                          *prometheus.Desc
	phase, progress, nothingBreaks                              *prometheus.Desc
	cycle, leader, store, reload, reloadedAt, vault, tokenUntil *prometheus.Desc
}

func newReported(t *table) reported {
	return reported{
		notAfter: t.gauge("certd_certificate_not_after_timestamp_seconds", "When a certificate ends. One that was delivered and the one in use may differ, and the one in use counts: when that of linkerd-identity ends, so does every workload certificate of the cluster.",
			"cluster", "kind", "name", "seen_in"),
		renewAt: t.gauge("certd_certificate_renew_at_timestamp_seconds", "When its renewal becomes due: the first firing of the schedule after which fewer than two more come before it must be renewed. Of the trust anchor: when it comes into `trust.renewBefore`.",
			"cluster", "kind", "name"),
		planned: t.gauge("certd_certificate_planned_rotation_timestamp_seconds", "When certd renews it, spread included. It stays in the past until that is done. Absent where certd only watches.",
			"cluster", "kind", "name"),
		info:          t.gauge("certd_certificate_info", "1 for the certificate that was delivered last.", "cluster", "kind", "name", "serial", "anchor"),
		loaded:        t.gauge("certd_issuer_loaded", "Whether every replica of linkerd-identity uses the issuer that was delivered.", "cluster"),
		bundle:        t.gauge("certd_trust_bundle_current", "Whether the trust bundle in the cluster is the one that certd publishes. Absent where certd only watches.", "cluster"),
		floor:         t.gauge("certd_emergency_floor_seconds", "What the issuer must have left at least: the longest workload certificate, clocks, and the time that a repair may take (`linkerd.leafLifetime`, `linkerd.clockSkew`, `repair`, and what the cluster runs with where that is more).", "cluster"),
		proxies:       t.gauge("certd_proxies", "Meshed pods by what they trust, at the last count.", "cluster", "trust"),
		up:            t.gauge("certd_cluster_up", "Whether the last look at the cluster succeeded.", "cluster"),
		contact:       t.gauge("certd_cluster_last_contact_timestamp_seconds", "When a look at it last succeeded.", "cluster"),
		clusters:      t.gauge("certd_clusters", "Clusters by state.", "state"),
		findings:      t.gauge("certd_findings", "How many findings of an id there are; absent: none.", "cluster", "id", "severity"),
		deadline:      t.gauge("certd_finding_deadline_timestamp_seconds", "Until when findings of an id can wait, the earliest of them; absent where none has a time.", "cluster", "id"),
		nothingBreaks: t.gauge("certd_nothing_breaks_before_timestamp_seconds", "When the first thing stops working if certd does nothing more."),
		phase:         t.gauge("certd_trust_rotation_phase", "Where a change of the trust anchor stands.", "phase"),
		progress:      t.gauge("certd_trust_rotation_progress_timestamp_seconds", "When it last came nearer its end; absent while there is none. Nothing can happen for as long as a workload certificate lives, in its stages `bridge`, `finish` and `retire`."),
		cycle:         t.gauge("certd_cycle_last_success_timestamp_seconds", "When certd was last through with looking at a cluster and deciding about it, whatever it found. Absent while no cluster is configured."),
		leader:        t.gauge("certd_leader", "1 while this certd may write; 0 while it is a standby, and once it has seen that another took a cluster or the mirror over."),
		build:         t.gauge("certd_build_info", "1, for this build.", "version", "revision", "goversion"),
		reload:        t.gauge("certd_config_last_reload_successful", "0 while a changed configuration is refused and the former one is in force."),
		reloadedAt:    t.gauge("certd_config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded."),
		store:         t.gauge("certd_store_size_bytes", "Size of the journal's file."),
		vault:         t.gauge("certd_vault_up", "Whether Vault answers and is unsealed, asked each minute. It does not say that certd can sign there: the findings `KeysUnavailable`, `KeysDenied` and `KeyUnfit` do. Absent where the keys are not in Vault."),
		tokenUntil:    t.gauge("certd_vault_token_expiration_timestamp_seconds", "When certd's token for Vault ends; certd renews it at half its life. Absent while there is none, and where it never ends."),
	}
}

// collector reads the report when it is asked.
type collector struct {
	reported
	table  table
	source Source
}

func newCollector(s Source) *collector {
	c := &collector{source: s}
	c.reported = newReported(&c.table)
	return c
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, row := range c.table.rows {
		to <- row.desc
	}
}

// sink takes series.
type sink chan<- prometheus.Metric

func (to sink) put(d *prometheus.Desc, value float64, labels ...string) {
	m, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, value, labels...)
	if err != nil { // a label that is no text
		m = prometheus.NewInvalidMetric(d, err)
	}
	to <- m
}

// at puts a time, if there is one.
func (to sink) at(d *prometheus.Desc, t *time.Time, labels ...string) {
	if t != nil && !t.IsZero() {
		to.put(d, float64(t.UnixMilli())/1000, labels...)
	}
}

func (to sink) flag(d *prometheus.Desc, yes bool, labels ...string) {
	value := 0.0
	if yes {
		value = 1
	}
	to.put(d, value, labels...)
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	s, st := sink(to), c.source.Status()
	s.put(c.build, 1, c.source.Version, c.source.Revision, c.source.GoVersion)
	for state, n := range map[rotation.State]int{rotation.StateOK: st.Summary.OK, rotation.StateWarning: st.Summary.Warning, rotation.StateCritical: st.Summary.Critical, rotation.StateUnknown: st.Summary.Unknown} {
		s.put(c.clusters, float64(n), string(state))
	}
	s.at(c.nothingBreaks, st.NothingBreaksBefore)
	if d := st.Daemon; d != nil {
		s.at(c.cycle, d.LastCycleAt)
		s.put(c.store, float64(d.StoreBytes))
	}
	c.trust(s, st.Trust)
	c.judged(s, "", st.Findings)
	leads, refused := st.Election == nil || st.Election.Role == rotation.RoleLeader, false
	for _, f := range st.Findings {
		leads = leads && f.ID != "SecondDaemon"
		refused = refused || f.ID == "ConfigReloadFailed"
	}
	for i := range st.Clusters {
		cl := &st.Clusters[i]
		c.cluster(s, cl, st.Trust.Active != nil)
		for _, f := range cl.Findings {
			leads = leads && f.ID != "Deposed"
		}
	}
	s.flag(c.leader, leads)
	s.flag(c.reload, !refused)
	c.recorder(s)
}

func (c *collector) recorder(s sink) {
	r := c.source.Recorder
	r.mu.Lock()
	reloaded, up, at := r.reloadedAt, r.vaultUp, r.vaultAt
	r.mu.Unlock()
	s.at(c.reloadedAt, &reloaded)
	if c.source.TokenExpires == nil {
		return
	}
	until := c.source.TokenExpires()
	s.at(c.tokenUntil, &until)
	if !at.IsZero() && time.Since(at) < vaultFor {
		s.flag(c.vault, up)
	}
}

func (c *collector) trust(s sink, t rotation.TrustStatus) {
	anchors := t.Others
	if t.Active != nil {
		anchors = append([]rotation.AnchorStatus{*t.Active}, anchors...)
		s.at(c.renewAt, t.RenewAt, "", kindAnchor, t.Active.ID)
	}
	for _, a := range anchors {
		s.at(c.notAfter, &a.NotAfter, "", kindAnchor, a.ID, "journal")
	}
	if t.Rotation == nil {
		return
	}
	for _, phase := range []string{"idle", "create", "bridge", "spread", "restart", "finish", "retire", "rollback"} {
		s.flag(c.phase, t.Rotation.Phase == phase, phase)
	}
	s.at(c.progress, t.Rotation.ProgressAt)
}

// judged puts findings: of one cluster, or of the fleet.
func (c *collector) judged(s sink, cluster string, findings []rotation.Finding) {
	type judgement struct {
		id       string
		severity rotation.State
	}
	count, deadline := map[judgement]int{}, map[string]*time.Time{}
	for _, f := range findings {
		count[judgement{f.ID, f.Severity}]++
		if was := deadline[f.ID]; f.Deadline != nil && (was == nil || f.Deadline.Before(*was)) {
			deadline[f.ID] = f.Deadline
		}
	}
	for j, n := range count {
		s.put(c.findings, float64(n), cluster, j.id, string(j.severity))
	}
	for id, at := range deadline {
		s.at(c.deadline, at, cluster, id)
	}
}

// cluster puts what is known of one. Without an anchor there is no bundle that
// certd could publish.
func (c *collector) cluster(s sink, cl *rotation.ClusterStatus, anchor bool) {
	managed, seen := cl.Managed(), cl.Reachable != nil && *cl.Reachable
	if cl.Reachable != nil {
		s.flag(c.up, seen, cl.Name)
	}
	s.at(c.contact, cl.LastContact, cl.Name)
	c.judged(s, cl.Name, cl.Findings)
	if seen && managed && (anchor || cl.Bundle != nil) {
		s.flag(c.bundle, cl.Bundle != nil && cl.Bundle.Current, cl.Name)
	}
	if cl.Bundle != nil {
		c.partners(s, cl.Name, cl.Bundle.Anchors)
	}
	if p := cl.Proxies; seen && p != nil && p.Problem == "" {
		s.put(c.proxies, float64(p.Current), cl.Name, "current")
		s.put(c.proxies, float64(p.Stale), cl.Name, "stale")
		s.put(c.proxies, float64(p.Unknown), cl.Name, "unknown")
	}
	if i := cl.Issuer; i != nil {
		c.delivered(s, cl.Name, kindIssuer, rotation.IssuerObject, i.Delivered)
		if i.Loaded != nil {
			s.at(c.notAfter, i.Loaded.NotAfter, cl.Name, kindIssuer, rotation.IssuerObject, "identity")
			if i.Loaded.State != "unknown" {
				s.flag(c.loaded, i.Loaded.State == "yes", cl.Name)
			}
		}
		if i.FloorSeconds > 0 {
			s.put(c.floor, float64(i.FloorSeconds), cl.Name)
		}
		if managed {
			c.dates(s, cl.Name, kindIssuer, rotation.IssuerObject, i.RenewAt, i.NextRun)
		}
	}
	renews := false
	for _, w := range cl.Webhooks {
		c.delivered(s, cl.Name, kindWebhook, w.Name, w.Delivered)
		if w.Served != nil {
			s.at(c.notAfter, w.Served.NotAfter, cl.Name, kindWebhook, w.Name, "webhook")
		}
		if managed && w.Mode == string(rotation.Managed) {
			renews = true
			c.dates(s, cl.Name, kindWebhook, w.Name, w.RenewAt, w.NextRun)
		}
	}
	if ca := cl.WebhookCA; ca != nil {
		s.at(c.notAfter, &ca.NotAfter, cl.Name, kindWebhookCA, ca.ID, "journal")
		if renews {
			c.dates(s, cl.Name, kindWebhookCA, ca.ID, ca.RenewAt, ca.NextRun)
		}
	}
}

func (c *collector) delivered(s sink, cluster, kind, name string, d *rotation.Delivered) {
	if d != nil {
		s.at(c.notAfter, &d.NotAfter, cluster, kind, name, "secret")
		s.put(c.info, 1, cluster, kind, name, d.Serial, d.Anchor)
	}
}

func (c *collector) dates(s sink, cluster, kind, name string, renewAt, nextRun *time.Time) {
	s.at(c.renewAt, renewAt, cluster, kind, name)
	s.at(c.planned, nextRun, cluster, kind, name)
}

// partners puts the ends of partner meshes' anchors; one mesh may have several.
func (c *collector) partners(s sink, cluster string, anchors []rotation.AnchorRef) {
	ends := map[string]time.Time{}
	for _, a := range anchors {
		if was, there := ends[a.Foreign]; a.Foreign != "" && (!there || a.NotAfter.Before(was)) {
			ends[a.Foreign] = a.NotAfter
		}
	}
	for mesh, end := range ends {
		s.at(c.notAfter, &end, cluster, kindForeign, mesh, "bundle")
	}
}
