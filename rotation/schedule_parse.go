package rotation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// cronField is one of the five fields of an expression.
type cronField struct {
	name     string
	min, max int
	names    string // three letters each, from min on
}

// cronFields returns the fields in the order in which they are written.
func cronFields() [5]cronField {
	return [5]cronField{
		{"minute", 0, 59, ""},
		{"hour", 0, 23, ""},
		{"day of month", 1, 31, ""},
		{"month", 1, 12, "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"},
		{"day of week", 0, 6, "SUNMONTUEWEDTHUFRISAT"},
	}
}

// ParseSchedule reads a cron expression of five fields, or one of @yearly,
// @monthly, @weekly, @daily and @hourly, whose wall clock hangs in zone (nil
// is UTC). The error quotes the expression and says what to write instead.
//
// Everything is looked at before robfig/cron sees it: some input makes that
// panic (a TZ prefix), and some it takes for what nobody means ("@every -5m"
// is each second, "1,," is 1, "*-5" is *). An expression that restricts both
// day of month and day of week is refused: cron fires when either matches,
// and most who write it mean both. So is one that never fires.
func ParseSchedule(spec string, zone *time.Location) (Schedule, error) {
	if zone == nil {
		zone = time.UTC
	}
	spec = strings.TrimSpace(spec)
	if err := explainCron(spec); err != nil {
		return Schedule{}, fmt.Errorf("%.80q %w", spec, err)
	}
	parsed, err := cron.ParseStandard(spec)
	if err != nil {
		return Schedule{}, fmt.Errorf("%q is not a cron expression: %w", spec, err)
	}
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Schedule{}, fmt.Errorf("%q is not a cron expression", spec)
	}
	naive := *fields
	naive.Location = time.UTC
	schedule := Schedule{text: spec, spec: &naive, zone: zone, dates: newHeld[datesAsked, RenewalDates](mostDates)}
	// 2000 is a leap year: what does not fire from there on never does.
	if schedule.nextNaive(time.Date(1999, time.December, 31, 23, 59, 59, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("%q never fires", spec)
	}
	return schedule, nil
}

// explainCron returns what is wrong with spec in words that follow its
// quotation, or nil.
func explainCron(spec string) error {
	if strings.Contains(spec, "TZ=") {
		return errors.New("names a time zone; that goes into timeZone")
	}
	fields := strings.Fields(spec)
	if len(fields) > 0 && strings.HasPrefix(fields[0], "@") {
		switch spec {
		case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
			return nil
		}
		if fields[0] == "@every" {
			return errors.New(`would fire at other times after each start; say at which: "*/30 * * * *" is every half hour`)
		}
		return errors.New("is not known; there are @yearly, @monthly, @weekly, @daily and @hourly")
	}
	switch len(fields) {
	case 5:
	case 6:
		return errors.New("has six fields, cron has five: minute, hour, day of month, month, day of week (no seconds)")
	default:
		return fmt.Errorf(`has %d fields, cron has five: minute, hour, day of month, month, day of week; "0 3 * * *" is every day at 03:00`, len(fields))
	}
	for i, f := range cronFields() {
		if err := f.explain(fields[i]); err != nil {
			return fmt.Errorf("is not a cron expression: %s %w", f.name, err)
		}
	}
	if dom, dow := fields[2], fields[4]; restricts(dom) && restricts(dow) {
		return fmt.Errorf("sets both day of month and day of week, and cron fires when either matches; "+
			"say which one: %q for the days of the month, %q for the days of the week",
			strings.Join([]string{fields[0], fields[1], dom, fields[3], "*"}, " "),
			strings.Join([]string{fields[0], fields[1], "*", fields[3], dow}, " "))
	}
	return nil
}

// restricts follows robfig/cron: an element that is a star with no step makes
// the field match every day.
func restricts(field string) bool {
	for element := range strings.SplitSeq(field, ",") {
		switch strings.TrimSuffix(element, "/1") {
		case "*", "?":
			return false
		}
	}
	return true
}

func (f cronField) explain(field string) error {
	for element := range strings.SplitSeq(field, ",") {
		span, step, stepped := strings.Cut(element, "/")
		if stepped {
			n, err := strconv.ParseUint(step, 10, 32)
			if err != nil || n == 0 {
				return fmt.Errorf("%q: what follows the slash is a number from 1 on", element)
			}
			if int(n) > f.max {
				return fmt.Errorf("%q: a step of %d leads past the end of the field (%d)", element, n, f.max)
			}
		}
		if span == "*" || span == "?" {
			continue
		}
		low, high, ranged := strings.Cut(span, "-")
		from, err := f.value(element, low)
		if err != nil {
			return err
		}
		if !ranged {
			continue
		}
		to, err := f.value(element, high)
		if err != nil {
			return err
		}
		if from > to {
			return fmt.Errorf(`%q runs backwards; split it: "%s-%d,%d-%s"`, element, low, f.max, f.min, high)
		}
	}
	return nil
}

// value reads a number or a name within the field's limits.
func (f cronField) value(element, s string) (int, error) {
	if len(s) == 3 && f.names != "" {
		if i := strings.Index(f.names, strings.ToUpper(s)); i >= 0 && i%3 == 0 {
			return f.min + i/3, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	switch {
	case err != nil && element == "":
		return 0, errors.New("has an empty element between its commas")
	case err != nil && strings.ContainsAny(strings.ToUpper(element), "LW#"):
		return 0, fmt.Errorf("%q: L, W and # are not part of cron; say the days by number, such as 28", element)
	case err != nil && f.names != "":
		return 0, fmt.Errorf("%q is neither a number nor a name of three letters", element)
	case err != nil:
		return 0, fmt.Errorf("%q is not a number", element)
	case n == 7 && f.max == 6:
		return 0, fmt.Errorf("%q: Sunday is 0 or SUN", element)
	case n < uint64(f.min) || n > uint64(f.max):
		return 0, fmt.Errorf("%q lies outside %d-%d", element, f.min, f.max)
	}
	return int(n), nil
}
