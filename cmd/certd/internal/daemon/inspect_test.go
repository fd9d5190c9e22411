package daemon

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

func TestAWebhookIsFoundByName(t *testing.T) {
	at := []rotation.WebhookObject{{Ref: rotation.ObjectRef{Kind: rotation.KindAPIService, Name: "v1alpha1.tap.linkerd.io"}}}
	o := rotation.Observation{Webhooks: []rotation.Webhook{
		{Spec: rotation.WebhookSpec{Name: "proxy-injector", Namespace: "linkerd", Secret: "injector-tls", DNSNames: []string{"linkerd-proxy-injector.linkerd.svc"}}, Objects: at},
		{Spec: rotation.WebhookSpec{Name: "jaeger-injector"}}, // not installed
		{Spec: rotation.WebhookSpec{Name: "tap"}, Err: rotation.ErrDenied},
	}}
	for _, row := range []struct {
		name, says string
		is         error
	}{
		{"proxy-injector", "", nil},
		{"jaeger-injector", `cluster east has no webhook "jaeger-injector", but proxy-injector, tap`, api.ErrUsage},
		{"", `cluster east has no webhook "", but proxy-injector, tap`, api.ErrUsage},
		{"tap", "look at webhook tap of cluster east", api.ErrDenied},
	} {
		w, err := webhookNamed(o, "east", row.name)
		if !errors.Is(err, row.is) || err != nil && !strings.Contains(err.Error(), row.says) || err == nil && w.Spec.Name != row.name {
			t.Errorf("%q: %s %v", row.name, w.Spec.Name, err)
		}
	}
	if _, err := webhookNamed(rotation.Observation{}, "east", "tap"); !errors.Is(err, api.ErrUsage) || !strings.Contains(err.Error(), "has no webhooks") {
		t.Errorf("a folder: %v", err)
	}

	doc := webhookDocument(o.Webhooks[0])
	if b, err := json.Marshal(doc); err != nil || strings.Contains(string(b), "replicas") {
		t.Errorf("pods that were not asked are in it: %s %v", b, err)
	}
	addEvidence(&doc, rotation.WebhookEvidence{Check: rotation.WebhookCheck{State: "unknown", Evidence: "denied"}})
	if doc.Problem != "it does not exist" || doc.Replicas == nil || doc.Check == nil || doc.Check.State != "unknown" || doc.Secret != "linkerd/injector-tls" {
		t.Errorf("%+v", doc)
	}
}

func TestWithoutCertificatesThereIsNothingToExplain(t *testing.T) {
	for _, part := range []string{"", "issuer", "bundle"} {
		if text, err := certificatesOf(rotation.Observation{}, "linkerd", part); err == nil {
			t.Errorf("part %q: %s", part, text)
		}
	}
	text, err := certificatesOf(rotation.Observation{BundleText: []byte("a\xff\r\n---\n")}, "linkerd", "")
	if err != nil || strings.Count(string(text), "\n---\n") != 1 {
		t.Errorf("%q: %v", text, err)
	}
}
