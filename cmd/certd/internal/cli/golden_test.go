package cli

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"certd.internal/rotation"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestStatusOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow, wide, ascii, utc, pipe := plain, plain, plain, plain, plain
	narrow.width, wide.width, pipe.width = 80, 140, 0
	ascii.ascii = true
	utc.zone = time.UTC
	busy := healthy("prod-eu-1", "prod-us-1", "stage-eu-1")
	busy.Recent = entries()
	for _, row := range []struct {
		name  string
		style style
		doc   rotation.FleetStatus
		note  string
		all   bool
		wide  bool
	}{
		{"healthy", plain, healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "", false, false},
		{"healthy-80", narrow, healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "", false, false},
		{"healthy-utc", utc, healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "", false, false},
		{"healthy-ascii", ascii, healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "", false, false},
		{"healthy-wide-140", wide, busy, "", false, true},
		{"healthy-wide-pipe", pipe, healthy("prod-eu-1", "prod-us-1", "stage-eu-1"), "", false, true},
		{"overdue", plain, overdue(), "", false, false},
		{"overdue-80-ascii", style{zone: time.UTC, now: now, width: 80, ascii: true}, overdue(), "", false, false},
		{"unreachable", plain, unreachable(), "", false, false},
		{"journal", plain, fromJournal(), journalNote, false, false},
		{"watched", plain, watchedOnly(), "", false, false},
		{"no-anchor", plain, noAnchor(), "", false, false},
		{"large", plain, large(), "", false, false},
		{"large-healthy", plain, grouping(), "", false, false},
		{"large-healthy-80-ascii", style{zone: time.UTC, now: now, width: 80, ascii: true}, grouping(), "", false, false},
		{"large-healthy-140", wide, grouping(), "", false, false},
		{"large-healthy-pipe", pipe, grouping(), "", false, false},
		{"large-cut-off", plain, cutOffFromMany(), "", false, false},
		{"large-cut-off-80-ascii", style{zone: time.UTC, now: now, width: 80, ascii: true}, cutOffFromMany(), "", false, false},
		{"broken", plain, broken(), "", false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			golden(t, "status-"+row.name, statusView{style: row.style, doc: row.doc, note: row.note, all: row.all, wide: row.wide}.lines())
		})
	}
}

func TestPlanAndHistoryOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow := plain
	narrow.width = 80
	for name, s := range map[string]style{"": plain, "-80": narrow} {
		golden(t, "plan"+name, planView{style: s, doc: plan(), ifStopped: true}.lines())
		golden(t, "history"+name, historyView{style: s, items: entries()}.table(""))
	}
	empty := plan()
	empty.Items, empty.Breaks = nil, nil
	empty.Findings = noAnchor().Findings
	golden(t, "plan-empty", planView{style: plain, doc: empty, note: journalNote, ifStopped: true}.lines())
	var follow []string
	for _, h := range entries() {
		follow = append(follow, historyView{style: plain}.line(h)...)
	}
	golden(t, "history-follow", follow)
}

func TestAHealthyFleetFitsInFifteenLines(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 17, 100, 500} {
		st := sized(n, n%9)
		for _, width := range []int{80, 100, 140, 0} {
			for _, ascii := range []bool{false, true} {
				lines := statusView{style: style{zone: berlin(t), now: now, width: width, ascii: ascii}, doc: st}.lines()
				if len(lines) > 15 {
					t.Fatalf("%d clusters in %d groups, width %d: %d lines:\n%s", n, n%9, width, len(lines), strings.Join(lines, "\n"))
				}
			}
		}
	}
}

// Whoever asks for all gets a row for each, however many there are.
func TestAllClustersHaveARowWhereTheyAreAskedFor(t *testing.T) {
	lines := statusView{style: style{zone: time.UTC, now: now, width: 100}, doc: grouping(), all: true}.lines()
	for _, c := range grouping().Clusters {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, c.Name+" ") }) {
			t.Errorf("no row for %s", c.Name)
		}
	}
}

// Whatever the fleet is like and whatever text servers send: no line is wider
// than the terminal or ends in blanks, and colours are all that escapes.
func TestAnyFleetKeepsToItsTerminal(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		doc := random(r)
		s := style{zone: berlin(t), now: now, width: 60 + r.IntN(100), ascii: r.IntN(2) == 0, color: r.IntN(2) == 0}
		all, wide := r.IntN(2) == 0, r.IntN(2) == 0
		note := []string{"", journalNote}[r.IntN(2)]
		lines := statusView{style: s, doc: doc, all: all, wide: wide, note: note}.lines()
		p := rotation.Plan{Fleet: doc.Fleet, Until: now.Add(90 * day), Findings: doc.Findings}
		for _, c := range doc.Clusters {
			if c.NextStep != nil {
				p.Items = append(p.Items, *c.NextStep)
			}
			for _, w := range c.Webhooks {
				p.Items = append(p.Items, rotation.PlanItem{Cluster: c.Name, Step: rotation.StepWebhook, Webhook: w.Name, At: now.Add(day), Due: now})
				p.Breaks = append(p.Breaks, rotation.Break{Cluster: c.Name, Kind: "webhook", Name: w.Name, At: now.Add(time.Duration(r.IntN(3)) * hour)})
			}
			one := doc
			one.Clusters = []rotation.ClusterStatus{c}
			lines = append(lines, statusView{style: s, doc: one, all: true}.lines()...)
		}
		p.Breaks = append(p.Breaks, rotation.Break{Cluster: "x", Kind: "issuer", At: now})
		p.Least = []rotation.LeastLeft{{Cluster: doc.Version, Kind: "webhook", At: now.Add(day), LeftSeconds: r.Int64N(9e6) - 1e6}}
		p.Windows = []rotation.PlanWindow{{Name: doc.Version, OpensAt: now.Add(time.Duration(r.IntN(3)-1) * hour), ClosesAt: now.Add(2 * hour), Clusters: 1}}
		p.Freezes = []rotation.PlanFreeze{{Name: "year-end", Reason: doc.Version, From: now, To: now.Add(day), Clusters: 3}}
		lines = append(lines, planView{style: s, doc: p, ifStopped: true}.lines()...)
		items := entries()
		items[0].Reason, items[2].Detail, items[1].Webhook = doc.Version, doc.Version, doc.Version
		lines = append(lines, historyView{style: s, items: items}.table("  ")...)
		for _, l := range lines {
			if problem := misfit(l, s); problem != "" {
				t.Fatalf("seed %d, width %d: %s in %q", seed, s.width, problem, l)
			}
		}
		s.width, s.color = 0, false
		for _, l := range (statusView{style: s, doc: doc, all: all, wide: wide}).lines() {
			if strings.ContainsRune(l, '\x1b') || strings.HasSuffix(l, " ") {
				t.Fatalf("seed %d, in a pipe: %q", seed, l)
			}
		}
	}
}

func misfit(line string, s style) string {
	bare := line
	for _, code := range []string{"31", "32", "33", "35", "36", "0"} {
		if s.color {
			bare = strings.ReplaceAll(bare, "\x1b["+code+"m", "")
		}
	}
	switch {
	case strings.ContainsRune(bare, '\x1b'):
		return "an escape code"
	case cells(bare) > s.width:
		return fmt.Sprintf("%d columns", cells(bare))
	case strings.HasSuffix(bare, " "):
		return "a blank at the end"
	case strings.ContainsAny(bare, "\n\r\t\u202e"):
		return "a control character"
	case s.ascii && strings.ContainsFunc(bare, func(r rune) bool { return r > 127 }):
		return "a character that is not ASCII"
	}
	return ""
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 161 * time.Minute: "2h 41m", hour - time.Second: "59m 59s",
		57*day + 15*hour: "57d 15h", 57 * day: "57d", 730*day - 1: "729d 23h", 730 * day: "2y", 3580 * day: "9y 9mo", 3650*day - hour: "9y 11mo", 3650 * day: "10y",
		-2*hour - 41*time.Minute: "2h 41m",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %q, want %q", d, got, want)
		}
	}
}
