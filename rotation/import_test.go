package rotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

// madeElsewhere is a trust anchor with its key, as somebody made it by hand.
func madeElsewhere(t *testing.T, lifetime time.Duration) (rotation.Anchor, pki.PrivateKey) {
	t.Helper()
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	crt, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: lifetime, Backdate: 10 * time.Minute}, key)
	if err != nil {
		t.Fatal(err)
	}
	return rotation.Anchor{Certificate: crt}, key
}

type imported struct {
	anchor    rotation.Anchor
	made      bool
	said, bad string
	err       error
}

func (w *world) importing(a rotation.Anchor, key pki.PrivateKey, creator rotation.Keys, wrap func(rotation.Journal) rotation.Journal, dry bool) (r imported) {
	w.t.Helper()
	j, err := state.Open(w.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	defer j.Close()
	var journal rotation.Journal = j
	if wrap != nil {
		journal = wrap(j)
	} else if _, err := rotation.SettleFleet(j); err != nil {
		w.t.Fatal(err)
	}
	into := func(s *string) func(string, ...any) {
		return func(format string, args ...any) { *s += fmt.Sprintf(format, args...) + "\n" }
	}
	r.anchor, r.made, r.err = rotation.Import{Journal: journal, Creator: creator, Signer: w.keys, Policy: w.policy, Actor: "lee@cli", Reason: "certd trust import", DryRun: dry,
		Certificate: a.Certificate, Key: key, Say: into(&r.said), Warn: into(&r.bad)}.Run(w.t.Context())
	return r
}

// onlyKeys is a key backend that takes no key that was made elsewhere.
type onlyKeys struct{ rotation.Keys }

func TestImport(t *testing.T) {
	lost := func(when memory.KeyFault) func(memory.KeyCall, string) memory.KeyFault {
		return func(c memory.KeyCall, _ string) memory.KeyFault {
			if c == memory.CallImportKey {
				return when
			}
			return memory.KeyFault{}
		}
	}
	for _, row := range []struct {
		sentence string
		life     time.Duration
		before   func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey)
		creator  func(w *world) rotation.Keys
		dry      bool
		made     bool
		err      error
		text     string // in what was said, in the warnings, or in the error
		imports  int    // that the key backend was asked for
	}{
		{sentence: "an empty world takes it", made: true, text: "a signature by it verifies", imports: 1},
		{sentence: "a dry run changes nothing", dry: true, text: "does not exist yet"},
		{sentence: "a second time finds it", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			if r := w.importing(a, key, w.keys, nil, false); r.err != nil || !r.made {
				w.t.Fatal(r.err)
			}
			return a, key
		}, text: "is there already", imports: 1},
		{sentence: "another fleet's anchor beside one that is there is refused", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.ceremony()
			return a, key
		}, err: errAny, text: "certd trust rotate changes it"},
		{sentence: "what certd init began is not taken over", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.keys.SetFaults(func(c memory.KeyCall, _ string) memory.KeyFault {
				if c == memory.CallSign {
					return memory.KeyFault{Err: rotation.ErrDenied}
				}
				return memory.KeyFault{}
			})
			if _, _, _, err := w.rite(nil, false); err == nil {
				w.t.Fatal("the ceremony went through")
			}
			w.keys.SetFaults(nil)
			return a, key
		}, err: errAny, text: "end it with certd init"},
		{sentence: "the key of another certificate is refused", before: func(w *world, a rotation.Anchor, _ pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			_, other := madeElsewhere(w.t, year)
			return a, other
		}, err: errAny, text: "not the certificate's"},
		{sentence: "a key that was wiped is refused", before: func(_ *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			key.Wipe()
			return a, key
		}, err: errAny, text: "not the certificate's"},
		{sentence: "an anchor that has ended is refused", life: time.Hour, before: func(_ *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			time.Sleep(2 * time.Hour)
			return a, key
		}, err: errAny, text: "it ended at"},
		{sentence: "one that ends soon is taken with two warnings", life: 50 * 24 * time.Hour, made: true, text: "trust.renewBefore is", imports: 1},
		{sentence: "a foreign key under the name is refused", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			if _, err := w.keys.CreateKey(context.Background(), "acme-anchor-1"); err != nil {
				w.t.Fatal(err)
			}
			return a, key
		}, err: rotation.ErrKeyUnfit, text: "the name acme-anchor-1 is taken"},
		{sentence: "its own key, put there by hand, is taken as it is", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			if _, err := w.keys.ImportKey(context.Background(), "acme-anchor-1", key); err != nil {
				w.t.Fatal(err)
			}
			return a, key
		}, made: true, text: "is there and fit to sign", imports: 1},
		{sentence: "a backend that takes no keys is named", creator: func(w *world) rotation.Keys { return onlyKeys{w.keys} }, err: rotation.ErrUnsupported, text: "takes no key that was made elsewhere"},
		{sentence: "the token may not", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.keys.SetFaults(lost(memory.KeyFault{Err: rotation.ErrDenied}))
			return a, key
		}, err: rotation.ErrDenied, text: "import key acme-anchor-1", imports: 1},
		{sentence: "an answer that was lost is looked for, not asked for again", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.keys.SetFaults(lost(memory.KeyFault{Err: rotation.ErrOutcomeUnknown, Lost: true}))
			return a, key
		}, made: true, text: "imported into memory", imports: 1},
		{sentence: "a request that was lost is told", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.keys.SetFaults(lost(memory.KeyFault{Err: rotation.ErrOutcomeUnknown}))
			return a, key
		}, err: rotation.ErrOutcomeUnknown, text: "looks for the key first", imports: 1},
		{sentence: "the key backend is away", before: func(w *world, a rotation.Anchor, key pki.PrivateKey) (rotation.Anchor, pki.PrivateKey) {
			w.keys.SetFaults(away)
			return a, key
		}, err: rotation.ErrUnavailable, text: "look for key"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east")
				w.policy.Trust.Renews = true
				life := row.life
				if life == 0 {
					life = 10 * year
				}
				a, key := madeElsewhere(t, life)
				if row.before != nil {
					a, key = row.before(w, a, key)
				}
				creator := rotation.Keys(w.keys)
				if row.creator != nil {
					creator = row.creator(w)
				}
				r := w.importing(a, key, creator, nil, row.dry)
				if r.made != row.made || (r.err == nil) != (row.err == nil) || row.err != nil && row.err != errAny && !errors.Is(r.err, row.err) {
					t.Errorf("imported %t, %v", r.made, r.err)
				}
				if text := r.said + r.bad + fmt.Sprint(r.err); !strings.Contains(text, row.text) {
					t.Errorf("says %q, want %q", text, row.text)
				}
				if r.err == nil && (r.anchor.ID != "g1" || r.anchor.Key != "acme-anchor-1" || !r.anchor.Imported || !r.anchor.Certificate.Equal(a.Certificate)) {
					t.Errorf("anchor %+v", r.anchor)
				}
				if got := w.keys.Calls(memory.CallImportKey); got != row.imports {
					t.Errorf("%d imports were asked for, want %d", got, row.imports)
				}
				if row.dry && len(w.keys.Signatures()) > 0 {
					t.Error("a dry run signed")
				}
			})
		})
	}
}

// errAny is any error, of no class.
var errAny = errors.New("some error")

const year = 365 * 24 * time.Hour

// Killed at each write of the journal, the import is typed again and ends with
// one key and one anchor; each signature is accounted for; certd then works
// under it. That it was imported stays on record.
func TestAnImportThatDies(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			died := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east")
				a, key := madeElsewhere(t, 10*year)
				r := w.importing(a, key, w.keys, func(j rotation.Journal) rotation.Journal {
					return &mortal{Journal: j, left: n, late: late, onEnd: func() { died = true; w.keys.SetFaults(away) }}
				}, false)
				if died == (r.err == nil) {
					t.Errorf("late %t, write %d: died %t, %v", late, n, died, r.err)
				}
				w.keys.SetFaults(nil)
				if r = w.importing(a, key, w.keys, nil, false); r.err != nil || r.anchor.Certificate == nil || w.keys.Calls(memory.CallImportKey) != 1 {
					t.Errorf("late %t, write %d: %+v, %d imports, %v", late, n, r.anchor.ID, w.keys.Calls(memory.CallImportKey), r.err)
				}
				w.start()
				time.Sleep(time.Minute)
				w.holds("after the import")
				w.accounted()
				if active := w.loop.Status().Trust.Active; active == nil || active.SHA256 != pki.Fingerprint(a.Certificate) || !active.Key.Imported {
					t.Errorf("late %t, write %d: the anchor is %+v", late, n, active)
				}
				steps := map[rotation.Step]int{}
				for _, e := range w.entries() {
					if e.Result == rotation.OK && e.Intent.Actor == "lee@cli" {
						steps[e.Intent.Step]++
					}
				}
				w.end()
				if steps[rotation.StepAnchor] != 1 || steps[rotation.StepImport] > 1 || steps[rotation.StepKey] > 0 {
					t.Errorf("late %t, write %d: recorded %v", late, n, steps)
				}
			})
			if !died || t.Failed() {
				if n < 6 {
					t.Errorf("late %t: only %d writes were seen", late, n-1)
				}
				break
			}
		}
	}
}
