package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// scaler is what certd asks of an object that keeps up a number of pods.
type scaler struct {
	meta     metav1.ObjectMeta
	selector labels.Selector
	replicas int
	settle   time.Duration // from when a pod is ready until it is available
}

// Evict implements rotation.Cluster. PodDisruptionBudgets count, as they do when a
// node is drained.
func (c *Cluster) Evict(ctx context.Context, namespace string, owner rotation.ObjectRef, e rotation.Eviction) (names []string, err error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	doing := fmt.Sprintf("evict a pod of %s in namespace %s", owner, namespace)
	o, err := c.scaler(ctx, namespace, owner)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	by := metav1.GetControllerOfNoCopy(&o.meta)
	switch {
	case o.meta.Labels[rotation.RestartLabel] == rotation.RestartNever:
		return nil, fmt.Errorf("%s: it bears the label %s: %s, so they are a person's to replace: %w", doing, rotation.RestartLabel, rotation.RestartNever, rotation.ErrDenied)
	case by != nil && isName(by.Kind) && isName(by.Name):
		if command := rotation.RestartCommand(rotation.ProxyOwner{Namespace: namespace, Kind: by.Kind, Name: by.Name}); command != "" {
			return nil, fmt.Errorf("%s: it belongs to %s %s: %s: %w", doing, by.Kind, by.Name, command, rotation.ErrDenied)
		}
		return nil, fmt.Errorf("%s: it belongs to %s %s, by which its pods are to be created anew: %w", doing, by.Kind, by.Name, rotation.ErrDenied)
	}
	k := kept{linkerd: c.cfg.Namespace, replicas: o.replicas, settle: o.settle, now: time.Now()}
	if err := c.eachPodOf(ctx, namespace, o.selector, func(p *corev1.Pod) {
		if metav1.IsControlledBy(p, &o.meta) {
			k.add(p, e)
		}
	}); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	turn, err := k.next(e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	for _, p := range turn {
		err := c.evict(ctx, namespace, p)
		switch {
		case err == nil:
			names = append(names, p.name)
		case len(names) > 0: // the others' turn comes
			return names, nil
		default:
			return nil, fmt.Errorf("evict pod %s of %s: %w", p.name, owner, err)
		}
	}
	return names, nil
}

func (c *Cluster) scaler(ctx context.Context, namespace string, owner rotation.ObjectRef) (o scaler, err error) {
	at := ref{strings.ToLower(owner.Kind) + "s", namespace, owner.Name}
	replicas := func(n *int32) int {
		if n == nil {
			return 1
		}
		return int(*n)
	}
	switch owner.Kind {
	case "ReplicaSet":
		rs, err := c.apps.ReplicaSets(at.in).Get(ctx, at.name, metav1.GetOptions{})
		if err != nil {
			return o, c.fail(at.call("get"), err)
		}
		o = scaler{meta: rs.ObjectMeta, replicas: replicas(rs.Spec.Replicas), settle: time.Duration(rs.Spec.MinReadySeconds) * time.Second}
		if o.selector, err = metav1.LabelSelectorAsSelector(rs.Spec.Selector); err != nil {
			return o, fmt.Errorf("its selector makes no sense: %s", quote(err))
		}
	case "ReplicationController":
		rc, err := c.core.ReplicationControllers(at.in).Get(ctx, at.name, metav1.GetOptions{})
		if err != nil {
			return o, c.fail(at.call("get"), err)
		}
		o = scaler{meta: rc.ObjectMeta, replicas: replicas(rc.Spec.Replicas), settle: time.Duration(rc.Spec.MinReadySeconds) * time.Second,
			selector: labels.SelectorFromSet(rc.Spec.Selector)}
	default:
		return o, fmt.Errorf("nothing is known to make its pods anew: %w", rotation.ErrUnsupported)
	}
	return o, nil
}

// eachPodOf reads the pods that a selector selects, those left out that are over. It
// is one of the lists that a census makes, and takes the same right.
func (c *Cluster) eachPodOf(ctx context.Context, namespace string, selector labels.Selector, each func(*corev1.Pod)) error {
	options := metav1.ListOptions{LabelSelector: selector.String(), FieldSelector: notOver, Limit: c.podPage}
	for {
		body, err := c.core.RESTClient().Get().Namespace(namespace).Resource("pods").VersionedParams(&options, scheme.ParameterCodec).
			SetHeader("Accept", podsType).Stream(withItems(ctx))
		if err != nil {
			return c.fail(call{verb: "list", resource: "pods"}, err)
		}
		options.Continue, err = readPods(body, func(p *corev1.Pod) error { each(p); return nil })
		body.Close()
		if err != nil {
			return c.fail(call{verb: "list", resource: "pods"}, err)
		}
		if options.Continue == "" {
			return nil
		}
	}
}

// kept are the pods that an owner keeps up.
type kept struct {
	linkerd   string // namespace of the control plane
	replicas  int
	settle    time.Duration
	now       time.Time
	available int
	leaving   string // one that is being deleted
	late      int    // stale ones that were created when they should not have been
	stale     []stalePod
}

type stalePod struct {
	name      string
	uid       types.UID
	created   time.Time
	available bool
}

func (k *kept) add(p *corev1.Pod, e rotation.Eviction) {
	if p.DeletionTimestamp != nil {
		k.leaving = p.Name
		return
	}
	s := stalePod{p.Name, p.UID, p.CreationTimestamp.Time, false}
	if at, ready := readySince(p); ready && !k.now.Before(at.Add(k.settle)) {
		s.available = true
		k.available++
	}
	switch proxy := proxyOf(p); {
	case proxy == nil || p.Labels[meshedLabel] != k.linkerd:
	case !trustsOther(proxy, e.Wanted):
	case !s.created.Before(e.Since):
		k.late++
	default:
		k.stale = append(k.stale, s)
	}
}

// trustsOther says whether a proxy was told to trust other anchors than these. Where
// that cannot be made out, it is left to people.
func trustsOther(proxy *corev1.Container, wanted pki.Bundle) bool {
	env := anchorsOf(proxy)
	if env == nil || env.ValueFrom != nil {
		return false
	}
	b, err := pki.ReadBundle([]byte(strings.TrimSpace(env.Value) + "\n"))
	return err == nil && !b.IsZero() && !b.Trusts(wanted)
}

// readySince is since when a pod has been ready.
func readySince(p *corev1.Pod) (at time.Time, ready bool) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

// next are the pods whose turn it is.
func (k *kept) next(e rotation.Eviction) ([]stalePod, error) {
	if len(k.stale) == 0 && k.late > 0 {
		return nil, fmt.Errorf("%d of its pods were created when every node showed the new bundle, and trust another all the same, as others would; look at what injects their proxies, then delete them: %w", k.late, rotation.ErrDenied)
	}
	if len(k.stale) == 0 {
		return nil, nil
	}
	slices.SortFunc(k.stale, func(a, b stalePod) int {
		if a.available != b.available {
			if b.available {
				return -1
			}
			return 1
		}
		if !a.created.Equal(b.created) {
			return a.created.Compare(b.created)
		}
		return strings.Compare(a.name, b.name)
	})
	if !e.Whole {
		return k.stale, nil
	}
	first := k.stale[0]
	others := k.available
	if first.available {
		others--
	}
	switch missing := k.replicas - 1 - others; {
	case k.leaving != "":
		return nil, fmt.Errorf("%s is being deleted, and the next one waits for that: %w", k.leaving, rotation.ErrNotNow)
	case missing > 0:
		return nil, fmt.Errorf("%d of its other pods are not available, and it could take the rest; it is tried again when they are: %w", missing, rotation.ErrNotNow)
	}
	return k.stale[:1], nil
}

// evict asks for one pod's eviction, once: client-go would go on asking for as long as
// a budget says no.
func (c *Cluster) evict(ctx context.Context, namespace string, p stalePod) error {
	a := call{verb: "create", resource: "pods/eviction", name: p.name, in: namespace, write: true}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %w", a, err, rotation.ErrUnavailable)
	}
	err := c.core.RESTClient().Post().Namespace(namespace).Resource("pods").Name(p.name).SubResource("eviction").MaxRetries(0).
		Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.name}, DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.uid}}}).
		Do(ctx).Error()
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) {
		if err != nil {
			err = c.fail(a, err)
		}
		return err
	}
	if d := status.Status().Details; d != nil {
		for _, cause := range d.Causes {
			if cause.Type == policyv1.DisruptionBudgetCause {
				return fmt.Errorf("a PodDisruptionBudget stands against it (%s); it is tried again: %w", quoteText(cause.Message), rotation.ErrNotNow)
			}
		}
	}
	if strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
		return fmt.Errorf("%s: more than one PodDisruptionBudget is about it, and Kubernetes then evicts nothing: leave it one of them, or delete its stale pods one by one: %w", a, rotation.ErrDenied)
	}
	return c.fail(a, err)
}
