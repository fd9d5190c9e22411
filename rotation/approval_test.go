package rotation

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Who may approve what, and when.
func TestWhoMayApprove(t *testing.T) {
	kim := Person{Actor: "kim@cli", ByID: "uid1001@cli"}
	nameless := func(uid string) Person { return Person{Actor: "uid" + uid + "@cli", ByID: "uid" + uid + "@cli"} }
	is := func(edit func(*Change)) Change {
		c := Change{From: "g1", To: "g2", Stage: StageRetire, Actor: "lee@cli"}
		edit(&c)
		return c
	}
	asked := is(func(*Change) {})
	by := func(actor string) Change { return is(func(c *Change) { c.Actor = actor }) }
	turned := is(func(c *Change) { c.From, c.To, c.Back, c.TurnedBy = "g2", "g1", true, "kim@cli" })
	for _, row := range []struct {
		sentence string
		change   Change
		id       string
		who      Person
		alone    bool // the configuration asks for nobody
		want     error
		says     string // if it is refused
	}{
		{"somebody else", asked, "g1", kim, false, nil, ""},
		{"nobody asks for it", asked, "g1", kim, true, ErrNotNow, "the configuration does not ask for it"},
		{"who began it", asked, "g1", Person{Actor: "lee@cli", ByID: "uid1000@cli"}, false, ErrDenied, "lee@cli began the change, and so it takes somebody else"},
		{"who began it without a name, and has one now", by("uid1000@cli"), "g1", Person{Actor: "lee@cli", ByID: "uid1000@cli"}, false, ErrDenied, "uid1000@cli began the change"},
		{"who may be the one who began it, without a name now", asked, "g1", nameless("1000"), false, ErrDenied, "it cannot be told"},
		{"two without names", by("uid1000@cli"), "g1", nameless("1001"), false, nil, ""},
		{"the same without a name", by("uid1000@cli"), "g1", nameless("1000"), false, ErrDenied, "uid1000@cli began the change"},
		{"a user whose name begins like a number", by("uidgard@cli"), "g1", nameless("1000"), false, ErrDenied, "it cannot be told"},
		{"what certd began", by("certd"), "g1", kim, false, nil, ""},
		{"what certd began, by somebody without a name", by("certd"), "g1", nameless("1000"), false, nil, ""},
		{"another generation", asked, "g2", kim, false, ErrUnsupported, `"g2" is not what is retired: the change from g1 to g2 retires g1`},
		{"no generation", asked, "", kim, false, ErrUnsupported, "retires g1"},
		{"before its stage", is(func(c *Change) { c.Stage = StageFinish }), "g1", kim, false, ErrNotNow, "stage 5 of 6, finish: that g1 is retired can be approved from stage 6, retire, on"},
		{"while it is held", is(func(c *Change) { c.Held = true }), "g1", kim, false, nil, ""},
		{"once more", is(func(c *Change) { c.Approval = &Approval{Actor: "ann@cli", At: start} }), "g1", kim, false, ErrNotNow, "ann@cli has approved"},
		{"a compromised anchor", is(func(c *Change) { c.Compromised = true }), "g1", kim, false, ErrNotNow, "waits for nobody"},
		{"what was read before it was turned around", turned, "g1", Person{Actor: "lee@cli", ByID: "uid1000@cli"}, false, ErrUnsupported, "g1 is not retired any more: the change was turned around by kim@cli"},
		{"who turned it around", turned, "g2", kim, false, ErrDenied, "kim@cli turned the change around"},
		{"who began what somebody else turned around", turned, "g2", Person{Actor: "lee@cli", ByID: "uid1000@cli"}, false, nil, ""},
		{"what meshes came with", is(func(c *Change) { c.From = "" }), "adopted", kim, false, nil, ""},
		{"back to what meshes came with", is(func(c *Change) { c.From, c.To, c.Back, c.TurnedBy = "g1", "", true, "lee@cli" }), "g1", kim, false, ErrNotNow, "retires nothing"},
	} {
		f := Fleet{Change: &row.change, Policy: FleetPolicy{Trust: TrustPolicy{SecondPerson: !row.alone}}}
		got, err := f.approved(row.id, row.who, "seen", hours(1))
		if !errors.Is(err, row.want) || (err == nil) != (row.want == nil) || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.sentence, err)
		}
		if a := got.Approval; err == nil && (a == nil || a.Actor != row.who.Actor || a.Reason != "seen" || !a.At.Equal(hours(1))) {
			t.Errorf("%s: %+v", row.sentence, a)
		}
		if row.change.Approval != nil != strings.Contains(row.sentence, "once more") {
			t.Errorf("%s: the change that was there is another", row.sentence)
		}
	}
	if _, err := (Fleet{Policy: FleetPolicy{Trust: TrustPolicy{SecondPerson: true}}}).approved("g1", kim, "", start); !errors.Is(err, ErrNotNow) {
		t.Errorf("without a change: %v", err)
	}
}

// What a change that has come through its last stage waits for.
func TestTheEndWaitsForApproval(t *testing.T) {
	const wait = time.Hour
	through := func(edit func(*Change)) Change {
		c := Change{From: "g1", To: "g2", Stage: StageRetire, Actor: "lee@cli", StageAt: start, ProvedAt: hours(1)}
		edit(&c)
		return c
	}
	approval := "approval by a second person, not lee@cli: certd trust approve g1"
	for _, row := range []struct {
		sentence string
		change   Change
		alone    bool
		now      time.Time
		ends     bool
		waits    string
	}{
		{"nobody is asked", through(func(*Change) {}), true, hours(2), true, ""},
		{"nobody has approved", through(func(*Change) {}), false, hours(2), false, approval},
		{"nobody has for a year", through(func(*Change) {}), false, hours(8760), false, approval},
		{"somebody has", through(func(c *Change) { c.Approval = &Approval{Actor: "kim@cli"} }), false, hours(2), true, ""},
		{"somebody has, early", through(func(c *Change) { c.Approval = &Approval{Actor: "kim@cli"} }), false, hours(1.5), false, "leaves from before end"},
		{"it is not wanted yet", through(func(*Change) {}), false, hours(1.5), false, "leaves from before end"},
		{"two words are missing", through(func(c *Change) { c.Manual = true }), false, hours(2), false, "certd trust advance; " + approval},
		{"certd began it", through(func(c *Change) { c.Actor = "certd" }), false, hours(2), false, "approval by a person: certd trust approve g1"},
		{"nothing is retired", through(func(c *Change) { c.From, c.To, c.Back = "g1", "", true }), false, hours(2), true, ""},
		{"the anchor counts as compromised", through(func(c *Change) { c.Compromised = true }), false, hours(2), true, ""},
		{"an earlier stage", through(func(c *Change) { c.Stage = StageFinish }), false, hours(2), false, ""},
	} {
		f := Fleet{Change: &row.change, Policy: FleetPolicy{Trust: TrustPolicy{SecondPerson: !row.alone}}}
		next, why, waiting := f.nextStage(nil, nil, wait, row.now)
		if ended := why != "" && next.Stage == ""; ended != row.ends || !strings.Contains(strings.Join(waiting, "; "), row.waits) {
			t.Errorf("%s: %q, then stage %q; waits for %q", row.sentence, why, next.Stage, waiting)
		}
		if a := row.change.Approval; row.ends && a != nil && !strings.Contains(why, a.Actor+" has approved") {
			t.Errorf("%s: who approved is not in %q", row.sentence, why)
		}
	}
}
