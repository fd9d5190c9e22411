package main

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"certd.internal/rotation"
)

// wayThere is what stands between certd and an API server: it can be closed,
// and the clock at its end can be set.
type wayThere struct {
	*httptest.Server
	mu     sync.Mutex
	closed bool
	ahead  time.Duration
}

// newWay leads to a server over a transport that has all it takes to be let in.
func newWay(t *testing.T, to string, transport http.RoundTripper) *wayThere {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	w := &wayThere{}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // watches
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: func(r *http.Response) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			r.Header.Set("Date", time.Now().Add(w.ahead).UTC().Format(http.TimeFormat))
			return nil
		},
	}
	w.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		closed := w.closed
		w.mu.Unlock()
		if closed {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(rw, r)
	}))
	w.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.StartTLS()
	t.Cleanup(func() {
		w.CloseClientConnections() // watches end when their clients do
		w.Close()
	})
	return w
}

func (w *wayThere) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.Certificate().Raw})
}

func (w *wayThere) set(closed bool, ahead time.Duration) {
	w.mu.Lock()
	w.closed, w.ahead = closed, ahead
	w.mu.Unlock()
	w.CloseClientConnections()
}

// listener is a receiver of notifications that remembers what it was told last about
// each finding.
type listener struct {
	*httptest.Server
	mu   sync.Mutex
	last map[string]notice // by cluster and finding
}

type notice struct {
	Event, Cluster, Severity string
	Finding                  rotation.Finding
}

func newListener(t *testing.T) *listener {
	l := &listener{last: map[string]notice{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var n notice
		if err = cmp.Or(err, json.Unmarshal(body, &n)); err != nil {
			t.Errorf("a notification that cannot be read: %v: %s", err, body)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.last[n.Cluster+"/"+n.Finding.ID] = n
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *listener) about(cluster, id string) notice {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[cluster+"/"+id]
}

// story asks status, metrics and the listener for the same thing.
type story struct {
	*site
	page string
	told *listener
}

// metric is the value of the one series that the expression finds, "" without one.
func (s *story) metric(series string) string {
	s.t.Helper()
	resp, err := http.Get(s.page + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	m := regexp.MustCompile(`(?m)^` + series + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// opens waits until all three tell of a finding, and returns it.
func (s *story) opens(cluster, id string, severity rotation.State) (found rotation.Finding) {
	s.t.Helper()
	took := s.eventually(3*time.Minute, func() string {
		st, _ := s.status()
		all := st.Findings
		if cluster != "" {
			all = clusterOf(st, cluster).Findings
		}
		i := slices.IndexFunc(all, func(f rotation.Finding) bool { return f.ID == id && f.Severity == severity })
		if i < 0 {
			return fmt.Sprintf("%s: status does not tell of %s (%s): %+v", cluster, id, severity, all)
		}
		found = all[i]
		series := fmt.Sprintf(`certd_findings\{cluster="%s",id="%s",severity="%s"\}`, cluster, id, severity)
		if v := s.metric(series); v != "1" {
			return fmt.Sprintf("%s is %q", series, v)
		}
		n := s.told.about(cluster, id)
		if n.Event != "finding.opened" && n.Event != "finding.escalated" || n.Severity != string(severity) {
			return fmt.Sprintf("%s: of %s was told %+v", cluster, id, n)
		}
		deadline := s.metric(fmt.Sprintf(`certd_finding_deadline_timestamp_seconds\{cluster="%s",id="%s"\}`, cluster, id))
		switch {
		case (found.Deadline == nil) != (n.Finding.Deadline == nil) || (found.Deadline == nil) != (deadline == ""):
			return fmt.Sprintf("%s: %s has deadline %v in status, %v in the notification, %q in the metrics", cluster, id, found.Deadline, n.Finding.Deadline, deadline)
		case found.Deadline != nil && (!found.Deadline.Equal(*n.Finding.Deadline) || !sameTime(deadline, *found.Deadline)):
			return fmt.Sprintf("%s: %s has deadline %s in status, %s in the notification, %s in the metrics", cluster, id, found.Deadline, n.Finding.Deadline, deadline)
		}
		return ""
	})
	s.t.Logf("%s %s: told alike after %s, deadline %v: %s", cluster, id, took.Round(time.Second), found.Deadline, found.Message)
	return found
}

// over waits until all three say that it is.
func (s *story) over(cluster, id string) {
	s.t.Helper()
	s.eventually(3*time.Minute, func() string {
		st, _ := s.status()
		all := st.Findings
		if cluster != "" {
			all = clusterOf(st, cluster).Findings
		}
		if slices.ContainsFunc(all, func(f rotation.Finding) bool { return f.ID == id }) {
			return fmt.Sprintf("%s: status still tells of %s: %+v", cluster, id, all)
		}
		if v := s.metric(fmt.Sprintf(`certd_findings\{cluster="%s",id="%s",severity="[a-z]+"\}`, cluster, id)); v != "" {
			return fmt.Sprintf("%s: the metrics still have %s: %s", cluster, id, v)
		}
		if n := s.told.about(cluster, id); n.Event != "finding.cleared" {
			return fmt.Sprintf("%s: of %s was told last %+v", cluster, id, n)
		}
		return ""
	})
}

// well waits until there is nothing to tell of.
func (s *story) well() {
	s.t.Helper()
	s.eventually(3*time.Minute, func() string {
		if st, code := s.status(); code != 0 {
			return fmt.Sprintf("exit %d: %+v %+v", code, st.Findings, st.Clusters)
		}
		return ""
	})
}

func sameTime(seconds string, at time.Time) bool {
	var f float64
	_, err := fmt.Sscan(seconds, &f)
	return err == nil && int64(f) == at.Unix()
}

// toldAlike: Vault is gone, a Secret is deleted, a cluster is cut off, an issuer becomes overdue, a
// clock is wrong: status, metrics and notifications tell the same story each time, with
// the same deadline, and say so when it is over.
func toldAlike(t *testing.T) {
	// Webhooks' registrations have no namespace: those of another drill are not its own.
	settings := replaced(t, quick, "linkerd: {", "linkerd: {namespace: drill-story, ", "webhooks: {projection: 10s}", "webhooks: {manage: none}")
	s := &story{site: newSiteIn(t, "drill-story", 3, settings), told: newListener(t)}
	c1, c2, c3 := s.lab.Clusters[0].Name, s.lab.Clusters[1].Name, s.lab.Clusters[2].Name
	var ways []*wayThere
	for i := range 3 {
		rc, err := clientcmd.BuildConfigFromFlags("", s.lab.Clusters[i].Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		transport, err := rest.TransportFor(rc)
		if err != nil {
			t.Fatal(err)
		}
		way := newWay(t, rc.Host, transport)
		ways = append(ways, way)
		s.edit(s.lab.Clusters[i].CertdKubeconfig, s.kubeconfig(i, func(c *clientcmdapi.Config) {
			for _, cl := range c.Clusters {
				cl.Server, cl.CertificateAuthorityData, cl.CertificateAuthority = way.URL, way.ca(), ""
			}
			for _, a := range c.AuthInfos {
				*a = clientcmdapi.AuthInfo{}
			}
		}))
	}
	vault := newVaultGate(s.site)
	vault.behind(s.site)
	// More than the usual ten messages a minute would be summed up.
	port := closedPort(t)
	s.page = "http://" + port
	s.edit("server: {", "notify:\n  after: 0s\n  receivers: {soc: {perMinute: 600, webhook: {url: \""+s.told.URL+"\", secretFrom: {file: soc}}}}\n  default: [soc]\nserver: {listen: "+port+", ")
	s.write("soc", "whsec_bm90aGluZyBzZWNyZXQgYXQgYWxsLCBidXQgbG9uZyBlbm91Z2g=\n")
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.well()

	vault.mode.Store("sealed")
	s.opens("", "KeysUnavailable", rotation.StateWarning)
	s.eventually(2*time.Minute, func() string {
		if v := s.metric("certd_vault_up"); v != "0" {
			return "certd_vault_up is " + v
		}
		return ""
	})
	if err := s.kube[1].CoreV1().Secrets(s.ns).Delete(context.Background(), rotation.IssuerObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.opens(c2, "IssuerUnusable", rotation.StateCritical)
	ways[0].set(true, 0)
	s.opens(c1, "ClusterUnreachable", rotation.StateUnknown)
	if v := s.metric(`certd_cluster_up\{cluster="` + c1 + `"\}`); v != "0" {
		t.Errorf("certd_cluster_up of %s is %q", c1, v)
	}
	// The schedule fires every two minutes; what is due then cannot be signed.
	failing := s.opens(c3, "StepFailed", rotation.StateWarning)
	st, _ := s.status()
	if end := clusterOf(st, c3).Issuer.Delivered.NotAfter; failing.Deadline == nil || !failing.Deadline.Equal(end) {
		t.Errorf("%s is told to have until %v, and its issuer ends at %s", c3, failing.Deadline, end)
	}
	if !strings.Contains(failing.Message, "issuer does not succeed") {
		t.Errorf("%s: %s", c3, failing.Message)
	}

	ways[0].set(false, 0)
	s.over(c1, "ClusterUnreachable")
	vault.mode.Store("open")
	s.over("", "KeysUnavailable")
	s.over(c2, "IssuerUnusable")
	s.over(c3, "StepFailed")

	ways[2].set(false, 10*time.Minute)
	s.opens(c3, "ClockSkew", rotation.StateCritical)
	ways[2].set(false, 0)
	s.over(c3, "ClockSkew")
	s.well()
	for _, series := range []string{"certd_vault_up", `certd_cluster_up\{cluster="` + c1 + `"\}`} {
		s.eventually(2*time.Minute, func() string { // Vault is asked each minute
			if v := s.metric(series); v != "1" {
				return fmt.Sprintf("in the end %s is %q", series, v)
			}
			return ""
		})
	}
	d.term()
}
