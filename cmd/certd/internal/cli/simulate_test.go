package cli

import (
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/simulate"
	"certd.internal/rotation"
)

// What was gone through is told on one screen: what held, what came close, and what ended.
func TestALifeIsTold(t *testing.T) {
	from := time.Date(2027, time.January, 1, 12, 0, 0, 0, time.UTC)
	after := func(days float64) time.Time { return from.Add(time.Duration(days * float64(24*time.Hour))) }
	kind := func(count int, left, floor float64) simulate.Renewals {
		return simulate.Renewals{Count: count, LeastLeftSeconds: int64(left * 86400), LeastLeftAt: after(4), FloorSeconds: int64(floor * 86400)}
	}
	well := simulate.Life{Fleet: "acme-mesh", From: from, Until: after(365),
		Clusters: []simulate.ClusterLife{
			{Name: "prod-eu-1", Issuer: kind(182, 4.7, 3.5), Webhooks: kind(84, 16.7, 15), WebhookCA: kind(0, 365, 180)},
			{Name: "vm-pool", Issuer: kind(182, 4.7, 3.5)},
		},
		Anchors:    []simulate.AnchorLife{{ID: "g1", NotBefore: from, NotAfter: after(3650)}},
		Signatures: simulate.Signatures{Issuers: 364, Webhooks: 87, CAs: 2, Canaries: 120},
	}
	ill := well
	ill.Outages = []simulate.Outage{{What: simulate.Vault, From: after(2), To: after(14)}}
	ill.Clusters = []simulate.ClusterLife{{Name: "prod-eu-1", Issuer: kind(170, -7.5, 3.5), Webhooks: kind(80, 12, 15)}}
	ill.Findings = []simulate.Episode{
		{Finding: "KeysUnavailable", Worst: rotation.StateWarning, From: after(2), To: after(14), Message: "the key backend is away"},
		{Finding: "IssuerExpired", Cluster: "prod-eu-1", Worst: rotation.StateCritical, From: after(6.5), To: after(14), Message: "the issuer ended 8s ago"},
		{Finding: "IssuerExpired", Cluster: "vm-pool", Worst: rotation.StateCritical, From: after(6.5), Message: "the issuer ended 9s ago"},
	}
	ill.Violations = []simulate.Violation{{Promise: "I1", First: after(6.5), Last: after(14), Times: 54, Text: "app/app-0-0 in prod-eu-1 refuses app/app-0-1 in prod-eu-1: its certificate has expired"}, {Promise: "I4", Cluster: "vm-pool", First: after(5), Last: after(5), Times: 1, Text: "the issuer has 1d 12h left"}}
	for name, doc := range map[string]simulate.Life{"simulate-well": well, "simulate-ill": ill} {
		t.Run(name, func(t *testing.T) {
			golden(t, name, lifeView{style{now: from, zone: time.UTC, width: 100}, doc}.lines())
		})
	}
}
