// Package serviceproxy stands in for kube-proxy, as far as Services of simulated
// pods go: it listens on a Service's ClusterIP, which is an address of this
// machine, and passes each connection on to one of the Service's ready pods.
package serviceproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Config of one cluster's proxy.
type Config struct {
	// Simulated reports whether anything listens for the pod.
	Simulated func(*corev1.Pod) bool
	// Dial connects to a port of a simulated pod. The error wraps Leaving if
	// the pod is one that has been deleted since it was chosen.
	Dial    func(ctx context.Context, namespace, pod string, port int32) (net.Conn, error)
	Leaving error
	Log     *slog.Logger
}

// dialTimeout is for one pod; all are on this machine.
const dialTimeout = 5 * time.Second

// A Proxy listens for the Services of one cluster.
type Proxy struct {
	config   Config
	client   kubernetes.Interface
	watches  informers.SharedInformerFactory
	services listers.ServiceLister
	pods     listers.PodLister
	synced   []cache.InformerSynced
	queue    workqueue.TypedRateLimitingInterface[string]

	// ports are the listeners of each Service, by its namespace/name. Only
	// the goroutine of Run has them.
	ports map[string]map[string]*port
}

// New prepares a proxy; Run runs it. It must see the pods through the watches
// of whoever serves for them: when that deletes one pod, this must have seen
// the next one get ready.
func New(client kubernetes.Interface, watches informers.SharedInformerFactory, config Config) (*Proxy, error) {
	core := watches.Core().V1()
	p := &Proxy{
		config: config, client: client, watches: watches, services: core.Services().Lister(), pods: core.Pods().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 2*time.Second)),
		ports: map[string]map[string]*port{},
	}
	service := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			p.queue.Add(key)
		}
	}
	pod := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if pod, ok := o.(*corev1.Pod); ok && config.Simulated(pod) {
			p.podChanged(pod)
		}
	}
	for kind, watch := range map[string]struct {
		informer cache.SharedIndexInformer
		changed  func(any)
	}{"services": {core.Services().Informer(), service}, "pods": {core.Pods().Informer(), pod}} {
		registration, err := watch.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: watch.changed, UpdateFunc: func(_, o any) { watch.changed(o) }, DeleteFunc: watch.changed})
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", kind, err)
		}
		p.synced = append(p.synced, registration.HasSynced)
	}
	return p, nil
}

// podChanged looks at the Services that select the pod.
func (p *Proxy) podChanged(pod *corev1.Pod) {
	services, err := p.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister reads memory; it has no errors
	}
	for _, s := range services {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			p.queue.Add(s.Namespace + "/" + s.Name)
		}
	}
}

// Run proxies until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	p.watches.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return ctx.Err()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for p.next(ctx) {
		}
	}()
	<-ctx.Done()
	p.queue.ShutDown()
	<-ended
	for _, ports := range p.ports {
		for _, l := range ports {
			l.close()
		}
	}
	return nil
}

func (p *Proxy) next(ctx context.Context) bool {
	key, shutdown := p.queue.Get()
	if shutdown {
		return false
	}
	defer p.queue.Done(key)
	if err := p.sync(ctx, key); err != nil && ctx.Err() == nil {
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
			p.config.Log.Warn("service not proxied", "service", key, "err", err)
		}
		p.queue.AddRateLimited(key)
		return true
	}
	p.queue.Forget(key)
	return true
}

// sync makes the listeners and the EndpointSlice of one Service what its pods
// ask for: as long as one of them is ready there are listeners.
func (p *Proxy) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := p.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		p.listen(key, nil)
		return nil // its EndpointSlice has an owner, and goes with it
	}
	if err != nil {
		return err
	}
	pods := p.selected(service)
	if len(pods) == 0 && p.ports[key] == nil {
		return nil // none of ours
	}
	ready := slices.ContainsFunc(pods, isReady)
	wanted := map[string]corev1.ServicePort{}
	if ready {
		for _, sp := range service.Spec.Ports {
			if sp.Protocol == corev1.ProtocolTCP || sp.Protocol == "" {
				wanted[net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(sp.Port)))] = sp
			}
		}
	}
	return errors.Join(p.listen(key, wanted), p.publish(ctx, service, ready))
}

// selected returns the simulated pods of a Service; none of a Service that has
// no address of this machine.
func (p *Proxy) selected(service *corev1.Service) []*corev1.Pod {
	if len(service.Spec.Selector) == 0 || !net.ParseIP(service.Spec.ClusterIP).IsLoopback() {
		return nil
	}
	pods, err := p.pods.Pods(service.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return nil // the lister reads memory; it has no errors
	}
	return slices.DeleteFunc(pods, func(pod *corev1.Pod) bool { return !p.config.Simulated(pod) })
}

func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// listen opens and closes listeners until the Service has those of wanted, by
// address.
func (p *Proxy) listen(key string, wanted map[string]corev1.ServicePort) error {
	for address, l := range p.ports[key] {
		if _, ok := wanted[address]; !ok {
			l.close()
			delete(p.ports[key], address)
		}
	}
	if wanted == nil {
		delete(p.ports, key)
		return nil
	}
	if p.ports[key] == nil {
		p.ports[key] = map[string]*port{}
	}
	var failed error
	for address := range wanted {
		if p.ports[key][address] != nil {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		namespace, name, _ := cache.SplitMetaNamespaceKey(key)
		open := &port{proxy: p, namespace: namespace, service: name, number: wanted[address].Port, listener: l, done: make(chan struct{})}
		p.ports[key][address] = open
		go open.accept()
	}
	return failed
}

// port is one listener. What it does with a connection is decided when the
// connection comes, by the Service as it is then.
type port struct {
	proxy              *Proxy
	namespace, service string
	number             int32
	listener           net.Listener
	done               chan struct{}
}

// close lets open connections be: a kube-proxy would, too.
func (l *port) close() {
	l.listener.Close()
	<-l.done
}

func (l *port) accept() {
	defer close(l.done)
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		go l.forward(conn.(*net.TCPConn))
	}
}

func (l *port) forward(client *net.TCPConn) {
	defer client.Close()
	backend := l.dial()
	if backend == nil {
		client.SetLinger(0) // a reset, the nearest to a refusal that is left
		return
	}
	defer backend.Close()
	join(client, backend)
}

// dial connects to one of the ready pods, each as likely as the others; nil if
// that fails. A pod that leaves between choice and call does not count.
func (l *port) dial() net.Conn {
	service, err := l.proxy.services.Services(l.namespace).Get(l.service)
	if err != nil {
		return nil
	}
	at := slices.IndexFunc(service.Spec.Ports, func(sp corev1.ServicePort) bool { return sp.Port == l.number })
	if at < 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	pods := slices.DeleteFunc(l.proxy.selected(service), func(pod *corev1.Pod) bool { return !isReady(pod) })
	rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	for _, pod := range pods {
		target, ok := targetPort(pod, service.Spec.Ports[at])
		if !ok {
			continue
		}
		conn, err := l.proxy.config.Dial(ctx, pod.Namespace, pod.Name, target)
		if err == nil {
			return conn
		}
		if !errors.Is(err, l.proxy.config.Leaving) {
			l.proxy.config.Log.Debug("service proxy", "service", l.namespace+"/"+l.service, "err", err)
			return nil
		}
	}
	return nil
}

// targetPort is the pod's port that a Service's leads to, by number or by the
// name of a container's.
func targetPort(pod *corev1.Pod, sp corev1.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	for _, c := range pod.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal {
				return cp.ContainerPort, true
			}
		}
	}
	return 0, false
}

// join copies both ways until both have ended.
func join(a, b net.Conn) {
	var copies sync.WaitGroup
	copyTo := func(to, from net.Conn) {
		io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
	copies.Go(func() { copyTo(a, b) })
	copies.Go(func() { copyTo(b, a) })
	copies.Wait()
}
