package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"certd.internal/rotation"
)

// session is one token. The keeper's lock guards all but the token.
type session struct {
	token     string
	renewable bool
	expires   time.Time // zero: never
	worked    bool      // Vault has accepted it at least once
}

// LogValue hides the token.
func (s *session) LogValue() slog.Value { return slog.StringValue("(session)") }

// String hides the token.
func (s *session) String() string { return "(session)" }

func (s *session) spent(now time.Time) bool { return !s.expires.IsZero() && !now.Before(s.expires) }

// authority is where tokens come from.
type authority interface {
	// login returns a fresh token, or an error wrapping ErrDenied or
	// ErrUnavailable.
	login(ctx context.Context) (grant, error)
	// renew prolongs a token and returns the life it then has. dead says that
	// Vault does not know it any more.
	renew(ctx context.Context, token string) (g grant, dead bool, err error)
}

// keeper has a live token at hand. It logs in when one is first needed, renews
// at half of a token's life, and logs in anew when renewing does not prolong
// it any further (its maximum life), or does not work.
type keeper struct {
	from    authority
	timeout time.Duration
	log     *slog.Logger
	life    context.Context // ends with close
	end     context.CancelFunc
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	current *session
	flight  *flight
	timer   *time.Timer
	refused error // of the last login, for a moment
	until   time.Time
}

// flight is a login under way; all who need a token wait for the same one.
type flight struct {
	done chan struct{}
	s    *session
	err  error
}

// A refused login is not tried again before loginPause, however many ask.
const (
	loginPause = time.Second
	renewPause = time.Minute // longest wait between attempts to renew
)

var errClosed = errors.New("the connection to Vault is closed")

func newKeeper(from authority, timeout time.Duration, log *slog.Logger) *keeper {
	k := &keeper{from: from, timeout: timeout, log: log}
	k.life, k.end = context.WithCancel(context.Background())
	return k
}

// session returns the current token, logging in where there is none.
func (k *keeper) session(ctx context.Context) (*session, error) {
	k.mu.Lock()
	now := time.Now()
	switch {
	case k.closed:
		k.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errClosed, rotation.ErrUnavailable)
	case k.current != nil && !k.current.spent(now):
		s := k.current
		k.mu.Unlock()
		return s, nil
	case k.flight == nil && now.Before(k.until):
		err := k.refused
		k.mu.Unlock()
		return nil, err
	}
	f := k.board()
	k.mu.Unlock()
	select {
	case <-f.done:
		return f.s, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the login to Vault: %w: %w", context.Cause(ctx), rotation.ErrUnavailable)
	}
}

// live says whether there is a token to use.
func (k *keeper) live() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current != nil && !k.current.spent(time.Now())
}

// board joins the login under way, or begins one. The lock is held.
func (k *keeper) board() *flight {
	if k.flight != nil {
		return k.flight
	}
	f := &flight{done: make(chan struct{})}
	k.flight = f
	k.work.Go(func() {
		ctx, cancel := context.WithTimeout(k.life, 2*k.timeout)
		defer cancel()
		g, err := k.from.login(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.flight = nil
		if err == nil && k.closed {
			err = fmt.Errorf("%w: %w", errClosed, rotation.ErrUnavailable)
		}
		if err != nil {
			f.err = err
			k.refused, k.until = err, time.Now().Add(loginPause)
		} else {
			f.s = &session{token: g.ClientToken, renewable: g.Renewable}
			k.current = f.s
			k.prolong(f.s, g)
		}
		close(f.done)
	})
	return f
}

// prolong notes the life s now has and plans its next renewal. The lock is held.
func (k *keeper) prolong(s *session, g grant) {
	if g.LeaseDuration <= 0 {
		s.expires = time.Time{}
		return
	}
	life := time.Duration(g.LeaseDuration) * time.Second
	s.expires = time.Now().Add(life)
	k.plan(s, life/2)
}

// plan has tend look after s in a while. The lock is held.
func (k *keeper) plan(s *session, in time.Duration) {
	if k.timer != nil {
		k.timer.Stop()
	}
	if k.closed {
		return
	}
	k.timer = time.AfterFunc(in, func() {
		k.mu.Lock()
		if k.closed {
			k.mu.Unlock()
			return
		}
		k.work.Add(1)
		k.mu.Unlock()
		defer k.work.Done()
		k.tend(s)
	})
}

// tend renews s, or replaces it.
func (k *keeper) tend(s *session) {
	k.mu.Lock()
	mine, left := k.current == s, time.Until(s.expires)
	k.mu.Unlock()
	if !mine {
		return
	}
	if s.renewable {
		ctx, cancel := context.WithTimeout(k.life, k.timeout)
		g, dead, err := k.from.renew(ctx, s.token)
		cancel()
		switch longer := time.Duration(g.LeaseDuration) * time.Second; {
		case err == nil && (g.LeaseDuration == 0 || longer > left+time.Second):
			k.mu.Lock()
			if k.current == s {
				k.prolong(s, g)
			}
			k.mu.Unlock()
			return
		case dead:
			k.discard(s)
		case err != nil && errors.Is(err, rotation.ErrUnavailable):
			k.log.Warn("Vault token not renewed, trying again", "err", err)
			k.again(s)
			return
		}
	}
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return
	}
	f := k.board()
	k.mu.Unlock()
	<-f.done
	if f.err != nil {
		k.log.Warn("Vault login refused, the old token is used while it lives", "err", f.err)
		k.again(s)
	}
}

// again plans another attempt in a quarter of what is left of s.
func (k *keeper) again(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != s || s.spent(time.Now()) {
		return // whoever needs a token next logs in
	}
	k.plan(s, min(max(time.Until(s.expires)/4, time.Second), renewPause))
}

// discard forgets a dead token, unless it has been replaced already.
func (k *keeper) discard(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == s {
		k.current = nil
	}
}

// expires is when the current token ends; zero: there is none, or it never does.
func (k *keeper) expires() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return time.Time{}
	}
	return k.current.expires
}

// token is the current token, "" where there is none.
func (k *keeper) token() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return ""
	}
	return k.current.token
}

// proved and hasWorked remember that Vault accepted s.
func (k *keeper) proved(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.worked = true
}

func (k *keeper) hasWorked(s *session) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return s.worked
}

// close forgets the token and waits for logins under way, which it ends.
func (k *keeper) close() {
	k.mu.Lock()
	k.closed, k.current = true, nil
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	k.end()
	k.work.Wait()
}
