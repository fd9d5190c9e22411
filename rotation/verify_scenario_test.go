package rotation_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
	"certd.internal/state"
)

// verify is what `certd verify` says now.
func (c *changing) verify() rotation.Verification {
	c.t.Helper()
	e := c.loop.Evidence(c.t.Context())
	r, err := c.journal.Verify()
	if err == nil {
		e.Journal = rotation.JournalEvidence{Entries: r.Entries, First: r.First, Last: r.Last, BadSeq: r.BadSeq, Problem: r.Problem}
		e.Journal.Open, err = c.journal.Pending()
	}
	if err == nil {
		e.Journal.Recent, err = c.journal.Entries(state.Filter{Since: e.At.Add(-day)})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return rotation.Verify(e)
}

// pair is an ordered pair of clusters: whose leaves, before whose pods.
type pair struct{ peer, verifier string }

// refusing are the pairs of which some handshake would fail now. One with a pod
// whose own certificate has ended fails whoever the other is.
func (c *changing) refusing() map[pair]string {
	in := func(pod string) string { _, cluster, _ := strings.Cut(pod, " in "); return cluster }
	all := map[pair]string{}
	for _, r := range c.mesh.Broken() {
		all[pair{in(r.Peer), in(r.Verifier)}] = r.String()
		for name := range c.clusters {
			if strings.Contains(r.Err.Error(), "has expired") {
				all[pair{in(r.Peer), name}], all[pair{name, in(r.Peer)}] = r.String(), r.String()
			}
		}
	}
	return all
}

// verdicts counts what was said of pairs, and since when one is refused or was.
type verdicts struct {
	accepted, refused, unknown int
	broken                     map[pair]time.Time // when a handshake of the pair last failed
	early                      map[pair]time.Time // refused, and no handshake failed since
}

// compare holds what `certd verify` says against the handshakes of the mesh:
// what it calls accepted is accepted, and what it calls refused is refused, or
// was or comes to be within the time that leaves live.
func (c *changing) compare(seen *verdicts) rotation.Verification {
	c.t.Helper()
	if seen.broken == nil {
		seen.broken, seen.early = map[pair]time.Time{}, map[pair]time.Time{}
	}
	doc := c.verify()
	refusing := c.refusing()
	for p := range refusing {
		seen.broken[p] = time.Now()
		delete(seen.early, p)
	}
	const lives = leaf + 40*time.Second + 11*time.Minute // a drain
	for _, v := range doc.Matrix {
		p := pair{v.Peer, v.Verifier}
		text, broken := refusing[p]
		if v.State != rotation.PairRefused {
			delete(seen.early, p)
		}
		switch v.State {
		case rotation.PairAccepted:
			seen.accepted++
			if broken {
				c.t.Errorf("%s, stage %s: %s -> %s is said to be accepted (%s), and %s", time.Now().Format(time.RFC3339), c.rotation().Stage, v.Peer, v.Verifier, v.Why, text)
			}
		case rotation.PairRefused:
			seen.refused++
			if was := seen.broken[p]; !broken && time.Since(was) > lives {
				if since, known := seen.early[p]; !known {
					seen.early[p] = time.Now()
				} else if time.Since(since) > lives {
					c.t.Errorf("%s, stage %s: %s -> %s is said to be refused (%s), and nothing is", time.Now().Format(time.RFC3339), c.rotation().Stage, v.Peer, v.Verifier, v.Why)
				}
			}
		default:
			seen.unknown++
		}
	}
	if c.t.Failed() {
		c.t.FailNow()
	}
	return doc
}

func promiseOf(doc rotation.Verification, id string) rotation.PromiseVerdict {
	i := slices.IndexFunc(doc.Promises, func(p rotation.PromiseVerdict) bool { return p.ID == id })
	return doc.Promises[i]
}

// minute lets one pass, and has people restart something that is asked for.
func (c *changing) minute() {
	time.Sleep(pace * time.Minute)
	c.obey()
}

// In each minute of a change that goes well every pair is accepted, every promise
// holds, and the handshakes say the same.
func TestAChangeIsVerifiedInEachMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 1, "east", "north", "west")
		c.begin()
		var seen verdicts
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 10*day; c.minute() {
			doc := c.compare(&seen)
			for _, p := range doc.Promises {
				if p.State != rotation.StateOK || p.At == nil {
					t.Fatalf("%s, stage %s: %s is %s of %v: %q %q", time.Now().Format(time.RFC3339), c.rotation().Stage, p.ID, p.State, p.At, p.Evidence, p.Unseen)
				}
			}
			if doc.State != rotation.StateOK || doc.Pairs.Accepted != 9 || doc.Pairs.Until == nil || time.Until(*doc.Pairs.Until) < 3*day {
				t.Fatalf("%s: %s, %+v", time.Now().Format(time.RFC3339), doc.State, doc.Pairs)
			}
			c.sound()
		}
		if seen.accepted < 9*600/pace {
			t.Errorf("only %d verdicts were compared", seen.accepted)
		}
		c.end()
	})
}

// Certd is started anew again and again, and the change is turned around when it
// is nearly through. What a certd that has just started does not know, it calls
// unknown; it calls nothing accepted that is refused, nor the reverse.
func TestAChangeIsVerifiedByACertdThatHasJustStarted(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"spread", "finish"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newChanging(t, 9, "east", "west")
				c.begin()
				var seen verdicts
				turned := false
				for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 15*day; c.minute() {
					if c.chance.IntN(20) == 0 {
						c.end()
						c.start()
						time.Sleep(time.Duration(c.chance.IntN(90)) * time.Second)
					}
					c.compare(&seen)
					if !turned && c.rotation().Stage == stage {
						time.Sleep(time.Duration(c.chance.IntN(60)) * time.Minute)
						if _, err := c.loop.SteerChange(rotation.ChangeRollback, nil, "lee@cli", "drill"); err != nil {
							t.Fatal(err)
						}
						turned = true
					}
					c.sound()
				}
				// A pair is unknown for minutes after a start, not for a leaf's life.
				if seen.refused > 0 || seen.unknown > 4*30 || seen.accepted < 4*900/pace {
					t.Errorf("accepted %d times, refused %d, unknown %d", seen.accepted, seen.refused, seen.unknown)
				}
				c.end()
			})
		})
	}
}

// Whoever goes on without a cluster cuts it off: that is told of each pair from
// the moment on that it is so, though the cluster cannot be seen.
func TestWhoIsGoneOnWithoutIsToldOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 4, "east", "north", "west")
		c.begin()
		c.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		if _, err := c.loop.SteerChange(rotation.ChangeAdvance, []string{"west"}, "lee@cli", "drill"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // until it has been looked at, what was seen before counts
		var seen verdicts
		for begun := time.Now(); c.rotation().Stage != "retire" && time.Since(begun) < 10*day; c.minute() {
			doc := c.compare(&seen)
			for _, v := range doc.Matrix {
				if west := v.Peer == "west" || v.Verifier == "west"; west && v.State == rotation.PairAccepted || !west && v.State != rotation.PairAccepted {
					t.Fatalf("%s -> %s: %s: %s", v.Peer, v.Verifier, v.State, v.Why)
				}
			}
		}
		time.Sleep(2 * leaf) // its issuers are still good
		doc, refusing := c.compare(&seen), c.refusing()
		for _, v := range doc.Matrix {
			if _, broken := refusing[pair{v.Peer, v.Verifier}]; broken != (v.State == rotation.PairRefused) {
				t.Errorf("%s -> %s: %s: %s", v.Peer, v.Verifier, v.State, v.Why)
			}
		}
		if len(refusing) != 4 || doc.State != rotation.StateCritical || promiseOf(doc, "I1").State != rotation.StateCritical || promiseOf(doc, "I11").State != rotation.StateOK {
			t.Errorf("%d pairs refuse, %s: %+v", len(refusing), doc.State, doc.Promises)
		}
		c.clusters["west"].SetFaults(nil)
		time.Sleep(time.Minute)
		for begun := time.Now(); len(c.mesh.Broken()) > 0 && time.Since(begun) < day; c.minute() {
			c.compare(&seen)
		}
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 10*day; c.minute() {
			if time.Since(begun)%(5*time.Minute) < time.Minute { // what takes a day
				c.compare(&seen)
			}
		}
		if doc := c.compare(&seen); doc.Pairs.Accepted != 9 || doc.State != rotation.StateOK {
			t.Errorf("after it is back: %+v: %+v", doc.Pairs, doc.Promises)
		}
		if seen.accepted < 5000/pace || seen.refused < 1000/pace {
			t.Errorf("accepted %d times, refused %d, unknown %d", seen.accepted, seen.refused, seen.unknown)
		}
		c.end()
	})
}

// A pod that nobody could see and that refuses the others is told of as soon as
// a census shows it; until then, where a census fails, nothing is called accepted.
func TestAStalePodIsToldOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 5, "east", "west")
		hidden := "app/app-1-2"
		c.clusters["west"].HideProxy(hidden)
		c.begin()
		c.until("restart", 10*day)
		c.asked["west app-1"] = time.Now().Add(1000 * day)
		c.clusters["west"].RestartProxy("app/app-1-0")
		c.clusters["west"].RestartProxy("app/app-1-1")
		for begun := time.Now(); c.rotation().Stage != "finish" && time.Since(begun) < 10*day; c.minute() {
		}
		time.Sleep(3*leaf + time.Second) // its own certificate has ended, too; and no census is of this very moment
		c.clusters["west"].SetFaults(func(call memory.Call) memory.ClusterFault {
			if call == memory.CallProxies {
				return memory.ClusterFault{Err: rotation.ErrUnavailable}
			}
			return memory.ClusterFault{}
		})
		c.clusters["west"].ShowProxy(hidden)
		var seen verdicts
		doc := c.compare(&seen)
		for _, v := range doc.Matrix {
			if v.Verifier == "west" && (v.State != rotation.PairUnknown || !strings.Contains(v.Why, "could not be counted")) {
				t.Errorf("%s -> %s: %s: %s", v.Peer, v.Verifier, v.State, v.Why)
			}
		}
		if honest := promiseOf(doc, "I12"); honest.State != rotation.StateUnknown || len(honest.Unseen) == 0 || doc.State != rotation.StateUnknown {
			t.Errorf("%s: %+v", doc.State, honest)
		}
		c.clusters["west"].SetFaults(nil)
		time.Sleep(time.Second)
		doc = c.compare(&seen)
		refusing := c.refusing()
		for _, v := range doc.Matrix {
			_, broken := refusing[pair{v.Peer, v.Verifier}]
			if broken != (v.State == rotation.PairRefused) || broken && v.Verifier == "west" && (v.Pods != 1 || !strings.Contains(v.Why, "app/Deployment app-1")) {
				t.Errorf("%s -> %s: %s, %d pods: %s", v.Peer, v.Verifier, v.State, v.Pods, v.Why)
			}
		}
		if len(refusing) == 0 || doc.State != rotation.StateCritical {
			t.Errorf("%v, %s: %+v", refusing, doc.State, doc.Promises)
		}
		for begun := time.Now(); time.Since(begun) < 2*leaf; c.minute() {
			c.compare(&seen)
		}
		if doc := c.compare(&seen); doc.Pairs.Accepted != 4 {
			t.Errorf("every leaf is from a dual issuer again, and %+v: %+v", doc.Pairs, doc.Matrix)
		}
		c.end()
	})
}

// Meshes that certd has taken over are judged as the fleet's own, also while they
// are brought to its anchor; that their key is elsewhere is said until it is past.
func TestAMeshThatWasTakenOverIsVerified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := meshes(t)[1]
		installed := map[string]mesh{"east": m, "west": m}
		c := adopting(t, 6, installed)
		var seen verdicts
		if doc := c.compare(&seen); doc.Pairs.Accepted != 4 || doc.Clusters[0].Mode != "watched" {
			t.Errorf("watched only: %+v: %+v", doc.Pairs, doc.Matrix)
		}
		c.adopt(installed)
		if p := promiseOf(c.compare(&seen), "I6"); p.State != rotation.StateWarning || !strings.Contains(strings.Join(p.Evidence, " "), "AnchorKeyElsewhere") {
			t.Errorf("taken over: %+v", p)
		}
		c.begin()
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 10*day; c.minute() {
			if doc := c.compare(&seen); doc.Pairs.Accepted != 4 {
				t.Fatalf("stage %s: %+v: %+v", c.rotation().Stage, doc.Pairs, doc.Matrix)
			}
			c.sound()
		}
		if doc := c.compare(&seen); promiseOf(doc, "I6").State != rotation.StateOK || promiseOf(doc, "I3").State != rotation.StateOK {
			t.Errorf("brought home: %+v", doc.Promises)
		}
		c.end()
	})
}

// A compromised anchor is left at any cost: what is refused meanwhile is told of,
// and at its end nothing is.
func TestLeavingACompromisedAnchorIsVerified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newChanging(t, 3, "east", "west")
		c.compromise()
		var seen verdicts
		for begun := time.Now(); c.rotation().Phase != "idle" && time.Since(begun) < 2*day; c.minute() {
			c.compare(&seen)
		}
		if seen.refused == 0 {
			t.Errorf("nothing was refused: %+v", seen)
		}
		time.Sleep(2 * leaf)
		if doc := c.compare(&seen); doc.Pairs.Accepted != 4 || doc.State != rotation.StateOK {
			t.Errorf("afterwards: %+v: %+v", doc.Pairs, doc.Promises)
		}
		c.end()
	})
}
