package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A valid configuration is told what it means: clusters that are alike once, with
// the next firings, how long an outage may last, and what clocks will do.
func TestAValidConfigurationIsExplained(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"passphrase": "p\n", "kube": "", "certd.yaml": `apiVersion: certd/v1
kind: Fleet
name: acme-mesh
keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}
defaults: {timeZone: Europe/Berlin, windows: [nights]}
groups:
  quiet: {select: "tier=prod", issuer: {lifetime: 90d, renewBefore: 61d, rotate: every-firing, schedule: "0 3 * * TUE"}, webhooks: {lifetime: 90d, renewBefore: 61d}}
windows: {nights: {opens: "0 22 * * MON-THU", for: 8h}}
freezes: [{name: year-end, from: 2026-12-18, to: 2027-01-04, reason: change freeze}, {name: over, from: 2026-01-01, to: 2026-01-02}]
clusters:
  - {name: prod-eu-1, labels: {tier: prod}, kubeconfig: {file: kube, context: a}}
  - {name: edge-1, directory: edge-1}
  - {name: edge-2, directory: edge-2}
  - {name: edge-3, directory: edge-3}
  - {name: edge-4, directory: edge-4}
  - {name: edge-5, directory: edge-5}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := Daemon{Getenv: func(string) string { return "" }}
	r := d.Validate(filepath.Join(dir, "certd.yaml"), time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC))
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	want := `DIR/certd.yaml: fleet acme-mesh, 6 clusters
issuers of prod-eu-1: "0 3 * * TUE" Europe/Berlin
  live 90d, are renewed at each firing, and at any hour with 61d left (the floor)
  certd, Vault or the cluster may then be away for 59d23h before anything ends: the last leaf may live 24h longer
  next: Tue 24 Nov 03:22 CET, Tue 1 Dec 03:22 CET, Tue 8 Dec 03:22 CET
issuers of edge-1, edge-2, edge-3 and 2 more: "0 3 * * *" Europe/Berlin
  live 7d, are renewed when one missed firing more would reach the floor, and at any hour with 84h left (the floor)
  certd, Vault or the cluster may then be away for 59h before anything ends: the last leaf may live 24h longer
  next: Mon 23 Nov 03:26 CET, Tue 24 Nov 03:26 CET, Wed 25 Nov 03:26 CET in edge-1; the others within 30m of it
webhooks of prod-eu-1: "30 3 * * *" Europe/Berlin
  live 90d, are renewed when one missed firing more would reach the floor, and at any hour with 61d left (the floor)
  certd, Vault or the cluster may then be away for 60d23h before anything ends: pods may take 16m to serve a new one
  next: Mon 23 Nov 03:52 CET, Tue 24 Nov 03:52 CET, Wed 25 Nov 03:52 CET
Europe/Berlin 28 Mar 2027: 02:00-03:00 does not exist; a firing in it comes at its end
Europe/Berlin 31 Oct 2027: 02:00-03:00 comes twice; a firing in it comes once, in the first pass
window nights, "0 22 * * MON-THU" Europe/Berlin for 8h: opens next Mon 23 Nov 22:00 CET; for restarts while the trust anchor is changed
freeze year-end, 18 Dec 2026 CET to 4 Jan 2027 CET: nothing is restarted for a change of the trust anchor; renewals go on, and so does the floor
`
	got := strings.ReplaceAll(strings.Join(r.Valid, "\n"), dir, "DIR") + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
