package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"certd.internal/backends/kube/payload"
	"certd.internal/deploy/rbac"
	"certd.internal/rotation"
)

// policies are the shipped admission policies, about an account of namespace
// "default" and the namespaces that stand for Linkerd's.
func policies(t testing.TB, account, ns string) (all []*admissionv1.ValidatingAdmissionPolicy, bindings []*admissionv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rbac", manifestPolicy))
	if err != nil {
		t.Fatal(err)
	}
	named := strings.NewReplacer("system:serviceaccount:certd:certd", "system:serviceaccount:default:"+account,
		"['linkerd']", "['"+ns+"']", "'linkerd/", "'"+ns+"/", "'linkerd-viz/", "'"+elsewhere("linkerd-viz", ns)+"/",
		"'linkerd-jaeger/jaeger-injector-k8s-tls'", "'"+elsewhere("linkerd-jaeger", ns)+"/jaeger-injector-k8s-tls', '"+elsewhere("gatekeeper-system", ns)+"/gatekeeper-webhook-server-cert'").Replace(string(text))
	for doc := range strings.SplitSeq(named, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%s: %v", manifestPolicy, err)
		}
		switch kind.Kind {
		case "ValidatingAdmissionPolicy":
			p := &admissionv1.ValidatingAdmissionPolicy{}
			if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
				t.Fatalf("%s: %v", manifestPolicy, err)
			}
			p.Name += "." + account
			all = append(all, p)
		case "ValidatingAdmissionPolicyBinding":
			b := &admissionv1.ValidatingAdmissionPolicyBinding{}
			if err := yaml.UnmarshalStrict([]byte(doc), b); err != nil {
				t.Fatalf("%s: %v", manifestPolicy, err)
			}
			b.Name, b.Spec.PolicyName = b.Name+"."+account, b.Spec.PolicyName+"."+account
			bindings = append(bindings, b)
		default:
			t.Fatalf("%s has a %q", manifestPolicy, kind.Kind)
		}
	}
	return all, bindings
}

// narrow puts the shipped admission policies in force for an account that may create
// Secrets in ns.
func narrow(t testing.TB, account, ns string, admin *kubernetes.Clientset, access Access) {
	t.Helper()
	ctx := t.Context()
	all, bindings := policies(t, account, ns)
	api := admin.AdmissionregistrationV1()
	for _, p := range all {
		if _, err := api.ValidatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = api.ValidatingAdmissionPolicies().Delete(context.Background(), p.Name, metav1.DeleteOptions{})
		})
	}
	slices.Reverse(bindings) // that of Secrets, which is waited for, comes last
	for _, b := range bindings {
		if _, err := api.ValidatingAdmissionPolicyBindings().Create(ctx, b, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = api.ValidatingAdmissionPolicyBindings().Delete(context.Background(), b.Name, metav1.DeleteOptions{})
		})
	}
	as := clientOf(t, access)
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err = as.CoreV1().Secrets(ns).Create(ctx, other, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil && strings.Contains(err.Error(), "denied request: certd may") {
			return
		}
	}
	t.Fatalf("the policies do not take effect: %v", err)
}

func clientOf(t testing.TB, access Access) *kubernetes.Clientset {
	t.Helper()
	rc, err := access.restConfig()
	if err != nil {
		t.Fatal(err)
	}
	rc.QPS, rc.WarningHandler = -1, rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// The policies name the account in each of their conditions, and whatever goes wrong in
// there stops nobody else.
func TestPoliciesAreAboutCertdAlone(t *testing.T) {
	all, bindings := policies(t, "certd", "linkerd")
	if len(all) != 6 || len(bindings) != len(all) {
		t.Fatalf("%d policies, %d bindings", len(all), len(bindings))
	}
	for i, p := range all {
		m := p.Spec.MatchConditions
		if len(m) != 1 || m[0].Expression != "has(request.userInfo.username) && request.userInfo.username == 'system:serviceaccount:default:certd'" {
			t.Errorf("%s is about %v", p.Name, m)
		}
		if *p.Spec.FailurePolicy != admissionv1.Fail || bindings[i].Spec.PolicyName != p.Name || !slices.Equal(bindings[i].Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
			t.Errorf("%s does not deny: %+v, %+v", p.Name, p.Spec.FailurePolicy, bindings[i].Spec)
		}
		for _, v := range p.Spec.Validations {
			if v.Reason == nil || *v.Reason != metav1.StatusReasonForbidden || !strings.HasPrefix(v.Message, "certd may ") {
				t.Errorf("%s: %q, %v", p.Name, v.Message, v.Reason)
			}
		}
	}
}

// What certd writes, the policies let it write: they are of one mind about keys and
// names.
func TestPoliciesKnowWhatIsWritten(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rbac", manifestPolicy))
	if err != nil {
		t.Fatal(err)
	}
	quoted := func(s string) bool { return strings.Contains(string(text), "'"+s+"'") }
	for _, key := range slices.Concat(payload.IssuerKeys(), payload.WebhookKeys(), payload.BundleKeys(), []string{payload.LabelManagedBy, payload.AnnotationKeep, payload.AnnotationInject, restartedAt}) {
		if !quoted(key) {
			t.Errorf("%s does not know %s", manifestPolicy, key)
		}
	}
	for _, mark := range []string{payload.AnnotationFleet, payload.AnnotationSerial, payload.AnnotationEpoch, payload.AnnotationAdopted} {
		if !strings.HasPrefix(mark, "certd.io/") {
			t.Errorf("%s does not know %s", manifestPolicy, mark)
		}
	}
	for _, name := range []string{"linkerd/" + rotation.IssuerObject, "linkerd/" + rotation.BundleObject} {
		if !quoted(name) {
			t.Errorf("%s does not know %s", manifestPolicy, name)
		}
	}
	for _, w := range rotation.LinkerdWebhooks() {
		if !slices.ContainsFunc([]string{"linkerd", "linkerd-viz", "linkerd-jaeger"}, func(ns string) bool { return quoted(ns + "/" + w.Secret) }) {
			t.Errorf("%s does not know Secret %s of %s", manifestPolicy, w.Secret, w.Name)
		}
	}
	printed := string(rbac.Manifest(rbac.Cluster{Namespace: "mesh", CheckNamespace: "certd", Policies: true, Webhooks: []rbac.Webhook{{Name: "quota", Namespace: "quota-system", Secret: "quota-tls"}}}))
	for _, want := range []string{"'mesh/" + rotation.IssuerObject + "'", "'mesh/" + rotation.BundleObject + "'", "['mesh']", "'linkerd-jaeger/jaeger-injector-k8s-tls',\n        'quota-system/quota-tls']"} {
		if !strings.Contains(printed, want) {
			t.Errorf("for another namespace and a webhook of one's own, %s is not printed", want)
		}
	}
	if strings.Contains(printed, "'linkerd/") || strings.Contains(printed, "['linkerd']") {
		t.Error("the usual namespace is printed where it is another")
	}
}

// The account that has all the rights certd ships, and the policies beside them, can do
// nothing but what certd does.
func TestPoliciesRefuse(t *testing.T) {
	_, rc, admin := lab(t)
	g := newGuarded(t, false)
	apps := g.ns + "-apps"
	g.namespace(t, apps)
	var granted []*manifest
	for _, file := range []string{manifestMain, manifestViz, manifestJaeger, manifestWebhook, manifestRestart, manifestBootstrap} {
		granted = append(granted, readManifest(t, file, g.ns))
	}
	granted[len(granted)-1].roles = nil // certd.yaml has it, too
	account := "certd-policy-" + g.ns
	access := grantTo(t, account, admin, rc, granted...)
	narrow(t, account, g.ns, admin, access)
	certd := clientOf(t, access)
	user, err := access.restConfig()
	if err != nil {
		t.Fatal(err)
	}
	user.WarningHandler = rest.NoWarnings{}
	anyAs, err := dynamic.NewForConfig(user)
	if err != nil {
		t.Fatal(err)
	}

	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	tls := map[string][]byte{payload.TLSCert: []byte("x"), payload.TLSKey: []byte("y")}
	issuer := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: rotation.IssuerObject}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{payload.TLSCert: []byte("x"), payload.TLSKey: []byte("y"), "theirs": []byte("z")}}
	g.delete(t, rotation.IssuerObject)
	g.delete(t, rotation.BundleObject)
	_, err = admin.CoreV1().Secrets(g.ns).Create(ctx, issuer, metav1.CreateOptions{})
	must(err)
	_, err = admin.CoreV1().ConfigMaps(g.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rotation.BundleObject}, Data: map[string]string{payload.BundleKey: "x"}}, metav1.CreateOptions{})
	must(err)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"theirs": "x"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}
	selector, none := &metav1.LabelSelector{MatchLabels: template.Labels}, int32(0)
	_, err = admin.AppsV1().Deployments(apps).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	must(err)
	_, err = admin.AppsV1().DaemonSets(apps).Create(ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
	must(err)
	_, err = admin.AppsV1().StatefulSets(apps).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	must(err)

	secret := func(namespace, name string, change func(s *corev1.Secret)) func() error {
		return func() error {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{}}
			for k, v := range tls {
				s.Data[k] = v
			}
			if change != nil {
				change(s)
			}
			_, err := certd.CoreV1().Secrets(namespace).Create(ctx, s, metav1.CreateOptions{})
			return err
		}
	}
	patchSecret := func(patch string) func() error {
		return func() error {
			_, err := certd.CoreV1().Secrets(g.ns).Patch(ctx, rotation.IssuerObject, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	patchMap := func(patch string) func() error {
		return func() error {
			_, err := certd.CoreV1().ConfigMaps(g.ns).Patch(ctx, rotation.BundleObject, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	patchWorkload := func(kind, patch string) func() error {
		return func() (err error) {
			switch how := types.StrategicMergePatchType; kind {
			case "Deployment":
				_, err = certd.AppsV1().Deployments(apps).Patch(ctx, "web", how, []byte(patch), metav1.PatchOptions{})
			case "DaemonSet":
				_, err = certd.AppsV1().DaemonSets(apps).Patch(ctx, "web", how, []byte(patch), metav1.PatchOptions{})
			default:
				_, err = certd.AppsV1().StatefulSets(apps).Patch(ctx, "web", how, []byte(patch), metav1.PatchOptions{})
			}
			return err
		}
	}
	container := func(more string) string {
		return `{"spec":{"template":{"spec":{"containers":[{"name":"x",` + more + `}]}}}}`
	}
	apiService := renamed("v1alpha1.tap.linkerd.io", g.ns)
	patchAPIService := func(patch string) func() error {
		return func() error {
			_, err := anyAs.Resource(kinds[rotation.KindAPIService]).Patch(ctx, apiService, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			return err
		}
	}
	pods := elsewhere("certd", g.ns)
	g.account(t, pods)

	const (
		whichSecrets = refusesOther + " of the issuer and of the webhooks"
		typeOfSecret = "certd may make no Secrets but those of type kubernetes.io/tls"
		secretFields = "certd may write nothing of a Secret but its data and metadata"
		secretKeys   = "certd may write no keys of a Secret but tls.crt"
		secretMeta   = "certd may write nothing of a Secret's metadata but labels and annotations"
		secretMarks  = "certd may write no labels and annotations of a Secret but its own"
		whichMaps    = "certd may write no ConfigMap but linkerd-identity-trust-roots"
		mapFields    = "certd may write nothing of a ConfigMap but its data and metadata"
		mapKeys      = "certd may write no key of a ConfigMap but ca-bundle.crt"
		mapMeta      = "certd may write nothing of a ConfigMap's metadata but labels and annotations"
		mapMarks     = "certd may write no labels and annotations of a ConfigMap but its own"
		whichNS      = "certd may make no namespace but Linkerd's, and change none"
		nsMarks      = "certd may make no namespace with labels or annotations"
		workload     = "certd may change nothing of a workload but annotation kubectl.kubernetes.io/restartedAt"
		service      = "certd may change nothing of an APIService but its caBundle"
		noCA         = "certd may leave no APIService without a caBundle, nor with insecureSkipTLSVerify"
		dryRuns      = "certd may create pods, ServiceProfiles and NetworkAuthentications as dry runs only"
	)
	rows := []struct {
		name    string
		try     func() error
		message string
	}{
		{"a Secret of another name", secret(g.ns, "other", nil), whichSecrets},
		{"a Secret in another namespace", secret("kube-system", rotation.IssuerObject, nil), whichSecrets},
		{"a Secret whose name the API server is to make up", secret(g.ns, "", func(s *corev1.Secret) { s.GenerateName = rotation.IssuerObject }), whichSecrets},
		{"a token of another account", secret(g.ns, "other", func(s *corev1.Secret) {
			s.Type, s.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}
		}), whichSecrets},
		{"a token of another account under a name of certd's", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) {
			s.Type, s.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}
		}), typeOfSecret},
		{"an Opaque Secret", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), typeOfSecret},
		{"a Secret with a key of another name", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) { s.Data["other"] = []byte("x") }), secretKeys},
		{"a Secret that cannot be changed", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) { yes := true; s.Immutable = &yes }), secretFields},
		{"a Secret with a label of others", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) { s.Labels = map[string]string{"other": "x"} }), secretMarks},
		{"a Secret with an annotation of others", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) { s.Annotations = map[string]string{"other": "x"} }), secretMarks},
		{"a Secret with an owner", secret(g.ns+"-viz", "tap-injector-k8s-tls", func(s *corev1.Secret) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}}
		}), secretMeta},
		{"a new key in the issuer", patchSecret(`{"data":{"other":"eA=="}}`), secretKeys},
		{"another's key in the issuer", patchSecret(`{"data":{"theirs":"eA=="}}`), secretKeys},
		{"another's key out of the issuer", patchSecret(`{"data":{"theirs":null}}`), secretKeys},
		{"a new key as text", patchSecret(`{"stringData":{"other":"x"}}`), secretKeys},
		{"an issuer that cannot be changed any more", patchSecret(`{"immutable":true}`), secretFields},
		{"a label of the issuer", patchSecret(`{"metadata":{"labels":{"other":"x"}}}`), secretMarks},
		{"an annotation of the issuer", patchSecret(`{"metadata":{"annotations":{"other":"x"}}}`), secretMarks},
		{"a finalizer of the issuer", patchSecret(`{"metadata":{"finalizers":["example.com/x"]}}`), secretMeta},
		{"an owner of the issuer", patchSecret(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}`), secretMeta},
		{"another type of the issuer", patchSecret(`{"type":"Opaque"}`), "field is immutable"}, // by the API server itself

		{"a ConfigMap of another name", func() error {
			_, err := certd.CoreV1().ConfigMaps(g.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
			return err
		}, whichMaps},
		{"a ConfigMap in another namespace", func() error {
			_, err := certd.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rotation.BundleObject}}, metav1.CreateOptions{})
			return err
		}, whichMaps},
		{"a new key in the bundle", patchMap(`{"data":{"other":"x"}}`), mapKeys},
		{"binary data in the bundle", patchMap(`{"binaryData":{"other":"eA=="}}`), mapFields},
		{"a bundle that cannot be changed any more", patchMap(`{"immutable":true}`), mapFields},
		{"a label of the bundle", patchMap(`{"metadata":{"labels":{"other":"x"}}}`), mapMarks},
		{"an annotation of the bundle", patchMap(`{"metadata":{"annotations":{"other":"x"}}}`), mapMarks},
		{"a finalizer of the bundle", patchMap(`{"metadata":{"finalizers":["example.com/x"]}}`), mapMeta},

		{"another namespace", func() error {
			_, err := certd.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: g.ns + "-other"}}, metav1.CreateOptions{})
			return err
		}, whichNS},
		{"Linkerd's namespace where everything may run", func() error {
			_, err := certd.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: g.ns, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}}, metav1.CreateOptions{})
			return err
		}, nsMarks},

		{"an image", patchWorkload("Deployment", container(`"image":"y"`)), workload},
		{"an image beside a restart", patchWorkload("Deployment", `{"spec":{"template":{"metadata":{"annotations":{"`+restartedAt+`":"2026-08-01T00:00:00Z"}},"spec":{"containers":[{"name":"x","image":"y"}]}}}}`), workload},
		{"a command", patchWorkload("Deployment", container(`"command":["sh"]`)), workload},
		{"arguments", patchWorkload("Deployment", container(`"args":["sh"]`)), workload},
		{"the environment", patchWorkload("Deployment", container(`"env":[{"name":"A","value":"b"}]`)), workload},
		{"privileges", patchWorkload("Deployment", container(`"securityContext":{"privileged":true}`)), workload},
		{"one more container", patchWorkload("Deployment", `{"spec":{"template":{"spec":{"containers":[{"name":"y","image":"y"}]}}}}`), workload},
		{"one more init container", patchWorkload("Deployment", `{"spec":{"template":{"spec":{"initContainers":[{"name":"y","image":"y"}]}}}}`), workload},
		{"a folder of the host", patchWorkload("Deployment", `{"spec":{"template":{"spec":{"volumes":[{"name":"h","hostPath":{"path":"/"}}]}}}}`), workload},
		{"another account", patchWorkload("Deployment", `{"spec":{"template":{"spec":{"serviceAccountName":"other"}}}}`), workload},
		{"the host's network", patchWorkload("Deployment", `{"spec":{"template":{"spec":{"hostNetwork":true}}}}`), workload},
		{"the number of replicas", patchWorkload("Deployment", `{"spec":{"replicas":0,"minReadySeconds":1}}`), workload},
		{"a pause", patchWorkload("Deployment", `{"spec":{"paused":true}}`), workload},
		{"a label of the pods", patchWorkload("Deployment", `{"spec":{"template":{"metadata":{"labels":{"c":"d"}}}}}`), workload},
		{"another annotation of the pods", patchWorkload("Deployment", `{"spec":{"template":{"metadata":{"annotations":{"linkerd.io/inject":"disabled"}}}}}`), workload},
		{"an annotation out of the pods", patchWorkload("Deployment", `{"spec":{"template":{"metadata":{"annotations":{"theirs":null}}}}}`), workload},
		{"a label of the workload", patchWorkload("Deployment", `{"metadata":{"labels":{"c":"d"}}}`), workload},
		{"a finalizer of the workload", patchWorkload("Deployment", `{"metadata":{"finalizers":["example.com/x"]}}`), workload},
		{"an image of a DaemonSet", patchWorkload("DaemonSet", container(`"image":"y"`)), workload},
		{"an image of a StatefulSet", patchWorkload("StatefulSet", container(`"image":"y"`)), workload},
		{"the number of replicas of a StatefulSet", patchWorkload("StatefulSet", `{"spec":{"replicas":3}}`), workload},

		{"an APIService's Service", patchAPIService(`{"spec":{"service":{"name":"other"}}}`), service},
		{"an APIService's rank", patchAPIService(`{"spec":{"groupPriorityMinimum":1}}`), service},
		{"a label of an APIService", patchAPIService(`{"metadata":{"labels":{"other":"x"}}}`), service},
		{"another's annotation of an APIService", patchAPIService(`{"metadata":{"annotations":{"other":"x"}}}`), service},
		{"an APIService without a caBundle", patchAPIService(`{"spec":{"caBundle":null}}`), noCA},
		{"an APIService that takes whoever answers", patchAPIService(`{"spec":{"caBundle":null,"insecureSkipTLSVerify":true}}`), service},

		{"a pod", func() error {
			_, err := certd.CoreV1().Pods(pods).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: template.Spec}, metav1.CreateOptions{})
			return err
		}, dryRuns},
	}
	for _, row := range rows {
		err := row.try()
		for deadline := time.Now().Add(20 * time.Second); err != nil && strings.Contains(err.Error(), " cannot ") && time.Now().Before(deadline); {
			err = row.try() // RBAC takes a moment to take effect
		}
		switch {
		case err == nil:
			t.Errorf("%s was accepted", row.name)
		case !strings.Contains(err.Error(), row.message):
			t.Errorf("%s: %v; want %q", row.name, err, row.message)
		}
	}
	t.Logf("%d changes refused", len(rows))

	// That they are in force is seen without any right to read them.
	k, err := New(Config{Cluster: "c", Namespace: g.ns, TrustDomain: "cluster.local", Access: access}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if e := k.Examine(ctx, rotation.Observation{Namespace: true}, Features{}); e.Narrowed == nil || !*e.Narrowed {
		t.Errorf("that they are in force is not seen: %v", e.Narrowed)
	}
	if e := open(t, g.l, g.ns).Examine(ctx, rotation.Observation{Namespace: true}, Features{}); e.Narrowed == nil || *e.Narrowed {
		t.Errorf("for another user they are not in force: %v", e.Narrowed)
	}
	if e := open(t, g.l, "nowhere-"+g.ns).Examine(ctx, rotation.Observation{}, Features{}); e.Narrowed != nil {
		t.Errorf("where there is no namespace: %v", *e.Narrowed)
	}

	// Others are not meant.
	if _, err := admin.CoreV1().Secrets(g.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("another user: %v", err)
	}
	// certd says whose word it was.
	c, err := New(Config{Cluster: "c", Namespace: elsewhere("linkerd-viz", g.ns), TrustDomain: "cluster.local", Access: access}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteBundle(ctx, rotation.BundleWrite{Fleet: "acme", Epoch: 1, Bundle: g.anchors.Bundle(t)}); err == nil || !strings.Contains(err.Error(), "refused by admission control") || !strings.Contains(err.Error(), whichMaps) {
		t.Errorf("certd says %v", err)
	}

	// What is as big as it can be is judged all the same.
	big := template.DeepCopy()
	for i := range 40 {
		var env []corev1.EnvVar
		for j := range 100 {
			env = append(env, corev1.EnvVar{Name: fmt.Sprintf("E%d", j), Value: strings.Repeat("x", 200)})
		}
		big.Spec.Containers = append(big.Spec.Containers, corev1.Container{Name: fmt.Sprintf("c%d", i), Image: "x", Env: env})
	}
	if text, err := json.Marshal(big); err != nil || len(text) < 900_000 {
		t.Fatalf("big: %d bytes, %v", len(text), err)
	}
	_, err = admin.AppsV1().Deployments(apps).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: *big}}, metav1.CreateOptions{})
	must(err)
	if err := c.Restart(ctx, apps, rotation.ObjectRef{Kind: "Deployment", Name: "big"}); err != nil {
		t.Errorf("a restart of a big workload: %v", err)
	}
	_, err = certd.AppsV1().Deployments(apps).Patch(ctx, "big", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c39","image":"y"}]}}}}`), metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), workload) {
		t.Errorf("an image of a big workload: %v", err)
	}
}
