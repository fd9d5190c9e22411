package alert

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"certd.internal/docs/runbooks"
)

// What is always so in these tests: a certd, and a floor of an hour in cluster eu.
var usual = []string{
	`certd_build_info{job="certd"} 1x1600`,
	`certd_emergency_floor_seconds{job="certd", cluster="eu"} 3600x1600`,
}

const (
	issuer  = `{job="certd", cluster="eu", kind="issuer", name="linkerd-identity-issuer"}`
	webhook = `{job="certd", cluster="eu", kind="webhook", name="proxy-injector"}`
	anchor  = `{job="certd", kind="anchor", name="g1"}`
)

// A row is a world, and what one alert makes of it.
type row struct {
	name    string
	alert   string
	series  []string // beside the usual
	alone   bool     // without the usual
	silent  string   // an instant at which the alert is silent
	firing  string   // a later one at which it fires; "": never
	labels  string   // of the alert: "job=certd cluster=eu"
	summary string
	ticket  bool // of two rules with this name
}

func (r row) is(a Alert) bool {
	two := a.Name == "CertdTrustAnchorExpires"
	return r.alert == a.Name && (!two || r.ticket == (a.Severity == Ticket))
}

// Prometheus itself (promtool) goes through each alert: silent while nothing is wrong
// yet, firing when it is, with the labels and texts that people are to see. Time begins
// at 0, and a value is there for each minute.
func TestEachAlertIsSilentBeforeAndFiresAfter(t *testing.T) {
	rows := []row{
		{name: "the issuer in the Secret ends", alert: "CertdIssuerExpired",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="secret"`) + ` 7200x300`},
			silent: "119m", firing: "122m", labels: "job=certd cluster=eu kind=issuer name=linkerd-identity-issuer", summary: "The issuer of eu has ended"},
		{name: "the issuer in use ends, though a newer one is in the Secret", alert: "CertdIssuerExpired",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="secret"`) + ` 604800x300`, `certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="identity"`) + ` 7200x300`},
			silent: "119m", firing: "122m", labels: "job=certd cluster=eu kind=issuer name=linkerd-identity-issuer", summary: "The issuer of eu has ended"},
		{name: "a webhook's certificate ends", alert: "CertdWebhookExpired",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(webhook, `seen_in="secret"`) + ` 7200x300`},
			silent: "119m", firing: "122m", labels: "job=certd cluster=eu kind=webhook name=proxy-injector", summary: "The certificate of webhook proxy-injector in eu has ended"},

		{name: "the issuer in use comes below the floor", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="identity"`) + ` 7200x300`},
			silent: "60m", firing: "66m", labels: "job=certd cluster=eu kind=issuer name=linkerd-identity-issuer", summary: "The issuer in use in eu ends in 54m 0s"},
		{name: "a renewed issuer is safe again", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="identity"`) + ` 7200x62 604800x300`}, silent: "66m"},
		{name: "an issuer that has ended is another alert", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="identity"`) + ` 7200x300`}, silent: "130m"},
		{name: "a webhook that certd did not renew in time", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(webhook, `seen_in="secret"`) + ` 7200x300`, `certd_certificate_planned_rotation_timestamp_seconds` + webhook + ` 3000x300`},
			silent: "60m", firing: "66m", labels: "job=certd cluster=eu kind=webhook name=proxy-injector", summary: "The webhook in use in eu ends in 54m 0s"},
		{name: "a webhook that cert-manager renews in its last hour", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(webhook, `seen_in="secret"`) + ` 7200x300`}, silent: "90m"},
		{name: "a short-lived webhook before its slot", alert: "CertdCertificateExpiresSoon",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(webhook, `seen_in="secret"`) + ` 7200x300`, `certd_certificate_planned_rotation_timestamp_seconds` + webhook + ` 6000x300`}, silent: "90m"},

		{name: "a cluster is away and something is due", alert: "CertdClusterUnreachableAndDue",
			series: []string{`certd_cluster_up{job="certd", cluster="eu"} 0x300`, `certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="secret"`) + ` 10800x300`, `certd_certificate_planned_rotation_timestamp_seconds` + issuer + ` 600x300`},
			silent: "60m", firing: "76m", labels: "job=certd cluster=eu", summary: "eu does not answer, and a certificate there ends in 1h 44m 0s"},
		{name: "a cluster is away and nothing is due", alert: "CertdClusterUnreachableAndDue",
			series: []string{`certd_cluster_up{job="certd", cluster="eu"} 0x300`, `certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="secret"`) + ` 10800x300`, `certd_certificate_planned_rotation_timestamp_seconds` + issuer + ` 9000x300`}, silent: "100m"},
		{name: "something is due and the cluster answers", alert: "CertdClusterUnreachableAndDue",
			series: []string{`certd_cluster_up{job="certd", cluster="eu"} 1x300`, `certd_certificate_not_after_timestamp_seconds` + with(issuer, `seen_in="secret"`) + ` 10800x300`, `certd_certificate_planned_rotation_timestamp_seconds` + issuer + ` 600x300`}, silent: "100m"},
		{name: "a cluster is away", alert: "CertdClusterUnreachable",
			series: []string{`certd_cluster_up{job="certd", cluster="eu"} 1x10 0x300`}, silent: "60m", firing: "72m", labels: "job=certd cluster=eu", summary: "certd has not reached eu for an hour"},
		{name: "the certd that stands by does not reach it, the other does", alert: "CertdClusterUnreachable",
			series: []string{`certd_cluster_up{job="certd", instance="a", cluster="eu"} 1x300`, `certd_cluster_up{job="certd", instance="b", cluster="eu"} 0x300`}, silent: "90m"},

		{name: "certd is gone for longer than the mesh can bear", alert: "CertdAbsentAndDue", alone: true,
			series: []string{`certd_build_info{job="certd"} 1x10 stale`, `certd_emergency_floor_seconds{job="certd", cluster="eu"} 3600x10 stale`, `certd_nothing_breaks_before_timestamp_seconds{job="certd"} 99900x10 stale`},
			silent: "1559m", firing: "1562m", labels: "job=certd", summary: "certd (certd) is gone, and the first certificate ends in 1h 43m 0s"},
		{name: "another certd does not stand in for it", alert: "CertdAbsentAndDue", alone: true,
			series: []string{`certd_build_info{job="certd"} 1x10 stale`, `certd_build_info{job="other"} 1x300`, `certd_emergency_floor_seconds{job="certd", cluster="eu"} 3600x10 stale`, `certd_nothing_breaks_before_timestamp_seconds{job="certd"} 10800x10 stale`},
			silent: "60m", firing: "76m", labels: "job=certd", summary: "certd (certd) is gone, and the first certificate ends in 1h 44m 0s"},
		{name: "the one that led is gone, and the other stands by", alert: "CertdAbsentAndDue", alone: true,
			series: []string{`certd_leader{job="certd", instance="a"} 1x10 stale`, `certd_leader{job="certd", instance="b"} 0x300`, `certd_build_info{job="certd", instance="b"} 1x300`, `certd_emergency_floor_seconds{job="certd", cluster="eu"} 3600x10 stale`, `certd_nothing_breaks_before_timestamp_seconds{job="certd"} 10800x10 stale`},
			silent: "60m", firing: "76m", labels: "job=certd", summary: "certd (certd) is gone, and the first certificate ends in 1h 44m 0s"},
		{name: "certd runs, whatever is due", alert: "CertdAbsentAndDue",
			series: []string{`certd_leader{job="certd"} 1x300`, `certd_nothing_breaks_before_timestamp_seconds{job="certd"} 10800x300`}, silent: "100m"},
		{name: "a webhook does not work", alert: "CertdWebhookBroken",
			series: []string{`certd_findings{job="certd", cluster="eu", id="WebhookUntrusted", severity="critical"} _x10 1x100`}, silent: "19m", firing: "21m",
			labels: "job=certd cluster=eu id=WebhookUntrusted", summary: "A webhook in eu does not work (WebhookUntrusted)"},
		{name: "the key can be exported", alert: "CertdKeyExportable",
			series: []string{`certd_findings{job="certd", id="KeyExportable", severity="critical"} _x10 1x100`}, silent: "14m", firing: "16m", labels: "job=certd", summary: "The trust anchor's key can be exported (certd)"},
		{name: "Vault refuses certd", alert: "CertdCannotSign",
			series: []string{`certd_findings{job="certd", id="KeysDenied", severity="warning"} _x10 1x100`}, silent: "39m", firing: "41m", labels: "job=certd id=KeysDenied", summary: "certd (certd) cannot sign (KeysDenied)"},
		{name: "the clocks do not agree", alert: "CertdClockSkew",
			series: []string{`certd_findings{job="certd", cluster="eu", id="ClockSkew", severity="critical"} _x10 1x100`}, silent: "24m", firing: "26m", labels: "job=certd cluster=eu", summary: "The clocks of certd and of eu do not agree"},
		{name: "a cluster's critical finding", alert: "CertdCriticalFinding",
			series: []string{`certd_findings{job="certd", cluster="eu", id="Deposed", severity="critical"} _x10 1x100`}, silent: "24m", firing: "26m", labels: "job=certd cluster=eu id=Deposed", summary: "Deposed in eu"},
		{name: "the fleet's critical finding", alert: "CertdCriticalFinding",
			series: []string{`certd_findings{job="certd", id="JournalFailed", severity="critical"} _x10 1x100`}, silent: "24m", firing: "26m", labels: "job=certd id=JournalFailed", summary: "JournalFailed"},
		{name: "one that another alert is about", alert: "CertdCriticalFinding",
			series: []string{`certd_findings{job="certd", cluster="eu", id="ClockSkew", severity="critical"} 1x100`, `certd_findings{job="certd", cluster="eu", id="Deposed", severity="warning"} 1x100`}, silent: "60m"},
		{name: "no certd", alert: "CertdAbsent", alone: true,
			series: []string{`certd_build_info{job="certd"} 1x10 stale`}, silent: "24m", firing: "27m", summary: "No certd is scraped"},
		{name: "the leader is gone, and nobody is elected", alert: "CertdNobodyLeads", alone: true,
			series: []string{`certd_leader{job="certd", instance="a"} 1x10 0x300`, `certd_leader{job="certd", instance="b"} 0x300`}, silent: "25m", firing: "27m", labels: "job=certd", summary: "No certd (certd) leads"},
		{name: "one leads, the other stands by", alert: "CertdNobodyLeads",
			series: []string{`certd_leader{job="certd", instance="a"} 0x300`, `certd_leader{job="certd", instance="b"} 1x300`}, silent: "90m"},
		{name: "another certd has deposed it", alert: "CertdNobodyLeads",
			series: []string{`certd_leader{job="certd"} 0x300`, `certd_findings{job="certd", cluster="eu", id="Deposed", severity="critical"} 1x300`}, silent: "90m"},

		{name: "an anchor has 60 days left", alert: "CertdTrustAnchorExpires",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(anchor, `seen_in="secret"`) + ` 5191200x600`, `certd_certificate_renew_at_timestamp_seconds` + anchor + ` -172800x600`},
			silent: "59m", firing: "183m", labels: "job=certd name=g1", summary: "Trust anchor g1 ends in 59d 22h 57m 0s"},
		{name: "an anchor has a year left", alert: "CertdTrustAnchorExpires", ticket: true,
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(anchor, `seen_in="secret"`) + ` 31543200x600`, `certd_certificate_renew_at_timestamp_seconds` + anchor + ` -172800x600`},
			silent: "119m", firing: "183m", labels: "job=certd name=g1", summary: "Trust anchor g1 ends in 364d 22h 57m 0s"},
		{name: "an anchor of a year that is not due", alert: "CertdTrustAnchorExpires",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(anchor, `seen_in="secret"`) + ` 5000000x600`, `certd_certificate_renew_at_timestamp_seconds` + anchor + ` 400000x600`}, silent: "183m"},
		{name: "an anchor of a year, of a change or an adopted mesh, is no ticket", alert: "CertdTrustAnchorExpires",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(anchor, `seen_in="journal"`) + ` 9000000x600`}, silent: "183m"},
		{name: "an anchor that certd cannot renew", alert: "CertdTrustAnchorExpires",
			series: []string{`certd_certificate_not_after_timestamp_seconds` + with(anchor, `seen_in="secret"`) + ` 5000000x600`},
			silent: "59m", firing: "61m", labels: "job=certd name=g1", summary: "Trust anchor g1 ends in 57d 19h 52m 20s"},

		{name: "the issuer is not loaded", alert: "CertdIssuerNotLoaded",
			series: []string{`certd_issuer_loaded{job="certd", cluster="eu"} 1x10 0x300`}, silent: "25m", firing: "27m", labels: "job=certd cluster=eu", summary: "linkerd-identity in eu does not use the issuer that was delivered"},
		{name: "a renewal is late", alert: "CertdRotationOverdue",
			series: []string{`certd_certificate_planned_rotation_timestamp_seconds` + issuer + ` 3600x300`}, silent: "85m", firing: "87m",
			labels: "job=certd cluster=eu kind=issuer name=linkerd-identity-issuer", summary: "The issuer linkerd-identity-issuer in eu should have been renewed 27m 0s ago"},
		{name: "the bundle is not current", alert: "CertdTrustBundleNotCurrent",
			series: []string{`certd_trust_bundle_current{job="certd", cluster="eu"} 1x10 0x300`}, silent: "70m", firing: "72m", labels: "job=certd cluster=eu", summary: "The trust bundle of eu is not what it should be"},
		{name: "repaired again and again", alert: "CertdDriftRepeats",
			series: []string{`certd_drift_repaired_total{job="certd", cluster="eu", object="linkerd-identity-trust-roots", by="helm"} 0x60 1 2 3 4 5 6 7 8x300`}, silent: "60m", firing: "75m",
			labels: "job=certd cluster=eu object=linkerd-identity-trust-roots by=helm", summary: "Somebody keeps changing linkerd-identity-trust-roots in eu"},
		{name: "repaired once", alert: "CertdDriftRepeats",
			series: []string{`certd_drift_repaired_total{job="certd", cluster="eu", object="linkerd-identity-trust-roots", by="helm"} 0x60 1x300`}, silent: "75m"},

		{name: "rotations fail", alert: "CertdRotationsFailing",
			series: []string{`certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="ok"} 0+1x60 61x400`, `certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="error"} 0x60 0+1x400`},
			silent: "70m", firing: "100m", labels: "job=certd", summary: "65% of certd's rotations fail (certd)"},
		{name: "one blip", alert: "CertdRotationsFailing",
			series: []string{`certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="ok"} 0+1x400`, `certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="error"} 0x360 0+1x20 20x100`}, silent: "390m"},
		{name: "one rotation of few took three attempts", alert: "CertdRotationsFailing",
			series: []string{`certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="ok"} 0x62 1x400`, `certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="error"} 0x60 1 2x400`}, silent: "75m"},
		{name: "it is over", alert: "CertdRotationsFailing",
			series: []string{`certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="ok"} 0x90 1x400`, `certd_rotations_total{job="certd", cluster="eu", kind="issuer", result="error"} 0x60 0+1x30 30x200`}, silent: "110m"},
		{name: "a change of the anchor does not move", alert: "CertdTrustRotationStalled",
			series: []string{`certd_trust_rotation_phase{job="certd", phase="idle"} 0x300`, `certd_trust_rotation_phase{job="certd", phase="restart"} 1x300`, `certd_trust_rotation_phase{job="certd", phase="finish"} 0x300`, `certd_trust_rotation_progress_timestamp_seconds{job="certd"} 600x300`},
			silent: "130m", firing: "131m", labels: "job=certd phase=restart", summary: "The change of the trust anchor has not moved in stage restart"},
		{name: "no change of the anchor", alert: "CertdTrustRotationStalled",
			series: []string{`certd_trust_rotation_phase{job="certd", phase="idle"} 1x300`, `certd_trust_rotation_phase{job="certd", phase="restart"} 0x300`, `certd_trust_rotation_progress_timestamp_seconds{job="certd"} 600x300`}, silent: "200m"},
		{name: "stale proxies", alert: "CertdProxiesStale",
			series: []string{`certd_proxies{job="certd", cluster="eu", trust="stale"} 0x10 3x1000`, `certd_proxies{job="certd", cluster="eu", trust="current"} 40x1000`, `certd_trust_rotation_phase{job="certd", phase="idle"} 1x1000`},
			silent: "730m", firing: "732m", labels: "job=certd cluster=eu", summary: "3 meshed pods in eu trust other anchors than the bundle"},
		{name: "stale proxies while the anchor is changed", alert: "CertdProxiesStale",
			series: []string{`certd_proxies{job="certd", cluster="eu", trust="stale"} 3x1000`, `certd_trust_rotation_phase{job="certd", phase="idle"} 0x1000`, `certd_trust_rotation_phase{job="certd", phase="restart"} 1x1000`}, silent: "800m"},

		{name: "Vault is away", alert: "CertdVaultUnavailable",
			series: []string{`certd_vault_up{job="certd"} 1x10 0x300`}, silent: "25m", firing: "27m", labels: "job=certd", summary: "certd (certd) cannot use Vault"},
		{name: "the token is not renewed any more", alert: "CertdVaultTokenExpires",
			series: []string{`certd_vault_token_expiration_timestamp_seconds{job="certd"} ` + strings.TrimSpace(renewed(20, 1800, 3600)) + ` 39600x300`}, silent: "649m", firing: "656m", labels: "job=certd", summary: "The Vault token of certd (certd) ends in 4m 0s"},
		{name: "an hour's token that is renewed at half of its life", alert: "CertdVaultTokenExpires",
			series: []string{`certd_vault_token_expiration_timestamp_seconds{job="certd"} ` + renewed(20, 1800, 3600)}, silent: "590m"},
		{name: "certd does not look any more", alert: "CertdCycleStalled",
			series: []string{`certd_cycle_last_success_timestamp_seconds{job="certd"} 0+60x60 3600x100`}, silent: "94m", firing: "96m", labels: "job=certd", summary: "certd (certd) has not looked at its clusters for 36m 0s"},
		{name: "a refused configuration", alert: "CertdConfigReloadFailed",
			series: []string{`certd_config_last_reload_successful{job="certd"} 1x10 0x100`}, silent: "15m", firing: "17m", labels: "job=certd", summary: "certd (certd) refused its changed configuration"},
		{name: "notifications fail", alert: "CertdNotifyFailing",
			series: []string{`certd_notifications_total{job="certd", receiver="pager", result="ok"} 1x300`, `certd_notifications_total{job="certd", receiver="pager", result="error"} 0x60 0+1x200`},
			silent: "70m", firing: "80m", labels: "job=certd receiver=pager", summary: "Notifications do not reach pager"},
		{name: "a notification that took two attempts", alert: "CertdNotifyFailing",
			series: []string{`certd_notifications_total{job="certd", receiver="pager", result="ok"} 1x62 2x200`, `certd_notifications_total{job="certd", receiver="pager", result="error"} 0x60 1x200`}, silent: "80m"},
	}
	for _, a := range Alerts() {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.firing != "" && r.is(a) }) {
			t.Errorf("no row lets %s (%s) fire", a.Name, a.Severity)
		}
	}
	tests := map[string][]any{}
	for _, r := range rows {
		series := r.series
		if !r.alone {
			series = append(slices.Clone(usual), series...)
		}
		var input []any
		for _, s := range series {
			name, values, _ := strings.Cut(s, "} ")
			input = append(input, map[string]any{"series": name + "}", "values": values})
		}
		when := []any{map[string]any{"alertname": r.alert, "eval_time": r.silent}}
		if r.firing != "" {
			i := slices.IndexFunc(Alerts(), func(a Alert) bool { return a.Name == r.alert && (!r.ticket || a.Severity == Ticket) })
			if i < 0 {
				t.Fatalf("%s: there is no alert %s", r.name, r.alert)
			}
			a := Alerts()[i]
			page, _ := runbooks.Find(a.Name)
			leads := page.Name
			labels, in := map[string]any{"severity": string(a.Severity)}, a.Description
			for pair := range strings.FieldsSeq(r.labels) {
				name, value, _ := strings.Cut(pair, "=")
				labels[name] = value
				in = strings.ReplaceAll(in, "{{ $labels."+name+" }}", value)
				if name == "id" && a.ByFinding {
					leads = value
				}
			}
			when = append(when, map[string]any{"alertname": r.alert, "eval_time": r.firing, "exp_alerts": []any{map[string]any{
				"exp_labels":      labels,
				"exp_annotations": map[string]any{"summary": r.summary, "description": in, "runbook": "certd runbook " + leads},
			}}})
		}
		tests[r.alert] = append(tests[r.alert], map[string]any{"name": r.alert + ": " + r.name, "interval": "1m", "input_series": input, "alert_rule_test": when})
	}
	dir := t.TempDir()
	args := []string{"test", "rules"}
	for name, rows := range tests {
		// Each with the rules that it is about: all of them, minute after minute, would
		// take most of the time.
		put(t, dir, name+".rules.yaml", func() ([]byte, error) {
			return ruleFile(slices.DeleteFunc(Alerts(), func(a Alert) bool { return a.Name != name }))
		})
		put(t, dir, name+".yaml", func() ([]byte, error) {
			return yaml.Marshal(map[string]any{"rule_files": []string{name + ".rules.yaml"}, "evaluation_interval": "1m", "tests": rows})
		})
		args = append(args, name+".yaml")
	}
	promtool(t, dir, args...)
	put(t, dir, "rules.yaml", Rules)
	promtool(t, dir, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
}

// with adds a label to a selector.
func with(selector, label string) string {
	return strings.TrimSuffix(selector, "}") + ", " + label + "}"
}

// renewed are the values of a time that is set ahead again and again.
func renewed(times, every, ahead int) string {
	var b strings.Builder
	for i := range times {
		fmt.Fprintf(&b, "%dx%d ", i*every+ahead, every/60-1)
	}
	return b.String()
}

func put(t *testing.T, dir, name string, text func() ([]byte, error)) {
	t.Helper()
	b, err := text()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("promtool %s: %v (make deps installs it)\n%s", strings.Join(args, " "), err, out.String())
	}
}
