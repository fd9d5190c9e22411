package rotation_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// mortal is a journal whose process dies at its nth write: before it is on
// disk or, with late, right after. Nothing works from then on.
type mortal struct {
	rotation.Journal
	mu    sync.Mutex
	left  int
	late  bool
	dead  bool
	onEnd func()
}

var errDead = errors.New("the process is dead")

func (m *mortal) write(do func() error) error {
	m.mu.Lock()
	if !m.dead {
		m.left--
		if m.left > 0 {
			m.mu.Unlock()
			return do()
		}
		m.dead = true
		late := m.late
		m.mu.Unlock()
		m.onEnd()
		if late {
			_ = do() // on disk, and nobody hears of it
		}
		return errDead
	}
	m.mu.Unlock()
	return errDead
}

func (m *mortal) Begin(in rotation.Intent) (id uint64, err error) {
	err = m.write(func() error { id, err = m.Journal.Begin(in); return err })
	return id, err
}
func (m *mortal) Finish(id uint64, out rotation.Outcome) error {
	return m.write(func() error { return m.Journal.Finish(id, out) })
}
func (m *mortal) SaveCluster(c rotation.ClusterRecord) error {
	return m.write(func() error { return m.Journal.SaveCluster(c) })
}

// overseer looks at every change of a cluster: a chain that was valid stays
// so until a hand breaks it, and epochs never go back.
type overseer struct {
	mu     sync.Mutex
	valid  map[string]bool
	last   map[string]rotation.Observation
	broken []string
}

func (w *world) oversee() *overseer {
	s := &overseer{valid: map[string]bool{}, last: map[string]rotation.Observation{}}
	for _, p := range w.policy.Clusters {
		c := w.clusters[p.Cluster]
		go c.Watch(w.t.Context(), func() {
			o, err := c.Observe(w.t.Context())
			if err != nil {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			v := rotation.View{Policy: p, Observed: &o, Certificates: []rotation.CertificateRecord{{DeliveredAt: time.Now()}}}
			bad := rotation.Violations(rotation.Fleet{Policy: w.policy}, v, time.Now())
			if s.valid[p.Cluster] && len(bad) > 0 {
				s.broken = append(s.broken, fmt.Sprintf("%s: %+v", time.Now(), bad))
			}
			s.valid[p.Cluster] = len(bad) == 0
			if was, ok := s.last[p.Cluster]; ok {
				for _, r := range rotation.Regressions(p.Cluster, was, o) {
					s.broken = append(s.broken, r.Message)
				}
			}
			s.last[p.Cluster] = o
		})
	}
	synctest.Wait()
	return s
}

// hand is what a person does by intent: what it breaks is not certd's doing.
func (s *overseer) hand(cluster string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid[cluster] = false
}

func (s *overseer) report(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.broken {
		t.Error(b)
	}
}

// Killed at each write of the journal, during its first steps, a renewal and a
// repair, certd always comes to the same end, with each signature accounted
// for and no valid chain lost on the way.
func TestACrashAtAnyWriteOfTheJournal(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"first steps", "renewal", "repair"} {
		for _, late := range []bool{false, true} {
			for _, lost := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, late %t, lost %t", phase, late, lost), func(t *testing.T) {
					deaths := 0
					for n := 1; ; n++ {
						died := false
						synctest.Test(t, func(t *testing.T) { died = dieAt(t, phase, n, late, lost) })
						if !died || t.Failed() {
							break
						}
						deaths++
					}
					if deaths < 4 {
						t.Errorf("only %d writes were seen", deaths)
					}
				})
			}
		}
	}
}

// dieAt says whether the phase had an nth write. With lost, calls that are
// under way when the process dies take effect all the same.
func dieAt(t *testing.T, phase string, n int, late, lost bool) (died bool) {
	w := newWorld(t, "east")
	w.ceremony()
	watch := w.oversee()
	if phase != "first steps" {
		w.start()
		time.Sleep(time.Minute)
		next := *w.loop.Status().Clusters[0].Issuer.NextRun
		w.end()
		if phase == "renewal" {
			time.Sleep(time.Until(next) - time.Minute)
		}
	}
	w.resync = 6 * time.Hour
	signed := len(w.keys.Signatures())
	var m *mortal
	w.wrap = func(j rotation.Journal) rotation.Journal {
		m = &mortal{Journal: j, left: n, late: late, onEnd: func() {
			for _, c := range w.clusters {
				c.SetFaults(func(memory.Call) memory.ClusterFault {
					return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: lost}
				})
			}
			w.keys.SetFaults(func(memory.KeyCall, string) memory.KeyFault {
				return memory.KeyFault{Err: rotation.ErrUnavailable}
			})
		}}
		return m
	}
	w.start()
	before := w.clusters["east"].Writes()
	switch phase {
	case "renewal":
		time.Sleep(2 * time.Minute)
	case "repair":
		watch.hand("east")
		w.clusters["east"].Delete(rotation.IssuerObject)
		time.Sleep(10 * time.Second)
	default:
		time.Sleep(10 * time.Second)
	}
	m.mu.Lock()
	died = m.dead
	m.mu.Unlock()
	// A dead process ends without a word; what it held in memory is lost.
	w.end()
	w.clusters["east"].SetFaults(nil)
	w.keys.SetFaults(nil)
	w.wrap = nil
	w.start()
	time.Sleep(time.Minute)
	w.holds(fmt.Sprintf("died at write %d", n))
	w.accounted()
	for _, c := range w.loop.Status().Clusters {
		if c.State != rotation.StateOK {
			t.Errorf("died at write %d: %s is %s: %+v", n, c.Name, c.State, c.Findings)
		}
	}
	if pending, err := w.journal.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("died at write %d: open intents %+v, %v", n, pending, err)
	}
	if r, err := w.journal.Verify(); err != nil || r.BadSeq != 0 {
		t.Errorf("died at write %d: the chain does not hold: %+v, %v", n, r, err)
	}
	canaries := w.count(func(e rotation.Entry) bool { return e.Intent.Step == rotation.StepCanary })
	if got := len(w.keys.Signatures()) - signed - canaries; got > 2 {
		t.Errorf("died at write %d: %d signatures where one was needed", n, got)
	}
	if got := w.clusters["east"].Writes()[rotation.IssuerObject] - before[rotation.IssuerObject]; got > 2 {
		t.Errorf("died at write %d: the issuer was written %d times", n, got)
	}
	// What the journal says was delivered is what is there.
	certs, err := w.journal.Certificates("east", 1, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.clusters["east"].Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.Issuer.Marks.Serial != certs[0].Serial || certs[0].DeliveredAt.IsZero() {
		t.Errorf("died at write %d: the newest issuer in the journal is %s, delivered %s; in the cluster is %s", n, certs[0].Serial, certs[0].DeliveredAt, o.Issuer.Marks.Serial)
	}
	watch.report(t)
	w.end()
	return died
}

// count counts the journal's entries.
func (w *world) count(is func(rotation.Entry) bool) (n int) {
	w.t.Helper()
	entries, err := w.journal.Entries(state.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if is(e) {
			n++
		}
	}
	return n
}

// forgetful is a journal that cannot take down what came of signatures, as on
// a disk that fills up.
type forgetful struct {
	rotation.Journal
	mu    sync.Mutex
	signs map[uint64]bool
	full  bool
}

func (f *forgetful) Begin(in rotation.Intent) (uint64, error) {
	id, err := f.Journal.Begin(in)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signs[id] = in.Step == rotation.StepSign
	return id, err
}

func (f *forgetful) Finish(id uint64, out rotation.Outcome) error {
	f.mu.Lock()
	full := f.full && f.signs[id]
	f.mu.Unlock()
	if full {
		return errors.New("no space left on device")
	}
	return f.Journal.Finish(id, out)
}

// A signature whose outcome is not on disk is used for nothing.
func TestASignatureThatCannotBeRecordedIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.ceremony()
		f := &forgetful{signs: map[uint64]bool{}, full: true}
		w.wrap = func(j rotation.Journal) rotation.Journal { f.Journal = j; return f }
		w.start()
		time.Sleep(10 * time.Minute)
		if n := w.clusters["east"].Writes()[rotation.IssuerObject]; n > 0 {
			t.Errorf("%d issuers were written whose signatures nobody recorded", n)
		}
		if n := len(w.keys.Signatures()); n > 12 {
			t.Errorf("%d signatures meanwhile", n)
		}
		f.mu.Lock()
		f.full = false
		f.mu.Unlock()
		time.Sleep(time.Hour)
		w.holds("there is space again")
		w.accounted()
		w.end()
	})
}
