package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// ErrNotNow: the fleet is not in a state for it; the text says what is missing.
var ErrNotNow = errors.New("not now")

// errNoChange: there is nothing to steer.
var errNoChange = fmt.Errorf("the trust anchor is not being changed: %w", ErrNotNow)

// marginOfChange is how long the old anchor must live on after the change: from
// there on `linkerd check` warns of it.
const marginOfChange = 60 * 24 * time.Hour

// CheckChange says whether the trust anchor can be changed now: one error that
// names everything that stands against it.
func (r *Reconciler) CheckChange() error {
	f, now := r.fleet(), r.wall()
	active := f.Active()
	switch {
	case f.Change != nil:
		return fmt.Errorf("the trust anchor is being changed from %s to %s already (stage %s): %w", f.Change.from(), f.Change.to(), f.Change.Stage, ErrNotNow)
	case active == nil && !r.anyStays(f):
		return fmt.Errorf("there is no trust anchor yet; run certd init first: %w", ErrNotNow)
	}
	adopts := r.anyStays(f)
	var against []string
	longest := time.Duration(0)
	for _, p := range f.Policy.Clusters {
		r.mu.Lock()
		m := r.members[p.Cluster]
		r.mu.Unlock()
		if m == nil {
			continue // it was taken out of the configuration meanwhile
		}
		v := m.view()
		m.mu.Lock()
		d := m.decision
		m.mu.Unlock()
		if f.leftBehind(v) && v.Err != nil {
			continue // it was changed without before, and is brought along when it is back
		}
		longest = max(longest, v.drain())
		why := ""
		switch {
		case m.steppedSince(r.clock()): // an anchor dated by a wrong clock is not valid when it is needed
			why = "it has not been looked at since certd's clock was set"
		case v.Observed != nil && v.Err == nil:
			why = clockProblem(f, v, now)
		}
		why = cmp.Or(why, unready(v, d, now))
		if why == "" && f.stays(v) {
			why = unfitToMove(f, v, now)
		}
		if why == "" {
			why = cmp.Or(v.Observed.unpublished(), v.Proxies.older())
		}
		if why != "" {
			against = append(against, p.Cluster+": "+why)
		}
	}
	// Three drains, and as long again for restarts and what goes wrong.
	if adopts {
		// Each cluster's own issuer and anchor set the time there is.
	} else if need, left := 6*longest+marginOfChange, active.Certificate.NotAfter.Sub(now); left < need {
		against = append(against, fmt.Sprintf("trust anchor %s ends in %s, and a change takes up to 6 × %s and must end %s before that: `certd trust renew` gives it new dates first",
			active.ID, short(left), FormatDuration(longest), FormatDuration(marginOfChange)))
	}
	if len(against) > 0 {
		return fmt.Errorf("the trust anchor cannot be changed now: %s: %w", strings.Join(against, "; "), ErrNotNow)
	}
	return nil
}

// CheckOldKey says whether the key of the anchor in use can sign, which it has to once
// more for each issuer: a change that began without it would stay in its second stage. An
// error that wraps ErrNotNow says that it is gone, or must not sign; any other, that
// nobody could tell.
func (r *Reconciler) CheckOldKey(ctx context.Context) error {
	f := r.fleet()
	active := f.Active()
	if active == nil || r.anyStays(f) { // the issuers that meshes came with go on under their own anchor
		return nil
	}
	a := *active
	switch _, err := r.signer.open(ctx, &a, r.wall()); {
	case errors.Is(err, ErrKeyNotFound), errors.Is(err, ErrKeyUnfit):
		return fmt.Errorf("the trust anchor cannot be changed without a break: the key of %s has to sign each issuer once more, beside the new one's: %w; "+
			"restore it, or see what a change without it costs: certd trust rotate --compromised --dry-run: %w", a.ID, err, ErrNotNow)
	default:
		return err
	}
}

// unready says why a change must not begin with a cluster as it is.
func unready(v View, d Decision, now time.Time) string {
	o := v.Observed
	switch {
	case o == nil || v.Err != nil:
		return "it does not answer"
	case d.Mode != Managed:
		return "it is watched only; its leaves could not be signed under a second anchor"
	case d.Paused != nil:
		return "it is " + d.Paused.words() + ": " + d.Paused.resume()
	case d.Issuer == nil || d.Bundle.IsZero():
		return "it has no issuer in use yet"
	case string(o.BundleText) != string(d.Bundle.PEM()):
		return "its bundle is not what certd published"
	case d.Step != "":
		return fmt.Sprintf("%s is to be done there first (%s)", d.Step, d.Why)
	case v.undone(now) >= freeRepairs:
		return fmt.Sprintf("bundle or issuer were changed by somebody else, and put right, %d times in the last hour: who does that would undo the change, too; certd history --cluster %s names them", v.undone(now), v.Policy.Cluster)
	case d.Loaded != nil && d.Loaded.State == "no":
		return fmt.Sprintf("linkerd-identity has not loaded the issuer that was delivered %s ago; where replicas have missed it, certd has them load it or start anew in a while: certd inspect %s/issuer", short(now.Sub(deliveredAt(d.Issuer, v))), v.Policy.Cluster)
	}
	p := v.Proxies
	switch stale, _ := p.stale(d.Bundle); {
	case o.Version == "":
	case p.At.IsZero():
		return "its meshed pods have not been counted yet"
	case p.Err != nil:
		return fmt.Sprintf("its meshed pods cannot be counted: %v", p.Err)
	case p.Unread > p.earlier(): // what the bundle was before, has the same keys: the last change saw to that
		return fmt.Sprintf("of %d meshed pods it cannot be seen what they trust: %s", p.Unread, strings.Join(p.Odd, "; "))
	case stale > 0:
		return fmt.Sprintf("%d of %d meshed pods trust other anchors than its bundle, and have to be restarted first", stale, p.Total())
	}
	return ""
}

// undone is how often in the last hour bundle or issuer were put right that somebody else
// had changed.
func (v View) undone(now time.Time) int {
	return len(within(v.Repairs[lane{StepRepairBundle, BundleObject}], now, time.Hour)) + len(within(v.Repairs[lane{"", IssuerObject}], now, time.Hour))
}

// BeginChange takes a new anchor, made by Ceremony.Next, for the one in use.
// With manual each stage ends by a person's word.
func (r *Reconciler) BeginChange(a Anchor, actor, reason string, manual bool) error {
	if err := r.CheckChange(); err != nil {
		return err
	}
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f, now := r.fleet(), r.wall()
	if f.Change != nil {
		return fmt.Errorf("the trust anchor is being changed already: %w", ErrNotNow)
	}
	if active := f.Active(); r.anyStays(f) && active != nil && active.ID != a.ID {
		return fmt.Errorf("clusters that were taken over are brought to the fleet's anchor %s first, and %s is another: %w", active.ID, a.ID, ErrNotNow)
	}
	c := Change{To: a.ID, Manual: manual, Stage: StageBridge, Actor: actor, Reason: reason, StartedAt: now, StageAt: now}
	if !r.anyStays(f) {
		c.From = f.Active().ID
	}
	for _, o := range everywhere(r, f, f.strangers) {
		c.SeenTo = append(c.SeenTo, o.name())
	}
	rec := certificateRecord("", "anchor", a.ID, a.Certificate, now)
	rec.DeliveredAt = now
	in := Intent{Step: StepTrustChange, Actor: actor, Reason: fmt.Sprintf("from %s to %s: %s", c.from(), c.to(), reason), Anchor: a.ID, Serial: rec.Serial, Key: a.Key}
	return r.putChange(in, Outcome{Detail: "stage " + string(c.Stage) + "; sha256 " + rec.SHA256, Change: &c, Anchor: &a, Certificate: &rec})
}

// Compromised says what it means to turn away from the anchor in use at once, and
// what stands against it: no more than that there is none, or a change that leads
// elsewhere. to is the anchor to turn to, if there is one already.
func (r *Reconciler) Compromised() (from string, to *Anchor, breaks []string, err error) {
	f := r.fleet()
	views, adopts := r.views(), true
	for _, v := range views {
		adopts = adopts && f.stays(v)
	}
	switch c, active := f.Change, f.Active(); {
	case c != nil && (c.Back || c.Compromised):
		return "", nil, nil, fmt.Errorf("the trust anchor is being changed from %s to %s already (stage %s): %w", c.from(), c.to(), c.Stage, ErrNotNow)
	case c != nil:
		from, to = c.from(), f.anchor(c.To)
	case adopts && len(f.Policy.Clusters) > 0:
		from, to = Change{}.from(), active
	case active == nil:
		return "", nil, nil, fmt.Errorf("there is no trust anchor yet; run certd init first: %w", ErrNotNow)
	default:
		from = active.ID
	}
	for _, p := range f.Policy.Clusters {
		if v, ok := views[p.Cluster]; ok {
			breaks = append(breaks, p.Cluster+": "+costs(f, v))
		}
	}
	return from, to, breaks, nil
}

// costs says what turning away at once does to a cluster.
func costs(f Fleet, v View) string {
	ours := v.Record.Enrolled || v.Observed != nil && v.Observed.Bundle.Marks.Fleet == f.Policy.Fleet
	switch {
	case v.Observed == nil || v.Err != nil:
		return "it does not answer: it goes on trusting the anchor until it does, and whoever is restarted elsewhere and its pods refuse each other"
	case !ours:
		return "it is watched only: it goes on trusting the anchor; certd adopt takes it over"
	case v.Observed.Version == "":
		return "a folder: whoever reads it has to be restarted"
	case v.Proxies.At.IsZero() || v.Proxies.Err != nil:
		return "its meshed pods are not counted: each of them has to be restarted, and until then refuses those that were"
	}
	older := ""
	if why := v.Proxies.older(); why != "" {
		older = ". And " + why
	}
	text := fmt.Sprintf("%d meshed pods have to be restarted; from some three minutes after the beginning on, those that were and those that were not refuse each other", v.Proxies.Total())
	if f.Policy.Trust.Restarts {
		return text + ". certd restarts all Deployments, StatefulSets and DaemonSets at once, and evicts the pods of ReplicaSets as far as budgets let it" + older
	}
	return text + ". certd restarts Linkerd's own; the others are yours (trust.restartWorkloads: auto has certd do it)" + older
}

// BeginCompromised turns the fleet away from the anchor in use at once, to one made
// by Ceremony.Next, or to the one that a change under way leads to.
func (r *Reconciler) BeginCompromised(ctx context.Context, a Anchor, actor, reason string) error {
	from, to, _, err := r.Compromised()
	if err != nil {
		return err
	}
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f, now := r.fleet(), r.wall()
	c := Change{To: a.ID, Actor: actor, Reason: reason, StartedAt: now}
	switch active := f.Active(); {
	case f.Change != nil:
		c = *f.Change
		c.Actor, c.Reason, c.Held, c.TurnedBy = actor, reason, false, ""
		if to != nil {
			a = *to
		}
	case from != c.from() && active != nil:
		c.From = active.ID
	}
	if c.To != a.ID || a.Certificate == nil {
		return fmt.Errorf("turn away from %s to %s: the change leads to %s: %w", from, a.ID, c.To, ErrNotNow)
	}
	if old := f.anchor(c.From); old != nil && !old.keyless() {
		_, err := r.signer.open(ctx, &Anchor{ID: old.ID, Key: old.Key, Certificate: old.Certificate}, now)
		c.Alone = old.ended(now) || errors.Is(err, ErrKeyNotFound) || errors.Is(err, ErrKeyUnfit)
	}
	c.Manual, c.Proceed, c.Approval = false, false, nil
	c.Compromised, c.Stage, c.StageAt, c.CanaryAt, c.ProvedAt = true, StageRestart, now, time.Time{}, time.Time{}
	rec := certificateRecord("", "anchor", a.ID, a.Certificate, now)
	rec.DeliveredAt = now
	in := Intent{Step: StepTrustChange, Actor: actor, Reason: fmt.Sprintf("%s counts as compromised; to %s at once: %s", c.from(), c.To, reason), Anchor: a.ID, Serial: rec.Serial, Key: a.Key}
	return r.putChange(in, Outcome{Detail: "stage " + string(c.Stage) + "; sha256 " + rec.SHA256, Change: &c, Anchor: &a, Certificate: &rec})
}

// views are what is known of each cluster.
func (r *Reconciler) views() map[string]View {
	r.mu.Lock()
	members := maps.Clone(r.members)
	r.mu.Unlock()
	views := map[string]View{}
	for name, m := range members {
		views[name] = m.view()
	}
	return views
}

// putChange puts what becomes of a change on disk and in effect.
func (r *Reconciler) putChange(in Intent, out Outcome) error {
	out.Result = OK
	if err := r.enter(in, out); err != nil {
		return fmt.Errorf("record the change of the trust anchor: %w", err)
	}
	r.takeIn(out)
	if out.Change.Stage == "" {
		r.tried(Attempt{Step: StepTrustChange})
	}
	r.log.Info("change of the trust anchor", "from", out.Change.From, "to", out.Change.To, "stage", out.Change.Stage, "why", in.Reason, "actor", in.Actor)
	r.lookAgain()
	r.poke()
	return nil
}

// takeIn keeps in memory what the journal has been told of anchors and of a change.
func (r *Reconciler) takeIn(out Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range out.Retired {
		r.rememberAnchor(a)
	}
	if out.Anchor != nil {
		r.rememberAnchor(*out.Anchor)
	}
	if len(out.Forgotten) > 0 {
		r.anchors = slices.DeleteFunc(slices.Clone(r.anchors), func(a Anchor) bool { return slices.Contains(out.Forgotten, a.ID) })
	}
	if c := out.Change; c != nil {
		if r.change = c; c.Stage == "" {
			r.change = nil
		}
		r.waiting, r.wanted = nil, time.Time{}
	}
	for name, a := range out.Left {
		if m := r.members[name]; m != nil {
			m.mu.Lock()
			m.record.came(a)
			m.mu.Unlock()
		}
	}
}

// moveOn takes the change to its next stage when it is time.
func (r *Reconciler) moveOn() {
	if r.fleet().Change == nil || !r.renewing.TryLock() { // who holds it, looks again afterwards
		return
	}
	defer r.renewing.Unlock()
	at := r.clock()
	f, now := r.fleet(), at.wall
	if f.Change == nil {
		return
	}
	r.mu.Lock()
	members := maps.Clone(r.members)
	r.mu.Unlock()
	progress, longest, views, takesPart := map[string]Progress{}, time.Duration(0), map[string]View{}, map[string]bool{}
	for name, m := range members {
		v := m.view()
		views[name] = v
		if _, _, part, err := f.sides(v); part || err != nil {
			takesPart[name] = true
			longest = max(longest, v.drain())
		}
		m.mu.Lock()
		if p := m.decision.Progress; p != nil && m.obsErr == nil && !at.steppedSince(m.seenAt) {
			progress[name] = *p
		}
		m.mu.Unlock()
	}
	next, why, waiting := f.nextStage(progress, takesPart, longest, now)
	r.mu.Lock()
	r.waiting, r.wanted = waiting, f.Change.wantsSince(waiting, longest)
	r.nearer.note(*f.Change, progress, now)
	r.mu.Unlock()
	if why == "" {
		return
	}
	in := Intent{Step: StepTrustChange, Actor: "certd", Reason: why, Anchor: cmp.Or(f.Change.To, f.Change.From)}
	out := Outcome{Detail: "stage " + string(next.Stage), Change: &next}
	if next.Stage == "" {
		if err := r.rememberRemoved(views); err != nil {
			r.log.Error("journal not read", "err", err)
			r.Problem("JournalFailed", err)
			return
		}
		out.Detail, out.Retired, out.Left = "ended", f.retired(views, now), f.left(views, progress, now)
	}
	if err := r.putChange(in, out); err != nil {
		r.log.Error("journal not written", "err", err)
		r.Problem("JournalFailed", err)
	}
}

// rememberRemoved adds clusters that are not configured any more, and have been looked after: put
// back, they have what they had.
func (r *Reconciler) rememberRemoved(views map[string]View) error {
	all, err := r.journal.Clusters()
	for _, rec := range all {
		if _, configured := views[rec.Name]; !configured && rec.Enrolled {
			views[rec.Name] = View{Policy: Policy{Cluster: rec.Name}, Record: rec}
		}
	}
	return err
}

// nearer notices that a change comes nearer the end of its stage.
type nearer struct {
	stage time.Time      // when that began
	least map[string]int // by cluster, the fewest stale pods that were seen in it
	at    time.Time      // when one of these last became less
}

// note takes in how far each cluster is. What is seen for the first time in a stage is
// what there was to do.
func (n *nearer) note(c Change, progress map[string]Progress, now time.Time) {
	if !n.stage.Equal(c.StageAt) || n.least == nil {
		*n = nearer{stage: c.StageAt, least: map[string]int{}}
	}
	const through, uncounted = -1, math.MaxInt
	for name, p := range progress {
		left := cmp.Or(p.Stale, uncounted) // or it waits for something else than pods
		if p.Waits == "" {
			left = through
		}
		was, seen := n.least[name]
		if !p.Change.sameStage(c) || seen && left >= was {
			continue
		}
		n.least[name] = left
		if seen && (left == through || was != uncounted) {
			n.at = now
		}
	}
}

// SteerChange has a person hold the change, resume it, turn it around, or go on
// without clusters that do not answer. It returns what it has become.
func (r *Reconciler) SteerChange(how ChangeOrder, clusters []string, actor, reason string) (Change, error) {
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f, now := r.fleet(), r.wall()
	if f.Change == nil {
		return Change{}, errNoChange
	}
	c, err := f.steered(how, clusters, now)
	if err != nil {
		return *f.Change, err
	}
	if how == ChangeRollback {
		c.TurnedBy = actor
	}
	in := Intent{Step: StepTrustChange, Actor: actor, Reason: string(how) + ": " + reason, Anchor: cmp.Or(c.To, c.From)}
	if len(clusters) > 0 {
		in.Reason = fmt.Sprintf("%s without %s: %s", how, strings.Join(clusters, ", "), reason)
	}
	return c, r.putChange(in, Outcome{Detail: "stage " + string(c.Stage), Change: &c})
}

// SeeToOutsiders records that a person has seen to everybody whom the meshes talk to, whom
// certd does not look after, and who was made while the change was under way. A dry run
// says what would become of the change.
func (r *Reconciler) SeeToOutsiders(actor, reason string, dryRun bool) (Change, error) {
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f := r.fleet()
	if f.Change == nil {
		return Change{}, errNoChange
	}
	c, texts := *f.Change, []string{}
	c.SeenTo = slices.Clone(c.SeenTo)
	for _, o := range everywhere(r, f, f.newcomers) {
		c.SeenTo, texts = append(c.SeenTo, o.name()), append(texts, o.String())
	}
	if len(texts) == 0 {
		return c, fmt.Errorf("nobody waits for that: no Link and no ExternalWorkload is seen that was made since the change began: %w", ErrNotNow)
	}
	if dryRun {
		return c, nil
	}
	in := Intent{Step: StepTrustChange, Actor: actor, Reason: fmt.Sprintf("seen to by people (%s): %s", strings.Join(texts, "; "), reason), Anchor: cmp.Or(c.To, c.From)}
	return c, r.putChange(in, Outcome{Detail: "stage " + string(c.Stage), Change: &c})
}

// CanSteer says what SteerChange would make of it, and does nothing.
func (r *Reconciler) CanSteer(how ChangeOrder, clusters []string) (Change, error) {
	f := r.fleet()
	if f.Change == nil {
		return Change{}, errNoChange
	}
	return f.steered(how, clusters, r.wall())
}

// ChangeOrder is what a person may have a change do.
type ChangeOrder string

// The orders.
const (
	ChangeHold     ChangeOrder = "hold"
	ChangeResume   ChangeOrder = "resume"
	ChangeRollback ChangeOrder = "rollback"
	ChangeAdvance  ChangeOrder = "advance"
	ChangeApprove  ChangeOrder = "approve" // by Approve, not SteerChange
)

// steered is what becomes of the change by a person's order.
func (f Fleet) steered(how ChangeOrder, clusters []string, now time.Time) (Change, error) {
	c := *f.Change
	switch how {
	case ChangeHold:
		c.Held = true
	case ChangeResume:
		c.Held = false
	case ChangeRollback:
		if c.Compromised {
			return c, fmt.Errorf("%s counts as compromised: there is no way back to it: %w", c.from(), ErrUnsupported)
		}
		// The way back is the way there, with the anchors in each other's place:
		// issuers are signed under both again before anything else.
		c.From, c.To, c.Back, c.Held = c.To, c.From, !c.Back, false
		c = c.Again(now)
	case ChangeAdvance:
		if len(clusters) == 0 && c.Manual {
			c.Proceed = true
			return c, nil
		}
		if len(clusters) == 0 {
			return c, fmt.Errorf("name the clusters to go on without: --without CLUSTER; a stage that waits for nothing ends by itself, since the change was not begun with --manual: %w", ErrUnsupported)
		}
		c.Without, c.Approval = slices.Clone(c.Without), nil // who approved, had others in mind
		for _, name := range clusters {
			if !slices.ContainsFunc(f.Policy.Clusters, func(p Policy) bool { return p.Cluster == name }) {
				return c, fmt.Errorf("cluster %q is not configured: %w", name, ErrUnsupported)
			}
			if !c.excepts(name) {
				c.Without = append(c.Without, name)
			} else if c.Stage == StageRetire && !slices.Contains(c.Behind, name) {
				c.Behind = append(slices.Clone(c.Behind), name)
			}
		}
		if len(c.Without) == len(f.Policy.Clusters) {
			return c, fmt.Errorf("no cluster would be left: %w", ErrUnsupported)
		}
	default:
		return c, fmt.Errorf("%q is no order: %w", how, ErrUnsupported)
	}
	return c, nil
}

// Next makes the anchor that follows the one in use: its key and certificate.
// It enters no inventory before BeginChange; what was begun and not ended is
// taken up again.
func (c Ceremony) Next(ctx context.Context) (Anchor, error) {
	anchors, err := c.Journal.Anchors()
	if err != nil {
		return Anchor{}, fmt.Errorf("read the trust anchors from the journal: %w", err)
	}
	if len(anchors) == 0 {
		return Anchor{}, fmt.Errorf("there is no trust anchor yet; run certd init first: %w", ErrNotNow)
	}
	n := 1
	if own := slices.DeleteFunc(slices.Clone(anchors), func(a Anchor) bool { return a.keyless() }); len(own) > 0 {
		last := own[len(own)-1]
		if n = generationOf(last.ID); last.Certificate != nil {
			n++
		}
	}
	a := Anchor{ID: generationID(n), Key: anchorKeyName(c.Policy.KeyPrefix, n)}
	if i := slices.IndexFunc(anchors, func(x Anchor) bool { return x.ID == a.ID }); i >= 0 { // begun, and not ended
		a = anchors[i]
	}
	key, err := c.key(ctx, signer{c.Journal, c.Signer}, &a)
	if err != nil || c.DryRun {
		return a, err
	}
	if _, ok := key.(DigestSigner); !ok {
		return a, fmt.Errorf("the CA of %s signs certificates of its own making only, and two under one name and key are needed: %w", a.Key, ErrUnsupported)
	}
	if a.Certificate, err = c.certificate(ctx, key, a, n); err != nil {
		return a, err
	}
	if a.CreatedAt.IsZero() {
		a.CreatedAt = c.Journal.Now()
	}
	return a, nil
}
