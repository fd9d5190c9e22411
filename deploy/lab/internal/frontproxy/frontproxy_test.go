package frontproxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"certd.internal/deploy/lab/internal/certs"
)

// start runs a proxy before an API server that knows two tokens, only one of
// which may reach pods, and answers "passed" to all else.
func start(t *testing.T) (*Proxy, *http.Client) {
	t.Helper()
	ca, err := certs.NewCA("test CA")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.Issue("localhost", nil, net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
			io.WriteString(w, "passed "+r.URL.Path)
			return
		}
		token := r.Header.Get("Authorization")
		if token == "" {
			http.Error(w, `{"kind":"Status","code":401,"message":"Unauthorized"}`, http.StatusUnauthorized)
			return
		}
		var review authorizationv1.SelfSubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		a := review.Spec.ResourceAttributes
		what := a.Verb + " " + a.Resource + "/" + a.Subresource
		review.Status.Allowed = token == "Bearer good" && a.Namespace == "linkerd" &&
			(what == "get pods/proxy" && strings.Contains(a.Name, "identity-") || what == "create pods/portforward" && a.Name == "w-1")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(review)
	}))
	backend.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	backend.EnableHTTP2 = true
	backend.StartTLS()
	t.Cleanup(backend.Close)
	p, err := New(Config{Backend: backend.URL, CA: ca.PEM, Certificate: cert, Forwarder: echoes{}, Metrics: func(namespace, pod string) ([]byte, error) {
		switch pod {
		case "identity-1":
			return []byte("issuer_cert_ttl_seconds 5\n"), nil
		case "identity-crashed":
			return nil, errors.New("connect: connection refused")
		}
		return nil, ErrNotSimulated
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Down)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return p, &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, url, token string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestWhoAnswers(t *testing.T) {
	p, client := start(t)
	const pods = "/api/v1/namespaces/linkerd/pods/"
	for _, test := range []struct {
		name, path, token string
		status            int
		says              string
	}{
		{"the replica, for who may", pods + "identity-1:9990/proxy/metrics", "good", 200, "issuer_cert_ttl_seconds 5"},
		{"the replica, with the scheme named", pods + "http:identity-1:9990/proxy/metrics", "good", 200, "issuer_cert_ttl_seconds 5"},
		{"nobody, for who may not", pods + "identity-1:9990/proxy/metrics", "poor", 403, "cannot get resource"},
		{"nobody, without a token", pods + "identity-1:9990/proxy/metrics", "", 401, "Status"},
		{"nobody in another namespace", "/api/v1/namespaces/other/pods/identity-1:9990/proxy/metrics", "good", 403, "cannot get resource"},
		{"nobody while the replica is down", pods + "identity-crashed:9990/proxy/metrics", "good", 503, "connection refused"},
		{"nobody, over TLS to a port without", pods + "https:identity-1:9990/proxy/metrics", "good", 503, "HTTP response to HTTPS client"},
		{"the API server, for other pods", pods + "web-1:9990/proxy/metrics", "good", 200, "passed"},
		{"the API server, for other ports", pods + "identity-1:8080/proxy/metrics", "good", 200, "passed"},
		{"the API server, for ports by name, which it does not know", pods + "identity-1:ident-admin/proxy/metrics", "good", 200, "passed"},
		{"the API server, for other paths", pods + "identity-1:9990/proxy/ready", "good", 200, "passed"},
		{"the API server, for all else", "/version", "", 200, "passed /version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, body := get(t, client, p.URL()+test.path, test.token)
			if resp.StatusCode != test.status || !strings.Contains(body, test.says) {
				t.Errorf("got %d %q, want %d with %q", resp.StatusCode, body, test.status, test.says)
			}
			if resp.Header.Get("Date") == "" {
				t.Error("no Date")
			}
		})
	}
}

func TestAProxyThatIsDownRefusesConnections(t *testing.T) {
	p, client := start(t)
	get(t, client, p.URL()+"/version", "")
	p.Down()
	if resp, err := client.Get(p.URL() + "/version"); err == nil {
		resp.Body.Close()
		t.Fatal("it answered")
	}
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, client, p.URL()+"/version", ""); body != "passed /version" {
		t.Error(body)
	}
}
