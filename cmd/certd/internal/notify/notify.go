package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
	"certd.internal/state"
)

const (
	// poll lies between two looks at the status.
	poll = 5 * time.Second
	// tellFailing is how long a receiver may fail before that is a finding.
	tellFailing = 10 * time.Minute
	// tellJournal is how long the journal may fail before people are told without
	// it: what keeps certd from its work must not keep it from saying so.
	tellJournal = time.Minute
	// sendFor bounds one attempt, whatever a receiver does; stopFor is what those
	// under way get when certd stops.
	sendFor = 30 * time.Second
	stopFor = 5 * time.Second
)

// Journal is what keeps notifications. Notify is one durable transaction.
type Journal interface {
	Notifications() (state.Notifications, error)
	Notify(state.NotifyChange) error
}

// World is what a Notifier hears of, and whom it reports to.
type World struct {
	Journal Journal
	Status  func() rotation.FleetStatus
	Plan    func(until time.Time) rotation.Plan
	History func(since time.Time) ([]rotation.Entry, error)
	// Failing is called with what keeps receivers from taking messages, and with
	// nil when nothing does any more.
	Failing func(error)
	// Counted is told what became of messages, as Counts is, and of each receiver
	// that there is, with zeros; nil: nobody asks. It is quick, and may be called at
	// any time.
	Counted func(c Count, by int)
	// Sending is told of each send before it begins; its context is the send's, and
	// ended is called with what came of it. nil: nobody asks.
	Sending func(ctx context.Context, name, kind string, m []receiver.Message) (send context.Context, ended func(error))
	Log     *slog.Logger
}

// Notifier runs the outbox.
type Notifier struct {
	fleet   string
	world   World
	applied chan Policy
	results chan result
	tested  chan string

	// What follows is Run's.
	policy    Policy
	notices   map[key]state.Notice
	queues    map[string]*queue
	told      state.Told
	current   map[key]rotation.Finding // as of the last look
	seen      map[key]time.Time        // when what is not told of was first seen
	gone      map[key]time.Time        // when what is told of was first not seen
	former    map[key]bool             // told of before the start, and not seen since
	unacked   []uint64                 // delivered, and the journal could not be told
	underWay  int                      // sends
	failing   bool                     // World.Failing was told so
	journal   error                    // why the journal cannot be written; nil: it can
	since     time.Time                // since when that is so
	emergency *receiver.Message        // what is told of that, without the journal

	mu        sync.Mutex
	shown     Policy
	receivers []rotation.ReceiverStatus
	counts    map[Count]uint64
}

// Count names a counter of Counts.
type Count struct {
	Receiver string
	Result   string // ResultSent, ResultFailed or ResultLost
}

// What became of a message. One that failed is tried again.
const (
	ResultSent   = "ok"
	ResultFailed = "error"
	ResultLost   = "lost"
)

// ErrNoReceiver: the policy has none of that name.
var ErrNoReceiver = errors.New("there is no such receiver")

// New takes over what an earlier Notifier left in the journal. What is for
// receivers that the policy no longer names is dropped, and logged.
func New(fleet string, p Policy, w World) (*Notifier, error) {
	n := &Notifier{fleet: fleet, world: w, applied: make(chan Policy), results: make(chan result), tested: make(chan string, 16),
		notices: map[key]state.Notice{}, queues: map[string]*queue{}, current: map[key]rotation.Finding{},
		seen: map[key]time.Time{}, gone: map[key]time.Time{}, former: map[key]bool{}, counts: map[Count]uint64{}}
	known, err := w.Journal.Notifications()
	if err != nil {
		return nil, fmt.Errorf("read the notifications from the journal: %w", err)
	}
	n.told = known.Told
	for _, notice := range known.Notices {
		n.notices[key{notice.Cluster, notice.Finding}] = notice
		n.former[key{notice.Cluster, notice.Finding}] = true
	}
	for _, r := range known.Receivers {
		n.queues[r.Name] = &queue{name: r.Name, record: r}
	}
	for _, o := range known.Outbox {
		q := n.queues[o.Receiver]
		if q == nil {
			q = &queue{name: o.Receiver, record: state.ReceiverRecord{Name: o.Receiver}}
			n.queues[o.Receiver] = q
		}
		l := &letter{Outgoing: o}
		if err := json.Unmarshal(o.Body, &l.message); err != nil {
			return nil, fmt.Errorf("read notification %s from the journal: %w", o.ID, err)
		}
		q.waiting = append(q.waiting, l)
	}
	n.take(p, wall())
	n.publish()
	return n, nil
}

// Apply replaces the policy of a Notifier that runs. What is open is told to
// receivers that now are to be told of it.
func (n *Notifier) Apply(ctx context.Context, p Policy) {
	select {
	case n.applied <- p:
	case <-ctx.Done():
	}
}

// Run works until ctx ends, and returns when nothing is under way any more.
func (n *Notifier) Run(ctx context.Context) {
	hand, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var next time.Time // of the looks
	for ctx.Err() == nil {
		now := wall()
		n.report(now)
		if !now.Before(next) || next.Sub(now) > poll { // or the clock was set back
			n.look(now)
			next = now.Add(poll)
		}
		due := n.dispatch(hand, now, next)
		n.publish()
		timer.Reset(max(0, due.Sub(now)))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case p := <-n.applied:
			n.take(p, wall())
			next = time.Time{}
		case r := <-n.results:
			n.underWay--
			n.settle(r, wall())
		case name := <-n.tested:
			if q := n.queues[name]; q != nil {
				n.works(q, nil, wall())
			}
		}
	}
	end := time.AfterFunc(stopFor, cut)
	defer end.Stop()
	for ; n.underWay > 0; n.underWay-- {
		n.settle(<-n.results, wall())
	}
	n.publish()
}

// wall is the wall clock: what is told bears its time.
func wall() time.Time { return time.Now().Round(0).UTC() }

// change is what one transaction changes, in the journal and then in memory.
type change struct {
	state.NotifyChange
	letters []*letter // one for each of Add
}

// tell adds a message for each of the receivers that has a use for it.
func (n *Notifier) tell(c *change, m receiver.Message, to []string) {
	for _, name := range to {
		if q := n.queues[name]; q != nil && q.traits.Takes(m.Event) {
			n.post(c, m, name, 0)
		}
	}
}

// post adds a message for one receiver at a place in the outbox; 0: at its end.
func (n *Notifier) post(c *change, m receiver.Message, to string, place uint64) {
	o, err := outgoing(&m, to)
	if err != nil { // a message always encodes
		n.world.Log.Error("notification not encoded", "receiver", to, "err", err)
		return
	}
	o.Seq = place
	c.Add, c.letters = append(c.Add, o), append(c.letters, &letter{message: m})
}

// commit writes a change and then knows it. After an error nothing has changed,
// and what led to it will lead to it again.
func (n *Notifier) commit(c change, now time.Time) bool {
	c.Sent = append(slices.Clone(n.unacked), c.Sent...)
	if c.Empty() {
		return true
	}
	if err := n.world.Journal.Notify(c.NotifyChange); err != nil {
		if n.journal == nil {
			n.since = now
			n.world.Log.Error("journal not written", "err", err)
		}
		n.journal = err
		return false
	}
	if n.journal != nil {
		n.world.Log.Info("journal written again")
	}
	n.journal, n.emergency, n.unacked = nil, nil, nil
	for _, notice := range c.Put {
		n.notices[key{notice.Cluster, notice.Finding}] = notice
	}
	for _, notice := range c.Over {
		delete(n.notices, key{notice.Cluster, notice.Finding})
	}
	if c.Told != nil {
		n.told = *c.Told
	}
	for _, r := range c.Receivers {
		if q := n.queues[r.Name]; q != nil {
			q.record = r
		}
	}
	for _, q := range n.queues {
		q.owed = false
		q.waiting = slices.DeleteFunc(q.waiting, func(l *letter) bool { return slices.Contains(c.Sent, l.Seq) })
	}
	for i, l := range c.letters {
		l.Outgoing = c.Add[i]
		if q := n.queues[l.Receiver]; q != nil {
			q.waiting = append(q.waiting, l)
			slices.SortStableFunc(q.waiting, func(a, b *letter) int { return cmp.Compare(a.Seq, b.Seq) })
		}
	}
	return true
}

// take takes a policy over: queues of receivers that are no longer named go, with
// all that is for them.
func (n *Notifier) take(p Policy, now time.Time) {
	var c change
	for name, r := range p.Receivers {
		q := n.queues[name]
		if q == nil {
			q = &queue{name: name, record: state.ReceiverRecord{Name: name}}
			n.queues[name] = q
		}
		q.Receiver, q.traits = r, r.Traits()
		q.next, q.tries = time.Time{}, 0 // what kept it from taking messages may be what changed
	}
	for name, q := range n.queues {
		if _, there := p.Receivers[name]; there {
			continue
		}
		delete(n.queues, name)
		c.Forget = append(c.Forget, name)
		for _, l := range q.waiting {
			c.Sent = append(c.Sent, l.Seq)
		}
		if len(q.waiting) > 0 {
			n.world.Log.Warn("notifications dropped, since their receiver is no longer configured", "receiver", name, "count", len(q.waiting))
		}
	}
	for k, notice := range n.notices {
		not := func(name string) bool { return n.queues[name] == nil }
		if slices.ContainsFunc(notice.Told, not) || slices.ContainsFunc(notice.Summed, not) {
			notice.Told, notice.Summed = slices.DeleteFunc(slices.Clone(notice.Told), not), slices.DeleteFunc(slices.Clone(notice.Summed), not)
			n.notices[k] = notice
			c.Put = append(c.Put, notice)
		}
	}
	if len(p.Receivers) == 0 && n.told != (state.Told{}) {
		c.Told = &state.Told{} // it will have changed by the time that somebody is told again
	}
	n.policy = p
	for name := range p.Receivers {
		for _, result := range []string{ResultSent, ResultFailed, ResultLost} {
			n.count(name, result, 0) // it is known that there were none
		}
	}
	n.commit(c, now)
	n.mu.Lock()
	n.shown = p
	n.mu.Unlock()
}

// look compares the status with what was told, and puts into the outbox what is
// new.
func (n *Notifier) look(now time.Time) {
	if len(n.policy.Receivers) == 0 && len(n.notices) == 0 {
		return
	}
	st := n.world.Status()
	s := sightOf(st)
	n.current = s.found
	var c change
	n.lookForNew(&c, s, now)
	n.lookForGone(&c, s, now)
	n.lookAtTrust(&c, st, now)
	n.lookAtCalendar(&c, st, now)
	if !n.commit(c, now) && n.emergency == nil && now.Sub(n.since) >= tellJournal {
		f := rotation.Finding{ID: "JournalFailed", Severity: rotation.StateCritical, Message: n.journal.Error() + "; this is told without it", Fix: "certd status"}
		m := n.about(receiver.Opened, key{"", f.ID}, f, state.Notice{Severity: f.Severity, Since: n.since}, now)
		n.emergency = &m
		for _, name := range n.policy.to(subject{event: EventFinding, severity: f.Severity, finding: f.ID}) {
			n.queues[name].owed, n.queues[name].resent = true, time.Time{}
		}
	}
}

// lookForNew tells of findings that are there, and of those that got worse.
func (n *Notifier) lookForNew(c *change, s sight, now time.Time) {
	for k := range n.seen {
		if _, there := s.found[k]; !there {
			delete(n.seen, k)
		}
	}
	for _, k := range s.keys() {
		f := s.found[k]
		delete(n.gone, k)
		delete(n.former, k)
		notice, known := n.notices[k]
		if !known {
			if _, seen := n.seen[k]; !seen {
				n.seen[k] = now
			}
			if now.Sub(n.seen[k]) < n.policy.After {
				continue
			}
			notice = state.Notice{Cluster: k.cluster, Finding: k.finding, Since: n.seen[k]}
		}
		formerly := notice.Severity
		graver := rank(f.Severity) > rank(formerly)
		if graver {
			notice.Severity = f.Severity
		}
		var fresh, again []string
		for _, name := range n.policy.to(subject{event: EventFinding, severity: notice.Severity, cluster: k.cluster, labels: s.labels[k.cluster], finding: k.finding}) {
			switch {
			case k.finding == "NotifyFailing" && !n.queues[name].record.FailingSince.IsZero():
				// It is not told that it cannot be told.
			case !slices.Contains(notice.Told, name) && !slices.Contains(notice.Summed, name):
				fresh = append(fresh, name)
			case graver:
				again = append(again, name)
			}
		}
		if len(fresh)+len(again) == 0 && (!known || !graver) {
			continue
		}
		notice.Message = clean(f.Message, maxMessage)
		notice.Told = slices.Clone(notice.Told)
		if len(fresh) > 0 {
			n.tell(c, n.about(receiver.Opened, k, f, notice, now), fresh)
			notice.Told = append(notice.Told, fresh...)
		}
		if len(again) > 0 {
			m := n.about(receiver.Escalated, k, f, notice, now)
			m.Formerly = formerly
			n.tell(c, m, again)
			notice.Summed = slices.DeleteFunc(slices.Clone(notice.Summed), func(name string) bool { return slices.Contains(again, name) })
			for _, name := range again {
				if !slices.Contains(notice.Told, name) {
					notice.Told = append(notice.Told, name)
				}
			}
		}
		c.Put = append(c.Put, notice)
	}
}

// lookForGone tells of what is over. What cannot be seen is not over.
func (n *Notifier) lookForGone(c *change, s sight, now time.Time) {
	for _, k := range slices.SortedFunc(maps.Keys(n.notices), key.compare) {
		if _, there := s.found[k]; there {
			continue
		}
		why := ""
		if _, configured := s.labels[k.cluster]; k.cluster != "" && !configured {
			why = "the cluster is no longer configured"
		} else if s.obscured[k.cluster] {
			delete(n.gone, k)
			continue
		}
		if _, gone := n.gone[k]; !gone {
			n.gone[k] = now
		}
		// Two looks at least: between the first look at a cluster and the decision
		// about it there is nothing found yet.
		if why == "" && now.Sub(n.gone[k]) < max(n.policy.After, poll) {
			continue
		}
		if why == "" && k.cluster == "" && n.former[k] {
			why = "certd was restarted, and has not found it since" // much about the fleet is only found by trying
		}
		n.end(c, k, why, now)
	}
}

// end tells everybody who was told of a finding that it is over.
func (n *Notifier) end(c *change, k key, why string, now time.Time) {
	notice := n.notices[k]
	delete(n.gone, k)
	delete(n.seen, k)
	delete(n.former, k)
	c.Over = append(c.Over, notice)
	n.tell(c, n.over(k, notice, why, now), slices.Concat(notice.Told, notice.Summed))
	for _, name := range notice.Summed {
		others := slices.ContainsFunc(slices.Collect(maps.Values(n.notices)), func(o state.Notice) bool {
			return (key{o.Cluster, o.Finding}) != k && slices.Contains(o.Summed, name) &&
				!slices.ContainsFunc(c.Over, func(over state.Notice) bool { return over.Cluster == o.Cluster && over.Finding == o.Finding })
		})
		if !others {
			m := n.message(receiver.SummaryEnd, receiver.StateInfo, now)
			m.DedupKey, m.Summary = n.summaryKey(), "nothing that was summed up lasts any more"
			n.tell(c, m, []string{name})
		}
	}
}

// lookAtTrust tells of each stage of a change of the trust anchor.
func (n *Notifier) lookAtTrust(c *change, st rotation.FleetStatus, now time.Time) {
	r := st.Trust.Rotation
	if r == nil {
		return
	}
	is := state.TrustMark{Stage: r.Stage, From: r.From, To: r.To, Back: r.Back}
	if is.Stage == "" {
		is = state.TrustMark{}
	}
	if n.told.Trust != nil && *n.told.Trust == is {
		return
	}
	told := n.toldOf(c)
	if was := told.Trust; was != nil && (was.Stage != is.Stage || was.Back != is.Back || was.To != is.To) {
		n.tell(c, n.stage(*was, is, *r, now), n.policy.to(subject{event: EventTrust, severity: receiver.StateInfo}))
	}
	told.Trust = &is
}

// toldOf is the copy of what was told that c changes.
func (n *Notifier) toldOf(c *change) *state.Told {
	if c.Told == nil {
		told := n.told
		c.Told = &told
	}
	return c.Told
}

// lookAtCalendar sends the digest that is due; several that were missed are one.
func (n *Notifier) lookAtCalendar(c *change, st rotation.FleetStatus, now time.Time) {
	d := n.policy.Digest
	switch last := n.told.DigestAt; {
	case d == nil:
	case last.IsZero(), last.After(now): // the clock was set back
		n.toldOf(c).DigestAt = now
	case !d.Schedule.Next(last).After(now):
		m, err := n.digestOf(st, last, now)
		if err != nil {
			n.world.Log.Error("digest not made", "err", err)
			return
		}
		n.tell(c, m, d.Receivers)
		n.toldOf(c).DigestAt = now
	}
}

// report says whether receivers have been failing for long.
func (n *Notifier) report(now time.Time) {
	var why []string
	for _, name := range slices.Sorted(maps.Keys(n.queues)) {
		if q := n.queues[name]; !q.record.FailingSince.IsZero() && (now.Sub(q.record.FailingSince) >= tellFailing || q.record.Lost > 0) {
			text := fmt.Sprintf("receiver %s has not taken a notification since %s: %s", name, q.record.FailingSince.Format("Mon 2 Jan 15:04 MST"), q.record.Error)
			if len(q.waiting) > 0 {
				text += fmt.Sprintf("; %d wait", len(q.waiting))
			}
			if q.record.Lost > 0 {
				text += fmt.Sprintf("; %d were given up", q.record.Lost)
			}
			why = append(why, text)
		}
	}
	if len(why) > 0 {
		n.world.Failing(errors.New(strings.Join(why, "; ")))
	} else if n.failing {
		n.world.Failing(nil)
	}
	n.failing = len(why) > 0
}

// publish shows others how the receivers do.
func (n *Notifier) publish() {
	all := []rotation.ReceiverStatus{}
	for _, name := range slices.Sorted(maps.Keys(n.queues)) {
		q := n.queues[name]
		r := rotation.ReceiverStatus{Name: name, Kind: q.traits.Kind, Waiting: len(q.waiting), Lost: q.record.Lost, Error: q.record.Error}
		if at := q.record.LastOKAt; !at.IsZero() {
			at = at.Truncate(time.Second)
			r.LastDelivery = &at
		}
		if at := q.record.FailingSince; !at.IsZero() {
			at = at.Truncate(time.Second)
			r.FailingSince = &at
		}
		all = append(all, r)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.receivers = all
}

// Receivers is how the receivers do, by name. It may be called at any time.
func (n *Notifier) Receivers() []rotation.ReceiverStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.receivers)
}

// Counts is what became of messages since the start, for
// certd_notifications_total: of each attempt that failed, of each message that
// was taken, and of each that was given up. It may be called at any time.
func (n *Notifier) Counts() map[Count]uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	counts := maps.Clone(n.counts)
	for name := range n.shown.Receivers {
		for _, result := range []string{ResultSent, ResultFailed, ResultLost} {
			counts[Count{name, result}] += 0 // it is known that there were none
		}
	}
	return counts
}

func (n *Notifier) count(name, result string, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts[Count{name, result}] += uint64(by)
	if n.world.Counted != nil {
		n.world.Counted(Count{name, result}, by)
	}
}

// Test sends one marked message to a receiver, past the outbox, and returns what
// came of it. It wraps ErrNoReceiver if there is none of that name.
func (n *Notifier) Test(ctx context.Context, name, actor string) (receiver.Message, error) {
	n.mu.Lock()
	r, there := n.shown.Receivers[name]
	known := slices.Sorted(maps.Keys(n.shown.Receivers))
	n.mu.Unlock()
	if !there {
		if len(known) == 0 {
			return receiver.Message{}, fmt.Errorf("receiver %q: none is configured under notify.receivers: %w", name, ErrNoReceiver)
		}
		return receiver.Message{}, fmt.Errorf("receiver %q: there are %s: %w", name, strings.Join(known, ", "), ErrNoReceiver)
	}
	m := n.message(receiver.Test, receiver.StateInfo, wall())
	m.DedupKey = n.fleet + "/test/" + m.ID
	m.Summary = clean(fmt.Sprintf("this is a test of receiver %s, asked for by %s; nothing is wrong", name, actor), maxMessage)
	ctx, cancel := context.WithTimeout(ctx, sendFor)
	defer cancel()
	if err := n.deliver(ctx, name, r.Receiver, []receiver.Message{m}); err != nil {
		n.count(name, ResultFailed, 1)
		return m, err
	}
	n.count(name, ResultSent, 1)
	select {
	case n.tested <- name:
	default: // it is known to work already
	}
	return m, nil
}
