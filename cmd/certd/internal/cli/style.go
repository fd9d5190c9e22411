package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"certd.internal/rotation"
)

const (
	proseWidth = 100 // where the terminal does not say otherwise
	leastWidth = 60  // narrower ones get lines of this width
)

// A style is how text comes out: for which terminal, in which zone, and when.
type style struct {
	color bool
	ascii bool
	width int // of the terminal; 0: none, tables are as wide as they need
	zone  *time.Location
	now   time.Time
	// config is --config as given, which commands to type need, too.
	config string
}

// A mark is a sign beside a word, never instead of one.
type mark struct{ sign, ascii, sgr string }

var (
	markOK       = mark{"✓", "[ok]", "32"}
	markWarning  = mark{"!", "[!!]", "33"}
	markCritical = mark{"✗", "[XX]", "31"}
	markUnknown  = mark{"?", "[??]", "35"}
	markWaiting  = mark{"⋅", "[..]", ""}
	markRunning  = mark{"▸", "[>>]", "36"}
)

func markOf(s rotation.State) mark {
	switch s {
	case rotation.StateOK:
		return markOK
	case rotation.StateWarning:
		return markWarning
	case rotation.StateCritical:
		return markCritical
	}
	return markUnknown
}

func markOfResult(r rotation.Result) mark {
	switch r {
	case rotation.OK:
		return markOK
	case rotation.Failed:
		return markCritical
	case rotation.Abandoned:
		return markWaiting
	}
	return markUnknown
}

func (s style) sign(m mark) string {
	if s.ascii {
		return m.ascii
	}
	return m.sign
}

// mark is the sign in its colour.
func (s style) mark(m mark) string { return s.paint(s.sign(m), m.sgr) }

// paint colours text by one of the eight base colours, so that the user's
// theme decides what they look like.
func (s style) paint(text, sgr string) string {
	if !s.color || sgr == "" || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

// plain turns certd's own text into what the terminal can show.
func (s style) plain(text string) string {
	if !s.ascii {
		return text
	}
	return strings.NewReplacer("·", "-", "…", "..", "→", "->", "⋅", "..").Replace(text)
}

// clean makes text from outside harmless and one line: a server's error must
// not move the cursor or pretend to be certd.
func (s style) clean(text string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
			return '?'
		case s.ascii && r > unicode.MaxASCII && !strings.ContainsRune("·…→⋅", r):
			return '?'
		}
		return r
	}, text)), " ")
}

// prose is the width for running text.
func (s style) prose() int {
	if s.width == 0 {
		return proseWidth
	}
	return max(s.width, leastWidth)
}

// cells is how many columns a terminal gives to text. Colours take none.
func cells(text string) int {
	n, escaped := 0, false
	for _, r := range text {
		switch {
		case escaped:
			escaped = r != 'm'
		case r == '\x1b':
			escaped = true
		case r < 0x300: // Latin, by far the most
			n++
		case unicode.In(r, unicode.Mn, unicode.Me):
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul), r >= 0xff01 && r <= 0xff60, r >= 0x1f300:
			n += 2
		default:
			n++
		}
	}
	return n
}

// clip shortens text to so many cells.
func clip(text string, most int) string {
	if cells(text) <= most {
		return text
	}
	n := 0
	for i, r := range text {
		if n += cells(string(r)); n > most-2 {
			return text[:i] + "..."[:min(2, most)]
		}
	}
	return text
}

// wrap breaks text into lines at spaces; the first begins with first, the
// others with rest. Without a terminal long words stay whole, to be copied.
func (s style) wrap(first, rest, text string) []string {
	var lines []string
	line, words := first, 0
	flush := func() {
		lines = append(lines, strings.TrimRight(line, " "))
		line, words = rest, 0
	}
	for word := range strings.FieldsSeq(text) {
		if words > 0 && cells(line)+1+cells(word) > s.prose() {
			flush()
		}
		if words == 0 && len(lines) == 0 && cells(line) > cells(rest) && cells(line)+cells(word) > s.prose() {
			flush() // a long lead has its line to itself
		}
		for s.width > 0 && cells(line)+cells(word) > s.prose() && words == 0 {
			end, room := 0, s.prose()-cells(line)
			for i, r := range word {
				if room -= cells(string(r)); room < 0 {
					break
				}
				end = i + utf8.RuneLen(r)
			}
			line, word = line+word[:end], word[end:]
			flush()
		}
		if words > 0 {
			line += " "
		}
		line += word
		words++
	}
	if words > 0 || len(lines) == 0 {
		flush()
	}
	return lines
}

// span is a duration in at most two units: "57d 15h", "2h 41m", "9y 9mo". It
// is cut off, not rounded: what is left is never overstated.
func span(d time.Duration) string {
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

// coarse is a duration in one unit, or in years and months.
func coarse(d time.Duration) string {
	text := span(d)
	if d.Abs() < 2*365*24*time.Hour {
		text, _, _ = strings.Cut(text, " ")
	}
	return text
}

// until is the time left, or "now".
func (s style) until(t time.Time) string {
	if d := t.Sub(s.now); d >= time.Second {
		return "in " + span(d)
	} else if d > -time.Minute {
		return "now"
	}
	return span(s.now.Sub(t)) + " ago"
}

// year is the layout of the year where it is not this one.
func (s style) year(t time.Time) string {
	if t.In(s.zone).Year() == s.now.In(s.zone).Year() {
		return ""
	}
	return " 2006"
}

// moment is a time for a table: "Tue 19 Jan 03:00".
func (s style) moment(t time.Time) string {
	return t.In(s.zone).Format("Mon _2 Jan" + s.year(t) + " 15:04")
}

// when is a time for prose: "Tue 19 Jan 03:00 CET".
func (s style) when(t time.Time) string {
	return t.In(s.zone).Format("Mon 2 Jan" + s.year(t) + " 15:04 MST")
}

// day is a date, with the hour where it is less than two days away.
func (s style) day(t time.Time) string {
	if d := t.Sub(s.now).Abs(); d < 48*time.Hour {
		return s.when(t)
	}
	return t.In(s.zone).Format("Mon 2 Jan 2006")
}

// groups cuts hex digits into fours, "9f2c 61ab 04d8 77e1 … 41d7" if short.
func groups(hex string, short bool) string {
	var four []string
	for ; len(hex) > 4; hex = hex[4:] {
		four = append(four, hex[:4])
	}
	four = append(four, hex)
	if short && len(four) > 5 {
		four = append(append(four[:4:4], "…"), four[len(four)-1])
	}
	return strings.Join(four, " ")
}

// brief is the first digits of a serial number or digest.
func brief(hex string) string {
	if len(hex) <= 8 {
		return hex
	}
	return hex[:8]
}

// count is "1 cluster", "2 clusters".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
