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
	if v.doc.Cut {
		head += " What comes later is left out: a plan has no more steps."
	}
	if len(v.doc.Items) == 0 {
		head = fmt.Sprintf("nothing is planned until %s.", v.day(v.doc.Until))
	}
	lines := v.wrap(clip(v.clean(v.doc.Fleet), v.prose()-2)+"  ", "", head)
	if v.note != "" {
		lines = append(lines, v.wrap("", "", v.clean(v.note))...)
	}
	lines = append(lines, "")
	for _, p := range v.obstacles() {
		lines = append(lines, v.problem(p)...)
	}
	if len(v.doc.Findings) > 0 {
		lines = append(lines, "")
	}
	lines = append(lines, v.steps()...)
	if v.ifStopped {
		lines = append(lines, v.breaks()...)
	}
	lines = append(lines, v.around()...)
	clusters := map[string]bool{}
	for _, item := range v.doc.Items {
		if item.Cluster != "" {
			clusters[item.Cluster] = true
		}
	}
	return append(lines, fmt.Sprintf("Plan: %s in %s.", count(len(v.doc.Items), "step"), count(len(clusters), "cluster")))
}

// obstacles are the findings, those of one kind in many clusters as one.
func (v planView) obstacles() []problem {
	var fleet []rotation.Finding
	var clusters []rotation.ClusterStatus
	for _, f := range v.doc.Findings {
		if f.Cluster == "" {
			fleet = append(fleet, f)
			continue
		}
		clusters = append(clusters, rotation.ClusterStatus{Name: f.Cluster, Findings: []rotation.Finding{f}})
	}
	return likewise(gather(fleet, clusters))
}

// mostSeries is how many series a plan lists cluster by cluster before it folds
// those that are alike.
const mostSeries = 16

// alike folds series of one step in many clusters that begin on one day and go on
// as often. The first that begins stands for all.
func (v planView) alike(all []series) (folded []series, clusters map[int][]string) {
	if len(all) <= mostSeries {
		return all, nil
	}
	type key struct {
		step      rotation.Step
		webhooks  int
		day       string
		many, now bool
	}
	at := map[key]int{}
	clusters = map[int][]string{}
	for _, s := range all {
		first := s[0]
		k := key{first.Step, len(first.webhooks), first.At.In(v.zone).Format(time.DateOnly), len(s) > foldFrom, !first.At.After(v.now)}
		i, seen := at[k]
		if !seen {
			i, at[k] = len(folded), len(folded)
			folded = append(folded, s)
		}
		clusters[i] = append(clusters[i], cmp.Or(first.Cluster, "fleet"))
	}
	return folded, clusters
}

func (v planView) steps() []string {
	all, clusters := v.alike(serialise(v.doc.Items))
	if len(all) == 0 {
		return nil
	}
	var rows [][]cell
	folded := map[int]string{} // after that many rows
	for i, s := range all {
		shown, many := s, len(clusters[i]) > 1
		if len(s) > foldFrom || many {
			shown = s[:1]
		}
		for _, item := range shown {
			if many {
				item.Cluster = which(clusters[i])
				if len(clusters[i]) <= 3 {
					item.Cluster = count(len(clusters[i]), "cluster")
				}
			}
			rows = append(rows, v.step(item))
		}
		var said []string
		if many {
			said = append(said, "from then on in "+names(clusters[i], 8))
		}
		if len(shown) < len(s) {
			rest := "then " + v.rest(s)
			if many {
				rest = "each then again " + v.rest(s)
			}
			said = append(said, rest)
		}
		if len(said) > 0 {
			folded[len(rows)] = strings.Join(said, "; ")
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

// mostBreaks is how many ends a plan lists one by one before it folds those of
// a day.
const mostBreaks = 12

// An ending is what ends in one cluster, or in several on one day, if nobody
// renews it.
type ending struct {
	kind     string
	at       time.Time
	names    []string // of webhooks, or of the anchor
	clusters []string // none: the fleet
}

// endings are breaks by time, webhooks that end together as one. Many are
// folded by day.
func (v planView) endings() (all []ending) {
	join := func(list []ending, e ending, same func(ending) bool) []ending {
		i := slices.IndexFunc(list, same)
		if i < 0 {
			return append(list, e)
		}
		for _, n := range e.names {
			if !slices.Contains(list[i].names, n) {
				list[i].names = append(list[i].names, n)
			}
		}
		for _, c := range e.clusters {
			if !slices.Contains(list[i].clusters, c) {
				list[i].clusters = append(list[i].clusters, c)
			}
		}
		return list
	}
	for _, b := range v.doc.Breaks {
		e := ending{kind: b.Kind, at: b.At, names: []string{b.Name}}
		if b.Cluster != "" {
			e.clusters = []string{b.Cluster}
		}
		if b.Kind != "webhook" {
			all = append(all, e)
			continue
		}
		all = join(all, e, func(o ending) bool {
			return o.kind == e.kind && slices.Equal(o.clusters, e.clusters) && e.at.Sub(o.at).Abs() < time.Hour
		})
	}
	slices.SortStableFunc(all, func(a, b ending) int {
		return cmp.Or(a.at.Truncate(time.Minute).Compare(b.at.Truncate(time.Minute)), slices.Compare(a.clusters, b.clusters))
	})
	if len(all) <= mostBreaks {
		return all
	}
	day := func(t time.Time) string { return t.In(v.zone).Format(time.DateOnly) }
	var folded []ending
	for _, e := range all {
		folded = join(folded, e, func(o ending) bool { return o.kind == e.kind && len(e.clusters) > 0 && day(o.at) == day(e.at) })
	}
	return folded
}

func (v planView) breaks() []string {
	if len(v.doc.Breaks) == 0 {
		return []string{"If certd stopped now, nothing that it knows of would end.", ""}
	}
	var rows [][]cell
	more, injector, others := map[int]string{}, false, false
	for _, e := range v.endings() {
		what := "trust anchor " + strings.Join(e.names, ", ") + " and all under it end"
		switch e.kind {
		case "issuer":
			what = "the issuer and every workload certificate end"
			if len(e.clusters) > 1 {
				what = "the issuers and every workload certificate end"
			}
		case "webhook":
			what = "the API server stops accepting " + e.names[0]
			if len(e.names) > 1 {
				what = "the API server stops accepting " + count(len(e.names), "webhook")
				more[len(rows)] = names(e.names, 8)
			}
			inject := slices.Contains(e.names, "proxy-injector")
			injector, others = injector || inject, others || len(e.names) > 1 || !inject
		}
		at := v.moment(e.at) + e.at.In(v.zone).Format(" MST")
		where := cmp.Or(which(e.clusters), "fleet")
		if len(e.clusters) > 3 {
			more[len(rows)] = strings.TrimSpace(more[len(rows)] + " from then on in " + names(e.clusters, 12))
		}
		rows = append(rows, []cell{text(at), text(v.until(e.at)), text(v.clean(where)), text(v.clean(what))})
	}
	lines := []string{"If certd stopped now:"}
	for i, line := range v.table("  ", []column{{}, {rank: 2}, {}, {rank: 1, least: 16}}, rows) {
		lines = append(lines, line)
		if said, ok := more[i]; ok {
			lines = append(lines, v.wrap("      ", "      ", v.clean(said))...)
		}
	}
	if said := without(injector, others); said != "" {
		lines = append(lines, v.wrap("  ", "  ", said)...)
	}
	return append(lines, "")
}

// without says what comes of it that webhooks are accepted no longer.
func without(injector, others bool) string {
	switch {
	case injector && others:
		return "What the API server has to ask a webhook that it does not accept is refused, or with failurePolicy Ignore goes on without it, and nobody is told: without proxy-injector pods start without a proxy."
	case injector:
		return "Without proxy-injector pods are not created or, with failurePolicy Ignore, start without a proxy, and nobody is told."
	case others:
		return "What the API server has to ask a webhook that it does not accept is refused, or with failurePolicy Ignore goes on without it, and nobody is told."
	}
	return ""
}

// linkerdWarns is below what `linkerd check` warns of a certificate's end.
const linkerdWarns = 60 * 24 * time.Hour

// around is what bears on the plan: how close renewals come, and when workloads
// may be restarted for a change of the trust anchor.
func (v planView) around() (lines []string) {
	for _, l := range v.doc.Least {
		left := time.Duration(l.LeftSeconds) * time.Second
		kind := "an issuer"
		if l.Kind == "webhook" {
			kind = "a webhook's certificate"
		}
		said := fmt.Sprintf("%s of %s, when it is renewed on %s", kind, v.clean(l.Cluster), v.when(l.At))
		if left < linkerdWarns {
			said += "; linkerd check warns below 60d"
		}
		lead := span(left)
		if left <= 0 {
			lead = "none"
		}
		lines = append(lines, v.wrap("Least left ", "           ", lead+": "+said)...)
	}
	in := func(clusters int) string { return "in " + count(clusters, "cluster") }
	for i, w := range v.doc.Windows {
		if i == 4 {
			lines = append(lines, fmt.Sprintf("           and %d more (certd plan -o json)", len(v.doc.Windows)-i))
			break
		}
		when := "opens " + v.when(w.OpensAt) + " for " + span(w.ClosesAt.Sub(w.OpensAt))
		if !w.OpensAt.After(v.now) {
			when = "is open until " + v.when(w.ClosesAt)
		}
		lines = append(lines, v.wrap("Window     ", "           ", fmt.Sprintf("%s %s, %s: for restarts while the trust anchor is changed", v.clean(w.Name), when, in(w.Clusters)))...)
	}
	for _, f := range v.doc.Freezes {
		said := fmt.Sprintf("%s from %s until %s, %s: nothing is restarted for a change of the trust anchor; renewals go on", v.clean(f.Name), v.day(f.From), v.day(f.To), in(f.Clusters))
		if f.Reason != "" {
			said += " (" + v.clean(f.Reason) + ")"
		}
		lines = append(lines, v.wrap("Freeze     ", "           ", said)...)
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

// horizon is the longest plan: beyond it no schedule was proved.
const horizon = 20 * 365 * 24 * time.Hour
