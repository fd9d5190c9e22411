package daemon

import (
	"context"
	"fmt"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/pki"
	"certd.internal/rotation"
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

// Certificates fetches what a cluster's issuer and bundle hold, as PEM, from
// the cluster itself. part is "issuer", "bundle", or "" for both.
func (d Daemon) Certificates(ctx context.Context, path, cluster, part string) ([]byte, error) {
	c, err := d.Load(path)
	if err != nil {
		return nil, err
	}
	for _, cc := range c.Clusters {
		if cc.Policy.Cluster != cluster {
			continue
		}
		l := newLazyCluster(cc, d.Log(c.LogLevel))
		defer l.Close()
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		o, err := l.Observe(ctx)
		if err != nil {
			return nil, asService(fmt.Errorf("look at cluster %s: %w", cluster, err))
		}
		return certificatesOf(o, part)
	}
	return nil, fmt.Errorf("cluster %q is not configured: %w", cluster, api.ErrUsage)
}

func certificatesOf(o rotation.Observation, part string) ([]byte, error) {
	var text []byte
	if part != "bundle" {
		text = append(text, pki.EncodeCertificates(o.IssuerFacts.Chain...)...)
	}
	if part != "issuer" {
		text = append(text, o.BundleText...)
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("the cluster holds no such certificates")
	}
	return text, nil
}
