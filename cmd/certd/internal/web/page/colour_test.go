package page

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tokens are the colours of page.css, by scheme and name.
func tokens(t *testing.T) (light, dark map[string]string) {
	t.Helper()
	read := func(block string) map[string]string {
		found := map[string]string{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(block, -1) {
			found[m[1]] = m[2]
		}
		return found
	}
	first, rest, _ := strings.Cut(style, "@media screen and (prefers-color-scheme: dark)")
	second, _, _ := strings.Cut(rest, "\n}\n")
	light, dark = read(first), read(second)
	if len(light) < 15 || len(light) != len(dark) {
		t.Fatalf("page.css has %d light colours and %d dark ones", len(light), len(dark))
	}
	return light, dark
}

// luminance is the relative luminance of WCAG 2.2.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	channel := func(hex string) float64 {
		n, err := strconv.ParseUint(hex, 16, 8)
		if err != nil {
			t.Fatalf("%q is no colour: %v", colour, err)
		}
		if c := float64(n) / 255; c <= 0.04045 {
			return c / 12.92
		} else {
			return math.Pow((c+0.055)/1.055, 2.4)
		}
	}
	return 0.2126*channel(colour[1:3]) + 0.7152*channel(colour[3:5]) + 0.0722*channel(colour[5:7])
}

func contrast(t *testing.T, a, b string) float64 {
	la, lb := luminance(t, a), luminance(t, b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// Text is read against what lies behind it (4.5:1), marks and bars are told from it
// (3:1), in both schemes. axe leaves out what is drawn in SVG.
func TestColoursAreTold(t *testing.T) {
	light, dark := tokens(t)
	pairs := map[float64][][2]string{4.5: nil, 3: nil}
	text := func(colour string, on ...string) {
		for _, o := range on {
			pairs[4.5] = append(pairs[4.5], [2]string{colour, o})
		}
	}
	mark := func(colour string, on ...string) {
		for _, o := range on {
			pairs[3] = append(pairs[3], [2]string{colour, o})
		}
	}
	text("text", "bg", "surface", "code", "ok-tint", "warning-tint", "critical-tint", "unknown-tint", "info-tint")
	text("muted", "bg", "surface")
	text("link", "bg", "surface", "ok-tint", "warning-tint", "critical-tint", "unknown-tint")
	for _, state := range []string{"ok", "warning", "critical", "unknown", "info"} {
		text(state, "bg", "surface", state+"-tint")
		text("surface", state) // the sign on its disc
	}
	mark("focus", "bg", "surface")
	mark("text", "whole", "past", "bg", "surface")
	mark("info", "whole", "bg", "surface")
	mark("critical", "whole", "bg", "surface")
	mark("warning", "whole")
	for scheme, tokens := range map[string]map[string]string{"light": light, "dark": dark} {
		for least, list := range pairs {
			for _, p := range list {
				a, b := tokens[p[0]], tokens[p[1]]
				if a == "" || b == "" {
					t.Fatalf("page.css has no %s or no %s", p[0], p[1])
				}
				if got := contrast(t, a, b); got < least {
					t.Errorf("%s: %s on %s has a contrast of %.2f, less than %.1f", scheme, p[0], p[1], got, least)
				}
			}
		}
	}
}

func TestContrast(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want float64
	}{{"#000000", "#ffffff", 21}, {"#ffffff", "#ffffff", 1}, {"#777777", "#ffffff", 4.48}} {
		if got := contrast(t, row.a, row.b); math.Abs(got-row.want) > 0.01 {
			t.Errorf("%s on %s: %.3f", row.a, row.b, got)
		}
	}
}
