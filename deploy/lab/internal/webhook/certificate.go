package webhook

import (
	"crypto"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"

	"certd.internal/deploy/lab/internal/codec"
)

// certificates is where a server's certificate comes from, for one connection
// at a time.
type certificates interface {
	get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	stop()
}

// The files' names; Linkerd's servers know no others.
const (
	certName = "tls.crt"
	keyName  = "tls.key"
)

// watched is the certificate of Linkerd's Go servers: loaded at the start, and
// again whenever the kubelet swaps ..data in. A pair that does not load is
// skipped, and not tried again before the next swap (linkerd2
// pkg/tls/creds_watcher.go).
type watched struct {
	dir     string
	deaf    func() bool
	log     *slog.Logger
	watcher *fsnotify.Watcher
	done    chan struct{}

	mu   sync.Mutex
	pair *tls.Certificate
}

func watch(dir string, deaf func() bool, log *slog.Logger) (*watched, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	// Watching begins before the first load, so that no swap is lost between.
	if err := watcher.Add(dir); err != nil {
		watcher.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	pair, err := loadPair(dir)
	if err != nil {
		watcher.Close()
		return nil, fmt.Errorf("failed to initialize certificate: %w", err)
	}
	w := &watched{dir: dir, deaf: deaf, log: log, watcher: watcher, done: make(chan struct{}), pair: pair}
	go w.follow()
	return w, nil
}

func (w *watched) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pair, nil
}

func (w *watched) stop() {
	w.watcher.Close()
	<-w.done
}

// follow acts on the swap alone, as the real watcher does; the first error of
// the watch ends it for good, as there.
func (w *watched) follow() {
	defer close(w.done)
	swapped := filepath.Join(w.dir, "..data")
	for {
		select {
		case event, ok := <-w.watcher.Events:
			if !ok {
				return
			}
			if event.Has(fsnotify.Create) && event.Name == swapped && (w.deaf == nil || !w.deaf()) {
				w.reload()
			}
		case err, ok := <-w.watcher.Errors:
			if ok {
				w.log.Warn("the certificate is not watched any more", "err", err)
			}
			return
		}
	}
}

func (w *watched) reload() {
	pair, err := loadPair(w.dir)
	if err != nil {
		w.log.Warn("webhook server skips an update as cert could not be read from disk", "err", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pair = pair
}

// loadPair reads the pair by the rules of Linkerd's Go servers.
func loadPair(dir string) (*tls.Certificate, error) {
	keyText, certText, err := readFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("failed to read cert from disk: %w", err)
	}
	key, err := codec.Key(keyText)
	if err != nil {
		return nil, fmt.Errorf("failed to read cert from disk: %w", err)
	}
	certs, err := codec.Certificates(certText)
	if err != nil {
		return nil, fmt.Errorf("failed to read cert from disk: %w", err)
	}
	pair := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certs[0].PublicKey) {
		return nil, errors.New("tls: private key does not match public key")
	}
	return pair, nil
}

// reread is the certificate of servers built on kubert, such as Linkerd's
// policy controller: both files are read at every connection (kubert
// server.rs). Nothing is kept, so files that go bad fail the next handshake.
type reread struct {
	dir string
	log *slog.Logger
}

func (r reread) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := loadPairKubert(r.dir)
	if err != nil {
		r.log.Warn("webhook server cannot read its certificate", "err", err)
	}
	return pair, err
}

func (r reread) stop() {}

// loadPairKubert reads the pair by kubert's rules: the key in PKCS#8 or PKCS#1,
// not in SEC 1 (kubert tls_rustls.rs; linkerd2 issue 7963), and what else is in
// the files does not matter.
func loadPairKubert(dir string) (*tls.Certificate, error) {
	keyText, certText, err := readFiles(dir)
	if err != nil {
		return nil, err
	}
	for rest := keyText; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("could not load private key")
		}
		if block.Type != "PRIVATE KEY" && block.Type != "RSA PRIVATE KEY" {
			continue
		}
		pair, err := tls.X509KeyPair(certText, pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		return &pair, nil
	}
}

func readFiles(dir string) (key, cert []byte, err error) {
	if key, err = os.ReadFile(filepath.Join(dir, keyName)); err != nil {
		return nil, nil, err
	}
	if cert, err = os.ReadFile(filepath.Join(dir, certName)); err != nil {
		return nil, nil, err
	}
	return key, cert, nil
}
