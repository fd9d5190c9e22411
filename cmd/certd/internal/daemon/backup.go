package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
	"certd.internal/state"
)

// Snapshot implements api.Service, with a daemon and without.
func (f *fleet) Snapshot(context.Context) (api.Snapshot, error) {
	data, err := f.journal.Snapshot()
	if err != nil {
		return api.Snapshot{}, err
	}
	return api.Snapshot{APIVersion: rotation.APIVersion, Kind: "JournalSnapshot", Fleet: f.journal.Fleet(), Data: data}, nil
}

// SaveBackup puts a snapshot of the journal into a file, verified.
func (d Daemon) SaveBackup(path, file string, s api.Snapshot, replace bool) (api.BackupReply, error) {
	c, err := d.Load(path)
	if err != nil {
		return api.BackupReply{}, err
	}
	held, err := state.SaveCopy(file, c.Name, s.Data, replace)
	if err != nil {
		return api.BackupReply{}, err
	}
	return api.BackupReply{APIVersion: rotation.APIVersion, Kind: "JournalBackup", File: absolute(file), SavedAt: time.Now().UTC().Truncate(time.Second), JournalCopy: journalCopy(held)}, nil
}

// RestoreBackup puts a copy of the journal into the journal's place.
func (d Daemon) RestoreBackup(path string, req api.RestoreRequest) (api.RestoreReply, error) {
	reply := api.RestoreReply{APIVersion: rotation.APIVersion, Kind: "JournalRestore", File: absolute(req.File), DryRun: req.DryRun}
	c, err := d.Load(path)
	if err != nil {
		return reply, err
	}
	reply.StateDir = c.StateDir
	r, err := state.Restore(c.StateDir, req.File, state.Options{Fleet: c.Name}, req.Actor, req.Reason, req.DryRun)
	reply.Copy, reply.Aside, reply.Epoch = journalCopy(r.From), r.Aside, r.Epoch
	if r.Present != nil {
		present := journalCopy(*r.Present)
		reply.Present = &present
	}
	if r.Unreadable != nil {
		reply.Unreadable = r.Unreadable.Error()
	}
	if req.DryRun && errors.Is(err, state.ErrLocked) {
		reply.Daemon = err.Error()
		return reply, nil
	}
	return reply, asService(err)
}

// absolute is where a file is, whatever folder the reader is in.
func absolute(file string) string {
	if path, err := filepath.Abs(file); err == nil {
		return path
	}
	return file
}

func journalCopy(c state.Contents) api.JournalCopy {
	doc := api.JournalCopy{Fleet: c.Fleet, Schema: c.Schema, Epoch: c.Epoch, Entries: c.Entries, First: c.First, Last: c.Last, Head: c.Head, At: c.At.UTC().Truncate(time.Second),
		Anchors: []api.CopiedAnchor{}, Clusters: c.Clusters, Bytes: c.Bytes}
	known := rotation.Fleet{Anchors: c.Anchors, Change: c.Change}
	active := known.Active()
	for i := len(c.Anchors) - 1; i >= 0; i-- {
		a := trustAnchor(c.Anchors[i])
		if active != nil && a.ID == active.ID && a.State == api.AnchorTrusted {
			a.State = api.AnchorActive
		}
		doc.Anchors = append(doc.Anchors, api.CopiedAnchor{ID: a.ID, State: a.State, NotAfter: a.NotAfter, SHA256: a.SHA256})
	}
	if ch := c.Change; ch != nil {
		doc.Change = fmt.Sprintf("%s to %s, stage %s", ch.From, ch.To, ch.Stage)
		if ch.Back {
			doc.Change += ", on its way back"
		}
	}
	return doc
}
