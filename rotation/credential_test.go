package rotation

import (
	"strings"
	"testing"
	"time"
)

// What certd is let in by has a floor: two weeks, or a tenth of its life where it lives shorter.
func TestCredentialsHaveAFloor(t *testing.T) {
	now := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, row := range []struct {
		sentence   string
		life, left time.Duration
		say        string
		want       State
	}{
		{"a year's certificate with 15 days left", 365 * day, 15 * day, "", StateOK},
		{"with 13", 365 * day, 13 * day, "ends at Sun 15 Nov 2026 09:00 UTC, in 13d", StateWarning},
		{"with 47 hours", 365 * day, 47 * time.Hour, "in 1d 23h", StateCritical},
		{"one that has ended", 365 * day, -time.Hour, "ended at Mon 2 Nov 2026 08:00 UTC", StateCritical},
		{"a token of an hour that is renewed with 12 minutes left", time.Hour, 12 * time.Minute, "", StateOK},
		{"and was not", time.Hour, 5 * time.Minute, "in 5m", StateWarning},
		{"one that ends before it begins", -time.Hour, time.Hour, "", StateOK},
	} {
		c := Credential{Kind: "client certificate", From: "/etc/certd/kube/eu", Begun: now.Add(row.left - row.life), Ends: now.Add(row.left)}
		say, s := c.Problem(now)
		if s != row.want || !strings.Contains(say, row.say) || row.say == "" && say != "" {
			t.Errorf("%s: %s, %q", row.sentence, s, say)
		}
	}
}
