package config

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// ParseDuration reads "10y", "90d", "36h", "1d12h", "45s" or "0s": whole
// numbers, each with one of the units y (365 days), d, h, m and s, the larger
// before the smaller and none twice. The error follows the quoted text.
func ParseDuration(s string) (time.Duration, error) {
	units := []struct {
		letter byte
		is     time.Duration
	}{{'y', 365 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}
	switch {
	case strings.HasPrefix(s, "-"):
		return 0, errors.New("is negative")
	case strings.Contains(s, "."):
		return 0, errors.New(`has a fraction; write "1h30m" for an hour and a half`)
	case strings.HasSuffix(s, "mo") || strings.HasSuffix(s, "M"):
		return 0, errors.New(`is in months, which differ in length; write days, such as "90d"`)
	case strings.HasSuffix(s, "w"):
		return 0, errors.New(`is in weeks; write days, such as "7d"`)
	case strings.HasSuffix(s, "ms") || strings.HasSuffix(s, "us") || strings.HasSuffix(s, "ns"):
		return 0, errors.New("is finer than a second")
	}
	var total time.Duration
	next := 0 // of the units
	for rest := s; ; {
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		if digits == 0 || digits > 12 {
			return 0, errors.New(`is not a duration; write "10y", "90d", "36h", "30m", "45s" or "1d12h"`)
		}
		if digits == len(rest) {
			return 0, fmt.Errorf("has no unit; write %sd, %sh, %sm or %ss", rest, rest, rest, rest)
		}
		var n int64
		for _, c := range rest[:digits] {
			n = n*10 + int64(c-'0')
		}
		unit := next
		for unit < len(units) && units[unit].letter != rest[digits] {
			unit++
		}
		if unit == len(units) {
			return 0, errors.New("is not a duration; the units are y, d, h, m and s, each once and in this order")
		}
		if n > int64((math.MaxInt64-total)/units[unit].is) {
			return 0, errors.New("is longer than 292 years")
		}
		total += time.Duration(n) * units[unit].is
		next = unit + 1
		if rest = rest[digits+1:]; rest == "" {
			return total, nil
		}
	}
}
