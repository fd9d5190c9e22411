package cli

import "github.com/spf13/cobra"

// ConfigCommands is what the config commands work on. path is --config as
// given.
type ConfigCommands interface {
	// Validate reads and checks the configuration, and asks nobody.
	Validate(path string) ConfigReport
	// Values are the effective values, in the order of the file, secrets
	// hidden. Its error wraps ErrConfig if the configuration is invalid.
	Values(path string) ([]ConfigValue, error)
	// Schema is the JSON Schema of the configuration.
	Schema() []byte
	// Example is a configuration to start from.
	Example() []byte
}

// A ConfigReport is what checking a configuration came to. It is valid if
// there are no problems.
type ConfigReport struct {
	Problems []string // a line each: "file:line:col: path: what is wrong"
	Warnings []string // likewise: what is allowed and may surprise
	Valid    []string // what a valid one comes to: the first line in a few words, then the next slots
}

// A ConfigValue is one effective value with its origin: a place in a file,
// "default", or an environment variable.
type ConfigValue struct {
	Path   string `json:"path"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

func (a *App) configCommand() *cobra.Command {
	validate := &cobra.Command{
		Use: "validate", Short: "Check the configuration: every error at once, each with its line", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error { return a.validateConfig() },
	}
	var format string
	show := &cobra.Command{
		Use: "show", Short: "Effective values, and where each comes from", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error { return a.showConfig(format) },
	}
	outputFlag(show, &format, "table", "json", "yaml")
	print := func(name, short string, text func() []byte) *cobra.Command {
		return &cobra.Command{Use: name, Short: short, Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
			RunE: func(*cobra.Command, []string) error {
				_, err := a.Stdout.Write(text())
				return err
			}}
	}
	return noun("config", "Check and show the configuration", validate, show,
		print("schema", "The JSON Schema of the configuration, for editors", func() []byte { return a.Config.Schema() }),
		print("example", "A configuration to start from", func() []byte { return a.Config.Example() }))
}

func (a *App) validateConfig() error {
	r := a.Config.Validate(a.configPath)
	s := a.style()
	// The lines stay whole, to be found again by editors and scripts.
	for _, p := range r.Problems {
		a.aside(s.sign(markCritical) + " " + s.clean(p))
	}
	for _, w := range r.Warnings {
		a.aside(s.sign(markWarning) + " " + s.clean(w))
	}
	if len(r.Problems) > 0 {
		summary := count(len(r.Problems), "error")
		if len(r.Warnings) > 0 {
			summary += ", " + count(len(r.Warnings), "warning")
		}
		a.aside(summary)
		return exit(exitConfig)
	}
	for i, line := range r.Valid {
		if i == 0 {
			line = s.mark(markOK) + " " + line
		}
		a.tell(s.plain(line))
	}
	return nil
}

func (a *App) showConfig(format string) error {
	o, err := outputOf(format, "table", "json", "yaml")
	if err != nil {
		return err
	}
	values, err := a.Config.Values(a.configPath)
	if err != nil {
		return err
	}
	if o.machine() {
		return a.document(o, struct {
			APIVersion string        `json:"apiVersion"`
			Kind       string        `json:"kind"`
			Values     []ConfigValue `json:"values"`
		}{apiVersion, "ConfigValues", values})
	}
	s := a.style()
	rows := make([][]cell, 0, len(values))
	for _, v := range values {
		rows = append(rows, []cell{text(s.clean(v.Path)), text(s.clean(v.Value)), text(s.clean(v.Origin))})
	}
	a.tell(s.table("", []column{{name: "PATH"}, {name: "VALUE"}, {name: "ORIGIN", rank: 1}}, rows)...)
	return nil
}
