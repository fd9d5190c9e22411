// Package cli is certd's command line: flags, questions, output and exit
// codes. What the commands work on comes in with an App.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/audit"
	"certd.internal/cmd/certd/internal/check"
	"certd.internal/rotation"
)

// An App is the world of one invocation; main fills it in. Live and
// InspectCluster may be nil: then what needs them is refused as not supported.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Terminal       bool // Stdout is one
	Interactive    bool // Stdin and Stderr are terminals, so that certd may ask
	Width          int  // of the terminal, in columns; 0 if unknown or none
	// Size asks the terminal for its columns and lines anew; nil: it stays Width
	// wide, and as high as needed.
	Size    func() (columns, lines int)
	Version VersionInfo

	// Run is the daemon; it returns when it has ended, after ctx at the latest.
	// configPath, here and below, is --config as given: "" if it was not.
	Run func(ctx context.Context, configPath string, dev bool) error
	// Local is the journal itself, for when no daemon answers; with write it
	// can make the trust anchor. The note is a sentence about what is read and
	// how old it is.
	Local func(ctx context.Context, configPath string, write bool) (svc api.Service, note string, close func() error, err error)
	// Import makes a trust anchor that was made elsewhere the fleet's first, in
	// this process.
	Import func(ctx context.Context, configPath string, r api.ImportRequest) (api.InitReply, error)
	// Passphrase asks for one on the terminal, without showing it.
	Passphrase func(ctx context.Context, prompt string) ([]byte, error)
	// Live asks the clusters themselves.
	Live func(ctx context.Context, configPath string) (rotation.FleetStatus, error)
	// Check judges the claims of `certd check` in this process; unanswered says why
	// no daemon did.
	Check func(ctx context.Context, configPath string, s check.Select, pre bool, unanswered string) (check.Report, error)
	// Socket is the path of the daemon's admin socket.
	Socket func(configPath string) (string, error)
	// Scrub is what takes secrets out of a text: those that the configuration
	// names, as far as they can be read, and what looks like one. May be nil.
	Scrub func(configPath string) func(text string) string
	// Policy is what the configuration asks for. Its error wraps ErrConfig if that is
	// invalid.
	Policy func(configPath string) (rotation.FleetPolicy, error)
	// AuditKeys says which requests in Vault's audit log sign with the fleet's keys.
	AuditKeys func(configPath string) (audit.Keys, error)
	// Backups is what backup and restore work with.
	Backups BackupCommands
	// Clusters is what the clusters commands work on.
	Clusters ClusterCommands
	// Config is what the config commands work on.
	Config ConfigCommands
	// InspectCluster fetches certificates from a cluster, in a form that is
	// explained: PEM where part is "issuer" or "bundle", an api.Webhook where
	// it is "webhook/NAME", and manifests of all of them where it is "".
	InspectCluster func(ctx context.Context, configPath, cluster, part string) ([]byte, error)

	configPath string
	colorFlag  string
	asciiFlag  bool
	utcFlag    bool
	tokenStdin bool
	poll       time.Duration // between looks of --watch and --follow
}

// VersionInfo is what `certd version` tells.
type VersionInfo struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	Date      string `json:"date"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

// Exit codes besides those of api.ExitCode.
const (
	exitOK          = 0
	exitFailed      = 1
	exitPending     = 2
	exitUnknown     = 3
	exitConfig      = 78
	exitInterrupted = 130
)

// ErrConfig marks an error that lies in the configuration (exit 78).
var ErrConfig = errors.New("the configuration is invalid")

// exit ends a command with a code that is no error: the state of a fleet.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// usage is a wrong way of calling certd.
func usage(format string, args ...any) error {
	return hinted{fmt.Errorf(format, args...), api.ErrUsage, ""}
}

// hinted is an error with its class, and what to type about it.
type hinted struct {
	error
	class error
	fix   string
}

func (h hinted) Unwrap() []error { return []error{h.error, h.class} }

// hint adds what to type.
func hint(err error, fix string) error { return hinted{err, err, fix} }

// Main runs the command line args, without the program's name, and returns the
// exit code.
func (a *App) Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends the process at once.
	context.AfterFunc(ctx, stop)
	return a.run(ctx, args)
}

func (a *App) run(ctx context.Context, args []string) int {
	if a.poll == 0 {
		a.poll = 2 * time.Second
	}
	out := &outlet{to: a.Stdout}
	a.Stdout = out
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if out.lost == nil {
		return a.end(err)
	}
	if errors.Is(err, out.lost) {
		err = nil
	}
	code := a.end(err)
	a.report(fmt.Errorf("write the answer to standard output: %w; what is there of it is not whole", out.lost))
	return max(code, exitFailed)
}

// end tells an error, and returns the exit code.
func (a *App) end(err error) int {
	if err == nil {
		return exitOK
	}
	var code exit
	if errors.As(err, &code) {
		return int(code)
	}
	a.report(err)
	return codeOf(err)
}

// outlet is standard output, and remembers what of it was lost: whoever redirects it into a
// file on a full disk is not told that all went well. (A closed pipe ends the process.)
type outlet struct {
	to   io.Writer
	lost error
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil && o.lost == nil {
		o.lost = err
	}
	return n, err
}

// codeOf is the exit code of an error that was told.
func codeOf(err error) int {
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, ErrConfig):
		return exitConfig
	}
	return api.ExitCode(err)
}

// report tells an error: what went wrong, a line each, and what to type.
func (a *App) report(err error) {
	s := a.style()
	s.color = s.color && a.Interactive
	var h hinted
	fix := ""
	if errors.As(err, &h) {
		fix = h.fix
	}
	for line := range strings.SplitSeq(strings.TrimSpace(api.Text(err)), "\n") {
		if line = s.clean(line); line != "" {
			fmt.Fprintf(a.Stderr, "%s %s\n", s.mark(markCritical), line)
		}
	}
	if fix != "" {
		fmt.Fprintln(a.Stderr, s.plain("  → ")+fix)
	}
}

// tell prints lines to standard output.
func (a *App) tell(lines ...string) {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(a.Stdout, b.String()) // the outlet remembers an error
}

// aside prints lines that are not the answer to standard error.
func (a *App) aside(lines ...string) {
	for _, l := range lines {
		fmt.Fprintln(a.Stderr, l)
	}
}

// height is how many lines the terminal shows, 0 if that is unknown. What it
// says of its width counts from here on.
func (a *App) height() int {
	if a.Size == nil {
		return 0
	}
	columns, lines := a.Size()
	if columns > 0 {
		a.Width = columns
	}
	return lines
}

// style follows --color, NO_COLOR, CLICOLOR_FORCE, FORCE_COLOR, TERM and the
// terminal, in this order, for colours, and --ascii or the locale for signs.
func (a *App) style() style {
	s := style{now: a.Now(), zone: a.zone(), width: a.Width, config: a.configPath}
	if s.width == 0 && a.Terminal {
		s.width = proseWidth
	}
	on := func(name string) bool { v := a.Getenv(name); return v != "" && v != "0" }
	switch {
	case a.colorFlag == "always":
		s.color = true
	case a.colorFlag == "never", a.Getenv("NO_COLOR") != "":
	case on("CLICOLOR_FORCE"), on("FORCE_COLOR"):
		s.color = true
	case a.Getenv("TERM") == "dumb":
	default:
		s.color = a.Terminal
	}
	s.ascii = a.asciiFlag || !a.utf8()
	return s
}

// utf8 says whether the locale is one of UTF-8. Where none is set, as in a
// service or a small container, it is taken to be: all else is older.
func (a *App) utf8() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := a.Getenv(name); v != "" {
			v = strings.ToLower(strings.ReplaceAll(v, "-", ""))
			return strings.Contains(v, "utf8")
		}
	}
	return true
}

// zone is the user's, or UTC with --utc and CERTD_UTC.
func (a *App) zone() *time.Location {
	if v := a.Getenv("CERTD_UTC"); a.utcFlag || v != "" && v != "0" {
		return time.UTC
	}
	if name := strings.TrimPrefix(a.Getenv("TZ"), ":"); name != "" {
		if zone, err := time.LoadLocation(name); err == nil {
			return zone
		}
	}
	return time.Local
}

// ask puts a question to the daemon, and where none answers to the journal.
// The note tells of the journal.
func ask[T any](ctx context.Context, a *App, question func(context.Context, api.Service) (T, error)) (answer T, note string, err error) {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return answer, "", err
	}
	answer, err = question(ctx, api.NewClient(socket))
	if err == nil || !errors.Is(err, api.ErrNoDaemon) {
		return answer, "", err
	}
	local, note, closeLocal, err := a.Local(ctx, a.configPath, false)
	if err != nil {
		return answer, "", err
	}
	answer, err = question(ctx, local)
	if closed := closeLocal(); err == nil {
		err = closed
	}
	return answer, note, err
}
