package cli

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"certd.internal/rotation"
)

// foldFrom is how many steps of one kind in one cluster are told one by one.
const foldFrom = 3

// planView is `certd plan` as text: what, where, when and why.
type planView struct {
	style
	doc       rotation.Plan
	note      string
	ifStopped bool
}

// A series is steps of one kind in one cluster, by time.
type series []rotation.PlanItem

func (v planView) lines() []string {
	head := fmt.Sprintf("%s until %s. Nothing has been changed.", count(len(v.doc.Items), "step"), v.day(v.doc.Until))
	if len(v.doc.Items) == 0 {
		head = fmt.Sprintf("nothing is planned until %s.", v.day(v.doc.Until))
	}
	lines := v.wrap(clip(v.clean(v.doc.Fleet), v.prose()-2)+"  ", "", head)
	if v.note != "" {
		lines = append(lines, v.wrap("", "", v.clean(v.note))...)
	}
	lines = append(lines, "")
	for _, p := range slices.CompactFunc(gather(v.doc.Findings, nil), func(a, b problem) bool { return a.ID == b.ID && a.Message == b.Message }) {
		lines = append(lines, v.problem(p)...)
	}
	if len(v.doc.Findings) > 0 {
		lines = append(lines, "")
	}
	lines = append(lines, v.steps()...)
	if v.ifStopped {
		lines = append(lines, v.breaks()...)
	}
	clusters := map[string]bool{}
	for _, item := range v.doc.Items {
		if item.Cluster != "" {
			clusters[item.Cluster] = true
		}
	}
	return append(lines, fmt.Sprintf("Plan: %s in %s.", count(len(v.doc.Items), "step"), count(len(clusters), "cluster")))
}

func (v planView) steps() []string {
	all := serialise(v.doc.Items)
	if len(all) == 0 {
		return nil
	}
	var rows [][]cell
	folded := map[int]string{} // after that many rows
	for _, s := range all {
		shown := s
		if len(s) > foldFrom {
			shown = s[:1]
		}
		for _, item := range shown {
			rows = append(rows, v.step(item))
		}
		if len(shown) < len(s) {
			folded[len(rows)] = "then " + v.rest(s)
		}
	}
	var lines []string
	for i, line := range v.table("  ", []column{{}, {}, {}, {}, {rank: 1}, {rank: 2, least: 16}}, rows) {
		lines = append(lines, line)
		if more, ok := folded[i+1]; ok {
			lines = append(lines, v.wrap("      ", "      ", more)...)
		}
	}
	return append(lines, "")
}

// serialise groups items by cluster and step; groups stand in the order of
// their first item.
func serialise(items []rotation.PlanItem) []series {
	var all []series
	at := map[[2]string]int{}
	for _, item := range items {
		key := [2]string{item.Cluster, string(item.Step)}
		i, seen := at[key]
		if !seen {
			i, at[key] = len(all), len(all)
			all = append(all, nil)
		}
		all[i] = append(all[i], item)
	}
	for _, s := range all {
		slices.SortStableFunc(s, func(a, b rotation.PlanItem) int { return a.At.Compare(b.At) })
	}
	slices.SortStableFunc(all, func(a, b series) int {
		return cmp.Or(a[0].At.Compare(b[0].At), cmp.Compare(a[0].Cluster, b[0].Cluster))
	})
	return all
}

func (v planView) step(item rotation.PlanItem) []cell {
	sign := cell{text: "~", sgr: "33"}
	switch item.Step {
	case rotation.StepKey, rotation.StepAnchor, rotation.StepNamespace:
		sign = cell{text: "+", sgr: "32"}
	}
	at := v.moment(item.At) + item.At.In(v.zone).Format(" MST")
	due := "due " + v.moment(item.Due)
	switch {
	case !item.At.After(v.now):
		at, due = "now", ""
	case item.At.Equal(item.Due):
		due = v.until(item.At)
	}
	return []cell{sign, text(cmp.Or(v.clean(item.Cluster), "fleet")), text(v.clean(string(item.Step))), text(at), text(due), text(v.clean(item.Reason))}
}

// rest says how a folded series goes on after its first step.
func (v planView) rest(s series) string {
	least, most := s[1].At.Sub(s[0].At), s[1].At.Sub(s[0].At)
	for i := 2; i < len(s); i++ {
		gap := s[i].At.Sub(s[i-1].At)
		least, most = min(least, gap), max(most, gap)
	}
	every := span(most)
	if from := span(least); from != every {
		every = from + " to " + every
	}
	last := s[len(s)-1].At
	return fmt.Sprintf("every %s, %d more, the last on %s", every, len(s)-1, v.when(last))
}

func (v planView) breaks() []string {
	if len(v.doc.Breaks) == 0 {
		return []string{"If certd stopped now, nothing that it knows of would end.", ""}
	}
	lines := []string{"If certd stopped now:"}
	rows := make([][]cell, 0, len(v.doc.Breaks))
	for _, b := range v.doc.Breaks {
		what := "trust anchor " + v.clean(b.Name) + " and all under it end"
		if b.Kind == "issuer" {
			what = "the issuer and every workload certificate end"
		}
		rows = append(rows, []cell{text(v.moment(b.At) + b.At.In(v.zone).Format(" MST")), text(v.until(b.At)), text(cmp.Or(v.clean(b.Cluster), "fleet")), text(what)})
	}
	lines = append(lines, v.table("  ", []column{{}, {rank: 2}, {}, {rank: 1, least: 16}}, rows)...)
	return append(lines, "")
}

// horizon is the longest plan: beyond it no schedule was proved.
const horizon = 20 * 365 * 24 * time.Hour
