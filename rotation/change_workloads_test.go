package rotation

import (
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// The first workload goes ahead alone; when it is through, no more than are allowed
// are under way.
func TestHowManyWorkloadsAreUnderWay(t *testing.T) {
	now := start.Add(time.Hour)
	shownAt := now.Add(-30 * time.Minute)
	after := func(minutes int) time.Time { return shownAt.Add(time.Duration(minutes) * time.Minute) }
	for _, row := range []struct {
		name     string
		atOnce   int
		restarts map[string]time.Time
		stale    string
		want     string
	}{
		{"none was restarted", 3, nil, "abcd", "a"},
		{"the first is under way", 3, map[string]time.Time{"a": after(1)}, "abcd", ""},
		{"the first was restarted, and not counted since", 3, map[string]time.Time{"a": after(29)}, "bcd", "b"},
		{"that, and another one under way", 3, map[string]time.Time{"a": after(29), "b": after(29)}, "bcd", ""},
		{"the first is through", 3, map[string]time.Time{"a": after(1)}, "bcd", "b"},
		{"it is through, and one is under way", 3, map[string]time.Time{"a": after(1), "b": after(2)}, "bcde", "c"},
		{"it is through, and three are under way", 3, map[string]time.Time{"a": after(1), "b": after(2), "c": after(2), "d": after(2)}, "bcdef", ""},
		{"one at a time, and one is under way", 0, map[string]time.Time{"a": after(1), "b": after(2)}, "bcde", ""},
		{"one was restarted before the bundle was shown", 3, map[string]time.Time{"a": after(-1)}, "abcd", "a"},
		{"one was, and its pods happen to be fresh", 3, map[string]time.Time{"a": after(-1), "b": after(2)}, "bcd", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			v := View{Policy: Policy{Namespace: "linkerd"}, Observed: &Observation{BundleWrittenAt: shownAt.Add(-projectionOf(Policy{}))},
				Proxies: Proxies{At: after(10)}, Repairs: map[lane][]time.Time{}}
			for name, at := range row.restarts {
				v.Repairs[lane{StepWorkloadRestart, "app/" + ObjectRef{Kind: "Deployment", Name: name}.String()}] = []time.Time{at}
			}
			var owners []ProxyOwner
			for _, name := range row.stale {
				owners = append(owners, ProxyOwner{Namespace: "app", Kind: "Deployment", Name: string(name), Pods: 2})
			}
			g := &goal{}
			g.nextWorkload(Fleet{Policy: FleetPolicy{Trust: TrustPolicy{Restarts: true, AtOnce: row.atOnce}}}, v, owners, pki.Bundle{}, false)
			if got := g.restart.owner.Name; got != row.want {
				t.Errorf("%q is restarted, want %q", got, row.want)
			}
		})
	}
}

// Pods that are replaced one by one are so within the same budget: the next one when
// the one before it has a successor, before another workload is begun.
func TestWhosePodIsReplacedNext(t *testing.T) {
	now := start.Add(time.Hour)
	shownAt := now.Add(-30 * time.Minute)
	after := func(minutes int) time.Time { return shownAt.Add(time.Duration(minutes) * time.Minute) }
	old, both := newBench(t).bundle, newBench(t).bundle
	for _, row := range []struct {
		name      string
		atOnce    int
		evictions map[string]time.Time
		restarts  map[string]time.Time // of Deployments
		held      string               // by a budget
		unready   string               // a pod that trusts the new anchor
		leaving   string
		stale     string // ReplicaSets with small letters, Deployments with capital ones
		want      string
	}{
		{name: "none was", stale: "ab", want: "a"},
		{name: "Deployments come first, by their kind", stale: "aB", want: "B"},
		{name: "one was, and not counted since", evictions: map[string]time.Time{"a": after(29)}, stale: "ab"},
		{name: "one is going", evictions: map[string]time.Time{"a": after(1)}, leaving: "a", stale: "ab"},
		{name: "its successor is not ready", evictions: map[string]time.Time{"a": after(1)}, unready: "a", stale: "ab"},
		{name: "nobody remembers, and a successor is not ready", unready: "a", stale: "ab"},
		{name: "its successor is ready", evictions: map[string]time.Time{"b": after(1)}, stale: "ab", want: "b"},
		{name: "the last successor is not ready", evictions: map[string]time.Time{"a": after(1)}, unready: "a", stale: "b"},
		{name: "the last successor is ready", evictions: map[string]time.Time{"a": after(1)}, stale: "b", want: "b"},
		{name: "a budget holds one back from the beginning", held: "a", stale: "ab", want: "b"},
		{name: "a budget holds the next one back", evictions: map[string]time.Time{"a": after(1)}, held: "a", stale: "ab", want: "b"},
		{name: "it holds back all there is", evictions: map[string]time.Time{"a": after(1)}, held: "a", stale: "a", want: "a"},
		{name: "a Deployment is under way", restarts: map[string]time.Time{"B": after(1)}, stale: "aB"},
		{name: "the first is through, and two may be under way", atOnce: 2, evictions: map[string]time.Time{"a": after(1), "b": after(2)}, unready: "b", stale: "bc", want: "c"},
		{name: "the first is not through", atOnce: 2, evictions: map[string]time.Time{"a": after(1)}, unready: "a", stale: "bc"},
	} {
		t.Run(row.name, func(t *testing.T) {
			v := View{Policy: Policy{Namespace: "linkerd"}, Observed: &Observation{BundleWrittenAt: shownAt.Add(-projectionOf(Policy{}))},
				Proxies: Proxies{At: after(10)}, Repairs: map[lane][]time.Time{}, Failures: map[lane]*StepFailure{}}
			of := func(name string) ProxyOwner {
				o := ProxyOwner{Namespace: "app", Kind: "ReplicaSet", Name: strings.ToLower(name), Pods: 2}
				if o.Name != name {
					o.Kind = "Deployment"
				}
				return o
			}
			for name, at := range row.evictions {
				v.Repairs[lane{StepPodEvict, of(name).object()}] = []time.Time{at}
			}
			for name, at := range row.restarts {
				v.Repairs[lane{StepWorkloadRestart, of(name).object()}] = []time.Time{at}
			}
			if row.held != "" {
				v.Failures[lane{StepPodEvict, of(row.held).object()}] = &StepFailure{Step: StepPodEvict, Err: ErrNotNow, Since: now}
			}
			stale, fresh := ProxySet{Anchors: old}, ProxySet{Anchors: both}
			for _, l := range row.stale {
				o := of(string(l))
				if o.Leaving = 0; row.leaving == string(l) {
					o.Leaving = 1
				}
				stale.Owners = append(stale.Owners, o)
			}
			if row.unready != "" {
				o := of(row.unready)
				o.Unready = 1
				fresh.Owners = append(fresh.Owners, o)
			}
			v.Proxies.Sets = []ProxySet{stale, fresh}
			g := &goal{}
			g.nextWorkload(Fleet{Policy: FleetPolicy{Trust: TrustPolicy{Restarts: true, AtOnce: row.atOnce}}}, v, stale.Owners, both, false)
			want := row.want
			if got := g.restart.owner.Name; got != strings.ToLower(want) || got != want && g.restart.Step != StepWorkloadRestart || got == want && got != "" && g.restart.Step != StepPodEvict {
				t.Errorf("%s of %q, want %q", g.restart.Step, got, want)
			}
		})
	}
}
