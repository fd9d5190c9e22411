// Command cost measures what a fleet costs: one API server, etcd and Vault of the lab, in
// which each cluster is a namespace with an address, a connection and a CA of its own. It
// goes through enrolment, the renewal of all issuers, a change of all bundles, quiet, and a
// restart, and beside them through the least that any program could do for the same
// writes: `make bench`.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	n := flag.Int("clusters", 1000, "how many `clusters`")
	quiet := flag.Duration("quiet", 2*time.Minute, "how long to look on while nothing is due")
	dir := flag.String("floor", "", "be the least possible program for the kubeconfigs in `folder`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *dir != "" {
		err = floor(ctx, *dir, *n, os.Stdin, os.Stdout)
	} else {
		var c costs
		if c, err = measure(ctx, ".", *n, *quiet, os.Stderr); err == nil {
			err = c.print(os.Stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

// measure goes through a fleet's life; root is the repository's folder.
func measure(ctx context.Context, root string, n int, quiet time.Duration, progress io.Writer) (c costs, err error) {
	dir, err := os.MkdirTemp("/tmp", "certd-cost-") // short: sockets are in it
	if err != nil {
		return c, err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w (files are kept in %s)", err, dir)
		}
	}()
	l, err := startLab(ctx, root, dir, n)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.settled(ctx); err != nil {
		return c, err
	}
	c = costs{n: n, lab: l, progress: progress}
	if err := c.floor(ctx); err != nil {
		return c, fmt.Errorf("the floor program: %w", err)
	}
	return c, c.certd(ctx, root, quiet)
}

// costs are what was measured, in order.
type costs struct {
	n        int
	lab      *lab
	progress io.Writer
	rows     []row
}

// row is what one thing cost.
type row struct {
	what string
	took time.Duration
	reading
}

// rest is before and after each thing that is measured: what was begun before is done
// then, and so is what nobody waits for, such as an event.
const rest = 2 * time.Second

// time measures what a process costs while do is done.
func (c *costs) time(ctx context.Context, what string, pid func() int, do func() error) error {
	fmt.Fprintln(c.progress, "cost:", what)
	if err := sleep(ctx, rest); err != nil {
		return err
	}
	begun := time.Now()
	before, err := c.lab.meters.read(ctx, pid())
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(begun)
	if err := sleep(ctx, rest); err != nil {
		return err
	}
	after, err := c.lab.meters.read(ctx, pid())
	if err != nil {
		return err
	}
	c.rows = append(c.rows, row{what, took, after.since(before)})
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (c *costs) find(what string) row {
	for _, r := range c.rows {
		if r.what == what {
			return r
		}
	}
	return row{}
}

// What is measured.
const (
	floorCreate = "floor: first write, on new connections"
	floorUpdate = "floor: next write"
	enrol       = "certd: start, all clusters new"
	rotate      = "certd: new issuer everywhere"
	bundles     = "certd: new bundle everywhere"
	idle        = "certd: nothing due"
	restart     = "certd: start, all clusters known"
)

func (c *costs) floor(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := command(ctx, ".", self, "-floor", filepath.Join(c.lab.dir, "kube"), "-clusters", fmt.Sprint(c.n))
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	answers := bufio.NewScanner(out)
	answered := func() error {
		if !answers.Scan() {
			return fmt.Errorf("it ended: %w", errors.Join(answers.Err(), cmd.Wait()))
		}
		return nil
	}
	if err := answered(); err != nil {
		return err
	}
	for _, what := range []string{floorCreate, floorUpdate} {
		err := c.time(ctx, what, func() int { return cmd.Process.Pid }, func() error {
			fmt.Fprintln(in, what)
			return answered()
		})
		if err != nil {
			return err
		}
	}
	in.Close()
	return cmd.Wait()
}

func (c *costs) certd(ctx context.Context, root string, quiet time.Duration) (err error) {
	d, err := newCertd(ctx, root, c.lab)
	if err != nil {
		return err
	}
	defer func() {
		if d.cmd != nil {
			d.cmd.Process.Kill()
			var exit *exec.ExitError
			if ended := d.cmd.Wait(); !errors.As(ended, &exit) {
				err = errors.Join(err, ended)
			}
		}
	}()
	issued, bundled := c.lab.follow("secrets", "linkerd-identity-issuer"), c.lab.follow("configmaps", "linkerd-identity-trust-roots")
	began := time.Now()
	if err := c.time(ctx, enrol, d.pid, func() error {
		if err := d.start(); err != nil {
			return err
		}
		return issued(ctx)
	}); err != nil {
		return err
	}
	if err := d.well(ctx, began); err != nil {
		return err
	}
	if err := c.time(ctx, rotate, d.pid, func() error {
		_, err := d.run(ctx, "rotate", "issuer", "--all", "--yes", "--wait", "--reason", "measured")
		return err
	}); err != nil {
		return err
	}
	if err := bundled(ctx); err != nil { // those of the enrolment
		return err
	}
	bundled = c.lab.follow("configmaps", "linkerd-identity-trust-roots")
	if err := c.time(ctx, bundles, d.pid, func() error {
		if err := d.partner(); err != nil { // certd would see the file by itself, a little later
			return err
		}
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return err
		}
		return bundled(ctx)
	}); err != nil {
		return err
	}
	if err := d.well(ctx, time.Now()); err != nil {
		return err
	}
	if err := c.time(ctx, idle, d.pid, func() error {
		return sleep(ctx, quiet)
	}); err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	began = time.Now()
	if err := c.time(ctx, restart, d.pid, func() error {
		if err := d.start(); err != nil {
			return err
		}
		return d.well(ctx, began)
	}); err != nil {
		return err
	}
	return d.stop()
}
