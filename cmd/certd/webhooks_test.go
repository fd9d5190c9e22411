package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"certd.internal/rotation"
)

// hooked are certd's defaults but for the times that kubelets and API servers
// take: those of the lab are shorter than those of the world.
const hooked = `
defaults:
  linkerd: {createNamespace: true}
  webhooks:
    settle: 2s
    projection: 6s
    probeEvery: 5s
    extra:
      - name: gatekeeper
        secret: {namespace: gatekeeper, name: gatekeeper}
        dnsNames: [gatekeeper.gatekeeper.svc]
        objects: [{kind: ValidatingWebhookConfiguration, name: gatekeeper}]
`

// labCommand runs a command of the lab against one of its clusters.
func (s *site) labCommand(i int, command string, args ...string) {
	s.t.Helper()
	b, err := os.ReadFile(os.Getenv("CERTD_LAB"))
	if err != nil {
		s.t.Fatal(err)
	}
	var l struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(b, &l); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/%d/exe", l.PID), append([]string{command, "-kubeconfig", s.lab.Clusters[i].Kubeconfig}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("lab %s: %v\n%s", command, err, out)
	}
}

// installWebhooks has the lab install a component as its chart would, until
// the test ends. Installed again it is an upgrade.
func (s *site) installWebhooks(i int, component string, args ...string) {
	s.t.Helper()
	s.labCommand(i, "install-webhooks", append([]string{"-component", component}, args...)...)
	s.t.Cleanup(func() { s.labCommand(i, "remove-webhooks", "-component", component) })
}

// allowGatekeeper gives certd the rights that deploy/rbac shows for a webhook of
// one's own, under the names that the lab gives its own.
func (s *site) allowGatekeeper(i int) {
	s.t.Helper()
	text, err := os.ReadFile("../../deploy/rbac/certd-webhook.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	names := strings.NewReplacer("gatekeeper-system", "gatekeeper", "gatekeeper-webhook-server-cert", "gatekeeper", "gatekeeper-webhook-service", "gatekeeper",
		"gatekeeper-controller-manager", "gatekeeper", "gatekeeper-mutating-webhook-configuration", "gatekeeper", "gatekeeper-validating-webhook-configuration", "gatekeeper")
	for _, doc := range strings.Split(names.Replace(string(text)), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Namespace string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			s.t.Fatal(err)
		}
		path := "/apis/rbac.authorization.k8s.io/v1/" + strings.ToLower(o.Kind) + "s"
		if o.Metadata.Namespace != "" {
			path = "/apis/rbac.authorization.k8s.io/v1/namespaces/" + o.Metadata.Namespace + "/" + strings.ToLower(o.Kind) + "s"
		}
		err := s.kube[i].RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/yaml").Body([]byte(doc)).Do(context.Background()).Error()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.t.Fatalf("%s: %v", path, err)
		}
	}
}

// load asks a cluster for pods that are to be injected, twenty a second, and
// keeps what went wrong. Nineteen are dry runs, which pass the same admission;
// one is made, and deleted again.
type load struct {
	mu       sync.Mutex
	asked    int
	failures []failure
	stop     context.CancelFunc
	done     chan struct{}
}

type failure struct {
	at   time.Time
	what string
}

func (s *site) load(i int) *load {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, done: make(chan struct{})}
	name := fmt.Sprintf("load-%d", time.Now().UnixNano())
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"linkerd.io/inject": "enabled"}}}
	if _, err := s.kube[i].CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(30*time.Second, func() string {
		if _, err := s.kube[i].CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	var asking sync.WaitGroup
	go func() {
		defer close(l.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			select {
			case <-ctx.Done():
			case <-tick.C:
				asking.Go(func() { l.ask(s.kube[i], name, n%20 == 0) })
			}
		}
		asking.Wait()
	}()
	s.t.Cleanup(func() {
		stop()
		<-l.done
		if err := s.kube[i].CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			s.t.Error(err)
		}
	})
	return l
}

func (l *load) ask(cs *kubernetes.Clientset, ns string, real bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	at := time.Now()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "load-"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
	options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if real {
		options = metav1.CreateOptions{}
	}
	made, err := cs.CoreV1().Pods(ns).Create(ctx, pod, options)
	what := ""
	switch {
	case err != nil:
		what = err.Error()
	case !slices.ContainsFunc(slices.Concat(made.Spec.Containers, made.Spec.InitContainers), func(c corev1.Container) bool { return c.Name == "linkerd-proxy" }):
		what = "the pod came back without a proxy"
	}
	l.mu.Lock()
	l.asked++
	if what != "" {
		l.failures = append(l.failures, failure{at, what})
	}
	l.mu.Unlock()
	if real && err == nil {
		now := int64(0)
		_ = cs.CoreV1().Pods(ns).Delete(ctx, made.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // the namespace goes, too
	}
}

// take returns what went wrong since the last time, and how often was asked.
func (l *load) take() (failures []failure, asked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	failures, asked, l.failures, l.asked = l.failures, l.asked, nil, 0
	return failures, asked
}

// none fails if anything went wrong since the last time.
func (l *load) none(t *testing.T, when string) {
	t.Helper()
	failures, asked := l.take()
	if asked == 0 {
		t.Errorf("%s: nothing was asked for", when)
	}
	if len(failures) > 0 {
		t.Errorf("%s: %d of %d pods were not admitted or not injected, the first at %s: %s", when, len(failures), asked, failures[0].at.Format("15:04:05.000"), failures[0].what)
	}
	t.Logf("%s: %d pods, all admitted and injected", when, asked)
}

// webhooks says of one cluster that its webhooks are served, accepted and under
// one CA; "" if so.
func (s *site) webhooks(i, want int) string {
	st, _ := s.status()
	if st.Source != "daemon" {
		return "no daemon answers"
	}
	c := st.Clusters[i]
	if len(c.Webhooks) != want || c.WebhookCA == nil {
		return fmt.Sprintf("%s: %d webhooks under %+v, want %d; findings %+v", c.Name, len(c.Webhooks), c.WebhookCA, want, c.Findings)
	}
	for _, h := range c.Webhooks {
		b, _ := json.Marshal(h)
		if h.Mode != "managed" || h.Delivered == nil || h.Delivered.Anchor != c.WebhookCA.ID || h.Served == nil || h.Served.State != "yes" || !h.CABundle.Current || len(h.CABundle.CAs) != 1 {
			return c.Name + ": " + string(b)
		}
		if h.Check != nil && h.Check.State != "yes" {
			return c.Name + ": " + string(b)
		}
	}
	return ""
}

// available fails when tap's APIService is, at any time until the test ends,
// known to be unavailable after it once was available.
func (s *site) available(i int) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		was := false
		for ctx.Err() == nil {
			b, err := s.kube[i].RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.tap.linkerd.io").DoRaw(ctx)
			var api struct {
				Status struct {
					Conditions []struct{ Type, Status, Reason, Message string }
				}
			}
			if err == nil && json.Unmarshal(b, &api) == nil {
				for _, c := range api.Status.Conditions {
					if c.Type == "Available" && c.Status == "True" {
						was = true
					}
					if was && c.Type == "Available" && c.Status == "False" {
						s.t.Errorf("tap's APIService became unavailable: %s: %s", c.Reason, c.Message)
						return
					}
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	s.t.Cleanup(func() { stop(); <-done })
}

// Webhooks that Helm installed are taken over, get new certificates and a new
// CA, while pods are created all the time: in one cluster with failurePolicy
// Fail, in the other with Ignore, where a broken webhook shows only in pods
// without a proxy. Connections are not kept, so that each admission is a new
// handshake with a replica, and three replicas see a Secret one after another.
func TestNoAdmissionFails(t *testing.T) {
	s := newSite(t, 2, hooked)
	s.must("init", "--config", "certd.yaml", "--yes")
	for i, policy := range []string{"Fail", "Ignore"} {
		s.installWebhooks(i, "control-plane", "-failure-policy", policy, "-tls", "self-signed", "-lag", "0s,2s,5s", "-replicas", "3")
	}
	s.installWebhooks(0, "custom", "-tls", "self-signed", "-lag", "0s,1s,3s", "-replicas", "2")
	s.allowGatekeeper(0)
	for i := range 2 {
		s.eventually(60*time.Second, func() string { return s.ready(i, "linkerd") })
	}
	loads := []*load{s.load(0), s.load(1)}
	none := func(when string) {
		t.Helper()
		for i, l := range loads {
			l.none(t, fmt.Sprintf("%s, %s", s.lab.Clusters[i].Name, when))
		}
	}
	both := func() string { return s.webhooks(0, 4) + s.webhooks(1, 3) }
	s.run()
	s.eventually(120*time.Second, both)
	none("taken over from Helm")

	// viz comes while certd runs.
	begun := time.Now()
	s.installWebhooks(0, "viz", "-tls", "external", "-lag", "0s,2s", "-replicas", "2")
	s.eventually(20*time.Second, func() string {
		if _, err := s.kube[0].CoreV1().Secrets("linkerd-viz").Get(context.Background(), "tap-k8s-tls", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Logf("tap had its certificate %s after the installation began", time.Since(begun).Round(time.Millisecond))
	both = func() string { return s.webhooks(0, 6) + s.webhooks(1, 3) }
	s.eventually(120*time.Second, both)
	s.available(0)
	none("viz was installed")

	names := []string{s.lab.Clusters[0].Name, s.lab.Clusters[1].Name}
	s.must(append([]string{"rotate", "webhooks", "--config", "certd.yaml", "--yes", "--wait", "--timeout", "2m", "--reason", "drill"}, names...)...)
	s.eventually(60*time.Second, both)
	none("new certificates")

	s.must(append([]string{"rotate", "webhook-ca", "--config", "certd.yaml", "--yes", "--wait", "--timeout", "4m", "--reason", "drill"}, names...)...)
	s.eventually(60*time.Second, both)
	none("a new CA")
	for i := range 2 {
		if st, _ := s.status(); st.Clusters[i].WebhookCA.ID != "w2" {
			t.Errorf("%s is under %s", st.Clusters[i].Name, st.Clusters[i].WebhookCA.ID)
		}
	}
	s.auditMatchesHistory()
	// A webhook of the user's own is looked after as Linkerd's are, and told of.
	for _, step := range []rotation.Step{rotation.StepWebhook, rotation.StepWebhookTrust, rotation.StepWebhookRetire} {
		if !slices.ContainsFunc(s.history(), func(e rotation.HistoryItem) bool { return e.Webhook == "gatekeeper" && e.Step == step }) {
			t.Errorf("the history has no %s of gatekeeper", step)
		}
	}
	if plan, errs, _ := s.certd("plan", "--config", "certd.yaml", "-o", "json"); !strings.Contains(plan, `"gatekeeper"`) {
		t.Errorf("the plan says nothing of gatekeeper: %s%s", plan, errs)
	}

	// Helm renders everything anew. What fails then fails until certd has put the caBundle right.
	for i, policy := range []string{"Fail", "Ignore"} {
		begun := time.Now()
		s.labCommand(i, "install-webhooks", "-component", "control-plane", "-failure-policy", policy, "-tls", "self-signed", "-lag", "0s,2s,5s", "-replicas", "3")
		var repaired time.Time
		s.eventually(180*time.Second, func() string {
			for _, e := range s.history() {
				if e.Cluster == names[i] && e.At.After(begun) && e.Webhook == "proxy-injector" && (e.Step == rotation.StepRepairTrust || e.Step == rotation.StepWebhookTrust) {
					repaired = e.At
				}
			}
			if repaired.IsZero() {
				return names[i] + ": the caBundle is not repaired yet"
			}
			return s.webhooks(i, 6-3*i)
		})
		failures, asked := loads[i].take()
		var last time.Duration
		for _, f := range failures {
			last = f.at.Sub(begun)
			if f.at.After(repaired.Add(time.Second)) { // the API server hears of it in between
				t.Errorf("%s: a pod failed %s after the upgrade began, and the caBundle was right after %s: %s", names[i], last, repaired.Sub(begun), f.what)
			}
		}
		t.Logf("%s: %d of %d pods failed after the upgrade, the last after %s; repaired after %s", names[i], len(failures), asked, last.Round(time.Millisecond), repaired.Sub(begun).Round(time.Millisecond))
	}
	s.eventually(180*time.Second, both)
	none("after the upgrades")
	helm := slices.ContainsFunc(s.history(), func(e rotation.HistoryItem) bool {
		return e.Writer == "helm" && strings.HasPrefix(string(e.Step), "repair-")
	})
	if !helm {
		t.Error("the history does not name helm for a repair")
	}
}

// ready says which Deployment of a namespace has not all its replicas; "" if
// none.
func (s *site) ready(i int, namespace string) string {
	list, err := s.kube[i].AppsV1().Deployments(namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, d := range list.Items {
		if d.Name != "linkerd-identity" && d.Status.ReadyReplicas != *d.Spec.Replicas {
			return fmt.Sprintf("%s has %d of %d replicas", d.Name, d.Status.ReadyReplicas, *d.Spec.Replicas)
		}
	}
	return ""
}

// Killed again and again, a few writes of its journal after each start, certd
// still brings a CA rotation to its end, and no admission fails.
func TestKilledThroughARotationOfWebhookCAs(t *testing.T) {
	s := newSite(t, 1, hooked)
	s.must("init", "--config", "certd.yaml", "--yes")
	s.installWebhooks(0, "control-plane", "-failure-policy", "Fail", "-tls", "external", "-lag", "0s,2s,5s", "-replicas", "3")
	d := s.run()
	s.eventually(120*time.Second, func() string { return s.webhooks(0, 3) })
	l := s.load(0)
	s.must("rotate", "webhook-ca", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--reason", "drill")
	s.eventually(20*time.Second, func() string {
		if n := slices.IndexFunc(s.history(), func(e rotation.HistoryItem) bool { return e.Step == rotation.StepWebhookCA && e.Anchor == "w2" }); n < 0 {
			return "there is no second CA yet"
		}
		return ""
	})
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-d.done
	kills := 0
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); {
		// Two points for each write; the first eight or so are the start's own.
		d := s.run(fmt.Sprintf("CERTD_CRASH_AT=%d", 11+kills%5))
		select {
		case <-d.done:
			kills++
			continue
		case <-time.After(15 * time.Second):
		}
		d.cmd.Process.Signal(syscall.SIGKILL)
		<-d.done
		break
	}
	if kills < 10 {
		t.Errorf("certd was killed only %d times", kills)
	}
	s.run()
	s.eventually(60*time.Second, func() string { return s.webhooks(0, 3) })
	if st, _ := s.status(); st.Clusters[0].WebhookCA.ID != "w2" {
		t.Errorf("under %s", st.Clusters[0].WebhookCA.ID)
	}
	l.none(t, fmt.Sprintf("killed %d times", kills))
	if out, _, code := s.certd("history", "--config", "certd.yaml", "--verify"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
}

// A replica that hears nothing any more is helped along, and one that cannot be
// dialled is seen through the API server.
func TestReplicasThatAreHardToMove(t *testing.T) {
	s := newSite(t, 1, hooked)
	ctx := context.Background()
	s.must("init", "--config", "certd.yaml", "--yes")
	s.installWebhooks(0, "control-plane", "-failure-policy", "Fail", "-tls", "external", "-replicas", "2")
	s.run()
	s.eventually(120*time.Second, func() string { return s.webhooks(0, 3) })
	l := s.load(0)
	pods, err := s.kube[0].CoreV1().Pods("linkerd").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deaf := ""
	for _, p := range pods.Items {
		if strings.HasPrefix(p.Name, "linkerd-proxy-injector-") && deaf == "" {
			deaf = p.Name
			p.Annotations = map[string]string{"lab/ignore-reloads": "true"}
			if _, err := s.kube[0].CoreV1().Pods("linkerd").Update(ctx, &p, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.must("rotate", "webhook-ca", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--wait", "--timeout", "4m", "--reason", "drill")
	s.eventually(60*time.Second, func() string { return s.webhooks(0, 3) })
	for _, step := range []rotation.Step{rotation.StepWebhookReload, rotation.StepWebhookRestart} {
		if !slices.ContainsFunc(s.history(), func(e rotation.HistoryItem) bool { return e.Step == step && strings.Contains(e.Reason, deaf) }) {
			t.Errorf("the history has no step %q for %s", step, deaf)
		}
	}
	if _, err := s.kube[0].CoreV1().Pods("linkerd").Get(ctx, deaf, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod that hears nothing is still there: %v", err)
	}
	l.none(t, "with a deaf replica")

	// Pods that cannot be dialled.
	d, err := s.kube[0].AppsV1().Deployments("linkerd").Get(ctx, "linkerd-proxy-injector", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Spec.Template.Annotations == nil {
		d.Spec.Template.Annotations = map[string]string{}
	}
	d.Spec.Template.Annotations["lab/unreachable"] = "true"
	if _, err := s.kube[0].AppsV1().Deployments("linkerd").Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.must("rotate", "webhooks", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--wait", "--timeout", "2m", "--reason", "drill")
	s.eventually(60*time.Second, func() string {
		if text := s.webhooks(0, 3); text != "" {
			return text
		}
		st, _ := s.status()
		for _, h := range st.Clusters[0].Webhooks {
			if h.Name == "proxy-injector" && h.Served.Evidence != "port-forward" {
				return "seen by " + h.Served.Evidence
			}
		}
		return ""
	})
	l.none(t, "seen through the API server")
	out, _, _ := s.certd("status", s.lab.Clusters[0].Name, "--config", "certd.yaml")
	if !strings.Contains(out, "port-forward") {
		t.Errorf("status does not say how it knows:\n%s", out)
	}
}

// What a cert-manager Certificate issues into is only watched, and named.
func TestAWebhookThatCertManagerIssuesIsWatched(t *testing.T) {
	s := newSite(t, 1, hooked)
	ctx := context.Background()
	s.must("init", "--config", "certd.yaml", "--yes")
	s.labCommand(0, "install-webhooks", "-component", "control-plane", "-tls", "self-signed", "-replicas", "1")
	t.Cleanup(func() { s.labCommand(0, "remove-webhooks", "-component", "control-plane") })
	secret, err := s.kube[0].CoreV1().Secrets("linkerd").Get(ctx, "linkerd-proxy-injector-k8s-tls", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := s.certificates(0, "linkerd", "linkerd-proxy-injector")
	secret.Annotations = map[string]string{"cert-manager.io/certificate-name": "linkerd-proxy-injector"}
	if secret, err = s.kube[0].CoreV1().Secrets("linkerd").Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.eventually(60*time.Second, func() string {
		st, _ := s.status()
		for _, f := range st.Clusters[0].Findings {
			if f.ID == "WebhookManagedElsewhere" && strings.Contains(f.Fix, "delete certificate linkerd-proxy-injector") {
				return ""
			}
		}
		return fmt.Sprintf("findings %+v", st.Clusters[0].Findings)
	})
	again, err := s.kube[0].CoreV1().Secrets("linkerd").Get(ctx, secret.Name, metav1.GetOptions{})
	if err != nil || again.ResourceVersion != secret.ResourceVersion {
		t.Errorf("the Secret was written: %v", err)
	}
	done()
	s.eventually(120*time.Second, func() string { return s.webhooks(0, 3) })
}

// certificates makes cert-manager's kind of object, and one of them; the
// function returned deletes that.
func (s *site) certificates(i int, namespace, name string) func() {
	s.t.Helper()
	post := func(path, body string) {
		s.t.Helper()
		err := s.kube[i].RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/yaml").Body([]byte(body)).Do(context.Background()).Error()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.t.Fatal(err)
		}
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificates.cert-manager.io}
spec:
  group: cert-manager.io
  scope: Namespaced
  names: {kind: Certificate, plural: certificates, singular: certificate, listKind: CertificateList}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`)
	path := "/apis/cert-manager.io/v1/namespaces/" + namespace + "/certificates"
	s.eventually(20*time.Second, func() string {
		if err := s.kube[i].RESTClient().Get().AbsPath(path).Do(context.Background()).Error(); err != nil {
			return err.Error()
		}
		return ""
	})
	post(path, fmt.Sprintf("apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: %s}\nspec: {secretName: %[1]s-k8s-tls}\n", name))
	remove := func() {
		if err := s.kube[i].RESTClient().Delete().AbsPath(path + "/" + name).Do(context.Background()).Error(); err != nil && !apierrors.IsNotFound(err) {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(remove)
	return remove
}
