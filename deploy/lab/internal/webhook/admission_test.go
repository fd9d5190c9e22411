package webhook

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// review asks a running server.
func review(s *Server, request *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request})
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+s.Address()+"/?timeout=10s", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &answer); err != nil || answer.Response == nil {
		return nil, fmt.Errorf("%s: %s (%v)", resp.Status, text, err)
	}
	if answer.Kind != "AdmissionReview" || answer.APIVersion != "admission.k8s.io/v1" || answer.Response.UID != request.UID {
		return nil, fmt.Errorf("an API server would not take this: %s", text)
	}
	return answer.Response, nil
}

func reviewOf(t *testing.T, kind, operation string, object any) *admissionv1.AdmissionRequest {
	t.Helper()
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return &admissionv1.AdmissionRequest{UID: "some-uid", Kind: metav1.GroupVersionKind{Kind: kind}, Namespace: "shop", Name: "it",
		Operation: admissionv1.Operation(operation), Object: runtime.RawExtension{Raw: raw}}
}

func podReview(t *testing.T, operation string, change func(*corev1.Pod)) *admissionv1.AdmissionRequest {
	t.Helper()
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
	if change != nil {
		change(pod)
	}
	return reviewOf(t, "Pod", operation, pod)
}

// patched is the pod of a request after the answer's patch.
func patched(t *testing.T, request *admissionv1.AdmissionRequest, response *admissionv1.AdmissionResponse) *corev1.Pod {
	t.Helper()
	if !response.Allowed {
		t.Fatalf("refused: %v", response.Result)
	}
	text := request.Object.Raw
	if len(response.Patch) > 0 {
		if response.PatchType == nil || *response.PatchType != admissionv1.PatchTypeJSONPatch {
			t.Error("the patch has no type")
		}
		patch, err := jsonpatch.DecodePatch(response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = patch.Apply(text); err != nil {
			t.Fatalf("apply %s: %v", response.Patch, err)
		}
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(text, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// env is a variable of the pod's proxy; none if it has none.
func env(pod *corev1.Pod, name string) string {
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for _, e := range c.Env {
			if c.Name == "linkerd-proxy" && e.Name == name {
				return e.Value
			}
		}
	}
	return "none"
}

func annotated(value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations = map[string]string{"linkerd.io/inject": value} }
}

func meshed(pod *corev1.Pod) {
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "linkerd-proxy", Env: []corev1.EnvVar{{Name: "A", Value: "1"}}})
}

func sidecar(pod *corev1.Pod) {
	pod.Annotations = map[string]string{"its": "own"}
	pod.Spec.InitContainers = []corev1.Container{{Name: "linkerd-proxy"}}
}

func TestWhichPodsGetAProxy(t *testing.T) {
	for _, test := range []struct {
		name      string
		namespace bool // says inject
		request   *admissionv1.AdmissionRequest
		injected  bool
	}{
		{"one that asks for it", false, podReview(t, "CREATE", annotated("enabled")), true},
		{"one whose namespace asks for it", true, podReview(t, "CREATE", nil), true},
		{"none that says no", true, podReview(t, "CREATE", annotated("disabled")), false},
		{"none that nobody asks for", false, podReview(t, "CREATE", nil), false},
		{"none that has one", true, podReview(t, "CREATE", meshed), false},
		{"none that has one as a sidecar", true, podReview(t, "CREATE", sidecar), false},
		{"none that is there already", true, podReview(t, "UPDATE", annotated("enabled")), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := start(t, "proxy-injector", newP256(t, "one"), func(c *Config) {
				c.Injects = func(namespace string) bool { return test.namespace && namespace == "shop" }
			})
			response, err := review(s, test.request)
			if err != nil {
				t.Fatal(err)
			}
			pod := patched(t, test.request, response)
			added := len(response.Patch) > 0
			if added != test.injected {
				t.Fatalf("patch %s", response.Patch)
			}
			if added && (env(pod, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS") != "" || pod.Labels["linkerd.io/control-plane-ns"] != "linkerd") {
				t.Errorf("the pod: %+v", pod)
			}
		})
	}
}

func TestServicesPassTheInjectorUnchanged(t *testing.T) {
	s, _ := start(t, "proxy-injector", newP256(t, "one"), func(c *Config) { c.Injects = func(string) bool { return true } })
	response, err := review(s, reviewOf(t, "Service", "CREATE", &corev1.Service{}))
	if err != nil || !response.Allowed || len(response.Patch) > 0 {
		t.Errorf("%+v, %v", response, err)
	}
}

// The injector reads the bundle anew for every pod.
func TestTheInjectorCopiesTheBundleOfTheMoment(t *testing.T) {
	roots := filepath.Join(t.TempDir(), "ca-bundle.crt")
	s, _ := start(t, "proxy-injector", newP256(t, "one"), func(c *Config) { c.RootsFile = roots })
	for _, test := range []struct{ text, want string }{
		{"", ""}, {"one", "one\n"}, {"\none\ntwo\n\n", "one\ntwo\n"},
	} {
		if test.text != "" {
			if err := os.WriteFile(roots, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		request := podReview(t, "CREATE", annotated("enabled"))
		request.Object.Raw = bytes.Replace(request.Object.Raw, []byte(`"metadata":{`), []byte(`"metadata":{"labels":{"app":"web"},`), 1)
		response, err := review(s, request)
		if err != nil {
			t.Fatal(err)
		}
		pod := patched(t, request, response)
		if got := env(pod, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"); got != test.want {
			t.Errorf("with %q in the file the proxy trusts %q, want %q", test.text, got, test.want)
		}
		if pod.Labels["app"] != "web" || pod.Labels["linkerd.io/control-plane-ns"] != "linkerd" {
			t.Errorf("labels %v", pod.Labels)
		}
	}
}

func TestWhatTheExtensionsAddToPods(t *testing.T) {
	for _, test := range []struct {
		name, container string
		pod             func(*corev1.Pod)
		annotation      string // "": nothing at all
		tap             string
	}{
		{"tap to a proxy", "tap-injector", meshed, "viz.linkerd.io/tap-enabled", "tap.linkerd.serviceaccount.identity.linkerd.cluster.local"},
		{"tap to a sidecar without variables", "tap-injector", sidecar, "viz.linkerd.io/tap-enabled", "tap.linkerd.serviceaccount.identity.linkerd.cluster.local"},
		{"tracing to a proxy", "jaeger-injector", meshed, "jaeger.linkerd.io/tracing-enabled", "none"},
		{"tap nothing without a proxy", "tap-injector", nil, "", "none"},
		{"tracing nothing without a proxy", "jaeger-injector", nil, "", "none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := start(t, test.container, newP256(t, "one"), nil)
			request := podReview(t, "CREATE", test.pod)
			response, err := review(s, request)
			if err != nil {
				t.Fatal(err)
			}
			pod := patched(t, request, response)
			if (len(response.Patch) > 0) != (test.annotation != "") || test.annotation != "" && pod.Annotations[test.annotation] != "true" {
				t.Errorf("annotations %v, patch %s", pod.Annotations, response.Patch)
			}
			if got := env(pod, "LINKERD2_PROXY_TAP_SVC_NAME"); got != test.tap {
				t.Errorf("tap is %s", got)
			}
			// The API server asks again after other webhooks.
			request = reviewOf(t, "Pod", "CREATE", pod)
			if response, err = review(s, request); err != nil || len(response.Patch) > 0 {
				t.Errorf("the second time: %s, %v", response.Patch, err)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	object := func(text string) json.RawMessage { return json.RawMessage(text) }
	network := func(spec string) json.RawMessage { return object(`{"spec":{"networks":[` + spec + `]}}`) }
	for _, test := range []struct {
		name, container, kind, operation string
		object                           any
		refused                          string // "" where it passes
	}{
		{"a profile with a route", "sp-validator", "ServiceProfile", "CREATE", object(`{"spec":{"routes":[{"name":"/"}]}}`), ""},
		{"a profile without routes", "sp-validator", "ServiceProfile", "CREATE", object(`{"spec":{}}`), ""},
		{"a timeout that is one", "sp-validator", "ServiceProfile", "UPDATE", object(`{"spec":{"routes":[{"name":"/","timeout":"5s"}]}}`), ""},
		{"a timeout that is none", "sp-validator", "ServiceProfile", "UPDATE", object(`{"spec":{"routes":[{"name":"/","timeout":"never"}]}}`), "invalid timeout"},
		{"an exception inside its network", "policy", "NetworkAuthentication", "CREATE", network(`{"cidr":"10.0.0.0/8","except":["10.1.0.0/16","10.2.3.4"]}`), ""},
		{"an exception outside", "policy", "NetworkAuthentication", "CREATE", network(`{"cidr":"10.0.0.0/8"},{"cidr":"10.0.0.0/8","except":["11.0.0.0/16"]}`), "does not include"},
		{"an exception around its network", "policy", "NetworkAuthentication", "UPDATE", network(`{"cidr":"10.0.0.0/8","except":["10.0.0.0/7"]}`), "does not include"},
		{"a network that is none", "policy", "NetworkAuthentication", "CREATE", network(`{"cidr":"ten"}`), "ten"},
		{"other policies", "policy", "Server", "CREATE", object(`{}`), ""},
		{"an object without the mark", "webhook", "ConfigMap", "CREATE", object(`{"metadata":{"labels":{"lab/refuse":"no"}}}`), ""},
		{"a label", "webhook", "ConfigMap", "CREATE", object(`{"metadata":{"labels":{"lab/refuse":"true"}}}`), "lab/refuse"},
		{"an annotation", "webhook-reread", "Pod", "UPDATE", object(`{"metadata":{"annotations":{"lab/refuse":"true"}}}`), "lab/refuse"},
		{"a deletion", "webhook-reread", "Pod", "DELETE", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := start(t, test.container, newP256(t, "one"), nil)
			request := reviewOf(t, test.kind, test.operation, test.object)
			if test.object == nil {
				request.Object.Raw = nil
			}
			response, err := review(s, request)
			if err != nil {
				t.Fatal(err)
			}
			if response.Allowed != (test.refused == "") || test.refused != "" && !strings.Contains(response.Result.Message, test.refused) {
				t.Errorf("%+v, want %q", response, test.refused)
			}
		})
	}
}

func TestTapIsDiscovered(t *testing.T) {
	s, _ := start(t, "tap", newP256(t, "one"), nil)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]string{"/healthz": "ok", "/apis/tap.linkerd.io/v1alpha1": `"kind":"APIResourceList"`, "/apis": "404"} {
		resp, err := client.Get("https://" + s.Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(resp.Status+string(body), want) {
			t.Errorf("%s: %s %s (%v)", path, resp.Status, body, err)
		}
	}
}

func TestAServerThatIsNotSimulated(t *testing.T) {
	if Simulated("nginx") {
		t.Error("nginx is")
	}
	if _, err := Start(Config{Container: "nginx", Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("it starts")
	}
}
