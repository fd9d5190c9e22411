package kubelet

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// newScheduler is a kubelet of a cluster with so many nodes, and what puts pods
// into its lister.
func newScheduler(t *testing.T, nodes int) (*Kubelet, func(*corev1.Pod)) {
	t.Helper()
	client := fake.NewClientset()
	watches := informers.NewSharedInformerFactory(client, 0)
	k, err := New(client, watches, Options{Root: t.TempDir(), Nodes: nodes, Lag: 7 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k, func(pod *corev1.Pod) {
		t.Helper()
		if err := watches.Core().V1().Pods().Informer().GetIndexer().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
}

// owned is a pod of the named ReplicaSet.
func owned(owner, name string) *corev1.Pod {
	yes := true
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name,
		OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: &yes}}}}
}

func TestPodsOfOneOwnerAreSpreadOverTheNodes(t *testing.T) {
	k, add := newScheduler(t, 3)
	place := func(pod *corev1.Pod) string { return k.nodeFor(pod.Namespace+"/"+pod.Name, pod) }
	// None of these bindings is in the lister when the next pod is placed.
	used := map[string]int{}
	for i := range 6 {
		used[place(owned("web", fmt.Sprint("web-", i)))]++
		add(owned("web", fmt.Sprint("web-", i)))
	}
	if len(used) != 3 || used["lab-node-0"] != 2 || used["lab-node-1"] != 2 {
		t.Errorf("six pods: %v", used)
	}
	if first, again := place(owned("web", "web-0")), place(owned("web", "web-0")); first != again {
		t.Errorf("asked twice: %s and %s", first, again)
	}
	// A pod that goes makes room where it was.
	k, add = newScheduler(t, 3)
	for i := range 3 {
		pod := owned("web", fmt.Sprint("web-", i))
		pod.Spec.NodeName = nodeName(i)
		if now := metav1.Now(); i == 1 {
			pod.DeletionTimestamp = &now
		}
		add(pod)
	}
	if got := k.nodeFor("linkerd/web-3", owned("web", "web-3")); got != "lab-node-1" {
		t.Errorf("it goes to %s, not to where one leaves", got)
	}
	// The pods of another owner do not count.
	if used := k.nodeFor("linkerd/db-0", owned("db", "db-0")); used != nodeName(k.firstNode("linkerd/db")) {
		t.Errorf("the first pod of an owner goes to %s", used)
	}
}

func TestAPodWithoutAnOwnerAlwaysGetsTheSameNode(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "bare"}}
	one, _ := newScheduler(t, 5)
	other, add := newScheduler(t, 5)
	add(pod)
	if a, b := one.nodeFor("linkerd/bare", pod), other.nodeFor("linkerd/bare", pod); a != b {
		t.Errorf("%s and %s", a, b)
	}
}

func TestTheLagOfEachNode(t *testing.T) {
	k, _ := newScheduler(t, 4)
	for _, test := range []struct {
		annotation string
		want       [4]time.Duration // of nodes 0 to 3
	}{
		{"", [4]time.Duration{7 * time.Second, 7 * time.Second, 7 * time.Second, 7 * time.Second}},
		{"5s", [4]time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"0s, 2s,5s", [4]time.Duration{0, 2 * time.Second, 5 * time.Second, 0}},
		{"1s,soon", [4]time.Duration{time.Second, 7 * time.Second, time.Second, 7 * time.Second}},
	} {
		for i, want := range test.want {
			pod := owned("web", "web-0")
			pod.Annotations, pod.Spec.NodeName = map[string]string{"lab/projection-lag": test.annotation}, nodeName(i)
			if got := k.lag(pod); got != want {
				t.Errorf("%q on node %d: %v, want %v", test.annotation, i, got, want)
			}
		}
	}
	pod := owned("web", "web-0")
	pod.Annotations, pod.Spec.NodeName = map[string]string{"lab/projection-lag": "1s,2s"}, "somebody-elses"
	if got := k.lag(pod); got != time.Second {
		t.Errorf("on a foreign node: %v", got)
	}
}

func TestAnAddressHasOneUserAtATime(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("127.9.101.0/29"))
	var taken []string
	for range 6 {
		addr, err := a.take()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, addr.String())
	}
	if got := fmt.Sprint(taken); got != "[127.9.101.1 127.9.101.2 127.9.101.3 127.9.101.4 127.9.101.5 127.9.101.6]" {
		t.Error(got)
	}
	if addr, err := a.take(); err == nil {
		t.Errorf("a seventh: %s", addr)
	}
	a.giveBack(netip.MustParseAddr("127.9.101.2"))
	a.giveBack(netip.MustParseAddr("127.9.101.5"))
	for _, want := range []string{"127.9.101.2", "127.9.101.5"} {
		if addr, err := a.take(); err != nil || addr.String() != want {
			t.Errorf("%s, %v, want %s", addr, err, want)
		}
	}
	if _, err := newAddresses(netip.Prefix{}).take(); err == nil {
		t.Error("there is an address of no network")
	}
}
