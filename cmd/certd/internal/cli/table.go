package cli

import "strings"

// A column of a table. Where the terminal is too narrow, running text is
// clipped to its least width, then columns go by their rank, the highest
// first; rank 0 stays.
type column struct {
	name  string
	rank  int
	least int // of running text; 0: the column is no running text
}

// A cell is text of certd's own making, cleaned, with a colour.
type cell struct {
	text, sgr string
	// bare is how much of the text, from its start, has the colour; 0: all.
	bare int
}

func text(s string) cell { return cell{text: s} }

// marked is a cell that begins with a mark.
func (s style) marked(m mark, rest string) cell {
	sign := s.sign(m)
	return cell{text: sign + " " + rest, sgr: m.sgr, bare: len(sign)}
}

// table lays out rows under their columns, two spaces apart, each line begun
// with indent. It is never wider than the terminal: columns are dropped, then
// the widest are clipped.
func (s style) table(indent string, cols []column, rows [][]cell) []string {
	widths := make([]int, len(cols))
	for i, c := range cols {
		widths[i] = cells(c.name)
		for _, row := range rows {
			widths[i] = max(widths[i], cells(row[i].text))
		}
	}
	shown := make([]bool, len(cols))
	for i := range shown {
		shown[i] = true
	}
	if s.width > 0 {
		room := s.prose() - cells(indent)
		for total(widths, shown) > room && !shorten(cols, widths, shown, total(widths, shown)-room) {
			if !dropOne(cols, shown) {
				narrow(widths, shown, total(widths, shown)-room)
			}
		}
	}
	lines := make([]string, 0, len(rows)+1)
	head := make([]cell, len(cols))
	headed := false
	for i, c := range cols {
		head[i] = text(c.name)
		headed = headed || c.name != ""
	}
	if headed {
		rows = append([][]cell{head}, rows...)
	}
	for _, row := range rows {
		var line strings.Builder
		line.WriteString(indent)
		gap := 0
		for i, c := range row {
			if !shown[i] {
				continue
			}
			shownText := clip(c.text, widths[i])
			line.WriteString(strings.Repeat(" ", gap))
			if bare := c.bare; bare > 0 && bare <= len(shownText) {
				line.WriteString(s.paint(shownText[:bare], c.sgr) + shownText[bare:])
			} else {
				line.WriteString(s.paint(shownText, c.sgr))
			}
			gap = widths[i] - cells(shownText) + 2
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return lines
}

func total(widths []int, shown []bool) int {
	sum := -2
	for i, w := range widths {
		if shown[i] {
			sum += w + 2
		}
	}
	return sum
}

// shorten takes excess cells from running text, if that is enough.
func shorten(cols []column, widths []int, shown []bool, excess int) bool {
	for i, c := range cols {
		if shown[i] && c.least > 0 && widths[i]-excess >= c.least {
			widths[i] -= excess
			return true
		}
	}
	return false
}

func dropOne(cols []column, shown []bool) bool {
	drop := -1
	for i, c := range cols {
		if shown[i] && c.rank > 0 && (drop < 0 || c.rank > cols[drop].rank) {
			drop = i
		}
	}
	if drop >= 0 {
		shown[drop] = false
	}
	return drop >= 0
}

// narrow takes excess cells from the widest columns.
func narrow(widths []int, shown []bool, excess int) {
	for ; excess > 0; excess-- {
		widest := -1
		for i, w := range widths {
			if shown[i] && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		widths[widest]--
	}
}
