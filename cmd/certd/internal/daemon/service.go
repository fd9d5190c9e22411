package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/notify"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// recentEntries is how many journal entries a status carries along.
const recentEntries = 5

// running is the api.Service of a daemon.
type running struct {
	*fleet
	reconciler *rotation.Reconciler
	notifier   *notify.Notifier
	fence      *rotation.Fence // nil: there is no mirror
	election   *election       // nil: there is one certd
	started    time.Time
	version    string
	logs       logging
}

var _ api.Service = (*running)(nil)

func (s *running) Status(context.Context) (rotation.FleetStatus, error) {
	return withRecent(s.report(), s.journal)
}

// report is the status without what it takes a look into the journal for.
func (s *running) report() rotation.FleetStatus {
	st := s.reconciler.Status()
	st.Version = s.version
	st.Daemon.StartedAt, st.Daemon.PID, st.Daemon.ConfigFile = s.started, os.Getpid(), s.configFile()
	st.Election = s.election.status(true)
	st.Daemon.StoreBytes, st.Daemon.Receivers = s.journal.Size(), s.notifier.Receivers()
	return st
}

func withRecent(st rotation.FleetStatus, j *state.Journal) (rotation.FleetStatus, error) {
	entries, err := j.Entries(state.Filter{Limit: recentEntries})
	if err != nil {
		return st, fmt.Errorf("read the journal: %w", err)
	}
	for i := len(entries) - 1; i >= 0; i-- {
		st.Recent = append(st.Recent, historyItem(entries[i]))
	}
	return st, nil
}

func (s *running) Plan(_ context.Context, until time.Time, ifStopped bool) (rotation.Plan, error) {
	return s.reconciler.Plan(until, ifStopped), nil
}

func (s *running) History(_ context.Context, q api.HistoryQuery) (rotation.HistoryList, error) {
	return history(s.journal, "daemon", q)
}

func (s *running) Verify(context.Context) (api.VerifyReport, error) { return verify(s.journal) }

func (s *running) Trust(context.Context) (api.TrustList, error) {
	return s.trustList(s.reconciler.Status())
}

func (s *running) Rotate(ctx context.Context, req api.RotateRequest) (api.RotateReply, error) {
	var reply api.RotateReply
	target := cmp.Or(req.Target, rotation.TargetIssuer)
	switch {
	case !slices.Contains([]rotation.Target{rotation.TargetIssuer, rotation.TargetWebhooks, rotation.TargetWebhookCA}, target):
		return reply, fmt.Errorf("rotate: this daemon knows no target %q: %w", target, api.ErrUsage)
	case len(req.Clusters) == 0:
		return reply, fmt.Errorf("rotate: no cluster is named: %w", api.ErrUsage)
	}
	st := s.reconciler.Status()
	clusters := map[string]rotation.ClusterStatus{}
	for _, c := range st.Clusters {
		clusters[c.Name] = c
	}
	for _, name := range req.Clusters {
		c, ok := clusters[name]
		switch {
		case !ok:
			return reply, fmt.Errorf("rotate: cluster %q is not configured: %w", name, api.ErrUsage)
		case c.Pause != nil:
			return reply, fmt.Errorf("rotate: cluster %q is paused by %s (%s); certd resume %s ends that: %w", name, c.Pause.By, c.Pause.Reason, pausedWhat(*c.Pause, name), api.ErrNotNow)
		case c.Mode != string(rotation.Managed):
			return reply, fmt.Errorf("rotate: cluster %q is %s, not managed by certd: %w", name, c.Mode, api.ErrNotNow)
		case st.Trust.Active == nil:
			return reply, fmt.Errorf("rotate: there is no trust anchor yet; run certd init first: %w", api.ErrNotNow)
		}
		if why := noWebhooks(c); target != rotation.TargetIssuer && why != "" {
			return reply, fmt.Errorf("rotate: cluster %q %s: %w", name, why, api.ErrNotNow)
		}
	}
	if req.DryRun {
		for _, name := range req.Clusters {
			reply.Results = append(reply.Results, api.RotateResult{Cluster: name, Detail: wouldBe(target, clusters[name])})
		}
		return reply, nil
	}
	results := s.reconciler.Rotate(target, req.Clusters, rotation.Request{Actor: req.Actor, Reason: req.Reason, At: time.Now()})
	if !req.Wait {
		for _, name := range req.Clusters {
			reply.Results = append(reply.Results, api.RotateResult{Cluster: name, Detail: "asked for"})
		}
		return reply, nil
	}
	for range req.Clusters {
		select {
		case r := <-results:
			reply.Results = append(reply.Results, api.RotateResult{Cluster: r.Cluster, Result: r.Result, Serial: r.Serial, Detail: r.Detail})
		case <-ctx.Done():
			return reply, fmt.Errorf("wait for what was asked for (%s: %d of %d are done; the others go on): %w", target, len(reply.Results), len(req.Clusters), api.ErrTimeout)
		}
	}
	return reply, nil
}

// managedWebhooks are the names of those that certd looks after.
func managedWebhooks(c rotation.ClusterStatus) (names []string) {
	for _, w := range c.Webhooks {
		if w.Mode == string(rotation.Managed) {
			names = append(names, w.Name)
		}
	}
	return names
}

// noWebhooks says why there is nothing to renew in a cluster; "" if there is.
func noWebhooks(c rotation.ClusterStatus) string {
	switch {
	case len(managedWebhooks(c)) > 0:
		return ""
	case c.LastContact == nil:
		return "has not been seen yet, and so no webhook of it"
	case c.Webhooks == nil:
		return "has no webhooks for certd to look after: none can run there, or webhooks.manage is none"
	case len(c.Webhooks) == 0:
		return "has no webhooks for certd to look after: nothing that is installed there calls one"
	}
	var watched []string
	for _, w := range c.Webhooks {
		watched = append(watched, w.Name+": "+w.Why)
	}
	return "has no webhooks for certd to look after; they are watched only (" + strings.Join(watched, "; ") + ")"
}

// wouldBe says what a request would bring about.
func wouldBe(target rotation.Target, c rotation.ClusterStatus) string {
	names := managedWebhooks(c)
	switch target {
	case rotation.TargetWebhooks:
		return "would be given a new certificate now for each of: " + strings.Join(names, ", ")
	case rotation.TargetWebhookCA:
		text := "would be given a new webhook CA now, and under it a new certificate for each of: " + strings.Join(names, ", ")
		if ca := c.WebhookCA; ca != nil {
			text += fmt.Sprintf("; %s stays trusted until each replica is proved to serve under the new one", ca.ID)
		}
		return text
	}
	return "would be given a new issuer now"
}

func (s *running) Init(ctx context.Context, req api.InitRequest) (api.InitReply, error) {
	reply, err := s.ceremony(ctx, req)
	if err != nil {
		return reply, err
	}
	if reply.Created {
		err = s.reconciler.AnchorsChanged()
	}
	return reply, err
}

// offline is the api.Service of a journal that no daemon has.
type offline struct {
	*fleet
	now     func() time.Time
	version string
	held    bool // a certd holds the journal, and does not answer; this reads a copy
}

var _ api.Service = (*offline)(nil)

func (s *offline) Status(context.Context) (rotation.FleetStatus, error) {
	f, err := s.known()
	if err != nil {
		return rotation.FleetStatus{}, err
	}
	records, err := s.journal.Clusters()
	if err != nil {
		return rotation.FleetStatus{}, fmt.Errorf("read the journal: %w", err)
	}
	st := rotation.JournalStatus(f, records, s.now().UTC())
	for i := range st.Findings {
		if s.held && st.Findings[i].ID == "DaemonNotRunning" { // another would not start beside it
			st.Findings[i].Message = "a certd runs here and does not answer on " + s.current().Server.Socket + ": it hangs, or its socket is another; this is what its journal last knew"
			st.Findings[i].Fix = "pgrep -a certd"
		}
	}
	st.Version = s.version
	return withRecent(st, s.journal)
}

func (s *offline) Plan(ctx context.Context, until time.Time, ifStopped bool) (rotation.Plan, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return rotation.Plan{}, err
	}
	return rotation.Project(st, s.policy(), s.now().UTC(), until, ifStopped), nil
}

func (s *offline) History(_ context.Context, q api.HistoryQuery) (rotation.HistoryList, error) {
	return history(s.journal, "journal", q)
}

func (s *offline) Verify(context.Context) (api.VerifyReport, error) { return verify(s.journal) }

func (s *running) RenewTrust(ctx context.Context, req api.RenewRequest) (api.RenewReply, error) {
	active := s.reconciler.Status().Trust.Active
	if active == nil {
		return api.RenewReply{}, fmt.Errorf("trust renew: there is no trust anchor yet; run certd init first: %w", api.ErrNotNow)
	}
	reply := api.RenewReply{Before: *active, After: *active}
	if req.DryRun {
		return reply, nil
	}
	a, err := s.reconciler.RenewAnchor(ctx, req.Actor, cmp.Or(req.Reason, "asked for"))
	switch {
	case errors.Is(err, rotation.ErrUnsupported): // nothing to gain, or not certd's to renew
		return reply, fmt.Errorf("%w: %w", err, api.ErrNotNow)
	case err != nil:
		return reply, asService(err)
	}
	reply.After = a.Status()
	return reply, nil
}

func (s *running) ChangeTrust(ctx context.Context, req api.ChangeRequest) (api.ChangeReply, error) {
	reply := api.ChangeReply{Steps: []string{}}
	if req.Order == api.ChangeBegin {
		return s.beginChange(ctx, req, reply)
	}
	steer := func() (rotation.Change, error) {
		return s.reconciler.SteerChange(req.Order, req.Without, req.Actor, cmp.Or(req.Reason, "asked for"))
	}
	if req.DryRun {
		steer = func() (rotation.Change, error) { return s.reconciler.CanSteer(req.Order, req.Without) }
	}
	if req.Order == rotation.ChangeApprove {
		steer = func() (rotation.Change, error) {
			return s.reconciler.Approve(req.Approves, rotation.Person{Actor: req.Actor, ByID: req.ByID}, cmp.Or(req.Reason, "asked for"), req.DryRun)
		}
	}
	if req.Order == rotation.ChangeAdvance && req.Outsiders {
		if len(req.Without) > 0 {
			return reply, fmt.Errorf("trust advance: outsiders are seen to, or clusters gone on without, one after the other: %w", api.ErrUsage)
		}
		steer = func() (rotation.Change, error) {
			return s.reconciler.SeeToOutsiders(req.Actor, cmp.Or(req.Reason, "asked for"), req.DryRun)
		}
	}
	c, err := steer()
	switch {
	case errors.Is(err, rotation.ErrNotNow):
		return reply, classified{fmt.Errorf("trust %s: %w", req.Order, err), api.ErrNotNow}
	case errors.Is(err, rotation.ErrUnsupported):
		return reply, fmt.Errorf("trust %s: %w: %w", req.Order, err, api.ErrUsage)
	case err != nil:
		return reply, asService(fmt.Errorf("trust %s: %w", req.Order, err))
	}
	reply.Rotation = c.Status()
	return reply, nil
}

func (s *running) Adopt(_ context.Context, req api.AdoptRequest) (api.AdoptReply, error) {
	reply := api.AdoptReply{Results: []api.AdoptResult{}}
	for _, name := range req.Clusters {
		a, err := s.reconciler.Adopt(name, req.Actor, cmp.Or(req.Reason, "asked for"), req.DryRun)
		res := api.AdoptResult{Cluster: name, Known: a.Known, Writes: append([]string{}, a.Writes...), Notes: append([]string{}, a.Notes...)}
		switch {
		case errors.Is(err, rotation.ErrUnsupported):
			return reply, fmt.Errorf("%w: %w", err, api.ErrUsage)
		case errors.Is(err, rotation.ErrNotNow):
			res.Refused = api.Text(err)
		case err != nil:
			return reply, asService(err)
		default:
			st, end := a.Anchor.Status(), a.Issuer.NotAfter
			res.Anchor, res.Ends = &st, &end
		}
		reply.Results = append(reply.Results, res)
	}
	return reply, nil
}

func (s *offline) Adopt(context.Context, api.AdoptRequest) (api.AdoptReply, error) {
	return api.AdoptReply{}, fmt.Errorf("adopt needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

// beginChange makes the next anchor, once the fleet is ready for it, and has the
// fleet change to it. Clusters that were taken over come first: they are brought
// to the anchor that the fleet has, or to its first. From a compromised anchor the
// fleet turns away ready or not.
func (s *running) beginChange(ctx context.Context, req api.ChangeRequest, reply api.ChangeReply) (api.ChangeReply, error) {
	asNotNow := func(err error) error {
		if errors.Is(err, rotation.ErrNotNow) || errors.Is(err, rotation.ErrUnsupported) {
			return classified{fmt.Errorf("trust rotate: %w", err), api.ErrNotNow}
		}
		return asService(fmt.Errorf("trust rotate: %w", err))
	}
	reason := cmp.Or(req.Reason, "asked for")
	begin := func(a rotation.Anchor, actor, reason string) error {
		return s.reconciler.BeginChange(a, actor, reason, req.Manual)
	}
	var there *rotation.Anchor
	var err error
	if req.Compromised {
		begin = func(a rotation.Anchor, actor, reason string) error {
			return s.reconciler.BeginCompromised(ctx, a, actor, reason)
		}
		_, there, reply.Costs, err = s.reconciler.Compromised()
	} else if err = s.reconciler.CheckChange(); err == nil {
		if a, adopts := s.reconciler.MovesTo(); adopts && a.Certificate != nil {
			there = &a
		}
		err = s.reconciler.CheckOldKey(ctx)
	}
	if err != nil {
		return reply, asNotNow(err)
	}
	switch outside := s.reconciler.Outsiders(); {
	case len(outside) == 0:
	case req.Compromised:
		reply.Costs = append(reply.Costs, "not looked after by certd, and cut off until they trust the new anchor alone: "+strings.Join(outside, "; "))
	case !req.Outsiders:
		return reply, asNotNow(fmt.Errorf("these talk to the fleet's meshes, and certd does not look after them: %s. From the stage spread on they would be refused. "+
			"Have certd look after them too (clusters under another name: knownAs), or see to it that they trust both anchors and present certificates under both, and say so with --outsiders: %w", strings.Join(outside, "; "), rotation.ErrNotNow))
	default:
		reply.Steps = append(reply.Steps, "seen to by people: "+strings.Join(outside, "; "))
	}
	if !req.Compromised {
		reply.Steps = append(reply.Steps, s.reconciler.ChangeNotes()...)
	}
	if there == nil {
		if there, err = s.nextAnchor(ctx, req, reason, &reply); err != nil {
			return reply, asNotNow(err)
		}
	} else {
		st := there.Status()
		reply.Anchor, reply.Steps = &st, append(reply.Steps, fmt.Sprintf("trust anchor %s is there already", there.ID))
	}
	if !req.DryRun {
		st := there.Status()
		reply.Anchor = &st
		if err := begin(*there, req.Actor, reason); err != nil {
			return reply, asNotNow(err)
		}
	}
	reply.Rotation = *s.reconciler.Status().Trust.Rotation
	return reply, nil
}

// nextAnchor makes the anchor that follows; in a dry run it says which that is.
func (s *running) nextAnchor(ctx context.Context, req api.ChangeRequest, reason string, reply *api.ChangeReply) (*rotation.Anchor, error) {
	creator, done, err := s.creator(req.Token)
	if err != nil {
		return nil, err
	}
	defer done()
	a, err := rotation.Ceremony{Journal: s.journal, Creator: creator, Signer: s.keys, Policy: s.policy(), Actor: req.Actor, Reason: "certd trust rotate: " + reason, DryRun: req.DryRun,
		Say: func(format string, args ...any) { reply.Steps = append(reply.Steps, fmt.Sprintf(format, args...)) }}.Next(ctx)
	if err != nil {
		return nil, err
	}
	st := rotation.AnchorStatus{ID: a.ID, Key: rotation.KeyStatus{Name: a.Key, Backend: cmp.Or(a.Backend, backendName(s.current()))}}
	reply.Anchor = &st
	return &a, nil
}

func (s *offline) ChangeTrust(_ context.Context, req api.ChangeRequest) (api.ChangeReply, error) {
	return api.ChangeReply{}, fmt.Errorf("trust %s needs the daemon; start it with certd run: %w", req.Order, api.ErrNoDaemon)
}

func (s *offline) Verification(context.Context) (rotation.Verification, error) {
	return rotation.Verification{}, fmt.Errorf("verify needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

func (s *offline) RenewTrust(context.Context, api.RenewRequest) (api.RenewReply, error) {
	return api.RenewReply{}, fmt.Errorf("trust renew needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

func (s *offline) Trust(ctx context.Context) (api.TrustList, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return api.TrustList{}, err
	}
	return s.trustList(st)
}

func (s *offline) Rotate(context.Context, api.RotateRequest) (api.RotateReply, error) {
	return api.RotateReply{}, fmt.Errorf("rotate needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}

func (s *offline) Init(ctx context.Context, req api.InitRequest) (api.InitReply, error) {
	if _, err := rotation.SettleFleet(s.journal); err != nil {
		return api.InitReply{}, err
	}
	return s.ceremony(ctx, req)
}

// trustList is what the journal knows of the anchors, and the status of the
// clusters that have them.
func (f *fleet) trustList(st rotation.FleetStatus) (api.TrustList, error) {
	list := api.TrustList{APIVersion: rotation.APIVersion, Kind: "TrustList", Fleet: st.Fleet, ObservedAt: st.ObservedAt, Source: st.Source,
		Clusters: len(st.Clusters), Items: []api.TrustAnchor{}}
	known, err := f.known()
	if err != nil {
		return list, err
	}
	in := map[string]int{} // the anchor's SHA-256 → bundles that hold it
	for _, c := range st.Clusters {
		if c.Bundle == nil {
			list.Unseen++
			continue
		}
		for _, a := range c.Bundle.Anchors {
			in[a.SHA256]++
		}
	}
	active := known.Active()
	for i := len(known.Anchors) - 1; i >= 0; i-- {
		a := &known.Anchors[i]
		item := trustAnchor(*a)
		if item.State == api.AnchorTrusted && a == active {
			item.State = api.AnchorActive
		}
		if item.SHA256 != "" {
			item.Clusters = in[item.SHA256]
		}
		list.Items = append(list.Items, item)
	}
	return list, nil
}

// trustAnchor describes one generation, whichever of those in use signs.
func trustAnchor(a rotation.Anchor) api.TrustAnchor {
	item := api.TrustAnchor{ID: a.ID, State: api.AnchorUnsigned, Key: rotation.KeyStatus{Backend: a.Backend, Name: a.Key, Exportable: a.Exportable, Imported: a.Imported},
		CreatedAt: a.CreatedAt.UTC().Truncate(time.Second), RetiredAt: a.RetiredAt.UTC().Truncate(time.Second)}
	if !a.CheckedAt.IsZero() {
		at := a.CheckedAt.UTC().Truncate(time.Second)
		item.Key.CheckedAt = &at
	}
	if a.Certificate != nil {
		s := a.Status()
		item.State, item.Subject, item.NotBefore, item.NotAfter, item.SHA256, item.SKI = api.AnchorTrusted, s.Subject, s.NotBefore, s.NotAfter, s.SHA256, s.SKI
		item.CertificatePEM = string(pki.EncodeCertificates(a.Certificate))
	}
	if !a.RetiredAt.IsZero() {
		item.State = api.AnchorRetired
	}
	return item
}

func history(j *state.Journal, source string, q api.HistoryQuery) (rotation.HistoryList, error) {
	list := rotation.HistoryList{APIVersion: rotation.APIVersion, Kind: "HistoryList", Fleet: j.Fleet(), Source: source, Items: []rotation.HistoryItem{}}
	entries, err := j.Entries(state.Filter{Since: q.Since, Cluster: q.Cluster, Limit: q.Limit, After: q.After})
	if err != nil {
		return list, fmt.Errorf("read the journal: %w", err)
	}
	for _, e := range entries {
		list.Items = append(list.Items, historyItem(e))
	}
	return list, nil
}

func historyItem(e rotation.Entry) rotation.HistoryItem {
	in := e.Intent
	return rotation.HistoryItem{Seq: e.Seq, At: e.At, IntentAt: e.IntentAt, Actor: in.Actor, Cluster: in.Cluster, Step: in.Step, Reason: in.Reason,
		Outcome: e.Result, Detail: e.Detail, Serial: in.Serial, Anchor: in.Anchor, Key: in.Key, Digest: in.Digest, SignRequest: e.SignRequest,
		Object: in.Object, Writer: in.Writer, Webhook: in.Webhook, Hash: e.Hash, PrevHash: e.PrevHash}
}

func verify(j *state.Journal) (api.VerifyReport, error) {
	r, err := j.Verify()
	if err != nil {
		return api.VerifyReport{}, fmt.Errorf("verify the journal: %w", err)
	}
	return api.VerifyReport{Entries: r.Entries, First: r.First, Last: r.Last, Head: r.Head, BadSeq: r.BadSeq, Problem: r.Problem}, nil
}

// asService translates what backends and the journal say into what a command
// decides by.
func asService(err error) error {
	for _, t := range []struct{ is, as error }{
		{rotation.ErrDenied, api.ErrDenied}, {rotation.ErrUnavailable, api.ErrUnavailable}, {rotation.ErrOutcomeUnknown, api.ErrUnavailable},
		{state.ErrLocked, api.ErrNotNow},
	} {
		if errors.Is(err, t.is) && !errors.Is(err, t.as) {
			return classified{err, t.as}
		}
	}
	return err
}

// classified is an error with what a command decides by beside it.
type classified struct {
	error
	class error
}

func (c classified) Unwrap() []error { return []error{c.error, c.class} }
