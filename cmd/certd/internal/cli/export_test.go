package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"certd.internal/cmd/certd/internal/api"
)

func exported() api.ClusterExport {
	pem := func(s string) string {
		return "-----BEGIN CERTIFICATE-----\n" + s + "\n-----END CERTIFICATE-----\n"
	}
	return api.ClusterExport{APIVersion: "certd/v1", Kind: "ClusterExport", Cluster: "prod-eu-1", Namespace: "linkerd", TrustDomain: "acme.example",
		Webhooks: true, BundlePEM: pem("QU5DSE9S"), WebhookCAPEM: pem("V0VCSE9PSzE=") + pem("V0VCSE9PSzI=")}
}

func documents(t *testing.T, r chartRules, of api.ClusterExport, where placement) []string {
	t.Helper()
	charts, err := r.charts("")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, chart := range charts {
		text, err := r.document(chart, of, where)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

// chartAccepts is what the charts check of one webhook's values
// (linkerd2: charts/partials/templates/_validate.tpl), and what that version
// has a value for.
func chartAccepts(minor int, v map[string]any) error {
	text := func(name string) string { s, _ := v[name].(string); return s }
	external, _ := v["externalSecret"].(bool)
	from, fromSecret, bundle := text("injectCaFrom"), text("injectCaFromSecret"), text("caBundle")
	for name := range v {
		known := map[string]int{"externalSecret": 10, "caBundle": 10, "crtPEM": 10, "keyPEM": 10, "injectCaFrom": 12, "injectCaFromSecret": 12}
		if since := known[name]; since == 0 || minor < since {
			return fmt.Errorf("2.%d has no value %s", minor, name)
		}
	}
	switch inject := from != "" || fromSecret != ""; {
	case from != "" && fromSecret != "":
		return fmt.Errorf("injectCaFrom and injectCaFromSecret")
	case inject && bundle != "":
		return fmt.Errorf("inject and caBundle")
	case inject && !external:
		return fmt.Errorf("inject without externalSecret")
	case external && !inject && bundle == "":
		return fmt.Errorf("externalSecret without a CA")
	case external && (text("crtPEM") != "" || text("keyPEM") != ""):
		return fmt.Errorf("externalSecret with a certificate")
	case !external:
		return fmt.Errorf("Helm would make the Secret")
	case fromSecret != "" && !regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9-]+$`).MatchString(fromSecret):
		return fmt.Errorf("injectCaFromSecret %q", fromSecret)
	}
	return nil
}

func TestHelmValuesAreWhatTheChartsTake(t *testing.T) {
	for minor := oldestMinor; minor <= newestMinor; minor++ {
		all := documents(t, chartRules{minor}, exported(), placement{"viz", "jaeger"})
		if want := 2 + map[bool]int{true: 1}[minor <= 18]; len(all) != want {
			t.Errorf("2.%d: %d charts, want %d", minor, len(all), want)
		}
		found := map[string]map[string]any{}
		for _, text := range all {
			var values map[string]any
			if err := yaml.UnmarshalStrict([]byte(text), &values); err != nil {
				t.Fatalf("2.%d: %v in\n%s", minor, err, text)
			}
			for name, v := range values {
				if webhook, ok := v.(map[string]any); ok && name != "identity" {
					if found[name] = webhook; chartAccepts(minor, webhook) != nil {
						t.Errorf("2.%d: %s: %v", minor, name, chartAccepts(minor, webhook))
					}
				}
			}
			identity, ok := values["identity"].(map[string]any)
			if !ok {
				if values["linkerdNamespace"] != "linkerd" {
					t.Errorf("2.%d: an extension looks for Linkerd in %v", minor, values["linkerdNamespace"])
				}
				continue
			}
			external, there := identity["externalCA"]
			pem := values["identityTrustAnchorsPEM"]
			if there != (minor >= 11) || there && external != true || (pem == "") != (minor >= 11) || values["identityTrustDomain"] != "acme.example" {
				t.Errorf("2.%d: identity %v, identityTrustAnchorsPEM %v", minor, identity, pem)
			}
			if identity["issuer"].(map[string]any)["scheme"] != "kubernetes.io/tls" {
				t.Errorf("2.%d: the issuer is %v", minor, identity["issuer"])
			}
		}
		secrets := map[string]string{"proxyInjector": "linkerd/linkerd-proxy-injector-k8s-tls", "profileValidator": "linkerd/linkerd-sp-validator-k8s-tls",
			"tap": "viz/tap-k8s-tls", "tapInjector": "viz/tap-injector-k8s-tls"}
		if minor >= 11 {
			secrets["policyValidator"] = "linkerd/linkerd-policy-validator-k8s-tls"
		}
		if minor <= 18 {
			secrets["webhook"] = "jaeger/jaeger-injector-k8s-tls"
		}
		for name, secret := range secrets {
			switch v := found[name]; {
			case minor >= 12 && v["injectCaFromSecret"] != secret:
				t.Errorf("2.%d: %s: %v, want %s", minor, name, v, secret)
			case minor < 12 && v["caBundle"] != exported().WebhookCAPEM:
				t.Errorf("2.%d: %s: %v", minor, name, v)
			}
		}
		if len(found) != len(secrets) {
			t.Errorf("2.%d: %d webhooks, want %d", minor, len(found), len(secrets))
		}
	}
}

func TestHelmValuesGolden(t *testing.T) {
	for _, minor := range []int{10, 11, 14, 20} {
		got := strings.Join(documents(t, chartRules{minor}, exported(), placement{"linkerd-viz", "linkerd-jaeger"}), "---\n")
		golden := filepath.Join("testdata", fmt.Sprintf("helm-values-2.%d.golden", minor))
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("2.%d differs from %s:\n%s", minor, golden, got)
		}
	}
}

func TestHelmValuesWithoutWebhooks(t *testing.T) {
	of := exported()
	of.Webhooks, of.WebhookCAPEM = false, ""
	for minor := oldestMinor; minor <= newestMinor; minor++ {
		for _, text := range documents(t, chartRules{minor}, of, placement{"v", "j"}) {
			if strings.Contains(text, "externalSecret") || !strings.Contains(text, "# Webhooks are not certd's here") {
				t.Errorf("2.%d:\n%s", minor, text)
			}
		}
	}
}

func TestRulesOf(t *testing.T) {
	for version, want := range map[string]int{"": 20, "2.10": 10, "2.14": 14, "2.14.1": 14, "v2.12.0": 12, "stable-2.14.1": 14, "stable-2.11": 11, "2.20.3": 20,
		"edge-22.9.1": 18, "edge-25.2.1": 18, "edge-25.9.4": 18, "edge-25.10.1": 20, "edge-26.8.3": 20} {
		if got, err := rulesOf(version); err != nil || got.minor != want {
			t.Errorf("%q: %v, %v, want 2.%d", version, got, err, want)
		}
	}
	for _, version := range []string{"2", "2.9", "2.9.5", "2.21", "3.10", "1.8", "2.x", "2.14.1.1", "stable", "stable-", "edge-25.2", "edge-21.7.5", "edge-25.13.1", "edge-2.14", "2.-1", "2.+14", "latest", "2.99999999999999999999"} {
		if got, err := rulesOf(version); err == nil || codeOf(err) != 64 {
			t.Errorf("%q is taken for %v (%v)", version, got, err)
		}
	}
}

func TestHelmValuesWithoutADaemonSaysSo(t *testing.T) {
	a, out, errs := testApp()
	a.Local = func(context.Context, string, bool) (api.Service, string, func() error, error) {
		return &scripted{st: healthy("prod-eu-1"), anchor: true}, journalNote, func() error { return nil }, nil
	}
	if code := a.run(t.Context(), []string{"export", "helm-values", "prod-eu-1", "--chart", "linkerd-viz"}); code != 0 || !strings.Contains(errs.String(), journalNote) {
		t.Errorf("exit %d, stderr %q", code, errs)
	}
	if !strings.HasPrefix(out.String(), "# linkerd-viz for cluster prod-eu-1.") || strings.Contains(out.String(), "---\n") {
		t.Errorf("stdout %q", out)
	}
}
