package rotation

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// issuerPolicyOf returns the defaults of the configuration with another schedule.
func issuerPolicyOf(t testing.TB, spec, zoneName string) Policy {
	return Policy{
		Cluster: "east", LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
		Issuer: RenewalPolicy{
			Lifetime: 7 * 24 * time.Hour, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute,
			Spread: 30 * time.Minute, Schedule: scheduleIn(t, spec, zoneName),
		},
	}
}

func TestCheckLifetimes(t *testing.T) {
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	const day = 24 * time.Hour
	for _, row := range []struct {
		story, spec, zone                       string
		lifetime, renewBefore, spread, backdate time.Duration
		field, message                          string
		smallest                                time.Duration
	}{
		{"the defaults", "0 3 * * *", "Europe/Berlin", 7 * day, 84 * time.Hour, 30 * time.Minute, 10 * time.Minute, "", "", 0},
		{"long-lived", "0 3 * * TUE", "UTC", 90 * day, 61 * day, 30 * time.Minute, 10 * time.Minute, "", "", 0},
		{"no time to repair", "0 3 * * *", "UTC", 7 * day, 36 * time.Hour, 0, 0,
			"issuer.renewBefore", "24h + 2 × 20s + 12h); it must be at least 1d12h40s", 36*time.Hour + 40*time.Second},
		{"gone before it is due", "0 3 * * *", "UTC", 84 * time.Hour, 84 * time.Hour, 0, 0,
			"issuer.lifetime", "leaves nothing", 84*time.Hour + 2*day},
		{"gone but for the backdate", "0 3 * * *", "UTC", 84*time.Hour + 10*time.Minute, 84 * time.Hour, 0, 10 * time.Minute,
			"issuer.lifetime", "leaves nothing", 84*time.Hour + 10*time.Minute + 2*day},
		{"weekly is too seldom for a week", "0 3 * * TUE", "UTC", 7 * day, 84 * time.Hour, 0, 0,
			"issuer.lifetime", `leaves 84h until renewBefore, but the second firing of "0 3 * * TUE" may be 14d away`, 84*time.Hour + 14*day},
		{"exactly two gaps", "0 3 * * *", "UTC", 84*time.Hour + 48*time.Hour, 84 * time.Hour, 0, 0, "", "", 0},
		{"exactly two gaps, were it not for summer time", "0 3 * * *", "Europe/Berlin", 84*time.Hour + 48*time.Hour, 84 * time.Hour, 0, 0,
			"issuer.lifetime", "at least 5d13h", 84*time.Hour + 49*time.Hour},
		{"two gaps but no spread", "0 3 * * *", "UTC", 84*time.Hour + 48*time.Hour, 84 * time.Hour, 30 * time.Minute, 0,
			"issuer.lifetime", "at least 5d12h30m", 84*time.Hour + 48*time.Hour + 30*time.Minute},
	} {
		t.Run(row.story, func(t *testing.T) {
			p := issuerPolicyOf(t, row.spec, row.zone)
			p.Issuer.Lifetime, p.Issuer.RenewBefore = row.lifetime, row.renewBefore
			p.Issuer.Spread, p.Issuer.Backdate = row.spread, row.backdate
			problems := p.CheckLifetimes(from)
			switch {
			case row.field == "" && len(problems) > 0:
				t.Errorf("refused: %v", problems)
			case row.field != "" && (len(problems) != 1 || problems[0].Field != row.field ||
				!strings.Contains(problems[0].Message, row.message) || problems[0].Smallest != row.smallest):
				t.Errorf("got %+v", problems)
			}
		})
	}
	p := issuerPolicyOf(t, "@daily", "UTC")
	p.Issuer.Schedule = Schedule{}
	if problems := p.CheckLifetimes(from); len(problems) != 1 || problems[0].Field != "issuer.schedule" {
		t.Errorf("a schedule that never fires: %+v", problems)
	}
}

// webhookPolicyOf returns the defaults of the configuration with another schedule.
func webhookPolicyOf(t testing.TB, spec, zoneName string) Policy {
	const day = 24 * time.Hour
	p := issuerPolicyOf(t, "0 3 * * *", "UTC")
	at := scheduleIn(t, spec, zoneName)
	p.Webhooks = WebhookPolicy{
		Specs:  LinkerdWebhooks(),
		Leaf:   RenewalPolicy{Lifetime: 30 * day, RenewBefore: 15 * day, Backdate: 10 * time.Minute, Spread: 30 * time.Minute, Schedule: at},
		CA:     RenewalPolicy{Lifetime: 730 * day, RenewBefore: 180 * day, Backdate: time.Hour, Spread: 30 * time.Minute, Schedule: at},
		Settle: 30 * time.Second, Projection: 3 * time.Minute,
	}
	return p
}

func TestCheckLifetimesOfWebhooks(t *testing.T) {
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	const day = 24 * time.Hour
	const floor = 12*time.Hour + 16*time.Minute
	for _, row := range []struct {
		story, spec string
		change      func(*WebhookPolicy)
		want        []LifetimeProblem // with a part of the message
	}{
		{"the defaults", "30 3 * * *", func(*WebhookPolicy) {}, nil},
		{"weekly", "30 3 * * TUE", func(w *WebhookPolicy) { w.Leaf.RenewBefore = 15 * day }, nil},
		{"no time to repair", "30 3 * * *", func(w *WebhookPolicy) { w.Leaf.RenewBefore = 12 * time.Hour }, []LifetimeProblem{
			{"webhooks.renewBefore", "12h is less than repair + 2 × projection + 2 × the 5m that clocks may differ (12h + 2 × 3m + 2 × 5m); it must be at least 12h16m", floor}}},
		{"exactly the floor", "30 3 * * *", func(w *WebhookPolicy) { w.Leaf.RenewBefore = floor }, nil},
		{"monthly is too seldom", "30 3 1 * *", func(*WebhookPolicy) {}, []LifetimeProblem{
			{"webhooks.lifetime", "until renewBefore, but the second firing of \"30 3 1 * *\" may be 62d30m away", 77*day + 40*time.Minute}}},
		{"a certificate could outlive its CA", "30 3 * * *", func(w *WebhookPolicy) { w.CA.RenewBefore = 20 * day }, []LifetimeProblem{
			{"webhooks.caRenewBefore", "20d is less than the lifetime of the certificates under the CA, 30d: one could outlive it; it must be at least 30d", 30 * day}}},
		{"a CA that is always due", "30 3 * * *", func(w *WebhookPolicy) { w.CA.Lifetime = 180 * day }, []LifetimeProblem{
			{"webhooks.caLifetime", "180d leaves nothing beside caRenewBefore 180d and 1h", 182*day + 90*time.Minute}}},
		{"a CA with one firing", "30 3 * * *", func(w *WebhookPolicy) { w.CA.Lifetime = 181*day + time.Hour }, []LifetimeProblem{
			{"webhooks.caLifetime", "leaves 24h until caRenewBefore, but the second firing", 182*day + 90*time.Minute}}},
		{"what follows from a longer lifetime is told at once", "30 3 1 */6 *", func(*WebhookPolicy) {}, []LifetimeProblem{
			{"webhooks.lifetime", "may be 366d30m away", 381*day + 40*time.Minute},
			{"webhooks.caRenewBefore", "381d40m: one could outlive it", 381*day + 40*time.Minute},
			{"webhooks.caLifetime", "until caRenewBefore", 747*day + 130*time.Minute}}},
		{"a schedule that never fires is told once", "30 3 * * *", func(w *WebhookPolicy) { w.Leaf.Schedule, w.CA.Schedule = Schedule{}, Schedule{} }, []LifetimeProblem{
			{"webhooks.schedule", "never fires", 0}}},
		{"webhooks that are left alone", "30 3 1 1 *", func(w *WebhookPolicy) { w.Specs = nil }, nil},
	} {
		t.Run(row.story, func(t *testing.T) {
			p := webhookPolicyOf(t, row.spec, "UTC")
			row.change(&p.Webhooks)
			got := p.CheckLifetimes(from)
			if len(got) != len(row.want) {
				t.Fatalf("got %+v", got)
			}
			for i, want := range row.want {
				if got[i].Field != want.Field || got[i].Smallest != want.Smallest || !strings.Contains(got[i].Message, want.Message) {
					t.Errorf("got  %+v\nwant %+v", got[i], want)
				}
			}
		})
	}
}

func TestFollowingEachMessageIsEnoughForWebhooks(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	for range 30 {
		p := webhookPolicyOf(t, "30 3 * * *", "UTC")
		leaf, ca := randomIssuerPolicy(t, random).Issuer, randomIssuerPolicy(t, random).Issuer
		ca.Schedule, ca.Spread = leaf.Schedule, leaf.Spread
		p.Webhooks.Leaf, p.Webhooks.CA = leaf, ca
		w := &p.Webhooks
		fields := map[string]*time.Duration{"webhooks.lifetime": &w.Leaf.Lifetime, "webhooks.renewBefore": &w.Leaf.RenewBefore,
			"webhooks.caLifetime": &w.CA.Lifetime, "webhooks.caRenewBefore": &w.CA.RenewBefore}
		named := map[string]bool{}
		for _, problem := range p.CheckLifetimes(from) {
			*fields[problem.Field], named[problem.Field] = problem.Smallest, true
		}
		if problems := p.CheckLifetimes(from); len(problems) > 0 {
			t.Fatalf("after following every message: %+v", problems)
		}
		for field := range named {
			*fields[field] -= time.Second
			if problems := p.CheckLifetimes(from); len(problems) == 0 {
				t.Errorf("%s: a second less passes, too", field)
			}
			*fields[field] += time.Second
		}
	}
}

func TestCheckTrustLifetimes(t *testing.T) {
	const day = 24 * time.Hour
	trust := TrustPolicy{Lifetime: 3650 * day, RenewBefore: 730 * day, Backdate: time.Hour}
	if problems := trust.CheckLifetimes(7 * day); len(problems) > 0 {
		t.Errorf("the defaults: %v", problems)
	}
	short := TrustPolicy{Lifetime: 100 * day, RenewBefore: 30 * day, Backdate: time.Hour}
	problems := short.CheckLifetimes(90 * day)
	if len(problems) != 2 || problems[0].Smallest != 90*day || problems[1].Smallest != 180*day+time.Hour {
		t.Errorf("an anchor hardly longer than its issuers: %+v", problems)
	}
	short.RenewBefore, short.Lifetime = problems[0].Smallest, problems[1].Smallest
	if problems = short.CheckLifetimes(90 * day); len(problems) > 0 {
		t.Errorf("after both were mended: %v", problems)
	}
}

func randomIssuerPolicy(t testing.TB, random *rand.Rand) Policy {
	pick := func(specs ...string) string { return specs[random.IntN(len(specs))] }
	p := issuerPolicyOf(t, pick("0 3 * * *", "30 2 * * *", "0 0 * * *", "0 3 * * TUE", "0 3 1 * *", "0 1,13 * * *", "30 2 * * SUN",
		"0 3 31 * *", "*/40 1-3 * * SAT", "17 4 15 */3 *", "0 0 1 1 *", "0 */6 * * *"),
		pick("UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "America/Nuuk", "America/Santiago", "Africa/Casablanca"))
	p.Issuer.Spread = time.Duration(random.IntN(1801)) * time.Second
	p.Issuer.Backdate = time.Duration(random.IntN(3600)) * time.Second
	p.Issuer.RenewBefore = time.Duration(random.IntN(100*3600)) * time.Second
	p.Issuer.Lifetime = time.Duration(random.IntN(300*3600)) * time.Second
	return p
}

func TestSmallestIsTheSmallest(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	for range 30 {
		p := randomIssuerPolicy(t, random)
		for _, problem := range p.CheckLifetimes(from) {
			switch problem.Field {
			case "issuer.renewBefore":
				p.Issuer.RenewBefore = problem.Smallest
			case "issuer.lifetime":
				p.Issuer.Lifetime = problem.Smallest
			}
		}
		if problems := p.CheckLifetimes(from); len(problems) > 0 {
			t.Fatalf("after following every message: %+v", problems)
		}
		gaps, _ := p.Issuer.Schedule.LargestTwoGaps(from)
		p.Issuer.Lifetime = p.Issuer.RenewBefore + p.Issuer.Backdate + gaps + min(p.Issuer.Spread, gaps/10) - time.Second
		if problems := p.CheckLifetimes(from); len(problems) != 1 || problems[0].Smallest != p.Issuer.Lifetime+time.Second {
			t.Fatalf("a second less: %+v", problems)
		}
	}
}

// Ten years in which each second firing finds certd down: an accepted policy
// still renews each issuer at a firing, without falling back on the floor.
func TestEveryIssuerIsRenewedWhenEachSecondFiringIsMissed(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	from := rfc3339(t, "2026-11-24T10:20:23Z")
	renewals := 0
	for round := range 16 {
		p := randomIssuerPolicy(t, random)
		for _, problem := range p.CheckLifetimes(from) {
			switch problem.Field {
			case "issuer.renewBefore":
				p.Issuer.RenewBefore = problem.Smallest
			case "issuer.lifetime":
				p.Issuer.Lifetime = problem.Smallest + time.Duration(random.IntN(2))*time.Duration(random.IntN(1000))*time.Hour
			}
		}
		p.Issuer.EveryFiring = round%3 == 0
		issue := func(at time.Time) RenewalDates {
			renewals++
			return p.Issuer.Dates(p.Cluster, at, at.Add(p.Issuer.Lifetime-p.Issuer.Backdate), p.Floor(0, 0))
		}
		dates := issue(from)
		missed := round%2 == 0
		// Signing may also happen between firings, on request.
		request := from.Add(time.Duration(random.IntN(5000)) * time.Hour)
		for at := p.Issuer.NextFiring(p.Cluster, from); at.Before(from.AddDate(10, 0, 0)); at = p.Issuer.NextFiring(p.Cluster, at) {
			if at.After(dates.MustRenewBy) {
				t.Fatalf("%q in %s, %+v: not renewed by %s", p.Issuer.Schedule, p.Issuer.Schedule.Zone(), p.Issuer, dates.MustRenewBy)
			}
			if dates.RenewAt.After(dates.MustRenewBy) || dates.NextRun.After(dates.RenewAt) {
				t.Fatalf("out of order: %+v", dates)
			}
			if missed = !missed; !missed && !at.Before(dates.NextRun) {
				dates = issue(at)
			}
			if request.Before(p.Issuer.NextFiring(p.Cluster, at)) && request.After(at) {
				dates = issue(request)
			}
		}
	}
	if renewals < 300 {
		t.Errorf("only %d renewals", renewals)
	}
}

func TestDates(t *testing.T) {
	for _, row := range []struct {
		story, spec                   string
		everyFiring                   bool
		signedAt, notAfter            string
		floor                         time.Duration
		mustRenewBy, renewAt, nextRun string
	}{
		{"the last firing but one before the floor", "0 3 * * *", false,
			"2026-11-24T03:00:00Z", "2026-12-01T02:50:00Z", 0,
			"2026-11-27T14:50:00Z", "2026-11-26T03:00:00Z", "2026-11-26T03:00:00Z"},
		{"every firing renews", "0 3 * * *", true,
			"2026-11-24T03:00:00Z", "2026-12-01T02:50:00Z", 0,
			"2026-11-27T14:50:00Z", "2026-11-26T03:00:00Z", "2026-11-25T03:00:00Z"},
		{"leaves live longer than the file says", "0 3 * * *", false,
			"2026-11-24T03:00:00Z", "2026-12-01T02:50:00Z", 108 * time.Hour,
			"2026-11-26T14:50:00Z", "2026-11-25T03:00:00Z", "2026-11-25T03:00:00Z"},
		{"one firing is left", "0 3 * * *", false,
			"2026-11-26T04:00:00Z", "2026-12-01T02:50:00Z", 0,
			"2026-11-27T14:50:00Z", "2026-11-27T03:00:00Z", "2026-11-27T03:00:00Z"},
		{"no firing is left", "0 3 * * TUE", false,
			"2026-11-24T04:00:00Z", "2026-12-01T02:50:00Z", 0,
			"2026-11-27T14:50:00Z", "2026-11-27T14:50:00Z", "2026-11-27T14:50:00Z"},
		{"a firing at the floor counts", "0 3 * * *", false,
			"2026-11-24T04:00:00Z", "2026-11-29T15:00:00Z", 0,
			"2026-11-26T03:00:00Z", "2026-11-25T03:00:00Z", "2026-11-25T03:00:00Z"},
		{"the floor has passed already", "0 3 * * *", false,
			"2026-11-29T04:00:00Z", "2026-12-01T02:50:00Z", 0,
			"2026-11-27T14:50:00Z", "2026-11-29T04:00:00Z", "2026-11-29T04:00:00Z"},
	} {
		t.Run(row.story, func(t *testing.T) {
			p := issuerPolicyOf(t, row.spec, "UTC").Issuer
			p.Spread, p.EveryFiring = 0, row.everyFiring
			got := p.Dates("east", rfc3339(t, row.signedAt), rfc3339(t, row.notAfter), row.floor)
			want := RenewalDates{rfc3339(t, row.mustRenewBy), rfc3339(t, row.renewAt), rfc3339(t, row.nextRun)}
			if got != want {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 45 * time.Second: "45s", 90 * time.Second: "1m30s", 24 * time.Hour: "24h", 108 * time.Hour: "4d12h", 84 * time.Hour: "84h",
		132*time.Hour + 30*time.Minute: "5d12h30m", 90 * 24 * time.Hour: "90d", 3650 * 24 * time.Hour: "10y",
		366 * 24 * time.Hour: "366d", -time.Minute: "-1m",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func BenchmarkDates(b *testing.B) {
	p := issuerPolicyOf(b, "* * * * *", "Europe/Berlin").Issuer
	at := rfc3339(b, "2026-11-24T10:20:23Z")
	for b.Loop() {
		p.Dates("east", at, at.Add(90*24*time.Hour), 0)
	}
}
