package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// hooked is a healthy fleet whose clusters have the webhooks of Linkerd and of
// viz; stage has none, and vm-pool is a folder, where none can run.
func hooked() rotation.FleetStatus {
	st := healthy("prod-eu-1", "prod-us-1", "stage-eu-1", "vm-pool")
	for i := range st.Clusters {
		c := &st.Clusters[i]
		switch c.Name {
		case "vm-pool":
			continue
		case "stage-eu-1":
			c.Webhooks = []rotation.WebhookStatus{}
			continue
		}
		c.WebhookCA = &rotation.WebhookCAStatus{AnchorStatus: rotation.AnchorStatus{ID: "w1", Subject: "webhooks.acme-mesh." + c.Name + " 2026-1", NotBefore: now.Add(-69 * day), NotAfter: now.Add(661 * day), SHA256: digest,
			Key: rotation.KeyStatus{Backend: "vault-transit", Name: "acme-mesh-webhook-" + c.Name + "-1"}}, NextRun: after(481 * day)}
		for n, w := range []struct{ name, kind string }{
			{"proxy-injector", "mutating"}, {"sp-validator", "validating"}, {"policy-validator", "validating"},
			{"tap", "apiservice"}, {"tap-injector", "mutating"}, {"jaeger-injector", "mutating"},
		} {
			end := after(28*day + time.Duration(3+i+n)*hour)
			c.Webhooks = append(c.Webhooks, rotation.WebhookStatus{Name: w.name, Kind: w.kind, Namespace: "linkerd", Secret: "linkerd-" + w.name + "-k8s-tls", Mode: "managed",
				Delivered: &rotation.Delivered{Serial: fmt.Sprintf("7c02%028x", 16*i+n), SHA256: digest, NotBefore: now.Add(-2 * day), NotAfter: *end, Anchor: "w1"},
				Served:    &rotation.Loaded{State: "yes", NotAfter: end, Evidence: "tls", At: after(-time.Minute)},
				Check:     &rotation.CheckStatus{State: "yes", Evidence: "dry-run pod", At: after(-time.Minute)},
				CABundle:  rotation.CABundleStatus{Current: true, Accepts: true, CAs: []rotation.AnchorRef{{ID: "w1", Subject: c.WebhookCA.Subject, SHA256: digest, NotAfter: c.WebhookCA.NotAfter}}, SHA256: digest},
				Ignored:   w.kind == "mutating", RenewAt: after(13 * day), MustRenewBy: after(14 * day), NextRun: after(11*day + 15*hour + 50*time.Minute)})
		}
	}
	st.Conclude()
	return st
}

// hook changes one webhook of prod-eu-1, and what is said about it.
func hook(name string, change func(*rotation.WebhookStatus), findings ...rotation.Finding) rotation.FleetStatus {
	st := hooked()
	c := &st.Clusters[0]
	for i := range c.Webhooks {
		if c.Webhooks[i].Name == name {
			change(&c.Webhooks[i])
		}
	}
	c.Findings = append(c.Findings, findings...)
	for _, f := range findings {
		if c.State != rotation.StateCritical {
			c.State = f.Severity
		}
	}
	st.Conclude()
	return st
}

func notServed() rotation.FleetStatus {
	return hook("proxy-injector", func(w *rotation.WebhookStatus) {
		w.Served = &rotation.Loaded{State: "no", NotAfter: after(13*day + 2*hour), Serial: "31aa000000000000000000000000007f", Evidence: "linkerd-proxy-injector-7c9d8b6f5-x2x4k serves another certificate", At: after(-time.Minute)}
	}, rotation.Finding{ID: "WebhookNotServed", Severity: rotation.StateWarning, Message: "the certificate of proxy-injector was delivered 12m ago, and linkerd-proxy-injector-7c9d8b6f5-x2x4k serves another certificate",
		Deadline: after(13*day + 2*hour), Fix: "kubectl -n linkerd rollout restart deployment/linkerd-proxy-injector"})
}

func untrusted() rotation.FleetStatus {
	return hook("proxy-injector", func(w *rotation.WebhookStatus) {
		w.CABundle = rotation.CABundleStatus{CAs: []rotation.AnchorRef{{Subject: "linkerd-proxy-injector.linkerd.svc", SHA256: digest, NotAfter: now.Add(365 * day)}}, SHA256: digest}
		w.Check = &rotation.CheckStatus{State: "no", Evidence: "the pod came back without a proxy", At: after(-time.Minute)}
	}, rotation.Finding{ID: "WebhookUntrusted", Severity: rotation.StateCritical, Message: "what proxy-injector serves is not accepted under the caBundle of MutatingWebhookConfiguration/linkerd-proxy-injector-webhook-config: " +
		"x509: certificate signed by unknown authority; the API server goes on without it and tells nobody (failurePolicy Ignore): pods start without a proxy", Fix: "certd history --cluster prod-eu-1"})
}

func managedElsewhere() rotation.FleetStatus {
	return hook("tap", func(w *rotation.WebhookStatus) {
		*w = rotation.WebhookStatus{Name: w.Name, Kind: w.Kind, Namespace: "linkerd-viz", Secret: "tap-k8s-tls", Mode: "watched", Why: "Certificate linkerd-viz/tap issues into Secret linkerd-viz/tap-k8s-tls",
			Delivered: &rotation.Delivered{Serial: "09", SHA256: digest, NotBefore: now.Add(-day), NotAfter: now.Add(89 * day)},
			CABundle:  rotation.CABundleStatus{Current: true, Accepts: true, CAs: []rotation.AnchorRef{{Subject: "webhook.linkerd.cluster.local", SHA256: digest, NotAfter: now.Add(365 * day)}}, SHA256: digest}}
	}, rotation.Finding{ID: "WebhookManagedElsewhere", Severity: rotation.StateWarning,
		Message: "webhook tap: Certificate linkerd-viz/tap issues into Secret linkerd-viz/tap-k8s-tls: delete it, and certd takes over without a failed admission", Fix: "kubectl -n linkerd-viz delete certificate tap"})
}

// twoCAs is prod-eu-1 while a new webhook CA takes the place of the old one:
// trusted everywhere, and served by the first webhook, whose pods take it up.
func twoCAs() rotation.FleetStatus {
	st := hooked()
	c := &st.Clusters[0]
	old := c.Webhooks[0].CABundle.CAs[0]
	c.WebhookCA.ID, c.WebhookCA.Subject = "w2", "webhooks.acme-mesh.prod-eu-1 2026-2"
	c.WebhookCA.NotBefore, c.WebhookCA.NotAfter = now.Add(-time.Hour), now.Add(730*day)
	c.WebhookCA.Key.Name = "acme-mesh-webhook-prod-eu-1-2"
	for i := range c.Webhooks {
		c.Webhooks[i].CABundle.CAs = []rotation.AnchorRef{{ID: "w2", Subject: c.WebhookCA.Subject, SHA256: digest, NotAfter: c.WebhookCA.NotAfter}, old}
	}
	w := &c.Webhooks[0]
	w.Served = &rotation.Loaded{State: "no", NotAfter: after(28 * day), Evidence: "linkerd-proxy-injector-7c9d8b6f5-x2x4k serves another certificate", At: after(-time.Second)}
	w.Delivered.Anchor, w.Delivered.NotAfter = "w2", now.Add(30*day)
	c.NextStep = &rotation.PlanItem{Cluster: c.Name, Step: rotation.StepWebhook, Webhook: "sp-validator", Due: now, At: now, Reason: "its certificate is under webhook CA w1, and w2 has taken its place"}
	st.Conclude()
	return st
}

func expired() rotation.FleetStatus {
	return hook("proxy-injector", func(w *rotation.WebhookStatus) {
		w.Delivered.NotAfter, w.Served.NotAfter = now.Add(-3*hour), after(-3*hour)
	}, rotation.Finding{ID: "WebhookExpired", Severity: rotation.StateCritical, Message: "the certificate of proxy-injector ended 3h ago: the API server goes on without it and tells nobody (failurePolicy Ignore): pods start without a proxy",
		Deadline: after(-3 * hour), Fix: "certd rotate webhooks prod-eu-1"})
}

func TestWebhooksOnTheScreen(t *testing.T) {
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow, wide, ascii := plain, plain, plain
	narrow.width, wide.width, ascii.ascii = 80, 160, true
	for _, row := range []struct {
		name  string
		style style
		doc   rotation.FleetStatus
		wide  bool
		one   bool // certd status prod-eu-1
	}{
		{"healthy", plain, hooked(), false, false},
		{"healthy-80", narrow, hooked(), false, false},
		{"healthy-ascii", ascii, hooked(), false, false},
		{"healthy-wide-160", wide, hooked(), true, false},
		{"healthy-one", plain, hooked(), false, true},
		{"healthy-one-80-ascii", style{zone: time.UTC, now: now, width: 80, ascii: true}, hooked(), false, true},
		{"not-served", plain, notServed(), false, false},
		{"not-served-one", plain, notServed(), false, true},
		{"untrusted", plain, untrusted(), false, false},
		{"untrusted-one", plain, untrusted(), false, true},
		{"expired", plain, expired(), false, false},
		{"elsewhere", plain, managedElsewhere(), false, false},
		{"elsewhere-one", plain, managedElsewhere(), false, true},
		{"two-cas", plain, twoCAs(), false, false},
		{"two-cas-one", plain, twoCAs(), false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			v := statusView{style: row.style, doc: row.doc, wide: row.wide}
			if row.one {
				var err error
				if v.doc, err = narrowed(row.doc, []string{"prod-eu-1"}, ""); err != nil {
					t.Fatal(err)
				}
				v.all = true
			}
			lines := v.lines()
			for _, l := range lines {
				if problem := misfit(l, row.style); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
			golden(t, "webhooks-"+row.name, lines)
		})
	}
}

// A cluster that cannot be seen has webhooks of which nothing is known, and a
// webhook in trouble does not put the issuer in doubt.
func TestMarksStandWhereTheTroubleIs(t *testing.T) {
	for _, row := range []struct {
		name             string
		findings         []rotation.Finding
		issuer, webhooks rotation.State
	}{
		{"nothing is wrong", nil, rotation.StateOK, rotation.StateOK},
		{"a webhook", []rotation.Finding{{ID: "WebhookOverdue", Severity: rotation.StateWarning}}, rotation.StateOK, rotation.StateWarning},
		{"pods that trust other anchors", []rotation.Finding{{ID: "ProxiesStale", Severity: rotation.StateWarning}}, rotation.StateOK, rotation.StateOK},
		{"the issuer", []rotation.Finding{{ID: "IssuerExpired", Severity: rotation.StateCritical}}, rotation.StateCritical, rotation.StateOK},
		{"both", []rotation.Finding{{ID: "RenewalOverdue", Severity: rotation.StateWarning}, {ID: "WebhookExpired", Severity: rotation.StateCritical}}, rotation.StateWarning, rotation.StateCritical},
		{"the way to it", []rotation.Finding{{ID: "ClusterUnreachable", Severity: rotation.StateUnknown}}, rotation.StateUnknown, rotation.StateUnknown},
	} {
		c := hooked().Clusters[0]
		c.Findings = row.findings
		if problems := gather(row.findings, nil); len(problems) > 0 {
			c.State = problems[0].Severity
		}
		if issuer, webhooks := issuerState(c), webhookState(c); issuer != row.issuer || webhooks != row.webhooks {
			t.Errorf("%s: issuer %s, webhooks %s; want %s, %s", row.name, issuer, webhooks, row.issuer, row.webhooks)
		}
	}
}

func TestThePlanOfWebhooks(t *testing.T) {
	p := plan()
	p.Items, p.Breaks = nil, nil
	for _, c := range hooked().Clusters[:2] {
		for i, w := range c.Webhooks {
			for n := range 6 {
				at := now.Add(time.Duration(11+15*n)*day + 15*hour + 50*time.Minute)
				if c.Name == "prod-us-1" && n > 1 {
					break
				}
				if w.Name == "tap" && c.Name == "prod-us-1" {
					at = at.Add(day) // made by itself, and so due by itself
				}
				p.Items = append(p.Items, rotation.PlanItem{Cluster: c.Name, Step: rotation.StepWebhook, Webhook: w.Name, Due: at, At: at, Reason: `schedule "30 3 * * *"; the floor is 7 Dec 11:40`})
			}
			if c.Name == "prod-eu-1" || i < 1 {
				p.Breaks = append(p.Breaks, rotation.Break{Cluster: c.Name, Kind: "webhook", Name: w.Name, At: now.Add(28 * day)})
			}
		}
		p.Items = append(p.Items, rotation.PlanItem{Cluster: c.Name, Step: rotation.StepWebhookCA, Due: now.Add(80 * day), At: now.Add(81 * day), Reason: `schedule "30 3 * * *"; the floor is 20 Aug 2028 11:40`})
	}
	p.Breaks = append(p.Breaks, rotation.Break{Cluster: "prod-us-1", Kind: "webhook", Name: "tap", At: now.Add(30 * day)}, rotation.Break{Cluster: "prod-eu-1", Kind: "issuer", Name: "linkerd-identity-issuer", At: now.Add(117 * day)})
	plain := style{zone: berlin(t), now: now, width: 100}
	narrow := plain
	narrow.width = 80
	for name, s := range map[string]style{"": plain, "-80": narrow} {
		golden(t, "webhooks-plan"+name, planView{style: s, doc: p, ifStopped: true}.lines())
	}
}

func TestTheHistoryOfWebhooks(t *testing.T) {
	items := entries()[1:2]
	for i, step := range []rotation.Step{rotation.StepWebhookCA, rotation.StepWebhookTrust, rotation.StepWebhook, rotation.StepWebhookReload, rotation.StepWebhookRetire} {
		h := items[0]
		h.Seq, h.Step, h.At, h.IntentAt = uint64(3+i), step, h.At.Add(time.Duration(i)*time.Minute), h.IntentAt.Add(time.Duration(i)*time.Minute)
		h.Serial, h.Reason = "", "asked for: drill"
		if step != rotation.StepWebhookCA {
			h.Webhook = "proxy-injector"
		}
		if step == rotation.StepWebhook || step == rotation.StepWebhookCA {
			h.Serial = "7c020000000000000000000000000001"
		}
		items = append(items, h)
	}
	s := style{zone: berlin(t), now: now, width: 100}
	lines := historyView{style: s, items: items}.table("")
	for _, h := range items {
		lines = append(lines, historyView{style: s}.line(h)...)
	}
	golden(t, "webhooks-history", lines)
}

// serving is a webhook CA and a certificate under it, with its key's PEM.
func serving(t *testing.T, generation int) (ca, leaf string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := pki.GenerateKey()
	check(err)
	anchor, err := pki.SelfSignAnchor(now.Add(-hour), pki.AnchorProfile{CommonName: pki.WebhookCACommonName("acme-mesh", "east", 2026, generation), Lifetime: 730 * day, Backdate: time.Minute}, root)
	check(err)
	key, err := pki.GenerateKey()
	check(err)
	template, err := pki.NewServingTemplate(now.Add(-hour), pki.ServingProfile{DNSNames: []string{"linkerd-proxy-injector.linkerd.svc"}, Lifetime: 30 * day, Backdate: time.Minute}, anchor)
	check(err)
	c, err := pki.SignServing(template, anchor, key.PublicKey(), root)
	check(err)
	return string(pki.EncodeCertificates(anchor)), string(pki.EncodeCertificates(c))
}

func TestInspectExplainsAWebhook(t *testing.T) {
	ca, leaf := serving(t, 1)
	otherCA, other := serving(t, 2)
	m := issued(t, now.Add(-hour))
	injector := func(change func(*api.Webhook)) []byte {
		w := api.Webhook{APIVersion: rotation.APIVersion, Kind: "Webhook", Name: "proxy-injector", Secret: "linkerd/linkerd-proxy-injector-k8s-tls", DNSName: "linkerd-proxy-injector.linkerd.svc", Chain: leaf, CAs: ca,
			Objects:  []api.WebhookObject{{Object: "MutatingWebhookConfiguration/linkerd-proxy-injector-webhook-config", CABundle: ca, Ignored: true}},
			Replicas: []api.WebhookReplica{{Pod: "linkerd-proxy-injector-7c9d8b6f5-x2x4k", Chain: leaf, Evidence: "tls"}},
			Check:    &rotation.CheckStatus{State: "yes", Evidence: "dry-run pod"}}
		if change != nil {
			change(&w)
		}
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, "\n---\n"...)
	}
	for _, row := range []struct {
		name  string
		input []byte
		roles string
		says  []string
	}{
		{"all is well", injector(nil), "leaf anchor", []string{
			"✓ webhook proxy-injector can serve with Secret linkerd/linkerd-proxy-injector-k8s-tls: its key is its own",
			"✓ accepted under the caBundle of MutatingWebhookConfiguration/linkerd-proxy-injector-webhook-config as linkerd-proxy-injector.linkerd.svc",
			"✓ linkerd-proxy-injector-7c9d8b6f5-x2x4k serves it (tls)", "✓ does its work, as tried now: dry-run pod", "the signature holds"}},
		{"the caBundle is another's", injector(func(w *api.Webhook) { w.Objects[0].CABundle = otherCA }), "leaf anchor anchor", []string{
			"✗ not accepted under the caBundle of", "unknown authority", "failurePolicy is Ignore", "✗ linkerd-proxy-injector-7c9d8b6f5-x2x4k serves it (tls); the API server does not accept it"}},
		{"the caBundle is empty", injector(func(w *api.Webhook) { w.Objects[0].CABundle = "" }), "leaf anchor", []string{"✗ not accepted under the caBundle of", "it is empty"}},
		{"a CA takes another's place", injector(func(w *api.Webhook) {
			w.Objects[0].CABundle += otherCA
			w.Chain = other
		}), "leaf anchor anchor leaf", []string{"! linkerd-proxy-injector-7c9d8b6f5-x2x4k serves another certificate", "the API server accepts it, too"}},
		{"a pod that cannot be seen", injector(func(w *api.Webhook) {
			w.Replicas[0].Chain, w.Replicas[0].Evidence = "", "not permitted: create pods/portforward"
			w.Check = &rotation.CheckStatus{State: "unknown", Evidence: "not permitted: create pods"}
		}), "leaf anchor", []string{"? what linkerd-proxy-injector-7c9d8b6f5-x2x4k serves cannot be seen: not permitted", "? whether it does its work could not be seen"}},
		{"no pod", injector(func(w *api.Webhook) { w.Replicas = []api.WebhookReplica{} }), "leaf anchor", []string{"? no pod serves it"}},
		{"no Secret", injector(func(w *api.Webhook) {
			w.Chain, w.CAs, w.Problem, w.Objects[0].CABundle, w.Replicas = "", "", "it does not exist", "", nil
		}), "", []string{"✗ webhook proxy-injector cannot serve with Secret linkerd/linkerd-proxy-injector-k8s-tls: it does not exist"}},
		{"a name that it is not called by", injector(func(w *api.Webhook) { w.DNSName = "tap.linkerd-viz.svc" }), "leaf anchor", []string{"✗ not accepted under", "valid for linkerd-proxy-injector.linkerd.svc, not tap.linkerd-viz.svc"}},
		{"with what else a cluster has", append(append(secret(map[string][]byte{"tls.crt": m.issuer, "ca.crt": m.anchor}), "\n---\n"...), injector(func(w *api.Webhook) { w.Replicas, w.Check = nil, nil })...), "anchor issuer leaf anchor", []string{
			"usable as a Linkerd issuer: yes", "usable as a Linkerd trust bundle: yes, 1 anchor", "(proxy-injector/tls.crt)", "⋅ what the webhooks' pods serve was not asked", "→ certd inspect east/webhook/proxy-injector"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			doc, err := inspect("east", row.input, now)
			if err != nil {
				t.Fatal(err)
			}
			var roles []string
			for _, c := range doc.Certificates {
				roles = append(roles, c.Role)
			}
			if got := strings.Join(roles, " "); got != row.roles {
				t.Errorf("roles %q, want %q", got, row.roles)
			}
			if row.roles == "leaf anchor" && (doc.Issuer != nil || doc.Bundle != nil) {
				t.Errorf("a webhook's certificates are judged as a mesh's: %+v %+v", doc.Issuer, doc.Bundle)
			}
			s := style{zone: time.UTC, now: now, width: 100}
			lines := s.inspection(doc)
			text := strings.Join(strings.Fields(strings.Join(lines, "\n")), " ")
			for _, want := range row.says {
				if !strings.Contains(text, want) {
					t.Errorf("it does not say %q:\n%s", want, strings.Join(lines, "\n"))
				}
			}
			for _, l := range lines {
				if problem := misfit(l, s); problem != "" {
					t.Errorf("%s in %q", problem, l)
				}
			}
		})
	}
}

func TestInspectOfAWebhookOnTheScreen(t *testing.T) {
	end := now.Add(13 * day)
	doc := Inspection{Source: "prod-eu-1/webhook/proxy-injector", Certificates: []Inspected{
		{From: []string{"tls.crt"}, Role: "leaf", Subject: "CN=linkerd-proxy-injector.linkerd.svc", Issuer: "CN=webhooks.acme-mesh.prod-eu-1 2026-1", KeyType: "ECDSA P-256", Names: []string{"linkerd-proxy-injector.linkerd.svc"},
			Serial: "7c020000000000000000000000000001", SKI: digest[:40], AKI: digest[8:48], NotBefore: now.Add(-day), NotAfter: now.Add(28*day + 3*hour), SHA256: digest, SignedBy: digest[2:] + "00"},
		{From: []string{"ca.crt", "caBundle"}, Role: "anchor", Subject: "CN=webhooks.acme-mesh.prod-eu-1 2026-1", Issuer: "CN=webhooks.acme-mesh.prod-eu-1 2026-1", KeyType: "ECDSA P-256", CA: true, PathLength: new(int),
			Serial: "01", SKI: digest[8:48], AKI: digest[8:48], NotBefore: now.Add(-day), NotAfter: now.Add(661 * day), SHA256: digest[2:] + "00", SignedBy: digest[2:] + "00"},
	}, Webhooks: []WebhookVerdict{{Name: "proxy-injector", Secret: "linkerd/linkerd-proxy-injector-k8s-tls", DNSName: "linkerd-proxy-injector.linkerd.svc", Serves: Judgement{true, "its key is its own"},
		Objects: []ObjectVerdict{{"MutatingWebhookConfiguration/linkerd-proxy-injector-webhook-config", Judgement{true, "as linkerd-proxy-injector.linkerd.svc"}, true}},
		Replicas: []ReplicaVerdict{{Pod: "linkerd-proxy-injector-7c9d8b6f5-aaaaa", State: "yes", Evidence: "tls"},
			{Pod: "linkerd-proxy-injector-7c9d8b6f5-bbbbb", State: "no", Evidence: "port-forward", Serial: "31aa000000000000000000000000007f", NotAfter: &end, Accepted: &Judgement{true, ""}},
			{Pod: "linkerd-proxy-injector-7c9d8b6f5-ccccc", State: "unknown", Evidence: "not permitted: create pods/portforward in linkerd"}},
		Check: &rotation.CheckStatus{State: "yes", Evidence: "dry-run pod"}}}}
	golden(t, "webhooks-inspect", style{zone: berlin(t), now: now, width: 100}.inspection(doc))
}
