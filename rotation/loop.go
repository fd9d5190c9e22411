package rotation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"certd.internal/pki"
)

const (
	// lookTimeout bounds one look at a cluster, stepTimeout one step.
	lookTimeout = 15 * time.Second
	stepTimeout = 30 * time.Second
	// stopTimeout is what a step in hand may still take once certd is told to
	// stop.
	stopTimeout = 10 * time.Second
	// stepsAtOnce bounds the steps of one pass, so that a cluster that never
	// becomes as decided cannot keep certd to itself.
	stepsAtOnce = 8
	// usualResync is how long certd goes without looking at a cluster again.
	// Timers stop while a host is suspended and do not notice a clock that is
	// set, so the wall clock is read three times as often.
	usualResync = time.Minute
	// slotFor is how long one cluster may keep a slot: one that does not answer at
	// once goes on without it. Slots are for work, and waiting is none: hundreds that
	// hang are all begun within two seconds, and so is the one behind them that is well.
	// Much less would begin a thousand looks at once where the host is busy, and all of
	// them would take longer than a look may.
	slotFor = 150 * time.Millisecond
	// passPause lies between two passes of one cluster, however often it
	// changes.
	passPause = 500 * time.Millisecond
	// sickPause is passPause where looks fail, again and again: a cluster that says all the
	// time that something has changed, and cannot be looked at, costs the others' time.
	sickPause = 8 * time.Second
	// firstLooks is how long enrolling waits for the first look at the others.
	firstLooks = 3 * time.Second
	// recoverAgain lies between tries to learn the anchors anew.
	recoverAgain = 5 * time.Second
	// eventTimeout bounds telling people.
	eventTimeout = 5 * time.Second
	// clockJump is the difference between wall and monotonic clock that counts
	// as a step of the clock or a suspension.
	clockJump = 30 * time.Second
	// canaryEvery is how long a signing path may go unused before it is tried.
	canaryEvery = 24 * time.Hour
	// retention is how long the journal keeps entries, and certificates
	// after their end.
	retention = 400 * 24 * time.Hour
	// pruneEvery is how often what is older is dropped.
	pruneEvery = 30 * 24 * time.Hour
)

// Reconciler runs the one loop: it observes each cluster, decides, records,
// acts, and observes again; woken by watches, deadlines and requests.
type Reconciler struct {
	journal Journal
	fence   *Fence // nil: there is no mirror
	owing   *owing // is journal
	signer  signer // with the trust anchors' keys
	webhook signer // with the webhook CAs' keys
	log     *slog.Logger
	atOnce  int
	resync  time.Duration
	tried   func(Attempt)
	trying  func(context.Context, Attempt) (context.Context, func(error))

	wake      chan struct{}
	monotonic func() time.Time // nil: package time's
	last      clockReading     // when the loop came round last

	mu        sync.Mutex
	policy    FleetPolicy
	anchors   []Anchor
	change    *Change              // of the trust anchor; nil: none is under way
	pauses    []Pause              // replaced, never changed: readers hold the old slice
	waiting   []string             // what it waits for
	wanted    time.Time            // since when a second person's approval is all of that; zero: it is not
	nearer    nearer               // to its end
	foreign   map[string]time.Time // anchors of clusters that are not the fleet's, by SHA-256, and when that was found
	epoch     uint64
	seen      uint64 // the largest epoch before this one, or of another certd's, that is known of
	before    uint64 // seen, as this daemon found it
	members   map[string]*member
	findings  map[string]Finding // about the fleet, by id
	cycleAt   time.Time
	nextCare  time.Time // of the journal and the keys
	caring    bool
	nextPrune time.Time
	keyFails  int
	keysSaid  string // what the key backend last said of itself when it did not answer
	slots     int    // taken
	counts    sync.WaitGroup
	beat      atomic.Pointer[time.Time]
	alone     bool // Turn runs it: nothing is done beside
	back      func(what string) time.Time
	pausing   sync.Mutex // held while pauses are recorded
	renewing  sync.Mutex // held while an anchor is renewed, or its change begins or moves on
	begun     time.Time  // when Run began, or a configuration brought a cluster
	company   company
	ready     []ranked // room for due
	bundles   sharedBundles
	// pendings are intents of clusters that are not configured now.
	pendings []PendingIntent
}

// Options are a Reconciler's parts.
type Options struct {
	Journal Journal
	// Fence, if there is one, keeps the journal's mirror: no step begins once
	// another daemon has that.
	Fence *Fence
	Keys  Keys // of the trust anchors
	// WebhookKeys has the keys of the webhook CAs, and makes them; nil: as Keys.
	WebhookKeys Keys
	Policy      FleetPolicy
	Clusters    map[string]Cluster // one for each of Policy.Clusters
	Log         *slog.Logger
	AtOnce      int // clusters worked on side by side; 0: 64
	// Resync is how long certd goes without looking at a cluster that no watch
	// reports and no deadline calls for; 0: a minute.
	Resync time.Duration
	// Tried is told of each step, once it is known what came of it; nil: nobody is. It
	// is called from several clusters' passes at once, holds them up while it takes,
	// and must not ask the Reconciler anything.
	Tried func(Attempt)
	// Trying is told of each step before anything of it is done; nil: nobody is. The
	// context that it returns is the step's: all that the step asks of Keys and of its
	// Cluster, the look afterwards included, and its lines in the log come with it.
	// ended is called once, with what came of it. As to the rest it is as Tried.
	Trying func(context.Context, Attempt) (step context.Context, ended func(error))
	// Monotonic is a clock of simulations that nobody sets and that stands still while the
	// host sleeps; nil: package time's, or, with Turn, none.
	Monotonic func() time.Time
}

// Attempt is one step that was tried, whether or not there is an entry of it in the
// journal: a key backend that does not answer leaves none. A write that was lost to
// somebody quicker is none; one whose answer was lost is a failure, and is told of
// again if its effect is seen afterwards.
type Attempt struct {
	Cluster string // "": the fleet
	Step    Step   // StepTrustChange: a change of the trust anchor that has ended
	Object  string
	Webhook string
	Actor   string        // "certd", or who asked for it
	Why     string        // as the decision says
	Writer  string        // for repairs: who wrote last, "" if that cannot be seen
	Err     error         // nil: it was done
	Took    time.Duration // signing, writing and looking; 0: not known
}

// NewReconciler takes over where an earlier one ended: intents it left open
// are settled, those of signatures at once (their answers are lost), those of
// writes after the next look at their cluster.
func NewReconciler(o Options) (*Reconciler, error) {
	if o.WebhookKeys == nil {
		o.WebhookKeys = o.Keys
	}
	if o.Fence != nil {
		o.Journal = fenced{o.Journal, o.Fence}
	}
	owing := newOwing(o.Journal)
	o.Journal = owing
	r := &Reconciler{journal: o.Journal, owing: owing, fence: o.Fence, signer: signer{o.Journal, o.Keys}, webhook: signer{o.Journal, o.WebhookKeys}, log: o.Log, atOnce: cmp.Or(o.AtOnce, 64), resync: cmp.Or(o.Resync, usualResync), tried: o.Tried, trying: o.Trying,
		monotonic: o.Monotonic, wake: make(chan struct{}, 1), members: map[string]*member{}, findings: map[string]Finding{}, foreign: map[string]time.Time{}}
	if r.tried == nil {
		r.tried = func(Attempt) {}
	}
	if r.trying == nil {
		r.trying = func(ctx context.Context, _ Attempt) (context.Context, func(error)) { return ctx, func(error) {} }
	}
	r.beats()
	var err error
	if r.anchors, err = o.Journal.Anchors(); err != nil {
		return nil, fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	if r.change, err = o.Journal.Change(); err != nil {
		return nil, fmt.Errorf("read the change of the trust anchor from the journal: %w", err)
	}
	if r.pauses, err = o.Journal.Pauses(); err != nil {
		return nil, fmt.Errorf("read the pauses from the journal: %w", err)
	}
	// A journal begun anew would count from 1 again, below what an earlier one
	// left in the clusters: the clock puts a daemon above all that started
	// before it.
	if r.epoch, err = o.Journal.RaiseEpoch(uint64(r.wall().Unix())); err == nil {
		r.seen, err = o.Journal.SawEpoch(r.epoch)
		r.before = r.seen
	}
	if err != nil {
		return nil, fmt.Errorf("raise the epoch: %w", err)
	}
	if r.pendings, err = SettleFleet(o.Journal); err != nil {
		return nil, err
	}
	return r, r.Apply(o.Policy, o.Clusters)
}

// SettleFleet closes open intents whose outcome no cluster can show, and
// returns the others. It is for the start: no step may be under way.
func SettleFleet(j Journal) ([]PendingIntent, error) {
	all, err := j.Pending()
	if err != nil {
		return nil, fmt.Errorf("read open intents from the journal: %w", err)
	}
	var rest []PendingIntent
	for _, p := range all {
		out, ours := unseen(p.Step, "certd ended")
		if !ours {
			rest = append(rest, p)
			continue
		}
		if err := j.Finish(p.ID, out); err != nil {
			return nil, fmt.Errorf("close the open intent %d (%s): %w", p.ID, p.Step, err)
		}
	}
	return rest, nil
}

// Apply replaces the policy and the set of clusters. Clusters that stay keep
// what is known of them; those that go are closed and no longer touched. A
// policy never triggers anything by itself: it changes what the next decision
// says.
func (r *Reconciler) Apply(p FleetPolicy, clusters map[string]Cluster) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep, pendings := map[string]*member{}, slices.Clone(r.pendings)
	restarts, from := r.lastRestarts()
	for _, cp := range p.Clusters {
		c := clusters[cp.Cluster]
		if c == nil {
			return fmt.Errorf("cluster %s has a policy and no backend", cp.Cluster)
		}
		m := r.members[cp.Cluster]
		if m == nil || m.cluster != c {
			m = newMember(c, cp, &r.bundles)
			r.begun = r.wall()
			var err error
			if m.record, err = r.journal.Cluster(cp.Cluster); err != nil {
				return fmt.Errorf("read cluster %s from the journal: %w", cp.Cluster, err)
			}
			if m.certificates, err = r.journal.Certificates(cp.Cluster, recentCertificates, m.view().keptSince(r.wall())); err != nil {
				return fmt.Errorf("read the certificates of %s from the journal: %w", cp.Cluster, err)
			}
			if m.webhookCAs, err = r.journal.WebhookCAs(cp.Cluster); err != nil {
				return fmt.Errorf("read the webhook CAs of %s from the journal: %w", cp.Cluster, err)
			}
			m.record.Name = cp.Cluster
			m.remind(restarts, from, r.wall())
			counted := map[string]bool{}
			for _, c := range m.certificates {
				if !counted[c.Serial] { // the journal may have one twice: as it was signed, and as it was delivered
					m.signed[lane{"", IssuerObject}] = append(m.signed[lane{"", IssuerObject}], c.SignedAt)
				}
				counted[c.Serial] = true
			}
			m.pending = slices.DeleteFunc(slices.Clone(pendings), func(p PendingIntent) bool { return p.Cluster != cp.Cluster })
			pendings = slices.DeleteFunc(pendings, func(p PendingIntent) bool { return p.Cluster == cp.Cluster })
		}
		keep[cp.Cluster] = m
	}
	for name, m := range r.members {
		if keep[name] == m {
			continue
		}
		r.company.leave(m)
		if m.stopWatch != nil {
			m.stopWatch()
			m.stopWatch = nil
		}
		m.handOver(keep[name])
		if !m.busy {
			pendings = append(pendings, m.takePending()...)
		}
	}
	for _, cp := range p.Clusters {
		m := keep[cp.Cluster]
		m.mu.Lock()
		m.policy = cp
		r.company.join(m)
		m.mu.Unlock()
		m.changed()
	}
	r.policy, r.members, r.pendings = p, keep, pendings
	r.adopt()
	r.poke()
	return nil
}

// restartSteps are those by which pods are created anew for what they trust.
var restartSteps = []Step{StepIdentityRestart, StepControlRestart, StepWorkloadRestart, StepPodEvict}

// lastRestarts are the restarts that count now: of the last hour, since what was under
// way when certd ended still is, and during a change of the trust anchor all of it.
func (r *Reconciler) lastRestarts() (entries []Entry, from time.Time) {
	from = r.wall().Add(-time.Hour)
	if c := r.change; c != nil && c.StartedAt.Before(from) {
		from = c.StartedAt
	}
	entries, from, err := r.journal.Recent(from, restartSteps...)
	if err != nil {
		r.log.Warn("not read what was restarted", "err", err)
		return nil, time.Time{}
	}
	if from.IsZero() { // it begins now
		from = r.wall()
	}
	return entries, from
}

// adopt gives open intents of clusters that have come back to them; the caller
// holds the lock.
func (r *Reconciler) adopt() {
	r.pendings = slices.DeleteFunc(r.pendings, func(p PendingIntent) bool {
		m := r.members[p.Cluster]
		if m != nil {
			r.addPending(m, p)
		}
		return m != nil
	})
}

// Run works until ctx ends; then it begins nothing new, lets the steps in hand
// come to their end, and returns nil. Where ErrNotLeader is the cause of ctx's end,
// nothing in hand is waited for: it is another's turn.
func (r *Reconciler) Run(ctx context.Context) error {
	// A step that has begun is not torn: it gets a little time of its own.
	hand, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), ErrNotLeader) {
			cut()
		}
	})()
	var working sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	r.last = r.clock()
	r.mu.Lock()
	r.begun = r.wall()
	r.mu.Unlock()
	if r.fence != nil {
		working.Go(func() { r.keepMirror(ctx) })
	}
	for ctx.Err() == nil {
		r.beats()
		due, next := r.due(r.round())
		for _, m := range due {
			r.watch(ctx, &working, m)
			working.Go(func() {
				free := r.slot()
				defer free()
				r.pass(ctx, hand, m)
				r.release(m)
			})
		}
		if r.careDue(r.wall()) {
			working.Go(func() { r.care(hand); r.poke() })
		}
		timer.Reset(max(0, min(r.resync/3, next.Sub(r.wall()))))
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer.C:
		}
	}
	r.refuseWaiters("certd is stopping")
	done := make(chan struct{})
	go func() { working.Wait(); r.counts.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(stopTimeout):
		cut()
	}
	select {
	case <-done:
	case <-time.After(stopTimeout):
		r.log.Error("stopped while a call goes on that does not heed its end")
	}
	return nil
}

// Turn does all that is due, one cluster after another and in the caller's goroutine. It
// takes the place of Run in simulations, in which time passes only between turns, or while
// a backend takes its time, and everything happens in an order that can be had again.
// Nobody watches the clusters then: Look is for what a watch would tell. next is when
// certd has something to do by what it knows: if nothing happens in the world until then,
// nothing comes of looks in between, and they are left out. So are tries at what back says
// cannot be reached before a time, a cluster or ("") the key backend, once they come at an
// even pace.
func (r *Reconciler) Turn(ctx context.Context, back func(cluster string) time.Time) (next time.Time) {
	r.back = back
	if !r.alone {
		r.alone = true
		r.last = r.clock()
		if r.begun.IsZero() {
			r.begun = r.wall()
		}
	}
	const most = 100 // whoever is never done must not keep time from passing, in which that shows
	for range most {
		r.beats()
		due, next := r.due(r.round())
		for _, m := range due {
			r.pass(ctx, ctx, m)
			r.release(m)
		}
		r.slots -= len(due)
		care := r.careDue(r.wall())
		if care {
			r.care(ctx)
		}
		if r.fence != nil {
			r.tendMirror(ctx)
		}
		if len(due) == 0 && !care {
			return next
		}
	}
	return r.wall()
}

// skip leaves out tries that could only find again that something is away: of next and
// what follows it at a pace, it is the first that does not come before that is back.
func (r *Reconciler) skip(what string, next time.Time, pace time.Duration) time.Time {
	if r.back == nil {
		return next
	}
	away := r.back(what).Sub(next)
	return next.Add(max(0, (away+pace-1)/pace*pace))
}

// Look has a cluster looked at as soon as may be, as a watch does that tells of a change.
func (r *Reconciler) Look(cluster string) {
	r.mu.Lock()
	if m := r.members[cluster]; m != nil {
		m.changed()
	}
	r.mu.Unlock()
	r.poke()
}

func (r *Reconciler) beats() {
	now := time.Now()
	r.beat.Store(&now)
}

// Beat is when the loop last came round, or the Reconciler was made: with its
// monotonic reading, so that neither a clock that is set nor a host that slept
// makes it older. While it runs, the loop comes round three times in Options.Resync,
// whatever clusters do. Asking waits for nothing, also where the loop is stuck.
func (r *Reconciler) Beat() time.Time { return *r.beat.Load() }

// due takes the clusters whose time has come, as many as there are slots, and
// says when the next one's time comes. Those that answer come before those
// that did not at the last look; among them, the least time to an outage
// first.
func (r *Reconciler) due(at clockReading) (due []*member, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := at.wall
	next = now.Add(r.resync)
	if r.nextCare.Before(next) && !r.caring {
		next = r.nextCare
	}
	// The others' turn comes when a slot is given back, which wakes the loop.
	free := max(0, r.atOnce-r.slots)
	ready := r.ready[:0]
	for _, m := range r.members {
		begin := m.next
		if !m.busy && begin.Before(now.Add(sickPause)) { // no pause is longer
			if rest := m.pause() - at.monotonic.Sub(m.rested); rest > 0 && begin.Before(now.Add(rest)) {
				begin = now.Add(rest)
			}
		}
		switch {
		case m.busy:
		case begin.After(now):
			if begin.Before(next) {
				next = begin
			}
		case free > 0:
			turn, ends := m.urgency()
			ready = append(ready, ranked{m, turn, ends})
		}
	}
	for _, m := range mostUrgent(ready, free) {
		m.busy = true
		due = append(due, m.member)
	}
	r.slots += len(due)
	clear(ready) // it holds no cluster that goes
	r.ready = ready
	return due, next
}

// ranked is a cluster that waits for a slot, and how urgent it is.
type ranked struct {
	*member
	turn int
	ends time.Time
}

// mostUrgent brings the first n of all to the front, and returns them. It sorts no more than
// these: as a start goes on, each slot that is given back is for one of all clusters that wait.
func mostUrgent(all []ranked, n int) []ranked {
	first := all[:min(n, len(all))]
	for i := range first {
		most := i
		for k := i + 1; k < len(all); k++ {
			x, y := &all[k], &all[most]
			if cmp.Or(cmp.Compare(x.turn, y.turn), x.ends.Compare(y.ends), cmp.Compare(x.name, y.name)) < 0 {
				most = k
			}
		}
		all[i], all[most] = all[most], all[i]
	}
	return first
}

// slot is held by the pass that due has begun, until it ends or has had it for
// long enough. Either wakes the loop, and the first gives the slot back; when the
// cluster is due again is for the loop to know.
func (r *Reconciler) slot() (free func()) {
	var once sync.Once
	give := func() {
		once.Do(func() {
			r.mu.Lock()
			r.slots--
			r.mu.Unlock()
		})
		r.poke()
	}
	timer := time.AfterFunc(slotFor, give)
	return func() { timer.Stop(); give() }
}

func (r *Reconciler) release(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.busy, m.rested = false, r.clock().monotonic
	if m.again {
		m.again, m.next = false, time.Time{}
	}
	if r.members[m.name] != m { // no longer configured: what it left open is another's
		r.pendings = append(r.pendings, m.takePending()...)
		r.adopt()
	}
	r.cycleAt = r.wall()
}

// configured says whether m is still what the configuration names.
func (r *Reconciler) configured(m *member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members[m.name] == m
}

// poke wakes the loop.
func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// lookAgain makes every cluster due.
func (r *Reconciler) lookAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		m.changed()
	}
}

// watch starts the cluster's watch, once.
func (r *Reconciler) watch(ctx context.Context, working *sync.WaitGroup, m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.stopWatch != nil || r.members[m.name] != m {
		return
	}
	wctx, stop := context.WithCancel(ctx)
	m.stopWatch = stop
	working.Go(func() {
		err := m.cluster.Watch(wctx, func() {
			r.mu.Lock()
			m.changed()
			r.mu.Unlock()
			r.poke()
		})
		if wctx.Err() == nil {
			r.log.Warn("watch ended; it is begun again at the next regular look", "cluster", m.name, "err", err)
			stop()
			r.mu.Lock()
			m.stopWatch = nil
			r.mu.Unlock()
		}
	})
}

// pass looks at one cluster and does what is to be done there. Nothing new is
// begun once ctx has ended; hand is for what has begun.
func (r *Reconciler) pass(ctx, hand context.Context, m *member) {
	brief := r.issuerIsDue(m) && r.reread(ctx, m, BundleObject) == nil
	census := r.countedOnly(m)
	if !brief && !census {
		if err := r.observe(ctx, m); err != nil && ctx.Err() != nil {
			return
		}
	}
	r.owing.pay()
	var d Decision
	counted := false
	for done := range stepsAtOnce {
		v := m.view()
		another := v.Observed != nil && v.Record.elsewhere(v.Observed, r.fleet().Policy.Fleet)
		if v.Err == nil && v.Observed != nil && !another { // else it tells nothing of the one that is looked after
			if !r.learn(hand, m, v.Observed) && len(r.fleet().Anchors) > 0 {
				d.wakeAt(r.wall().Add(recoverAgain))
				break
			}
			err := r.overtaken(m, v.Observed)
			if err == nil {
				err = r.settle(m, r.fleet())
			}
			if err == nil {
				err = r.follow(m, r.fleet(), m.view(), r.wall())
			}
			if err != nil {
				r.log.Error("journal not written", "cluster", m.name, "err", err)
				r.Problem("JournalFailed", err)
				break
			}
		}
		at := r.clock()
		if m.steppedSince(at) { // and nobody has confirmed it
			brief, census = false, false
			if err := r.observe(ctx, m); err != nil && ctx.Err() != nil {
				return
			}
			continue
		}
		now := at.wall
		r.mendTimes(m, now)
		f := r.fleet()
		v = m.view()
		twin, unseen := r.others(m, now)
		v.SameTarget = twin
		f.ClockDoubt = r.clockDoubt()
		d = Decide(f, v, now)
		if census && d.Step != "" || brief && d.Step != StepIssuer && (d.Step != "" || done == 0) {
			brief, census = false, false
			if err := r.observe(ctx, m); err != nil && ctx.Err() != nil {
				return
			}
			continue
		}
		r.decided(m, v, d)
		if ctx.Err() != nil || !r.configured(m) {
			break
		}
		if d.Mode == Watched && v.Policy.Adopt && v.Err == nil && !unseen && !another && r.adoptConfigured(m) {
			continue
		}
		if d.Step == "" && len(d.Probe) > 0 {
			r.probe(ctx, m, d.Probe)
			continue
		}
		if d.Step == "" {
			if d.Census && !counted {
				r.count(ctx, m)
				if counted = r.alone; counted { // it is there
					continue
				}
			}
			break
		}
		if !v.Record.Enrolled && unseen {
			d.wakeAt(now.Add(passPause))
			break
		}
		if r.deposed() {
			d.Step = "" // nothing to hurry for
			break
		}
		if r.keepRecord(m) != nil {
			d.Step = ""
			d.wakeAt(now.Add(recoverAgain))
			break
		}
		step, ended := r.trying(hand, d.attempt(m.name))
		sctx, cancel := context.WithTimeout(step, stepTimeout)
		begun := time.Now()
		err := r.act(sctx, step, m, f, v, d)
		cancel()
		more := r.acted(step, m, d, err, time.Since(begun))
		ended(err)
		if !more {
			break
		}
	}
	if m.wantsCount() {
		r.count(ctx, m)
		if r.alone {
			r.Look(m.name)
		}
	}
	r.welcome(m)
	r.moveOn()
	r.schedule(m, d)
	if brief || census { // the regular look is not put off by it
		m.mu.Lock()
		regular := m.lookedAt.Add(r.resync)
		m.mu.Unlock()
		r.mu.Lock()
		m.next = earlier(m.next, regular)
		r.mu.Unlock()
	}
}

// count has the meshed pods counted, beside everything else: that takes its
// time where they are many, and holds up no step.
func (r *Reconciler) count(ctx context.Context, m *member) {
	m.mu.Lock()
	busy := m.counting
	m.counting = true
	m.mu.Unlock()
	if busy {
		return
	}
	beside := r.counts.Go
	if r.alone {
		beside = func(count func()) { count() }
	}
	beside(func() {
		begun := r.clock()
		p := m.cluster.CountProxies(ctx)
		if p.At.IsZero() {
			p.At = begun.wall
		}
		now := r.clock()
		p.Took = now.monotonic.Sub(begun.monotonic)
		if now.steppedSince(begun) {
			p = Proxies{} // when it was is not known
		}
		m.mu.Lock()
		m.proxies, m.counting, m.counted = p, false, !r.alone
		m.mu.Unlock()
		if r.alone {
			return // the pass goes on with it
		}
		r.mu.Lock()
		m.dueNow()
		r.mu.Unlock()
		r.poke()
	})
}

// observe looks once and keeps what it saw.
func (r *Reconciler) observe(ctx context.Context, m *member) error {
	octx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	// What changed before the look begins, the look will show.
	r.mu.Lock()
	m.again, m.news = false, false
	r.mu.Unlock()
	begun, fleet := r.clock(), r.fleet().Policy.Fleet
	o, err := m.cluster.Observe(octx)
	if ctx.Err() != nil {
		return ctx.Err() // certd is stopping: that says nothing about the cluster
	}
	now := r.wall()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer r.company.turned(m)
	m.lookedAt = begun.wall
	if err != nil {
		if m.obsErr == nil {
			m.errSince = now
			r.log.Warn("cluster not seen", "cluster", m.name, "err", err)
		}
		m.obsErr = err
		m.lookFails++
		return err
	}
	if m.obsErr != nil {
		r.log.Info("cluster seen again", "cluster", m.name)
	}
	o.keep(m.bundles)
	m.observed, m.obsErr, m.lookFails, m.seenAt = &o, nil, 0, begun
	m.record.LastContact, m.record.Error = now, ""
	if told := m.record.told(&o, m.policy, now); !slices.Equal(told, m.record.Terms) {
		m.record.Terms, m.unsaved = told, true
	}
	if !m.record.elsewhere(&o, fleet) {
		if was := m.record.Target; was != "" && was != o.Target {
			m.record.TargetSince, m.unsaved = now, true
		}
		m.record.Target = o.Target
	}
	m.trail = m.trail.after(&o, m.policy, m.certificates, now)
	return nil
}

// issuerIsDue says whether the pass is for a new issuer and nothing else, wanted by
// somebody or by the clock, and the last look still holds: it is no older than looks are
// let grow, and neither a watch nor anything else has told of a change since. Then only
// the bundle is looked at anew before it is signed. The write is held against the issuer
// that was seen; replicas of linkerd-identity that were started since have one of the
// bundles that such replicas were allowed for anyway.
func (r *Reconciler) issuerIsDue(m *member) bool {
	now := r.wall()
	if !r.lookHolds(m, now) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	acts := m.decision.Acts
	return m.requests[TargetIssuer] != nil || !acts.IsZero() && !acts.After(now)
}

// countedOnly says whether the pass is for what a census has found, and the last look
// still holds. If something is to be done about it, certd looks first all the same.
func (r *Reconciler) countedOnly(m *member) bool {
	m.mu.Lock()
	counted := m.counted
	m.counted = false
	m.mu.Unlock()
	return counted && r.lookHolds(m, r.wall())
}

// lookHolds says whether nothing is known to have changed since the last look, which is no
// older than looks are let grow.
func (r *Reconciler) lookHolds(m *member, now time.Time) bool {
	r.mu.Lock()
	told := m.news || r.change != nil || len(r.pauses) > 0
	r.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	age := now.Sub(m.lookedAt)
	return !told && m.observed != nil && m.obsErr == nil && age >= 0 && age < usualResync && len(m.pending) == 0 && len(m.failures) == 0 && !m.policy.Directory
}

// reread looks at one object only.
func (r *Reconciler) reread(ctx context.Context, m *member, object string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	r.mu.Lock()
	m.again = m.news // what is new elsewhere, this look does not show
	r.mu.Unlock()
	m.mu.Lock()
	last := *m.observed
	m.mu.Unlock()
	o, err := m.cluster.Reread(ctx, last, object)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer r.company.turned(m)
	o.keep(m.bundles)
	m.observed = &o
	m.trail = m.trail.after(&o, m.policy, m.certificates, r.wall())
	return nil
}

// learn takes from the world what a lost journal no longer knows: our mark on
// a cluster, a newer epoch, anchors whose keys the key backend still holds. Until
// it is known whether an anchor that is there is the fleet's, nothing is done in
// the cluster: it might be what its pods need.
func (r *Reconciler) learn(ctx context.Context, m *member, o *Observation) (known bool) {
	f := r.fleet()
	if o.Bundle.Marks.Fleet != f.Policy.Fleet {
		return true
	}
	strangers := r.strangers(f, m.policyNow(), o)
	if len(f.Anchors) > 0 && len(strangers) == 0 {
		return r.relearn(m, o)
	}
	if seen := max(o.Bundle.Marks.Epoch, o.Issuer.Marks.Epoch); len(f.Anchors) == 0 && seen >= f.Epoch && seen < lastEpoch {
		raised, err := r.journal.RaiseEpoch(seen)
		if err == nil {
			_, err = r.journal.SawEpoch(raised)
		}
		if err != nil {
			r.log.Error("journal not written", "cluster", m.name, "err", err)
			return false
		}
		r.mu.Lock()
		r.seen, r.epoch = max(r.seen, r.epoch), raised
		r.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := r.recoverAnchors(ctx, m, strangers); err != nil {
		r.log.Error("anchor not recovered", "cluster", m.name, "err", err)
		r.Problem("AnchorNotRecovered", err)
		return false
	}
	r.Solved("AnchorNotRecovered")
	return r.relearn(m, o)
}

// overtaken takes note of what another certd has written, be it before this one was started or
// since. The one that is started next starts above it: a clock that was years ahead makes an
// epoch that the time of no other start comes up to. And a change of the trust anchor goes
// through its stages anew, since what was proved of them may have come undone, also one that
// is over where a cluster shows it; where a mirror hands it on, it is as the other has left it.
func (r *Reconciler) overtaken(m *member, o *Observation) error {
	f := r.fleet()
	for _, marks := range []Marks{o.Bundle.Marks, o.Issuer.Marks} {
		if marks.Epoch > 0 && marks.Fleet != f.Policy.Fleet {
			return nil
		}
	}
	seen := o.epoch(f.Policy.Fleet)
	m.mu.Lock()
	m.epoch = max(m.epoch, seen)
	m.mu.Unlock()
	news := func() (news bool, undone *Anchor) {
		r.mu.Lock()
		another := seen > r.before && seen != r.epoch && seen < lastEpoch
		news = another && seen > r.seen
		r.mu.Unlock()
		if another {
			undone = f.undone(m.view(), o, r.wall())
		}
		return news, undone
	}
	if is, undone := news(); !is && undone == nil {
		return nil
	}
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f = r.fleet()
	is, undone := news()
	if !is && undone == nil {
		return nil
	}
	var err error
	switch c, to := f.Change, f.newestIn(o); {
	case r.fence != nil:
	case c != nil && !c.Compromised:
		again := c.Again(r.wall())
		in := Intent{Step: StepTrustChange, Actor: "certd", Anchor: cmp.Or(c.To, c.From),
			Reason: fmt.Sprintf("another certd wrote to %s (epoch %d): what was proved may have come undone", m.name, seen)}
		err = r.putChange(in, Outcome{Detail: "stage " + string(again.Stage), Change: &again})
	case undone != nil:
		err = r.changeAnew(undone, f.Active().ID, fmt.Sprintf("another certd wrote to %s (epoch %d), which shows %s again", m.name, seen, undone.ID), r.wall())
	case c == nil && to != nil && f.keeps(m.view()):
		err = r.resumeAdopting(*to, fmt.Sprintf("another certd wrote to %s (epoch %d), which came with an anchor and shows %s as well", m.name, seen, to.ID), r.wall())
	}
	if err == nil {
		_, err = r.journal.SawEpoch(seen)
	}
	if err == nil {
		r.mu.Lock()
		r.seen = max(r.seen, seen)
		r.mu.Unlock()
	}
	return err
}

// strangers are the anchors in a cluster's bundle, and beside its issuer, that
// are neither the fleet's nor a partner's, as far as is known, and that were not
// looked into lately.
func (r *Reconciler) strangers(f Fleet, p Policy, o *Observation) (found []*x509.Certificate) {
	const again, most = 10 * time.Minute, 1000
	var here []*x509.Certificate
	for _, text := range [][]byte{o.BundleText, o.IssuerFacts.CABundle} {
		if b, err := o.readBundle(text); err == nil { // damaged ones are mended from what is known
			here = append(here, b.Anchors()...)
		}
	}
	now := r.wall()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range here {
		same := func(k *x509.Certificate) bool {
			return k != nil && bytes.Equal(k.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
		}
		switch {
		case slices.ContainsFunc(found, same):
		case slices.ContainsFunc(f.Anchors, func(a Anchor) bool { return same(a.Certificate) }):
		case slices.ContainsFunc(p.Foreign, func(a ForeignAnchor) bool { return same(a.Certificate) }):
		case now.Sub(r.foreign[pki.Fingerprint(c)]).Abs() < again:
		default:
			found = append(found, c)
		}
	}
	if len(r.foreign) > most {
		clear(r.foreign)
	}
	return found
}

// attempt is what is told of carrying the decision out.
func (d Decision) attempt(cluster string) Attempt {
	return Attempt{Cluster: cluster, Step: d.Step, Object: d.Object, Webhook: d.Webhook, Actor: d.Actor, Why: d.Why, Writer: d.Writer}
}

// acted takes note of how a step ended and says whether to go on at once.
func (r *Reconciler) acted(ctx context.Context, m *member, d Decision, err error, took time.Duration) bool {
	now, told := r.wall(), true
	defer func() { // without the lock
		if told {
			a := d.attempt(m.name)
			a.Err, a.Took = err, took
			r.tried(a)
		}
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	l := d.lane()
	if err == nil {
		r.log.InfoContext(ctx, "step done", "cluster", m.name, "step", d.Step, "object", d.Object, "why", d.Why)
		m.failures = without(m.failures, func(other lane, _ *StepFailure) bool { return other == l })
		delete(m.raced, l)
		if d.contested() || d.Step == StepPodEvict {
			m.repairs = with(m.repairs, l, append(slices.DeleteFunc(slices.Clone(m.repairs[l]), func(t time.Time) bool { return now.Sub(t) > time.Hour }), now))
		}
		return true
	}
	if errors.Is(err, ErrNotNow) {
		r.log.InfoContext(ctx, "step put off", "cluster", m.name, "step", d.Step, "object", d.Object, "why", d.Why, "err", err)
		m.failed(d.Action, err, now, d.hurry())
		return true
	}
	r.log.ErrorContext(ctx, "step failed", "cluster", m.name, "step", d.Step, "object", d.Object, "why", d.Why, "err", err)
	// Somebody else was quicker: that is no failure, only a reason to look
	// again, unless it keeps happening.
	if errors.Is(err, ErrChanged) && m.raced[l] < 3 {
		m.raced[l]++
		told = false
		return true
	}
	until := m.failed(d.Action, err, now, d.hurry())
	m.refuse(fmt.Sprintf("%s: %v; certd tries again at %s", d.Step, err, until.Format(time.RFC3339)), d.targets()...)
	return true
}

// schedule says when the cluster is looked at next.
func (r *Reconciler) schedule(m *member, d Decision) {
	now := r.wall()
	next, wake := now.Add(r.resync), d.Wake
	if r.alone {
		wake = d.Acts
	}
	if !wake.IsZero() {
		next = earlier(next, wake)
	}
	if r.has("AnchorNotRecovered") {
		next = earlier(next, now.Add(recoverAgain))
	}
	m.mu.Lock()
	if m.obsErr != nil {
		pause := backoff(m.lookFails, m.left(d.Dates.MustRenewBy, now))
		if next = now.Add(pause); m.lookFails >= evenTries {
			next = r.skip(m.name, next, pause)
		}
	} else {
		for _, fl := range m.failures {
			again := fl.Until
			if fl.Tries >= evenTries && errors.Is(fl.Err, ErrUnavailable) {
				again = r.skip("", again, maxBackoff)
			}
			next = earlier(next, again)
		}
		if d.Step != "" && m.failures[d.lane()] == nil { // more to do than one pass may
			next = now
		}
	}
	m.mu.Unlock()
	r.mu.Lock()
	m.next = next
	r.mu.Unlock()
	r.saveStatus(m)
}

// wall is the daemon's clock without a monotonic reading: certificates are held
// against the calendar.
func (r *Reconciler) wall() time.Time { return r.journal.Now() }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
