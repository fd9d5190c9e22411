package cli

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/term"
)

// Process is the App of this process: its streams, environment, terminal and
// build. The hooks are still to be filled in. version is that of a release,
// "" elsewhere.
func Process(version string) *App {
	a := &App{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now, Version: buildInfo(version)}
	out := int(os.Stdout.Fd())
	a.Terminal = term.IsTerminal(out)
	a.Interactive = term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
	if a.Terminal {
		if width, _, err := term.GetSize(out); err == nil {
			a.Width = width
		}
	}
	return a
}

// buildInfo reads what the go command recorded in the binary.
func buildInfo(version string) VersionInfo {
	v := VersionInfo{Version: version, Commit: "unknown", Date: "unknown", GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Date = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		v.Commit += " (modified)"
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}
