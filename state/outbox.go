package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// A Notice is a finding that is told of: from the commit that puts the first
// message about it into the outbox until the one that does so with the last.
type Notice struct {
	Cluster  string // "" for the fleet
	Finding  string // its id
	Severity rotation.State
	Message  string
	Since    time.Time // when it was found
	// Told are the receivers that get a message of its own about it, Summed
	// those that know of it from a summary.
	Told   []string
	Summed []string
}

// Outgoing is a message that one receiver has not acknowledged.
type Outgoing struct {
	Seq      uint64 // its place in the outbox; 0: at the end
	ID       string // the same however often it is sent
	Receiver string
	At       time.Time // when what it tells of happened
	Body     []byte    // at most MaxBody; for whoever sends it
}

// ReceiverRecord is how a receiver of notifications does.
type ReceiverRecord struct {
	Name         string
	LastOKAt     time.Time // when it last took a message; zero: never
	FailingSince time.Time // zero: the last message was taken, or there was none yet
	Error        string    // why it is failing
	// Lost is how many messages were given up since one was last taken, the
	// first at LostSince.
	Lost      int
	LostSince time.Time
}

// Told is what was told that is no finding.
type Told struct {
	Trust    *TrustMark // nil: it was never looked at
	DigestAt time.Time  // when the last digest was due; zero: there was none
}

// TrustMark is how far a change of the trust anchor was.
type TrustMark struct {
	Stage string `json:"stage"` // "" while none is under way
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Back  bool   `json:"back,omitempty"`
}

// Notifications are what is told of and what is yet to be sent.
type Notifications struct {
	Notices   []Notice   // by cluster and finding
	Outbox    []Outgoing // by place
	Receivers []ReceiverRecord
	Told      Told
}

// NotifyChange is a change of Notifications. What is not named stays.
type NotifyChange struct {
	Put       []Notice // new ones, or as they are now
	Over      []Notice // of which only Cluster and Finding count
	Add       []Outgoing
	Sent      []uint64 // places in the outbox; one that is not there is no error
	Receivers []ReceiverRecord
	Forget    []string // receivers
	Told      *Told
}

// MaxBody is the most bytes that the body of one message may have.
const MaxBody = 64 << 10

// Empty says whether there is nothing to change.
func (c NotifyChange) Empty() bool {
	return len(c.Put)+len(c.Over)+len(c.Add)+len(c.Sent)+len(c.Receivers)+len(c.Forget) == 0 && c.Told == nil
}

// Notify makes a change, all of it or nothing, and enters the places of what
// it added into c.Add. What was sent goes before what is added, so that a place
// can be taken anew.
func (j *Journal) Notify(c NotifyChange) error {
	const doing = "record notifications"
	if c.Empty() {
		return nil
	}
	if err := checkNotify(c); err != nil {
		return explain(j.path, doing, err)
	}
	return j.update("notify", doing, func(t *txn) error { return t.notify(c) })
}

func checkNotify(c NotifyChange) error {
	for _, n := range c.Put {
		if n.Finding == "" {
			return errors.New("a notice names no finding")
		}
		if looksLikeKey(n.Message) {
			return fmt.Errorf("message of %s: %w", n.Finding, ErrKeyMaterial)
		}
		if err := checkFields([]field{{"cluster", n.Cluster}, {"finding", n.Finding}, {"severity", string(n.Severity)}}); err != nil {
			return err
		}
	}
	for _, o := range c.Add {
		switch {
		case o.ID == "" || o.Receiver == "":
			return errors.New("a message has no id or no receiver")
		case len(o.Body) > MaxBody:
			return fmt.Errorf("message %s has %d bytes, and a record holds %d", o.ID, len(o.Body), MaxBody)
		case looksLikeKey(o.Body):
			return fmt.Errorf("message %s: %w", o.ID, ErrKeyMaterial)
		}
		if err := checkFields([]field{{"id", o.ID}, {"receiver", o.Receiver}}); err != nil {
			return err
		}
	}
	for _, r := range c.Receivers {
		if r.Name == "" {
			return errors.New("a receiver has no name")
		}
		if looksLikeKey(r.Error) {
			return fmt.Errorf("error of receiver %s: %w", r.Name, ErrKeyMaterial)
		}
		if err := checkFields([]field{{"receiver", r.Name}}); err != nil {
			return err
		}
	}
	return nil
}

func noticeKey(n Notice) []byte { return append(clusterPrefix(n.Cluster), n.Finding...) }

func (t *txn) notify(c NotifyChange) error {
	for _, n := range c.Put {
		n.Message, n.Since = clip(n.Message), utc(n.Since)
		if _, err := t.put(bucketNotices, noticeKey(n), noticeRecord(n)); err != nil {
			return err
		}
	}
	for _, n := range c.Over {
		if err := t.drop(bucketNotices, noticeKey(n)); err != nil {
			return err
		}
	}
	for _, seq := range c.Sent {
		if err := t.drop(bucketOutbox, number(seq)); err != nil {
			return err
		}
	}
	for i := range c.Add {
		if err := t.post(&c.Add[i]); err != nil {
			return err
		}
	}
	for _, r := range c.Receivers {
		r.Error, r.LastOKAt, r.FailingSince, r.LostSince = clip(r.Error), utc(r.LastOKAt), utc(r.FailingSince), utc(r.LostSince)
		if _, err := t.put(bucketReceivers, []byte(r.Name), receiverRecord(r)); err != nil {
			return err
		}
	}
	for _, name := range c.Forget {
		if err := t.drop(bucketReceivers, []byte(name)); err != nil {
			return err
		}
	}
	if c.Told != nil {
		r := toldRecord{Trust: c.Told.Trust, DigestAt: utc(c.Told.DigestAt)}
		if _, err := t.put(bucketTold, []byte(keyTold), r); err != nil {
			return err
		}
	}
	return nil
}

// post puts a message at its place, or at the end.
func (t *txn) post(o *Outgoing) error {
	if o.Seq == 0 {
		o.Seq = 1
		if last, _ := t.bucket(bucketOutbox).Cursor().Last(); len(last) == 8 {
			o.Seq = binary.BigEndian.Uint64(last) + 1
		}
	}
	_, err := t.put(bucketOutbox, number(o.Seq), outgoingRecord{ID: o.ID, Receiver: o.Receiver, At: utc(o.At), Body: o.Body})
	return err
}

// drop removes a record that may be there.
func (t *txn) drop(bucket string, key []byte) error {
	if t.bucket(bucket).Get(key) == nil {
		return nil
	}
	return t.remove(bucket, key)
}

// Notifications returns what is told of and what is yet to be sent. There is
// nothing in a file of an older schema.
func (j *Journal) Notifications() (Notifications, error) {
	var all Notifications
	err := j.view("read the notifications", func(t *txn) error {
		if t.bucket(bucketOutbox) == nil { // before schema 5
			return nil
		}
		err := t.bucket(bucketNotices).ForEach(func(key, value []byte) error {
			var r noticeRecord
			if err := t.read(bucketNotices, key, value, &r); err != nil {
				return err
			}
			all.Notices = append(all.Notices, Notice(r))
			return nil
		})
		if err != nil {
			return err
		}
		err = t.bucket(bucketOutbox).ForEach(func(key, value []byte) error {
			var r outgoingRecord
			if err := t.read(bucketOutbox, key, value, &r); err != nil {
				return err
			}
			all.Outbox = append(all.Outbox, Outgoing{Seq: binary.BigEndian.Uint64(key), ID: r.ID, Receiver: r.Receiver, At: r.At, Body: r.Body})
			return nil
		})
		if err != nil {
			return err
		}
		err = t.bucket(bucketReceivers).ForEach(func(key, value []byte) error {
			var r receiverRecord
			if err := t.read(bucketReceivers, key, value, &r); err != nil {
				return err
			}
			all.Receivers = append(all.Receivers, ReceiverRecord(r))
			return nil
		})
		if err != nil {
			return err
		}
		var told toldRecord
		_, err = t.get(bucketTold, []byte(keyTold), &told)
		all.Told = Told(told)
		return err
	})
	slices.SortStableFunc(all.Receivers, func(a, b ReceiverRecord) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}
