package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"certd.internal/rotation"
)

// LeaseConfig is one candidate's way to the Lease by which several certd elect the one
// that works.
type LeaseConfig struct {
	Access          Access
	Namespace, Name string // of the Lease
	// Identity tells this process from all others, its own earlier ones included. The
	// Lease shows it.
	Identity string

	// LeaseDuration is how long the others wait from the last renewal that they saw,
	// RenewDeadline how long the leader tries to renew before it gives up, RetryPeriod
	// what lies between two tries. LeaseDuration > RenewDeadline > 1.2 RetryPeriod.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// Candidate stands for election. It is safe for concurrent use.
type Candidate struct {
	cfg     LeaseConfig
	lock    resourcelock.Interface
	log     *slog.Logger
	server  string        // for texts
	elected chan struct{} // closed once it leads

	mu      sync.Mutex
	leads   bool
	over    bool      // it has led, and does so no more
	renewed time.Time // when the last renewal that succeeded began
	onWall  time.Time // the same, by the clock on the wall alone
	holder  string    // as last seen; "" if nobody was
	since   time.Time // when the holder got it
	err     error     // of the last exchange with the API server; nil: it succeeded
}

// NewCandidate prepares for standing for election; it sends nothing.
func NewCandidate(cfg LeaseConfig, log *slog.Logger) (*Candidate, error) {
	rc, err := cfg.Access.restConfig()
	if err != nil {
		return nil, fmt.Errorf("lease %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	rc.UserAgent = "certd"
	rc.Timeout = max(time.Second, cfg.RenewDeadline/2) // a request that hangs leaves time for another one
	client, err := coordinationv1.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("lease %s/%s: %w", cfg.Namespace, cfg.Name, err)
	}
	c := newCandidate(cfg, &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: cfg.Namespace, Name: cfg.Name},
		Client:     client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: cfg.Identity},
	}, log)
	c.server = rc.Host
	return c, nil
}

func newCandidate(cfg LeaseConfig, lock resourcelock.Interface, log *slog.Logger) *Candidate {
	c := &Candidate{cfg: cfg, log: log, server: "the API server", elected: make(chan struct{})}
	c.lock = &seenLock{lock, c}
	return c
}

// Run stands for election until ctx ends, and gives the Lease back if it has it then: what
// it guards has to be over before. It returns nil after that. An error wrapping
// rotation.ErrNotLeader says that this candidate led and does so no more.
func (c *Candidate) Run(ctx context.Context) error {
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          c.lock,
		LeaseDuration: c.cfg.LeaseDuration, RenewDeadline: c.cfg.RenewDeadline, RetryPeriod: c.cfg.RetryPeriod,
		ReleaseOnCancel: true,
		Name:            c.cfg.Namespace + "/" + c.cfg.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { c.won() },
			OnStoppedLeading: func() { c.lost() },
		},
	})
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", c.cfg.Namespace, c.cfg.Name, err)
	}
	elector.Run(quiet(ctx))
	if ctx.Err() != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("lease %s/%s: %w%s", c.cfg.Namespace, c.cfg.Name, rotation.ErrNotLeader, c.why())
}

// won and lost are told by the elector.
func (c *Candidate) won() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over { // the two are told side by side
		c.leads = true
		close(c.elected)
	}
}

func (c *Candidate) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads, c.over = false, true
}

// Elected is closed once this candidate leads. It stays closed.
func (c *Candidate) Elected() <-chan struct{} { return c.elected }

// Leads returns nil while this candidate leads: the Lease is its own, and was renewed no
// longer than RenewDeadline ago, by the clock on the wall and by the one that no one can
// set. So a host that slept, and a clock that is wrong, are noticed at once, before the
// Lease is looked at. The error wraps rotation.ErrNotLeader. It asks nobody.
func (c *Candidate) Leads() error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leads || c.holder != c.cfg.Identity {
		return fmt.Errorf("lease %s/%s: %w%s", c.cfg.Namespace, c.cfg.Name, rotation.ErrNotLeader, c.why())
	}
	age, wall := now.Sub(c.renewed), now.Round(0).Sub(c.onWall)
	if age < c.cfg.RenewDeadline && wall.Abs() < c.cfg.RenewDeadline {
		return nil
	}
	return fmt.Errorf("lease %s/%s was last renewed %s ago, by the wall clock %s: %w until it is renewed", c.cfg.Namespace, c.cfg.Name, rotation.FormatDuration(age), rotation.FormatDuration(wall), rotation.ErrNotLeader)
}

// why says who leads; the caller holds the lock.
func (c *Candidate) why() string {
	switch {
	case c.err != nil:
		return fmt.Sprintf(" (%v)", c.err)
	case c.holder == "" || c.holder == c.cfg.Identity:
		return ""
	}
	return "; " + c.holder + " does"
}

// Holder is who has the Lease, as last seen, and since when by that one's clock; "" if
// nobody has it, or nobody has been seen yet. err is why the API server could last not be
// asked.
func (c *Candidate) Holder() (identity string, since time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holder, c.since, c.err
}

// seenLock is a lock whose answers the candidate takes note of.
type seenLock struct {
	resourcelock.Interface
	c *Candidate
}

func (l *seenLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	l.c.saw("get", r, err)
	return r, raw, err
}

func (l *seenLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	begun := time.Now()
	err := l.Interface.Create(ctx, r)
	l.c.wrote("create", r, begun, err)
	return err
}

func (l *seenLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	begun := time.Now()
	err := l.Interface.Update(ctx, r)
	l.c.wrote("update", r, begun, err)
	return err
}

func (c *Candidate) saw(verb string, r *resourcelock.LeaderElectionRecord, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered(verb, err)
	if err == nil && r != nil {
		c.holder, c.since = r.HolderIdentity, r.AcquireTime.UTC()
	}
}

func (c *Candidate) wrote(verb string, r resourcelock.LeaderElectionRecord, begun time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered(verb, err)
	if err != nil {
		return
	}
	c.holder, c.since = r.HolderIdentity, r.AcquireTime.UTC()
	if r.HolderIdentity == c.cfg.Identity {
		c.renewed, c.onWall = begun, begun.Round(0)
	}
}

// answered logs when the API server begins to fail and when it answers again; the caller
// holds the lock. That somebody else was quicker, and that there is no Lease yet, is no
// failure.
func (c *Candidate) answered(verb string, err error) {
	if errors.Is(err, context.Canceled) { // this candidate is told to stop
		return
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), verb == "get" && apierrors.IsNotFound(err):
		err = nil
	case err != nil:
		at := &Cluster{server: c.server, cfg: Config{Namespace: c.cfg.Namespace}}
		err = at.fail(call{verb: verb, resource: "leases", name: c.cfg.Name, in: c.cfg.Namespace, write: verb != "get"}, err)
	}
	switch {
	case err != nil && c.err == nil:
		c.log.Warn("the Lease cannot be asked", "lease", c.cfg.Namespace+"/"+c.cfg.Name, "err", err)
	case err == nil && c.err != nil:
		c.log.Info("the Lease answers again", "lease", c.cfg.Namespace+"/"+c.cfg.Name)
	}
	c.err = err
}
