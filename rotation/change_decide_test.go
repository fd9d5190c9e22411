package rotation

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// turn is a cluster in the middle of a change from g1 to g2. The zero times are
// long ago; letters are anchors: A is g1's, B g2's.
type turn struct {
	stage    Stage
	bundle   string // "A", "AB" or "B"
	bundleAt time.Time
	rival    time.Time // when somebody else has written the bundle as it is there; zero: nobody has
	issuer   string    // in the order of the file
	issuerAt time.Time // since when there is such a one
	twoAt    time.Time // when there was one with the same two, g1's first; zero: nobody remembers
	oneAt    time.Time // when there was one with a certificate less; zero: nobody remembers
	over     string    // what the issuer took the place of; "": what there was before
	putBack  bool      // an older issuer is there, which somebody has put back
	without  bool      // a person has gone on without the cluster
	started  time.Time // of the replicas
	behind   bool      // a replica has an older issuer
	unseen   bool      // nothing is seen of what the replicas have
	pods     map[string]int
	countAt  time.Time
	held     bool
	canaryAt time.Time
	leaf     time.Duration // that linkerd-identity is told to let leaves live
	second   bool          // the cluster is not the first of the fleet
	proxies  string        // their version
	ownRoots bool          // linkerd-identity reads no ConfigMap
	back     bool          // it was turned around: from g2 to g1
	skew     time.Duration // the cluster's clock minus certd's
	place    time.Time     // when another cluster took the place of the one that was there
	going    time.Time     // a third replica, which started long ago and has an older issuer, is to be gone by then; zero: there is none
}

func (c turn) bench(t *testing.T, now time.Time) *bench {
	t.Helper()
	b := newBench(t)
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	next, err := pki.SelfSignAnchor(start.Add(-time.Hour), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local 2026-2", Lifetime: 3650 * 24 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	b.fleet.Anchors = append(b.fleet.Anchors, Anchor{ID: "g2", Key: "acme-anchor-2", Certificate: next, CreatedAt: start})
	b.fleet.Change = &Change{From: "g1", To: "g2", Stage: c.stage, Held: c.held, StartedAt: start, StageAt: start, First: "eu", CanaryAt: c.canaryAt}
	if c.back {
		b.fleet.Change.From, b.fleet.Change.To, b.fleet.Change.Back = "g2", "g1", true
	}
	if c.second {
		b.fleet.Policy.Clusters = append([]Policy{{Cluster: "ahead"}}, b.fleet.Policy.Clusters...)
		b.fleet.Change.First = "ahead"
	}
	set := func(letters string) pki.Bundle {
		var p []*Anchor
		for _, l := range letters {
			p = append(p, &b.fleet.Anchors[l-'A'])
		}
		s, err := b.fleet.with(b.view, p...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The issuer, signed by whom the letters say.
	priv, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := []pki.PrivateKey{b.key, key}
	profile := pki.IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: 168 * time.Hour, Backdate: 10 * time.Minute}
	var data map[string][]byte
	var ids []string
	var certs []string
	for _, l := range c.issuer {
		a := b.fleet.Anchors[l-'A']
		template, err := pki.NewIssuerTemplate(start, profile, a.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pki.SignIssuer(template, a.Certificate, priv.PublicKey(), keys[l-'A'])
		if err != nil {
			t.Fatal(err)
		}
		ids, certs = append(ids, a.ID), append(certs, string(pki.EncodeCertificates(cert)))
	}
	beside := set("AB")
	if len(c.issuer) == 1 {
		beside = set(c.bundle)
	}
	text := []byte(strings.Join(certs, ""))
	data = map[string][]byte{"tls.crt": text, "crt.pem": text, "tls.key": priv.PKCS8PEM(), "key.pem": priv.PKCS8PEM(), "ca.crt": beside.PEM()}
	o := b.view.Observed
	o.ClockSkew = c.skew
	o.At, o.Version, o.BundleText, o.BundleWrittenAt, o.IssuerWrittenAt = now, "v1", set(c.bundle).PEM(), c.bundleAt, c.issuerAt
	o.IssuerFacts = pki.ReadIssuer(data, pki.Identity{Namespace: "linkerd", TrustDomain: "cluster.local"}, now)
	crt := o.IssuerFacts.Chain[0]
	o.Issuer.Marks.Serial = pki.Serial(crt)
	rec := CertificateRecord{Cluster: "eu", Kind: "issuer", Serial: pki.Serial(crt), Anchor: ids[0], NotAfter: crt.NotAfter, SignedAt: c.issuerAt, DeliveredAt: c.issuerAt}
	if len(ids) > 1 {
		rec.Second = ids[1]
	}
	if rec.DeliveredAt.IsZero() {
		rec.SignedAt, rec.DeliveredAt = start, start
	}
	older := "01"
	if !c.twoAt.IsZero() {
		older = "02"
	}
	rec.Over = cmp.Or(c.over, older)
	b.view.Certificates = []CertificateRecord{rec}
	if c.putBack {
		b.view.Certificates = slices.Insert(b.view.Certificates, 0, CertificateRecord{Cluster: "eu", Kind: "issuer", Serial: "03", Anchor: ids[0], Second: rec.Second, NotAfter: crt.NotAfter.Add(time.Minute), SignedAt: c.issuerAt, DeliveredAt: c.issuerAt})
		o.IssuerWrittenAt = now
	}
	b.view.Record.TargetSince = c.place
	if c.without {
		b.fleet.Change.Without = []string{"eu"}
	}
	if !c.twoAt.IsZero() {
		b.view.Certificates = append(b.view.Certificates, CertificateRecord{Cluster: "eu", Kind: "issuer", Serial: "02", Over: "01", Anchor: "g1", Second: "g2", NotAfter: crt.NotAfter.Add(-time.Minute), SignedAt: c.twoAt, DeliveredAt: c.twoAt})
	}
	if !c.oneAt.IsZero() {
		b.view.Certificates = append(b.view.Certificates, CertificateRecord{Cluster: "eu", Kind: "issuer", Serial: "01", Anchor: "g1", NotAfter: crt.NotAfter.Add(-time.Hour), SignedAt: c.oneAt, DeliveredAt: c.oneAt})
	}
	if !c.rival.IsZero() {
		o.Bundle.Writers = []Writer{{"kubectl-edit", c.rival}}
	}
	o.Identity = &Identity{Deployed: true, LeafLifetime: c.leaf, OwnRoots: c.ownRoots}
	for i := range 2 {
		r := Replica{Pod: []string{"one", "two"}[i], Started: c.started, NotAfter: crt.NotAfter, Evidence: "metric", At: now}
		if c.behind && i == 1 {
			r.NotAfter = crt.NotAfter.Add(-time.Hour)
		}
		if c.unseen {
			r.NotAfter, r.Evidence = time.Time{}, "no metric"
		}
		o.Identity.Replicas = append(o.Identity.Replicas, r)
	}
	if !c.going.IsZero() {
		o.Identity.Replicas = append([]Replica{{Pod: "three", NotAfter: crt.NotAfter.Add(-time.Hour), Evidence: "metric", At: now, GoneBy: c.going}}, o.Identity.Replicas...)
	}
	b.view.Proxies = Proxies{At: c.countAt}
	for letters, n := range c.pods {
		b.view.Proxies.Sets = append(b.view.Proxies.Sets, ProxySet{Anchors: set(letters), Pods: n, Owners: []ProxyOwner{{Namespace: "app", Kind: "Deployment", Name: "web", Pods: n}}})
	}
	if c.proxies != "" {
		b.view.Proxies.Versions = []ProxyVersion{{Version: c.proxies, Pods: 2, Owners: []ProxyOwner{{Namespace: "app", Kind: "Deployment", Name: "web", Pods: 2}}}}
	}
	return b
}

// The order of a change, one cluster at a moment: what it does next, or what
// keeps it. A row in which a step came sooner would be an outage.
func TestDecideInAChange(t *testing.T) {
	now := start.Add(40 * time.Hour)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	day, moment := 25*time.Hour, time.Minute
	fine := map[string]int{"B": 3}
	for _, row := range []struct {
		sentence string
		turn
		step   Step
		wanted string // the bundle after a bundle step, the order after one that signs
		waits  string // part of what keeps it from the end of the stage; "": it is there
	}{
		{"an issuer under the old anchor alone gets a second certificate", turn{stage: StageBridge, bundle: "A", issuer: "A", countAt: now}, StepIssuer, "AB", "two certificates"},
		{"an issuer with two is not everywhere yet", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(moment)}, "", "", "reach every node"},
		{"an issuer with two is used by one replica alone", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), behind: true}, "", "", "two is to load the issuer"},
		{"an issuer with two is used by each", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment)}, "", "", ""},
		{"what the replicas use is not seen, and they are not young enough", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), started: ago(4 * moment), unseen: true}, "", "", "one is to load"},
		{"what they use is not seen for long: a restart tells", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(10 * moment), started: ago(10 * moment), unseen: true}, StepIdentityRestart, "", "cannot be seen"},
		{"what they use is not seen, and there was nothing else when they started", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(10 * moment), started: ago(2 * moment), unseen: true}, "", "", ""},

		{"every leaf has both: the bundle gets the new anchor", turn{stage: StageSpread, bundle: "A", issuer: "AB", issuerAt: ago(day)}, StepBundle, "AB", "both anchors"},
		{"a cluster that comes late gets a second certificate first", turn{stage: StageSpread, bundle: "A", issuer: "A", countAt: now}, StepIssuer, "AB", "both anchors"},
		{"the bundle has not reached every node", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(moment), issuer: "AB", issuerAt: ago(day)}, "", "", "start anew"},
		{"nor by the clock of a cluster that is behind", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(4 * moment), issuer: "AB", issuerAt: ago(day), skew: -2 * moment}, "", "", "start anew"},
		{"nor one that somebody else has written", turn{stage: StageSpread, bundle: "AB", rival: ago(moment), issuer: "AB", issuerAt: ago(day)}, "", "", "start anew"},
		{"identity started before that one had reached it", turn{stage: StageSpread, bundle: "AB", rival: ago(4 * moment), issuer: "AB", issuerAt: ago(day), started: ago(2 * moment)}, StepIdentityRestart, "", "start anew"},
		{"identity started before the bundle had reached it", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(4 * moment), issuer: "AB", issuerAt: ago(day), started: ago(2 * moment)}, StepIdentityRestart, "", "start anew"},
		{"identity knows both: the new one's certificate comes first", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(9 * moment), issuer: "AB", issuerAt: ago(day), started: ago(moment)}, StepIssuer, "BA", "start anew"},
		{"the turned issuer is not everywhere yet", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(9 * moment), issuer: "BA", issuerAt: ago(moment), started: ago(5 * moment)}, "", "", "each replica"},
		{"one replica has not loaded it", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(4 * moment), started: ago(9 * moment), behind: true}, "", "", "each replica"},
		{"each has loaded it, and leaves with one certificate live on", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(4 * moment), oneAt: ago(5 * moment), started: ago(9 * moment)}, "", "", "each replica"},
		{"each has loaded it, for long: the old anchor leaves the bundle", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(9 * moment)}, StepBundle, "B", "each replica"},
		{"each had two before the bridge was left", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(4 * moment), twoAt: start.Add(-moment), oneAt: start.Add(-day), started: ago(9 * moment)}, StepBundle, "B", "each replica"},
		{"each had, in the cluster that was there before", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(4 * moment), twoAt: start.Add(-moment), oneAt: start.Add(-day), started: ago(9 * moment), place: ago(5 * moment)}, "", "", "each replica"},
		{"another certd's was there in between", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(4 * moment), over: "99", twoAt: start.Add(-moment), oneAt: start.Add(-day), started: ago(9 * moment)}, "", "", "each replica"},
		{"somebody has put an older one back", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), putBack: true, started: ago(9 * moment)}, "", "", "each replica"},
		{"nobody has seen when it came to use two: it does since it knows both anchors", turn{stage: StageRestart, without: true, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day - time.Hour), twoAt: ago(day), oneAt: start, started: ago(day)}, "", "", "each replica"},
		{"nor of one that was not there at the bridge", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day - time.Hour), twoAt: ago(day), oneAt: start, started: ago(day)}, "", "", "each replica"},
		{"since then no leaf is left that has one", turn{stage: StageRestart, without: true, bundle: "AB", bundleAt: ago(day + time.Hour), issuer: "BA", issuerAt: ago(day), twoAt: ago(day + time.Hour), oneAt: start, started: ago(day)}, StepBundle, "B", "each replica"},
		{"identity lets leaves live for longer than is configured", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), oneAt: ago(day + moment), started: ago(9 * moment), leaf: 30 * time.Hour}, "", "", "each replica"},
		{"the bundle with the new anchor alone is to be known, too", turn{stage: StageSpread, bundle: "B", bundleAt: ago(4 * moment), issuer: "BA", issuerAt: ago(day), started: ago(9 * moment)}, StepIdentityRestart, "", "replaced"},
		{"it is", turn{stage: StageSpread, bundle: "B", bundleAt: ago(9 * moment), issuer: "BA", issuerAt: ago(day), started: ago(moment)}, "", "", ""},
		{"somebody put the old bundle back", turn{stage: StageSpread, bundle: "A", issuer: "BA", issuerAt: ago(day)}, StepBundle, "AB", "both anchors"},
		{"somebody put the old bundle back when issuers were under the new anchor alone", turn{stage: StageFinish, bundle: "A", issuer: "B", issuerAt: ago(day)}, StepBundle, "AB", "both anchors"},
		{"it is held before the bundle is touched", turn{stage: StageSpread, bundle: "A", issuer: "AB", issuerAt: ago(day), held: true}, "", "", "both anchors"},
		{"it is held before the order turns", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(9 * moment), issuer: "AB", issuerAt: ago(day), started: ago(moment), held: true}, "", "", "start anew"},
		{"it is held before the old anchor leaves", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(9 * moment), held: true}, "", "", "each replica"},

		{"pods hold the old anchor", turn{stage: StageRestart, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: map[string]int{"A": 1, "B": 2}}, "", "", "1 of 3 meshed pods"},
		{"pods hold both", turn{stage: StageRestart, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: map[string]int{"AB": 1, "B": 2}}, "", "", "1 of 3 meshed pods"},
		{"pods were counted before the bundle had reached every node", turn{stage: StageRestart, bundle: "B", bundleAt: ago(4 * moment), issuer: "BA", issuerAt: ago(day), started: now, countAt: ago(2 * moment), pods: fine}, "", "", "to be counted"},
		{"each pod holds the new anchor and no other", turn{stage: StageRestart, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, "", "", ""},

		{"the first cluster goes ahead", turn{stage: StageFinish, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, StepIssuer, "B", "g2 alone"},
		{"another waits for it", turn{stage: StageFinish, second: true, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, "", "", "goes ahead"},
		{"another waits until the first was good for as long as leaves live", turn{stage: StageFinish, second: true, canaryAt: ago(23 * time.Hour), bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, "", "", "goes ahead until"},
		{"then it follows", turn{stage: StageFinish, second: true, canaryAt: ago(day), bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, StepIssuer, "B", "g2 alone"},
		{"but not with a pod that holds the old anchor", turn{stage: StageFinish, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: map[string]int{"A": 1}}, "", "", "meshed pods"},
		{"nor while it is held", turn{stage: StageFinish, held: true, bundle: "B", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine}, "", "", ""},
		{"a pod turned up after all: the second certificate comes back", turn{stage: StageRestart, bundle: "B", bundleAt: ago(day), issuer: "B", issuerAt: ago(day), started: ago(moment), countAt: now, pods: map[string]int{"A": 1}}, StepIssuer, "BA", "meshed pods"},
		{"an issuer under the new anchor alone is in use", turn{stage: StageRetire, bundle: "B", bundleAt: ago(day), issuer: "B", issuerAt: ago(4 * moment), started: ago(moment), countAt: now, pods: fine}, "", "", ""},

		{"an issuer with two is used by each but one that is being deleted", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(9 * moment), going: now.Add(moment)}, "", "", "three is being deleted, and may sign"},
		{"for longer than it should take", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(9 * moment), going: ago(9 * moment)}, "", "", "if its node is lost for good: kubectl -n linkerd delete pod three --force"},
		{"beside it another has not loaded it: that one is waited for", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), behind: true, going: now.Add(moment)}, "", "", "two is to load the issuer"},
		{"identity knows both but for one that is being deleted", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(9 * moment), issuer: "AB", issuerAt: ago(day), started: ago(moment), going: now.Add(moment)}, "", "", "start anew"},
		{"beside it, another is to start anew", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(9 * moment), issuer: "AB", issuerAt: ago(day), started: ago(8 * moment), going: now.Add(moment)}, StepIdentityRestart, "", "start anew"},
		{"the old anchor stays in the bundle until it is gone", turn{stage: StageSpread, bundle: "AB", bundleAt: ago(day), issuer: "BA", issuerAt: ago(day), started: ago(9 * moment), going: now.Add(moment)}, "", "", "each replica"},
		{"and the stage does not end", turn{stage: StageSpread, bundle: "B", bundleAt: ago(9 * moment), issuer: "BA", issuerAt: ago(day), started: ago(moment), going: now.Add(moment)}, "", "", "three is being deleted"},

		{"proxies are older: no second certificate", turn{stage: StageBridge, bundle: "A", issuer: "A", countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.13.6"}, "", "", "of 2 of 3 meshed pods the proxy is older than 2.13.7"},
		{"of a cluster that comes late, too", turn{stage: StageSpread, bundle: "A", issuer: "A", countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.13.6"}, "", "", "app/Deployment web (stable-2.13.6)"},
		{"they turn up when there is one: the bridge is not left", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.12.4"}, "", "", "older than 2.13.7"},
		{"that is left again all the same", turn{stage: StageBridge, back: true, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.12.4"}, "", "", ""},
		{"where there was none, none is made on the way back", turn{stage: StageBridge, back: true, bundle: "A", issuer: "A", issuerAt: ago(day), countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.12.4"}, "", "", ""},
		{"who had turned gets the former anchor's certificate again, whatever proxies there are", turn{stage: StageBridge, back: true, bundle: "B", bundleAt: ago(day), issuer: "B", issuerAt: ago(day), started: ago(moment), countAt: now, pods: fine, proxies: "stable-2.12.4"}, StepIssuer, "BA", "two certificates"},
		{"but one is for a pod that would be cut off", turn{stage: StageRestart, bundle: "B", bundleAt: ago(day), issuer: "B", issuerAt: ago(day), started: ago(moment), countAt: now, pods: map[string]int{"A": 1}, proxies: "stable-2.12.4"}, StepIssuer, "BA", "meshed pods"},
		{"they were not counted since it began", turn{stage: StageBridge, bundle: "A", issuer: "A", countAt: start.Add(-moment), pods: map[string]int{"A": 3}}, "", "", "are to be counted"},
		{"they are new enough", turn{stage: StageBridge, bundle: "A", issuer: "A", countAt: now, pods: map[string]int{"A": 3}, proxies: "stable-2.13.7"}, StepIssuer, "AB", "two certificates"},
		{"Linkerd 2.10 is bridged", turn{stage: StageBridge, bundle: "A", issuer: "A", countAt: now, ownRoots: true}, StepIssuer, "AB", "two certificates"},
		{"and is there when it is", turn{stage: StageBridge, bundle: "A", issuer: "AB", issuerAt: ago(4 * moment), ownRoots: true}, "", "", ""},
		{"and goes no further", turn{stage: StageSpread, bundle: "A", issuer: "AB", issuerAt: ago(day), ownRoots: true}, "", "", "does not read ConfigMap"},
		{"but back", turn{stage: StageSpread, back: true, bundle: "A", bundleAt: ago(9 * moment), issuer: "AB", issuerAt: ago(day), started: ago(moment), ownRoots: true}, "", "", ""},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			b := row.bench(t, now)
			d := Decide(b.fleet, b.view, now)
			if d.Step != row.step {
				t.Errorf("step %q (%s), want %q; findings %+v", d.Step, d.Why, row.step, d.Findings)
			}
			letters := ""
			switch d.Step {
			case StepBundle:
				for _, a := range b.fleet.Anchors {
					if d.Bundle.Contains(a.Certificate) {
						letters += string('A' + rune(slices.Index([]string{"g1", "g2"}, a.ID)))
					}
				}
			case StepIssuer:
				for _, a := range d.signers {
					letters += string('A' + rune(slices.Index([]string{"g1", "g2"}, a.ID)))
				}
			}
			if letters != row.wanted {
				t.Errorf("%s with %q, want %q", d.Step, letters, row.wanted)
			}
			if d.Progress == nil || (d.Progress.Waits == "") != (row.waits == "") || !strings.Contains(d.Progress.Waits, row.waits) {
				t.Errorf("progress %+v, want it to wait for %q", d.Progress, row.waits)
			}
		})
	}
}

// An issuer that is gone comes back with the certificate first that was first: replicas
// that start now may be shown the bundle from before, which held no other anchor.
func TestAnIssuerThatIsGoneInAChange(t *testing.T) {
	now := start.Add(40 * time.Hour)
	for _, row := range []struct {
		turn
		first string
	}{
		{turn{stage: StageBridge, bundle: "A", issuer: "AB"}, "g1"},
		{turn{stage: StageBridge, bundle: "AB", bundleAt: now.Add(-time.Minute), issuer: "AB"}, "g1"},
		{turn{stage: StageBridge, bundle: "AB", bundleAt: now.Add(-time.Minute), issuer: "BA"}, "g2"},
		{turn{stage: StageSpread, bundle: "AB", bundleAt: now.Add(-time.Minute), issuer: "AB"}, "g1"},
		{turn{stage: StageSpread, bundle: "AB", bundleAt: now.Add(-time.Minute), issuer: "BA"}, "g2"},
		{turn{stage: StageFinish, bundle: "AB", bundleAt: now.Add(-time.Minute), issuer: "B"}, "g2"},
	} {
		b := row.bench(t, now)
		b.view.Observed.Issuer, b.view.Observed.IssuerFacts = ObjectState{}, pki.IssuerFacts{}
		d := Decide(b.fleet, b.view, now)
		if d.Step != StepRepairIssuer || len(d.signers) != 2 || d.signers[0].ID != row.first {
			t.Errorf("%s, bundle %s, issuer %s: step %q, signed by %s; want %s first", row.stage, row.bundle, row.issuer, d.Step, namesOfAnchors(d.signers), row.first)
		}
	}
}

// The first cluster goes ahead anew where somebody has put a second certificate back there:
// what the others wait for begins again.
func TestTheFirstClusterGoesAheadAnew(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	began := now.Add(-24 * time.Hour)
	for _, row := range []struct {
		sentence string
		since    time.Time // when it was seen to be through
		first    Progress
		want     time.Time
	}{
		{"it is through", time.Time{}, Progress{Alone: true}, now},
		{"it is not", time.Time{}, Progress{Waits: "its issuer"}, time.Time{}},
		{"it still is", began, Progress{Alone: true}, began},
		{"a replica of it starts", began, Progress{Alone: true, Waits: "one is to load the issuer"}, began},
		{"it has two certificates again", began, Progress{Waits: "its issuer"}, time.Time{}},
	} {
		c := Change{From: "g1", To: "g2", Stage: StageFinish, StartedAt: began, StageAt: began, First: "eu", CanaryAt: row.since}
		row.first.Change, row.first.At = c, now
		f := Fleet{Change: &c, Policy: FleetPolicy{Clusters: []Policy{{Cluster: "eu"}, {Cluster: "us"}}}}
		progress := map[string]Progress{"eu": row.first, "us": {Change: c, At: now, Waits: "the first cluster goes ahead"}}
		next, _, _ := f.nextStage(progress, map[string]bool{"eu": true, "us": true}, time.Hour, now)
		if !next.CanaryAt.Equal(row.want) || next.Stage != StageFinish {
			t.Errorf("%s: since %s in stage %s; want %s", row.sentence, next.CanaryAt, next.Stage, row.want)
		}
	}
}
