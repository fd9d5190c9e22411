package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"certd.internal/rotation"
)

// A problem is one finding, of one or of many clusters alike.
type problem struct {
	rotation.Finding
	clusters []string // none: it is the fleet's
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
			if f.Deadline != nil && (all[i].Deadline == nil || f.Deadline.Before(*all[i].Deadline)) {
				all[i].Deadline = f.Deadline
			}
		}
	}
	gravity := map[rotation.State]int{rotation.StateCritical: -3, rotation.StateWarning: -2, rotation.StateUnknown: -1}
	slices.SortStableFunc(all, func(a, b problem) int {
		switch {
		case gravity[a.Severity] != gravity[b.Severity]:
			return cmp.Compare(gravity[a.Severity], gravity[b.Severity])
		case a.Deadline != nil && b.Deadline != nil:
			return a.Deadline.Compare(*b.Deadline)
		case a.Deadline != nil:
			return -1
		case b.Deadline != nil:
			return 1
		}
		return 0
	})
	return all
}

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
		lines = append(lines, v.wrap(more, more, fmt.Sprintf("by %s (%s)", v.when(*p.Deadline), v.until(*p.Deadline)))...)
	}
	if p.Fix != "" {
		lines = append(lines, v.next(v.clean(p.Fix))...)
	}
	return lines
}

// next is a line that says what to type.
func (v style) next(command string) []string {
	if strings.HasPrefix(command, "certd ") && v.config != "" && !strings.Contains(command, " --config ") {
		command += " --config " + v.clean(v.config)
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
