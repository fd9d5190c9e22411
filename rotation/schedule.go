package rotation

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is a cron expression in a time zone. Its zero value never fires.
//
// robfig/cron computes on a naive wall clock (its zone is always UTC), where
// every day has 24 hours; the wrapper maps what comes out to real time. A
// firing in the gap that daylight saving leaves comes at the first instant
// after it, one in the hour that happens twice comes in the first pass only.
type Schedule struct {
	text string
	spec *cron.SpecSchedule // nil: never fires
	zone *time.Location

	dates *heldDates // shared by copies
}

// heldDates are renewal dates that were asked for.
type heldDates = held[datesAsked, RenewalDates]

type datesAsked struct {
	cluster                    string
	signedAt, notAfter         time.Time // UTC, without a monotonic reading
	floor, renewBefore, spread time.Duration
	everyFiring                bool
}

// mostDates bounds what is kept for one schedule: each cluster has its own, and asks for
// the dates of a few certificates.
const mostDates = 32

// ScheduleHorizon is how far ahead Next and LargestTwoGaps look. The longest
// that any cron expression pauses is eight years (29 February over 2100).
const ScheduleHorizon = 3652 * 24 * time.Hour

// String returns the expression as it was written.
func (s Schedule) String() string { return s.text }

// Zone is where the wall clock hangs; UTC for the zero value.
func (s Schedule) Zone() *time.Location {
	if s.zone == nil {
		return time.UTC
	}
	return s.zone
}

// Next returns the first firing strictly after the time given, in the
// schedule's zone; the zero time if none comes within ScheduleHorizon.
func (s Schedule) Next(after time.Time) time.Time {
	// Years that time.Time can hold but no certificate.
	if s.spec == nil || after.Year() < 1 || after.Year() > 9000 {
		return time.Time{}
	}
	after = after.Round(0).In(s.zone)
	clock := newWallClock(s.zone, after.Add(-2*maxOffset), after)
	naive := s.nextNaive(clock.latest(after))
	if naive.IsZero() {
		return time.Time{}
	}
	next := newWallClock(s.zone, naive.Add(-maxOffset), naive.Add(maxOffset)).firstAt(naive)
	if next.After(after.Add(ScheduleHorizon)) {
		return time.Time{}
	}
	return next
}

// nextNaive asks robfig/cron, which gives up at the end of the fifth year, and
// asks once more from there.
func (s Schedule) nextNaive(after time.Time) time.Time {
	next := s.spec.Next(after)
	if next.IsZero() {
		next = s.spec.Next(time.Date(after.Year()+6, time.January, 1, 0, 0, 0, -1, time.UTC))
	}
	return next
}

// last returns the latest firing in (x−window, x]; the zero time if there is
// none.
func (s Schedule) last(x time.Time, window time.Duration) time.Time {
	found := s.Next(x.Add(-window))
	if found.IsZero() || found.After(x) {
		return time.Time{}
	}
	for hi := x; ; { // nothing fires in (hi, x]
		next := s.Next(found)
		if next.IsZero() || next.After(x) {
			return found
		}
		found = next
		middle := found.Add(hi.Sub(found) / 2)
		if next = s.Next(middle); next.IsZero() || next.After(x) {
			hi = middle
		} else {
			found = next
		}
	}
}

// LargestTwoGaps returns the largest sum of two consecutive gaps between
// firings, and the instant at which they begin. It covers everything that
// begins in the ten years from from on, with from itself counted as a firing:
// whenever in that time certd signs, the second firing after it is no further
// away than sum. It is 0 for a schedule that never fires.
//
// Days on which the clocks are left alone differ only in their date, so only
// the ends of such a day are looked at; the others are enumerated.
func (s Schedule) LargestTwoGaps(from time.Time) (sum time.Duration, at time.Time) {
	if s.spec == nil {
		return 0, time.Time{}
	}
	const day = 24 * time.Hour
	from = from.Round(0).In(s.zone)
	end := from.Add(ScheduleHorizon)
	// Two more firings may come as late as two leap days later.
	clock := newWallClock(s.zone, from.Add(-2*maxOffset), end.Add(2*ScheduleHorizon))
	minutes := s.minutesOfDay()

	widest, widestAt := time.Duration(0), 0 // of three firings in a day
	for i := 2; i < len(minutes); i++ {
		if d := minutes[i] - minutes[i-2]; d > widest {
			widest, widestAt = d, i-2
		}
	}

	before, last := time.Time{}, from
	longest := func(d time.Duration, begin time.Time) {
		if d > sum {
			sum, at = d, begin
		}
	}
	fire := func(t time.Time) {
		if !t.After(last) { // both fell into one gap of the clock
			return
		}
		if !before.IsZero() {
			longest(t.Sub(before), before)
		}
		before, last = last, t
	}

	start := clock.latest(from).Add(time.Nanosecond)
	for date := start.Truncate(day); date.Before(end.Add(2 * ScheduleHorizon)); date = date.Add(day) {
		if !before.IsZero() && before.After(end) {
			break
		}
		if !s.matchesDay(date) {
			continue
		}
		offset, plain := clock.plainDay(date)
		if !plain || len(minutes) < 5 || date.Before(start) {
			for _, m := range minutes {
				if naive := date.Add(m); !naive.Before(start) {
					fire(clock.firstAt(naive))
				}
			}
			continue
		}
		midnight := date.Add(-offset)
		fire(midnight.Add(minutes[0]))
		fire(midnight.Add(minutes[1]))
		longest(widest, midnight.Add(minutes[widestAt]))
		before, last = midnight.Add(minutes[len(minutes)-2]), midnight.Add(minutes[len(minutes)-1])
	}
	return sum, at.In(s.zone)
}

// minutesOfDay returns the firings of one day as time since midnight.
func (s Schedule) minutesOfDay() []time.Duration {
	var at []time.Duration
	for h := range 24 {
		for m := range 60 {
			if s.spec.Hour>>h&1 == 1 && s.spec.Minute>>m&1 == 1 {
				at = append(at, time.Duration(h)*time.Hour+time.Duration(m)*time.Minute)
			}
		}
	}
	return at
}

// matchesDay relies on ParseSchedule: at most one of day of month and day of
// week is restricted, the other matches every day.
func (s Schedule) matchesDay(date time.Time) bool {
	_, month, day := date.Date()
	return s.spec.Month>>uint(month)&1 == 1 && s.spec.Dom>>uint(day)&1 == 1 && s.spec.Dow>>uint(date.Weekday())&1 == 1
}

// wallClock tells how a zone's clocks are set over some stretch of time: spans
// of one UTC offset each, oldest first, each beginning where the one before it
// ends. "Naive" times are readings of those clocks, held as if they were UTC.
type wallClock struct {
	zone  *time.Location
	spans []clockSpan
}

type clockSpan struct {
	start, end time.Time // start counts, end does not
	offset     time.Duration
	shows      time.Time // naive: what the clocks come to show at end
}

// maxOffset is further than any clock has ever been set from UTC (16 h).
const maxOffset = 26 * time.Hour

func newWallClock(zone *time.Location, from, to time.Time) wallClock {
	clock := wallClock{zone: zone}
	for t := from.In(zone); !t.After(to); {
		_, seconds := t.Zone()
		offset := time.Duration(seconds) * time.Second
		_, end := t.ZoneBounds()
		if end.IsZero() {
			end = to.Add(maxOffset)
		}
		if !end.After(t) {
			// Past the last change that the tables list, ZoneBounds lets each
			// span end with the year, after 365 days also in leap years: on
			// their last day it is over before it began.
			end = t.Truncate(24 * time.Hour).Add(24 * time.Hour)
		}
		if n := len(clock.spans); n > 0 && clock.spans[n-1].offset == offset {
			clock.spans[n-1].end, clock.spans[n-1].shows = end, end.UTC().Add(offset)
		} else {
			clock.spans = append(clock.spans, clockSpan{t, end, offset, end.UTC().Add(offset)})
		}
		t = end
	}
	return clock
}

// latest returns the latest naive time the clocks have shown up to and with t:
// where they were set back, that is later than what they show now. Where the
// reading was only approached, it returns the nanosecond before it.
func (c wallClock) latest(t time.Time) time.Time {
	var latest time.Time
	for _, s := range c.spans {
		if s.start.After(t) {
			break
		}
		reading := t.UTC().Add(s.offset)
		if !t.Before(s.end) {
			reading = s.shows.Add(-time.Nanosecond)
		}
		if reading.After(latest) {
			latest = reading
		}
	}
	return latest
}

// firstAt returns the first instant at which the clocks show naive or later.
func (c wallClock) firstAt(naive time.Time) time.Time {
	i := 0
	for i < len(c.spans)-1 && !c.spans[i].shows.After(naive) {
		i++
	}
	at := naive.Add(-c.spans[i].offset)
	if at.Before(c.spans[i].start) {
		at = c.spans[i].start
	}
	return at.In(c.zone)
}

// plainDay tells whether the 24 hours from naive midnight on come one after
// another, and under which offset.
func (c wallClock) plainDay(midnight time.Time) (offset time.Duration, plain bool) {
	at := c.firstAt(midnight)
	for _, s := range c.spans {
		if !at.Before(s.start) && at.Before(s.end) {
			return s.offset, at.Add(s.offset).Equal(midnight) && !at.Add(24*time.Hour).After(s.end)
		}
	}
	return 0, false
}

// Spread returns by how much the firings of a cluster are delayed so that a
// fleet does not act all at once: always the same for one name, in whole
// seconds, in [0, min(limit, gap/10)), where gap is the time to the next firing.
func Spread(cluster string, limit, gap time.Duration) time.Duration {
	room := min(limit, gap/10)
	if room <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(cluster))
	// The high word of hash × room: a fraction of room, without division.
	part, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:8]), uint64(room))
	return time.Duration(part).Truncate(time.Second)
}

// NextFiring returns the cluster's first firing strictly after the time given,
// spread included; the zero time if none comes within ScheduleHorizon.
func (p RenewalPolicy) NextFiring(cluster string, after time.Time) time.Time {
	// A firing that has passed may not have reached this cluster yet. Only the
	// last one can: spread ends long before the next.
	if passed := p.Schedule.last(after, p.Spread); !passed.IsZero() {
		if at := p.spread(cluster, passed); at.After(after) {
			return at
		}
	}
	return p.spread(cluster, p.Schedule.Next(after))
}

// lastFiring returns the cluster's latest firing not after x, spread included,
// looking back no further than to since (exclusive); else the zero time.
func (p RenewalPolicy) lastFiring(cluster string, x, since time.Time) time.Time {
	for {
		passed := p.Schedule.last(x, x.Sub(since)+p.Spread)
		if passed.IsZero() {
			return time.Time{}
		}
		switch at := p.spread(cluster, passed); {
		case !at.After(since):
			return time.Time{}
		case !at.After(x):
			return at
		}
		x = passed.Add(-time.Nanosecond)
	}
}

func (p RenewalPolicy) spread(cluster string, firing time.Time) time.Time {
	if firing.IsZero() || p.Spread <= 0 {
		return firing
	}
	gap := ScheduleHorizon
	if next := p.Schedule.Next(firing); !next.IsZero() {
		gap = next.Sub(firing)
	}
	return firing.Add(Spread(cluster, p.Spread, gap))
}
