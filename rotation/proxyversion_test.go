package rotation

import (
	"strings"
	"testing"
)

func TestWhichProxiesAcceptTwoCertificates(t *testing.T) {
	for version, want := range map[string]string{
		"stable-2.10.2": "no", "stable-2.12.4": "no", "stable-2.13.6": "no", "stable-2.13.7": "yes", "stable-2.13.10": "yes", "stable-2.14.0": "no", "stable-2.14.1": "yes",
		"stable-2.14.10-distroless": "yes", "stable-2.14.1.hardened": "yes", "stable-2.15.0": "yes", "enterprise-2.16.1": "yes", "enterprise-2.15.0-1-fips": "yes", "stable-3.0.0": "yes",
		"edge-23.9.2": "no", "edge-23.10.1": "yes", "edge-24.1.3": "yes", "edge-22.11.1": "no", "preview-24.4.1": "yes",
		"v2.203.3": "no", "v2.203.4": "yes", "v2.209.0": "no", "v2.210.0": "yes", "v2.300.0-debug": "yes", "v2.99.0": "unknown",
		"": "unknown", "lab": "unknown", "dev-1234": "unknown", "git-abcdef12": "unknown", "v0.1.3": "unknown", "stable-two": "unknown", "stable-2.13": "no", "latest": "unknown", "stable-99999.1.1": "unknown",
	} {
		proven, known := JudgesTwoCertificates(version)
		got := map[bool]string{true: "yes", false: "no"}[proven]
		if !known {
			got = "unknown"
		}
		if got != want || proven && !known {
			t.Errorf("%q: %s (%t), want %s", version, got, proven, want)
		}
	}
}

// Who keeps a change from its beginning is counted, and named with the version.
func TestOlderProxiesAreNamed(t *testing.T) {
	owner := func(name string) []ProxyOwner {
		return []ProxyOwner{{Namespace: "app", Kind: "Deployment", Name: name, Pods: 2}}
	}
	p := Proxies{Unread: 9, Versions: []ProxyVersion{{"edge-24.1.3", 4, owner("new")}, {"stable-2.12.4", 2, owner("web")}, {"", 1, owner("odd")}, {"stable-2.10.2", 2, owner("cart")}}}
	got := p.older()
	for _, says := range []string{"of 4 of 9 meshed pods", "app/Deployment web (stable-2.12.4); app/Deployment cart (stable-2.10.2);"} {
		if !strings.Contains(got, says) {
			t.Errorf("%s; want it to say %q", got, says)
		}
	}
	if strings.Contains(got, "new") && strings.Contains(got, "Deployment new") || strings.Contains(got, "odd") {
		t.Errorf("others are named: %s", got)
	}
	p.Versions = p.Versions[:1]
	if got := p.older(); got != "" {
		t.Errorf("all are new: %s", got)
	}
}
