package identity

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Event reports what a replica tells its cluster: eventType is "Normal" or
// "Warning", reason and message are the controller's.
type Event func(eventType, reason, message string)

// Config says where a replica finds its files, as its pod mounts them.
type Config struct {
	RootsFile string // ca-bundle.crt
	IssuerDir string // the folder that holds ..data
	Scheme    string // kubernetes.io/tls or linkerd.io/tls
	// Deaf is asked at every change; while it says yes the replica misses
	// them, as a controller does whose file watch has ended (linkerd2 issue
	// 15109). nil: it never does.
	Deaf  func() bool
	Event Event
	Log   *slog.Logger
}

// A Replica holds the issuer it has loaded. Its trust roots are those that
// were there when it started, for as long as it lives.
type Replica struct {
	config  Config
	roots   *x509.CertPool
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu     sync.Mutex
	issuer *x509.Certificate
}

// Start loads roots and issuer. An error means that the controller would have
// ended here, to be started again by the kubelet.
func Start(config Config) (*Replica, error) {
	roots, err := loadRoots(config.RootsFile)
	if err != nil {
		return nil, err
	}
	// Watching begins before the first load, so that no swap is lost between.
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", config.IssuerDir, err)
	}
	if err := watcher.Add(config.IssuerDir); err != nil {
		watcher.Close()
		return nil, fmt.Errorf("watch %s: %w", config.IssuerDir, err)
	}
	issuer, err := loadIssuer(config.IssuerDir, config.Scheme, roots, time.Now())
	if err != nil {
		watcher.Close()
		return nil, fmt.Errorf("failed to initialize identity service: %w", err)
	}
	r := &Replica{config: config, roots: roots, watcher: watcher, done: make(chan struct{}), issuer: issuer}
	go r.watch()
	return r, nil
}

// Stop ends the replica and returns when it has ended.
func (r *Replica) Stop() {
	r.watcher.Close()
	<-r.done
}

// Issuer is the issuer that leaves would be signed by now.
func (r *Replica) Issuer() *x509.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issuer
}

// Metrics is what the replica serves at :9990/metrics, in Prometheus' text
// format. The time left is negative once the issuer has expired.
func (r *Replica) Metrics(now time.Time) []byte {
	left := r.Issuer().NotAfter.Sub(now).Seconds()
	return []byte("# HELP issuer_cert_ttl_seconds The remaining seconds until the issuer certificate expires\n" +
		"# TYPE issuer_cert_ttl_seconds gauge\n" +
		"issuer_cert_ttl_seconds " + strconv.FormatFloat(left, 'g', -1, 64) + "\n")
}

// watch reloads when the kubelet swaps ..data in, and at no other time
// (linkerd2 pkg/tls/creds_watcher.go). The first error of the watch ends it
// for good, as there.
func (r *Replica) watch() {
	defer close(r.done)
	swapped := filepath.Join(r.config.IssuerDir, "..data")
	for {
		select {
		case event, ok := <-r.watcher.Events:
			if !ok {
				return
			}
			if event.Has(fsnotify.Create) && event.Name == swapped && (r.config.Deaf == nil || !r.config.Deaf()) {
				r.reload()
			}
		case err, ok := <-r.watcher.Errors:
			if ok {
				r.config.Log.Warn("the issuer is not watched any more", "err", err)
			}
			return
		}
	}
}

func (r *Replica) reload() {
	issuer, err := loadIssuer(r.config.IssuerDir, r.config.Scheme, r.roots, time.Now())
	if err != nil {
		r.config.Event("Warning", "IssuerUpdateSkipped", "Skipping issuer update as certs could not be read from disk: "+err.Error())
		return
	}
	r.mu.Lock()
	r.issuer = issuer
	r.mu.Unlock()
	r.config.Event("Normal", "IssuerUpdated", "Updated identity issuer")
}
