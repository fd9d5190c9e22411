package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/pki"
)

type importOptions struct {
	certificate string
	key         string
	passphrase  string
	reason      string
	transcript  string
	dryRun      bool
	yes         bool
	output      output
}

func (a *App) trustImportCommand() *cobra.Command {
	var o importOptions
	var format string
	cmd := &cobra.Command{
		Use: "import", Short: "Begin with a trust anchor that there is already", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Makes an existing trust anchor the fleet's first, in place of certd init: for meshes that run under it and are to go
on doing so. It takes the anchor's certificate and its private key, both in PEM; the key is ECDSA P-256, in PKCS#8 or
SEC 1, encrypted or not.

The key goes from this process to the key backend and nowhere else: to Vault wrapped under a key of Vault's own, to
keys.file encrypted as its other keys. It cannot be had back from Vault. Afterwards the file and every copy of it are
yours to destroy; as long as there is one, whoever has it can sign for the whole mesh. If you cannot know that there is
none, change the anchor soon (certd trust rotate).

In Vault the key is made with $VAULT_TOKEN, else with the token in ~/.vault-token, else with the daemon's own login;
deploy/vault/certd-import.hcl is the policy for it. The daemon must not run meanwhile. Typed again with the same files,
the command says that the anchor is there, or ends what was interrupted.`,
		Example: `  certd trust import --certificate ca.crt --key ca.key --dry-run
  certd trust import --certificate ca.crt --key ca.key --reason "from the helm install of 2024"`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.output, err = outputOf(format, "text", "json"); err != nil {
				return err
			}
			return a.importTrust(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.certificate, "certificate", "", "`file` with the anchor's certificate (PEM)")
	f.StringVar(&o.key, "key", "", "`file` with its private key (PEM)")
	f.StringVar(&o.passphrase, "passphrase-file", "", "`file` with the passphrase of an encrypted key; without it, certd asks on a terminal")
	f.StringVar(&o.reason, "reason", "", "why, for the history")
	f.StringVar(&o.transcript, "transcript", "", "write the record to this new `file`: JSON if it ends in .json, else Markdown")
	f.BoolVar(&o.dryRun, "dry-run", false, "check everything and change nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask for the fleet's name")
	outputFlag(cmd, &format, "text", "json")
	return cmd
}

func (a *App) importTrust(ctx context.Context, o importOptions) error {
	switch {
	case o.certificate == "" || o.key == "":
		return usage("trust import wants --certificate FILE and --key FILE")
	}
	if err := a.noDaemon(ctx); err != nil {
		return err
	}
	token, err := a.creationToken()
	if err != nil {
		return err
	}
	req := api.ImportRequest{Actor: api.Self(), Reason: o.reason, Token: token, DryRun: true}
	if req.Certificate, err = readAnchor(o.certificate); err != nil {
		return err
	}
	if req.Key, err = a.readKey(ctx, o); err != nil {
		return err
	}
	defer req.Key.Wipe()
	if !o.yes && !o.dryRun {
		if err := a.rehearseImport(ctx, req); err != nil {
			return err
		}
	}
	record, err := newTranscript(o.transcript)
	if err != nil {
		return err
	}
	req.DryRun = o.dryRun
	reply, err := a.Import(ctx, a.configPath, req)
	if err != nil {
		record.discard()
		if ctx.Err() != nil {
			return interrupted("what was done is recorded; certd history shows it, and typing the same again is safe")
		}
		return err
	}
	if err := record.write(a.style(), reply); err != nil {
		return err
	}
	if o.output.format == "json" {
		return a.document(o.output, reply)
	}
	a.tell(a.importLines(reply, o, record.path)...)
	return nil
}

// rehearseImport shows what will be done and asks for the fleet's name. What is
// there already needs no question.
func (a *App) rehearseImport(ctx context.Context, req api.ImportRequest) error {
	plan, err := a.Import(ctx, a.configPath, req)
	switch {
	case err != nil:
		return err
	case plan.Anchor.Key.CheckedAt != nil: // read from the journal
		return nil
	case !a.Interactive:
		return usage("this makes a trust anchor and there is no terminal to ask on; add --yes")
	}
	s := a.style()
	a.aside(s.stepLines("Before anything is changed", plan.Steps)...)
	a.aside(s.warnLines(plan.Warnings)...)
	a.aside("", "What will be the trust anchor")
	a.aside(s.anchorLines(plan.Anchor)...)
	a.aside("")
	return a.confirm(ctx, "To make it this fleet's trust anchor, type the fleet's name.", plan.Fleet)
}

// noDaemon refuses where a daemon answers: it has the journal, and the private
// key is not to go through it.
func (a *App) noDaemon(ctx context.Context) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	_, err = api.NewClient(socket).Status(ctx)
	switch {
	case errors.Is(err, api.ErrNoDaemon):
		return nil
	case err != nil && !errors.Is(err, api.ErrDenied):
		return fmt.Errorf("ask whether a daemon runs: %w", err)
	}
	return fmt.Errorf("a certd runs for this configuration, and the private key is not to go through it; stop certd run first, then type this again: %w", api.ErrNotNow)
}

// readAnchor reads the one certificate of a file.
func readAnchor(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("--certificate: %v", err)
	}
	certs, _ := pki.ReadCertificates(text)
	switch len(certs) {
	case 0:
		return nil, usage("--certificate %s: there is no certificate (PEM) in it", path)
	case 1:
		return certs[0], nil
	}
	return nil, usage("--certificate %s: there are %d certificates in it; the trust anchor's alone is wanted", path, len(certs))
}

// maxKeyFile bounds what is read of a key file, should it be another.
const maxKeyFile = 64 << 10

// readKey reads the private key, and says if others could, too.
func (a *App) readKey(ctx context.Context, o importOptions) (pki.PrivateKey, error) {
	file, err := os.Open(o.key)
	if err != nil {
		return pki.PrivateKey{}, usage("--key: %v", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	defer clear(text)
	if err != nil {
		return pki.PrivateKey{}, usage("--key: %v", err)
	}
	key, err := pki.ReadPrivateKey(text, func() ([]byte, error) {
		switch {
		case o.passphrase != "":
			secret, err := os.ReadFile(o.passphrase)
			return bytes.TrimRight(secret, "\r\n"), err
		case a.Interactive && a.Passphrase != nil:
			return a.Passphrase(ctx, "Passphrase of "+a.style().clean(o.key)+": ")
		}
		return nil, errors.New("there is no terminal to ask on; add --passphrase-file")
	})
	switch {
	case errors.Is(err, context.Canceled):
		return key, interrupted("nothing was changed")
	case err != nil:
		return key, usage("--key %s: %v", o.key, err)
	}
	if info, err := file.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		a.aside(a.style().wrap(a.style().mark(markWarning)+" ", "  ", fmt.Sprintf("%s can be read by others on this host (mode %04o); whoever did can sign for the whole mesh", a.style().clean(o.key), info.Mode().Perm()))...)
	}
	return key, nil
}

func (s style) warnLines(warnings []string) (lines []string) {
	for _, w := range warnings {
		lines = append(lines, s.wrap("  "+s.mark(markWarning)+" ", "    ", s.clean(w))...)
	}
	return lines
}

func (a *App) importLines(r api.InitReply, o importOptions, transcript string) []string {
	s := a.style()
	head := fmt.Sprintf("%s  %s ", s.clean(r.Fleet), s.mark(markOK))
	switch {
	case r.DryRun:
		head = fmt.Sprintf("%s  %s rehearsal: nothing was changed", s.clean(r.Fleet), s.mark(markWaiting))
	case r.Created:
		head += "the trust anchor is imported"
	default:
		head += "the trust anchor is there already; nothing was changed"
	}
	lines := append([]string{head, ""}, s.stepLines("Steps", r.Steps)...)
	lines = append(append(lines, s.warnLines(r.Warnings)...), "", "Trust anchor")
	lines = append(lines, s.anchorLines(r.Anchor)...)
	lines = append(lines, "", "SHA-256 of the certificate, to be compared with the one the meshes trust", "")
	lines = append(append(lines, aloud(s.clean(r.Anchor.SHA256), "      ")...), "")
	if transcript != "" {
		lines = append(lines, s.wrap("Record     ", "           ", s.clean(transcript))...)
	}
	if r.DryRun {
		return append(lines, s.wrap("Next       ", "           ", "the same without --dry-run")...)
	}
	lines = append(lines, s.wrap("Destroy    ", "           ", s.clean(filepath.Clean(o.key))+" and every copy of it (backups, other hosts, secret stores it went through): whoever has one can sign for the whole mesh")...)
	return append(lines, s.wrap("Next       ", "           ", s.clean(a.command("run")+", then "+a.command("adopt CLUSTER")+" for each mesh that trusts this anchor"))...)
}
