package simulate

import (
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
}

// needApproval has every fourth fleet ask for a second person. What goes wrong in the
// others, and in it, does not depend on that.
func (h *hard) needApproval(p *rotation.FleetPolicy) {
	if chance := rand.New(rand.NewPCG(h.seed, 77)); chance.IntN(4) == 0 {
		h.approvals = approvals{chance: chance, intents: map[uint64]rotation.Intent{}}
		p.Trust.SecondPerson = true
	}
}

// somebody is who turns a change around.
func (h *hard) somebody() string {
	if h.approvals.chance == nil {
		return people[0]
	}
	return people[h.approvals.chance.IntN(len(people))]
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
	case c.Stage == "" && len(out.Retired) > 0 && a.by == "" && !h.torn: // the other journal may have it
		h.wrong("%s is retired, and nobody has approved that; %s asked for it", out.Retired[0].ID, a.asked)
	case c.Stage == "":
		a.given++
	case was.Stage != c.Stage:
		a.by = ""
	case strings.Contains(in.Reason, "may be retired"):
		if in.Actor == a.asked && !h.torn || c.Stage != rotation.StageRetire {
			h.wrong("%s approves of what %s has asked for, in stage %s", in.Actor, a.asked, c.Stage)
		}
		a.by = in.Actor
	}
}

// approve has people try to approve, at random times and not all of them rightly.
func (h *hard) approve() {
	a := &h.approvals
	if a.chance == nil || h.over {
		return
	}
	h.at(h.now.Add(time.Duration(a.chance.ExpFloat64()*float64(90*time.Minute))), h.approve)
	if h.deaf() || h.idle() {
		return
	}
	r := h.loop.Status().Trust.Rotation
	h.approves(people[a.chance.IntN(len(people))], []string{r.From, r.From, r.From, r.To}[a.chance.IntN(4)])
}

func (h *hard) approves(who, what string) {
	_, err := h.loop.Approve(what, rotation.Person{Actor: who, ByID: "uid" + string(rune('0'+slices.Index(people, who))) + "@cli"}, "drill", false)
	h.say("%s approves that %s is retired: %t", who, what, err == nil)
	h.stirAll()
}
