package rotation_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

// The loop comes round while clusters hang and the key backend is away, and no longer
// than it runs.
func TestTheLoopBeatsWhateverClustersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east", "west")
		w.ceremony()
		w.start()
		beating := func(when string) {
			t.Helper()
			for range 200 {
				time.Sleep(97 * time.Second)
				if since := time.Since(w.loop.Beat()); since > w.resync {
					t.Fatalf("%s the loop has not come round for %s", when, since)
				}
			}
		}
		beating("with little to do")
		w.clusters["east"].SetFaults(hang)
		w.keys.SetFaults(away)
		w.loop.Rotate(rotation.TargetIssuer, []string{"west"}, rotation.Request{Actor: "test", Reason: "test"})
		beating("beside a cluster that hangs, without keys")
		w.clusters["west"].SetFaults(func(memory.Call) memory.ClusterFault { return memory.ClusterFault{Err: rotation.ErrUnavailable} })
		beating("with no cluster that answers")
		w.clusters["east"].SetFaults(nil)
		w.end()
		time.Sleep(5 * time.Minute)
		if since := time.Since(w.loop.Beat()); since < 5*time.Minute {
			t.Errorf("it has ended and came round %s ago", since)
		}
	})
}

// What the key backend says of itself shows while nobody signs, and its answer takes back no
// more than that: that a key cannot be used stands until one is used.
func TestKeysThatDoNotAnswerAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "east")
		w.ceremony()
		w.start()
		defer w.end()
		time.Sleep(time.Hour)
		sealed := errors.New("Vault is sealed")
		told := func(when, want string) {
			t.Helper()
			got := ""
			for _, f := range w.loop.Status().Findings {
				if f.ID == "KeysUnavailable" {
					got = f.Message
				}
			}
			if !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		w.loop.KeysAnswer(nil)
		told("it answers", "")
		w.loop.KeysAnswer(sealed)
		told("it is sealed, and nothing is due", "Vault is sealed")
		w.loop.KeysAnswer(errors.New("no answer"))
		told("it does not answer any more", "no answer")
		w.loop.KeysAnswer(nil)
		told("it answers again", "")

		w.keys.SetFaults(away)
		w.loop.Rotate(rotation.TargetIssuer, []string{"east"}, rotation.Request{Actor: "test", Reason: "test"})
		time.Sleep(30 * time.Second)
		told("a key cannot be used", "key acme-anchor-1")
		w.loop.KeysAnswer(sealed)
		told("nor does it answer", "key acme-anchor-1")
		w.loop.KeysAnswer(nil)
		told("it answers, and signs nothing", "key acme-anchor-1")
		w.keys.SetFaults(nil)
		time.Sleep(10 * time.Minute)
		told("it has signed", "")
	})
}
