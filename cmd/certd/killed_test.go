package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
	"certd.internal/state"
)

// aging is a fleet whose issuers are renewed at once when renewBefore is raised.
const aging = `apiVersion: certd/v1
kind: Fleet
name: folders
stateDir: state
keys:
  file: {dir: keys, passphraseFrom: {file: passphrase}}
defaults:
  linkerd: {createNamespace: true}
  issuer: {lifetime: 7d, renewBefore: 84h}
server: {socket: certd.sock}
clusters:
  - {name: east, directory: east}
  - {name: north, directory: north}
  - {name: west, directory: west}
`

// torment is a fleet that is killed again and again.
type torment struct {
	t        *testing.T
	run      *scoreboard.Run
	dir      string
	clusters []string
	last     []rotation.Entry // the history as the last look found it
	open     int              // intents that nothing had closed then
	acks     acks
	kills    int
	span     time.Duration // how long a rotation of everything takes
}

// acks is what the daemon said it had done: entries of its history, and steps in its log.
type acks struct {
	mu      sync.Mutex
	entries map[uint64]string // seq → hash
	steps   map[string]int    // cluster and step → how often
}

func (a *acks) told(list rotation.HistoryList) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range list.Items {
		a.entries[e.Seq] = e.Hash
	}
}

func (a *acks) done(cluster, step string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steps[cluster+" "+step]++
}

// live runs the daemon until it is killed, at a moment by chance, or (kill false) until the
// fleet is as it should be. It says whether the fleet was.
func (f *torment) live(random *rand.Rand, kill bool) (converged bool) {
	cmd := exec.Command(program, "run", "--config", "certd.yaml")
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := cmd.StderrPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	// The moment: a while after it began to rotate, or right after one of its steps, or
	// while it starts.
	moment := make(chan struct{})
	var once sync.Once
	reached := func() { once.Do(func() { close(moment) }) }
	after, pause := 0, time.Duration(random.Int64N(int64(f.span)))
	switch random.IntN(8) {
	case 0:
		time.AfterFunc(time.Duration(random.IntN(200_000))*time.Microsecond, reached)
	case 1, 2, 3:
		after, pause = 1+random.IntN(len(f.clusters)-1), time.Duration(random.IntN(10_000))*time.Microsecond
	}
	var said strings.Builder
	read := make(chan struct{})
	began, ended := time.Time{}, time.Time{}
	go func() {
		defer close(read)
		seen := 0
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var line struct{ Msg, Cluster, Step string }
			fmt.Fprintln(&said, lines.Text())
			if json.Unmarshal(lines.Bytes(), &line) != nil {
				continue
			}
			switch {
			case line.Msg == "step done":
				f.acks.done(line.Cluster, line.Step)
				seen++
				ended = time.Now()
			case line.Msg == "decision" && line.Step == string(rotation.StepIssuer) && began.IsZero():
				began = time.Now()
			}
			if seen >= after && !began.IsZero() {
				reached()
			}
		}
	}()
	ctx, stop := context.WithTimeout(f.t.Context(), time.Minute)
	defer stop()
	client := api.NewClient(filepath.Join(f.dir, "certd.sock"))
	done := make(chan bool, 1)
	go func() { // it is asked all the while
		for ctx.Err() == nil {
			if list, err := client.History(ctx, api.HistoryQuery{}); err == nil {
				f.acks.told(list)
			}
			if st, err := client.Status(ctx); err == nil && st.State == rotation.StateOK && f.renewed(st) && (kill || f.settled()) {
				if !kill {
					done <- true
					return
				}
				reached() // there is nothing left to be in the middle of
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		done <- false
	}()
	switch {
	case kill:
		select {
		case <-moment:
		case <-ctx.Done():
			f.t.Errorf("certd came to no step within a minute\n%s", &said)
		}
		time.Sleep(pause)
	default:
		if converged = <-done; !converged {
			f.t.Errorf("after %d kills the fleet does not become well\n%s", f.kills, &said)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		f.t.Errorf("certd ended by itself: %v\n%s", err, &said)
	}
	<-read
	_ = cmd.Wait()
	stop()
	f.kills++
	if !began.IsZero() && ended.After(began) && !kill {
		f.span = ended.Sub(began)
	}
	return converged
}

// renewed tells whether every issuer is one of the longer lifetime.
func (f *torment) renewed(st rotation.FleetStatus) bool {
	for _, c := range st.Clusters {
		if c.Issuer == nil || c.Issuer.Delivered == nil || c.Issuer.Delivered.NotAfter.Sub(c.Issuer.Delivered.NotBefore) < 13*24*time.Hour {
			return false
		}
	}
	return len(st.Clusters) == len(f.clusters)
}

// settled tells whether nothing is left of what was under way: each object has one data
// folder, and the journal no open intent. Both are seen to side by side with the first look.
func (f *torment) settled() bool {
	folders, err := filepath.Glob(filepath.Join(f.dir, "*", "linkerd", "*", "..2*"))
	if err != nil || len(folders) != 2*len(f.clusters) {
		return false
	}
	j, err := state.OpenCopy(filepath.Join(f.dir, "state"), f.dir, state.Options{Fleet: "folders"})
	if err != nil {
		return false // it is being written
	}
	defer j.Close()
	open, err := j.Pending()
	return err == nil && len(open) == 0
}

// look opens what the dead daemon left: everything that was acknowledged is in it, and each
// cluster has a chain that holds, with its key.
func (f *torment) look(when string) {
	f.t.Helper()
	j, err := state.Open(filepath.Join(f.dir, "state"), state.Options{Fleet: "folders", ReadOnly: true, LockTimeout: 5 * time.Second})
	if err != nil {
		f.t.Errorf("%s: %v", when, err)
		return
	}
	defer j.Close()
	if r, err := j.Verify(); err != nil || r.Problem != "" {
		f.t.Errorf("%s: the chain does not hold: %s, %v", when, r.Problem, err)
	}
	entries, err := j.Entries(state.Filter{})
	if err != nil {
		f.t.Errorf("%s: %v", when, err)
	}
	hashes, steps := map[uint64]string{}, map[string]int{}
	for _, e := range entries {
		hashes[e.Seq] = e.Hash
		if e.Result == rotation.OK {
			steps[e.Intent.Cluster+" "+string(e.Intent.Step)]++
		}
	}
	for _, e := range f.last {
		if hashes[e.Seq] != e.Hash {
			f.t.Errorf("%s: entry %d was there and is not", when, e.Seq)
		}
	}
	f.last = entries
	open, err := j.Pending()
	if err != nil {
		f.t.Errorf("%s: %v", when, err)
	}
	f.open = len(open)
	f.acks.mu.Lock()
	defer f.acks.mu.Unlock()
	for seq, hash := range f.acks.entries {
		if hashes[seq] != hash {
			f.run.Add("lost acknowledgements", 1)
			f.t.Errorf("%s: certd told of entry %d, and it is lost", when, seq)
		}
	}
	for step, n := range f.acks.steps {
		if steps[step] < n {
			f.run.Add("lost acknowledgements", 1)
			f.t.Errorf("%s: certd did %q %d times by its log, and the history has %d", when, step, n, steps[step])
		}
	}
	for _, name := range f.clusters {
		f.chain(when, name, j)
	}
}

// chain proves that a folder holds an issuer with its key, and that the journal knows of it.
func (f *torment) chain(when, name string, j *state.Journal) {
	f.t.Helper()
	read := func(object, key string) []byte {
		b, err := os.ReadFile(filepath.Join(f.dir, name, "linkerd", object, key))
		if err != nil {
			f.t.Errorf("%s: %v", when, err)
		}
		return b
	}
	crt, key := read(rotation.IssuerObject, "tls.crt"), read(rotation.IssuerObject, "tls.key")
	if !chains(crt, string(read(rotation.BundleObject, "ca-bundle.crt"))) {
		f.t.Errorf("%s: %s has no valid chain", when, name)
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		f.t.Errorf("%s: the issuer of %s: %v", when, name, err)
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		f.t.Fatal(err)
	}
	serial := leaf.SerialNumber.Text(16)
	same := func(s string) bool { return strings.TrimLeft(strings.ToLower(s), "0") == serial }
	open, err := j.Pending()
	if err != nil {
		f.t.Error(err)
	}
	if !slices.ContainsFunc(f.last, func(e rotation.Entry) bool { return same(e.Intent.Serial) }) &&
		!slices.ContainsFunc(open, func(p rotation.PendingIntent) bool { return same(p.Serial) }) {
		f.t.Errorf("%s: %s holds issuer %s, of which the journal knows nothing", when, name, serial)
	}
}

// end is what is the same however often certd was killed: the tree of files, the bundle, what
// the issuers are like, and that nothing is open.
func (f *torment) end() string {
	f.t.Helper()
	var b strings.Builder
	for _, name := range f.clusters {
		folder := filepath.Join(f.dir, name, "linkerd")
		objects, err := os.ReadDir(folder)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, o := range objects {
			if !o.IsDir() {
				fmt.Fprintf(&b, "%s/%s\n", name, o.Name())
				continue
			}
			keys, err := os.ReadDir(filepath.Join(folder, o.Name()))
			if err != nil {
				f.t.Fatal(err)
			}
			for _, k := range keys {
				file := k.Name()
				if stamp, ok := strings.CutPrefix(file, "..2"); ok && len(stamp) > 0 {
					file = "..TIME"
				}
				fmt.Fprintf(&b, "%s/%s/%s\n", name, o.Name(), file)
			}
		}
		bundle, err := os.ReadFile(filepath.Join(folder, rotation.BundleObject, "ca-bundle.crt"))
		if err != nil {
			f.t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, rotation.IssuerObject, "tls.crt"), filepath.Join(folder, rotation.IssuerObject, "tls.key"))
		if err != nil {
			f.t.Fatal(err)
		}
		c, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			f.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n%d certificates, %s under %x, %s, %d bytes of serial\n", bundle, len(pair.Certificate), c.Subject, c.AuthorityKeyId, c.NotAfter.Sub(c.NotBefore), len(c.SerialNumber.Bytes()))
	}
	j, err := state.Open(filepath.Join(f.dir, "state"), state.Options{Fleet: "folders", ReadOnly: true})
	if err != nil {
		f.t.Fatal(err)
	}
	defer j.Close()
	open, err := j.Pending()
	if err != nil {
		f.t.Fatal(err)
	}
	anchors, err := j.Anchors()
	if err != nil {
		f.t.Fatal(err)
	}
	fmt.Fprintf(&b, "%d anchors, %d open intents\n", len(anchors), len(open))
	for _, name := range f.clusters {
		certs, err := j.Certificates(name, 1, time.Time{})
		if err != nil || len(certs) == 0 {
			f.t.Fatal(certs, err)
		}
		delivered, err := os.ReadFile(filepath.Join(f.dir, name, "linkerd", rotation.IssuerObject, "tls.crt"))
		if err != nil {
			f.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: the newest in the journal is delivered %v, and there %v\n", name, !certs[0].DeliveredAt.IsZero(), serialOf(f.t, delivered) == strings.TrimLeft(certs[0].Serial, "0"))
	}
	return b.String()
}

// serialOf is the serial of the first certificate of a text, in hex.
func serialOf(t *testing.T, text []byte) string {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.Text(16)
}

// The real daemon is killed (SIGKILL) in the middle of rotating every cluster, up to three
// times in a row: nothing that it acknowledged is lost, no cluster is ever without a chain, and
// in the end all is as if it had not been killed. (Line R4.)
func TestKilledInMidRotation(t *testing.T) {
	run := scoreboard.Start(t, "R4", 60)
	s := newFolders(t)
	s.write("certd.yaml", aging)
	s.enrolled()
	s.edit("lifetime: 7d, renewBefore: 84h", "lifetime: 14d, renewBefore: 8d")
	life := func(t *testing.T) *torment {
		dir := shortDir(t)
		if out, err := exec.Command("cp", "-a", s.dir+"/.", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return &torment{t: t, run: run, dir: dir, clusters: []string{"east", "north", "west"}, acks: acks{entries: map[uint64]string{}, steps: map[string]int{}}}
	}
	calm := life(t)
	calm.span = time.Second
	calm.look("before")
	before := len(calm.last)
	calm.live(rand.New(rand.NewPCG(0, 0)), false)
	calm.look("without a kill in between")
	want := calm.end()
	if len(calm.last) < before+len(calm.clusters)*2 {
		t.Fatalf("only %d entries for a rotation of everything", len(calm.last)-before)
	}
	span := calm.span
	for seed := range run.Seeds() {
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 4))
			f := life(t)
			f.span = span
			f.look("before")
			kills := 1 + random.IntN(3)
			for n := range kills {
				f.live(random, true)
				f.look(fmt.Sprintf("kill %d", n+1))
				if f.open > 0 || len(f.last) > before && f.steps(rotation.StepIssuer) < calm.steps(rotation.StepIssuer) {
					run.Add("kills in the middle", 1)
				}
			}
			run.Add("kills", uint64(kills))
			if f.live(random, false) {
				f.look("in the end")
				span = max(f.span, span/2) // as the machine has time for it
				if got := f.end(); got != want {
					t.Errorf("after %d kills it ends otherwise:\n%s\nwant\n%s", kills, got, want)
				}
				if n := f.steps(rotation.StepSign) - calm.steps(rotation.StepSign); n > kills*len(f.clusters) {
					t.Errorf("%d signatures more than without %d kills", n, kills)
				}
			}
			run.Add("acknowledgements", uint64(f.acks.count()))
		})
		if !ok {
			run.Add("failed fleets", 1)
			if !run.Long() {
				return
			}
		}
	}
	run.Add("lost acknowledgements", 0)
	run.Add("failed fleets", 0)
}

func (a *acks) count() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, times := range a.steps {
		n += times
	}
	return n + len(a.entries)
}

// steps counts the finished steps of a kind.
func (f *torment) steps(step rotation.Step) (n int) {
	for _, e := range f.last {
		if e.Intent.Step == step && e.Result == rotation.OK {
			n++
		}
	}
	return n
}
