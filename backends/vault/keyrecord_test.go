package vault

import (
	"crypto/elliptic"
	"testing"
)

// A record that is found fit says so in each flag, and holds a P-256 key.
func FuzzKeyRecord(f *testing.F) {
	const pem = `"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgh+DyAPy7o7gTH+MJ6pt/41DpV/Q\nItZJEFEOyTYLfYLZoMgqamTWi4IpB+U6BgeOjiRIqkK1UQ5TTVKVl338sw==\n-----END PUBLIC KEY-----\n"`
	whole := `{"type":"ecdsa-p256","exportable":false,"allow_plaintext_backup":false,"supports_signing":true,"latest_version":1,"auto_rotate_period":0,"keys":{"1":{"public_key":` + pem + `}}}`
	for _, seed := range []string{whole, `{}`, `null`, `[]`, `{"type":"ecdsa-p256","exportable":false,"exportable":true}`,
		`{"type":"aes256-gcm96","exportable":false,"allow_plaintext_backup":false,"supports_signing":false,"latest_version":1,"keys":{"1":1700000000}}`} {
		f.Add([]byte(seed))
	}
	if rec, err := parseKeyRecord([]byte(whole)); err != nil || rec.unfit() != "" {
		f.Fatalf("a whole record: %v %s", err, rec.unfit())
	} else if _, err := rec.publicKey(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rec, err := parseKeyRecord(text)
		if err != nil {
			return
		}
		pub, err := rec.publicKey()
		if err == nil && pub.Curve != elliptic.P256() {
			t.Error("a key of another curve")
		}
		if rec.unfit() == "" && (*rec.Exportable || *rec.AllowPlaintextBackup || !*rec.SupportsSigning || *rec.LatestVersion != 1 || rec.Type != keyType || rec.Derived || rec.SoftDeleted) {
			t.Errorf("found fit: %s", text)
		}
	})
}
