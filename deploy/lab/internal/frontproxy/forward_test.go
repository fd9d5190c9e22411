package frontproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// echoes is a Forwarder to one pod, "w-1", whose port 8443 says back what it is
// told, after "echo: ".
type echoes struct{}

func (echoes) Serves(namespace, pod string) bool { return namespace == "linkerd" && pod == "w-1" }

func (echoes) Dial(_ context.Context, namespace, pod string, port int32) (net.Conn, error) {
	if port != 8443 {
		return nil, fmt.Errorf("dial port %d of pod %s/%s: connect: connection refused", port, namespace, pod)
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		io.WriteString(there, "echo: ")
		io.Copy(there, there)
	}()
	return here, nil
}

// dialers are the two ways in which client-go asks for a port-forward.
func dialers(t *testing.T, p *Proxy, pod, token string) map[string]httpstream.Dialer {
	t.Helper()
	config := &rest.Config{Host: p.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: p.config.CA}}
	url, err := url.Parse(p.URL() + "/api/v1/namespaces/linkerd/pods/" + pod + "/portforward")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	overWebsocket, err := portforward.NewSPDYOverWebsocketDialer(url, config)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]httpstream.Dialer{"SPDY": spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url), "websocket": overWebsocket}
}

// forward forwards a local port to one of the pod's; the function returns the
// local address, and ended gets what ended it.
func forward(t *testing.T, dialer httpstream.Dialer, port int) (address string, ended <-chan error) {
	t.Helper()
	stop, isReady, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprint("0:", port)}, stop, isReady, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	go func() { over <- f.ForwardPorts() }()
	select {
	case <-isReady:
	case err := <-over:
		t.Fatal(err)
	}
	t.Cleanup(func() { close(stop) })
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", ports[0].Local), over
}

// failure is what a client is told on the error stream of a port.
func failure(t *testing.T, dialer httpstream.Dialer, port int) string {
	t.Helper()
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	headers := func(kind string) http.Header {
		return http.Header{corev1.StreamType: {kind}, corev1.PortHeader: {fmt.Sprint(port)}, corev1.PortForwardRequestIDHeader: {"0"}}
	}
	told, err := conn.CreateStream(headers(corev1.StreamTypeError))
	if err != nil {
		t.Fatal(err)
	}
	// Once both streams are there the server says what is wrong and resets
	// them, whether or not this end has got around to knowing them.
	conn.CreateStream(headers(corev1.StreamTypeData))
	text, _ := io.ReadAll(told)
	return string(text)
}

func say(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("echo: ")+len(text))
	n, err := io.ReadFull(conn, answer)
	if err != nil {
		return string(answer[:n]) + err.Error()
	}
	return string(answer)
}

func TestAPortIsForwardedToASimulatedPod(t *testing.T) {
	p, _ := start(t)
	for name, dialer := range dialers(t, p, "w-1", "good") {
		t.Run(name, func(t *testing.T) {
			address, _ := forward(t, dialer, 8443)
			for _, text := range []string{"one", strings.Repeat("a long one ", 10_000)} {
				if got := say(t, address, text); got != "echo: "+text {
					t.Errorf("%.20q...", got)
				}
			}
		})
		t.Run(name+" where nobody listens", func(t *testing.T) {
			if got := failure(t, dialer, 1); !strings.Contains(got, "connection refused") {
				t.Errorf("the client is told %q", got)
			}
		})
	}
}

func TestWhoMayForwardPorts(t *testing.T) {
	p, _ := start(t)
	for _, test := range []struct{ name, pod, token, says string }{
		{"not who may not", "w-1", "poor", `cannot create resource "pods/portforward"`},
		{"not who is nobody", "w-1", "", "Unauthorized"},
	} {
		for how, dialer := range dialers(t, p, test.pod, test.token) {
			t.Run(test.name+" over "+how, func(t *testing.T) {
				conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
				if err == nil {
					conn.Close()
					t.Fatal("it is forwarded")
				}
				if how == "SPDY" && !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, want %q", err, test.says)
				}
			})
		}
	}
}

// Requests for other pods, and other requests, are the API server's business.
func TestWhatIsNotForwarded(t *testing.T) {
	p, client := start(t)
	for path, says := range map[string]string{
		"/api/v1/namespaces/linkerd/pods/web/portforward":     "passed /api/v1/namespaces/linkerd/pods/web/portforward",
		"/api/v1/namespaces/other/pods/w-1/portforward":       "passed",
		"/api/v1/namespaces/linkerd/pods/w-1/portforward/x":   "passed",
		"/api/v1/namespaces/linkerd/services/w-1/portforward": "passed",
		"/api/v1/namespaces/linkerd/pods/w-1/portforward":     "Upgrade request required",
	} {
		if _, body := get(t, client, p.URL()+path, "good"); !strings.Contains(body, says) {
			t.Errorf("%s: %q, want %q", path, body, says)
		}
	}
}

// An outage ends port-forwards, too, though the HTTP server has let go of them.
func TestDownEndsForwardedPorts(t *testing.T) {
	p, _ := start(t)
	for name, dialer := range dialers(t, p, "w-1", "good") {
		t.Run(name, func(t *testing.T) {
			address, ended := forward(t, dialer, 8443)
			if got := say(t, address, "one"); got != "echo: one" {
				t.Fatal(got)
			}
			p.Down()
			if err := <-ended; !errors.Is(err, portforward.ErrLostConnectionToPod) {
				t.Errorf("it ended with %v", err)
			}
			if err := p.Up(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
