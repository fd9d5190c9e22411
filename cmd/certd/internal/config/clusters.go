package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"certd.internal/rotation"
)

// anchorBackdate is how far a new anchor's notBefore lies in the past: no less
// than any issuer's may, so that issuers nest within it.
const anchorBackdate = time.Hour

func (b *builder) clusters() {
	nodes := b.clusterNodes()
	groups := b.groups()
	b.extras(b.doc.sub("defaults"))
	b.windowNames(b.doc.sub("defaults"))
	for _, group := range groups {
		b.extras(group.node)
		b.windowNames(group.node)
	}
	names, targets := map[string]Position{}, map[string]Position{}
	for _, n := range nodes {
		b.extras(n)
		b.windowNames(n)
		cluster := b.cluster(n, groups)
		name := cluster.Policy.Cluster
		if before, twice := names[name]; twice && name != "" {
			b.problems.add(n.sub("name").at, join(n.path, "name"), "%q is the name of another cluster, at %s", name, before)
		} else {
			names[name] = n.at
		}
		if target := cluster.Target(); target != "" {
			if before, twice := targets[target]; twice {
				b.problems.add(n.at, n.path, "%s is the target of another cluster, at %s; two entries for one cluster would write over each other", target, before)
			} else {
				targets[target] = n.at
			}
		}
		b.config.Clusters = append(b.config.Clusters, cluster)
	}
	if len(nodes) == 0 {
		b.config.Warnings.add(b.doc.at, "clusters", "there are none: nothing will be done")
	}
}

// clusterNodes returns the clusters of the file, then those of clustersDir.
func (b *builder) clusterNodes() []*node {
	var nodes []*node
	if list := b.doc.sub("clusters"); list != nil {
		nodes = list.items
	}
	dir := b.doc.sub("clustersDir")
	if dir == nil {
		return nodes
	}
	folder := b.path(layers{{"", b.doc}}, "clustersDir")
	b.config.Read = append(b.config.Read, folder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		b.problems.add(dir.at, "clustersDir", "%s", err)
		return nodes
	}
	table := field{kind: kindObject, fields: clusterFields(), oneOf: clusterTargets()}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".yaml") && !strings.HasSuffix(name, ".yml") {
			continue
		}
		// Problems name files as the configuration does: relative stays relative.
		path := dir.text
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(b.doc.at.File), path)
		}
		d := decoder{file: filepath.Join(path, name)}
		data, err := readFile(filepath.Join(folder, name))
		if err != nil {
			b.problems.add(Position{File: d.file}, "", "%s", err)
			continue
		}
		if n := d.decode(data, table); n != nil {
			nodes = append(nodes, n)
		}
		b.problems = append(b.problems, d.problems...)
	}
	return nodes
}

type group struct {
	name     string
	selector labels.Selector
	node     *node
}

// groups returns the groups, the last of the file first: it wins.
func (b *builder) groups() []group {
	var groups []group
	all := b.doc.sub("groups")
	if all == nil {
		return nil
	}
	for _, name := range all.keys {
		n := all.values[name]
		if selector, err := labels.Parse(n.textOf("select")); err == nil && n.sub("select") != nil {
			groups = append(groups, group{name, selector, n})
		}
	}
	slices.Reverse(groups)
	return groups
}

func (b *builder) cluster(n *node, groups []group) Cluster {
	cluster := Cluster{At: n.at, Policy: rotation.Policy{Cluster: n.textOf("name"), Labels: map[string]string{}}}
	for _, key := range n.sub("labels").keysOf() {
		value := n.sub("labels", key)
		if wrong := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value.text)...); len(wrong) > 0 {
			b.problems.add(value.at, value.path, "%.80q is not a label as in Kubernetes: "+
				"letters, digits, - _ and . (inside), up to 63 of them, and in front of the key perhaps a domain and a slash", key+"="+value.text)
		}
		cluster.Policy.Labels[key] = value.text
	}
	if kubeconfig := n.sub("kubeconfig"); kubeconfig != nil && kubeconfig.sub("file") != nil {
		cluster.Kubeconfig = &Kubeconfig{b.absolute(kubeconfig.sub("file")), kubeconfig.textOf("context")}
		b.private(kubeconfig.sub("file"), cluster.Kubeconfig.File)
	}
	if inCluster := n.sub("inCluster"); inCluster != nil {
		cluster.InCluster = inCluster.flag
	}
	cluster.Policy.KnownAs = n.textOf("knownAs")
	if adopt := n.sub("adopt"); adopt != nil {
		cluster.Policy.Adopt = adopt.flag
	}
	if directory := n.sub("directory"); directory != nil {
		cluster.Directory = b.absolute(directory)
	}
	if target := cluster.Target(); target != "" {
		b.show("clusters["+cluster.Policy.Cluster+"]", target, n, "")
	}

	sources := layers{{"", n}}
	for _, g := range groups {
		if g.selector.Matches(labels.Set(cluster.Policy.Labels)) {
			sources = append(sources, layer{"group " + g.name, g.node})
			cluster.Policy.Groups = append(cluster.Policy.Groups, g.name)
		}
	}
	slices.Reverse(cluster.Policy.Groups)
	if defaults := b.doc.sub("defaults"); defaults != nil {
		sources = append(sources, layer{"", defaults})
	}
	cluster.Policy.Directory = cluster.Directory != ""
	b.policy(&cluster.Policy, sources)
	b.windows(&cluster.Policy, sources)
	b.prove(&cluster.Policy, sources)
	return cluster
}

// Target tells two clusters apart as far as the file can; "" where it says
// nothing, which has been reported.
func (c Cluster) Target() string {
	switch {
	case c.Directory != "":
		if real, err := filepath.EvalSymlinks(c.Directory); err == nil {
			return "directory " + real
		}
		return "directory " + c.Directory
	case c.Kubeconfig != nil && c.Kubeconfig.Context != "":
		return "kubeconfig " + c.Kubeconfig.File + ", context " + c.Kubeconfig.Context
	case c.Kubeconfig != nil:
		return "kubeconfig " + c.Kubeconfig.File
	case c.InCluster:
		return "the cluster certd runs in"
	}
	return ""
}

func (n *node) keysOf() []string {
	if n == nil {
		return nil
	}
	return n.keys
}

// policy fills p with what the layers say, or else the defaults.
func (b *builder) policy(p *rotation.Policy, l layers) {
	table := field{kind: kindObject, fields: policyFields()}
	get := func(path ...string) *node { return b.value(l, table, path...) }
	// The error is nil: the name was checked where it stands.
	zone, _ := time.LoadLocation(get("timeZone").text)
	p.Namespace = get("linkerd", "namespace").text
	p.CreateNamespace = get("linkerd", "createNamespace").flag
	p.TrustDomain = get("linkerd", "trustDomain").text
	p.LeafLifetime = get("linkerd", "leafLifetime").duration
	p.ClockSkew = get("linkerd", "clockSkew").duration
	p.ClockError = get("linkerd", "clockError").duration
	p.Repair = get("repair").duration
	p.Issuer = rotation.RenewalPolicy{
		Lifetime:    get("issuer", "lifetime").duration,
		RenewBefore: get("issuer", "renewBefore").duration,
		Backdate:    get("issuer", "backdate").duration,
		Spread:      get("issuer", "spread").duration,
		EveryFiring: get("issuer", "rotate").text == "every-firing",
	}
	p.Issuer.Schedule, _ = rotation.ParseSchedule(get("issuer", "schedule").text, zone)
	b.webhooks(p, l, get, zone)
	b.foreign(p, l)
}

func (b *builder) webhooks(p *rotation.Policy, l layers, get func(...string) *node, zone *time.Location) {
	length := func(name string) time.Duration { return get("webhooks", name).duration }
	w := &p.Webhooks
	w.Leaf = rotation.RenewalPolicy{Lifetime: length("lifetime"), RenewBefore: length("renewBefore"), Backdate: length("backdate"), Spread: length("spread")}
	w.Leaf.Schedule, _ = rotation.ParseSchedule(get("webhooks", "schedule").text, zone)
	w.CA = w.Leaf
	w.CA.Lifetime, w.CA.RenewBefore, w.CA.Backdate = length("caLifetime"), length("caRenewBefore"), anchorBackdate
	w.Settle, w.Projection, w.ProbeEvery = length("settle"), length("projection"), length("probeEvery")
	w.ProbeNamespace = get("webhooks", "probeNamespace").text

	manage := get("webhooks", "manage").text
	extra, layer := l.find("webhooks", "extra")
	if extra != nil {
		var names []string
		for _, n := range extra.items {
			names = append(names, n.textOf("name"))
		}
		b.show(l.prefix()+".webhooks.extra", strings.Join(names, ", "), extra, layer)
	}
	// Nothing runs in a folder that the API server could call.
	if manage == "none" || p.Directory {
		return
	}
	w.Specs = rotation.LinkerdWebhooks()
	if extra == nil {
		return
	}
	for _, n := range extra.items {
		w.Specs = append(w.Specs, extraSpec(n))
	}
}

// extraSpec reads one webhook of the user's own. What is missing or wrong has
// been reported.
func extraSpec(n *node) rotation.WebhookSpec {
	spec := rotation.WebhookSpec{Name: n.textOf("name"), Namespace: n.textOf("secret", "namespace"), Secret: n.textOf("secret", "name"), Own: true}
	if names := n.sub("dnsNames"); names != nil {
		for _, name := range names.items {
			spec.DNSNames = append(spec.DNSNames, name.text)
		}
	}
	if objects := n.sub("objects"); objects != nil {
		for _, object := range objects.items {
			spec.Objects = append(spec.Objects, rotation.ObjectRef{Kind: object.textOf("kind"), Name: object.textOf("name")})
		}
	}
	return spec
}

// extras reports what is wrong with a list of webhooks as a whole: with two
// entries for one name, Secret or object, each would write over the other.
func (b *builder) extras(layer *node) {
	list := layer.sub("webhooks", "extra")
	if list == nil {
		return
	}
	linkerd := map[string]string{}
	for _, spec := range rotation.LinkerdWebhooks() {
		linkerd["name "+spec.Name], linkerd["secret "+spec.Secret] = spec.Name, spec.Name
		for _, object := range spec.Objects {
			linkerd[object.String()] = spec.Name
		}
	}
	seen := map[string]Position{}
	once := func(n *node, what, key, linkerds string) {
		if n == nil || b.reported(n.path) {
			return
		}
		if owner := linkerd[linkerds]; owner != "" {
			b.problems.add(n.at, n.path, "%s is that of Linkerd's %s, which certd looks after by itself", what, owner)
		} else if before, twice := seen[key]; twice {
			b.problems.add(n.at, n.path, "%s is named a second time, first at %s", what, before)
		}
		seen[key] = n.at
	}
	for _, n := range list.items {
		spec := extraSpec(n)
		once(n.sub("name"), fmt.Sprintf("name %q", spec.Name), "name "+spec.Name, "name "+spec.Name)
		once(n.sub("secret"), "Secret "+spec.Namespace+"/"+spec.Secret, "secret "+spec.Namespace+"/"+spec.Secret, "secret "+spec.Secret)
		if objects := n.sub("objects"); objects != nil {
			for i, object := range objects.items {
				once(object, spec.Objects[i].String(), spec.Objects[i].String(), spec.Objects[i].String())
			}
		}
	}
}

// proof is the outcome of CheckLifetimes for all clusters with one policy.
type proof []rotation.LifetimeProblem

// prove reports lifetimes that could let a certificate lapse, at the value that
// causes it: the field itself, or else what else the file says of it.
func (b *builder) prove(p *rotation.Policy, l layers) {
	if b.reported("issuer", "webhooks", "linkerd", "repair", "timeZone") && !b.proving {
		return
	}
	b.proving = true
	key := fmt.Sprint(p.LeafLifetime, p.ClockSkew, p.Repair, p.Issuer.Lifetime, p.Issuer.RenewBefore, p.Issuer.Backdate,
		p.Issuer.Spread, p.Issuer.Schedule, p.Issuer.Schedule.Zone(),
		len(p.Webhooks.Specs) > 0, p.Webhooks.Leaf, p.Webhooks.CA.Lifetime, p.Webhooks.CA.RenewBefore, p.Webhooks.Projection)
	found, known := b.proofs[key]
	if !known {
		found = p.CheckLifetimes(b.options.Now)
		if b.proofs == nil {
			b.proofs = map[string]proof{}
		}
		b.proofs[key] = found
	}
	for _, problem := range found {
		n := l.culprit(problem.Field)
		switch {
		case n == nil: // all is left to the defaults
			b.problems.add(l[0].node.at, join(l[0].node.path, problem.Field), "%s", problem.Message)
		case strings.HasSuffix("."+n.path, "."+problem.Field):
			b.problems.add(n.at, n.path, "%s", problem.Message)
		default:
			b.problems.add(n.at, n.path, "%s %s", problem.Field, problem.Message)
		}
	}
}

// culprit returns the value to blame for a problem with a field: of all that
// enter into it the one said closest to the cluster, the field itself first.
// It is nil where the file says nothing of them.
func (l layers) culprit(problem string) *node {
	related := map[string][]string{
		"issuer.renewBefore":     {"issuer.renewBefore", "linkerd.leafLifetime", "repair", "linkerd.clockSkew"},
		"issuer.lifetime":        {"issuer.lifetime", "issuer.schedule", "issuer.renewBefore", "issuer.backdate", "issuer.spread"},
		"issuer.schedule":        {"issuer.schedule", "timeZone"},
		"webhooks.renewBefore":   {"webhooks.renewBefore", "repair", "webhooks.projection"},
		"webhooks.lifetime":      {"webhooks.lifetime", "webhooks.schedule", "webhooks.renewBefore", "webhooks.backdate", "webhooks.spread"},
		"webhooks.schedule":      {"webhooks.schedule", "timeZone"},
		"webhooks.caRenewBefore": {"webhooks.caRenewBefore", "webhooks.lifetime"},
		"webhooks.caLifetime":    {"webhooks.caLifetime", "webhooks.schedule", "webhooks.caRenewBefore", "webhooks.lifetime", "webhooks.spread"},
	}
	for _, layer := range l {
		for _, path := range related[problem] {
			if n := layer.node.sub(strings.Split(path, ".")...); n != nil {
				return n
			}
		}
	}
	return nil
}

func (b *builder) trust(fleet layers) {
	trust := rotation.TrustPolicy{
		Lifetime:     b.value(fleet, b.table, "trust", "lifetime").duration,
		RenewBefore:  b.value(fleet, b.table, "trust", "renewBefore").duration,
		Backdate:     anchorBackdate,
		Renews:       b.text(fleet, "trust", "onDue") == "renew",
		Restarts:     b.text(fleet, "trust", "restartWorkloads") == "auto",
		AtOnce:       b.value(fleet, b.table, "trust", "restartsAtOnce").count,
		SecondPerson: b.value(fleet, b.table, "approvals", "retire").count == 2,
	}
	if trust.SecondPerson && slices.ContainsFunc(b.config.Clusters, func(c Cluster) bool { return c.InCluster }) {
		b.config.Warnings.add(fleet.at("approvals", "retire"), "approvals.retire", "is 2, and certd runs in a pod (inCluster): all who may kubectl exec into it are one user there, so that a change of the trust anchor may wait for ever; "+
			"run certd on a host whose users are people, or leave it at 1")
	}
	if k := b.config.Keys; k.Vault != nil && k.Vault.PKI != nil {
		trust.Renews = false // the root is Vault's, and renewed there
	}
	b.config.Trust = trust
	var longest time.Duration
	for _, cluster := range b.config.Clusters {
		longest = max(longest, cluster.Policy.Issuer.Lifetime)
	}
	if b.reported("trust", "issuer.lifetime") {
		return
	}
	for _, problem := range trust.CheckLifetimes(longest) {
		b.problems.add(fleet.at(strings.Split(problem.Field, ".")...), problem.Field, "%s", problem.Message)
	}
}
