// Package frontproxy stands between a cluster's clients and its API server.
// An API server refuses to connect to pods on loopback addresses, and asks a
// kubelet, which the lab has none of, to forward ports; so the two paths that
// need these are answered here for simulated pods: a pod's metrics through
// pods/proxy, and pods/portforward. Everything else passes through unchanged.
package frontproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// ErrNotSimulated is what Metrics returns for pods that the API server shall
// deal with itself.
var ErrNotSimulated = errors.New("not a simulated pod")

// Metrics returns what the named pod serves at :9990/metrics, or why a
// connection to it fails.
type Metrics func(namespace, pod string) ([]byte, error)

// Config of one cluster's proxy. It ends TLS, so callers authenticate with
// tokens; a client certificate would not reach the API server.
type Config struct {
	Backend     string // https://127.0.0.1:PORT of the API server
	CA          []byte // the cluster's CA, PEM: what the backend is verified by
	Certificate tls.Certificate
	Metrics     Metrics
	Forwarder   Forwarder
}

// A Proxy listens on one loopback port for as long as it lives, and only while
// its API server is up, so that an outage looks like one.
type Proxy struct {
	config  Config
	address string
	client  *http.Client
	forward *httputil.ReverseProxy

	mu        sync.Mutex
	server    *http.Server          // nil while down
	forwarded map[net.Conn]struct{} // what the server no longer knows: see forward.go
}

// New takes a free port of 127.0.0.1 and listens on it.
func New(config Config) (*Proxy, error) {
	backend, err := url.Parse(config.Backend)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(config.CA) {
		return nil, errors.New("front proxy: no CA certificate to verify the API server by")
	}
	transport := &http.Transport{
		// HTTP/1.1, a connection for each request under way: over one HTTP/2
		// connection the watches and writes of all clients would share what a
		// client has to itself when it talks to an API server.
		TLSClientConfig:     &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}},
		MaxIdleConnsPerHost: 64,
		// The API server's answers pass as they are, compressed or not.
		DisableCompression: true,
	}
	p := &Proxy{config: config, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, forwarded: map[net.Conn]struct{}{}}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(backend)
			r.Out.Host = r.In.Host
		},
		Transport:     transport,
		FlushInterval: -1, // watches
		// What the client would have met without a proxy: a broken connection.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	p.address = "127.0.0.1:0"
	return p, p.Up()
}

// URL is where clients connect.
func (p *Proxy) URL() string { return "https://" + p.address }

// Up listens again after Down, on the same port.
func (p *Proxy) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		return fmt.Errorf("front proxy: %w", err)
	}
	p.address = l.Addr().String()
	server := &http.Server{
		Handler:           p,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{p.config.Certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	p.server = server
	go server.ServeTLS(l, "", "")
	return nil
}

// Down closes the port and every connection.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		p.server.Close()
		p.server = nil
	}
	for conn := range p.forwarded {
		conn.Close()
	}
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if namespace, pod, ok := portForwardPath(r); ok && p.config.Forwarder != nil && p.config.Forwarder.Serves(namespace, pod) {
		p.portForward(w, r, namespace, pod)
		return
	}
	namespace, segment, ok := metricsPath(r)
	if !ok {
		p.forward.ServeHTTP(w, r)
		return
	}
	scheme, pod, port, valid := utilnet.SplitSchemeNamePort(segment)
	// Only a port by number: the API server does not resolve a pod's port names.
	if !valid || port != "9990" {
		p.forward.ServeHTTP(w, r)
		return
	}
	body, err := p.config.Metrics(namespace, pod)
	if errors.Is(err, ErrNotSimulated) {
		p.forward.ServeHTTP(w, r)
		return
	}
	if refusal := p.authorize(r, authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Version: "v1", Resource: "pods", Subresource: "proxy", Name: segment}); refusal != nil {
		refusal(w)
		return
	}
	if err == nil && scheme == "https" {
		err = errors.New("http: server gave HTTP response to HTTPS client")
	}
	if err != nil {
		writeStatus(w, apierrors.NewServiceUnavailable("error trying to reach service: "+err.Error()))
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(body)
}

// metricsPath takes /api/v1/namespaces/NS/pods/SEGMENT/proxy/metrics apart.
func metricsPath(r *http.Request) (namespace, segment string, ok bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/")
	if !ok || r.Method != http.MethodGet {
		return "", "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "pods" || parts[3] != "proxy" || parts[4] != "metrics" {
		return "", "", false
	}
	return parts[0], parts[2], true
}

// authorize asks the API server, with the caller's own credentials, whether the
// caller may do this. It returns how to refuse, nil if the answer is yes.
func (p *Proxy) authorize(r *http.Request, this authorizationv1.ResourceAttributes) func(http.ResponseWriter) {
	review, err := json.Marshal(authorizationv1.SelfSubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
		Spec:     authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &this},
	})
	if err != nil {
		return func(w http.ResponseWriter) { writeStatus(w, apierrors.NewInternalError(err)) }
	}
	answer, status, err := p.review(r.Context(), r.Header, review)
	if err != nil {
		return func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	}
	if status != http.StatusCreated {
		return func(w http.ResponseWriter) { // not authenticated, as a rule
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			w.Write(answer)
		}
	}
	var got authorizationv1.SelfSubjectAccessReview
	if err := json.Unmarshal(answer, &got); err != nil {
		return func(w http.ResponseWriter) { writeStatus(w, apierrors.NewInternalError(err)) }
	}
	if !got.Status.Allowed {
		return func(w http.ResponseWriter) {
			writeStatus(w, apierrors.NewForbidden(schema.GroupResource{Resource: this.Resource}, this.Name,
				fmt.Errorf("cannot %s resource %q in API group %q in the namespace %q", this.Verb, this.Resource+"/"+this.Subresource, "", this.Namespace)))
		}
	}
	return nil
}

func (p *Proxy) review(ctx context.Context, header http.Header, body []byte) (answer []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.config.Backend+"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	for name, values := range header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
			req.Header[name] = values
		}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return answer, resp.StatusCode, err
}

func writeStatus(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.ErrStatus
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	json.NewEncoder(w).Encode(status)
}
