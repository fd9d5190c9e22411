package state

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"certd.internal/rotation"
)

// A certificate's key is its cluster, then the times that order it, counted
// down so that the newest comes first, then what tells it from all others:
//
//	cluster 0x00 ^notBefore (8, seconds) ^signedAt (8, nanoseconds) SHA-256 or serial
func certificateKey(r certificateRecord) []byte {
	key := clusterPrefix(r.Cluster)
	// Zero times and those before 1970 stay in order.
	key = binary.BigEndian.AppendUint64(key, ^uint64(r.NotBefore.Unix()+1<<40))
	var signed uint64
	if !r.SignedAt.IsZero() {
		signed = uint64(r.SignedAt.UnixNano())
	}
	key = binary.BigEndian.AppendUint64(key, ^signed)
	return append(key, identity(r)...)
}

func clusterPrefix(cluster string) []byte { return append([]byte(cluster), 0) }

func identity(r certificateRecord) string {
	if r.SHA256 != "" {
		return r.SHA256
	}
	return r.Kind + " " + r.Serial
}

func checkCertificate(c rotation.CertificateRecord) error {
	if c.Kind == "" || c.Serial == "" {
		return errors.New("the certificate has no kind or serial number")
	}
	return checkFields([]field{
		{"cluster", c.Cluster}, {"kind", c.Kind}, {"name", c.Name}, {"serial", c.Serial}, {"sha256", c.SHA256},
		{"SKI", c.SKI}, {"AKI", c.AKI}, {"subject", c.Subject}, {"anchor", c.Anchor}, {"second anchor", c.Second},
	})
}

// putCertificate enters a certificate, or what became known of one that is
// there: times that are zero now keep what they were.
func (t *txn) putCertificate(c rotation.CertificateRecord) error {
	r := fromCertificate(c)
	key := certificateKey(r)
	sameStart := key[:len(clusterPrefix(r.Cluster))+8]
	cursor := t.bucket(bucketCertificates).Cursor()
	for k, value := cursor.Seek(sameStart); bytes.HasPrefix(k, sameStart); k, value = cursor.Next() {
		if len(k) < len(sameStart)+8 || string(k[len(sameStart)+8:]) != identity(r) {
			continue
		}
		var was certificateRecord
		if err := t.read(bucketCertificates, k, value, &was); err != nil {
			return err
		}
		if r.SignedAt.IsZero() {
			r.SignedAt = was.SignedAt
		}
		if r.DeliveredAt.IsZero() {
			r.DeliveredAt, r.Over = was.DeliveredAt, was.Over
		}
		if key = certificateKey(r); !bytes.Equal(k, key) {
			if err := t.remove(bucketCertificates, bytes.Clone(k)); err != nil {
				return err
			}
		}
		break
	}
	_, err := t.put(bucketCertificates, key, r)
	return err
}

// Certificates implements [rotation.Journal]. It stops reading at the last
// issuer that it returns.
func (j *Journal) Certificates(cluster string, limit int, since time.Time) ([]rotation.CertificateRecord, error) {
	var found []rotation.CertificateRecord
	err := j.view("read the inventory of "+strconv.Quote(cluster), func(t *txn) error {
		prefix := clusterPrefix(cluster)
		c := t.bucket(bucketCertificates).Cursor()
		for key, value := c.Seek(prefix); bytes.HasPrefix(key, prefix) && (limit <= 0 || len(found) < limit || !since.IsZero()); key, value = c.Next() {
			var r certificateRecord
			if err := t.read(bucketCertificates, key, value, &r); err != nil {
				return err
			}
			if limit > 0 && len(found) >= limit && r.NotBefore.Before(since) {
				break
			}
			if r.Kind == "issuer" {
				found = append(found, rotation.CertificateRecord(r))
			}
		}
		return nil
	})
	return found, err
}

// AllCertificates returns the whole inventory, by cluster, newest first.
func (j *Journal) AllCertificates() ([]rotation.CertificateRecord, error) {
	var all []rotation.CertificateRecord
	err := j.view("read the inventory", func(t *txn) error {
		return t.bucket(bucketCertificates).ForEach(func(key, value []byte) error {
			var r certificateRecord
			if err := t.read(bucketCertificates, key, value, &r); err != nil {
				return err
			}
			all = append(all, rotation.CertificateRecord(r))
			return nil
		})
	})
	return all, err
}

func (t *txn) pruneCertificates(before time.Time) (dropped int, err error) {
	var old [][]byte
	err = t.bucket(bucketCertificates).ForEach(func(key, value []byte) error {
		var r certificateRecord
		if err := t.read(bucketCertificates, key, value, &r); err != nil {
			return err
		}
		if r.NotAfter.Before(before) {
			old = append(old, bytes.Clone(key))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, key := range old {
		if err := t.remove(bucketCertificates, key); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}

// Anchors implements [rotation.Journal].
func (j *Journal) Anchors() ([]rotation.Anchor, error) {
	var anchors []rotation.Anchor
	err := j.view("read the anchors", func(t *txn) error {
		return t.bucket(bucketAnchors).ForEach(func(key, value []byte) error {
			var r anchorRecord
			if err := t.read(bucketAnchors, key, value, &r); err != nil {
				return err
			}
			a, err := r.anchor()
			if err != nil {
				return fmt.Errorf("bucket %s, key %q: %w", bucketAnchors, key, err)
			}
			anchors = append(anchors, a)
			return nil
		})
	})
	slices.SortStableFunc(anchors, older)
	return anchors, err
}

// putChecked replaces what the key backend says of an anchor's key, and leaves
// the rest of its record alone. An anchor that is not there stays away.
func (t *txn) putChecked(a rotation.Anchor) error {
	var r anchorRecord
	found, err := t.get(bucketAnchors, []byte(a.ID), &r)
	if err != nil || !found {
		return err
	}
	r.Backend, r.Exportable, r.CheckedAt = a.Backend, a.Exportable, utc(a.CheckedAt)
	_, err = t.put(bucketAnchors, []byte(a.ID), r)
	return err
}

// older orders generations, the oldest first.
func older(a, b rotation.Anchor) int {
	if ga, gb := generation(a.ID), generation(b.ID); ga > 0 && gb > 0 {
		return ga - gb
	}
	return a.CreatedAt.Compare(b.CreatedAt)
}

// generation is the number in "g1" or "w1", 0 for an id of another form.
func generation(id string) int {
	n, err := strconv.Atoi(strings.TrimLeft(id, "gw"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func webhookCAKey(ca rotation.WebhookCA) []byte { return append(clusterPrefix(ca.Cluster), ca.ID...) }

func checkWebhookCA(ca rotation.WebhookCA) error {
	if ca.Cluster == "" || ca.ID == "" {
		return errors.New("the webhook CA has no cluster or generation id")
	}
	return checkFields([]field{{"cluster", ca.Cluster}, {"webhook CA", ca.ID}, {"key", ca.Key}, {"backend", ca.Backend}})
}

func (t *txn) putWebhookCA(ca rotation.WebhookCA) error {
	_, err := t.put(bucketWebhookCAs, webhookCAKey(ca), webhookCARecord{Cluster: ca.Cluster, anchorRecord: fromAnchor(ca.Anchor)})
	return err
}

// WebhookCAs implements [rotation.Journal].
func (j *Journal) WebhookCAs(cluster string) ([]rotation.WebhookCA, error) {
	var found []rotation.WebhookCA
	err := j.view("read the webhook CAs of "+strconv.Quote(cluster), func(t *txn) (err error) {
		found, err = t.webhookCAs(clusterPrefix(cluster))
		return err
	})
	return found, err
}

// webhookCAs returns those whose keys begin with prefix: by cluster, oldest
// first. There are none in a file of schema 1.
func (t *txn) webhookCAs(prefix []byte) ([]rotation.WebhookCA, error) {
	bucket := t.bucket(bucketWebhookCAs)
	if bucket == nil {
		return nil, nil
	}
	var found []rotation.WebhookCA
	c := bucket.Cursor()
	for key, value := c.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = c.Next() {
		var r webhookCARecord
		if err := t.read(bucketWebhookCAs, key, value, &r); err != nil {
			return nil, err
		}
		a, err := r.anchor()
		if err != nil {
			return nil, fmt.Errorf("bucket %s, key %q: %w", bucketWebhookCAs, key, err)
		}
		found = append(found, rotation.WebhookCA{Cluster: r.Cluster, Anchor: a})
	}
	slices.SortStableFunc(found, func(a, b rotation.WebhookCA) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), older(a.Anchor, b.Anchor))
	})
	return found, nil
}

// pruneWebhookCAs drops what ended before the time given. Each cluster's
// newest generation stays, because the number of the next one follows from
// it: a name of a key is never used twice.
func (t *txn) pruneWebhookCAs(before time.Time) (dropped int, err error) {
	all, err := t.webhookCAs(nil)
	if err != nil {
		return 0, err
	}
	for i, ca := range all {
		newest := i+1 == len(all) || all[i+1].Cluster != ca.Cluster
		if newest || ca.Certificate == nil || !ca.Certificate.NotAfter.Before(before) {
			continue
		}
		if err := t.remove(bucketWebhookCAs, webhookCAKey(ca)); err != nil {
			return 0, err
		}
		dropped++
	}
	return dropped, nil
}

// putChange replaces the change that is under way; one without a stage ends it.
func (t *txn) putChange(c rotation.Change) error {
	if c.Stage == "" {
		return t.remove(bucketChanges, []byte(keyTrust))
	}
	_, err := t.put(bucketChanges, []byte(keyTrust), fromChange(c))
	return err
}

// Change implements [rotation.Journal].
func (j *Journal) Change() (*rotation.Change, error) {
	var r changeRecord
	found := false
	err := j.view("read the change of the trust anchor", func(t *txn) (err error) {
		if t.bucket(bucketChanges) == nil { // schema 1 or 2
			return nil
		}
		found, err = t.get(bucketChanges, []byte(keyTrust), &r)
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	c := r.change()
	return &c, nil
}

// Pauses implements [rotation.Journal].
func (j *Journal) Pauses() ([]rotation.Pause, error) {
	var r pausesRecord
	err := j.view("read the pauses", func(t *txn) (err error) {
		if t.bucket(bucketChanges) == nil { // schema 1 or 2
			return nil
		}
		_, err = t.get(bucketChanges, []byte(keyPauses), &r)
		return err
	})
	var all []rotation.Pause
	for _, p := range r.Pauses {
		all = append(all, rotation.Pause(p))
	}
	return all, err
}

// putPauses replaces all of them.
func (t *txn) putPauses(all []rotation.Pause) error {
	var r pausesRecord
	if len(all) == 0 {
		if there, err := t.get(bucketChanges, []byte(keyPauses), &r); err != nil || !there {
			return err
		}
		return t.remove(bucketChanges, []byte(keyPauses))
	}
	for _, p := range all {
		p.At, p.Until = utc(p.At), utc(p.Until)
		r.Pauses = append(r.Pauses, pauseRecord(p))
	}
	_, err := t.put(bucketChanges, []byte(keyPauses), r)
	return err
}

// Cluster implements [rotation.Journal].
func (j *Journal) Cluster(name string) (rotation.ClusterRecord, error) {
	var r clusterRecord
	if name == "" {
		return rotation.ClusterRecord{}, nil
	}
	err := j.view("read cluster "+strconv.Quote(name), func(t *txn) error {
		_, err := t.get(bucketClusters, []byte(name), &r)
		return err
	})
	if err != nil {
		return rotation.ClusterRecord{}, err
	}
	return r.cluster(), nil
}

// Clusters implements [rotation.Journal].
func (j *Journal) Clusters() ([]rotation.ClusterRecord, error) {
	var all []rotation.ClusterRecord
	err := j.view("read the clusters", func(t *txn) error {
		return t.bucket(bucketClusters).ForEach(func(key, value []byte) error {
			var r clusterRecord
			if err := t.read(bucketClusters, key, value, &r); err != nil {
				return err
			}
			all = append(all, r.cluster())
			return nil
		})
	})
	return all, err
}

// SaveCluster implements [rotation.Journal]. Saving what is there already
// writes nothing.
func (j *Journal) SaveCluster(c rotation.ClusterRecord) error {
	doing := "save cluster " + strconv.Quote(c.Name)
	if err := checkCluster(c); err != nil {
		return explain(j.path, doing, err)
	}
	return j.update("cluster", doing, func(t *txn) error {
		changed, err := t.put(bucketClusters, []byte(c.Name), fromCluster(c))
		if err == nil && !changed {
			return errUnchanged
		}
		return err
	})
}

func checkCluster(c rotation.ClusterRecord) error {
	switch {
	case c.Name == "":
		return errors.New("it has no name")
	case len(c.Status) > maxStatus:
		return fmt.Errorf("its status has %d bytes, and a record holds %d", len(c.Status), maxStatus)
	case looksLikeKey(c.Status):
		return fmt.Errorf("status: %w", ErrKeyMaterial)
	case looksLikeKey(c.Error):
		return fmt.Errorf("error: %w", ErrKeyMaterial)
	}
	return checkFields([]field{{"name", c.Name}, {"target", c.Target}})
}

func (t *txn) enroll(cluster string) error {
	if cluster == "" {
		return errors.New("an enrolment names no cluster")
	}
	r := clusterRecord{Name: cluster}
	if _, err := t.get(bucketClusters, []byte(cluster), &r); err != nil {
		return err
	}
	r.Enrolled = true
	_, err := t.put(bucketClusters, []byte(cluster), r)
	return err
}

// adopt records what a cluster came with.
func (t *txn) adopt(cluster string, a rotation.Adoption) error {
	r := clusterRecord{Name: cluster}
	if _, err := t.get(bucketClusters, []byte(cluster), &r); err != nil {
		return err
	}
	r.Adopted, r.AdoptedIssuer, r.AdoptedBundle, r.AdoptedAt = a.Anchor, a.Issuer, a.Bundle, utc(a.At)
	_, err := t.put(bucketClusters, []byte(cluster), r)
	return err
}

// LastSigned implements [rotation.Journal].
func (j *Journal) LastSigned(key string) (time.Time, error) {
	var r signedRecord
	if key == "" {
		return time.Time{}, nil
	}
	err := j.view("read the last use of key "+strconv.Quote(key), func(t *txn) error {
		_, err := t.get(bucketSigned, []byte(key), &r)
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	return r.At, nil
}
