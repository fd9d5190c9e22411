package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"certd.internal/rotation"
)

// lease is a Lease in memory, with an API server that some cannot reach.
type lease struct {
	mu      sync.Mutex
	record  *resourcelock.LeaderElectionRecord
	version int
	away    map[string]bool // by identity
	writes  map[string]int
}

// hold is one candidate's lock on it.
type hold struct {
	*lease
	identity string
	version  int // as last read or written
}

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func (h *hold) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away[h.identity] {
		return nil, nil, errors.New("connection refused")
	}
	if h.record == nil {
		return nil, nil, apierrors.NewNotFound(leases, "certd")
	}
	h.version = h.lease.version
	r := *h.record
	raw, err := json.Marshal(r)
	return &r, raw, err
}

func (h *hold) write(r resourcelock.LeaderElectionRecord, create bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.away[h.identity]:
		return errors.New("connection refused")
	case create && h.record != nil:
		return apierrors.NewAlreadyExists(leases, "certd")
	case !create && h.version != h.lease.version:
		return apierrors.NewConflict(leases, "certd", errors.New("it has changed"))
	}
	h.record, h.lease.version = &r, h.lease.version+1
	h.version = h.lease.version
	h.writes[h.identity]++
	return nil
}

func (h *hold) Create(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return h.write(r, true)
}

func (h *hold) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return h.write(r, false)
}
func (h *hold) RecordEvent(string) {}
func (h *hold) Identity() string   { return h.identity }
func (h *hold) Describe() string   { return "certd/certd" }

func (l *lease) candidate(identity string) *Candidate {
	cfg := LeaseConfig{Namespace: "certd", Name: "certd", Identity: identity, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second}
	return newCandidate(cfg, &hold{lease: l, identity: identity}, slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// written says how often a candidate has written the Lease.
func (l *lease) written(identity string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes[identity]
}

func (l *lease) reach(identity string, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away[identity] = !yes
}

// stand runs a candidate; what it returns ends it and says how Run ended.
func stand(ctx context.Context, c *Candidate) (end func() error, ended chan error) {
	ctx, cancel := context.WithCancel(ctx)
	ended = make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return func() error { cancel(); return <-ended }, ended
}

// One leads, from the first moment; when it stops, it gives the Lease back and the other
// one leads at the next try.
func TestOneOfTwoLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{away: map[string]bool{}, writes: map[string]int{}}
		a, b := l.candidate("a"), l.candidate("b")
		endA, _ := stand(t.Context(), a)
		<-a.Elected()
		endB, _ := stand(t.Context(), b)
		time.Sleep(time.Hour)
		who, _, err := b.Holder()
		if a.Leads() != nil || !errors.Is(b.Leads(), rotation.ErrNotLeader) || who != "a" || err != nil {
			t.Errorf("a: %v, b: %v, who sees %q, %v", a.Leads(), b.Leads(), who, err)
		}
		if n := l.written("b"); n != 0 {
			t.Errorf("the one that does not lead wrote the Lease %d times", n)
		}
		if err := endA(); err != nil {
			t.Error(err)
		}
		begun := time.Now()
		<-b.Elected()
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		if !errors.Is(a.Leads(), rotation.ErrNotLeader) || b.Leads() != nil {
			t.Errorf("a: %v, b: %v", a.Leads(), b.Leads())
		}
		if err := endB(); err != nil {
			t.Error(err)
		}
	})
}

// Who cannot renew the Lease stops leading before anybody else begins, and says why.
func TestALeaderThatReachesNobodyStopsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{away: map[string]bool{}, writes: map[string]int{}}
		a, b := l.candidate("a"), l.candidate("b")
		_, ended := stand(t.Context(), a)
		<-a.Elected()
		endB, _ := stand(t.Context(), b)
		time.Sleep(time.Minute)
		l.reach("a", false)
		var stopped time.Time
		for b.Leads() != nil {
			if a.Leads() != nil && stopped.IsZero() {
				stopped = time.Now()
			}
			time.Sleep(10 * time.Millisecond)
		}
		if stopped.IsZero() || time.Since(stopped) < 3*time.Second {
			t.Errorf("the first stopped %s before the second began", time.Since(stopped))
		}
		if err := <-ended; !errors.Is(err, rotation.ErrNotLeader) {
			t.Errorf("it ended with %v", err)
		}
		if _, _, err := a.Holder(); err == nil {
			t.Error("nothing is said of the API server that does not answer")
		}
		if err := endB(); err != nil {
			t.Error(err)
		}
	})
}

// A host that slept finds its monotonic clock where it was: the wall clock tells. So does
// a clock that is set, either way, until the Lease is renewed.
func TestALeaderThatSleptDoesNotLeadOnWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, by := range []time.Duration{time.Hour, -time.Hour, 11 * time.Second} {
			l := &lease{away: map[string]bool{}, writes: map[string]int{}}
			a := l.candidate("a")
			end, _ := stand(t.Context(), a)
			<-a.Elected()
			if err := a.Leads(); err != nil {
				t.Error(err)
			}
			a.mu.Lock()
			a.onWall = a.onWall.Add(-by) // apart by the wall clock alone
			a.mu.Unlock()
			if err := a.Leads(); !errors.Is(err, rotation.ErrNotLeader) {
				t.Errorf("asleep for %s, it leads on: %v", by, err)
			}
			time.Sleep(3 * time.Second)
			if err := a.Leads(); err != nil {
				t.Errorf("asleep for %s, and the Lease was renewed since: %v", by, err)
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestLeadsNamesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{away: map[string]bool{}, writes: map[string]int{}}
		a, b := l.candidate("certd-0_x"), l.candidate("certd-1_y")
		endA, _ := stand(t.Context(), a)
		<-a.Elected()
		endB, _ := stand(t.Context(), b)
		time.Sleep(time.Second)
		if got, want := fmt.Sprint(b.Leads()), "lease certd/certd: this certd does not lead; certd-0_x does"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		_ = endA()
		_ = endB()
	})
}
