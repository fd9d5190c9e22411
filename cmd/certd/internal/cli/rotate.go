package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

type rotateOptions struct {
	names    []string
	selector string
	all      bool
	reason   string
	wait     bool
	dryRun   bool
	yes      bool
	timeout  string
}

func (a *App) rotateCommand() *cobra.Command {
	var o rotateOptions
	issuer := &cobra.Command{
		Use:               "issuer CLUSTER... | -l LABELS | --all",
		Short:             "Renew issuers now",
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return a.rotate(cmd.Context(), o)
		},
	}
	f := issuer.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "clusters whose `labels` match, as in kubectl -l")
	f.BoolVar(&o.all, "all", false, "every managed cluster")
	f.StringVar(&o.reason, "reason", "", "why, for the history")
	f.BoolVar(&o.wait, "wait", false, "wait until each is written, or has failed")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.StringVar(&o.timeout, "timeout", "", "wait no longer than this (exit 124)")
	return noun("rotate", "Renew certificates now", issuer, notYet("webhooks"), notYet("webhook-ca"))
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
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not all issuers are renewed after %s; what was begun goes on, certd history shows it: %w", span(limit), api.ErrTimeout))
		defer cancel()
	}
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	st, err := daemon.Status(ctx)
	if err != nil {
		return a.needsDaemon(err)
	}
	clusters, err := targets(st, o)
	if err != nil {
		return err
	}
	if !o.dryRun && !o.yes {
		what := "the issuer of " + names(clusters, 8)
		if len(clusters) > 1 {
			what = fmt.Sprintf("the issuers of %s: %s", count(len(clusters), "cluster"), names(clusters, 8))
		}
		if err := a.confirm(ctx, "Renew "+what+" now?", "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.Rotate(ctx, api.RotateRequest{Clusters: clusters, Reason: o.reason, Wait: o.wait, DryRun: o.dryRun})
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
	if errors.Is(err, api.ErrNoDaemon) {
		return hint(fmt.Errorf("renewing needs the daemon, and nothing was done: %w", err), a.command("run"))
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

// targets are the clusters to renew; --all and -l mean the managed ones.
func targets(st rotation.FleetStatus, o rotateOptions) ([]string, error) {
	set, err := chosen(st.Clusters, o.names, o.selector)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, c := range st.Clusters {
		if set[c.Name] && (len(o.names) > 0 || c.Mode == "managed") {
			list = append(list, c.Name)
		}
	}
	if len(list) == 0 {
		return nil, usage("no managed cluster is meant")
	}
	return list, nil
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
			text = "new issuer " + s.clean(r.Serial)
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
	// There is no way back to an old issuer, and none is needed: it stays
	// valid, and proxies trust both.
	follow := "certd history --since 1h"
	if len(list) == 1 {
		follow += " --cluster " + list[0]
	}
	a.aside(s.next(s.clean(follow))...)
	a.aside("  Undo: none is needed; certificates signed by the former issuers stay valid until they end.")
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
