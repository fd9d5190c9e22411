package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// told is a proxy with these anchors in its environment.
func told(anchors string) corev1.Container {
	return corev1.Container{Name: proxyContainer, Image: "x", Env: []corev1.EnvVar{{Name: "OTHER", Value: "x"}, {Name: anchorsEnv, Value: anchors}}}
}

// refers is one that gets them from somewhere else when it starts.
func refers(from *corev1.EnvVarSource) corev1.Container {
	c := told("")
	c.Env[1].ValueFrom = from
	return c
}

func fromConfigMap(name, key string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}
}

// meshed is a pod beside whose program runs proxy.
func meshed(namespace, name string, proxy corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{"lab/never-ready": "true"}},
		Spec: corev1.PodSpec{NodeName: "nowhere", Containers: []corev1.Container{{Name: "app", Image: "x"}, proxy}}}
}

// asSidecar makes the proxy a native sidecar.
func asSidecar(p *corev1.Pod) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers[1:], p.Spec.Containers[:1:1]
	p.Spec.InitContainers[0].RestartPolicy = &always
	return p
}

// run makes the pod, as one of this control plane, with a status.
func (h *hooks) run(t testing.TB, p *corev1.Pod, status corev1.PodStatus) {
	t.Helper()
	metav1.SetMetaDataLabel(&p.ObjectMeta, meshedLabel, cmp.Or(p.Labels[meshedLabel], h.ns))
	pods := h.admin.CoreV1().Pods(p.Namespace)
	_, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
	for range 50 {
		if err != nil && !apierrors.IsConflict(err) {
			break
		}
		var made *corev1.Pod
		if made, err = pods.Get(t.Context(), p.Name, metav1.GetOptions{}); err == nil {
			made.Status = status
			if _, err = pods.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err == nil {
				return
			}
		}
	}
	t.Fatalf("run pod %s: %v", p.Name, err)
}

// proxySince is the status of a pod whose proxy has run since.
func proxySince(at time.Time) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		{Name: proxyContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)}}}}}
}

func inPhase(phase corev1.PodPhase) corev1.PodStatus { return corev1.PodStatus{Phase: phase} }

// summary is a census in words, anchors by the names given.
func summary(p rotation.Proxies, names map[string]string) string {
	var s strings.Builder
	for _, set := range p.Sets {
		fmt.Fprintf(&s, "%s: %d pods\n", cmp.Or(names[set.Anchors.SHA256()], "?"), set.Pods)
		for _, o := range set.Owners {
			fmt.Fprintf(&s, "  %s %s/%s %d\n", o.Kind, o.Namespace, o.Name, o.Pods)
		}
		if set.Others > 0 {
			fmt.Fprintf(&s, "  others %d\n", set.Others)
		}
	}
	if p.Unread > 0 {
		fmt.Fprintf(&s, "unread: %d\n", p.Unread)
	}
	for _, o := range p.Earlier {
		fmt.Fprintf(&s, "earlier: %s %s/%s %d\n", o.Kind, o.Namespace, o.Name, o.Pods)
	}
	if p.Err != nil {
		fmt.Fprintf(&s, "error\n")
	}
	return s.String()
}

// twoSets are two sets of anchors, and the words for them.
func twoSets(t testing.TB, ns string) (both, old pki.Bundle, names map[string]string) {
	t.Helper()
	anchors := backendtest.NewAnchors(t, pki.Identity{Namespace: ns, TrustDomain: "cluster.local"})
	old = anchors.Bundle(t)
	both, err := pki.NewBundle(append(old.Anchors(), anchors.Second(t).Bundle(t).Anchors()...)...)
	if err != nil || len(both.Anchors()) != 2 {
		t.Fatalf("%d anchors, %v", len(both.Anchors()), err)
	}
	return both, old, map[string]string{both.SHA256(): "both", old.SHA256(): "old"}
}

// backwards is the bundle with its blocks in another order, and with the blanks
// around it that ConfigMaps come with.
func backwards(b pki.Bundle) string {
	anchors := b.Anchors()
	slices.Reverse(anchors)
	return "\n  " + string(pki.EncodeCertificates(anchors...)) + "\n\n"
}

// Every kind of pod is counted once, under its anchors, by what makes it.
func TestCountProxies(t *testing.T) {
	h := newHooks(t)
	apps := h.ns + "-apps"
	both, old, names := twoSets(t, h.ns)
	for _, ns := range []string{h.ns, apps} {
		h.namespace(t, ns)
		h.account(t, ns)
	}
	ctx, admin := t.Context(), h.admin
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	template := func(app string, p *corev1.Pod) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
		p.Spec.NodeName = ""
		labels := map[string]string{"app": app, meshedLabel: h.ns}
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec}
	}
	three, two := int32(3), int32(2)
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &three}}
	web.Spec.Selector, web.Spec.Template = template("web", meshed("", "", told(string(both.PEM()))))
	db := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &two, ServiceName: "db", PodManagementPolicy: appsv1.ParallelPodManagement}}
	db.Spec.Selector, db.Spec.Template = template("db", meshed("", "", told(backwards(both))))
	agent := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}
	agent.Spec.Selector, agent.Spec.Template = template("agent", asSidecar(meshed("", "", told(strings.TrimSpace(string(old.PEM()))))))
	_, err := admin.AppsV1().Deployments(apps).Create(ctx, web, metav1.CreateOptions{})
	must(err)
	_, err = admin.AppsV1().StatefulSets(apps).Create(ctx, db, metav1.CreateOptions{})
	must(err)
	_, err = admin.AppsV1().DaemonSets(apps).Create(ctx, agent, metav1.CreateOptions{})
	must(err)

	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "nightly-29"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: "Never", Containers: []corev1.Container{{Name: "x", Image: "x"}}}}}}
	job, err = admin.BatchV1().Jobs(apps).Create(ctx, job, metav1.CreateOptions{})
	must(err)
	once := asSidecar(meshed(apps, "nightly-29-abcde", told(string(old.PEM()))))
	once.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	h.run(t, once, inPhase(corev1.PodPending))

	h.run(t, meshed(apps, "bare", told(string(both.PEM()))), inPhase(corev1.PodRunning))
	leaving := meshed(apps, "leaving", told(string(both.PEM())))
	leaving.Finalizers = []string{"certd.test/hold"}
	h.run(t, leaving, inPhase(corev1.PodRunning))
	must(admin.CoreV1().Pods(apps).Delete(ctx, "leaving", metav1.DeleteOptions{}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = admin.CoreV1().Pods(apps).Patch(ctx, "leaving", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})

	// Not counted.
	h.run(t, meshed(apps, "done", told(string(old.PEM()))), inPhase(corev1.PodSucceeded))
	h.run(t, meshed(apps, "failed", told(string(old.PEM()))), inPhase(corev1.PodFailed))
	h.run(t, meshed(apps, "no-proxy", corev1.Container{Name: "other", Image: "x", Env: told(string(old.PEM())).Env}), inPhase(corev1.PodRunning))
	other := meshed(apps, "other-mesh", told(string(old.PEM())))
	other.Labels = map[string]string{meshedLabel: "linkerd-of-others"}
	h.run(t, other, inPhase(corev1.PodRunning))

	// Not made out.
	h.run(t, meshed(apps, "odd-damaged", told(strings.Replace(string(old.PEM()), "M", "\x1b[31m", 1))), inPhase(corev1.PodRunning))
	h.run(t, meshed(apps, "odd-empty", told(" \n")), inPhase(corev1.PodRunning))
	h.run(t, meshed(apps, "odd-large", told(strings.Repeat("x", maxAnchorsText+1))), inPhase(corev1.PodRunning))
	h.run(t, meshed(apps, "odd-without", corev1.Container{Name: proxyContainer, Image: "x"}), inPhase(corev1.PodRunning))
	h.run(t, meshed(apps, "odd-secret", refers(&corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}})), inPhase(corev1.PodRunning))
	h.run(t, meshed(apps, "odd-configmap", refers(fromConfigMap(rotation.BundleObject, payload.BundleKey))), inPhase(corev1.PodRunning))

	c := h.open(t)
	c.podPage = 3
	nodes := 0
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		pods, err := admin.CoreV1().Pods(apps).List(ctx, metav1.ListOptions{LabelSelector: "app in (web,db,agent)"})
		must(err)
		d, err := admin.AppsV1().DaemonSets(apps).Get(ctx, "agent", metav1.GetOptions{})
		must(err)
		if nodes = int(d.Status.CurrentNumberScheduled); nodes > 0 && len(pods.Items) == 5+nodes {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lab made %d pods, for %d nodes", len(pods.Items), nodes)
		}
	}
	begun := time.Now()
	got := c.CountProxies(ctx)
	wantOld := fmt.Sprintf("old: %d pods\n  DaemonSet %[2]s/agent %d\n  Job %[2]s/nightly-29 1\n", nodes+1, apps, nodes)
	wantBoth := fmt.Sprintf("both: 7 pods\n  Deployment %[1]s/web 3\n  StatefulSet %[1]s/db 2\n  Pod %[1]s/bare 1\n  Pod %[1]s/leaving 1\n", apps)
	want := wantBoth + wantOld
	if nodes+1 > 7 {
		want = wantOld + wantBoth
	}
	if want += "unread: 6\n"; summary(got, names) != want {
		t.Errorf("census:\n%s%v\nwant:\n%s", summary(got, names), got.Err, want)
	}
	if got.Err != nil || got.At.Before(begun) || got.At.After(time.Now()) || got.Total() != 7+nodes+1+6 {
		t.Errorf("%v, at %s, %d in all", got.Err, got.At, got.Total())
	}
	if len(got.Odd) != maxOdd {
		t.Errorf("names %q; want %d of them", got.Odd, maxOdd)
	}
	for i, row := range []struct{ pod, why string }{
		{"odd-configmap", "of ConfigMap"}, {"odd-damaged", "read trust bundle"}, {"odd-empty", "are empty"}, {"odd-large", "more than 65536"}, {"odd-secret", "elsewhere than a ConfigMap"},
	} {
		if i < len(got.Odd) && (!strings.HasPrefix(got.Odd[i], apps+"/"+row.pod+": ") || !strings.Contains(got.Odd[i], row.why) || strings.Contains(got.Odd[i], "\x1b")) {
			t.Errorf("says %q; want it to name %s and %q", got.Odd[i], row.pod, row.why)
		}
	}
}

// Of owners whose pods are replaced one by one it is noted which of these are not ready
// or being deleted; of others not.
func TestCountProxiesNotesWhoIsNotReady(t *testing.T) {
	_, old, _ := twoSets(t, "linkerd")
	n := (&Cluster{cfg: Config{Namespace: "linkerd"}}).newCensus()
	yes, now := true, metav1.Now()
	for i, row := range []struct {
		kind    string
		ready   corev1.ConditionStatus
		leaving bool
	}{
		{"ReplicaSet", "True", false}, {"ReplicaSet", "False", false}, {"ReplicaSet", "", false}, {"ReplicaSet", "True", true}, {"ReplicaSet", "False", true},
		{"ReplicationController", "False", false}, {"StatefulSet", "False", false}, {"StatefulSet", "False", true},
	} {
		p := meshed("team", fmt.Sprint("p-", i), told(string(old.PEM())))
		p.OwnerReferences = []metav1.OwnerReference{{Kind: row.kind, Name: "x", Controller: &yes}}
		if row.ready != "" {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: row.ready}}
		}
		if row.leaving {
			p.DeletionTimestamp = &now
		}
		if err := n.add(p); err != nil {
			t.Fatal(err)
		}
	}
	want := []rotation.ProxyOwner{{Namespace: "team", Kind: "ReplicaSet", Name: "x", Pods: 5, Unready: 2, Leaving: 2}, {Namespace: "team", Kind: "StatefulSet", Name: "x", Pods: 2}, {Namespace: "team", Kind: "ReplicationController", Name: "x", Pods: 1, Unready: 1}}
	if got := n.proxies(); len(got.Sets) != 1 || !slices.Equal(got.Sets[0].Owners, want) {
		t.Errorf("%+v", got)
	}
}

// What a pod of the control plane read out of the ConfigMap is known where the
// ConfigMap has not changed since.
func TestCountProxiesOfTheControlPlane(t *testing.T) {
	h := newHooks(t)
	both, old, names := twoSets(t, h.ns)
	h.namespace(t, h.ns)
	h.account(t, h.ns)
	c := h.open(t)
	control := func(name string) *corev1.Pod {
		return meshed(h.ns, name, refers(fromConfigMap(rotation.BundleObject, payload.BundleKey)))
	}
	now := time.Now()
	h.run(t, control("before"), proxySince(now))
	h.run(t, control("waits"), inPhase(corev1.PodPending))
	h.run(t, meshed(h.ns, "other-key", refers(fromConfigMap(rotation.BundleObject, "other"))), proxySince(now))
	check := func(want string, says ...string) {
		t.Helper()
		got := c.CountProxies(t.Context())
		if summary(got, names) != want || got.Err != nil {
			t.Errorf("census:\n%s%v\nwant:\n%s", summary(got, names), got.Err, want)
		}
		for _, says := range says {
			if !slices.ContainsFunc(got.Odd, func(odd string) bool { return strings.Contains(odd, says) }) {
				t.Errorf("%q do not say %q", got.Odd, says)
			}
		}
	}
	check("unread: 3\n", "before: started "+now.UTC().Format(time.RFC3339)+" from ConfigMap", "which cannot be read: get configmaps linkerd-identity-trust-roots", "waits: its container linkerd-proxy does not run", `key "other"`)
	// An object that is made empty has no managedFields, nor gets any later.
	h.configMap(t, func(m *corev1.ConfigMap) { m.Data = map[string]string{payload.BundleKey: backwards(both)} })
	check("unread: 3\n", "which does not tell when it was changed")
	h.delete(t, rotation.BundleObject)
	cm, err := h.admin.CoreV1().ConfigMaps(h.ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rotation.BundleObject},
		Data: map[string]string{payload.BundleKey: backwards(both)}}, metav1.CreateOptions{FieldManager: rival})
	if err != nil {
		t.Fatal(err)
	}
	earlier := func(names ...string) (text string) {
		for _, name := range names {
			text += "earlier: Pod " + h.ns + "/" + name + " 1\n"
		}
		return text
	}
	check("unread: 3\n"+earlier("before"), "which was changed "+now.UTC().Format("2006-01-02T"))
	changed := cm.ManagedFields[0].Time.Time
	h.run(t, control("edge"), proxySince(changed.Add(propagation)))
	status := proxySince(changed.Add(propagation + time.Second))
	status.InitContainerStatuses, status.ContainerStatuses = status.ContainerStatuses[1:], status.ContainerStatuses[:1]
	h.run(t, asSidecar(control("after")), status)
	check("both: 1 pods\n  Pod " + h.ns + "/after 1\nunread: 4\n" + earlier("before", "edge"))

	// It holds something else now, so what that pod read is not known any more.
	time.Sleep(2 * time.Second) // managedFields have whole seconds
	h.configMap(t, func(m *corev1.ConfigMap) { m.Data = map[string]string{payload.BundleKey: string(old.PEM())} })
	h.run(t, control("later"), proxySince(now.Add(time.Hour)))
	check("old: 1 pods\n  Pod " + h.ns + "/later 1\nunread: 5\n" + earlier("after", "before", "edge"))
}

// Proxies are counted by their version: what the image says, else what the injector wrote;
// what is no version is none, and there is a bound to how many there are.
func TestCountProxiesByVersion(t *testing.T) {
	_, old, _ := twoSets(t, "linkerd")
	n := (&Cluster{cfg: Config{Namespace: "linkerd"}}).newCensus()
	add := func(name, image, annotation string) {
		t.Helper()
		p := meshed("team", name, told(string(old.PEM())))
		p.Spec.Containers[1].Image = image
		if annotation != "" {
			p.Annotations = map[string]string{versionAnnotation: annotation}
		}
		if err := n.add(p); err != nil {
			t.Fatal(err)
		}
	}
	add("a", "cr.l5d.io/linkerd/proxy:stable-2.13.6", "")
	add("b", "registry:5000/linkerd/proxy:stable-2.13.6@sha256:00", "stable-2.14.1")
	add("c", "registry:5000/linkerd/proxy", "stable-2.14.1")
	add("d", "registry/proxy:ours", "stable-2.14.1")
	add("e", "registry/proxy:ours", "")
	add("f", "registry/proxy@sha256:00", "red\x1b[31m")
	add("g", "registry/proxy", "")
	add("h", "registry/proxy:"+strings.Repeat("9", 65), "")
	var got strings.Builder
	for _, v := range n.proxies().Versions {
		fmt.Fprintf(&got, "%q %d:", v.Version, v.Pods)
		for _, o := range v.Owners {
			fmt.Fprintf(&got, " %s", o.Name)
		}
		got.WriteString("\n")
	}
	if want := "\"\" 3: f g h\n\"stable-2.13.6\" 2: a b\n\"stable-2.14.1\" 2: c d\n\"ours\" 1: e\n"; got.String() != want {
		t.Errorf("versions\n%swant\n%s", got.String(), want)
	}
	for i := range maxVersions + 30 {
		add(fmt.Sprint("many-", i), fmt.Sprint("proxy:v", i), "")
	}
	versions, pods := n.proxies().Versions, 0
	for _, v := range versions {
		pods += v.Pods
		if len(v.Owners) > rotation.MaxVersionOwners {
			t.Errorf("%q: %d owners", v.Version, len(v.Owners))
		}
	}
	if len(versions) != maxVersions || pods != n.pods {
		t.Errorf("%d versions of %d pods; there are %d", len(versions), pods, n.pods)
	}
}

// Which CronJob has made a Job is asked once; where that is refused, the Job is named
// all the same, and no other is asked about.
func TestCountProxiesNamesCronJobs(t *testing.T) {
	_, old, _ := twoSets(t, "linkerd")
	var asked []string
	refuse := false
	pod := func(job string) corev1.Pod {
		p, yes := *meshed("team", job+"-x", told(string(old.PEM()))), true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: job, Controller: &yes}}
		return p
	}
	all := []corev1.Pod{pod("nightly-1"), pod("once")}
	c := fakeServer(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		job, isJob := strings.CutPrefix(r.URL.Path, "/apis/batch/v1/namespaces/team/jobs/")
		switch {
		case !isJob:
			pages(t, map[string]http.HandlerFunc{"": page(t, "", all...)})(w, r)
		case refuse:
			asked = append(asked, job)
			status(403, "Forbidden", `jobs.batch is forbidden: User "x" cannot get resource "jobs"`)(w, r)
		default:
			asked = append(asked, job)
			w.Header().Set("Content-Type", "application/json")
			owner := ""
			if job != "once" {
				owner = `{"apiVersion":"batch/v1","kind":"CronJob","name":"nightly","uid":"u","controller":true}`
			}
			fmt.Fprintf(w, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":%q,"namespace":"team","ownerReferences":[%s]}}`, job, owner)
		}
	})
	made := func() string {
		p := c.CountProxies(t.Context())
		if p.Err != nil || len(p.Sets) != 1 {
			t.Fatalf("%+v", p)
		}
		var s []string
		for _, o := range p.Sets[0].Owners {
			s = append(s, strings.TrimSpace(o.Name+" "+o.Of.Name))
		}
		return strings.Join(s, ", ")
	}
	for range 2 {
		if got := made(); got != "nightly-1 nightly, once" {
			t.Errorf("Jobs %s", got)
		}
	}
	if !slices.Equal(asked, []string{"nightly-1", "once"}) {
		t.Errorf("asked about %v", asked)
	}
	asked, refuse, all = nil, true, append(all, pod("nightly-2"), pod("nightly-3"))
	if got := made(); got != "nightly-1 nightly, nightly-2, nightly-3, once" || len(asked) != 1 {
		t.Errorf("Jobs %s; asked about %v", got, asked)
	}
}

// pages answers with the pages given, by the token that asks for each.
func pages(t testing.TB, answers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/apis/") { // whom it talks to outside: nobody
			status(404, "NotFound", "no such group")(w, r)
			return
		}
		if r.URL.Path != "/api/v1/pods" || r.URL.Query().Get("labelSelector") != "linkerd.io/control-plane-ns=linkerd" {
			t.Errorf("asked for %s", r.URL)
		}
		answers[r.URL.Query().Get("continue")](w, r)
	}
}

func page(t testing.TB, next string, pods ...corev1.Pod) http.HandlerFunc {
	text := podPage(t, next, pods...)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", podsType)
		_, _ = w.Write(text)
	}
}

// A census that does not come to its end says so and keeps what it has.
func TestCountProxiesIsCutShort(t *testing.T) {
	both, _, names := twoSets(t, "linkerd")
	pods := func(n int) (all []corev1.Pod) {
		for i := range n {
			p := injectedPod(i, both.PEM())
			p.Namespace = "team"
			all = append(all, p)
		}
		return all
	}
	counted := func(n int) string { return fmt.Sprintf("both: %d pods\n  Deployment team/web %[1]d\n", n) }
	gone := status(410, "Expired", "The provided continue parameter is too old")
	var asked atomic.Int32
	for _, row := range []struct {
		name   string
		second http.HandlerFunc // after a page of two pods
		want   string
		err    error
		says   string
	}{
		{"the list expires once", func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == 1 {
				gone(w, r)
				return
			}
			page(t, "", pods(3)...)(w, r)
		}, counted(5), nil, ""},
		{"it expires again", gone, counted(2) + "error\n", rotation.ErrUnavailable, "after 2 pods: list pods: the list expired"},
		{"the right is taken away", status(403, "Forbidden", `User "x" cannot list resource "pods"`), counted(2) + "error\n", rotation.ErrDenied, `the verb "list" on "pods" is missing; grant it: kubectl apply -f deploy/rbac/certd-proxies.yaml`},
		{"an error in the server", status(500, "InternalError", "etcdserver: leader changed"), counted(2) + "error\n", rotation.ErrUnavailable, "leader changed"},
		{"an answer that is no list", status(200, "", ""), counted(2) + "error\n", rotation.ErrUnavailable, "not of type"},
		{"one that breaks off", func(w http.ResponseWriter, r *http.Request) {
			text := podPage(t, "", pods(2)...)
			_, _ = w.Write(text[:len(text)-1000])
		}, counted(3) + "error\n", rotation.ErrUnavailable, "unexpected EOF"},
		{"a pod too large to be one", func(w http.ResponseWriter, r *http.Request) {
			p := pods(2)
			p[1].Spec.Containers[0].Image = strings.Repeat("x", maxAnswer)
			page(t, "", p...)(w, r)
		}, counted(3) + "error\n", rotation.ErrUnavailable, "larger than 2 MiB"},
		{"a page larger than other answers may be", func(w http.ResponseWriter, r *http.Request) {
			p := pods(3)
			for i := range p {
				p[i].Spec.Containers[0].Image = strings.Repeat("x", maxAnswer-1<<20)
			}
			page(t, "", p...)(w, r)
		}, counted(5), nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := fakeServer(t, time.Second, pages(t, map[string]http.HandlerFunc{"": page(t, "two", pods(2)...), "two": row.second}))
			got := c.CountProxies(t.Context())
			if summary(got, names) != row.want {
				t.Errorf("census:\n%s%v\nwant:\n%s", summary(got, names), got.Err, row.want)
			}
			if !errors.Is(got.Err, row.err) || got.Err != nil && !strings.Contains(got.Err.Error(), row.says) {
				t.Errorf("error %v; want %v that says %q", got.Err, row.err, row.says)
			}
		})
	}

	t.Run("its context ends", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		c := fakeServer(t, time.Second, pages(t, map[string]http.HandlerFunc{"": page(t, "two", pods(2)...), "two": func(w http.ResponseWriter, r *http.Request) { stop(); hang(w, r) }}))
		got := c.CountProxies(ctx)
		if summary(got, names) != counted(2)+"error\n" || !errors.Is(got.Err, context.Canceled) {
			t.Errorf("census:\n%s%v", summary(got, names), got.Err)
		}
	})
}

// How much is kept does not depend on how much there is.
func TestCensusIsBounded(t *testing.T) {
	both, _, names := twoSets(t, "linkerd")
	n := (&Cluster{cfg: Config{Namespace: "linkerd"}}).newCensus()
	add := func(namespace, owner string, anchors string) {
		t.Helper()
		p := meshed(namespace, "p", told(anchors))
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "Group", Name: "ignored"}, {Kind: "Group", Name: owner, Controller: &yes}}
		if err := n.add(p); err != nil {
			t.Fatal(err)
		}
	}
	for i := range rotation.MaxOwners + 10 {
		add("b", fmt.Sprintf("g%02d", i), string(both.PEM()))
	}
	add("b", "g03", string(both.PEM()))
	add("a", "g01", string(both.PEM()))
	for i := range 2 * maxTexts {
		add("junk", "x", fmt.Sprint("junk ", i))
	}
	add("b", "g03", backwards(both)) // a text too many
	got := n.proxies()
	if got.Unread != 2*maxTexts+1 || len(got.Odd) != maxOdd || len(n.texts) != maxTexts {
		t.Errorf("%d unread, %d named, %d texts kept", got.Unread, len(got.Odd), len(n.texts))
	}
	if len(got.Sets) != 1 || len(got.Sets[0].Owners) != rotation.MaxOwners || got.Sets[0].Others != 11 || got.Sets[0].Pods != rotation.MaxOwners+12 {
		t.Fatalf("census:\n%s", summary(got, names))
	}
	for i, want := range []string{"b/g03 2", "a/g01 1", "b/g00 1"} {
		if o := got.Sets[0].Owners[i]; fmt.Sprintf("%s/%s %d", o.Namespace, o.Name, o.Pods) != want || o.Kind != "Group" {
			t.Errorf("owner %d is %+v; want %s", i, o, want)
		}
	}
}

func TestProxyOwner(t *testing.T) {
	for _, row := range []struct {
		kind, name string
		labels     map[string]string
		want       string
	}{
		{"ReplicaSet", "web-5d9", map[string]string{"pod-template-hash": "5d9"}, "Deployment web"},
		{"ReplicaSet", "web-5d9", map[string]string{"rollouts-pod-template-hash": "5d9"}, "Rollout web"},
		{"ReplicaSet", "web-5d9", nil, "ReplicaSet web-5d9"},
		{"ReplicaSet", "-5d9", map[string]string{"pod-template-hash": "5d9"}, "ReplicaSet -5d9"},
		{"StatefulSet", "db", nil, "StatefulSet db"},
		{"Job", "nightly-29", nil, "Job nightly-29"},
		{"CloneSet", "x", nil, "CloneSet x"},
		{"CloneSet", "red\x1b[31m", nil, "Pod p"},
		{"StatefulSet", "db;reboot", nil, "Pod p"},
		{"CloneSet", strings.Repeat("x", 300), nil, "Pod p"},
		{"", "", nil, "Pod p"},
	} {
		p := meshed("ns", "p", told(""))
		yes := true
		p.Labels, p.OwnerReferences = row.labels, []metav1.OwnerReference{{Kind: row.kind, Name: row.name, Controller: &yes}}
		if o := proxyOwner(p); o.Kind+" "+o.Name != row.want || o.Namespace != "ns" {
			t.Errorf("%s %.20q with %v: %+v; want %s", row.kind, row.name, row.labels, o, row.want)
		}
	}
}

// Texts that hold one set are told apart, as `linkerd check` tells them; white space
// around them is nothing to it, nor is the control plane.
func TestCensusKeepsTexts(t *testing.T) {
	both, _, _ := twoSets(t, "linkerd")
	n := (&Cluster{cfg: Config{Namespace: "linkerd"}}).newCensus()
	text := string(both.PEM())
	for i, p := range []*corev1.Pod{
		meshed("shop", "a", told(text)), meshed("shop", "b", told(text+"\n\n")), meshed("viz", "c", told(backwards(both))), meshed("linkerd", "d", told(backwards(both))),
	} {
		if err := n.add(p); err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
	}
	want := map[string]int{pki.TextSHA256(both.PEM()): 2, pki.TextSHA256([]byte(backwards(both))): 1}
	if p := n.proxies(); len(p.Sets) != 1 || p.Sets[0].Pods != 4 || !maps.Equal(p.Sets[0].Texts, want) {
		t.Errorf("%+v, want %v", p.Sets, want)
	}
}
