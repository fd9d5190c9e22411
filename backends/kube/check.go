package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"certd.internal/rotation"
)

// Answers of a functional check.
const (
	works   = "yes"
	fails   = "no"
	unknown = "unknown"
)

// What Linkerd's injectors leave on a pod (linkerd2: pkg/k8s/labels.go,
// viz/pkg/labels/labels.go, jaeger/pkg/labels/labels.go up to 2.18).
const (
	injectAnnotation = "linkerd.io/inject"
	proxyContainer   = "linkerd-proxy"
	tapAnnotation    = "viz.linkerd.io/tap-enabled"
	traceAnnotation  = "jaeger.linkerd.io/tracing-enabled"
)

// check asks a webhook, as its users do, whether it works. pod is the answer to
// the one dry run that the injectors share.
func (c *Cluster) check(ctx context.Context, w rotation.WebhookSpec, pod func() (*corev1.Pod, error)) rotation.WebhookCheck {
	var state, evidence string
	switch w.Check {
	case rotation.CheckInjected, rotation.CheckTapped, rotation.CheckTraced:
		p, err := pod()
		state, evidence = c.injected(w, p, err)
	case rotation.CheckBadTimeout:
		state, evidence = c.refuses(ctx, w, badServiceProfile(c.cfg.ProbeNamespace), serviceProfiles)
	case rotation.CheckBadNetworks:
		state, evidence = c.refuses(ctx, w, badNetworkAuthentication(), networkAuthentications)
	case rotation.CheckAvailable:
		state, evidence = c.isAvailable(ctx, w)
	case rotation.CheckNone:
	default:
		state, evidence = unknown, fmt.Sprintf("no such check: %q", w.Check)
	}
	return rotation.WebhookCheck{State: state, Evidence: evidence, At: time.Now()}
}

// dryRunPod has the API server do everything but create a pod that asks for a
// proxy. It is fit for a namespace of the restricted Pod Security Standard.
func (c *Cluster) dryRunPod(ctx context.Context) (*corev1.Pod, error) {
	yes, no, user := true, false, int64(65532)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "certd-check-", Annotations: map[string]string{injectAnnotation: "enabled"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "check", Image: "certd.io/check", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
		},
	}
	return c.core.Pods(c.cfg.ProbeNamespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: FieldManager})
}

// injected judges the pod that came back.
func (c *Cluster) injected(w rotation.WebhookSpec, pod *corev1.Pod, err error) (state, evidence string) {
	if err != nil {
		return c.refused(w, err, ref{"pods", c.cfg.ProbeNamespace, ""})
	}
	proxied := slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool { return c.Name == proxyContainer })
	const goesOn = "the API server goes on without the webhook (failurePolicy Ignore)"
	switch {
	case w.Check == rotation.CheckInjected && proxied,
		w.Check == rotation.CheckTapped && pod.Annotations[tapAnnotation] == "true",
		w.Check == rotation.CheckTraced && pod.Annotations[traceAnnotation] == "true":
		return works, "dry-run pod"
	case w.Check == rotation.CheckInjected:
		return fails, "the pod came back without " + proxyContainer + ": " + goesOn
	case !proxied:
		return unknown, "no proxy was injected"
	case w.Check == rotation.CheckTapped:
		return fails, "the pod came back without annotation " + tapAnnotation + ": " + goesOn
	}
	return fails, "the pod came back without annotation " + traceAnnotation + ": " + goesOn
}

var (
	serviceProfiles        = schema.GroupVersionResource{Group: "linkerd.io", Version: "v1alpha2", Resource: "serviceprofiles"}
	networkAuthentications = schema.GroupVersionResource{Group: "policy.linkerd.io", Version: "v1alpha1", Resource: "networkauthentications"}
)

// badServiceProfile has a timeout that is no duration.
func badServiceProfile(namespace string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": serviceProfiles.GroupVersion().String(), "kind": "ServiceProfile",
		"metadata": map[string]any{"name": "certd-check." + namespace + ".svc.cluster.local"},
		"spec": map[string]any{"routes": []any{map[string]any{
			"name": "certd-check", "condition": map[string]any{"pathRegex": ".*"}, "timeout": "never"}}},
	}}
}

// badNetworkAuthentication excepts networks from one that does not include them.
func badNetworkAuthentication() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": networkAuthentications.GroupVersion().String(), "kind": "NetworkAuthentication",
		"metadata": map[string]any{"name": "certd-check"},
		"spec":     map[string]any{"networks": []any{map[string]any{"cidr": "10.0.0.0/8", "except": []any{"192.168.0.0/16"}}}},
	}}
}

// refuses says whether an object that the webhook has to refuse is refused, by
// it. Nothing is created: it is a dry run.
func (c *Cluster) refuses(ctx context.Context, w rotation.WebhookSpec, bad *unstructured.Unstructured, kind schema.GroupVersionResource) (state, evidence string) {
	_, err := c.any.Resource(kind).Namespace(c.cfg.ProbeNamespace).Create(ctx, bad, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: FieldManager})
	if err == nil {
		return fails, "a " + bad.GetKind() + " that it has to refuse was accepted: the API server goes on without the webhook (failurePolicy Ignore)"
	}
	if apierrors.IsNotFound(err) && !missesNamespace(err) {
		return "", fmt.Sprintf("no check: %s has no %s", c.server, kind.GroupResource())
	}
	const begin, middle = `admission webhook "`, `denied the request`
	if _, rest, ok := strings.Cut(err.Error(), begin); ok && strings.Contains(rest, middle) {
		by, _, _ := strings.Cut(rest, `"`)
		if seen := c.sight(w.Name).entries; len(seen) == 0 || slices.Contains(seen, by) {
			return works, "dry-run " + bad.GetKind()
		}
		return unknown, fmt.Sprintf("another webhook was first to refuse the dry run: %s", quote(err))
	}
	return c.refused(w, err, ref{kind.Resource, c.cfg.ProbeNamespace, ""})
}

// refused judges a dry run that came to nothing: whether it is the webhook's
// doing, and if not, what is in the way.
func (c *Cluster) refused(w rotation.WebhookSpec, err error, at ref) (state, evidence string) {
	const begin = `failed calling webhook "`
	if _, rest, ok := strings.Cut(err.Error(), begin); ok {
		name, _, _ := strings.Cut(rest, `"`)
		if c.isCalled(w, name, rest) {
			return fails, quote(err)
		}
		return unknown, "another webhook fails: " + quote(err)
	}
	if missesNamespace(err) {
		return unknown, fmt.Sprintf("namespace %s, for dry runs, does not exist: kubectl create namespace %s", at.in, at.in)
	}
	return unknown, c.fail(at.call("create"), err).Error()
}

// isCalled says whether an API server's complaint is about this webhook: by the
// name of an entry in its configuration or, where that was not observed, by the
// address that was called.
func (c *Cluster) isCalled(w rotation.WebhookSpec, name, complaint string) bool {
	if seen := c.sight(w.Name).entries; len(seen) > 0 {
		return slices.Contains(seen, name)
	}
	return slices.ContainsFunc(w.DNSNames, func(host string) bool { return strings.Contains(complaint, `"https://`+host+":") })
}

// missesNamespace says whether it is the namespace that is not found.
func missesNamespace(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	d := status.Status().Details
	return d != nil && d.Kind == "namespaces"
}

// isAvailable is what the API server itself says of an aggregated API server,
// which it asks every few seconds.
func (c *Cluster) isAvailable(ctx context.Context, w rotation.WebhookSpec) (state, evidence string) {
	i := slices.IndexFunc(w.Objects, func(o rotation.ObjectRef) bool { return o.Kind == rotation.KindAPIService })
	if i < 0 {
		return unknown, "it has no APIService"
	}
	o, err := c.registered(ctx, w.Objects[i])
	switch {
	case err != nil:
		return unknown, err.Error()
	case o.Metadata.ResourceVersion == "":
		return unknown, w.Objects[i].String() + " does not exist"
	}
	condition, ok := o.available()
	says := fmt.Sprintf("condition Available of %s: %s", w.Objects[i], quoteText(condition.Reason+": "+condition.Message))
	switch {
	case !ok:
		return unknown, w.Objects[i].String() + " has no condition Available yet"
	case condition.Status == metav1.ConditionTrue:
		return works, "APIService is Available"
	case condition.Status == metav1.ConditionFalse:
		return fails, says
	}
	return unknown, says
}
