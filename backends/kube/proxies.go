package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"certd.internal/backends/kube/payload"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// Names of injected proxies (linkerd2, charts/partials/templates/_proxy.tpl).
const (
	meshedLabel = "linkerd.io/control-plane-ns"
	anchorsEnv  = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"
	// versionAnnotation names a proxy's version (linkerd2, pkg/k8s/labels.go).
	versionAnnotation = "linkerd.io/proxy-version"
)

// notOver selects pods whose containers may run.
const notOver = "status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)

const (
	// censusFor bounds a census as a whole. 100,000 pods take 15 s, ten of them of
	// certd's own work, which it may have to do with part of a processor.
	censusFor = 2 * time.Minute
	// podsPerPage is what kubectl asks for at a time, too.
	podsPerPage = 500
	// propagation is, unless Config.Projection says otherwise, from a change of a
	// ConfigMap to a kubelet that starts containers with it: its cache lives for a
	// minute, its sync for another, and the third is for clocks, since the two times
	// are not by the same one.
	propagation = 3 * time.Minute

	// Pods are made by many, and a server may not be an honest one. These bound
	// what is kept of them; no cluster that Kubernetes supports comes near.
	maxPods        = 1_000_000
	maxTexts       = 200 // different ones, equal sets included
	maxVersions    = 50
	maxAnchorsText = 64 << 10
	maxOdd         = 5
)

// CountProxies implements rotation.Cluster.
func (c *Cluster) CountProxies(ctx context.Context) rotation.Proxies {
	at := time.Now()
	ctx, cancel := context.WithTimeout(quiet(ctx), censusFor)
	defer cancel()
	n := c.newCensus()
	err := c.countPods(ctx, n)
	if expired(err) && n.pods > 0 {
		// What changed since is not in the pages read, so they are read again.
		n = c.newCensus()
		err = c.countPods(ctx, n)
	}
	c.countReferring(ctx, n)
	p := n.proxies()
	c.nameCronJobs(ctx, p)
	p.At, p.Outside = at, c.outside(ctx)
	if err != nil {
		if end := ctx.Err(); end != nil && !errors.Is(err, end) { // what broke off says so in words of its own
			err = fmt.Errorf("%w: %w", err, end)
		}
		p.Err = c.fail(call{verb: "list", resource: "pods"}, err)
		if n.pods > 0 {
			p.Err = fmt.Errorf("the census ended after %d pods: %w", n.pods, p.Err)
		}
	}
	return p
}

func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// countPods adds all meshed pods, page by page, those left out that are over.
func (c *Cluster) countPods(ctx context.Context, n *census) error {
	options := metav1.ListOptions{
		LabelSelector: meshedLabel + "=" + c.cfg.Namespace,
		FieldSelector: notOver,
		Limit:         c.podPage,
	}
	for {
		body, err := c.core.RESTClient().Get().Resource("pods").VersionedParams(&options, scheme.ParameterCodec).
			SetHeader("Accept", podsType).Stream(withItems(ctx))
		if err != nil {
			return err
		}
		options.Continue, err = readPods(body, n.add)
		body.Close()
		if err != nil || options.Continue == "" {
			return err
		}
	}
}

// countReferring adds the pods of the control plane, whose anchors stand in the
// ConfigMap and not in them: kubelet read it when their container started. It is
// read after the pods, so that a change meanwhile makes them unread and not
// wrong.
func (c *Cluster) countReferring(ctx context.Context, n *census) {
	if len(n.referring) == 0 {
		return
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	at := c.managed(rotation.BundleObject)
	cm, err := c.core.ConfigMaps(at.in).Get(ctx, at.name, metav1.GetOptions{})
	var text string
	var changed time.Time
	if err == nil {
		text, changed = string(bundleText(cm)), lastChange(cm.ManagedFields)
	} else {
		err = c.fail(at.call("get"), err)
	}
	for _, r := range n.referring {
		from := fmt.Sprintf("started %s from ConfigMap %s", r.started.UTC().Format(time.RFC3339), at.name)
		switch {
		case r.started.IsZero():
			n.skip(r.pod, "its container "+proxyContainer+" does not run, and is to read ConfigMap "+at.name+" when it starts")
		case err != nil:
			n.skip(r.pod, from+", which cannot be read: "+err.Error())
		case changed.IsZero():
			n.skip(r.pod, from+", which does not tell when it was changed")
		case !r.started.After(changed.Add(cmp.Or(c.cfg.Projection, propagation))):
			n.skip(r.pod, from+", which was changed "+changed.UTC().Format(time.RFC3339))
			n.earlier[r.owner]++
		default:
			n.trusts(r.pod, r.owner, text)
		}
	}
}

// lastChange is when an object was last written by whomever; zero if that is not
// known.
func lastChange(entries []metav1.ManagedFieldsEntry) time.Time {
	var last time.Time
	for _, e := range entries {
		if e.Time != nil && e.Time.After(last) {
			last = e.Time.Time
		}
	}
	return last
}

// census is what has been counted so far.
type census struct {
	linkerd string // namespace of the control plane
	pods    int

	// Nearly all pods have the same text, so each is parsed once; why is in place
	// of a set that cannot be made out.
	texts map[string]reading
	sets  map[string]*tally // by SHA256: texts may differ in order alone

	referring []referring
	unread    int
	odd       []string
	earlier   map[rotation.ProxyOwner]int // with Pods 0: of those unread that read an earlier ConfigMap
	versions  map[string]*versionTally
}

// versionTally are the pods whose proxies are of one version, and a few of their owners.
type versionTally struct {
	pods   int
	owners map[rotation.ProxyOwner]int // with Pods 0
}

type reading struct {
	set *tally
	sum string // of the text
	why string
}

// tally are the pods of one set.
type tally struct {
	anchors pki.Bundle
	sum     string
	pods    int
	owners  map[rotation.ProxyOwner]int // with Pods 0, as below
	texts   map[string]int              // digest → injected pods
	// Of those whose pods are replaced one by one: not ready, and being deleted.
	unready, leaving map[rotation.ProxyOwner]int
}

// referring is a pod whose anchors came out of the ConfigMap; its container does
// not run where started is zero.
type referring struct {
	pod     string
	owner   rotation.ProxyOwner
	started time.Time
}

func (c *Cluster) newCensus() *census {
	return &census{linkerd: c.cfg.Namespace, texts: map[string]reading{}, sets: map[string]*tally{}, earlier: map[rotation.ProxyOwner]int{}, versions: map[string]*versionTally{}}
}

// add counts one pod, of which it keeps nothing but names.
func (n *census) add(p *corev1.Pod) error {
	if n.pods++; n.pods > maxPods {
		return fmt.Errorf("there are more than %d", maxPods)
	}
	proxy := proxyOf(p)
	if proxy == nil {
		return nil
	}
	name := p.Namespace + "/" + p.Name
	n.version(proxyVersion(p, proxy), p)
	switch env := anchorsOf(proxy); {
	case env == nil:
		n.skip(name, "its container "+proxyContainer+" has no "+anchorsEnv)
	case env.ValueFrom == nil:
		by := proxyOwner(p)
		r := n.trusts(name, by, env.Value)
		if r.set != nil && p.Namespace != n.linkerd {
			r.set.texts[r.sum]++
		}
		if r.set != nil && by.Evicted() {
			r.set.note(p, by)
		}
	case env.ValueFrom.ConfigMapKeyRef == nil:
		n.skip(name, anchorsEnv+" comes from elsewhere than a ConfigMap")
	default:
		ref := env.ValueFrom.ConfigMapKeyRef
		if p.Namespace != n.linkerd || ref.Name != rotation.BundleObject || ref.Key != payload.BundleKey {
			n.skip(name, fmt.Sprintf("its anchors come from key %.60q of ConfigMap %.60q", ref.Key, ref.Name))
			break
		}
		n.referring = append(n.referring, referring{name, proxyOwner(p), runningSince(p)})
	}
	return nil
}

// proxyOf is the container that is the proxy, also where it is a native sidecar;
// nil if there is none.
func proxyOf(p *corev1.Pod) *corev1.Container {
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == proxyContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

// anchorsOf is the variable that has a proxy's anchors; nil if there is none. Of
// equal names the last one counts.
func anchorsOf(proxy *corev1.Container) *corev1.EnvVar {
	for i := range slices.Backward(proxy.Env) {
		if proxy.Env[i].Name == anchorsEnv {
			return &proxy.Env[i]
		}
	}
	return nil
}

// runningSince is when the proxy's container started; zero if it does not run.
func runningSince(p *corev1.Pod) time.Time {
	for _, statuses := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for _, s := range statuses {
			if s.Name == proxyContainer && s.State.Running != nil {
				return s.State.Running.StartedAt.Time
			}
		}
	}
	return time.Time{}
}

// proxyOwner is what to restart. Of a Job it cannot tell whether a CronJob made
// it: see nameCronJobs. Kubernetes asks nothing of what an ownerReference names, so a text that is
// no name is taken for none.
func proxyOwner(p *corev1.Pod) rotation.ProxyOwner {
	o := rotation.ProxyOwner{Namespace: p.Namespace, Kind: "Pod", Name: p.Name}
	by := metav1.GetControllerOfNoCopy(p)
	if by == nil || !isName(by.Kind) || !isName(by.Name) {
		return o
	}
	o.Kind, o.Name = by.Kind, by.Name
	if by.Kind == "ReplicaSet" {
		if name := beforeHash(by.Name, p.Labels["pod-template-hash"]); name != "" {
			o.Kind, o.Name = "Deployment", name
		} else if name := beforeHash(by.Name, p.Labels["rollouts-pod-template-hash"]); name != "" {
			o.Kind, o.Name = "Rollout", name // Argo's
		}
	}
	return o
}

// isName says whether a text is fit for a kind or a name, and for the commands that
// people are told to type.
func isName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}

// trusts counts a pod by its anchors.
func (n *census) trusts(pod string, by rotation.ProxyOwner, text string) reading {
	r := n.read(strings.TrimSpace(text))
	if r.set == nil {
		n.skip(pod, r.why)
		return r
	}
	r.set.pods++
	r.set.owners[by]++
	return r
}

// note says how a pod is that is replaced by itself.
func (t *tally) note(p *corev1.Pod, by rotation.ProxyOwner) {
	if p.DeletionTimestamp != nil {
		t.leaving[by]++
	} else if _, ready := readySince(p); !ready {
		t.unready[by]++
	}
}

func (n *census) read(text string) reading {
	r, known := n.texts[text]
	switch {
	case known:
		return r
	case text == "":
		return reading{why: "its anchors are empty"}
	case len(text) > maxAnchorsText:
		return reading{why: fmt.Sprintf("its anchors are %d bytes, more than %d are not read", len(text), maxAnchorsText)}
	case len(n.texts) >= maxTexts:
		return reading{why: fmt.Sprintf("its anchors are another text than %d before it", maxTexts)}
	}
	b, err := pki.ReadBundle([]byte(text + "\n"))
	if err != nil {
		r.why = err.Error()
	} else {
		sum := b.SHA256()
		r.sum = pki.TextSHA256([]byte(text))
		if r.set = n.sets[sum]; r.set == nil {
			r.set = &tally{anchors: b, sum: sum, owners: map[rotation.ProxyOwner]int{}, texts: map[string]int{}, unready: map[rotation.ProxyOwner]int{}, leaving: map[rotation.ProxyOwner]int{}}
			n.sets[sum] = r.set
		}
	}
	n.texts[text] = r
	return r
}

// version counts a pod by its proxy's.
func (n *census) version(version string, p *corev1.Pod) {
	t := n.versions[version]
	if t == nil && len(n.versions) >= maxVersions {
		version = ""
		t = n.versions[version]
	}
	if t == nil {
		t = &versionTally{owners: map[rotation.ProxyOwner]int{}}
		n.versions[version] = t
	}
	t.pods++
	by := proxyOwner(p)
	if _, noted := t.owners[by]; noted || len(t.owners) < rotation.MaxVersionOwners {
		t.owners[by]++
	}
}

// proxyVersion is what a proxy's image says, or, where that says nothing, the annotation
// that the injector leaves; "" where neither does.
func proxyVersion(p *corev1.Pod, proxy *corev1.Container) string {
	image, _, _ := strings.Cut(proxy.Image, "@")
	_, tag, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if _, known := rotation.JudgesTwoCertificates(tag); !known {
		tag = cmp.Or(p.Annotations[versionAnnotation], tag)
	}
	if len(tag) > 64 || !isName(strings.NewReplacer("_", "", "+", "").Replace(tag)) {
		return ""
	}
	return tag
}

// skip counts a pod whose anchors could not be made out, and names it if it is
// one of the first.
func (n *census) skip(pod, why string) {
	if n.unread++; len(n.odd) < maxOdd {
		n.odd = append(n.odd, shortText(pod)+": "+shortText(why))
	}
}

// proxies is the result: the largest first, and by name where that is the same.
func (n *census) proxies() rotation.Proxies {
	p := rotation.Proxies{Unread: n.unread, Odd: n.odd}
	if len(n.earlier) > 0 {
		p.Earlier = (&tally{owners: n.earlier}).set().Owners // there are few in a control plane
	}
	for version, t := range n.versions {
		s := (&tally{owners: t.owners}).set()
		p.Versions = append(p.Versions, rotation.ProxyVersion{Version: version, Pods: t.pods, Owners: s.Owners})
	}
	slices.SortFunc(p.Versions, func(a, b rotation.ProxyVersion) int { return cmp.Or(b.Pods-a.Pods, cmp.Compare(a.Version, b.Version)) })
	var sets []*tally
	for _, t := range n.sets {
		sets = append(sets, t)
	}
	slices.SortFunc(sets, func(a, b *tally) int { return cmp.Or(b.pods-a.pods, cmp.Compare(a.sum, b.sum)) })
	for _, t := range sets {
		p.Sets = append(p.Sets, t.set())
	}
	return p
}

func (t *tally) set() rotation.ProxySet {
	s := rotation.ProxySet{Anchors: t.anchors, Pods: t.pods, Texts: t.texts}
	for o, pods := range t.owners {
		o.Pods, o.Unready, o.Leaving = pods, t.unready[o], t.leaving[o]
		s.Owners = append(s.Owners, o)
	}
	slices.SortFunc(s.Owners, func(a, b rotation.ProxyOwner) int {
		return cmp.Or(b.Pods-a.Pods, cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	if len(s.Owners) > rotation.MaxOwners {
		for _, o := range s.Owners[rotation.MaxOwners:] {
			s.Others += o.Pods
		}
		s.Owners = slices.Clone(s.Owners[:rotation.MaxOwners]) // not to hold on to the rest
	}
	return s
}
