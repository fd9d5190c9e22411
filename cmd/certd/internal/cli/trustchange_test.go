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

// That a change waits for a second person is told with what to type, before nothing else is
// waited for, from then on, and who it was once somebody has approved.
func TestAnApprovalOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 80}
	for _, row := range []struct {
		name     string
		approval rotation.ApprovalStatus
		waits    []string
	}{
		{"early", rotation.ApprovalStatus{Of: "g1", Not: "lee@cli"}, []string{"leaves from before end by Mon 23 Nov 2026 11:00 UTC"}},
		{"wanted", rotation.ApprovalStatus{Of: "g1", Not: "lee@cli", Since: after(-26 * time.Hour)}, []string{"approval by a second person, not lee@cli: certd trust approve g1"}},
		{"given", rotation.ApprovalStatus{Of: "g1", Not: "lee@cli", By: "kim@cli", At: after(-time.Hour), Reason: "seen\x1b[2J by both"}, []string{"leaves from before end by Mon 23 Nov 2026 11:00 UTC"}},
		{"certd", rotation.ApprovalStatus{Of: "adopted", Not: "certd"}, []string{"leaves from before end by Mon 23 Nov 2026 11:00 UTC"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			st := healthy("prod-eu-1", "prod-us-1")
			st.Trust.Rotation = &rotation.RotationStatus{Phase: "retire", Stage: "retire", Number: 6, Of: 6, SafeToStop: true, From: "g1", To: "g2", Actor: "lee@cli", Reason: "yearly",
				StageAt: after(-50 * time.Hour), WaitingFor: row.waits, Approval: &row.approval}
			lines := plain.changeLines(st)
			lines = append(append(lines, ""), statusView{style: plain, doc: st}.changeStages()...)
			for _, l := range lines {
				if problem := misfit(l, plain); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
			golden(t, "change-approval-"+row.name, lines)
		})
	}
}
