package memory

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Scale has a Deployment or ReplicaSet of meshed workloads ("app-0") have so many pods, at
// least one. New ones are created at once; the last to come are the first to go.
func (c *Cluster) Scale(owner string, pods int) {
	owner = strings.TrimPrefix(owner, "deploy/")
	c.onLinkerd(func(l *linkerd, now time.Time) {
		var have []*place
		for _, pl := range l.places {
			if pl.namespace == appNamespace && pl.owner == owner {
				have = append(have, pl)
			}
		}
		if len(have) == 0 {
			return
		}
		for _, pl := range have[min(len(have), max(1, pods)):] {
			l.remove(pl)
			l.places = slices.DeleteFunc(l.places, func(o *place) bool { return o == pl })
		}
		for i := len(have); i < pods; i++ {
			l.attempt(l.addPlace(appNamespace, owner, have[0].kind, i), now)
		}
	})
}

// addPlace makes room for one more pod of an owner.
func (l *linkerd) addPlace(namespace, owner, kind string, index int) *place {
	pl := &place{namespace: namespace, kind: kind, owner: owner, index: index}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %s", l.cfg.Name, pl)
	pl.chance = rand.New(rand.NewPCG(l.cfg.Seed, h.Sum64()))
	l.places = append(l.places, pl)
	return pl
}
