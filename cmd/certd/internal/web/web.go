// Package web answers over HTTP at server.listen: probes, metrics, the fleet's
// status as JSON, the trust bundle, and the page that is plugged in. All of it
// is read only, and nothing here asks a cluster or the key backend.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	idleTimeout   = time.Minute
	drainTimeout  = 3 * time.Second
	maxHeader     = 16 << 10
	// answerTimeout is how long one answer may be worked on, writeTimeout how
	// long a client may take it.
	answerTimeout = 10 * time.Second
	writeTimeout  = 30 * time.Second
	// atOnce bounds the answers that are worked on side by side at one path, so
	// that a lock nobody gives back piles up no more than that.
	atOnce = 8
)

// Options are what a Server shows.
type Options struct {
	// Status returns the document behind /api/v1/status.
	Status func(context.Context) (rotation.FleetStatus, error)
	// Bundle returns the fleet's trust anchors, PEM; nothing while there are none.
	Bundle func(context.Context) ([]byte, error)
	// Metrics answers at /metrics; nil: nobody does.
	Metrics http.Handler
	// Live are the checks of /livez: what a restart of certd would mend, and
	// nothing else. Ready are those of /readyz.
	Live, Ready []Check
	// Page answers at / and at every path that nothing else here has. Nil: a list
	// of these paths, as plain text. It gets GET and HEAD alone, has answerTimeout for an
	// answer, and may replace the Content-Security-Policy, which allows nothing.
	Page http.Handler
	Log  *slog.Logger
}

// Server answers over TCP.
type Server struct {
	options     Options
	live, ready probe
}

// NewServer returns a server that shows what the options say.
func NewServer(o Options) *Server {
	return &Server{options: o, live: newProbe("livez", o.Live), ready: newProbe("readyz", o.Ready)}
}

// Listen opens the address of server.listen. A port that is taken is an error
// that wraps api.ErrNotNow, one that certd may not have api.ErrDenied.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s (server.listen): another process listens there; stop it, or name another port: %w: %w", address, cause(err), api.ErrNotNow)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s (server.listen): certd may not have this port; name one above 1023: %w: %w", address, cause(err), api.ErrDenied)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s (server.listen): this host does not have that address: %w", address, cause(err))
	}
	return nil, fmt.Errorf("listen on %s (server.listen): %w", address, cause(err))
}

// cause is a network error without what Listen says itself.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Serve answers until ctx ends, then gives requests in hand a few seconds and
// closes the listener. It returns nil after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(l.Addr()),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(debugLog{s.options.Log}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// debugLog takes what net/http has to say of clients: nothing that a person has
// to see.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(p []byte) (int, error) {
	d.log.Debug("http", "says", strings.TrimSpace(string(p)))
	return len(p), nil
}

func (s *Server) handler(at net.Addr) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/livez", &s.live)
	mux.Handle("/readyz", &s.ready)
	mux.Handle("/healthz", &s.ready)
	if s.options.Metrics != nil {
		mux.Handle("/metrics", bounded(s.options.Metrics))
	}
	mux.Handle("/api/v1/status", bounded(http.HandlerFunc(s.status)))
	mux.Handle("/bundle.pem", bounded(http.HandlerFunc(s.bundle)))
	page := s.options.Page
	if page == nil {
		page = http.HandlerFunc(list)
	}
	mux.Handle("/", bounded(page))
	return s.guard(at, mux)
}

// guard refuses what is no reading, and pages of other sites that have a browser
// on this host ask here under a name of theirs (DNS rebinding); it turns a panic
// into an answer.
func (s *Server) guard(at net.Addr, next http.Handler) http.Handler {
	local := false
	if t, ok := at.(*net.TCPAddr); ok {
		local = t.IP.IsLoopback()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				s.options.Log.Error("request ended by a panic", "path", r.URL.Path, "type", fmt.Sprintf("%T", p))
				http.Error(w, "certd met a fault of its own in this request; it goes on running", http.StatusInternalServerError)
			}
		}()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "this is for reading only; what changes something goes through the admin socket", http.StatusMethodNotAllowed)
		case local && !localHost(r.Host):
			http.Error(w, fmt.Sprintf("certd listens on this host alone (%s) and is asked for as %.100q; a proxy in front of it has to ask for localhost", at, r.Host), http.StatusMisdirectedRequest)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// localHost says whether a request's Host is a name that nobody else can give
// to this host: an IP address, or localhost.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost" || host == ""
}

// bounded gives an answer a time, and a path a number of answers at once.
func bounded(h http.Handler) http.Handler {
	slots := make(chan struct{}, atOnce)
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
		default:
			http.Error(w, fmt.Sprintf("%d requests for this are being answered already", atOnce), http.StatusServiceUnavailable)
			return
		}
		defer func() { <-slots }()
		h.ServeHTTP(w, r)
	})
	return http.TimeoutHandler(counted, answerTimeout, "there is no answer yet; /livez?verbose says whether certd is stuck\n")
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.options.Status(r.Context())
	var body bytes.Buffer
	if err == nil {
		err = json.NewEncoder(&body).Encode(st)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.send(w, body.Bytes())
}

func (s *Server) bundle(w http.ResponseWriter, r *http.Request) {
	pem, err := s.options.Bundle(r.Context())
	switch {
	case err != nil:
		s.fail(w, r, err)
	case len(pem) == 0:
		http.Error(w, "there is no trust anchor yet; certd init makes one", http.StatusNotFound)
	default:
		sum := sha256.Sum256(pem)
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(pem))
	}
}

// list is what there is where no page is plugged in.
func list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "certd\n\n/metrics\n/livez?verbose\n/readyz?verbose\n/api/v1/status\n/bundle.pem\n")
}

// fail answers with an error, which is for the log to have as well: nobody else
// here would see it.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.options.Log.Error("request not answered", "path", r.URL.Path, "err", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (s *Server) send(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		s.options.Log.Debug("answer not delivered", "err", err)
	}
}
