package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// install is what a run of install-webhooks would write, by kind and name.
func install(t *testing.T, change func(*webhookOptions)) map[string]*unstructured.Unstructured {
	t.Helper()
	o := webhookOptions{component: "control-plane", Namespace: "linkerd", Name: "gatekeeper", Container: "webhook", Replicas: 3, FailurePolicy: "Fail", Port: 8443, tls: selfSigned}
	if change != nil {
		change(&o)
	}
	m, err := o.objects()
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]*unstructured.Unstructured{}
	for _, object := range m {
		objects[object.GetKind()+" "+object.GetName()] = object
	}
	return objects
}

func component(name, namespace string) func(*webhookOptions) {
	return func(o *webhookOptions) { o.component, o.Namespace = name, namespace }
}

// caBundle is the one caBundle of a configuration, "" if it has none.
func caBundle(object *unstructured.Unstructured) string {
	holders := withCABundle(object)
	text, _ := holders[0]["caBundle"].(string)
	return text
}

// The names are those that certd, and linkerd check, look for.
func TestEachComponentHasItsSecretsAndConfigurations(t *testing.T) {
	for name, want := range map[string][]string{
		"control-plane linkerd": {
			"linkerd-policy-validator-k8s-tls for ValidatingWebhookConfiguration linkerd-policy-validator-webhook-config",
			"linkerd-proxy-injector-k8s-tls for MutatingWebhookConfiguration linkerd-proxy-injector-webhook-config",
			"linkerd-sp-validator-k8s-tls for ValidatingWebhookConfiguration linkerd-sp-validator-webhook-config"},
		"viz linkerd-viz": {
			"tap-injector-k8s-tls for MutatingWebhookConfiguration linkerd-tap-injector-webhook-config",
			"tap-k8s-tls for APIService v1alpha1.tap.linkerd.io"},
		"jaeger linkerd-jaeger": {"jaeger-injector-k8s-tls for MutatingWebhookConfiguration linkerd-jaeger-injector-webhook-config"},
		"custom gatekeeper":     {"gatekeeper for ValidatingWebhookConfiguration gatekeeper"},
		"custom elsewhere":      {"gatekeeper for ValidatingWebhookConfiguration gatekeeper"},
	} {
		t.Run(name, func(t *testing.T) {
			of, namespace, _ := strings.Cut(name, " ")
			objects := install(t, component(of, namespace))
			bundles := map[string]string{}
			for name, object := range objects {
				if service := calledService(object); service != "" {
					bundles[caBundle(object)] = name
					if at := objects["Service "+service]; at == nil || at.GetNamespace() != namespace {
						t.Errorf("%s calls a Service %s that is not there", name, service)
					}
				}
			}
			var got []string
			for _, object := range objects {
				if object.GetKind() != "Secret" {
					continue
				}
				if object.GetNamespace() != namespace {
					t.Errorf("%s is in %s", object.GetName(), object.GetNamespace())
				}
				cert, _, _ := unstructured.NestedString(object.Object, "data", "tls.crt")
				got = append(got, object.GetName()+" for "+bundles[cert])
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestSelfSignedIsWhatHelmMakes(t *testing.T) {
	secret := install(t, nil)["Secret linkerd-proxy-injector-k8s-tls"]
	part := func(name string) []byte {
		text, _, err := unstructured.NestedString(secret.Object, "data", name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := tls.X509KeyPair(part("tls.crt"), part("tls.key")); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(string(part("tls.crt")), "\n") {
		t.Error("the chart trims the certificate")
	}
	block, _ := pem.Decode(part("tls.crt"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "linkerd-proxy-injector.linkerd.svc"}); err != nil {
		t.Error(err)
	}
	if cert.IsCA || cert.NotAfter.Sub(cert.NotBefore) != 365*24*time.Hour || time.Since(cert.NotBefore) > time.Minute {
		t.Errorf("CA %v, from %v to %v", cert.IsCA, cert.NotBefore, cert.NotAfter)
	}
}

// What an upgrade does to what is there: certd has written a caBundle, others
// an annotation, and the API server its defaults.
func TestAnUpgradeWritesWhatHelmWould(t *testing.T) {
	const config, secret, deployment = "MutatingWebhookConfiguration linkerd-proxy-injector-webhook-config", "Secret linkerd-proxy-injector-k8s-tls", "Deployment linkerd-proxy-injector"
	with := func(tls, lag string) map[string]*unstructured.Unstructured {
		return install(t, func(o *webhookOptions) { o.tls, o.lag = tls, lag })
	}
	there := func(tls string) *unstructured.Unstructured {
		object := with(tls, "")[config]
		object.SetResourceVersion("7")
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations["their"] = "own"
		object.SetAnnotations(annotations)
		withCABundle(object)[0]["caBundle"] = "certd's"
		webhooksOf(object)[0]["failurePolicy"] = "Ignore"
		return object
	}
	for _, test := range []struct {
		name, was, now string
		bundle         string // "new": the manifest's
		annotation     string
	}{
		{"self-signed resets the caBundle", selfSigned, selfSigned, "new", ""},
		{"self-signed takes back that it is injected", external, selfSigned, "new", ""},
		{"external removes the caBundle", selfSigned, external, "", "linkerd/linkerd-proxy-injector-k8s-tls"},
		{"none leaves the caBundle", selfSigned, noTLS, "certd's", ""},
		{"none leaves it injected", external, noTLS, "certd's", "linkerd/linkerd-proxy-injector-k8s-tls"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rendered := with(test.now, "")
			result := merged(there(test.was), rendered[config], test.now == noTLS)
			want := test.bundle
			if want == "new" {
				want = caBundle(rendered[config])
			}
			if got := caBundle(result); got != want {
				t.Errorf("caBundle %.20q, want %.20q", got, want)
			}
			if a := result.GetAnnotations(); a[injectCA] != test.annotation || a["their"] != "own" {
				t.Errorf("annotations %v", a)
			}
			if result.GetResourceVersion() != "7" || webhooksOf(result)[0]["failurePolicy"] != "Fail" {
				t.Errorf("%v", result.Object)
			}
			if _, ok := rendered[secret]; ok != (test.now == selfSigned) {
				t.Errorf("there is a Secret: %v", ok)
			}
		})
	}
	first, second := with(selfSigned, ""), with(selfSigned, "")
	if caBundle(first[config]) == caBundle(second[config]) {
		t.Error("two runs make the same certificate")
	}
	lagging := with(selfSigned, "0s,2s")[deployment]
	lag := func(object *unstructured.Unstructured) string {
		text, _, _ := unstructured.NestedString(object.Object, "spec", "template", "metadata", "annotations", "lab/projection-lag")
		return text
	}
	if lag(lagging) != "0s,2s" || lag(merged(lagging, with(selfSigned, "5s")[deployment], false)) != "5s" || lag(merged(lagging, first[deployment], false)) != "" {
		t.Error("the lag is not that of the last run")
	}
}

func TestThePortIsTheSameEverywhere(t *testing.T) {
	for name, namespace := range components {
		for kind, object := range install(t, component(name, namespace+"x")) {
			text, err := object.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if calledService(object) != "" && !strings.Contains(string(text), `"port":8443`) || object.GetKind() == "Service" && !strings.Contains(string(text), `"port":8443`) {
				t.Errorf("%s: %s", kind, text)
			}
		}
	}
	if got := fmt.Sprint(slices.Sorted(maps.Keys(components))); got != "[control-plane custom jaeger viz]" {
		t.Error(got)
	}
}
