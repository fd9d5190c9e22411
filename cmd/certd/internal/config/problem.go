package config

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a configuration file. Line and Column count from 1,
// columns in characters; Line is 0 where the problem is with the whole file.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problem is one thing that is wrong with a configuration, or, among
// Config.Warnings, one that may surprise.
type Problem struct {
	Position
	Path    string // "defaults.issuer.schedule"; "" for the file
	Message string
}

func (p Problem) String() string {
	text := p.Position.String() + ": "
	if p.Path != "" {
		text += p.Path + ": "
	}
	return text + p.Message
}

// Problems are all that is wrong with a configuration, in the order of the
// file. As an error they are a line each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(at Position, path, format string, args ...any) {
	problem := Problem{at, path, fmt.Sprintf(format, args...)}
	// What stands in defaults is checked for each cluster and told once. After
	// so many, the rest is noise.
	if len(*p) < 200 && !slices.Contains(*p, problem) {
		*p = append(*p, problem)
	}
}

// inOrder sorts by line and column; file is the one that comes first.
func (p Problems) inOrder(file string) Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		switch {
		case a.File != b.File && a.File == file:
			return -1
		case a.File != b.File && b.File == file:
			return 1
		case a.File != b.File:
			return strings.Compare(a.File, b.File)
		case a.Line != b.Line:
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return p
}

// didYouMean returns `, did you mean "x"?` for the candidate closest to word,
// or "" if none is close.
func didYouMean(word string, candidates []string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, candidate := range candidates {
		a, b := strings.ToLower(word), strings.ToLower(candidate)
		d := editDistance(a, b)
		if len(a) > 3 && strings.HasPrefix(b, a) {
			d = min(d, 1) // secretID, of secretIDFrom
		}
		if d < least {
			best, least = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance is the least number of letters to insert, delete, replace or
// swap with a neighbour that makes b of a. Words longer than 64 bytes are far
// from everything.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(replace, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
