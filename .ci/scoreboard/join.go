package scoreboard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Joined is what the disjoint runs of one line on one commit add up to.
type Joined struct {
	Line    string
	Parts   []Part
	Counts  map[string]uint64
	Largest map[string]float64
	Seconds float64
	Raced   bool    // some were
	Failed  []Range // seeds of runs that failed
}

// Part is the seeds that were gone through of one part of a line.
type Part struct {
	Name   string
	Ranges []Range // disjoint, rising, those that touch joined
}

// Seeds is how many seeds a part has gone through.
func (p Part) Seeds() (n uint64) {
	for _, r := range p.Ranges {
		n += r.Len()
	}
	return n
}

// Join adds up the records of one line on one commit. Of records whose seeds
// overlap only the first counts: a seed counts once.
func Join(records []Record, line, commit string) Joined {
	j := Joined{Line: line, Counts: map[string]uint64{}, Largest: map[string]float64{}}
	records = slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return r.Line != line || r.Commit != commit })
	slices.SortStableFunc(records, func(a, b Record) int {
		return cmp.Or(strings.Compare(a.Part, b.Part), cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To), a.Began.Compare(b.Began))
	})
	for _, r := range records {
		if len(j.Parts) == 0 || j.Parts[len(j.Parts)-1].Name != r.Part {
			j.Parts = append(j.Parts, Part{Name: r.Part})
		}
		p := &j.Parts[len(j.Parts)-1]
		last := len(p.Ranges) - 1
		switch {
		case last >= 0 && r.From < p.Ranges[last].To:
			if r.Failed {
				j.Failed = append(j.Failed, r.Range)
			}
			continue
		case last >= 0 && r.From == p.Ranges[last].To:
			p.Ranges[last].To = r.To
		default:
			p.Ranges = append(p.Ranges, r.Range)
		}
		for what, n := range r.Counts {
			j.Counts[what] += n
		}
		for what, v := range r.Largest {
			if was, ok := j.Largest[what]; !ok || v > was {
				j.Largest[what] = v
			}
		}
		j.Seconds += r.Seconds
		j.Raced = j.Raced || r.Raced
		if r.Failed {
			j.Failed = append(j.Failed, r.Range)
		}
	}
	return j
}

// Next is the first run of up to n seeds of a part that none has gone through
// yet, nothing beyond limit (0: there is no limit); it is empty when all are done.
func (j Joined) Next(part string, n, limit uint64) Range {
	next := Range{}
	var done []Range
	for _, p := range j.Parts {
		if p.Name == part {
			done = p.Ranges
		}
	}
	for _, r := range done {
		if r.From > next.From {
			limit = min(cmp.Or(limit, r.From), r.From)
			break
		}
		next.From = r.To
	}
	next.To = next.From + n
	if limit > 0 {
		next.To = min(next.To, limit)
		next.From = min(next.From, next.To)
	}
	return next
}

// SeedsText names the seeds: of one part its ranges, of several how many each.
func (j Joined) SeedsText() string {
	switch len(j.Parts) {
	case 0:
		return "no seeds"
	case 1:
		var ranges []string
		for _, r := range j.Parts[0].Ranges {
			ranges = append(ranges, fmt.Sprintf("%s–%s", thousands(r.From), thousands(r.To-1)))
		}
		return "seeds " + strings.Join(ranges, ", ")
	}
	least, most := j.Parts[0].Seeds(), uint64(0)
	for _, p := range j.Parts {
		least, most = min(least, p.Seeds()), max(most, p.Seeds())
	}
	if least == most {
		return fmt.Sprintf("%d × %s", len(j.Parts), thousands(least))
	}
	return fmt.Sprintf("%d × %s to %s", len(j.Parts), thousands(least), thousands(most))
}

// CountsText is what was counted, in words, in the order of their names.
func (j Joined) CountsText() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(j.Counts)) {
		all = append(all, thousands(j.Counts[what])+" "+what)
	}
	for _, what := range slices.Sorted(maps.Keys(j.Largest)) {
		all = append(all, fmt.Sprintf("%s %.3g", what, j.Largest[what]))
	}
	return strings.Join(all, ", ")
}

// thousands writes a number in groups of three digits.
func thousands(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
