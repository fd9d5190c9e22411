package alert

// A Metric is one that rules and dashboard may use.
type Metric struct {
	Name   string
	Type   string   // gauge, counter or histogram
	Labels []string // beside job and instance, which Prometheus gives
}

// Metrics are those of certd that rules and dashboard are written against.
// Names and labels keep their meaning: dashboards that others made use them, too.
func Metrics() []Metric {
	certificate := []string{"cluster", "kind", "name"}
	return []Metric{
		{"certd_build_info", "gauge", []string{"version", "revision", "goversion"}},
		{"certd_certificate_not_after_timestamp_seconds", "gauge", append(certificate, "seen_in")},
		{"certd_certificate_renew_at_timestamp_seconds", "gauge", certificate},
		{"certd_certificate_planned_rotation_timestamp_seconds", "gauge", certificate},
		{"certd_emergency_floor_seconds", "gauge", []string{"cluster"}},
		{"certd_findings", "gauge", []string{"cluster", "id", "severity"}},
		{"certd_clusters", "gauge", []string{"state"}},
		{"certd_nothing_breaks_before_timestamp_seconds", "gauge", nil},
		{"certd_issuer_loaded", "gauge", []string{"cluster"}},
		{"certd_trust_bundle_current", "gauge", []string{"cluster"}},
		{"certd_proxies", "gauge", []string{"cluster", "trust"}},
		{"certd_cluster_up", "gauge", []string{"cluster"}},
		{"certd_cluster_last_contact_timestamp_seconds", "gauge", []string{"cluster"}},
		{"certd_rotations_total", "counter", []string{"cluster", "kind", "result"}},
		{"certd_rotation_duration_seconds", "histogram", []string{"kind"}},
		{"certd_drift_repaired_total", "counter", []string{"cluster", "object", "by"}},
		{"certd_trust_rotation_phase", "gauge", []string{"phase"}},
		{"certd_trust_rotation_progress_timestamp_seconds", "gauge", nil},
		{"certd_cycle_last_success_timestamp_seconds", "gauge", nil},
		{"certd_leader", "gauge", nil},
		{"certd_vault_up", "gauge", nil},
		{"certd_vault_token_expiration_timestamp_seconds", "gauge", nil},
		{"certd_vault_request_duration_seconds", "histogram", []string{"operation", "code"}},
		{"certd_config_last_reload_successful", "gauge", nil},
		{"certd_store_size_bytes", "gauge", nil},
		{"certd_notifications_total", "counter", []string{"receiver", "result"}},
	}
}
