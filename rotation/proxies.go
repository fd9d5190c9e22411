package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Proxies is a census of the meshed pods of a cluster: which anchors each was
// told to trust when it was created. A proxy reads them once, from its
// environment, and never again (linkerd2-proxy, linkerd/app/src/env/identity.rs).
type Proxies struct {
	At   time.Time     // when the census began, by certd's clock
	Took time.Duration // how long it took
	Sets []ProxySet
	// Unread are pods whose environment could not be made out, a few of them
	// named in Odd ("namespace/pod: why").
	Unread int
	Odd    []string
	// Earlier are owners of some of these: pods of the control plane, which read
	// the bundle's ConfigMap before it was last changed. A restart makes them known.
	Earlier []ProxyOwner
	// Versions are those of the proxies of all pods, the most frequent first.
	Versions []ProxyVersion
	// Outside is whom the mesh talks to beyond these pods.
	Outside Outside
	// Err says why there is no census, or why it is not whole; it wraps
	// ErrDenied where certd may not look. What was counted before it stands.
	Err error
}

// ProxySet are the pods that trust one set of anchors.
type ProxySet struct {
	Anchors pki.Bundle
	Pods    int
	// Owners are what to restart, the largest first, at most MaxOwners; Others
	// is how many pods are under none of these.
	Owners []ProxyOwner
	Others int
	// Texts are how the set stands in injected pods: the SHA-256 of the text without
	// white space around it, in lower-case hex, → pods. `linkerd check` compares
	// texts. nil: it was not looked at.
	Texts map[string]int
}

// Outside is whom the mesh of a cluster talks to beyond its own pods.
type Outside struct {
	Links    []Link
	External int   // workloads outside of Kubernetes (ExternalWorkload)
	Err      error // why it could not be seen
}

// Link is an object by which a cluster mirrors the services of another.
type Link struct {
	Name   string // namespace/name
	Target string // what it calls the other cluster
}

// outsider is somebody whom a mesh talks to and whom certd does not look after.
type outsider struct {
	cluster string // whose mesh it is
	kind    string // a Link's text, or the same for all ExternalWorkloads, however many
	text    string
}

func (o outsider) String() string { return o.cluster + ": " + o.text }

// name is how a change keeps who has been seen to.
func (o outsider) name() string { return o.cluster + ": " + o.kind }

// strangers are, of a cluster's outside, whom certd does not look after.
func (f Fleet) strangers(v View) (all []outsider) {
	o := v.Proxies.Outside
	for _, l := range o.Links {
		known := slices.ContainsFunc(f.Policy.Clusters, func(p Policy) bool { return l.Target == cmp.Or(p.KnownAs, p.Cluster) })
		if !known {
			text := fmt.Sprintf("the cluster that Link %s calls %q", l.Name, l.Target)
			all = append(all, outsider{v.Policy.Cluster, text, text})
		}
	}
	if o.External > 0 {
		all = append(all, outsider{v.Policy.Cluster, "ExternalWorkloads", fmt.Sprintf("%d ExternalWorkloads", o.External)})
	}
	return all
}

// beyond names the strangers of a cluster, and says where they could not be seen.
func (f Fleet) beyond(v View) (all []string) {
	for _, o := range f.strangers(v) {
		all = append(all, o.String())
	}
	if o := v.Proxies.Outside; o.Err != nil {
		all = append(all, fmt.Sprintf("%s: whom its mesh talks to outside could not be seen: %v", v.Policy.Cluster, o.Err))
	}
	return all
}

// Outsiders names everybody whom the fleet's meshes talk to, as far as is seen, and
// whom certd does not look after: a change of the trust anchor cuts them off.
func (r *Reconciler) Outsiders() []string {
	f := r.fleet()
	return everywhere(r, f, f.beyond)
}

// everywhere is what there is of a kind in all clusters that are looked at.
func everywhere[T any](r *Reconciler, f Fleet, of func(View) []T) (all []T) {
	views := r.views()
	for _, p := range f.Policy.Clusters {
		if v, ok := views[p.Cluster]; ok {
			all = append(all, of(v)...)
		}
	}
	return all
}

// newcomers are the strangers of a cluster that nobody has said to have seen to: those
// that came while the change was under way.
func (f Fleet) newcomers(v View) (all []outsider) {
	return slices.DeleteFunc(f.strangers(v), func(s outsider) bool { return slices.Contains(f.Change.SeenTo, s.name()) })
}

// MaxOwners bounds how many owners a census names for each set, and
// reportedOwners how many of all a report does.
const (
	MaxOwners      = 5000
	reportedOwners = 50
)

// ProxyOwner is what makes pods: a Deployment, StatefulSet, DaemonSet, Job,
// another kind, or the Pod itself where nothing does.
type ProxyOwner struct {
	Namespace, Kind, Name string
	Pods                  int
	// Of is what makes the owner in its turn, where that was seen: of a Job the
	// CronJob.
	Of ObjectRef
	// Where pods are replaced one by one (see Evicted): how many of them are not
	// ready, and how many are being deleted. Zero for other kinds.
	Unready, Leaving int
}

// Evicted says whether certd has an owner's pods replaced one by one: it keeps up
// their number, and nothing rolls them out anew.
func (o ProxyOwner) Evicted() bool {
	return o.Kind == "ReplicaSet" || o.Kind == "ReplicationController"
}

// object is the owner as the journal names it.
func (o ProxyOwner) object() string {
	return o.Namespace + "/" + ObjectRef{Kind: o.Kind, Name: o.Name}.String()
}

// Total is how many pods were counted, those included that could not be read.
func (p Proxies) Total() int {
	n := p.Unread
	for _, s := range p.Sets {
		n += s.Pods
	}
	return n
}

// earlier is how many of the unread pods are Earlier's.
func (p Proxies) earlier() (pods int) {
	for _, o := range p.Earlier {
		pods += o.Pods
	}
	return pods
}

const (
	// censusEvery is how often the pods are counted while they are as they
	// should be, and where certd may not look; censusSoon while they are not.
	censusEvery = time.Hour
	censusSoon  = 10 * time.Minute
	censusOften = time.Minute // while the trust anchor is changed
	// While certd restarts workloads one after another, each waits for a census:
	// it is made at censusNext, or later where one takes long, so that the API server
	// is busy with it for a twentieth of the time.
	censusNext  = 10 * time.Second
	censusShare = 20
)

// unsettled are, of owners whose pods are replaced one by one, the pods that are
// being deleted, and those with the anchors wanted that are not ready: by what
// object names.
func (p Proxies) unsettled(want pki.Bundle) map[string]int {
	all := map[string]int{}
	for _, s := range p.Sets {
		fresh := s.Anchors.Trusts(want)
		for _, o := range s.Owners {
			if n := o.Leaving; o.Evicted() {
				if fresh {
					n = max(n, o.Unready)
				}
				all[o.object()] += n
			}
		}
	}
	return all
}

// stale are the pods that do not trust exactly the keys that are wanted, and
// whom to restart for it. An anchor's dates are nothing to a proxy.
func (p Proxies) stale(want ...pki.Bundle) (pods int, owners []ProxyOwner) {
	for _, s := range p.Sets {
		if !slices.ContainsFunc(want, s.Anchors.Trusts) {
			pods += s.Pods
			owners = append(owners, s.Owners...)
		}
	}
	return pods, owners
}

// judgeProxies says whether the pods trust what the cluster publishes. A pod
// keeps what it was created with, so only a restart helps.
func (d *Decision) judgeProxies(f Fleet, v View, now time.Time) {
	p := v.Proxies
	if d.Mode != Managed || d.Bundle.IsZero() || v.Observed == nil || v.Observed.Version == "" {
		return
	}
	every := censusEvery
	stale, owners := p.stale(append(d.tolerated, d.Bundle)...)
	if stale > 0 && p.Err == nil {
		every = censusSoon
		d.find(StateWarning, "ProxiesStale", fmt.Sprintf("%d of %d meshed pods trust other anchors than the bundle, since they were created: %s", stale, p.Total(), namesOf(owners, 3)), nil, restartCommand(owners))
	}
	if f.Change != nil {
		every = censusOften
		if stale > 0 && f.Change.Stage == StageRestart && v.restartsUnderWay(now) {
			every = min(censusOften, max(censusNext, censusShare*p.Took))
		}
	}
	switch due := p.At.Add(every); {
	case p.At.IsZero() || !now.Before(due) || p.At.After(now):
		d.Census = true
	case p.Total() > 0: // where there are none, the next regular look will do
		d.lookAt(due)
	}
}

func namesOf(owners []ProxyOwner, most int) string {
	var names []string
	for i, o := range owners {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(owners)-most))
			break
		}
		name := fmt.Sprintf("%s/%s %s", o.Namespace, o.Kind, o.Name)
		if o.Of != (ObjectRef{}) {
			name += fmt.Sprintf(" of %s %s", o.Of.Kind, o.Of.Name)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// restartCommand is what to type for the first of the owners. Who may create
// pods may give them an owner of any name, so only plain ones are repeated.
func restartCommand(owners []ProxyOwner) string {
	for _, o := range owners {
		if command := RestartCommand(o); command != "" {
			return command
		}
	}
	return ""
}

// RestartCommand is what to type for an owner; "" where certd knows of none.
func RestartCommand(o ProxyOwner) string {
	if !plain(o.Namespace) || !plain(o.Name) {
		return ""
	}
	switch o.Kind {
	case "Deployment", "StatefulSet", "DaemonSet":
		return fmt.Sprintf("kubectl -n %s rollout restart %s/%s", o.Namespace, strings.ToLower(o.Kind), o.Name)
	}
	return ""
}

// RestartAdvice says in words how the pods of an owner come to be created anew where
// there is no command for it.
func RestartAdvice(o ProxyOwner) string {
	switch o.Kind {
	case "Job":
		if o.Of.Kind == "CronJob" {
			return fmt.Sprintf("wait for the Job's end, or delete it; the next run of CronJob %s is new already", o.Of.Name)
		}
		return "they are when the Job has ended, or is deleted and made again; a CronJob's next run is new already"
	case "Pod":
		return "delete it and apply its manifest again, for nothing else makes it anew"
	case "ReplicaSet", "ReplicationController":
		return "delete them, a few at a time: their " + o.Kind + " creates others"
	case "Rollout":
		return "kubectl argo rollouts restart, in its namespace"
	case "Node":
		return "they are when kubelet reads their manifest anew"
	}
	return "they are by whatever runs the " + o.Kind
}

// plain says whether a name is one that Kubernetes gives to objects, and no
// option: safe to be typed.
func plain(name string) bool {
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' }
	return name != "" && name[0] != '-' && !strings.ContainsFunc(name, odd)
}

func staleOwner(o ProxyOwner) StaleOwner {
	s := StaleOwner{Namespace: o.Namespace, Kind: o.Kind, Name: o.Name, Pods: o.Pods}
	if o.Of != (ObjectRef{}) {
		s.Of = &OwnerRef{Kind: o.Of.Kind, Name: o.Of.Name}
	}
	return s
}

// proxiesStatus is absent where nothing was counted.
func proxiesStatus(f Fleet, d Decision, v View) *ProxiesStatus {
	p := v.Proxies
	if p.At.IsZero() || p.Total() == 0 && p.Err == nil {
		return nil
	}
	s := &ProxiesStatus{Total: p.Total(), Unknown: p.Unread, At: wholeSecond(p.At), Restart: []StaleOwner{}}
	if p.Err != nil {
		s.Problem = p.Err.Error()
	}
	var owners []ProxyOwner
	s.Stale, owners = p.stale(append(d.tolerated, d.Bundle)...)
	s.Current = s.Total - s.Unknown - s.Stale
	s.Outside = append([]string{}, f.beyond(v)...)
	s.Workloads = f.workloads(v, d)
	slices.SortStableFunc(owners, func(a, b ProxyOwner) int { return b.Pods - a.Pods })
	for _, o := range owners[:min(len(owners), reportedOwners)] {
		s.Restart = append(s.Restart, staleOwner(o))
	}
	return s
}
