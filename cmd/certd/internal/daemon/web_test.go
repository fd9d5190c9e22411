package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/cmd/certd/internal/api"
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

// started runs a daemon in this process until the test ends, and returns once
// all of its clusters are in order.
func started(t testing.TB, file string) (address string, client *api.Client) {
	t.Helper()
	said := &addressIn{}
	d := Daemon{Getenv: func(string) string { return "" }, Stdout: io.Discard, Version: "1.2.3",
		Log: func(l slog.Leveler) *slog.Logger { return slog.New(slog.NewJSONHandler(said, nil)) }}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, file, false) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	client = api.NewClient(filepath.Join(filepath.Dir(file), "certd.sock"))
	made := false
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		st, err := client.Status(ctx)
		if err == nil && !made {
			_, err = client.Init(ctx, api.InitRequest{})
			made = err == nil
		}
		if err == nil && st.Summary.OK == st.Summary.Clusters {
			return said.listen(), client
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the daemon ended: %v\n%s", err, &said.text)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in order after a minute: %v %+v", err, st)
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
	address, _ := started(t, file)
	at := "http://" + address
	for path, want := range map[string]string{
		"/livez?verbose":   "[+]loop ok\n[+]journal ok\nlivez check passed\n",
		"/readyz?verbose":  "[+]config ok\n[+]journal ok\n[+]socket ok\nreadyz check passed\n",
		"/healthz?verbose": "[+]config ok\n[+]journal ok\n[+]socket ok\nreadyz check passed\n",
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

func TestATakenPortStopsTheStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := foldersConfig(t, fmt.Sprintf(", listen: %q", l.Addr()), "east")
	d := Daemon{Getenv: func(string) string { return "" }, Stdout: io.Discard, Log: func(slog.Leveler) *slog.Logger { return quiet }}
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
