package kube

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"certd.internal/backends/backendtest"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// manifest is a shipped RBAC file, made fit for a cluster that tests share:
// other names, another namespace.
type manifest struct {
	account  string // of namespace "default"
	ns       string
	roles    []*rbacv1.Role
	clusters []*rbacv1.ClusterRole
}

func readManifest(t testing.TB, file, ns, account string) *manifest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rbac", file))
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{account: account, ns: ns}
	bound := map[string]bool{}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch kind.Kind {
		case "Role":
			r := &rbacv1.Role{}
			if err := yaml.UnmarshalStrict(doc, r); err != nil || r.Namespace != "linkerd" {
				t.Fatalf("%s: Role %s in namespace %q: %v", file, r.Name, r.Namespace, err)
			}
			m.roles = append(m.roles, r)
		case "ClusterRole":
			r := &rbacv1.ClusterRole{}
			if err := yaml.UnmarshalStrict(doc, r); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			m.clusters = append(m.clusters, r)
		case "RoleBinding", "ClusterRoleBinding":
			b := &rbacv1.RoleBinding{}
			if err := yaml.UnmarshalStrict(doc, b); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if s := b.Subjects; len(s) != 1 || s[0].Kind != "ServiceAccount" || s[0].Name != "certd" || s[0].Namespace != "certd" {
				t.Errorf("%s: %s %s binds %v", file, kind.Kind, b.Name, s)
			}
			bound[b.RoleRef.Kind+" "+b.RoleRef.Name] = true
		case "Namespace", "ServiceAccount":
		default:
			t.Errorf("%s has a %q", file, kind.Kind)
		}
	}
	for _, r := range m.roles {
		if !bound["Role "+r.Name] {
			t.Errorf("%s: Role %s is bound to nobody", file, r.Name)
		}
	}
	for _, r := range m.clusters {
		if !bound["ClusterRole "+r.Name] {
			t.Errorf("%s: ClusterRole %s is bound to nobody", file, r.Name)
		}
		for i := range r.Rules {
			for j, name := range r.Rules[i].ResourceNames {
				if name == "linkerd" {
					r.Rules[i].ResourceNames[j] = ns
				}
			}
		}
	}
	return m
}

func (m *manifest) rules() []*rbacv1.PolicyRule {
	var rules []*rbacv1.PolicyRule
	for _, r := range m.roles {
		for i := range r.Rules {
			rules = append(rules, &r.Rules[i])
		}
	}
	for _, r := range m.clusters {
		for i := range r.Rules {
			rules = append(rules, &r.Rules[i])
		}
	}
	return rules
}

// grant takes one right away: verb on resource, where the rule names name.
type grant struct{ verb, resource, name string }

func (g grant) String() string { return strings.TrimSpace(g.verb + " " + g.resource + " " + g.name) }

func (m *manifest) grants() []grant {
	var all []grant
	for _, r := range m.rules() {
		for _, verb := range r.Verbs {
			for _, resource := range r.Resources {
				for _, name := range append(r.ResourceNames, "")[:max(1, len(r.ResourceNames))] {
					all = append(all, grant{verb, resource, name})
				}
			}
		}
	}
	return all
}

// without splits each rule into single rights and leaves one out.
func (m *manifest) without(g grant) {
	split := func(rules []rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, verb := range r.Verbs {
				for _, resource := range r.Resources {
					for _, name := range append(r.ResourceNames, "")[:max(1, len(r.ResourceNames))] {
						if g == (grant{verb, resource, name}) {
							continue
						}
						one := rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: []string{resource}, Verbs: []string{verb}}
						if name != "" {
							one.ResourceNames = []string{name}
						}
						out = append(out, one)
					}
				}
			}
		}
		return out
	}
	for _, r := range m.roles {
		r.Rules = split(r.Rules)
	}
	for _, r := range m.clusters {
		r.Rules = split(r.Rules)
	}
}

// apply grants the account what the manifest says and returns the way in.
func (m *manifest) apply(t testing.TB, admin *kubernetes.Clientset, rc *rest.Config) Access {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sa, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: m.account}}, metav1.CreateOptions{})
	must(err)
	t.Cleanup(func() {
		_ = admin.CoreV1().ServiceAccounts("default").Delete(context.Background(), sa.Name, metav1.DeleteOptions{})
	})
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: m.account, Namespace: "default"}}
	for _, r := range m.roles {
		r.Name, r.Namespace = r.Name+"-"+m.account, m.ns
		_, err := admin.RbacV1().Roles(m.ns).Create(ctx, r, metav1.CreateOptions{})
		must(err)
		_, err = admin.RbacV1().RoleBindings(m.ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: r.Name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: r.Name}, Subjects: subject}, metav1.CreateOptions{})
		must(err)
	}
	for _, r := range m.clusters {
		r.Name += "-" + m.account
		_, err := admin.RbacV1().ClusterRoles().Create(ctx, r, metav1.CreateOptions{})
		must(err)
		_, err = admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: r.Name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.Name}, Subjects: subject}, metav1.CreateOptions{})
		must(err)
		t.Cleanup(func() {
			_ = admin.RbacV1().ClusterRoleBindings().Delete(context.Background(), r.Name, metav1.DeleteOptions{})
			_ = admin.RbacV1().ClusterRoles().Delete(context.Background(), r.Name, metav1.DeleteOptions{})
		})
	}
	seconds := int64(3600)
	token, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, m.account, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	must(err)
	return tokenAccess(t, rc, token.Status.Token)
}

// tokenAccess is a kubeconfig for a bearer token.
func tokenAccess(t testing.TB, rc *rest.Config, token string) Access {
	t.Helper()
	cfg := api.NewConfig()
	cfg.Clusters["c"] = &api.Cluster{Server: rc.Host, CertificateAuthorityData: rc.CAData, CertificateAuthority: rc.CAFile}
	cfg.AuthInfos["u"] = &api.AuthInfo{Token: token}
	cfg.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	text, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	return Access{Data: text}
}

// records keeps what was logged, for tests to search.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// exercise does everything certd ever does in a cluster and returns all that
// was refused: errors, evidence, log.
func exercise(t testing.TB, k kubectl, access Access, createNamespace bool) string {
	t.Helper()
	var log records
	id := pki.Identity{Namespace: k.ns, TrustDomain: "cluster.local"}
	c, err := New(Config{Cluster: "c", Namespace: k.ns, TrustDomain: id.TrustDomain, Access: access}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused []string
	note := func(err error) {
		if err != nil {
			refused = append(refused, err.Error())
		}
	}
	ctx := t.Context()
	k.delete(t, rotation.BundleObject)
	k.delete(t, rotation.IssuerObject)
	if createNamespace {
		note(c.CreateNamespace(ctx))
	}
	anchors := backendtest.NewAnchors(t, id)
	var bundle, issuer string
	for epoch := range uint64(2) { // first made, then patched
		cred := anchors.Issuer(t)
		bundle, err = c.WriteBundle(ctx, rotation.BundleWrite{Revision: bundle, Fleet: "acme", Epoch: epoch, Bundle: anchors.Bundle(t)})
		note(err)
		issuer, err = c.WriteIssuer(ctx, rotation.IssuerWrite{Revision: issuer, Fleet: "acme", Epoch: epoch, Credential: &cred, Bundle: anchors.Bundle(t)})
		note(err)
	}
	note(c.Event(ctx, rotation.Event{Reason: "CertdIssuerRotated", Object: rotation.IssuerObject, Message: "renewed"}))
	o, err := c.Observe(ctx)
	note(err)
	if o.Identity != nil {
		for _, r := range o.Identity.Replicas {
			refused = append(refused, r.Evidence)
		}
	}
	watching, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	stands := make(chan struct{}, 100)
	go c.Watch(watching, func() { stands <- struct{}{} })
	for told := 0; told < 3 && watching.Err() == nil && !strings.Contains(log.String(), "watch does not stand"); {
		select {
		case <-stands:
			told++
		case <-time.After(10 * time.Millisecond):
		}
	}
	return strings.Join(refused, "\n") + "\n" + log.String()
}

// runningIdentity puts a pod of linkerd-identity into the namespace that is
// said to run; the lab's kubelet is told to leave it alone, since it has
// nothing to start from.
func runningIdentity(t testing.TB, admin *kubernetes.Clientset, ns string) {
	t.Helper()
	ctx := t.Context()
	_, err := admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "linkerd-identity-0", Labels: map[string]string{"linkerd.io/control-plane-component": "identity"},
			Annotations: map[string]string{"lab/never-ready": "true"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "identity", Image: "identity"}}},
	}
	if pod, err = admin.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		pod.Status.Phase = corev1.PodRunning
		_, err = admin.CoreV1().Pods(ns).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			break
		}
		if pod, err = admin.CoreV1().Pods(ns).Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The shipped rights suffice, none is idle, and each one that is missing is
// named where it is missed.
func TestShippedRights(t *testing.T) {
	l, rc, admin := lab(t)
	for _, file := range []string{"certd.yaml", "certd-bootstrap.yaml"} {
		bootstrap := file == "certd-bootstrap.yaml"
		ns := newNamespaceName()
		t.Cleanup(func() { deleteNamespace(admin, ns) })
		if err := open(t, l, ns).CreateNamespace(t.Context()); err != nil {
			t.Fatal(err)
		}
		runningIdentity(t, admin, ns)
		k := kubectl{admin, ns}
		rows := append([]grant{{}}, readManifest(t, file, ns, "").grants()...)
		for i, missing := range rows {
			name := file + "/all of them"
			if missing != (grant{}) {
				name = file + "/all but " + missing.String()
			}
			t.Run(name, func(t *testing.T) {
				m := readManifest(t, file, ns, fmt.Sprintf("certd-%s-%d", ns, i))
				m.without(missing)
				access := m.apply(t, admin, rc)
				// RBAC takes a moment to take effect.
				var refused string
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
					refused = exercise(t, k, access, bootstrap)
					denials := slices.DeleteFunc(strings.Split(refused, "\n"), func(s string) bool { return !strings.Contains(s, "the verb") })
					if missing == (grant{}) && len(denials) == 0 {
						return
					}
					ok := missing != (grant{}) && len(denials) > 0
					for _, d := range denials {
						d = strings.ReplaceAll(d, `\"`, `"`)
						resource := missing.resource
						ok = ok && strings.Contains(d, fmt.Sprintf("the verb %q on %q is missing", missing.verb, resource)) && strings.Contains(d, "deploy/rbac/certd.yaml")
					}
					if ok {
						return
					}
				}
				t.Errorf("refused:\n%s", refused)
			})
		}
	}
}

// What the shipped rights must not allow.
func TestShippedRightsEndThere(t *testing.T) {
	l, rc, admin := lab(t)
	ns := newNamespaceName()
	t.Cleanup(func() { deleteNamespace(admin, ns) })
	if err := open(t, l, ns).CreateNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	access := readManifest(t, "certd.yaml", ns, "certd-"+ns).apply(t, admin, rc)
	user, err := access.restConfig()
	if err != nil {
		t.Fatal(err)
	}
	certd, err := kubernetes.NewForConfig(user)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err = certd.CoreV1().Secrets(ns).Get(ctx, rotation.IssuerObject, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			break
		}
	}
	if !apierrors.IsNotFound(err) {
		t.Fatalf("the rights do not take effect: %v", err)
	}
	for what, try := range map[string]func() error{
		"read another Secret": func() error { _, err := certd.CoreV1().Secrets(ns).Get(ctx, "other", metav1.GetOptions{}); return err },
		"list Secrets":        func() error { _, err := certd.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{}); return err },
		"watch all Secrets":   func() error { _, err := certd.CoreV1().Secrets(ns).Watch(ctx, metav1.ListOptions{}); return err },
		"delete the issuer": func() error {
			return certd.CoreV1().Secrets(ns).Delete(ctx, rotation.IssuerObject, metav1.DeleteOptions{})
		},
		"read it elsewhere": func() error {
			_, err := certd.CoreV1().Secrets("default").Get(ctx, rotation.IssuerObject, metav1.GetOptions{})
			return err
		},
		"list namespaces": func() error { _, err := certd.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); return err },
		"change linkerd-identity": func() error {
			return certd.AppsV1().Deployments(ns).Delete(ctx, "linkerd-identity", metav1.DeleteOptions{})
		},
		"run a pod": func() error {
			_, err := certd.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v; want it forbidden", what, err)
		}
	}
}
