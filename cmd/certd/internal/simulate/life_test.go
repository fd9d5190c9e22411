package simulate

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"certd.internal/rotation"
)

const day = 24 * time.Hour

var begin = time.Date(2027, time.January, 1, 12, 0, 0, 0, time.UTC)

// usual is what the documentation gives by default.
func usual(t testing.TB, names ...string) rotation.FleetPolicy {
	t.Helper()
	schedule := func(text string) rotation.Schedule {
		s, err := rotation.ParseSchedule(text, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	p := rotation.FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Trust: rotation.TrustPolicy{Lifetime: 3650 * day, Backdate: 10 * time.Minute, RenewBefore: 730 * day, Renews: true}}
	for _, name := range names {
		p.Clusters = append(p.Clusters, rotation.Policy{Cluster: name, Namespace: "linkerd", CreateNamespace: true, TrustDomain: "cluster.local", LeafLifetime: day, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
			Issuer: rotation.RenewalPolicy{Lifetime: 7 * day, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule("0 3 * * *"), Spread: 30 * time.Minute},
			Webhooks: rotation.WebhookPolicy{Specs: rotation.LinkerdWebhooks(), Settle: 30 * time.Second, Projection: 3 * time.Minute, ProbeEvery: 5 * time.Minute,
				Leaf: rotation.RenewalPolicy{Lifetime: 30 * day, RenewBefore: 15 * day, Backdate: 10 * time.Minute, Schedule: schedule("30 3 * * *"), Spread: 30 * time.Minute},
				CA:   rotation.RenewalPolicy{Lifetime: 730 * day, RenewBefore: 180 * day, Backdate: time.Hour, Schedule: schedule("30 3 * * *"), Spread: 30 * time.Minute}}})
	}
	return p
}

// slow is a policy of long lives: ten years of it are gone through in seconds.
func slow(t testing.TB, names ...string) rotation.FleetPolicy {
	p := usual(t, names...)
	for i := range p.Clusters {
		p.Clusters[i].Issuer.Lifetime, p.Clusters[i].Issuer.RenewBefore = 365*day, 61*day
		p.Clusters[i].Webhooks.Leaf.Lifetime, p.Clusters[i].Webhooks.Leaf.RenewBefore = 365*day, 61*day
	}
	return p
}

func lived(t *testing.T, o Options) Life {
	t.Helper()
	life, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return life
}

func sound(t *testing.T, l Life) {
	t.Helper()
	for _, v := range l.Violations {
		t.Errorf("%s in %q at %s: %s", v.Promise, v.Cluster, v.First, v.Text)
	}
}

// A quarter of a year by default: renewals come when they should, nothing is below its
// floor, and all that was signed is accounted for.
func TestAQuarterOfAYear(t *testing.T) {
	l := lived(t, Options{Policy: usual(t, "east", "west"), From: begin, Until: begin.Add(90 * day)})
	sound(t, l)
	for _, c := range l.Clusters {
		// 7 days, of which three and a half are to be left and one firing may be missed.
		if c.Issuer.Count < 30 || c.Issuer.Count > 46 || c.Issuer.LeastLeftSeconds < c.Issuer.FloorSeconds {
			t.Errorf("%s: issuers %+v", c.Name, c.Issuer)
		}
		if c.Webhooks.Count < 3*5 || c.Webhooks.Count > 3*7 || c.Webhooks.LeastLeftSeconds < c.Webhooks.FloorSeconds {
			t.Errorf("%s: webhooks %+v", c.Name, c.Webhooks)
		}
		if c.WebhookCA.Count != 0 || time.Duration(c.WebhookCA.LeastLeftSeconds)*time.Second < 600*day {
			t.Errorf("%s: webhook CA %+v", c.Name, c.WebhookCA)
		}
	}
	if len(l.Findings) > 0 {
		t.Errorf("findings %+v", l.Findings)
	}
	// A path is tried when a day has passed without a signature.
	if s := l.Signatures; s.Issuers != l.Clusters[0].Issuer.Count+l.Clusters[1].Issuer.Count+2 || s.CAs != 3 || s.Canaries > 90 || s.Canaries == 0 {
		t.Errorf("signatures %+v", s)
	}
}

// Ten years of long lives: the trust anchor gets new dates in time, webhook CAs are
// replaced, and no handshake and no admission fails.
func TestTenYearsWithANewAnchorCertificate(t *testing.T) {
	l := lived(t, Options{Policy: slow(t, "east"), From: begin, Until: begin.Add(3650 * day)})
	sound(t, l)
	if len(l.Anchors) != 2 || l.Anchors[0].ID != l.Anchors[1].ID || !l.Anchors[1].NotAfter.After(l.Until) {
		t.Errorf("anchors %+v", l.Anchors)
	}
	c := l.Clusters[0]
	if c.WebhookCA.Count < 3*6 || c.WebhookCA.LeastLeftSeconds < c.WebhookCA.FloorSeconds {
		t.Errorf("webhook CAs %+v", c.WebhookCA)
	}
}

// What the configuration says an outage may take, it takes; a longer one shows what ends,
// and that all is made good afterwards.
func TestWithoutVault(t *testing.T) {
	for _, row := range []struct {
		away  time.Duration
		holds bool
	}{{84 * time.Hour, true}, {12 * day, false}} {
		l := lived(t, Options{Policy: usual(t, "east"), From: begin, Until: begin.Add(40 * day), Outages: []Outage{{What: Vault, For: row.away}}})
		if len(l.Outages) != 1 || l.Outages[0].To.Sub(l.Outages[0].From) != row.away {
			t.Fatalf("outages %+v", l.Outages)
		}
		if row.holds != (len(l.Violations) == 0) {
			t.Errorf("away for %s: %+v", row.away, l.Violations)
		}
		said := map[string]Episode{}
		for _, f := range l.Findings {
			said[f.Finding] = f
			if f.To.IsZero() {
				t.Errorf("away for %s: %s stands at the end: %s", row.away, f.Finding, f.Message)
			}
		}
		if f, ok := said["KeysUnavailable"]; !ok || f.From.Sub(l.Outages[0].From) > 10*time.Minute {
			t.Errorf("away for %s: said is %+v", row.away, said)
		}
		if f, ok := said["IssuerExpired"]; ok == row.holds || ok && f.Worst != rotation.StateCritical {
			t.Errorf("away for %s: IssuerExpired is %+v", row.away, f)
		}
	}
}

// certd itself is away: what it may miss it makes up for at once.
func TestWithoutCertd(t *testing.T) {
	l := lived(t, Options{Policy: usual(t, "east"), From: begin, Until: begin.Add(30 * day), Outages: []Outage{{What: Certd, For: 4 * day}, {What: Certd, For: 9 * day}}})
	if len(l.Outages) != 2 || l.Outages[1].From.Before(l.Outages[0].To.Add(day)) {
		t.Fatalf("outages %+v", l.Outages)
	}
	first := time.Time{}
	for _, v := range l.Violations {
		if first.IsZero() || v.First.Before(first) {
			first = v.First
		}
	}
	if first.Before(l.Outages[1].From) {
		t.Errorf("four days were too many: %+v", l.Violations)
	}
	back := false
	for _, e := range l.Events {
		back = back || e.Step == rotation.StepIssuer && !e.At.Before(l.Outages[1].To) && e.At.Sub(l.Outages[1].To) < time.Minute
	}
	if !back {
		t.Error("no issuer was made in the minute in which certd was back")
	}
}

// The same seed is the same life, to the word.
func TestTheSameSeedIsTheSameLife(t *testing.T) {
	var docs []string
	for range 2 {
		l := lived(t, Options{Policy: usual(t, "east", "west"), From: begin, Until: begin.Add(20 * day), Outages: []Outage{{What: Vault, For: 5 * day}}, Seed: 7})
		l.Anchors = nil
		for i := range l.Events {
			l.Events[i].Why = strings.Join(strings.Fields(l.Events[i].Why), " ")
		}
		b, err := json.MarshalIndent(l, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(b))
	}
	if docs[0] != docs[1] {
		t.Errorf("two lives of one seed differ:\n%s\n\n%s", docs[0], docs[1])
	}
}

// A drawing is well-formed XML, whatever a cluster is called.
func TestDrawings(t *testing.T) {
	l := lived(t, Options{Policy: usual(t, "a<b>&\"c"), From: begin, Until: begin.Add(20 * day), Outages: []Outage{{What: Certd, For: 8 * day}}})
	var b bytes.Buffer
	if err := SVG(&b, l); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "line" {
			lines++
		}
	}
	if lines < l.Clusters[0].Issuer.Count {
		t.Errorf("%d lines for %d renewals", lines, l.Clusters[0].Issuer.Count)
	}
}
