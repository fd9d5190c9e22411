package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"certd.internal/deploy/lab/internal/webhook"
)

// drainGrace is how long a deleted pod's servers get for what they are at.
const drainGrace = 10 * time.Second

// ErrLeaving: the pod was deleted and takes no new connections.
var ErrLeaving = errors.New("the pod is being deleted")

// servers are the simulated servers of one pod, and the connections to them
// that came through Dial.
type servers struct {
	address netip.Addr // where all of them listen

	mu      sync.Mutex
	byPort  map[int32]*webhook.Server
	open    int
	leaving bool
	idle    chan struct{} // closed once leaving and without connections
	gone    bool          // has left
}

func newServers(address netip.Addr) *servers {
	return &servers{address: address, byPort: map[int32]*webhook.Server{}, idle: make(chan struct{})}
}

// dial connects to the server on port.
func (s *servers) dial(ctx context.Context, port int32) (net.Conn, error) {
	s.mu.Lock()
	if s.leaving {
		s.mu.Unlock()
		return nil, ErrLeaving
	}
	// Not left to the kernel: some other program may listen on all addresses.
	if s.byPort[port] == nil {
		s.mu.Unlock()
		return nil, ErrDown
	}
	s.open++
	s.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.at(port))
	if err != nil {
		s.closed()
		return nil, err
	}
	return &countedConn{TCPConn: conn.(*net.TCPConn), closed: sync.OnceFunc(s.closed)}, nil
}

func (s *servers) at(port int32) string {
	return net.JoinHostPort(s.address.String(), strconv.Itoa(int(port)))
}

func (s *servers) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open--; s.open == 0 && s.leaving {
		close(s.idle)
	}
}

// countedConn tells when it is closed.
type countedConn struct {
	*net.TCPConn
	closed func()
}

func (c *countedConn) Close() error {
	err := c.TCPConn.Close()
	c.closed()
	return err
}

// leave lets nobody dial from now on, and in the background lets the servers
// finish, stops them and calls left. A second call does nothing.
func (s *servers) leave(left func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return
	}
	s.leaving = true
	if s.open == 0 {
		close(s.idle)
	}
	running := slices.Collect(maps.Values(s.byPort))
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainGrace)
		defer cancel()
		for _, server := range running {
			server.Drain()
		}
		// A listener that closes resets connections it has not accepted yet,
		// so it closes only after those that were dialled.
		select {
		case <-s.idle:
		case <-ctx.Done():
		}
		for _, server := range running {
			server.Shutdown(ctx)
		}
		s.mu.Lock()
		s.gone = true
		s.mu.Unlock()
		left()
	}()
}

func (s *servers) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// close cuts everything at once.
func (s *servers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.byPort {
		server.Close()
	}
}

// Where Linkerd's charts mount the serving certificate (linkerd2 pkg/k8s,
// MountPathTLSBase). Other webhooks have it at a path that ends in otherTLS.
const (
	linkerdTLSMount = "/var/run/linkerd/tls"
	otherTLSMount   = "/tls"
)

// serverVolume returns the volume that a container's server reads its
// certificate from, "" for containers without a server: names such as "webhook"
// are common, so the volume belongs to the sign.
func serverVolume(c *corev1.Container) string {
	if !webhook.Simulated(c.Name) {
		return ""
	}
	for _, m := range c.VolumeMounts {
		at := path.Clean(m.MountPath)
		if at == linkerdTLSMount || strings.HasPrefix(c.Name, "webhook") && strings.HasSuffix(at, otherTLSMount) {
			return m.Name
		}
	}
	return ""
}

// HasServers reports whether simulated servers run for the pod.
func HasServers(spec *corev1.Pod) bool {
	return slices.ContainsFunc(spec.Spec.Containers, func(c corev1.Container) bool { return serverVolume(&c) != "" })
}

// startServer starts the container's server on its first port.
func (k *Kubelet) startServer(p *pod, spec *corev1.Pod, c *corev1.Container) error {
	if len(c.Ports) == 0 {
		return fmt.Errorf("container %s names no containerPort to listen on", c.Name)
	}
	port := c.Ports[0].ContainerPort
	roots := ""
	for _, m := range c.VolumeMounts {
		if path.Clean(m.MountPath) == rootsMount {
			roots = m.Name
		}
	}
	dir := k.projects.podDir(spec.Namespace, spec.Name)
	server, err := webhook.Start(webhook.Config{
		Container: c.Name,
		Address:   p.servers.at(port),
		TLSDir:    filepath.Join(dir, serverVolume(c)),
		KeepAlive: spec.Annotations["lab/keep-alive"] == "true",
		Deaf:      k.ignoresReloads(spec),
		Namespace: spec.Namespace,
		RootsFile: filepath.Join(dir, roots, "ca-bundle.crt"),
		Injects: func(namespace string) bool {
			n, err := k.namespaces.Get(namespace)
			return err == nil && n.Annotations["linkerd.io/inject"] == "enabled"
		},
		Log: k.options.Log.With("pod", spec.Namespace+"/"+spec.Name, "container", c.Name),
	})
	if err != nil {
		return err
	}
	p.servers.mu.Lock()
	defer p.servers.mu.Unlock()
	p.servers.byPort[port] = server
	return nil
}

// Dial connects to a port of a pod that HasServers. The error wraps ErrLeaving
// for a deleted pod, and ErrDown where nobody listens.
func (k *Kubelet) Dial(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	k.mu.Lock()
	p := k.running[namespace+"/"+name]
	k.mu.Unlock()
	err := ErrDown
	if p != nil && p.servers != nil {
		var conn net.Conn
		if conn, err = p.servers.dial(ctx, port); err == nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("dial port %d of pod %s/%s: %w", port, namespace, name, err)
}

// Serves reports whether the named pod exists and HasServers.
func (k *Kubelet) Serves(namespace, name string) bool {
	spec, err := k.pods.Pods(namespace).Get(name)
	return err == nil && HasServers(spec)
}
