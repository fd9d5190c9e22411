package kube

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/rotation"
)

// everything is Linkerd's webhooks and one of the user's own, where the shipped
// manifests have them, for a Linkerd in namespace ns.
func everything(ns string) []rotation.WebhookSpec {
	all := append(rotation.LinkerdWebhooks(), rotation.WebhookSpec{Name: "gatekeeper", Own: true, Service: "gatekeeper-webhook-service", Secret: "gatekeeper-webhook-server-cert",
		Objects: []rotation.ObjectRef{{Kind: rotation.KindMutating, Name: "gatekeeper-mutating-webhook-configuration"}, {Kind: rotation.KindValidating, Name: "gatekeeper-validating-webhook-configuration"}}})
	for i := range all {
		w := &all[i]
		for j := range w.Objects {
			w.Objects[j].Name = renamed(w.Objects[j].Name, ns)
		}
		w.Namespace = elsewhere("linkerd", ns)
		if home := map[string]string{"tap": "linkerd-viz", "tap-injector": "linkerd-viz", "jaeger-injector": "linkerd-jaeger", "gatekeeper": "gatekeeper-system"}[w.Name]; home != "" {
			w.Namespace = elsewhere(home, ns)
		}
	}
	return all
}

// The table says of each file of deploy/rbac just what it grants.
func TestRightsAreThoseOfTheManifests(t *testing.T) {
	const ns = "mesh"
	c := &Cluster{cfg: Config{Namespace: ns, ProbeNamespace: elsewhere("certd", ns), Webhooks: everything(ns)}}
	used := map[string][]string{}
	for _, r := range c.rights(c.cfg.Webhooks, Features{RestartWorkloads: true}, true) {
		used[r.Manifest] = append(used[r.Manifest], r.Group+" "+r.String())
	}
	for _, file := range []string{manifestMain, manifestViz, manifestJaeger, manifestWebhook, ManifestProxies, manifestRestart} {
		m := readManifest(t, file, ns)
		var granted []string
		grant := func(namespace string, rules []rbacv1.PolicyRule) {
			for _, rule := range rules {
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						for _, verb := range rule.Verbs {
							for _, name := range append(rule.ResourceNames, "")[:max(1, len(rule.ResourceNames))] {
								if name == "gatekeeper-controller-manager" {
									continue // who serves a webhook of one's own, the configuration does not say
								}
								granted = append(granted, group+" "+Right{Verb: verb, Resource: resource, Name: name, Namespace: namespace}.String())
							}
						}
					}
				}
			}
		}
		for _, r := range m.roles {
			grant(r.Namespace, r.Rules)
		}
		for _, r := range m.clusters {
			grant("", r.Rules)
		}
		for _, g := range granted {
			if !slices.Contains(used[file], g) {
				t.Errorf("%s grants %s, which the table does not have", file, g)
			}
		}
		for _, u := range used[file] {
			if !slices.Contains(granted, u) {
				t.Errorf("%s does not grant %s, which the table has", file, u)
			}
		}
	}
	if len(used) != 6 {
		t.Errorf("the table knows %d files", len(used))
	}
	// While Linkerd's namespace is not there, all of it is cluster-wide; what is said of
	// namespaces that exist, such as certd's own, stays with them.
	granted := map[string]bool{}
	for _, g := range readManifest(t, manifestBootstrap, ns).grants() {
		granted[g.String()] = true
	}
	asked := map[string]bool{}
	for _, r := range c.rights(c.specs(rotation.Observation{}), Features{CreateNamespace: true}, false) {
		g := grant{r.Verb, r.Resource, r.Name}.String()
		if asked[g] = true; r.Manifest == manifestBootstrap && !granted[g] {
			t.Errorf("%s does not grant %s, which the table has", manifestBootstrap, r)
		}
		if r.Namespace == ns {
			t.Errorf("%s is asked for in a namespace that does not exist", r)
		}
	}
	for g := range granted {
		if !asked[g] {
			t.Errorf("%s grants %s, which the table does not have", manifestBootstrap, g)
		}
	}
	for _, r := range c.rights(nil, Features{}, true) {
		if strings.Contains(r.Resource, "webhookconfigurations") || r.Namespace == c.cfg.ProbeNamespace {
			t.Errorf("where webhooks are left alone, %s is wanted", r)
		}
	}
}

// With the shipped rights none is missing and none is too much. Each that is missing
// is named with its file, and what a thief would want is told of.
func TestExamineRights(t *testing.T) {
	_, rc, admin := lab(t)
	g := newGuarded(t, false)
	specs := everything(g.ns)
	look := func(access Access, f Features, done func(Examination) bool) (e Examination) {
		t.Helper()
		c, err := New(Config{Cluster: "c", Namespace: g.ns, TrustDomain: "cluster.local", Access: access, Webhooks: specs, ProbeNamespace: elsewhere("certd", g.ns)}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		o := rotation.Observation{Namespace: true}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); { // RBAC takes a moment to take effect
			if e = c.Examine(t.Context(), o, f); done(e) {
				break
			}
		}
		return e
	}
	files := func(names ...string) (all []*manifest) {
		for _, name := range names {
			all = append(all, readManifest(t, name, g.ns))
		}
		return all
	}
	shipped := []string{manifestMain, manifestViz, manifestJaeger, manifestWebhook, ManifestProxies}
	none := func(e Examination) bool { return e.RightsErr == nil && len(e.Missing) == 0 }

	all := grantTo(t, "all-"+g.ns, admin, rc, files(shipped...)...)
	if e := look(all, Features{}, none); !none(e) || len(e.Excess) > 0 {
		t.Errorf("with all that is shipped: missing %v, too much %q, %v", e.Missing, e.Excess, e.RightsErr)
	}
	if e := look(all, Features{RestartWorkloads: true}, func(e Examination) bool { return len(e.Missing) == 9 }); len(e.Missing) != 9 || e.Missing[0].Manifest != manifestRestart || e.Missing[0].Lost == "" {
		t.Errorf("without the right to restart workloads: %v", e.Missing)
	}
	restarts := grantTo(t, "restarts-"+g.ns, admin, rc, files(append(shipped, manifestRestart)...)...)
	if e := look(restarts, Features{RestartWorkloads: true}, none); !none(e) || len(e.Excess) > 0 {
		t.Errorf("with it: missing %v, too much %q", e.Missing, e.Excess)
	}
	if e := look(restarts, Features{}, func(e Examination) bool { return len(e.Excess) > 0 }); !slices.Equal(e.Excess, []string{"patch deployments, statefulsets, daemonsets everywhere", "create pods/eviction everywhere"}) {
		t.Errorf("with it, not configured: too much %q", e.Excess)
	}

	part := files(shipped...)
	part[0].without(grant{"patch", "secrets", rotation.IssuerObject})
	part[0].without(grant{"get", "configmaps", linkerdConfig})
	e := look(grantTo(t, "part-"+g.ns, admin, rc, part...), Features{}, func(e Examination) bool { return len(e.Missing) == 2 })
	if len(e.Missing) != 2 || e.Missing[0].Lost != "" || e.Missing[1].Lost != lostValues ||
		e.Missing[0].String() != "patch secrets linkerd-identity-issuer in namespace "+g.ns || e.Missing[0].Manifest != manifestMain {
		t.Errorf("missing %v, %v", e.Missing, e.RightsErr)
	}

	more := files(shipped...)
	more[0].roles = append(more[0].roles, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more", Namespace: g.ns}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"get", "list"}}, // reading hurts nobody
	}})
	e = look(grantTo(t, "more-"+g.ns, admin, rc, more...), Features{}, func(e Examination) bool { return len(e.Excess) > 0 })
	if len(e.Excess) != 1 || e.Excess[0] != "get, delete secrets in "+g.ns {
		t.Errorf("too much %q", e.Excess)
	}

	// What a new cluster is started with is to be narrowed down.
	start := files(append(shipped, manifestBootstrap)...)
	start[len(shipped)].roles = nil // certd.yaml has it, too
	e = look(grantTo(t, "bootstrap-"+g.ns, admin, rc, start...), Features{CreateNamespace: true}, func(e Examination) bool { return len(e.Excess) > 0 })
	if said := strings.Join(e.Excess, "; "); !strings.Contains(said, "create namespaces, secrets, configmaps") && !strings.Contains(said, "create secrets, configmaps") {
		t.Errorf("too much %q", e.Excess)
	}
	admins := look(Access{File: labKubeconfig(t)}, Features{}, none)
	if !slices.Contains(admins.Excess, "* * everywhere") {
		t.Errorf("an administrator has too much: %q", admins.Excess)
	}
}

func labKubeconfig(t *testing.T) string {
	l, _, _ := lab(t)
	return l.Kubeconfig
}

// How Linkerd was installed stands in a ConfigMap of its own.
func TestExamineLinkerd(t *testing.T) {
	l, _, admin := lab(t)
	ns := newNamespaceName()
	t.Cleanup(func() { deleteNamespace(admin, ns) })
	c := open(t, l, ns)
	if e := c.Examine(t.Context(), rotation.Observation{}, Features{}); e.Linkerd.Found || e.LinkerdErr != nil || e.Labels["kubernetes.io/metadata.name"] != "kube-system" {
		t.Errorf("where nothing is installed: %+v", e)
	}
	if err := c.CreateNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	values := "linkerdVersion: edge-26.8.3\nidentityTrustAnchorsPEM: |\n  pem\nidentity:\n  externalCA: true\n  issuer: {scheme: kubernetes.io/tls}\nproxyInjector: {externalSecret: true}\nprofileValidator: {externalSecret: false}\n"
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: linkerdConfig}, Data: map[string]string{"values": values}}
	cm, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Examine(t.Context(), rotation.Observation{Namespace: true}, Features{}).Linkerd
	if !got.Found || got.Problem != "" || got.Version != "edge-26.8.3" || !got.ExternalCA || got.Scheme != "kubernetes.io/tls" || got.Anchors != "pem\n" ||
		!got.External["proxy-injector"] || got.External["sp-validator"] || got.External["policy-validator"] {
		t.Errorf("%+v", got)
	}
	cm.Data["values"] = "linkerdVersion: [1, 2"
	if _, err := admin.CoreV1().ConfigMaps(ns).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := c.Examine(t.Context(), rotation.Observation{Namespace: true}, Features{}).Linkerd; !got.Found || got.Problem == "" {
		t.Errorf("of another form: %+v", got)
	}
}
