package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"certd.internal/rotation"
)

// certd is a fleet of all of a lab's clusters, and the program that looks after it.
type certd struct {
	lab     *lab
	program string
	dir     string
	cmd     *exec.Cmd // the daemon, nil while there is none
	log     *os.File
}

// newCertd builds the program as it is released, and gives it all of the lab's clusters.
func newCertd(ctx context.Context, root string, l *lab) (*certd, error) {
	c := &certd{lab: l, dir: filepath.Join(l.dir, "fleet")}
	c.program = filepath.Join(c.dir, "certd")
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, err
	}
	build := command(ctx, root, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", c.program, "./cmd/certd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build certd: %w", err)
	}
	if err := c.configure(""); err != nil {
		return nil, err
	}
	var err error
	if c.log, err = os.Create(filepath.Join(c.dir, "log")); err != nil {
		return nil, err
	}
	_, err = c.run(ctx, "init", "--yes")
	return c, err
}

// configure writes certd.yaml; more goes into its defaults.
func (c *certd) configure(more string) error {
	var b strings.Builder
	v := c.lab.vault
	fmt.Fprintf(&b, "apiVersion: certd/v1\nkind: Fleet\nname: cost\nstateDir: state\nkeys:\n  vault:\n    address: %s\n    caFile: %s\n    auth: {appRole: {roleID: %s, secretIDFrom: {file: %s}}}\n", v.Address, v.CAFile, v.RoleID, v.SecretIDFile)
	fmt.Fprintf(&b, "defaults:\n  webhooks: {manage: none}\n%sserver: {socket: certd.sock}\nclusters:\n", more)
	for i := range c.lab.n {
		fmt.Fprintf(&b, "  - {name: %s, kubeconfig: {file: %s}, linkerd: {namespace: %s}}\n", clusterName(i), filepath.Join(c.lab.dir, "kube", clusterName(i)), namespace(i))
	}
	return os.WriteFile(filepath.Join(c.dir, "certd.yaml"), []byte(b.String()), 0o600)
}

// run runs a command to its end.
func (c *certd) run(ctx context.Context, args ...string) (string, error) {
	cmd := command(ctx, c.dir, c.program, append(args, "--config", "certd.yaml")...)
	cmd.Env = append(os.Environ(), "VAULT_TOKEN="+c.lab.vault.OperatorToken, "NO_COLOR=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		text := out.String() + errs.String()
		return out.String(), fmt.Errorf("certd %s: %w\n%s", strings.Join(args, " "), err, text[max(0, len(text)-2000):])
	}
	return out.String(), nil
}

// start starts the daemon.
func (c *certd) start() error {
	c.cmd = exec.Command(c.program, "run", "--config", "certd.yaml")
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = c.dir, c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c.cmd.Start()
}

// stop ends the daemon as a service manager does.
func (c *certd) stop() error {
	if c.cmd == nil {
		return nil
	}
	cmd := c.cmd
	c.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return cmd.Wait()
}

// pid is the daemon's process ID, 0 while there is none.
func (c *certd) pid() int {
	if c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// status is what `certd status` says; its exit code is not an error.
func (c *certd) status(ctx context.Context) (st rotation.FleetStatus, err error) {
	out, err := c.run(ctx, "status", "-o", "json")
	var exit *exec.ExitError
	if errors.As(err, &exit) && out != "" {
		err = nil
	}
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// well waits until all is well in every cluster and has been seen since a moment.
func (c *certd) well(ctx context.Context, since time.Time) error {
	var last string
	err := wait(ctx, 10*time.Minute, "all to be well", func() (bool, error) {
		st, err := c.status(ctx)
		if err != nil {
			last = err.Error()
			return false, nil // the daemon that has just been started does not answer yet
		}
		last = fmt.Sprintf("%+v", st.Summary)
		if st.Summary.OK != c.lab.n || st.Source != "daemon" {
			time.Sleep(100 * time.Millisecond) // asking costs the daemon something, too
			return false, nil
		}
		for _, k := range st.Clusters {
			if k.LastContact == nil || k.LastContact.Before(since) {
				last = k.Name + " was not looked at again"
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s (%s)", err, last, c.log.Name())
	}
	return nil
}

// partner has the fleet trust somebody else's anchor from the next reload on.
func (c *certd) partner() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	anchor := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "partner"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(3650 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, anchor, anchor, key.Public(), key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "partner.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return err
	}
	return c.configure("  foreignAnchors: [{name: partner, file: partner.pem}]\n")
}
