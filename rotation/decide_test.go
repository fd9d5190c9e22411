package rotation

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// start is a Tuesday, three hours before the daily firing.
var start = time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)

func hours(n float64) time.Time { return start.Add(time.Duration(n * float64(time.Hour))) }

// issuing is the lane of all that signs issuers.
var issuing = lane{"", IssuerObject}

// bench is a fleet with one anchor and one cluster whose issuer was signed at
// start, and everything as it should be.
type bench struct {
	t      testing.TB
	fleet  Fleet
	key    pki.PrivateKey
	bundle pki.Bundle
	view   View
}

func newBench(t testing.TB) *bench {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := pki.SelfSignAnchor(start.Add(-time.Hour), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local 2026-1", Lifetime: 3650 * 24 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := pki.NewBundle(anchor)
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := ParseSchedule("0 3 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	policy := Policy{Cluster: "eu", Namespace: "linkerd", TrustDomain: "cluster.local", LeafLifetime: 24 * time.Hour, ClockSkew: 20 * time.Second, Repair: 12 * time.Hour,
		Issuer: RenewalPolicy{Lifetime: 168 * time.Hour, RenewBefore: 84 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule}}
	b := &bench{t: t, key: key, bundle: bundle,
		fleet: Fleet{Policy: FleetPolicy{Fleet: "acme", KeyPrefix: "acme", Clusters: []Policy{policy}}, Epoch: 7,
			Anchors: []Anchor{{ID: "g1", Key: "acme-anchor-1", Backend: "vault-transit", Certificate: anchor, CreatedAt: start}}}}
	b.view = View{Policy: policy, Record: ClusterRecord{Name: "eu", Enrolled: true}, Signed: map[lane][]time.Time{}}
	b.issue(start)
	return b
}

// issue puts a new issuer, signed at the time given, into the cluster.
func (b *bench) issue(at time.Time) {
	b.t.Helper()
	anchor := b.fleet.Anchors[0].Certificate
	p := b.view.Policy
	template, err := pki.NewIssuerTemplate(at, pki.IssuerProfile{Namespace: p.Namespace, TrustDomain: p.TrustDomain, Lifetime: p.Issuer.Lifetime, Backdate: p.Issuer.Backdate}, anchor)
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := pki.GenerateKey()
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := pki.SignIssuer(template, anchor, key.PublicKey(), b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	cred, err := pki.NewCredential(key, cert)
	if err != nil {
		b.t.Fatal(err)
	}
	data := map[string][]byte{"tls.crt": cred.ChainPEM(), "tls.key": cred.KeyPEM(), "crt.pem": cred.ChainPEM(), "key.pem": cred.KeyPEM(), "ca.crt": b.bundle.PEM()}
	marks := Marks{Fleet: "acme", Epoch: 7, Keep: true, Label: true}
	o := &Observation{At: at, Target: "uid-eu", Namespace: true,
		Bundle: ObjectState{Exists: true, Revision: "1", Marks: marks}, BundleText: b.bundle.PEM(),
		IssuerFacts: pki.ReadIssuer(data, pki.Identity{Namespace: p.Namespace, TrustDomain: p.TrustDomain}, at)}
	marks.Serial = pki.Serial(cert)
	o.Issuer = ObjectState{Exists: true, Revision: "2", Marks: marks}
	b.view.Observed = o
	b.view.Certificates = []CertificateRecord{{Cluster: "eu", Kind: "issuer", Serial: marks.Serial, NotAfter: cert.NotAfter, SignedAt: at, DeliveredAt: at}}
}

// minutely has issuers delivered 9, 7, 6 and 1 minutes before; the last is
// Certificates[0].
func (b *bench) minutely(now time.Time) {
	b.t.Helper()
	for _, ago := range []time.Duration{9, 7, 6, 1} {
		before := b.view.Certificates
		b.issue(now.Add(-ago * time.Minute))
		b.view.Certificates = append(b.view.Certificates, before...)
	}
}

// The rows of TestDecide change the bench so that their sentence is true.
// A request without a reason is told without a colon that leads nowhere.
func TestWhatWasAskedFor(t *testing.T) {
	for reason, want := range map[string]string{"drill": "asked for: drill", "": "asked for"} {
		b := newBench(t)
		b.view.Request = &Request{Actor: "lee@cli", Reason: reason}
		if d := Decide(b.fleet, b.view, hours(1)); d.Step != StepIssuer || d.Why != want {
			t.Errorf("%q: step %q, %q", reason, d.Step, d.Why)
		}
	}
}

// A cluster may refuse the credentials or a verb: the command to type finds out which.
func TestWhatToDoAboutADeniedCluster(t *testing.T) {
	b := newBench(t)
	b.view.Observed, b.view.Err, b.view.ErrSince = nil, ErrDenied, hours(1)
	if f := Decide(b.fleet, b.view, hours(2)).Findings; len(f) != 1 || f[0].ID != "ClusterDenied" || f[0].Fix != "certd clusters test eu" {
		t.Errorf("%v", f)
	}
}

func TestDecide(t *testing.T) {
	gone := func(o *ObjectState) { *o = ObjectState{} }
	for _, row := range []struct {
		sentence string
		at       time.Time
		change   func(b *bench)
		step     Step
		finding  string // an id that must be there; "" = none at all
	}{
		{"everything is as it should be", hours(1), nil, "", ""},
		{"the issuer is due, but its firing has not come", hours(26), nil, "", ""},
		{"the firing after which only one more comes before the floor has come", hours(51.1), nil, StepIssuer, ""},
		{"all firings were missed and the floor is reached at an odd hour", hours(84.2), nil, StepIssuer, "RenewalOverdue"},
		{"the cluster has never been seen", hours(1), func(b *bench) { b.view.Observed = nil }, "", "NotSeenYet"},
		{"the cluster does not answer now", hours(1), func(b *bench) { b.view.Err = errors.Join(ErrUnavailable) }, "", "ClusterUnreachable"},
		{"the cluster refuses certd", hours(1), func(b *bench) { b.view.Err = errors.Join(ErrDenied) }, "", "ClusterDenied"},
		{"an empty cluster is enrolled with the bundle first", hours(1), func(b *bench) {
			b.view.Record, b.view.Certificates = ClusterRecord{}, nil
			gone(&b.view.Observed.Bundle)
			gone(&b.view.Observed.Issuer)
		}, StepBundle, ""},
		{"an enrolled cluster without issuer gets its first one", hours(1), func(b *bench) {
			b.view.Certificates = nil
			gone(&b.view.Observed.Issuer)
		}, StepIssuer, ""},
		{"the namespace is missing and may be made", hours(1), func(b *bench) {
			b.view.Policy.CreateNamespace = true
			b.view.Observed = &Observation{Target: "uid-eu"}
		}, StepNamespace, "IssuerUnusable"},
		{"the namespace is missing and may not be made", hours(1), func(b *bench) {
			b.view.Record, b.view.Certificates = ClusterRecord{}, nil
			b.view.Observed = &Observation{Target: "uid-eu"}
		}, "", "NamespaceMissing"},
		{"trust material that certd did not make is watched only", hours(1), func(b *bench) {
			b.view.Record, b.view.Certificates = ClusterRecord{}, nil
			b.view.Observed.Bundle.Marks, b.view.Observed.Issuer.Marks = Marks{}, Marks{}
		}, "", "WatchedOnly"},
		{"a cluster that bears the fleet's mark is managed although the journal was lost", hours(1), func(b *bench) {
			b.view.Record, b.view.Certificates = ClusterRecord{}, nil
		}, "", ""},
		{"another daemon with a newer epoch wrote here", hours(1), func(b *bench) { b.view.Observed.Issuer.Marks.Epoch = 8 }, "", "Deposed"},
		{"the cluster's clock is six minutes off", hours(90), func(b *bench) { b.view.Observed.ClockSkew = -6 * time.Minute }, "", "ClockSkew"},
		{"certd's own certificate there ends soon", hours(1), func(b *bench) {
			b.view.Observed.Credential = &Credential{Kind: "client certificate", Begun: hours(-8000), Ends: hours(100)}
		}, "", "CredentialEnds"},
		{"two configured clusters are one", hours(90), func(b *bench) { b.view.SameTarget = "us" }, "", "SameCluster"},
		{"there is no anchor", hours(1), func(b *bench) { b.fleet.Anchors = nil }, "", "NoAnchor"},
		{"the bundle was deleted", hours(1), func(b *bench) { gone(&b.view.Observed.Bundle) }, StepRepairBundle, ""},
		{"the bundle was damaged", hours(1), func(b *bench) { b.view.Observed.BundleText = []byte("garbage") }, StepRepairBundle, ""},
		{"a blank line at the end of the bundle would stop linkerd-identity", hours(1), func(b *bench) {
			b.view.Observed.BundleText = append(b.bundle.PEM(), '\n')
		}, StepRepairBundle, ""},
		{"the bundle's mark for Helm was removed", hours(1), func(b *bench) { b.view.Observed.Bundle.Marks.Keep = false }, StepRepairMetadata, ""},
		{"the issuer was deleted", hours(1), func(b *bench) { gone(&b.view.Observed.Issuer); b.view.Observed.IssuerFacts = pki.IssuerFacts{} }, StepRepairIssuer, "IssuerUnusable"},
		{"the issuer was damaged", hours(1), func(b *bench) { b.view.Observed.IssuerFacts = pki.IssuerFacts{Problem: "tls.crt is garbage"} }, StepRepairIssuer, "IssuerUnusable"},
		{"the issuer is of a foreign anchor", hours(1), func(b *bench) {
			other := newBench(b.t)
			b.view.Observed.IssuerFacts = other.view.Observed.IssuerFacts
		}, StepRepairIssuer, "IssuerUnusable"},
		{"a copy beside the issuer was edited", hours(1), func(b *bench) { b.view.Observed.IssuerFacts.Complete = false }, StepRepairMetadata, ""},
		{"ca.crt was edited", hours(1), func(b *bench) { b.view.Observed.IssuerFacts.CABundle = []byte("x") }, StepRepairMetadata, ""},
		{"ca.crt is of the bundle before the last", hours(1), func(b *bench) { b.view.Observed.IssuerFacts.CABundle = newBench(b.t).bundle.PEM() }, StepBundleCopy, ""},
		{"somebody put another bundle into ca.crt", hours(1), func(b *bench) {
			b.view.Observed.IssuerFacts.CABundle = newBench(b.t).bundle.PEM()
			b.view.Observed.Issuer.Writers = []Writer{{Name: "kubectl-edit"}}
		}, StepRepairMetadata, ""},
		{"the issuer's label was removed", hours(1), func(b *bench) { b.view.Observed.Issuer.Marks.Label = false }, StepRepairMetadata, ""},
		{"a broken bundle is mended before the issuer is renewed", hours(90), func(b *bench) { gone(&b.view.Observed.Bundle) }, StepRepairBundle, "RenewalOverdue"},
		{"a person asks for a new issuer", hours(1), func(b *bench) { b.view.Request = &Request{Actor: "lee@cli", Reason: "drill"} }, StepIssuer, ""},
		{"the issuer has expired", hours(170), nil, StepIssuer, "IssuerExpired"},
		{"somebody put an issuer there that has expired", hours(170), func(b *bench) {
			b.view.Observed.Issuer.Writers = []Writer{{Name: "some-hand", At: hours(169)}}
		}, StepRepairIssuer, "IssuerExpired"},
		{"the anchor has expired, and nothing can be signed", hours(24 * 4000), nil, "", "IssuerExpired"},
		{"less is left than a repair may take", hours(150), nil, StepIssuer, "IssuerBelowFloor"},
		{"each firing rotates where that is asked for", hours(3.1), func(b *bench) { b.view.Policy.Issuer.EveryFiring = true }, StepIssuer, ""},
		{"a failed step waits for its next try", hours(90), func(b *bench) {
			b.view.Failures = map[lane]*StepFailure{issuing: {Step: StepIssuer, Err: ErrUnavailable, Since: hours(89), Until: hours(90.1)}}
		}, "", "StepFailed"},
		{"a failed step is tried again when its time has come", hours(90), func(b *bench) {
			b.view.Failures = map[lane]*StepFailure{issuing: {Step: StepIssuer, Err: ErrUnavailable, Since: hours(89), Until: hours(89.9)}}
		}, StepIssuer, "StepFailed"},
		{"a failed renewal does not hold up a repair", hours(90), func(b *bench) {
			b.view.Failures = map[lane]*StepFailure{issuing: {Step: StepIssuer, Err: ErrUnavailable, Since: hours(89), Until: hours(91)}}
			b.view.Observed.Bundle.Marks.Keep = false
		}, StepRepairMetadata, "StepFailed"},
		{"the fourth repair within the hour waits", hours(1), func(b *bench) {
			b.view.Repairs = map[lane][]time.Time{{StepRepairBundle, BundleObject}: {hours(0.9), hours(0.95), hours(1).Add(-time.Second / 2)}}
			b.view.Observed.BundleText = []byte("garbage")
			b.view.Observed.Bundle.Writers = []Writer{{Name: "argocd-controller", At: hours(1)}}
		}, "", "RepairHeldBack"},
		{"an upgrade's retry is repaired after a second", hours(1), func(b *bench) {
			b.view.Repairs = map[lane][]time.Time{{StepRepairBundle, BundleObject}: {hours(0.9), hours(0.95), hours(1).Add(-time.Second)}}
			b.view.Observed.BundleText = []byte("garbage")
		}, StepRepairBundle, ""},
		{"the tenth repair within the hour waits a minute", hours(1), func(b *bench) {
			b.view.Repairs = map[lane][]time.Time{{StepRepairBundle, BundleObject}: append(slices.Repeat([]time.Time{hours(0.5)}, 8), hours(1).Add(-time.Minute))}
			b.view.Observed.BundleText = []byte("garbage")
		}, "", "RepairHeldBack"},
		{"identity uses the delivered issuer", hours(1), func(b *bench) { b.replica(b.view.Certificates[0].NotAfter, hours(1)) }, "", ""},
		{"identity uses another issuer long after delivery", hours(1), func(b *bench) { b.replica(hours(100), hours(1)) }, StepIssuerReload, "IssuerNotLoaded"},
		{"its files were swapped a moment ago", hours(1), func(b *bench) {
			b.replica(hours(100), hours(1))
			b.view.Observed.IssuerReload, b.view.Observed.IssuerWrittenAt = pki.Serial(b.view.Observed.IssuerFacts.Chain[0]), hours(1).Add(-time.Second)
		}, "", "IssuerNotLoaded"},
		{"that was in vain: it is restarted", hours(1), func(b *bench) {
			b.replica(hours(100), hours(1))
			b.view.Observed.IssuerReload, b.view.Observed.IssuerWrittenAt = pki.Serial(b.view.Observed.IssuerFacts.Chain[0]), hours(0.5)
		}, StepIdentityRestart, "IssuerNotLoaded"},
		{"a rollout that goes on is waited for", hours(1), func(b *bench) {
			b.replica(hours(100), hours(1))
			b.view.Observed.IssuerReload, b.view.Observed.IssuerWrittenAt = pki.Serial(b.view.Observed.IssuerFacts.Chain[0]), hours(0.5)
			b.view.Repairs = map[lane][]time.Time{{StepIdentityRestart, identityOwner().String()}: {hours(0.9)}}
		}, "", "IssuerNotLoaded"},
		{"issuers come every few minutes, and it has missed several for long", hours(1), func(b *bench) {
			b.minutely(hours(1))
			b.replica(b.view.Certificates[3].NotAfter, hours(1))
		}, StepIdentityRestart, "IssuerNotLoaded"},
		{"it has missed one of these for long", hours(1), func(b *bench) {
			b.minutely(hours(1))
			b.replica(b.view.Certificates[2].NotAfter, hours(1))
		}, StepIssuerReload, "IssuerNotLoaded"},
		{"it has missed one of these for a minute", hours(1), func(b *bench) {
			b.minutely(hours(1))
			b.replica(b.view.Certificates[1].NotAfter, hours(1))
		}, "", ""},
		{"it has missed several of these, and was started since", hours(1), func(b *bench) {
			b.minutely(hours(1))
			b.replica(b.view.Certificates[3].NotAfter, hours(1))
			b.view.Observed.Identity.Replicas[0].Started = hours(1).Add(-2 * time.Minute)
		}, StepIssuerReload, "IssuerNotLoaded"},
		{"a partner mesh's anchor is added", hours(1), func(b *bench) { b.partner(start.Add(time.Hour * 24 * 365)) }, StepBundle, ""},
		{"a partner mesh's anchor is near its end", hours(1), func(b *bench) { b.partner(hours(1).Add(30 * 24 * time.Hour)) }, StepBundle, "ForeignAnchorExpiring"},
		{"a partner mesh's anchor has ended", hours(1), func(b *bench) { b.partner(hours(0.5)) }, StepBundle, "ForeignAnchorExpired"},
		{"beside a partner's anchor another writer's bundle is repaired", hours(1), func(b *bench) {
			b.partner(start.Add(time.Hour * 24 * 365))
			b.view.Observed.Bundle.Writers = []Writer{{Name: "kubectl", At: hours(0.9)}}
		}, StepRepairBundle, ""},
		{"identity may take a few minutes to load", start.Add(2 * time.Minute), func(b *bench) { b.replica(hours(100), start) }, "", ""},
		{"identity's leaves live longer than the policy says, so the floor is higher", hours(40), func(b *bench) {
			b.replica(b.view.Certificates[0].NotAfter, hours(40))
			b.view.Observed.Identity.LeafLifetime = 120 * time.Hour
		}, StepIssuer, "IssuerBelowFloor"},
		{"no issuer of this lifetime can keep the floor that identity's leaves ask for", hours(1), func(b *bench) {
			b.replica(b.view.Certificates[0].NotAfter, hours(1))
			b.view.Observed.Identity.LeafLifetime = 300 * time.Hour
		}, "", "LifetimeTooShort"},
		{"whether identity uses the issuer cannot be seen long after delivery", hours(1), func(b *bench) { b.replica(time.Time{}, hours(1)) }, "", "IssuerLoadUnknown"},
		{"evidence of use that has become old does not count", hours(1), func(b *bench) { b.replica(b.view.Certificates[0].NotAfter, hours(0.5)) }, "", "IssuerLoadUnknown"},
		{"a cluster that undoes each write costs ten signatures an hour, no more", hours(90), func(b *bench) {
			for i := range 10 {
				b.view.Signed[issuing] = append(b.view.Signed[issuing], hours(89.5).Add(time.Duration(i)*time.Minute))
			}
		}, "", "SignatureBudget"},
		{"signatures of an hour ago are forgotten", hours(90), func(b *bench) {
			for i := range 10 {
				b.view.Signed[issuing] = append(b.view.Signed[issuing], hours(89).Add(time.Duration(-i)*time.Minute))
			}
		}, StepIssuer, "RenewalOverdue"},
		{"each firing of a minutely schedule may sign beside that", hours(90), func(b *bench) {
			b.view.Policy.Issuer.Schedule, _ = ParseSchedule("* * * * *", time.UTC)
			for i := range 69 {
				b.view.Signed[issuing] = append(b.view.Signed[issuing], hours(89.1).Add(time.Duration(i)*40*time.Second))
			}
		}, StepIssuer, "RenewalOverdue"},
		{"and no more than that", hours(90), func(b *bench) {
			b.view.Policy.Issuer.Schedule, _ = ParseSchedule("* * * * *", time.UTC)
			for i := range 70 {
				b.view.Signed[issuing] = append(b.view.Signed[issuing], hours(89.1).Add(time.Duration(i)*40*time.Second))
			}
		}, "", "SignatureBudget"},
		{"a repair that signs waits as long as a renewal that failed", hours(90), func(b *bench) {
			b.view.Failures = map[lane]*StepFailure{issuing: {Step: StepIssuer, Err: ErrUnavailable, Since: hours(89), Until: hours(90.05)}}
			b.view.Observed.IssuerFacts = pki.IssuerFacts{Problem: "tls.crt is garbage"}
		}, "", "StepFailed"},
		{"an issuer that was signed and never written does not make its absence a repair", hours(1), func(b *bench) {
			b.view.Certificates[0].DeliveredAt = time.Time{}
			gone(&b.view.Observed.Issuer)
			b.view.Observed.IssuerFacts = pki.IssuerFacts{}
		}, StepIssuer, ""},
		{"a failure of a step that nobody wants any more is forgotten", hours(1), func(b *bench) {
			b.view.Failures = map[lane]*StepFailure{{StepNamespace, ""}: {Step: StepNamespace, Err: ErrDenied, Since: hours(0.5), Until: hours(0.9)}}
		}, "", ""},
		{"under an ending anchor renewing gains nothing", hours(1), func(b *bench) {
			short := *b.fleet.Anchors[0].Certificate
			short.NotAfter = b.view.Observed.IssuerFacts.Chain[0].NotAfter
			b.fleet.Anchors[0].Certificate = &short
			b.view.Policy.Issuer.RenewBefore = 168 * time.Hour
		}, "", "AnchorEnds"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			b := newBench(t)
			if row.change != nil {
				row.change(b)
			}
			d := Decide(b.fleet, b.view, row.at)
			if d.Step != row.step {
				t.Errorf("step %q (%s), want %q; findings %v", d.Step, d.Why, row.step, ids(d.Findings))
			}
			if got := ids(d.Findings); row.finding == "" && len(got) > 0 || row.finding != "" && !slices.Contains(got, row.finding) {
				t.Errorf("findings %v, want %q: %+v", got, row.finding, d.Findings)
			}
			if d.Step != "" && d.Why == "" {
				t.Error("a step without a reason")
			}
			for _, f := range d.Findings {
				if f.Message == "" || strings.Contains(f.Message, "%!") {
					t.Errorf("finding %s says %q", f.ID, f.Message)
				}
			}
		})
	}
}

// partner has the cluster trust another mesh's anchor, which ends then.
func (b *bench) partner(notAfter time.Time) {
	b.t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		b.t.Fatal(err)
	}
	anchor, err := pki.SelfSignAnchor(start, pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: notAfter.Sub(start)}, key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.view.Policy.Foreign = []ForeignAnchor{{Name: "partner", Certificate: anchor}}
}

func (b *bench) replica(notAfter, at time.Time) {
	b.view.Observed.Identity = &Identity{Deployed: true, Replicas: []Replica{{Pod: "linkerd-identity-0", Started: start, NotAfter: notAfter, Evidence: "metric", At: at}}}
}

func ids(findings []Finding) (s []string) {
	for _, f := range findings {
		s = append(s, f.ID)
	}
	return s
}

// Deciding twice gives one answer, and when certd wakes at the time it named,
// there is something to do (the reconcilers that wake too early and then find
// nothing, for ever, are known).
func TestWakingFindsSomethingToDo(t *testing.T) {
	b := newBench(t)
	d := Decide(b.fleet, b.view, hours(1))
	if d.Wake.IsZero() || !d.Wake.After(hours(1)) {
		t.Fatalf("wakes at %s", d.Wake)
	}
	if again := Decide(b.fleet, b.view, hours(1)); again.Step != d.Step || again.Wake != d.Wake {
		t.Errorf("a second answer: %+v", again)
	}
	if then := Decide(b.fleet, b.view, d.Wake); then.Step != StepIssuer {
		t.Errorf("at %s, when it meant to wake, there is %q to do", d.Wake, then.Step)
	}
}

// The pause after failures grows, ends at five minutes, and is never a large
// part of what is left.
func TestBackoffIsBoundedByWhatIsLeft(t *testing.T) {
	for _, row := range []struct {
		n    int
		left time.Duration
		want time.Duration
	}{
		{1, 90 * time.Hour, time.Second},
		{5, 90 * time.Hour, 16 * time.Second},
		{30, 90 * time.Hour, 5 * time.Minute},
		{30, 20 * time.Minute, time.Minute},
		{30, -time.Hour, 5 * time.Second},
		{100, -time.Hour, 30 * time.Second}, // it leaves its trace in the journal each time
	} {
		if got := backoff(row.n, row.left); got != row.want {
			t.Errorf("after %d failures with %s left: %s, want %s", row.n, row.left, got, row.want)
		}
	}
}

func TestAnchorsAreToldApartByKeyNotName(t *testing.T) {
	a, b := newBench(t), newBench(t) // same names, other keys
	issuer := a.view.Observed.IssuerFacts.Chain[0]
	f := Fleet{Anchors: []Anchor{b.fleet.Anchors[0], a.fleet.Anchors[0]}}
	f.Anchors[1].ID = "g2"
	if got := f.anchorOf(issuer); got == nil || got.ID != "g2" {
		t.Errorf("the issuer is said to be of %+v", got)
	}
}
