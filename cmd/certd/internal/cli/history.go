package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// screenful is how many entries a person gets who did not say how many.
const screenful = 50

type historyOptions struct {
	since  string
	query  api.HistoryQuery
	follow bool
	verify bool
	output output
}

func (a *App) historyCommand() *cobra.Command {
	var o historyOptions
	var format string
	cmd := &cobra.Command{
		Use: "history", Short: "What was done, by whom and why; --verify checks the hash chain", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.output, err = outputOf(format, "table", "json", "yaml"); err != nil {
				return err
			}
			if o.since != "" {
				ago, err := config.ParseDuration(o.since)
				if err != nil {
					return usage("--since %q %v", o.since, err)
				}
				o.query.Since = a.Now().Add(-ago)
			}
			limited := cmd.Flags().Changed("limit")
			if o.query.Limit < 0 {
				return usage("--limit %d: below 0", o.query.Limit)
			}
			if !limited && o.since == "" && !o.output.machine() {
				o.query.Limit = screenful
			}
			switch {
			case o.verify && (o.follow || o.since != "" || o.query.Cluster != "" || limited):
				return usage("--verify checks the whole journal; it goes with -o only")
			case o.verify:
				return a.verify(cmd.Context(), o.output)
			case o.follow && o.output.format == "yaml":
				return usage("--follow goes with -o table and -o json only")
			case o.follow:
				return a.follow(cmd.Context(), o)
			}
			return a.history(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.since, "since", "", "only entries younger than this, as in 36h, 90d")
	f.StringVar(&o.query.Cluster, "cluster", "", "only entries of this `cluster`")
	f.IntVar(&o.query.Limit, "limit", 0, "only the newest so many; 0 for all (default for people: 50)")
	f.BoolVar(&o.follow, "follow", false, "go on printing new entries until interrupted")
	f.BoolVar(&o.verify, "verify", false, "check the hash chain; exit 1 if it does not hold")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters))
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}

func (a *App) entries(ctx context.Context, q api.HistoryQuery) (rotation.HistoryList, string, error) {
	return ask(ctx, a, func(ctx context.Context, s api.Service) (rotation.HistoryList, error) { return s.History(ctx, q) })
}

func (a *App) history(ctx context.Context, o historyOptions) error {
	list, note, err := a.entries(ctx, o.query)
	if err != nil {
		return err
	}
	if note != "" {
		a.aside(note)
	}
	if o.output.machine() {
		return a.document(o.output, list)
	}
	if len(list.Items) == 0 {
		say := "no entries"
		if c := o.query.Cluster; c != "" { // it may have left the configuration, or be called otherwise
			say += fmt.Sprintf(" of a cluster called %q; certd clusters list has those that there are", c)
		}
		a.tell(a.style().wrap("", "", say)...)
		return nil
	}
	items := slices.Clone(list.Items)
	slices.Reverse(items)
	a.tell(historyView{style: a.style(), items: items}.table("")...)
	if len(items) == o.query.Limit {
		a.aside(fmt.Sprintf("the newest %d; --limit 0 for all", len(items)))
	}
	return nil
}

// follow prints what there is and then what comes.
func (a *App) follow(ctx context.Context, o historyOptions) error {
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	if o.query.Limit == 0 && o.since == "" || o.query.Limit == screenful {
		o.query.Limit = 10
	}
	for first := true; ; first = false {
		list, note, err := a.entries(ctx, o.query)
		switch {
		case ctx.Err() != nil:
			return interrupted("nothing was changed")
		case err != nil && (first || !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrNotNow)):
			return err
		case err == nil:
			if first && note != "" {
				a.aside(note)
			}
			v := historyView{style: a.style()}
			for _, h := range list.Items {
				if err := a.followed(o.output, v, h); err != nil {
					return err
				}
				o.query.After = max(o.query.After, h.Seq)
			}
			// From here on every new entry counts.
			o.query.Limit, o.query.Since = 0, time.Time{}
		}
		select {
		case <-ctx.Done():
			return interrupted("nothing was changed")
		case <-tick.C:
		}
	}
}

func (a *App) followed(o output, v historyView, h rotation.HistoryItem) error {
	if !o.machine() {
		a.tell(v.line(h)...)
		return nil
	}
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode an entry: %w", err)
	}
	a.tell(string(b))
	return nil
}

// verify checks the chain. A journal that does not hold is exit 1.
func (a *App) verify(ctx context.Context, o output) error {
	r, note, err := ask(ctx, a, func(ctx context.Context, s api.Service) (api.VerifyReport, error) { return s.Verify(ctx) })
	if err != nil {
		return err
	}
	if note != "" {
		a.aside(note)
	}
	s := a.style()
	switch {
	case o.machine():
		err = a.document(o, struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			api.VerifyReport
		}{apiVersion, "JournalVerification", r})
	case r.BadSeq != 0:
		a.tell(s.wrap(s.mark(markCritical)+" ", "  ", fmt.Sprintf("entry %d does not hold: %s", r.BadSeq, s.clean(r.Problem)))...)
		a.tell(s.wrap("    ", "    ", "What was recorded before it is sound. Somebody or something changed the file; keep a copy of it.")...)
	case r.Entries == 0:
		a.tell(s.mark(markOK) + " the journal has no entries")
	default:
		a.tell(s.wrap(s.mark(markOK)+" ", "  ", s.plain(fmt.Sprintf("entries %d to %d form one unbroken chain, head %s", r.First, r.Last, groups(s.clean(r.Head), true))))...)
	}
	if err == nil && r.BadSeq != 0 {
		return exit(exitFailed)
	}
	return err
}
