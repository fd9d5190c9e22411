package main

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	log "github.com/hashicorp/go-hclog"
	authjwt "github.com/hashicorp/vault-plugin-auth-jwt"
	authkubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	authcert "github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
	vaultseal "github.com/hashicorp/vault/vault/seal"
)

// newCore makes an uninitialized Vault that keeps everything in memory.
func newCore(address string, logger log.Logger) (*vault.Core, error) {
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, err
	}
	builtin := registry{
		consts.PluginTypeSecrets:    {"transit": transit.Factory, "pki": pki.Factory, "kv": kv.Factory},
		consts.PluginTypeCredential: {"approle": approle.Factory, "cert": authcert.Factory, "kubernetes": authkubernetes.Factory, "jwt": authjwt.Factory},
	}
	lease := 768 * time.Hour // Vault's default
	return vault.NewCore(&vault.CoreConfig{
		Physical: storage, StorageType: "inmem", RedirectAddr: address, ClusterName: "lab",
		DisableMlock: true, DisableAutopilot: true, DisablePerformanceStandby: true,
		Logger: logger, LogLevel: "warn", DefaultLeaseTTL: lease, MaxLeaseTTL: lease,
		BuiltinRegistry: builtin,
		LogicalBackends: builtin[consts.PluginTypeSecrets], CredentialBackends: builtin[consts.PluginTypeCredential],
		AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
	})
}

// initialize makes the one unseal key and the root token, and unseals.
func initialize(ctx context.Context, core *vault.Core) (rootToken, unsealKey string, err error) {
	shares := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, Name: "shamir"}
	if core.SealAccess().StoredKeysSupported() != vaultseal.StoredKeysNotSupported {
		shares.StoredShares = 1
	}
	result, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: shares})
	if err != nil {
		return "", "", err
	}
	if _, err := core.Unseal(result.SecretShares[0]); err != nil {
		return "", "", err
	}
	return result.RootToken, hex.EncodeToString(result.SecretShares[0]), nil
}

// registry tells Vault which engines are linked in (its BuiltinRegistry).
type registry map[consts.PluginType]map[string]logical.Factory

func (r registry) Contains(name string, t consts.PluginType) bool { return r[t][name] != nil }

func (r registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	factory, ok := r[t][name]
	return func() (any, error) { return factory, nil }, ok
}

func (r registry) Keys(t consts.PluginType) []string { return slices.Collect(maps.Keys(r[t])) }

func (r registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
