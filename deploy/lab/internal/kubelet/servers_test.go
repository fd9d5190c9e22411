package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"certd.internal/deploy/lab/internal/certs"
)

// cluster is a kubelet without delays, and the API server it sees.
type cluster struct {
	t *testing.T
	*Kubelet
	client *fake.Clientset
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	client := fake.NewClientset()
	// Tests of several packages, and of several people, share the machine.
	network := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(120 + os.Getpid()%100), byte(os.Getpid() / 100 % 250), 0}), 24)
	k, err := New(client, informers.NewSharedInformerFactory(client, 0),
		Options{Root: t.TempDir(), Nodes: 1, Servers: network, BackOff: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t, k, client}
	c.watched()
	return c
}

// watched returns when the kubelet sees changes. The fake API server tells
// nothing of those between an informer's list and its watch.
func (c *cluster) watched() {
	c.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "probe", Name: "probe"}, Spec: corev1.PodSpec{NodeName: "lab-node-0"}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	if _, err := c.client.CoreV1().Pods("probe").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "probe", Name: "probe"}}
	if _, err := c.client.CoreV1().Secrets("probe").Create(c.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.until("the kubelet sees pods and Secrets", func() bool {
		if _, err := c.client.CoreV1().Pods("probe").Update(c.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.client.CoreV1().Secrets("probe").Update(c.t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		_, noPod := c.pods.Pods("probe").Get("probe")
		_, noSecret := c.projects.secrets.Secrets("probe").Get("probe")
		return noPod == nil && noSecret == nil
	})
}

// pair makes or replaces a Secret with a new certificate for name.
func (c *cluster) pair(secret, name string) {
	c.t.Helper()
	cert, key, err := certs.SelfSigned(name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.secret(secret, map[string][]byte{"tls.crt": cert, "tls.key": key})
}

func (c *cluster) secret(name string, data map[string][]byte) {
	c.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name}, Data: data}
	secrets := c.client.CoreV1().Secrets("linkerd")
	_, err := secrets.Create(c.t.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(c.t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// server is a container that serves on port what is in the Secret of its name.
func server(name string, port int32) corev1.Container {
	return corev1.Container{Name: name, Ports: []corev1.ContainerPort{{ContainerPort: port}, {ContainerPort: port + 1}},
		VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/config"}, {Name: name, MountPath: "/var/run/linkerd/tls/"}}}
}

func (c *cluster) pod(name string, annotations map[string]string, containers ...corev1.Container) {
	c.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name, UID: types.UID(name), Annotations: annotations},
		Spec: corev1.PodSpec{NodeName: "lab-node-0", Containers: containers}}
	mode := int32(0o644)
	for _, container := range containers {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: container.Name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: container.Name, DefaultMode: &mode}}})
	}
	if _, err := c.client.CoreV1().Pods("linkerd").Create(c.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) get(name string) *corev1.Pod {
	c.t.Helper()
	pod, err := c.client.CoreV1().Pods("linkerd").Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return pod
}

func (c *cluster) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatal("not within 10 s: " + what)
		}
	}
}

func (c *cluster) untilReady(name string) *corev1.Pod {
	c.t.Helper()
	c.until(name+" is ready", func() bool { return ready(c.get(name)) })
	return c.get(name)
}

// at is the name in the certificate that a pod's port serves.
func (c *cluster) at(pod string, port int32) string {
	conn, err := c.Dial(c.t.Context(), "linkerd", pod, port)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	return servedOn(conn)
}

func servedOn(conn net.Conn) string {
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		return err.Error()
	}
	return client.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func TestEachServerOfAPodHasItsPort(t *testing.T) {
	c := newCluster(t)
	c.pair("sp-validator", "sp")
	c.pair("policy", "policy")
	c.pod("destination", nil, server("sp-validator", 8443), server("policy", 9443))
	c.pod("other", nil, server("sp-validator", 8443))
	pod, other := c.untilReady("destination"), c.untilReady("other")
	if sp, policy := c.at("destination", 8443), c.at("destination", 9443); sp != "sp" || policy != "policy" {
		t.Errorf("ports serve %s and %s", sp, policy)
	}
	if _, err := c.Dial(t.Context(), "linkerd", "destination", 9444); !errors.Is(err, ErrDown) {
		t.Errorf("a port that is only declared: %v", err)
	}
	if pod.Status.PodIP == other.Status.PodIP {
		t.Errorf("two pods at %s", pod.Status.PodIP)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(pod.Status.PodIP, "9443"))
	if err != nil {
		t.Fatalf("by the address in its status: %v", err)
	}
	defer conn.Close()
	if got := servedOn(conn); got != "policy" {
		t.Error(got)
	}
	if !c.Serves("linkerd", "other") || c.Serves("linkerd", "nobody") {
		t.Error("it does not know which pods have servers")
	}
	c.pair("sp-validator", "sp-2")
	c.until("the second certificate", func() bool { return c.at("destination", 8443) == "sp-2" })
}

// One container that cannot start makes the pod unready; the others run. It
// comes back by itself once its files are good.
func TestAContainerThatCannotStartIsRestarted(t *testing.T) {
	c := newCluster(t)
	c.pair("sp-validator", "sp")
	c.secret("policy", map[string][]byte{"tls.crt": []byte("none"), "tls.key": []byte("none")})
	c.pod("destination", nil, server("sp-validator", 8443), server("policy", 9443))
	c.until("a second crash", func() bool {
		s := c.get("destination").Status.ContainerStatuses
		return len(s) == 2 && s[1].RestartCount > 0
	})
	pod := c.get("destination")
	sp, policy := pod.Status.ContainerStatuses[0], pod.Status.ContainerStatuses[1]
	if ready(pod) || !sp.Ready || sp.RestartCount > 0 || policy.Ready || policy.State.Waiting == nil || policy.State.Waiting.Reason != "CrashLoopBackOff" ||
		!strings.Contains(policy.LastTerminationState.Terminated.Message, "could not load private key") {
		t.Errorf("status %+v", pod.Status)
	}
	if got := c.at("destination", 8443); got != "sp" {
		t.Errorf("the container that runs: %s", got)
	}
	c.pair("policy", "policy")
	c.untilReady("destination")
	if got := c.at("destination", 9443); got != "policy" {
		t.Error(got)
	}
}

// Who connected before a pod was deleted is answered; nobody else gets through;
// and the pod is there until then.
func TestADeletedPodFinishesWhatItHasBegun(t *testing.T) {
	c := newCluster(t)
	c.pair("tap", "tap")
	c.pod("tap-1", nil, server("tap", 8089))
	c.untilReady("tap-1")
	conn, err := c.Dial(t.Context(), "linkerd", "tap-1", 8089)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// As an API server would that has grace: the pod gets a deletion timestamp.
	pod, now := c.get("tap-1"), metav1.Now()
	pod.DeletionTimestamp, pod.Finalizers = &now, []string{"lab/test"}
	if _, err := c.client.CoreV1().Pods("linkerd").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("nobody gets through any more", func() bool { return strings.Contains(c.at("tap-1", 8089), ErrLeaving.Error()) })
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if _, err := fmt.Fprint(client, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(client)
	if err != nil || !bytes.HasSuffix(answer, []byte("ok")) {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := c.client.CoreV1().Pods("linkerd").Get(t.Context(), "tap-1", metav1.GetOptions{}); err != nil {
		t.Errorf("while it was at it: %v", err)
	}
	conn.Close()
	c.until("the pod is gone", func() bool {
		_, err := c.client.CoreV1().Pods("linkerd").Get(t.Context(), "tap-1", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.until("its address is free", func() bool { c.addresses.mu.Lock(); defer c.addresses.mu.Unlock(); return len(c.addresses.taken) == 0 })
	if l, err := net.Listen("tcp", net.JoinHostPort(pod.Status.PodIP, "8089")); err != nil {
		t.Errorf("its listener is still there: %v", err)
	} else {
		l.Close()
	}
}

func TestAnUnreachablePodIsReachedByOtherWaysOnly(t *testing.T) {
	c := newCluster(t)
	c.pair("tap", "tap")
	c.pod("tap-1", map[string]string{"lab/unreachable": "true"}, server("tap", 8089))
	pod := c.untilReady("tap-1")
	if conn, err := net.Dial("tcp", net.JoinHostPort(pod.Status.PodIP, "8089")); err == nil {
		conn.Close()
		t.Errorf("somebody listens on %s", pod.Status.PodIP)
	}
	if got := c.at("tap-1", 8089); got != "tap" {
		t.Error(got)
	}
}

// The annotation counts from when it is there, and no longer.
func TestAPodIsToldToIgnoreReloadsWhileItRuns(t *testing.T) {
	c := newCluster(t)
	c.pair("tap", "one")
	c.pod("tap-1", nil, server("tap", 8089))
	c.untilReady("tap-1")
	told := func(value string) {
		pod := c.get("tap-1")
		pod.Annotations = map[string]string{"lab/ignore-reloads": value}
		if _, err := c.client.CoreV1().Pods("linkerd").Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		ignores := c.ignoresReloads(pod)
		c.until("the kubelet sees it", func() bool { return ignores() == (value == "true") })
	}
	told("true")
	c.pair("tap", "two")
	file := filepath.Join(c.projects.podDir("linkerd", "tap-1"), "tap", "tls.crt")
	one := c.at("tap-1", 8089)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.pair("tap", "three")
	c.until("files change", func() bool { now, err := os.ReadFile(file); return err == nil && !bytes.Equal(now, before) })
	if now := c.at("tap-1", 8089); one != "one" || now != "one" {
		t.Errorf("it serves %s, then %s", one, now)
	}
	told("false")
	c.pair("tap", "four")
	c.until("the fourth certificate", func() bool { return c.at("tap-1", 8089) == "four" })
}

func TestWhichContainersHaveAServer(t *testing.T) {
	mounted := func(name, at string) corev1.Container {
		return corev1.Container{Name: name, VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: at}}}
	}
	for _, test := range []struct {
		name      string
		container corev1.Container
		want      bool
	}{
		{"one of Linkerd's", mounted("proxy-injector", "/var/run/linkerd/tls"), true},
		{"one of Linkerd's whose certificate is elsewhere", mounted("proxy-injector", "/certs/tls"), false},
		{"a webhook of the cluster's own", mounted("webhook", "/etc/webhook/tls"), true},
		{"one that reads at every connection", mounted("webhook-reread", "/tls/"), true},
		{"a container that is only called webhook", mounted("webhook", "/etc/config"), false},
		{"anything else", mounted("nginx", "/var/run/linkerd/tls"), false},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, test.container}}}
		if got := HasServers(pod); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
