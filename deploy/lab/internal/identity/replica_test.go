package identity

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// mount is a folder that a kubelet projects into.
type mount struct {
	t     *testing.T
	dir   string
	swaps int
}

// swap writes files and swaps ..data to them, as a kubelet does.
func (m *mount) swap(files map[string][]byte) {
	m.t.Helper()
	m.swaps++
	name := fmt.Sprintf("..2026_01_02_03_04_05.%d", m.swaps)
	if err := os.Mkdir(filepath.Join(m.dir, name), 0o700); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(m.dir, name), files)
	for file := range files {
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(m.dir, file)); err != nil && !os.IsExist(err) {
			m.t.Fatal(err)
		}
	}
	if err := os.Symlink(name, filepath.Join(m.dir, "..data_tmp")); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(m.dir, "..data_tmp"), filepath.Join(m.dir, "..data")); err != nil {
		m.t.Fatal(err)
	}
}

func (a authority) files(t *testing.T) map[string][]byte {
	return map[string][]byte{"tls.crt": a.pem, "tls.key": a.keyPEM(t)}
}

// startReplica starts one that trusts anchor and sends each event's reason.
func startReplica(t *testing.T, anchor, issuer authority) (*Replica, *mount, string, <-chan string) {
	t.Helper()
	return startDeafReplica(t, anchor, issuer, nil)
}

func startDeafReplica(t *testing.T, anchor, issuer authority, deaf func() bool) (*Replica, *mount, string, <-chan string) {
	t.Helper()
	roots := filepath.Join(t.TempDir(), "ca-bundle.crt")
	if err := os.WriteFile(roots, anchor.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &mount{t: t, dir: t.TempDir()}
	m.swap(issuer.files(t))
	reasons := make(chan string, 10)
	r, err := Start(Config{RootsFile: roots, IssuerDir: m.dir, Scheme: "kubernetes.io/tls", Log: slog.New(slog.DiscardHandler), Deaf: deaf,
		Event: func(eventType, reason, message string) { reasons <- eventType + " " + reason + ": " + message }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r, m, roots, reasons
}

func next(t *testing.T, reasons <-chan string) string {
	t.Helper()
	select {
	case reason := <-reasons:
		return reason
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return ""
	}
}

func TestAReplicaTakesANewIssuerWhenDataIsSwapped(t *testing.T) {
	anchor := sign(t, nil, nil)
	first, second := sign(t, &anchor, nil), sign(t, &anchor, nil)
	r, m, _, reasons := startReplica(t, anchor, first)
	m.swap(second.files(t))
	if got := next(t, reasons); got != "Normal IssuerUpdated: Updated identity issuer" {
		t.Fatal(got)
	}
	if !r.Issuer().Equal(second.cert) {
		t.Error("it still has the first issuer")
	}
}

// Trust roots count as they were at the start: a bundle that changed on disk
// does not make an issuer under its new anchor acceptable.
func TestAReplicaSkipsAnIssuerUnderAnAnchorItDidNotStartWith(t *testing.T) {
	anchor, added := sign(t, nil, nil), sign(t, nil, nil)
	first, second := sign(t, &anchor, nil), sign(t, &added, nil)
	r, m, roots, reasons := startReplica(t, anchor, first)
	if err := os.WriteFile(roots, append(anchor.pem, added.pem...), 0o600); err != nil {
		t.Fatal(err)
	}
	m.swap(second.files(t))
	if got := next(t, reasons); !strings.HasPrefix(got, "Warning IssuerUpdateSkipped: ") {
		t.Fatal(got)
	}
	if !r.Issuer().Equal(first.cert) {
		t.Error("it does not keep the first issuer")
	}
}

// Files written in place are not noticed; the next swap is.
func TestAReplicaDoesNotNoticeFilesWrittenInPlace(t *testing.T) {
	anchor := sign(t, nil, nil)
	first, second, third := sign(t, &anchor, nil), sign(t, &anchor, nil), sign(t, &anchor, nil)
	r, m, _, reasons := startReplica(t, anchor, first)
	write(t, filepath.Join(m.dir, "..data"), second.files(t))
	write(t, m.dir, map[string][]byte{"other": nil})
	m.swap(third.files(t))
	next(t, reasons)
	if len(reasons) > 0 || !r.Issuer().Equal(third.cert) {
		t.Error("there was more than the one reload")
	}
}

// A replica may go deaf while it runs, and does not make up for what it missed.
func TestADeafReplicaMissesSwaps(t *testing.T) {
	anchor := sign(t, nil, nil)
	first, second, third := sign(t, &anchor, nil), sign(t, &anchor, nil), sign(t, &anchor, nil)
	var deaf atomic.Bool
	asked := make(chan struct{}, 10)
	r, m, _, reasons := startDeafReplica(t, anchor, first, func() bool { defer func() { asked <- struct{}{} }(); return deaf.Load() })
	deaf.Store(true)
	m.swap(second.files(t))
	<-asked
	deaf.Store(false)
	if !r.Issuer().Equal(first.cert) {
		t.Error("it does not keep the first issuer")
	}
	m.swap(third.files(t))
	next(t, reasons)
	if len(reasons) > 0 || !r.Issuer().Equal(third.cert) {
		t.Error("there was more than the one reload")
	}
}

func TestAReplicaThatCannotStart(t *testing.T) {
	anchor := sign(t, nil, nil)
	other := sign(t, nil, nil)
	issuer := sign(t, &anchor, nil)
	dir, mountDir := t.TempDir(), &mount{t: t, dir: t.TempDir()}
	mountDir.swap(issuer.files(t))
	write(t, dir, map[string][]byte{"ca-bundle.crt": other.pem})
	_, err := Start(Config{RootsFile: filepath.Join(dir, "ca-bundle.crt"), IssuerDir: mountDir.dir, Scheme: "kubernetes.io/tls"})
	if err == nil || !strings.Contains(err.Error(), "failed to initialize identity service") {
		t.Fatal(err)
	}
}

func TestMetricsTellTheTimeLeft(t *testing.T) {
	anchor := sign(t, nil, nil)
	issuer := sign(t, &anchor, nil)
	r, _, _, _ := startReplica(t, anchor, issuer)
	end := issuer.cert.NotAfter
	for left, want := range map[time.Duration]string{
		90 * time.Second:      "issuer_cert_ttl_seconds 90\n",
		-time.Minute:          "issuer_cert_ttl_seconds -60\n",
		3650 * 24 * time.Hour: "issuer_cert_ttl_seconds 3.1536e+08\n",
	} {
		if got := string(r.Metrics(end.Add(-left))); !strings.HasSuffix(got, "\n"+want) {
			t.Errorf("%v before the end: %q, want %q", left, got, want)
		}
	}
}
