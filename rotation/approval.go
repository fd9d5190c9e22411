package rotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AdoptedAnchors stands for what clusters came with that were taken over, where a person
// names what is retired: those anchors are several, and have no generation in common.
const AdoptedAnchors = "adopted"

// Approval is a second person's word that a change may retire what it leads away from.
// It counts for the stage retire in which it was given, and for the clusters that nobody
// waited for then.
type Approval struct {
	Actor  string
	Reason string
	At     time.Time
}

// A Person is who asks for something, as the system has authenticated them.
type Person struct {
	Actor string // as the journal has it: "lee@cli", or ByID where the system has no name for the user
	ByID  string // the same person by the number that the kernel knows: "uid1000@cli"
}

// unlike is nil if this is somebody else than who did something by the journal. Names
// come from a directory that may be away for a while, so that one person can have two
// of them: where that cannot be told, they count as one.
func (p Person) unlike(actor, did string) error {
	id, isID := strings.CutPrefix(actor, "uid")
	id, _, _ = strings.Cut(id, "@")
	isID = isID && id != "" && strings.Trim(id, "0123456789") == ""
	switch {
	case actor == p.Actor || actor == p.ByID:
		return fmt.Errorf("%s %s, and so it takes somebody else: %w", actor, did, ErrDenied)
	case p.Actor == p.ByID && actor != "certd" && !isID:
		return fmt.Errorf("%s %s, and it takes somebody else; the system has no name for %s, so that it cannot be told whether that is somebody else; try again when its user directory answers: %w", actor, did, p.Actor, ErrDenied)
	}
	return nil
}

// retires is what is retired when the change has ended, by the word that a person names it
// with: a generation, or AdoptedAnchors; "" if nothing is.
func (c Change) retires() string {
	switch {
	case c.adopts() && c.Back: // the fleet's own anchor is there for the next try
		return ""
	case c.adopts():
		return AdoptedAnchors
	}
	return c.From
}

// first is who has the change lead where it does: who began it or, where it was turned
// around, who did that last.
func (c Change) first() string { return cmp.Or(c.TurnedBy, c.Actor) }

// unapproved says whether the change must not end before a second person has approved
// that, and nobody has. One from a compromised anchor waits for nobody.
func (f Fleet) unapproved() bool {
	c := f.Change
	return c != nil && f.Policy.Trust.SecondPerson && !c.Compromised && c.retires() != "" && c.Approval == nil
}

// approvalWanted says what is waited for.
func (c Change) approvalWanted() string {
	return "approval by " + c.whoApproves() + ": certd trust approve " + c.retires()
}

func (c Change) whoApproves() string {
	if c.first() == "certd" {
		return "a person"
	}
	return "a second person, not " + c.first()
}

// approval is how far a change is with the approval that it needs in the stage retire,
// nil if it needs none, or is not there yet.
func (f Fleet) approval() *ApprovalStatus {
	c := f.Change
	if c == nil || c.Stage != StageRetire || c.Approval == nil && !f.unapproved() {
		return nil
	}
	s := &ApprovalStatus{Of: c.retires(), Not: c.first()}
	if a := c.Approval; a != nil {
		s.By, s.Reason, s.At = a.Actor, a.Reason, wholeSecond(a.At)
	}
	return s
}

// approved is the change with a person's approval, or why it cannot have it.
func (f Fleet) approved(id string, who Person, reason string, now time.Time) (Change, error) {
	if f.Change == nil {
		return Change{}, errNoChange
	}
	c := *f.Change
	what := fmt.Sprintf("the change from %s to %s", c.from(), c.to())
	switch {
	case !f.Policy.Trust.SecondPerson:
		return c, fmt.Errorf("%s needs nobody's approval: the configuration does not ask for it (approvals: {retire: 2}): %w", what, ErrNotNow)
	case c.Compromised:
		return c, fmt.Errorf("%s needs nobody's approval: %s counts as compromised, and turning away from it waits for nobody: %w", what, c.from(), ErrNotNow)
	case c.retires() == "":
		return c, fmt.Errorf("%s retires nothing, since it was turned around by %s: %w", what, c.first(), ErrNotNow)
	case id != c.retires() && c.TurnedBy != "" && (id == c.To || id == AdoptedAnchors):
		return c, fmt.Errorf("%s is not retired any more: the change was turned around by %s, and leads to it; what it retires is %s: %w", id, c.TurnedBy, c.retires(), ErrUnsupported)
	case id != c.retires():
		return c, fmt.Errorf("%q is not what is retired: %s retires %s: %w", id, what, c.retires(), ErrUnsupported)
	case c.Stage != StageRetire:
		return c, fmt.Errorf("%s is in stage %d of %d, %s: that %s is retired can be approved from stage %d, %s, on: %w", what, c.Stage.number(), len(stages), c.Stage, id, StageRetire.number(), StageRetire, ErrNotNow)
	case c.Approval != nil:
		return c, fmt.Errorf("nothing asks for approval now: %s has approved at %s that %s is retired: %w", c.Approval.Actor, clock(c.Approval.At), id, ErrNotNow)
	}
	did := "began the change"
	if c.TurnedBy != "" {
		did = "turned the change around"
	}
	if err := who.unlike(c.first(), did); err != nil {
		return c, fmt.Errorf("approve that %s is retired: %w", id, err)
	}
	c.Approval = &Approval{Actor: who.Actor, Reason: reason, At: now}
	return c, nil
}

// Approve has a second person approve that a change under way retires id, which has to be
// what it retires: a generation, or "adopted" for what clusters came with. It returns what
// the change has become or, in a dry run, would. Errors wrap ErrNotNow where nothing asks
// for approval, ErrUnsupported where id is something else, and ErrDenied where who is the
// one whose change it is.
func (r *Reconciler) Approve(id string, who Person, reason string, dryRun bool) (Change, error) {
	r.renewing.Lock()
	defer r.renewing.Unlock()
	f := r.fleet()
	c, err := f.approved(id, who, reason, r.wall())
	if err != nil || dryRun {
		return c, err
	}
	in := Intent{Step: StepTrustChange, Actor: who.Actor, Reason: fmt.Sprintf("%s may be retired (%s asked for that): %s", id, c.first(), reason), Anchor: cmp.Or(c.From, c.To)}
	return c, r.putChange(in, Outcome{Detail: "stage " + string(c.Stage) + ", approved", Change: &c})
}

// wantsSince says since when nothing but a person's word is waited for, by what nextStage
// says; the zero time if an approval is not in it.
func (c Change) wantsSince(waiting []string, longest time.Duration) time.Time {
	if c.Stage != StageRetire || !slices.Contains(waiting, c.approvalWanted()) {
		return time.Time{}
	}
	return c.ProvedAt.Add(longest)
}

// wantApproval enters into the status of a change since when it waits for an approval
// alone; the zero time says that it does not.
func (f Fleet) wantApproval(s *FleetStatus, since time.Time) {
	a := s.Trust.Rotation.Approval
	if a == nil || since.IsZero() || !f.unapproved() {
		return
	}
	a.Since = wholeSecond(since)
	s.Findings = append(s.Findings, Finding{ID: "ApprovalWanted", Severity: StateWarning,
		Message: fmt.Sprintf("the change of the trust anchor from %s to %s has come through since %s, and retires %s as soon as it is approved by %s; until then it can be turned around", f.Change.from(), f.Change.to(), clock(since), f.Change.retired(), f.Change.whoApproves()),
		Fix:     "certd trust approve " + a.Of})
}

// retired names what is retired to people.
func (c Change) retired() string {
	if c.adopts() {
		return c.from()
	}
	return c.From
}
