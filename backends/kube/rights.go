package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/rotation"
)

// Right is one verb on one kind of object, as RBAC has it.
type Right struct {
	Verb, Group string
	Resource    string // with its subresource: "pods/proxy"
	Name        string // "": all of them
	Namespace   string // "": cluster-wide
	Manifest    string // the file of deploy/rbac that grants it
	// Lost is what certd does without where it is missing; "": it needs it.
	Lost string
}

func (r Right) String() string {
	return call{verb: r.Verb, resource: r.Resource, name: r.Name, in: r.Namespace}.String()
}

// Features are what certd is configured to do in a cluster beyond the usual.
type Features struct {
	CreateNamespace  bool
	RestartWorkloads bool                 // while the trust anchor is changed
	Lease            types.NamespacedName // by which several certd elect one; zero: it is not here
}

// ManifestProxies grants the widest look that certd takes, which not everybody wants.
const ManifestProxies = "certd-proxies.yaml"

// ManifestLease lets several certd elect one by a Lease.
const ManifestLease = "certd-lease.yaml"

// The other files of deploy/rbac.
const (
	manifestMain      = "certd.yaml"
	manifestBootstrap = "certd-bootstrap.yaml"
	manifestViz       = "certd-viz.yaml"
	manifestJaeger    = "certd-jaeger.yaml"
	manifestWebhook   = "certd-webhook.yaml"
	manifestRestart   = "certd-restart-workloads.yaml"
	manifestPolicy    = "certd-policy.yaml" // grants nothing, and narrows the others
)

// What certd does without a right that it can do without.
const (
	lostUse      = "which issuer, and which webhooks' certificates, are really in use cannot be seen"
	lostRestart  = "certd names the command instead of restarting what goes on with an old certificate"
	lostCheck    = "whether webhooks do their work cannot be seen"
	lostCount    = "pods that trust other anchors than the bundle cannot be counted, nor meshes seen that it talks to"
	lostEvents   = "nobody is told by Events"
	lostRenewer  = "whether cert-manager still issues into a Secret that bears its annotation cannot be seen"
	lostValues   = "how Linkerd was installed, and whether its chart writes the same objects, cannot be seen"
	lostWorkload = "certd names what to restart while the trust anchor is changed, and waits"
	lostCronJob  = "a Job whose pods are to be created anew is named without the CronJob that makes it"
)

// rights are those that certd uses in a cluster with these webhooks, whose namespaces
// are filled in where they are, or will be, installed. namespaced says whether
// Linkerd's is there; while it is not, and certd is to make it, its rights have to
// be cluster-wide.
func (c *Cluster) rights(webhooks []rotation.WebhookSpec, f Features, namespaced bool) []Right {
	var all []Right
	add := func(manifest, lost, namespace, group, resource, name string, verbs ...string) {
		for _, verb := range verbs {
			all = append(all, Right{verb, group, resource, name, namespace, manifest, lost})
		}
	}
	ns, main, write := c.cfg.Namespace, manifestMain, []string{"get", "watch", "patch"}
	starting := !namespaced && f.CreateNamespace
	if starting { // no Role can stand in a namespace that does not exist
		ns, main = "", manifestBootstrap
		add(main, "", "", "", "namespaces", "", "create")
	}
	add(main, "", "", "", "namespaces", "kube-system", "get")
	add(main, "", "", "", "namespaces", c.cfg.Namespace, "get", "watch")
	add(main, "", ns, "", "secrets", rotation.IssuerObject, write...)
	add(main, "", ns, "", "configmaps", rotation.BundleObject, write...)
	add(main, "", ns, "", "secrets", "", "create")
	add(main, "", ns, "", "configmaps", "", "create")
	add(main, lostEvents, ns, "events.k8s.io", "events", "", "create")
	add(main, lostUse, ns, "apps", "deployments", identityDeployment, "get")
	add(main, lostUse, ns, "", "pods", "", "list")
	add(main, lostUse, ns, "", "pods/proxy", "", "get")
	if !starting {
		add(main, lostValues, ns, "", "configmaps", linkerdConfig, "get")
		add(main, lostRestart, ns, "apps", "deployments", identityDeployment, "patch")
	}
	add(ManifestProxies, lostCount, "", "", "pods", "", "list")
	add(ManifestProxies, lostCount, "", linksKind.Group, linksKind.Resource, "", "list")
	add(ManifestProxies, lostCount, "", externalKind.Group, externalKind.Resource, "", "list")
	add(ManifestProxies, lostCronJob, "", "batch", "jobs", "", "get")
	if f.RestartWorkloads {
		for _, kind := range []string{"deployments", "statefulsets", "daemonsets"} {
			add(manifestRestart, lostWorkload, "", "apps", kind, "", "get", "patch")
		}
		add(manifestRestart, lostWorkload, "", "apps", "replicasets", "", "get")
		add(manifestRestart, lostWorkload, "", "", "replicationcontrollers", "", "get")
		add(manifestRestart, lostWorkload, "", "", "pods/eviction", "", "create")
	}
	if l := f.Lease; l.Name != "" {
		add(ManifestLease, "", l.Namespace, "coordination.k8s.io", "leases", l.Name, "get", "update")
		add(ManifestLease, "", l.Namespace, "coordination.k8s.io", "leases", "", "create")
	}
	if len(webhooks) > 0 {
		add(main, lostRenewer, ns, "cert-manager.io", "certificates", "", "get")
		if !starting {
			add(main, lostUse, ns, "", "pods/portforward", "", "create")
		}
		add(main, lostCheck, c.cfg.ProbeNamespace, "", "pods", "", "create")
		add(main, lostCheck, c.cfg.ProbeNamespace, serviceProfiles.Group, serviceProfiles.Resource, "", "create")
		add(main, lostCheck, c.cfg.ProbeNamespace, networkAuthentications.Group, networkAuthentications.Resource, "", "create")
	}
	for _, w := range webhooks {
		registered := main
		if w.Own {
			registered = manifestWebhook
		}
		for _, o := range w.Objects {
			kind := kinds[o.Kind]
			add(registered, "", "", kind.Group, kind.Resource, o.Name, write...)
		}
		if w.Namespace == "" {
			continue // not installed
		}
		in, manifest := w.Namespace, c.manifest(call{in: w.Namespace, resource: "secrets"})
		home := w.Namespace == c.cfg.Namespace
		switch {
		case w.Own:
			manifest = manifestWebhook
		case home:
			in, manifest = ns, main
		}
		add(manifest, "", in, "", "secrets", w.Secret, write...)
		if w.Service != "" {
			add(manifest, lostUse, in, "", "services", w.Service, "get")
		}
		for _, d := range deploymentsOf[w.Name] {
			if !home || !starting {
				add(manifest, lostRestart, in, "apps", "deployments", d, "patch")
			}
		}
		if !home {
			add(manifest, "", in, "", "secrets", "", "create")
			add(manifest, lostEvents, in, "events.k8s.io", "events", "", "create")
			add(manifest, lostRenewer, in, "cert-manager.io", "certificates", "", "get")
			add(manifest, lostUse, in, "", "pods", "", "list")
			add(manifest, lostUse, in, "", "pods/portforward", "", "create")
		}
	}
	var once []Right
	for _, r := range all {
		if !slices.Contains(once, r) {
			once = append(once, r)
		}
	}
	return once
}

// deploymentsOf are those that serve Linkerd's webhooks (charts as in
// rotation.LinkerdWebhooks). Who serves others, no configuration says.
var deploymentsOf = map[string][]string{
	"proxy-injector": {"linkerd-proxy-injector"}, "sp-validator": {"linkerd-destination"}, "policy-validator": {"linkerd-destination"},
	"tap": {"tap"}, "tap-injector": {"tap-injector"}, "jaeger-injector": {"jaeger-injector"},
}

// reviewsAtOnce bounds how many questions about rights are put side by side.
const reviewsAtOnce = 8

// missing asks for each right whether certd has it (SelfSubjectAccessReview, which
// everybody may ask).
func (c *Cluster) missing(ctx context.Context, rights []Right) ([]Right, error) {
	lacks := make([]bool, len(rights))
	errs := make([]error, len(rights))
	slots, asking := make(chan struct{}, reviewsAtOnce), sync.WaitGroup{}
	for i, r := range rights {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			resource, sub, _ := strings.Cut(r.Resource, "/")
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Resource: resource, Subresource: sub, Name: r.Name}}}
			answer, err := c.auth.SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if errs[i] = err; err == nil {
				lacks[i] = !answer.Status.Allowed
			}
		})
	}
	asking.Wait()
	var out []Right
	for i, r := range rights {
		if errs[i] != nil {
			return nil, c.fail(call{verb: "create", resource: "selfsubjectaccessreviews"}, errs[i])
		}
		if lacks[i] {
			out = append(out, r)
		}
	}
	return out, nil
}

// excess lists what certd may do and does not use (SelfSubjectRulesReview): what
// writes, what reads Secrets, and what reaches everything. What merely reads is left
// out: many clusters let everybody. Authorizers that cannot list their rules are not
// heard.
func (c *Cluster) excess(ctx context.Context, rights []Right) ([]string, error) {
	// kube-system stands for all that certd has no business in.
	namespaces := []string{"kube-system"}
	for _, r := range rights {
		if r.Namespace != "" && !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
	}
	in := map[string][]string{} // what → where
	var order []string
	for _, ns := range namespaces {
		review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}
		answer, err := c.auth.SelfSubjectRulesReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, c.fail(call{verb: "create", resource: "selfsubjectrulesreviews"}, err)
		}
		for _, rule := range answer.Status.ResourceRules {
			for _, what := range c.beyond(rule, ns, rights) {
				if in[what] == nil {
					order = append(order, what)
				}
				if !slices.Contains(in[what], ns) {
					in[what] = append(in[what], ns)
				}
			}
		}
	}
	var out []string
	for _, what := range order {
		where := "in " + strings.Join(in[what], ", ")
		if len(in[what]) == len(namespaces) {
			where = "everywhere"
		}
		out = append(out, quoteText(what+" "+where))
	}
	return out, nil
}

// beyond is what of a rule in a namespace no right covers.
func (c *Cluster) beyond(rule authorizationv1.ResourceRule, ns string, rights []Right) (out []string) {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	of := map[string][]string{} // verbs → resources
	var order []string
	for _, resource := range rule.Resources {
		var verbs []string
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				if group == "authorization.k8s.io" || group == "authentication.k8s.io" {
					continue // everybody may ask about himself
				}
				for _, name := range names {
					if grave(verb, resource) && !slices.Contains(verbs, verb) && !c.uses(Right{Verb: verb, Group: group, Resource: resource, Name: name, Namespace: ns}, rights) {
						verbs = append(verbs, verb)
					}
				}
			}
		}
		if key := strings.Join(verbs, ", "); key != "" {
			if of[key] == nil {
				order = append(order, key)
			}
			of[key] = append(of[key], resource)
		}
	}
	for _, verbs := range order {
		what := verbs + " " + strings.Join(of[verbs], ", ")
		if len(rule.ResourceNames) > 0 {
			what += fmt.Sprintf(" (%s)", strings.Join(rule.ResourceNames, ", "))
		}
		out = append(out, what)
	}
	return out
}

// grave says whether a right is one that a thief would want.
func grave(verb, resource string) bool {
	return !slices.Contains([]string{"get", "list", "watch"}, verb) || resource == "*" || resource == "secrets"
}

// uses says whether certd uses a right, by these or by one that it cannot name: to
// roll out anew what serves a webhook of the user's own.
func (c *Cluster) uses(has Right, rights []Right) bool {
	own := func(w rotation.WebhookSpec) bool { return w.Own && (w.Namespace == has.Namespace || w.Namespace == "") }
	if has.Group == "apps" && has.Verb == "patch" && has.Name != "" && slices.ContainsFunc(c.cfg.Webhooks, own) {
		return true
	}
	return slices.ContainsFunc(rights, func(r Right) bool {
		return r.Verb == has.Verb && r.Group == has.Group && r.Resource == has.Resource && (r.Name == "" || r.Name == has.Name) && (r.Namespace == "" || r.Namespace == has.Namespace)
	})
}
