package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certd.internal/.ci/scoreboard"
)

func TestExecutionsAreThoseThatWereToldOfLast(t *testing.T) {
	out := "fuzz: elapsed: 3s, execs: 4626 (1542/sec), new interesting: 215 (total: 231)\nfuzz: elapsed: 6s, execs: 10235 (1868/sec), new interesting: 2 (total: 3)\nPASS\n"
	if n := executions([]byte(out)); n != 10235 {
		t.Errorf("%d", n)
	}
	if n := executions([]byte("ok")); n != 0 {
		t.Errorf("%d of nothing", n)
	}
}

func TestExecutionsAreSharedOut(t *testing.T) {
	t.Chdir("../../..")
	all, err := targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name := range slow() {
		if !slices.ContainsFunc(all, func(t target) bool { return t.String() == name }) {
			t.Errorf("there is no %s", name)
		}
	}
	got, sum := shares(all, 5_000_000), uint64(0)
	for _, n := range got {
		sum += n
	}
	if len(got) != len(all) || sum < 5_000_000 || sum > 5_000_000+uint64(len(all)) {
		t.Errorf("%d executions of %d of %d targets", sum, len(got), len(all))
	}
	if often, seldom := got[target{"state", "FuzzDecode"}], got[target{"pki", "FuzzVerdicts"}]; seldom == 0 || often < 15*seldom {
		t.Errorf("%d executions of a fast target, %d of a slow one", often, seldom)
	}
}

// A module with a target that fails at some inputs, and one that never does.
func TestWhatFuzzingFinds(t *testing.T) {
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module certd.internal\n\ngo 1.26\n")
	write("one/one_test.go", "package one\n\nimport \"testing\"\n\nfunc FuzzFine(f *testing.F) {\n\tf.Fuzz(func(t *testing.T, n int) {})\n}\n")
	write("two/two_test.go", "package two\n\nimport \"testing\"\n\nfunc FuzzFails(f *testing.F) {\n\tf.Fuzz(func(t *testing.T, n byte) {\n\t\tif n > 200 {\n\t\t\tt.Error(\"too much\")\n\t\t}\n\t})\n}\n")
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x"}} {
		if out, err := command(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	for _, of := range []target{{"one", "FuzzFine"}, {"two", "FuzzFails"}} {
		dir, err := kept(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	var log bytes.Buffer
	b := board{dir: t.TempDir(), log: &log, commit: strings.Repeat("ab", 20)}
	err := b.fuzz(t.Context(), line{name: "R11"}, 4_000)
	if err == nil {
		t.Fatal("it did not fail")
	}
	for _, part := range []string{"two.FuzzFails", "too much", "two/testdata/fuzz/FuzzFails/", "go test fuzz v1\nbyte(", "go test -run '^FuzzFails$/^", "./two"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in what is said:\n%v", part, err)
		}
	}
	if strings.Contains(err.Error(), "FuzzFine") || !strings.Contains(log.String(), "one.FuzzFine, 2000 executions") {
		t.Errorf("%v\n%s", err, &log)
	}
	records, err := scoreboard.Read(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	j := scoreboard.Join(records, "R11", b.commit)
	if len(j.Failed) != 1 || j.Counts["failures"] != 1 || j.Counts["executions"] < 2_000 || j.Counts["executions"] >= 4_000 {
		t.Errorf("%+v", j)
	}
}

func TestACacheThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir("../../..")
	t.Setenv("GOCACHE", filepath.Join(file, "cache"))
	if _, err := kept(t.Context(), target{"pki", "FuzzVerdicts"}); err == nil || !strings.Contains(err.Error(), "GOCACHE") {
		t.Errorf("a cache below a file: %v", err)
	}
	t.Setenv("GOCACHE", "")
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := kept(t.Context(), target{"pki", "FuzzVerdicts"}); err == nil || !strings.Contains(err.Error(), "HOME") {
		t.Errorf("no home: %v", err)
	}
}
