// Command run runs the long forms of tests that prove things, and prints what they
// measured, one line each: `make scoreboard`.
//
// A line is a Go test that goes through seeds (scoreboard.Start); to add one, add it to
// lines. Each is run in pieces, and a piece that has ended is written down: what was
// interrupted goes on where it stopped, with -add.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"certd.internal/.ci/scoreboard"
)

// line is one line of the scoreboard.
type line struct {
	name, title string
	pkg, test   string // where it stands; "" of test: every fuzz target there is
	seeds       uint64 // of a run by default; of each target
	piece       uint64 // how many at a time; 0: all
	all         uint64 // how many there are; 0: as many as one likes
}

const simulate = "./cmd/certd/internal/simulate"

// lines are the proofs, in the order in which they are printed.
func lines() []line {
	return []line{
		{name: "R1", title: "simulated fleet life with everything that may go wrong", pkg: simulate, test: "TestHardLives", seeds: 2_500, piece: 100},
		{name: "R2", title: "distinct fault schedules with a rotation each", pkg: simulate, test: "TestFaultSchedules", seeds: 20_000, piece: 1_000},
		{name: "R3", title: "crashes at each effect of all rotations, and at each ordered pair", pkg: simulate, test: "TestACrashAtEachEffect", seeds: 1_000, piece: 50},
		{name: "R4", title: "kill -9 of the daemon in the middle of rotating", pkg: "./cmd/certd", test: "TestKilledInMidRotation", seeds: 2_500, piece: 50},
		{name: "R5", title: "torn, lost and flipped journal images", pkg: "./state", test: "TestTornAndLostWrites", seeds: 50_000, piece: 5_000},
		{name: "R6", title: "wrong certds that the simulation finds", pkg: simulate, test: "TestMutantsDie", seeds: 60, piece: 1, all: 60},
		{name: "R7", title: "handshakes of TLS through rotations of the trust anchor, pods coming and going", pkg: simulate, test: "TestHandshakesThroughAnchorRotations", seeds: 24, piece: 3},
		{name: "R8", title: "calls of webhooks through rotations of their CA, kubelets late and Helm against it", pkg: simulate, test: "TestAdmissionsThroughWebhookCARotations", seeds: 20, piece: 4},
		{name: "R9", title: "certd, keys and clusters off for an hour to nine years", pkg: simulate, test: "TestSleep", seeds: 48, piece: 8, all: 48},
		{name: "R10", title: "firings: every zone × every setting of its clocks to 2046 × 500 expressions", pkg: "./rotation", test: "TestEveryZoneAndSetting", seeds: 43_600, piece: 436},
		{name: "R11", title: "executions of every fuzz target", seeds: 20_000},
		{name: "R12", title: "kill -9 amid a renewal of 100 clusters, and the journal lost: how long until all is as begun", pkg: "./.ci/cost", test: "TestCrashToConverged", seeds: 100, piece: 25},
		{name: "R13", title: "a healthy cluster among hostile API servers: what it gets, and how long it waits", pkg: "./cmd/certd/internal/daemon", test: "TestAHealthyClusterAmongHostileOnes", seeds: 1},
		{name: "R14", title: "rotations in a row, with what is left behind", pkg: "./rotation", test: "TestTenThousandRotations", seeds: 4, piece: 1},
	}
}

func main() {
	dir := flag.String("dir", ".scoreboard", "the `folder` of what was measured")
	add := flag.Bool("add", false, "add to what was measured on this commit, instead of beginning anew")
	show := flag.Bool("print", false, "run nothing, print what was measured")
	only := flag.String("lines", "", "only these `lines`, such as R5,R10")
	seeds := flag.Uint64("seeds", 0, "how many `seeds` of each line to run (0: as many as each has by default)")
	share := flag.Uint64("share", 0, "run this many executions in all of the fuzz targets, shared out among them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := board{dir: *dir, log: os.Stderr}
	if err := b.run(ctx, pick(lines(), *only), *add, *show, *seeds, *share); err != nil {
		fmt.Fprintln(os.Stderr, "scoreboard:", err)
		os.Exit(1)
	}
}

func pick(all []line, names string) []line {
	if names == "" {
		return all
	}
	wanted := strings.Split(names, ",")
	return slices.DeleteFunc(all, func(l line) bool { return !slices.Contains(wanted, l.name) })
}

type board struct {
	dir    string
	log    io.Writer
	commit string
}

func (b *board) run(ctx context.Context, all []line, add, show bool, seeds, share uint64) (err error) {
	if len(all) == 0 {
		return errors.New("there is no such line")
	}
	if share > 0 && slices.ContainsFunc(all, func(l line) bool { return l.test != "" }) {
		return errors.New("-share is for fuzz targets alone (-lines R11): of the other lines go test runs a share")
	}
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	if b.commit, err = scoreboard.Commit("."); err != nil {
		return err
	}
	if changed := strings.HasSuffix(b.commit, "-changed"); changed && add {
		return errors.New("files differ from the commit, so that nothing can be added up: commit them first")
	}
	var failed []error
	for _, l := range all {
		if show {
			break
		}
		if !add {
			if err := b.forget(l.name); err != nil {
				return err
			}
		}
		if seeds > 0 {
			l.seeds = seeds
		}
		if l.test == "" {
			err = b.fuzz(ctx, l, share)
		} else {
			err = b.prove(ctx, l)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", l.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errors.Join(failed...), b.print(os.Stdout, all))
}

// forget removes what was measured for a line.
func (b *board) forget(name string) error {
	files, err := filepath.Glob(filepath.Join(b.dir, name+"-*.json"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func (b *board) joined(name string) (scoreboard.Joined, error) {
	records, err := scoreboard.Read(b.dir)
	return scoreboard.Join(records, name, b.commit), err
}

// prove runs a line's test, piece by piece.
func (b *board) prove(ctx context.Context, l line) error {
	scratch, err := os.MkdirTemp("", "certd-scoreboard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	binary := filepath.Join(scratch, "test")
	if out, err := command(ctx, "go", "test", "-c", "-o", binary, l.pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("build the test: %w\n%s", err, out)
	}
	for left := l.seeds; left > 0; {
		j, err := b.joined(l.name)
		if err != nil {
			return err
		}
		piece := j.Next("", min(left, cmp.Or(l.piece, left)), l.all)
		if piece.Len() == 0 {
			return nil // there are no more
		}
		left -= piece.Len()
		seeds := fmt.Sprintf("%d:%d", piece.From, piece.To)
		cmd := command(ctx, binary, "-test.run", "^"+l.test+"$", "-test.v", "-test.timeout", "0")
		cmd.Dir = l.pkg
		cmd.Env = append(os.Environ(), scoreboard.Dir+"="+b.dir, scoreboard.Seeds+"="+seeds)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("seeds %s: %w\n%s\nagain: %s=%s go test -count=1 -run '^%s$' %s", seeds, err, out, scoreboard.Seeds, seeds, l.test, l.pkg)
		}
		after, err := b.joined(l.name)
		if err != nil {
			return err
		}
		if len(after.Parts) == 0 || after.Seconds == j.Seconds {
			return fmt.Errorf("seeds %s: %s wrote down nothing\n%s", seeds, l.test, out)
		}
		fmt.Fprintf(b.log, "%s: seeds %s in %s\n", l.name, seeds, time.Since(began).Round(time.Second))
	}
	return nil
}

func (b *board) print(w io.Writer, all []line) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	short := b.commit[:min(12, len(b.commit))]
	if strings.HasSuffix(b.commit, "-changed") {
		short += " and changes"
	}
	for _, l := range all {
		j, err := b.joined(l.name)
		if err != nil {
			return err
		}
		verdict := ""
		if len(j.Failed) > 0 {
			verdict = "FAILED: "
		}
		fmt.Fprintf(table, "%s\t%s\t%s\tcommit %s\t%s%s\n", l.name, l.title, j.SeedsText(), short, verdict, j.CountsText())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// command is a program that ends when ctx does.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}
