package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
)

func (a *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "certd",
		Short:         "certd looks after the certificates of Linkerd fleets",
		SilenceErrors: true,
		SilenceUsage:  true,
		// Letters a mistyped name may differ by; it is not the default for
		// commands that take arguments.
		SuggestionsMinimumDistance: 2,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hinted{err, api.ErrUsage, cmd.CommandPath() + " --help"}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", "", "configuration `file` (else $CERTD_CONFIG, ./certd.yaml, /etc/certd/certd.yaml)")
	flags.StringVar(&a.colorFlag, "color", "auto", "`when` to colour: auto, always or never")
	flags.BoolVar(&a.asciiFlag, "ascii", false, "print [ok] [!!] [XX] [??] instead of signs")
	flags.BoolVar(&a.utcFlag, "utc", false, "print times in UTC, not in $TZ")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.colorFlag {
		case "auto", "always", "never":
			return nil
		}
		return usage("--color %s: not one of auto, always, never", a.colorFlag)
	}
	root.AddCommand(
		a.initCommand(), a.runCommand(), a.statusCommand(), a.checkCommand(), a.verifyCommand(), a.planCommand(), a.simulateCommand(), a.rotateCommand(), a.pauseCommand(), a.resumeCommand(), a.historyCommand(),
		a.inspectCommand(), a.trustCommand(), a.adoptCommand(), a.exportCommand(), a.clustersCommand(), a.configCommand(), a.backupCommand(), a.restoreCommand(), a.recoverCommand(), a.runbookCommand(), a.debugCommand(), a.versionCommand(), a.completionCommand(root),
	)
	root.AddCommand(helpTopics()...)
	root.SetHelpCommand(helpCommand(root))
	return root
}

// noun is a command that only holds others.
func noun(name, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return hinted{fmt.Errorf("%s wants a command after it", cmd.CommandPath()), api.ErrUsage, cmd.CommandPath() + " --help"}
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func unknownCommand(cmd *cobra.Command, name string) error {
	fix := cmd.CommandPath() + " --help"
	if like := cmd.SuggestionsFor(name); len(like) > 0 {
		fix = cmd.CommandPath() + " " + strings.Join(like, ", or "+cmd.CommandPath()+" ")
	}
	return hinted{fmt.Errorf("%s has no command %q", cmd.CommandPath(), name), api.ErrUsage, fix}
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return hinted{fmt.Errorf("%s takes no argument, but there is %q", cmd.CommandPath(), args[0]), api.ErrUsage, cmd.CommandPath() + " --help"}
	}
	return nil
}

func (a *App) runCommand() *cobra.Command {
	var dev bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "The daemon: looks at every cluster, renews what is due, repairs what was changed",
		Long: "Looks at every cluster of the configuration, renews what is due and repairs what was changed,\n" +
			"until it gets SIGTERM or SIGINT. SIGHUP, or a change of its file, reloads the configuration.\n" +
			"With --dev it needs nothing: it sets up two directory clusters in ./certd-dev and rotates in view,\n" +
			"and shows its status page at http://127.0.0.1:9843 if no other program listens there.",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dev && a.configPath != "" {
				return usage("--dev brings its own configuration, so --config does not go with it")
			}
			return a.Run(cmd.Context(), a.configPath, dev)
		},
	}
	cmd.Flags().BoolVar(&dev, "dev", false, "try certd without Vault and Kubernetes, in ./certd-dev")
	return cmd
}

func (a *App) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version", Short: "Version, commit and date of this certd", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			o, err := outputOf(format, "text", "json", "yaml")
			if err != nil {
				return err
			}
			v := a.Version
			if o.machine() {
				return a.document(o, struct {
					APIVersion string `json:"apiVersion"`
					Kind       string `json:"kind"`
					VersionInfo
				}{apiVersion, "Version", v})
			}
			a.tell(fmt.Sprintf("certd %s, commit %s of %s, %s, %s", v.Version, v.Commit, v.Date, v.GoVersion, v.Platform))
			return nil
		},
	}
	outputFlag(cmd, &format, "text", "json", "yaml")
	return cmd
}

func outputFlag(cmd *cobra.Command, into *string, formats ...string) {
	cmd.Flags().StringVarP(into, "output", "o", formats[0], "`format`: "+strings.Join(formats, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *App) completionCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print the completion script for a shell",
		Long:      "Prints the completion script for a shell, to be sourced:\n\n  source <(certd completion bash)\n  certd completion fish | source",
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("%s wants one of bash, zsh, fish, powershell", cmd.CommandPath())
			}
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.Stdout)
			case "fish":
				return root.GenFishCompletion(a.Stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.Stdout)
			}
			return usage("%s: no shell %q; there are bash, zsh, fish, powershell", cmd.CommandPath(), args[0])
		},
	}
}

// helpCommand is cobra's, but for an unknown topic being an error.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about any command",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			at, _, err := root.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var list []cobra.Completion
			for _, sub := range at.Commands() {
				if !sub.Hidden {
					list = append(list, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return list, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			at, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: `status      0 ok, 1 warning, 2 critical, 3 unknown
check       likewise; with --fail-on error a warning is 0
verify      likewise; 3 where nothing was found wrong, and not all could be seen
plan        with --exit-code: 2 if changes are pending
others      0 done, or nothing to do; 1 failed

every command:
  64   usage: an unknown command, flag or argument, or one not supported yet
  69   a needed service is unavailable: the daemon, Vault, a cluster
  75   not now: try again later
  77   not permitted: by the socket, Vault or a cluster
  78   the configuration is invalid
  124  waited too long
  130  interrupted; the message says what was done and what was not`},
		{Use: "environment", Short: "Which environment variables count", Long: `CERTD_CONFIG                  the configuration file, where --config is not given
CERTD_UTC                     1: times in UTC, as with --utc
TZ                            the zone times are printed in
NO_COLOR                      not empty: no colours
CLICOLOR_FORCE, FORCE_COLOR   not 0: colours even in a pipe
TERM                          dumb: no colours
LC_ALL, LC_CTYPE, LANG        not of UTF-8: as with --ascii
VAULT_ADDR, VAULT_CACERT,
VAULT_NAMESPACE               fill what the configuration leaves out
VAULT_TOKEN                   creates the anchor key (certd init, trust rotate, trust import), else the file
                              ~/.vault-token does; signing always uses keys.vault.auth`},
	}
}

// Root is the command certd with all others below it, for what is made from them. It is not
// to be executed.
func (a *App) Root() *cobra.Command { return a.root() }
