package receiver

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"certd.internal/rotation"
)

// Text is a message for people, as plain text: one line, or a few.
func (m Message) Text() string {
	var b strings.Builder
	b.WriteString(m.headline())
	if f := m.Finding; f != nil && m.Event != Cleared {
		if f.Deadline != nil {
			fmt.Fprintf(&b, "\ndeadline: %s", stamp(*f.Deadline))
		}
		if f.Fix != "" {
			fmt.Fprintf(&b, "\ntype: %s", f.Fix)
		}
	}
	for _, i := range m.Items {
		fmt.Fprintf(&b, "\n- %s", i.Summary)
	}
	if m.Omitted > 0 {
		fmt.Fprintf(&b, "\n- and %d more", m.Omitted)
	}
	return b.String()
}

// headline is the first line.
func (m Message) headline() string {
	switch m.Event {
	case Opened, Escalated:
		return fmt.Sprintf("[%s] %s: %s", m.Fleet, m.Severity, m.Summary)
	case Cleared:
		return fmt.Sprintf("[%s] over: %s", m.Fleet, m.Summary)
	}
	return fmt.Sprintf("[%s] %s", m.Fleet, m.Summary)
}

func stamp(t time.Time) string { return t.UTC().Format("Mon 2 Jan 2006 15:04 UTC") }

// where is the cluster, or the fleet.
func (m Message) where() string { return cmp.Or(m.Cluster, m.Fleet) }

// clip shortens a text to at most n bytes.
func clip(text string, n int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= n {
		return text
	}
	cut := n - len("…")
	for cut > 0 && text[cut]&0xC0 == 0x80 {
		cut--
	}
	return text[:cut] + "…"
}

// is the severity in the words of a receiver that knows no "unknown".
func severity(s rotation.State, unknown string) string {
	if s == rotation.StateUnknown {
		return unknown
	}
	return string(s)
}
