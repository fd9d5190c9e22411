package keystore

import (
	"context"
	"crypto/x509"
	"fmt"

	"certd.internal/pki"
	"certd.internal/rotation"
)

var _ rotation.Importer = (*Files)(nil)

// ImportKey implements rotation.Importer: the key is kept as one that was made
// here. The file is opened once more, as it will be to sign.
func (f *Files) ImportKey(ctx context.Context, name string, private pki.PrivateKey) (rotation.Key, error) {
	path, err := f.free(ctx, "import", name)
	if err != nil {
		return nil, err
	}
	der := private.PKCS8()
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		err = f.store(path, parsed)
	}
	if err != nil {
		return nil, fmt.Errorf("import key %s: %w", path, err)
	}
	return f.open(path, name, private.PublicKey())
}
