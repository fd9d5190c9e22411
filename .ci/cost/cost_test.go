package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-floor" { // it starts itself as the floor program
		main()
		return
	}
	os.Exit(m.Run())
}

// What a fleet costs in requests, writes, signatures, connections and bytes, which are the
// same on every machine. CPU and memory have wide limits, and how long things take has none.
func TestWhatAFleetCosts(t *testing.T) {
	const clusters = 20
	c, err := measure(t.Context(), "../..", clusters, 65*time.Second, testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := c.print(&text); err != nil {
		t.Error(err)
	}
	t.Log("\n" + text.String())
	each := func(what, of string, got float64, most float64) {
		t.Helper()
		if got /= clusters; got > most {
			t.Errorf("%s: %.2f %s for each cluster, want %.2f at most", what, got, of, most)
		}
	}
	begun, quiet, again, bundle, first := c.find(rotate), c.find(idle), c.find(restart), c.find(bundles), c.find(enrol)
	// Regular looks at some of the clusters may fall into it.
	each(rotate, "API requests", begun.requests, 4+1.5)
	each(rotate, "writes", begun.writes, 2)
	each(rotate, "KiB into etcd", begun.put/1024, 4.4)
	each(rotate, "ms of CPU", begun.cpu*1000, 60)
	for kind, most := range map[string]float64{"APPLY secrets": 1, "POST events": 1} {
		if got := begun.kinds[kind] / clusters; got != most {
			t.Errorf("%s: %s %.2f times for each cluster, want %.0f", rotate, kind, got, most)
		}
	}
	if begun.signed != clusters {
		t.Errorf("%s: %.0f signatures for %d issuers", rotate, begun.signed, clusters)
	}
	// The key's flags are read before each signature; logging in is shared.
	each(rotate, "requests to Vault", begun.vault, 2.2)
	if first.signed != clusters {
		t.Errorf("%s: %.0f signatures for %d issuers", enrol, first.signed, clusters)
	}
	each(enrol, "connections", first.opened, 1.2)
	each(bundles, "signatures", bundle.signed, 0)
	for kind, most := range map[string]float64{"APPLY configmaps": 1, "APPLY secrets": 1, "POST events": 1} { // ca.crt follows
		if got := bundle.kinds[kind] / clusters; got != most {
			t.Errorf("%s: %s %.2f times for each cluster, want %.0f", bundles, kind, got, most)
		}
	}
	minutes := quiet.took.Minutes()
	each(idle, "API requests a minute", quiet.requests/minutes, 12)
	each(idle, "ms of CPU a minute", quiet.cpu*1000/minutes, 30)
	each(idle, "signatures", quiet.signed, 0)
	// Most of it is the program itself.
	each(idle, "MiB of memory", quiet.rss/(1<<20), 80.0/clusters)
	each(idle, "secrets and bundles written", quiet.kinds["APPLY secrets"]+quiet.kinds["APPLY configmaps"], 0)
	each(restart, "signatures", again.signed, 0)
	each(restart, "secrets and bundles written", again.kinds["APPLY secrets"]+again.kinds["APPLY configmaps"], 0)
	each(restart, "connections", again.opened, 1.2)
	each(restart, "API requests", again.requests, 6+1.5)
	each(restart, "KiB read", again.received/1024, 20)
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
