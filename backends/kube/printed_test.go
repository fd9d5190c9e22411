package kube

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"certd.internal/deploy/rbac"
	"certd.internal/rotation"
)

// granted is what a manifest grants ServiceAccount certd/certd.
type granted struct {
	roles    map[string][]rbacv1.PolicyRule // by namespace/name; "" for cluster-wide
	bindings []rbacv1.RoleBinding
}

func readGranted(t *testing.T, text []byte) granted {
	t.Helper()
	g := granted{roles: map[string][]rbacv1.PolicyRule{}}
	seen := map[string]bool{}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var kind metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		id := kind.Kind + " " + kind.Namespace + "/" + kind.Name
		if seen[id] {
			t.Errorf("%s is there twice: the second takes the first one's place", id)
		}
		seen[id] = true
		switch kind.Kind {
		case "Role", "ClusterRole":
			var r rbacv1.ClusterRole
			if err := yaml.UnmarshalStrict(doc, &r); err != nil {
				t.Fatal(err)
			}
			g.roles[kind.Kind+" "+kind.Namespace+"/"+kind.Name] = r.Rules
		case "RoleBinding", "ClusterRoleBinding":
			var b rbacv1.RoleBinding
			if err := yaml.UnmarshalStrict(doc, &b); err != nil {
				t.Fatal(err)
			}
			g.bindings = append(g.bindings, b)
		case "Namespace", "ServiceAccount":
		default:
			t.Errorf("a %q", kind.Kind)
		}
	}
	return g
}

func (g granted) has(r Right) bool {
	for _, b := range g.bindings {
		if b.Namespace != "" && b.Namespace != r.Namespace {
			continue
		}
		in := b.Namespace
		if b.RoleRef.Kind == "ClusterRole" {
			in = ""
		}
		for _, rule := range g.roles[b.RoleRef.Kind+" "+in+"/"+b.RoleRef.Name] {
			if slices.Contains(rule.APIGroups, r.Group) && slices.Contains(rule.Resources, r.Resource) && slices.Contains(rule.Verbs, r.Verb) && (len(rule.ResourceNames) == 0 || r.Name != "" && slices.Contains(rule.ResourceNames, r.Name)) {
				return true
			}
		}
	}
	return false
}

// What `certd clusters rbac` prints grants every right that certd uses in such a
// cluster.
func TestPrintedManifestsGrantWhatIsUsed(t *testing.T) {
	quota := rotation.WebhookSpec{Name: "quota", Own: true, Namespace: "quota-system", Secret: "quota-tls", Service: "quota",
		Objects: []rotation.ObjectRef{{Kind: rotation.KindMutating, Name: "quota-m"}, {Kind: rotation.KindValidating, Name: "quota-v"}, {Kind: rotation.KindAPIService, Name: "v1.quota.example"}}}
	other := rotation.WebhookSpec{Name: "other", Own: true, Namespace: "quota-system", Secret: "other-tls", Service: "other", Objects: []rotation.ObjectRef{{Kind: rotation.KindValidating, Name: "other"}}}
	linkerds := func(viz, jaeger bool) (specs []rotation.WebhookSpec) {
		for _, s := range rotation.LinkerdWebhooks() {
			switch {
			case strings.HasPrefix(s.Name, "tap"):
				if viz {
					s.Namespace = "linkerd-viz"
				}
			case s.Name == "jaeger-injector":
				if jaeger {
					s.Namespace = "linkerd-jaeger"
				}
			default:
				s.Namespace = "mesh"
			}
			specs = append(specs, s)
		}
		return specs
	}
	for _, row := range []struct {
		name     string
		cluster  rbac.Cluster
		webhooks []rotation.WebhookSpec
		features Features
		there    bool // Linkerd's namespace
	}{
		{"the usual", rbac.Cluster{}, linkerds(false, false), Features{}, true},
		{"without webhooks", rbac.Cluster{}, nil, Features{}, true},
		{"with everything", rbac.Cluster{Viz: true, Jaeger: true, Proxies: true, RestartWorkloads: true, Webhooks: own(quota, other)}, append(linkerds(true, true), quota, other), Features{RestartWorkloads: true}, true},
		{"webhooks of one's own", rbac.Cluster{Webhooks: own(quota, other)}, append(linkerds(false, false), quota, other), Features{}, true},
		{"the extensions", rbac.Cluster{Viz: true, Jaeger: true}, linkerds(true, true), Features{}, true},
		{"before Linkerd's namespace", rbac.Cluster{Bootstrap: true}, linkerds(false, false), Features{CreateNamespace: true}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.cluster.Namespace, row.cluster.CheckNamespace = "mesh", "certd-dry"
			g := readGranted(t, rbac.Manifest(row.cluster))
			c := &Cluster{cfg: Config{Namespace: "mesh", ProbeNamespace: "certd-dry", Webhooks: row.webhooks}}
			n := 0
			for _, r := range c.rights(row.webhooks, row.features, row.there) {
				if r.Manifest == ManifestProxies && !row.cluster.Proxies {
					continue
				}
				if r.Namespace == "certd-dry" && r.Resource != "pods" && r.Resource != "serviceprofiles" && r.Resource != "networkauthentications" {
					t.Errorf("an odd right: %s", r)
				}
				if n++; !g.has(r) {
					t.Errorf("%s %s (%s) is not granted", r.Group, r, r.Manifest)
				}
			}
			if n < 15 {
				t.Errorf("only %d rights were looked at", n)
			}
		})
	}
}

// own is how the configuration's webhooks are told to package rbac.
func own(specs ...rotation.WebhookSpec) (all []rbac.Webhook) {
	for _, s := range specs {
		w := rbac.Webhook{Name: s.Name, Namespace: s.Namespace, Secret: s.Secret, Service: s.Service}
		for _, o := range s.Objects {
			switch o.Kind {
			case rotation.KindMutating:
				w.Mutating = append(w.Mutating, o.Name)
			case rotation.KindValidating:
				w.Validating = append(w.Validating, o.Name)
			case rotation.KindAPIService:
				w.APIServices = append(w.APIServices, o.Name)
			default:
				panic(fmt.Sprint("an object of another kind: ", o))
			}
		}
		all = append(all, w)
	}
	return all
}
