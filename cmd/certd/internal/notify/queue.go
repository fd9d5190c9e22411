package notify

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
	"certd.internal/state"
)

const (
	// maxWaiting is how many messages wait for one receiver; more are summed up.
	maxWaiting = 500
	// firstBackoff and maxBackoff bound the time between two tries.
	firstBackoff = 2 * time.Second
	maxBackoff   = 5 * time.Minute
	// refusals is how often a receiver may refuse one message before the next
	// one's turn comes.
	refusals = 5
	// rememberOK is how often it is written down that a receiver works that has
	// nothing to acknowledge.
	rememberOK = time.Hour
)

// letter is a message that waits for its receiver.
type letter struct {
	state.Outgoing
	message receiver.Message
	tries   int  // that failed
	sending bool // it is under way
}

// queue is what waits for one receiver. At most one send is under way.
type queue struct {
	Receiver
	name    string
	traits  receiver.Traits
	record  state.ReceiverRecord
	waiting []*letter // in the order of the outbox
	busy    bool
	tries   int         // that failed in a row
	next    time.Time   // nothing is sent before
	sent    []time.Time // when messages went out, of the last minute
	resent  time.Time   // when all that lasts was last sent
	owed    bool        // it is to be told that the journal fails
}

// result is how a send ended.
type result struct {
	queue   *queue
	letters []*letter
	owed    bool
	err     error
}

// counts says whether a message counts against what a receiver gets in a minute.
// Those that end something wake nobody, and have to arrive one by one.
func (q *queue) counts(l *letter) bool {
	if !q.traits.Keyed {
		return true
	}
	switch l.message.Event {
	case receiver.Opened, receiver.Escalated, receiver.Summary:
		return true
	}
	return false
}

// budget is how many messages may still go out in the minute that ends now.
func (q *queue) budget(now time.Time) int {
	q.sent = slices.DeleteFunc(q.sent, func(t time.Time) bool { return now.Sub(t).Abs() >= time.Minute })
	return q.PerMinute - len(q.sent)
}

// dispatch sends what is due and says when there may be more to do, next at the
// latest.
func (n *Notifier) dispatch(hand context.Context, now, next time.Time) time.Time {
	for _, name := range slices.Sorted(maps.Keys(n.queues)) {
		q := n.queues[name]
		n.giveUp(q, now)
		if q.traits.Keyed && len(q.waiting) > 1 {
			n.supersede(q, now)
		}
		if len(q.waiting) > maxWaiting {
			n.squeeze(q, "too many were waiting", now)
		}
		if q.busy {
			continue
		}
		if now.Before(q.next) && q.next.Sub(now) <= 2*time.Hour { // else the clock was set back
			next = earlier(next, q.next)
			continue
		}
		if q.owed && n.emergency != nil && !q.traits.Batch {
			n.send(hand, q, nil, []receiver.Message{*n.emergency}, now)
			continue
		}
		if q.traits.Batch {
			next = earlier(next, n.sendBatch(hand, q, now))
			continue
		}
		if len(q.waiting) == 0 && q.record.Lost > 0 {
			n.tellLost(q, now)
		}
		if len(q.waiting) == 0 {
			continue
		}
		left, counted := q.budget(now), 0
		for _, l := range q.waiting {
			if q.counts(l) {
				counted++
			}
		}
		if counted > max(left, 1) && left > 0 {
			n.squeeze(q, fmt.Sprintf("they came faster than %d a minute", q.PerMinute), now)
		}
		l := q.waiting[0]
		if q.counts(l) {
			if left <= 0 {
				next = earlier(next, q.sent[0].Add(time.Minute))
				continue
			}
			q.sent = append(q.sent, now)
		}
		n.send(hand, q, []*letter{l}, []receiver.Message{n.asOfNow(q, l.message, now)}, now)
	}
	return next
}

// asOfNow is a message as it is to be sent: what a summary for a keyed receiver
// begins is what lasts by now.
func (n *Notifier) asOfNow(q *queue, m receiver.Message, now time.Time) receiver.Message {
	if !q.traits.Keyed || m.Event != receiver.Summary || m.Lost > 0 {
		return m
	}
	fresh := n.sumUp(n.lost(q, now), "too much came at once", now)
	fresh.ID, fresh.At = m.ID, m.At
	return fresh
}

// supersede drops, for a keyed receiver, each message that a later one with its
// key makes void: what was begun and ended meanwhile is only ended.
func (n *Notifier) supersede(q *queue, now time.Time) {
	last := map[string]*letter{}
	for _, l := range q.waiting {
		last[l.message.DedupKey] = l
	}
	var c change
	for _, l := range q.waiting {
		if l.message.DedupKey != "" && last[l.message.DedupKey] != l && !l.sending {
			c.Sent = append(c.Sent, l.Seq)
		}
	}
	n.commit(c, now)
}

// sendBatch sends all that waits and all that lasts, if something waits or it is
// time, and else says when it is.
func (n *Notifier) sendBatch(hand context.Context, q *queue, now time.Time) time.Time {
	due := q.resent.Add(q.traits.Resend)
	if len(q.waiting) == 0 && now.Before(due) && due.Sub(now) <= q.traits.Resend {
		return due
	}
	var messages []receiver.Message
	for _, l := range q.waiting {
		messages = append(messages, l.message)
	}
	for _, k := range slices.SortedFunc(maps.Keys(n.notices), key.compare) {
		notice := n.notices[k]
		if !slices.Contains(notice.Told, q.name) {
			continue
		}
		f, there := n.current[k]
		if !there { // not seen for a while, or not any more, which is yet to be told
			f = rotation.Finding{ID: k.finding, Message: notice.Message}
		}
		messages = append(messages, n.about(receiver.Opened, k, f, notice, now))
	}
	if q.owed && n.emergency != nil {
		messages = append(messages, *n.emergency)
	}
	if len(messages) == 0 {
		q.resent = now
		return now.Add(q.traits.Resend)
	}
	n.send(hand, q, slices.Clone(q.waiting), messages, now)
	return now.Add(q.traits.Resend)
}

// send begins a send. Its result comes to Run.
func (n *Notifier) send(hand context.Context, q *queue, letters []*letter, messages []receiver.Message, now time.Time) {
	q.busy, q.resent = true, now
	n.underWay++
	for _, l := range letters {
		l.sending = true
	}
	r := result{queue: q, letters: letters, owed: q.owed}
	to := q.Receiver.Receiver
	go func() {
		ctx, cancel := context.WithTimeout(hand, sendFor)
		defer cancel()
		r.err = n.deliver(ctx, q.name, to, messages)
		n.results <- r
	}()
}

// deliver is one send.
func (n *Notifier) deliver(ctx context.Context, name string, to receiver.Receiver, messages []receiver.Message) error {
	if n.world.Sending == nil {
		return to.Send(ctx, messages)
	}
	ctx, ended := n.world.Sending(ctx, name, to.Traits().Kind, messages)
	err := to.Send(ctx, messages)
	ended(err)
	return err
}

// settle takes note of how a send ended.
func (n *Notifier) settle(r result, now time.Time) {
	q := r.queue
	q.busy = false
	for _, l := range r.letters {
		l.sending = false
	}
	if n.queues[q.name] != q { // it is no longer configured
		return
	}
	if r.err == nil {
		if r.owed && !q.traits.Batch {
			q.owed = false
		}
		n.works(q, r.letters, now)
		return
	}
	n.count(q.name, ResultFailed, 1)
	var f *receiver.Failure
	wait := time.Duration(0)
	if errors.As(r.err, &f) {
		wait = f.RetryAfter
	}
	q.tries++
	q.next = now.Add(max(wait, backoff(q.name, q.tries)))
	var c change
	for _, l := range r.letters {
		l.tries++
		if f != nil && f.Refused && l.tries >= refusals && !q.traits.Batch {
			n.world.Log.Error("notification given up: its receiver refuses it", "receiver", q.name, "id", l.ID, "event", l.message.Event, "err", r.err)
			n.lose(&c, q, l)
			q.tries, q.next = 0, time.Time{}
		}
	}
	record := q.record
	if len(c.Receivers) > 0 {
		record = c.Receivers[0]
	}
	if record.FailingSince.IsZero() {
		n.world.Log.Warn("receiver of notifications fails", "receiver", q.name, "err", r.err)
		record.FailingSince = now
	}
	record.Error = clean(r.err.Error(), maxMessage)
	if len(c.Receivers) > 0 || q.record.FailingSince.IsZero() {
		c.Receivers = []state.ReceiverRecord{record}
		n.commit(c, now)
	}
	q.record = record
}

// works takes note that a receiver has taken messages.
func (n *Notifier) works(q *queue, letters []*letter, now time.Time) {
	var c change
	for _, l := range letters {
		c.Sent = append(c.Sent, l.Seq)
	}
	n.count(q.name, ResultSent, len(letters))
	record := q.record
	recovered := !record.FailingSince.IsZero()
	if recovered {
		n.world.Log.Info("receiver of notifications works again", "receiver", q.name, "lost", record.Lost)
	}
	quiet := len(letters) == 0 && !recovered && now.Sub(record.LastOKAt).Abs() < rememberOK
	record.LastOKAt, record.FailingSince, record.Error = now, time.Time{}, ""
	if slices.ContainsFunc(letters, func(l *letter) bool { return l.message.Lost > 0 }) || q.traits.Keyed && len(n.lost(q, now)) == 0 {
		record.Lost, record.LostSince = 0, time.Time{} // it knows, or has no need to
	}
	q.tries, q.next = 0, time.Time{}
	if !quiet {
		c.Receivers = append(c.Receivers, record)
		if !n.commit(c, now) {
			// What was delivered is not sent again by this process, and by the next one
			// only if the journal stays as it is.
			n.unacked = append(n.unacked, c.Sent...)
			q.waiting = slices.DeleteFunc(q.waiting, func(l *letter) bool { return slices.Contains(letters, l) })
		}
	}
	q.record = record
}

// giveUp drops what has been tried for too long; not what ends something for a
// keyed receiver, for there it would last for ever.
func (n *Notifier) giveUp(q *queue, now time.Time) {
	if n.journal != nil {
		return // it could not be taken down
	}
	var c change
	for _, l := range q.waiting {
		if l.sending || now.Sub(l.At) < n.policy.GiveUp || q.traits.Keyed && l.message.DedupKey != "" && !q.counts(l) {
			continue
		}
		n.world.Log.Error("notification given up", "receiver", q.name, "id", l.ID, "event", l.message.Event, "at", l.At, "err", q.record.Error)
		n.lose(&c, q, l)
	}
	n.commit(c, now)
}

// lose gives one message up. What a batch is given again and again is not lost.
func (n *Notifier) lose(c *change, q *queue, l *letter) {
	c.Sent = append(c.Sent, l.Seq)
	if q.traits.Batch || l.message.Lost > 0 {
		return
	}
	n.count(q.name, ResultLost, 1)
	record := q.record
	if len(c.Receivers) > 0 {
		record = c.Receivers[0]
	}
	if record.Lost++; record.LostSince.IsZero() || l.At.Before(record.LostSince) {
		record.LostSince = l.At
	}
	c.Receivers = []state.ReceiverRecord{record}
	n.summed(c, q, l.message)
}

// summed notes that a keyed receiver will know of a finding by a summary.
func (n *Notifier) summed(c *change, q *queue, m receiver.Message) {
	if !q.traits.Keyed || m.Finding == nil || m.Event == receiver.Cleared {
		return
	}
	k := key{m.Cluster, m.Finding.ID}
	notice, open := n.notices[k]
	if !open || slices.ContainsFunc(c.Put, func(p state.Notice) bool { return p.Cluster == k.cluster && p.Finding == k.finding }) || !slices.Contains(notice.Told, q.name) {
		return
	}
	notice.Told = slices.DeleteFunc(slices.Clone(notice.Told), func(name string) bool { return name == q.name })
	notice.Summed = append(slices.Clone(notice.Summed), q.name)
	c.Put = append(c.Put, notice)
}

// tellLost has a receiver told how much was given up, and what of that lasts: it
// is the last message, and tried for as long as it takes.
func (n *Notifier) tellLost(q *queue, now time.Time) {
	open := n.lost(q, now)
	if q.traits.Keyed && len(open) == 0 {
		return // nothing that anybody has to see to
	}
	m := n.sumUp(open, "", now)
	m.Lost = q.record.Lost
	m.Summary = fmt.Sprintf("%s given up since %s, because this receiver did not take them; %s", counted(m.Lost, "notification"), q.record.LostSince.Format("Mon 2 Jan 15:04 MST"), lasting(len(open)))
	var c change
	n.post(&c, m, q.name, 0)
	n.commit(c, now)
}

// lost is what a receiver may not have been told of, and lasts.
func (n *Notifier) lost(q *queue, now time.Time) (open []receiver.Message) {
	for _, k := range slices.SortedFunc(maps.Keys(n.notices), key.compare) {
		notice := n.notices[k]
		if slices.Contains(notice.Summed, q.name) || !q.traits.Keyed && slices.Contains(notice.Told, q.name) {
			open = append(open, n.about(receiver.Opened, k, rotation.Finding{ID: k.finding, Message: notice.Message}, notice, now))
		}
	}
	return open
}

func lasting(n int) string {
	if n == 0 {
		return "nothing that it was told of lasts"
	}
	return fmt.Sprintf("%d of what it is told of last:", n)
}

// squeeze makes one message of those that wait.
func (n *Notifier) squeeze(q *queue, why string, now time.Time) {
	var c change
	var all []*letter // to be summed up
	switch {
	case q.traits.Batch:
		n.squeezeBatch(&c, q)
	default: // what is ended for a keyed receiver has to be ended by itself
		for _, l := range q.waiting {
			if !l.sending && q.counts(l) {
				all = append(all, l)
			}
		}
	}
	if len(all) > 1 {
		var messages []receiver.Message
		for _, l := range all {
			messages = append(messages, l.message)
			c.Sent = append(c.Sent, l.Seq)
			n.summed(&c, q, l.message)
		}
		n.post(&c, n.sumUp(messages, why, now), q.name, all[0].Seq)
	}
	if n.commit(c, now) && len(c.Sent) > 0 {
		n.world.Log.Info("notifications summed up", "receiver", q.name, "count", len(c.Sent), "why", why)
	}
}

// squeezeBatch leaves only what ends something, and of that the latest: what
// lasts is sent with each batch anyway, and what is no longer sent ends by itself.
func (n *Notifier) squeezeBatch(c *change, q *queue) {
	ends := 0
	for i := len(q.waiting) - 1; i >= 0; i-- {
		l := q.waiting[i]
		if l.message.Event == receiver.Cleared && ends < maxWaiting/2 {
			ends++
			continue
		}
		if !l.sending {
			c.Sent = append(c.Sent, l.Seq)
		}
	}
}

// backoff is how long to wait after so many failures in a row, from half of that
// to all of it, each receiver in its own way.
func backoff(name string, tries int) time.Duration {
	d := maxBackoff
	if tries < 16 {
		d = min(d, firstBackoff<<(tries-1))
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", name, tries)
	return d/2 + time.Duration(h.Sum64()%uint64(d/2))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
