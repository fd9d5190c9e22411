package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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

// A planned is a step, or the same step for several webhooks at once.
type planned struct {
	rotation.PlanItem
	webhooks []string
}

// A series is steps of one kind in one cluster, by time.
type series []planned

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

// together joins items that differ in nothing but the webhook, as far as the
// screen shows.
func together(items []rotation.PlanItem) (all []planned) {
	type alike struct {
		cluster string
		step    rotation.Step
		at, due time.Time
	}
	at := map[alike]int{}
	for _, item := range items {
		if item.Webhook == "" {
			all = append(all, planned{item, nil})
			continue
		}
		key := alike{item.Cluster, item.Step, item.At.Truncate(time.Minute), item.Due.Truncate(time.Minute)}
		i, seen := at[key]
		if !seen {
			i, at[key] = len(all), len(all)
			all = append(all, planned{item, nil})
		}
		all[i].webhooks = append(all[i].webhooks, item.Webhook)
	}
	return all
}

// serialise groups items by cluster, step and webhooks; groups stand in the
// order of their first item.
func serialise(items []rotation.PlanItem) []series {
	var all []series
	at := map[[3]string]int{}
	for _, item := range together(items) {
		key := [3]string{item.Cluster, string(item.Step), strings.Join(item.webhooks, " ")}
		i, seen := at[key]
		if !seen {
			i, at[key] = len(all), len(all)
			all = append(all, nil)
		}
		all[i] = append(all[i], item)
	}
	for _, s := range all {
		slices.SortStableFunc(s, func(a, b planned) int { return a.At.Compare(b.At) })
	}
	slices.SortStableFunc(all, func(a, b series) int {
		return cmp.Or(a[0].At.Compare(b[0].At), cmp.Compare(a[0].Cluster, b[0].Cluster))
	})
	return all
}

func (v planView) step(item planned) []cell {
	what := string(item.Step)
	switch n := len(item.webhooks); {
	case n == 1:
		what += " " + item.webhooks[0]
	case n > 1:
		what += fmt.Sprintf(" (%d)", n)
	}
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
	return []cell{sign, text(cmp.Or(v.clean(item.Cluster), "fleet")), text(v.clean(what)), text(at), text(due), text(v.clean(item.Reason))}
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
	type alike struct {
		cluster string
		at      time.Time
	}
	webhooks := map[alike][]string{} // that stop together
	rows, more := [][]cell{}, map[int]alike{}
	for _, b := range v.doc.Breaks {
		var what string
		switch key := (alike{b.Cluster, b.At.Truncate(time.Minute)}); b.Kind {
		case "webhook":
			if webhooks[key] = append(webhooks[key], b.Name); len(webhooks[key]) > 1 {
				continue
			}
			more[len(rows)] = key
		case "issuer":
			what = "the issuer and every workload certificate end"
		default:
			what = "trust anchor " + v.clean(b.Name) + " and all under it end"
		}
		rows = append(rows, []cell{text(v.moment(b.At) + b.At.In(v.zone).Format(" MST")), text(v.until(b.At)), text(cmp.Or(v.clean(b.Cluster), "fleet")), text(what)})
	}
	for i, key := range more {
		what := "webhook " + webhooks[key][0]
		if n := len(webhooks[key]); n > 1 {
			what = count(n, "webhook")
		}
		rows[i][3] = text(v.clean("the API server stops accepting " + what))
	}
	for i, line := range v.table("  ", []column{{}, {rank: 2}, {}, {rank: 1, least: 16}}, rows) {
		lines = append(lines, line)
		if key, ok := more[i]; ok {
			lines = append(lines, v.wrap("      ", "      ", v.clean(without(webhooks[key])))...)
		}
	}
	return append(lines, "")
}

// without says what comes of it that webhooks are accepted no longer.
func without(webhooks []string) string {
	lead, them, harm := "", "it", ", and nobody is told"
	if len(webhooks) > 1 {
		lead, them = names(webhooks, 8)+": ", "them"
	}
	if slices.Contains(webhooks, "proxy-injector") {
		harm = ": pods start without a proxy" + harm
	}
	return fmt.Sprintf("%swhat the API server has to ask %s is refused, or with failurePolicy Ignore goes on without %[2]s%s", lead, them, harm)
}

// horizon is the longest plan: beyond it no schedule was proved.
const horizon = 20 * 365 * 24 * time.Hour
