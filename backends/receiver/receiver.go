// Package receiver delivers notifications: to Slack, PagerDuty, Alertmanager
// and to whoever takes signed webhooks (Standard Webhooks).
//
// Addresses and keys of receivers may be secrets. They are read afresh for each
// message, and no error here quotes them, nor what a receiver answered.
package receiver

import (
	"context"
	"errors"
	"time"

	"certd.internal/rotation"
)

// A Receiver takes messages. It holds no state: what was delivered is for the
// caller to remember.
type Receiver interface {
	Traits() Traits
	// Send delivers messages, exactly one unless Traits.Batch. nil means that the
	// receiver has them. After an error it may have them all the same; an error
	// that wraps *Failure says when to try again.
	Send(ctx context.Context, m []Message) error
}

// Traits are how a receiver wants to be told.
type Traits struct {
	Kind string // slack, pagerDuty, alertmanager or webhook
	// Batch: Send takes any number of messages. Findings that last are to be sent
	// again after Resend, since the receiver forgets them.
	Batch  bool
	Resend time.Duration
	// Keyed: a message replaces the one before with its DedupKey, and what was
	// begun by one has to be ended by another.
	Keyed bool
	// FindingsOnly: it has no use for what is neither a finding nor a test.
	FindingsOnly bool
}

// Takes says whether a receiver with these traits has a use for an event.
func (t Traits) Takes(e Event) bool {
	switch e {
	case Opened, Escalated, Cleared, Test:
		return true
	}
	return !t.FindingsOnly
}

// Event is what a message is about. The words are part of the surface.
type Event string

// The events.
const (
	Opened     Event = "finding.opened"
	Escalated  Event = "finding.escalated"
	Cleared    Event = "finding.cleared"
	TrustStage Event = "trust.stage"
	Digest     Event = "digest"
	Summary    Event = "summary"         // of messages that were too many, or too old
	SummaryEnd Event = "summary.cleared" // for keyed receivers: nothing that was summed up lasts
	Test       Event = "test"
)

// StateInfo is the severity of what is no finding.
const StateInfo rotation.State = "info"

// Message is one notification, and the body of a webhook. Absent means that it
// does not apply.
type Message struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"` // Notification
	ID         string         `json:"id"`   // the same however often it is sent
	Event      Event          `json:"event"`
	Fleet      string         `json:"fleet"`
	At         time.Time      `json:"at"` // when it happened
	Severity   rotation.State `json:"severity"`
	Summary    string         `json:"summary"` // in one sentence
	// DedupKey is the same for all messages about one finding in one cluster.
	DedupKey string            `json:"dedupKey,omitempty"`
	Cluster  string            `json:"cluster,omitempty"` // absent: of the fleet
	Finding  *rotation.Finding `json:"finding,omitempty"`
	Since    *time.Time        `json:"since,omitempty"` // when it was found
	// Formerly is the severity before it escalated.
	Formerly rotation.State `json:"previousSeverity,omitempty"`
	Trust    *TrustNews     `json:"trust,omitempty"`
	Digest   *DigestNews    `json:"digest,omitempty"`
	Items    []Item         `json:"items,omitempty"`   // of a summary, the gravest first
	Omitted  int            `json:"omitted,omitempty"` // how many more there are
	Lost     int            `json:"lost,omitempty"`    // how many messages were given up, of a summary that tells of that
}

// TrustNews is a step in a change of the trust anchor.
type TrustNews struct {
	Stage    string `json:"stage"` // "" when it is over
	Number   int    `json:"number,omitempty"`
	Of       int    `json:"of,omitempty"`
	Formerly string `json:"previousStage"` // "" when it begins
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Back     bool   `json:"back"` // it is, or was, turned around
}

// DigestNews is how things stand, and what was done since the digest before.
type DigestNews struct {
	Since               time.Time       `json:"since"`
	Until               time.Time       `json:"until"` // of what is due
	State               rotation.State  `json:"state"`
	Clusters            int             `json:"clusters"`
	Findings            int             `json:"findings"`
	Rotations           int             `json:"rotations"`
	Failed              int             `json:"failed"`
	Due                 int             `json:"due"`
	NothingBreaksBefore *time.Time      `json:"nothingBreaksBefore,omitempty"`
	FirstToBreak        *rotation.Break `json:"firstToBreak,omitempty"`
	AnchorNotAfter      *time.Time      `json:"anchorNotAfter,omitempty"`
	Anchor              string          `json:"anchor,omitempty"`
}

// Item is one message within a summary.
type Item struct {
	ID       string         `json:"id"`
	Event    Event          `json:"event"`
	At       time.Time      `json:"at"`
	Severity rotation.State `json:"severity"`
	Cluster  string         `json:"cluster,omitempty"`
	Finding  string         `json:"finding,omitempty"`
	Summary  string         `json:"summary"`
}

// Failure is why a message was not delivered.
type Failure struct {
	Why string // for people; nothing in it is secret
	// RetryAfter is when the receiver wants to be asked again; 0: it did not say.
	RetryAfter time.Duration
	// Refused: the receiver works and does not want this very message.
	Refused bool
}

func (f *Failure) Error() string { return f.Why }

// A Secret reads a secret from where it is kept. Its errors say where that is,
// not what is there.
type Secret interface{ Read() ([]byte, error) }

// errOne: only batches take several messages.
var errOne = errors.New("send a message: this receiver takes one at a time")

// one is the only message.
func one(m []Message) (Message, error) {
	if len(m) != 1 {
		return Message{}, errOne
	}
	return m[0], nil
}
