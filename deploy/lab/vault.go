package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// vaultServer is the running lab-vault: the document it wrote when it was ready
// (deploy/lab/vault, type Ready), and its process.
type vaultServer struct {
	Address       string `json:"address"`
	CAFile        string `json:"caFile"`
	RootToken     string `json:"rootToken"`
	UnsealKey     string `json:"unsealKey"`
	OperatorToken string `json:"operatorToken"`
	RoleID        string `json:"roleID"`
	SecretIDFile  string `json:"secretIDFile"`
	PKIRoleID     string `json:"pkiRoleID"`
	PKISecretFile string `json:"pkiSecretIDFile"`
	ClientCert    string `json:"clientCertFile"`
	ClientKey     string `json:"clientKeyFile"`
	AuditLog      string `json:"auditLog"`
	PID           int    `json:"pid"`
}

// startVault starts binary and returns when Vault is ready. dir is the lab's own.
func startVault(ctx context.Context, kids *children, binary, dir, auditLog, policies string, logger *slog.Logger) (*vaultServer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	logName := filepath.Join(dir, "vault.log")
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	defer log.Close()
	answer, stdout, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	defer answer.Close()
	cmd := exec.Command(binary, "-dir", dir, "-audit", auditLog, "-policies", policies)
	cmd.Stdout, cmd.Stderr = stdout, log
	exited, err := kids.run(cmd)
	stdout.Close()
	if err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	// A read of the pipe ends when Vault does.
	go func() {
		select {
		case <-ctx.Done():
			answer.Close()
		case <-exited:
			if ctx.Err() == nil {
				logger.Error("Vault ended, and all it knew is gone: start another lab", "log", logName)
			}
		}
	}()
	line, err := bufio.NewReader(answer).ReadBytes('\n')
	if err != nil {
		said, _ := os.ReadFile(logName)
		return nil, fmt.Errorf("start Vault: it ended at once; it said: %s", bytes.TrimSpace(said[max(0, len(said)-500):]))
	}
	v := &vaultServer{AuditLog: auditLog, PID: cmd.Process.Pid}
	if err := json.Unmarshal(line, v); err != nil {
		return nil, fmt.Errorf("start Vault: read what it said: %w", err)
	}
	return v, nil
}

// trustCluster lets the ServiceAccount certd of c log in: to auth/kubernetes,
// which asks c's API server, and to auth/jwt, which knows its public key.
func (v *vaultServer) trustCluster(ctx context.Context, c *cluster) error {
	ca, err := os.ReadFile(v.CAFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	public, err := os.ReadFile(c.path("sa.pub"))
	if err != nil {
		return err
	}
	policies := map[string]any{"token_policies": []string{"certd-run"}, "token_no_default_policy": true, "token_ttl": "1h"}
	with := func(more map[string]any) map[string]any {
		for k, p := range policies {
			more[k] = p
		}
		return more
	}
	for _, w := range []struct {
		path string
		data map[string]any
	}{
		{"auth/kubernetes/config", map[string]any{"kubernetes_host": c.server, "kubernetes_ca_cert": string(c.ca.PEM), "token_reviewer_jwt": c.adminToken, "disable_local_ca_jwt": true}},
		{"auth/kubernetes/role/certd", with(map[string]any{"bound_service_account_names": []string{"certd"}, "bound_service_account_namespaces": []string{"certd"}})},
		{"auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{string(public)}}},
		{"auth/jwt/role/certd", with(map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_subject": "system:serviceaccount:certd:certd",
			"bound_audiences": []string{"https://kubernetes.default.svc.cluster.local"}})},
	} {
		body, err := json.Marshal(w.data)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.Address+"/v1/"+w.path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("X-Vault-Token", v.RootToken)
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("write %s: %w", w.path, err)
		}
		said, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("write %s: %s: %s", w.path, resp.Status, said)
		}
	}
	return nil
}
