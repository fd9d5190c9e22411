package cli

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// A problem is one finding, of one or of many clusters alike.
type problem struct {
	rotation.Finding
	clusters []string // none: it is the fleet's
	others   bool     // the message is one cluster's, and others have their own
}

// gather folds alike findings of many clusters into one: when Vault is down,
// that is one thing to know, not two hundred. The gravest come first, then
// those that leave the least time.
func gather(fleet []rotation.Finding, clusters []rotation.ClusterStatus) []problem {
	var all []problem
	for _, f := range fleet {
		all = append(all, problem{Finding: f})
	}
	type alike struct {
		id, message, fix string
		severity         rotation.State
	}
	at := map[alike]int{}
	for _, c := range clusters {
		for _, f := range c.Findings {
			key := alike{f.ID, f.Message, f.Fix, f.Severity}
			i, seen := at[key]
			if !seen {
				at[key] = len(all)
				all = append(all, problem{Finding: f, clusters: []string{c.Name}})
				continue
			}
			all[i].clusters = append(all[i].clusters, c.Name)
			if compareEnds(f.Deadline, all[i].Deadline) < 0 {
				all[i].Deadline = f.Deadline
			}
		}
	}
	// Minutes decide: which of many was a second earlier says nothing.
	slices.SortStableFunc(all, func(a, b problem) int {
		return cmp.Or(cmp.Compare(gravity(b.Severity), gravity(a.Severity)), compareEnds(minute(a.Deadline), minute(b.Deadline)))
	})
	return all
}

func minute(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	m := t.Truncate(time.Minute)
	return &m
}

// gravity ranks states; what is not known of comes after all that is wrong.
func gravity(s rotation.State) int {
	switch s {
	case rotation.StateOK:
		return 0
	case rotation.StateWarning:
		return 2
	case rotation.StateCritical:
		return 3
	}
	return 1
}

// compareEnds puts the earlier first, and what has no end last.
func compareEnds(a, b *time.Time) int {
	switch {
	case a != nil && b != nil:
		return a.Compare(*b)
	case a != nil:
		return -1
	case b != nil:
		return 1
	}
	return 0
}

// mostAlike is how many problems of one kind are told one by one, where their
// words differ by more than names and numbers.
const mostAlike = 3

// likewise folds problems of one kind that clusters tell of in words of their
// own, as the same outage is by each that it keeps from answering. The words are
// those of the one that leaves the least time.
func likewise(problems []problem) (folded []problem) {
	type kind struct {
		id       string
		severity rotation.State
		words    string
	}
	of := func(p problem) kind { return kind{p.ID, p.Severity, ""} }
	many := map[kind]int{}
	for _, p := range problems {
		if len(p.clusters) > 0 {
			many[of(p)]++
		}
	}
	at := map[kind]int{}
	for _, p := range problems {
		if len(p.clusters) > 0 && slices.ContainsFunc(problems, func(f problem) bool { return len(f.clusters) == 0 && f.ID == p.ID && f.Message == p.Message }) {
			continue // it is told of the fleet
		}
		if len(p.clusters) == 0 {
			folded = append(folded, p)
			continue
		}
		k := of(p)
		if many[k] <= mostAlike {
			k.words = skeleton(p)
		}
		i, seen := at[k]
		if !seen {
			at[k] = len(folded)
			p.clusters = slices.Clone(p.clusters)
			folded = append(folded, p)
			continue
		}
		first := &folded[i]
		if !first.others {
			first.Message = fmt.Sprintf("%s: %s; the others likewise", which(first.clusters), first.Message)
			first.others = true
		}
		for _, name := range p.clusters {
			if !slices.Contains(first.clusters, name) {
				first.clusters = append(first.clusters, name)
			}
		}
	}
	return folded
}

// skeleton is a problem's text without what differs from cluster to cluster:
// names, numbers, and days of the week and months.
func skeleton(p problem) string {
	text := p.Message
	for _, name := range p.clusters {
		text = strings.ReplaceAll(text, name, "*")
	}
	return dates.ReplaceAllString(text, "#")
}

var dates = regexp.MustCompile(`\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b|[0-9]+`)

// problem tells one, with how long there is and what to type.
func (v style) problem(p problem) []string {
	m := markOf(p.Severity)
	who := clip(v.clean(which(p.clusters)), v.prose()-20)
	if who != "" {
		who += "  "
	}
	indent := strings.Repeat(" ", cells(v.sign(m))+1)
	lines := v.wrap(v.mark(m)+" "+who, indent, v.clean(p.Message))
	more := "    "
	if len(p.clusters) > 3 {
		lines = append(lines, v.wrap(more, more, v.clean("in "+names(p.clusters, 12)))...)
	}
	if p.Deadline != nil {
		word := "by"
		if p.Deadline.Before(v.now) {
			word = "since"
		}
		lines = append(lines, v.wrap(more, more, fmt.Sprintf("%s %s (%s)", word, v.when(*p.Deadline), v.until(*p.Deadline)))...)
	}
	if t := p.Tried; t != nil {
		said := fmt.Sprintf("tried %s since %s", count(t.Times, "time"), v.when(t.Since))
		if t.Next != nil {
			said += ", again " + v.until(*t.Next)
			if !t.Next.After(v.now) {
				said = strings.TrimSuffix(said, v.until(*t.Next)) + "now"
			}
		}
		lines = append(lines, v.wrap(more, more, said)...)
	}
	if p.Fix != "" {
		lines = append(lines, v.next(v.clean(p.Fix))...)
	}
	return v.runbook(lines, p)
}

// runbook adds what prints the runbook, beside what to type where there is room
// for it; it has a line of its own where there is nothing else to type.
func (v style) runbook(lines []string, p problem) []string {
	arrow := v.plain("  → ")
	more := arrow + v.clean(p.Runbook)
	switch last := len(lines) - 1; {
	case p.Runbook == "":
	case p.Fix == "":
		lines = append(lines, v.wrap(arrow, strings.Repeat(" ", cells(arrow)), v.clean(p.Runbook))...)
	case strings.HasPrefix(lines[last], arrow) && cells(lines[last])+1+cells(more) <= v.prose():
		lines[last] += " " + more
	}
	return lines
}

// next is a line that says what to type.
func (v style) next(command string) []string {
	if strings.HasPrefix(command, "certd ") && v.config != "" && !strings.Contains(command, " --config ") {
		first, rest, piped := strings.Cut(command, " | ")
		command = first + " --config " + v.clean(v.config)
		if piped { // what it is piped into has no such flag
			command += " | " + rest
		}
	}
	arrow := v.plain("  → ")
	return v.wrap(arrow, strings.Repeat(" ", cells(arrow)), command)
}

// which names the clusters of a problem, or says how many there are.
func which(clusters []string) string {
	if len(clusters) > 3 {
		return count(len(clusters), "cluster")
	}
	return strings.Join(clusters, ", ")
}

// names lists up to most names.
func names(list []string, most int) string {
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}
