// Package words says times, counts and the state of a fleet in words: in the
// same ones wherever certd shows them, on a terminal or on a page.
package words

import (
	"fmt"
	"strings"
	"time"
)

// Span is a duration in at most two units: "57d 15h", "2h 41m", "9y 9mo". It is
// cut off, not rounded: what is left is never overstated. A negative duration
// reads as a positive one.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	two := func(n time.Duration, unit string, m time.Duration, sub string) string {
		if m == 0 {
			return fmt.Sprintf("%d%s", n, unit)
		}
		return fmt.Sprintf("%d%s %d%s", n, unit, m, sub)
	}
	switch d = d.Abs(); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(d/time.Minute, "m", d%time.Minute/time.Second, "s")
	case d < day:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	case d < 2*365*day:
		return two(d/day, "d", d%day/time.Hour, "h")
	}
	year := 365 * day
	return two(d/year, "y", min(11, d%year/(year/12)), "mo")
}

// Coarse is a duration in one unit, or in years and months.
func Coarse(d time.Duration) string {
	text := Span(d)
	if d.Abs() < 2*365*24*time.Hour {
		text, _, _ = strings.Cut(text, " ")
	}
	return text
}

// A Clock says times as they are seen from one moment in one zone.
type Clock struct {
	Now  time.Time
	Zone *time.Location
}

// Until is the time left ("in 2h 41m"), "now", or how long ago it was.
func (c Clock) Until(t time.Time) string {
	if d := t.Sub(c.Now); d >= time.Second {
		return "in " + Span(d)
	} else if d > -time.Minute {
		return "now"
	}
	return Span(c.Now.Sub(t)) + " ago"
}

// year is the layout of the year where it is not this one.
func (c Clock) year(t time.Time) string {
	if t.In(c.Zone).Year() == c.Now.In(c.Zone).Year() {
		return ""
	}
	return " 2006"
}

// Moment is a time for a table: "Tue 19 Jan 03:00".
func (c Clock) Moment(t time.Time) string {
	return t.In(c.Zone).Format("Mon _2 Jan" + c.year(t) + " 15:04")
}

// When is a time for prose: "Tue 19 Jan 03:00 CET".
func (c Clock) When(t time.Time) string {
	return t.In(c.Zone).Format("Mon 2 Jan" + c.year(t) + " 15:04 MST")
}

// Day is a date, with the hour where it is less than two days away.
func (c Clock) Day(t time.Time) string {
	if d := t.Sub(c.Now).Abs(); d < 48*time.Hour {
		return c.When(t)
	}
	return t.In(c.Zone).Format("Mon 2 Jan 2006")
}

// Second is a moment to the second.
func (c Clock) Second(t time.Time) string {
	return t.In(c.Zone).Format("Mon _2 Jan" + c.year(t) + " 15:04:05 MST")
}
