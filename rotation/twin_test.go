package rotation

import "testing"

// Two names of one cluster get in each other's way where they have an object in common.
func TestWhatTwoNamesOfOneClusterShare(t *testing.T) {
	mesh := func(namespace string, webhooks bool) Policy {
		p := Policy{Namespace: namespace}
		if webhooks {
			p.Webhooks.Specs = LinkerdWebhooks()
		}
		return p
	}
	for _, c := range []struct {
		what string
		a, b Policy
		want bool
	}{
		{"one namespace", mesh("linkerd", false), mesh("linkerd", false), true},
		{"two namespaces, webhooks left alone", mesh("linkerd", false), mesh("linkerd-b", false), false},
		{"two namespaces, the webhooks of one", mesh("linkerd", true), mesh("linkerd-b", false), false},
		{"two namespaces, the webhooks of both: their registrations are the same", mesh("linkerd", true), mesh("linkerd-b", true), true},
		{"one folder: its files have no namespace", Policy{Namespace: "linkerd", Directory: true}, Policy{Namespace: "linkerd-b", Directory: true}, true},
	} {
		if got := c.a.objects().sameObjects(c.b.objects()); got != c.want {
			t.Errorf("%s: shared %t, want %t", c.what, got, c.want)
		}
		if got := c.b.objects().sameObjects(c.a.objects()); got != c.want {
			t.Errorf("%s, the other way round: shared %t, want %t", c.what, got, c.want)
		}
	}
}
