package kube

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// serve answers TLS connections with a credential and nothing more.
func serve(t testing.TB, cred pki.Credential) net.Listener {
	t.Helper()
	pair, err := tls.X509KeyPair(cred.ChainPEM(), cred.KeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l
}

func portOf(t testing.TB, l net.Listener) int32 {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	n, atoiErr := strconv.ParseInt(port, 10, 32)
	if err := errors.Join(err, atoiErr); err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

// account makes the ServiceAccount without which no pod is.
func (h *hooks) account(t testing.TB, ns string) {
	t.Helper()
	_, err := h.admin.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// pod puts a pod there that is said to run at an address; the lab's kubelet is
// told to leave it alone.
func (h *hooks) pod(t testing.TB, ns, name string, labels map[string]string, port int32, status corev1.PodStatus) *corev1.Pod {
	t.Helper()
	h.account(t, ns)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: map[string]string{"lab/never-ready": "true"}},
		Spec: corev1.PodSpec{NodeName: "nowhere", Containers: []corev1.Container{{Name: "linkerd-proxy", Image: "x"},
			{Name: "hook", Image: "x", Ports: []corev1.ContainerPort{{Name: "https", ContainerPort: port}}}}},
	}
	pod, err := h.admin.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		pod.Status = status
		_, err = h.admin.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			break
		}
		if pod, err = h.admin.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func running(ip string, ready bool) corev1.PodStatus {
	state := corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	s := corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: state}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "hook", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1_700_000_000, 0)}}}}}
	if ip != "" {
		s.PodIP, s.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	return s
}

func (h *hooks) service(t testing.TB, w rotation.WebhookSpec, target intstr.IntOrString, selector map[string]string) {
	t.Helper()
	_, err := h.admin.CoreV1().Services(w.Namespace).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: w.Service},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Name: "other", Port: 80}, {Name: "https", Port: 443, TargetPort: target}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// What pods serve is found out from themselves, and what cannot be is said.
func TestProbeSeesWhatIsServed(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w, ca := h.injector(), backendtest.NewWebhookCA(t)
	h.install(t, rival, w, ca.Set().PEM())
	cred := ca.Serving(t, w.DNSNames...)
	l := serve(t, cred)
	labels := map[string]string{"component": "injector"}
	h.service(t, w, intstr.FromString("https"), labels)
	h.pod(t, h.ns, "good", labels, portOf(t, l), running("127.0.0.1", true))
	h.pod(t, h.ns, "refuses", labels, portOf(t, l), running("127.9.9.9", false))
	h.pod(t, h.ns, "pending", labels, portOf(t, l), corev1.PodStatus{Phase: corev1.PodPending})
	h.pod(t, h.ns, "over", labels, portOf(t, l), corev1.PodStatus{Phase: corev1.PodSucceeded})
	h.pod(t, h.ns, "theirs", map[string]string{"component": "x"}, portOf(t, l), running("127.0.0.1", true))
	c := h.open(t, bare(w))
	spec := seen(t, c).Spec
	found := c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{spec})[w.Name].Replicas
	by := map[string]rotation.WebhookReplica{}
	for _, r := range found {
		by[r.Pod] = r
	}
	if len(found) != 3 {
		t.Fatalf("replicas %+v", found)
	}
	if r := by["good"]; len(r.Served) != 1 || !r.Served[0].Equal(cred.Chain()[0]) || r.Evidence != "tls" || !r.Ready || r.Started.Unix() != 1_700_000_000 || time.Since(r.At) > time.Minute {
		t.Errorf("good: %+v", r)
	}
	if r := by["refuses"]; r.Served != nil || !strings.Contains(r.Evidence, "refused") || !strings.Contains(r.Evidence, "pods/portforward") || r.Ready {
		t.Errorf("refuses: %+v", r)
	}
	if r := by["pending"]; r.Served != nil || !strings.Contains(r.Evidence, "Pending") {
		t.Errorf("pending: %+v", r)
	}
	if r := c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{spec})[w.Name].Replicas; !slices.ContainsFunc(r, func(r rotation.WebhookReplica) bool {
		return r.Pod == "refuses" && strings.Contains(r.Evidence, "did not answer lately")
	}) {
		t.Errorf("the address that does not answer was dialled again: %+v", r)
	}
}

func TestProbeWithoutPods(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	w := h.injector()
	h.install(t, rival, w, nil)
	c := h.open(t, bare(w))
	spec := seen(t, c).Spec
	evidence := func() string {
		t.Helper()
		r := c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{spec})[w.Name].Replicas
		if len(r) != 1 || r[0].Served != nil {
			t.Fatalf("replicas %+v", r)
		}
		return r[0].Evidence
	}
	if e := evidence(); !strings.Contains(e, "does not exist") {
		t.Errorf("no Service: %q", e)
	}
	h.service(t, w, intstr.IntOrString{}, nil)
	if e := evidence(); !strings.Contains(e, "selects no pods") {
		t.Errorf("no selector: %q", e)
	}
	w.Service = "elsewhere"
	h.install(t, rival, w, nil)
	h.put(t, rival, w.Objects[0], func(o map[string]any) {
		o["webhooks"].([]any)[0].(map[string]any)["clientConfig"].(map[string]any)["service"].(map[string]any)["port"] = int64(8443)
	})
	h.service(t, w, intstr.IntOrString{}, map[string]string{"a": "b"})
	c = h.open(t, bare(w))
	if spec = seen(t, c).Spec; !strings.Contains(evidence(), "no port 8443") {
		t.Errorf("another port: %q", evidence())
	}
}

func TestPodsTellPortStartAndOwner(t *testing.T) {
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(100, 0), Labels: map[string]string{"pod-template-hash": "5d4b"}},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "sidecar", Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 9990}}}},
			Containers:     []corev1.Container{{Name: "hook", Ports: []corev1.ContainerPort{{Name: "https", ContainerPort: 8443}}}},
		},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "hook", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(300, 0)}}}}},
	}
	for _, row := range []struct {
		name      string
		target    intstr.IntOrString
		port      int32
		container string
		started   int64
	}{
		{"by name", intstr.FromString("https"), 8443, "hook", 300},
		{"by number", intstr.FromInt32(8443), 8443, "hook", 300},
		{"a number that nobody declares", intstr.FromInt32(1234), 1234, "", 100},
		{"a name that nobody declares", intstr.FromString("x"), 0, "", 100},
		{"of a sidecar", intstr.FromString("admin"), 9990, "sidecar", 100},
	} {
		port, container := targetPort(pod, row.target)
		if port != row.port || container != row.container || started(pod, container).Unix() != row.started {
			t.Errorf("%s: port %d of %q, started %d", row.name, port, container, started(pod, container).Unix())
		}
	}
	for _, row := range []struct{ kind, name, want string }{
		{"ReplicaSet", "injector-5d4b", "Deployment/injector"},
		{"ReplicaSet", "by-hand", "/"},
		{"ReplicaSet", "-5d4b", "/"},
		{"DaemonSet", "injector", "DaemonSet/injector"},
		{"StatefulSet", "injector", "StatefulSet/injector"},
		{"Job", "injector", "/"},
	} {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "other-5d4b"}, {Kind: row.kind, Name: row.name, Controller: &yes}}
		if got := owner(pod).String(); got != row.want {
			t.Errorf("%s %s: owner %s; want %s", row.kind, row.name, got, row.want)
		}
	}
}

// forwardServer is an API server that forwards ports of pods, to where target
// says; "" is a kubelet that reaches nothing.
func forwardServer(t testing.TB, target func(pod, port string) string) *Cluster {
	t.Helper()
	return fakeServer(t, 5*time.Second, func(w http.ResponseWriter, r *http.Request) {
		pod := strings.Split(r.URL.Path, "/")[6]
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/portforward") || r.Header.Get("Authorization") == "" {
			status(400, "BadRequest", "not that way")(w, r)
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{portForwardProtocol}); err != nil {
			return
		}
		against := make(chan httpstream.Stream, 1)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				against <- s
				return nil
			}
			go func() {
				<-replied
				errs := <-against
				defer errs.Close()
				defer s.Close()
				to, err := net.Dial("tcp", target(pod, s.Headers().Get(corev1.PortHeader)))
				if err != nil {
					fmt.Fprintf(errs, "the kubelet says: %v", err)
					return
				}
				defer to.Close()
				go func() { _, _ = io.Copy(to, s) }()
				_, _ = io.Copy(s, to)
			}()
			return nil
		})
		if conn != nil {
			<-conn.CloseChan()
		}
	})
}

func TestPortForward(t *testing.T) {
	w := rotation.WebhookSpec{Name: "x", Service: "x", Namespace: "linkerd", DNSNames: []string{"x.linkerd.svc"}}
	ca := backendtest.NewWebhookCA(t)
	cred, wrong := ca.Serving(t, w.DNSNames...), ca.Serving(t, w.DNSNames...)
	l, other := serve(t, cred), serve(t, wrong)
	var forwards atomic.Int32
	c := forwardServer(t, func(pod, port string) string {
		forwards.Add(1)
		if pod == "good" && port == "8443" {
			return l.Addr().String()
		}
		return "127.0.0.1:1"
	})
	pod := func(name, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "linkerd", UID: types.UID(name)}, Status: running(ip, true)}
	}
	for range 3 { // a forwarded connection leaves nothing behind that hinders the next
		chain, evidence := c.served(t.Context(), w, pod("good", "127.0.0.1"), 8443)
		if len(chain) != 1 || !chain[0].Equal(cred.Chain()[0]) || evidence != "port-forward" {
			t.Errorf("served %v, %q", chain, evidence)
		}
	}
	if chain, evidence := c.served(t.Context(), w, pod("bad", "169.254.169.254"), 8443); chain != nil || !strings.Contains(evidence, "the kubelet says") || !strings.Contains(evidence, "no address to dial") {
		t.Errorf("served %v, %q", chain, evidence)
	}

	// Somebody else answers at the pod's address: the API server knows better,
	// unless it is the Secret's certificate that is served.
	c.unreached = map[types.UID]time.Time{}
	somebody := pod("good", "127.0.0.1")
	chain, err := c.dialled(t.Context(), w, somebody, portOf(t, other))
	if err != nil || !chain[0].Equal(wrong.Chain()[0]) {
		t.Fatalf("dialled: %v, %v", chain, err)
	}
	forwards.Store(0)
	c.sights[w.Name] = sight{leaf: pki.Fingerprint(wrong.Chain()[0])}
	if chain, evidence := c.served(t.Context(), w, somebody, portOf(t, other)); !chain[0].Equal(wrong.Chain()[0]) || evidence != "tls" || forwards.Load() != 0 {
		t.Errorf("the Secret's certificate: %q, %d forwards", evidence, forwards.Load())
	}
	c.sights[w.Name] = sight{leaf: pki.Fingerprint(cred.Chain()[0])}
	if chain, evidence := c.served(t.Context(), w, somebody, portOf(t, other)); !chain[0].Equal(wrong.Chain()[0]) || evidence != "tls" || forwards.Load() != 1 {
		t.Errorf("another one, and no forwarding: %q, %d forwards", evidence, forwards.Load())
	}
}

func TestPortForwardThatIsRefused(t *testing.T) {
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"no right":         {status(403, "Forbidden", `x is forbidden: User "y" cannot do that`), `the verb "create" on "pods/portforward" is missing; grant it: kubectl apply -f deploy/rbac/certd-viz.yaml`},
		"no such pod":      {status(404, "NotFound", "pods x not found"), "not found"},
		"an error page":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); fmt.Fprint(w, "<html>") }, "502"},
		"no answer":        {hang, "deadline"},
		"another protocol": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, "hello"},
	} {
		c := fakeServer(t, time.Second, row.answer)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "linkerd-viz"}}
		_, err := c.forwardedChain(t.Context(), rotation.WebhookSpec{}, pod, 8443)
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v; want %q", name, err, row.says)
		}
	}
}

// admit is a webhook server that answers as it is told.
type admit struct {
	answer atomic.Pointer[func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse]
}

func (a *admit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = (*a.answer.Load())(review.Request)
	review.Response.UID = review.Request.UID
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func deny(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: "so it is"}}
}

// patch is a mutating answer: a container, an annotation, both or none.
func patch(container, annotation string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		ops := []map[string]any{}
		if container != "" {
			ops = append(ops, map[string]any{"op": "add", "path": "/spec/initContainers", "value": []any{map[string]any{"name": container, "image": "x", "restartPolicy": "Always"}}})
		}
		if annotation != "" {
			ops = append(ops, map[string]any{"op": "add", "path": "/metadata/annotations/" + strings.ReplaceAll(annotation, "/", "~1"), "value": "true"})
		}
		text, _ := json.Marshal(ops)
		kind := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: text, PatchType: &kind}
	}
}

// crd makes sure that a kind of Linkerd's exists. Tests share it.
func crd(t testing.TB, h *hooks, kind schema.GroupVersionResource, name string) {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": kind.GroupResource().String()},
		"spec": map[string]any{"group": kind.Group, "scope": "Namespaced", "names": map[string]any{"plural": kind.Resource, "singular": strings.ToLower(name), "kind": name, "listKind": name + "List"},
			"versions": []any{map[string]any{"name": kind.Version, "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
	}}
	_, err := h.any.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// A real API server asks a webhook on behalf of the dry runs.
func TestFunctionalChecks(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, h.ns)
	h.account(t, h.ns)
	crd(t, h, serviceProfiles, "ServiceProfile")
	crd(t, h, networkAuthentications, "NetworkAuthentication")
	server := &admit{}
	s := quietServer(server.ServeHTTP)
	t.Cleanup(s.Close)
	dead := quietServer(drop)
	dead.Close()
	ca := pki.EncodeCertificates(s.Certificate())
	// configure points a webhook at url, in the namespace of the test alone.
	configure := func(kind, name, url, policy string) rotation.ObjectRef {
		r := rotation.ObjectRef{Kind: kind, Name: name + "-" + h.ns}
		client := calls("x", "x", ca)
		delete(client, "service")
		client["url"] = url
		e := hook(name+".certd.test", client)
		e["failurePolicy"] = policy
		delete(e, "objectSelector")
		e["namespaceSelector"] = map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": h.ns}}
		e["rules"] = []any{map[string]any{"operations": []any{"CREATE"}, "apiGroups": []any{"*"}, "apiVersions": []any{"*"},
			"resources": []any{"pods", "serviceprofiles", "networkauthentications"}}}
		h.put(t, rival, r, func(o map[string]any) { o["webhooks"] = []any{e} })
		return r
	}
	type answer = func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
	for _, row := range []struct {
		name          string
		check         rotation.CheckKind
		answer        answer
		url, policy   string
		another       bool // an unrelated webhook fails, too
		state, reason string
	}{
		{"it injects", rotation.CheckInjected, patch("linkerd-proxy", ""), s.URL, "Fail", false, "yes", "dry-run pod"},
		{"it injects nothing", rotation.CheckInjected, allow, s.URL, "Fail", false, "no", "came back without linkerd-proxy"},
		{"it is down and ignored", rotation.CheckInjected, allow, dead.URL, "Ignore", false, "no", "failurePolicy Ignore"},
		{"it is down", rotation.CheckInjected, allow, dead.URL, "Fail", false, "no", "failed calling webhook"},
		{"it refuses", rotation.CheckInjected, deny, s.URL, "Fail", false, "unknown", "so it is"},
		{"another one is down", rotation.CheckInjected, allow, s.URL, "Fail", true, "unknown", "another webhook fails"},
		{"it taps", rotation.CheckTapped, patch("linkerd-proxy", tapAnnotation), s.URL, "Fail", false, "yes", "dry-run pod"},
		{"it taps nothing", rotation.CheckTapped, patch("linkerd-proxy", ""), s.URL, "Fail", false, "no", tapAnnotation},
		{"there is nothing to tap", rotation.CheckTapped, allow, s.URL, "Fail", false, "unknown", "no proxy was injected"},
		{"it traces", rotation.CheckTraced, patch("linkerd-proxy", traceAnnotation), s.URL, "Fail", false, "yes", "dry-run pod"},
		{"it traces nothing", rotation.CheckTraced, patch("linkerd-proxy", ""), s.URL, "Fail", false, "no", traceAnnotation},
		{"it refuses a bad timeout", rotation.CheckBadTimeout, deny, s.URL, "Fail", false, "yes", "dry-run ServiceProfile"},
		{"it takes a bad timeout", rotation.CheckBadTimeout, allow, s.URL, "Fail", false, "no", "was accepted"},
		{"the validator is down", rotation.CheckBadTimeout, allow, dead.URL, "Fail", false, "no", "failed calling webhook"},
		{"another one is down before the validator", rotation.CheckBadTimeout, deny, s.URL, "Fail", true, "unknown", "another webhook fails"},
		{"it refuses bad networks", rotation.CheckBadNetworks, deny, s.URL, "Fail", false, "yes", "dry-run NetworkAuthentication"},
		{"it takes bad networks", rotation.CheckBadNetworks, allow, s.URL, "Fail", false, "no", "was accepted"},
		{"nothing is known of it", rotation.CheckNone, allow, s.URL, "Fail", false, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			server.answer.Store(&row.answer)
			kind := rotation.KindValidating
			if slices.Contains([]rotation.CheckKind{rotation.CheckInjected, rotation.CheckTapped, rotation.CheckTraced}, row.check) {
				kind = rotation.KindMutating
			}
			ref := configure(kind, "hook", row.url, row.policy)
			other := rotation.ObjectRef{}
			if row.another {
				other = configure(rotation.KindMutating, "another", dead.URL, "Fail")
			}
			defer h.remove(t, rotation.WebhookSpec{Objects: slices.DeleteFunc([]rotation.ObjectRef{ref, other}, func(r rotation.ObjectRef) bool { return r.Name == "" })})
			w := rotation.WebhookSpec{Name: "hook", Own: true, Namespace: h.ns, Secret: "x", DNSNames: []string{"127.0.0.1"}, Objects: []rotation.ObjectRef{ref}, Check: row.check}
			c := h.open(t, w)
			spec := seen(t, c).Spec
			var got rotation.WebhookEvidence
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				got = c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{spec})["hook"]
				if got.Check.State == row.state && strings.Contains(got.Check.Evidence, row.reason) {
					break
				}
			}
			if got.Check.State != row.state || !strings.Contains(got.Check.Evidence, row.reason) {
				t.Errorf("check %+v; want %s, %q", got.Check, row.state, row.reason)
			}
			if len(got.Replicas) != 1 || !strings.Contains(got.Replicas[0].Evidence, "called by URL") {
				t.Errorf("replicas %+v", got.Replicas)
			}
		})
	}
	pods, err := h.admin.CoreV1().Pods(h.ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("%d pods were left behind, %v", len(pods.Items), err)
	}
}

// What is in the way of a check is said, and is not held against the webhook.
func TestChecksThatCannotTell(t *testing.T) {
	notFound := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(404)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"not found","details":{"name":"certd","kind":%q}}`, kind)
		}
	}
	available := func(state string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1alpha1.tap.linkerd.io","resourceVersion":"7"},"status":{"conditions":[{"type":"Available","status":%q,"reason":"FailedDiscoveryCheck","message":"x509:\u001b[31m no"}]}}`, state)
		}
	}
	for name, row := range map[string]struct {
		check         rotation.CheckKind
		answer        http.HandlerFunc
		state, reason string
	}{
		"no right to pods":             {rotation.CheckInjected, status(403, "Forbidden", `pods is forbidden: User "y" cannot do that`), "unknown", `the verb "create" on "pods" is missing`},
		"no right to profiles":         {rotation.CheckBadTimeout, status(403, "Forbidden", `x is forbidden: User "y" cannot do that`), "unknown", `the verb "create" on "serviceprofiles" is missing`},
		"a policy's refusal":           {rotation.CheckInjected, status(403, "Forbidden", `violates PodSecurity "restricted:latest"`), "unknown", "violates PodSecurity"},
		"no namespace":                 {rotation.CheckTapped, notFound("namespaces"), "unknown", "kubectl create namespace certd"},
		"no namespace for profiles":    {rotation.CheckBadTimeout, notFound("namespaces"), "unknown", "kubectl create namespace certd"},
		"no such kind":                 {rotation.CheckBadTimeout, notFound(""), "", "no check: "},
		"no answer":                    {rotation.CheckBadNetworks, hang, "unknown", "deadline"},
		"a schema's refusal":           {rotation.CheckBadNetworks, status(422, "Invalid", "spec: Required value"), "unknown", "Required value"},
		"refused by another":           {rotation.CheckBadNetworks, status(403, "Forbidden", `admission webhook "theirs" denied the request: no`), "unknown", "another webhook was first"},
		"an APIService that is there":  {rotation.CheckAvailable, available("True"), "yes", "Available"},
		"one that is not available":    {rotation.CheckAvailable, available("False"), "no", "FailedDiscoveryCheck: x509: [31m no"},
		"one of which nothing is said": {rotation.CheckAvailable, available("Unknown"), "unknown", "FailedDiscoveryCheck"},
		"one that is gone":             {rotation.CheckAvailable, notFound("apiservices"), "unknown", "does not exist"},
		"a check of another version":   {"levitates", drop, "unknown", "levitates"},
	} {
		c := fakeServer(t, time.Second, row.answer)
		c.sights["x"] = sight{entries: []string{"x.linkerd.io"}}
		w := rotation.WebhookSpec{Name: "x", Service: "x", Namespace: "linkerd", Check: row.check, Objects: []rotation.ObjectRef{{Kind: rotation.KindAPIService, Name: "v1alpha1.tap.linkerd.io"}}}
		e := c.ProbeWebhooks(t.Context(), []rotation.WebhookSpec{w})["x"]
		if e.Check.State != row.state || !strings.Contains(e.Check.Evidence, row.reason) || strings.ContainsAny(e.Check.Evidence, "\x1b\n") {
			t.Errorf("%s: %+v; want %q, %q", name, e.Check, row.state, row.reason)
		}
	}
}
