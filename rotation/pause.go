package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/pki"
)

// Pause is a person's word that certd is to leave a cluster alone for a while, or
// the whole fleet. What cannot wait is done all the same: see Decision.cannotWait.
type Pause struct {
	Cluster string // "": every cluster, also those to come, and the trust anchor itself
	At      time.Time
	Until   time.Time // zero: until somebody resumes
	Actor   string
	Reason  string
}

// on says whether it counts at a time.
func (p Pause) on(now time.Time) bool { return p.Until.IsZero() || now.Before(p.Until) }

// paused returns the pause that a cluster is under, of its own and the fleet's the one
// that lasts longer; nil: none. With no name it is about the fleet alone.
func (f Fleet) paused(cluster string, now time.Time) *Pause {
	var longest *Pause
	for i := range f.Pauses {
		p := &f.Pauses[i]
		if !p.on(now) || p.Cluster != "" && p.Cluster != cluster {
			continue
		}
		if longest == nil || !longest.Until.IsZero() && (p.Until.IsZero() || p.Until.After(longest.Until)) {
			longest = p
		}
	}
	return longest
}

// resume is the command that ends it.
func (p Pause) resume() string { return strings.TrimSpace("certd resume " + p.Cluster) }

// words say who has paused what, until when, and why.
func (p Pause) words() string {
	what, until := "paused", "until somebody resumes it"
	if p.Cluster == "" {
		what = "paused with the whole fleet"
	}
	if !p.Until.IsZero() {
		until = "until " + clock(p.Until)
	}
	return fmt.Sprintf("%s by %s since %s, %s (%s)", what, p.Actor, clock(p.At), until, p.Reason)
}

// pause leaves of what is to be done what cannot wait, and tells of the rest.
func (d *Decision) pause(f Fleet, v View, p Pause, now time.Time) {
	d.Paused = &p
	var kept, later []Action
	for _, a := range d.Wanted {
		if why := d.cannotWait(f, v, a, now); why != "" {
			a.Why += "; the cluster is paused, and " + why
			kept = append(kept, a)
			continue
		}
		later = append(later, a)
	}
	d.Wanted = kept
	text := p.words() + ": certd only does what cannot wait"
	if len(later) > 0 {
		text += fmt.Sprintf("; %s waits (%s)", later[0].Step, later[0].Why)
		if len(later) > 1 {
			text += fmt.Sprintf(", and %d more", len(later)-1)
		}
	}
	if by := d.floorAt(); !by.IsZero() {
		text += "; what it has is renewed from " + clock(by) + " on in any case"
	}
	d.find(StateWarning, "Paused", text, nil, p.resume())
	d.wakeAt(p.Until)
	for _, at := range d.floors() {
		if at.After(now) {
			d.wakeAt(at)
		}
	}
}

// renewBehindWhatWaits wants the issuer renewed at its floor although something else is
// to be done before: that waits while the cluster is paused, and may bring nothing where it
// is refused, or somebody undoes it again and again. The floor does not wait. An issuer under
// the anchors of the one that is there loads wherever that one does.
func (d *Decision) renewBehindWhatWaits(v View, g goal, now time.Time) {
	by := d.Dates.MustRenewBy
	if d.Step == "" || signsIssuer(d.Step) || d.Issuer == nil || g.keepsKey || by.IsZero() || now.Before(by) || g.shortest() == nil || !d.gains(v, g.shortest(), now) {
		return
	}
	d.sign(StepIssuer, atFloor(d.Issuer.NotAfter, by, now))
	d.Wanted = append(d.Wanted, d.Action)
}

// floors are when what is in the cluster has to be renewed, whoever says otherwise.
func (d *Decision) floors() []time.Time {
	all := []time.Time{d.Dates.MustRenewBy, d.caDates.MustRenewBy}
	for _, wd := range d.Webhooks {
		if wd.Mode == Managed {
			all = append(all, wd.Dates.MustRenewBy)
		}
	}
	return slices.DeleteFunc(all, time.Time.IsZero)
}

// floorAt is the first of them; the zero time if nothing is known.
func (d *Decision) floorAt() time.Time {
	all := d.floors()
	if len(all) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(all, time.Time.Compare)
}

// cannotWait says why an action is done in a paused cluster, "" if it is not: a pause
// puts off what is wanted, and never lets a certificate end or a mesh break.
func (d *Decision) cannotWait(f Fleet, v View, a Action, now time.Time) string {
	o := v.Observed
	over := func(by time.Time) bool { return !by.IsZero() && !now.Before(by) }
	const floor, broken = "the floor holds all the same", "what is there does not serve"
	switch a.Step {
	case StepRepairTrust, StepRepairIssuer:
		return broken
	case StepIssuer:
		_, issued := v.delivered()
		switch {
		case d.Issuer == nil && (o.Issuer.Exists || issued):
			return broken
		case over(d.Dates.MustRenewBy):
			return floor
		case f.Change != nil && f.Change.pastSpread() && len(f.signersOf(o.IssuerFacts.Chain)) == 1 && len(d.signers) > 1:
			return "pods are cut off otherwise"
		}
	case StepBundle, StepRepairBundle:
		have, err := o.readBundle(o.BundleText)
		switch {
		case !o.Bundle.Exists && !v.Record.Enrolled && !o.Issuer.Exists: // nothing runs there
		case !o.Bundle.Exists || err != nil:
			return broken
		case d.Issuer != nil && o.IssuerFacts.Verify(have, now) != nil:
			return broken
		case f.Change != nil && f.Change.pastSpread() && !covers(have, d.Bundle) && covers(d.Bundle, have):
			return "pods are cut off otherwise"
		}
	case StepWebhook, StepRepairWebhook, StepWebhookTrust:
		for i := range d.Webhooks {
			wd := &d.Webhooks[i]
			switch {
			case wd.Webhook.Spec.Name != a.Webhook:
			case wd.Leaf == nil && d.had(v, wd.Webhook), wd.Leaf != nil && !now.Before(wd.Leaf.NotAfter), len(wd.broken) > 0:
				return broken
			case over(wd.Dates.MustRenewBy), wd.ends() != nil && wd.ends().Sub(now) < v.Policy.WebhookFloor():
				return floor
			}
		}
	case StepWebhookCA:
		if over(d.caDates.MustRenewBy) || activeCA(v.WebhookCAs) == nil && slices.ContainsFunc(d.Webhooks, func(wd WebhookDecision) bool { return wd.Mode == Managed && wd.Leaf == nil && d.had(v, wd.Webhook) }) {
			return floor
		}
	case StepIssuerReload, StepIdentityRestart:
		if !a.Deadline.IsZero() && a.Deadline.Sub(now) < v.Policy.Floor(observedLimits(o)) {
			return floor
		}
	case StepWebhookReload, StepWebhookRestart:
		if !a.Deadline.IsZero() && a.Deadline.Sub(now) < v.Policy.WebhookFloor() {
			return floor
		}
	}
	return ""
}

// pastSpread says whether pods may hold the new anchor alone: what puts an anchor back
// in a cluster then is for those who still need it.
func (c Change) pastSpread() bool {
	return c.Stage == StageRestart || c.Stage == StageFinish || c.Stage == StageRetire
}

// covers says whether a holds each anchor of b.
func covers(a, b pki.Bundle) bool {
	for _, c := range b.Anchors() {
		if !a.Covers(c) {
			return false
		}
	}
	return true
}

// Pause has the clusters left alone, or with none named the fleet. A pause of the same
// cluster is replaced. It returns the pauses that count now.
func (r *Reconciler) Pause(clusters []string, until time.Time, actor, reason string) ([]Pause, error) {
	now := r.wall()
	if len(clusters) == 0 {
		clusters = []string{""}
	}
	return r.putPauses(StepPause, clusters, actor, reason, func(all []Pause) []Pause {
		for _, name := range clusters {
			all = slices.DeleteFunc(all, func(p Pause) bool { return p.Cluster == name })
			all = append(all, Pause{Cluster: name, At: now, Until: until, Actor: actor, Reason: reason})
		}
		return all
	})
}

// Resume ends the pauses of the clusters, or with none named all there are.
func (r *Reconciler) Resume(clusters []string, actor, reason string) ([]Pause, error) {
	return r.putPauses(StepResume, clusters, actor, reason, func(all []Pause) []Pause {
		return slices.DeleteFunc(all, func(p Pause) bool { return len(clusters) == 0 || slices.Contains(clusters, p.Cluster) })
	})
}

// Pauses are those that count now, in the order in which they were made.
func (r *Reconciler) Pauses() []Pause {
	now := r.wall()
	return slices.DeleteFunc(slices.Clone(r.fleet().Pauses), func(p Pause) bool { return !p.on(now) })
}

// putPauses records what the pauses are from now on. Each cluster has an entry of its
// own, since that is where people look for it.
func (r *Reconciler) putPauses(step Step, clusters []string, actor, reason string, change func([]Pause) []Pause) ([]Pause, error) {
	r.pausing.Lock()
	defer r.pausing.Unlock()
	all := change(r.Pauses())
	if len(clusters) == 0 {
		clusters = []string{""}
	}
	for i, name := range clusters {
		out := Outcome{Result: OK}
		if i == len(clusters)-1 { // all at once: an order that is torn by the end of certd counts for nobody
			out.Pauses = &all
		}
		if err := r.enter(Intent{Step: step, Cluster: name, Actor: actor, Reason: reason}, out); err != nil {
			return nil, fmt.Errorf("record the %s: %w", step, err)
		}
	}
	r.mu.Lock()
	r.pauses = all
	r.mu.Unlock()
	attrs := []any{"clusters", clusters, "actor", actor, "reason", reason}
	if step == StepPause {
		r.log.Info("paused", attrs...)
	} else {
		r.log.Info("resumed", attrs...)
	}
	r.lookAgain()
	r.poke()
	return all, nil
}
