package daemon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// Report is what checking a configuration came to.
type Report struct{ Problems, Warnings, Valid []string }

// Validate checks a configuration. Of a valid one it says what it means: when its
// schedules fire next, how long an outage may last, and what clocks will do.
func (d Daemon) Validate(path string, now time.Time) Report {
	path, err := config.Find(path, d.Getenv)
	if err != nil {
		return Report{Problems: []string{err.Error()}}
	}
	c, problems := config.Load(path, config.Options{Getenv: d.Getenv, Now: now})
	var r Report
	for _, p := range problems {
		r.Problems = append(r.Problems, p.String())
	}
	if c == nil {
		return r
	}
	for _, w := range c.Warnings {
		r.Warnings = append(r.Warnings, w.String())
	}
	r.Valid = append(r.Valid, fmt.Sprintf("%s: fleet %s, %s", c.File, c.Name, several(len(c.Clusters), "cluster")))
	r.Valid = append(r.Valid, lessons(c, "issuers", now, func(p rotation.Policy) (lesson, bool) {
		needs := p.LeafLifetime + 2*p.ClockSkew
		return lesson{RenewalPolicy: p.Issuer, needs: needs, why: fmt.Sprintf("the last leaf may live %s longer", rotation.FormatDuration(p.LeafLifetime))}, true
	})...)
	r.Valid = append(r.Valid, lessons(c, "webhooks", now, func(p rotation.Policy) (lesson, bool) {
		needs := p.WebhookFloor() - p.Repair
		return lesson{RenewalPolicy: p.Webhooks.Leaf, needs: needs, why: fmt.Sprintf("pods may take %s to serve a new one", rotation.FormatDuration(needs))}, len(p.Webhooks.Specs) > 0
	})...)
	r.Valid = append(r.Valid, clocks(c, now)...)
	r.Valid = append(r.Valid, restarts(c, now)...)
	return r
}

// lesson is how certificates of one kind are renewed, and how much of what they
// have left then an outage cannot have.
type lesson struct {
	rotation.RenewalPolicy
	needs time.Duration
	why   string
}

// lessons says, once for all clusters that have the same, when certificates of
// one kind are renewed and how long nothing may stand in the way.
func lessons(c *config.Config, kind string, now time.Time, of func(rotation.Policy) (lesson, bool)) (lines []string) {
	type alike struct {
		schedule, zone           string
		lifetime, before, spread time.Duration
		needs                    time.Duration
		everyFiring              bool
	}
	var order []alike
	clusters, first := map[alike][]string{}, map[alike]lesson{}
	for _, cc := range c.Clusters {
		l, there := of(cc.Policy)
		if !there {
			continue
		}
		key := alike{l.Schedule.String(), l.Schedule.Zone().String(), l.Lifetime, l.RenewBefore, l.Spread, l.needs, l.EveryFiring}
		if clusters[key] == nil {
			order, first[key] = append(order, key), l
		}
		clusters[key] = append(clusters[key], cc.Policy.Cluster)
	}
	for _, key := range order {
		l, names := first[key], clusters[key]
		when := "at each firing"
		if !l.EveryFiring {
			when = "when one missed firing more would reach the floor"
		}
		lines = append(lines, fmt.Sprintf("%s of %s: %q %s", kind, listed(names), l.Schedule, l.Schedule.Zone()),
			fmt.Sprintf("  live %s, are renewed %s, and at any hour with %s left (the floor)", rotation.FormatDuration(l.Lifetime), when, rotation.FormatDuration(l.RenewBefore)),
			fmt.Sprintf("  certd, Vault or the cluster may then be away for %s before anything ends: %s", rotation.FormatDuration(roundDown(l.RenewBefore-l.needs)), l.why))
		var next []string
		at := now
		for range 3 {
			if at = l.NextFiring(names[0], at); at.IsZero() {
				break
			}
			next = append(next, at.In(l.Schedule.Zone()).Format("Mon 2 Jan 15:04 MST"))
		}
		spread := ""
		if len(names) > 1 && l.Spread > 0 {
			spread = fmt.Sprintf(" in %s; the others within %s of it", names[0], rotation.FormatDuration(l.Spread))
		}
		lines = append(lines, fmt.Sprintf("  next: %s%s", strings.Join(next, ", "), spread))
	}
	return lines
}

// roundDown leaves off what nobody plans an outage by.
func roundDown(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{time.Hour, time.Minute} {
		if d >= 10*unit {
			return d.Truncate(unit)
		}
	}
	return d
}

// clocks says what the zones of schedules do within a year.
func clocks(c *config.Config, now time.Time) (lines []string) {
	zones := map[string]bool{}
	for _, s := range c.NextSlots(now, 0) {
		if zones[s.Schedule.Zone().String()] {
			continue
		}
		zones[s.Schedule.Zone().String()] = true
		for _, ch := range s.Changes {
			what := "comes twice; a firing in it comes once, in the first pass"
			from, to := ch.To, ch.From
			if ch.Forward {
				what, from, to = "does not exist; a firing in it comes at its end", ch.From, ch.To
			}
			lines = append(lines, fmt.Sprintf("%s %s: %s-%s %s", s.Schedule.Zone(), ch.At.Format("2 Jan 2006"), from, to, what))
		}
	}
	return lines
}

// restarts says when workloads may be restarted while the trust anchor is changed,
// and when not.
func restarts(c *config.Config, now time.Time) (lines []string) {
	seen := map[string]bool{}
	once := func(line string) {
		if !seen[line] {
			lines, seen[line] = append(lines, line), true
		}
	}
	for _, cc := range c.Clusters {
		for _, w := range cc.Policy.Windows {
			next := "never opens"
			if at := w.Opens.Next(now); !at.IsZero() {
				next = "opens next " + at.Format("Mon 2 Jan 15:04 MST")
			}
			once(fmt.Sprintf("window %s, %q %s for %s: %s; for restarts while the trust anchor is changed", w.Name, w.Opens, w.Opens.Zone(), rotation.FormatDuration(w.For), next))
		}
		for _, f := range cc.Policy.Freezes {
			if now.Before(f.To) {
				once(fmt.Sprintf("freeze %s, %s to %s: nothing is restarted for a change of the trust anchor; renewals go on, and so does the floor", f.Name, f.From.Format("2 Jan 2006 MST"), f.To.Add(-time.Second).Format("2 Jan 2006 MST")))
			}
		}
	}
	return lines
}

// listed names a few of many clusters.
func listed(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(slices.Clone(names[:most-1]), ", "), len(names)-most+1)
}

func several(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Schema and Example are the configuration's JSON Schema and an example.
func Schema() []byte  { return config.Schema() }
func Example() []byte { return config.Example() }
