package rotation

import (
	"testing"
	"time"
)

// The loop's idea of a step of the clock: forwards when the wall clock gained
// on the monotonic one, which also stands still while a host sleeps.
func TestClockStep(t *testing.T) {
	last := clockReading{hours(1), hours(1)}
	if got := (clockReading{hours(3), hours(3)}).step(last); got != 0 {
		t.Errorf("time that passed on both clocks counts as a step of %s", got)
	}
	if got := (clockReading{hours(3), hours(1)}).step(last); got != 2*time.Hour {
		t.Errorf("a sleep of two hours counts as a step of %s", got)
	}
	if got := (clockReading{hours(0), hours(2)}).step(last); got != -2*time.Hour {
		t.Errorf("a clock that was set back by two hours counts as a step of %s", got)
	}
}

func TestAClockThatCannotBeRightStopsWriting(t *testing.T) {
	for _, row := range []struct {
		sentence string
		change   func(b *bench)
		step     Step
		finding  string
	}{
		{"a folder's issuer was signed a day from now: the clock was set back", func(b *bench) {
			b.view.Certificates[0].SignedAt = hours(90 + 24)
		}, "", "ClockSkew"},
		{"a person says that the clock is right now", func(b *bench) {
			b.view.Certificates[0].SignedAt = hours(90 + 24)
			b.view.Request = &Request{Actor: "lee@cli", Reason: "the clock was wrong"}
		}, StepIssuer, ""},
		{"an API server agrees with the clock, whatever was signed before", func(b *bench) {
			b.view.Certificates[0].SignedAt = hours(90 + 24)
			b.view.Observed.Version = "v1.36.3"
		}, StepIssuer, ""},
		{"most API servers of the fleet disagree with certd's clock", func(b *bench) {
			b.fleet.ClockDoubt = "certd's clock disagrees with 2 of 3 API servers"
		}, "", "ClockSkew"},
		{"most API servers disagree, and this one does not", func(b *bench) {
			b.fleet.ClockDoubt = "certd's clock disagrees with 2 of 3 API servers"
			b.view.Observed.Version = "v1.36.3"
		}, StepIssuer, ""},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			b := newBench(t)
			row.change(b)
			d := Decide(b.fleet, b.view, hours(90))
			if d.Step != row.step {
				t.Errorf("step %q (%s), want %q; findings %v", d.Step, d.Why, row.step, ids(d.Findings))
			}
			if row.finding != "" && !contains(d.Findings, row.finding) {
				t.Errorf("findings %v, want %s", ids(d.Findings), row.finding)
			}
		})
	}
}

func contains(findings []Finding, id string) bool {
	for _, f := range findings {
		if f.ID == id {
			return true
		}
	}
	return false
}
