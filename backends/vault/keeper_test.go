package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/rotation"
)

// tokens is an authority in virtual time: it knows which of its tokens live.
type tokens struct {
	ttl, max time.Duration // of a token; max 0 is none
	fixed    bool          // tokens cannot be renewed
	down     bool
	pause    time.Duration // a login takes

	mu     sync.Mutex
	lives  map[string]*tokenLife
	logins int
	renews int
}

type tokenLife struct{ until, most time.Time }

func (a *tokens) login(ctx context.Context) (grant, error) {
	select {
	case <-time.After(a.pause):
	case <-ctx.Done():
		return grant{}, fmt.Errorf("%w: %w", ctx.Err(), rotation.ErrUnavailable)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logins++
	if a.down {
		return grant{}, fmt.Errorf("Vault is sealed: %w", rotation.ErrUnavailable)
	}
	token := fmt.Sprintf("token-%d", a.logins)
	l := &tokenLife{until: time.Now().Add(a.ttl), most: time.Now().Add(100 * 365 * 24 * time.Hour)}
	if a.max > 0 {
		l.most = time.Now().Add(a.max)
	}
	a.lives[token] = l
	return grant{ClientToken: token, LeaseDuration: int64(a.ttl / time.Second), Renewable: !a.fixed}, nil
}

func (a *tokens) renew(_ context.Context, token string) (grant, bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renews++
	if a.down {
		return grant{}, false, fmt.Errorf("Vault is sealed: %w", rotation.ErrUnavailable)
	}
	l := a.lives[token]
	if l == nil || !time.Now().Before(l.until) {
		return grant{}, true, fmt.Errorf("invalid token: %w", rotation.ErrDenied)
	}
	l.until = time.Now().Add(a.ttl)
	if l.until.After(l.most) {
		l.until = l.most
	}
	return grant{ClientToken: token, LeaseDuration: int64(time.Until(l.until) / time.Second), Renewable: true}, false, nil
}

func (a *tokens) alive(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lives[token]
	return l != nil && time.Now().Before(l.until)
}

func (a *tokens) set(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}

func (a *tokens) counts() (logins, renews int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.logins, a.renews
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Whoever asks at any time gets a token that lives.
func TestKeeperAlwaysHasALivingToken(t *testing.T) {
	for _, c := range []struct {
		name           string
		from           *tokens
		wantLogins     [2]int
		wantMostRenews int
	}{
		{"a token that can be renewed for ever", &tokens{ttl: time.Hour}, [2]int{1, 1}, 200},
		{"a token with a maximum life", &tokens{ttl: time.Hour, max: 4 * time.Hour}, [2]int{18, 26}, 250},
		{"a batch token, which cannot be renewed", &tokens{ttl: time.Hour, fixed: true}, [2]int{144, 146}, 0},
		{"a token of a minute", &tokens{ttl: time.Minute, max: 4 * time.Minute}, [2]int{1000, 2500}, 20000},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from := c.from
				from.lives = map[string]*tokenLife{}
				k := newKeeper(from, 10*time.Second, quiet())
				defer k.close()
				for range 72 * 6 {
					s, err := k.session(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if !from.alive(s.token) {
						t.Fatalf("%s has died", s.token)
					}
					time.Sleep(10*time.Minute + 137*time.Millisecond)
				}
				if logins, renews := from.counts(); logins < c.wantLogins[0] || logins > c.wantLogins[1] || renews > c.wantMostRenews {
					t.Errorf("%d logins and %d renewals in three days", logins, renews)
				}
			})
		})
	}
}

func TestKeeperLogsInOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &tokens{ttl: time.Hour, pause: time.Second, lives: map[string]*tokenLife{}}
		k := newKeeper(from, 10*time.Second, quiet())
		defer k.close()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				s, err := k.session(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				k.discard(s) // all find it dead at the same time
				if _, err := k.session(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if logins, _ := from.counts(); logins > 3 {
			t.Errorf("%d logins", logins)
		}
	})
}

func TestKeeperThroughAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &tokens{ttl: time.Hour, lives: map[string]*tokenLife{}}
		k := newKeeper(from, 10*time.Second, quiet())
		defer k.close()
		first, err := k.session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		from.set(true)
		time.Sleep(50 * time.Minute)
		if s, err := k.session(t.Context()); err != nil || s != first {
			t.Errorf("while the token lives: %v", err)
		}
		time.Sleep(time.Hour)
		tried, _ := from.counts()
		for range 100 {
			if _, err := k.session(t.Context()); !errors.Is(err, rotation.ErrUnavailable) {
				t.Fatalf("after it died: %v", err)
			}
		}
		if logins, _ := from.counts(); logins-tried != 1 {
			t.Errorf("%d logins in one moment", logins-tried)
		}
		from.set(false)
		time.Sleep(2 * loginPause)
		s, err := k.session(t.Context())
		if err != nil || !from.alive(s.token) {
			t.Errorf("after the outage: %v", err)
		}
	})
}

func TestKeeperCatchesUpWhenVaultIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &tokens{ttl: time.Hour, lives: map[string]*tokenLife{}}
		k := newKeeper(from, 10*time.Second, quiet())
		defer k.close()
		if _, err := k.session(t.Context()); err != nil {
			t.Fatal(err)
		}
		from.set(true)
		time.Sleep(45 * time.Minute)
		from.set(false)
		time.Sleep(3 * 24 * time.Hour)
		if logins, _ := from.counts(); logins != 1 {
			t.Errorf("%d logins: an outage shorter than the token's life costs none", logins)
		}
	})
}

func TestKeeperWaitsNoLongerThanItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(&tokens{ttl: time.Hour, pause: time.Minute, lives: map[string]*tokenLife{}}, 10*time.Second, quiet())
		defer k.close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := k.session(ctx); !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s", took)
		}
		if _, err := k.session(t.Context()); !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("a login that takes too long: %v", err)
		}
	})
}

func TestKeeperClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &tokens{ttl: time.Hour, lives: map[string]*tokenLife{}}
		k := newKeeper(from, 10*time.Second, quiet())
		if _, err := k.session(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.close()
		k.close()
		time.Sleep(24 * time.Hour)
		if logins, renews := from.counts(); logins != 1 || renews != 0 {
			t.Errorf("%d logins and %d renewals after closing", logins, renews)
		}
		if _, err := k.session(t.Context()); !errors.Is(err, rotation.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}
