package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"certd.internal/deploy/rbac"
	"certd.internal/rotation"
)

// installed are the objects of a file that the chart was rendered to: those for people
// without Helm, and of deploy/helm's examples.
func installed(t testing.TB, file string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, text)
}

func parsed(t testing.TB, text []byte) (all []*unstructured.Unstructured) {
	t.Helper()
	for doc := range bytes.SplitSeq(text, []byte("---\n")) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
	return all
}

func of(all []*unstructured.Unstructured, kind string) (some []*unstructured.Unstructured) {
	for _, o := range all {
		if o.GetKind() == kind {
			some = append(some, o)
		}
	}
	return some
}

var renderings = []string{"manifests/certd.yaml", "helm/testdata/rendered/home.yaml", "helm/testdata/rendered/elsewhere.yaml", "helm/testdata/rendered/everything.yaml", "helm/testdata/rendered/bootstrap.yaml", "helm/testdata/rendered/standby.yaml"}

// What the chart makes of its values is a configuration that certd takes.
func TestTheChartsConfigurationIsValid(t *testing.T) {
	for _, file := range renderings {
		maps := of(installed(t, file), "ConfigMap")
		if len(maps) != 1 {
			t.Fatalf("%s has %d ConfigMaps", file, len(maps))
		}
		text, _, _ := unstructured.NestedString(maps[0].Object, "data", "certd.yaml")
		path := filepath.Join(t.TempDir(), "certd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "config", "validate", "--config", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// The rights of the chart are those that certd clusters rbac prints, for another
// ServiceAccount, and so are the policies that narrow them.
func TestTheChartGrantsWhatCertdPrints(t *testing.T) {
	for file, row := range map[string]struct {
		cluster  rbac.Cluster
		name, in string
		role     string // the one that is granted alone; "": all are
	}{
		"manifests/certd.yaml":                   {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "certd", Policies: true}, "certd", "certd", ""},
		"helm/testdata/rendered/home.yaml":       {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "pki", Policies: true}, "mesh-certd", "pki", ""},
		"helm/testdata/rendered/bootstrap.yaml":  {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "pki", Bootstrap: true, Policies: true}, "mesh-certd", "pki", ""},
		"helm/testdata/rendered/everything.yaml": {rbac.Cluster{Namespace: "mesh", CheckNamespace: "pki", Viz: true, Jaeger: true, Proxies: true, RestartWorkloads: true, Policies: true}, "keeper", "pki", ""},
		"helm/testdata/rendered/standby.yaml":    {rbac.Cluster{Namespace: "linkerd", CheckNamespace: "pki", Lease: &rbac.Lease{Namespace: "mesh-certd", Name: "acme-mesh"}}, "mesh-certd", "pki", "certd-lease"},
		"helm/testdata/rendered/elsewhere.yaml":  {},
	} {
		t.Run(file, func(t *testing.T) {
			printed := []byte{}
			if row.name != "" {
				printed = rbac.Manifest(row.cluster)
			}
			printed = bytes.ReplaceAll(printed, []byte("system:serviceaccount:certd:certd"), fmt.Appendf(nil, "system:serviceaccount:%s:%s", row.in, row.name))
			want := rights(t, parsed(t, printed), rbacv1.Subject{Kind: "ServiceAccount", Name: row.name, Namespace: row.in})
			if row.name != "" && (len(want) < 16) == row.cluster.Policies {
				t.Fatalf("certd prints %d objects", len(want))
			}
			if row.role != "" {
				maps.DeleteFunc(want, func(name string, _ any) bool { return !strings.HasSuffix(name, "/"+row.role) })
			}
			if diff := cmp.Diff(want, rights(t, installed(t, file), rbacv1.Subject{})); diff != "" {
				t.Errorf("the chart's rights differ (-certd's +chart's):\n%s", diff)
			}
		})
	}
}

// rights are the roles, policies and bindings among objects, by kind, namespace and name, without
// labels. A subject takes the place of those that bindings have, unless it is empty.
func rights(t *testing.T, all []*unstructured.Unstructured, subject rbacv1.Subject) map[string]any {
	t.Helper()
	of := map[string]any{}
	for _, o := range all {
		if !ofRights(o) {
			continue
		}
		o = o.DeepCopy()
		o.SetLabels(nil)
		if _, binds := o.Object["subjects"]; binds && subject.Name != "" {
			o.Object["subjects"] = []any{map[string]any{"kind": subject.Kind, "name": subject.Name, "namespace": subject.Namespace}}
		}
		of[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o.Object
	}
	return of
}

func ofRights(o *unstructured.Unstructured) bool {
	group, _, _ := strings.Cut(o.GetAPIVersion(), "/")
	return group == "rbac.authorization.k8s.io" || group == "admissionregistration.k8s.io"
}

// applier applies objects as helm does, by server-side apply, which leaves no field
// aside that the API server does not know.
type applier struct {
	t      testing.TB
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func (s *site) applier(i int) applier {
	s.t.Helper()
	rc, err := clientcmd.BuildConfigFromFlags("", s.lab.Clusters[i].Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	rc.QPS = -1
	client, err := dynamic.NewForConfig(rc)
	if err != nil {
		s.t.Fatal(err)
	}
	return applier{s.t, client, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.kube[i].Discovery()))}
}

func (a applier) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	a.t.Helper()
	kind := o.GroupVersionKind()
	m, err := a.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		a.t.Fatal(err)
	}
	if o.GetNamespace() == "" {
		return a.client.Resource(m.Resource)
	}
	return a.client.Resource(m.Resource).Namespace(o.GetNamespace())
}

// apply has an object until the test ends; as a dry run, not even now.
func (a applier) apply(o *unstructured.Unstructured, dryRun ...string) {
	a.t.Helper()
	to := a.resource(o)
	_, err := to.Apply(context.Background(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "helm", DryRun: dryRun})
	if err != nil {
		a.t.Fatalf("%s %s/%s: %v", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	if len(dryRun) == 0 {
		a.t.Cleanup(func() {
			now := int64(0)
			if err := to.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
				a.t.Error(err)
			}
		})
	}
}

// ownName gives roles, policies and bindings names of their own: the lab has given another certd the
// same.
func (s *site) ownName(o *unstructured.Unstructured) {
	s.t.Helper()
	if !ofRights(o) {
		return
	}
	o.SetName("chart-" + o.GetName())
	if policy, binds, _ := unstructured.NestedString(o.Object, "spec", "policyName"); binds {
		if err := unstructured.SetNestedField(o.Object, "chart-"+policy, "spec", "policyName"); err != nil {
			s.t.Fatal(err)
		}
	}
	if role, binds, _ := unstructured.NestedString(o.Object, "roleRef", "name"); binds {
		if err := unstructured.SetNestedField(o.Object, "chart-"+role, "roleRef", "name"); err != nil {
			s.t.Fatal(err)
		}
	}
}

// The API server takes every object of the chart.
func TestTheChartsObjectsAreAccepted(t *testing.T) {
	s := newSite(t, 1, daily)
	a := s.applier(0)
	for _, file := range renderings {
		for _, o := range installed(t, file) {
			if strings.HasPrefix(o.GetAPIVersion(), "monitoring.coreos.com/") {
				continue // of the Prometheus operator
			}
			if o.GetNamespace() != "" {
				o.SetNamespace("default")
			}
			s.ownName(o)
			a.apply(o, metav1.DryRunAll)
		}
	}
}

// certd does all its work in the cluster that the chart is installed in with the token of
// the chart's ServiceAccount, under the chart's configuration, and can do no grave thing
// that it does not need.
func TestTheChartInstalled(t *testing.T) {
	s := newSite(t, 1, daily)
	a := s.applier(0)
	ctx := context.Background()
	for _, name := range []string{"linkerd", "pki"} {
		_, err := s.kube[0].CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := s.kube[0].CoreV1().Namespaces().Delete(ctx, "pki", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	all := installed(t, "helm/testdata/rendered/home.yaml")
	for _, o := range all {
		s.ownName(o)
		a.apply(o)
	}

	// The pod comes, and what it mounts is certd's configuration.
	var settings map[string]any
	s.eventually(30*time.Second, func() string {
		text, err := os.ReadFile(filepath.Join(s.lab.Clusters[0].Projections, "pki", "mesh-certd-0", "etc", "certd.yaml"))
		if err != nil {
			return err.Error()
		}
		if err := yaml.Unmarshal(text, &settings); err != nil {
			return err.Error()
		}
		return ""
	})
	token, err := s.kube[0].CoreV1().ServiceAccounts("pki").CreateToken(ctx, "mesh-certd", &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := s.kubeconfig(0, func(c *api.Config) {
		for _, a := range c.AuthInfos {
			*a = api.AuthInfo{Token: token.Status.Token}
		}
	})
	settings["name"] = s.fleet
	settings["stateDir"] = "state"
	settings["server"] = map[string]any{"socket": "certd.sock"}
	settings["clusters"] = []any{map[string]any{"name": "home", "kubeconfig": map[string]any{"file": kubeconfig}}}
	settings["keys"] = map[string]any{"vault": map[string]any{"address": s.lab.Vault.Address, "caFile": s.lab.Vault.CAFile,
		"auth": map[string]any{"appRole": map[string]any{"roleID": s.lab.Vault.RoleID, "secretIDFrom": map[string]any{"file": s.lab.Vault.SecretIDFile}}}}}
	defaults := settings["defaults"].(map[string]any)
	if defaults["webhooks"].(map[string]any)["probeNamespace"] != "pki" {
		t.Fatalf("dry runs are made elsewhere than in the release's namespace: %v", defaults)
	}
	long := map[string]any{"lifetime": "90d", "renewBefore": "61d"}
	defaults["issuer"] = long
	defaults["webhooks"] = map[string]any{"probeNamespace": "pki", "lifetime": "90d", "renewBefore": "61d"}
	text, err := yaml.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	s.write("certd.yaml", string(text))

	s.must("init", "--config", "certd.yaml", "--yes")
	s.must("clusters", "test", "--config", "certd.yaml")
	s.run()
	s.converged()
	s.installIdentity(0)
	s.installWebhooks(0, "control-plane")
	s.eventually(90*time.Second, func() string {
		st, _ := s.status()
		c := st.Clusters[0]
		for _, h := range c.Webhooks {
			if h.Mode != "managed" || h.Served == nil || h.Served.State != "yes" {
				return h.Name + " is not served as it was delivered"
			}
		}
		if len(c.Webhooks) != 3 || st.State != rotation.StateOK || c.Issuer == nil || c.Issuer.Loaded == nil || c.Issuer.Loaded.State != "yes" {
			return fmt.Sprintf("%d webhooks, %s, issuer %+v", len(c.Webhooks), st.State, c.Issuer)
		}
		return ""
	})
	s.must("rotate", "issuer", "home", "--config", "certd.yaml", "--wait", "--yes", "--reason", "test")
	// The policies have been in force all the while.
	thief, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := kubernetes.NewForConfig(thief)
	if err != nil {
		t.Fatal(err)
	}
	_, err = stolen.CoreV1().Secrets("linkerd").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "certd may write no Secrets but those") {
		t.Errorf("a Secret of another name: %v", err)
	}
	if r, code := s.checked("--wait", "60s"); code != 0 {
		t.Errorf("check: exit %d, %v", code, troubles(r))
	}
}
