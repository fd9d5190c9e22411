package kube

import (
	"bytes"
	"encoding/binary"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
)

// injectedPod is about what Linkerd 2.18 makes of a small web service: 15 kB.
func injectedPod(i int, anchors []byte) corev1.Pod {
	yes := true
	variables := func(prefix string, n int) []corev1.EnvVar {
		env := []corev1.EnvVar{{Name: prefix + "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}}}
		for i := range n {
			env = append(env, corev1.EnvVar{Name: fmt.Sprintf("%sSETTING_NUMBER_%d", prefix, i), Value: fmt.Sprintf("linkerd-dst-headless.linkerd.svc.cluster.local.:80%d", i)})
		}
		return env
	}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Scheme: "HTTP"}}, InitialDelaySeconds: 2, TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}
	mounts := []corev1.VolumeMount{{Name: "linkerd-identity-end-entity", MountPath: "/var/run/linkerd/identity/end-entity"}, {Name: "linkerd-identity-token", MountPath: "/var/run/secrets/tokens"}}
	env := append(variables("LINKERD2_PROXY_", 50), corev1.EnvVar{Name: anchorsEnv, Value: string(anchors)})
	var fields strings.Builder
	for i := range 70 {
		fmt.Fprintf(&fields, `"k:{\"name\":\"VARIABLE_%d\"}":{".":{},"f:name":{},"f:value":{}},`, i)
	}
	managed := metav1.NewFieldsV1(`{"f:spec":{"f:containers":{` + strings.TrimSuffix(fields.String(), ",") + `}}}`)
	now := metav1.NewTime(time.Unix(1_750_000_000, 0))
	status := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, Ready: true, Image: "cr.l5d.io/linkerd/proxy:edge-25.5.1", ImageID: "cr.l5d.io/linkerd/proxy@sha256:" + strings.Repeat("0a", 32),
			ContainerID: "containerd://" + strings.Repeat("7f", 32), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}
	}
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("web-7d4b9c6f5d-%05d", i), Namespace: fmt.Sprintf("team-%d", i%20), UID: types.UID(strings.Repeat("6", 36)), ResourceVersion: "123456789", CreationTimestamp: now,
			GenerateName: "web-7d4b9c6f5d-", Labels: map[string]string{"app": "web", "pod-template-hash": "7d4b9c6f5d", meshedLabel: "linkerd", "linkerd.io/proxy-deployment": "web", "linkerd.io/workload-ns": "team"},
			Annotations:     map[string]string{"linkerd.io/created-by": "linkerd/proxy-injector stable-2.18", "linkerd.io/trust-root-sha256": strings.Repeat("ab", 32), "linkerd.io/proxy-version": "edge-25.5.1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-7d4b9c6f5d", UID: types.UID(strings.Repeat("5", 36)), Controller: &yes, BlockOwnerDeletion: &yes}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", Operation: "Update", APIVersion: "v1", Time: &now, FieldsType: "FieldsV1", FieldsV1: managed}},
		},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "linkerd-init", Image: "cr.l5d.io/linkerd/proxy-init:v2.4.2", Args: []string{"--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140"}}},
			Containers: []corev1.Container{
				{Name: proxyContainer, Image: "cr.l5d.io/linkerd/proxy:edge-25.5.1", Env: env, LivenessProbe: probe, ReadinessProbe: probe, VolumeMounts: mounts},
				{Name: "web", Image: "registry.example.com/team/web:1.2.3", Env: variables("WEB_", 20), LivenessProbe: probe, ReadinessProbe: probe, VolumeMounts: mounts},
			},
			NodeName: "node-1", ServiceAccountName: "web", Volumes: []corev1.Volume{{Name: "linkerd-identity-end-entity", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "10.0.0.1", PodIP: "10.1.2.3", StartTime: &now,
			ContainerStatuses: []corev1.ContainerStatus{status(proxyContainer), status("web")}, InitContainerStatuses: []corev1.ContainerStatus{status("linkerd-init")}},
	}
	for _, kind := range []corev1.PodConditionType{"Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: "True", LastTransitionTime: now})
	}
	return p
}

// podPage is an answer of the API server.
func podPage(t testing.TB, next string, pods ...corev1.Pod) []byte {
	t.Helper()
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: next}, Items: pods}
	text, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), list)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func BenchmarkCensus(b *testing.B) {
	bundle := backendtest.NewAnchors(b, pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}).Bundle(b)
	var pods []corev1.Pod
	for i := range podsPerPage {
		pods = append(pods, injectedPod(i, bundle.PEM()))
	}
	page := podPage(b, "", pods...)
	c := &Cluster{cfg: Config{Namespace: "linkerd"}}
	n := c.newCensus()
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	for b.Loop() {
		if _, err := readPods(bytes.NewReader(page), n.add); err != nil {
			b.Fatal(err)
		}
	}
	goruntime.ReadMemStats(&after)
	if got := n.proxies(); len(got.Sets) != 1 || got.Unread != 0 || got.Sets[0].Owners[0].Name != "web" {
		b.Fatalf("%+v", got)
	}
	all := float64(b.N * podsPerPage)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/all, "ns/pod")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/all, "B/pod")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/all, "allocs/pod")
	b.ReportMetric(float64(len(page))/podsPerPage, "wire-B/pod")
}

// Every answer that breaks off before its list ends is an error: pods that are
// missing would pass for pods that trust the right anchors.
func TestPodsThatBreakOff(t *testing.T) {
	whole := podPage(t, "next", injectedPod(1, nil), injectedPod(2, nil))
	ignore := func(*corev1.Pod) error { return nil }
	if next, err := readPods(bytes.NewReader(whole), ignore); next != "next" || err != nil {
		t.Fatalf("next page %q, %v", next, err)
	}
	end := len(whole) - len("\x1a\x00\x22\x00") // the envelope's last fields tell of the encoding
	for n := range end {
		if next, err := readPods(bytes.NewReader(whole[:n]), ignore); err == nil {
			t.Fatalf("the first %d bytes of %d are read as a list, next page %q", n, len(whole), next)
		}
	}
}

// A field whose number is none might be a list of pods to others, and would be passed
// over here.
func TestPodsInAFieldThatIsNone(t *testing.T) {
	list := podPage(t, "", injectedPod(1, nil))
	ignore := func(*corev1.Pod) error { return nil }
	for _, number := range []uint64{0, 1 << 29, 1<<32 | listItem, 1<<61 - 1} {
		field := append(binary.AppendUvarint(nil, number<<3|2), 1, 'x')
		if _, err := readPods(bytes.NewReader(slices.Concat(list, field)), ignore); err == nil || !strings.Contains(err.Error(), fmt.Sprint(number)) {
			t.Errorf("a field of number %d: %v", number, err)
		}
	}
}

func FuzzReadPods(f *testing.F) {
	f.Add(podPage(f, "next", *meshed("ns", "web", told("x"))))
	f.Add(podPage(f, ""))
	f.Add([]byte(envelopeMagic + "\x0a\x0d\x0a\x02v1\x12\x07PodList\x12\x04\x02\x00\x0a\x00"))
	f.Add(append(podPage(f, "next", *meshed("ns", "web", told("x"))), "\x12\x00"...))
	f.Add([]byte(envelopeMagic + "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var names []string
		next, err := readPods(bytes.NewReader(text), func(p *corev1.Pod) error { names = append(names, p.Name); return nil })
		if err != nil {
			return
		}
		var envelope runtime.Unknown
		var list corev1.PodList
		if err := envelope.Unmarshal(text[len(envelopeMagic):]); err != nil {
			t.Fatalf("read, but it is no envelope: %v", err)
		}
		if bytes.Count(text, envelope.Raw) == 0 || list.Unmarshal(envelope.Raw) != nil {
			t.Fatal("read, but it is no list")
		}
		if len(list.Items) != len(names) || next != list.Continue {
			t.Errorf("%d pods, next %q; upstream has %d, %q", len(names), next, len(list.Items), list.Continue)
		}
	})
}
