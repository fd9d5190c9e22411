package rotation_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
	"certd.internal/state"
)

func (w *world) cluster(name string) rotation.ClusterStatus {
	w.t.Helper()
	for _, c := range w.loop.Status().Clusters {
		if c.Name == name {
			return c
		}
	}
	w.t.Fatalf("no cluster %s", name)
	return rotation.ClusterStatus{}
}

func (w *world) finding(name, id string) (f rotation.Finding, ok bool) {
	for _, f := range w.cluster(name).Findings {
		if f.ID == id {
			return f, true
		}
	}
	return f, false
}

func away(memory.KeyCall, string) memory.KeyFault {
	return memory.KeyFault{Err: rotation.ErrUnavailable}
}

// hang is a cluster that takes every call and never answers.
func hang(memory.Call) memory.ClusterFault { return memory.ClusterFault{Delay: 1000 * time.Hour} }

func settled(t *testing.T, names ...string) *world {
	w := newWorld(t, names...)
	w.ceremony()
	w.start()
	time.Sleep(time.Minute)
	return w
}

func TestVaultAwayForAsLongAsARepairMayTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		w.resync = 6 * time.Hour
		w.end()
		w.start()
		time.Sleep(time.Second)
		floor := *w.cluster("east").Issuer.MustRenewBy
		time.Sleep(time.Until(*w.cluster("east").Issuer.NextRun) - time.Minute)
		w.keys.SetFaults(away)
		time.Sleep(time.Until(floor.Add(12 * time.Hour)))
		if _, ok := w.finding("east", "StepFailed"); !ok {
			t.Errorf("nothing is said of it: %+v", w.cluster("east").Findings)
		}
		w.holds("before Vault is back")
		w.keys.SetFaults(nil)
		time.Sleep(6 * time.Minute)
		if got := w.cluster("east"); got.State != rotation.StateOK || time.Until(got.Issuer.Delivered.NotAfter) < 6*day {
			t.Errorf("Vault is back, and east is %s: %+v", got.State, got.Findings)
		}
		w.accounted()
		w.end()
	})
}

// A step that fails is tried again in a moment, however rarely certd looks
// when all is well.
func TestAFailedStepIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.resync = 6 * time.Hour
		w.ceremony()
		w.keys.SetFaults(away)
		w.start()
		time.Sleep(10 * time.Second)
		w.keys.SetFaults(nil)
		time.Sleep(20 * time.Second)
		if w.cluster("east").Issuer == nil {
			t.Errorf("no issuer 20 s after Vault had come back: %+v", w.cluster("east").Findings)
		}
		w.end()
	})
}

func TestAClusterOutOfReachForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east", "west")
		w.clusters["east"].SetFaults(func(memory.Call) memory.ClusterFault {
			return memory.ClusterFault{Err: rotation.ErrUnavailable}
		})
		time.Sleep(time.Hour)
		if got := w.cluster("east").State; got != rotation.StateUnknown {
			t.Errorf("east is %s while nobody can see it", got)
		}
		before := w.clusters["east"].Calls()[memory.CallObserve]
		time.Sleep(day)
		if n := w.clusters["east"].Calls()[memory.CallObserve] - before; n > 24*12+5 {
			t.Errorf("%d looks a day at a cluster that does not answer", n)
		}
		// certd is started anew meanwhile and still knows how long there is.
		w.end()
		w.start()
		time.Sleep(4 * day)
		s := w.loop.Status()
		if got := w.cluster("east"); got.State != rotation.StateCritical || got.Issuer == nil || got.Issuer.Delivered == nil || got.LastContact == nil || s.FirstToBreak.Cluster != "east" {
			t.Errorf("after five days: %s, issuer %+v, first to break %+v", got.State, got.Issuer, s.FirstToBreak)
		}
		if got := w.cluster("west").State; got != rotation.StateOK || s.State != rotation.StateCritical {
			t.Errorf("west is %s, the fleet %s", got, s.State)
		}
		w.clusters["east"].SetFaults(nil)
		time.Sleep(6 * time.Minute)
		w.holds("after its return")
		w.accounted()
		w.end()
	})
}

func TestNothingIsWrittenWhileClocksDisagree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east", "west")
		w.clusters["east"].SetClockSkew(time.Hour)
		before, signed := w.clusters["east"].Writes(), len(w.keys.Signatures())
		time.Sleep(3 * day)
		if _, ok := w.finding("east", "ClockSkew"); !ok || !maps.Equal(before, w.clusters["east"].Writes()) {
			t.Errorf("findings %+v, writes %v", w.cluster("east").Findings, w.clusters["east"].Writes())
		}
		if got := len(w.keys.Signatures()) - signed; got < 1 || got > 4 {
			t.Errorf("%d signatures for the cluster beside it and the canary", got)
		}
		w.clusters["east"].SetClockSkew(0)
		time.Sleep(2 * time.Minute)
		w.holds("the clock is right again")
		w.end()
	})
}

// Firings that came while certd was down or the host slept are made good by
// one renewal, not by one each.
func TestOneCatchUpAfterDays(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York"} {
		t.Run(zone, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "east")
				place, err := time.LoadLocation(zone)
				if err != nil {
					t.Fatal(err)
				}
				w.policy.Clusters[0].Issuer.Schedule, err = rotation.ParseSchedule("30 * * * *", place)
				if err != nil {
					t.Fatal(err)
				}
				w.policy.Clusters[0].Issuer.EveryFiring = true
				w.policy.Clusters[0].Issuer.Spread = 0
				w.ceremony()
				w.start()
				time.Sleep(time.Minute)
				w.end()
				time.Sleep(3*day + 7*time.Minute)
				before := w.clusters["east"].Writes()[rotation.IssuerObject]
				w.start()
				time.Sleep(15 * time.Minute)
				if got := w.clusters["east"].Writes()[rotation.IssuerObject] - before; got != 1 {
					t.Errorf("%d new issuers after three days of sleep", got)
				}
				time.Sleep(3 * time.Hour)
				if got := w.clusters["east"].Writes()[rotation.IssuerObject] - before; got != 4 {
					t.Errorf("%d new issuers after the catch-up and three firings", got)
				}
				w.accounted()
				w.end()
			})
		})
	}
}

// A rival that undoes every write costs little, and is named.
func TestARivalIsNotFoughtAndNamed(t *testing.T) {
	for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
		t.Run(object, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := settled(t, "east")
				before, signed := w.clusters["east"].Writes()[object], len(w.keys.Signatures())
				named := false
				for range 360 {
					w.clusters["east"].Edit(object, "argocd-controller", func(data map[string][]byte, _ *rotation.Marks) {
						for k := range data {
							data[k] = []byte("mine")
						}
					})
					time.Sleep(time.Minute)
					f, ok := w.finding("east", "RepairHeldBack")
					named = named || ok && strings.Contains(f.Message, "argocd-controller")
				}
				if got := w.clusters["east"].Writes()[object] - before; got < 6 || got > 6*14 {
					t.Errorf("%d repairs in six hours", got)
				}
				if got := len(w.keys.Signatures()) - signed; got > 6*11+1 {
					t.Errorf("%d signatures in six hours", got)
				}
				if !named {
					t.Error("the rival was not named")
				}
				time.Sleep(time.Hour)
				w.holds("the rival has gone")
				w.accounted()
				w.end()
			})
		})
	}
}

// A rival quicker than each write makes every write fail; signatures are
// bounded all the same.
func TestSignaturesAreBoundedWhereNoWriteLands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		signed := len(w.keys.Signatures())
		w.clusters["east"].SetFaults(func(c memory.Call) memory.ClusterFault {
			if c == memory.CallIssuer {
				return memory.ClusterFault{Err: rotation.ErrChanged}
			}
			return memory.ClusterFault{}
		})
		w.clusters["east"].Delete(rotation.IssuerObject)
		time.Sleep(6 * time.Hour)
		if got := len(w.keys.Signatures()) - signed; got < 10 || got > 6*10+10 {
			t.Errorf("%d signatures in six hours", got)
		}
		if _, ok := w.finding("east", "SignatureBudget"); !ok {
			t.Errorf("findings %+v", w.cluster("east").Findings)
		}
		w.clusters["east"].SetFaults(nil)
		time.Sleep(time.Hour)
		w.holds("writes land again")
		w.end()
	})
}

// What was signed before a restart counts after it, once: the journal has an issuer as it was
// signed, and as it was delivered.
func TestSignaturesCountOnceAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		ask := func() {
			w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			time.Sleep(time.Minute)
		}
		for range 6 {
			ask()
		}
		w.end()
		w.start()
		time.Sleep(time.Minute)
		was := w.cluster("east").Issuer.Delivered.Serial
		ask()
		if c := w.cluster("east"); c.Issuer.Delivered.Serial == was {
			t.Errorf("the eighth issuer of an hour is not made: %+v", c.Findings)
		}
		w.end()
	})
}

func TestAnIdleYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		w.resync = 6 * time.Hour
		for i := range w.policy.Clusters {
			s, err := rotation.ParseSchedule("0 3 1 1 *", time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			w.policy.Clusters[i].Issuer.Schedule, w.policy.Clusters[i].Issuer.Lifetime, w.policy.Clusters[i].Issuer.RenewBefore = s, 4*365*day, 365*day
		}
		w.ceremony()
		w.start()
		time.Sleep(time.Minute)
		writes, revisions := w.traces()
		signed := len(w.keys.Signatures())
		time.Sleep(365 * day)
		if now, rev := w.traces(); now != writes || rev != revisions {
			t.Errorf("in a year in which nothing was due: writes %s, before %s; revisions %s, before %s", now, writes, rev, revisions)
		}
		if got := len(w.keys.Signatures()) - signed; got > 366 || got < 360 {
			t.Errorf("%d canaries in a year", got)
		}
		w.accounted()
		w.end()
	})
}

func (w *world) traces() (writes, revisions string) {
	for _, p := range w.policy.Clusters {
		o, err := w.clusters[p.Cluster].Observe(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		writes += fmt.Sprint(w.clusters[p.Cluster].Writes())
		revisions += o.Bundle.Revision + "/" + o.Issuer.Revision + " "
	}
	return writes, revisions
}

func TestALostJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east", "west")
		w.end()
		writes, revisions := w.traces()
		w.dir = journalDir(t)
		w.start()
		time.Sleep(10 * time.Second)
		if now, rev := w.traces(); now != writes || rev != revisions {
			t.Errorf("learning from the world wrote: %s, before %s; %s, before %s", now, writes, rev, revisions)
		}
		for _, c := range w.loop.Status().Clusters {
			if c.State != rotation.StateOK || c.Mode != string(rotation.Managed) {
				t.Errorf("%s is %s, %s: %+v", c.Name, c.Mode, c.State, c.Findings)
			}
		}
		time.Sleep(4 * day)
		w.holds("four days later")
		w.end()
	})
}

// An anchor whose key the key backend does not have is not the fleet's, wherever it stands:
// who lost the journal does not learn it from the bundle, and puts that right.
func TestALostJournalDoesNotTakeAStrangersAnchor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east", "west")
		w.end()
		key, err := pki.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 3650 * day, Backdate: time.Hour}, key)
		if err != nil {
			t.Fatal(err)
		}
		east := w.clusters["east"]
		published := east.Data(rotation.BundleObject)["ca-bundle.crt"]
		east.Edit(rotation.BundleObject, "kubectl-edit", func(data map[string][]byte, _ *rotation.Marks) {
			data["ca-bundle.crt"] = append(slices.Clone(published), pki.EncodeCertificates(stranger)...)
		})
		w.dir = journalDir(t)
		w.start()
		time.Sleep(time.Minute)
		anchors, err := w.journal.Anchors()
		if err != nil || len(anchors) != 1 || anchors[0].Certificate.Equal(stranger) {
			t.Errorf("it learnt %d anchors, %v", len(anchors), err)
		}
		if now := east.Data(rotation.BundleObject)["ca-bundle.crt"]; !bytes.Equal(now, published) {
			t.Errorf("the bundle is\n%s", now)
		}
		w.holds("afterwards")
		w.end()
	})
}

// withoutKey has one key gone from the key backend.
func (w *world) withoutKey(name string) {
	w.keys.SetFaults(func(_ memory.KeyCall, key string) (f memory.KeyFault) {
		if key == name {
			f.Err = rotation.ErrKeyNotFound
		}
		return f
	})
}

// Of anchors that are retired, people destroy the keys: who lost the journal learns the one in
// use all the same.
func TestALostJournalAndADestroyedKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 17, "east", "west")
		c.begin()
		c.until("idle", 12*day)
		c.end()
		c.withoutKey("acme-anchor-1")
		c.dir = journalDir(t)
		c.start()
		time.Sleep(8 * day)
		c.stands("g2")
		c.end()
	})
}

// Amid a change of the trust anchor the journal is lost, and the key that the issuers are under
// first with it: it is not taken for a stranger's, and nothing is written before it is back.
func TestALostJournalAndALostKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 18, "east", "west")
		c.begin()
		c.until("restart", 12*day)
		c.end()
		writes, revisions := c.traces()
		c.withoutKey("acme-anchor-2")
		c.dir = journalDir(t)
		c.start()
		time.Sleep(time.Hour)
		if now, rev := c.traces(); now != writes || rev != revisions {
			t.Errorf("writes: %s, before %s; %s, before %s", now, writes, rev, revisions)
		}
		if !slices.ContainsFunc(c.loop.Status().Findings, func(f rotation.Finding) bool { return f.ID == "AnchorNotRecovered" }) {
			t.Errorf("findings %+v", c.loop.Status().Findings)
		}
		c.keys.SetFaults(nil)
		c.until("bridge", time.Hour)
		c.until("idle", 14*day)
		time.Sleep(day)
		c.stands("g2")
		c.end()
	})
}

// A journal that was restored from a backup knows of fewer starts than the
// clusters do; certd goes on all the same.
func TestAJournalRestoredFromABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.ceremony()
		backup := journalDir(t)
		if err := os.CopyFS(backup, os.DirFS(w.dir)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			w.start()
			w.clusters["east"].Delete(rotation.BundleObject)
			time.Sleep(time.Minute)
			w.end()
		}
		w.dir = backup
		w.start()
		w.clusters["east"].Edit(rotation.BundleObject, "kubectl", func(_ map[string][]byte, m *rotation.Marks) { m.Keep = false })
		time.Sleep(time.Minute)
		if c := w.cluster("east"); c.State != rotation.StateOK {
			t.Errorf("east is %s: %+v", c.State, c.Findings)
		}
		w.holds("after the restore")
		w.end()
	})
}

// Two daemons with a journal each: the one that started last goes on, the
// other one stops writing as soon as it sees that.
func TestTwoDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := settled(t, "east", "west")
		watch := old.oversee()
		time.Sleep(time.Hour)
		young := *old
		young.dir = journalDir(t)
		young.start()
		time.Sleep(time.Minute)
		old.clusters["east"].Edit(rotation.BundleObject, "kubectl", func(_ map[string][]byte, m *rotation.Marks) { m.Keep = false })
		time.Sleep(9 * day)
		for _, name := range []string{"east", "west"} {
			_, youngOut := young.finding(name, "Deposed")
			if youngOut {
				t.Errorf("the daemon that started last was deposed in %s", name)
			}
			if young.cluster(name).State != rotation.StateOK {
				t.Errorf("%s is %+v", name, young.cluster(name).Findings)
			}
		}
		out := 0
		for _, name := range []string{"east", "west"} {
			if _, ok := old.finding(name, "Deposed"); ok {
				out++
			}
		}
		if out == 0 {
			t.Error("the older daemon was deposed nowhere")
		}
		young.holds("two daemons")
		old.end()
		// Each signature is in one journal or the other.
		known := map[string]bool{}
		for _, w := range []*world{&young} {
			for _, d := range digests(t, w.journal) {
				known[d] = true
			}
		}
		j, err := state.Open(old.dir, state.Options{Fleet: "acme", NoSync: true, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range digests(t, j) {
			known[d] = true
		}
		j.Close()
		for _, s := range young.keys.Signatures() {
			if !known[s.Digest] {
				t.Errorf("nobody knows of signature %s", s.Digest)
			}
		}
		watch.report(t)
		young.end()
	})
}

func digests(t *testing.T, j *state.Journal) (d []string) {
	entries, err := j.Entries(state.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		d = append(d, e.Intent.Digest)
	}
	return d
}

func fifty() (names []string) {
	for i := range 50 {
		names = append(names, fmt.Sprintf("c%02d", i))
	}
	return names
}

// 49 clusters that hang until their deadline do not keep the fiftieth waiting:
// not at the start, not when it needs a repair, not when certd stops.
func TestHungClustersHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fifty()...)
		for _, c := range w.clusters {
			c.SetFaults(hang)
		}
		healthy := w.clusters["c49"] // the last in any order of names
		healthy.SetFaults(nil)
		w.ceremony()
		w.start()
		time.Sleep(10 * time.Second)
		if w.cluster("c49").State != rotation.StateOK {
			t.Fatalf("c49 is not valid 10 s after the start: %+v", w.cluster("c49").Findings)
		}
		for range 5 {
			time.Sleep(17 * time.Minute)
			healthy.Delete(rotation.BundleObject)
			time.Sleep(5 * time.Second)
			if o, err := healthy.Observe(t.Context()); err != nil || !o.Bundle.Exists {
				t.Errorf("the bundle of c49 was not repaired within 5 s: %v", err)
			}
		}
		begun := time.Now()
		w.end()
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("stopping took %s", took)
		}
	})
}

// Who waits for a rotation always gets an answer.
func TestEveryRequestIsAnswered(t *testing.T) {
	for _, row := range []struct {
		sentence string
		change   func(w *world)
		meantime func(w *world)
		result   rotation.Result
	}{
		{"the cluster is well", func(*world) {}, nil, rotation.OK},
		{"the cluster is out of reach", func(w *world) { w.clusters["east"].SetFaults(hang) }, nil, rotation.Failed},
		{"Vault is away", func(w *world) { w.keys.SetFaults(away) }, nil, rotation.Failed},
		{"the cluster's clock is wrong", func(w *world) { w.clusters["east"].SetClockSkew(time.Hour) }, nil, rotation.Failed},
		{"another daemon took over", func(w *world) {
			w.clusters["east"].Edit(rotation.BundleObject, "certd", func(_ map[string][]byte, m *rotation.Marks) { m.Epoch += 1e9 })
		}, nil, rotation.Failed},
		{"the cluster is taken out of the configuration", func(w *world) { w.clusters["east"].SetFaults(hang) }, func(w *world) {
			p := w.policy
			p.Clusters = nil
			if err := w.loop.Apply(p, nil); err != nil {
				w.t.Error(err)
			}
		}, rotation.Failed},
		{"certd is told to stop", func(w *world) { w.clusters["east"].SetFaults(hang) }, func(w *world) { w.stop() }, rotation.Failed},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := settled(t, "east")
				row.change(w)
				asked := time.Now()
				before := w.cluster("east").Issuer.Delivered.Serial
				results := w.loop.Rotate(rotation.TargetIssuer, []string{"east", "nowhere"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
				if r := <-results; r.Cluster != "nowhere" || r.Result != rotation.Failed {
					t.Errorf("a cluster nobody knows: %+v", r)
				}
				if row.meantime != nil {
					time.Sleep(2 * time.Second)
					row.meantime(w)
				}
				select {
				case r := <-results:
					if r.Cluster != "east" || r.Result != row.result || r.Result == rotation.OK && r.Serial == before || r.Result != rotation.OK && r.Detail == "" {
						t.Errorf("answered %+v, want %s", r, row.result)
					}
				case <-time.After(40 * time.Second):
					t.Error("no answer")
				}
				if took := time.Since(asked); row.meantime != nil && took > 3*time.Second {
					t.Errorf("the answer took %s", took)
				}
				w.end()
			})
		})
	}
}

// An issuer that was on its way before somebody asked for a new one is not
// the one that was asked for: the asker may know that its key is out.
func TestARequestWantsAnIssuerSignedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		w.clusters["east"].SetFaults(func(c memory.Call) memory.ClusterFault {
			if c == memory.CallIssuer {
				return memory.ClusterFault{Delay: 5 * time.Second}
			}
			return memory.ClusterFault{}
		})
		ask := func() <-chan rotation.RotateResult {
			return w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
		}
		first := ask()
		time.Sleep(3 * time.Second) // it is signed, and being written
		second := ask()
		a, b := <-first, <-second
		if a.Result != rotation.OK || b.Result != rotation.OK || a.Serial == b.Serial {
			t.Errorf("answered %+v, then %+v", a, b)
		}
		w.end()
	})
}

// Looks cost the API server: a step takes two, one to decide and one to see
// what came of it.
func TestLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		time.Sleep(10 * time.Minute)
		w.resync = 6 * time.Hour
		w.end()
		w.start()
		time.Sleep(time.Minute)
		before := w.clusters["east"].Calls()[memory.CallObserve]
		w.clusters["east"].Delete(rotation.BundleObject)
		time.Sleep(10 * time.Second)
		if got := w.clusters["east"].Calls()[memory.CallObserve] - before; got != 2 {
			t.Errorf("%d looks for one repair", got)
		}
		w.end()
	})
}

// Changing the policy changes what is decided next, and nothing at once.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		time.Sleep(time.Hour)
		writes, revisions := w.traces()
		p := w.policy
		p.Clusters = slices.Clone(p.Clusters)
		p.Clusters[0].Issuer.Lifetime, p.Clusters[0].Issuer.RenewBefore = 5*day, 40*time.Hour
		if err := w.loop.Apply(p, map[string]rotation.Cluster{"east": w.clusters["east"]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if now, rev := w.traces(); now != writes || rev != revisions {
			t.Errorf("a shorter lifetime wrote at once: %s, before %s", now, writes)
		}
		time.Sleep(7 * day)
		got := w.cluster("east")
		if d := got.Issuer.Delivered; got.State != rotation.StateOK || d.NotAfter.Sub(d.NotBefore) > 5*day {
			t.Errorf("a week later %s, %+v", got.State, d)
		}
		w.end()
	})
}

// slowLook is a cluster that takes a second to be looked at.
type slowLook struct{ rotation.Cluster }

func (s slowLook) Observe(ctx context.Context) (rotation.Observation, error) {
	time.Sleep(time.Second)
	return s.Cluster.Observe(ctx)
}

// A configuration that brings one cluster under two names has nothing written there,
// however late it shows.
func TestTwoNamesOfOneClusterByReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		time.Sleep(time.Hour)
		west := memory.NewCluster(memory.ClusterConfig{Name: "west", Namespace: "linkerd", TrustDomain: "cluster.local"})
		p := w.policy
		p.Clusters = append(slices.Clone(p.Clusters), weekly(t, "alias"), weekly(t, "west"))
		if err := w.loop.Apply(p, map[string]rotation.Cluster{"east": w.clusters["east"], "west": west, "alias": slowLook{west}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		for _, name := range []string{"alias", "west"} {
			if _, ok := w.finding(name, "SameCluster"); !ok {
				t.Errorf("%s: no SameCluster among %+v", name, w.cluster(name).Findings)
			}
		}
		if calls := west.Calls(); calls[memory.CallBundle]+calls[memory.CallIssuer] != 0 {
			t.Errorf("written to under two names: %v", calls)
		}
		w.end()
	})
}

// Everything that may be called at the same time is, while a fleet comes up.
func TestCallsFromAllSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fifty()...)
		w.ceremony()
		w.start()
		var calls sync.WaitGroup
		all := map[string]rotation.Cluster{}
		for name, c := range w.clusters {
			all[name] = c
		}
		for i := range 8 {
			calls.Go(func() {
				for range 40 {
					switch i % 4 {
					case 0:
						w.loop.Status()
					case 1:
						w.loop.Rotate(rotation.TargetIssuer, fifty(), rotation.Request{Actor: "lee@cli", Reason: "drill"})
					case 2:
						w.loop.Plan(time.Now().Add(day), true)
					case 3:
						if err := w.loop.Apply(w.policy, all); err != nil {
							t.Error(err)
						}
					}
					time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				}
			})
		}
		calls.Wait()
		time.Sleep(time.Minute)
		w.holds("after the rush")
		for _, c := range w.loop.Status().Clusters {
			if c.State != rotation.StateOK {
				t.Errorf("%s is %s: %+v", c.Name, c.State, c.Findings)
			}
		}
		w.accounted()
		w.end()
	})
}

// An answer that was lost is no failure: certd looks, finds what it had
// written, records that, and does nothing twice.
func TestALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, "east")
		signed, before := len(w.keys.Signatures()), w.clusters["east"].Writes()[rotation.IssuerObject]
		w.clusters["east"].SetFaults(func(c memory.Call) memory.ClusterFault {
			if c == memory.CallIssuer {
				return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: true}
			}
			return memory.ClusterFault{}
		})
		r := <-w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
		time.Sleep(time.Minute)
		if r.Result != rotation.OK || len(w.keys.Signatures()) != signed+1 || w.clusters["east"].Writes()[rotation.IssuerObject] != before+1 {
			t.Errorf("answered %+v, %d signatures, writes %v", r, len(w.keys.Signatures())-signed, w.clusters["east"].Writes())
		}
		certs, err := w.journal.Certificates("east", 1, time.Time{})
		if err != nil || certs[0].Serial != r.Serial || certs[0].DeliveredAt.IsZero() {
			t.Errorf("in the journal: %+v, %v", certs[0], err)
		}
		if n := w.count(func(e rotation.Entry) bool { return e.Result != rotation.OK }); n > 0 {
			t.Errorf("%d entries say that something failed", n)
		}
		w.end()
	})
}

// When nobody can look either, the step stays open until somebody can.
func TestALostAnswerAndNobodyCanLook(t *testing.T) {
	for _, landed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := settled(t, "east")
			dark := false
			w.clusters["east"].SetFaults(func(c memory.Call) memory.ClusterFault {
				if c == memory.CallIssuer {
					dark = true
					return memory.ClusterFault{Err: rotation.ErrOutcomeUnknown, Lost: landed}
				}
				if dark {
					return memory.ClusterFault{Err: rotation.ErrUnavailable}
				}
				return memory.ClusterFault{}
			})
			results := w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			time.Sleep(time.Minute)
			open, err := w.journal.Pending()
			if err != nil || len(open) != 1 || open[0].Step != rotation.StepIssuer {
				t.Fatalf("open intents %+v, %v", open, err)
			}
			<-results
			w.clusters["east"].SetFaults(nil)
			time.Sleep(6 * time.Minute)
			if open, err := w.journal.Pending(); err != nil || len(open) > 0 {
				t.Errorf("still open: %+v, %v", open, err)
			}
			want := rotation.Abandoned
			if landed {
				want = rotation.OK
			}
			if n := w.count(func(e rotation.Entry) bool { return e.IntentID == open[0].ID && e.Result == want }); n != 1 {
				t.Errorf("landed %t: the step is not recorded as %s", landed, want)
			}
			w.holds("seen again")
			w.accounted()
			w.end()
		})
	}
}
