package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"certd.internal/rotation"
)

var errNever = fmt.Errorf("it bears the label %s: %s: %w", rotation.RestartLabel, rotation.RestartNever, rotation.ErrDenied)

// available says whether the pod of a place is.
func (pl *place) available() bool { return pl.pod != nil && pl.pod.leaf != nil && !pl.unwell }

// Evict implements rotation.Cluster. A pod's successor is there at once, as a
// ReplicaSet makes it, and ready a while later.
func (c *Cluster) Evict(ctx context.Context, namespace string, owner rotation.ObjectRef, e rotation.Eviction) (pods []string, err error) {
	doing := fmt.Sprintf("evict a pod of %s in namespace %s of %s", owner, namespace, c.cfg.Name)
	err = c.do(ctx, CallEvict, func() (err error) {
		if c.linkerd == nil {
			return fmt.Errorf("%s: there is none: %w", doing, rotation.ErrChanged)
		}
		c.linkerd.act(func(now time.Time) { pods, err = c.linkerd.evict(namespace, owner, e, now) })
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		return nil
	})
	return pods, err
}

func (l *linkerd) evict(namespace string, owner rotation.ObjectRef, e rotation.Eviction, now time.Time) (pods []string, err error) {
	var all, stale []*place
	late, up, name := 0, 0, namespace+"/"+owner.Name
	for _, pl := range l.places {
		if pl.namespace != namespace || pl.owner != owner.Name || pl.kind != owner.Kind || pl.kind == "Deployment" {
			continue
		}
		all = append(all, pl)
		if pl.available() {
			up++
		}
		if pl.pod == nil {
			continue
		}
		switch set, err := pl.pod.roots.set(); {
		case err != nil || set.Trusts(e.Wanted):
		case !pl.pod.created.Before(e.Since):
			late++
		default:
			stale = append(stale, pl)
		}
	}
	slices.SortStableFunc(stale, func(a, b *place) int {
		if a.available() != b.available() {
			if b.available() {
				return -1
			}
			return 1
		}
		return a.pod.created.Compare(b.pod.created)
	})
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("there is none: %w", rotation.ErrChanged)
	case l.never[name]:
		return nil, errNever
	case len(stale) == 0 && late > 0:
		return nil, fmt.Errorf("%d of its pods are stale, and younger than the bundle: %w", late, rotation.ErrDenied)
	}
	for i, pl := range stale {
		rest := up
		if pl.available() {
			rest--
		}
		switch need := l.budgets[name]; {
		case e.Whole && i > 0:
			return pods, nil
		case e.Whole && rest < len(all)-1:
			err = fmt.Errorf("%d of its other pods are not available: %w", len(all)-1-rest, rotation.ErrNotNow)
		case pl.available() && rest < need:
			err = fmt.Errorf("the disruption budget %s needs %d healthy pods and has %d: %w", owner.Name, need, up, rotation.ErrNotNow)
		}
		if err != nil && len(pods) == 0 {
			return nil, err
		} else if err != nil {
			return pods, nil
		}
		up = rest
		pods = append(pods, fmt.Sprintf("%s-%d-%d", pl.owner, pl.index, pl.restarts))
		l.remove(pl)
		if roots := l.environment(pl, now); roots != nil {
			pl.pod = &pod{created: now, version: l.version, roots: roots}
		}
		l.later(now.Add(rolloutPace), func(at time.Time) {
			if !pl.available() {
				l.attempt(pl, at)
			}
		})
	}
	return pods, nil
}

// NeverRestart gives an owner of meshed pods the label certd.io/restart: never.
func (c *Cluster) NeverRestart(owner string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) { l.never[appNamespace+"/"+owner] = true })
}

// SetBudget has a PodDisruptionBudget, of the owner's name, want so many of its pods
// available; 0: there is none.
func (c *Cluster) SetBudget(owner string, healthy int) {
	c.onLinkerd(func(l *linkerd, _ time.Time) { l.budgets[appNamespace+"/"+owner] = healthy })
}

// SetUnwell has the pods of a place, "app/app-0-1", not become ready, or be so again.
func (c *Cluster) SetUnwell(place string, unwell bool) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			if pl.String() == place {
				pl.unwell = unwell
			}
		}
	})
}
