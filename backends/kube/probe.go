package kube

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"certd.internal/pki"
	"certd.internal/rotation"
)

const (
	// maxWebhookReplicas bounds how many pods of one webhook a probe asks.
	maxWebhookReplicas = 50
	// dialFor bounds a direct handshake: what answers at all does so in
	// milliseconds, and where pods cannot be reached each one costs this once.
	dialFor = time.Second
	// unreachedFor is how long a pod whose address did not answer is asked
	// through the API server alone.
	unreachedFor = 10 * time.Minute
)

// ProbeWebhooks implements rotation.Cluster.
func (c *Cluster) ProbeWebhooks(ctx context.Context, webhooks []rotation.WebhookSpec) map[string]rotation.WebhookEvidence {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.forgetUnreached()
	pod := sync.OnceValues(func() (*corev1.Pod, error) { return c.dryRunPod(ctx) })
	found := make([]rotation.WebhookEvidence, len(webhooks))
	var wg sync.WaitGroup
	for i, w := range webhooks {
		found[i].At = time.Now()
		wg.Go(func() { found[i].Replicas = c.webhookReplicas(ctx, w) })
		wg.Go(func() { found[i].Check = c.check(ctx, w, pod) })
	}
	wg.Wait()
	by := make(map[string]rotation.WebhookEvidence, len(webhooks))
	for i, w := range webhooks {
		by[w.Name] = found[i]
	}
	return by
}

// webhookReplicas asks each pod behind the Service. What prevents that becomes a
// replica with a reason, so that it counts as unknown and not as absent.
func (c *Cluster) webhookReplicas(ctx context.Context, w rotation.WebhookSpec) []rotation.WebhookReplica {
	pods, port, all, err := c.behind(ctx, w)
	if err != nil {
		return []rotation.WebhookReplica{{Pod: cmp.Or(w.Service, w.Name), Evidence: err.Error(), At: time.Now()}}
	}
	found := make([]rotation.WebhookReplica, len(pods))
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() { found[i] = c.webhookReplica(ctx, w, &pods[i], port) })
	}
	wg.Wait()
	if !all {
		found = append(found, rotation.WebhookReplica{Pod: w.Service, Evidence: fmt.Sprintf("more than %d of its pods are not looked at", maxWebhookReplicas), At: time.Now()})
	}
	return found
}

// behind finds the pods of the Service, those that are over left out; all says whether
// these are all of them. One that is terminating still serves who is connected, so it counts.
func (c *Cluster) behind(ctx context.Context, w rotation.WebhookSpec) (pods []corev1.Pod, port intstr.IntOrString, all bool, err error) {
	seen := c.sight(w.Name)
	if w.Service == "" || w.Namespace == "" {
		return nil, port, false, fmt.Errorf("it is called by URL (%.100q), which does not tell what runs behind it", seen.url)
	}
	at := ref{"services", w.Namespace, w.Service}
	s, err := c.core.Services(at.in).Get(ctx, at.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, port, false, fmt.Errorf("its Service %s in namespace %s does not exist", at.name, at.in)
	case err != nil:
		return nil, port, false, c.fail(at.call("get"), err)
	case len(s.Spec.Selector) == 0:
		return nil, port, false, fmt.Errorf("its Service %s in namespace %s selects no pods", at.name, at.in)
	}
	called := cmp.Or(seen.port, servicePort)
	i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == called })
	if i < 0 {
		return nil, port, false, fmt.Errorf("its Service %s in namespace %s has no port %d, which the API server calls", at.name, at.in, called)
	}
	if port = s.Spec.Ports[i].TargetPort; port == (intstr.IntOrString{}) {
		port = intstr.FromInt32(called)
	}
	list, err := c.core.Pods(at.in).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(s.Spec.Selector).String(), FieldSelector: notOver, Limit: maxWebhookReplicas})
	if err != nil {
		return nil, port, false, c.fail(call{verb: "list", resource: "pods", in: at.in}, err)
	}
	return list.Items, port, list.Continue == "", nil
}

func (c *Cluster) webhookReplica(ctx context.Context, w rotation.WebhookSpec, pod *corev1.Pod, target intstr.IntOrString) rotation.WebhookReplica {
	port, container := targetPort(pod, target)
	r := rotation.WebhookReplica{
		Pod: pod.Name, Owner: owner(pod), Started: started(pod, container), At: time.Now(),
		Ready: slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}),
	}
	switch {
	case port == 0:
		r.Evidence = fmt.Sprintf("the pod has no port named %.60q, which Service %s leads to", target.StrVal, w.Service)
	case pod.Status.Phase != corev1.PodRunning:
		r.Evidence = fmt.Sprintf("the pod does not run yet: %.60q", pod.Status.Phase)
	default:
		r.Served, r.Evidence = c.served(ctx, w, pod, port)
		r.At = time.Now()
	}
	return r
}

// targetPort is the number behind a Service's targetPort in a pod, 0 if there is
// none, and the container that has it, "" if none says so.
func targetPort(pod *corev1.Pod, target intstr.IntOrString) (int32, string) {
	for _, container := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for _, p := range container.Ports {
			if target.Type == intstr.String && p.Name == target.StrVal || target.Type == intstr.Int && p.ContainerPort == target.IntVal {
				return p.ContainerPort, container.Name
			}
		}
	}
	if target.Type == intstr.Int {
		return target.IntVal, ""
	}
	return 0, ""
}

// started is when the server last read its files at the latest: the start of its
// container or, where that is not known, of the pod.
func started(pod *corev1.Pod, container string) time.Time {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if s.Name == container && s.State.Running != nil {
			return s.State.Running.StartedAt.Time
		}
	}
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.Time
	}
	return pod.CreationTimestamp.Time
}

// owner is what makes pods like this one. Reading the ReplicaSet would tell the
// Deployment's name as well; that it ends in the hash saves a right.
func owner(pod *corev1.Pod) rotation.ObjectRef {
	by := metav1.GetControllerOf(pod)
	if by == nil {
		return rotation.ObjectRef{}
	}
	switch by.Kind {
	case "DaemonSet", "StatefulSet":
		return rotation.ObjectRef{Kind: by.Kind, Name: by.Name}
	case "ReplicaSet":
		if name := beforeHash(by.Name, pod.Labels["pod-template-hash"]); name != "" {
			return rotation.ObjectRef{Kind: "Deployment", Name: name}
		}
	}
	return rotation.ObjectRef{}
}

// beforeHash is the name of what makes a ReplicaSet of that name, "" if it does
// not end in the hash.
func beforeHash(replicaSet, hash string) string {
	name, ok := strings.CutSuffix(replicaSet, "-"+hash)
	if !ok || hash == "" {
		return ""
	}
	return name
}

// served finds out the chain that a pod presents: at its address, or by way of
// the API server where that does not answer.
//
// A certd that runs outside the cluster may reach somebody else at that address
// (many clusters give their pods the same ones). That the leaf is the Secret's
// rules this out; another leaf is put to the question once more by way of the
// API server, which knows its pods.
func (c *Cluster) served(ctx context.Context, w rotation.WebhookSpec, pod *corev1.Pod, port int32) ([]*x509.Certificate, string) {
	var why []string
	direct, err := c.dialled(ctx, w, pod, port)
	switch {
	case err != nil:
		why = append(why, short(err))
	case c.cfg.Access.InCluster || pki.Fingerprint(direct[0]) == c.sight(w.Name).leaf:
		return direct, "tls"
	}
	chain, err := c.forwardedChain(ctx, w, pod, port)
	switch {
	case err == nil:
		return chain, "port-forward"
	case direct != nil:
		return direct, "tls"
	}
	return nil, strings.Join(append(why, short(err)), "; ")
}

// dialled shakes hands with a pod at its address.
func (c *Cluster) dialled(ctx context.Context, w rotation.WebhookSpec, pod *corev1.Pod, port int32) ([]*x509.Certificate, error) {
	if c.isUnreached(pod.UID) {
		return nil, errors.New("its address did not answer lately")
	}
	all := ctx
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		// A link-local address would be of certd's own host: a cloud's metadata.
		return nil, fmt.Errorf("it has no address to dial: %.40q", pod.Status.PodIP)
	}
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), strconv.Itoa(int(port))))
	var chain []*x509.Certificate
	if err == nil {
		defer conn.Close()
		chain, err = handshake(ctx, conn, w)
	}
	if err != nil && all.Err() == nil {
		c.setUnreached(pod.UID)
	}
	return chain, err
}

// forwardedChain shakes hands with a pod by way of the API server.
func (c *Cluster) forwardedChain(ctx context.Context, w rotation.WebhookSpec, pod *corev1.Pod, port int32) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout/2)
	defer cancel()
	conn, err := c.forward(ctx, pod.Namespace, pod.Name, port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	chain, err := handshake(ctx, conn, w)
	if err != nil {
		if said := conn.against(); said != "" {
			return nil, fmt.Errorf("port-forward: %s", quoteText(said))
		}
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	return chain, nil
}

// handshake returns the chain that a server presents. Nothing is verified but
// that it has the key: the chain is evidence, and whether an API server would
// take it is judged where the caBundle is known. Nothing is sent over it.
func handshake(ctx context.Context, conn net.Conn, w rotation.WebhookSpec) ([]*x509.Certificate, error) {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if len(w.DNSNames) > 0 {
		config.ServerName = w.DNSNames[0]
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return t.ConnectionState().PeerCertificates, nil
}

// short is quote for a reason that stands among others.
func short(err error) string { return shortText(err.Error()) }

func shortText(text string) string {
	const most = 200
	s := quoteText(text)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}

func (c *Cluster) isUnreached(pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.unreached[pod]
	return ok && time.Since(at) < unreachedFor
}

func (c *Cluster) setUnreached(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unreached[pod] = time.Now()
}

// forgetUnreached drops what is old, so that pods long gone are not remembered.
func (c *Cluster) forgetUnreached() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pod, at := range c.unreached {
		if time.Since(at) >= unreachedFor {
			delete(c.unreached, pod)
		}
	}
}
