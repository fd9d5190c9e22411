package rotation

import (
	"testing"
	"time"
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
			g.nextWorkload(Fleet{Policy: FleetPolicy{Trust: TrustPolicy{Restarts: true, AtOnce: row.atOnce}}}, v, owners, false)
			if got := g.restart.owner.Name; got != row.want {
				t.Errorf("%q is restarted, want %q", got, row.want)
			}
		})
	}
}
