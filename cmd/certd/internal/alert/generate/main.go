// Generate writes the alert rules, the dashboard and the index of the runbooks
// below a folder, the repository's root as a rule.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"certd.internal/cmd/certd/internal/alert"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate FOLDER")
		os.Exit(64)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(root string) error {
	files, err := alert.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write the generated files: %w", err)
		}
		if err := os.WriteFile(path, f.Text, 0o644); err != nil {
			return fmt.Errorf("write the generated files: %w", err)
		}
	}
	return nil
}
