package daemon

import (
	"fmt"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/config"
)

// Report is what checking a configuration came to.
type Report struct{ Problems, Warnings, Valid []string }

// Validate checks a configuration and says when its schedules fire next.
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
	r.Valid = append(r.Valid, fmt.Sprintf("%s: fleet %s, %d clusters", c.File, c.Name, len(c.Clusters)))
	zones := map[string]bool{}
	for _, s := range c.NextSlots(now, 3) {
		var next []string
		for _, t := range s.Next {
			next = append(next, t.Format("Mon 2 Jan 15:04 MST"))
		}
		r.Valid = append(r.Valid, fmt.Sprintf("%s  issuer  %q %s  next: %s", s.Cluster, s.Schedule, s.Schedule.Zone(), strings.Join(next, ", ")))
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
			r.Valid = append(r.Valid, fmt.Sprintf("%s %s: %s-%s %s", s.Schedule.Zone(), ch.At.Format("2 Jan 2006"), from, to, what))
		}
	}
	return r
}

// Schema and Example are the configuration's JSON Schema and an example.
func Schema() []byte  { return config.Schema() }
func Example() []byte { return config.Example() }
