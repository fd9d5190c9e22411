package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected problems in testdata")

// Each file of testdata/broken ends with the problems it must give, as
// comments.
func TestBrokenFiles(t *testing.T) {
	paths, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	const mark = "#! "
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var text, want []string
			for line := range strings.Lines(string(whole)) {
				if problem, ok := strings.CutPrefix(line, mark); ok {
					want = append(want, strings.TrimSuffix(problem, "\n"))
				} else {
					text = append(text, line)
				}
			}
			if len(want) == 0 && !*update {
				t.Fatal("the file expects no problem")
			}
			config, problems := parse("certd.yaml", []byte(strings.Join(text, "")), options())
			if config != nil || len(problems) == 0 {
				t.Fatal("the file is accepted")
			}
			folder, err := filepath.Abs(".")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.ReplaceAll(problems.Error(), folder, "FOLDER"), "\n")
			if *update {
				out := strings.Join(text, "") + mark + strings.Join(got, "\n"+mark) + "\n"
				if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
