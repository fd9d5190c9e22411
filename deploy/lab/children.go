package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// children are processes that end with this one, however it ends.
type children struct {
	start chan func()

	mu      sync.Mutex
	stopped bool
	alive   map[*os.Process]chan struct{}
}

func newChildren() *children {
	c := &children{start: make(chan func()), alive: map[*os.Process]chan struct{}{}}
	// The kernel sends Pdeathsig when the *thread* that forked ends, so all
	// are forked by one that lives as long as the process.
	go func() {
		runtime.LockOSThread()
		for f := range c.start {
			f()
		}
	}()
	return c
}

// run starts cmd. exited is closed when it has ended and has been waited for.
// Its output must go to files: nothing copies it.
func (c *children) run(cmd *exec.Cmd) (exited <-chan struct{}, err error) {
	// A group of its own: a terminal's Ctrl-C reaches the lab alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	done := make(chan struct{})
	started := make(chan error)
	c.start <- func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stopped {
			started <- fmt.Errorf("start %s: the lab is stopping", cmd.Path)
			return
		}
		err := cmd.Start()
		if err == nil {
			c.alive[cmd.Process] = done
		}
		started <- err
	}
	if err := <-started; err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait()
		c.mu.Lock()
		delete(c.alive, cmd.Process)
		c.mu.Unlock()
		close(done)
	}()
	return done, nil
}

// stop kills them all, lets no more start, and returns when they are gone. Data
// that must outlive them is not theirs: a graceful end would only take time.
func (c *children) stop() {
	c.mu.Lock()
	c.stopped = true
	var waits []chan struct{}
	for process, done := range c.alive {
		process.Kill()
		waits = append(waits, done)
	}
	c.mu.Unlock()
	for _, done := range waits {
		<-done
	}
}
