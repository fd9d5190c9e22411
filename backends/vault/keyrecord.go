package vault

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// keyRecord is what transit/keys/NAME answers. The flags that decide are
// pointers: one that is missing is not taken for false.
type keyRecord struct {
	Type                 string          `json:"type"`
	Exportable           *bool           `json:"exportable"`
	AllowPlaintextBackup *bool           `json:"allow_plaintext_backup"`
	SupportsSigning      *bool           `json:"supports_signing"`
	LatestVersion        *int64          `json:"latest_version"`
	MinEncryptionVersion int64           `json:"min_encryption_version"`
	MinDecryptionVersion int64           `json:"min_decryption_version"`
	AutoRotatePeriod     json.RawMessage `json:"auto_rotate_period"` // seconds
	Derived              bool            `json:"derived"`
	SoftDeleted          bool            `json:"soft_deleted"` // OpenBao
	DeletionAllowed      bool            `json:"deletion_allowed"`
	Imported             bool            `json:"imported_key"`

	Keys map[string]json.RawMessage `json:"keys"` // by version
}

func parseKeyRecord(data []byte) (keyRecord, error) {
	var r keyRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("the answer is not the record of a Transit key: %w", err)
	}
	if r.Type == "" || r.Exportable == nil || r.AllowPlaintextBackup == nil || r.SupportsSigning == nil || r.LatestVersion == nil {
		return r, errors.New("the answer is not the whole record of a Transit key")
	}
	return r, nil
}

// unfit says why the key must not sign for a CA, naming the flag as Vault
// does, or "". Vault lets exportable and allow_plaintext_backup be turned on at
// any later time, and never off again.
func (r keyRecord) unfit() string {
	const leaked = " (it cannot be undone, and the key may have been copied: plan a new trust anchor, and take the right to change keys/+/config from whoever did it)"
	switch {
	case *r.Exportable:
		return "exportable=true" + leaked
	case *r.AllowPlaintextBackup:
		return "allow_plaintext_backup=true" + leaked
	case r.Type != keyType:
		return fmt.Sprintf("type=%s, not %s", r.Type, keyType)
	case !*r.SupportsSigning:
		return "supports_signing=false"
	case r.Derived:
		return "derived=true"
	case r.SoftDeleted:
		return "soft_deleted=true (restore it with keys/NAME/soft-delete-restore)"
	}
	return r.notPinned()
}

// notPinned says why another version than the first could sign, or the first not.
func (r keyRecord) notPinned() string {
	switch period := string(r.AutoRotatePeriod); {
	case period != "" && period != "0" && period != "null" && period != `"0s"`:
		return "auto_rotate_period=" + period + " (set it to 0; an anchor's key is never rotated in place)"
	case *r.LatestVersion != keyVersion:
		return fmt.Sprintf("latest_version=%d, not %d: the key was rotated in place", *r.LatestVersion, keyVersion)
	case r.MinEncryptionVersion > keyVersion:
		return fmt.Sprintf("min_encryption_version=%d: version %d is frozen", r.MinEncryptionVersion, keyVersion)
	case r.MinDecryptionVersion > keyVersion:
		return fmt.Sprintf("min_decryption_version=%d: version %d is hidden", r.MinDecryptionVersion, keyVersion)
	}
	return ""
}

// publicKey is the public key of version 1.
func (r keyRecord) publicKey() (*ecdsa.PublicKey, error) {
	var v struct {
		PublicKey string `json:"public_key"`
	}
	raw, ok := r.Keys["1"]
	if !ok || json.Unmarshal(raw, &v) != nil || v.PublicKey == "" {
		return nil, errors.New("version 1 has no public key")
	}
	block, rest := pem.Decode([]byte(v.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 && string(rest) != "\n" {
		return nil, errors.New("the public key of version 1 is not PEM")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key of version 1: %w", err)
	}
	return p256(pub)
}
