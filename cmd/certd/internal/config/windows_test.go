package config

import (
	"strings"
	"testing"
	"time"
)

// Windows and freezes are in the cluster's own time; the list that stands closest
// holds whole.
func TestWindowsAndFreezes(t *testing.T) {
	text := strings.Replace(minimal, "clusters:\n  - {name: east, directory: east}\n", `
windows:
  nights: {opens: "0 22 * * MON-THU", for: 8h}
  noon: {opens: "0 12 * * *", for: 30m}
freezes: [{name: year-end, from: 2026-12-18, to: 2027-01-04, reason: change freeze}]
defaults: {windows: [nights]}
clusters:
  - {name: east, directory: east, timeZone: Asia/Tokyo}
  - {name: west, directory: west, windows: [noon, nights]}
  - {name: open, directory: open, windows: []}
`, 1)
	c := loaded(t, write(t, map[string]string{"certd.yaml": text}))
	east, west, open := c.Clusters[0].Policy, c.Clusters[1].Policy, c.Clusters[2].Policy
	if len(east.Windows) != 1 || len(west.Windows) != 2 || len(open.Windows) != 0 {
		t.Fatalf("%+v, %+v, %+v", east.Windows, west.Windows, open.Windows)
	}
	if w := west.Windows[0]; w.Name != "noon" || w.For != 30*time.Minute || w.Opens.String() != "0 12 * * *" {
		t.Errorf("%+v", w)
	}
	// Monday 22:00 in Tokyo.
	if got, want := east.Windows[0].Opens.Next(options().Now), time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("opens %s, want %s", got, want)
	}
	if f := east.Freezes[0]; !f.From.Equal(time.Date(2026, 12, 17, 15, 0, 0, 0, time.UTC)) || !f.To.Equal(time.Date(2027, 1, 4, 15, 0, 0, 0, time.UTC)) || f.Reason != "change freeze" {
		t.Errorf("%+v", f)
	}
}
