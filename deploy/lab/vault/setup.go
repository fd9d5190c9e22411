package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/vault"
)

// Names that certd's configuration and policies use, too.
const (
	transitMount        = "certd-transit"
	webhookTransitMount = "certd-transit-webhooks"
	pkiMount            = "pki-root"
	runPolicy           = "certd-run"
	initPolicy          = "certd-init"
	pkiPolicy           = "certd-pki"
)

// operatorPolicy is what the operator of vault.env has beside the ceremony: to
// find the audit log and match its hashes.
const operatorPolicy = `
path "sys/audit"        { capabilities = ["read", "sudo"] }
path "sys/audit-hash/+" { capabilities = ["create", "update"] }
`

// setup writes to a Vault from the inside, with the root token.
type setup struct {
	core  *vault.Core
	ctx   context.Context
	token string
}

func (s setup) write(path string, data map[string]any) (*logical.Response, error) {
	resp, err := s.core.HandleRequest(s.ctx, &logical.Request{Operation: logical.UpdateOperation, ClientToken: s.token, Path: path, Data: data})
	if err == nil && resp != nil {
		err = resp.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return resp, nil
}

// everything mounts engines and login methods, uploads the policies, and makes
// the roles and tokens.
func (s setup) everything(dir, audit, policies string, files certificateFiles) (Ready, error) {
	ready := Ready{CAFile: files.ca, ClientCert: files.clientCert, ClientKey: files.clientKey, RoleID: "certd", PKIRoleID: "certd-pki",
		SecretIDFile: filepath.Join(dir, "secret-id"), PKISecretFile: filepath.Join(dir, "secret-id-pki")}
	clientCert, err := os.ReadFile(files.clientCert)
	if err != nil {
		return ready, err
	}
	if err := s.writeAll([]step{
		{"sys/audit/file", map[string]any{"type": "file", "options": map[string]any{"file_path": audit}}},
		{"sys/mounts/" + transitMount, map[string]any{"type": "transit"}},
		{"sys/mounts/" + webhookTransitMount, map[string]any{"type": "transit"}},
		{"sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}},
		{"sys/mounts/" + pkiMount, map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}}},
		{"sys/auth/approle", map[string]any{"type": "approle"}},
		{"sys/auth/kubernetes", map[string]any{"type": "kubernetes"}},
		{"sys/auth/jwt", map[string]any{"type": "jwt"}},
		{"sys/auth/cert", map[string]any{"type": "cert"}},
		// What is signed and the signature are no secrets, and whoever reads
		// the log must be able to match them with certd's journal.
		{"sys/mounts/" + transitMount + "/tune", inClear},
		{"sys/mounts/" + webhookTransitMount + "/tune", inClear},
		{"sys/mounts/" + pkiMount + "/tune", map[string]any{
			"audit_non_hmac_request_keys": []string{"csr", "common_name", "ttl"}, "audit_non_hmac_response_keys": []string{"certificate", "serial_number"}}},
		// No max_path_length: the root does not limit what is below it.
		{pkiMount + "/root/generate/internal", map[string]any{"common_name": "root.linkerd.cluster.local", "key_type": "ec", "key_bits": 256, "ttl": "87600h", "issuer_name": "root"}},
		{"sys/policies/acl/lab-operator", map[string]any{"policy": operatorPolicy}},
	}); err != nil {
		return ready, err
	}
	if err := s.uploadPolicies(policies); err != nil {
		return ready, err
	}
	role := func(policy string) map[string]any {
		return map[string]any{"token_policies": []string{policy}, "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h"}
	}
	if err := s.writeAll([]step{
		{"auth/approle/role/certd", role(runPolicy)},
		{"auth/approle/role/certd/role-id", map[string]any{"role_id": ready.RoleID}},
		{"auth/approle/role/certd-pki", role(pkiPolicy)},
		{"auth/approle/role/certd-pki/role-id", map[string]any{"role_id": ready.PKIRoleID}},
		{"auth/cert/certs/certd", func() map[string]any { r := role(runPolicy); r["certificate"] = string(clientCert); return r }()},
	}); err != nil {
		return ready, err
	}
	for role, file := range map[string]string{"certd": ready.SecretIDFile, "certd-pki": ready.PKISecretFile} {
		resp, err := s.write("auth/approle/role/"+role+"/secret-id", nil)
		if err != nil {
			return ready, err
		}
		id, ok := resp.Data["secret_id"].(string)
		if !ok {
			return ready, fmt.Errorf("make secret id of %s: the answer has none", role)
		}
		if err := os.WriteFile(file, []byte(id+"\n"), 0o600); err != nil {
			return ready, err
		}
	}
	resp, err := s.write("auth/token/create", map[string]any{"policies": []string{initPolicy, "lab-operator"}, "no_parent": true, "no_default_policy": true, "display_name": "lab-operator", "ttl": "720h"})
	if err != nil {
		return ready, err
	}
	ready.OperatorToken = resp.Auth.ClientToken
	return ready, s.waitForKV()
}

var inClear = map[string]any{
	"audit_non_hmac_request_keys":  []string{"input", "key_version", "hash_algorithm", "marshaling_algorithm", "type"},
	"audit_non_hmac_response_keys": []string{"signature"},
}

type step struct {
	path string
	data map[string]any
}

func (s setup) writeAll(steps []step) error {
	for _, step := range steps {
		if _, err := s.write(step.path, step.data); err != nil {
			return err
		}
	}
	return nil
}

func (s setup) uploadPolicies(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.hcl"))
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(file), ".hcl")
		found[name] = true
		if _, err := s.write("sys/policies/acl/"+name, map[string]any{"policy": string(text)}); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, name := range []string{runPolicy, initPolicy, pkiPolicy} {
		if !found[name] {
			return fmt.Errorf("no policy %s.hcl in %s: name certd's policies with -policies", name, dir)
		}
	}
	return nil
}

// waitForKV returns when KV version 2 has set its mount up, which it does in
// the background.
func (s setup) waitForKV() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := s.core.HandleRequest(s.ctx, &logical.Request{Operation: logical.ReadOperation, ClientToken: s.token, Path: "secret/config"})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(errors.New("secret/ is not ready"), err)
		}
	}
}
