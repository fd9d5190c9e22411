package daemon

import (
	"testing"
	"time"

	"certd.internal/rotation"
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
