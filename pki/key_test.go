package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
)

func TestParsePrivateKey(t *testing.T) {
	t.Parallel()
	p256 := newKey("P-256").(*ecdsa.PrivateKey)
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	sec1 := must(x509.MarshalECPrivateKey(p256))
	for _, row := range []struct {
		name string
		text string
		err  string
	}{
		{"PKCS#8", string(keyPEM(p256)), ""},
		{"SEC 1", block("EC PRIVATE KEY", sec1), ""},
		{"with a comment before it", "# mine\n" + string(keyPEM(p256)), ""},
		{"P-384", string(keyPEM(newKey("P-384"))), "not an ECDSA P-256 key"},
		{"RSA in PKCS#8", string(keyPEM(rsaKey())), "not an ECDSA P-256 key"},
		{"RSA in PKCS#1", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey())), "not an ECDSA P-256 key"},
		{"Ed25519", string(keyPEM(newKey("Ed25519"))), "neither an ECDSA nor an RSA key"},
		{"openssl's parameters first", block("EC PARAMETERS", []byte{6, 8}) + block("EC PRIVATE KEY", sec1), `"EC PARAMETERS" block is not a private key`},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", sec1), `"ENCRYPTED PRIVATE KEY" block is not`},
		{"a certificate", string(pemOf(root())), `"CERTIFICATE" block is not a private key`},
		{"the wrong label", block("PRIVATE KEY", sec1), "does not hold one"},
		{"a secret in the label", block(strings.Repeat("secret ", 9), sec1), "block of unknown type"},
		{"not PEM", "secret", "not PEM"},
		{"nothing", "", "not PEM"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			k, err := ParsePrivateKey([]byte(row.text))
			says(t, err, row.err)
			if err == nil && !k.PublicKey().Equal(p256.Public()) {
				t.Error("another key was read")
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error quotes the key's text: %v", err)
			}
		})
	}
}

func TestPrivateKeysSignUntilTheyAreWiped(t *testing.T) {
	t.Parallel()
	k := must(GenerateKey())
	again := must(ParsePrivateKey(k.PKCS8PEM()))
	if !again.PublicKey().Equal(k.PublicKey()) {
		t.Fatal("its own text is another key")
	}
	digest := sha256.Sum256([]byte("certd"))
	sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(again.PublicKey(), digest[:], sig) {
		t.Fatalf("it signs wrongly: %v", err)
	}
	copied := k
	//lint:ignore SA1019 the test is about this very memory
	words := k.key.D.Bits()
	copied.Wipe()
	copied.Wipe()
	for _, w := range words {
		if w != 0 {
			t.Fatal("the scalar is still in memory")
		}
	}
	if _, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
		t.Error("a wiped key signs")
	}
	if k.PublicKey() == nil {
		t.Error("a wiped key has no public key")
	}
	if _, err := NewCredential(k, issuer(root()).Certificate); err == nil {
		t.Error("a wiped key makes a credential")
	}
	for name, gone := range map[string]PrivateKey{"wiped": k, "zero": {}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %s key can be written", name)
				}
			}()
			gone.PKCS8PEM()
		}()
	}
	PrivateKey{}.Wipe()
}

func TestPrivateKeysHideThemselves(t *testing.T) {
	t.Parallel()
	c := issuer(root())
	k := must(ParsePrivateKey(keyPEM(c.key)))
	cred := must(NewCredential(k, c.Certificate))
	type holder struct {
		Key     PrivateKey
		Pointer *PrivateKey
		Any     any
		hidden  PrivateKey
		Map     map[string]PrivateKey
		List    []PrivateKey
		cred    Credential
	}
	h := holder{k, &k, k, k, map[string]PrivateKey{"k": k}, []PrivateKey{k}, cred}

	var shown []string
	for _, v := range []any{k, &k, h, &h, cred, &cred, []any{k}, map[string]any{"k": &k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%o", "%b", "%t", "%e", "%c", "%U", "%p", "%T", "%w"} {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
		for _, encode := range []func(any) ([]byte, error){json.Marshal, xml.Marshal} {
			text, _ := encode(v) // what cannot be encoded is not shown either
			shown = append(shown, string(text))
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", v, slog.Group("in", "key", v))
		shown = append(shown, out.String())
	}
	shown = append(shown, fmt.Sprint(k), k.String(), k.GoString(), fmt.Errorf("with %v", k).Error())

	//lint:ignore SA1019 the test must know what it looks for
	d := k.key.D
	secret := d.FillBytes(make([]byte, 32))
	for _, text := range shown {
		for _, form := range []string{
			d.String(), d.Text(8), d.Text(2), hex.EncodeToString(secret), hex.EncodeToString(secret[1:9]), fmt.Sprint(secret), strings.Trim(fmt.Sprint(d.Bits()), "[]"),
			strings.Trim(fmt.Sprint(secret[4:12]), "[]"), base64.StdEncoding.EncodeToString(secret)[:20], string(secret), fmt.Sprintf("%#x", uint64(d.Bits()[0]))[2:], "PRIVATE KEY-----",
		} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Fatalf("a key shows itself in %q", strings.ReplaceAll(text, form, "[found here]"))
			}
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s %x %q %d", k, k, k, k, k, k, k); got != strings.TrimSpace(strings.Repeat(hidden+" ", 7)) {
		t.Errorf("shown as %q", got)
	}
	if text := must(json.Marshal(k)); string(text) != `"`+hidden+`"` {
		t.Errorf("in JSON %s", text)
	}
}

func TestSerials(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 2000 {
		n := newSerial()
		der := n.FillBytes(make([]byte, 16))
		if n.BitLen() != 127 || der[0]>>6 != 1 {
			t.Fatalf("serial %x is not 16 octets beginning with the bits 01", n)
		}
		s := Serial(&x509.Certificate{SerialNumber: n})
		if len(s) != 32 || s != strings.ToLower(s) || seen[s] {
			t.Fatalf("serial %q: not 32 digits in lower case, or drawn twice", s)
		}
		seen[s] = true
	}
	if s := Serial(&x509.Certificate{SerialNumber: big.NewInt(255)}); s != strings.Repeat("0", 30)+"ff" {
		t.Errorf("short serials are written as %q", s)
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	k := newKey("P-256").(*ecdsa.PrivateKey)
	f.Add(keyPEM(k))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(k))}))
	f.Add(keyPEM(newKey("P-384")))
	f.Add(keyPEM(rsaKey()))
	f.Add(pemOf(root()))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParsePrivateKey(text)
		if err != nil {
			return
		}
		again, err := ParsePrivateKey(k.PKCS8PEM())
		if err != nil || !again.PublicKey().Equal(k.PublicKey()) {
			t.Fatalf("its own text is not read back: %v", err)
		}
	})
}
