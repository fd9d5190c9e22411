package cli

import (
	"fmt"
	"strings"

	"certd.internal/rotation"
)

const (
	mostPairs    = 8  // clusters that get a matrix; of more only the exceptions are told
	mostTold     = 12 // exceptions
	mostEvidence = 6  // lines of a promise that does not hold
	evidenceOK   = 4  // and of one that does
)

// verifyView is `certd verify` as text.
type verifyView struct {
	style
	doc rotation.Verification
}

func (v verifyView) lines() []string {
	m := markOf(v.doc.State)
	lines := v.wrap(v.clean(v.doc.Fleet)+"   "+v.mark(m)+" ", "  ", v.plain(v.clean(string(v.doc.State))+" · "+v.doc.ObservedAt.In(v.zone).Format("Mon 2 Jan 2006 15:04:05 MST")))
	if r := v.doc.Rotation; r != nil && r.Phase != "idle" {
		lines = append(lines, v.wrap("", "  ", v.clean(changeHead(*r)))...)
	}
	lines = append(lines, "")
	lines = append(lines, v.matrix()...)
	lines = append(lines, v.exceptions()...)
	lines = append(lines, v.partners()...)
	lines = append(lines, "", "Promises")
	for _, p := range v.doc.Promises {
		lines = append(lines, v.promise(p)...)
	}
	return lines
}

// matrix has a row for the cluster whose leaves are presented and a column for
// the one whose pods judge them; one line where that would be too wide.
func (v verifyView) matrix() []string {
	sum := v.doc.Pairs
	head := fmt.Sprintf("%d of %d pairs accepted", sum.Accepted, sum.Total)
	if sum.Accepted == sum.Total {
		head = fmt.Sprintf("all %d x %d pairs accepted", len(v.doc.Clusters), len(v.doc.Clusters))
	}
	if sum.Until != nil && sum.First != nil {
		head += fmt.Sprintf(" until %s (first: %s -> %s)", v.day(*sum.Until), v.clean(sum.First.Peer), v.clean(sum.First.Verifier))
	}
	total := v.wrap("  ", "    ", head)
	n := len(v.doc.Clusters)
	if n > mostPairs || n == 0 || len(v.doc.Matrix) != n*n {
		return append([]string{"Handshakes"}, total...)
	}
	cols := []column{{name: "#"}, {name: "PEER", least: 8}}
	for i := range n {
		cols = append(cols, column{name: fmt.Sprint(i + 1)})
	}
	rows := make([][]cell, n)
	for i, c := range v.doc.Clusters {
		rows[i] = []cell{text(fmt.Sprint(i + 1)), text(v.clean(c.Name))}
		for _, p := range v.doc.Matrix[i*n : (i+1)*n] {
			rows[i] = append(rows[i], v.cell(p))
		}
	}
	lines := v.wrap("Handshakes: ", "  ", "what pods of the column make of certificates of the row")
	lines = append(lines, v.table("  ", cols, rows)...)
	return append(append(lines, ""), total...)
}

// cell is a verdict in a few columns.
func (v verifyView) cell(p rotation.PairVerdict) cell {
	m, word := markUnknown, ""
	switch p.State {
	case rotation.PairAccepted:
		m = markOK
		if p.Until != nil {
			word = coarse(p.Until.Sub(v.now))
		}
	case rotation.PairRefused:
		m = markCritical
	}
	sign := strings.Trim(v.sign(m), "[]")
	return cell{text: strings.TrimSpace(sign + " " + word), sgr: m.sgr, bare: len(sign)}
}

// exceptions are the pairs that are not accepted, those of one reason together.
func (v verifyView) exceptions() []string {
	type reason struct {
		state rotation.PairState
		why   string
	}
	var order []reason
	pairs := map[reason][]rotation.PairVerdict{}
	for _, state := range []rotation.PairState{rotation.PairRefused, rotation.PairUnknown} {
		for _, p := range v.doc.Matrix {
			if p.State != state {
				continue
			}
			r := reason{p.State, p.Why}
			if pairs[r] == nil {
				order = append(order, r)
			}
			pairs[r] = append(pairs[r], p)
		}
	}
	var lines []string
	for i, r := range order {
		if i == mostTold {
			lines = append(lines, fmt.Sprintf("  and %s (certd verify -o json)", count(len(order)-i, "more reason")))
			break
		}
		m := markUnknown
		if r.state == rotation.PairRefused {
			m = markCritical
		}
		p := pairs[r][0]
		what := fmt.Sprintf("%s -> %s", v.clean(p.Peer), v.clean(p.Verifier))
		if more := len(pairs[r]) - 1; more > 0 {
			what += " and " + count(more, "more pair")
		}
		what += ": " + v.clean(string(r.state)) + ", " + v.clean(r.why)
		if p.State == rotation.PairRefused && p.Until != nil {
			what += "; ends by itself by " + v.when(*p.Until)
		}
		lines = append(lines, v.wrap("  "+v.mark(m)+" ", "    ", what)...)
	}
	if len(lines) > 0 {
		return append([]string{""}, lines...)
	}
	return nil
}

func (v verifyView) partners() []string {
	if len(v.doc.Partners) == 0 {
		return nil
	}
	cols := []column{{name: "PARTNER", least: 8}, {name: "CLUSTER", least: 8}, {name: "IN BUNDLE"}, {name: "UNTIL"}, {name: "PODS WITHOUT", rank: 1}, {name: "WHY", rank: 2, least: 16}}
	var rows [][]cell
	for i, p := range v.doc.Partners {
		if i == mostTold {
			break
		}
		in := "no"
		if p.InBundle {
			in = "yes"
		}
		rows = append(rows, []cell{v.marked(markOf(p.State), v.clean(p.Name)), text(v.clean(p.Cluster)), text(in), text(v.day(p.Until)), text(fmt.Sprint(p.Without)), text(v.clean(p.Why))})
	}
	lines := append([]string{"", "Partner meshes"}, v.table("  ", cols, rows)...)
	if more := len(v.doc.Partners) - len(rows); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more (certd verify -o json)", more))
	}
	return lines
}

func (v verifyView) promise(p rotation.PromiseVerdict) []string {
	head := fmt.Sprintf("%s %s", v.clean(p.ID), v.clean(p.Name))
	if p.State != rotation.StateOK {
		head += ": " + v.clean(string(p.State))
	}
	if p.At != nil {
		head += " (as of " + span(v.now.Sub(*p.At)) + " ago)"
	}
	lines := v.wrap("  "+v.mark(markOf(p.State))+" ", "    ", head)
	most := evidenceOK
	if p.State != rotation.StateOK {
		most = mostEvidence
	}
	say := func(all []string, before string) {
		for i, line := range all {
			if i == most {
				lines = append(lines, fmt.Sprintf("      and %d more (certd verify -o json)", len(all)-i))
				break
			}
			lines = append(lines, v.wrap("      "+before, "        ", v.clean(line))...)
		}
	}
	say(p.Evidence, "")
	say(p.Unseen, "not known: ")
	return lines
}
