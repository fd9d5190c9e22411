package daemon

import (
	"testing"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

func TestWhatIsMissingToRenewWebhooks(t *testing.T) {
	seen := time.Now()
	managed := rotation.WebhookStatus{Name: "tap", Mode: string(rotation.Managed)}
	watched := rotation.WebhookStatus{Name: "proxy-injector", Mode: string(rotation.Watched), Why: "Certificate linkerd/injector issues into its Secret"}
	for _, row := range []struct {
		name    string
		cluster rotation.ClusterStatus
		want    string
	}{
		{"a webhook is there", rotation.ClusterStatus{LastContact: &seen, Webhooks: []rotation.WebhookStatus{watched, managed}}, ""},
		{"the cluster was not seen", rotation.ClusterStatus{}, "has not been seen yet, and so no webhook of it"},
		{"a folder", rotation.ClusterStatus{LastContact: &seen}, "has no webhooks for certd to look after: none can run there, or webhooks.manage is none"},
		{"Linkerd is not installed", rotation.ClusterStatus{LastContact: &seen, Webhooks: []rotation.WebhookStatus{}}, "has no webhooks for certd to look after: nothing that is installed there calls one"},
		{"another issues them", rotation.ClusterStatus{LastContact: &seen, Webhooks: []rotation.WebhookStatus{watched}}, "has no webhooks for certd to look after; they are watched only (proxy-injector: Certificate linkerd/injector issues into its Secret)"},
	} {
		if got := noWebhooks(row.cluster); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

func TestADryRunSaysWhatWouldBe(t *testing.T) {
	c := rotation.ClusterStatus{Webhooks: []rotation.WebhookStatus{{Name: "tap", Mode: "managed"}, {Name: "quota", Mode: "watched"}, {Name: "proxy-injector", Mode: "managed"}},
		WebhookCA: &rotation.WebhookCAStatus{AnchorStatus: rotation.AnchorStatus{ID: "w3"}}}
	for target, want := range map[rotation.Target]string{
		rotation.TargetIssuer:    "would be given a new issuer now",
		rotation.TargetWebhooks:  "would be given a new certificate now for each of: tap, proxy-injector",
		rotation.TargetWebhookCA: "would be given a new webhook CA now, and under it a new certificate for each of: tap, proxy-injector; w3 stays trusted until each replica is proved to serve under the new one",
	} {
		if got := wouldBe(target, c); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

func TestTheTrustListIsWhatTheJournalKnows(t *testing.T) {
	c := loadText(t, head+"keys: {file: {dir: keys, passphraseFrom: {file: passphrase}}}\nclusters:\n  - {name: east, directory: east}\n  - {name: west, directory: west}\n")
	j, err := state.Open(c.StateDir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s := &offline{fleet: &fleet{journal: j, config: c}, now: time.Now}
	if list, err := s.Trust(t.Context()); err != nil || list.Items == nil || len(list.Items) != 0 || list.Clusters != 2 || list.Unseen != 2 || list.Source != "journal" {
		t.Errorf("before certd init: %+v, %v", list, err)
	}
	start := time.Date(2026, 11, 22, 10, 40, 0, 0, time.UTC)
	certs := []rotation.Anchor{
		{ID: "g1", Key: "k1", Backend: "file", Exportable: true, Certificate: selfSigned(t, "one"), CreatedAt: start, RetiredAt: start.Add(time.Hour)},
		{ID: "g2", Key: "k2", Backend: "file", Exportable: true, Certificate: selfSigned(t, "two"), CreatedAt: start, CheckedAt: start},
		{ID: "g3", Key: "k3", Backend: "file", Exportable: true, Certificate: selfSigned(t, "three"), CreatedAt: start.Add(time.Minute)},
		{ID: "g4", Key: "k4", CreatedAt: start.Add(2 * time.Minute)},
	}
	for _, a := range certs {
		id, err := j.Begin(rotation.Intent{Step: rotation.StepAnchor, Actor: "certd", Reason: "test", Anchor: a.ID})
		if err == nil {
			err = j.Finish(id, rotation.Outcome{Result: rotation.OK, Anchor: &a})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(anchors ...rotation.Anchor) *rotation.BundleStatus {
		b := &rotation.BundleStatus{}
		for _, a := range anchors {
			b.Anchors = append(b.Anchors, rotation.AnchorRef{SHA256: pki.Fingerprint(a.Certificate)})
		}
		return b
	}
	list, err := s.trustList(rotation.FleetStatus{Fleet: "acme", Source: "daemon", ObservedAt: start, Clusters: []rotation.ClusterStatus{
		{Name: "east", Bundle: in(certs[2], certs[1])}, {Name: "west", Bundle: in(certs[1])}, {Name: "north"}}})
	if err != nil || len(list.Items) != 4 || list.Clusters != 3 || list.Unseen != 1 || list.Kind != "TrustList" || list.APIVersion != "certd/v1" {
		t.Fatalf("%+v, %v", list, err)
	}
	for i, want := range []struct {
		id, state, subject string
		clusters           int
	}{{"g4", api.AnchorUnsigned, "", 0}, {"g3", api.AnchorActive, "three", 1}, {"g2", api.AnchorTrusted, "two", 2}, {"g1", api.AnchorRetired, "one", 0}} {
		got := list.Items[i]
		if got.ID != want.id || got.State != want.state || got.Subject != want.subject || got.Clusters != want.clusters {
			t.Errorf("item %d: %+v, want %+v", i, got, want)
		}
		if signed := want.subject != ""; signed != (got.CertificatePEM != "") || signed == got.NotAfter.IsZero() || signed != (got.SHA256 != "") || signed != got.Key.Exportable {
			t.Errorf("%s: %+v", want.id, got)
		}
	}
	if g2, g1 := list.Items[2], list.Items[3]; g2.Key.CheckedAt == nil || g1.Key.CheckedAt != nil || !g1.RetiredAt.Equal(start.Add(time.Hour)) || !g2.RetiredAt.IsZero() {
		t.Errorf("when: %+v %+v", g2, g1)
	}
}
