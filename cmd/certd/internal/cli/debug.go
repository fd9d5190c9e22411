package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/logs"
)

func (a *App) debugCommand() *cobra.Command {
	return noun("debug", "Look closer: the log level for a while, a bundle for support, a test of notifications", a.logLevelCommand(), a.bundleCommand(), a.debugNotifyCommand())
}

func (a *App) logLevelCommand() *cobra.Command {
	var period, format string
	cmd := &cobra.Command{
		Use: "log-level [get | [set] LEVEL | reset]", Short: "How much the daemon logs; another level for a while",
		Long: `Prints the daemon's log level, or changes it: debug, info, warn or error. After --for it falls back by itself to
log.level of the configuration, which nothing but the configuration changes for good; so does a restart.`,
		ValidArgs: []string{"get", "set", "reset", "debug", "info", "warn", "error"},
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			r, err := levelRequest(args)
			if err != nil {
				return err
			}
			if r.Level == "" && cmd.Flags().Changed("for") {
				return usage("--for goes with a level: certd debug log-level debug --for 10m")
			}
			d, err := config.ParseDuration(period)
			if err != nil {
				return usage("--for %q %v", period, err)
			}
			if r.Level != "" {
				r.Seconds = int64(d / time.Second)
			}
			return a.logLevel(cmd.Context(), r, o)
		},
	}
	cmd.Flags().StringVar(&period, "for", "15m", "how long a level counts, 24h at most")
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

// levelRequest reads "", "get", "reset", "LEVEL" and "set LEVEL".
func levelRequest(args []string) (r api.LogLevelRequest, err error) {
	words := args
	if len(words) == 2 && words[0] == "set" {
		words = words[1:]
	}
	switch {
	case len(words) == 0 || len(args) == 1 && words[0] == "get":
		return r, nil
	case len(args) == 1 && words[0] == "reset":
		r.Reset = true
		return r, nil
	case len(words) > 1 || words[0] == "set":
		return r, hinted{fmt.Errorf("certd debug log-level wants one level, but there is %q", args), api.ErrUsage, "certd debug log-level debug --for 10m"}
	}
	if _, err := logs.ParseLevel(words[0]); err != nil {
		return r, usage("certd debug log-level: %v", err)
	}
	r.Level = words[0]
	return r, nil
}

func (a *App) logLevel(ctx context.Context, r api.LogLevelRequest, o output) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	l, err := api.NewClient(socket).LogLevel(ctx, r)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon may have the request; certd debug log-level shows the level")
	case err != nil:
		return a.needsDaemon(err)
	case o.machine():
		return a.document(o, l)
	}
	s := a.style()
	said := "log level " + s.clean(l.Level)
	if l.Until != nil {
		said += fmt.Sprintf(" until %s (%s), then %s as configured", s.when(*l.Until), s.until(*l.Until), s.clean(l.Configured))
	} else {
		said += ", as configured"
	}
	a.tell(s.wrap("", "", said)...)
	if r.Level != "" {
		a.aside(a.undo("certd debug log-level reset")...)
	}
	return nil
}
