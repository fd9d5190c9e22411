package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

const (
	// bundledEntries is how much of the history a bundle has.
	bundledEntries = 500
	// bundledPlan is how far ahead its plan reaches.
	bundledPlan = 90 * 24 * time.Hour
)

func (a *App) bundleCommand() *cobra.Command {
	var quick bool
	cmd := &cobra.Command{
		Use: "bundle FILE", Short: "What somebody needs who is to help: a .tar.gz without secrets",
		Long: `Writes a .tar.gz with version, effective configuration (where secrets are kept, never what they are), status, plan, the
end of the history, the verdicts on the journal and on the promises, and of the daemon the last log lines and what each
of its goroutines does. FILE must not exist yet; - is standard output.

Private keys, tokens and passphrases are taken out of all of it. Names of clusters, addresses and what people gave as
reasons stay: read it before you hand it on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("certd debug bundle wants the name of the file to write, or -")
			}
			return a.bundle(cmd.Context(), args[0], quick)
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "leave out what makes the daemon look at the clusters anew (certd verify)")
	return cmd
}

// A part of a bundle: the name of its file, and where it comes from.
type part struct {
	name    string
	content func(ctx context.Context) ([]byte, error)
}

func (a *App) bundle(ctx context.Context, file string, quick bool) (err error) {
	out := a.Stdout
	if file != "-" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		switch {
		case errors.Is(err, fs.ErrExist):
			return usage("%s exists already; name another file", file)
		case err != nil:
			return fmt.Errorf("write the bundle: %w", err)
		}
		defer func() {
			err = errors.Join(err, f.Close())
			if err != nil { // half a bundle is none
				err = errors.Join(err, os.Remove(file))
			}
		}()
		out = f
	}
	clean := func(text string) string { return text }
	if a.Scrub != nil {
		clean = a.Scrub(a.configPath)
	}
	zipped := gzip.NewWriter(out)
	archive := tar.NewWriter(zipped)
	var missing, contents []string
	add := func(name string, content []byte) error {
		content = []byte(clean(string(content)))
		contents = append(contents, name)
		if err := archive.WriteHeader(&tar.Header{Name: "certd-bundle/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: a.Now().UTC().Truncate(time.Second)}); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		if _, err := archive.Write(content); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		return nil
	}
	for _, p := range a.parts(quick) {
		content, err := p.content(ctx)
		if ctx.Err() != nil {
			return interrupted("no bundle was written")
		}
		if err != nil {
			missing = append(missing, p.name+": "+err.Error())
			continue
		}
		if err := add(p.name, content); err != nil {
			return err
		}
	}
	about := fmt.Sprintf("certd debug bundle of %s, by certd %s.\nSecrets are taken out; names, addresses and reasons are not.\n\n%s\n", a.Now().UTC().Format(time.RFC3339), a.Version.Version, strings.Join(contents, "\n"))
	if len(missing) > 0 {
		about += "\nNot to be had:\n" + strings.Join(missing, "\n") + "\n"
	}
	if err := add("README.txt", []byte(about)); err != nil {
		return err
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	s := a.style()
	for _, m := range missing {
		a.aside(s.wrap(s.sign(markWarning)+" ", "  ", "not to be had: "+s.clean(clean(m)))...)
	}
	if file != "-" {
		a.tell(s.wrap(s.mark(markOK)+" ", "  ", fmt.Sprintf("%s: %s; secrets are taken out, names and addresses are not", s.clean(file), count(len(contents), "file")))...)
	}
	return nil
}

// parts are what goes into a bundle, in order.
func (a *App) parts(quick bool) []part {
	document := func(of func(ctx context.Context) (any, error)) func(context.Context) ([]byte, error) {
		return func(ctx context.Context) ([]byte, error) {
			doc, err := of(ctx)
			if err != nil {
				return nil, err
			}
			b, err := json.MarshalIndent(doc, "", "  ")
			return append(b, '\n'), err
		}
	}
	var diagnosis api.Diagnosis
	var diagnosed error
	fromDaemon := func(of func() []byte) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) {
			if diagnosed != nil {
				return nil, diagnosed
			}
			return of(), nil
		}
	}
	all := []part{
		{"version.json", document(func(context.Context) (any, error) { return a.Version, nil })},
		{"config.json", document(func(context.Context) (any, error) { return a.Config.Values(a.configPath) })},
		{"config-validate.txt", func(context.Context) ([]byte, error) {
			r := a.Config.Validate(a.configPath)
			return []byte(strings.Join(append(append(append([]string{"problems:"}, r.Problems...), "warnings:"), append(r.Warnings, r.Valid...)...), "\n") + "\n"), nil
		}},
		{"status.json", document(func(ctx context.Context) (any, error) {
			st, _, err := ask(ctx, a, func(ctx context.Context, s api.Service) (rotation.FleetStatus, error) { return s.Status(ctx) })
			return st, err
		})},
		{"status.txt", func(ctx context.Context) ([]byte, error) {
			st, note, err := ask(ctx, a, func(ctx context.Context, s api.Service) (rotation.FleetStatus, error) { return s.Status(ctx) })
			if err != nil {
				return nil, err
			}
			s := style{now: a.Now(), zone: time.UTC, ascii: true}
			return []byte(strings.Join(statusView{style: s, doc: st, note: note, all: true, wide: true}.lines(), "\n") + "\n"), nil
		}},
		{"plan.json", document(func(ctx context.Context) (any, error) {
			until := a.Now().Add(bundledPlan).UTC().Truncate(time.Second)
			p, _, err := ask(ctx, a, func(ctx context.Context, s api.Service) (rotation.Plan, error) { return s.Plan(ctx, until, true) })
			return p, err
		})},
		{"trust.json", document(func(ctx context.Context) (any, error) {
			list, _, err := ask(ctx, a, func(ctx context.Context, s api.Service) (api.TrustList, error) { return s.Trust(ctx) })
			return list, err
		})},
		{"history.json", document(func(ctx context.Context) (any, error) {
			list, _, err := a.entries(ctx, api.HistoryQuery{Limit: bundledEntries})
			return list, err
		})},
		{"journal.json", document(func(ctx context.Context) (any, error) {
			r, _, err := ask(ctx, a, func(ctx context.Context, s api.Service) (api.VerifyReport, error) { return s.Verify(ctx) })
			return r, err
		})},
		{"daemon/diagnosis.json", document(func(ctx context.Context) (any, error) {
			socket, err := a.Socket(a.configPath)
			if err == nil {
				diagnosis, err = api.NewClient(socket).Diagnosis(ctx)
			}
			diagnosed = err
			short := diagnosis
			short.Goroutines, short.Logs = "", []string{} // they have files of their own
			return short, err
		})},
		{"daemon/goroutines.txt", fromDaemon(func() []byte { return []byte(diagnosis.Goroutines) })},
		{"daemon/logs.jsonl", fromDaemon(func() []byte {
			var b bytes.Buffer
			for _, l := range diagnosis.Logs {
				_, _ = io.WriteString(&b, l+"\n") // a Buffer takes everything
			}
			return b.Bytes()
		})},
	}
	if !quick {
		all = append(all, part{"verification.json", document(func(ctx context.Context) (any, error) {
			socket, err := a.Socket(a.configPath)
			if err != nil {
				return nil, err
			}
			return api.NewClient(socket).Verification(ctx)
		})})
	}
	return all
}
