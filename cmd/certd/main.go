// Command certd looks after the certificates of Linkerd service meshes.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	_ "time/tzdata" // schedules name zones, and minimal hosts know none

	"golang.org/x/term"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/audit"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/cmd/certd/internal/cli"
	"certd.internal/cmd/certd/internal/daemon"
	"certd.internal/cmd/certd/internal/harden"
	"certd.internal/rotation"
)

// Set by the build (Makefile).
var version, commit, date string

func main() {
	if err := harden.Process(); err != nil {
		fmt.Fprintf(os.Stderr, "certd: harden the process: %v; what is in its memory could be read by other processes of this user, or get into a core dump\n", err)
	}
	d := daemon.Daemon{Getenv: os.Getenv, Stdout: os.Stdout, Log: logger, Version: info().Version, Revision: info().Commit, CrashPoint: crashPoint()}
	app := &cli.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now, Version: info(),
		Terminal:    term.IsTerminal(int(os.Stdout.Fd())),
		Interactive: term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		Run:         func(ctx context.Context, path string, dev bool) error { return invalid(d.Run(ctx, path, dev)) },
		Live: func(ctx context.Context, path string) (rotation.FleetStatus, error) {
			st, err := d.Live(ctx, path)
			return st, invalid(err)
		},
		Local: func(ctx context.Context, path string, write bool) (api.Service, string, func() error, error) {
			svc, note, done, err := d.Open(ctx, path, write)
			return svc, note, done, invalid(err)
		},
		Import: func(ctx context.Context, path string, r api.ImportRequest) (api.InitReply, error) {
			reply, err := d.ImportAnchor(ctx, path, r)
			return reply, invalid(err)
		},
		Passphrase: passphrase,
		Check: func(ctx context.Context, path string, s check.Select, pre bool, unanswered string) (check.Report, error) {
			r, err := d.Check(ctx, path, s, pre, unanswered)
			return r, invalid(err)
		},
		Socket: func(path string) (string, error) {
			c, err := d.Load(path)
			if err != nil {
				return "", invalid(err)
			}
			return c.Server.Socket, nil
		},
		Scrub: d.Scrub,
		Policy: func(path string) (rotation.FleetPolicy, error) {
			cfg, err := d.Load(path)
			if err != nil {
				return rotation.FleetPolicy{}, invalid(err)
			}
			return cfg.Fleet(), nil
		},
		AuditKeys: func(path string) (audit.Keys, error) {
			keys, err := d.AuditKeys(path)
			return keys, invalid(err)
		},
		Backups:  backupCommands{d},
		Clusters: clusterCommands{d},
		Config:   configCommands{d},
		InspectCluster: func(ctx context.Context, path, cluster, part string) ([]byte, error) {
			certificates, err := d.Certificates(ctx, path, cluster, part)
			return certificates, invalid(err)
		},
	}
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		app.Width = w
		app.Size = func() (columns, lines int) {
			columns, lines, _ = term.GetSize(int(os.Stdout.Fd()))
			return columns, lines
		}
	}
	os.Exit(app.Main(os.Args[1:]))
}

// passphrase asks for one on the terminal, which shows what is typed again also
// after an interruption.
func passphrase(ctx context.Context, prompt string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	type answer struct {
		secret []byte
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		secret, err := term.ReadPassword(fd)
		got <- answer{secret, err}
	}()
	select {
	case a := <-got:
		return a.secret, a.err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(fd, state))
	}
}

// invalid tells the command line that an error lies in the configuration.
func invalid(err error) error {
	if errors.Is(err, daemon.ErrConfig) {
		return badConfig{err}
	}
	return err
}

type badConfig struct{ error }

func (b badConfig) Unwrap() []error { return []error{b.error, cli.ErrConfig} }

// logger writes to standard error in the format that the configuration names;
// else text for a person at a terminal, JSON for whatever collects logs elsewhere.
func logger(level slog.Leveler, format string) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "text" || format == "" && term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}

// info is what the build said of itself, or else what Go recorded.
func info() cli.VersionInfo {
	v := cli.VersionInfo{Version: version, Commit: commit, Date: date, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			switch {
			case s.Key == "vcs.revision" && v.Commit == "":
				v.Commit = s.Value
			case s.Key == "vcs.time" && v.Date == "":
				v.Date = s.Value
			}
		}
	}
	for _, s := range []*string{&v.Version, &v.Commit, &v.Date} {
		if *s == "" {
			*s = "unknown"
		}
	}
	if v.Version == "unknown" {
		v.Version = "dev"
	}
	return v
}

// backupCommands adapts the daemon package to backup and restore.
type backupCommands struct{ d daemon.Daemon }

func (c backupCommands) SaveBackup(path, file string, s api.Snapshot, replace bool) (api.BackupReply, error) {
	reply, err := c.d.SaveBackup(path, file, s, replace)
	return reply, invalid(err)
}

func (c backupCommands) RestoreBackup(path string, r api.RestoreRequest) (api.RestoreReply, error) {
	reply, err := c.d.RestoreBackup(path, r)
	return reply, invalid(err)
}

func (c backupCommands) Recover(ctx context.Context, path string, r api.RecoverRequest) (api.RecoverReply, error) {
	reply, err := c.d.Recover(ctx, path, r)
	return reply, invalid(err)
}

// clusterCommands adapts the daemon package to the clusters commands.
type clusterCommands struct{ d daemon.Daemon }

func (c clusterCommands) Clusters(path string) ([]api.ConfiguredCluster, error) {
	list, err := c.d.Clusters(path)
	return list, invalid(err)
}

func (c clusterCommands) TestClusters(ctx context.Context, path string, names []string) ([]api.ClusterTest, error) {
	tests, err := c.d.TestClusters(ctx, path, names)
	return tests, invalid(err)
}

func (c clusterCommands) Manifest(path string, r api.ManifestRequest) ([]byte, error) {
	text, err := c.d.Manifest(path, r)
	return text, invalid(err)
}

// configCommands adapts the config package to the config commands.
type configCommands struct{ d daemon.Daemon }

func (c configCommands) Validate(path string) cli.ConfigReport {
	r := c.d.Validate(path, time.Now())
	return cli.ConfigReport{Problems: r.Problems, Warnings: r.Warnings, Valid: r.Valid}
}

func (c configCommands) Values(path string) ([]cli.ConfigValue, error) {
	cfg, err := c.d.Load(path)
	if err != nil {
		return nil, invalid(err)
	}
	var values []cli.ConfigValue
	for _, v := range cfg.Values {
		values = append(values, cli.ConfigValue{Path: v.Path, Value: v.Value, Origin: v.Origin})
	}
	return values, nil
}

func (configCommands) Schema() []byte  { return daemon.Schema() }
func (configCommands) Example() []byte { return daemon.Example() }
