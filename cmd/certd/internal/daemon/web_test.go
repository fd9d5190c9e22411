package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/rotation"
	"certd.internal/state"
)

// shortDir is a folder whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "certd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// foldersConfig is a fleet of folders in a folder of its own.
func foldersConfig(t testing.TB, server string, clusters ...string) (file string) {
	t.Helper()
	dir := shortDir(t)
	text := head + "keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\ndefaults: {linkerd: {createNamespace: true}}\nserver: {socket: certd.sock" + server + "}\nclusters:\n"
	for _, c := range clusters {
		text += fmt.Sprintf("  - {name: %s, directory: clusters/%[1]s}\n", c)
	}
	for name, content := range map[string]string{"certd.yaml": text, "passphrase": "test\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "certd.yaml")
}

// addressIn is where a daemon said that it listens; "" while it has not.
type addressIn struct {
	mu   sync.Mutex
	text strings.Builder
}

func (a *addressIn) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.Write(p)
}

func (a *addressIn) listen() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for line := range strings.Lines(a.text.String()) {
		var said struct{ Msg, Listen string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "certd runs" {
			return said.Listen
		}
	}
	return ""
}

// begun runs a daemon in this process until the test ends, and returns once it
// says where it listens.
func begun(t testing.TB, file string) (address string, ended <-chan struct{}) {
	t.Helper()
	said := &addressIn{}
	d := Daemon{Getenv: func(string) string { return "" }, Stdout: io.Discard, Version: "1.2.3", Revision: "abcdef",
		Log: func(slog.Leveler, string) *slog.Logger { return slog.New(slog.NewJSONHandler(said, nil)) }}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx, file, false); err != nil {
			t.Errorf("the daemon ended: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	for said.listen() == "" {
		select {
		case <-done:
			t.FailNow()
		case <-time.After(time.Millisecond):
		}
	}
	return said.listen(), done
}

// started is begun, and returns once all of its clusters are in order.
func started(t testing.TB, file string) (address string, client *api.Client) {
	t.Helper()
	address, ended := begun(t, file)
	ctx := t.Context()
	client = api.NewClient(filepath.Join(filepath.Dir(file), "certd.sock"))
	made := false
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		st, err := client.Status(ctx)
		if err == nil && !made {
			_, err = client.Init(ctx, api.InitRequest{})
			made = err == nil
		}
		// Between a look and the decision about it there are no dates.
		if err == nil && st.Summary.OK == st.Summary.Clusters && !slices.ContainsFunc(st.Clusters, func(c rotation.ClusterStatus) bool { return c.Issuer.NextRun == nil }) {
			return address, client
		}
		select {
		case <-ended:
			t.FailNow()
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in order after two minutes: %v %+v", err, st)
		}
	}
}

func get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestARunningDaemonAnswersOverHTTP(t *testing.T) {
	file := foldersConfig(t, `, listen: "127.0.0.1:0"`, "east", "west")
	address, client := started(t, file)
	at := "http://" + address
	t.Run("probes, status and bundle", func(t *testing.T) { answersOf(t, at, file) })
	t.Run("metrics", func(t *testing.T) { metricsOf(t, at, file, client) })
	if err := os.Remove(filepath.Join(filepath.Dir(file), "certd.sock")); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, at+"/readyz"); status != 503 || !strings.Contains(body, "[-]socket failed: connect to the admin socket") {
		t.Errorf("ready without its socket: %d %q", status, body)
	}
	if status, _ := get(t, at+"/livez"); status != 200 {
		t.Errorf("live without its socket: %d", status)
	}
}

func answersOf(t *testing.T, at, file string) {
	for path, want := range map[string]string{
		"/livez?verbose":   "[+]loop ok\n[+]journal ok\nlivez check passed\n",
		"/readyz?verbose":  "[+]config ok\n[+]journal ok\n[+]socket ok\n[+]alone ok\nreadyz check passed\n",
		"/healthz?verbose": "[+]config ok\n[+]journal ok\n[+]socket ok\n[+]alone ok\nreadyz check passed\n",
	} {
		if status, body := get(t, at+path); status != 200 || body != want {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	status, body := get(t, at+"/api/v1/status")
	var st rotation.FleetStatus
	if err := json.Unmarshal([]byte(body), &st); err != nil || status != 200 || st.Kind != "FleetStatus" || st.Summary.OK != 2 || st.Version != "1.2.3" || st.Source != "daemon" {
		t.Errorf("status: %d %v %s", status, err, body)
	}
	published, err := os.ReadFile(filepath.Join(filepath.Dir(file), "clusters/east/linkerd", rotation.BundleObject, "ca-bundle.crt"))
	if status, body := get(t, at+"/bundle.pem"); err != nil || status != 200 || body != string(published) {
		t.Errorf("bundle: %d %q, in the cluster is %q, %v", status, body, published, err)
	}
}

// metricsOf: metrics and status tell one story.
func metricsOf(t *testing.T, at, file string, client *api.Client) {
	metrics := func() string {
		t.Helper()
		status, body := get(t, at+"/metrics")
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		return body
	}
	eventually := func(what string, is func(text string) bool) string {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
			text := metrics()
			if is(text) {
				return text
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not after two minutes\n%s", what, text)
			}
		}
	}
	shows := func(lines ...string) func(string) bool {
		return func(text string) bool {
			return !slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(text, "\n"+line+"\n") })
		}
	}
	st, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	issuer := st.Clusters[0].Issuer
	of := func(t time.Time) string { return strconv.FormatFloat(float64(t.Unix()), 'g', -1, 64) }
	text := metrics()
	for _, line := range []string{
		fmt.Sprintf(`certd_build_info{goversion=%q,revision="abcdef",version="1.2.3"} 1`, runtime.Version()),
		`certd_cluster_up{cluster="east"} 1`,
		`certd_certificate_not_after_timestamp_seconds{cluster="east",kind="issuer",name="linkerd-identity-issuer",seen_in="secret"} ` + of(issuer.Delivered.NotAfter),
		`certd_certificate_renew_at_timestamp_seconds{cluster="east",kind="issuer",name="linkerd-identity-issuer"} ` + of(*issuer.RenewAt),
		`certd_certificate_planned_rotation_timestamp_seconds{cluster="east",kind="issuer",name="linkerd-identity-issuer"} ` + of(*issuer.NextRun),
		`certd_certificate_info{anchor="g1",cluster="east",kind="issuer",name="linkerd-identity-issuer",serial="` + issuer.Delivered.Serial + `"} 1`,
		`certd_certificate_not_after_timestamp_seconds{cluster="",kind="anchor",name="g1",seen_in="journal"} ` + of(st.Trust.Active.NotAfter),
		`certd_nothing_breaks_before_timestamp_seconds ` + of(*st.NothingBreaksBefore),
		`certd_emergency_floor_seconds{cluster="east"} 129640`,
		`certd_trust_bundle_current{cluster="west"} 1`,
		`certd_rotations_total{cluster="east",kind="issuer",result="ok"} 1`,
		`certd_rotations_total{cluster="east",kind="issuer",result="error"} 0`,
		`certd_rotation_duration_seconds_count{kind="issuer"} 2`,
		`certd_trust_rotation_phase{phase="idle"} 1`,
		`certd_clusters{state="ok"} 2`,
		`certd_leader 1`,
		`certd_config_last_reload_successful 1`,
	} {
		if !shows(line)(text) {
			t.Errorf("there is no %s", line)
		}
	}
	for _, unknown := range []string{"certd_vault_", "certd_issuer_loaded", "certd_proxies", "certd_drift_repaired_total", "certd_findings"} {
		if strings.Contains(text, "\n"+unknown) {
			t.Errorf("there is %s", unknown)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}

	dir := filepath.Dir(file)
	if err := os.RemoveAll(filepath.Join(dir, "clusters/east/linkerd", rotation.IssuerObject)); err != nil {
		t.Fatal(err)
	}
	eventually("an issuer that was removed", shows(`certd_drift_repaired_total{by="unknown",cluster="east",object="linkerd-identity-issuer"} 1`, `certd_rotations_total{cluster="east",kind="issuer",result="ok"} 2`))

	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Replace(string(whole), ":0", ":1", 1))
	eventually("another address, which takes a restart", shows(`certd_config_last_reload_successful 0`, `certd_findings{cluster="",id="ConfigReloadFailed",severity="warning"} 1`))
	write(strings.Replace(string(whole), "  - {name: west, directory: clusters/west}\n", "", 1))
	text = eventually("a cluster less", func(text string) bool {
		return shows(`certd_config_last_reload_successful 1`)(text) && !strings.Contains(text, `cluster="west"`)
	})
	if !shows(`certd_rotations_total{cluster="east",kind="issuer",result="ok"} 2`)(text) {
		t.Errorf("what stays is counted on:\n%s", text)
	}
}

// Where the keys are in Vault, the daemon's metrics say how it is.
func TestMetricsOfAVault(t *testing.T) {
	v := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/sys/health":
			io.WriteString(w, `{"initialized": true, "sealed": false, "standby": false, "version": "1.21.2"}`)
		case "/v1/auth/token/lookup-self":
			io.WriteString(w, `{"request_id": "1", "data": {"ttl": 3600, "renewable": false}}`)
		default:
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors": ["permission denied"]}`)
		}
	}))
	defer v.Close()
	file := foldersConfig(t, `, listen: "127.0.0.1:0"`, "east")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inVault := strings.Replace(string(text), "file: {dir: keys, passphraseFrom: {file: passphrase}}", "vault: {address: "+v.URL+", auth: {tokenFile: passphrase}}", 1)
	if err := os.WriteFile(file, []byte(inVault), 0o600); err != nil {
		t.Fatal(err)
	}
	address, _ := begun(t, file)
	if _, err := api.NewClient(filepath.Join(filepath.Dir(file), "certd.sock")).Init(t.Context(), api.InitRequest{}); !errors.Is(err, api.ErrDenied) {
		t.Errorf("a Vault that allows nothing: %v", err)
	}
	missing := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, body := get(t, "http://"+address+"/metrics")
		missing = ""
		for _, line := range []string{"certd_vault_up 1\n", "certd_vault_token_expiration_timestamp_seconds ", `certd_vault_request_duration_seconds_count{code="200",operation="health"} 1`,
			`certd_vault_request_duration_seconds_count{code="200",operation="lookup-token"}`, `certd_vault_request_duration_seconds_count{code="403",operation="read-key"}`} {
			if !strings.Contains(body, "\n"+line) {
				missing += line + " in\n" + body
			}
		}
		if missing == "" {
			return
		}
	}
	t.Errorf("there is no %s", missing)
}

// Vault is asked each minute, until certd ends.
func TestVaultIsAskedForItsHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var answer vault.Health
		var fails error
		asked := 0
		health := func(context.Context) (vault.Health, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return answer, fails
		}
		counts := metrics.NewRecorder()
		source := metrics.Source{Status: func() rotation.FleetStatus { return rotation.FleetStatus{} }, Recorder: counts, TokenExpires: func() time.Time { return time.Time{} }}
		up := func() string {
			w := httptest.NewRecorder()
			metrics.Handler(source, log.New(io.Discard, "", 0)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			for line := range strings.Lines(w.Body.String()) {
				if v, ok := strings.CutPrefix(line, "certd_vault_up "); ok {
					return strings.TrimSpace(v)
				}
			}
			return "not known"
		}
		if got := up(); got != "not known" {
			t.Errorf("before it is asked: %s", got)
		}
		ctx, stop := context.WithCancel(t.Context())
		s := live(t)
		go watchVault(ctx, health, func(err error) {
			counts.VaultHealth(err == nil)
			s.reconciler.KeysAnswer(err)
		})
		for _, row := range []struct {
			sentence string
			health   vault.Health
			err      error
			want     string
		}{
			{"well", vault.Health{}, nil, "1"}, {"a standby", vault.Health{Standby: true}, nil, "1"}, {"sealed", vault.Health{Sealed: true}, nil, "0"},
			{"away", vault.Health{}, rotation.ErrUnavailable, "0"}, {"well again", vault.Health{}, nil, "1"},
		} {
			mu.Lock()
			answer, fails = row.health, row.err
			mu.Unlock()
			time.Sleep(askVaultEvery)
			synctest.Wait()
			if got := up(); got != row.want {
				t.Errorf("%s: %s, want %s", row.sentence, got, row.want)
			}
			if st := s.reconciler.Status(); slices.ContainsFunc(st.Findings, func(f rotation.Finding) bool { return f.ID == "KeysUnavailable" }) != (row.want == "0") {
				t.Errorf("%s: status finds %v", row.sentence, st.Findings)
			}
		}
		stop()
		synctest.Wait()
		before := asked
		time.Sleep(time.Hour)
		if asked != before {
			t.Errorf("asked %d times more after the end", asked-before)
		}
	})
}

func TestATakenPortStopsTheStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := foldersConfig(t, fmt.Sprintf(", listen: %q", l.Addr()), "east")
	d := Daemon{Getenv: func(string) string { return "" }, Stdout: io.Discard, Log: func(slog.Leveler, string) *slog.Logger { return quiet }}
	err = d.Run(t.Context(), file, false)
	if !errors.Is(err, api.ErrNotNow) || !strings.Contains(err.Error(), "listen on "+l.Addr().String()+" (server.listen): another process listens there") {
		t.Errorf("started beside it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "clusters")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a cluster was touched: %v", err)
	}
}

// With --dev certd listens where nobody does, and runs all the same where
// somebody does already.
func TestDevYieldsThePort(t *testing.T) {
	c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\n")
	first, address, err := Daemon{}.listen(c, true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if first != nil { // else another certd of this host has it
		defer first.Close()
		if address != devListen {
			t.Errorf("listens on %s", address)
		}
	}
	if second, address, err := (Daemon{}).listen(c, true, quiet); second != nil || address != "" || err != nil {
		t.Errorf("beside another: %v %q %v", second, address, err)
	}
	if none, address, err := (Daemon{}).listen(c, false, quiet); none != nil || address != "" || err != nil {
		t.Errorf("left out, without --dev: %v %q %v", none, address, err)
	}
}

// live is a running daemon's service over an empty fleet, whose loop the test
// runs or not.
func live(t *testing.T) *running {
	t.Helper()
	c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\n")
	j, err := state.Open(c.StateDir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	r, err := rotation.NewReconciler(rotation.Options{Journal: j, Keys: memory.NewKeys(), Policy: c.Fleet(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return &running{fleet: &fleet{journal: j, config: c}, reconciler: r}
}

func TestALoopThatIsStuckIsNotLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t)
		if err := s.loopBeats(t.Context()); err != nil {
			t.Errorf("before it begins: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.reconciler.Run(ctx) }()
		for range 100 {
			time.Sleep(17 * time.Minute)
			if err := s.loopBeats(ctx); err != nil {
				t.Fatalf("while it runs: %v", err)
			}
		}
		stop()
		<-done
		time.Sleep(stuckAfter + time.Second)
		if err := s.loopBeats(t.Context()); err == nil || !strings.Contains(err.Error(), "the loop has not come round for 2m") {
			t.Errorf("since it stands still: %v", err)
		}
	})
}

func TestAJournalThatDoesNotAnswerIsNotLive(t *testing.T) {
	s := live(t)
	if _, err := s.lastSeq(); err != nil {
		t.Errorf("open: %v", err)
	}
	s.journal.Close()
	if _, err := s.lastSeq(); err == nil {
		t.Error("closed, it answers")
	}
}
