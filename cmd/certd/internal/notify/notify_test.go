package notify

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/rotation"
	"certd.internal/state"
)

// inbox is a receiver that keeps what it gets.
type inbox struct {
	traits receiver.Traits
	mu     sync.Mutex
	got    []receiver.Message
	at     []time.Time // when each came
	sends  [][]receiver.Message
	tries  int
	// answer, if set, judges a try: an error with taken has taken it all the same.
	answer func(try int, m []receiver.Message) (taken bool, err error)
	takes  time.Duration
}

func (b *inbox) Traits() receiver.Traits { return b.traits }

func (b *inbox) Send(ctx context.Context, m []receiver.Message) error {
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	taken, err := true, error(nil)
	if b.answer != nil {
		taken, err = b.answer(b.tries, m)
	}
	if taken {
		b.sends = append(b.sends, m)
		for _, one := range m {
			b.got, b.at = append(b.got, one), append(b.at, time.Now())
		}
	}
	return err
}

// lines are what came, in short, once each id.
func (b *inbox) lines() (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, m := range b.got {
		id := m.ID
		if b.traits.Batch { // what lasts comes again and again
			id = line(m)
		}
		if !seen[id] {
			lines = append(lines, line(m))
		}
		seen[id] = true
	}
	return lines
}

func line(m receiver.Message) string {
	switch {
	case m.Finding != nil:
		return fmt.Sprintf("%s %s %s %s", strings.TrimPrefix(string(m.Event), "finding."), m.Severity, m.Cluster, m.Finding.ID)
	case m.Event == receiver.Summary:
		return fmt.Sprintf("summary %s of %d", m.Severity, len(m.Items)+m.Omitted)
	}
	return string(m.Event) + " " + m.Summary
}

func (b *inbox) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got, b.at, b.sends, b.tries = nil, nil, nil, 0
}

func (b *inbox) fails(err error) {
	b.answers(func(int, []receiver.Message) (bool, error) { return false, err })
}
func (b *inbox) answers(f func(int, []receiver.Message) (bool, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// kinds of inboxes.
func slack() *inbox    { return &inbox{traits: receiver.Slack{}.Traits()} }
func pager() *inbox    { return &inbox{traits: receiver.PagerDuty{}.Traits()} }
func alertBox() *inbox { return &inbox{traits: receiver.Alertmanager{}.Traits()} }

// world is a fleet with a journal and a Notifier that can be ended and begun
// again. It runs in a synctest bubble.
type world struct {
	t       *testing.T
	dir     string
	mu      sync.Mutex
	st      rotation.FleetStatus
	entries []rotation.Entry
	items   []rotation.PlanItem
	failing error
	policy  Policy
	wrap    func(Journal) Journal
	crash   func(string)

	journal *state.Journal
	n       *Notifier
	stop    func()
	boxes   map[string]*inbox
}

func newWorld(t *testing.T, boxes map[string]*inbox, names ...string) *world {
	w := &world{t: t, dir: t.TempDir(), boxes: boxes, policy: Policy{Receivers: map[string]Receiver{}, After: time.Minute, GiveUp: 24 * time.Hour}}
	for name, b := range boxes {
		w.policy.Receivers[name] = Receiver{b, 10}
		w.policy.Default = append(w.policy.Default, name)
	}
	slices.Sort(w.policy.Default)
	w.st = rotation.FleetStatus{Fleet: "acme", State: rotation.StateOK, Trust: rotation.TrustStatus{Rotation: &rotation.RotationStatus{Phase: "idle", Of: 6}}}
	for _, name := range names {
		w.st.Clusters = append(w.st.Clusters, rotation.ClusterStatus{Name: name, Labels: map[string]string{"tier": "prod"}})
	}
	return w
}

// start begins anew with what is on disk, a second ago.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.journal, err = state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1, CrashPoint: w.crash}); err != nil {
		w.t.Fatal(err)
	}
	var j Journal = w.journal
	if w.wrap != nil {
		j = w.wrap(j)
	}
	w.n, err = New("acme", w.policy, World{Journal: j, Log: slog.New(slog.DiscardHandler),
		Status: func() rotation.FleetStatus {
			w.mu.Lock()
			defer w.mu.Unlock()
			st := w.st
			st.Findings = slices.Clone(st.Findings)
			if w.failing != nil {
				st.Findings = append(st.Findings, rotation.Finding{ID: "NotifyFailing", Severity: rotation.StateWarning, Message: w.failing.Error()})
			}
			st.Clusters = slices.Clone(st.Clusters)
			return st
		},
		Plan:    func(time.Time) rotation.Plan { return rotation.Plan{Items: w.items} },
		History: func(time.Time) ([]rotation.Entry, error) { return w.entries, nil },
		Failing: func(err error) { w.mu.Lock(); w.failing = err; w.mu.Unlock() }})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.n.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
	time.Sleep(time.Second) // what a test does next falls between two looks
}

func (w *world) end() {
	w.t.Helper()
	w.stop()
	if err := w.journal.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// find sets the findings of a cluster, or with "" of the fleet: "Id severity".
func (w *world) find(cluster string, findings ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []rotation.Finding
	for _, text := range findings {
		id, severity, _ := strings.Cut(text, " ")
		all = append(all, rotation.Finding{ID: id, Severity: rotation.State(severity), Message: "it is so"})
	}
	if cluster == "" {
		w.st.Findings = all
		return
	}
	for i := range w.st.Clusters {
		if w.st.Clusters[i].Name == cluster {
			w.st.Clusters[i].Findings = all
		}
	}
}

func (w *world) stage(stage rotation.Stage, number int, back bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &rotation.RotationStatus{Phase: string(stage), Stage: string(stage), Number: number, Of: 6, From: "g1", To: "g2", Back: back}
	if stage == "" {
		r = &rotation.RotationStatus{Phase: "idle", Of: 6}
	}
	w.st.Trust.Rotation = r
}

// says is what keeps receivers from being told, as the daemon was told.
func (w *world) says() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing == nil {
		return ""
	}
	return w.failing.Error()
}

// got checks what a receiver was told since the last time.
func (w *world) got(when, name string, want ...string) {
	w.t.Helper()
	synctest.Wait()
	b := w.boxes[name]
	if got := b.lines(); !slices.Equal(got, want) {
		w.t.Errorf("%s: %s was told\n%q\nwant\n%q", when, name, got, want)
	}
	b.clear()
}

// empty checks that nothing waits any more.
func (w *world) empty(when string) {
	w.t.Helper()
	known, err := w.journal.Notifications()
	if err != nil {
		w.t.Fatal(err)
	}
	if len(known.Outbox) > 0 {
		w.t.Errorf("%s: in the outbox: %+v", when, known.Outbox)
	}
}

var errDown = &receiver.Failure{Why: "tell it: it answers 503 Service Unavailable"}

// One message when a finding opens, one when it gets worse, one when it is over,
// however often it is looked at, and across restarts.
func TestOneMessageForEachTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]*inbox{"ops": slack()}, "eu", "us")
		w.start()
		time.Sleep(time.Hour)
		w.got("nothing is wrong", "ops")

		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(50 * time.Second)
		w.got("it may be over soon", "ops")
		w.find("eu")
		time.Sleep(time.Minute)
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(50 * time.Second)
		w.got("it came anew", "ops")
		time.Sleep(time.Hour)
		w.got("it lasts", "ops", "opened warning eu IssuerNotLoaded")

		w.find("eu", "IssuerNotLoaded critical")
		time.Sleep(time.Hour)
		w.got("it got worse", "ops", "escalated critical eu IssuerNotLoaded")
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(time.Hour)
		w.find("eu", "IssuerNotLoaded critical")
		time.Sleep(time.Hour)
		w.got("it got better and worse again", "ops")

		w.end()
		w.start()
		time.Sleep(time.Hour)
		w.got("after a restart", "ops")
		w.find("eu")
		time.Sleep(50 * time.Second)
		w.got("it may come back", "ops")
		time.Sleep(time.Hour)
		w.got("it is over", "ops", "cleared critical eu IssuerNotLoaded")

		w.find("eu", "IssuerNotLoaded warning")
		w.find("", "KeysUnavailable warning")
		time.Sleep(2 * time.Minute)
		w.got("again, and the fleet's", "ops", "opened warning  KeysUnavailable", "opened warning eu IssuerNotLoaded")
		w.empty("at the end")
		w.end()
	})
}

// While a cluster cannot be seen, what was found there is not over; certd's own
// restart does not end it either.
func TestWhatCannotBeSeenIsNotOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]*inbox{"ops": slack()}, "eu", "us")
		w.start()
		w.find("eu", "ProxiesStale warning")
		time.Sleep(5 * time.Minute)
		w.got("found", "ops", "opened warning eu ProxiesStale")
		w.find("eu", "ClusterUnreachable unknown")
		time.Sleep(5 * time.Minute)
		w.got("out of reach", "ops", "opened unknown eu ClusterUnreachable")
		w.end()
		w.find("eu", "NotSeenYet unknown")
		w.find("us", "NotSeenYet unknown")
		w.start()
		time.Sleep(10 * time.Minute)
		w.got("not looked at yet", "ops")
		w.find("us")
		w.find("eu", "ProxiesStale warning")
		time.Sleep(5 * time.Minute)
		w.got("seen again", "ops", "cleared unknown eu ClusterUnreachable")
		w.mu.Lock()
		w.st.Clusters = w.st.Clusters[1:]
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		w.got("no longer configured", "ops", "cleared warning eu ProxiesStale")
		w.end()
	})
}

func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boxes := map[string]*inbox{"ops": slack(), "pager": pager(), "soc": slack(), "rest": slack()}
		w := newWorld(t, boxes, "eu", "us")
		w.policy.After = 0
		w.policy.Default = []string{"rest"}
		w.policy.Routes = []Route{
			{Findings: []string{"ProxiesStale"}},
			{Events: []string{EventTrust}, Receivers: []string{"soc"}},
			{Severities: []rotation.State{rotation.StateCritical}, Receivers: []string{"pager"}, Continue: true},
			{Clusters: []string{"eu"}, Receivers: []string{"ops"}},
		}
		w.start()
		w.find("eu", "IssuerNotLoaded warning", "ProxiesStale warning")
		w.find("us", "IssuerNotLoaded warning")
		time.Sleep(10 * time.Second)
		w.got("warnings", "ops", "opened warning eu IssuerNotLoaded")
		w.got("warnings", "rest", "opened warning us IssuerNotLoaded")
		w.got("warnings", "pager")
		w.find("eu", "IssuerNotLoaded critical")
		w.find("us", "IssuerNotLoaded critical")
		time.Sleep(10 * time.Second)
		w.got("worse", "ops", "escalated critical eu IssuerNotLoaded")
		w.got("worse", "pager", "opened critical eu IssuerNotLoaded", "opened critical us IssuerNotLoaded")
		w.got("the default is for what no route matches", "rest")
		w.find("eu")
		w.find("us")
		time.Sleep(10 * time.Second)
		w.got("over", "ops", "cleared critical eu IssuerNotLoaded")
		w.got("over", "pager", "cleared critical eu IssuerNotLoaded", "cleared critical us IssuerNotLoaded")
		w.got("whoever was told that it began is told that it is over", "rest", "cleared critical us IssuerNotLoaded")
		w.stage("bridge", 2, false)
		time.Sleep(10 * time.Second)
		w.got("trust", "soc", "trust.stage the change of the trust anchor from g1 to g2 has begun: stage bridge (2 of 6)")
		w.got("trust", "rest")

		// A changed policy tells whom it names now, and forgets whom it does not name.
		w.find("us", "IssuerNotLoaded warning")
		time.Sleep(10 * time.Second)
		w.got("before", "rest", "opened warning us IssuerNotLoaded")
		w.find("eu", "ProxiesStale warning")
		time.Sleep(10 * time.Second)
		w.got("muted", "ops")
		p := w.policy
		p.Receivers = map[string]Receiver{"ops": p.Receivers["ops"], "soc": p.Receivers["soc"]}
		p.Routes, p.Default = nil, []string{"ops"}
		w.n.Apply(t.Context(), p)
		time.Sleep(10 * time.Second)
		w.got("the new policy", "ops", "opened warning eu ProxiesStale", "opened warning us IssuerNotLoaded")
		w.find("us")
		time.Sleep(10 * time.Second)
		w.got("over", "ops", "cleared warning us IssuerNotLoaded")
		w.got("over", "rest")
		if r := w.n.Receivers(); len(r) != 2 || r[0].Name != "ops" || r[0].LastDelivery == nil {
			t.Errorf("receivers: %+v", r)
		}
		w.end()
	})
}

func TestStagesOfAChangeAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]*inbox{"ops": slack(), "am": alertBox()}, "eu")
		w.start()
		time.Sleep(time.Minute)
		for _, step := range []struct {
			stage rotation.Stage
			n     int
			back  bool
			want  string
		}{
			{"bridge", 2, false, "has begun: stage bridge (2 of 6)"},
			{"spread", 3, false, "is in stage spread (3 of 6)"},
			{"spread", 3, true, "is turned around: stage spread (3 of 6)"},
			{"bridge", 2, true, "is in stage bridge (2 of 6)"},
			{"", 0, false, "was turned around, and is over: g1 stays"},
			{"finish", 5, false, "has begun: stage finish (5 of 6)"},
			{"", 0, false, "is over"},
		} {
			w.stage(step.stage, step.n, step.back)
			time.Sleep(time.Minute)
			w.got(step.want, "ops", "trust.stage the change of the trust anchor from g1 to g2 "+step.want)
			w.end()
			w.start()
			time.Sleep(time.Minute)
			w.got("after a restart", "ops")
		}
		w.got("no use for it", "am")
		w.end()
	})
}

// Tries come at growing intervals, no more often than asked for; when it works
// again all arrives in order, with the ids it had.
func TestAReceiverThatIsDownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := slack()
		w := newWorld(t, map[string]*inbox{"ops": box, "soc": slack()}, "eu")
		w.policy.After = 0
		var ids []string
		box.answers(func(try int, m []receiver.Message) (bool, error) {
			ids = append(ids, m[0].ID)
			return false, errDown
		})
		w.start()
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(5 * time.Minute)
		w.find("eu")
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if box.tries < 30 || box.tries > 90 {
			t.Errorf("%d tries in three hours", box.tries)
		}
		if slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] }) {
			t.Errorf("ids: %q", ids)
		}
		w.got("the other one", "soc", "opened warning eu IssuerNotLoaded", "cleared warning eu IssuerNotLoaded", "opened warning  NotifyFailing")
		if says := w.says(); !strings.Contains(says, "ops has not taken a notification since") || !strings.Contains(says, "503") || !strings.Contains(says, "2 wait") {
			t.Errorf("failing: %q", says)
		}
		w.end()
		box.clear()
		w.failing = nil // nobody else runs
		w.start()
		time.Sleep(30 * time.Second)
		if w.says() == "" {
			t.Error("after a restart it is not known that the receiver fails")
		}
		box.answers(nil)
		time.Sleep(10 * time.Minute)
		w.got("it works again", "ops", "opened warning eu IssuerNotLoaded", "cleared warning eu IssuerNotLoaded")
		w.got("told", "soc", "cleared warning  NotifyFailing")
		if says := w.says(); says != "" {
			t.Errorf("still failing: %v", says)
		}
		w.empty("at the end")
		want := map[Count]uint64{{"ops", ResultSent}: 2, {"soc", ResultSent}: 1}
		for c, n := range want {
			if got := w.n.Counts()[c]; got != n {
				t.Errorf("%+v: %d, want %d", c, got, n)
			}
		}
		if w.n.Counts()[Count{"ops", ResultFailed}] == 0 {
			t.Error("no failed attempt was counted")
		}
		w.end()
	})
}

func TestAReceiverSaysWhenToTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := slack()
		w := newWorld(t, map[string]*inbox{"ops": box}, "eu")
		w.policy.After = 0
		first := true
		box.answers(func(int, []receiver.Message) (bool, error) {
			if first {
				first = false
				return false, &receiver.Failure{Why: "429", RetryAfter: 40 * time.Minute}
			}
			return true, nil
		})
		w.start()
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(39 * time.Minute)
		w.got("not yet", "ops")
		time.Sleep(2 * time.Minute)
		w.got("now", "ops", "opened warning eu IssuerNotLoaded")
		w.end()
	})
}

// What is tried for too long is given up, counted, and told of when the receiver
// works again.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops, pd, am := slack(), pager(), alertBox()
		w := newWorld(t, map[string]*inbox{"ops": ops, "pager": pd, "am": am}, "eu", "us")
		w.policy.After = 0
		w.policy.Routes = []Route{{Findings: []string{"NotifyFailing"}}} // they do not recover at once
		for _, b := range []*inbox{ops, pd, am} {
			b.fails(errDown)
		}
		w.start()
		w.find("eu", "IssuerNotLoaded warning")
		w.find("us", "ProxiesStale warning")
		time.Sleep(time.Minute)
		w.find("us")
		time.Sleep(25 * time.Hour)
		known, err := w.journal.Notifications()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range known.Outbox {
			if o.Receiver == "pager" && strings.Contains(string(o.Body), `"finding.cleared"`) {
				continue // else the incident, if there is one, would last for ever
			}
			if !strings.Contains(string(o.Body), `"lost":`) {
				t.Errorf("after a day there waits %s", o.Body)
			}
		}
		if says := w.says(); !strings.Contains(says, "3 were given up") {
			t.Errorf("failing: %q", says)
		}
		w.end()
		w.start()
		for _, b := range []*inbox{ops, pd, am} {
			b.clear()
			b.answers(nil)
		}
		time.Sleep(10 * time.Minute)
		w.got("works again", "ops", "summary warning of 1")
		w.got("works again", "pager", "cleared warning us ProxiesStale", "summary warning of 1")
		w.got("works again", "am", "opened warning eu IssuerNotLoaded")
		if says := w.says(); says != "" || w.n.Receivers()[1].Lost != 0 {
			t.Errorf("failing: %q, %+v", says, w.n.Receivers())
		}
		w.find("eu")
		time.Sleep(10 * time.Minute)
		w.got("over", "ops", "cleared warning eu IssuerNotLoaded")
		w.got("over", "pager", "cleared warning eu IssuerNotLoaded", "summary.cleared nothing that was summed up lasts any more")
		w.empty("at the end")
		w.end()
	})
}
