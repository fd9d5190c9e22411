package frontproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// A Forwarder reaches simulated pods.
type Forwarder interface {
	// Serves reports whether the pod is a simulated one.
	Serves(namespace, pod string) bool
	// Dial connects to a port of it.
	Dial(ctx context.Context, namespace, pod string, port int32) (net.Conn, error)
}

// A kubelet's times (pkg/kubelet: StreamingConnectionIdleTimeout and
// streaming.DefaultStreamCreationTimeout).
const (
	forwardIdle   = 4 * time.Hour
	streamsWithin = 30 * time.Second
)

// portForwardPath takes /api/v1/namespaces/NS/pods/POD/portforward apart.
func portForwardPath(r *http.Request) (namespace, pod string, ok bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/")
	if !ok || r.Method != http.MethodPost && r.Method != http.MethodGet {
		return "", "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 4 || parts[1] != "pods" || parts[3] != "portforward" {
		return "", "", false
	}
	return parts[0], parts[2], true
}

// portForward does what API server and kubelet do together, with their code:
// SPDY, websockets with channels, and websockets with SPDY inside.
func (p *Proxy) portForward(w http.ResponseWriter, r *http.Request, namespace, pod string) {
	if refusal := p.authorize(r, authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Version: "v1", Resource: "pods", Subresource: "portforward", Name: pod}); refusal != nil {
		refusal(w)
		return
	}
	w = &remembered{ResponseWriter: w, proxy: p}
	serve := func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			writeStatus(w, apierrors.NewBadRequest(err.Error()))
			return
		}
		to := streamForwarder{p.config.Forwarder, namespace}
		portforward.ServePortForward(w, r, to, pod, "", options, forwardIdle, streamsWithin, portforward.SupportedProtocols)
	}
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		utilproxy.NewTunnelingHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serve(&tunnelled{ResponseWriter: w}, r)
		})).ServeHTTP(w, r)
	case r.Method == http.MethodGet && !wsstream.IsWebSocketRequest(r):
		writeStatus(w, apierrors.NewBadRequest("Upgrade request required"))
	default:
		serve(w, r)
	}
}

// streamForwarder connects streams to the pods of one namespace.
type streamForwarder struct {
	to        Forwarder
	namespace string
}

// PortForward copies both ways until either side ends, as a container runtime
// does.
func (f streamForwarder) PortForward(ctx context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := f.to.Dial(ctx, f.namespace, name, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer stream.Close()
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(stream, conn)
		ended <- err
	}()
	go func() {
		_, err := io.Copy(conn, stream)
		// The pod may still have something to say.
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite()
			return
		}
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// remembered makes a connection that leaves the HTTP server end with Down.
type remembered struct {
	http.ResponseWriter
	proxy *Proxy
}

// Hijack implements http.Hijacker. The proxy that is down already has nothing
// left to remember: the connection is closed at once.
func (r *remembered) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	p := r.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		conn.Close()
		return nil, nil, net.ErrClosed
	}
	p.forwarded[conn] = struct{}{}
	return &rememberedConn{Conn: conn, forget: sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.forwarded, conn)
	})}, buffer, nil
}

type rememberedConn struct {
	net.Conn
	forget func()
}

func (c *rememberedConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// tunnelled lets upstream's SPDY server answer through upstream's tunnel, which
// expects what a proxy would send it: the response that switches protocols on
// the hijacked connection, not through WriteHeader.
type tunnelled struct{ http.ResponseWriter }

// WriteHeader keeps back the status that Hijack will send.
func (t *tunnelled) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		t.ResponseWriter.WriteHeader(status)
	}
}

// Hijack implements http.Hijacker.
func (t *tunnelled) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, _, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	switched := http.Response{StatusCode: http.StatusSwitchingProtocols, ProtoMajor: 1, ProtoMinor: 1, Header: t.Header()}
	if err := switched.Write(conn); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}
