package rotation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

const (
	injector       = "proxy-injector"
	injectorConfig = KindMutating + "/linkerd-proxy-injector-webhook-config"
	injectorSecret = "linkerd/linkerd-proxy-injector-k8s-tls"
	injectorName   = "linkerd-proxy-injector.linkerd.svc"
)

// hookBench is a bench whose cluster has the proxy injector: installed long
// ago, its certificate signed at start under webhook CA w1, and everything as
// it should be and proved.
type hookBench struct {
	*bench
	keys map[string]pki.PrivateKey // of the webhook CAs
	w    *Webhook
}

func newHookBench(t testing.TB) *hookBench {
	t.Helper()
	b := &hookBench{bench: newBench(t), keys: map[string]pki.PrivateKey{}}
	schedule, err := ParseSchedule("30 3 * * *", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	p := &b.view.Policy
	p.Webhooks = WebhookPolicy{Specs: LinkerdWebhooks(), Settle: 30 * time.Second, Projection: 3 * time.Minute, ProbeEvery: 5 * time.Minute,
		Leaf: RenewalPolicy{Lifetime: 30 * 24 * time.Hour, RenewBefore: 15 * 24 * time.Hour, Backdate: 10 * time.Minute, Schedule: schedule},
		CA:   RenewalPolicy{Lifetime: 730 * 24 * time.Hour, RenewBefore: 180 * 24 * time.Hour, Backdate: time.Hour, Schedule: schedule}}
	b.makeCA("w1", start.Add(-24*time.Hour))
	spec := LinkerdWebhooks()[0]
	spec.Namespace, spec.DNSNames = "linkerd", []string{injectorName}
	b.view.Observed.Webhooks = []Webhook{{Spec: spec, Objects: []WebhookObject{{Ref: spec.Objects[0], ObjectState: ObjectState{Exists: true, Revision: "10", Marks: Marks{Fleet: "acme", Epoch: 7}}, WrittenAt: start.Add(-23 * time.Hour)}}}}
	b.w = &b.view.Observed.Webhooks[0]
	b.certify("w1", start)
	b.trust("w1")
	b.serve(start.Add(time.Minute))
	return b
}

func (b *hookBench) ca(id string) *WebhookCA {
	b.t.Helper()
	i := slices.IndexFunc(b.view.WebhookCAs, func(a WebhookCA) bool { return a.ID == id })
	if i < 0 {
		b.t.Fatalf("no webhook CA %s", id)
	}
	return &b.view.WebhookCAs[i]
}

// makeCA makes the next generation of the webhook CA.
func (b *hookBench) makeCA(id string, at time.Time) {
	b.t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := pki.SelfSignAnchor(at, pki.AnchorProfile{CommonName: "webhook-ca.eu.acme " + id, Lifetime: 730 * 24 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.keys[id] = key
	b.view.WebhookCAs = append(b.view.WebhookCAs, WebhookCA{Cluster: "eu", Anchor: Anchor{ID: id, Key: "acme-webhook-eu-" + id, Backend: "vault-transit", Certificate: cert, CreatedAt: at}})
}

// stranger makes a CA that certd does not know.
func (b *hookBench) stranger(id string) {
	b.makeCA(id, start.Add(-24*time.Hour))
	b.view.WebhookCAs = b.view.WebhookCAs[:len(b.view.WebhookCAs)-1]
}

func (b *hookBench) sign(ca *WebhookCA, key pki.PrivateKey, at time.Time) pki.Credential {
	b.t.Helper()
	template, err := pki.NewServingTemplate(at, pki.ServingProfile{DNSNames: []string{injectorName}, Lifetime: 30 * 24 * time.Hour, Backdate: 10 * time.Minute}, ca.Certificate)
	if err != nil {
		b.t.Fatal(err)
	}
	priv, err := pki.GenerateKey()
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := pki.SignServing(template, ca.Certificate, priv.PublicKey(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	cred, err := pki.NewCredential(priv, cert)
	if err != nil {
		b.t.Fatal(err)
	}
	return cred
}

// certify puts a certificate signed at a time into the Secret, as certd does.
func (b *hookBench) certify(ca string, at time.Time) {
	cred := b.sign(b.ca(ca), b.keys[ca], at)
	set := b.w.Facts.CAs.Union(pki.NewCASet(b.ca(ca).Certificate))
	b.w.Facts = pki.ReadServing(map[string][]byte{"tls.crt": cred.ChainPEM(), "tls.key": cred.KeyPEM(), "ca.crt": set.PEM()})
	b.w.Secret = ObjectState{Exists: true, Revision: fmt.Sprint(at.Unix()), Marks: Marks{Fleet: "acme", Serial: pki.Serial(cred.Chain()[0]), Epoch: 7, Keep: true, Label: true}}
	b.w.WrittenAt = at
}

// usurp puts a certificate of another's into the Secret and, with reset, its CA
// alone into the caBundle: what a Helm upgrade does.
func (b *hookBench) usurp(at time.Time, reset bool) {
	key, err := pki.GenerateKey()
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := pki.SelfSignAnchor(start.Add(-24*time.Hour), pki.AnchorProfile{CommonName: "helm", Lifetime: 365 * 24 * time.Hour, Backdate: time.Hour}, key)
	if err != nil {
		b.t.Fatal(err)
	}
	cred := b.sign(&WebhookCA{Anchor: Anchor{Certificate: cert}}, key, at)
	helm := []Writer{{Name: "helm", At: at}}
	b.w.Facts = pki.ReadServing(map[string][]byte{"tls.crt": cred.ChainPEM(), "tls.key": cred.KeyPEM(), "ca.crt": pki.NewCASet(cert).PEM()})
	b.w.Secret.Revision, b.w.Secret.Writers = "helm", helm
	if reset {
		o := &b.w.Objects[0]
		o.CABundle, o.Revision, o.Writers = pki.NewCASet(cert), "helm", helm
		o.CAText = o.CABundle.PEM()
	}
}

// trust makes the caBundle hold exactly these CAs.
func (b *hookBench) trust(ids ...string) {
	set := pki.CASet{}
	for _, id := range ids {
		set = set.Union(pki.NewCASet(b.ca(id).Certificate))
	}
	o := &b.w.Objects[0]
	o.CABundle, o.CAText = set, set.PEM()
}

// serve is evidence of a time that three replicas serve what is in the Secret.
func (b *hookBench) serve(at time.Time) {
	ev := WebhookEvidence{At: at, Of: b.w.state(), Check: WebhookCheck{State: "yes", Evidence: "dry-run pod", At: at}}
	for i := range 3 {
		ev.Replicas = append(ev.Replicas, WebhookReplica{Pod: fmt.Sprintf("injector-%d", i), Ready: true, Started: start.Add(-time.Hour), Served: b.w.Facts.Chain, Evidence: "tls", At: at,
			Owner: ObjectRef{"Deployment", "linkerd-proxy-injector"}})
	}
	b.view.Evidence = map[string]WebhookEvidence{injector: ev}
}

func (b *hookBench) evidence(change func(*WebhookEvidence)) {
	ev := b.view.Evidence[injector]
	ev.Replicas = slices.Clone(ev.Replicas)
	change(&ev)
	b.view.Evidence[injector] = ev
}

// The rows of TestDecideWebhooks change the bench so that their sentence is
// true. at is 1 h unless given; evidence is as old as a minute.
func TestDecideWebhooks(t *testing.T) {
	day := func(n float64) time.Time { return hours(24 * n) }
	for _, row := range []struct {
		sentence string
		at       time.Time
		change   func(b *hookBench)
		step     Step
		object   string
		finding  string
	}{
		{"everything is as it should be", hours(1), nil, "", "", ""},
		{"nothing is installed", hours(1), func(b *hookBench) { b.w.Objects, b.view.WebhookCAs = nil, nil }, "", "", ""},
		{"a webhook of the user's own is not there", hours(1), func(b *hookBench) { b.w.Objects, b.w.Spec.Own = nil, true }, "", "", "WebhookMissing"},
		{"it may not be seen", hours(1), func(b *hookBench) { b.w.Err = errors.Join(ErrDenied) }, "", "", "WebhookDenied"},
		{"there is no webhook CA yet", hours(1), func(b *hookBench) { b.view.WebhookCAs = nil; b.w.Secret, b.w.Facts = ObjectState{}, pki.ServingFacts{} }, StepWebhookCA, "webhook CA", ""},

		// The first certificate: trust, settle, certificate.
		{"the CA is trusted before anything is signed under it", hours(1), func(b *hookBench) {
			b.w.Secret, b.w.Facts, b.view.Evidence = ObjectState{}, pki.ServingFacts{}, nil
			b.trust()
		}, StepWebhookTrust, injectorConfig, ""},
		{"where nothing is served there is nothing to wait for", hours(1), func(b *hookBench) {
			b.w.Secret, b.w.Facts = ObjectState{}, pki.ServingFacts{}
			b.w.Objects[0].WrittenAt = hours(1)
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas = nil })
		}, StepRepairWebhook, injectorSecret, ""},
		{"without a Secret, replicas may serve what they had: nobody has looked", hours(1), func(b *hookBench) {
			b.w.Secret, b.w.Facts, b.view.Evidence = ObjectState{}, pki.ServingFacts{}, nil
			b.w.Objects[0].WrittenAt = hours(1)
		}, "", "", ""},
		{"without a Secret, a replica that cannot be seen may serve what it had", hours(1), func(b *hookBench) {
			b.w.Secret, b.w.Facts = ObjectState{}, pki.ServingFacts{}
			b.w.Objects[0].WrittenAt = hours(1)
			b.evidence(func(ev *WebhookEvidence) {
				for i := range ev.Replicas {
					ev.Replicas[i].Served = nil
				}
			})
		}, "", "", ""},

		// Renewal.
		{"it is due, but its firing has not come", day(12.9), nil, "", "", ""},
		{"the firing after which only one more comes before the floor has come", day(14).Add(3*time.Hour + 31*time.Minute), nil, StepWebhook, injectorSecret, ""},
		{"every firing was missed, and the floor is reached at an odd hour", day(15.1), nil, StepWebhook, injectorSecret, "WebhookOverdue"},
		{"a person asks", hours(1), func(b *hookBench) {
			b.view.WebhookRequest = &Request{Actor: "lee@cli", Reason: "drill", At: hours(0.9)}
		}, StepWebhook, injectorSecret, ""},
		{"a person asked, and it is done", hours(1), func(b *hookBench) { b.view.WebhookRequest = &Request{Actor: "lee@cli", Reason: "drill", At: hours(-1)} }, "", "", ""},
		{"it has ended", day(31), nil, StepWebhook, injectorSecret, "WebhookExpired"},
		{"it is about to end under a floor", day(29.6), nil, StepWebhook, injectorSecret, "WebhookBelowFloor"},

		// A new CA.
		{"a person asks for a new CA", hours(1), func(b *hookBench) { b.view.CARequest = &Request{Actor: "lee@cli", Reason: "drill", At: hours(0.9)} }, StepWebhookCA, "webhook CA", ""},
		{"the CA is due", start.Add(552 * 24 * time.Hour), func(b *hookBench) {
			b.certify("w1", start.Add(551*24*time.Hour))
			b.serve(start.Add(552 * 24 * time.Hour).Add(-time.Minute))
		}, StepWebhookCA, "webhook CA", ""},
		{"a new CA is trusted beside the old one first", hours(1), func(b *hookBench) { b.makeCA("w2", hours(0.9)) }, StepWebhookTrust, injectorConfig, ""},
		{"nothing is signed under it until every API server goes by that", hours(1), func(b *hookBench) {
			b.makeCA("w2", hours(0.9))
			b.trust("w1", "w2")
			b.w.Objects[0].WrittenAt = hours(1).Add(-29 * time.Second)
		}, "", "", ""},
		{"nor by the clock of a cluster that is behind", hours(1), func(b *hookBench) {
			b.makeCA("w2", hours(0.9))
			b.trust("w1", "w2")
			b.w.Objects[0].WrittenAt = hours(1).Add(-50 * time.Second)
			b.view.Observed.ClockSkew = -21 * time.Second
		}, "", "", ""},
		{"then the certificate is replaced", hours(1), func(b *hookBench) {
			b.makeCA("w2", hours(0.9))
			b.trust("w1", "w2")
			b.w.Objects[0].WrittenAt = hours(1).Add(-31 * time.Second)
		}, StepWebhook, injectorSecret, ""},
		{"the old CA stays while a replica serves the old certificate", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			old := b.sign(b.ca("w1"), b.keys["w1"], start).Chain()
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[2].Served = old; ev.Replicas[2].Started = hours(1) })
			b.w.Reload, b.w.WrittenAt = pki.Serial(b.w.Facts.Chain[0]), hours(0.99)
		}, "", "", ""},
		{"the old CA stays while a kubelet may show the old certificate", hours(1), func(b *hookBench) {
			b.replaced(hours(1).Add(-2 * time.Minute))
			b.serve(hours(1).Add(-time.Second))
		}, "", "", ""},
		{"the old CA stays while the webhook does not do its work", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Check.State = "no" })
		}, "", "", "WebhookBroken"},
		{"the old CA stays while nothing can be seen", hours(1), func(b *hookBench) { b.replaced(hours(0.9)); b.view.Evidence = nil }, "", "", ""},
		{"the old CA stays where the evidence is about another state", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.serve(hours(1).Add(-time.Second))
			b.w.Objects[0].Revision = "11"
		}, "", "", ""},
		{"the old CA leaves ca.crt first, since a cainjector may copy it", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.serve(hours(1).Add(-time.Second))
		}, StepWebhookRetire, injectorSecret, ""},
		{"then the caBundle", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.shrinkSecret("w2")
			b.serve(hours(1).Add(-time.Second))
		}, StepWebhookRetire, injectorConfig, ""},
		{"what left ca.crt does not come back for want of evidence", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.shrinkSecret("w2")
			b.view.Evidence = nil
		}, "", "", ""},
		{"nothing holds the old CA any more", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.shrinkSecret("w2")
			b.trust("w2")
			b.serve(hours(1).Add(-time.Second))
		}, StepWebhookRetire, "webhook CA w1", ""},
		{"with a cainjector the new CA goes into ca.crt first", hours(1), func(b *hookBench) {
			b.makeCA("w2", hours(0.9))
			b.w.Objects[0].Injector = "Secret " + injectorSecret
		}, StepWebhookTrust, injectorSecret, ""},

		// Replicas that miss their certificate.
		{"a replica has not taken it up in the time that kubelets need", hours(1), func(b *hookBench) {
			old := b.w.Facts.Chain
			b.certify("w1", hours(0.9))
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[1].Served = old })
		}, StepWebhookReload, injectorSecret, ""},
		{"swapping the files once more did not help", hours(1), func(b *hookBench) {
			old := b.w.Facts.Chain
			b.certify("w1", hours(0.8))
			b.w.Reload, b.w.WrittenAt = pki.Serial(b.w.Facts.Chain[0]), hours(0.9)
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[1].Served = old })
		}, StepWebhookRestart, "linkerd/Deployment/linkerd-proxy-injector", "WebhookNotServed"},
		{"not even replacing the pods helped", hours(1), func(b *hookBench) {
			old := b.w.Facts.Chain
			b.certify("w1", hours(0.8))
			b.w.Reload, b.w.WrittenAt = pki.Serial(b.w.Facts.Chain[0]), hours(0.85)
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[1].Served, ev.Replicas[1].Started = old, hours(0.95) })
		}, "", "", "WebhookNotServed"},
		{"what cannot be seen is left alone while nothing waits for it", hours(1), func(b *hookBench) {
			b.evidence(func(ev *WebhookEvidence) {
				ev.At = hours(1)
				ev.Replicas[1].Served, ev.Replicas[1].Evidence = nil, "refused"
			})
		}, "", "", "WebhookServedUnknown"},
		{"what cannot be seen is replaced where an old CA waits for it", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[1].Served, ev.Replicas[1].Evidence = nil, "refused" })
		}, StepWebhookRestart, "linkerd/Deployment/linkerd-proxy-injector", ""},
		{"a pod that cannot be seen and started late enough has nothing older to serve", hours(1), func(b *hookBench) {
			b.replaced(hours(0.9))
			b.serve(hours(1).Add(-time.Second))
			b.evidence(func(ev *WebhookEvidence) { ev.Replicas[1].Served, ev.Replicas[1].Started = nil, hours(0.96) })
		}, StepWebhookRetire, injectorSecret, ""},

		// Others.
		{"a Helm upgrade reset caBundle and Secret: what is served is trusted again first", hours(1), func(b *hookBench) { b.usurp(hours(1), true) }, StepRepairTrust, injectorConfig, "WebhookUntrusted"},
		{"a Helm upgrade reset the caBundle, and nobody has seen yet what is served", hours(1), func(b *hookBench) { b.usurp(hours(1), true); b.view.Evidence = nil }, StepWebhookTrust, injectorConfig, ""},
		{"somebody emptied the caBundle", hours(1), func(b *hookBench) { b.trust() }, StepRepairTrust, injectorConfig, "WebhookUntrusted"},
		{"somebody replaced the certificate: with both trusted it is taken back after a while", hours(1), func(b *hookBench) {
			b.usurp(hours(1), false)
			o := &b.w.Objects[0]
			o.CABundle = o.CABundle.Union(b.w.Facts.CAs)
			o.CAText, o.WrittenAt = o.CABundle.PEM(), hours(1).Add(-31*time.Second)
		}, StepRepairWebhook, injectorSecret, ""},
		{"a foreign CA stays for a while after the other one wrote", hours(1), func(b *hookBench) {
			b.stranger("x")
			o := &b.w.Objects[0]
			foreign, err := pki.SelfSignAnchor(start, pki.AnchorProfile{CommonName: "x", Lifetime: time.Hour * 1000, Backdate: time.Hour}, b.keys["x"])
			if err != nil {
				b.t.Fatal(err)
			}
			o.CABundle = o.CABundle.Union(pki.NewCASet(foreign))
			o.CAText, o.Writers = o.CABundle.PEM(), []Writer{{Name: "argocd", At: hours(0.9)}}
			b.serve(hours(1).Add(-time.Second))
		}, "", "", ""},
		{"cert-manager issues into the Secret: it is watched", hours(1), func(b *hookBench) {
			b.w.Renewer = "Certificate linkerd/linkerd-proxy-injector"
			b.usurp(hours(0.5), true)
		}, "", "", "WebhookManagedElsewhere"},
		{"the Secret is another fleet's", hours(1), func(b *hookBench) { b.w.Secret.Marks.Fleet = "other" }, "", "", "WebhookManagedElsewhere"},
		{"what Helm made is taken over: the CA first", hours(1), func(b *hookBench) {
			b.usurp(hours(-24), true)
			b.w.Secret.Marks, b.w.WrittenAt, b.w.Objects[0].Marks, b.w.Objects[0].WrittenAt, b.view.Evidence = Marks{}, time.Time{}, Marks{}, time.Time{}, nil
		}, StepWebhookTrust, injectorConfig, ""},
		{"the Secret is gone", hours(1), func(b *hookBench) { b.w.Secret, b.w.Facts = ObjectState{}, pki.ServingFacts{} }, StepRepairWebhook, injectorSecret, ""},
		{"somebody changed ca.crt", hours(1), func(b *hookBench) {
			b.w.Facts.CAs, b.w.Facts.CAText = pki.CASet{}, nil
			b.serve(hours(1).Add(-time.Second))
		}, StepRepairMetadata, injectorSecret, ""},
		{"somebody took the marks away", hours(1), func(b *hookBench) { b.w.Secret.Marks.Keep = false }, StepRepairMetadata, injectorSecret, ""},
		{"the API server does not answer", hours(1), func(b *hookBench) { b.view.Err = errors.Join(ErrUnavailable); b.trust() }, "", "", "ClusterUnreachable"},
		{"another certd wrote here later", hours(1), func(b *hookBench) { b.w.Objects[0].Marks.Epoch = 8; b.trust() }, "", "", "Deposed"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			b := newHookBench(t)
			b.bench.issue(row.at.Add(-time.Hour))
			b.view.Observed.Webhooks = []Webhook{*b.w}
			b.w = &b.view.Observed.Webhooks[0]
			if row.at.After(hours(1)) {
				b.serve(row.at.Add(-time.Minute))
			} else {
				b.serve(hours(1).Add(-time.Minute))
			}
			if row.change != nil {
				row.change(b)
			}
			d := Decide(b.fleet, b.view, row.at)
			if d.Step != row.step || d.Object != row.object {
				t.Errorf("step %q on %q because %q, want %q on %q", d.Step, d.Object, d.Why, row.step, row.object)
			}
			ids := []string{}
			for _, f := range d.Findings {
				ids = append(ids, f.ID)
			}
			if row.finding == "" && len(ids) > 0 || row.finding != "" && !slices.Contains(ids, row.finding) {
				t.Errorf("findings %v, want %q", d.Findings, row.finding)
			}
		})
	}
}

// replaced makes w2 the CA, trusted beside w1, and puts a certificate under it
// into the Secret.
func (b *hookBench) replaced(at time.Time) {
	b.makeCA("w2", at.Add(-time.Hour))
	b.trust("w1", "w2")
	b.w.Objects[0].WrittenAt = at.Add(-time.Minute)
	b.certify("w2", at)
}

// shrinkSecret leaves one CA in ca.crt.
func (b *hookBench) shrinkSecret(id string) {
	set := pki.NewCASet(b.ca(id).Certificate)
	b.w.Facts.CAs, b.w.Facts.CAText = set, set.PEM()
	b.w.Secret.Revision += "s"
}

// Trouble with one webhook holds up neither the others nor the issuer.
func TestTroubleStaysInItsLane(t *testing.T) {
	b := newHookBench(t)
	b.view.Observed.Webhooks = append([]Webhook{*b.w}, *b.w)
	other := &b.view.Observed.Webhooks[1]
	other.Spec = LinkerdWebhooks()[1]
	other.Spec.Namespace, other.Spec.DNSNames = "linkerd", []string{injectorName}
	b.view.WebhookRequest = &Request{Actor: "lee@cli", Reason: "drill", At: hours(0.9)}
	b.view.Failures = map[lane]*StepFailure{{"", injectorSecret}: {Step: StepWebhook, Webhook: injector, Err: ErrDenied, Since: hours(0.5), Until: hours(1.01)}}
	d := Decide(b.fleet, b.view, hours(1))
	if d.Webhook != "sp-validator" {
		t.Errorf("step %q for %q, want the other webhook's turn", d.Step, d.Webhook)
	}
	found := false
	for _, f := range d.Findings {
		found = found || f.ID == "StepFailed" && strings.Contains(f.Message, injector)
	}
	if !found {
		t.Errorf("the failure is not told: %+v", d.Findings)
	}
	// What mends an admission comes before a due issuer.
	b = newHookBench(t)
	b.trust()
	if d := Decide(b.fleet, b.view, hours(84.2)); d.Step != StepRepairTrust {
		t.Errorf("step %q comes first, want %q", d.Step, StepRepairTrust)
	}
}

// Somebody who resets a caBundle again and again is named, and not fought
// without end.
func TestAResetIsNotFoughtForEver(t *testing.T) {
	b := newHookBench(t)
	b.trust()
	b.w.Objects[0].Writers = []Writer{{Name: "argocd-controller", At: hours(1)}}
	b.view.Repairs = map[lane][]time.Time{{StepRepairTrust, injectorConfig}: {hours(0.9), hours(0.95), hours(1).Add(-time.Second / 2)}}
	d := Decide(b.fleet, b.view, hours(1))
	found := false
	for _, f := range d.Findings {
		found = found || f.ID == "RepairHeldBack" && strings.Contains(f.Message, "argocd-controller")
	}
	if d.Step == StepRepairTrust || !found || d.Wake.IsZero() || d.Wake.Sub(hours(1)) > 10*time.Second {
		t.Errorf("step %q, wake %s, findings %+v", d.Step, d.Wake, d.Findings)
	}
}

// What a quiet cluster with six webhooks costs at each look, looking excluded.
func BenchmarkDecideWithWebhooks(b *testing.B) {
	h := newHookBench(b)
	one, evidence := *h.w, h.view.Evidence[injector]
	h.view.Observed.Webhooks = nil
	for _, spec := range LinkerdWebhooks() {
		w := one
		w.Spec.Name, w.Spec.Check = spec.Name, spec.Check
		h.view.Observed.Webhooks = append(h.view.Observed.Webhooks, w)
		h.view.Evidence[spec.Name] = evidence
	}
	for b.Loop() {
		if d := Decide(h.fleet, h.view, hours(0.02)); d.Step != "" || len(d.Probe) > 0 {
			b.Fatalf("step %q, %d to be probed: %+v", d.Step, len(d.Probe), d.Findings)
		}
	}
}
