package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// settleLimit is how long the lab may take to bring three pods up.
const settleLimit = time.Minute

// replicaSet is one of three meshed pods that trust old; those that are made later
// trust both.
type replicaSet struct {
	*hooks
	in, name  string
	old, both pki.Bundle
	unwell    []string
}

func newReplicaSet(t testing.TB, h *hooks, change func(*appsv1.ReplicaSet)) *replicaSet {
	t.Helper()
	both, old, _ := twoSets(t, h.ns)
	r := &replicaSet{hooks: h, in: h.ns + "-apps", name: "app-0", old: old, both: both}
	for _, ns := range []string{h.ns, r.in} {
		h.namespace(t, ns)
	}
	h.account(t, r.in)
	three, labels := int32(3), map[string]string{"app": r.name, meshedLabel: h.ns}
	pod := meshed("", "", told(string(old.PEM())))
	pod.Spec.NodeName = ""
	// A successor is not there before a test can ask.
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"lab/ready-delay": "2s"}}, Spec: pod.Spec}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: r.name}, Spec: appsv1.ReplicaSetSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": r.name}}, Template: template}}
	if change != nil {
		change(rs)
	}
	if _, err := h.admin.AppsV1().ReplicaSets(r.in).Create(t.Context(), rs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.settle(t)
	r.edit(t, func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Spec.Containers[1] = told(string(both.PEM())) })
	return r
}

func (r *replicaSet) edit(t testing.TB, change func(*appsv1.ReplicaSet)) {
	t.Helper()
	api := r.admin.AppsV1().ReplicaSets(r.in)
	for {
		rs, err := api.Get(t.Context(), r.name, metav1.GetOptions{})
		if err == nil {
			change(rs)
			_, err = api.Update(t.Context(), rs, metav1.UpdateOptions{})
		}
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

func (r *replicaSet) list(t testing.TB) []corev1.Pod {
	t.Helper()
	list, err := r.admin.CoreV1().Pods(r.in).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + r.name})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (r *replicaSet) settle(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(50 * time.Millisecond) {
		up := 0
		pods := r.list(t)
		for i := range pods {
			if _, ready := readySince(&pods[i]); ready && pods[i].DeletionTimestamp == nil {
				up++
			}
		}
		if up == 3 && len(pods) == 3 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d pods %d are available", len(pods), up)
		}
	}
}

// pods says of each pod that is not being deleted whether it trusts both.
func (r *replicaSet) pods(t testing.TB) map[string]bool {
	all := map[string]bool{}
	for _, p := range r.list(t) {
		if p.DeletionTimestamp == nil {
			all[p.Name] = anchorsOf(proxyOf(&p)).Value == string(r.both.PEM())
		}
	}
	return all
}

func (r *replicaSet) makeUnwell(t testing.TB) {
	t.Helper()
	api := r.admin.CoreV1().Pods(r.in)
	for _, name := range slices.Sorted(maps.Keys(r.pods(t))) {
		if r.pods(t)[name] || slices.Contains(r.unwell, name) {
			continue
		}
		r.unwell = append(r.unwell, name)
		if _, err := api.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"lab/never-ready":"true"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := api.Patch(t.Context(), name, types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no pod trusts what it did")
}

// budget makes or changes a PodDisruptionBudget, with the status that a controller
// would give it: the lab has none.
func (r *replicaSet) budget(t testing.TB, name string, healthy int) {
	t.Helper()
	api := r.admin.PolicyV1().PodDisruptionBudgets(r.in)
	least := intstr.FromInt32(int32(healthy))
	spec := policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": r.name}}}
	b, err := api.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		if b, err = api.Get(t.Context(), name, metav1.GetOptions{}); err == nil {
			b.Spec = spec
			b, err = api.Update(t.Context(), b, metav1.UpdateOptions{})
		}
	}
	if err == nil {
		b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, CurrentHealthy: 3, ExpectedPods: 3, DesiredHealthy: int32(healthy), DisruptionsAllowed: int32(3 - healthy)}
		_, err = api.UpdateStatus(t.Context(), b, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *replicaSet) hands() backendtest.EvictHands {
	return backendtest.EvictHands{Namespace: r.in, Old: r.old, New: r.both, Unwell: r.makeUnwell, Settle: r.settle, Pods: r.pods,
		Label: func(t testing.TB) {
			r.edit(t, func(rs *appsv1.ReplicaSet) {
				metav1.SetMetaDataLabel(&rs.ObjectMeta, rotation.RestartLabel, rotation.RestartNever)
			})
		},
		Budget: func(t testing.TB, healthy int) { r.budget(t, r.name, healthy) }}
}

func TestEvictions(t *testing.T) {
	backendtest.TestEvictions(t, func(t *testing.T, test func(t *testing.T)) { test(t) }, func(t *testing.T) (rotation.Cluster, backendtest.EvictHands) {
		r := newReplicaSet(t, newHooks(t), nil)
		c, err := New(Config{Cluster: r.l.Name, Namespace: r.ns, TrustDomain: "cluster.local", Access: Access{File: r.l.Kubeconfig}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c.podPage = 2
		return c, r.hands()
	})
}

// Those of a ReplicationController are evicted, too, but for other meshes'; two budgets
// over one pod stand against everything.
func TestEvictWhoseTheyAre(t *testing.T) {
	h := newHooks(t)
	r := newReplicaSet(t, h, nil)
	c := h.open(t)
	e := rotation.Eviction{Since: time.Now().Add(time.Minute), Wanted: r.both, Whole: true}
	ctx, core := t.Context(), h.admin.CoreV1()
	one := int32(1)
	rc, err := core.ReplicationControllers(r.in).Create(ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Spec: corev1.ReplicationControllerSpec{Replicas: &one, Selector: map[string]string{"rc": "old"},
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"rc": "old"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made := func(name, mesh string) {
		p := meshed(r.in, name, told(string(r.old.PEM())))
		p.Labels = map[string]string{"rc": "old", meshedLabel: mesh}
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rc, corev1.SchemeGroupVersion.WithKind("ReplicationController"))}
		h.run(t, p, corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}})
	}
	made("others", "linkerd-of-others")
	rcRef := rotation.ObjectRef{Kind: "ReplicationController", Name: "old"}
	if pods, err := c.Evict(ctx, r.in, rcRef, e); err != nil || len(pods) > 0 {
		t.Errorf("of another mesh: evicted %v, %v", pods, err)
	}
	made("ours", h.ns)
	if pods, err := c.Evict(ctx, r.in, rcRef, e); err != nil || len(pods) != 1 || pods[0] != "ours" {
		t.Errorf("of a ReplicationController: evicted %v, %v", pods, err)
	}

	r.budget(t, "one", 0)
	r.budget(t, "two", 0)
	if pods, err := c.Evict(ctx, r.in, rotation.ObjectRef{Kind: "ReplicaSet", Name: r.name}, e); !errors.Is(err, rotation.ErrDenied) || len(pods) > 0 || !strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
		t.Errorf("with two budgets: evicted %v, %v", pods, err)
	}
	if pods := r.pods(t); len(pods) != 3 || slices.Contains(slices.Collect(maps.Values(pods)), true) {
		t.Errorf("pods %v", pods)
	}
}

// Evicting takes rights of its own; each that is missing is named.
func TestRightToEvict(t *testing.T) {
	h := newHooks(t)
	h.namespace(t, elsewhere("certd", h.ns))
	r := newReplicaSet(t, h, nil)
	e := rotation.Eviction{Since: time.Now().Add(time.Minute), Wanted: r.both, Whole: true}
	_, rc, admin := lab(t)
	files := []string{"certd.yaml", "certd-proxies.yaml", "certd-restart-workloads.yaml"}
	for i, row := range []struct {
		missing    grant
		kind, hint string
	}{
		{grant{"get", "replicasets", ""}, "ReplicaSet", "certd-restart-workloads.yaml"},
		{grant{"get", "replicationcontrollers", ""}, "ReplicationController", "certd-restart-workloads.yaml"},
		{grant{"list", "pods", ""}, "ReplicaSet", "certd-proxies.yaml"},
		{grant{"create", "pods/eviction", ""}, "ReplicaSet", "certd-restart-workloads.yaml"},
		{kind: "ReplicaSet"},
	} {
		t.Run("all but "+row.missing.String(), func(t *testing.T) {
			var granted []*manifest
			found := row.missing == grant{}
			for _, file := range files {
				m := readManifest(t, file, h.ns)
				if slices.Contains(m.grants(), row.missing) && file == row.hint {
					found = true
					m.without(row.missing)
				}
				granted = append(granted, m)
			}
			if !found {
				t.Fatalf("no file grants it")
			}
			c, err := New(Config{Cluster: "c", Namespace: h.ns, TrustDomain: "cluster.local", Access: grantTo(t, fmt.Sprintf("evict-%d-%s", i, h.ns), admin, rc, granted...)}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want := fmt.Sprintf("the verb %q on %q is missing; grant it: kubectl apply -f deploy/rbac/%s", row.missing.verb, row.missing.resource, row.hint)
			var pods []string
			said := false
			takingEffect(func() bool {
				pods, err = c.Evict(t.Context(), r.in, rotation.ObjectRef{Kind: row.kind, Name: r.name}, e)
				said = row.missing == (grant{}) && err == nil && len(pods) == 1 || row.missing != (grant{}) && errors.Is(err, rotation.ErrDenied) && strings.Contains(err.Error(), want)
				return said
			})
			if !said {
				t.Errorf("evicted %v, %v; want it to say %s", pods, err, want)
			}
		})
	}
}

// fakeOwner is a ReplicaSet of one pod, as a server tells it.
func fakeOwner(w http.ResponseWriter, owners string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"name":"web-5d9","namespace":"team","uid":"u","ownerReferences":[%s]},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}}}}`, owners)
}

// What belongs to something else is left to that, which is named.
func TestEvictOfSomethingElse(t *testing.T) {
	for _, row := range []struct{ kind, name, says string }{
		{"Deployment", "web", "kubectl -n team rollout restart deployment/web"},
		{"CloneSet", "web", "it belongs to CloneSet web"},
	} {
		c := fakeServer(t, time.Minute, func(w http.ResponseWriter, req *http.Request) {
			if !strings.Contains(req.URL.Path, "/replicasets/web-5d9") {
				t.Errorf("asked for %s", req.URL)
			}
			fakeOwner(w, fmt.Sprintf(`{"apiVersion":"x/v1","kind":%q,"name":%q,"uid":"o","controller":true}`, row.kind, row.name))
		})
		pods, err := c.Evict(t.Context(), "team", rotation.ObjectRef{Kind: "ReplicaSet", Name: "web-5d9"}, rotation.Eviction{Since: time.Now()})
		if !errors.Is(err, rotation.ErrDenied) || len(pods) > 0 || !strings.Contains(err.Error(), row.says) {
			t.Errorf("evicted %v, %v; want it to say %q", pods, err, row.says)
		}
	}
}

// A server that keeps saying no is asked once.
func TestEvictIsAskedOnce(t *testing.T) {
	both, old, _ := twoSets(t, "linkerd")
	asked := 0
	c := fakeServer(t, time.Minute, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.Contains(req.URL.Path, "/replicasets/"):
			fakeOwner(w, "")
		case strings.HasSuffix(req.URL.Path, "/eviction"):
			asked++
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "10")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","message":"Cannot evict pod as it would violate the pod's disruption budget.","details":{"causes":[{"reason":"DisruptionBudget","message":"The disruption budget web is still being processed by the server."}],"retryAfterSeconds":10},"code":429}`)
		default:
			p := *meshed("team", "web-1", told(string(old.PEM())))
			yes := true
			p.Labels = map[string]string{meshedLabel: "linkerd"}
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-5d9", UID: "u", Controller: &yes}}
			page(t, "", p)(w, req)
		}
	})
	pods, err := c.Evict(t.Context(), "team", rotation.ObjectRef{Kind: "ReplicaSet", Name: "web-5d9"}, rotation.Eviction{Since: time.Now(), Wanted: both, Whole: true})
	if !errors.Is(err, rotation.ErrNotNow) || len(pods) > 0 || !strings.Contains(err.Error(), "budget web is still being processed") {
		t.Errorf("evicted %v, %v", pods, err)
	}
	if asked != 1 {
		t.Errorf("it was asked %d times", asked)
	}
}
