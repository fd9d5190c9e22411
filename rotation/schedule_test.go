package rotation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones below are there on every machine
)

// hardZones are zones whose clocks do what is hard: gaps and folds at midnight, half hours,
// whole days, dates by the moon, two rules a year, and none at all.
func hardZones(t testing.TB) []*time.Location {
	names := strings.Fields(`
		UTC Europe/Berlin Europe/London Europe/Dublin Europe/Lisbon Europe/Chisinau Europe/Istanbul Europe/Moscow
		America/New_York America/Chicago America/Los_Angeles America/St_Johns America/Havana America/Asuncion
		America/Santiago America/Punta_Arenas America/Sao_Paulo America/Nuuk America/Scoresbysund America/Miquelon
		America/Caracas America/Mexico_City America/Phoenix America/Anchorage America/Adak Atlantic/Azores
		Africa/Cairo Africa/Casablanca Africa/El_Aaiun Africa/Johannesburg Africa/Tripoli Africa/Juba
		Asia/Beirut Asia/Gaza Asia/Hebron Asia/Jerusalem Asia/Tehran Asia/Kathmandu Asia/Kolkata Asia/Pyongyang
		Asia/Tokyo Asia/Amman Asia/Damascus Australia/Lord_Howe Australia/Sydney Australia/Adelaide Australia/Eucla
		Antarctica/Troll Antarctica/Casey Pacific/Apia Pacific/Auckland Pacific/Chatham Pacific/Easter
		Pacific/Kiritimati Pacific/Norfolk Pacific/Fiji`)
	var all []*time.Location
	for _, name := range names {
		all = append(all, location(t, name))
	}
	return all
}

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func scheduleIn(t testing.TB, spec, zoneName string) Schedule {
	t.Helper()
	s, err := ParseSchedule(spec, location(t, zoneName))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func rfc3339(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// cronSpecs returns daily expressions at every quarter of an hour and at 23:59,
// then others that are dense, sparse or irregular.
func cronSpecs() []string {
	var all []string
	for m := 0; m < 24*60; m += 15 {
		all = append(all, fmt.Sprintf("%d %d * * *", m%60, m/60))
	}
	for _, minute := range []int{1, 29, 31, 59} {
		for hour := range 24 {
			all = append(all, fmt.Sprintf("%d %d * * *", minute, hour))
		}
	}
	return append(all, "* * * * *", "*/7 * * * *", "0 * * * *", "59 * * * *", "*/20 0-4 * * *", "5,10 23,0,1 * * *",
		"* 2 * * *", "30 2 * * SUN", "0 3 * * 1-5", "0 0 * * SAT", "0 0 * * SUN", "30 0 * * FRI", "0 0 1 * *", "15 2 28-31 * *",
		"0 12 31 * *", "0 3 29 2 *", "0 0 30 12 *", "0 0 31 12 *", "0 0 29 3 *", "@daily", "@hourly", "@weekly", "@monthly", "@yearly")
}

func TestNextWhereClocksAreSet(t *testing.T) {
	for _, row := range []struct{ story, spec, zone, after, want string }{
		{"an ordinary day", "0 3 * * *", "Europe/Berlin", "2026-11-24T10:00:00Z", "2026-11-25T02:00:00Z"},
		{"strictly after a firing", "0 3 * * *", "UTC", "2026-11-24T03:00:00Z", "2026-11-25T03:00:00Z"},
		{"a nanosecond before a firing", "0 3 * * *", "UTC", "2026-11-24T02:59:59.999999999Z", "2026-11-24T03:00:00Z"},
		{"the hour that Berlin skips", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"and the day after it", "30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"},
		{"a date in the hour that Berlin skips", "30 2 29 3 *", "Europe/Berlin", "2026-01-01T00:00:00Z", "2026-03-29T01:00:00Z"},
		{"the hour that Berlin has twice", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"and not in its second pass", "30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"asked in the second pass", "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-26T01:30:00Z"},
		{"each minute stops for the second pass", "* * * * *", "Europe/Berlin", "2026-10-25T00:59:00Z", "2026-10-25T02:00:00Z"},
		{"the hour that New York has twice", "30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", "2026-11-01T05:30:00Z"},
		{"and not in its second pass", "30 1 * * *", "America/New_York", "2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"},
		{"no midnight in Cairo", "0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", "2026-04-23T22:00:00Z"},
		{"no midnight in Santiago", "0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", "2026-09-06T04:00:00Z"},
		{"half an hour on Lord Howe", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z"},
		{"a day that Apia never had", "0 0 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2011-12-30T10:00:00Z"},
		{"the day after that", "0 0 31 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2011-12-30T10:00:00Z"},
		{"the end of the gap is midnight in Nuuk", "59 23 * * *", "America/Nuuk", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		{"the last day of a leap year past the tables", "0 3 * * *", "Europe/Berlin", "2040-12-31T02:00:00Z", "2041-01-01T02:00:00Z"},
		{"29 February over 2100", "0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"},
	} {
		t.Run(row.story, func(t *testing.T) {
			got := scheduleIn(t, row.spec, row.zone).Next(rfc3339(t, row.after))
			if !got.Equal(rfc3339(t, row.want)) {
				t.Errorf("%s in %s after %s: %s, want %s", row.spec, row.zone, row.after, got.UTC().Format(time.RFC3339), row.want)
			}
		})
	}
}

func TestNextOutsideOfTime(t *testing.T) {
	s := scheduleIn(t, "* * * * *", "Pacific/Apia")
	if got := (Schedule{}).Next(time.Now()); !got.IsZero() {
		t.Errorf("the zero schedule fires at %s", got)
	}
	for _, after := range []time.Time{time.Unix(1<<60, 0), time.Unix(-1<<60, 0)} {
		if got := s.Next(after); !got.IsZero() {
			t.Errorf("after %s it fires at %s", after, got)
		}
	}
	if got := s.Next(time.Time{}); got.IsZero() {
		t.Error("nothing fires after the zero time")
	}
}

// clockMinute is one minute of real time and the readings that the clocks
// came to show in it, later than any they had shown before.
type clockMinute struct {
	at      time.Time
	reached []time.Time
}

// clockMinutes looks at every minute of a stretch, and so knows nothing of
// how Schedule goes about it.
func clockMinutes(zone *time.Location, from, to time.Time) []clockMinute {
	naive := func(t time.Time) time.Time {
		_, offset := t.In(zone).Zone()
		return t.UTC().Add(time.Duration(offset) * time.Second)
	}
	latest := time.Time{}
	for t := from.Add(-2 * maxOffset); t.Before(from); t = t.Add(time.Minute) {
		if n := naive(t); n.After(latest) {
			latest = n
		}
	}
	var all []clockMinute
	for t := from; t.Before(to); t = t.Add(time.Minute) {
		minute := clockMinute{at: t}
		for n := naive(t); latest.Before(n); {
			latest = latest.Add(time.Minute)
			minute.reached = append(minute.reached, latest)
		}
		all = append(all, minute)
	}
	return all
}

// transitions returns when the zone's clocks are set, in [from, to).
func transitions(zone *time.Location, from, to time.Time) []time.Time {
	var all []time.Time
	for t := from.In(zone); ; {
		_, end := t.ZoneBounds()
		if end.IsZero() || !end.Before(to) || !end.After(t) {
			return all
		}
		all = append(all, end)
		t = end
	}
}

func TestEachIntendedFiringComesOnce(t *testing.T) {
	all, checked := cronSpecs(), 0
	for _, zone := range hardZones(t) {
		stretches := transitions(zone, rfc3339(t, "2026-01-01T00:00:00Z"), rfc3339(t, "2037-01-01T00:00:00Z"))
		stretches = append(stretches, rfc3339(t, "2028-02-29T12:00:00Z"), rfc3339(t, "2031-12-31T12:00:00Z"))
		if zone.String() == "Pacific/Apia" {
			stretches = append(stretches, rfc3339(t, "2011-12-30T10:00:00Z"))
		}
		for _, middle := range stretches {
			from, to := middle.Add(-40*time.Hour), middle.Add(40*time.Hour)
			minutes := clockMinutes(zone, from, to)
			for range 4 {
				spec := all[checked%len(all)]
				checked++
				s, err := ParseSchedule(spec, zone)
				if err != nil {
					t.Fatal(err)
				}
				var want, got []time.Time
				for _, m := range minutes {
					if slices.ContainsFunc(m.reached, func(n time.Time) bool {
						return s.matchesDay(n) && s.spec.Hour>>n.Hour()&1 == 1 && s.spec.Minute>>n.Minute()&1 == 1
					}) {
						want = append(want, m.at)
					}
				}
				for at := s.Next(from.Add(-1)); at.Before(to); at = s.Next(at) {
					if len(got) > 0 && !at.After(got[len(got)-1]) {
						t.Fatalf("%q in %s: %s comes after %s", spec, zone, at, got[len(got)-1])
					}
					got = append(got, at)
				}
				if !slices.EqualFunc(got, want, time.Time.Equal) {
					t.Fatalf("%q in %s around %s:\n got %v\nwant %v", spec, zone, middle, got, want)
				}
			}
		}
	}
	t.Logf("%d expressions, zones and transitions", checked)
}

func TestDailySchedulesFireOnceADay(t *testing.T) {
	for _, zone := range hardZones(t) {
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, zone)
		for _, spec := range []string{"0 0 * * *", "30 2 * * *", "59 23 * * *"} {
			s, err := ParseSchedule(spec, zone)
			if err != nil {
				t.Fatal(err)
			}
			days, until := 0, time.Date(2029, 1, 1, 12, 0, 0, 0, zone)
			for at := s.Next(from.Add(-1)); at.Before(until); at = s.Next(at) {
				days++
			}
			// 1 January 2026 to 31 December 2028, and midnight of 1 January 2029.
			if want := 3*365 + 1 + map[string]int{"0 0 * * *": 1, "30 2 * * *": 1}[spec]; days != want {
				t.Errorf("%q in %s fired on %d days of %d", spec, zone, days, want)
			}
		}
	}
}

func TestParseScheduleRefuses(t *testing.T) {
	for _, row := range []struct{ spec, want string }{
		{"0 0 31 2 *", `"0 0 31 2 *" never fires`},
		{"0 0 30 2 *", "never fires"},
		{"0 0 31 4,6,9,11 *", "never fires"},
		{"TZ=", "timeZone"},
		{"CRON_TZ=UTC", "timeZone"},
		{"TZ=Europe/Berlin 0 3 * * *", "timeZone"},
		{"@every -5m", "say at which"},
		{"@reboot", "@daily"},
		{"", "has 0 fields"},
		{"3", "five"},
		{"0 0 3 * * *", "no seconds"},
		{"0 3 1-7 * TUE", `"0 3 1-7 * *" for the days of the month, "0 3 * * TUE" for the days of the week`},
		{"0 3 */2 * 1", "either matches"},
		{"0 3 1-31 * 1", "either matches"},
		{"0 3 * * 7", "Sunday is 0 or SUN"},
		{"0 3 * * 5-7", "Sunday is 0 or SUN"},
		{"0 22-2 * * *", `split it: "22-23,0-2"`},
		{"0 3 * * FRI-MON", `split it: "FRI-6,0-MON"`},
		{"0 3 L * *", "not part of cron"},
		{"0 3 15W * *", "not part of cron"},
		{"0 3 * * 5#3", "not part of cron"},
		{"60 * * * *", "lies outside 0-59"},
		{"0 24 * * *", "lies outside 0-23"},
		{"0 3 0 * *", "lies outside 1-31"},
		{"0 3 * 13 *", "lies outside 1-12"},
		{"0 3 * * TUES", "three letters"},
		{"*/0 * * * *", "from 1 on"},
		{"*/90 * * * *", "past the end of the field (59)"},
		{"1,,2 * * * *", "empty element"},
		{"+5 * * * *", "not a number"},
		{"*-5 * * * *", "not a number"},
		{"0 3 * * " + strings.Repeat("9", 400), "..."},
	} {
		_, err := ParseSchedule(row.spec, nil)
		if err == nil {
			t.Errorf("%.60q is accepted", row.spec)
		} else if row.want != "..." && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%.60q: %v, without %q", row.spec, err, row.want)
		}
	}
}

func TestParseScheduleKeepsTheText(t *testing.T) {
	s := scheduleIn(t, "0 3 * * TUE,*", "Europe/Berlin")
	if s.String() != "0 3 * * TUE,*" || s.Zone().String() != "Europe/Berlin" {
		t.Errorf("%s in %s", s, s.Zone())
	}
	if got := (Schedule{}).Zone(); got != time.UTC {
		t.Errorf("the zero schedule is in %s", got)
	}
}

// twoGapsByEnumeration goes through every firing.
func twoGapsByEnumeration(s Schedule, from time.Time) time.Duration {
	longest, before, last := time.Duration(0), from, s.Next(from)
	for !before.After(from.Add(ScheduleHorizon)) {
		next := s.Next(last)
		longest = max(longest, next.Sub(before))
		before, last = last, next
	}
	return longest
}

func TestLargestTwoGaps(t *testing.T) {
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	for _, row := range []struct {
		story, spec, zone string
		want              time.Duration
	}{
		{"daily", "0 3 * * *", "UTC", 48 * time.Hour},
		{"daily, over the end of summer time", "0 3 * * *", "Europe/Berlin", 49 * time.Hour},
		{"the longest pauses within a day", "0 0,6,21,22,23 * * *", "UTC", 21 * time.Hour},
		{"each minute", "* * * * *", "UTC", 2 * time.Minute},
		{"each minute, over the hour that comes twice", "* * * * *", "Europe/Berlin", 62 * time.Minute},
		{"on workdays", "0 3 * * MON-FRI", "UTC", 96 * time.Hour},
		{"monthly, with July and August", "0 0 1 * *", "UTC", 62 * 24 * time.Hour},
		{"yearly, with a leap day", "0 0 1 1 *", "UTC", (365 + 366) * 24 * time.Hour},
		{"leap days", "0 0 29 2 *", "UTC", 8*365*24*time.Hour + 48*time.Hour},
	} {
		t.Run(row.story, func(t *testing.T) {
			got, at := scheduleIn(t, row.spec, row.zone).LargestTwoGaps(from)
			if got != row.want || at.Before(from) {
				t.Errorf("%s from %s, want %s", got, at, row.want)
			}
		})
	}
	if got, at := (Schedule{}).LargestTwoGaps(from); got != 0 || !at.IsZero() {
		t.Errorf("the zero schedule pauses for %s from %s", got, at)
	}
}

func TestLargestTwoGapsAgreesWithEnumeration(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all, everywhere := cronSpecs(), hardZones(t)
	for range 60 {
		spec, zone := all[random.IntN(len(all))], everywhere[random.IntN(len(everywhere))]
		from := time.Unix(1767225600+random.Int64N(3e8), 0)
		s, err := ParseSchedule(spec, zone)
		if err != nil {
			t.Fatal(err)
		}
		if m := s.minutesOfDay(); len(m) > 24 {
			continue // too long to enumerate; the rows above and below are such
		}
		if got, _ := s.LargestTwoGaps(from); got != twoGapsByEnumeration(s, from) {
			t.Errorf("%q in %s from %s: %s, by enumeration %s", spec, zone, from, got, twoGapsByEnumeration(s, from))
		}
	}
	for _, spec := range []string{"*/9 1-5 * * *", "0 1-23/5 * * *", "*/20 22 * * 6"} {
		s := scheduleIn(t, spec, "Australia/Lord_Howe")
		from := rfc3339(t, "2026-11-24T10:20:23Z")
		if got, _ := s.LargestTwoGaps(from); got != twoGapsByEnumeration(s, from) {
			t.Errorf("%q: %s, by enumeration %s", spec, got, twoGapsByEnumeration(s, from))
		}
	}
}

func TestSpreadIsSmallAndSteady(t *testing.T) {
	different := map[time.Duration]bool{}
	for i := range 1000 {
		name := fmt.Sprintf("prod-eu-%d", i)
		got := Spread(name, 30*time.Minute, 24*time.Hour)
		if got != Spread(name, 30*time.Minute, 24*time.Hour) || got < 0 || got >= 30*time.Minute {
			t.Fatalf("%s: %s", name, got)
		}
		different[got] = true
		if got = Spread(name, 30*time.Minute, time.Minute); got < 0 || got >= 6*time.Second {
			t.Fatalf("%s: %s of a minute", name, got)
		}
	}
	if len(different) < 600 {
		t.Errorf("1000 names share %d instants", len(different))
	}
	if got := Spread("east", 0, time.Hour); got != 0 {
		t.Errorf("no spread is %s", got)
	}
}

func TestNextFiringWalksEverySpreadFiring(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, spec := range []string{"0 3 * * *", "* * * * *", "*/5 2 * * SUN", "@monthly"} {
		p := RenewalPolicy{Schedule: scheduleIn(t, spec, "Europe/Berlin"), Spread: 30 * time.Minute}
		at := rfc3339(t, "2026-10-24T22:00:00Z")
		for f := p.Schedule.Next(at.Add(-time.Hour)); f.Before(at.Add(9 * time.Hour)); f = p.Schedule.Next(f) {
			spread, next := p.spread("east", f), p.spread("east", p.Schedule.Next(f))
			if !spread.Before(next) {
				t.Fatalf("%q: %s is not before %s", spec, spread, next)
			}
			between := spread.Add(time.Duration(random.Int64N(int64(next.Sub(spread)))))
			for _, after := range []time.Time{spread, between, next.Add(-1)} {
				if got := p.NextFiring("east", after); !got.Equal(next) {
					t.Fatalf("%q after %s: %s, want %s", spec, after, got, next)
				}
				if got := p.lastFiring("east", after, after.Add(-100*24*time.Hour)); !got.Equal(spread) {
					t.Fatalf("%q up to %s: %s, want %s", spec, after, got, spread)
				}
			}
		}
	}
	if got := (RenewalPolicy{}).NextFiring("east", time.Now()); !got.IsZero() {
		t.Errorf("no schedule fires at %s", got)
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, seed := range append(cronSpecs(), "TZ=", "0 3 1-7 * TUE", "* * * * 7", "0 22-2 * * *", "@every 0s", "1,,2 */0 ? * *") {
		f.Add(seed, int64(1790000000))
	}
	lordHowe := location(f, "Australia/Lord_Howe")
	f.Fuzz(func(t *testing.T, spec string, unix int64) {
		s, err := ParseSchedule(spec, lordHowe)
		if err != nil {
			return
		}
		after := time.Unix(unix%4e9, 0)
		next := s.Next(after)
		if !next.After(after) {
			t.Fatalf("%q after %s: %s", spec, after, next)
		}
		if again := s.Next(next.Add(-1)); !again.Equal(next) {
			t.Fatalf("%q: %s, and a nanosecond before it %s", spec, next, again)
		}
		if back := s.last(next, 24*time.Hour); !back.Equal(next) {
			t.Fatalf("%q: the last firing up to %s is %s", spec, next, back)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, spec := range []string{"* * * * *", "0 3 * * *", "0 0 29 2 *"} {
		b.Run(spec, func(b *testing.B) {
			s, at := scheduleIn(b, spec, "Europe/Berlin"), rfc3339(b, "2026-11-24T10:20:23Z")
			for b.Loop() {
				s.Next(at)
			}
		})
	}
}

func BenchmarkLargestTwoGaps(b *testing.B) {
	for _, zoneName := range []string{"UTC", "Europe/Berlin", "Africa/Casablanca"} {
		b.Run(zoneName, func(b *testing.B) {
			s, at := scheduleIn(b, "* * * * *", zoneName), rfc3339(b, "2026-11-24T10:20:23Z")
			for b.Loop() {
				s.LargestTwoGaps(at)
			}
		})
	}
}
