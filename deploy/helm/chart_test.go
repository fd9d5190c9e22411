package helm

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write testdata/rendered anew")

const root = "../.."

// release is one that is called otherwise than the chart, in a namespace that is.
var release = Release{Name: "mesh", Namespace: "pki"}

// examples are the values of testdata/values by name.
func examples(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("the examples: %v, %v", files, err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".yaml")] = text
	}
	return all
}

func render(t *testing.T, values []byte) ([]byte, error) {
	t.Helper()
	c, err := loader.Load("certd")
	if err != nil {
		t.Fatal(err)
	}
	return Render(c, values, release)
}

func mustRender(t *testing.T, values string) []byte {
	t.Helper()
	text, err := render(t, []byte(values))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The tests of the main module take these: what certd, and an API server, make of them.
func TestWhatTheExamplesRenderTo(t *testing.T) {
	for name, values := range examples(t) {
		got, err := render(t, values)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden := filepath.Join("testdata/rendered", name+".yaml")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s renders to something else than %s; look at the difference after: go -C deploy/helm test -update", name, golden)
		}
	}
}

func TestGeneratedFilesAreUpToDate(t *testing.T) {
	files, err := Files(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if there, err := os.ReadFile(filepath.Join(root, f.Path)); err != nil || !bytes.Equal(there, f.Text) {
			t.Errorf("%s is out of date (%v): make generate", f.Path, err)
		}
	}
	var there []string
	for _, pattern := range []string{"certd/files/*.yaml", "certd/files/*/*"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		there = append(there, some...)
	}
	if len(there) != len(files)-1 {
		t.Errorf("the chart has %v; %d are made", there, len(files)-1)
	}
}

func TestHelmLintHasNothingToSay(t *testing.T) {
	for name, values := range examples(t) {
		var given map[string]any
		if err := yaml.Unmarshal(values, &given); err != nil {
			t.Fatal(err)
		}
		for _, m := range lint.RunAll("certd", given, release.Namespace).Messages {
			if m.Severity > support.InfoSev || !strings.Contains(m.Err.Error(), "icon is recommended") {
				t.Errorf("%s: %s: %v", name, m.Path, m.Err)
			}
		}
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	const good = "config: {name: acme-mesh, keys: {file: {dir: /var/lib/certd/keys}}"
	for name, row := range map[string]struct{ values, says string }{
		"nothing given":               {"{}", "'name', 'keys'"},
		"no fleet":                    {"config: {keys: {file: {}}}", "'name'"},
		"two places for keys":         {"config: {name: a, keys: {file: {}, vault: {}}}", "/config/keys"},
		"a second one, and no lease":  {good + "}\nreplicas: 2", "config.leaderElection is not set"},
		"two on one volume":           {good + ", leaderElection: {lease: {namespace: certd, name: certd}}}\nreplicas: 2\npersistence: {existingClaim: one}", "existingClaim names one volume"},
		"a crowd":                     {good + "}\nreplicas: 4", "/replicas"},
		"a misspelt value":            {good + "}\nreplica: 1", "'replica'"},
		"a misspelt right":            {good + "}\nrbac: {vis: true}", "'vis'"},
		"a secret among the values":   {good + "}\nfiles: [{content: hvs.1}]", "'content'"},
		"an end that cuts a step off": {good + "}\nterminationGracePeriodSeconds: 5", "/terminationGracePeriodSeconds"},
		"a tag for a digest":          {good + "}\nimage: {digest: latest}", "/image/digest"},
		"no probe gets through":       {good + ", server: {listen: \"127.0.0.1:9843\"}}", "which kubelets do not reach"},
		"nor here":                    {good + ", server: {listen: \"[::1]:9843\"}}", "which kubelets do not reach"},
		"two clusters that are home":  {good + ", clusters: [{name: a, inCluster: true}, {name: b, inCluster: true}]}", "a and b"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, []byte(row.values)); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("rendered with %v, want it to say %q", err, row.says)
			}
		})
	}
}

// objects are those of a rendering by kind, and each is what its kind can be.
func objects(t *testing.T, text []byte) map[string][]any {
	t.Helper()
	of := map[string]func() any{
		"ServiceAccount": func() any { return &corev1.ServiceAccount{} }, "ConfigMap": func() any { return &corev1.ConfigMap{} }, "Service": func() any { return &corev1.Service{} },
		"Namespace":                 func() any { return &corev1.Namespace{} },
		"ValidatingAdmissionPolicy": func() any { return &admissionv1.ValidatingAdmissionPolicy{} }, "ValidatingAdmissionPolicyBinding": func() any { return &admissionv1.ValidatingAdmissionPolicyBinding{} },
		"Role": func() any { return &rbacv1.Role{} }, "RoleBinding": func() any { return &rbacv1.RoleBinding{} }, "ClusterRole": func() any { return &rbacv1.ClusterRole{} }, "ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
		"StatefulSet": func() any { return &appsv1.StatefulSet{} }, "NetworkPolicy": func() any { return &networkingv1.NetworkPolicy{} }, "PodDisruptionBudget": func() any { return &policyv1.PodDisruptionBudget{} },
		"ServiceMonitor": func() any { return &map[string]any{} }, "PrometheusRule": func() any { return &map[string]any{} },
	}
	all := map[string][]any{}
	for doc := range bytes.SplitSeq(text, []byte("---\n")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil || of[kind.Kind] == nil {
			t.Fatalf("a document of kind %q: %v\n%s", kind.Kind, err, doc)
		}
		o := of[kind.Kind]()
		if err := yaml.UnmarshalStrict(doc, o); err != nil {
			t.Fatalf("%s: %v\n%s", kind.Kind, err, doc)
		}
		all[kind.Kind] = append(all[kind.Kind], o)
	}
	return all
}

func only[T any](t *testing.T, all map[string][]any, kind string) *T {
	t.Helper()
	if len(all[kind]) != 1 {
		t.Fatalf("%d of kind %s", len(all[kind]), kind)
	}
	return all[kind][0].(*T)
}

// The pod is as the "restricted" Pod Security Standard asks, and goes further.
func TestThePodMayDoLittle(t *testing.T) {
	standard, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range examples(t) {
		all := objects(t, mustRender(t, string(values)))
		template := only[appsv1.StatefulSet](t, all, "StatefulSet").Spec.Template
		for _, r := range standard.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &template.ObjectMeta, &template.Spec) {
			if !r.Allowed {
				t.Errorf("%s: %s %s", name, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
		pod := template.Spec
		sc := pod.SecurityContext
		if sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || *sc.RunAsUser != 65532 || *sc.RunAsGroup != 65532 || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: the pod runs as %+v", name, sc)
		}
		if pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.InitContainers) > 0 || len(pod.Containers) != 1 {
			t.Errorf("%s: the pod has more than it needs", name)
		}
		c := pod.Containers[0].SecurityContext
		if c == nil || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(c.Capabilities.Add) > 0 {
			t.Errorf("%s: the container may do %+v", name, c)
		}
		if pod.Containers[0].Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: the container has no memory limit", name)
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				t.Errorf("%s: volume %s is of the host", name, v.Name)
			}
		}
	}
}

// A token for the API server is in the pod exactly where certd looks after the cluster
// that it runs in, and so are rights; whoever else uses the ServiceAccount gets none.
func TestATokenIsThereOnlyWhereItIsNeeded(t *testing.T) {
	for name, inCluster := range map[string]bool{"home": true, "everything": true, "bootstrap": true, "elsewhere": false} {
		all := objects(t, mustRender(t, string(examples(t)[name])))
		if sa := only[corev1.ServiceAccount](t, all, "ServiceAccount"); sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken {
			t.Errorf("%s: every pod of ServiceAccount %s gets its token", name, sa.Name)
		}
		pod := only[appsv1.StatefulSet](t, all, "StatefulSet").Spec.Template.Spec
		if got := pod.AutomountServiceAccountToken; got == nil || *got != inCluster {
			t.Errorf("%s: the pod's token is there: %v", name, got)
		}
		if rights := len(all["ClusterRole"]); (rights > 0) != inCluster {
			t.Errorf("%s: %d ClusterRoles", name, rights)
		}
	}
}

// The policies are about the account that the pod runs as, the namespace that Linkerd is
// in, and the Secrets of webhooks that the configuration adds at any place.
func TestThePoliciesAreThoseOfTheRelease(t *testing.T) {
	const values = `config:
  name: a
  keys: {file: {dir: /k}}
  defaults: {linkerd: {namespace: mesh}, webhooks: {extra: [{name: a, secret: {namespace: a, name: a-tls}}]}}
  groups: {quiet: {select: x, webhooks: {extra: [{name: b, secret: {namespace: b, name: b-tls}}]}}}
  clusters: [{name: home, inCluster: true, webhooks: {extra: [{name: c, secret: {namespace: c, name: c-tls}}]}}]
serviceAccount: {name: keeper}
`
	all := objects(t, mustRender(t, values))
	if n := len(all["ValidatingAdmissionPolicy"]); n != 6 || len(all["ValidatingAdmissionPolicyBinding"]) != n {
		t.Fatalf("%d policies, %d bindings", n, len(all["ValidatingAdmissionPolicyBinding"]))
	}
	said := ""
	for _, o := range all["ValidatingAdmissionPolicy"] {
		p := o.(*admissionv1.ValidatingAdmissionPolicy)
		if m := p.Spec.MatchConditions; len(m) != 1 || !strings.HasSuffix(m[0].Expression, " == 'system:serviceaccount:pki:keeper'") {
			t.Errorf("%s is about %v", p.Name, m)
		}
		for _, v := range p.Spec.Variables {
			said += v.Expression + "\n"
		}
		for _, v := range p.Spec.Validations {
			said += v.Expression + "\n"
		}
	}
	for _, want := range []string{"'mesh/linkerd-identity-issuer'", "'mesh/linkerd-identity-trust-roots'", "['mesh']", "'linkerd-viz/tap-k8s-tls'", "'linkerd-jaeger/jaeger-injector-k8s-tls', 'a/a-tls', 'b/b-tls', 'c/c-tls']"} {
		if !strings.Contains(said, want) {
			t.Errorf("the policies do not say %s", want)
		}
	}
	if strings.Contains(said, "'linkerd/") || strings.Contains(said, "['linkerd']") {
		t.Error("the policies know the usual namespace where it is another")
	}
	if without := objects(t, mustRender(t, values+"rbac: {policies: false}\n")); len(without["ValidatingAdmissionPolicy"])+len(without["ValidatingAdmissionPolicyBinding"]) > 0 {
		t.Error("policies nobody asked for")
	}
	c, err := loader.Load("certd")
	if err != nil {
		t.Fatal(err)
	}
	older := release
	older.Kubernetes = "v1.29.14"
	text, err := Render(c, []byte(values), older)
	if err != nil {
		t.Fatal(err)
	}
	if all := objects(t, text); len(all["ValidatingAdmissionPolicy"])+len(all["ValidatingAdmissionPolicyBinding"]) > 0 || len(all["ClusterRole"]) == 0 {
		t.Error("policies where Kubernetes has none")
	}
}

// Vault's login gets a token of its own, which an API server does not take.
func TestVaultGetsATokenOfItsOwn(t *testing.T) {
	for name, audience := range map[string]string{"home": "vault", "everything": "vault.example", "elsewhere": "", "bootstrap": ""} {
		got := ""
		for _, v := range only[appsv1.StatefulSet](t, objects(t, mustRender(t, string(examples(t)[name]))), "StatefulSet").Spec.Template.Spec.Volumes {
			if v.Projected != nil {
				for _, s := range v.Projected.Sources {
					if s.ServiceAccountToken != nil {
						got = s.ServiceAccountToken.Audience + " at " + s.ServiceAccountToken.Path
					}
				}
			}
		}
		if want := audience + " at vault-token"; audience != "" && got != want || audience == "" && got != "" {
			t.Errorf("%s: token for %q, want %q", name, got, audience)
		}
	}
}

// What certd takes over while it runs needs no restart, and the rest gets one.
func TestWhatRestartsThePod(t *testing.T) {
	template := func(values string) corev1.PodTemplateSpec {
		return only[appsv1.StatefulSet](t, objects(t, mustRender(t, values)), "StatefulSet").Spec.Template
	}
	const one = "config: {name: a, keys: {file: {dir: /k}}"
	before := template(one + "}")
	for name, row := range map[string]struct {
		values   string
		restarts bool
	}{
		"another cluster":  {one + ", clusters: [{name: home, inCluster: true}, {name: b, directory: /b}]}", false},
		"another schedule": {one + ", defaults: {issuer: {schedule: '0 4 * * *'}}}", false},
		"other keys":       {"config: {name: a, keys: {file: {dir: /l}}}", true},
		"another port":     {one + ", server: {listen: ':9844'}}", true},
	} {
		if got := !reflect.DeepEqual(template(row.values), before); got != row.restarts {
			t.Errorf("%s restarts the pod: %t", name, got)
		}
	}
}

// The alerts of the chart are those of deploy/alerts.
func TestTheRulesAreThoseOfDeployAlerts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "deploy/alerts/prometheusrule.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := yaml.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	got := *only[map[string]any](t, objects(t, mustRender(t, string(examples(t)["everything"]))), "PrometheusRule")
	if !reflect.DeepEqual(got["spec"], want["spec"]) || want["spec"] == nil {
		t.Error("the chart's PrometheusRule is another than that of deploy/alerts")
	}
}

func TestTheNotesNameTheNextCommands(t *testing.T) {
	c, err := loader.Load("certd")
	if err != nil {
		t.Fatal(err)
	}
	all, err := templates(c, examples(t)["elsewhere"], release)
	if err != nil {
		t.Fatal(err)
	}
	notes := all["certd/templates/NOTES.txt"]
	for _, want := range []string{"kubectl -n pki exec mesh-certd-0 -- certd check --pre", "certd clusters rbac prod-us-1 | kubectl apply -f -"} {
		if !strings.Contains(notes, want) {
			t.Errorf("NOTES.txt does not say %q:\n%s", want, notes)
		}
	}
}
