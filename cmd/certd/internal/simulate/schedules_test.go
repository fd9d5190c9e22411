package simulate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// A schedule is one rotation and the faults in it. As text, "anchor: dies@7 gone@12/37m".
type schedule struct {
	rotation string
	faults   []fault
}

// A fault strikes at the first moment from at on that it is for: moments are all calls of
// certd's to clusters and keys, all records, and before and after each effect.
type fault struct {
	what string
	at   int
	span time.Duration // of gone and late
}

// What may strike.
const (
	dies    = "dies"    // certd is killed
	full    = "full"    // the journal's disk has no room for a record
	away    = "away"    // a call does not take effect, and says so
	unknown = "unknown" // it does not take effect, and nobody says so
	lost    = "lost"    // it takes effect, and its answer is lost
	late    = "late"    // it takes effect late
	gone    = "gone"    // who was called cannot be reached for a while
	rival   = "rival"   // somebody writes to what is about to be written
)

var (
	ofCalls   = []string{away, unknown, lost, late, gone}
	ofWrites  = []string{away, unknown, lost, late, gone, rival}
	rotations = []string{"issuer", "webhooks", "webhook-ca", "anchor"}
)

func (f fault) String() string {
	if f.span > 0 {
		return fmt.Sprintf("%s@%d/%s", f.what, f.at, f.span)
	}
	return fmt.Sprintf("%s@%d", f.what, f.at)
}

func (s schedule) String() string {
	text := s.rotation + ":"
	for _, f := range s.faults {
		text += " " + f.String()
	}
	return text
}

func parseSchedule(text string) (s schedule, err error) {
	name, rest, _ := strings.Cut(text, ":")
	s.rotation = name
	for _, word := range strings.Fields(rest) {
		what, where, _ := strings.Cut(word, "@")
		at, span, spans := strings.Cut(where, "/")
		f := fault{what: what}
		if f.at, err = strconv.Atoi(at); err != nil {
			return s, fmt.Errorf("fault %q: %w", word, err)
		}
		if spans {
			if f.span, err = time.ParseDuration(span); err != nil {
				return s, fmt.Errorf("fault %q: %w", word, err)
			}
		}
		s.faults = append(s.faults, f)
	}
	if s.String() != text || !slices.Contains(rotations, s.rotation) {
		return s, fmt.Errorf("%q is no schedule", text)
	}
	return s, nil
}

// plan strikes as scheduled, once it is armed. A nil one never does.
type plan struct {
	armed   bool
	moments [][]string // that were, by what could have struck; nil: they are not kept
	keep    bool
	n       int
	left    []fault
}

// strikes says which fault of those that suit a moment, if any, is due.
func (p *plan) strikes(suits ...string) (fault, bool) {
	if p == nil || !p.armed {
		return fault{}, false
	}
	if p.keep {
		p.moments = append(p.moments, suits)
	}
	p.n++
	i := slices.IndexFunc(p.left, func(f fault) bool { return f.at < p.n && slices.Contains(suits, f.what) })
	if i < 0 {
		return fault{}, false
	}
	f := p.left[i]
	p.left = slices.Delete(p.left, i, i+1)
	return f, true
}

func (p *plan) diskFull() error {
	if _, now := p.strikes(full); now {
		return fmt.Errorf("record it: %w", state.ErrFull)
	}
	return nil
}

// scheduled is a small fleet, in which certd makes new issuers, webhook certificates, a
// webhook CA or a trust anchor while faults strike.
func scheduled(t testing.TB, s schedule, keep bool) *hard {
	h := &hard{plan: &plan{keep: keep, left: slices.Clone(s.faults)}}
	h.init(t, 1)
	names := []string{"east"}
	if s.rotation == "anchor" {
		names = append(names, "west")
	}
	p := usual(t, names...)
	for i := range p.Clusters {
		c := &p.Clusters[i]
		c.LeafLifetime, c.ClockError = time.Hour, time.Minute
		c.Issuer.Lifetime, c.Issuer.RenewBefore = 90*day, 45*day
		if s.rotation == "issuer" || s.rotation == "anchor" {
			c.Webhooks.Specs = nil
		}
	}
	p.Trust.Restarts = true
	w, err := newWorld(t.Context(), p, begin, 1, func(a rotation.Attempt) {
		h.say("certd: %s %s %s %v", a.Cluster, a.Step, a.Object, cmp.Or(a.Err, errDone))
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	h.takePart(w)
	h.pass(time.Hour)
	h.bad = nil // the webhooks had no certificate before
	for _, c := range p.Clusters {
		h.clusters[c.Cluster].SetFaults(func(call memory.Call) memory.ClusterFault { return h.clusterFault(c.Cluster, call) })
		h.clusters[c.Cluster].Notify(func() { h.writes(c.Cluster) })
	}
	h.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
		return memory.KeyFault(h.called(Vault, Vault, ofCalls))
	})
	h.plan.armed = true
	if s.rotation == "anchor" {
		h.changeAnchor()
	} else {
		h.renew(rotation.Target(s.rotation))
	}
	h.plan.armed = false
	clear(h.away)
	for range 24 {
		h.pass(time.Hour)
		if h.loop != nil && h.loop.Status().State == rotation.StateOK {
			break
		}
	}
	if h.loop == nil {
		h.wrong("in the end certd does not run")
		return h
	}
	if st := h.loop.Status(); st.State != rotation.StateOK || !h.idle() {
		h.wrong("in the end it is %s: %+v", st.State, st.Findings)
		for _, c := range st.Clusters {
			h.wrong("%s: %+v", c.Name, c.Findings)
		}
	}
	h.leftBehind()
	return h
}

// errDone is what is told of a step that succeeded.
var errDone = fmt.Errorf("is done")

func (h *hard) pass(d time.Duration) {
	for until := h.now.Add(d); h.now.Before(until); {
		h.step(until)
		h.look()
	}
}

// renew has a person ask until it is done: who asked is forgotten when certd dies.
func (h *hard) renew(target rotation.Target) {
	for range 8 {
		var done <-chan rotation.RotateResult
		if h.loop != nil {
			h.say("somebody asks for new %s", target)
			done = h.loop.Rotate(target, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			h.stirAll()
		}
		h.pass(90 * time.Minute)
		select {
		case r := <-done:
			if r.Result == rotation.OK {
				return
			}
		default:
		}
	}
	h.wrong("%s: nothing new came of it", target)
}

func (h *hard) changeAnchor() {
	for range 40 {
		if h.loop != nil && h.idle() {
			if st := h.loop.Status().Trust; st.Active != nil && st.Active.ID == "g2" && len(st.Others) == 0 {
				return
			}
			h.survive(h.beginChange)
		}
		h.pass(2 * time.Hour)
		h.stirAll()
	}
	h.wrong("the trust anchor was not changed")
}

// called is what becomes of a call to a cluster, or to the keys.
func (h *hard) called(what, call string, suits []string) (f memory.ClusterFault) {
	if h.away[what].After(h.now) {
		return memory.ClusterFault{Err: rotation.ErrUnavailable}
	}
	s, now := h.plan.strikes(suits...)
	if !now {
		return f
	}
	h.say("%s at %s of %s", s, call, what)
	switch s.what {
	case gone:
		h.away[what] = h.now.Add(s.span)
		f.Err = rotation.ErrUnavailable
	case away:
		f.Err = rotation.ErrUnavailable
	case unknown:
		f.Err = rotation.ErrOutcomeUnknown
	case lost:
		f.Err, f.Lost = rotation.ErrOutcomeUnknown, true
	case late:
		f.Delay = s.span
	case rival:
		f.Delay = time.Millisecond
	}
	return f
}

func (h *hard) clusterFault(name string, call memory.Call) memory.ClusterFault {
	suits := ofCalls
	var objects []string
	switch call {
	case memory.CallBundle:
		objects = []string{rotation.BundleObject}
	case memory.CallIssuer:
		objects = []string{rotation.IssuerObject}
	case memory.CallWebhook:
		for _, spec := range h.policy.Clusters[0].Webhooks.Specs {
			if ownPart(spec) {
				objects = append(objects, spec.Secret)
			}
		}
	}
	if objects != nil {
		suits = ofWrites
	}
	f := h.called(name, string(call), suits)
	if f.Delay == time.Millisecond { // meanwhile
		h.at(h.now, func() {
			for _, object := range objects {
				h.clusters[name].Edit(object, "kubectl-edit", func(_ map[string][]byte, marks *rotation.Marks) { marks.Label = false })
			}
		})
	}
	return f
}

// draw is a seed's schedule: of is what could strike at each moment of each rotation, where
// nothing does.
func draw(seed uint64, of map[string][][]string) schedule {
	chance := rand.New(rand.NewPCG(seed, 2))
	s := schedule{rotation: rotations[seed%uint64(len(rotations))]}
	moments := of[s.rotation]
	for range 2 + chance.IntN(4) {
		at := chance.IntN(len(moments))
		f := fault{what: moments[at][chance.IntN(len(moments[at]))], at: at}
		switch f.what {
		case late:
			f.span = time.Duration(1+chance.IntN(40)) * time.Second
		case gone:
			f.span = time.Duration(1+chance.IntN(240)) * time.Minute
		}
		s.faults = append(s.faults, f)
	}
	slices.SortStableFunc(s.faults, func(a, b fault) int { return cmp.Or(a.at-b.at, cmp.Compare(a.what, b.what)) })
	return s
}

// shrunk leaves out faults that it takes not to fail.
func shrunk(s schedule, fails func(schedule) bool) schedule {
	return schedule{s.rotation, least(s.faults, func(less []fault) bool { return fails(schedule{s.rotation, less}) })}
}

// one is the environment variable that names one schedule.
const one = "CERTD_SCHEDULE"

// Line R2: rotations in which faults strike as scheduled, each schedule another.
func TestFaultSchedules(t *testing.T) {
	if text := os.Getenv(one); text != "" {
		s, err := parseSchedule(text)
		if err != nil {
			t.Fatal(err)
		}
		h := scheduled(t, s, false)
		t.Logf("what happened:\n%s", strings.Join(h.trace, "\n"))
		for _, b := range h.bad {
			t.Error(b)
		}
		return
	}
	run := scoreboard.Start(t, "R2", 250)
	of := map[string][][]string{}
	for _, name := range rotations {
		h := scheduled(t, schedule{rotation: name}, true)
		if len(h.bad) > 0 {
			t.Fatalf("%s without a fault: %v", name, h.bad)
		}
		of[name] = h.plan.moments
		t.Logf("%s: %d moments", name, len(h.plan.moments))
	}
	known := map[string]bool{} // by lower seeds, too, which may be another run's
	for seed := range run.Range().From {
		known[draw(seed, of).String()] = true
	}
	for seed := range run.Seeds() {
		s := draw(seed, of)
		if known[s.String()] {
			continue
		}
		known[s.String()] = true
		h := scheduled(t, s, false)
		if len(h.bad) > 0 {
			least := shrunk(s, func(less schedule) bool { return len(scheduled(t, less, false).bad) > 0 })
			h = scheduled(t, least, false)
			t.Errorf("seed %d: %s", seed, strings.Join(h.bad[:min(len(h.bad), 5)], "\n"))
			t.Logf("what happened before:\n%s", strings.Join(h.trace[max(0, len(h.trace)-60):], "\n"))
			t.Logf("again: %s=%q go test -count=1 -v -run TestFaultSchedules ./cmd/certd/internal/simulate", one, least)
			break
		}
		run.Add("distinct fault schedules", 1)
		run.Add("times killed", uint64(h.deaths))
		run.Add("faults that struck", uint64(len(s.faults)-len(h.plan.left)))
	}
}

// What schedules have found stays found.
func TestSchedulesThatFoundSomething(t *testing.T) {
	text, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		line, found, _ := strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		s, err := parseSchedule(line)
		if err != nil {
			t.Fatal(err)
		}
		if bad := scheduled(t, s, false).bad; len(bad) > 0 {
			t.Errorf("%s, which had found:%s%s", s, found, strings.Join(bad, "\n"))
		}
		n++
	}
	if n == 0 {
		t.Error("there is none")
	}
}

// A schedule is had again from its text, and one that fails is told with the least of it.
func TestASchedulesTextIsTheSchedule(t *testing.T) {
	of := map[string][][]string{}
	for i, name := range rotations {
		of[name] = slices.Repeat([][]string{{dies}, {full}, ofCalls, ofWrites}, i+1)
	}
	for seed := range uint64(500) {
		s := draw(seed, of)
		if again, err := parseSchedule(s.String()); err != nil || again.String() != s.String() {
			t.Fatalf("%q is read as %q, %v", s, again, err)
		}
	}
	for _, text := range []string{"", "anchor", "bundle: dies@1", "anchor: dies", "anchor: gone@1/soon", "anchor:  dies@1"} {
		if s, err := parseSchedule(text); err == nil {
			t.Errorf("%q is read as %q", text, s)
		}
	}
	s, err := parseSchedule("issuer: away@1 dies@3 full@4 lost@9 dies@20")
	if err != nil {
		t.Fatal(err)
	}
	least := shrunk(s, func(less schedule) bool {
		return strings.Contains(less.String(), "dies@3") && strings.Contains(less.String(), "lost")
	})
	if least.String() != "issuer: dies@3 lost@9" {
		t.Errorf("%q is left", least)
	}
}
