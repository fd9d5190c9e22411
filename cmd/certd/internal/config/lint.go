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
	const linkerdWarns = 60 * day
	for i, cluster := range b.config.Clusters {
		// What is left when certd renews is less than what the lifetime says,
		// and `linkerd check` looks at what is left.
		if left := cluster.Policy.Issuer.RenewBefore; left < linkerdWarns && !cluster.Policy.Directory {
			short := "renewed with %s left: `linkerd check` warns below 60 days; " +
				"lifetime 90d and renewBefore 61d keep it quiet"
			at, path := b.config.Clusters[i].At, "clusters"
			if n := b.doc.sub("defaults", "issuer", "renewBefore"); n != nil {
				at, path = n.at, n.path
			}
			b.config.Warnings.add(at, path, short, rotation.FormatDuration(left))
			break // once is enough
		}
	}
}
