package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// answer decides about one request: the operations of a JSON patch, empty for
// an object that stays as it is, or an error that says why it is refused.
type answer func(config *Config, request *admissionv1.AdmissionRequest) ([]operation, error)

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func add(path string, value any) operation { return operation{"add", path, value} }

// admission serves AdmissionReviews (admission.k8s.io/v1) at every path.
func admission(decide answer) func(*Config) http.Handler {
	return func(config *Config) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admissionv1.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
				http.Error(w, fmt.Sprintf("not an AdmissionReview: %v", err), http.StatusBadRequest)
				return
			}
			request := review.Request
			review.Response = &admissionv1.AdmissionResponse{UID: request.UID, Allowed: true}
			patch, err := decide(config, request)
			switch {
			case err != nil:
				config.Log.Debug("webhook server refuses", "kind", request.Kind.Kind, "object", request.Namespace+"/"+request.Name, "err", err)
				review.Response.Allowed = false
				review.Response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Message: err.Error()}
			case len(patch) > 0:
				kind := admissionv1.PatchTypeJSONPatch
				review.Response.PatchType = &kind
				review.Response.Patch, _ = json.Marshal(patch) // strings and API types: they always encode
			}
			review.Request = nil
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(review)
		})
	}
}

// Names in pods and namespaces that Linkerd's webhooks go by, or write.
const (
	injectAnnotation = "linkerd.io/inject"
	controlPlaneNS   = "linkerd.io/control-plane-ns"
	proxyContainer   = "linkerd-proxy"
	rootsVariable    = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"
	tapVariable      = "LINKERD2_PROXY_TAP_SVC_NAME"
)

// decodePod is nil for requests about anything but the creation of a pod.
func decodePod(request *admissionv1.AdmissionRequest) (*corev1.Pod, error) {
	if request.Kind.Kind != "Pod" || request.Operation != admissionv1.Create {
		return nil, nil
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
		return nil, fmt.Errorf("read the pod: %w", err)
	}
	return pod, nil
}

// injectProxy gives a pod its proxy, which trusts what the bundle's file says
// at this very moment (linkerd2 controller/proxy-injector/webhook.go).
func injectProxy(config *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	pod, err := decodePod(request)
	if err != nil || pod == nil {
		return nil, err
	}
	switch wish := pod.Annotations[injectAnnotation]; {
	case wish == "disabled" || findProxy(pod) != "":
		return nil, nil
	case wish != "enabled" && (config.Injects == nil || !config.Injects(request.Namespace)):
		return nil, nil
	}
	roots := ""
	if text, err := os.ReadFile(config.RootsFile); err == nil {
		roots = string(bytes.TrimSpace(text)) + "\n"
	}
	proxy := corev1.Container{Name: proxyContainer, Image: "cr.l5d.io/linkerd/proxy:lab", Env: []corev1.EnvVar{{Name: rootsVariable, Value: roots}}}
	return append(addTo("/metadata/labels", pod.Labels, controlPlaneNS, config.Namespace), add("/spec/containers/-", proxy)), nil
}

// findProxy returns the JSON pointer to a pod's proxy, "" if it has none.
func findProxy(pod *corev1.Pod) string {
	for list, containers := range map[string][]corev1.Container{"containers": pod.Spec.Containers, "initContainers": pod.Spec.InitContainers} {
		if i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == proxyContainer }); i >= 0 {
			return fmt.Sprintf("/spec/%s/%d", list, i)
		}
	}
	return ""
}

// addTo adds one entry to a map that may not be there yet; none if it has it.
func addTo(path string, entries map[string]string, key, value string) []operation {
	switch {
	case entries[key] == value:
		return nil
	case len(entries) == 0:
		return []operation{add(path, map[string]string{key: value})}
	}
	return []operation{add(path+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(key), value)}
}

func injectTap(config *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	return markMeshed(request, "viz.linkerd.io/tap-enabled", &corev1.EnvVar{
		Name: tapVariable, Value: "tap." + config.Namespace + ".serviceaccount.identity.linkerd.cluster.local"})
}

func injectTracing(_ *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	return markMeshed(request, "jaeger.linkerd.io/tracing-enabled", nil)
}

// markMeshed annotates pods that have a proxy, and gives the proxy a variable.
func markMeshed(request *admissionv1.AdmissionRequest, annotation string, variable *corev1.EnvVar) ([]operation, error) {
	pod, err := decodePod(request)
	if err != nil || pod == nil {
		return nil, err
	}
	proxy := findProxy(pod)
	if proxy == "" || pod.Annotations[annotation] == "true" {
		return nil, nil
	}
	patch := addTo("/metadata/annotations", pod.Annotations, annotation, "true")
	if variable != nil {
		patch = append(patch, addVariable(pod, proxy, *variable))
	}
	return patch, nil
}

func addVariable(pod *corev1.Pod, pointer string, variable corev1.EnvVar) operation {
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		if c.Name == proxyContainer && len(c.Env) > 0 {
			return add(pointer+"/env/-", variable)
		}
	}
	return add(pointer+"/env", []corev1.EnvVar{variable})
}

// validateProfile refuses a ServiceProfile with a route whose timeout is no
// duration, one of the rules that the schema of its CRD does not have.
func validateProfile(_ *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	var profile struct {
		Spec struct {
			Routes []struct {
				Timeout string `json:"timeout"`
			} `json:"routes"`
		} `json:"spec"`
	}
	if request.Kind.Kind != "ServiceProfile" || request.Operation == admissionv1.Delete {
		return nil, nil
	}
	if err := json.Unmarshal(request.Object.Raw, &profile); err != nil {
		return nil, fmt.Errorf("failed to validate ServiceProfile: %w", err)
	}
	for _, route := range profile.Spec.Routes {
		if route.Timeout == "" {
			continue
		}
		if _, err := time.ParseDuration(route.Timeout); err != nil {
			return nil, fmt.Errorf("ServiceProfile %q has a route with an invalid timeout: %w", request.Name, err)
		}
	}
	return nil, nil
}

// validatePolicy refuses a NetworkAuthentication one of whose exceptions lies
// outside its network.
func validatePolicy(_ *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	if request.Kind.Kind != "NetworkAuthentication" || request.Operation == admissionv1.Delete {
		return nil, nil
	}
	var authentication struct {
		Spec struct {
			Networks []struct {
				CIDR   string   `json:"cidr"`
				Except []string `json:"except"`
			} `json:"networks"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(request.Object.Raw, &authentication); err != nil {
		return nil, fmt.Errorf("could not parse NetworkAuthentication: %w", err)
	}
	for _, network := range authentication.Spec.Networks {
		whole, err := parseNetwork(network.CIDR)
		if err != nil {
			return nil, err
		}
		for _, text := range network.Except {
			part, err := parseNetwork(text)
			if err != nil {
				return nil, err
			}
			if part.Bits() < whole.Bits() || !whole.Contains(part.Addr()) {
				return nil, fmt.Errorf("cidr '%s' does not include exception '%s'", network.CIDR, text)
			}
		}
	}
	return nil, nil
}

// parseNetwork reads a CIDR, or an address for the network of that one.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// refuseMark is the label or annotation that webhook and webhook-reread refuse.
const refuseMark = "lab/refuse"

func refuseMarked(_ *Config, request *admissionv1.AdmissionRequest) ([]operation, error) {
	if len(request.Object.Raw) == 0 {
		return nil, nil // a deletion
	}
	var object unstructured.Unstructured
	if err := json.Unmarshal(request.Object.Raw, &object.Object); err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	if object.GetLabels()[refuseMark] == "true" || object.GetAnnotations()[refuseMark] == "true" {
		return nil, fmt.Errorf("%s is marked with %s", request.Kind.Kind, refuseMark)
	}
	return nil, nil
}
