package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"certd.internal/backends/keystore"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// keyBackend has the keys of the trust anchors and of the webhook CAs. Closing
// anchors closes both.
type keyBackend struct {
	anchors, webhooks rotation.Keys
	vault             *vault.Vault // nil: they are elsewhere
}

// openKeys makes the key backend that signs. It asks nothing of it yet: a
// backend that is away does not keep certd from starting. observe is told of
// exchanges with Vault; it may be nil.
func openKeys(c *config.Config, getenv func(string) string, log *slog.Logger, observe func(operation, code string, took time.Duration)) (keyBackend, error) {
	switch {
	case c.Keys.File != nil:
		files := keystore.NewFiles(c.Keys.File.Dir, c.Keys.File.Passphrase.Read)
		return keyBackend{anchors: files, webhooks: files}, nil
	case c.Keys.KMS != nil:
		kms, err := keystore.NewKMS(c.Keys.KMS.URI)
		if err != nil {
			return keyBackend{}, err
		}
		return keyBackend{anchors: kms, webhooks: kms}, nil
	case c.Keys.Vault != nil:
		auth, err := vaultAuth(c.Keys.Vault.Auth, getenv)
		if err != nil {
			return keyBackend{}, err
		}
		return openVault(c, auth, getenv, log, observe)
	}
	return keyBackend{}, errors.New("the configuration names no key backend")
}

// openVault connects with a given way to log in, once for both mounts.
func openVault(c *config.Config, auth vault.Auth, getenv func(string) string, log *slog.Logger, observe func(operation, code string, took time.Duration)) (keyBackend, error) {
	v := c.Keys.Vault
	vc := vault.Config{Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, Auth: auth, Observe: observe}
	if err := vc.FillFromEnvironment(getenv); err != nil {
		return keyBackend{}, err
	}
	client, err := vault.New(vc, log)
	if err != nil {
		return keyBackend{}, err
	}
	k := keyBackend{webhooks: client.WebhookTransit(v.Webhooks.Mount), vault: client}
	if v.PKI != nil {
		k.anchors = client.PKI(v.PKI.Mount, v.PKI.Issuer)
	} else {
		k.anchors = client.Transit(v.Transit.Mount)
	}
	return k, nil
}

// keySystem is how the spans of what is asked of the key backend begin.
func keySystem(c *config.Config) string {
	switch {
	case c.Keys.File != nil:
		return "file"
	case c.Keys.KMS != nil:
		return "kms"
	}
	return "vault"
}

// backendName is where an anchor's key will be, as its KeyInfo names it.
func backendName(c *config.Config) string {
	switch v := c.Keys.Vault; {
	case v == nil:
		return keySystem(c)
	case v.PKI != nil:
		return "vault-pki"
	}
	return "vault-transit"
}

// vaultAuth is the way to log in that the configuration names; without one, a
// token from the environment, as every Vault client takes it.
func vaultAuth(a *config.VaultAuth, getenv func(string) string) (vault.Auth, error) {
	switch {
	case a == nil:
		if getenv("VAULT_TOKEN") == "" {
			return vault.Auth{}, fmt.Errorf("log in to Vault: keys.vault.auth is not set, and neither is $VAULT_TOKEN: %w", ErrConfig)
		}
		return vault.Auth{Token: func() ([]byte, error) { return []byte(getenv("VAULT_TOKEN")), nil }}, nil
	case a.Token != nil:
		return vault.Auth{Token: a.Token.Read}, nil
	case a.TokenFile != "":
		return vault.Auth{TokenFile: a.TokenFile}, nil
	case a.AppRole != nil:
		return vault.Auth{AppRole: &vault.AppRole{Mount: a.AppRole.Mount, RoleID: a.AppRole.RoleID, SecretID: a.AppRole.SecretID.Read}}, nil
	case a.Kubernetes != nil:
		return vault.Auth{Kubernetes: &vault.Kubernetes{Mount: a.Kubernetes.Mount, Role: a.Kubernetes.Role, TokenFile: a.Kubernetes.TokenFile}}, nil
	case a.Cert != nil:
		return vault.Auth{Cert: &vault.Cert{Mount: a.Cert.Mount, Role: a.Cert.Role, CertFile: a.Cert.CertFile, KeyFile: a.Cert.KeyFile}}, nil
	case a.JWT != nil:
		return vault.Auth{JWT: &vault.JWT{Mount: a.JWT.Mount, Role: a.JWT.Role, Token: a.JWT.Token.Read}}, nil
	}
	return vault.Auth{}, fmt.Errorf("log in to Vault: keys.vault.auth names no way: %w", ErrConfig)
}
