package rotation

import (
	"maps"
	"slices"
	"time"
)

// Restarts is what certd has had created anew for what it trusts.
type Restarts struct {
	From time.Time            // none since then is left out; zero: it is not known
	At   map[string]time.Time // when last, by what ProxyOwner.object names; replaced, never changed
}

// noted is r with a step that was done, if it is one of these: views go on holding r.
func (r Restarts) noted(in Intent, byOthers bool, p Policy, at time.Time) Restarts {
	if slices.Contains(restartSteps, in.Step) {
		r.At = maps.Clone(r.At)
		r.note(in, byOthers, p, at)
	}
	return r
}

// note is noted in place, for who has r alone.
func (r *Restarts) note(in Intent, byOthers bool, p Policy, at time.Time) {
	if byOthers || !slices.Contains(restartSteps, in.Step) {
		return
	}
	object := in.Object
	if in.Step == StepIdentityRestart || in.Step == StepControlRestart { // named without it
		object = p.Namespace + "/" + object
	}
	if r.At == nil {
		r.At = map[string]time.Time{}
	}
	r.At[object] = at
}

// restarts says whether a change takes restarts in a cluster.
func (f Fleet) restarts(v View) bool {
	_, _, takesPart, err := f.sides(v)
	return (takesPart || err != nil) && !v.Policy.Directory && (v.Observed == nil || v.Observed.Version != "")
}

// workloads counts what makes the meshed pods of a cluster by how these come to trust
// what its bundle turned to; nil where nothing is to be restarted for that, or the
// census is not whole.
func (f Fleet) workloads(v View, d Decision) *WorkloadsStatus {
	c, p := f.Change, v.Proxies
	if c == nil || c.Stage == StageBridge || c.Stage == StageSpread || v.Observed == nil || d.Mode != Managed || !f.restarts(v) {
		return nil
	}
	if p.At.IsZero() || p.At.Before(shown(v).Add(v.Observed.behind())) || p.Err != nil || p.Unread > p.earlier() {
		return nil
	}
	stale := map[string]bool{}
	for _, s := range p.Sets {
		if s.Others > 0 {
			return nil
		}
		for _, o := range s.Owners {
			stale[o.object()] = stale[o.object()] || !s.Anchors.Trusts(d.Bundle)
		}
	}
	for _, o := range p.Earlier {
		stale[o.object()] = true
	}
	w := &WorkloadsStatus{Total: len(stale)}
	restarted, avoided := 0, 0
	for object, left := range stale {
		switch {
		case left:
			w.Stale++
		case !v.Restarts.At[object].Before(v.Observed.BundleWrittenAt.Truncate(time.Second)): // it is in whole seconds
			restarted++
		default:
			avoided++
		}
	}
	if written := v.Observed.BundleWrittenAt; !written.IsZero() && !v.Restarts.From.IsZero() && !v.Restarts.From.After(written) {
		w.Restarted, w.Avoided = &restarted, &avoided
	}
	return w
}

// workloadsOf adds up what is known of several clusters: nothing, where one of them
// could not be counted, and what certd did only where it is known of each.
func workloadsOf(all []*WorkloadsStatus) *WorkloadsStatus {
	if len(all) == 0 || slices.Contains(all, nil) {
		return nil
	}
	sum, restarted, avoided, known := WorkloadsStatus{}, 0, 0, true
	for _, w := range all {
		sum.Total, sum.Stale = sum.Total+w.Total, sum.Stale+w.Stale
		if known = known && w.Restarted != nil && w.Avoided != nil; known {
			restarted, avoided = restarted+*w.Restarted, avoided+*w.Avoided
		}
	}
	if known {
		sum.Restarted, sum.Avoided = &restarted, &avoided
	}
	return &sum
}

// counted are those of the clusters whose pods a change is about, by what was recorded
// of them. Which do not take part, and need none, that does not tell: it is nobody's
// loss that the sum is left out then.
func counted(clusters []ClusterStatus) (all []*WorkloadsStatus) {
	for _, c := range clusters {
		switch {
		case c.Version == "" && c.LastContact != nil: // a folder
		case c.Proxies == nil:
			all = append(all, nil)
		default:
			all = append(all, c.Proxies.Workloads)
		}
	}
	return all
}
