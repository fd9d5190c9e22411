package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// link is the hash of one entry. It covers the entry before through prev.
func link(seq uint64, prev digest, record []byte) digest {
	h := sha256.New()
	h.Write([]byte("certd journal entry\n"))
	h.Write(number(seq))
	h.Write(prev[:])
	h.Write(record)
	return digest(h.Sum(nil))
}

// openLink checks one value of the chain by itself and returns its parts.
func openLink(key, value []byte) (seq uint64, prev, hash digest, record []byte, err error) {
	if len(key) != 8 {
		return 0, prev, hash, nil, damaged(bucketEntries, key, "it is no sequence number")
	}
	seq = binary.BigEndian.Uint64(key)
	if len(value) < 2*sha256.Size {
		return seq, prev, hash, nil, damaged(bucketEntries, key, "the entry is cut short")
	}
	prev, hash, record = digest(value[:sha256.Size]), digest(value[sha256.Size:2*sha256.Size]), value[2*sha256.Size:]
	if link(seq, prev, record) != hash {
		return seq, prev, hash, nil, damaged(bucketEntries, key, "the entry does not match its hash")
	}
	return seq, prev, hash, record, nil
}

// appendEntry adds a link.
func (t *txn) appendEntry(r entryRecord) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	seq, prev := t.state.Last+1, t.state.Head
	hash := link(seq, prev, text)
	bucket := t.bucket(bucketEntries)
	bucket.FillPercent = 0.95 // seqs only grow
	value := slices.Concat(prev[:], hash[:], text)
	if err := bucket.Put(number(seq), value); err != nil {
		return err
	}
	t.state.Last, t.state.Head = seq, hash
	return nil
}

// closedLately says whether the last commits closed an intent.
func (t *txn) closedLately(intent uint64) (bool, error) {
	for seq := t.state.Last; seq >= t.state.First && seq+2*mostTogether > t.state.Last; seq-- {
		key := number(seq)
		value := t.bucket(bucketEntries).Get(key)
		if value == nil {
			break
		}
		if e, err := t.entry(key, value); err != nil || e.IntentID == intent {
			return err == nil, err
		}
	}
	return false, nil
}

func (t *txn) entry(key, value []byte) (rotation.Entry, error) {
	seq, prev, hash, text, err := openLink(key, value)
	if err != nil {
		return rotation.Entry{}, err
	}
	var r entryRecord
	if err := decode(text, &r, t.strict); err != nil {
		return rotation.Entry{}, damaged(bucketEntries, key, err.Error())
	}
	return rotation.Entry{
		Seq: seq, IntentID: r.IntentID, IntentAt: r.IntentAt, At: r.At, Intent: r.Intent,
		Result: r.Result, Detail: r.Detail, SignRequest: r.SignRequest, Revision: r.Revision, ByOthers: r.ByOthers,
		PrevHash: prev.String(), Hash: hash.String(),
	}, nil
}

// Filter selects entries; the zero Filter selects all.
type Filter struct {
	Since   time.Time       // only entries recorded then or later
	Cluster string          // only entries of this cluster
	Steps   []rotation.Step // only entries of these; none: of all
	After   uint64          // only entries with a larger seq
	Limit   int             // the newest so many; 0 = all
}

// Entries returns the entries that the filter selects, oldest first. It
// follows the chain back from its end, so that what it returns is proven.
func (j *Journal) Entries(f Filter) ([]rotation.Entry, error) {
	var entries []rotation.Entry
	err := j.view("read the history", func(t *txn) error {
		bucket, want := t.bucket(bucketEntries), t.state.Head
		for seq := t.state.Last; seq >= max(t.state.First, f.After+1) && (f.Limit <= 0 || len(entries) < f.Limit); seq-- {
			key := number(seq)
			value := bucket.Get(key)
			if value == nil {
				return damaged(bucketEntries, key, "the entry is missing")
			}
			_, prev, hash, text, err := openLink(key, value)
			if err != nil {
				return err
			}
			if hash != want {
				return damaged(bucketEntries, key, "the one after names another entry")
			}
			want = prev
			// The clock may have jumped: an older entry can bear a later time.
			if !f.Since.IsZero() && recordedAt(text).Before(f.Since) {
				continue
			}
			e, err := t.entry(key, value)
			if err != nil {
				return err
			}
			if (f.Cluster == "" || e.Intent.Cluster == f.Cluster) && (len(f.Steps) == 0 || slices.Contains(f.Steps, e.Intent.Step)) {
				entries = append(entries, e)
			}
		}
		return nil
	})
	slices.Reverse(entries)
	return entries, err
}

// Recent implements [rotation.Journal].
func (j *Journal) Recent(since time.Time, steps ...rotation.Step) (entries []rotation.Entry, from time.Time, err error) {
	err = j.view("read the history", func(t *txn) error {
		if first := t.bucket(bucketEntries).Get(number(t.state.First)); first != nil {
			_, _, _, text, err := openLink(number(t.state.First), first)
			if err != nil {
				return err
			}
			from = recordedAt(text)
		}
		return nil
	})
	if err != nil || from.IsZero() {
		return nil, from, err
	}
	if from.Before(since) {
		from = since
	}
	entries, err = j.Entries(Filter{Since: since, Steps: steps})
	return entries, from, err
}

// Head implements [rotation.Journal].
func (j *Journal) Head() (seq uint64, hash string, err error) {
	err = j.view("read the end of the history", func(t *txn) error {
		seq, hash = t.state.Last, t.state.Head.String()
		return nil
	})
	return seq, hash, err
}

// Has implements [rotation.Journal].
func (j *Journal) Has(seq uint64, hash string) (has bool, err error) {
	err = j.view("look for an entry of the history", func(t *txn) error {
		value := t.bucket(bucketEntries).Get(number(seq))
		if value == nil {
			return nil
		}
		_, _, found, _, err := openLink(number(seq), value)
		has = found.String() == hash
		return err
	})
	return has, err
}

// recordedAt reads only the time with which every entry begins. It returns
// the zero time for what is no entry.
func recordedAt(text []byte) time.Time {
	rest, _ := bytes.CutPrefix(text, []byte(`{"at":"`))
	stamp, _, _ := bytes.Cut(rest, []byte(`"`))
	at, _ := time.Parse(time.RFC3339Nano, string(stamp))
	return at
}

// Report is the verdict on the journal.
type Report struct {
	Entries     uint64
	First, Last uint64 // seqs; both 0 if there are no entries
	Head        string // hash of the last entry, as hex
	BadSeq      uint64 // the first entry that does not hold; 0 = all do
	Problem     string // "" = nothing is wrong
}

// Verify checks each link of the chain, and that every other record is there
// and is what was written. What it finds wrong is in the Report; an error
// means that the file could not be read to its end.
func (j *Journal) Verify() (Report, error) {
	var report Report
	err := j.view("verify", func(t *txn) (err error) {
		if report, err = t.verifyChain(); err != nil || report.Problem != "" {
			return err
		}
		err = t.checkSums()
		if err == nil {
			err = t.checkCommit()
		}
		if err != nil {
			report.Problem = strings.TrimSuffix(err.Error(), ": "+ErrDamaged.Error())
		}
		return nil
	})
	return report, err
}

func (t *txn) verifyChain() (Report, error) {
	var r Report
	bad := func(seq uint64, format string, args ...any) (Report, error) {
		r.BadSeq = max(seq, 1)
		r.Problem = fmt.Sprintf("entry %d: ", seq) + fmt.Sprintf(format, args...)
		return r, nil
	}
	head, next := t.state.Base, t.state.First
	c := t.bucket(bucketEntries).Cursor()
	for key, value := c.First(); key != nil; key, value = c.Next() {
		seq, prev, hash, _, err := openLink(key, value)
		switch {
		case len(key) == 8 && seq != next:
			return bad(next, "it is missing, the next one there is %d", seq)
		case err != nil:
			return bad(next, "it does not match its hash")
		case prev != head:
			return bad(seq, "it does not follow the one before: that has hash %s, and this one names %s", head, prev)
		}
		if r.First == 0 {
			r.First = seq
		}
		r.Entries, r.Last, head, next = r.Entries+1, seq, hash, seq+1
	}
	r.Head = head.String()
	if r.Last < t.state.Last && next <= t.state.Last {
		return bad(next, "it is missing, and so is all up to %d", t.state.Last)
	}
	if next != t.state.Last+1 || head != t.state.Head {
		return bad(t.state.Last, "the chain should end here with hash %s", t.state.Head)
	}
	return r, nil
}

// keepEntries is how many entries Prune leaves whatever their age, so that
// `history` always has something to show.
const keepEntries = 100

// Prune implements [rotation.Journal]. It keeps at least the last 100 entries.
// Space in the file is used again; the file does not shrink.
func (j *Journal) Prune(before time.Time) error {
	return j.update("prune", "drop what is too old", func(t *txn) error {
		entries, err := t.pruneEntries(before)
		if err != nil {
			return err
		}
		certificates, err := t.pruneCertificates(before)
		if err != nil {
			return err
		}
		webhookCAs, err := t.pruneWebhookCAs(before)
		if err != nil {
			return err
		}
		if entries+certificates+webhookCAs == 0 {
			return errUnchanged
		}
		return nil
	})
}

func (t *txn) pruneEntries(before time.Time) (dropped int, err error) {
	bucket := t.bucket(bucketEntries)
	var old [][]byte
	c := bucket.Cursor()
	for key, value := c.First(); key != nil && t.state.First+keepEntries <= t.state.Last; key, value = c.Next() {
		seq, prev, hash, text, err := openLink(key, value)
		switch {
		case err != nil:
			return 0, err
		case seq != t.state.First || prev != t.state.Base:
			return 0, damaged(bucketEntries, key, "the chain is broken")
		}
		if !recordedAt(text).Before(before) {
			break
		}
		old = append(old, bytes.Clone(key))
		t.state.First, t.state.Base = seq+1, hash
	}
	for _, key := range old {
		if err := bucket.Delete(key); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}
