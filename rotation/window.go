package rotation

import (
	"fmt"
	"time"
)

// Window is a time in which workloads may be restarted: from each firing of its
// schedule on, for so long.
type Window struct {
	Name  string
	Opens Schedule
	For   time.Duration
}

// Freeze is a time in which nothing is restarted: from From until before To.
type Freeze struct {
	Name, Reason string
	From, To     time.Time
}

// closed says why nothing is to be restarted in the cluster now, and when that may
// change; "" if it may be. A cluster without windows is always open but for freezes.
func (p Policy) closed(now time.Time) (why string, until time.Time) {
	for _, f := range p.Freezes {
		if !now.Before(f.From) && now.Before(f.To) {
			why = fmt.Sprintf("freeze %s ends %s", f.Name, clock(f.To))
			if f.Reason != "" {
				why += " (" + f.Reason + ")"
			}
			return why, f.To
		}
		if now.Before(f.From) && (until.IsZero() || f.From.Before(until)) {
			until = f.From
		}
	}
	if len(p.Windows) == 0 {
		return "", until
	}
	var opens, closes time.Time
	name := ""
	for _, w := range p.Windows {
		if begun := w.Opens.Next(now.Add(-w.For)); !begun.IsZero() && !begun.After(now) {
			if end := begun.Add(w.For); end.After(closes) {
				closes = end
			}
		}
		if next := w.Opens.Next(now); !next.IsZero() && (opens.IsZero() || next.Before(opens)) {
			opens, name = next, w.Name
		}
	}
	switch {
	case !closes.IsZero():
		if until.IsZero() || closes.Before(until) {
			until = closes
		}
		return "", until
	case opens.IsZero():
		return "none of its windows ever opens", time.Time{}
	}
	return fmt.Sprintf("window %s opens %s", name, clock(opens)), opens
}
