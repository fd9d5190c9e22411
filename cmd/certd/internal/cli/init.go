package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

type initOptions struct {
	dryRun     bool
	yes        bool
	answers    string
	transcript string
	output     output
}

// initAnswers is the file of --answers.
type initAnswers struct {
	Fleet     string   `json:"fleet"` // must be the configuration's: the typed name of a ceremony without a keyboard
	Operator  string   `json:"operator"`
	Witnesses []string `json:"witnesses"`
	Reason    string   `json:"reason"`
}

func (a *App) initCommand() *cobra.Command {
	var o initOptions
	var format string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the trust anchor: its key in the key backend, its certificate, a record",
		Long: "Makes the trust anchor: its key in the key backend, its certificate, and a record of both.\n" +
			"Where there is one already it says so and changes nothing. The key is created with $VAULT_TOKEN, else\n" +
			"with the token in ~/.vault-token, else with the daemon's own login; all signing uses the latter.",
		Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.output, err = outputOf(format, "text", "json"); err != nil {
				return err
			}
			return a.init(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "check everything and make nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask for the fleet's name")
	f.StringVar(&o.answers, "answers", "", "YAML `file` with fleet, operator, witnesses, reason")
	f.StringVar(&o.transcript, "transcript", "", "write the record to this new `file`: JSON if it ends in .json, else Markdown")
	a.tokenFlag(cmd)
	outputFlag(cmd, &format, "text", "json")
	return cmd
}

func (a *App) init(ctx context.Context, o initOptions) error {
	answers, err := readAnswers(o.answers)
	if err != nil {
		return err
	}
	token, err := a.creationToken()
	if err != nil {
		return err
	}
	svc, closeService, err := a.ceremonyService(ctx)
	if err != nil {
		return err
	}
	err = a.ceremony(ctx, o, svc, answers, token)
	if closed := closeService(); err == nil {
		err = closed
	}
	return err
}

// ceremonyService is the daemon if one answers, else the journal.
func (a *App) ceremonyService(ctx context.Context) (api.Service, func() error, error) {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return nil, nil, err
	}
	daemon := api.NewClient(socket)
	_, err = daemon.Status(ctx)
	switch {
	case err == nil:
		return daemon, func() error { return nil }, nil
	case !errors.Is(err, api.ErrNoDaemon):
		return nil, nil, err
	}
	local, _, closeLocal, err := a.Local(ctx, a.configPath, true)
	return local, closeLocal, err
}

func (a *App) ceremony(ctx context.Context, o initOptions, svc api.Service, answers initAnswers, token string) error {
	st, err := working(svc.Status(ctx))
	if err != nil {
		return err
	}
	if answers.Fleet != "" && answers.Fleet != st.Fleet {
		return usage("%s is for fleet %q, and the configuration for %q", o.answers, answers.Fleet, st.Fleet)
	}
	req := api.InitRequest{Actor: api.Self(), Operator: answers.Operator, Witnesses: answers.Witnesses, Reason: answers.Reason, Token: token}
	there := st.Trust.Active != nil
	if !o.yes && !o.dryRun && !there {
		if !a.Interactive {
			return usage("this makes a trust anchor and there is no terminal to ask on; add --yes")
		}
		if err := a.rehearse(ctx, svc, req, st); err != nil {
			return err
		}
	}
	record, err := newTranscript(o.transcript)
	if err != nil {
		return err
	}
	req.DryRun = o.dryRun
	reply, err := svc.Init(ctx, req)
	if err != nil {
		record.discard()
		if ctx.Err() != nil {
			return interrupted("whether the trust anchor was made is recorded; certd status shows it, and running this again is safe")
		}
		return err
	}
	if err := record.write(a.style(), reply); err != nil {
		return err
	}
	if o.output.format == "json" {
		return a.document(o.output, reply)
	}
	a.tell(a.ceremonyLines(reply, record.path)...)
	return nil
}

// rehearse shows what will be made and asks for the fleet's name.
func (a *App) rehearse(ctx context.Context, svc api.Service, req api.InitRequest, st rotation.FleetStatus) error {
	req.DryRun = true
	plan, err := svc.Init(ctx, req)
	if err != nil {
		return err
	}
	s := a.style()
	a.aside(s.stepLines("Before anything is made", plan.Steps)...)
	a.aside("", "What will be made")
	a.aside(s.anchorLines(plan.Anchor)...)
	a.aside("")
	return a.confirm(ctx, "To make the trust anchor, type the fleet's name.", st.Fleet)
}

func (s style) stepLines(title string, steps []string) []string {
	lines := []string{title}
	for _, step := range steps {
		lines = append(lines, s.wrap("  "+s.mark(markOK)+" ", "    ", s.clean(step))...)
	}
	return lines
}

func (s style) anchorLines(an rotation.AnchorStatus) []string {
	var lines []string
	lines = append(lines, s.wrap("  anchor   ", "           ", s.clean(an.ID+"  "+an.Subject))...)
	if !an.NotAfter.IsZero() {
		lines = append(lines, s.wrap("  valid    ", "           ", fmt.Sprintf("%s to %s (%s)", s.day(an.NotBefore), s.day(an.NotAfter), coarse(an.NotAfter.Sub(s.now))))...)
	}
	return append(lines, s.wrap("  key      ", "           ", s.clean(whereKey(an.Key)))...)
}

func (a *App) ceremonyLines(r api.InitReply, transcript string) []string {
	s := a.style()
	head := fmt.Sprintf("%s  %s ", s.clean(r.Fleet), s.mark(markOK))
	switch {
	case r.DryRun:
		head = fmt.Sprintf("%s  %s rehearsal: nothing was made", s.clean(r.Fleet), s.mark(markWaiting))
	case r.Created:
		head += "the trust anchor is made"
	default:
		head += "the trust anchor is there already; nothing was changed"
	}
	lines := []string{head, ""}
	if len(r.Steps) > 0 {
		lines = append(append(lines, s.stepLines("Steps", r.Steps)...), "")
	}
	lines = append(lines, "Trust anchor")
	lines = append(lines, s.anchorLines(r.Anchor)...)
	if r.Operator != "" {
		lines = append(lines, s.wrap("  operator ", "           ", s.clean(r.Operator))...)
	}
	if len(r.Witnesses) > 0 {
		lines = append(lines, s.wrap("  witness  ", "           ", s.clean(strings.Join(r.Witnesses, ", ")))...)
	}
	if r.Anchor.SHA256 != "" {
		lines = append(lines, "", "SHA-256 of the certificate, to be read aloud and compared", "")
		lines = append(lines, aloud(s.clean(r.Anchor.SHA256), "      ")...)
		lines = append(lines, "")
	}
	if transcript != "" {
		lines = append(lines, s.wrap("Record     ", "           ", s.clean(transcript))...)
	}
	if r.DryRun {
		return append(lines, s.wrap("Next       ", "           ", s.clean(a.command("init")))...)
	}
	lines = append(lines, s.wrap("Bundle     ", "           ", "in the journal, and in every cluster once the daemon has looked at it; -o json and --transcript hold it, too")...)
	lines = append(lines, s.wrap("Next       ", "           ", s.clean(a.command("run")+" (or, if it runs: "+a.command("status")+")"))...)
	return lines
}

// aloud cuts a digest into fours, eight in a line.
func aloud(hex, indent string) []string {
	four := strings.Fields(groups(hex, false))
	var lines []string
	for i := 0; i < len(four); i += 8 {
		line := four[i:min(i+8, len(four))]
		text := indent + strings.Join(line[:min(4, len(line))], " ")
		if len(line) > 4 {
			text += "   " + strings.Join(line[4:], " ")
		}
		lines = append(lines, text)
	}
	return lines
}

func readAnswers(path string) (initAnswers, error) {
	var answers initAnswers
	if path == "" {
		return answers, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return answers, usage("--answers: %v", err)
	}
	if err := yaml.UnmarshalStrict(b, &answers); err != nil {
		return answers, usage("--answers %s: %v; it has fleet, operator, witnesses, reason", path, err)
	}
	if answers.Fleet == "" {
		return answers, usage("--answers %s: fleet is missing; it must be the name of the fleet", path)
	}
	return answers, nil
}

// tokenFlag lets a command take the token that creates a key from standard input: into a
// container without a shell comes no environment variable, and arguments are seen by others.
func (a *App) tokenFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.tokenStdin, "token-stdin", false, "read the token that creates the key from standard input, and not from $VAULT_TOKEN")
}

// maxToken is more than any token of Vault has.
const maxToken = 64 << 10

// creationToken is what creates the anchor key: with --token-stdin what standard input
// has, else $VAULT_TOKEN, then the file that `vault login` leaves, else "".
func (a *App) creationToken() (string, error) {
	if a.tokenStdin {
		b, err := io.ReadAll(io.LimitReader(a.Stdin, maxToken+1))
		if err != nil {
			return "", fmt.Errorf("read the token from standard input: %w", err)
		}
		token := strings.TrimSpace(string(b))
		if token == "" || len(b) > maxToken || strings.ContainsAny(token, " \r\n") {
			return "", usage("--token-stdin: standard input is to be one token and nothing else")
		}
		return token, nil
	}
	if token := strings.TrimSpace(a.Getenv("VAULT_TOKEN")); token != "" {
		return token, nil
	}
	home := a.Getenv("HOME")
	if home == "" {
		return "", nil
	}
	path := filepath.Join(home, ".vault-token")
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the token that vault login left: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
