package state

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"go.etcd.io/bbolt"
)

// txn is one transaction with the state it began with. A writing one keeps
// the sums in step with the records.
type txn struct {
	tx     *bbolt.Tx
	last   *lastState
	state  stateRecord
	strict bool // the file has the schema that this certd writes
}

// bucket returns a bucket that begin has seen. What came with a later schema
// than the file has, it returns as nil.
func (t *txn) bucket(name string) *bbolt.Bucket { return t.tx.Bucket([]byte(name)) }

// lastState is the state that was read or written last, with the text of its record: each
// transaction begins with it, and decoding it would be most of what a short one costs. The
// same text is the same state, whoever wrote it.
type lastState struct {
	mu    sync.Mutex
	text  []byte // nil: there is none
	state stateRecord
}

func (l *lastState) keep(text []byte, s stateRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text, l.state = bytes.Clone(text), s.clone()
}

// of returns the state that text is the record of, if it is the last.
func (l *lastState) of(text []byte) (s stateRecord, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == nil || !bytes.Equal(l.text, text) {
		return stateRecord{}, false
	}
	return l.state.clone(), true
}

// begin reads schema and state.
func (j *Journal) begin(tx *bbolt.Tx) (*txn, schemaRecord, error) {
	t := &txn{tx: tx, last: &j.last}
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		return nil, schemaRecord{}, fmt.Errorf("it has no bucket %s: %w", bucketMeta, ErrForeign)
	}
	key := []byte(keySchema)
	value := meta.Get(key)
	if value == nil {
		return nil, schemaRecord{}, fmt.Errorf("it has no schema version: %w", ErrForeign)
	}
	_, text, err := unseal(bucketMeta, key, value)
	if err != nil {
		return nil, schemaRecord{}, err
	}
	schema := j.layout.record()
	if !bytes.Equal(text, j.ours) {
		schema = schemaRecord{}
		if err := t.read(bucketMeta, key, value, &schema); err != nil {
			return nil, schemaRecord{}, err
		}
	}
	t.strict = schema.Version == j.layout.version
	if gone := missing(tx, append(sealedBucketsOf(schema.Version), bucketEntries)); gone != "" {
		return nil, schema, fmt.Errorf("bucket %s is gone: %w", gone, ErrDamaged)
	}
	return t, schema, t.readState()
}

// missing is a bucket of these that the file has not, "" if it has them all. It opens none
// of them, since each transaction asks.
func missing(tx *bbolt.Tx, names []string) string {
	slices.Sort(names)
	c := tx.Cursor()
	for key, value := c.First(); key != nil && len(names) > 0; key, value = c.Next() {
		if value == nil && string(key) == names[0] {
			names = names[1:]
		}
	}
	if len(names) > 0 {
		return names[0]
	}
	return ""
}

func (t *txn) readState() error {
	key := []byte(keyState)
	value := t.bucket(bucketMeta).Get(key)
	if value == nil {
		return damaged(bucketMeta, key, "the record is gone")
	}
	_, text, err := unseal(bucketMeta, key, value)
	if err != nil {
		return err
	}
	if s, known := t.last.of(text); known && t.strict {
		t.state = s
		return nil
	}
	if err := t.read(bucketMeta, key, value, &t.state); err != nil {
		return err
	}
	if t.strict {
		t.last.keep(text, t.state)
	}
	return nil
}

func (t *txn) writeState() error {
	t.state.Commit = t.tx.ID()
	text, err := encode(t.state)
	if err != nil {
		return err
	}
	if t.strict {
		t.last.keep(text, t.state) // where this is not committed, its text never comes up
	}
	key := []byte(keyState)
	return t.bucket(bucketMeta).Put(key, sealed(bucketMeta, key, text))
}

// get reads one record; found is false if there is none.
func (t *txn) get(bucket string, key []byte, record any) (found bool, err error) {
	value := t.bucket(bucket).Get(key)
	if value == nil {
		return false, nil
	}
	return true, t.read(bucket, key, value, record)
}

// read checks and decodes a value that a cursor came upon.
func (t *txn) read(bucket string, key, value []byte, record any) error {
	_, text, err := unseal(bucket, key, value)
	if err != nil {
		return err
	}
	if err := decode(text, record, t.strict); err != nil {
		return damaged(bucket, key, err.Error())
	}
	return nil
}

// put replaces a record. It reports whether that changed anything.
func (t *txn) put(bucket string, key []byte, record any) (changed bool, err error) {
	text, err := encode(record)
	if err != nil {
		return false, err
	}
	s := sealOf(bucket, key, text)
	total := t.state.Sums[bucket]
	if old := t.bucket(bucket).Get(key); old != nil {
		was, _, err := unseal(bucket, key, old)
		if err != nil {
			return false, err
		}
		if was == s {
			return false, nil
		}
		total.XOR = total.XOR.xor(was)
	} else {
		total.Count++
	}
	total.XOR = total.XOR.xor(s)
	t.state.Sums[bucket] = total
	return true, t.bucket(bucket).Put(key, append(s[:], text...))
}

// remove deletes a record that is there.
func (t *txn) remove(bucket string, key []byte) error {
	old := t.bucket(bucket).Get(key)
	if old == nil {
		return damaged(bucket, key, "the record is gone")
	}
	was, _, err := unseal(bucket, key, old)
	if err != nil {
		return err
	}
	total := t.state.Sums[bucket]
	total.Count--
	total.XOR = total.XOR.xor(was)
	t.state.Sums[bucket] = total
	return t.bucket(bucket).Delete(key)
}

// checkSums proves that each bucket holds what was put there: nothing
// changed, nothing lost, nothing from before.
func (t *txn) checkSums() error {
	for _, bucket := range sealedBuckets() {
		if t.bucket(bucket) == nil {
			continue // of a later schema
		}
		var got sum
		err := t.bucket(bucket).ForEach(func(key, value []byte) error {
			s, _, err := unseal(bucket, key, value)
			got.Count++
			got.XOR = got.XOR.xor(s)
			return err
		})
		if err != nil {
			return err
		}
		if want := t.state.Sums[bucket]; got != want {
			return fmt.Errorf("bucket %s holds %d records, not the %d that were put there: %w", bucket, got.Count, want.Count, ErrDamaged)
		}
	}
	return nil
}

// checkCommit proves that what there is was written by the last commit. A disk
// that loses the pages of a commit and keeps its meta page leaves what stood in
// their place before: whole, and from long ago.
func (t *txn) checkCommit() error {
	last := t.tx.ID()
	if t.tx.Writable() {
		last--
	}
	if t.state.Commit != 0 && t.state.Commit != last {
		return fmt.Errorf("its last commit is number %d, and what it holds was written in number %d, so that a commit was lost, or something else than certd wrote to it: %w", last, t.state.Commit, ErrDamaged)
	}
	return nil
}

// errUnchanged ends a writing transaction that has nothing to write.
var errUnchanged = errors.New("nothing to write")

// update runs f and commits what it wrote, all of it or nothing. point names
// the commit for Options.CrashPoint.
func (j *Journal) update(point, doing string, f func(*txn) error) error {
	if j.options.ReadOnly {
		return explain(j.path, doing, ErrReadOnly)
	}
	if err := j.unusable(); err != nil {
		return explain(j.path, doing, err)
	}
	j.crashPoint(point + ": before")
	w := &write{f: f}
	j.commit(w)
	switch err := w.err; {
	case errors.Is(err, errUnchanged):
		return nil
	case err == nil:
		j.crashPoint(point + ": after")
		return nil
	case isFull(err):
		return explain(j.path, doing, fmt.Errorf("%w (%v)", ErrFull, err))
	case !w.refused && !errors.Is(err, ErrDamaged):
		// After an error of the disk nobody knows what is on it, and asking
		// again would only read it from memory.
		return explain(j.path, doing, j.breakOff(fmt.Errorf("the disk did not take the commit: %w; see to the disk, then restart certd", err)))
	default:
		return explain(j.path, doing, err)
	}
}

// mostTogether bounds what one commit holds.
const mostTogether = 64

// write is what one caller has to commit, and what came of it.
type write struct {
	f       func(*txn) error
	done    bool
	err     error
	refused bool // the disk was not asked
}

// commit returns once w is on disk, or is not going to be. What comes while a commit is
// under way shares the next one, since a commit costs the disk the same whatever is in it:
// many clusters are worked on side by side.
func (j *Journal) commit(w *write) {
	j.waiting.Lock()
	j.waits = append(j.waits, w)
	j.waiting.Unlock()
	j.committing.Lock()
	defer j.committing.Unlock()
	for !w.done { // else somebody who came before has done it
		j.waiting.Lock()
		all := j.waits[:min(len(j.waits), mostTogether)]
		j.waits = j.waits[len(all):]
		j.waiting.Unlock()
		if j.commitAll(all) && len(all) > 1 && j.unusable() == nil {
			for _, one := range all { // nobody's write is held up by another's
				j.commitAll([]*write{one})
			}
		}
	}
}

// commitAll commits all of them or none, and says whether one of them refused.
func (j *Journal) commitAll(all []*write) (refused bool) {
	refused, err := true, j.unusable()
	if err == nil {
		err = j.guard(func() error {
			return j.db.Update(func(tx *bbolt.Tx) error {
				t, _, err := j.begin(tx)
				if err != nil {
					return err
				}
				changed := false
				for _, w := range all {
					switch w.err = w.f(t); {
					case w.err == nil:
						changed = true
					case !errors.Is(w.err, errUnchanged):
						return w.err
					}
				}
				if !changed {
					return errUnchanged
				}
				if err := t.writeState(); err != nil {
					return err
				}
				refused = false
				if j.disk != nil {
					return j.disk()
				}
				return nil
			})
		})
	}
	for _, w := range all {
		w.done, w.refused = true, refused
		if err != nil {
			w.err = err
		}
	}
	return refused && !errors.Is(err, errUnchanged)
}

// view runs f on a consistent state.
func (j *Journal) view(doing string, f func(*txn) error) error {
	if err := j.unusable(); err != nil {
		return explain(j.path, doing, err)
	}
	return explain(j.path, doing, j.guard(func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			t, _, err := j.begin(tx)
			if err != nil {
				return err
			}
			return f(t)
		})
	}))
}

// guard turns what bbolt does on a damaged file into an error: it panics, or
// the kernel refuses a page of the mapping (SIGBUS). A panic may leave bbolt's
// locks held, so the journal is not used again.
func (j *Journal) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = j.breakOff(fmt.Errorf("reading its pages ended in %q: %w", fmt.Sprint(p), ErrDamaged))
		}
	}()
	return f()
}

// breakOff makes every later call return err.
func (j *Journal) breakOff(err error) error {
	j.broken.CompareAndSwap(nil, &err)
	return err
}

// unusable is why the journal cannot be used any more, nil if it can.
func (j *Journal) unusable() error {
	if err := j.broken.Load(); err != nil {
		return *err
	}
	return nil
}

func (j *Journal) crashPoint(point string) {
	if j.options.CrashPoint != nil {
		j.options.CrashPoint(point)
	}
}
