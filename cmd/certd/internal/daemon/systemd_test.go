package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// told keeps what a manager was told.
type told struct {
	mu  sync.Mutex
	all []string
}

func (l *told) manager(watch time.Duration) manager {
	return manager{watch: watch, tell: func(state string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all = append(l.all, state)
	}}
}

func (l *told) so() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

func TestTheWatchdogHearsOfALoopThatComesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t)
		var l told
		ctx, stop := context.WithCancel(t.Context())
		loop, stopLoop := context.WithCancel(t.Context())
		ended, done := make(chan error, 1), make(chan struct{})
		go func() { ended <- s.reconciler.Run(loop) }()
		go func() { defer close(done); l.manager(time.Minute).until(ctx, "fleet acme, 0 clusters", s.alive) }()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if all := l.so(); len(all) != 121 || all[0] != "READY=1\nSTATUS=fleet acme, 0 clusters" || all[120] != "WATCHDOG=1" {
			t.Errorf("in an hour: %q", all)
		}

		// A loop that stands still is not vouched for.
		stopLoop()
		<-ended
		time.Sleep(stuckAfter + time.Minute)
		synctest.Wait()
		before := len(l.so())
		time.Sleep(time.Hour)
		synctest.Wait()
		if all := l.so(); len(all) != before {
			t.Errorf("the loop stands still, and the watchdog was told %q", all[before:])
		}
		stop()
		<-done
		if all := l.so(); all[len(all)-1] != "STOPPING=1" {
			t.Errorf("at the end: %q", all[len(all)-1])
		}
	})
}

// A journal whose answer never comes keeps nothing but the watchdog waiting.
func TestAnAnswerThatHangsIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		var asked atomic.Int32
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		hang := make(chan struct{})
		go func() {
			defer close(done)
			l.manager(time.Minute).until(ctx, "", func(context.Context) error { asked.Add(1); <-hang; return nil })
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if all := l.so(); len(all) != 1 || asked.Load() != 1 {
			t.Errorf("asked %d times, told %q", asked.Load(), all)
		}
		stop()
		<-done
		close(hang)
	})
}

func TestWithoutAWatchdogNobodyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, stop)
		l.manager(0).until(ctx, "up", func(context.Context) error { return errors.New("asked") })
		if all := l.so(); !slices.Equal(all, []string{"READY=1\nSTATUS=up", "STOPPING=1"}) {
			t.Errorf("told %q", all)
		}
	})
}
