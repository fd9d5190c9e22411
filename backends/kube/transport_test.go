package kube

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a server whose connection takes a while to be made, and which may fail or
// never answer.
type answering struct {
	dials  atomic.Int32 // requests that found no connection
	there  atomic.Bool
	fails  atomic.Bool
	dial   time.Duration
	silent chan struct{} // what it does not answer waits for it, or for the caller to give up
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if !a.there.Load() {
		a.dials.Add(1)
		time.Sleep(a.dial)
	}
	a.there.Store(!a.fails.Load())
	if a.fails.Load() {
		return nil, errors.New("connection lost")
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil {
		t.GotConn(httptrace.GotConnInfo{})
	}
	if a.silent != nil && (r.URL.Path == "/silent" || isWatch(r)) {
		select {
		case <-a.silent:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return &http.Response{StatusCode: 200}, nil
}

func asked(t *testing.T, ctx context.Context, o *oneDial, url string) error {
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Error(err)
	}
	_, err = o.RoundTrip(r)
	return err
}

// Twelve requests at once make one connection, at the start and after it is lost.
func TestRequestsAtOnceMakeOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{dial: 2 * time.Second}
		o := newOneDial(server)
		look := func() {
			for range 12 {
				go func() {
					if err := asked(t, t.Context(), o, "https://api/x"); err != nil {
						t.Error(err)
					}
				}()
			}
			time.Sleep(time.Minute)
		}
		look()
		look()
		if n := server.dials.Load(); n != 1 {
			t.Errorf("%d connections were begun", n)
		}
		server.fails.Store(true)
		if asked(t, t.Context(), o, "https://api/x") == nil {
			t.Error("the failure was lost")
		}
		server.fails.Store(false)
		look()
		if n := server.dials.Load(); n != 2 {
			t.Errorf("%d connections were begun, with one lost", n)
		}
	})
}

// A request or a watch that is never answered holds nobody up, once its connection is made.
func TestAnAnswerIsNotWaitedForByOthers(t *testing.T) {
	for _, first := range []string{"https://api/silent", "https://api/x?watch=1"} {
		synctest.Test(t, func(t *testing.T) {
			server := &answering{dial: time.Second, silent: make(chan struct{})}
			o := newOneDial(server)
			go asked(t, t.Context(), o, first)
			synctest.Wait()
			begun := time.Now()
			if err := asked(t, t.Context(), o, "https://api/x"); err != nil || time.Since(begun) != time.Second {
				t.Errorf("%s: it took %s: %v", first, time.Since(begun), err)
			}
			if n := server.dials.Load(); n != 1 {
				t.Errorf("%s: %d connections were begun", first, n)
			}
			close(server.silent)
		})
	}
}

// A connection that is never made is not waited for by others for ever, and not at all by who
// gives up.
func TestAConnectionIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{dial: time.Hour}
		o := newOneDial(server)
		go asked(t, t.Context(), o, "https://api/x")
		synctest.Wait()
		for _, c := range []struct{ left, waits time.Duration }{{0, 0}, {8 * time.Second, 2 * time.Second}, {time.Hour, connectionWaits}} {
			ctx, cancel := context.WithTimeout(t.Context(), c.left)
			before := server.dials.Load()
			go asked(t, ctx, o, "https://api/x")
			time.Sleep(c.waits)
			synctest.Wait()
			if begun := server.dials.Load() - before; begun != 1 && c.left > 0 || begun != 0 && c.left == 0 {
				t.Errorf("with %s left, %d connections were begun after %s", c.left, begun, c.waits)
			}
			cancel()
		}
		time.Sleep(2 * time.Hour)
	})
}

// Where handshakes are slow, since many clusters are greeted at once, a second connection is
// made, and not one by each who waits; and nobody waits longer than half the time there is.
func TestASlowConnectionIsNotMadeByAllWhoWait(t *testing.T) {
	for _, c := range []struct {
		dial   time.Duration
		begun  int32 // after three seconds
		beyond int32 // and after four and a half
	}{{3 * time.Second, 2, 2}, {time.Hour, 2, 12}} {
		synctest.Test(t, func(t *testing.T) {
			server := &answering{dial: c.dial}
			o := newOneDial(server)
			for range 12 {
				ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
				t.Cleanup(cancel)
				go asked(t, ctx, o, "https://api/x")
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if n := server.dials.Load(); n != c.begun {
				t.Errorf("a handshake takes %s: %d connections were begun in three seconds, want %d", c.dial, n, c.begun)
			}
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			if n := server.dials.Load(); n != c.beyond {
				t.Errorf("a handshake takes %s: %d connections were begun in four and a half seconds, want %d", c.dial, n, c.beyond)
			}
			time.Sleep(2 * time.Hour)
		})
	}
}
