package memory

import (
	"maps"
	"strings"
	"time"
)

// RollOut replaces the pods of a Deployment one after another, or a person does
// those of a ReplicaSet, each once its successor is ready: "linkerd-identity", "linkerd-destination",
// "linkerd-proxy-injector" or "deploy/app-N". Another rollout of the same ends
// this one. A name that there is not does nothing.
func (c *Cluster) RollOut(owner string) {
	owner = strings.TrimPrefix(owner, "deploy/")
	c.onLinkerd(func(l *linkerd, now time.Time) {
		if !l.rollOut(l.cfg.Namespace, owner, ByWorld, now) {
			l.rollOut(appNamespace, owner, ByWorld, now)
		}
	})
}

// restart is RollOut for certd; it says whether there is such a Deployment.
func (l *linkerd) restart(namespace, owner string) (known bool) {
	for _, pl := range l.places {
		if pl.namespace == namespace && pl.owner == owner && pl.kind != "Deployment" {
			return false
		}
	}
	l.act(func(now time.Time) { known = l.rollOut(namespace, owner, ByCertd, now) })
	return known
}

// rollOut says whether there is such an owner.
func (l *linkerd) rollOut(namespace, owner, by string, now time.Time) bool {
	turns := l.turns(namespace, owner)
	if len(turns) == 0 {
		return false
	}
	name := namespace + "/" + owner
	l.rollouts[name]++
	l.rolledOut[name] = written{now, by}
	rollout := l.rollouts[name]
	var turn func(i, tries int) func(at time.Time)
	turn = func(i, tries int) func(at time.Time) {
		return func(at time.Time) {
			if l.rollouts[name] != rollout || i == len(turns) {
				return
			}
			if turns[i](at) {
				l.later(at.Add(rolloutPace), turn(i+1, 0))
			} else {
				l.later(at.Add(backOff(tries+1)), turn(i, tries+1))
			}
		}
	}
	l.later(now, turn(0, 0))
	return true
}

// lastRollOut is when a rollout last began, and by whom; zero: never.
func (l *linkerd) lastRollOut(namespace, owner string) written {
	if l == nil {
		return written{}
	}
	return l.rolledOut[namespace+"/"+owner]
}

// turns are what a rollout does, pod by pod; each says whether the new one was
// ready and has taken its place.
func (l *linkerd) turns(namespace, owner string) (turns []func(at time.Time) bool) {
	if namespace == l.cfg.Namespace && owner == "linkerd-identity" {
		for _, r := range l.replicas {
			told := false
			turns = append(turns, func(at time.Time) bool {
				v := l.files
				if v.roots == nil || v.issuer == nil {
					return false
				}
				if err := l.loads(v.issuer, v.roots, at); err != nil {
					if !told {
						l.crashes("a new pod in the place of "+r.pod(), v, at, err)
					}
					told = true
					return false
				}
				l.renew(r, v, nil, at)
				return true
			})
		}
		return turns
	}
	for _, pl := range l.places {
		if pl.namespace == namespace && pl.owner == owner {
			pl.next = nil
			turns = append(turns, func(at time.Time) bool { return l.succeed(pl, at) })
		}
	}
	return turns
}

// succeed has a new pod take the place of another if it can.
func (l *linkerd) succeed(pl *place, at time.Time) bool {
	if pl.next == nil {
		roots := l.environment(pl, at)
		if roots == nil {
			return false
		}
		pl.next = &pod{created: at, version: l.version, roots: roots}
	}
	if l.obtain(pl, pl.next, at) != nil {
		return false
	}
	next := pl.next
	l.remove(pl)
	pl.pod = next
	if pl.injector != nil {
		pl.injector.started = at
	}
	l.ready(pl, at)
	return true
}

// RestartProxy replaces a pod at once, ready or not: "app/app-0-1".
func (c *Cluster) RestartProxy(place string) {
	c.onLinkerd(func(l *linkerd, now time.Time) {
		for _, pl := range l.places {
			switch {
			case pl.String() != place:
			case pl.replica != nil:
				l.renew(pl.replica, l.files, nil, now)
			default:
				l.remove(pl)
				if pl.injector != nil {
					pl.injector.started = now
				}
				l.attempt(pl, now)
			}
		}
	})
}

// HideProxy leaves a pod, and those that follow it, out of the census.
func (c *Cluster) HideProxy(place string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			pl.hidden = pl.hidden || pl.String() == place
		}
	})
}

// ShowProxy takes back what HideProxy did.
func (c *Cluster) ShowProxy(place string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			pl.hidden = pl.hidden && pl.String() != place
		}
	})
}

// Places are where pods with proxies are: "app/app-0-1".
func (c *Cluster) Places() (all []string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			all = append(all, pl.String())
		}
	})
	return all
}

// Down are the places of apps whose pod is not available: "app/app-0-1".
func (c *Cluster) Down() (all []string) {
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, pl := range l.places {
			if pl.namespace == appNamespace && !pl.available() {
				all = append(all, pl.String())
			}
		}
	})
	return all
}

// Restarts counts by place how often its pod was replaced; a place where it
// never was is not in it.
func (c *Cluster) Restarts() map[string]int {
	n := map[string]int{}
	c.onLinkerd(func(l *linkerd, _ time.Time) {
		for _, r := range l.replicas {
			n[l.cfg.Namespace+"/"+(&replica{index: r.index}).pod()] = r.restarts
		}
		for _, pl := range l.places {
			n[pl.String()] = pl.restarts
		}
	})
	maps.DeleteFunc(n, func(_ string, n int) bool { return n == 0 })
	return n
}
