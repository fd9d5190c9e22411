package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/cli"
)

// Each command that works has its page, and one that is refused so far has none. The same
// version has the same pages.
func TestEachCommandHasItsPage(t *testing.T) {
	folders := [2]string{t.TempDir(), t.TempDir()}
	for _, f := range folders {
		if err := write(f, "v1.2.3", "2026-11-28T00:00:00Z"); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.Hidden {
			want[strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"] = true
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&cli.App{}).Root())
	delete(want, "certd-help.1") // man has no use for it
	if len(want) < 30 {
		t.Fatalf("certd has %d commands: the test looks in the wrong place", len(want))
	}
	pages, err := os.ReadDir(folders[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		text, err := os.ReadFile(filepath.Join(folders[0], p.Name()))
		if err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(folders[1], p.Name()))
		if err != nil || string(again) != string(text) {
			t.Errorf("%s is another the second time (%v)", p.Name(), err)
		}
		if !want[p.Name()] {
			t.Errorf("%s is there, and no such command", p.Name())
		}
		delete(want, p.Name())
		if !strings.Contains(string(text), `"Nov 2026" "certd v1.2.3" "certd"`) {
			t.Errorf("%s does not say what it is of:\n%.200s", p.Name(), text)
		}
	}
	for name := range want {
		t.Errorf("there is no %s", name)
	}
	if err := write(t.TempDir(), "v1", "yesterday"); err == nil {
		t.Error("a date that is none was taken")
	}
}
