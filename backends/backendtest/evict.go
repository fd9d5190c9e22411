package backendtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// EvictHands reach behind a cluster's back where its pods are concerned. They are
// about ReplicaSet app-0, which no Deployment owns.
type EvictHands struct {
	Namespace string
	// Old is what its three pods trust, New what those do that come in their place.
	Old, New pki.Bundle
	// Label gives it the label certd.io/restart: never.
	Label func(t testing.TB)
	// Budget has a PodDisruptionBudget of its name want so many of its pods available.
	Budget func(t testing.TB, healthy int)
	// Unwell has one of its pods that trust Old, the next by name each time, not be
	// available.
	Unwell func(t testing.TB)
	// Settle waits until it has three pods, all of them available.
	Settle func(t testing.TB)
	// Pods says of each of its pods that is not being deleted whether it trusts New.
	Pods func(t testing.TB) map[string]bool
}

// evictName is the owner's.
const evictName = "app-0"

// TestEvictions checks that what open returns keeps the promises of rotation.Cluster
// about evictions. open returns a cluster with ReplicaSet app-0, all of whose pods are
// available, another one at each call; in runs a test, where time may be virtual.
func TestEvictions(t *testing.T, in func(t *testing.T, test func(t *testing.T)), open func(t *testing.T) (rotation.Cluster, EvictHands)) {
	for _, row := range []struct {
		name string
		test func(t *testing.T, w *evictWorld)
	}{
		{"one pod after another is replaced, each when the one before has a successor", evictInTurn},
		{"who trusts what is wanted stays", evictFresh},
		{"who was created since stays, and is told of", evictYoung},
		{"an owner with the label is left to people", evictLabelled},
		{"a budget is kept to, and named", evictBudget},
		{"a budget is kept to where none waits for another", evictBudgetAtOnce},
		{"a pod that is not available is the first", evictUnwell},
		{"where none waits for another all go at once", evictAtOnce},
		{"what is not there, or is something else, is refused", evictNobody},
		{"a call whose context has ended does nothing", evictEnded},
	} {
		t.Run(row.name, func(t *testing.T) {
			in(t, func(t *testing.T) {
				c, hands := open(t)
				defer func() {
					if err := c.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				}()
				row.test(t, &evictWorld{hands, c})
			})
		})
	}
}

type evictWorld struct {
	EvictHands
	c rotation.Cluster
}

// wants is an eviction of everybody who does not trust New.
func (w *evictWorld) wants() rotation.Eviction {
	return rotation.Eviction{Since: time.Now().Add(time.Minute), Wanted: w.New, Whole: true}
}

func (w *evictWorld) evict(t testing.TB, e rotation.Eviction) ([]string, error) {
	return w.c.Evict(t.Context(), w.Namespace, rotation.ObjectRef{Kind: "ReplicaSet", Name: evictName}, e)
}

// refused checks that nothing was done, for a reason that says so.
func (w *evictWorld) refused(t testing.TB, e rotation.Eviction, want error, says ...string) {
	t.Helper()
	before := w.Pods(t)
	pods, err := w.evict(t, e)
	if len(pods) > 0 || !errors.Is(err, want) {
		t.Errorf("evicted %v, %v; want %v", pods, err, want)
	}
	for _, s := range says {
		if err != nil && !strings.Contains(err.Error(), s) {
			t.Errorf("%v; want it to say %q", err, s)
		}
	}
	if after := w.Pods(t); !maps.Equal(before, after) {
		t.Errorf("pods are %v, and were %v", after, before)
	}
}

// one evicts one pod, which did not trust New, and returns its name.
func (w *evictWorld) one(t testing.TB, e rotation.Eviction) string {
	t.Helper()
	before := w.Pods(t)
	pods, err := w.evict(t, e)
	if err != nil || len(pods) != 1 {
		t.Fatalf("evicted %v, %v; want one of %v", pods, err, before)
	}
	if fresh, there := before[pods[0]]; fresh || !there {
		t.Errorf("evicted %s of %v", pods[0], before)
	}
	if _, there := w.Pods(t)[pods[0]]; there {
		t.Errorf("%s is still there", pods[0])
	}
	return pods[0]
}

func evictInTurn(t *testing.T, w *evictWorld) {
	for range 3 {
		w.one(t, w.wants())
		if stale := slices.Collect(maps.Values(w.Pods(t))); slices.Contains(stale, false) {
			w.refused(t, w.wants(), rotation.ErrNotNow)
		}
		w.Settle(t)
	}
	pods, err := w.evict(t, w.wants())
	if err != nil || len(pods) > 0 {
		t.Errorf("when all were replaced: evicted %v, %v", pods, err)
	}
	if pods := w.Pods(t); len(pods) != 3 || slices.Contains(slices.Collect(maps.Values(pods)), false) {
		t.Errorf("there are %v", pods)
	}
}

func evictFresh(t *testing.T, w *evictWorld) {
	e := w.wants()
	e.Wanted = w.Old
	before := w.Pods(t)
	if pods, err := w.evict(t, e); err != nil || len(pods) > 0 || !maps.Equal(before, w.Pods(t)) {
		t.Errorf("evicted %v, %v", pods, err)
	}
}

func evictYoung(t *testing.T, w *evictWorld) {
	e := w.wants()
	e.Since = time.Now().Add(-240 * time.Hour)
	w.refused(t, e, rotation.ErrDenied, "3 of its pods")
}

func evictLabelled(t *testing.T, w *evictWorld) {
	w.Label(t)
	w.refused(t, w.wants(), rotation.ErrDenied, rotation.RestartLabel+": "+rotation.RestartNever)
}

func evictBudget(t *testing.T, w *evictWorld) {
	w.Budget(t, 3)
	w.refused(t, w.wants(), rotation.ErrNotNow, "disruption budget "+evictName+" needs 3 healthy pods")
	w.Budget(t, 2)
	w.one(t, w.wants())
}

func evictBudgetAtOnce(t *testing.T, w *evictWorld) {
	w.Budget(t, 2)
	e := w.wants()
	e.Whole = false
	w.one(t, e)
	w.refused(t, e, rotation.ErrNotNow, "disruption budget "+evictName)
}

func evictUnwell(t *testing.T, w *evictWorld) {
	before := w.Pods(t)
	w.Unwell(t)
	gone := w.one(t, w.wants())
	w.Settle(t)
	if first := slices.Min(slices.Collect(maps.Keys(before))); gone != first {
		t.Errorf("evicted %s; %s is not available", gone, first)
	}
	w.Unwell(t)
	w.Unwell(t)
	w.refused(t, w.wants(), rotation.ErrNotNow, "1 of its other pods")
}

func evictAtOnce(t *testing.T, w *evictWorld) {
	w.Unwell(t)
	e := w.wants()
	e.Whole = false
	if pods, err := w.evict(t, e); err != nil || len(pods) != 3 {
		t.Errorf("evicted %v, %v", pods, err)
	}
}

func evictNobody(t *testing.T, w *evictWorld) {
	for _, o := range []rotation.ObjectRef{{Kind: "ReplicaSet", Name: "gone"}, {Kind: "Deployment", Name: evictName}, {Kind: "Job", Name: evictName}} {
		if pods, err := w.c.Evict(t.Context(), w.Namespace, o, w.wants()); err == nil || len(pods) > 0 {
			t.Errorf("%s: evicted %v, %v", o, pods, err)
		}
	}
}

func evictEnded(t *testing.T, w *evictWorld) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := w.Pods(t)
	pods, err := w.c.Evict(ctx, w.Namespace, rotation.ObjectRef{Kind: "ReplicaSet", Name: evictName}, w.wants())
	if !errors.Is(err, rotation.ErrUnavailable) || len(pods) > 0 || !maps.Equal(before, w.Pods(t)) {
		t.Errorf("evicted %v, %v", pods, err)
	}
}
