package kube

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
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
// other names, other namespaces.
type manifest struct {
	file     string
	roles    []*rbacv1.Role
	clusters []*rbacv1.ClusterRole
}

// elsewhere is the namespace that stands for one that the manifests name, where
// Linkerd's is called ns; "" if they should name no such one.
func elsewhere(name, ns string) string {
	return map[string]string{"linkerd": ns, "certd": ns + "-check", "linkerd-viz": ns + "-viz", "linkerd-jaeger": ns + "-jaeger", "gatekeeper-system": ns + "-gatekeeper"}[name]
}

// renamed is likewise what is cluster-scoped.
func renamed(name, ns string) string {
	switch version, group, isAPI := strings.Cut(name, "."); {
	case name == "kube-system":
		return name
	case name == "linkerd":
		return ns
	case isAPI:
		return version + "." + ns + "." + group
	}
	return name + "-" + ns
}

func readManifest(t testing.TB, file, ns string) *manifest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "rbac", file))
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{file: file}
	bound := map[string]bool{}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch kind.Kind {
		case "Role":
			r := &rbacv1.Role{}
			if err := yaml.UnmarshalStrict(doc, r); err != nil || elsewhere(r.Namespace, ns) == "" {
				t.Fatalf("%s: Role %s in namespace %q: %v", file, r.Name, r.Namespace, err)
			}
			r.Namespace = elsewhere(r.Namespace, ns)
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
			bound[strings.TrimSpace(b.RoleRef.Kind+" "+b.RoleRef.Name+" "+elsewhere(b.Namespace, ns))] = true
		case "Namespace", "ServiceAccount":
		default:
			t.Errorf("%s has a %q", file, kind.Kind)
		}
	}
	for _, r := range m.roles {
		if !bound["Role "+r.Name+" "+r.Namespace] {
			t.Errorf("%s: Role %s in %s is bound to nobody", file, r.Name, r.Namespace)
		}
	}
	for _, r := range m.clusters {
		if !bound["ClusterRole "+r.Name] {
			t.Errorf("%s: ClusterRole %s is bound to nobody", file, r.Name)
		}
		for i := range r.Rules {
			for j, name := range r.Rules[i].ResourceNames {
				if slices.ContainsFunc(r.Rules[i].Resources, isClusterScoped) {
					r.Rules[i].ResourceNames[j] = renamed(name, ns)
				}
			}
		}
	}
	return m
}

func isClusterScoped(resource string) bool {
	return slices.Contains([]string{"namespaces", mutatingResource, validatingResource, apiServiceResource}, resource)
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

// grantTo makes an account of namespace "default", grants it what the manifests
// say and returns the way in.
func grantTo(t testing.TB, account string, admin *kubernetes.Clientset, rc *rest.Config, manifests ...*manifest) Access {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sa, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	must(err)
	t.Cleanup(func() {
		_ = admin.CoreV1().ServiceAccounts("default").Delete(context.Background(), sa.Name, metav1.DeleteOptions{})
	})
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: "default"}}
	var all manifest
	for _, m := range manifests {
		all.roles, all.clusters = append(all.roles, m.roles...), append(all.clusters, m.clusters...)
	}
	for _, r := range all.roles {
		r.Name += "-" + account
		_, err := admin.RbacV1().Roles(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		must(err)
		_, err = admin.RbacV1().RoleBindings(r.Namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: r.Name},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: r.Name}, Subjects: subject}, metav1.CreateOptions{})
		must(err)
	}
	for _, r := range all.clusters {
		r.Name += "-" + account
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
	token, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, account, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
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

// guarded is a namespace of Linkerd's and those of its extensions, with all there
// is for certd to do in them.
type guarded struct {
	*hooks
	bootstrap bool // certd has no more than certd-bootstrap.yaml in Linkerd's namespace
	webhooks  []rotation.WebhookSpec
	anchors   *backendtest.Anchors
	ca        *backendtest.WebhookCA
	epoch     uint64
}

func newGuarded(t testing.TB, bootstrap bool) *guarded {
	t.Helper()
	g := &guarded{hooks: newHooks(t), bootstrap: bootstrap, ca: backendtest.NewWebhookCA(t)}
	g.anchors = backendtest.NewAnchors(t, pki.Identity{Namespace: g.ns, TrustDomain: "cluster.local"})
	for _, name := range []string{"linkerd", "certd", "linkerd-viz", "linkerd-jaeger", "gatekeeper-system"} {
		g.namespace(t, elsewhere(name, g.ns))
	}
	runningIdentity(t, g.admin, g.ns)
	g.webhooks = append(rotation.LinkerdWebhooks(), rotation.WebhookSpec{Name: "gatekeeper", Own: true,
		Service: "gatekeeper-webhook-service", Secret: "gatekeeper-webhook-server-cert", Objects: []rotation.ObjectRef{
			{Kind: rotation.KindMutating, Name: "gatekeeper-mutating-webhook-configuration"}, {Kind: rotation.KindValidating, Name: "gatekeeper-validating-webhook-configuration"}}})
	selector := map[string]string{"webhook": "yes"}
	for i := range g.webhooks {
		w := &g.webhooks[i]
		for j := range w.Objects {
			w.Objects[j].Name = renamed(w.Objects[j].Name, g.ns)
		}
		home := map[string]string{"tap": "linkerd-viz", "tap-injector": "linkerd-viz", "jaeger-injector": "linkerd-jaeger", "gatekeeper": "gatekeeper-system"}[w.Name]
		w.Namespace = elsewhere(cmp.Or(home, "linkerd"), g.ns)
		w.DNSNames = []string{w.Service + "." + w.Namespace + ".svc"}
		g.install(t, rival, *w, g.ca.Set().PEM())
		g.service(t, *w, intstr.FromString("https"), selector)
	}
	for _, name := range []string{"linkerd", "linkerd-viz", "linkerd-jaeger", "gatekeeper-system"} {
		if name != "linkerd" || !bootstrap { // it may not forward ports there
			g.pod(t, elsewhere(name, g.ns), "webhook", selector, 1, running("127.9.9.9", true))
		}
	}
	return g
}

// restarts are the owners that certd may roll out anew, by webhook.
func (g *guarded) restarts() map[string][]string {
	all := map[string][]string{"tap": {"tap"}, "tap-injector": {"tap-injector"}, "jaeger-injector": {"jaeger-injector"}, "gatekeeper": {"gatekeeper-controller-manager"}}
	if !g.bootstrap {
		all["proxy-injector"], all["sp-validator"] = []string{"linkerd-proxy-injector", "linkerd-identity"}, []string{"linkerd-destination"}
	}
	return all
}

// exercise does everything certd ever does in a cluster and returns all that
// was refused: errors, evidence, log.
func (g *guarded) exercise(t testing.TB, access Access) string {
	t.Helper()
	var log records
	var specs []rotation.WebhookSpec
	for _, w := range g.webhooks {
		specs = append(specs, bare(w))
	}
	c, err := New(Config{Cluster: "c", Namespace: g.ns, TrustDomain: "cluster.local", Access: access, Webhooks: specs, ProbeNamespace: elsewhere("certd", g.ns)},
		slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
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
	if !g.bootstrap { // what others wrote is looked at more closely
		g.delete(t, rotation.BundleObject)
		if _, err := g.admin.CoreV1().ConfigMaps(g.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: rotation.BundleObject}, Data: map[string]string{"ca-bundle.crt": string(g.anchors.Bundle(t).PEM())}}, metav1.CreateOptions{FieldManager: rival}); err != nil {
			t.Fatal(err)
		}
		o, err := c.Observe(ctx)
		note(err)
		if k := o.Bundle.Keeper; k != nil {
			refused = append(refused, k.String())
		}
	}
	g.delete(t, rotation.BundleObject)
	g.delete(t, rotation.IssuerObject)
	_, err = c.Observe(ctx) // whether there is a namespace matters where nothing is in it
	note(err)
	if g.bootstrap {
		note(c.CreateNamespace(ctx))
	}
	var bundle, issuer string
	for epoch := range uint64(2) { // first made, then patched
		cred := g.anchors.Issuer(t)
		bundle, err = c.WriteBundle(ctx, rotation.BundleWrite{Revision: bundle, Fleet: "acme", Epoch: epoch, Bundle: g.anchors.Bundle(t)})
		note(err)
		issuer, err = c.WriteIssuer(ctx, rotation.IssuerWrite{Revision: issuer, Fleet: "acme", Epoch: epoch, Credential: &cred, Bundle: g.anchors.Bundle(t)})
		note(err)
	}
	note(c.Event(ctx, rotation.Event{Reason: "CertdIssuerRotated", Object: rotation.IssuerObject, Message: "renewed"}))
	for _, w := range g.webhooks {
		g.takeOver(t, c, w, note)
	}
	o, err := c.Observe(ctx)
	note(err)
	if o.Identity != nil {
		for _, r := range o.Identity.Replicas {
			refused = append(refused, r.Evidence)
		}
	}
	for _, w := range o.Webhooks {
		note(w.Err)
		refused = append(refused, w.Renewer)
	}
	for _, e := range c.ProbeWebhooks(ctx, g.webhooks) {
		refused = append(refused, e.Check.Evidence)
		for _, r := range e.Replicas {
			refused = append(refused, r.Evidence)
		}
	}
	watches := 3 + len(g.webhooks) // three of Linkerd's, one for each Secret and for each object
	for _, w := range g.webhooks {
		watches += len(w.Objects)
	}
	watching, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	c.remember(c.around(), object{}) // as though it were gone: only then it is watched
	go c.Watch(watching, func() {})
	const stands = "watch stands"
	denied := strings.Contains(strings.Join(refused, "\n"), "the verb") // what is not seen is not followed
	for strings.Count(log.String(), stands) < watches && !denied && watching.Err() == nil && !strings.Contains(log.String(), "watch does not stand") {
		time.Sleep(10 * time.Millisecond)
	}
	said := slices.DeleteFunc(strings.Split(log.String(), "\n"), func(line string) bool { return strings.Contains(line, stands) })
	return strings.Join(append(refused, said...), "\n")
}

// takeOver writes all of a webhook, first made, then patched, as one into whose
// Secret cert-manager once issued.
func (g *guarded) takeOver(t testing.TB, c *Cluster, w rotation.WebhookSpec, note func(error)) {
	t.Helper()
	api := g.admin.CoreV1().Secrets(w.Namespace)
	if err := api.Delete(t.Context(), w.Secret, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	cred := g.ca.Serving(t, w.DNSNames...)
	g.epoch++
	write := rotation.WebhookWrite{Spec: w, Fleet: "acme", Epoch: g.epoch, Credential: &cred, CAs: g.ca.Set()}
	_, err := c.WriteWebhook(t.Context(), write)
	note(err)
	g.secretOf(t, w, func(s *corev1.Secret) { metav1.SetMetaDataAnnotation(&s.ObjectMeta, annotationCertificate, "gone") })
	s, err := api.Get(t.Context(), w.Secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write.Revision, write.Serial = s.ResourceVersion, "1"
	_, err = c.WriteWebhook(t.Context(), write)
	note(err)
	for _, o := range w.Objects {
		_, err = c.WriteCABundle(t.Context(), rotation.CABundleWrite{Spec: w, Object: o, Revision: g.get(t, o).GetResourceVersion(), Fleet: "acme", Epoch: g.epoch, CAs: g.ca.Set()})
		note(err)
	}
	for _, name := range g.restarts()[w.Name] {
		note(c.Restart(t.Context(), w.Namespace, rotation.ObjectRef{Kind: "Deployment", Name: name}))
	}
	note(c.Event(t.Context(), rotation.Event{Reason: "CertdWebhookRotated", Object: w.Secret, Namespace: w.Namespace, Message: "renewed"}))
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
	_, rc, admin := lab(t)
	for _, first := range []string{"certd.yaml", "certd-bootstrap.yaml"} {
		bootstrap := first == "certd-bootstrap.yaml"
		g := newGuarded(t, bootstrap)
		files := []string{first, "certd-viz.yaml", "certd-jaeger.yaml", "certd-webhook.yaml"}
		for i, file := range files {
			rows := readManifest(t, file, g.ns).grants()
			switch {
			case i == 0:
				rows = append([]grant{{}}, rows...)
			case bootstrap:
				continue // they were tried beside certd.yaml
			}
			hint := file
			if bootstrap {
				hint = "certd.yaml" // where to go from there
			}
			for j, missing := range rows {
				name := file + "/all of them"
				if missing != (grant{}) {
					name = file + "/all but " + missing.String()
				}
				t.Run(name, func(t *testing.T) {
					var granted []*manifest
					for _, f := range files {
						m := readManifest(t, f, g.ns)
						if f == file {
							m.without(missing)
						}
						granted = append(granted, m)
					}
					account := fmt.Sprintf("certd-%s-%d-%d", g.ns, i, j)
					access := grantTo(t, account, admin, rc, granted...)
					if missing == (grant{}) { // the admission policies take away nothing that is used
						narrow(t, account, g.ns, admin, access)
					}
					// RBAC takes a moment to take effect.
					var refused string
					for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
						refused = g.exercise(t, access)
						denials := slices.DeleteFunc(strings.Split(refused, "\n"), func(s string) bool { return !strings.Contains(s, "the verb") })
						ok := (missing == (grant{})) == (len(denials) == 0)
						for _, d := range denials {
							d = strings.ReplaceAll(d, `\"`, `"`)
							ok = ok && strings.Contains(d, fmt.Sprintf("the verb %q on %q is missing", missing.verb, missing.resource)) && strings.Contains(d, "deploy/rbac/"+hint)
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
}

// What the shipped rights must not allow.
func TestShippedRightsEndThere(t *testing.T) {
	l, rc, admin := lab(t)
	ns := newNamespaceName()
	t.Cleanup(func() { deleteNamespace(admin, ns) })
	if err := open(t, l, ns).CreateNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	own := elsewhere("certd", ns) // a Role of certd.yaml is there, too
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: own}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNamespace(admin, own) })
	access := grantTo(t, "certd-"+ns, admin, rc, readManifest(t, "certd.yaml", ns))
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
		"list the pods of all namespaces": func() error { _, err := certd.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); return err },
		"list namespaces":                 func() error { _, err := certd.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); return err },
		"change linkerd-identity": func() error {
			return certd.AppsV1().Deployments(ns).Delete(ctx, "linkerd-identity", metav1.DeleteOptions{})
		},
		"read an extension's Secret": func() error {
			_, err := certd.CoreV1().Secrets(ns+"-viz").Get(ctx, "tap-k8s-tls", metav1.GetOptions{})
			return err
		},
		"change another webhook": func() error {
			_, err := certd.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "other", metav1.GetOptions{})
			return err
		},
		"delete a webhook": func() error {
			return certd.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, renamed("linkerd-proxy-injector-webhook-config", ns), metav1.DeleteOptions{})
		},
		"restart an application": func() error {
			_, err := certd.AppsV1().Deployments(ns).Patch(ctx, "web", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{})
			return err
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

// granted is a certd with the rights of some shipped files, and an account of
// its own.
func (h *hooks) granted(t *testing.T, account string, files ...string) *Cluster {
	t.Helper()
	_, rc, admin := lab(t)
	var granted []*manifest
	for _, file := range files {
		granted = append(granted, readManifest(t, file, h.ns))
	}
	c, err := New(Config{Cluster: "c", Namespace: h.ns, TrustDomain: "cluster.local", Access: grantTo(t, account+"-"+h.ns, admin, rc, granted...)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// takingEffect asks until done says that RBAC has taken effect, which takes a moment.
func takingEffect(done func() bool) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && !done(); time.Sleep(100 * time.Millisecond) {
	}
}

func oneJob() batchv1.JobSpec {
	return batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: "Never", Containers: []corev1.Container{{Name: "x", Image: "x"}}}}}
}

// Counting proxies takes a file of its own. (It is not one of TestShippedRights:
// who may list all pods may do so in each namespace, and other files' rights to
// that would be idle.)
func TestRightToCountProxies(t *testing.T) {
	h := newHooks(t)
	for _, name := range []string{h.ns, elsewhere("certd", h.ns), h.ns + "-apps"} {
		h.namespace(t, name)
	}
	h.account(t, h.ns+"-apps")
	anchors, _, names := twoSets(t, h.ns)
	h.run(t, meshed(h.ns+"-apps", "p", told(string(anchors.PEM()))), corev1.PodStatus{Phase: corev1.PodRunning})

	without := h.granted(t, "without", "certd.yaml").CountProxies(t.Context())
	if !errors.Is(without.Err, rotation.ErrDenied) || without.Total() != 0 || without.At.IsZero() {
		t.Errorf("without the right: %+v", without)
	} else if !strings.Contains(without.Err.Error(), `the verb "list" on "pods" is missing; grant it: kubectl apply -f deploy/rbac/certd-proxies.yaml`) {
		t.Errorf("without the right: %v", without.Err)
	}

	apps := h.ns + "-apps"
	cron, err := h.admin.BatchV1().CronJobs(apps).Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "nightly"}, Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: oneJob()}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	job, err := h.admin.BatchV1().Jobs(apps).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "nightly-29", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cron, batchv1.SchemeGroupVersion.WithKind("CronJob"))}}, Spec: oneJob()}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	once := meshed(apps, "nightly-29-abcde", told(string(anchors.PEM())))
	once.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))}
	h.run(t, once, corev1.PodStatus{Phase: corev1.PodRunning})

	c := h.granted(t, "with", "certd.yaml", "certd-proxies.yaml")
	var with rotation.Proxies
	takingEffect(func() bool {
		with = c.CountProxies(t.Context())
		return with.Err == nil
	})
	if want := "both: 2 pods\n  Job " + apps + "/nightly-29 1\n  Pod " + apps + "/p 1\n"; summary(with, names) != want || with.Err != nil {
		t.Errorf("with the right:\n%s%v\nwant:\n%s", summary(with, names), with.Err, want)
	}
	if owners := with.Sets[0].Owners; owners[0].Of != (rotation.ObjectRef{Kind: "CronJob", Name: "nightly"}) || owners[1].Of != (rotation.ObjectRef{}) {
		t.Errorf("made by %+v and %+v", owners[0].Of, owners[1].Of)
	}
}
