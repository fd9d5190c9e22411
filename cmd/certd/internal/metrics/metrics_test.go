package metrics

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"certd.internal/rotation"
)

var update = flag.Bool("update", false, "rewrite the golden files and docs/reference/metrics.md")

const (
	hour = time.Hour
	day  = 24 * hour
)

var now = time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)

func after(d time.Duration) *time.Time { t := now.Add(d); return &t }

func yes(b bool) *bool { return &b }

// meshed is a cluster with an issuer and so many webhooks, all of them well.
func meshed(name string, webhooks int) rotation.ClusterStatus {
	c := rotation.ClusterStatus{Name: name, State: rotation.StateOK, Mode: "managed", Namespace: "linkerd", LastContact: after(-20 * time.Second), Reachable: yes(true),
		Bundle: &rotation.BundleStatus{Current: true, Anchors: []rotation.AnchorRef{{ID: "g1"}}},
		Issuer: &rotation.IssuerStatus{Delivered: &rotation.Delivered{Serial: "5e91", NotAfter: *after(6 * day), Anchor: "g1"}, Loaded: &rotation.Loaded{State: "yes", NotAfter: after(6*day + time.Second)},
			RenewAt: after(day), NextRun: after(day + hour), FloorSeconds: 129640},
		WebhookCA: &rotation.WebhookCAStatus{AnchorStatus: rotation.AnchorStatus{ID: "w1", NotAfter: *after(700 * day)}, RenewAt: after(500 * day), NextRun: after(501 * day)},
		Proxies:   &rotation.ProxiesStatus{Total: 12, Current: 9, Stale: 2, Unknown: 1, At: after(-hour)},
	}
	for i := range webhooks {
		c.Webhooks = append(c.Webhooks, rotation.WebhookStatus{Name: fmt.Sprint("webhook-", i), Mode: "managed", Delivered: &rotation.Delivered{Serial: fmt.Sprint("77a", i), NotAfter: *after(20 * day), Anchor: "w1"},
			Served: &rotation.Loaded{State: "yes", NotAfter: after(20 * day)}, RenewAt: after(10 * day), NextRun: after(11 * day)})
	}
	return c
}

// fleet is a fleet of them.
func fleet(clusters ...rotation.ClusterStatus) rotation.FleetStatus {
	st := rotation.FleetStatus{Fleet: "acme", ObservedAt: now, Source: "daemon",
		Trust: rotation.TrustStatus{Active: &rotation.AnchorStatus{ID: "g1", NotAfter: *after(3000 * day)}, RenewAt: after(2270 * day),
			Rotation: &rotation.RotationStatus{Phase: "idle"}},
		Clusters: clusters, Daemon: &rotation.DaemonStatus{LastCycleAt: after(-2 * time.Second), StoreBytes: 65536}}
	st.Conclude()
	return st
}

// source is a daemon with that status.
func source(st rotation.FleetStatus) Source {
	return Source{Status: func() rotation.FleetStatus { return st }, Recorder: NewRecorder(), Version: "1.2.3", Revision: "abcdef", GoVersion: "go1.26"}
}

// scrape is what certd says of itself, as Prometheus reads it.
func scrape(t testing.TB, s Source) string {
	t.Helper()
	var complaints bytes.Buffer
	w := httptest.NewRecorder()
	Handler(s, log.New(&complaints, "", 0)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 || complaints.Len() > 0 {
		t.Fatalf("%d: %s%s", w.Code, &complaints, w.Body)
	}
	return w.Body.String()
}

// series are certd's own series of a scrape, without comments and buckets.
func series(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "certd_") && !strings.Contains(line, "_bucket{") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// has says whether a scrape has a series, whatever its value.
func has(text, name string) bool { return strings.Contains("\n"+text, "\n"+name) }

func TestScrapes(t *testing.T) {
	change := func(c rotation.ClusterStatus, f func(*rotation.ClusterStatus)) rotation.ClusterStatus {
		f(&c)
		return c
	}
	for name, st := range map[string]rotation.FleetStatus{
		"healthy": fleet(meshed("east", 2), change(meshed("folder", 0), func(c *rotation.ClusterStatus) {
			c.Proxies, c.Issuer.Loaded, c.WebhookCA = nil, nil, nil
		})),
		"nothing": fleet(),
		"trouble": func() rotation.FleetStatus {
			st := fleet(
				change(meshed("away", 1), func(c *rotation.ClusterStatus) {
					c.Reachable, c.State, c.LastContact, c.Issuer.Loaded.State = yes(false), rotation.StateUnknown, after(-3*hour), "unknown"
					c.Findings = []rotation.Finding{{ID: "ClusterUnreachable", Severity: rotation.StateUnknown, Deadline: after(6 * day)}}
				}),
				change(meshed("bad", 2), func(c *rotation.ClusterStatus) {
					c.State, c.Bundle.Current = rotation.StateCritical, false
					c.Bundle.Anchors = append(c.Bundle.Anchors, rotation.AnchorRef{Foreign: "partner", NotAfter: *after(50 * day)}, rotation.AnchorRef{Foreign: "partner", NotAfter: *after(9 * day)})
					c.Issuer.Loaded = &rotation.Loaded{State: "no", NotAfter: after(hour)}
					c.Proxies.Problem = "pods cannot be listed"
					c.Findings = []rotation.Finding{{ID: "WebhookExpired", Severity: rotation.StateCritical, Deadline: after(-hour)}, {ID: "WebhookExpired", Severity: rotation.StateCritical, Deadline: after(-2 * hour)},
						{ID: "IssuerNotLoaded", Severity: rotation.StateWarning, Deadline: after(hour)}, {ID: "Deposed", Severity: rotation.StateCritical}}
				}),
				rotation.ClusterStatus{Name: "new", Mode: "managed", State: rotation.StateUnknown, Findings: []rotation.Finding{{ID: "NotSeenYet", Severity: rotation.StateUnknown}}},
				rotation.ClusterStatus{Name: "empty", Mode: "managed", State: rotation.StateWarning, Reachable: yes(true), LastContact: after(0)},
				change(meshed("watched", 1), func(c *rotation.ClusterStatus) { c.Mode, c.Webhooks[0].Mode = "watched", "watched" }))
			st.Findings = []rotation.Finding{{ID: "ConfigReloadFailed", Severity: rotation.StateWarning}}
			st.Trust.Others = []rotation.AnchorStatus{{ID: "g2", NotAfter: *after(3650 * day)}}
			st.Trust.Rotation = &rotation.RotationStatus{Phase: "restart", Stage: "restart", ProgressAt: after(-4 * hour)}
			st.Conclude()
			return st
		}(),
		"no-anchor": func() rotation.FleetStatus {
			st := fleet(rotation.ClusterStatus{Name: "east", Mode: "managed", State: rotation.StateWarning, Reachable: yes(true), LastContact: after(0)})
			st.Trust.Active, st.Trust.RenewAt, st.Daemon.LastCycleAt = nil, nil, nil
			st.Conclude()
			return st
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			s := source(st)
			s.Recorder.reloadedAt = now.Add(-5 * hour)
			got := series(scrape(t, s))
			golden := filepath.Join("testdata", name+".prom")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// everything is a daemon of which each metric has a series.
func everything(t testing.TB) Source {
	c := meshed("east", 3)
	c.Bundle.Anchors = append(c.Bundle.Anchors, rotation.AnchorRef{Foreign: "partner", NotAfter: *after(day)})
	c.Findings = []rotation.Finding{{ID: "ProxiesStale", Severity: rotation.StateWarning, Deadline: after(day)}}
	st := fleet(c)
	st.Trust.Rotation = &rotation.RotationStatus{Phase: "bridge", ProgressAt: after(-hour)}
	s := source(st)
	s.TokenExpires = func() time.Time { return now.Add(hour) }
	s.Recorder.Keep([]string{"east"})
	for _, step := range []rotation.Step{rotation.StepIssuer, rotation.StepWebhook, rotation.StepWebhookCA, rotation.StepTrustRenew, rotation.StepIssuerReload, rotation.StepRepairBundle} {
		s.Recorder.Tried(rotation.Attempt{Cluster: "east", Step: step, Object: "linkerd-identity-trust-roots", Writer: "helm", Took: time.Second})
	}
	s.Recorder.VaultRequest("sign", "200", time.Second)
	s.Recorder.VaultHealth(true)
	s.Recorder.Notified("pager", "ok", 1)
	return s
}

func TestNamesAreAsPrometheusWantsThem(t *testing.T) {
	s := everything(t)
	problems, err := testutil.GatherAndLint(s.registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(scrape(t, s))
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// described are the names of all metrics of certd's own that are registered.
func described(s Source) (names []string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		s.registry().Describe(descs)
	}()
	for d := range descs {
		if m := regexp.MustCompile(`fqName: "(certd_[a-z_]+)"`).FindStringSubmatch(d.String()); m != nil {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return names
}

// What is registered is in the reference, and the other way round; and each of
// it can have a series.
func TestTheReferenceIsWhatIsRegistered(t *testing.T) {
	const path = "../../../../docs/reference/metrics.md"
	want := Reference()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(page)); diff != "" {
		t.Errorf("docs/reference/metrics.md is out of date (make generate):\n%s", diff)
	}
	var documented, labels []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(certd_[a-z_]+)` \\| [a-z]+ \\| ([a-z_, ]*) \\|").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
		for l := range strings.SplitSeq(m[2], ", ") {
			if l != "" && !slices.Contains(labels, l) {
				labels = append(labels, l)
			}
		}
	}
	slices.Sort(documented)
	if diff := cmp.Diff(described(everything(t)), documented); diff != "" {
		t.Errorf("registered and documented differ:\n%s", diff)
	}
	slices.Sort(labels)
	if diff := cmp.Diff(labels, labelsOf()); diff != "" {
		t.Errorf("labels in use and labels explained differ:\n%s", diff)
	}
	text := scrape(t, everything(t))
	for _, name := range documented {
		if !has(text, "# HELP "+name+" ") {
			t.Errorf("%s has no series where everything is known", name)
		}
	}
}

// What the how-to gives to type is what Prometheus takes, and asks for metrics that
// there are.
func TestTheExpressionsOfTheHowTo(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/how-to/observe.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := "groups:\n- name: howto\n  rules:\n"
	all := regexp.MustCompile("(?m)^\\| [^|]*\\? \\| `([^`]+)`(?:, with `([a-z_]+)`)? \\|$").FindAllStringSubmatch(string(page), -1)
	for i, m := range all {
		rules += fmt.Sprintf("  - {record: x:%d, expr: %q}\n", i, m[1])
	}
	if len(all) < 8 {
		t.Fatalf("%d expressions were found: the test looks in the wrong place", len(all))
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s\n%s", err, out, rules)
	}
	names := described(everything(t))
	for _, name := range regexp.MustCompile(`\bcertd_[a-z_]+`).FindAllString(string(page), -1) {
		if !slices.Contains(names, name) {
			t.Errorf("there is no metric %s", name)
		}
	}
}

// What certd asks of Vault is explained, all of it and nothing else.
func TestEachOperationIsExplained(t *testing.T) {
	files, err := filepath.Glob("../../../../backends/vault/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`call\{\s*op: "([a-z-]+)"`).FindAllStringSubmatch(string(text), -1) {
			asked = append(asked, m[1])
		}
	}
	slices.Sort(asked)
	i := slices.IndexFunc(labelled(), func(l [2]string) bool { return l[0] == "operation" })
	var explained []string
	for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(labelled()[i][1], -1) {
		explained = append(explained, m[1])
	}
	slices.Sort(explained)
	if diff := cmp.Diff(slices.Compact(asked), explained); diff != "" {
		t.Error(diff)
	}
}

// Dashboards rely on these names (SURFACE).
func TestNoNameIsLost(t *testing.T) {
	names := described(everything(t))
	for _, name := range strings.Fields(`certd_build_info certd_certificate_not_after_timestamp_seconds certd_certificate_renew_at_timestamp_seconds certd_issuer_loaded
		certd_trust_bundle_current certd_proxies certd_cluster_up certd_cluster_last_contact_timestamp_seconds certd_rotations_total certd_rotation_duration_seconds
		certd_drift_repaired_total certd_trust_rotation_phase certd_cycle_last_success_timestamp_seconds certd_leader certd_vault_up certd_vault_request_duration_seconds
		certd_config_last_reload_successful certd_store_size_bytes certd_notifications_total certd_nothing_breaks_before_timestamp_seconds
		certd_certificate_planned_rotation_timestamp_seconds certd_certificate_info certd_trust_rotation_progress_timestamp_seconds
		certd_vault_token_expiration_timestamp_seconds certd_emergency_floor_seconds certd_findings`) {
		if !slices.Contains(names, name) {
			t.Errorf("%s is gone", name)
		}
	}
}

// large is a fleet of 500 clusters with four certificates each.
func large() Source {
	var clusters []rotation.ClusterStatus
	for i := range 500 {
		clusters = append(clusters, meshed(fmt.Sprintf("cluster-%03d", i), 3))
	}
	s := source(fleet(clusters...))
	var names []string
	for _, c := range clusters {
		names = append(names, c.Name)
	}
	s.Recorder.Keep(names)
	return s
}

// The number of series is what the reference promises.
func TestHowManySeriesThereAre(t *testing.T) {
	n := strings.Count(series(scrape(t, large())), "\n")
	if n < 16_000 || n > 17_500 {
		t.Errorf("%d series in 500 clusters", n)
	}
	bare := source(fleet(meshed("east", 0)))
	bare.Recorder.Keep([]string{"east"})
	empty := strings.Count(series(scrape(t, source(fleet()))), "\n")
	if n := strings.Count(series(scrape(t, bare)), "\n") - empty; n < 14 || n > 18 {
		t.Errorf("%d series of a cluster without webhooks", n)
	}
}

func TestRotationsAreCounted(t *testing.T) {
	failed := errors.New("Vault is sealed")
	for _, row := range []struct {
		sentence string
		attempt  rotation.Attempt
		want     string
	}{
		{"an issuer", rotation.Attempt{Cluster: "east", Step: rotation.StepIssuer, Took: time.Second}, `certd_rotations_total{cluster="east",kind="issuer",result="ok"} 1`},
		{"an issuer that failed", rotation.Attempt{Cluster: "east", Step: rotation.StepIssuer, Err: failed}, `certd_rotations_total{cluster="east",kind="issuer",result="error"} 1`},
		{"an issuer that was mended", rotation.Attempt{Cluster: "east", Step: rotation.StepRepairIssuer}, `certd_rotations_total{cluster="east",kind="issuer",result="ok"} 1`},
		{"an issuer that was missed", rotation.Attempt{Cluster: "east", Step: rotation.StepIssuerReload}, `certd_rotations_total{cluster="east",kind="issuer",result="not_loaded"} 1`},
		{"a reload that failed", rotation.Attempt{Cluster: "east", Step: rotation.StepIssuerReload, Err: failed}, ""},
		{"a webhook", rotation.Attempt{Cluster: "east", Step: rotation.StepWebhook}, `certd_rotations_total{cluster="east",kind="webhook",result="ok"} 1`},
		{"a webhook that was missed", rotation.Attempt{Cluster: "east", Step: rotation.StepWebhookReload}, `certd_rotations_total{cluster="east",kind="webhook",result="not_loaded"} 1`},
		{"a webhook CA", rotation.Attempt{Cluster: "east", Step: rotation.StepWebhookCA, Err: failed}, `certd_rotations_total{cluster="east",kind="webhook-ca",result="error"} 1`},
		{"an anchor", rotation.Attempt{Step: rotation.StepTrustRenew}, `certd_rotations_total{cluster="",kind="anchor",result="ok"} 1`},
		{"a change of the anchor", rotation.Attempt{Step: rotation.StepTrustChange}, `certd_rotations_total{cluster="",kind="anchor",result="ok"} 1`},
		{"a bundle", rotation.Attempt{Cluster: "east", Step: rotation.StepBundle}, ""},
	} {
		s := source(fleet())
		s.Recorder.Tried(row.attempt)
		var got []string
		for line := range strings.Lines(scrape(t, s)) {
			if strings.HasPrefix(line, "certd_rotations_total") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if strings.Join(got, "\n") != row.want {
			t.Errorf("%s: %q, want %q", row.sentence, got, row.want)
		}
		if took := has(scrape(t, s), `certd_rotation_duration_seconds_count{kind="issuer"} 1`); took != (row.attempt.Took > 0) {
			t.Errorf("%s: how long it took is counted: %t", row.sentence, took)
		}
	}
}

// Whoever writes in a cluster may call himself anything, and as many times as
// he likes.
func TestRepairsAreCounted(t *testing.T) {
	s := source(fleet())
	mended := func(cluster, writer string) {
		s.Recorder.Tried(rotation.Attempt{Cluster: cluster, Step: rotation.StepRepairBundle, Object: "linkerd-identity-trust-roots", Writer: writer})
	}
	mended("east", "helm")
	mended("east", "helm")
	mended("east", "")
	for i := range 100 {
		mended("west", fmt.Sprint("writer-", i))
	}
	mended("west", "writer-3")
	mended("north", "\xff\"\n"+strings.Repeat("x", 1000))
	s.Recorder.Tried(rotation.Attempt{Cluster: "east", Step: rotation.StepRepairBundle, Object: "x", Err: errors.New("refused")})
	text := scrape(t, s)
	for _, want := range []string{
		`certd_drift_repaired_total{by="helm",cluster="east",object="linkerd-identity-trust-roots"} 2`,
		`certd_drift_repaired_total{by="unknown",cluster="east",object="linkerd-identity-trust-roots"} 1`,
		`certd_drift_repaired_total{by="writer-3",cluster="west",object="linkerd-identity-trust-roots"} 2`,
		`certd_drift_repaired_total{by="other",cluster="west",object="linkerd-identity-trust-roots"} 92`,
		`certd_drift_repaired_total{by="?\"\n` + strings.Repeat("x", 125) + `",cluster="north",object="linkerd-identity-trust-roots"} 1`,
	} {
		if !has(text, want) {
			t.Errorf("there is no %s in\n%s", want, series(text))
		}
	}
	if n := strings.Count(text, "\ncertd_drift_repaired_total{"); n != 2+8+1+1 {
		t.Errorf("%d series", n)
	}
}

// Clusters that are configured begin at 0; those that are no longer are gone.
func TestOnlyConfiguredClustersAreCounted(t *testing.T) {
	s := source(fleet())
	s.Recorder.Keep([]string{"east", "west"})
	if text := scrape(t, s); !has(text, `certd_rotations_total{cluster="west",kind="issuer",result="error"} 0`) {
		t.Errorf("before anything happened:\n%s", series(text))
	}
	for _, c := range []string{"east", "west", ""} {
		s.Recorder.Tried(rotation.Attempt{Cluster: c, Step: rotation.StepIssuer})
		s.Recorder.Tried(rotation.Attempt{Cluster: c, Step: rotation.StepRepairTrust, Object: "x", Writer: "helm"})
	}
	s.Recorder.Keep([]string{"east"})
	text := scrape(t, s)
	if strings.Contains(text, `cluster="west"`) || !has(text, `certd_rotations_total{cluster="east",kind="issuer",result="ok"} 1`) || !has(text, `certd_rotations_total{cluster="",kind="issuer",result="ok"} 1`) {
		t.Errorf("west is gone:\n%s", series(text))
	}
}

// What was found about Vault counts for three minutes, and where it is there.
func TestVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(fleet())
		s.Recorder.VaultHealth(true)
		if text := scrape(t, s); has(text, "certd_vault_") {
			t.Errorf("the keys are not in Vault:\n%s", series(text))
		}
		until := time.Time{}
		s.TokenExpires = func() time.Time { return until }
		if text := scrape(t, s); !has(text, "certd_vault_up 1") || has(text, "certd_vault_token_expiration_timestamp_seconds") {
			t.Errorf("without a token:\n%s", series(text))
		}
		until = now
		s.Recorder.VaultHealth(false)
		if text := scrape(t, s); !has(text, "certd_vault_up 0") || !has(text, "certd_vault_token_expiration_timestamp_seconds 1.7953") {
			t.Errorf("sealed:\n%s", series(text))
		}
		time.Sleep(vaultFor)
		if text := scrape(t, s); has(text, "certd_vault_up") {
			t.Errorf("nobody has asked it lately:\n%s", series(text))
		}
		s.Recorder.VaultRequest("sign", "503", 300*time.Millisecond)
		if text := scrape(t, s); !has(text, `certd_vault_request_duration_seconds_count{code="503",operation="sign"} 1`) {
			t.Errorf("a request:\n%s", series(text))
		}
	})
}

func TestWhenTheConfigurationWasLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(fleet())
		loaded := func() string {
			return fmt.Sprintf("certd_config_last_reload_success_timestamp_seconds %v\n", float64(time.Now().Unix()))
		}
		if text := scrape(t, s); !has(text, loaded()) {
			t.Errorf("at the start:\n%s", series(text))
		}
		time.Sleep(time.Hour)
		s.Recorder.Reloaded()
		if text := scrape(t, s); !has(text, loaded()) {
			t.Errorf("reloaded:\n%s", series(text))
		}
	})
}

// A scrape of 500 clusters with four certificates each, the report being there.
func BenchmarkScrapeOf500Clusters(b *testing.B) {
	s := large()
	h := Handler(s, log.New(io.Discard, "", 0))
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
		b.ReportMetric(float64(w.Body.Len()), "bytes")
	}
}
