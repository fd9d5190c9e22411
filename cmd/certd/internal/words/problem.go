package words

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"certd.internal/rotation"
)

// A Problem is one finding, of one or of many clusters alike.
type Problem struct {
	rotation.Finding
	Clusters []string // none: it is the fleet's
}

// Gather folds alike findings of many clusters into one: when Vault is down,
// that is one thing to know, not two hundred. The gravest come first, then
// those that leave the least time.
func Gather(fleet []rotation.Finding, clusters []rotation.ClusterStatus) []Problem {
	var all []Problem
	for _, f := range fleet {
		all = append(all, Problem{Finding: f})
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
				all = append(all, Problem{Finding: f, Clusters: []string{c.Name}})
				continue
			}
			all[i].Clusters = append(all[i].Clusters, c.Name)
			if f.Deadline != nil && (all[i].Deadline == nil || f.Deadline.Before(*all[i].Deadline)) {
				all[i].Deadline = f.Deadline
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Problem) int {
		switch ga, gb := Gravity(a.Severity), Gravity(b.Severity); {
		case ga != gb:
			return cmp.Compare(gb, ga)
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

// Gravity ranks states from 0, which is ok, to 3, which is critical. What is not
// known of comes after all that is wrong.
func Gravity(s rotation.State) int {
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

// Which names the clusters of a problem, or says how many there are.
func Which(clusters []string) string {
	if len(clusters) > 3 {
		return Count(len(clusters), "cluster")
	}
	return strings.Join(clusters, ", ")
}

// Names lists up to most names.
func Names(list []string, most int) string {
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// Count is "1 cluster", "2 clusters".
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Thousands writes a count with a comma between each three digits.
func Thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Clean makes text from outside one line without anything that moves what stands
// around it: a server's error must not turn the direction of writing, or pretend
// to be certd.
func Clean(text string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
			return '?'
		}
		return r
	}, text)), " ")
}
