package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
	"certd.internal/state"
)

// ImportAnchor makes a trust anchor that was made elsewhere the fleet's first,
// all in this process: its private key goes to the key backend and nowhere else.
// The journal is this process's for as long, so no daemon can run meanwhile.
func (d Daemon) ImportAnchor(ctx context.Context, path string, req api.ImportRequest) (reply api.InitReply, err error) {
	f, _, err := d.open(ctx, path, true)
	if err != nil {
		return reply, asService(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := rotation.SettleFleet(f.journal); err != nil {
		return reply, err
	}
	policy := f.policy()
	reply = api.InitReply{APIVersion: rotation.APIVersion, Kind: "TrustImport", Fleet: policy.Fleet, At: time.Now().UTC().Truncate(time.Second),
		DryRun: req.DryRun, Witnesses: []string{}, Steps: []string{}, Warnings: []string{}, Entries: []uint64{}}
	creator, done, err := f.creator(req.Token)
	if err != nil {
		return reply, asService(err)
	}
	defer done()
	before, err := f.lastSeq()
	if err != nil {
		return reply, err
	}
	reason := "certd trust import"
	if req.Reason != "" {
		reason += ": " + req.Reason
	}
	into := func(list *[]string) func(string, ...any) {
		return func(format string, args ...any) { *list = append(*list, fmt.Sprintf(format, args...)) }
	}
	a, imported, err := rotation.Import{Journal: f.journal, Creator: creator, Signer: f.keys, Policy: policy, Actor: req.Actor, Reason: reason, DryRun: req.DryRun,
		Certificate: req.Certificate, Key: req.Key, Say: into(&reply.Steps), Warn: into(&reply.Warnings)}.Run(ctx)
	if err != nil {
		return reply, asService(fmt.Errorf("import a trust anchor into %s: %w", policy.Fleet, err))
	}
	reply.Created, reply.Anchor = imported, a.Status()
	reply.Anchor.Key.Backend = cmp.Or(a.Backend, backendName(f.current())) // a dry run has none
	if req.DryRun {
		return reply, nil
	}
	known, err := f.known()
	if err != nil {
		return reply, err
	}
	bundle, err := known.Bundle()
	if err != nil {
		return reply, err
	}
	reply.BundlePEM = string(bundle.PEM())
	entries, err := f.journal.Entries(state.Filter{After: before})
	if err != nil {
		return reply, err
	}
	for _, e := range entries {
		reply.Entries = append(reply.Entries, e.Seq)
	}
	return reply, nil
}
