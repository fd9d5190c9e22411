package notify

import (
	"errors"
	"fmt"
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

func fleetOf(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("c%03d", i))
	}
	return names
}

// However much happens, a receiver gets no more than it is to in a minute, and
// what is too much is one summary that leaves nothing out.
func TestAStormIsOneSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := slack()
		names := fleetOf(200)
		w := newWorld(t, map[string]*inbox{"ops": ops}, names...)
		w.policy.After = 0
		w.start()
		for _, name := range names[:10] {
			w.find(name, "ClusterUnreachable unknown")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(ops.lines()); n != 10 {
			t.Errorf("ten findings were %d messages", n)
		}
		ops.clear()
		time.Sleep(time.Minute)
		for i, name := range names[10:] {
			w.find(name, "ClusterUnreachable "+[]string{"unknown", "critical"}[i/100])
		}
		time.Sleep(10 * time.Second)
		w.got("the storm", "ops", "summary critical of 190")
		time.Sleep(time.Hour)
		for _, name := range names {
			w.find(name)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		m := ops.got[0]
		if len(m.Items) != maxItems || m.Omitted != 150 || !strings.Contains(m.Summary, "200 notifications in one, since they came faster than 10 a minute: over ×200") || m.Severity != receiver.StateInfo {
			t.Errorf("the end: %+v", m)
		}
		w.got("the end", "ops", "summary info of 200")
		w.empty("at the end")

		// A storm that comes drop by drop: never more than ten in any minute.
		ops.clear()
		for i := range 40 {
			w.find(names[i], "ClusterUnreachable critical")
			time.Sleep(5 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		told := 0
		for i, at := range ops.at {
			if n := len(ops.got[i].Items) + ops.got[i].Omitted; n > 0 {
				told += n
			} else {
				told++
			}
			if i >= 10 && at.Sub(ops.at[i-10]) < time.Minute {
				t.Errorf("eleven messages within %s", at.Sub(ops.at[i-10]))
			}
		}
		if told != 40 {
			t.Errorf("40 findings, and %d were told", told)
		}
		w.end()
	})
}

// A pager has one incident for a storm; it ends when the last of what was summed
// up is over, and not before. Incidents of their own end one by one, at once.
func TestAStormOfIncidents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pd := pager()
		names := fleetOf(60)
		w := newWorld(t, map[string]*inbox{"pager": pd}, names...)
		w.policy.After = 0
		w.start()
		for _, name := range names[:5] {
			w.find(name, "IssuerExpired critical")
			time.Sleep(5 * time.Second)
		}
		for _, name := range names[5:] {
			w.find(name, "IssuerExpired critical")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		incidents := func() (open []string) {
			is := map[string]bool{}
			for _, m := range pd.got {
				switch m.Event {
				case receiver.Opened, receiver.Escalated, receiver.Summary:
					is[m.DedupKey] = true
				case receiver.Cleared, receiver.SummaryEnd:
					is[m.DedupKey] = false
				}
			}
			for k, yes := range is {
				if yes {
					open = append(open, k)
				}
			}
			slices.Sort(open)
			return open
		}
		want := []string{"acme/c000/IssuerExpired", "acme/c001/IssuerExpired", "acme/c002/IssuerExpired", "acme/c003/IssuerExpired", "acme/c004/IssuerExpired", "acme/summary"}
		if got := incidents(); !slices.Equal(got, want) {
			t.Errorf("incidents %q, want %q", got, want)
		}
		w.end()
		w.start()
		for _, name := range names[:59] {
			w.find(name)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := incidents(); !slices.Equal(got, []string{"acme/summary"}) {
			t.Errorf("one is left: %q", got)
		}
		w.find(names[59])
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := incidents(); len(got) > 0 {
			t.Errorf("all is over: %q", got)
		}
		w.empty("at the end")
		w.end()
	})
}

// A pager that is down while things open, close and open again learns of what is
// so when it works again.
func TestAPagerIsNotToldOfWhatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pd := pager()
		names := fleetOf(30)
		w := newWorld(t, map[string]*inbox{"pager": pd}, names...)
		w.policy.After = 0
		pd.fails(errDown)
		w.start()
		for range 3 {
			for _, name := range names {
				w.find(name, "IssuerExpired critical")
			}
			time.Sleep(10 * time.Minute)
			for _, name := range names[1:] {
				w.find(name)
			}
			time.Sleep(10 * time.Minute)
		}
		pd.clear()
		pd.answers(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		opened := 0
		for _, m := range pd.got {
			if m.Event == receiver.Opened || m.Event == receiver.Summary {
				opened++
				for _, i := range m.Items {
					if i.Cluster != "c000" {
						t.Errorf("told of %s", i.Summary)
					}
				}
				if m.Event == receiver.Opened && m.Cluster != "c000" {
					t.Errorf("told of %s", line(m))
				}
			}
		}
		if opened != 1 {
			t.Errorf("%d incidents", opened)
		}
		w.empty("at the end")
		w.end()
	})
}

// What waits for a receiver that is down is bounded, whatever happens, and none of
// it goes without being counted.
func TestTheOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops, pd, am := slack(), pager(), alertBox()
		names := fleetOf(300)
		w := newWorld(t, map[string]*inbox{"ops": ops, "pager": pd, "am": am}, names...)
		w.policy.After = 0
		for _, b := range []*inbox{ops, pd, am} {
			b.fails(errDown)
		}
		w.start()
		told := 0
		for range 6 {
			for _, name := range names {
				w.find(name, "ClusterUnreachable critical")
			}
			time.Sleep(time.Minute)
			for _, name := range names {
				w.find(name)
			}
			time.Sleep(time.Minute)
			told += 600
		}
		known, err := w.journal.Notifications()
		if err != nil {
			t.Fatal(err)
		}
		waiting := map[string]int{}
		for _, o := range known.Outbox {
			waiting[o.Receiver]++
		}
		for name, n := range waiting {
			if n > maxWaiting+len(names) {
				t.Errorf("%d wait for %s", n, name)
			}
		}
		for _, b := range []*inbox{ops, pd, am} {
			b.clear()
			b.answers(nil)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		sum := 0
		for _, m := range ops.got {
			sum += max(1, len(m.Items)+m.Omitted)
		}
		// NotifyFailing was told of, too: not while all receivers fail.
		if sum != told {
			t.Errorf("%d events, and %d were told", told, sum)
		}
		w.empty("at the end")
		w.end()
	})
}

// What lasts is sent to Alertmanager each minute, with what is known of it now;
// what got worse ends its former alert, and what is over ends.
func TestAlertsAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		am := alertBox()
		w := newWorld(t, map[string]*inbox{"am": am}, "eu")
		w.policy.After = 0
		w.start()
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(10*time.Minute + 30*time.Second)
		synctest.Wait()
		if n := len(am.sends); n < 10 || n > 12 {
			t.Errorf("sent %d times in ten minutes", n)
		}
		am.clear()
		w.find("eu", "IssuerNotLoaded critical")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(am.sends) != 1 || am.got[0].Event != receiver.Escalated || am.got[0].Formerly != rotation.StateWarning || am.got[1].Severity != rotation.StateCritical {
			t.Errorf("worse: %+v", am.got)
		}
		w.end()
		am.clear()
		w.start()
		time.Sleep(10 * time.Second)
		w.got("after a restart", "am", "opened critical eu IssuerNotLoaded")
		am.fails(errDown)
		w.find("eu")
		time.Sleep(time.Minute)
		am.clear()
		am.answers(nil)
		time.Sleep(10 * time.Minute)
		w.got("over", "am", "cleared critical eu IssuerNotLoaded")
		w.end()
	})
}

// A message that its receiver refuses does not keep the next ones from it.
func TestARefusedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := slack()
		w := newWorld(t, map[string]*inbox{"ops": ops}, "eu")
		w.policy.After = 0
		ops.answers(func(_ int, m []receiver.Message) (bool, error) {
			if m[0].Finding != nil && m[0].Finding.ID == "ProxiesStale" {
				return false, &receiver.Failure{Why: "tell it: it answers 400 Bad Request", Refused: true}
			}
			return true, nil
		})
		w.start()
		w.find("eu", "ProxiesStale warning")
		time.Sleep(10 * time.Second)
		w.find("eu", "ProxiesStale warning", "WatchedOnly warning")
		time.Sleep(10 * time.Minute)
		w.got("the next one, and what was lost", "ops", "opened warning eu WatchedOnly", "summary warning of 2")
		w.empty("at the end")
		w.end()
	})
}

func TestDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := slack()
		w := newWorld(t, map[string]*inbox{"ops": ops, "am": alertBox()}, "eu", "us")
		schedule, err := rotation.ParseSchedule("0 9 * * MON", time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		w.policy.Digest = &Digest{Schedule: schedule, Receivers: []string{"ops", "am"}}
		breaks, end := time.Now().AddDate(0, 0, 80), time.Now().AddDate(9, 9, 0)
		w.st.NothingBreaksBefore, w.st.FirstToBreak = &breaks, &rotation.Break{Cluster: "eu", Kind: "issuer", At: breaks}
		w.st.Trust.Active = &rotation.AnchorStatus{ID: "g1", NotAfter: end}
		for _, step := range []rotation.Step{rotation.StepIssuer, rotation.StepWebhook, rotation.StepSign, rotation.StepStart} {
			w.entries = append(w.entries, rotation.Entry{Intent: rotation.Intent{Step: step}, Result: rotation.OK})
		}
		w.entries = append(w.entries, rotation.Entry{Intent: rotation.Intent{Step: rotation.StepIssuer}, Result: rotation.Failed})
		w.items = []rotation.PlanItem{{Step: rotation.StepIssuer}, {Step: rotation.StepIssuer}, {Step: rotation.StepWebhook}, {Step: rotation.StepBundle}}
		w.find("eu", "IssuerNotLoaded warning")
		w.start()
		time.Sleep(2*24*time.Hour + 8*time.Hour + 59*time.Minute) // from a Saturday, midnight
		w.got("not yet", "ops", "opened warning eu IssuerNotLoaded")
		time.Sleep(2 * time.Minute)
		const want = "digest 2 clusters, ok, 1 finding: 2 rotations done, 1 attempt failed, 3 due within a week, least time 77d 15h (eu), anchor 9y 275d"
		w.got("Monday", "ops", strings.Replace(want, "275d", "273d", 1))
		w.end()
		time.Sleep(3 * 7 * 24 * time.Hour)
		w.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(ops.lines()); n != 1 {
			t.Errorf("three that were missed are %d", n)
		}
		ops.clear()
		time.Sleep(4 * 24 * time.Hour)
		w.got("once", "ops")
		w.end()
	})
}

// broken is a journal that cannot be written for a while.
type broken struct {
	Journal
	mu  sync.Mutex
	err error
}

func (b *broken) Notify(c state.NotifyChange) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	return b.Journal.Notify(c)
}

func (b *broken) fails(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// Nothing is sent that is not on disk, but that there is no disk: of that people
// are told all the same, once.
func TestAJournalThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops, pd, am := slack(), pager(), alertBox()
		w := newWorld(t, map[string]*inbox{"ops": ops, "pager": pd, "am": am}, "eu")
		w.policy.After = 0
		disk := &broken{}
		w.wrap = func(j Journal) Journal { disk.Journal = j; return disk }
		w.start()
		time.Sleep(time.Minute)
		disk.fails(errors.New("no space left on device"))
		w.find("eu", "IssuerNotLoaded warning")
		time.Sleep(50 * time.Second)
		w.got("soon", "ops")
		time.Sleep(time.Hour)
		w.got("it is told of", "ops", "opened critical  JournalFailed")
		w.got("it is told of", "pager", "opened critical  JournalFailed")
		w.got("it is told of", "am", "opened critical  JournalFailed")
		disk.fails(nil)
		time.Sleep(time.Minute)
		w.got("what was held back", "ops", "opened warning eu IssuerNotLoaded")
		w.got("what was held back", "pager", "opened warning eu IssuerNotLoaded")

		// What was delivered and cannot be acknowledged is not sent again.
		ops.takes = 20 * time.Second
		w.find("eu")
		time.Sleep(15 * time.Second)
		disk.fails(errors.New("no space left on device"))
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if lines := ops.lines(); len(ops.got) != 2 || !slices.Equal(lines, []string{"cleared warning eu IssuerNotLoaded", "opened critical  JournalFailed"}) {
			t.Errorf("%q", lines)
		}
		disk.fails(nil)
		time.Sleep(time.Minute)
		w.empty("at the end")
		w.end()
	})
}
