// Manual writes a man page for each of certd's commands into a folder, for packages of a
// release: manual FOLDER VERSION DATE. It is a program of its own, so that certd carries no
// formatter of man pages.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra/doc"

	"certd.internal/cmd/certd/internal/cli"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: manual FOLDER VERSION DATE")
		os.Exit(64)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write makes the same pages of the same version and date, which is RFC 3339.
func write(folder, version, date string) error {
	at, err := time.Parse(time.RFC3339, date)
	if err != nil {
		return fmt.Errorf("read the date of the man pages: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make the folder of the man pages: %w", err)
	}
	root := (&cli.App{}).Root()
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &at, Source: "certd " + version, Manual: "certd"}, folder); err != nil {
		return fmt.Errorf("write the man pages: %w", err)
	}
	return nil
}
