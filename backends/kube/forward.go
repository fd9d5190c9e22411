package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// portForwardProtocol is what kubectl port-forward speaks (client-go,
// tools/portforward).
const portForwardProtocol = "portforward.k8s.io"

// streamClient is for requests that turn their connection into another
// protocol's, which HTTP/2 cannot. It goes the kubeconfig's way, proxy and
// credentials included.
func streamClient(rc *rest.Config) (*http.Client, error) {
	rc = rest.CopyConfig(rc)
	rc.NextProtos = []string{"http/1.1"}
	hc, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, err
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return hc, nil
}

// forwarded is a connection to a port of a pod, by way of the API server and
// the pod's kubelet. Client-go's own forwarder would open a port on this host
// for whoever is there.
type forwarded struct {
	httpstream.Stream // the bytes
	conn              httpstream.Connection
	below             net.Conn
	said              chan string // what the kubelet says against it, "" if nothing; once
	stop              func() bool
}

// forward connects to a port of a pod. ctx bounds all of the connection's life.
func (c *Cluster) forward(ctx context.Context, namespace, pod string, port int32) (*forwarded, error) {
	a := call{verb: "create", resource: "pods/portforward", name: pod, in: namespace}
	switched, err := c.upgrade(ctx, namespace, pod)
	if err != nil {
		return nil, c.fail(a, err)
	}
	conn, err := spdy.NewClientConnection(switched)
	if err != nil {
		switched.Close()
		return nil, c.fail(a, err)
	}
	f := &forwarded{conn: conn, below: switched, said: make(chan string, 1)}
	// Closing the TCP connection as well ends what waits for an answer that
	// never comes.
	f.stop = context.AfterFunc(ctx, func() { switched.Close() })
	header := http.Header{}
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	header.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	against, err := conn.CreateStream(header)
	if err == nil {
		against.Close() // nothing is written to it
		go func() {
			text, _ := io.ReadAll(io.LimitReader(against, 1<<10))
			f.said <- string(text)
		}()
		header.Set(corev1.StreamType, corev1.StreamTypeData)
		f.Stream, err = conn.CreateStream(header)
	}
	if err != nil {
		f.Close()
		return nil, c.fail(a, errors.Join(err, ctx.Err()))
	}
	return f, nil
}

// upgrade asks the API server to turn a connection into one of SPDY streams.
func (c *Cluster) upgrade(ctx context.Context, namespace, pod string) (net.Conn, error) {
	u := c.core.RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("portforward").URL()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	r.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	r.Header.Set(httpstream.HeaderProtocolVersion, portForwardProtocol)
	stream, err := c.stream()
	if err != nil {
		return nil, err
	}
	resp, err := stream.Do(r)
	if err != nil {
		return nil, err
	}
	if body, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		return switchedConn{body}, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var s metav1.Status
	if json.Unmarshal(text, &s) != nil || s.Message == "" {
		s.Message = fmt.Sprintf("%s %.200q", resp.Status, text)
	}
	s.Status, s.Code = metav1.StatusFailure, int32(resp.StatusCode)
	return nil, &apierrors.StatusError{ErrStatus: s}
}

// Close ends the connection; one that is only half closed would go on in the
// kubelet.
func (f *forwarded) Close() error {
	f.stop()
	err := f.below.Close() // first, so that no goodbye waits for a peer that is stuck
	f.conn.Close()
	return err
}

// against is what the kubelet said, if it did.
func (f *forwarded) against() string {
	select {
	case text := <-f.said:
		return text
	case <-time.After(time.Second / 2):
		return ""
	}
}

// tls.Conn wants a net.Conn. Deadlines are the context's.
func (f *forwarded) LocalAddr() net.Addr              { return noAddr{} }
func (f *forwarded) RemoteAddr() net.Addr             { return noAddr{} }
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

// switchedConn is a connection after 101 Switching Protocols.
type switchedConn struct{ io.ReadWriteCloser }

func (switchedConn) LocalAddr() net.Addr              { return noAddr{} }
func (switchedConn) RemoteAddr() net.Addr             { return noAddr{} }
func (switchedConn) SetDeadline(time.Time) error      { return nil }
func (switchedConn) SetReadDeadline(time.Time) error  { return nil }
func (switchedConn) SetWriteDeadline(time.Time) error { return nil }

type noAddr struct{}

func (noAddr) Network() string { return "port-forward" }
func (noAddr) String() string  { return "port-forward" }

var _ net.Conn = (*forwarded)(nil)
