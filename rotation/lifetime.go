package rotation

import (
	"fmt"
	"strings"
	"time"
)

// LifetimeProblem is a relation between lifetimes that could let a certificate
// lapse.
type LifetimeProblem struct {
	// Field is what to change, seen from the policy: "issuer.renewBefore",
	// "issuer.lifetime", "issuer.schedule", the same of "webhooks" and there
	// "webhooks.caRenewBefore" and "webhooks.caLifetime", "trust.lifetime" or
	// "trust.renewBefore".
	Field string
	// Message says what is wrong and which value would do.
	Message string
	// Smallest is the least value of Field with which nothing else need be
	// changed but what other problems name; 0 where no duration helps.
	Smallest time.Duration
}

// CheckLifetimes proves that no issuer of the cluster, no webhook's
// certificate and no webhook CA can lapse (I4) for want of a firing in the ten
// years from from on, or returns what prevents it. For each of the three:
//
//   - RenewBefore is at least the floor. For an issuer that is Floor: a leaf
//     signed at the last moment, clocks, and the time to repair whatever
//     prevented a renewal. For a webhook's certificate it is WebhookFloor, and
//     for the CA over it the lifetime of a certificate signed at the last moment.
//   - What a certificate lives from signing until RenewBefore is at least the
//     two longest consecutive gaps of the schedule, and spread, so that two
//     firings fall into it and one may be missed. Changes of the clocks and leap
//     days are in the gaps.
//
// Lifetime counts from notBefore, so Backdate is taken out of what a
// certificate lives. (Leaving it in would promise a firing that may come up to
// Backdate too late.) Webhooks that are left alone have no problems.
func (p Policy) CheckLifetimes(from time.Time) []LifetimeProblem {
	problems, _ := p.Issuer.checkLifetimes(from, "issuer.lifetime", "issuer.renewBefore", "issuer.schedule",
		p.Floor(0, 0), fmt.Sprintf("leafLifetime + 2 × clockSkew + repair (%s + 2 × %s + %s)",
			FormatDuration(p.LeafLifetime), FormatDuration(p.ClockSkew), FormatDuration(p.Repair)))
	if len(p.Webhooks.Specs) == 0 {
		return problems
	}
	leaf, lifetime := p.Webhooks.Leaf.checkLifetimes(from, "webhooks.lifetime", "webhooks.renewBefore", "webhooks.schedule",
		p.WebhookFloor(), fmt.Sprintf("repair + 2 × projection + 2 × the %s that clocks may differ (%s + 2 × %s + 2 × %s)",
			FormatDuration(MaxClockSkew), FormatDuration(p.Repair), FormatDuration(p.Webhooks.Projection), FormatDuration(MaxClockSkew)))
	problems = append(problems, leaf...)
	ca, _ := p.Webhooks.CA.checkLifetimes(from, "webhooks.caLifetime", "webhooks.caRenewBefore", "webhooks.schedule",
		lifetime, fmt.Sprintf("the lifetime of the certificates under the CA, %s: one could outlive it", FormatDuration(lifetime)))
	for _, problem := range ca {
		// The schedule is the certificates' too, and one word on it is enough.
		if problem.Field != "webhooks.schedule" {
			problems = append(problems, problem)
		}
	}
	return problems
}

// checkLifetimes is CheckLifetimes for certificates of one kind, with what its
// fields are called and why RenewBefore must not be less than floor. It also
// returns the lifetime with which nothing is wrong: p's own or the smallest.
func (p RenewalPolicy) checkLifetimes(from time.Time, lifetime, renewBefore, schedule string, floor time.Duration, why string) ([]LifetimeProblem, time.Duration) {
	var problems []LifetimeProblem
	if p.RenewBefore < floor {
		problems = append(problems, LifetimeProblem{renewBefore, fmt.Sprintf(
			"%s is less than %s; it must be at least %s", FormatDuration(p.RenewBefore), why, FormatDuration(floor)), floor})
	}

	gaps, at := p.Schedule.LargestTwoGaps(from)
	if gaps == 0 {
		return append(problems, LifetimeProblem{schedule, "never fires", 0}), p.Lifetime
	}
	_, name, _ := strings.Cut(renewBefore, ".")
	// Reckoned with what renewBefore must become, so that following both
	// messages is enough.
	least := max(p.RenewBefore, floor) + p.Backdate
	// A firing is put off by less than a tenth of the gap after it, and no
	// single gap is longer than the two longest together.
	reach := gaps + min(p.Spread, gaps/10)
	smallest := least + reach
	if p.Lifetime <= least {
		problems = append(problems, LifetimeProblem{lifetime, fmt.Sprintf(
			"%s leaves nothing beside %s %s and %s that notBefore lies in the past; with this schedule it must be at least %s",
			FormatDuration(p.Lifetime), name, FormatDuration(least-p.Backdate), FormatDuration(p.Backdate),
			FormatDuration(smallest)), smallest})
	} else if p.Lifetime < smallest {
		problems = append(problems, LifetimeProblem{lifetime, fmt.Sprintf(
			"%s leaves %s until %s, but the second firing of %q may be %s away (from %s, spread included), "+
				"so that a missed firing could not be made good; it must be at least %s",
			FormatDuration(p.Lifetime), FormatDuration(p.Lifetime-least), name, p.Schedule, FormatDuration(reach),
			at.Format("2 Jan 2006 15:04 MST"), FormatDuration(smallest)), smallest})
	}
	return problems, max(p.Lifetime, smallest)
}

// CheckLifetimes proves that an issuer that lives for issuer fits into the
// anchor until the anchor's own renewal is due, or returns what prevents it.
func (t TrustPolicy) CheckLifetimes(issuer time.Duration) []LifetimeProblem {
	var problems []LifetimeProblem
	if t.RenewBefore < issuer {
		problems = append(problems, LifetimeProblem{"trust.renewBefore", fmt.Sprintf(
			"%s is less than the longest issuer lifetime, %s: an issuer could outlive its anchor; it must be at least %s",
			FormatDuration(t.RenewBefore), FormatDuration(issuer), FormatDuration(issuer)), issuer})
	}
	smallest := max(t.RenewBefore, issuer) + issuer + t.Backdate
	if t.Lifetime < smallest {
		problems = append(problems, LifetimeProblem{"trust.lifetime", fmt.Sprintf(
			"%s is less than renewBefore, one issuer's lifetime and %s that notBefore lies in the past; it must be at least %s",
			FormatDuration(t.Lifetime), FormatDuration(t.Backdate), FormatDuration(smallest)), smallest})
	}
	return problems
}

// RenewalDates are the dates of one certificate, in UTC.
type RenewalDates struct {
	// MustRenewBy is when it is renewed at any hour: RenewBefore, or the floor
	// where that is larger, before notAfter.
	MustRenewBy time.Time
	// RenewAt is when renewing becomes due: the first firing after signing
	// that leaves fewer than two more until MustRenewBy.
	RenewAt time.Time
	// NextRun is when certd renews it if nothing goes wrong: RenewAt, or the
	// first firing after signing where each firing renews.
	NextRun time.Time
}

// Dates reckons with a certificate of a cluster that was signed at signedAt and
// ends at notAfter. floor is what Floor says for what the cluster runs with.
// A firing at MustRenewBy still counts. Where none is left, because the floor
// rose or the schedule changed, MustRenewBy stands in for it; RenewAt and
// NextRun never lie before signedAt, MustRenewBy may.
func (p RenewalPolicy) Dates(cluster string, signedAt, notAfter time.Time, floor time.Duration) RenewalDates {
	asked := datesAsked{cluster, signedAt.Round(0).UTC(), notAfter.Round(0).UTC(), floor, p.RenewBefore, p.Spread, p.EveryFiring}
	return p.Schedule.dates.get(asked, func() RenewalDates { return p.dates(cluster, signedAt, notAfter, floor) })
}

func (p RenewalPolicy) dates(cluster string, signedAt, notAfter time.Time, floor time.Duration) RenewalDates {
	must := notAfter.Add(-max(p.RenewBefore, floor))
	dates := RenewalDates{MustRenewBy: must.UTC()}
	earliest := func(firing time.Time) time.Time {
		if firing.IsZero() || firing.After(must) {
			firing = must
		}
		if firing.Before(signedAt) {
			firing = signedAt
		}
		return firing.UTC()
	}

	first := earliest(p.NextFiring(cluster, signedAt))
	dates.RenewAt, dates.NextRun = first, first
	if last := p.lastFiring(cluster, must, signedAt); !last.IsZero() {
		if lastButOne := p.lastFiring(cluster, last.Add(-time.Nanosecond), signedAt); !lastButOne.IsZero() {
			dates.RenewAt = lastButOne.UTC()
		}
	}
	if !p.EveryFiring {
		dates.NextRun = dates.RenewAt
	}
	return dates
}

// FormatDuration writes whole seconds as the configuration does: "10y", "90d",
// "1d12h", "45s". A year is 365 days, and only whole years are written so.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	const year = 365 * day
	switch d = d.Truncate(time.Second); {
	case d < 0:
		return "-" + FormatDuration(-d)
	case d == 0:
		return "0s"
	case d%year == 0:
		return fmt.Sprintf("%dy", d/year)
	case d < 4*day && d%time.Hour == 0 && (d == day || d%day != 0): // as people say it: 84h
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	var text strings.Builder
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / unit.is; n > 0 {
			fmt.Fprintf(&text, "%d%s", n, unit.name)
			d -= n * unit.is
		}
	}
	return text.String()
}
