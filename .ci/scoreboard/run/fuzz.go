package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"certd.internal/.ci/scoreboard"
)

// target is a fuzz target; its package is a path from the root of the module.
type target struct{ pkg, name string }

func (t target) String() string { return t.pkg + "." + t.name }

// slow are the targets of which an execution takes longer than of the others: how many of
// a hundred are theirs where executions are shared out, so that each has some ten seconds.
func slow() map[string]uint64 {
	return map[string]uint64{
		"backends/kube.FuzzReadPods":         35,
		"backends/vault.FuzzReplies":         25,
		"cmd/certd/internal/api.FuzzServer":  35,
		"cmd/certd/internal/cli.FuzzInspect": 35,
		"cmd/certd/internal/config.FuzzLoad": 25,
		"cmd/certd/internal/web.FuzzServer":  35,
		"pki.FuzzBundleReaders":              25,
		"pki.FuzzReadIssuer":                 35,
		"pki.FuzzVerdicts":                   5,
		"rotation.FuzzParseSchedule":         35,
		"state.FuzzCheckPages":               20,
		"state.FuzzRoundTrip":                35,
	}
}

// shares is how often each target is executed so that all are executed that often together.
func shares(targets []target, all uint64) map[target]uint64 {
	out, parts := map[target]uint64{}, uint64(0)
	for _, t := range targets {
		out[t] = cmp.Or(slow()[t.String()], 100)
		parts += out[t]
	}
	for t, part := range out {
		out[t] = (all*part + parts - 1) / parts
	}
	return out
}

// targets finds the fuzz targets of the module, those of a package together.
func targets(ctx context.Context) ([]target, error) {
	listed, err := command(ctx, "git", "grep", "-E", "^func Fuzz", "--", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("look for fuzz targets: %w", err)
	}
	var found []target
	for _, m := range regexp.MustCompile(`(?m)^(.+)/[^/]+_test\.go:func (Fuzz\w+)`).FindAllStringSubmatch(string(listed), -1) {
		found = append(found, target{m[1], m[2]})
	}
	slices.SortFunc(found, func(a, b target) int { return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.name, b.name)) })
	return found, nil
}

// fuzz runs every fuzz target of the module: each for the line's number of executions, or
// for its part of share. What is interesting is kept where Go keeps it, and is
// what the next run starts from.
func (b *board) fuzz(ctx context.Context, l line, share uint64) error {
	all, err := targets(ctx)
	if err != nil {
		return err
	}
	wanted := map[target]uint64{}
	for _, t := range all {
		wanted[t] = l.seeds
	}
	if share > 0 {
		wanted = shares(all, share)
	}
	scratch, err := os.MkdirTemp("", "certd-scoreboard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	var failed []error
	binary, built := filepath.Join(scratch, "test"), ""
	for _, t := range all {
		if t.pkg != built {
			if err := buildFuzzed(ctx, t.pkg, binary); err != nil {
				return err
			}
			built = t.pkg
		}
		err := b.fuzzTarget(ctx, l.name, t, binary, wanted[t])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", t, err))
		}
	}
	return errors.Join(failed...)
}

// buildFuzzed builds the tests of a package with what tells the fuzzer how far an execution got.
// `go test -fuzz` has all that is linked tell that, which is slow where client-go is in it: minutes
// to compile, and so many counters to clear and compare for each execution that there are
// 1,000 a second, not 40,000. Here certd's own packages tell it, and the parsers they rest on.
func buildFuzzed(ctx context.Context, pkg, binary string) error {
	linked, err := command(ctx, "go", "list", "-deps", "-test", "./"+pkg).Output()
	if err != nil {
		return fmt.Errorf("list what %s links: %w", pkg, said(err))
	}
	telling := []string{"certd.internal/...", "github.com/goccy/go-yaml/...", "github.com/robfig/cron/v3", "go.etcd.io/bbolt/...", "go.step.sm/crypto/..."}
	if !slices.Contains(strings.Fields(string(linked)), "k8s.io/client-go/rest") { // which would be compiled anew
		telling = append(telling, "encoding/pem", "encoding/asn1", "encoding/json", "crypto/x509/...", "vendor/golang.org/x/crypto/cryptobyte/...")
	}
	args := []string{"test", "-c", "-o", binary}
	for _, packages := range telling {
		args = append(args, "-gcflags="+packages+"=-d=libfuzzer")
	}
	if out, err := command(ctx, "go", append(args, "./"+pkg)...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// fuzzTarget runs a target n times, and writes down how often it did.
func (b *board) fuzzTarget(ctx context.Context, name string, t target, binary string, n uint64) error {
	kept, err := kept(ctx, t)
	if err != nil {
		return err
	}
	j, err := b.joined(name)
	if err != nil {
		return err
	}
	from := j.Next(t.String(), 1, 0).From
	began := time.Now()
	cmd := command(ctx, binary, "-test.run", "^$", "-test.fuzz", "^"+t.name+"$", "-test.fuzztime", fmt.Sprintf("%dx", n), "-test.fuzzminimizetime", "1x",
		"-test.fuzzcachedir", kept, "-test.parallel", fmt.Sprint(runtime.GOMAXPROCS(0)), "-test.timeout", "0")
	cmd.Dir = t.pkg
	out, failed := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed != nil {
		failed = fmt.Errorf("%w\n%s%s", failed, out, failingInput(t, out))
	}
	executed := executions(out)
	if executed < n && failed == nil {
		failed = fmt.Errorf("%d executions instead of %d\n%s", executed, n, out)
	}
	record := scoreboard.Record{Line: name, Part: t.String(), Range: scoreboard.Range{From: from, To: from + executed}, Commit: b.commit, Failed: failed != nil,
		Counts: map[string]uint64{"executions": executed, "failures": 0}, Began: began.UTC(), Seconds: time.Since(began).Seconds()}
	if failed != nil {
		record.Counts["failures"] = 1
	}
	fmt.Fprintf(b.log, "%s: %s, %d executions in %s\n", name, t, executed, time.Since(began).Round(time.Second))
	return errors.Join(failed, scoreboard.Write(b.dir, record))
}

// kept is the folder in which `go test -fuzz` keeps what it found interesting of a target.
// That it can be written is looked at here: Go says so only of the first input it would keep.
func kept(ctx context.Context, t target) (string, error) {
	out, err := command(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its cache: %w", said(err))
	}
	cache := strings.TrimSpace(string(out))
	if !filepath.IsAbs(cache) {
		return "", fmt.Errorf("there is no cache of Go's (%q) to keep inputs in: set GOCACHE to a folder that can be written, or HOME", cache)
	}
	module, err := command(ctx, "go", "list", "-m").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for the module's name: %w", said(err))
	}
	dir := filepath.Join(cache, "fuzz", strings.TrimSpace(string(module)), t.pkg)
	err = os.MkdirAll(filepath.Join(dir, t.name), 0o777)
	if err == nil {
		var probe *os.File
		if probe, err = os.CreateTemp(filepath.Join(dir, t.name), ".probe-*"); err == nil {
			err = errors.Join(probe.Close(), os.Remove(probe.Name()))
		}
	}
	if err != nil {
		return "", fmt.Errorf("inputs cannot be kept in Go's cache, set GOCACHE to a folder that can be written: %w", err)
	}
	return dir, nil
}

// said adds to an error what the program printed before it ended so.
func said(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// failingInput is the input that a target failed with, and how to run it again.
func failingInput(t target, out []byte) string {
	m := regexp.MustCompile(`Failing input written to (\S+)`).FindSubmatch(out)
	if m == nil {
		return ""
	}
	file := filepath.Join(t.pkg, string(m[1]))
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprintf("the input it failed with: %v", err)
	}
	return fmt.Sprintf("%s:\n%sagain, with this file there: go test -run '^%s$/^%s$' ./%s", file, text, t.name, filepath.Base(file), t.pkg)
}

// executions is the last number of executions that a fuzz test told of.
func executions(out []byte) uint64 {
	all := regexp.MustCompile(`execs: (\d+)`).FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(string(all[len(all)-1][1]), 10, 64)
	return n
}
