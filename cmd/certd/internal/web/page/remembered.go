package page

import (
	"context"
	"fmt"
	"sync"
	"time"

	"certd.internal/cmd/certd/internal/words"
)

// patience is how long a reader waits for a document that is still awaited.
const patience = 2 * time.Second

// remembered is a document that is asked for once at a time, whoever wants it, and
// kept: nobody asks again while it is fresh, and when none comes, or an error does,
// the last one stands. So a lock that is never given back holds up one question,
// and no reader for longer than patience.
type remembered[T any] struct {
	ask   func(context.Context) (T, error)
	fresh time.Duration

	mu      sync.Mutex
	last    T
	known   bool  // last was given
	err     error // why nothing newer than last is there
	begun   time.Time
	awaited chan struct{} // nil: nothing is
}

// get returns the last document, and why there is no newer one. known is false
// where there never was any.
func (r *remembered[T]) get(ctx context.Context) (last T, known bool, err error) {
	r.mu.Lock()
	if r.awaited == nil && (r.begun.IsZero() || time.Since(r.begun) >= r.fresh) {
		r.begun, r.awaited = time.Now(), make(chan struct{})
		go r.refresh(context.WithoutCancel(ctx), r.awaited)
	}
	awaited, rest := r.awaited, patience-time.Since(r.begun)
	r.mu.Unlock()
	if awaited != nil {
		timeout := time.NewTimer(max(rest, 0))
		defer timeout.Stop()
		select {
		case <-awaited:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.awaited != nil {
		return r.last, r.known, fmt.Errorf("no answer for %s", words.Span(time.Since(r.begun)))
	}
	return r.last, r.known, r.err
}

func (r *remembered[T]) refresh(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := r.ask(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil {
		r.last, r.known = answer, true
	}
	r.awaited = nil
	close(done)
}
