package daemon

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// told keeps what a manager was told, and when.
type told []string

func (l *told) manager(watch time.Duration) manager {
	return manager{watch: watch, tell: func(state string) { *l = append(*l, state) }}
}

// last is what it was told last.
func (l told) last() string { return l[len(l)-1] }

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
		if l[0] != "READY=1\nSTATUS=fleet acme, 0 clusters" || len(l) != 121 || l.last() != "WATCHDOG=1" {
			t.Errorf("in an hour: %d messages, first %q, last %q", len(l), l[0], l.last())
		}

		// A loop that stands still is not vouched for.
		stopLoop()
		<-ended
		time.Sleep(stuckAfter + time.Minute)
		synctest.Wait()
		before := len(l)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(l) != before {
			t.Errorf("the loop stands still, and the watchdog was told %q", l[before:])
		}
		stop()
		<-done
		if l.last() != "STOPPING=1" {
			t.Errorf("at the end: %q", l.last())
		}
	})
}

// A journal whose answer never comes keeps nothing but the watchdog waiting.
func TestAnAnswerThatHangsIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l told
		asked := 0
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		hang := make(chan struct{})
		go func() {
			defer close(done)
			l.manager(time.Minute).until(ctx, "", func(context.Context) error { asked++; <-hang; return nil })
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(l) != 1 || asked != 1 {
			t.Errorf("asked %d times, told %q", asked, l)
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
		if !slices.Equal(l, told{"READY=1\nSTATUS=up", "STOPPING=1"}) {
			t.Errorf("told %q", l)
		}
	})
}
