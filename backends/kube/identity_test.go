package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

const namespaceJSON = `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"linkerd","uid":"4711"}}`

// identityServer is a cluster with two replicas of linkerd-identity, whose
// answers a row replaces by the end of a path.
func identityServer(t testing.TB, answers map[string]http.HandlerFunc) *Cluster {
	pods := `{"kind":"PodList","apiVersion":"v1","items":[` +
		`{"metadata":{"name":"a"},"status":{"phase":"Running"}},{"metadata":{"name":"b"},"status":{"phase":"Running"}},` +
		`{"metadata":{"name":"c"},"status":{"phase":"Pending"}},{"metadata":{"name":"d"},"status":{"phase":"Succeeded"}}]}`
	deployment := `{"kind":"Deployment","apiVersion":"apps/v1","spec":{"template":{"spec":{"containers":[{"name":"identity","args":["identity","-identity-issuance-lifetime=12h","--identity-clock-skew-allowance","30s"]}]}}}}`
	metrics := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Header().Set("Date", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Format(http.TimeFormat))
		fmt.Fprint(w, "# TYPE issuer_cert_ttl_seconds gauge\nissuer_cert_ttl_seconds 3599.7\n")
	}
	return fakeServer(t, 2*time.Second, func(w http.ResponseWriter, r *http.Request) {
		for end, answer := range answers {
			if strings.HasSuffix(r.URL.Path, end) {
				answer(w, r)
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/metrics"):
			metrics(w, r)
		case strings.HasSuffix(r.URL.Path, "/pods"):
			fmt.Fprint(w, pods)
		case strings.HasSuffix(r.URL.Path, "/deployments/linkerd-identity"):
			fmt.Fprint(w, deployment)
		case strings.HasSuffix(r.URL.Path, "/version"):
			fmt.Fprint(w, `{"gitVersion":"v1.36.3"}`)
		case strings.Contains(r.URL.Path, "/namespaces/linkerd/"):
			status(404, "NotFound", "not found")(w, r)
		default:
			fmt.Fprint(w, namespaceJSON)
		}
	})
}

// Linkerd 2.10 has its anchors from the chart, and mounts no ConfigMap for them.
func TestWhereIdentityHasItsAnchorsFrom(t *testing.T) {
	for _, row := range []struct {
		name, volumes string
		own           bool
	}{
		{"the ConfigMap", `{"name":"x","secret":{"secretName":"y"}},{"name":"trust-roots","configMap":{"name":"linkerd-identity-trust-roots"}}`, false},
		{"the ConfigMap among others", `{"name":"all","projected":{"sources":[{"secret":{"name":"y"}},{"configMap":{"name":"linkerd-identity-trust-roots"}}]}}`, false},
		{"another ConfigMap", `{"name":"trust-roots","configMap":{"name":"others"}}`, true},
		{"nowhere", ``, true},
	} {
		c := identityServer(t, map[string]http.HandlerFunc{"/deployments/linkerd-identity": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"kind":"Deployment","apiVersion":"apps/v1","spec":{"template":{"spec":{"containers":[{"name":"identity"}],"volumes":[%s]}}}}`, row.volumes)
		}})
		o, err := c.Observe(t.Context())
		if err != nil || o.Identity == nil || !o.Identity.Deployed || o.Identity.OwnRoots != row.own {
			t.Errorf("%s: %+v, %v", row.name, o.Identity, err)
		}
	}
	c := identityServer(t, map[string]http.HandlerFunc{"/deployments/linkerd-identity": status(404, "NotFound", "not found")})
	if o, err := c.Observe(t.Context()); err != nil || o.Identity.OwnRoots {
		t.Errorf("without a Deployment: %+v, %v", o.Identity, err)
	}
}

// Whatever does not answer, the rest is seen, and what is not seen says why.
func TestEvidence(t *testing.T) {
	loaded := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, s)
		}
	}
	forbidden := status(403, "Forbidden", `x is forbidden: User "y" cannot do that`)
	for _, row := range []struct {
		name     string
		answers  map[string]http.HandlerFunc
		evidence map[string]string // by replica
	}{
		{"both tell", nil, map[string]string{"a": "metric", "b": "metric"}},
		{"one does not listen", map[string]http.HandlerFunc{"b:9990/proxy/metrics": status(503, "ServiceUnavailable", "error trying to reach service: dial tcp: connection refused")}, map[string]string{"a": "metric", "b": "connection refused"}},
		{"one never answers", map[string]http.HandlerFunc{"b:9990/proxy/metrics": hang}, map[string]string{"a": "metric", "b": "deadline"}},
		{"one answers without end", map[string]http.HandlerFunc{"b:9990/proxy/metrics": text(strings.Repeat("x 1\n", 1<<20))}, map[string]string{"a": "metric", "b": "larger than"}},
		{"one is older than the metric", map[string]http.HandlerFunc{"b:9990/proxy/metrics": text("go_goroutines 7\n")}, map[string]string{"a": "metric", "b": "Linkerd before 2.18"}},
		{"one talks nonsense", map[string]http.HandlerFunc{"b:9990/proxy/metrics": text("issuer_cert_ttl_seconds NaN\n")}, map[string]string{"a": "metric", "b": "no time to live"}},
		{"certd may not ask them", map[string]http.HandlerFunc{"/proxy/metrics": forbidden}, map[string]string{"a": `the verb "get" on "pods/proxy" is missing`, "b": `"pods/proxy"`}},
		{"certd may not list them", map[string]http.HandlerFunc{"/pods": forbidden}, map[string]string{"linkerd-identity": `the verb "list" on "pods" is missing`}},
		{"listing them takes for ever", map[string]http.HandlerFunc{"/pods": hang}, map[string]string{"linkerd-identity": "list pods"}},
		{"certd may not see the Deployment", map[string]http.HandlerFunc{"/linkerd-identity": forbidden}, map[string]string{"a": "metric", "b": "metric"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			o, err := identityServer(t, row.answers).Observe(t.Context())
			if err != nil {
				t.Fatalf("observe: %v", err)
			}
			if o.Target != "4711" || o.Version != "v1.36.3" || !o.Namespace {
				t.Errorf("target %q, version %q, namespace %t", o.Target, o.Version, o.Namespace)
			}
			if _, hidden := row.answers["/linkerd-identity"]; !hidden && (!o.Identity.Deployed || o.Identity.LeafLifetime != 12*time.Hour || o.Identity.ClockSkew != 30*time.Second) {
				t.Errorf("identity %+v", o.Identity)
			}
			if len(o.Identity.Replicas) != len(row.evidence) {
				t.Fatalf("replicas %+v", o.Identity.Replicas)
			}
			for _, r := range o.Identity.Replicas {
				if want := row.evidence[r.Pod]; want == "" || !strings.Contains(r.Evidence, want) {
					t.Errorf("replica %s: evidence %q; want %q", r.Pod, r.Evidence, want)
				}
				if r.Evidence == "metric" != r.NotAfter.Equal(loaded) {
					t.Errorf("replica %s: evidence %q, notAfter %s", r.Pod, r.Evidence, r.NotAfter)
				}
			}
		})
	}
}

// A pod that is being deleted counts as long as linkerd-identity runs in it, or may on a
// node that is not heard of; by when it is to be gone is told.
func TestReplicasThatAreBeingDeleted(t *testing.T) {
	const due = "2026-03-01T12:00:30Z"
	state := func(of, s string) string { return `"containerStatuses":[{"name":"` + of + `","state":{` + s + `}}]` }
	pods := `{"kind":"PodList","apiVersion":"v1","items":[` + strings.Join([]string{
		`{"metadata":{"name":"stays"},"status":{"phase":"Running"}}`,
		`{"metadata":{"name":"goes","deletionTimestamp":"` + due + `"},"status":{"phase":"Running",` + state("identity", `"running":{"startedAt":"2026-03-01T10:00:00Z"}`) + `}}`,
		`{"metadata":{"name":"lost","deletionTimestamp":"` + due + `"},"status":{"phase":"Unknown"}}`,
		`{"metadata":{"name":"proxy-only","deletionTimestamp":"` + due + `"},"status":{"phase":"Running",` + state("identity", `"terminated":{"reason":"Completed"}`) + `}}`,
		`{"metadata":{"name":"crashed"},"status":{"phase":"Running",` + state("identity", `"terminated":{"reason":"Error"}`) + `}}`,
		`{"metadata":{"name":"not-its","deletionTimestamp":"` + due + `"},"status":{"phase":"Running",` + state("other", `"terminated":{"reason":"Completed"}`) + `}}`,
		`{"metadata":{"name":"over","deletionTimestamp":"` + due + `"},"status":{"phase":"Succeeded"}}`,
	}, ",") + `]}`
	c := identityServer(t, map[string]http.HandlerFunc{"/pods": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, pods)
	}})
	o, err := c.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range o.Identity.Replicas {
		s := r.Pod
		if !r.GoneBy.IsZero() {
			s += " by " + r.GoneBy.UTC().Format(time.RFC3339)
		}
		got = append(got, s)
	}
	if want := "stays, goes by " + due + ", lost by " + due + ", crashed, not-its by " + due; strings.Join(got, ", ") != want {
		t.Errorf("replicas %v, want %s", got, want)
	}
}

func TestArguments(t *testing.T) {
	for _, row := range []struct {
		name string
		args []string
		want time.Duration
	}{
		{"one dash", []string{"identity", "-identity-issuance-lifetime=24h0m0s"}, 24 * time.Hour},
		{"two dashes", []string{"--identity-issuance-lifetime=1h"}, time.Hour},
		{"the value in the next word", []string{"-identity-issuance-lifetime", "2h"}, 2 * time.Hour},
		{"twice: the last counts", []string{"-identity-issuance-lifetime=1h", "-identity-issuance-lifetime=3h"}, 3 * time.Hour},
		{"not given", []string{"-log-level=info"}, 24 * time.Hour},
		{"no duration", []string{"-identity-issuance-lifetime=soon"}, 24 * time.Hour},
		{"no duration of Go's", []string{"-identity-issuance-lifetime=30d"}, 24 * time.Hour},
		{"twice: the last counts, although it is none", []string{"-identity-issuance-lifetime=1h", "-identity-issuance-lifetime=30d"}, 24 * time.Hour},
		{"without its value", []string{"-identity-issuance-lifetime"}, 24 * time.Hour},
		{"a longer name", []string{"-identity-issuance-lifetime-max=1h"}, 24 * time.Hour},
	} {
		spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "linkerd-proxy", Args: []string{"-identity-issuance-lifetime=9h"}}, {Name: "identity", Args: row.args}}}
		if got, _, _ := arguments(spec); got != row.want {
			t.Errorf("%s: %s; want %s", row.name, got, row.want)
		}
	}
}

// Leaves live for as long as any of the pods says: amid a rollout, some have the arguments
// from before, and where the Deployment cannot be seen, they say it alone.
func TestHowLongLeavesLive(t *testing.T) {
	pod := func(name, lifetime string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		p.Spec.Containers = []corev1.Container{{Name: "identity", Args: []string{"identity", "-identity-issuance-lifetime=" + lifetime, "-identity-scheme=linkerd.io/tls"}}}
		return p
	}
	gone, broken := status(404, "NotFound", "not found"), status(500, "InternalError", "etcdserver: request timed out")
	for _, row := range []struct {
		name       string
		deployment http.HandlerFunc // nil: 12h
		pods       []corev1.Pod
		want       time.Duration
		deployed   bool
	}{
		{"all say the same", nil, []corev1.Pod{pod("a", "12h")}, 12 * time.Hour, true},
		{"a pod from before says longer", nil, []corev1.Pod{pod("a", "12h"), pod("b", "72h")}, 72 * time.Hour, true},
		{"pods from before say shorter", nil, []corev1.Pod{pod("a", "1h")}, 12 * time.Hour, true},
		{"the Deployment is not seen", broken, []corev1.Pod{pod("a", "48h")}, 48 * time.Hour, false},
		{"the Deployment is gone", gone, []corev1.Pod{pod("a", "48h")}, 48 * time.Hour, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			answers := map[string]http.HandlerFunc{"/pods": lists(t, row.pods...)}
			if row.deployment != nil {
				answers["/deployments/linkerd-identity"] = row.deployment
			}
			o, err := identityServer(t, answers).Observe(t.Context())
			if err != nil || o.Identity.LeafLifetime != row.want || o.Identity.Deployed != row.deployed || o.Identity.Scheme != "linkerd.io/tls" {
				t.Errorf("%+v, %v", o.Identity, err)
			}
		})
	}
}

// A time to live comes from a line of that very metric or not at all, and is
// never beyond reason.
func FuzzIssuerTTL(f *testing.F) {
	f.Add([]byte("issuer_cert_ttl_seconds 86399.25\n"))
	f.Add([]byte("# HELP issuer_cert_ttl_seconds x\nissuer_cert_ttl_seconds{a=\"b\"} -3 1700000000\n"))
	f.Add([]byte("issuer_cert_ttl_seconds_total 1\n"))
	f.Add([]byte("issuer_cert_ttl_seconds +Inf"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ttl, err := issuerTTL(text)
		if err != nil && ttl != 0 {
			t.Errorf("%s beside %v", ttl, err)
		}
		if ttl.Abs() > 101*365*24*time.Hour {
			t.Errorf("%s", ttl)
		}
		if err == nil && !strings.Contains(string(text), ttlMetric) {
			t.Error("found what is not there")
		}
	})
}

func TestWriters(t *testing.T) {
	at := func(hour int) *metav1.Time { return &metav1.Time{Time: time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC)} }
	entry := func(manager string, hour int, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Time: at(hour), FieldsV1: metav1.NewFieldsV1(fields)}
	}
	got := writers([]metav1.ManagedFieldsEntry{
		entry("certd", 9, `{"f:data":{"f:ca-bundle.crt":{}}}`),
		entry("helm", 1, `{"f:metadata":{"f:labels":{"f:app.kubernetes.io/managed-by":{}}}}`),
		entry("argocd-controller", 3, `{"f:data":{".":{},"f:ca-bundle.crt":{}}}`),
		entry("kubectl-annotate", 2, `{"f:metadata":{"f:annotations":{"f:certd.io/epoch":{}}}}`),
		entry("a-labeller", 5, `{"f:metadata":{"f:labels":{"f:team":{}}}}`),
		entry("another-key", 6, `{"f:data":{"f:theirs.txt":{}}}`),
		entry("rubbish", 7, `{{`),
		{Manager: "no-fields", Time: at(8)},
		{Manager: "no-time", FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:ca-bundle.crt":{}}}`)},
	}, orMarks(dataFields([]string{"ca-bundle.crt"})))
	if s := names(got); s != "argocd-controller kubectl-annotate helm no-time" {
		t.Errorf("writers %q", s)
	}
}

func names(writers []rotation.Writer) string {
	var names []string
	for _, w := range writers {
		names = append(names, w.Name)
	}
	return strings.Join(names, " ")
}

func FuzzManagedFields(f *testing.F) {
	f.Add([]byte(`{"f:data":{"f:ca-bundle.crt":{}}}`))
	f.Add([]byte(`{"f:metadata":{"f:annotations":{"f:certd.io/epoch":{}}}}`))
	f.Add([]byte(`{"f:data":null}`))
	f.Add([]byte(`{"f:spec":{"f:caBundle":{}}}`))
	f.Add([]byte(`{"f:webhooks":{"k:{\"name\":\"a.b.c\"}":{"f:clientConfig":{}}}}`))
	f.Fuzz(func(t *testing.T, fields []byte) {
		for _, owns := range []func([]byte) bool{orMarks(dataFields([]string{"ca-bundle.crt"})), caBundleFields(nil), caBundleFields([]string{"a.b.c"})} {
			if owns(fields) && !json.Valid(fields) {
				t.Error("found an owner in what is no JSON")
			}
		}
	})
}
