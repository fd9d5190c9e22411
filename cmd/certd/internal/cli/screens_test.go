package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certd.internal/backends/memory"
	"certd.internal/pki"
	"certd.internal/rotation"
)

// A story leads a fleet into a state that a person may find it in.
type story struct {
	name   string
	mesh   meshOf
	fleet  []string
	tell   func(w *living)
	code   int      // of status
	one    string   // a cluster that is looked at by itself
	health []string // what the screen has to say, in this order
}

var three = []string{"prod-eu-1", "prod-us-1", "stage-eu-1"}

func stories() []story {
	whole := meshOf{identity: 2, pods: 12, webhooks: true}
	bare := meshOf{identity: 2}
	begun := func(w *living) {
		w.ceremony()
		w.start()
		time.Sleep(7*hour + 11*time.Minute)
	}
	unavailable := func(text string) func(memory.Call) memory.ClusterFault {
		return func(memory.Call) memory.ClusterFault {
			return memory.ClusterFault{Err: fmt.Errorf("%s: %w", text, rotation.ErrUnavailable)}
		}
	}
	sealed := func(memory.KeyCall, string) memory.KeyFault {
		return memory.KeyFault{Err: fmt.Errorf("Vault is sealed: %w", rotation.ErrUnavailable)}
	}
	var large []string
	for i := range 18 {
		large = append(large, fmt.Sprintf("edge-%03d", i))
	}
	for i := range 6 {
		large = append(large, fmt.Sprintf("prod-%d", i))
	}
	large = append(large, "stage-0")
	return []story{
		{"healthy", whole, three, begun, 0, "prod-eu-1", []string{"✓ ok", "even if certd stops now"}},
		{"not-loaded", bare, three, func(w *living) {
			begun(w)
			c := w.clusters["prod-us-1"]
			c.DeafIdentity(0)
			c.DeafIdentity(1)
			c.SetFaults(func(call memory.Call) (f memory.ClusterFault) {
				if call == memory.CallRestart {
					f.Err = fmt.Errorf(`the service account may not "patch" deployments/linkerd-identity in linkerd: %w`, rotation.ErrDenied)
				}
				return f
			})
			<-w.loop.Rotate(rotation.TargetIssuer, []string{"prod-us-1"}, rotation.Request{Actor: "lee@cli", Reason: "drill"})
			time.Sleep(9 * hour)
		}, 1, "prod-us-1", []string{"! warning", "delivered", "OLD"}},
		{"unreachable", bare, large, func(w *living) {
			begun(w)
			w.clusters["edge-007"].SetFaults(unavailable("dial tcp 10.40.7.2:6443: i/o timeout"))
			time.Sleep(2*hour + 41*time.Minute)
		}, 1, "edge-007", []string{"! warning", "edge-007", "could not be seen", "GROUP", "24 more clusters are ok"}},
		{"cut-off", bare, large, func(w *living) {
			begun(w)
			for i := range 18 {
				w.clusters[fmt.Sprintf("edge-%03d", i)].SetFaults(unavailable(fmt.Sprintf("dial tcp 10.40.%d.2:6443: connect: no route to host", i)))
			}
			time.Sleep(hour)
		}, 1, "", []string{"! warning", "18 clusters", "the others likewise"}},
		{"trust-change", meshOf{identity: 2, pods: 12}, three, func(w *living) {
			begun(w)
			a, err := (rotation.Ceremony{Journal: w.journal, Creator: w.keys, Signer: w.keys, Policy: w.policy, Actor: "dana@cli", Reason: "drill", Say: func(string, ...any) {}}).Next(w.t.Context())
			if err == nil {
				err = w.loop.BeginChange(a, "dana@cli", "the key of g1 was on a laptop", false)
			}
			if err != nil {
				w.t.Fatal(err)
			}
			for begun := time.Now(); w.loop.Status().Trust.Rotation.Phase != "restart"; time.Sleep(time.Minute) {
				if time.Since(begun) > 3*day {
					w.t.Fatalf("the change stays in %+v", w.loop.Status().Trust.Rotation)
				}
			}
			time.Sleep(time.Hour)
		}, 1, "prod-eu-1", []string{"! warning, 1 problem, trust change 4 of 6", "CHANGE     g1 → g2", "✓ 3 spread", "▸ 4 restart", "33 %", "safe to stop yes", "certd trust rollback"}},
		{"vault-sealed", bare, three, func(w *living) {
			begun(w)
			w.keys.SetFaults(sealed)
			time.Sleep(3 * day)
		}, 1, "", []string{"! warning", "Vault is sealed"}},
		{"all-expired", meshOf{identity: 2, webhooks: true}, three, func(w *living) {
			begun(w)
			w.end()
			time.Sleep(40 * day)
			w.keys.SetFaults(sealed)
			w.start()
			time.Sleep(10 * time.Minute)
		}, 2, "prod-eu-1", []string{"✗ critical", "ended", "since Mon 9 Nov", "Vault is sealed", "✗ ended"}},
		{"daemon-dead", bare, three, func(w *living) {
			begun(w)
			w.end()
			time.Sleep(3*hour + 12*time.Minute)
		}, 3, "", []string{"? unknown", "from the journal", "was last seen"}},
		{"daemon-restarting", bare, three, func(w *living) {
			begun(w)
			w.end()
			time.Sleep(3 * time.Second)
		}, 1, "", []string{"! warning", "from the journal", "certd run", "✓ 6d"}},
		{"all-expired-daemon-dead", bare, three, func(w *living) {
			begun(w)
			w.end()
			time.Sleep(30 * day)
		}, 2, "", []string{"✗ critical", "ended"}},
		{"no-anchor", bare, three, func(w *living) {
			w.start()
			time.Sleep(time.Minute)
		}, 1, "", []string{"! warning", "certd init"}},
		{"watched", bare, three, func(w *living) {
			w.clusters["stage-eu-1"].Edit(rotation.BundleObject, "helm", func(data map[string][]byte, _ *rotation.Marks) {
				data["ca-bundle.crt"] = foreignAnchor(w.t)
			})
			begun(w)
		}, 1, "stage-eu-1", []string{"! warning", "certd adopt stage-eu-1", "watched"}},
	}
}

// foreignAnchor is the root of a mesh that certd did not make.
func foreignAnchor(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, err := pki.SelfSignAnchor(time.Now(), pki.AnchorProfile{CommonName: "root.linkerd.cluster.local", Lifetime: 365 * day, Backdate: hour}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pki.EncodeCertificates(root)
}

// Each state as a person meets it, told by the real loop: on terminals of three
// widths, in a pipe, in another locale, as one line, and as a document.
func TestScreens(t *testing.T) {
	schemas := map[string]func(any) error{}
	for name := range documentTypes() {
		schemas[name] = compiled(t, name, true)
	}
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Date(2026, 11, 2, 9, 0, 25, 0, time.UTC)))
				w := newLiving(t, s.mesh, s.fleet...)
				s.tell(w)
				if w.loop != nil {
					defer w.end()
				}
				w.shows(t, s, schemas)
			})
		})
	}
}

// laterByAMinute are the times in a change of the trust anchor, whose stages end a minute later
// where the loop comes round just before a look of that minute has ended; the look is then a
// minute old.
var laterByAMinute = regexp.MustCompile(`\b(17|18):(19|2\d|3[5-9])\b`)

// steady is a screen without what is one or the other in two runs.
func (s story) steady(out string) string {
	if s.name != "trust-change" {
		return out
	}
	return strings.ReplaceAll(laterByAMinute.ReplaceAllString(out, "$1:mm"), " 1m ago ", " 0s ago ")
}

func (w *living) shows(t *testing.T, s story, schemas map[string]func(any) error) {
	var lines []string
	show := func(title string, code, width int, env map[string]string, args ...string) string {
		got, out := w.in(width, env, args...)
		if got != code {
			t.Errorf("%s: exit %d, want %d\n%s", strings.Join(args, " "), got, code, out)
		}
		lines = append(lines, "== "+title)
		lines = append(lines, strings.Split(strings.TrimSuffix(s.steady(out), "\n"), "\n")...)
		for line := range strings.SplitSeq(out, "\n") {
			switch {
			case strings.ContainsRune(line, '\x1b'):
				t.Errorf("%s: an escape code in %q", title, line)
			case strings.HasSuffix(line, " "):
				t.Errorf("%s: a blank at the end of %q", title, line)
			case width > 0 && cells(line) > width:
				t.Errorf("%s: %d columns: %q", title, cells(line), line)
			case env["LANG"] == "C" && strings.ContainsFunc(line, func(r rune) bool { return r > 127 }):
				t.Errorf("%s: not ASCII: %q", title, line)
			}
		}
		return out
	}
	screen := show("100 columns", s.code, 100, nil, "status")
	rest := screen
	for _, want := range s.health {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("%q is missing, or in another order:\n%s", want, screen)
			continue
		}
		rest = after
	}
	show("80 columns", s.code, 80, nil, "status")
	show("80 columns, ASCII, UTC", s.code, 80, map[string]string{"LANG": "C", "TZ": "UTC"}, "status")
	show("140 columns, wide", s.code, 140, nil, "status", "-o", "wide")
	show("in a pipe", s.code, 0, nil, "status")
	if line := show("one line", s.code, 0, nil, "status", "-o", "short"); strings.Count(line, "\n") != 1 {
		t.Errorf("not one line: %q", line)
	}
	if s.one != "" {
		code, _ := w.in(100, nil, "status", s.one)
		show("status "+s.one, code, 100, nil, "status", s.one)
	}
	show("plan", 0, 100, nil, "plan", "--if-stopped", "--until", "14d")
	golden(t, filepath.Join("screens", s.name), lines)
	for name, args := range map[string][]string{"fleetstatus": {"status", "-o", "json"}, "plan": {"plan", "-o", "json", "--if-stopped"}} {
		code, out := w.in(0, nil, args...)
		if name == "fleetstatus" && code != s.code {
			t.Errorf("%s: exit %d, want %d", args, code, s.code)
		}
		if w.loop == nil { // the note comes on standard error
			out = strings.TrimPrefix(out, journalNote+"\n")
		}
		var doc any
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		if err := schemas[name](doc); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// Performance data have the thresholds that there are: an issuer's, of which each
// may be unknown.
func TestThresholdsOfWhatBreaksFirst(t *testing.T) {
	at := time.Date(2027, 3, 20, 0, 0, 0, 0, time.UTC)
	by := at.Add(-48 * time.Hour)
	for _, row := range []struct {
		name, kind string
		issuer     rotation.IssuerStatus
		want       string
	}{
		{"an issuer", "issuer", rotation.IssuerStatus{MustRenewBy: &by, FloorSeconds: 129600}, ";172800:;129600:"},
		{"an issuer that is watched only", "issuer", rotation.IssuerStatus{FloorSeconds: 129600}, ";;129600:"},
		{"an issuer whose floor is not known", "issuer", rotation.IssuerStatus{MustRenewBy: &by}, ";172800:;"},
		{"a webhook", "webhook", rotation.IssuerStatus{MustRenewBy: &by, FloorSeconds: 129600}, ""},
	} {
		st := rotation.FleetStatus{FirstToBreak: &rotation.Break{Cluster: "east", Kind: row.kind, At: at}, Clusters: []rotation.ClusterStatus{{Name: "west"}, {Name: "east", Issuer: &row.issuer}}}
		if got := least(st); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
	if got := least(rotation.FleetStatus{}); got != "" {
		t.Errorf("nothing breaks: %q", got)
	}
}
