package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"certd.internal/rotation"
)

// Begin implements [rotation.Journal]. An intent needs a step, an actor and a
// reason, and holds no private key. It wraps ErrFull while the disk is full,
// or the reserve for Finish cannot be had.
func (j *Journal) Begin(in rotation.Intent) (uint64, error) {
	const doing = "record an intent"
	in.Reason = clip(in.Reason)
	if err := checkIntent(in); err != nil {
		return 0, explain(j.path, doing, err)
	}
	if !j.options.ReadOnly && j.unusable() == nil {
		if err := j.fillReserve(); err != nil {
			return 0, explain(j.path, doing, err)
		}
	}
	var id uint64
	err := j.update("begin", doing, func(t *txn) error {
		id = t.state.NextIntent
		t.state.NextIntent++
		_, err := t.put(bucketPending, number(id), pendingRecord{At: j.Now(), Intent: in})
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

func checkIntent(in rotation.Intent) error {
	switch {
	case in.Step == "":
		return errors.New("it names no step")
	case in.Actor == "":
		return errors.New("it names no actor")
	case in.Reason == "":
		return errors.New("it gives no reason")
	}
	if looksLikeKey(in.Reason) {
		return fmt.Errorf("reason: %w", ErrKeyMaterial)
	}
	return checkFields([]field{
		{"step", string(in.Step)}, {"cluster", in.Cluster}, {"actor", in.Actor}, {"anchor", in.Anchor},
		{"serial", in.Serial}, {"key", in.Key}, {"digest", in.Digest}, {"object", in.Object}, {"writer", in.Writer},
		{"webhook", in.Webhook},
	})
}

type field struct{ name, value string }

func checkFields(fields []field) error {
	for _, f := range fields {
		if looksLikeKey(f.value) {
			return fmt.Errorf("%s: %w", f.name, ErrKeyMaterial)
		}
		if err := checkField(f.name, f.value); err != nil {
			return err
		}
	}
	return nil
}

// Finish implements [rotation.Journal]. An id that is not pending is an error
// that wraps ErrNotPending. A detail that looks like a private key is
// withheld: the outcome itself must not be lost.
func (j *Journal) Finish(id uint64, out rotation.Outcome) error {
	doing := fmt.Sprintf("record the outcome of intent %d", id)
	if err := checkOutcome(&out); err != nil {
		return explain(j.path, doing, err)
	}
	again := false
	finish := func() error {
		return j.update("finish", doing, func(t *txn) error { return j.finish(t, id, out, again) })
	}
	err := finish()
	if errors.Is(err, ErrFull) {
		j.spendReserve() // unless another one has, a moment ago
		again = true
		err = finish()
	}
	return err
}

func (j *Journal) finish(t *txn, id uint64, out rotation.Outcome, again bool) error {
	var p pendingRecord
	found, err := t.get(bucketPending, number(id), &p)
	if err != nil {
		return err
	}
	if !found {
		// A commit that reported a full disk may have taken effect all the same.
		if closed, err := t.closedLately(id); again && err == nil && closed {
			return errUnchanged
		}
		return ErrNotPending
	}
	now := j.Now()
	if out.Serial != "" {
		p.Intent.Serial = out.Serial
	}
	if err := t.appendEntry(entryRecord{
		At: now, IntentAt: p.At, IntentID: id, Intent: p.Intent,
		Result: out.Result, Detail: out.Detail, SignRequest: out.SignRequest, Revision: out.Revision, ByOthers: out.ByOthers,
	}); err != nil {
		return err
	}
	if err := t.remove(bucketPending, number(id)); err != nil {
		return err
	}
	if out.Certificate != nil {
		if err := t.putCertificate(*out.Certificate); err != nil {
			return err
		}
	}
	if out.Anchor != nil {
		if _, err := t.put(bucketAnchors, []byte(out.Anchor.ID), fromAnchor(*out.Anchor)); err != nil {
			return err
		}
	}
	for _, a := range out.Retired {
		if _, err := t.put(bucketAnchors, []byte(a.ID), fromAnchor(a)); err != nil {
			return err
		}
	}
	for _, id := range out.Forgotten {
		if err := t.remove(bucketAnchors, []byte(id)); err != nil {
			return err
		}
	}
	if out.Checked != nil {
		if err := t.putChecked(*out.Checked); err != nil {
			return err
		}
	}
	if out.WebhookCA != nil {
		if err := t.putWebhookCA(*out.WebhookCA); err != nil {
			return err
		}
	}
	if out.Change != nil {
		if err := t.putChange(*out.Change); err != nil {
			return err
		}
	}
	if out.Pauses != nil {
		if err := t.putPauses(*out.Pauses); err != nil {
			return err
		}
	}
	if out.Enrolled {
		if err := t.enroll(p.Intent.Cluster); err != nil {
			return err
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(out.Left)) {
		if err := t.adopt(cluster, out.Left[cluster]); err != nil {
			return err
		}
	}
	if out.Adopted != nil {
		if err := t.adopt(p.Intent.Cluster, *out.Adopted); err != nil {
			return err
		}
	}
	if signs(p.Intent.Step) && out.Result == rotation.OK && p.Intent.Key != "" {
		if _, err := t.put(bucketSigned, []byte(p.Intent.Key), signedRecord{At: now}); err != nil {
			return err
		}
	}
	return nil
}

// signs tells which steps use a CA key when they succeed.
func signs(step rotation.Step) bool {
	return step == rotation.StepSign || step == rotation.StepCanary
}

func checkOutcome(out *rotation.Outcome) error {
	switch out.Result {
	case rotation.OK, rotation.Failed, rotation.Unknown, rotation.Abandoned:
	default:
		return fmt.Errorf("%q is no result", out.Result)
	}
	if out.Detail = clip(out.Detail); looksLikeKey(out.Detail) {
		out.Detail = "(withheld: " + ErrKeyMaterial.Error() + ")"
	}
	if err := checkFields([]field{{"request id", out.SignRequest}, {"serial", out.Serial}, {"revision", out.Revision}}); err != nil {
		return err
	}
	if out.Certificate != nil {
		if err := checkCertificate(*out.Certificate); err != nil {
			return err
		}
	}
	if out.Anchor != nil {
		if out.Anchor.ID == "" {
			return errors.New("the anchor has no generation id")
		}
		if err := checkFields([]field{{"anchor", out.Anchor.ID}, {"key", out.Anchor.Key}, {"backend", out.Anchor.Backend}}); err != nil {
			return err
		}
	}
	if out.Checked != nil {
		if err := checkFields([]field{{"anchor", out.Checked.ID}, {"backend", out.Checked.Backend}}); err != nil {
			return err
		}
	}
	if out.Change != nil {
		if err := checkFields([]field{{"anchor", out.Change.From}, {"anchor", out.Change.To}, {"actor", out.Change.Actor}, {"reason", out.Change.Reason}}); err != nil {
			return err
		}
	}
	if out.Pauses != nil {
		for _, p := range *out.Pauses {
			if err := checkFields([]field{{"cluster", p.Cluster}, {"actor", p.Actor}, {"reason", p.Reason}}); err != nil {
				return err
			}
		}
	}
	if out.WebhookCA != nil {
		return checkWebhookCA(*out.WebhookCA)
	}
	if a := out.Adopted; a != nil && (looksLikeKey(a.Issuer) || looksLikeKey(a.Bundle)) {
		return fmt.Errorf("what the cluster came with: %w", ErrKeyMaterial)
	}
	return nil
}

// Pending implements [rotation.Journal].
func (j *Journal) Pending() ([]rotation.PendingIntent, error) {
	var open []rotation.PendingIntent
	err := j.view("read open intents", func(t *txn) error {
		return t.bucket(bucketPending).ForEach(func(key, value []byte) error {
			var p pendingRecord
			if err := t.read(bucketPending, key, value, &p); err != nil {
				return err
			}
			open = append(open, rotation.PendingIntent{ID: binary.BigEndian.Uint64(key), At: p.At, Intent: p.Intent})
			return nil
		})
	})
	return open, err
}
