package keystore

import (
	"errors"
	"strings"
	"testing"

	"go.step.sm/crypto/kms/apiv1"

	"certd.internal/rotation"
)

func TestKMSURIs(t *testing.T) {
	_, withPKCS11 := apiv1.LoadKeyManagerNewFunc(apiv1.PKCS11)
	for _, c := range []struct {
		name, uri string
		want      error // nil: any error
		says      string
	}{
		{"keys in plain files", "softkms:path=/etc/certd/key.pem", rotation.ErrUnsupported, "keys.file"},
		{"a cloud's", "awskms:region=eu-central-1", rotation.ErrUnsupported, "PKCS#11 alone"},
		{"an unknown kind", "abacus:bead=1", rotation.ErrUnsupported, "abacus"},
		{"a PIN that would be asked for", "pkcs11:token=certd?pin-prompt=PIN", nil, "pin-source"},
		{"no URI", "1234", nil, "pkcs11:module-path"},
		{"a broken URI with a PIN in it", "pkcs11:token=%zz?pin-value=secretsecret", nil, "does not parse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewKMS(c.uri)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secretsecret") {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
	_, err := NewKMS("pkcs11:token=certd?pin-source=/etc/certd/pin")
	if withPKCS11 && err != nil || !withPKCS11 && (!errors.Is(err, rotation.ErrUnsupported) || !strings.Contains(err.Error(), "certd-pkcs11")) {
		t.Errorf("PKCS#11 is built in: %t; got %v", withPKCS11, err)
	}
}

// What PKCS#11 modules say comes as text.
func TestKMSErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"pkcs11: 0xA0: CKR_PIN_INCORRECT", rotation.ErrDenied},
		{"pkcs11: 0xA4: CKR_PIN_LOCKED", rotation.ErrDenied},
		{"pkcs11: 0xE0: CKR_TOKEN_NOT_PRESENT", rotation.ErrUnavailable},
		{"pkcs11: 0x32: CKR_DEVICE_REMOVED", rotation.ErrUnavailable},
		{"pkcs11: 0xB3: CKR_SESSION_HANDLE_INVALID", rotation.ErrUnavailable},
	} {
		if err := explain(errors.New(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.text, err, c.want)
		}
	}
}
