package rotation

import (
	"reflect"
	"testing"
	"time"

	"certd.internal/pki"
)

// What a mirror hands on of an anchor is what was put into it.
func TestAnAnchorComesThroughTheMirror(t *testing.T) {
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.SelfSignAnchor(start, pki.AnchorProfile{CommonName: "root.linkerd.cluster.local 2026-1", Lifetime: 3650 * 24 * time.Hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	a := Anchor{Certificate: c, ID: "g1", Key: "acme-anchor-1", Backend: "vault-transit", Imported: true, CreatedAt: start, RetiredAt: start.Add(time.Hour), Compromised: true}
	got, err := mirrorAnchor(a, "").anchor()
	if err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v; want %+v", got, err, a)
	}
	now := a
	now.RetiredAt, now.Compromised = time.Time{}, false
	news, err := mirrorAnchor(a, "").news(t.Context(), nil, []Anchor{now}, start)
	if err != nil || news == nil || !news.Compromised || !news.RetiredAt.Equal(a.RetiredAt) {
		t.Errorf("what another certd retired as compromised: %+v, %v", news, err)
	}
}
