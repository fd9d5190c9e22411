package rotation

import (
	"strings"
	"testing"
)

// What people are told to do so that somebody else writes an object no more, must not delete
// it: of a mesh that was taken over, nobody else has the issuer's key.
func TestKeepersLetGoOfWhatStays(t *testing.T) {
	for _, k := range []Keeper{
		{Kind: KeeperCert, Name: "issuer", Namespace: "linkerd"}, {Kind: KeeperBundle, Name: "roots"}, {Kind: KeeperClusterBundle, Name: "roots"},
		{Kind: "ExternalSecret", Name: "issuer", Namespace: "linkerd"}, {Kind: "Odd;kind", Name: "a b"},
	} {
		how := k.release("linkerd")
		before, after, deletes := strings.Cut(how, " delete ")
		if what, _, _ := strings.Cut(after, "&&"); !deletes || !strings.Contains(what, "--cascade=orphan") || strings.ContainsAny(what, ";") || strings.Contains(before, "delete") {
			t.Errorf("%s: %q", k, how)
		}
	}
	for _, k := range []Keeper{{Kind: KeeperHelm, Name: "l5d"}, {Kind: KeeperCLI}, {Kind: KeeperArgo, Name: "mesh"}, {Kind: KeeperFlux, Name: "mesh", Namespace: "flux-system"}, {Kind: KeeperUnseen, Name: "no right"}} {
		if how := k.release("linkerd"); strings.Contains(how, "delete") || k.Kind != KeeperCLI && !strings.Contains(k.String(), k.Name) {
			t.Errorf("%s: %q", k, how)
		}
	}
	if how := deleteRenewer("Certificate linkerd-viz/tap (seen)"); how != "kubectl -n linkerd-viz delete certificate tap --cascade=orphan" {
		t.Errorf("%q", how)
	}
}
