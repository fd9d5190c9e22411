// Package kubelet stands in for scheduler and kubelets of one cluster. It binds
// pods to nodes that do not exist, projects their Secrets and ConfigMaps into
// folders as a kubelet does, marks them ready, and removes them. Pods of
// Linkerd's identity controller run a simulated replica, and containers of
// webhooks a simulated server; of all others only the status is simulated.
//
// Annotations of a pod change what happens to it:
//
//	lab/projection-lag: 5s      how long after a change of a Secret or ConfigMap its files change;
//	                            of several durations, comma separated, node i has entry i, from the first again after the last
//	lab/ready-delay: 3s         how long it takes to become ready
//	lab/never-ready: "true"     it stays pending: a rollout that never ends
//	lab/ignore-reloads: "true"  its identity replica or servers miss every change of their files, from now on
//	lab/keep-alive: "true"      its servers take more than one request per connection; asked when they start
//	lab/unreachable: "true"     its status tells an address where nobody listens; asked when the pod comes
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	Servers    netip.Prefix  // loopback addresses for pods that have servers
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
	options    Options
	client     kubernetes.Interface
	pods       listers.PodLister
	namespaces listers.NamespaceLister
	synced     []cache.InformerSynced
	watches    informers.SharedInformerFactory
	projects   projector
	addresses  *addresses
	queue      workqueue.TypedRateLimitingInterface[string]
	workers    sync.WaitGroup

	mu      sync.Mutex
	running map[string]*pod   // by namespace/name
	bound   map[string]string // nodes of pods whose binding is not in the lister yet
	nextIP  uint16
}

// New prepares a kubelet that sees the cluster through watches; Run runs it.
func New(client kubernetes.Interface, watches informers.SharedInformerFactory, options Options) (*Kubelet, error) {
	core := watches.Core().V1()
	k := &Kubelet{
		options:    options,
		client:     client,
		pods:       core.Pods().Lister(),
		namespaces: core.Namespaces().Lister(),
		synced:     []cache.InformerSynced{core.Namespaces().Informer().HasSynced},
		watches:    watches,
		projects:   projector{root: options.Root, secrets: core.Secrets().Lister(), configMaps: core.ConfigMaps().Lister()},
		addresses:  newAddresses(options.Servers),
		queue:      workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](20*time.Millisecond, 2*time.Second)),
		running:    map[string]*pod{},
		bound:      map[string]string{},
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

// Run makes the nodes and runs pods until ctx ends; then it stops the replicas
// and servers.
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
		p.stopReplica()
		if p.servers != nil {
			p.servers.close()
		}
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
		lag := k.lag(spec)
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
		if !k.left(key) {
			return 0, nil // comes again when it has
		}
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
			Target:     corev1.ObjectReference{Kind: "Node", Name: k.nodeFor(key, spec)}}, metav1.CreateOptions{}))
	}
	k.mu.Lock()
	delete(k.bound, key)
	k.mu.Unlock()
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
	p, err := k.newPod(spec)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running[key] = p
	return p, nil
}

// left makes the servers of a deleted pod leave, and reports whether they have.
func (k *Kubelet) left(key string) bool {
	k.mu.Lock()
	p := k.running[key]
	k.mu.Unlock()
	if p == nil || p.servers == nil {
		return true
	}
	k.leave(key, p)
	return p.servers.hasLeft()
}

// leave ends the pod's servers and gives its addresses back when they are done.
func (k *Kubelet) leave(key string, p *pod) {
	p.servers.leave(func() {
		for _, addr := range p.addresses {
			k.addresses.giveBack(addr)
		}
		k.queue.Add(key)
	})
}

func (k *Kubelet) forget(key, namespace, name string) error {
	k.mu.Lock()
	p := k.running[key]
	delete(k.running, key)
	delete(k.bound, key)
	k.mu.Unlock()
	if p == nil {
		return nil
	}
	p.stopReplica()
	if p.servers != nil {
		k.leave(key, p) // has left, unless the pod was deleted without a grace period
	}
	return k.projects.remove(namespace, name)
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

// ignoresReloads returns what tells at any time whether the pod is to miss
// changes of its files. The annotation may come and go while it runs.
func (k *Kubelet) ignoresReloads(spec *corev1.Pod) func() bool {
	namespace, name := spec.Namespace, spec.Name
	return func() bool {
		now, err := k.pods.Pods(namespace).Get(name)
		return err == nil && now.Annotations["lab/ignore-reloads"] == "true"
	}
}
