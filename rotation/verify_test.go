package rotation_test

import (
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/pki"
	"certd.internal/rotation"
)

// another is a trust anchor that is nobody's.
func another(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: name, Lifetime: 300 * day, Backdate: time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each promise is broken in the evidence, one after another, and the verdict on it
// says so, and on no other that does not depend on it.
func TestEachPromiseIsJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east", "west")
		sound := c.loop.Evidence(t.Context())
		c.end()
		now := sound.At
		stranger := another(t, "stranger")
		strange, err := pki.NewBundle(stranger)
		if err != nil {
			t.Fatal(err)
		}
		east := func(e *rotation.Evidence) *rotation.ClusterEvidence { return &e.Clusters[0] }
		// look changes what was seen of east, and leaves the original alone.
		look := func(e *rotation.Evidence, change func(*rotation.Observation)) {
			o := *east(e).Observed
			change(&o)
			east(e).Observed = &o
		}
		entry := func(step rotation.Step, object string, result rotation.Result) rotation.Entry {
			return rotation.Entry{Seq: 7, At: now, Result: result, Intent: rotation.Intent{Step: step, Cluster: "east", Object: object, Wanted: "aa", Writer: "argocd-controller", Key: "k"}}
		}
		for name, row := range map[string]struct {
			change func(*rotation.Evidence)
			want   map[string]rotation.State
			says   string
		}{
			"nothing": {func(*rotation.Evidence) {}, nil, ""},
			"pods trust a stranger alone": {func(e *rotation.Evidence) {
				east(e).Proxies.Sets = append(slices.Clone(east(e).Proxies.Sets), rotation.ProxySet{Anchors: strange, Pods: 2, Owners: []rotation.ProxyOwner{{Namespace: "shop", Kind: "Deployment", Name: "cart", Pods: 2}}})
			}, map[string]rotation.State{"I1": rotation.StateCritical, "I12": rotation.StateUnknown}, `where "stranger" is trusted, by 2 pods of east (shop/Deployment cart)`},
			"a pod cannot be read": {func(e *rotation.Evidence) {
				east(e).Proxies.Unread, east(e).Proxies.Odd = 1, []string{"shop/cart-1: its anchors are empty"}
			}, map[string]rotation.State{"I1": rotation.StateUnknown, "I12": rotation.StateUnknown}, "east: of 1 of 16 meshed pods it could not be seen what they trust: shop/cart-1: its anchors are empty"},
			"the count is old": {func(e *rotation.Evidence) { east(e).Proxies.At = now.Add(-3 * time.Hour) }, map[string]rotation.State{"I1": rotation.StateUnknown, "I12": rotation.StateUnknown}, "east: its meshed pods were last counted 3h 0m ago"},
			"a bundle was there a minute ago that lacks the issuer's anchor": {func(e *rotation.Evidence) {
				east(e).Trail.Bundles = append(slices.Clone(east(e).Trail.Bundles), rotation.PastBundle{Text: strange.PEM(), Until: now.Add(-time.Minute)})
			}, map[string]rotation.State{"I1": rotation.StateUnknown, "I2": rotation.StateCritical, "I12": rotation.StateUnknown}, "a linkerd-identity that starts with {\"stranger\"} would refuse"},
			"such a bundle was there an hour ago": {func(e *rotation.Evidence) {
				east(e).Trail.Bundles = append(slices.Clone(east(e).Trail.Bundles), rotation.PastBundle{Text: strange.PEM(), Until: now.Add(-time.Hour)})
			}, nil, ""},
			"the anchor in use was retired": {func(e *rotation.Evidence) {
				e.Fleet.Anchors = slices.Clone(e.Fleet.Anchors)
				spare := e.Fleet.Anchors[0]
				spare.ID, spare.Certificate = "g2", stranger
				e.Fleet.Anchors[0].RetiredAt = now.Add(-time.Hour)
				e.Fleet.Anchors = append(e.Fleet.Anchors, spare)
			}, map[string]rotation.State{"I1": rotation.StateCritical, "I2": rotation.StateCritical, "I3": rotation.StateCritical}, "a retired anchor alone is trusted by 15 pods"},
			"ten hours are left": {func(e *rotation.Evidence) {
				left := east(e).Observed.IssuerFacts.Chain[0].NotAfter.Add(-10 * time.Hour).Sub(e.At)
				e.At, e.Asked = e.At.Add(left), e.At.Add(left)
				for i := range e.Clusters {
					c := &e.Clusters[i]
					o := *c.Observed
					id := *o.Identity
					id.Replicas = slices.Clone(id.Replicas)
					for k := range id.Replicas {
						id.Replicas[k].At = e.At
					}
					o.At, o.Identity, c.LookedAt, c.Observed = e.At, &id, e.At, &o
					c.Proxies.At = e.At
				}
			}, map[string]rotation.State{"I4": rotation.StateCritical}, "less than the"},
			"the key can be exported": {func(e *rotation.Evidence) {
				e.Keys = []rotation.KeyEvidence{{Anchor: "g1", Info: rotation.KeyInfo{Backend: "vault-transit", Name: "acme-anchor-1", Exportable: true}}}
			}, map[string]rotation.State{"I6": rotation.StateCritical}, "the key acme-anchor-1 of g1 can be exported from vault-transit"},
			"the key is another": {func(e *rotation.Evidence) {
				e.Keys = []rotation.KeyEvidence{{Anchor: "g1", Err: rotation.ErrKeyUnfit}}
			}, map[string]rotation.State{"I6": rotation.StateCritical}, "key unfit"},
			"Vault does not answer": {func(e *rotation.Evidence) {
				e.Keys = []rotation.KeyEvidence{{Anchor: "g1", Err: rotation.ErrUnavailable}}
			}, map[string]rotation.State{"I6": rotation.StateUnknown, "I12": rotation.StateUnknown}, "the key of g1 could not be read"},
			"the chain is broken": {func(e *rotation.Evidence) {
				e.Journal.BadSeq, e.Journal.Problem = 9, "entry 9: its hash does not cover it"
			}, map[string]rotation.State{"I7": rotation.StateCritical}, "entry 9"},
			"the journal cannot be read": {func(e *rotation.Evidence) { e.Journal.Err = errors.New("i/o error") }, map[string]rotation.State{"I7": rotation.StateUnknown, "I9": rotation.StateUnknown, "I10": rotation.StateUnknown, "I12": rotation.StateUnknown}, "i/o error"},
			"the answer to a signature was lost": {func(e *rotation.Evidence) {
				e.Journal.Recent = []rotation.Entry{entry(rotation.StepSign, "", rotation.Unknown), entry(rotation.StepSign, "", rotation.OK)}
			}, map[string]rotation.State{"I7": rotation.StateWarning}, "of 2 signatures of the last day the outcome of 1 is not known (entries 7)"},
			"somebody else wrote": {func(e *rotation.Evidence) {
				look(e, func(o *rotation.Observation) { o.Issuer.Writers = []rotation.Writer{{Name: "helm", At: now}} })
			}, map[string]rotation.State{"I8": rotation.StateWarning}, "east: helm wrote fields of linkerd-identity-issuer"},
			"a later certd wrote": {func(e *rotation.Evidence) {
				look(e, func(o *rotation.Observation) { o.Issuer.Marks.Epoch = e.Fleet.Epoch + 1 })
			}, map[string]rotation.State{"I8": rotation.StateCritical}, "another certd wrote"},
			"an object is fought over": {func(e *rotation.Evidence) {
				e.Journal.Recent = slices.Repeat([]rotation.Entry{entry(rotation.StepRepairBundle, rotation.BundleObject, rotation.OK)}, 7)
			}, map[string]rotation.State{"I9": rotation.StateWarning}, "was repaired 7 times in the last day; last changed by argocd-controller"},
			"a bundle was written twice": {func(e *rotation.Evidence) {
				e.Journal.Recent = slices.Repeat([]rotation.Entry{entry(rotation.StepBundle, rotation.BundleObject, rotation.OK)}, 2)
			}, map[string]rotation.State{"I9": rotation.StateWarning}, "written twice in a row"},
			"a bundle was written, damaged and put back": {func(e *rotation.Evidence) {
				e.Journal.Recent = []rotation.Entry{entry(rotation.StepBundle, rotation.BundleObject, rotation.OK), entry(rotation.StepRepairBundle, rotation.BundleObject, rotation.OK), entry(rotation.StepBundle, rotation.BundleObject, rotation.OK)}
			}, nil, ""},
			"a step was left open": {func(e *rotation.Evidence) {
				e.Journal.Open = []rotation.PendingIntent{{ID: 1, At: now.Add(-time.Hour), Intent: rotation.Intent{Step: rotation.StepBundle, Cluster: "east"}}}
			}, map[string]rotation.State{"I10": rotation.StateWarning}, "east: bundle was begun 1h 0m ago"},
			"a step is under way": {func(e *rotation.Evidence) {
				e.Journal.Open = []rotation.PendingIntent{{ID: 1, At: now.Add(-time.Second), Intent: rotation.Intent{Step: rotation.StepBundle, Cluster: "east"}}}
			}, nil, ""},
			"a cluster waits for its turn": {func(e *rotation.Evidence) {
				east(e).LookedAt, east(e).Waits = e.Asked.Add(-time.Second), true
			}, map[string]rotation.State{"I1": rotation.StateUnknown, "I2": rotation.StateUnknown, "I4": rotation.StateUnknown, "I5": rotation.StateUnknown, "I8": rotation.StateUnknown, "I11": rotation.StateWarning, "I12": rotation.StateUnknown}, "its turn to be looked at has not come"},
			"a partner's anchor is not in the bundle": {func(e *rotation.Evidence) {
				east(e).Policy.Foreign = []rotation.ForeignAnchor{{Name: "acquired", Certificate: stranger}}
			}, map[string]rotation.State{"I1": rotation.StateWarning}, "east: partner mesh acquired: it is not in the bundle"},
		} {
			e := sound
			e.Clusters = slices.Clone(sound.Clusters)
			row.change(&e)
			doc := rotation.Verify(e)
			got := map[string]rotation.State{}
			said := false
			for _, p := range doc.Promises {
				if p.State != rotation.StateOK {
					got[p.ID] = p.State
				}
				for _, line := range slices.Concat(p.Evidence, p.Unseen) {
					said = said || strings.Contains(line, row.says)
				}
			}
			if !maps.Equal(got, row.want) || !said {
				t.Errorf("%s: %v, want %v; said %q: %v", name, got, row.want, row.says, said)
				for _, p := range doc.Promises {
					t.Logf("%s %s: %q %q", p.ID, p.State, p.Evidence, p.Unseen)
				}
			}
		}
	})
}

// A cluster that hangs costs the answer no more than its bound, and nothing of what
// is known of the others.
func TestAClusterThatHangsIsUnknownAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east", "west")
		c.clusters["west"].SetFaults(hang)
		begun := time.Now()
		doc := c.verify()
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		for _, v := range doc.Matrix {
			want := rotation.PairUnknown
			if v.Peer == "east" && v.Verifier == "east" {
				want = rotation.PairAccepted
			}
			if v.State != want {
				t.Errorf("%s -> %s: %s: %s", v.Peer, v.Verifier, v.State, v.Why)
			}
		}
		if doc.State != rotation.StateUnknown || promiseOf(doc, "I11").State != rotation.StateOK || doc.Clusters[1].Answered || !doc.Clusters[0].Answered {
			t.Errorf("%s: %+v, %+v", doc.State, promiseOf(doc, "I11"), doc.Clusters)
		}
		c.clusters["west"].SetFaults(nil)
		time.Sleep(6 * time.Minute)
		if doc := c.verify(); doc.State != rotation.StateOK {
			t.Errorf("west answers again: %s: %+v", doc.State, doc.Promises)
		}
		c.end()
	})
}

// A certd that is told to look changes nothing by it, however often.
func TestVerifyingChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east", "west")
		before, signed := []map[string]int{c.clusters["east"].Writes(), c.clusters["west"].Writes()}, len(c.keys.Signatures())
		for range 30 {
			if doc := c.verify(); doc.State != rotation.StateOK {
				t.Fatalf("%s: %+v", doc.State, doc.Promises)
			}
		}
		if !maps.Equal(before[0], c.clusters["east"].Writes()) || !maps.Equal(before[1], c.clusters["west"].Writes()) || len(c.keys.Signatures()) != signed {
			t.Error("something was written or signed")
		}
		c.end()
	})
}

// Admission is judged by what the replicas serve and what the API servers hold: a
// caBundle that does not go with it is critical, what was not seen is unknown.
func TestAdmissionIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := hooked(t, "east")
		w.ceremony()
		w.helm("east", true)
		w.start()
		time.Sleep(20 * time.Minute)
		sound := w.loop.Evidence(t.Context())
		w.end()
		for name, row := range map[string]struct {
			change func(*rotation.Webhook, *rotation.WebhookEvidence)
			want   rotation.State
			says   string
		}{
			"all is well": {func(*rotation.Webhook, *rotation.WebhookEvidence) {}, rotation.StateOK, "5 of 5 webhooks"},
			"a caBundle was emptied": {func(h *rotation.Webhook, _ *rotation.WebhookEvidence) {
				h.Objects = slices.Clone(h.Objects)
				h.Objects[0].CABundle, h.Objects[0].CAText = pki.CASet{}, nil
			}, rotation.StateCritical, "proxy-injector"},
			"a replica cannot be seen": {func(_ *rotation.Webhook, ev *rotation.WebhookEvidence) {
				ev.Replicas = slices.Clone(ev.Replicas)
				ev.Replicas[0].Served, ev.Replicas[0].Evidence = nil, "connection refused"
			}, rotation.StateUnknown, "connection refused"},
			"the webhook cannot be looked at": {func(h *rotation.Webhook, _ *rotation.WebhookEvidence) {
				*h = rotation.Webhook{Spec: h.Spec, Err: rotation.ErrUnavailable}
			}, rotation.StateUnknown, "unavailable"},
			"what was probed is old": {func(_ *rotation.Webhook, ev *rotation.WebhookEvidence) {
				ev.Replicas = slices.Clone(ev.Replicas)
				for i := range ev.Replicas {
					ev.Replicas[i].At = ev.Replicas[i].At.Add(-time.Hour)
				}
			}, rotation.StateUnknown, "what is served was last seen 1h"},
		} {
			e := sound
			e.Clusters = slices.Clone(sound.Clusters)
			o := *e.Clusters[0].Observed
			o.Webhooks = slices.Clone(o.Webhooks)
			i := slices.IndexFunc(o.Webhooks, func(h rotation.Webhook) bool { return h.Spec.Name == "proxy-injector" })
			evidence := maps.Clone(e.Clusters[0].Evidence)
			ev := evidence["proxy-injector"]
			row.change(&o.Webhooks[i], &ev)
			evidence["proxy-injector"] = ev
			e.Clusters[0].Observed, e.Clusters[0].Evidence = &o, evidence
			p := promiseOf(rotation.Verify(e), "I5")
			if said := strings.Join(slices.Concat(p.Evidence, p.Unseen), "\n"); p.State != row.want || !strings.Contains(said, row.says) {
				t.Errorf("%s: %s, want %s: %s", name, p.State, row.want, said)
			}
		}
	})
}
