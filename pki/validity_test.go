package pki

import (
	"bytes"
	"encoding/asn1"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// From 2050 on times are encoded in another form (RFC 5280 §4.1.2.5): what is
// read back from the DER must not notice.
func TestLifetimesAcrossTheEncodings(t *testing.T) {
	t.Parallel()
	midnight := time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	key, a := must(GenerateKey()), newKey("P-256")
	for _, row := range []struct {
		name       string
		now        time.Time
		lifetime   time.Duration
		begin, end int // tags in the DER: 23 UTCTime, 24 GeneralizedTime
	}{
		{"all of it before 2050", midnight.Add(-48 * time.Hour), 24 * time.Hour, asn1.TagUTCTime, asn1.TagUTCTime},
		{"it ends in the last second of 2049", midnight.Add(-24 * time.Hour), 24 * time.Hour, asn1.TagUTCTime, asn1.TagUTCTime},
		{"it ends in the first second of 2050", midnight.Add(-24 * time.Hour), 24*time.Hour + time.Second, asn1.TagUTCTime, asn1.TagGeneralizedTime},
		{"it begins with 2050", midnight, 24 * time.Hour, asn1.TagGeneralizedTime, asn1.TagGeneralizedTime},
		{"a fraction of a second is cut", midnight.Add(-1), 24*time.Hour + 999*time.Millisecond, asn1.TagUTCTime, asn1.TagGeneralizedTime},
		{"another time zone is turned into UTC", midnight.Add(-time.Second).In(time.FixedZone("ahead", 14*3600)), 24 * time.Hour, asn1.TagUTCTime, asn1.TagGeneralizedTime},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			anchor, err := SelfSignAnchor(row.now, AnchorProfile{CommonName: "root", Lifetime: row.lifetime}, a)
			if err != nil {
				t.Fatal(err)
			}
			template, err := NewIssuerTemplate(row.now, IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: row.lifetime}, anchor)
			if err != nil {
				t.Fatal(err)
			}
			i, err := SignIssuer(template, anchor, key.PublicKey(), a)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []*ca{{anchor, nil}, {i, nil}} {
				if begin := row.now.Truncate(time.Second); !c.NotBefore.Equal(begin) || !c.NotAfter.Equal(begin.Add(row.lifetime.Truncate(time.Second)-time.Second)) {
					t.Errorf("%s: from %s to %s", c.Subject, stamp(c.NotBefore), stamp(c.NotAfter))
				}
				if got := timeTags(t, c.RawTBSCertificate); got != [2]int{row.begin, row.end} {
					t.Errorf("%s: its times have the tags %v, want %d and %d", c.Subject, got, row.begin, row.end)
				}
			}
		})
	}
}

// timeTags are the ASN.1 tags of both ends of validity.
func timeTags(t *testing.T, tbs []byte) (tags [2]int) {
	t.Helper()
	var c struct {
		Version                   int `asn1:"explicit,tag:0"`
		Serial, Algorithm, Issuer asn1.RawValue
		Validity                  struct{ NotBefore, NotAfter asn1.RawValue }
		Subject, Key              asn1.RawValue
		Extensions                asn1.RawValue `asn1:"optional,explicit,tag:3"`
	}
	if _, err := asn1.Unmarshal(tbs, &c); err != nil {
		t.Fatal(err)
	}
	for i, v := range []asn1.RawValue{c.Validity.NotBefore, c.Validity.NotAfter} {
		if tags[i] = v.Tag; !bytes.HasSuffix(v.Bytes, []byte("Z")) {
			t.Errorf("time %q is not in UTC", v.Bytes)
		}
	}
	return tags
}

// Whatever ends are taken, the new one is a minute from each, no later than
// asked, no later than the anchor's, and no earlier than it has to be: a
// minute and a second before the free second after it, there is a taken end.
func TestEndsOfIssuersStayApart(t *testing.T) {
	t.Parallel()
	a := root(valid(days(-9), days(9)))
	random := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		p := issuerProfile()
		p.Lifetime = time.Duration(1+random.IntN(12*24)) * time.Hour
		_, asked := validity(noon, p.Lifetime, p.Backdate)
		if asked.After(a.NotAfter) {
			asked = a.NotAfter
		}
		for range random.IntN(12) {
			p.NotAfterTaken = append(p.NotAfterTaken, asked.Add(time.Duration(random.Int64N(int64(12*time.Minute)))-8*time.Minute))
		}
		c, err := NewIssuerTemplate(noon, p, a.Certificate)
		if err != nil {
			t.Fatalf("lifetime %s, taken %v: %v", p.Lifetime, p.NotAfterTaken, err)
		}
		near := func(end time.Time) bool {
			return slices.ContainsFunc(p.NotAfterTaken, func(taken time.Time) bool { return taken.Sub(end).Abs() < time.Minute })
		}
		if near(c.NotAfter) || c.NotAfter.After(asked) || c.NotAfter.Nanosecond() != 0 {
			t.Fatalf("it ends at %s, asked %s, taken %v", c.NotAfter, asked, p.NotAfterTaken)
		}
		for later := c.NotAfter.Add(2 * time.Second); !later.After(asked); later = later.Add(time.Second) {
			if !near(later) {
				t.Fatalf("it ends at %s, though %s was free; taken %v", c.NotAfter, later, p.NotAfterTaken)
			}
		}
	}
}
