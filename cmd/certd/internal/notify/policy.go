// Package notify tells people and programs what became of the fleet: what was
// found, what got worse, what is over, and how a change of the trust anchor goes
// on.
//
// An event enters the journal's outbox in the same transaction that takes it down
// as told of, and leaves it when the receiver has acknowledged it. After a crash
// anywhere in between it is sent, perhaps twice, with the same id.
package notify

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
)

// Policy says who is told of what.
type Policy struct {
	Receivers map[string]Receiver // by name
	Routes    []Route             // the first that matches decides, unless it says to go on
	Default   []string            // names of the receivers of what no route matches
	// After is how long a finding has to last before it is told of, and to be
	// gone before that is.
	After time.Duration
	// GiveUp is how long a message is tried.
	GiveUp time.Duration
	Digest *Digest // nil: none
}

// Receiver is a receiver, and how many messages it gets in a minute.
type Receiver struct {
	receiver.Receiver
	PerMinute int // 1 or more
}

// Route is a rule about whom to tell. Each list that is not empty has to have
// what is told of; labels and clusters are never those of the whole fleet.
type Route struct {
	Events     []string         // EventFinding, EventTrust
	Severities []rotation.State // also receiver.StateInfo
	Clusters   []string
	Labels     labels.Selector // nil: any
	Findings   []string        // ids
	Receivers  []string        // names; none: nobody is told
	Continue   bool            // later routes are asked, too
}

// What routes can tell apart.
const (
	EventFinding = "finding"
	EventTrust   = "trust"
)

// Digest is a summary that is sent whatever happens: proof of life.
type Digest struct {
	Schedule  rotation.Schedule
	Receivers []string // names
}

// subject is what is told of.
type subject struct {
	event    string
	severity rotation.State
	cluster  string            // "" for the fleet
	labels   map[string]string // of the cluster
	finding  string            // id; "" if it is none
}

// to are the names of those who are told of s, each once, in the order of the
// routes.
func (p Policy) to(s subject) []string {
	var names []string
	matched := false
	add := func(more []string) {
		for _, name := range more {
			if _, there := p.Receivers[name]; there && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, r := range p.Routes {
		if !r.matches(s) {
			continue
		}
		matched = true
		add(r.Receivers)
		if !r.Continue {
			break
		}
	}
	if !matched {
		add(p.Default)
	}
	return names
}

func (r Route) matches(s subject) bool {
	switch {
	case len(r.Events) > 0 && !slices.Contains(r.Events, s.event):
	case len(r.Severities) > 0 && !slices.Contains(r.Severities, s.severity):
	case len(r.Clusters) > 0 && !slices.Contains(r.Clusters, s.cluster):
	case len(r.Findings) > 0 && !slices.Contains(r.Findings, s.finding):
	case r.Labels != nil && (s.cluster == "" || !r.Labels.Matches(labels.Set(s.labels))):
	default:
		return true
	}
	return false
}
