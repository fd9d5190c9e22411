package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certd.internal/cmd/certd/internal/harden"
)

// Nothing of certd's memory gets into a file: a daemon that is told to dump core
// leaves none, whatever the limit was that it was started with, and says whether its
// memory can be swapped out.
func TestNoMemoryGetsIntoAFile(t *testing.T) {
	dir := shortDir(t)
	cmd := exec.Command("sh", "-c", `ulimit -c unlimited; exec "$0" run --dev`, program)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Go's runtime is told to end by the signal itself, which dumps core where that is allowed.
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir}
	s.eventually(20*time.Second, func() string {
		if _, err := os.Stat(filepath.Join(dir, "certd-dev/certd.sock")); err != nil {
			return err.Error()
		}
		return ""
	})
	limits := readFile(t, fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	core := ""
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			core = strings.Join(strings.Fields(rest), " ")
		}
	}
	if core != "0 0 bytes" {
		t.Errorf("core dumps of certd are limited to %q", core)
	}
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err == nil || !ok || status.CoreDump() {
		t.Errorf("it ended with %v and dumped core", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "core*"))
	if err != nil || len(files) > 0 {
		t.Errorf("left: %v, %v", files, err)
	}
	if log := said.String(); !strings.Contains(log, "memory may be swapped out") && !strings.Contains(log, "memory is locked") {
		t.Errorf("it does not say whether its memory may be swapped out:\n%s", log)
	}
}

// On Linux no other process of the same user may look into certd's memory.
func TestTheProcessIsUndumpable(t *testing.T) {
	was, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(was), 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	if err := harden.Process(); err != nil {
		t.Fatal(err)
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || now != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d, %v", now, err)
	}
}
