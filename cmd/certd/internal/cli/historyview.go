package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"certd.internal/rotation"
)

// historyView is journal entries as a table.
type historyView struct {
	style
	items []rotation.HistoryItem // in the order of the rows
}

func (v historyView) table(indent string) []string {
	cols := []column{{name: "#"}, {name: "TIME"}, {name: "WHO", rank: 3}, {name: "CLUSTER"}, {name: "WHAT"}, {name: "RESULT"}, {name: "TOOK", rank: 4}, {name: "WHY", rank: 2, least: 16}}
	rows := make([][]cell, 0, len(v.items))
	for _, h := range v.items {
		rows = append(rows, v.row(h))
	}
	return v.style.table(indent, cols, rows)
}

func (v historyView) row(h rotation.HistoryItem) []cell {
	what := v.clean(strings.TrimSpace(string(h.Step) + " " + h.Webhook))
	if h.Serial != "" {
		what += " " + brief(v.clean(h.Serial))
	}
	why := h.Reason
	if h.Outcome != rotation.OK && h.Detail != "" {
		why = h.Detail
	}
	took := ""
	if d := h.At.Sub(h.IntentAt); !h.IntentAt.IsZero() && d >= 0 {
		took = span(d)
		if d < time.Second {
			took = "<1s"
		}
	}
	return []cell{
		text(strconv.FormatUint(h.Seq, 10)),
		text(v.second(h.At)),
		text(v.clean(h.Actor)),
		text(cmp.Or(v.clean(h.Cluster), "-")),
		text(what),
		v.marked(markOfResult(h.Outcome), v.clean(string(h.Outcome))),
		text(took),
		text(v.clean(why)),
	}
}

// second is a moment to the second.
func (s style) second(t time.Time) string {
	return t.In(s.zone).Format("Mon _2 Jan" + s.year(t) + " 15:04:05 MST")
}

// line is an entry by itself, for --follow.
func (v historyView) line(h rotation.HistoryItem) []string {
	text := fmt.Sprintf("%s  %s", cmp.Or(v.clean(h.Cluster), "-"), v.clean(strings.TrimSpace(string(h.Step)+" "+h.Webhook)))
	if h.Serial != "" {
		text += " " + brief(v.clean(h.Serial))
	}
	text += "  " + string(h.Outcome)
	if why := cmp.Or(v.clean(h.Detail), v.clean(h.Reason)); why != "" {
		text += " (" + why + ")"
	}
	lead := fmt.Sprintf("%d  %s  %s  ", h.Seq, v.second(h.At), v.mark(markOfResult(h.Outcome)))
	return v.wrap(lead, "    ", text)
}
