package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
	"certd.internal/state"
)

// Recover rebuilds the journal from the mirror, the clusters and the key backend, and puts
// it into the journal's place. The journal is made aside, so that one that cannot be
// rebuilt leaves everything as it was.
func (d Daemon) Recover(ctx context.Context, path string, req api.RecoverRequest) (reply api.RecoverReply, err error) {
	reply = api.RecoverReply{APIVersion: rotation.APIVersion, Kind: "JournalRecovery", DryRun: req.DryRun, Clusters: []api.RecoveredCluster{}}
	c, err := d.Load(path)
	if err != nil {
		return reply, err
	}
	reply.StateDir = c.StateDir
	switch err := state.Free(c.StateDir); {
	case errors.Is(err, state.ErrLocked) && req.DryRun:
		reply.Daemon = err.Error()
		return reply, nil
	case err != nil:
		return reply, asService(err)
	}
	aside, err := os.MkdirTemp("", "certd-recover-")
	if err != nil {
		return reply, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(aside)) }()
	if err := d.rebuild(ctx, c, aside, &reply); err != nil {
		return reply, asService(err)
	}
	file := filepath.Join(aside, "certd.db")
	held, err := state.Inspect(file, c.Name)
	if err != nil {
		return reply, asService(err)
	}
	reply.Journal = journalCopy(held)
	if len(held.Anchors) == 0 {
		return reply, fmt.Errorf("recover: neither a mirror nor a cluster shows a trust anchor whose key the key backend has; nothing was changed: %w", api.ErrNotNow)
	}
	r, err := state.Restore(c.StateDir, file, state.Options{Fleet: c.Name}, req.Actor, "certd recover: "+cmp.Or(req.Reason, "asked for"), req.DryRun)
	reply.Aside, reply.Epoch = r.Aside, r.Epoch
	if r.Present != nil {
		present := journalCopy(*r.Present)
		reply.Present = &present
	}
	if r.Unreadable != nil {
		reply.Unreadable = r.Unreadable.Error()
	}
	return reply, asService(err)
}

// rebuild makes a journal in a directory of its own.
func (d Daemon) rebuild(ctx context.Context, c *config.Config, dir string, reply *api.RecoverReply) (err error) {
	j, err := state.Open(dir, state.Options{Fleet: c.Name, Reserve: -1})
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler) // the reply has what there is to say
	f := &fleet{log: log, getenv: d.Getenv, journal: j}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.openKeys(c); err != nil {
		return err
	}
	clusters, _ := f.arrange(c)
	if m := c.Keys.Vault; m != nil && m.Mirror != nil {
		fence := rotation.NewFence(f.vault.Mirror(m.Mirror.Mount, m.Mirror.Path), j, f.keys, f.webhookKeys, c.Name, "certd recover")
		reply.Mirror = &api.RecoveredMirror{}
		if reply.Mirror.Records, reply.Mirror.Holder, err = fence.Copy(ctx); err != nil {
			reply.Mirror.Problem = err.Error()
		}
	}
	r, err := rotation.NewReconciler(rotation.Options{Journal: j, Keys: f.keys, WebhookKeys: f.webhookKeys, Policy: c.Fleet(), Clusters: clusters, Log: log})
	if err != nil {
		return err
	}
	unknown := r.Learn(ctx)
	for _, cc := range c.Clusters {
		seen := api.RecoveredCluster{Name: cc.Policy.Cluster}
		if err := unknown[seen.Name]; err != nil {
			seen.Problem = err.Error()
		}
		reply.Clusters = append(reply.Clusters, seen)
		cas, err := j.WebhookCAs(seen.Name)
		if err != nil {
			return err
		}
		reply.WebhookCAs += len(cas)
	}
	return nil
}
