package cli

import (
	"testing"
	"time"

	"certd.internal/rotation"
)

// What is known of workloads during a change is told, of all and of each cluster; of
// what certd did only where that is known.
func TestWorkloadsOfAChangeOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	changing := func(of *rotation.WorkloadsStatus, each ...*rotation.WorkloadsStatus) rotation.FleetStatus {
		st := stale(0)
		st.Trust.Rotation = &rotation.RotationStatus{Phase: "restart", Stage: "restart", Number: 4, Of: 6, SafeToStop: true, From: "g1", To: "g2", Actor: "lee@cli", Reason: "yearly",
			StageAt: after(-2 * time.Hour), WaitingFor: []string{"prod-eu-1: 6 of 1204 meshed pods do not trust the new anchor alone: shop/Deployment web"}, Workloads: of}
		for i, w := range each {
			st.Clusters[i].Proxies.Workloads = w
		}
		return st
	}
	n := func(n int) *int { return &n }
	for _, row := range []struct {
		name string
		st   rotation.FleetStatus
	}{
		{"known", changing(&rotation.WorkloadsStatus{Total: 310, Stale: 4, Restarted: n(294), Avoided: n(12)},
			&rotation.WorkloadsStatus{Total: 309, Stale: 4, Restarted: n(294), Avoided: n(11)}, &rotation.WorkloadsStatus{Total: 1, Restarted: n(0), Avoided: n(1)})},
		{"journal-lost", changing(nil, &rotation.WorkloadsStatus{Total: 309, Stale: 4})},
		{"unknown", changing(nil)},
	} {
		t.Run(row.name, func(t *testing.T) {
			lines := plain.changeLines(row.st)
			for _, l := range lines {
				if problem := misfit(l, plain); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
			golden(t, "change-workloads-"+row.name, lines)
		})
	}
}
