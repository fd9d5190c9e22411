package rotation

import (
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// The rows change a paused cluster so that their sentence is true.
func TestDecideWhilePaused(t *testing.T) {
	for _, row := range []struct {
		sentence string
		at       time.Time
		change   func(b *bench)
		step     Step
		waits    Step // named in the finding; "": nothing waits
	}{
		{"nothing is due", hours(1), nil, "", ""},
		{"a scheduled renewal waits", hours(52), nil, "", StepIssuer},
		{"the floor holds", hours(84.2), nil, StepIssuer, ""},
		{"what a person asked for before waits", hours(1), func(b *bench) { b.view.Request = &Request{Actor: "lee@cli", Reason: "drill"} }, "", StepIssuer},
		{"an issuer that is gone is replaced", hours(1), func(b *bench) {
			b.view.Observed.Issuer, b.view.Observed.IssuerFacts = ObjectState{}, pki.IssuerFacts{}
		}, StepRepairIssuer, ""},
		{"an issuer that has ended is replaced", hours(170), nil, StepIssuer, ""},
		{"a damaged bundle is put right", hours(1), func(b *bench) { b.view.Observed.BundleText = []byte("garbage") }, StepRepairBundle, ""},
		{"a bundle that is gone is put back", hours(1), func(b *bench) { b.view.Observed.Bundle, b.view.Observed.BundleText = ObjectState{}, nil }, StepRepairBundle, ""},
		{"a bundle under which the issuer verifies is left to whoever wrote it", hours(1), func(b *bench) {
			b.view.Observed.BundleText = append(b.bundle.PEM(), newBench(b.t).bundle.PEM()...)
		}, "", StepBundle},
		{"one under which it does not is put right", hours(1), func(b *bench) { b.view.Observed.BundleText = newBench(b.t).bundle.PEM() }, StepBundle, ""},
		{"what waits does not stand before the floor", hours(84.2), func(b *bench) { b.view.Observed.Issuer.Marks.Label = false }, StepIssuer, StepRepairMetadata},
		{"labels wait", hours(1), func(b *bench) { b.view.Observed.Issuer.Marks.Label = false }, "", StepRepairMetadata},
		{"a cluster that has joined is enrolled afterwards", hours(1), func(b *bench) {
			b.view.Record, b.view.Certificates = ClusterRecord{}, nil
			b.view.Observed = &Observation{Target: "uid-eu", Namespace: true}
		}, "", StepBundle},
	} {
		b := newBench(t)
		if row.change != nil {
			row.change(b)
		}
		b.fleet.Pauses = []Pause{{Cluster: "us", At: start, Actor: "kim@cli", Reason: "another one"}, {Cluster: "eu", At: start, Until: hours(500), Actor: "lee@cli", Reason: "network"}}
		d := Decide(b.fleet, b.view, row.at)
		if d.Step != row.step {
			t.Errorf("%s: %q (%s), want %q", row.sentence, d.Step, d.Why, row.step)
		}
		if row.step != "" && !strings.Contains(d.Why, "the cluster is paused, and ") {
			t.Errorf("%s: the reason is %q", row.sentence, d.Why)
		}
		text := ""
		for _, f := range d.Findings {
			if f.ID == "Paused" {
				text = f.Message
				if f.Fix != "certd resume eu" {
					t.Errorf("%s: fix %q", row.sentence, f.Fix)
				}
			}
		}
		if !strings.Contains(text, "paused by lee@cli") || !strings.Contains(text, "(network)") {
			t.Errorf("%s: it is told of as %q", row.sentence, text)
		}
		if waits := strings.Contains(text, " waits ("); waits != (row.waits != "") || waits && !strings.Contains(text, "; "+string(row.waits)+" waits (") {
			t.Errorf("%s: it is told of as %q, and %q waits", row.sentence, text, row.waits)
		}
		if d.Wake.IsZero() || d.Wake.After(hours(500)) {
			t.Errorf("%s: wakes at %s", row.sentence, d.Wake)
		}
		b.fleet.Pauses[1].Until = row.at
		if d := Decide(b.fleet, b.view, row.at); d.Paused != nil {
			t.Errorf("%s: still paused when its time is over", row.sentence)
		}
	}
}

// A webhook CA is renewed at its floor, as issuers are, and waits before.
func TestAWebhookCAWhilePaused(t *testing.T) {
	for _, row := range []struct {
		renewBefore time.Duration
		step        Step
	}{{728 * 24 * time.Hour, ""}, {729 * 24 * time.Hour, StepWebhookCA}} {
		b := newHookBench(t)
		b.view.Policy.Webhooks.CA.RenewBefore = row.renewBefore
		b.view.CARequest = &Request{At: hours(1), Actor: "lee@cli", Reason: "drill"}
		b.fleet.Pauses = []Pause{{Cluster: "eu", At: start, Until: hours(500), Actor: "lee@cli", Reason: "network"}}
		if d := Decide(b.fleet, b.view, hours(1)); d.Step != row.step {
			t.Errorf("%s are to be left of its 730 days: %q (%s), want %q", row.renewBefore, d.Step, d.Why, row.step)
		}
	}
}

// Of a cluster's own pause and the fleet's the longer one counts.
func TestWhichPauseCounts(t *testing.T) {
	fleet, own := Pause{At: start, Until: hours(2)}, Pause{Cluster: "eu", At: start, Until: hours(5)}
	endless := Pause{At: start}
	for _, row := range []struct {
		all  []Pause
		at   time.Time
		want *Pause
	}{
		{nil, hours(1), nil},
		{[]Pause{fleet}, hours(1), &fleet},
		{[]Pause{fleet, own}, hours(1), &own},
		{[]Pause{own, fleet}, hours(1), &own},
		{[]Pause{own, endless}, hours(1), &endless},
		{[]Pause{endless, own}, hours(1), &endless},
		{[]Pause{fleet, own}, hours(5), nil},
		{[]Pause{{Cluster: "us", At: start}}, hours(1), nil},
	} {
		got := Fleet{Pauses: row.all}.paused("eu", row.at)
		if (got == nil) != (row.want == nil) || got != nil && *got != *row.want {
			t.Errorf("%+v at %s: %+v, want %+v", row.all, row.at, got, row.want)
		}
	}
}
