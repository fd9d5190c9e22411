package kube

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a server whose connection takes a while to be made, and which may fail.
type answering struct {
	dials atomic.Int32 // requests that found no connection
	there atomic.Bool
	fails atomic.Bool
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if !a.there.Load() {
		a.dials.Add(1)
		time.Sleep(watchWaits / 2)
	}
	if isWatch(r) || a.fails.Load() {
		a.there.Store(!a.fails.Load())
		return nil, errors.New("connection lost")
	}
	a.there.Store(true)
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
		server := &answering{}
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

// A request that is never answered holds the others up for a moment only.
func TestWhoGoesAheadIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		o := newOneDial(roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/stuck" {
				<-stuck
			}
			return &http.Response{StatusCode: 200}, nil
		}))
		go asked(t, t.Context(), o, "https://api/stuck")
		synctest.Wait()
		begun := time.Now()
		if err := asked(t, t.Context(), o, "https://api/x"); err != nil || time.Since(begun) > time.Second {
			t.Errorf("it took %s: %v", time.Since(begun), err)
		}
		close(stuck)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A watch whose answer never comes keeps nobody waiting, and neither does a request whose
// caller has given up.
func TestAWatchDoesNotGoAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{}
		o := newOneDial(server)
		watching, give := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- asked(t, watching, o, "https://api/x?watch=1") }()
		synctest.Wait()
		if server.dials.Load() != 0 {
			t.Error("the watch went ahead")
		}
		give()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
		go func() { ended <- asked(t, t.Context(), o, "https://api/x?watch=1") }()
		time.Sleep(watchWaits)
		synctest.Wait()
		if server.dials.Load() != 1 {
			t.Error("a watch that is alone does not begin")
		}
		<-ended
		if err := asked(t, t.Context(), o, "https://api/x"); err != nil {
			t.Error(err)
		}
		go func() { ended <- asked(t, t.Context(), o, "https://api/x?watch=1") }()
		if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("the watch was not begun: %v", err)
		}
	})
}
