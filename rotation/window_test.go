package rotation

import (
	"strings"
	"testing"
	"time"
)

func TestClosed(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(text string) time.Time {
		t.Helper()
		x, err := time.ParseInLocation("2006-01-02 15:04", text, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	window := func(name, opens string, length time.Duration) Window {
		s, err := ParseSchedule(opens, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return Window{name, s, length}
	}
	nights, noon := window("nights", "0 22 * * MON-THU", 8*time.Hour), window("noon", "0 12 * * *", 30*time.Minute)
	freeze := Freeze{"year-end", "change freeze", at("2026-12-18 00:00"), at("2027-01-05 00:00")}
	for _, row := range []struct {
		name    string
		windows []Window
		freezes []Freeze
		now     string
		why     string // "": open
		until   string // "": never
	}{
		{"nothing is said", nil, nil, "2026-11-24 10:00", "", ""},
		{"before it opens", []Window{nights}, nil, "2026-11-24 21:59", "window nights opens Tue 24 Nov 2026 21:00 UTC", "2026-11-24 22:00"},
		{"as it opens", []Window{nights}, nil, "2026-11-24 22:00", "", "2026-11-25 06:00"},
		{"its last minute", []Window{nights}, nil, "2026-11-25 05:59", "", "2026-11-25 06:00"},
		{"as it closes", []Window{nights}, nil, "2026-11-25 06:00", "window nights opens", "2026-11-25 22:00"},
		{"over the weekend", []Window{nights}, nil, "2026-11-27 23:00", "window nights opens Mon 30 Nov 2026 21:00 UTC", "2026-11-30 22:00"},
		{"another one opens before", []Window{nights, noon}, nil, "2026-11-24 10:00", "window noon opens", "2026-11-24 12:00"},
		{"a freeze ahead", nil, []Freeze{freeze}, "2026-11-24 10:00", "", "2026-12-18 00:00"},
		{"its first minute", nil, []Freeze{freeze}, "2026-12-18 00:00", "freeze year-end ends Mon 4 Jan 2027 23:00 UTC (change freeze)", "2027-01-05 00:00"},
		{"its last, in a window", []Window{nights}, []Freeze{freeze}, "2027-01-04 23:59", "freeze year-end", "2027-01-05 00:00"},
		{"after it, in the window", []Window{nights}, []Freeze{freeze}, "2027-01-05 00:00", "", "2027-01-05 06:00"},
		{"it begins before the window closes", []Window{nights}, []Freeze{freeze}, "2026-12-17 23:00", "", "2026-12-18 00:00"},
		{"none ever opens", []Window{{Name: "never", For: time.Hour}}, nil, "2026-11-24 10:00", "none of its windows ever opens", ""},
	} {
		why, until := Policy{Windows: row.windows, Freezes: row.freezes}.closed(at(row.now))
		if (why == "") != (row.why == "") || !strings.HasPrefix(why, row.why) {
			t.Errorf("%s: %q, want %q", row.name, why, row.why)
		}
		if want := (time.Time{}); row.until != "" {
			want = at(row.until)
			if !until.Equal(want) {
				t.Errorf("%s: until %s, want %s", row.name, until, want)
			}
		} else if !until.IsZero() {
			t.Errorf("%s: until %s, want never", row.name, until)
		}
	}
}
