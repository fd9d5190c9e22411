// Command lab-vault is a real HashiCorp Vault server, put together from its
// published Go modules, for the lab alone. It keeps everything in memory, sets
// itself up for certd, and writes one JSON document to standard output when it
// is ready. SIGTERM ends it.
//
// Vault's server modules are under the Business Source License 1.1: they are
// used here for testing and are no part of certd.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	log "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
)

// Ready is what lab-vault tells its parent.
type Ready struct {
	Address       string `json:"address"` // https://127.0.0.1:PORT
	CAFile        string `json:"caFile"`
	RootToken     string `json:"rootToken"`
	UnsealKey     string `json:"unsealKey"` // hex; one share is enough
	OperatorToken string `json:"operatorToken"`
	RoleID        string `json:"roleID"`
	SecretIDFile  string `json:"secretIDFile"`
	PKIRoleID     string `json:"pkiRoleID"` // AppRole certd-pki: policy certd-pki
	PKISecretFile string `json:"pkiSecretIDFile"`
	ClientCert    string `json:"clientCertFile"` // for auth/cert, role certd
	ClientKey     string `json:"clientKeyFile"`
}

func main() {
	dir := flag.String("dir", "", "folder for certificates and secret ids")
	audit := flag.String("audit", "", "file of the audit device")
	policies := flag.String("policies", "", "folder whose *.hcl are uploaded, each under its base name")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *audit, *policies); err != nil {
		fmt.Fprintln(os.Stderr, "lab-vault:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, audit, policies string) error {
	logger := log.New(&log.LoggerOptions{Level: log.Warn, Output: os.Stderr})
	cert, files, err := makeCertificates(dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := "https://" + listener.Addr().String()
	core, err := newCore(address, logger)
	if err != nil {
		return fmt.Errorf("make core: %w", err)
	}
	// Without a ListenerConfig the handler panics at the first request.
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core,
		ListenerConfig: &configutil.Listener{Type: configutil.TCP, Address: listener.Addr().String()}})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: logger.Named("http").StandardLogger(nil),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequestClientCert}} // auth/cert judges it
	go server.ServeTLS(listener, "", "")

	inside := namespace.RootContext(ctx)
	rootToken, unsealKey, err := initialize(inside, core)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	s := setup{core: core, ctx: inside, token: rootToken}
	ready, err := s.everything(dir, audit, policies, files)
	if err != nil {
		return err
	}
	ready.Address, ready.RootToken, ready.UnsealKey = address, rootToken, unsealKey
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return err
	}
	<-ctx.Done()
	server.Close()
	return nil // what it knew was in memory: there is nothing to shut down
}
