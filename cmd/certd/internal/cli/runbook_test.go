package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"certd.internal/docs/runbooks"
)

// Whoever is woken at night types what stands there. Each command of certd in the
// documentation is one that this certd takes, with its flags and as many arguments;
// those of the runbooks also where they stand within a sentence.
func TestCommandsInTheDocumentationAreTaken(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("../../../..", func(path string, d fs.DirEntry, err error) error {
		inDocs := strings.HasPrefix(path, "../../../../docs/") || path == "../../../../README.md"
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" || !inDocs {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, line := range commandsIn(string(text), filepath.Base(filepath.Dir(path)) == "runbooks") {
			seen++
			if problem := refused(line); problem != "" {
				t.Errorf("%s: %q: %s", path, line, problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 250 {
		t.Fatalf("only %d commands were found: the test looks in the wrong place", seen)
	}
	for _, line := range []string{"certd nothing", "certd rotate issuer eu --now", "certd trust rotate east", "certd simulate east", "certd status -o html", "certd history --since"} {
		if refused(line) == "" {
			t.Errorf("%q was not noticed", line)
		}
	}
}

// commandsIn are the commands of certd in a text: lines that are indented or fenced and,
// with inline, code within sentences.
func commandsIn(text string, inline bool) (list []string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	code := regexp.MustCompile("(?s)`(certd [^`]*)`")
	within := regexp.MustCompile(`(?:^(?:\$ )?|[|(]\s*|\)\s+)(?:[A-Z_]+=[^\s$]+ )?(certd .*)`)
	var prose strings.Builder
	fenced := false
	for line := range strings.Lines(strings.ReplaceAll(text, "go run ./cmd/certd", "certd")) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			prose.WriteString(line)
			continue
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), " # ")
		line, _, _ = strings.Cut(line, "  #")
		for part := range strings.SplitSeq(strings.ReplaceAll(line, "&&", ";"), ";") {
			if m := within.FindStringSubmatch(part); m != nil {
				list = append(list, m[1])
			}
		}
	}
	if !inline { // there it may be a part of one
		return list
	}
	for _, m := range code.FindAllStringSubmatch(prose.String(), -1) {
		list = append(list, strings.Join(strings.Fields(m[1]), " "))
	}
	return list
}

// refused says why certd would not take a command line, "" if it would.
func refused(line string) string {
	args := words(line)
	for i, arg := range args {
		if arg == "|" || arg == ">" || arg == ">>" || arg == "2>&1" {
			args = args[:i]
			break
		}
	}
	root := new(App).root()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args[1:])
	if err != nil {
		return err.Error()
	}
	if cmd.DisableFlagParsing {
		return "it is not supported yet"
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err.Error()
	}
	rest = cmd.Flags().Args()
	if cmd.HasSubCommands() && len(rest) > 0 {
		return "there is no command " + rest[0]
	}
	if err := cmd.ValidateArgs(rest); err != nil {
		return err.Error()
	}
	if f := cmd.Flags().Lookup("output"); f != nil && f.Changed {
		if format, _, _ := strings.Cut(f.Value.String(), "="); !strings.Contains(f.Usage, format) {
			return "-o has no " + format
		}
	}
	return ""
}

// words splits a command line as a shell does, as far as the documentation goes.
func words(line string) (list []string) {
	for _, m := range regexp.MustCompile(`(?:"[^"]*"|'[^']*'|[^\s"'])+`).FindAllString(line, -1) {
		list = append(list, strings.NewReplacer(`"`, "", "'", "").Replace(m))
	}
	return list
}

func TestRunbooksOnTheScreen(t *testing.T) {
	golden(t, "runbooks", runbookList(runbooks.Pages()))
	p, ok := runbooks.Find("KeysUnavailable")
	if !ok {
		t.Fatal("no runbook for KeysUnavailable")
	}
	golden(t, "runbook", runbookLines(p))
	lines := runbookList(runbooks.Pages())
	for _, p := range runbooks.Pages() {
		lines = append(lines, runbookLines(p)...)
	}
	for _, l := range lines {
		if problem := misfit(l, style{width: 80, ascii: true}); problem != "" {
			t.Errorf("%s in %q", problem, l)
		}
	}
}
