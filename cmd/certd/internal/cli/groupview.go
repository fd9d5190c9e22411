package cli

import (
	"fmt"
	"slices"
	"time"

	"certd.internal/rotation"
)

// mostGroups is how many lines a large fleet's groups take.
const mostGroups = 4

// A clusterGroup is a part of the fleet, in one row.
type clusterGroup struct {
	name     string
	clusters []rotation.ClusterStatus
	state    rotation.State
}

// grouped divides the fleet by the groups of its configuration. A cluster that
// is in several counts in the last, whose settings win. Groups stand by the worst
// in them, then as their first clusters do.
func grouped(clusters []rotation.ClusterStatus) (groups []clusterGroup) {
	at := map[string]int{}
	for _, c := range clusters {
		name := ""
		if n := len(c.Groups); n > 0 {
			name = c.Groups[n-1]
		}
		i, seen := at[name]
		if !seen {
			i, at[name] = len(groups), len(groups)
			groups = append(groups, clusterGroup{name: name, state: rotation.StateOK})
		}
		groups[i].clusters = append(groups[i].clusters, c)
		if gravity(c.State) > gravity(groups[i].state) {
			groups[i].state = c.State
		}
	}
	for i := range groups {
		switch {
		case groups[i].name != "":
		case len(groups) == 1:
			groups[i].name = "(all)"
		default:
			groups[i].name = "(no group)"
		}
	}
	slices.SortStableFunc(groups, func(a, b clusterGroup) int { return gravity(b.state) - gravity(a.state) })
	return groups
}

// groupTable has a row for each group: how its clusters are, what breaks first
// in it, and what comes next.
func (v statusView) groupTable() []string {
	groups := grouped(v.doc.Clusters)
	cols := []column{{name: "GROUP"}, {name: "CLUSTERS"}, {name: "OK"}, {name: "WARN"}, {name: "CRIT"}, {name: "UNKNOWN"}}
	proxies := hasProxies(v.doc.Clusters)
	if proxies {
		cols = append(cols, column{name: "PROXIES", rank: 4})
	}
	cols = append(cols, column{name: "FIRST TO BREAK", rank: 1}, column{name: "NEXT", rank: 2}, column{rank: 3})
	shown := len(groups)
	if shown > mostGroups {
		shown = mostGroups - 1
	}
	var rows [][]cell
	for _, g := range groups[:shown] {
		rows = append(rows, v.group(g, proxies))
	}
	lines := v.table("", cols, rows)
	if more := groups[shown:]; len(more) > 0 {
		clusters := 0
		for _, g := range more {
			clusters += len(g.clusters)
		}
		lines = append(lines, fmt.Sprintf("and %s more, with %s (certd status -o json)", count(len(more), "group"), count(clusters, "cluster")))
	}
	return lines
}

func (v statusView) group(g clusterGroup, proxies bool) []cell {
	sum := map[rotation.State]int{}
	var current, total int
	var first *rotation.Break
	var next *time.Time
	for _, c := range g.clusters {
		switch c.State {
		case rotation.StateOK, rotation.StateWarning, rotation.StateCritical:
			sum[c.State]++
		default:
			sum[rotation.StateUnknown]++
		}
		if p := c.Proxies; p != nil {
			current, total = current+p.Current, total+p.Total
		}
		if b := firstBreak(c); b != nil && (first == nil || b.At.Before(first.At)) {
			first = b
		}
		if _, at := nextOf(c); at != nil && (next == nil || at.Before(*next)) {
			next = at
		}
	}
	tally := func(s rotation.State) cell {
		c := text(fmt.Sprint(sum[s]))
		if sum[s] > 0 && s != rotation.StateOK {
			c.sgr = markOf(s).sgr
		}
		return c
	}
	row := []cell{text(v.clean(g.name)), text(fmt.Sprint(len(g.clusters))), tally(rotation.StateOK), tally(rotation.StateWarning), tally(rotation.StateCritical), tally(rotation.StateUnknown)}
	if proxies {
		row = append(row, text(fmt.Sprintf("%d/%d", current, total)))
	}
	breaks, at, in := "-", "-", ""
	if first != nil {
		breaks = "ended"
		if left := first.At.Sub(v.now); left > 0 {
			breaks = coarse(left)
		}
		breaks += " " + v.clean(first.Cluster) + " " + first.Kind
	}
	if next != nil {
		if at, in = v.moment(*next), v.until(*next); next.Sub(v.now) < time.Second {
			at, in = "now", ""
		}
	}
	return append(row, text(breaks), text(at), text(in))
}

// firstBreak is what stops working first in a cluster, nil if nothing is known
// to run there.
func firstBreak(c rotation.ClusterStatus) (first *rotation.Break) {
	if c.Issuer != nil && c.Issuer.Delivered != nil {
		first = &rotation.Break{Cluster: c.Name, Kind: "issuer", At: usableUntil(c.Issuer)}
	}
	if end := firstEnd(c); end != nil && (first == nil || end.Before(first.At)) {
		first = &rotation.Break{Cluster: c.Name, Kind: "webhook", At: *end}
	}
	return first
}

func breaksAt(c rotation.ClusterStatus) *time.Time {
	if b := firstBreak(c); b != nil {
		return &b.At
	}
	return nil
}
