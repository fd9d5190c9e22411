// Package webhook is a stand-in for the servers of one container whose serving
// certificate certd looks after: Linkerd's admission webhooks, tap's API, and
// webhooks of a cluster's own. A server gets and reloads its certificate as the
// real one does, and answers admissions as far as tests tell by them that it is
// the right one.
package webhook

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// kinds are the containers that have a server, by name as in Linkerd's charts.
var kinds = map[string]struct {
	kubert bool // reads its files at every connection, by kubert's rules
	answer func(*Config) http.Handler
}{
	"proxy-injector":  {answer: admission(injectProxy)},
	"sp-validator":    {answer: admission(validateProfile)},
	"policy":          {kubert: true, answer: admission(validatePolicy)},
	"tap-injector":    {answer: admission(injectTap)},
	"jaeger-injector": {answer: admission(injectTracing)},
	"tap":             {answer: tapAPI},
	"webhook":         {answer: admission(refuseMarked)},
	"webhook-reread":  {kubert: true, answer: admission(refuseMarked)},
}

// Simulated reports whether containers of that name have a server.
func Simulated(container string) bool {
	_, ok := kinds[container]
	return ok
}

// Config of one container's server.
type Config struct {
	Container string // a name that is Simulated
	Address   string // host:port to listen on
	TLSDir    string // the mounted folder with tls.crt and tls.key, and ..data
	// KeepAlive lets clients use a connection for more than one request. They
	// then meet a new certificate only when they connect again, which hides
	// mistakes for a while, as it does in real clusters.
	KeepAlive bool
	// Deaf is asked at every change of the files; while it says yes a Go
	// server misses them. nil: it never does.
	Deaf func() bool

	Namespace string // of the pod: for the injector, the control plane's
	RootsFile string // ca-bundle.crt, which the injector copies into pods; need not exist
	// Injects reports whether pods of the namespace get a proxy unless they
	// say otherwise. nil: they do not.
	Injects func(namespace string) bool

	Log *slog.Logger
}

// A Server listens from Start until Shutdown or Close.
type Server struct {
	address string
	certs   certificates
	http    *http.Server
}

// Start loads the certificate and listens. An error means that the container
// would have ended here, to be started again by the kubelet.
func Start(config Config) (*Server, error) {
	kind, ok := kinds[config.Container]
	if !ok {
		return nil, fmt.Errorf("start a server for container %s: none is simulated", config.Container)
	}
	var certs certificates
	if kind.kubert {
		if _, err := loadPairKubert(config.TLSDir); err != nil {
			return nil, err
		}
		certs = reread{config.TLSDir, config.Log}
	} else {
		w, err := watch(config.TLSDir, config.Deaf, config.Log)
		if err != nil {
			return nil, err
		}
		certs = w
	}
	listener, err := net.Listen("tcp", config.Address)
	if err != nil {
		certs.stop()
		return nil, err
	}
	s := &Server{address: listener.Addr().String(), certs: certs, http: &http.Server{
		Handler:           kind.answer(&config),
		ReadHeaderTimeout: 15 * time.Second,
		ErrorLog:          slog.NewLogLogger(config.Log.Handler(), slog.LevelDebug),
	}}
	s.http.SetKeepAlivesEnabled(config.KeepAlive)
	go s.http.Serve(tls.NewListener(listener, &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: certs.get,
		// Over HTTP/2 a client would keep its connection whatever KeepAlive says.
		NextProtos: []string{"http/1.1"},
	}))
	return s, nil
}

// Address is where the server listens, host:port.
func (s *Server) Address() string { return s.address }

// Drain makes the server end every connection with its current request, and
// those that are idle at once. It goes on to accept connections.
func (s *Server) Drain() { s.http.SetKeepAlivesEnabled(false) }

// Shutdown stops listening and returns when all requests are answered, or, with
// those cut off, when ctx ends.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.certs.stop()
}

// Close stops listening and cuts every connection.
func (s *Server) Close() {
	s.http.Close()
	s.certs.stop()
}
