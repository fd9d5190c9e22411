package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// maxAnswer bounds what is read of one answer; a key record has some 1 KiB.
const maxAnswer = 1 << 20

// client sends single requests: one HTTP exchange for one call, never
// repeated, never redirected, and with the token of that call alone.
type client struct {
	api       *api.Client
	wire      *guard
	pool      *http.Transport // what is below it
	address   string
	namespace string // without slashes at its ends
	timeout   time.Duration
	observe   func(operation, code string, took time.Duration)
}

func newClient(c Config) (*client, error) {
	pool, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	wire := &guard{pool}
	// NewClient reads the environment whatever it is given. What it took from
	// there is replaced below, so that certd's configuration alone counts.
	a, err := api.NewClient(&api.Config{
		Address: c.Address,
		HttpClient: &http.Client{
			Transport:     wire,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		MaxRetries:       0,
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the client (the VAULT_ variables of the environment are read here, and have to be well-formed): %w", err)
	}
	a.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	a.ClearToken()
	a.SetWrappingLookupFunc(func(string, string) string { return "" })
	namespace := strings.Trim(c.Namespace, "/")
	if namespace != "" {
		a.SetNamespace(namespace)
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	observe := c.Observe
	if observe == nil {
		observe = func(string, string, time.Duration) {}
	}
	return &client{api: a, wire: wire, pool: pool, address: c.Address, namespace: namespace, timeout: timeout, observe: observe}, nil
}

// mostConnections is how many requests are under way to Vault at one time; others wait for
// a connection to come free. That is as many as clusters have slots, and all are kept for a
// while: else most requests of a fleet that is renewed would have a handshake of their own.
const mostConnections = 64

// newTransport speaks HTTP/1.1: a lost connection then concerns one request.
func newTransport(c Config) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	roots, err := readRoots(c)
	if err != nil {
		return nil, err
	}
	conf.RootCAs = roots
	certFile, keyFile := c.ClientCertFile, c.ClientKeyFile
	if c.Auth.Cert != nil {
		certFile, keyFile = c.Auth.Cert.CertFile, c.Auth.Cert.KeyFile
	}
	if certFile != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				return nil, fmt.Errorf("read the TLS client certificate: %w", err)
			}
			return &pair, nil
		}
		if _, err := conf.GetClientCertificate(nil); err != nil {
			return nil, err
		}
	}
	return &http.Transport{
		Proxy:                 c.Proxy,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   5 * time.Second,
		MaxConnsPerHost:       mostConnections,
		MaxIdleConnsPerHost:   mostConnections,
		IdleConnTimeout:       time.Minute,
		ExpectContinueTimeout: time.Second,
	}, nil
}

// readRoots returns the CA certificates to check Vault's against, or nil for
// the system's.
func readRoots(c Config) (*x509.CertPool, error) {
	var texts [][]byte
	switch {
	case c.CAFile != "":
		b, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read Vault's CA certificates: %w", err)
		}
		texts = append(texts, b)
	case len(c.CAPEM) > 0:
		texts = append(texts, c.CAPEM)
	case c.CAPath != "":
		entries, err := os.ReadDir(c.CAPath)
		if err != nil {
			return nil, fmt.Errorf("read Vault's CA certificates: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			b, err := os.ReadFile(filepath.Join(c.CAPath, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("read Vault's CA certificates: %w", err)
			}
			texts = append(texts, b)
		}
	default:
		return nil, nil
	}
	pool, found := x509.NewCertPool(), false
	for _, b := range texts {
		found = pool.AppendCertsFromPEM(b) || found
	}
	if !found {
		return nil, errors.New("read Vault's CA certificates: there is no certificate (PEM) in what was given")
	}
	return pool, nil
}

// guard stands between vault/api and the network. It adds the token, which
// travels in the request's context so that no client holds one, refuses
// redirects, and bounds answers.
type guard struct{ next http.RoundTripper }

type tokenKey struct{}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if token, ok := r.Context().Value(tokenKey{}).(string); ok && token != "" {
		r = r.Clone(r.Context())
		r.Header.Set(api.AuthHeaderName, token)
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		to := "elsewhere"
		if u, err := resp.Location(); err == nil {
			to = u.Scheme + "://" + u.Host
		}
		resp.Body.Close()
		return nil, &redirectError{to}
	}
	resp.Body = &boundedBody{resp.Body, maxAnswer}
	return resp, nil
}

// redirectError is a standby that cannot forward, or a proxy in between.
type redirectError struct{ to string }

func (e *redirectError) Error() string { return "redirected to " + e.to }

type boundedBody struct {
	io.ReadCloser
	left int64
}

var errTooLong = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// call is one request.
type call struct {
	op    string     // for metrics: one of a few words
	doing string     // for people: "sign with certd-transit/sign/x"
	path  string     // below /v1/
	body  any        // of a write; nil is a read
	query url.Values // of a read

	capability string // what a policy has to grant on path
	policy     string // the file in deploy/vault that grants it
	once       bool   // not to be sent again without the caller's knowledge
	harmless   bool   // a write of which nothing lasts, such as a login
	absent     error  // what an empty 404 means; nil: nothing special

	secrets secrets // beside the token of the call
}

// lasting says whether it matters if Vault did it though no answer came.
func (q call) lasting() bool { return q.body != nil && !q.harmless }

// reply is the envelope of all of Vault's answers.
type reply struct {
	RequestID string          `json:"request_id"`
	Data      json.RawMessage `json:"data"`
	Auth      *grant          `json:"auth"`

	tlsEnds time.Time // of an answer about health: notAfter of the certificate shown
}

// grant is a token as a login, a renewal or a lookup gives it.
type grant struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"` // seconds; 0: never ends
	Renewable     bool   `json:"renewable"`
}

// noAnswer is the code of an exchange without one.
const noAnswer = "none"

// send makes one exchange and tells of it. The token may be empty.
func (c *client) send(ctx context.Context, token string, q call) (reply, *fault) {
	begun := time.Now()
	r, status, f := c.exchange(ctx, token, q)
	code := noAnswer
	if status != 0 {
		code = strconv.Itoa(status)
	}
	c.observe(q.op, code, time.Since(begun))
	return r, f
}

// exchange also returns the status of the answer, 0 if none came, or not all of it.
func (c *client) exchange(ctx context.Context, token string, q call) (r reply, status int, f *fault) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	ctx = context.WithValue(ctx, tokenKey{}, token)

	hidden := append(secrets{token}, q.secrets...)
	a := c.api
	if q.path == healthPath {
		a = a.WithNamespace("") // namespaces do not have it
	}
	var resp *api.Response
	var err error
	if q.body == nil {
		resp, err = a.Logical().ReadRawWithDataWithContext(ctx, q.path, q.query)
	} else {
		body, merr := json.Marshal(q.body)
		if merr != nil {
			return reply{}, 0, &fault{err: merr}
		}
		resp, err = a.Logical().WriteRawWithContext(ctx, q.path, body)
	}
	if resp != nil && resp.Body != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		f := newFault(resp, err, sent.Load(), hidden)
		return reply{}, f.status, f
	}
	status = resp.StatusCode
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, 0, &fault{sent: true, err: fmt.Errorf("read the answer: %w", err), secrets: hidden}
	}
	if len(b) == 0 {
		return r, status, nil // 204
	}
	if q.path == healthPath { // the one answer without an envelope
		r.Data = b
		if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
			r.tlsEnds = resp.TLS.PeerCertificates[0].NotAfter
		}
		return r, status, nil
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return reply{}, status, &fault{sent: true, err: fmt.Errorf("the answer (status %d) is not Vault's JSON", resp.StatusCode)}
	}
	return r, status, nil
}
