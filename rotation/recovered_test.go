package rotation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// Each row is what a journal knows, and a cluster that shows an anchor which it does not know.
func TestWhatAnUnknownAnchorTells(t *testing.T) {
	all := make([]Anchor, 4) // g0 is there so that indexes are generations
	for n := 1; n < len(all); n++ {
		key, err := pki.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		c, err := pki.SelfSignAnchor(start, pki.AnchorProfile{CommonName: fmt.Sprint("root.linkerd.cluster.local 2026-", n), Lifetime: 3650 * 24 * time.Hour}, key)
		if err != nil {
			t.Fatal(err)
		}
		all[n] = Anchor{ID: generationID(n), Key: anchorKeyName("acme", n), Certificate: c}
	}
	for _, row := range []struct {
		knows       []int
		from, to    int // of the change that the journal knows; both 0: it knows of none, one: what meshes came with
		compromised bool
		shows       []int // by the cluster's bundle
		unknown     int
		want        string // "1>2": the change then, "over": none any more, "": as it was
		forgotten   string
		retired     string
		left        bool // the others were changed without the cluster
	}{
		{knows: nil, shows: []int{1}, unknown: 1},
		{knows: []int{1}, shows: []int{1, 2}, unknown: 2, want: "g1>g2"},
		{knows: []int{1}, shows: []int{2}, unknown: 2, want: "g1>g2"},
		{knows: []int{2}, shows: []int{1, 2}, unknown: 1, want: "g1>g2"},
		{knows: []int{2}, shows: []int{1}, unknown: 1, want: "g1>g2"},
		{knows: []int{1, 2}, from: 1, to: 2, shows: []int{2, 3}, unknown: 3, want: "g2>g3", forgotten: "g1"},
		{knows: []int{1, 2}, from: 1, to: 2, shows: []int{1, 3}, unknown: 3, want: "g1>g3", forgotten: "g2"},
		{knows: []int{1, 2}, from: 2, to: 1, shows: []int{1, 3}, unknown: 3, want: "g1>g3", forgotten: "g2"},
		{knows: []int{1, 2}, from: 1, to: 2, shows: []int{3}, unknown: 3, want: "over", forgotten: "g1 g2"},
		{knows: []int{1, 2}, from: 1, to: 2, compromised: true, shows: []int{2, 3}, unknown: 3, want: "g2>g3", retired: "g1"},
		{knows: []int{1, 3}, from: 1, to: 3, shows: []int{2, 3}, unknown: 2, want: "g2>g3", forgotten: "g1"},
		{knows: []int{2, 3}, from: 2, to: 3, shows: []int{1}, unknown: 1, retired: "g1", left: true},
		{knows: []int{1, 3}, from: 1, to: 3, shows: []int{1, 2}, unknown: 2, retired: "g2", left: true},
		{knows: []int{2, 3}, from: 2, to: 3, shows: []int{1, 3}, unknown: 1, retired: "g1"},
		{knows: []int{1}, to: 1, shows: []int{1, 2}, unknown: 2, want: "g1>g2"},
		{knows: []int{1}, to: 1, shows: []int{2}, unknown: 2, want: "over", forgotten: "g1"},
		{knows: []int{1}, from: 1, shows: []int{1, 2}, unknown: 2, want: "g1>g2"},
		{knows: []int{2}, to: 2, shows: []int{1}, unknown: 1, retired: "g1", left: true},
	} {
		f := Fleet{Policy: FleetPolicy{Fleet: "acme", KeyPrefix: "acme"}}
		for _, n := range row.knows {
			f.Anchors = append(f.Anchors, all[n])
		}
		if row.from+row.to > 0 {
			ids := []string{"", generationID(1), generationID(2), generationID(3)}
			f.Change = &Change{From: ids[row.from], To: ids[row.to], Stage: StageSpread, Back: row.from > row.to, Compromised: row.compromised}
		}
		var shown []*Anchor
		for _, n := range row.shows {
			shown = append(shown, &all[n])
		}
		v := View{Policy: Policy{Cluster: "eu"}, Observed: &Observation{}}
		b, err := f.with(v, shown...)
		if err != nil {
			t.Fatal(err)
		}
		v.Observed.BundleText = b.PEM()
		out, err := f.recovered(all[row.unknown], v, start)
		if err != nil {
			t.Errorf("%+v: %v", row, err)
			continue
		}
		change, retired := "", []string{}
		if c := out.Change; c != nil && c.Stage == "" {
			change = "over"
		} else if c != nil {
			change = c.From + ">" + c.To
			if c.Stage != StageBridge || !c.StageAt.Equal(start) {
				t.Errorf("%+v: it does not begin anew: %+v", row, c)
			}
		}
		for _, a := range append([]Anchor{*out.Anchor}, out.Retired...) {
			if !a.RetiredAt.IsZero() {
				retired = append(retired, a.ID)
			}
		}
		slices.Sort(out.Forgotten)
		if change != row.want || strings.Join(out.Forgotten, " ") != row.forgotten || strings.Join(retired, " ") != row.retired || out.Left["eu"].Anchor != map[bool]string{true: all[row.unknown].ID}[row.left] {
			t.Errorf("%+v: change %q, forgotten %v, retired %v, left behind %+v", row, change, out.Forgotten, retired, out.Left)
		}
	}
}
