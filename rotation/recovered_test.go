package rotation

import (
	"context"
	"crypto"
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

// absentKeys has none of the keys that it is asked for, but those named.
type absentKeys struct {
	Keys
	there []string
	asked int
}

func (k *absentKeys) OpenKey(_ context.Context, name string, _ crypto.PublicKey) (Key, error) {
	k.asked++
	switch i := slices.Index(k.there, name); {
	case i < 0:
		return nil, ErrKeyNotFound
	case i < len(k.there)-1:
		return nil, ErrKeyUnfit // another anchor's
	}
	return keyring{}, nil
}

// The key of an anchor that the journal does not know is found beside those that were destroyed,
// and what is made up is asked for a few times only.
func TestWhichNamesAKeyIsLookedForUnder(t *testing.T) {
	for _, row := range []struct {
		there []string // in the order of their generations: the last is the one
		known int      // newest generation that the journal knows
		found int
		asked int
	}{
		{there: []string{"g1"}, found: 1, asked: 1},
		{there: []string{"g1", "g2"}, found: 2, asked: 2},
		{there: []string{"g9"}, found: 9, asked: 9},
		{there: []string{"g2", "g9"}, known: 7, found: 9, asked: 9},
		{there: []string{"g2", "g5", "g8"}, known: 1, found: 8, asked: 8},
		{there: []string{"g2", "g7"}, known: 1, found: 0, asked: 6},
		{known: 3, found: 0, asked: 7},
		{found: 0, asked: maxGenerations},
	} {
		keys := &absentKeys{there: row.there}
		n, key, err := findKey(t.Context(), keys, nil, row.known, generationID)
		if err != nil || n != row.found || (key != nil) != (n > 0) || keys.asked != row.asked {
			t.Errorf("%+v: found %d after %d, %v", row, n, keys.asked, err)
		}
	}
}
