package kube

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

// Names of linkerd-identity (linkerd2, charts/linkerd-control-plane/templates/identity.yaml).
const (
	identityDeployment = "linkerd-identity"
	identityContainer  = "identity"
	identitySelector   = "linkerd.io/control-plane-component=identity"
	identityAdminPort  = "9990"
	ttlMetric          = "issuer_cert_ttl_seconds" // from Linkerd 2.18 on
)

// maxReplicas bounds how many replicas one look asks.
const maxReplicas = 20

// identity looks at linkerd-identity. It always answers: what could not be
// seen becomes a replica with a reason, so that it counts as unknown and not
// as absent. It takes half of the operation's time at most.
func (c *Cluster) identity(ctx context.Context) *rotation.Identity {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout/2)
	defer cancel()
	var (
		id     = &rotation.Identity{}
		hidden []string
		pods   *corev1.PodList
		depErr error
		podErr error
		wg     sync.WaitGroup
	)
	wg.Go(func() {
		var d *appsv1.Deployment
		if d, depErr = c.apps.Deployments(c.cfg.Namespace).Get(ctx, identityDeployment, metav1.GetOptions{}); depErr == nil {
			id.Deployed = true
			goesBy(id, d.Spec.Template.Spec)
			id.OwnRoots = !mountsBundle(d.Spec.Template.Spec)
		}
	})
	wg.Go(func() {
		// Pods that are over stay for long where they were evicted, and would fill the list.
		pods, podErr = c.core.Pods(c.cfg.Namespace).List(ctx, metav1.ListOptions{LabelSelector: identitySelector, FieldSelector: notOver, Limit: maxReplicas})
	})
	wg.Wait()
	if depErr != nil && !apierrors.IsNotFound(depErr) {
		hidden = append(hidden, c.fail(call{verb: "get", resource: "deployments", name: identityDeployment, in: c.cfg.Namespace}, depErr).Error())
	}
	if podErr != nil {
		hidden = append(hidden, c.fail(call{verb: "list", resource: "pods", in: c.cfg.Namespace}, podErr).Error())
	} else {
		for i := range pods.Items { // amid a rollout some are told otherwise than the Deployment says
			goesBy(id, pods.Items[i].Spec)
		}
		id.Replicas = c.replicas(ctx, pods.Items)
		if pods.Continue != "" {
			id.Replicas = append(id.Replicas, rotation.Replica{Pod: identityDeployment, Evidence: fmt.Sprintf("more than %d of its pods are not looked at", maxReplicas), At: time.Now()})
		}
	}
	if len(hidden) > 0 && len(id.Replicas) == 0 {
		id.Replicas = []rotation.Replica{{Pod: identityDeployment, Evidence: strings.Join(hidden, "; "), At: time.Now()}}
	}
	c.logHidden(strings.Join(hidden, "; "))
	return id
}

// logHidden tells once when a part of linkerd-identity cannot be seen.
func (c *Cluster) logHidden(hidden string) {
	c.mu.Lock()
	news := hidden != c.hidden
	c.hidden = hidden
	c.mu.Unlock()
	if news && hidden != "" {
		c.log.Warn("linkerd-identity cannot be seen in full", "err", hidden)
	}
}

// goesBy takes note of what a linkerd-identity is told: of how long leaves live, the most of all
// of them; of the scheme, what the first one says.
func goesBy(id *rotation.Identity, spec corev1.PodSpec) {
	leafLifetime, clockSkew, scheme := arguments(spec)
	id.LeafLifetime, id.ClockSkew, id.Scheme = max(id.LeafLifetime, leafLifetime), max(id.ClockSkew, clockSkew), cmp.Or(id.Scheme, scheme)
}

// What linkerd-identity goes by where it is told nothing, or what it cannot read: of that it
// logs a warning (linkerd2, controller/cmd/identity/main.go).
const (
	usualLeafLifetime = 24 * time.Hour
	usualClockSkew    = 20 * time.Second
)

// arguments reads the two durations and the scheme that linkerd-identity goes by; zero where
// there is none.
func arguments(spec corev1.PodSpec) (leafLifetime, clockSkew time.Duration, scheme string) {
	for _, container := range spec.Containers {
		if container.Name != identityContainer {
			continue
		}
		args := append(append([]string(nil), container.Command...), container.Args...)
		leafLifetime = cmp.Or(duration(args, "identity-issuance-lifetime"), usualLeafLifetime)
		clockSkew = cmp.Or(duration(args, "identity-clock-skew-allowance"), usualClockSkew)
		for _, value := range values(args, "identity-scheme") {
			scheme = value
		}
	}
	return leafLifetime, clockSkew, scheme
}

// mountsBundle says whether a pod can have the bundle in a file.
func mountsBundle(spec corev1.PodSpec) bool {
	return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil && v.ConfigMap.Name == rotation.BundleObject ||
			v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
				return s.ConfigMap != nil && s.ConfigMap.Name == rotation.BundleObject
			})
	})
}

// duration is the last value of a flag, 0 if that is none.
func duration(args []string, name string) (found time.Duration) {
	for _, value := range values(args, name) {
		found, _ = time.ParseDuration(value)
	}
	return max(0, found)
}

// values finds a flag the way package flag reads it: one dash or two, the value
// after "=" or in the next word.
func values(args []string, name string) (found []string) {
	for i, arg := range args {
		flag, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if flag != name || !strings.HasPrefix(arg, "-") {
			continue
		}
		if !given && i+1 < len(args) {
			value = args[i+1]
		}
		found = append(found, value)
	}
	return found
}

// replicas asks each running pod, side by side. A terminating one still signs
// for whoever is connected, so it counts until its container has ended or it is gone;
// so does one on a node that is not heard of.
func (c *Cluster) replicas(ctx context.Context, pods []corev1.Pod) []rotation.Replica {
	running := make([]rotation.Replica, 0, len(pods))
	var asked []*corev1.Pod
	for i := range pods {
		if phase := pods[i].Status.Phase; (phase == corev1.PodRunning || phase == corev1.PodUnknown) && !hasEnded(&pods[i]) {
			asked = append(asked, &pods[i])
		}
	}
	running = running[:len(asked)]
	var wg sync.WaitGroup
	for i, pod := range asked {
		wg.Go(func() { running[i] = c.replica(ctx, pod) })
	}
	wg.Wait()
	return running
}

// hasEnded says of a pod that is being deleted whether linkerd-identity has ended in it
// already, while other containers have not: it is not started again.
func hasEnded(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == identityContainer && s.State.Terminated != nil
	})
}

func (c *Cluster) replica(ctx context.Context, pod *corev1.Pod) rotation.Replica {
	r := rotation.Replica{Pod: pod.Name, Started: pod.CreationTimestamp.Time, At: time.Now()}
	if pod.Status.StartTime != nil {
		r.Started = pod.Status.StartTime.Time
	}
	if pod.DeletionTimestamp != nil {
		r.GoneBy = pod.DeletionTimestamp.Time
	}
	for _, s := range pod.Status.ContainerStatuses {
		switch {
		case s.Name != identityContainer:
		case s.State.Running != nil:
			r.Started = s.State.Running.StartedAt.Time
		case s.State.Waiting != nil:
			r.Evidence = fmt.Sprintf("its container does not run: %.60q", s.State.Waiting.Reason)
			return r
		case s.State.Terminated != nil:
			r.Evidence = fmt.Sprintf("its container does not run: %.60q", s.State.Terminated.Reason)
			return r
		}
	}
	clocked, clock := withClock(ctx)
	answer := c.core.RESTClient().Get().Namespace(c.cfg.Namespace).Resource("pods").
		Name(pod.Name+":"+identityAdminPort).SubResource("proxy").Suffix("metrics").
		SetHeader("Accept", "application/json, text/plain"). // the API server's own errors come in the first form
		Do(clocked)
	err := answer.Error() // DoRaw would lose what a refusal says
	text, _ := answer.Raw()
	r.At = time.Now()
	if err != nil {
		r.Evidence = c.fail(call{verb: "get", resource: "pods/proxy", name: pod.Name, in: c.cfg.Namespace}, err).Error()
		return r
	}
	ttl, err := issuerTTL(text)
	if err != nil {
		r.Evidence = err.Error()
		return r
	}
	at := clock.date
	if at.IsZero() {
		at = r.At
	}
	r.NotAfter, r.Evidence = at.Add(ttl).Round(time.Second).UTC(), "metric"
	return r
}

// issuerTTL reads the metric from the text exposition format of Prometheus.
func issuerTTL(text []byte) (time.Duration, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), ttlMetric)
		if !ok {
			continue
		}
		if strings.HasPrefix(rest, "{") {
			if _, rest, ok = strings.Cut(rest, "}"); !ok {
				continue
			}
		} else if !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "\t") {
			continue
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(seconds) || math.Abs(seconds) > 100*365*86400 {
			return 0, fmt.Errorf("metric %s is %.40q, which is no time to live", ttlMetric, value)
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	return 0, errors.New("it has no metric " + ttlMetric + ": Linkerd before 2.18")
}
