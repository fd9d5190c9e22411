package config

import (
	"time"

	"certd.internal/rotation"
)

// Slots are the next firings of one cluster, for `config validate`.
type Slots struct {
	Cluster  string
	Schedule rotation.Schedule
	Next     []time.Time // in the schedule's zone, spread included
	Changes  []ClockChange
}

// ClockChange is one setting of a zone's clocks.
type ClockChange struct {
	At      time.Time // the first instant after it, in the zone
	From    string    // what the clocks show when it comes, "02:00"
	To      string    // what they are set to, "03:00"
	Forward bool      // what lies between does not exist; else it comes twice
}

// NextSlots returns the next n firings of each cluster after now, and the
// changes of its clocks within a year.
func (c *Config) NextSlots(now time.Time, n int) []Slots {
	all := make([]Slots, 0, len(c.Clusters))
	changes := map[string][]ClockChange{}
	for _, cluster := range c.Clusters {
		policy := cluster.Policy.Issuer
		zone := policy.Schedule.Zone()
		if _, known := changes[zone.String()]; !known {
			changes[zone.String()] = clockChanges(zone, now, now.AddDate(1, 0, 0))
		}
		slots := Slots{Cluster: cluster.Policy.Cluster, Schedule: policy.Schedule, Changes: changes[zone.String()]}
		at := now
		for range n {
			if at = policy.NextFiring(cluster.Policy.Cluster, at); at.IsZero() {
				break
			}
			slots.Next = append(slots.Next, at)
		}
		all = append(all, slots)
	}
	return all
}

func clockChanges(zone *time.Location, from, to time.Time) []ClockChange {
	var changes []ClockChange
	for t := from.In(zone); t.Before(to); {
		_, end := t.ZoneBounds()
		if end.IsZero() || !end.Before(to) || !end.After(t) {
			break
		}
		_, before := t.Zone()
		if _, after := end.Zone(); after != before {
			shown := end.UTC().Add(time.Duration(before) * time.Second)
			changes = append(changes, ClockChange{end, shown.Format("15:04"), end.Format("15:04"), after > before})
		}
		t = end
	}
	return changes
}

// warn collects what is allowed and may surprise.
func (b *builder) warn() {
	for _, kind := range []struct {
		name, what string
		renewal    func(rotation.Policy) (is rotation.RenewalPolicy, there bool)
	}{
		{"issuer", "issuers", func(p rotation.Policy) (rotation.RenewalPolicy, bool) { return p.Issuer, !p.Directory }},
		{"webhooks", "webhooks' certificates", func(p rotation.Policy) (rotation.RenewalPolicy, bool) {
			return p.Webhooks.Leaf, len(p.Webhooks.Specs) > 0
		}},
	} {
		b.warnOfShort(kind.name, kind.what, kind.renewal)
	}
}

// warnOfShort tells where `linkerd check` will warn of certificates of one
// kind. What is left when certd renews is less than what the lifetime says, and
// `linkerd check` looks at what is left.
func (b *builder) warnOfShort(name, what string, renewal func(rotation.Policy) (rotation.RenewalPolicy, bool)) {
	const linkerdWarns = 60 * day
	for _, cluster := range b.config.Clusters {
		is, there := renewal(cluster.Policy)
		if !there || is.RenewBefore >= linkerdWarns {
			continue
		}
		at, path := cluster.At, "clusters"
		if n := b.doc.sub("defaults", name, "renewBefore"); n != nil {
			at, path = n.at, n.path
		}
		b.config.Warnings.add(at, path, "%s are renewed with %s left: `linkerd check` warns below 60 days; "+
			"%s: {lifetime: 90d, renewBefore: 61d} keeps it quiet", what, rotation.FormatDuration(is.RenewBefore), name)
		return // once is enough
	}
}
