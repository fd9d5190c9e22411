package serviceproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

var errLeaving = errors.New("leaving")

// world is a cluster with one Service "w", port 443 to the pods' port "https",
// on an address of this machine, and a proxy for it.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	address string // of the Service

	mu      sync.Mutex
	leaving map[string]bool // pods that were deleted where the lister does not show it
	dialled []string        // pod:port
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, client: fake.NewClientset(), leaving: map[string]bool{}}
	// Tests of several packages, and of several people, share the machine.
	clusterIP := fmt.Sprintf("127.%d.%d.%d", 120+os.Getpid()%100, os.Getpid()/100%250, 1+len(t.Name())%250)
	l, err := net.Listen("tcp", clusterIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	l.Close()
	w.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "w", UID: "service-uid"}, Spec: corev1.ServiceSpec{
		ClusterIP: clusterIP, Selector: map[string]string{"app": "w"},
		Ports: []corev1.ServicePort{{Name: "admission", Port: int32(l.Addr().(*net.TCPAddr).Port), TargetPort: intstr.FromString("https")}}}})
	p, err := New(w.client, informers.NewSharedInformerFactory(w.client, 0), Config{
		Simulated: func(pod *corev1.Pod) bool { return pod.Labels["simulated"] != "no" }, Dial: w.dial, Leaving: errLeaving, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) { // ended before it had begun
			t.Error(err)
		}
	})
	return w
}

func (w *world) create(o any) {
	w.t.Helper()
	var err error
	switch o := o.(type) {
	case *corev1.Service:
		_, err = w.client.CoreV1().Services(o.Namespace).Create(w.t.Context(), o, metav1.CreateOptions{})
	case *corev1.Pod:
		_, err = w.client.CoreV1().Pods(o.Namespace).Create(w.t.Context(), o, metav1.CreateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// pod makes one of the Service's pods, changed by change.
func (w *world) pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name, Labels: map[string]string{"app": "w"}},
		Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "other"}, {Name: "webhook", Ports: []corev1.ContainerPort{{Name: "grpc", ContainerPort: 8090}, {Name: "https", ContainerPort: 9443}}}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	if change != nil {
		change(pod)
	}
	w.create(pod)
	return pod
}

func unready(pod *corev1.Pod) { pod.Status.Conditions[0].Status = corev1.ConditionFalse }

func (w *world) update(pod *corev1.Pod) {
	w.t.Helper()
	if _, err := w.client.CoreV1().Pods(pod.Namespace).Update(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// dial answers a connection with the pod's name after the client's first line.
func (w *world) dial(_ context.Context, namespace, pod string, port int32) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leaving[pod] {
		return nil, fmt.Errorf("dial %s: %w", pod, errLeaving)
	}
	w.dialled = append(w.dialled, fmt.Sprintf("%s/%s:%d", namespace, pod, port))
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		line := make([]byte, 6)
		if _, err := io.ReadFull(there, line); err == nil {
			fmt.Fprintf(there, "%s says hello to %s", pod, line)
		}
	}()
	return here, nil
}

// calls are the pods' ports that were dialled, in order.
func (w *world) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dialled)
}

// ask connects to the Service once; the answer is the pod's name, or "refused".
func (w *world) ask() string {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		return "refused"
	}
	defer conn.Close()
	io.WriteString(conn, "client")
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) == 0 { // who wrote into a reset reads just the end
		return "refused"
	}
	pod, ok := strings.CutSuffix(string(answer), " says hello to client")
	if !ok {
		w.t.Errorf("the answer is %q", answer)
	}
	return pod
}

// until waits for what informers bring about in their own time.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("not within 10 s: " + what)
		}
	}
}

// endpoints are the addresses that the Service's EndpointSlice has for its port.
func (w *world) endpoints() string {
	w.t.Helper()
	slices, err := w.client.DiscoveryV1().EndpointSlices("linkerd").List(w.t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=w"})
	if err != nil {
		w.t.Fatal(err)
	}
	var addresses []string
	for _, s := range slices.Items {
		if len(s.Ports) != 1 || *s.Ports[0].Name != "admission" || s.OwnerReferences[0].UID != "service-uid" {
			w.t.Errorf("slice %+v", s)
		}
		for _, e := range s.Endpoints {
			addresses = append(addresses, e.Addresses...)
		}
	}
	return strings.Join(addresses, " ")
}

func TestConnectionsGoToEveryReadyPodAndNoOther(t *testing.T) {
	w := newWorld(t)
	now := metav1.Now()
	w.pod("ready-1", nil)
	w.pod("ready-2", nil)
	w.pod("unready", unready)
	w.pod("deleted", func(pod *corev1.Pod) { pod.DeletionTimestamp, pod.Finalizers = &now, []string{"lab/test"} })
	w.pod("stranger", func(pod *corev1.Pod) { pod.Labels["app"] = "other" })
	w.pod("bare", func(pod *corev1.Pod) { pod.Labels["simulated"] = "no" })
	seen := map[string]int{}
	w.until("both ready pods", func() bool { seen[w.ask()]++; return seen["ready-1"] > 0 && seen["ready-2"] > 0 })
	for range 50 {
		seen[w.ask()]++
	}
	delete(seen, "refused") // before the proxy listened
	if len(seen) != 2 {
		t.Errorf("answers: %v", seen)
	}
	if got := w.calls()[0]; !strings.HasSuffix(got, ":9443") {
		t.Errorf("it dialled %s, not the port that is called https", got)
	}
}

// The Service of pods that are not ready refuses, as kube-proxy makes it.
func TestAServiceFollowsItsPods(t *testing.T) {
	w := newWorld(t)
	pod := w.pod("a", unready)
	w.until("an EndpointSlice", func() bool {
		list, err := w.client.DiscoveryV1().EndpointSlices("linkerd").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 1
	})
	if got := w.ask(); got != "refused" || w.endpoints() != "" {
		t.Errorf("before a pod is ready: %s, endpoints %q", got, w.endpoints())
	}
	pod.Status.Conditions[0].Status = corev1.ConditionTrue
	w.update(pod)
	w.until("an answer", func() bool { return w.ask() == "a" })
	w.until("an endpoint", func() bool { return w.endpoints() == "10.255.0.1" })
	unready(pod)
	w.update(pod)
	w.until("a refusal", func() bool { return w.ask() == "refused" })
	w.until("no endpoint", func() bool { return w.endpoints() == "" })
	pod.Status.Conditions[0].Status = corev1.ConditionTrue
	w.update(pod)
	w.until("an answer again", func() bool { return w.ask() == "a" })
	if err := w.client.CoreV1().Services("linkerd").Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("a refusal without the Service", func() bool { return w.ask() == "refused" })
}

// A pod may be deleted between the choice and the call; another one answers.
func TestAPodThatLeavesMeanwhileFailsNoConnection(t *testing.T) {
	w := newWorld(t)
	w.pod("leaving", nil)
	w.pod("stays", nil)
	w.until("both pods", func() bool {
		w.ask()
		calls := strings.Join(w.calls(), " ")
		return strings.Contains(calls, "leaving") && strings.Contains(calls, "stays")
	})
	w.mu.Lock()
	w.leaving["leaving"] = true
	w.mu.Unlock()
	for range 30 {
		if got := w.ask(); got != "stays" {
			t.Fatalf("answer: %s", got)
		}
	}
	w.mu.Lock()
	w.leaving["stays"] = true
	w.mu.Unlock()
	if got := w.ask(); got != "refused" {
		t.Errorf("when all leave: %s", got)
	}
}

func TestWhereAServicePortLeads(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}, {Ports: []corev1.ContainerPort{{Name: "https", ContainerPort: 8443}}}}}}
	for _, test := range []struct {
		name   string
		target intstr.IntOrString
		want   int32 // 0: nowhere
	}{
		{"a number", intstr.FromInt32(9000), 9000},
		{"a name of the second container's", intstr.FromString("https"), 8443},
		{"a name that no container has", intstr.FromString("grpc"), 0},
		{"nothing said", intstr.IntOrString{}, 443},
	} {
		got, ok := targetPort(pod, corev1.ServicePort{Port: 443, TargetPort: test.target})
		if got != test.want || ok != (test.want != 0) {
			t.Errorf("%s: port %d, %v", test.name, got, ok)
		}
	}
}

// Only ClusterIPs that are addresses of this machine can be listened on.
func TestServicesThatAreNotProxied(t *testing.T) {
	w := newWorld(t)
	factory := informers.NewSharedInformerFactory(w.client, 0)
	p, err := New(w.client, factory, Config{Simulated: func(*corev1.Pod) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	w.pod("a", nil)
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	for name, spec := range map[string]corev1.ServiceSpec{
		"headless": {ClusterIP: "None", Selector: map[string]string{"app": "w"}}, "without selector": {ClusterIP: "127.0.0.1"},
		"elsewhere": {ClusterIP: "10.0.0.1", Selector: map[string]string{"app": "w"}}, "of nobody": {ClusterIP: "127.0.0.1", Selector: map[string]string{"app": "x"}},
	} {
		if pods := p.selected(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd"}, Spec: spec}); len(pods) > 0 {
			t.Errorf("%s: %d pods", name, len(pods))
		}
	}
	if !slices.ContainsFunc(p.selected(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd"}, Spec: corev1.ServiceSpec{ClusterIP: "127.0.0.1", Selector: map[string]string{"app": "w"}}}),
		func(pod *corev1.Pod) bool { return pod.Name == "a" }) {
		t.Error("the Service of a does not select it")
	}
}
