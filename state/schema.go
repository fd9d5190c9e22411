// Package state is certd's journal, kept in one bbolt file:
//
//	certd.db
//	├── meta          "schema" → version of the layout, and who may read it
//	│                 "state"  → fleet, epoch, next intent, both ends of the chain, the commit it was
//	│                            written in (since schema 7), and for each bucket below: how many
//	│                            records, and the XOR of their seals
//	├── pending       intent id        → an intent that nothing closed yet
//	├── entries       seq              → a closed intent with its outcome: the hash chain
//	├── anchors       generation id    → one generation of the trust anchor
//	├── webhookCAs    cluster, id      → one generation of a cluster's webhook CA (since schema 2)
//	├── changes       "trust"          → the change of the trust anchor that is under way (since schema 3)
//	│                 "pauses"         → what is left alone for a while (since schema 6)
//	├── certificates  cluster, newest first → one certificate that was signed or met
//	├── clusters      name             → what was last seen of a cluster
//	├── signed        name of a CA key → when it last signed
//	├── notices       cluster, finding → a finding that receivers of notifications are told of (since schema 5)
//	├── outbox        place            → a message that its receiver has not acknowledged (since schema 5)
//	├── receivers     name             → how a receiver of notifications does (since schema 5)
//	└── told          "told"           → what was told that is no finding (since schema 5)
//
// Numbers in keys are 8 bytes, big-endian. A record is canonical JSON: fields
// in the order of the Go type, times in UTC. There is no field for a private
// key, and text that looks like one is refused.
//
// bbolt has no checksums on data, so every value brings its own. In entries:
//
//	hash of the entry before (32) │ own hash (32) │ record
//
// where the hash is SHA-256 over a domain string, the seq, the hash before
// and the record. Everywhere else:
//
//	seal (16) │ record
//
// where the seal is the first half of SHA-256 over a domain string, bucket,
// key and record. A changed record no longer matches its seal; one that
// vanished, or came back from an old page, no longer matches "state"; where all
// of them came back, "state" with them, it no longer names the last commit. What
// bbolt builds around the records is checked page by page before the file is
// opened (file.go).
package state

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// Names of the buckets. They are part of the file format.
const (
	bucketMeta         = "meta"
	bucketPending      = "pending"
	bucketEntries      = "entries"
	bucketAnchors      = "anchors"
	bucketWebhookCAs   = "webhookCAs"
	bucketChanges      = "changes"
	bucketCertificates = "certificates"
	bucketClusters     = "clusters"
	bucketSigned       = "signed"
	bucketNotices      = "notices"
	bucketOutbox       = "outbox"
	bucketReceivers    = "receivers"
	bucketTold         = "told"

	keySchema = "schema"
	keyState  = "state"
	keyTrust  = "trust"
	keyPauses = "pauses"
	keyTold   = "told"
)

// notifyBuckets are those that came with schema 5.
func notifyBuckets() []string {
	return []string{bucketNotices, bucketOutbox, bucketReceivers, bucketTold}
}

// sealedBuckets are those whose records "state" counts.
func sealedBuckets() []string {
	return sealedBucketsOf(currentLayout().version)
}

// sealedBucketsOf are those that a file of the schema has.
func sealedBucketsOf(schema int) []string {
	buckets := []string{bucketPending, bucketAnchors, bucketCertificates, bucketClusters, bucketSigned}
	if schema > 1 {
		buckets = append(buckets, bucketWebhookCAs)
	}
	if schema > 2 {
		buckets = append(buckets, bucketChanges)
	}
	if schema > 4 {
		buckets = append(buckets, notifyBuckets()...)
	}
	return buckets
}

// A layout is what one certd makes of the file: the schema it writes, the
// oldest schema whose readers understand what it writes, and how to come from
// each older schema to the next. Migrating happens in one transaction.
type layout struct {
	version   int
	minReader int
	steps     map[int]func(*txn) error // from version n to n+1
	reads     int                      // the oldest schema it can read as it is; 0: only its own
}

// currentLayout is that of this certd.
//
//	1  the first
//	2  webhook CAs, and webhooks' certificates in the inventory. A certd that
//	   knows only 1 would take those for issuers, so it must not read them.
//	3  the change of the trust anchor. A certd that knows only 2 would publish
//	   two anchors at once, so it must not read one.
//	4  clusters that were taken over, and anchors without a key. A certd that
//	   knows only 3 would write its own bundle there, so it must not read them.
//	5  notifications. One that knows only 4 may read it: it knows nothing of
//	   them, and all else is as it was.
//	6  pauses. One that knows only 4 or 5 may read it, and shows a paused cluster
//	   as managed.
//	7  "state" names its commit, so that pages of an earlier one are noticed. One
//	   that knows only 4 or later may read it.
//	8  a second person's approval of a change, since when a cluster is another than
//	   before, and in whose place an issuer was put. One that knows only 4 or later
//	   may read it, and does not say that the change waits for approval.
func currentLayout() layout {
	return layout{version: 8, minReader: 4, steps: map[int]func(*txn) error{1: addBuckets(bucketWebhookCAs), 2: addBuckets(bucketChanges), 3: addNothing, 4: addBuckets(notifyBuckets()...), 5: addNothing, 6: addNothing, 7: addNothing}, reads: 1}
}

// addBuckets leads to a schema that has more buckets. The records that were
// there stay as they are.
func addBuckets(names ...string) func(t *txn) error {
	return func(t *txn) error {
		for _, name := range names {
			if _, err := t.tx.CreateBucket([]byte(name)); err != nil {
				return fmt.Errorf("create bucket %s: %w", name, err)
			}
			t.state.Sums[name] = sum{}
		}
		return nil
	}
}

// addNothing leads to a schema whose records may have more in them.
func addNothing(*txn) error { return nil }

// schemaRecord stands under "schema". Every version of certd must be able to
// read it, so fields may be added to it and none may change.
type schemaRecord struct {
	Version   int `json:"version"`
	MinReader int `json:"minReader"` // a certd that knows this version may read the file
}

// compatible returns ErrNewer where this certd must leave the file alone.
func (l layout) compatible(s schemaRecord, readOnly bool) error {
	switch {
	case s.Version <= l.version:
		return nil
	case readOnly && s.MinReader <= l.version:
		return nil
	case readOnly:
		return fmt.Errorf("it has schema %d, to be read by a certd that knows schema %d or later, and this one knows %d: %w",
			s.Version, s.MinReader, l.version, ErrNewer)
	}
	return fmt.Errorf("it has schema %d, and this certd knows %d: %w", s.Version, l.version, ErrNewer)
}

// record is what a file of the layout has under "schema".
func (l layout) record() schemaRecord {
	return schemaRecord{Version: l.version, MinReader: l.minReader}
}

// migrate brings the file from schema s to the layout's.
func (l layout) migrate(t *txn, s schemaRecord) error {
	for v := s.Version; v < l.version; v++ {
		step := l.steps[v]
		if step == nil {
			return fmt.Errorf("there is no way from schema %d to %d: %w", v, v+1, ErrForeign)
		}
		if err := step(t); err != nil {
			return fmt.Errorf("migrate from schema %d to %d: %w", v, v+1, err)
		}
	}
	return t.writeSchema(l)
}

func (t *txn) writeSchema(l layout) error {
	value, err := encode(l.record())
	if err != nil {
		return err
	}
	return t.bucket(bucketMeta).Put([]byte(keySchema), sealed(bucketMeta, []byte(keySchema), value))
}

// layOut makes the buckets of an empty file.
func layOut(tx *bbolt.Tx, l layout, fleet string) error {
	for _, name := range append(sealedBuckets(), bucketMeta, bucketEntries) {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	t := &txn{tx: tx, state: stateRecord{Fleet: fleet, NextIntent: 1, First: 1, Sums: map[string]sum{}}}
	for _, name := range sealedBuckets() {
		t.state.Sums[name] = sum{}
	}
	if err := t.writeSchema(l); err != nil {
		return err
	}
	return t.writeState()
}

// number is the key of an intent or an entry.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// keyText shows a key in an error.
func keyText(bucket string, key []byte) string {
	if (bucket == bucketPending || bucket == bucketEntries || bucket == bucketOutbox) && len(key) == 8 {
		return fmt.Sprint(binary.BigEndian.Uint64(key))
	}
	return fmt.Sprintf("%q", key)
}
