package rotation

import (
	"context"
	"crypto"
	"crypto/rand"
	"runtime"
	"strings"
	"testing"
	"time"

	"certd.internal/pki"
)

// A cluster that answers and needs something comes before one that did not
// answer the last time, though nothing is known of when that one breaks; then
// the least time to an outage counts. No more are taken than there are slots.
func TestWhoComesFirst(t *testing.T) {
	b := newBench(t)
	r := &Reconciler{journal: stopped{at: hours(1)}, atOnce: 2, resync: time.Minute, members: map[string]*member{}, nextCare: time.Now().Add(time.Hour)}
	for name, fails := range map[string]int{"a-sick": 3, "b-well": 0, "c-new": 0, "d-sick": 1} {
		m := &member{name: name, lookFails: fails}
		if name == "b-well" {
			m.decision.Issuer = b.view.Observed.IssuerFacts.Chain[0]
		}
		r.members[name] = m
	}
	take := func() (names []string) {
		due, _ := r.due(clockReading{time.Now().Round(0), time.Now()})
		for _, m := range due {
			names = append(names, m.name)
		}
		return names
	}
	if got := take(); len(got) != 2 || got[0] != "c-new" || got[1] != "b-well" {
		t.Errorf("first come %v", got)
	}
	if got := take(); len(got) != 0 {
		t.Errorf("%v begin although no slot is free", got)
	}
	r.slots = 0
	for _, name := range []string{"e-was-sick", "f-was-well"} {
		r.members[name] = &member{name: name, record: ClusterRecord{LastContact: hours(1)}}
	}
	r.members["e-was-sick"].record.Error = "it hung"
	r.members["g-new"] = &member{name: "g-new"}
	if got := take(); len(got) != 2 || got[0] != "f-was-well" || got[1] != "g-new" {
		t.Errorf("after a start first come %v", got)
	}
	r.slots = 0
	if got := take(); len(got) != 2 || got[0] != "a-sick" || got[1] != "d-sick" {
		t.Errorf("then come %v", got)
	}
}

// stopped is a journal of which the clock alone is asked.
type stopped struct {
	Journal
	at time.Time
}

func (s stopped) Now() time.Time { return s.at }

// The Reconciler's lock is taken before a member's, never after: callers from
// outside hold the first and want the second.
func TestLockOrder(t *testing.T) {
	b := newBench(t)
	for _, out := range []Outcome{{Result: OK, Anchor: &b.fleet.Anchors[0], Certificate: &b.view.Certificates[0]}, {Result: OK, Checked: &b.fleet.Anchors[0]}, {Result: OK, Certificate: &b.view.Certificates[0]}} {
		r := &Reconciler{journal: stopped{at: hours(1)}, members: map[string]*member{}}
		m := &member{name: "eu"}
		r.mu.Lock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.remember(m, Intent{Step: StepIssuer}, out)
		}()
		for waiting := false; !waiting; {
			runtime.Gosched()
			select {
			case <-done:
				waiting = true
			default:
				waiting = waitsIn("(*Reconciler).remember")
			}
		}
		if !m.mu.TryLock() {
			t.Error("a member's lock is held while the Reconciler's is waited for")
		} else {
			m.mu.Unlock()
		}
		r.mu.Unlock()
		<-done
	}
}

// waitsIn says whether a goroutine waits for a lock in a function.
func waitsIn(function string) bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		if head, rest, _ := strings.Cut(g, "\n"); strings.Contains(head, "sync.Mutex.Lock") && strings.Contains(rest, function+"(") {
			return true
		}
	}
	return false
}

// A slot is given back once: when the pass ends or has had it for long enough.
func TestASlotIsGivenBackOnce(t *testing.T) {
	r := &Reconciler{slots: 1, wake: make(chan struct{}, 1)}
	free := r.slot()
	free()
	free()
	if r.slots != 0 {
		t.Errorf("%d slots are taken", r.slots)
	}
}

// Certd that is told to stop in the middle of a look has learnt nothing about
// the cluster.
func TestALookThatIsCutShortIsNoFailure(t *testing.T) {
	r := &Reconciler{journal: stopped{at: hours(1)}, members: map[string]*member{}}
	ctx, cancel := context.WithCancel(t.Context())
	m := &member{name: "eu", cluster: stops{cancel: cancel}}
	if err := r.observe(ctx, m); err == nil || m.obsErr != nil || m.lookFails != 0 {
		t.Errorf("%v; kept %v, %d failures", err, m.obsErr, m.lookFails)
	}
}

// stops is a cluster during whose look certd is told to stop.
type stops struct {
	Cluster
	cancel func()
}

func (s stops) Observe(ctx context.Context) (Observation, error) {
	s.cancel()
	return Observation{}, ctx.Err()
}

// An issuer whose leaves would not verify under the bundle it is for is thrown
// away.
func TestAnIssuerIsProvedBeforeItIsUsed(t *testing.T) {
	b, other := newBench(t), newBench(t)
	s := signer{deaf{}, keyring{b.key}}
	p := pki.IssuerProfile{Namespace: "linkerd", TrustDomain: "cluster.local", Lifetime: 168 * time.Hour, Backdate: 10 * time.Minute}
	if _, _, err := s.issuer(t.Context(), b.fleet.Anchors[:1], b.bundle, p, caller{"eu", "certd", "test"}, hours(1)); err != nil {
		t.Errorf("under its own bundle: %v", err)
	}
	if _, _, err := s.issuer(t.Context(), b.fleet.Anchors[:1], other.bundle, p, caller{"eu", "certd", "test"}, hours(1)); err == nil {
		t.Error("an issuer that the bundle does not lead to passed")
	}
}

// deaf is a journal that takes everything down and keeps nothing.
type deaf struct{ Journal }

func (deaf) Begin(Intent) (uint64, error) { return 1, nil }
func (deaf) Finish(uint64, Outcome) error { return nil }

// keyring holds one key under every name.
type keyring struct{ key pki.PrivateKey }

func (k keyring) CreateKey(context.Context, string) (Key, error) { return nil, ErrKeyExists }
func (k keyring) OpenKey(context.Context, string, crypto.PublicKey) (Key, error) {
	return k, nil
}
func (k keyring) Close() error  { return nil }
func (k keyring) Info() KeyInfo { return KeyInfo{Backend: "test", Public: k.key.Public()} }
func (k keyring) SignDigest(_ context.Context, digest []byte) (Signature, error) {
	text, err := k.key.Sign(rand.Reader, digest, crypto.SHA256)
	return Signature{ASN1: text}, err
}
