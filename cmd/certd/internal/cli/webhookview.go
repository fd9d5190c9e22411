package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// webhooks is a cluster's cell of the table: the worst of it, how many there
// are, and the least time that one has left.
func (v statusView) webhooks(c rotation.ClusterStatus) cell {
	switch {
	case c.Webhooks == nil:
		return nothing(c)
	case len(c.Webhooks) == 0 && webhookState(c) == rotation.StateOK:
		return text("none")
	}
	said := []string{fmt.Sprint(len(c.Webhooks)), ""}
	if end := firstEnd(c); end == nil {
		said = said[:1]
	} else if left := end.Sub(v.now); left > 0 {
		said[1] = " " + coarse(left)
	} else {
		said[1] = " ended"
	}
	m := markOf(webhookState(c))
	switch served := servedOf(c); {
	case served == "OLD" || served == "?":
		said = append(said, served)
		fallthrough
	case slices.ContainsFunc(c.Webhooks, func(w rotation.WebhookStatus) bool { return !w.CABundle.Current || w.Delivered == nil }):
		if m == markOK { // nothing is wrong with it: certd is at it
			m = markRunning
		}
	}
	return v.marked(m, strings.Join(said, " "))
}

// hasWebhooks says whether webhooks could run in any of the clusters.
func hasWebhooks(clusters []rotation.ClusterStatus) bool {
	return slices.ContainsFunc(clusters, func(c rotation.ClusterStatus) bool { return c.Webhooks != nil })
}

// aboutWebhooks says whether a finding is about a cluster's webhooks.
func aboutWebhooks(f rotation.Finding) bool { return strings.HasPrefix(f.ID, "Webhook") }

// unseen are the findings that leave open how the webhooks are.
var unseen = []string{"ClusterUnreachable", "ClusterDenied", "NotSeenLately", "NotSeenYet"}

// webhookState is the worst that is known of a cluster's webhooks.
func webhookState(c rotation.ClusterStatus) rotation.State {
	gravity := map[rotation.State]int{rotation.StateOK: 0, rotation.StateUnknown: 1, rotation.StateWarning: 2, rotation.StateCritical: 3}
	state := rotation.StateOK
	worse := func(s rotation.State) {
		if gravity[s] > gravity[state] {
			state = s
		}
	}
	for _, f := range c.Findings {
		switch {
		case aboutWebhooks(f):
			worse(f.Severity)
		case slices.Contains(unseen, f.ID):
			worse(rotation.StateUnknown)
		}
	}
	for _, w := range c.Webhooks {
		if !w.CABundle.Accepts || w.Check != nil && w.Check.State == "no" {
			worse(rotation.StateCritical)
		}
	}
	return state
}

// issuerState is the worst that is known of a cluster beside its webhooks and
// its pods.
func issuerState(c rotation.ClusterStatus) rotation.State {
	apart := func(f rotation.Finding) bool { return aboutWebhooks(f) || aboutProxies(f) }
	if !slices.ContainsFunc(c.Findings, apart) || slices.ContainsFunc(c.Findings, func(f rotation.Finding) bool { return !apart(f) && f.Severity == c.State }) {
		return c.State
	}
	if rest := gather(slices.DeleteFunc(slices.Clone(c.Findings), apart), nil); len(rest) > 0 {
		return rest[0].Severity
	}
	return rotation.StateOK
}

// servedOf says what is served over all webhooks: "OLD" where a replica serves
// another certificate, "?" where it could not be seen, "yes" else.
func servedOf(c rotation.ClusterStatus) string {
	word := "yes"
	for _, w := range c.Webhooks {
		switch {
		case w.Served == nil:
		case w.Served.State == "no":
			return "OLD"
		case w.Served.State != "yes":
			word = "?"
		}
	}
	return word
}

func firstEnd(c rotation.ClusterStatus) (first *time.Time) {
	for _, w := range c.Webhooks {
		if end := w.UsableUntil(); end != nil && (first == nil || end.Before(*first)) {
			first = end
		}
	}
	return first
}

// webhookSection has a row for each webhook of a cluster.
func (v statusView) webhookSection(c rotation.ClusterStatus) []string {
	if len(c.Webhooks) == 0 {
		return nil
	}
	managed := !slices.ContainsFunc(c.Webhooks, func(w rotation.WebhookStatus) bool { return w.Mode != string(rotation.Managed) })
	cols := []column{{name: "NAME"}, {name: "KIND", rank: 5}, {name: "CERTIFICATE"}, {name: "SERVED", rank: 2, least: 10}, {name: "CHECK", rank: 3}, {name: "CA", rank: 1}, {name: "NEXT", rank: 4}}
	if !managed {
		cols = append(cols, column{name: "MODE", rank: 1})
	}
	rows := make([][]cell, 0, len(c.Webhooks))
	for _, w := range c.Webhooks {
		next := "-"
		if w.NextRun != nil {
			next = v.moment(*w.NextRun)
		}
		row := []cell{text(v.clean(w.Name)), text(v.clean(w.Kind)), v.serving(c, w), v.servedBy(w), v.checked(w), text(v.clean(trusted(w))), text(next)}
		if !managed {
			row = append(row, text(v.clean(w.Mode)))
		}
		rows = append(rows, row)
	}
	lines := []string{"WEBHOOKS"}
	if ca := c.WebhookCA; ca != nil {
		ends := fmt.Sprintf("until %s (%s)", ca.NotAfter.In(v.zone).Format("2 Jan 2006"), coarse(ca.NotAfter.Sub(v.now)))
		if !ca.NotAfter.After(v.now) {
			ends = "ended " + v.day(ca.NotAfter)
		}
		lines = append(lines, v.wrap("  ca       ", "           ", v.plain(v.clean(ca.ID+" "+ca.Subject)+" · "+ends))...)
	}
	return append(append(lines, v.table("  ", cols, rows)...), "")
}

// serving is how long a webhook's certificate lasts, and whether it works.
func (v statusView) serving(c rotation.ClusterStatus, w rotation.WebhookStatus) cell {
	one := rotation.ClusterStatus{Webhooks: []rotation.WebhookStatus{w}}
	m, served := markOf(webhookState(one)), servedOf(one)
	told := func(id string) bool {
		return slices.ContainsFunc(c.Findings, func(f rotation.Finding) bool { return f.ID == id })
	}
	end := w.UsableUntil()
	switch {
	case m != markOK:
	case end != nil && !end.After(v.now):
		m = markCritical
	case served == "OLD" && told("WebhookNotServed"):
		m = markWarning
	case served == "?" || w.Check != nil && w.Check.State != "yes":
		m = markUnknown
	case served == "OLD" || end == nil || !w.CABundle.Current:
		m = markRunning
	}
	switch {
	case end == nil:
		return v.marked(m, "none")
	case end.After(v.now):
		return v.marked(m, span(end.Sub(v.now)))
	}
	return v.marked(m, "ended "+v.until(*end))
}

func (v statusView) servedBy(w rotation.WebhookStatus) cell {
	if w.Served == nil {
		return text("-")
	}
	word := w.Served.State
	switch word {
	case "yes", "no":
	default:
		word = "?"
	}
	return text(strings.TrimSpace(word + " " + v.clean(w.Served.Evidence)))
}

func (v statusView) checked(w rotation.WebhookStatus) cell {
	if w.Check == nil {
		return text("-")
	}
	switch w.Check.State {
	case "yes":
		return text("yes")
	case "no":
		return cell{text: "no", sgr: markCritical.sgr}
	}
	return text("?")
}

// trusted names the CAs by which the API server knows a webhook; one that is
// not certd's by the beginning of its subject.
func trusted(w rotation.WebhookStatus) string {
	var ids []string
	for _, ca := range w.CABundle.CAs {
		id := ca.ID
		if id == "" {
			id = clip(ca.Subject, 16)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return "none"
	}
	return names(ids, 3)
}
