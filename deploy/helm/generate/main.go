// Generate writes what is made from the chart and for it below a folder, by the
// repository whose root is the first argument; both are the same as a rule.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	helm "certd.internal/deploy/helm"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate REPOSITORY FOLDER")
		os.Exit(64)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(repository, folder string) error {
	files, err := helm.Files(repository)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(folder, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write the generated files: %w", err)
		}
		if err := os.WriteFile(path, f.Text, 0o644); err != nil {
			return fmt.Errorf("write the generated files: %w", err)
		}
	}
	return nil
}
