package notify

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
	"certd.internal/state"
)

const (
	// maxMessage and maxItem are the most bytes of a sentence, by itself and in a
	// summary; maxItems is how many sentences a summary has.
	maxMessage = 2000
	maxItem    = 300
	maxItems   = 50
)

// newID is the id of a message: no other has it, also after the journal was lost.
func newID() string { return "msg_" + rand.Text() }

// clean makes of a text from elsewhere one line that any receiver takes.
func clean(text string, limit int) string {
	if state.HoldsKey(text) {
		return "(withheld: it looks like a private key)"
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
	}
	return text
}

// span is a duration for people, in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 365*day:
		return fmt.Sprintf("%dy %dd", d/(365*day), d%(365*day)/day)
	case d >= day:
		return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func (n *Notifier) message(e receiver.Event, severity rotation.State, now time.Time) receiver.Message {
	return receiver.Message{APIVersion: rotation.APIVersion, Kind: "Notification", ID: newID(), Event: e, Fleet: n.fleet, At: now.UTC().Truncate(time.Second), Severity: severity}
}

// named is a finding with its place, as every sentence about it begins.
func named(k key) string {
	if k.cluster == "" {
		return k.finding
	}
	return k.cluster + ": " + k.finding
}

func (n *Notifier) dedupKey(k key) string {
	if k.cluster == "" {
		return n.fleet + "/" + k.finding
	}
	return n.fleet + "/" + k.cluster + "/" + k.finding
}

// summaryKey is the DedupKey of everything that was summed up.
func (n *Notifier) summaryKey() string { return n.fleet + "/summary" }

// about is a message about a finding that is there.
func (n *Notifier) about(e receiver.Event, k key, f rotation.Finding, notice state.Notice, now time.Time) receiver.Message {
	m := n.message(e, notice.Severity, now)
	f.Message, f.Fix, f.Severity = clean(f.Message, maxMessage), clean(f.Fix, maxMessage), notice.Severity
	since := notice.Since.UTC().Truncate(time.Second)
	m.Cluster, m.DedupKey, m.Finding, m.Since = k.cluster, n.dedupKey(k), &f, &since
	m.Summary = named(k) + ": " + f.Message
	return m
}

// over is a message about a finding that is gone. why is what is known of that,
// "" if it simply is not found any more.
func (n *Notifier) over(k key, notice state.Notice, why string, now time.Time) receiver.Message {
	m := n.about(receiver.Cleared, k, rotation.Finding{ID: k.finding, Message: notice.Message}, notice, now)
	m.Summary = fmt.Sprintf("%s, after %s", named(k), span(max(0, now.Sub(notice.Since))))
	if why != "" {
		m.Summary += " (" + why + ")"
	}
	return m
}

// stage tells how far a change of the trust anchor is now, and was.
func (n *Notifier) stage(was, is state.TrustMark, r rotation.RotationStatus, now time.Time) receiver.Message {
	m := n.message(receiver.TrustStage, receiver.StateInfo, now)
	m.Trust = &receiver.TrustNews{Stage: is.Stage, Formerly: was.Stage, From: is.From, To: is.To, Back: is.Back}
	if is.Stage == "" {
		m.Trust.From, m.Trust.To, m.Trust.Back = was.From, was.To, was.Back
	} else {
		m.Trust.Number, m.Trust.Of = r.Number, r.Of
	}
	what := "the change of the trust anchor"
	if from, to := m.Trust.From, m.Trust.To; from != "" && to != "" {
		what += " from " + from + " to " + to
	}
	at := fmt.Sprintf("stage %s (%d of %d)", is.Stage, r.Number, r.Of)
	switch {
	case is.Stage == "" && was.Back:
		m.Summary = what + " was turned around, and is over: " + cmp.Or(was.From, "the old anchor") + " stays"
	case is.Stage == "":
		m.Summary = what + " is over"
	case was.Stage == "":
		m.Summary = what + " has begun: " + at
	case is.Back && !was.Back:
		m.Summary = what + " is turned around: " + at
	default:
		m.Summary = what + " is in " + at
	}
	if waits := r.WaitingFor; len(waits) > 0 && is.Stage != "" {
		m.Summary = clean(m.Summary+"; it waits for "+strings.Join(waits[:min(3, len(waits))], "; "), maxMessage)
	}
	return m
}

// item is a message within a summary.
func item(m receiver.Message) receiver.Item {
	i := receiver.Item{ID: m.ID, Event: m.Event, At: m.At, Severity: m.Severity, Cluster: m.Cluster, Summary: clean(m.Summary, maxItem)}
	if m.Finding != nil {
		i.Finding = m.Finding.ID
	}
	if m.Event == receiver.Cleared {
		i.Summary = "over: " + i.Summary
	}
	return i
}

// sumUp makes one message of several, summaries among them.
func (n *Notifier) sumUp(all []receiver.Message, why string, now time.Time) receiver.Message {
	m := n.message(receiver.Summary, receiver.StateInfo, now)
	m.DedupKey = n.summaryKey()
	count := 0
	kinds := map[string]int{}
	for _, one := range all {
		items := []receiver.Item{item(one)}
		if one.Event == receiver.Summary {
			items = one.Items
			m.Omitted += one.Omitted
			count += one.Omitted
		}
		for _, i := range items {
			m.Items = append(m.Items, i)
			count++
			switch {
			case i.Event == receiver.Cleared:
				kinds["over"]++
			case i.Finding != "":
				kinds[i.Finding]++
			}
			if i.Event != receiver.Cleared && (m.Severity == receiver.StateInfo || rank(i.Severity) > rank(m.Severity)) && rank(i.Severity) > 0 {
				m.Severity = i.Severity
			}
		}
	}
	slices.SortStableFunc(m.Items, func(a, b receiver.Item) int {
		open := func(i receiver.Item) int {
			if i.Event == receiver.Cleared {
				return 0
			}
			return rank(i.Severity)
		}
		return open(b) - open(a)
	})
	if len(m.Items) > maxItems {
		m.Omitted += len(m.Items) - maxItems
		m.Items = m.Items[:maxItems]
	}
	m.Summary = fmt.Sprintf("%d notifications in one, since %s", count, why)
	var parts []string
	for _, kind := range slices.SortedFunc(maps.Keys(kinds), func(a, b string) int { return cmp.Or(kinds[b]-kinds[a], cmp.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%s ×%d", kind, kinds[kind]))
	}
	if len(parts) > 0 {
		m.Summary = clean(m.Summary+": "+strings.Join(parts[:min(8, len(parts))], ", "), maxMessage)
	}
	return m
}

// digestOf is how things stand.
func (n *Notifier) digestOf(st rotation.FleetStatus, since, now time.Time) (receiver.Message, error) {
	const ahead = 7 * 24 * time.Hour
	m := n.message(receiver.Digest, receiver.StateInfo, now)
	d := &receiver.DigestNews{Since: since.UTC().Truncate(time.Second), Until: now.Add(ahead).UTC().Truncate(time.Second), State: st.State, Clusters: len(st.Clusters),
		NothingBreaksBefore: st.NothingBreaksBefore, FirstToBreak: st.FirstToBreak}
	m.Digest = d
	entries, err := n.world.History(since)
	if err != nil {
		return m, fmt.Errorf("read the history for the digest: %w", err)
	}
	for _, e := range entries {
		switch {
		case !rotates(e.Intent.Step):
		case e.Result == rotation.OK:
			d.Rotations++
		case e.Result == rotation.Failed:
			d.Failed++
		}
	}
	for _, i := range n.world.Plan(d.Until).Items {
		if rotates(i.Step) {
			d.Due++
		}
	}
	found := sightOf(st).found
	d.Findings = len(found)
	parts := []string{fmt.Sprintf("%s done", counted(d.Rotations, "rotation"))}
	if d.Failed > 0 {
		parts = append(parts, counted(d.Failed, "attempt")+" failed")
	}
	parts = append(parts, fmt.Sprintf("%d due within a week", d.Due))
	if b := d.NothingBreaksBefore; b != nil {
		text := "least time " + span(max(0, b.Sub(now)))
		if f := d.FirstToBreak; f != nil && f.Cluster != "" {
			text += " (" + f.Cluster + ")"
		}
		parts = append(parts, text)
	}
	if a := st.Trust.Active; a != nil {
		d.Anchor, d.AnchorNotAfter = a.ID, &a.NotAfter
		parts = append(parts, "anchor "+span(max(0, a.NotAfter.Sub(now))))
	}
	m.Summary = fmt.Sprintf("%s, %s, %s: %s", counted(d.Clusters, "cluster"), st.State, counted(d.Findings, "finding"), strings.Join(parts, ", "))
	return m, nil
}

// rotates says which steps of the history and the plan are rotations.
func rotates(s rotation.Step) bool {
	switch s {
	case rotation.StepIssuer, rotation.StepRepairIssuer, rotation.StepWebhook, rotation.StepRepairWebhook, rotation.StepWebhookCA, rotation.StepTrustRenew:
		return true
	}
	return false
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// outgoing is a message as the journal keeps it for one receiver. A summary has
// no more items than a record holds.
func outgoing(m *receiver.Message, to string) (state.Outgoing, error) {
	body, err := json.Marshal(m)
	for err == nil && len(body) > state.MaxBody && len(m.Items) > 0 {
		m.Items, m.Omitted = m.Items[:len(m.Items)-1], m.Omitted+1
		body, err = json.Marshal(m)
	}
	if err != nil {
		return state.Outgoing{}, fmt.Errorf("encode notification %s: %w", m.ID, err)
	}
	return state.Outgoing{ID: m.ID, Receiver: to, At: m.At, Body: body}, nil
}
