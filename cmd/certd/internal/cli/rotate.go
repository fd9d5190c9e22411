package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

type rotateOptions struct {
	of       renewable
	names    []string
	selector string
	all      bool
	reason   string
	wait     bool
	dryRun   bool
	yes      bool
	timeout  string
}

// A renewable is what can be renewed, in the words of the command about it.
type renewable struct {
	target      rotation.Target
	short, long string
	verb        string
	of, ofMany  string // "the issuer of", "the issuers of"
	done        string // before the serials of what is new
	late        string // what is so when --timeout is over
	undo        string
}

var renewables = []renewable{
	{
		target: rotation.TargetIssuer, short: "Renew issuers now", verb: "Renew",
		of: "the issuer of", ofMany: "the issuers of", done: "new issuer", late: "not all issuers are renewed",
		// There is no way back to an old issuer, and none is needed.
		undo: "none is needed; certificates signed by the former issuers stay valid until they end.",
	},
	{
		target: rotation.TargetWebhooks, short: "Renew the certificates of webhooks now",
		long: "Gives each webhook that certd looks after, and tap's API server, a new certificate under the webhook CA there is.\n" +
			"The API server trusts that CA already, so that no admission fails while the pods take the new certificates up.",
		verb: "Renew", of: "the webhooks' certificates of", ofMany: "the webhooks' certificates of", done: "new certificates", late: "not all webhooks have a new certificate",
		undo: "none is needed; what the API server trusts is as before.",
	},
	{
		target: rotation.TargetWebhookCA, short: "Replace the CA of webhooks now",
		long: "Makes a new webhook CA and goes over to it so that no admission fails on the way: the API server is told to trust\n" +
			"the new CA beside the old one, each certificate is replaced by one under it, and the old CA is taken out once each\n" +
			"replica is proved to serve under the new one. That takes some minutes. Until then the old CA is trusted, too, and\n" +
			"the change can be taken back by asking again: a newer CA takes the new one's place.",
		verb: "Replace", of: "the webhook CA of", ofMany: "the webhook CAs of", done: "new webhook CA", late: "not all webhook CAs are replaced",
		undo: "ask again, and a newer CA takes its place; the old one stays trusted until each replica is proved to serve under the new one.",
	},
}

func (a *App) rotateCommand() *cobra.Command {
	var subs []*cobra.Command
	for _, r := range renewables {
		subs = append(subs, a.renewCommand(r))
	}
	return noun("rotate", "Renew certificates now", subs...)
}

func (a *App) renewCommand(of renewable) *cobra.Command {
	o := rotateOptions{of: of}
	cmd := &cobra.Command{
		Use:               string(of.target) + " CLUSTER... | -l LABELS | --all",
		Short:             of.short,
		Long:              of.long,
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return a.rotate(cmd.Context(), o)
		},
	}
	all, wait := "every managed cluster", "wait until each is written, or has failed"
	if of.target != rotation.TargetIssuer {
		all, wait = "every managed cluster with webhooks", "wait until each is done, or has failed"
	}
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "clusters whose `labels` match, as in kubectl -l")
	f.BoolVar(&o.all, "all", false, all)
	f.StringVar(&o.reason, "reason", "", "why, for the history")
	f.BoolVar(&o.wait, "wait", false, wait)
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.StringVar(&o.timeout, "timeout", "", "wait no longer than this (exit 124)")
	return cmd
}

func (a *App) rotate(ctx context.Context, o rotateOptions) error {
	ways := 0
	for _, way := range []bool{len(o.names) > 0, o.selector != "", o.all} {
		if way {
			ways++
		}
	}
	if ways != 1 {
		return usage("name the clusters, or use -l LABELS, or --all, and one of these only")
	}
	if o.timeout != "" {
		limit, err := config.ParseDuration(o.timeout)
		if err != nil {
			return usage("--timeout %q %v", o.timeout, err)
		}
		if !o.wait {
			return usage("--timeout is for --wait")
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s after %s; what was begun goes on, certd history shows it: %w", o.of.late, span(limit), api.ErrTimeout))
		defer cancel()
	}
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	st, err := working(daemon.Status(ctx))
	if err != nil {
		return a.needsDaemon(err)
	}
	clusters, err := targets(st, o)
	if err != nil {
		return err
	}
	if !o.dryRun && !o.yes {
		what := o.of.of + " " + names(clusters, 8)
		if len(clusters) > 1 {
			what = fmt.Sprintf("%s %s: %s", o.of.ofMany, count(len(clusters), "cluster"), names(clusters, 8))
		}
		if err := a.confirm(ctx, o.of.verb+" "+what+" now?", "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.Rotate(ctx, api.RotateRequest{Target: o.of.target, Clusters: clusters, Reason: o.reason, Wait: o.wait, DryRun: o.dryRun})
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request and goes on; certd history shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	return a.rotated(o, reply)
}

// needsDaemon says what to type where no daemon answers.
func (a *App) needsDaemon(err error) error {
	return a.daemonFor("this needs the daemon, and nothing was done", err)
}

// daemonFor says that there is none, and what that means.
func (a *App) daemonFor(what string, err error) error {
	if errors.Is(err, api.ErrNoDaemon) {
		return hint(fmt.Errorf("%s: %w", what, err), a.command("run"))
	}
	return err
}

// command is one to type, with the configuration of this one.
func (a *App) command(words string) string {
	if a.configPath == "" {
		return "certd " + words
	}
	return "certd " + words + " --config " + a.configPath
}

// undo is the line that says how to take back what was done: a command, when it helps
// behind a comma, or words.
func (a *App) undo(how string) []string {
	command, when, more := strings.Cut(how, ", ")
	if words, is := strings.CutPrefix(command, "certd "); is {
		command = a.command(words)
	}
	if more {
		command += ", " + when
	}
	s := a.style()
	return s.wrap("  Undo: ", "  ", s.clean(command))
}

// targets are the clusters to renew in; --all and -l mean the managed ones that
// have what is to be renewed. Of one that is named the daemon says what is
// missing.
func targets(st rotation.FleetStatus, o rotateOptions) ([]string, error) {
	set, err := chosen(st.Clusters, o.names, o.selector)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, c := range st.Clusters {
		if set[c.Name] && (len(o.names) > 0 || c.Mode == "managed" && o.of.isIn(c)) {
			list = append(list, c.Name)
		}
	}
	switch {
	case len(list) > 0:
	case o.of.target == rotation.TargetIssuer:
		return nil, usage("no managed cluster is meant")
	default:
		return nil, usage("no cluster is meant that has webhooks which certd looks after")
	}
	return list, nil
}

func (r renewable) isIn(c rotation.ClusterStatus) bool {
	return r.target == rotation.TargetIssuer || slices.ContainsFunc(c.Webhooks, func(w rotation.WebhookStatus) bool { return w.Mode == string(rotation.Managed) })
}

func (a *App) rotated(o rotateOptions, reply api.RotateReply) error {
	s := a.style()
	failed := false
	var list []string
	for _, r := range reply.Results {
		list = append(list, r.Cluster)
		m, text := markRunning, s.clean(r.Detail)
		switch {
		case o.dryRun:
			m = markWaiting
		case r.Result == rotation.OK:
			m = markOK
			text = o.of.done + " " + s.clean(r.Serial)
			if r.Detail != "" {
				text += ": " + s.clean(r.Detail)
			}
		case r.Result != "":
			failed = true
			m = markOfResult(r.Result)
			text = string(r.Result) + ": " + s.clean(r.Detail)
		}
		a.tell(s.wrap(s.mark(m)+" "+s.clean(r.Cluster)+"  ", "    ", text)...)
	}
	if o.dryRun {
		a.aside("Nothing was changed.")
		return nil
	}
	follow := "certd history --since 1h"
	if len(list) == 1 {
		follow += " --cluster " + list[0]
	}
	a.aside(s.next(s.clean(follow))...)
	a.aside(a.undo(o.of.undo)...)
	if failed {
		return exit(exitFailed)
	}
	return nil
}

// confirm asks, and wants the word typed. Where it may not ask, it refuses
// and names the flag.
func (a *App) confirm(ctx context.Context, question, word string) error {
	if !a.Interactive {
		return usage("this changes something and there is no terminal to ask on; add --yes")
	}
	s := a.style()
	fmt.Fprintf(a.Stderr, "%s Type %s: ", strings.Join(s.wrap("", "", s.clean(question)), "\n"), word)
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(a.Stdin).ReadString('\n')
		got <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.Stderr)
		return interrupted("nothing was changed")
	case g := <-got:
		if strings.TrimSpace(g.line) != word {
			return fmt.Errorf("the answer was not %q; nothing was changed", word)
		}
		return nil
	}
}
