// Package kubelet stands in for scheduler and kubelets of one cluster. It binds
// pods to nodes that do not exist, projects their Secrets and ConfigMaps into
// folders as a kubelet does, marks them ready, and removes them. Pods of
// Linkerd's identity controller run a simulated replica; of all others only the
// status is simulated.
//
// Annotations of a pod change what happens to it:
//
//	lab/projection-lag: 5s    how long after a change of a Secret or ConfigMap its files change
//	lab/ready-delay: 3s       how long it takes to become ready
//	lab/never-ready: "true"   it stays pending: a rollout that never ends
//	lab/ignore-reloads: "true"  its identity replica misses every change of its files
package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Options of one cluster's kubelet.
type Options struct {
	Root       string        // pods' volumes are <Root>/<namespace>/<pod>/<volume>
	Nodes      int           // how many nodes there seem to be, at least one
	Lag        time.Duration // from a change of a Secret or ConfigMap to that of the files
	ReadyDelay time.Duration // from mounted volumes to a ready pod
	BackOff    time.Duration // from the first crash to the restart; doubles up to maxBackOff
	Log        *slog.Logger
}

const (
	workers    = 4
	maxBackOff = 30 * time.Second
)

// A Kubelet runs the pods of one cluster.
type Kubelet struct {
	options  Options
	client   kubernetes.Interface
	pods     listers.PodLister
	synced   []cache.InformerSynced
	watches  informers.SharedInformerFactory
	projects projector
	queue    workqueue.TypedRateLimitingInterface[string]
	workers  sync.WaitGroup

	mu      sync.Mutex
	running map[string]*pod // by namespace/name
	nextIP  uint16
}

// New prepares a kubelet; Run runs it.
func New(client kubernetes.Interface, options Options) (*Kubelet, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	core := factory.Core().V1()
	k := &Kubelet{
		options:  options,
		client:   client,
		pods:     core.Pods().Lister(),
		watches:  factory,
		projects: projector{root: options.Root, secrets: core.Secrets().Lister(), configMaps: core.ConfigMaps().Lister()},
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](20*time.Millisecond, 2*time.Second)),
		running:  map[string]*pod{},
	}
	enqueue := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			k.queue.Add(key)
		}
	}
	pods, err := core.Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) }, DeleteFunc: enqueue})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	k.synced = append(k.synced, pods.HasSynced)
	for kind, informer := range map[string]cache.SharedIndexInformer{"secret": core.Secrets().Informer(), "configmap": core.ConfigMaps().Informer()} {
		changed := func(o any) {
			if m, ok := o.(metav1.Object); ok {
				k.contentChanged(kind, m.GetNamespace(), m.GetName())
			}
		}
		// A deleted object changes no files: the kubelet keeps the last ones.
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }})
		if err != nil {
			return nil, fmt.Errorf("watch %ss: %w", kind, err)
		}
		k.synced = append(k.synced, registration.HasSynced)
	}
	return k, nil
}

// Run makes the nodes and runs pods until ctx ends; then it stops the replicas.
func (k *Kubelet) Run(ctx context.Context) error {
	for i := range k.options.Nodes {
		if err := k.makeNode(ctx, nodeName(i)); err != nil {
			return err
		}
	}
	k.watches.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), k.synced...) {
		return ctx.Err()
	}
	for range workers {
		k.workers.Go(func() {
			for k.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	k.queue.ShutDown()
	k.workers.Wait()
	k.watches.Shutdown()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.running {
		p.stop()
	}
	return nil
}

func (k *Kubelet) next(ctx context.Context) bool {
	key, shutdown := k.queue.Get()
	if shutdown {
		return false
	}
	defer k.queue.Done(key)
	again, err := k.sync(ctx, key)
	switch {
	case err != nil && ctx.Err() == nil:
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			k.options.Log.Warn("pod not synced", "pod", key, "err", err)
		}
		k.queue.AddRateLimited(key)
	default:
		k.queue.Forget(key)
		if again > 0 {
			k.queue.AddAfter(key, again)
		}
	}
	return true
}

func nodeName(i int) string { return fmt.Sprintf("lab-node-%d", i) }

func (k *Kubelet) makeNode(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}}}
	if _, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	now := metav1.Now()
	patch, err := json.Marshal(map[string]any{"status": corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "LabReady", LastHeartbeatTime: now, LastTransitionTime: now}}}})
	if err != nil {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	if _, err := k.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("make node %s ready: %w", name, err)
	}
	return nil
}

// contentChanged makes the files of the pods that mount the object change once
// their lag has passed. A second change meanwhile does not put it off.
func (k *Kubelet) contentChanged(kind, namespace, name string) {
	pods, err := k.pods.Pods(namespace).List(everything)
	if err != nil {
		return // the lister reads memory; it has no errors
	}
	for _, spec := range pods {
		if !mounts(spec, kind, name) {
			continue
		}
		key := namespace + "/" + spec.Name
		lag := annotatedDuration(spec, "lab/projection-lag", k.options.Lag)
		k.mu.Lock()
		if p := k.running[key]; p == nil || !p.mounted {
			lag = 0 // still waiting for its volumes
		} else if p.projectAt.IsZero() {
			p.projectAt = time.Now().Add(lag)
		}
		k.mu.Unlock()
		k.queue.AddAfter(key, lag)
	}
}

// sync moves one pod on. It returns after how long to look again, if nothing
// happens before.
func (k *Kubelet) sync(ctx context.Context, key string) (again time.Duration, err error) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return 0, err
	}
	spec, err := k.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, k.forget(key, namespace, name)
	}
	if err != nil {
		return 0, err
	}
	if spec.DeletionTimestamp != nil {
		if err := k.forget(key, namespace, name); err != nil {
			return 0, err
		}
		at, now := metav1.NewPreconditionDeleteOptions(string(spec.UID)), int64(0)
		at.GracePeriodSeconds = &now
		return 0, ignoreGone(k.client.CoreV1().Pods(namespace).Delete(ctx, name, *at))
	}
	if spec.Spec.NodeName == "" {
		return 0, ignoreGone(k.client.CoreV1().Pods(namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: spec.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: k.nodeFor(spec)}}, metav1.CreateOptions{}))
	}
	if spec.Status.Phase == corev1.PodSucceeded || spec.Status.Phase == corev1.PodFailed {
		return 0, nil
	}
	p, err := k.known(key, spec)
	if err != nil {
		return 0, err
	}
	return k.advance(ctx, p, spec)
}

// known returns the pod's entry, a new one if the name now belongs to another.
func (k *Kubelet) known(key string, spec *corev1.Pod) (*pod, error) {
	k.mu.Lock()
	p := k.running[key]
	k.mu.Unlock()
	if p != nil && p.uid == spec.UID {
		return p, nil
	}
	if p != nil {
		if err := k.forget(key, spec.Namespace, spec.Name); err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nextIP++
	p = &pod{uid: spec.UID, ip: fmt.Sprintf("10.200.%d.%d", k.nextIP>>8, k.nextIP&255)}
	k.running[key] = p
	return p, nil
}

func (k *Kubelet) forget(key, namespace, name string) error {
	k.mu.Lock()
	p := k.running[key]
	delete(k.running, key)
	k.mu.Unlock()
	if p == nil {
		return nil
	}
	p.stop()
	return k.projects.remove(namespace, name)
}

// nodeFor spreads pods over the nodes; pods of a DaemonSet name theirs.
func (k *Kubelet) nodeFor(spec *corev1.Pod) string {
	if a := spec.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, field := range term.MatchFields {
				if field.Key == "metadata.name" && len(field.Values) == 1 {
					return field.Values[0]
				}
			}
		}
	}
	h := fnv.New32a()
	h.Write([]byte(spec.Namespace + "/" + spec.Name))
	return nodeName(int(h.Sum32()) % k.options.Nodes)
}

var (
	// ErrNoReplica: the pod is none of Linkerd's identity controller.
	ErrNoReplica = errors.New("not a simulated pod")
	// ErrDown: the replica does not run, so that nobody listens.
	ErrDown = errors.New("connect: connection refused")
)

// Metrics answers for the pod's metrics port, 9990.
func (k *Kubelet) Metrics(namespace, name string) ([]byte, error) {
	spec, err := k.pods.Pods(namespace).Get(name)
	if err != nil || !isIdentity(spec) {
		return nil, ErrNoReplica
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.running[namespace+"/"+name]
	if p == nil || p.replica == nil {
		return nil, ErrDown
	}
	return p.replica.Metrics(time.Now()), nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func annotatedDuration(spec *corev1.Pod, name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(spec.Annotations[name]); err == nil {
		return d
	}
	return otherwise
}
