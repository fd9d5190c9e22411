package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// PagerDutyURL is where PagerDuty takes events; accounts in Europe have one of
// their own.
const PagerDutyURL = "https://events.pagerduty.com"

// PagerDuty is a service of PagerDuty's with an Events API v2 integration. A
// finding is an incident, with the message's DedupKey: it is triggered when the
// finding is told of and resolved when it is over. What is no finding is a change
// event, which wakes nobody.
type PagerDuty struct {
	Access     Access
	URL        string // PagerDutyURL, or as it
	RoutingKey Secret
}

// Traits implements Receiver.
func (PagerDuty) Traits() Traits { return Traits{Kind: "pagerDuty", Keyed: true} }

type pagerEvent struct {
	RoutingKey string        `json:"routing_key"`
	Action     string        `json:"event_action,omitempty"`
	DedupKey   string        `json:"dedup_key,omitempty"`
	Client     string        `json:"client,omitempty"`
	Payload    *pagerPayload `json:"payload,omitempty"`
}

type pagerPayload struct {
	Summary   string   `json:"summary"`
	Source    string   `json:"source"`
	Severity  string   `json:"severity,omitempty"`
	Timestamp string   `json:"timestamp"`
	Component string   `json:"component,omitempty"`
	Group     string   `json:"group,omitempty"`
	Class     string   `json:"class,omitempty"`
	Details   *Message `json:"custom_details,omitempty"`
}

// Limits of PagerDuty's on one event.
const (
	maxPagerSummary = 1024
	maxDedupKey     = 255
)

// Send implements Receiver.
func (p PagerDuty) Send(ctx context.Context, messages []Message) error {
	m, err := one(messages)
	if err != nil {
		return err
	}
	key, err := p.RoutingKey.Read()
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell PagerDuty: %v", err)}
	}
	e := pagerEvent{RoutingKey: string(key), DedupKey: clip(m.DedupKey, maxDedupKey), Client: "certd"}
	switch m.Event {
	case Opened, Escalated, Summary:
		e.Action, e.Payload = "trigger", payload(m)
	case Cleared, SummaryEnd:
		e.Action = "resolve"
	case Test:
		// Whoever asks for a test wants to see it arrive, and no incident to stay.
		e.Action, e.Payload = "trigger", payload(m)
		if err := p.enqueue(ctx, "v2/enqueue", e); err != nil {
			return err
		}
		e.Action, e.Payload = "resolve", nil
	default:
		e.DedupKey, e.Client = "", ""
		e.Payload = payload(m)
		e.Payload.Severity, e.Payload.Component, e.Payload.Group, e.Payload.Class = "", "", "", ""
		return p.enqueue(ctx, "v2/change/enqueue", e)
	}
	return p.enqueue(ctx, "v2/enqueue", e)
}

func payload(m Message) *pagerPayload {
	p := &pagerPayload{Summary: clip(m.headline(), maxPagerSummary), Source: m.where(), Severity: severity(m.Severity, "warning"),
		Timestamp: m.At.UTC().Format(time.RFC3339), Component: m.Cluster, Group: m.Fleet, Class: string(m.Event), Details: &m}
	if m.Finding != nil {
		p.Class = m.Finding.ID
	}
	return p
}

func (p PagerDuty) enqueue(ctx context.Context, path string, e pagerEvent) error {
	base, err := p.Access.Check(p.URL)
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell PagerDuty: the URL %s cannot be used: %v", p.URL, err)}
	}
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("tell PagerDuty: %w", err)
	}
	return p.Access.post(ctx, "PagerDuty", at(base, path), nil, body)
}

// at is a path below a base URL.
func at(base *url.URL, path string) *url.URL { return base.JoinPath(path) }
