// Package rbac is what certd may do in a cluster, as manifests: those of this
// folder, made fit for one cluster. Roles grant it; admission policies narrow down
// what roles cannot.
package rbac

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
)

//go:embed *.yaml
var manifests embed.FS

// Cluster says what a cluster is like, and what certd is to do there.
type Cluster struct {
	Namespace      string // of Linkerd's control plane
	CheckNamespace string // where dry runs are made
	// Bootstrap: Linkerd's namespace is not there yet, and certd is to create it.
	Bootstrap bool

	Viz, Jaeger      bool   // Linkerd's extensions
	Proxies          bool   // to count what pods trust
	RestartWorkloads bool   // while the trust anchor is changed
	Policies         bool   // admission policies; they take Kubernetes 1.30
	Lease            *Lease // by which several certd elect one; nil: it is not here
	Webhooks         []Webhook
}

// Lease names one.
type Lease struct{ Namespace, Name string }

// Webhook is one of the user's own.
type Webhook struct {
	Name, Namespace, Secret string
	Service                 string // "": it is not known
	Mutating, Validating    []string
	APIServices             []string
}

// policyFile has the admission policies.
const policyFile = "certd-policy.yaml"

// lastManaged ends the list of the Secrets that certd may write, in policyFile.
const lastManaged = "'linkerd-jaeger/jaeger-injector-k8s-tls']"

// Manifest is what to apply, one file after another.
func Manifest(c Cluster) []byte {
	files := []string{"certd.yaml"}
	if c.Bootstrap {
		files[0] = "certd-bootstrap.yaml"
	}
	for _, f := range []struct {
		name   string
		wanted bool
	}{{"certd-viz.yaml", c.Viz}, {"certd-jaeger.yaml", c.Jaeger}, {"certd-proxies.yaml", c.Proxies}, {"certd-restart-workloads.yaml", c.RestartWorkloads}, {"certd-lease.yaml", c.Lease != nil}, {policyFile, c.Policies}} {
		if f.wanted {
			files = append(files, f.name)
		}
	}
	var out bytes.Buffer
	for i, name := range files {
		text, err := manifests.ReadFile(name)
		if err != nil {
			panic("a manifest is not in the program: " + name) // a test reads each
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		if name == policyFile {
			out.WriteString(c.policies(string(text)))
			continue
		}
		for j, doc := range strings.Split(strings.TrimRight(string(text), "\n"), "\n---\n") {
			if j > 0 {
				out.WriteString("---\n")
			}
			out.WriteString(c.fitted(doc) + "\n")
		}
	}
	for _, w := range c.Webhooks {
		out.WriteString("---\n" + w.manifest())
	}
	return out.Bytes()
}

// fitted has the names of this cluster's namespaces.
func (c Cluster) fitted(doc string) string {
	lines := strings.Split(doc, "\n")
	check, lease := false, false
	for _, l := range lines {
		check = check || l == "  name: certd-check"
		lease = lease || l == "  name: certd-lease"
	}
	for i, l := range lines {
		switch {
		case l == "  namespace: linkerd":
			lines[i] = "  namespace: " + c.Namespace
		case l == "    resourceNames: [linkerd]":
			lines[i] = "    resourceNames: [" + c.Namespace + "]"
		case check && l == "  namespace: certd":
			lines[i] = "  namespace: " + c.CheckNamespace
		case lease && l == "  namespace: certd":
			lines[i] = "  namespace: " + c.Lease.Namespace
		case lease && l == "    resourceNames: [certd]":
			lines[i] = "    resourceNames: [" + c.Lease.Name + "]"
		}
	}
	return strings.Join(lines, "\n")
}

// policies are those of policyFile for the namespaces of this cluster, and with the
// Secrets of its own webhooks.
func (c Cluster) policies(text string) string {
	own := ""
	for _, w := range c.Webhooks {
		own += fmt.Sprintf(",\n        '%s/%s'", w.Namespace, w.Secret)
	}
	managed := strings.TrimSuffix(lastManaged, "]") + own + "]"
	return strings.NewReplacer(lastManaged, managed, "['linkerd']", "['"+c.Namespace+"']", "'linkerd/", "'"+c.Namespace+"/").Replace(text)
}

// manifest is as certd-webhook.yaml has it, under names of its own: roles of one
// name would take each other's place. What rolls its pods out, the configuration
// does not say; certd names the command instead.
func (w Webhook) manifest() string {
	var b strings.Builder
	name := "certd-webhook-" + w.Name
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	rule := func(group, resource, verbs string, names ...string) {
		say("  - apiGroups: [%q]\n    resources: [%s]", group, resource)
		if len(names) > 0 {
			say("    resourceNames: [%s]", strings.Join(names, ", "))
		}
		say("    verbs: [%s]", verbs)
	}
	say("# The webhook %s of the configuration (webhooks.extra); see certd-webhook.yaml.", w.Name)
	say("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: %s\n  namespace: %s\nrules:", name, w.Namespace)
	rule("", "secrets", "get, watch, patch", w.Secret)
	rule("", "secrets", "create")
	rule("events.k8s.io", "events", "create")
	rule("cert-manager.io", "certificates", "get")
	if w.Service != "" {
		rule("", "services", "get", w.Service)
	}
	rule("", "pods", "list")
	rule("", "pods/portforward", "create")
	say("---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: %s\nrules:", name)
	for _, o := range []struct {
		group, resource string
		names           []string
	}{
		{"admissionregistration.k8s.io", "mutatingwebhookconfigurations", w.Mutating},
		{"admissionregistration.k8s.io", "validatingwebhookconfigurations", w.Validating},
		{"apiregistration.k8s.io", "apiservices", w.APIServices},
	} {
		if len(o.names) > 0 {
			rule(o.group, o.resource, "get, watch, patch", o.names...)
		}
	}
	const subject = "subjects:\n  - {kind: ServiceAccount, name: certd, namespace: certd}"
	say("---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: %s\n  namespace: %s\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %s}\n%s", name, w.Namespace, name, subject)
	say("---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata:\n  name: %s\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}\n%s", name, name, subject)
	return b.String()
}
