package vault

import (
	"encoding/hex"
	"testing"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 5649 §6, the example of more than one block; the other one, of 7 octets,
// is for what Vault does not take.
func TestWrapKeyAsInTheRFC(t *testing.T) {
	kek := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	got, err := wrapKey(kek, unhex(t, "c37b7e6492584340bed12207808941155068f738"))
	if want := "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v, want %s", got, err, want)
	}
	for _, n := range []int{0, 7, 8, 8193} {
		if _, err := wrapKey(kek, make([]byte, n)); err == nil {
			t.Errorf("%d bytes are wrapped", n)
		}
	}
	if _, err := wrapKey(kek[:5], make([]byte, 32)); err == nil {
		t.Error("a key of 5 bytes wraps")
	}
}
