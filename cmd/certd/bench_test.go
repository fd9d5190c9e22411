package main

import "testing"

// One issuer asked for, signed by a real Vault, written to a real API server,
// journalled, and confirmed to the command that waits for it: all of
// `certd rotate issuer --wait`, the start of the command included. (The
// daemon is built with the race detector here, pauses half a second between two
// passes over a cluster, and refuses more than ten signatures an hour for one.)
func BenchmarkRotateThroughVaultAndKubernetes(b *testing.B) {
	s := newSite(b, 1, daily)
	s.must("init", "--config", "certd.yaml", "--yes")
	s.run()
	s.converged()
	for b.Loop() {
		s.must("rotate", "issuer", s.lab.Clusters[0].Name, "--config", "certd.yaml", "--yes", "--wait", "--reason", "benchmark")
	}
}
