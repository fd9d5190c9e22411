package simulate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// people may have a change of the trust anchor retire something, or turn it around.
var people = []string{"lee@cli", "kim@cli", "ann@cli"}

// approvals is a fleet whose changes need a second person, and what an onlooker makes of
// what gets into the journal: who has a change lead where it does, and who has approved.
type approvals struct {
	chance  *rand.Rand // of the people; nil: nobody asks for a second one
	intents map[uint64]rotation.Intent
	asked   string // who has it lead where it does
	by      string // who has approved; "": nobody
	given   int
	tries   bool // somebody is going to try to approve
	other   bool // the journal is not the one that it was
}

// needApproval has every fourth fleet ask for a second person. What goes wrong in the
// others, and in it, does not depend on that.
func (h *hard) needApproval(p *rotation.FleetPolicy) {
	if chance := rand.New(rand.NewPCG(h.seed, 77)); chance.IntN(4) == 0 {
		h.approvals = approvals{chance: chance, intents: map[uint64]rotation.Intent{}}
		p.Trust.SecondPerson = true
	}
}

// somebody is who begins a change, or turns it around, as the journal has it: by number where the
// system's user directory does not answer.
func (h *hard) somebody() string {
	if h.approvals.chance == nil {
		return people[0]
	}
	return h.approvals.person().Actor
}

func (a *approvals) person() rotation.Person {
	who := known(people[a.chance.IntN(len(people))])
	if a.chance.IntN(8) == 0 {
		who.Actor = who.ByID
	}
	return who
}

// known is one of the people, as the system knows them while its user directory answers.
func known(name string) rotation.Person {
	return rotation.Person{Actor: name, ByID: fmt.Sprintf("uid%d@cli", slices.Index(people, name))}
}

// same says whether two actors of the journal are one person.
func same(actor, other string) bool {
	named := func(actor string) string {
		if i := slices.IndexFunc(people, func(name string) bool { return known(name).ByID == actor }); i >= 0 {
			return people[i]
		}
		return actor
	}
	return named(actor) == named(other)
}

func (a *approvals) intends(id uint64, in rotation.Intent) {
	if a.chance != nil {
		a.intents[id] = in
	}
}

// notes what was recorded of a change that was was before, nil: there was none.
func (h *hard) notes(id uint64, was *rotation.Change, out rotation.Outcome) {
	a, c := &h.approvals, out.Change
	if a.chance == nil || c == nil {
		return
	}
	in := a.intents[id]
	switch {
	case was == nil || was.Back != c.Back:
		a.asked, a.by = in.Actor, ""
	case c.Stage == "" && len(out.Retired) > 0 && a.by == "" && h.other == nil: // the other journal may have it
		h.wrong("%s is retired, and nobody has approved that; %s asked for it", out.Retired[0].ID, a.asked)
	case c.Stage == "":
		if a.by != "" {
			a.given++
		}
	case was.Stage != c.Stage, strings.HasPrefix(in.Reason, string(rotation.ChangeAdvance)+" without"):
		a.by = ""
	case strings.Contains(in.Reason, "may be retired"):
		if same(in.Actor, a.asked) && h.other == nil || c.Stage != rotation.StageRetire {
			h.wrong("%s approves of what %s has asked for, in stage %s", in.Actor, a.asked, c.Stage)
		}
		a.by = in.Actor
	}
}

// remembered judges a journal that is opened: an approval is still there, unless it is another
// journal, which counts as it is.
func (h *hard) remembered() {
	a := &h.approvals
	if a.chance == nil {
		return
	}
	c, err := h.journal.Change()
	if err != nil {
		h.wrong("%v", err)
		return
	}
	by := ""
	if c != nil && c.Approval != nil {
		by = c.Approval.Actor
	}
	switch {
	case a.other:
		if a.other, a.by = false, by; c != nil {
			a.asked = cmp.Or(c.TurnedBy, c.Actor)
		}
	case c != nil && by != a.by && h.other == nil:
		h.wrong("by the journal %q has approved, and it was %q", by, a.by)
	}
}

// approve has people try to approve while the trust anchor is changed, at random times and not
// all of them rightly.
func (h *hard) approve() {
	a := &h.approvals
	if a.chance == nil || a.tries || h.over || h.deaf() || h.idle() {
		return
	}
	a.tries = true
	every := 12 * time.Hour
	if h.haste > 0 {
		every = 90 * time.Minute
	}
	h.at(h.now.Add(time.Duration(a.chance.ExpFloat64()*float64(every))), func() {
		a.tries = false
		if h.over || h.deaf() || h.idle() {
			return
		}
		r := h.loop.Status().Trust.Rotation
		if a.by != "" && a.chance.IntN(6) == 0 {
			name, _ := h.anyCluster()
			h.goWithout(name) // who approved, had others in mind
			return
		}
		h.approves(a.person(), []string{r.From, r.From, r.From, r.To}[a.chance.IntN(4)])
	})
}

func (h *hard) approves(who rotation.Person, what string) {
	_, err := h.loop.Approve(what, who, "drill", false)
	h.say("%s approves that %s is retired: %t", who.Actor, what, err == nil)
	h.stirAll()
}
