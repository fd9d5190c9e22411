package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// swapped is where certd finds a cluster, and what answers there may be another.
type swapped struct {
	*memory.Cluster
}

// The address of a cluster that is looked after comes to lead to one that is not the fleet's:
// nothing is written there, and the one that is looked after
// is so again once it answers.
func TestAnotherClusterAnswersAtTheAddress(t *testing.T) {
	for _, row := range []struct {
		sentence string
		mark     string // the fleet whose certd looks after it
		adopts   bool   // certd is told to take over what it did not make
	}{
		{"another fleet's", "globex", false},
		{"nobody's", "", false},
		{"nobody's, where the configuration says adopt: true", "", true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				other := newWorld(t, "east")
				other.policy.Clusters[0].Webhooks.Specs = nil
				other.clusters["east"] = memory.NewCluster(memory.ClusterConfig{Name: "east", Target: "another", Namespace: "linkerd", TrustDomain: "cluster.local", Replicas: 2, Revision: 1000})
				other.ceremony()
				other.start()
				time.Sleep(5 * time.Minute)
				other.end()
				stranger := other.clusters["east"]
				for _, object := range []string{rotation.BundleObject, rotation.IssuerObject} {
					stranger.Edit(object, "helm", func(_ map[string][]byte, marks *rotation.Marks) {
						*marks = rotation.Marks{Fleet: row.mark, Keep: row.mark != ""}
					})
				}

				w := newWorld(t, "east", "west")
				w.policy.Clusters[0].Adopt = row.adopts
				w.ceremony()
				way := &swapped{w.clusters["east"]}
				w.through = func(name string, c *memory.Cluster) rotation.Cluster {
					if name == "east" {
						return way
					}
					return c
				}
				w.start()
				time.Sleep(time.Hour)
				writes, serial := stranger.Writes()[rotation.BundleObject]+stranger.Writes()[rotation.IssuerObject], w.cluster("east").Issuer.Delivered.Serial
				w.end()
				way.Cluster = stranger
				w.start()
				time.Sleep(time.Hour)
				w.end()
				w.start()
				time.Sleep(5 * day)
				if got := stranger.Writes()[rotation.BundleObject] + stranger.Writes()[rotation.IssuerObject]; got != writes {
					t.Errorf("%d writes to a cluster that is not the fleet's", got-writes)
				}
				if f, ok := w.finding("east", "WatchedOnly"); !ok || f.Severity != rotation.StateCritical {
					t.Errorf("what is said of it: %+v", w.cluster("east").Findings)
				}
				w.end()
				way.Cluster = w.clusters["east"]
				w.start()
				time.Sleep(10 * time.Minute)
				c := w.cluster("east")
				if c.State != rotation.StateOK || c.Issuer.Delivered.Serial == serial { // which was due meanwhile
					t.Errorf("east answers again, and is %s: %+v", c.State, c.Findings)
				}
				w.holds("east answers again")
				w.accounted()
				w.end()
			})
		})
	}
}

// An empty cluster stands in for one for a while. Since when, the journal knows before
// anything is delivered to it, and goes on to know when the former one is back, and after a
// restart: what the other one was given does not count for that.
func TestWhenAnotherTookItsPlaceIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.policy.Clusters[0].Webhooks.Specs = nil
		w.ceremony()
		record := func() rotation.ClusterRecord {
			rec, err := w.journal.Cluster("east")
			if err != nil {
				t.Fatal(err)
			}
			return rec
		}
		way := &swapped{w.clusters["east"]}
		w.through = func(string, *memory.Cluster) rotation.Cluster { return way }
		w.start()
		time.Sleep(time.Hour)
		if rec := record(); rec.Target == "" || !rec.TargetSince.IsZero() {
			t.Errorf("before: %+v", rec)
		}
		empty := memory.NewCluster(memory.ClusterConfig{Name: "east", Target: "another", Namespace: "linkerd", TrustDomain: "cluster.local", Replicas: 2, Revision: 1000})
		var known []rotation.ClusterRecord
		empty.SetFaults(func(call memory.Call) memory.ClusterFault {
			if call == memory.CallBundle && len(known) == 0 {
				known = append(known, record())
			}
			return memory.ClusterFault{}
		})
		w.end()
		way.Cluster = empty
		begun := time.Now()
		w.start()
		time.Sleep(time.Hour)
		if len(known) == 0 || known[0].Target != "another" || known[0].TargetSince.Before(begun) {
			t.Errorf("when it is first written to: %+v", known)
		}
		w.end()
		way.Cluster = w.clusters["east"]
		back := time.Now()
		w.start()
		time.Sleep(time.Hour)
		since := record().TargetSince
		if since.Before(back) || since.Equal(known[0].TargetSince) {
			t.Errorf("back at %s, and the journal says %s", back, since)
		}
		for range 2 {
			w.end()
			w.start()
			time.Sleep(time.Hour)
		}
		if got := record(); !got.TargetSince.Equal(since) || got.Target == "another" {
			t.Errorf("after restarts: %+v, want %s", got, since)
		}
		w.end()
	})
}
