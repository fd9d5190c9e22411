package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"go.etcd.io/bbolt"

	"certd.internal/rotation"
)

// shell is a shell command in the site's folder, with the program as $CERTD.
func (s *site) shell(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CERTD="+program, "VAULT_TOKEN="+s.lab.Vault.OperatorToken, "NO_COLOR=1")
	return cmd
}

// enrolled makes an anchor, runs certd until all is well, and stops it.
func (s *site) enrolled() {
	s.t.Helper()
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	d.term()
}

// A journal that cannot be used keeps certd from running, with what to do,
// and is left as it is; so are the clusters.
func TestUnusableJournals(t *testing.T) {
	s := newFolders(t)
	s.enrolled()
	good := s.read("state/certd.db")
	for _, row := range []struct {
		name string
		do   func(*site)
		want string
		code int // of status; run and history: 1
	}{
		{"garbage", func(s *site) { s.write("state/certd.db", strings.Repeat("garbage ", 4096)) }, `certd\.db.*(damaged|not this fleet's journal)`, 3},
		{"cut short", func(s *site) { s.write("state/certd.db", good[:len(good)/3]) }, `certd\.db.*damaged`, 3},
		{"empty", func(s *site) { s.write("state/certd.db", "x") }, `certd\.db.*(damaged|not this fleet's journal)`, 3},
		{"of another fleet", func(s *site) { s.edit("name: folders", "name: others") }, `certd\.db.*fleet "folders".*not this fleet's journal.*stateDir`, 3},
		{"of a later certd", newerSchema, `certd\.db.*newer certd.*run the certd that wrote it`, 3},
		{"a folder that may not be one", func(s *site) { s.edit("stateDir: state", "stateDir: passphrase") }, `passphrase`, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.write("state/certd.db", good)
			s.write("certd.yaml", folders)
			row.do(&s)
			before := s.tree("state/certd.db", "east", "west", "keys")
			for command, code := range map[string]int{"run": 1, "init --yes": 1, "history": 1, "plan": 1, "status": row.code, "status -o json": row.code} {
				s.refused(code, row.want, nil, append(strings.Fields(command), "--config", "certd.yaml")...)
			}
			s.same(before, "state/certd.db", "east", "west", "keys")
		})
	}
	// With the damaged one moved away, as the advice says, certd goes on.
	s.write("certd.yaml", folders)
	s.write("state/certd.db", good[:len(good)/3])
	if err := os.Rename(s.path("state/certd.db"), s.path("state/certd.db.damaged")); err != nil {
		t.Fatal(err)
	}
	issuers := s.tree("east", "west")
	d := s.run()
	s.answering()
	s.converged()
	d.term()
	s.same(issuers, "east", "west")
	if h := s.history(); !slices.ContainsFunc(h, func(e rotation.HistoryItem) bool { return e.Step == rotation.StepRecover && e.Outcome == rotation.OK }) {
		t.Error("the history has no recovery")
	}
}

// inJournal changes the journal's file behind certd's back.
func (s *site) inJournal(change func(*bbolt.Tx) error) {
	s.t.Helper()
	db, err := bbolt.Open(s.path("state/certd.db"), 0o600, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(db.Update(change), db.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// newerSchema makes the journal say that a later certd wrote it, one that
// knows that this one cannot read it.
func newerSchema(s *site) {
	s.t.Helper()
	s.inJournal(func(tx *bbolt.Tx) error {
		record := []byte(`{"version":99,"minReader":99}`)
		h := sha256.New()
		h.Write([]byte("certd journal record\n"))
		for _, part := range [][]byte{[]byte("meta"), []byte("schema"), record} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			h.Write(part)
		}
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), append(h.Sum(nil)[:16], record...))
	})
}

// A second daemon gives way to the first.
func TestSecondDaemonGivesWay(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	before := s.tree("east", "west", "keys")
	s.refused(75, `certd\.db.*another process holds the journal.*stop the other certd`, nil, "run", "--config", "certd.yaml")
	// Another socket is another way to ask the same journal for trouble.
	s.write("other.yaml", replaced(t, folders, "socket: certd.sock", "socket: other.sock"))
	s.refused(75, `another process holds the journal`, nil, "init", "--yes", "--config", "other.yaml")
	s.same(before, "east", "west", "keys")
	s.converged() // and the first one is none the worse
	d.term()
}

func TestNoStateDirectoryYet(t *testing.T) {
	s := newFolders(t)
	s.refused(3, `no daemon answers.*no journal in .*state.*certd init`, nil, "status", "--config", "certd.yaml")
	for _, command := range []string{"history", "plan", "history --verify"} {
		s.refused(1, `no daemon answers.*no journal in .*state.*certd init`, nil, append(strings.Fields(command), "--config", "certd.yaml")...)
	}
	s.refused(1, `"source": "live"`, nil, "status", "--live", "-o", "json", "--config", "certd.yaml")
	s.refused(69, `needs the daemon.*nothing was done.*certd run`, nil, "rotate", "issuer", "--all", "--yes", "--config", "certd.yaml")
	s.absent("state")
	s.absent("certd.sock")
}

// A daemon that hangs holds the journal's lock and accepts connections; what
// only reads gets an answer all the same.
func TestHungDaemon(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	before := s.tree("state")
	d.cmd.Process.Signal(syscall.SIGSTOP)
	start := time.Now()
	st, code := s.status()
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("status took %s", took)
	}
	if st.Source != "journal" || code < 1 || st.State == rotation.StateOK || clusterOf(st, "west").Issuer == nil {
		t.Errorf("status says %s from %s with exit %d", st.State, st.Source, code)
	}
	s.refused(1, `holds the journal.*does not answer.*copy`, nil, "status", "--config", "certd.yaml")
	// Another certd would not start beside it.
	if out, _ := s.with(nil, "status", "--config", "certd.yaml"); !regexp.MustCompile(`(?s)a certd runs here and does not.*answer.*pgrep -a certd`).MatchString(out) || strings.Contains(out, "→ certd run ") {
		t.Errorf("status of a certd that hangs:\n%s", out)
	}
	s.refused(0, `holds the journal.*does not answer.*copy`, nil, "history", "--config", "certd.yaml")
	s.refused(0, `unbroken chain`, nil, "history", "--verify", "--config", "certd.yaml")
	s.refused(69, `needs the daemon`, nil, "rotate", "issuer", "east", "--yes", "--config", "certd.yaml")
	d.cmd.Process.Signal(syscall.SIGCONT)
	s.converged()
	d.term()
	if left := s.tree("state"); len(left) != len(before) {
		t.Errorf("the copies left files behind: %v, before %v", left, before)
	}
}

// One changed byte in the journal is found, and the entry is named.
func TestTamperedJournalIsFound(t *testing.T) {
	s := newFolders(t)
	s.enrolled()
	if out, _, code := s.certd("history", "--verify", "--config", "certd.yaml"); code != 0 || !strings.Contains(out, "unbroken chain") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	var victim uint64
	for _, e := range s.history() {
		if e.Step == rotation.StepIssuer {
			victim = e.Seq
			break
		}
	}
	s.inJournal(func(tx *bbolt.Tx) error {
		key := binary.BigEndian.AppendUint64(nil, victim)
		value := slices.Clone(tx.Bucket([]byte("entries")).Get(key))
		at := bytes.Index(value, []byte("no issuer yet"))
		if at < 0 {
			return fmt.Errorf("entry %d has no such reason", victim)
		}
		value[at] ^= 1
		return tx.Bucket([]byte("entries")).Put(key, value)
	})
	s.refused(1, fmt.Sprintf(`entry %d does not hold`, victim), nil, "history", "--verify", "--config", "certd.yaml")
	out, code := s.with(nil, "history", "--verify", "-o", "json", "--config", "certd.yaml")
	if code != 1 || !regexp.MustCompile(fmt.Sprintf(`"badSeq": *%d\b`, victim)).MatchString(out) {
		t.Errorf("exit %d, want 1 and badSeq %d\n%s", code, victim, out)
	}
	before := s.tree("east", "west")
	s.refused(1, `damaged`, nil, "run", "--config", "certd.yaml")
	s.same(before, "east", "west")
}

// A full disk, for which a limit on the size of files stands in: nothing is
// signed that could not be recorded, the cluster stays as it is, and certd
// goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	s := newSite(t, 1, daily)
	out, err := s.shell(`ulimit -f 8; exec "$CERTD" init --yes --config certd.yaml`).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no space left for the journal") || !strings.Contains(string(out), "free some space") {
		t.Errorf("init on a full disk: %v\n%s", err, out)
	}
	if signs, _ := s.audit(); len(signs) != 0 {
		t.Errorf("%d signatures that could not be recorded", len(signs))
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	limit := func(bytes string) {
		if out, err := exec.Command("prlimit", "--pid", fmt.Sprint(d.cmd.Process.Pid), "--fsize="+bytes+":").CombinedOutput(); err != nil {
			t.Fatalf("prlimit: %v\n%s", err, out)
		}
	}
	full := func() string {
		out, code := s.with(nil, "rotate", "issuer", "c1", "--yes", "--wait", "--timeout", "20s", "--reason", strings.Repeat("because ", 100), "--config", "certd.yaml")
		switch {
		case code == 0:
			return "there is still room: " + out
		case code != 1 || !strings.Contains(strings.Join(strings.Fields(out), " "), "no space left for the journal"):
			t.Errorf("exit %d\n%s", code, out)
		}
		return ""
	}
	limit("4096")
	s.eventually(60*time.Second, full)
	before := s.revisions()
	full()
	s.found("c1", "StepFailed", `no space left.*free some space`)
	s.untouched(before, "full disk")
	s.auditMatchesHistory()
	limit("unlimited")
	was := s.secret(0).Annotations["certd.io/serial"]
	s.eventually(60*time.Second, func() string {
		if s.secret(0).Annotations["certd.io/serial"] == was {
			return "certd does not go on"
		}
		return ""
	})
	s.converged()
	d.term()
	s.auditMatchesHistory()
}

// The configuration is reloaded when its file changes and on SIGHUP: clusters
// come and go; what cannot be is refused, and the old one stays in force.
func TestReload(t *testing.T) {
	s := newSite(t, 3, daily)
	whole := s.read("certd.yaml")
	two := whole[:strings.Index(whole, "  - {name: c3")]
	s.write("certd.yaml", two)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	if s.secret(2) != nil {
		t.Fatal("c3 was written to")
	}

	s.write("certd.yaml", whole)
	s.healthy("c3")

	// What cannot be is refused, with the reason; all goes on as before. Only
	// a daemon that still has the old configuration mends c3. Commands read
	// the same file, so that the daemon is asked with a copy.
	s.write("copy.yaml", whole)
	status := func() rotation.FleetStatus {
		out, errs, _ := s.certd("status", "--config", "copy.yaml", "-o", "json")
		var st rotation.FleetStatus
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errs)
		}
		return st
	}
	for _, row := range []struct{ name, text, want string }{
		{"an unknown field", whole + "colour: blue\n", `certd\.yaml:\d+:\d+: colour: unknown field`},
		{"no YAML", "{", `certd\.yaml`},
		{"an empty file", "", `certd\.yaml`},
		{"another state directory", replaced(t, whole, "stateDir: state", "stateDir: elsewhere"), `stateDir.*restart`},
		{"another name", replaced(t, whole, "name: "+s.fleet, "name: other"), `name.*restart`},
		{"other keys", replaced(t, whole, "roleID: "+s.lab.Vault.RoleID, "roleID: other"), `keys.*restart`},
		{"another socket", replaced(t, whole, "socket: certd.sock", "socket: other.sock"), `server\.socket.*restart`},
	} {
		s.write("certd.yaml", row.text)
		s.eventually(15*time.Second, func() string {
			st := status()
			for _, f := range st.Findings {
				if f.ID == "ConfigReloadFailed" && regexp.MustCompile(`(?s)old one is in force.*`+row.want).MatchString(f.Message) && len(st.Clusters) == 3 {
					return ""
				}
			}
			b, _ := json.Marshal(st.Findings)
			return row.name + ": " + string(b)
		})
	}
	s.absent("elsewhere")
	if err := s.kube[2].CoreV1().ConfigMaps("linkerd").Delete(context.Background(), rotation.BundleObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(10*time.Second, func() string {
		if s.bundle(2) == nil {
			return "the old configuration is not in force"
		}
		return ""
	})

	// A good one ends that; a cluster that is no longer named is let alone.
	s.write("certd.yaml", two)
	d.cmd.Process.Signal(syscall.SIGHUP)
	s.eventually(15*time.Second, func() string {
		if st := status(); len(st.Clusters) != 2 || len(st.Findings) != 0 {
			b, _ := json.Marshal(st)
			return string(b)
		}
		return ""
	})
	if err := s.kube[2].CoreV1().ConfigMaps("linkerd").Delete(context.Background(), rotation.BundleObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.kube[1].CoreV1().ConfigMaps("linkerd").Delete(context.Background(), rotation.BundleObject, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(10*time.Second, func() string {
		if s.bundle(1) == nil {
			return "the bundle of c2 is not back"
		}
		return ""
	})
	if s.bundle(2) != nil {
		t.Error("a cluster that is no longer configured was written to")
	}
	reloads := 0
	for _, e := range s.history() {
		if e.Step == rotation.StepReload {
			reloads++
		}
	}
	if reloads < 2 {
		t.Errorf("the history has %d reloads", reloads)
	}
	d.term()
}

// certd stops within seconds also while a cluster accepts connections and
// never answers, which also keeps nobody else waiting.
func TestStopsWhileAClusterHangs(t *testing.T) {
	s := newSite(t, 2, daily)
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	go func() {
		for {
			conn, err := hole.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	s.edit(s.lab.Clusters[0].CertdKubeconfig, s.kubeconfig(0, func(c *clientcmdapi.Config) {
		for _, cl := range c.Clusters {
			cl.Server = (&url.URL{Scheme: "https", Host: hole.Addr().String()}).String()
		}
	}))
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.healthy("c2")
	start := time.Now()
	d.term()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if out, _, code := s.certd("history", "--verify", "--config", "certd.yaml"); code != 0 {
		t.Errorf("history --verify: exit %d\n%s", code, out)
	}
	s.absent("certd.sock")
}

// Vault that takes a request and never answers does not keep certd either: the
// signature in hand is recorded as unknown, and made anew by the next certd.
func TestStopsWhileVaultHangs(t *testing.T) {
	s := newSite(t, 1, daily)
	gate := newVaultGate(s)
	gate.behind(s)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	gate.mode.Store("hung")
	before := s.revisions()
	s.must("rotate", "issuer", "c1", "--yes", "--config", "certd.yaml")
	<-gate.hit
	start := time.Now()
	d.term()
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("stopping took %s", took)
	}
	s.untouched(before, "a signature that never came")
	gate.mode.Store("open")
	d = s.run()
	s.converged()
	s.must("rotate", "issuer", "c1", "--yes", "--wait", "--config", "certd.yaml")
	d.term()
	s.auditMatchesHistory()
}

// A lost journal is learnt anew from the clusters and Vault: the issuers stay,
// nothing is signed, and no second anchor can be made.
func TestLostJournal(t *testing.T) {
	s := newSite(t, 2, daily)
	s.enrolled()
	before := s.revisions()
	signs, _ := s.audit()
	st, _ := s.status()
	anchor := st.Trust.Active
	epoch := func() string { return s.bundle(0).Annotations["certd.io/epoch"] }
	was := epoch()
	if err := os.RemoveAll(s.path("state")); err != nil {
		t.Fatal(err)
	}
	s.refused(1, `key `+s.fleet+`-anchor-1 exists.*certd run.*recovers`, nil, "init", "--yes", "--config", "certd.yaml")
	d := s.run()
	s.answering()
	s.converged()
	st, _ = s.status()
	if st.Trust.Active == nil || st.Trust.Active.SHA256 != anchor.SHA256 || st.Trust.Active.ID != anchor.ID || st.Trust.Active.Key.Name != anchor.Key.Name {
		t.Errorf("the anchor is %+v, was %+v", st.Trust.Active, anchor)
	}
	if !slices.ContainsFunc(s.history(), func(e rotation.HistoryItem) bool { return e.Step == rotation.StepRecover && e.Outcome == rotation.OK }) {
		t.Error("the history has no recovery")
	}
	if now, _ := s.audit(); len(now) > len(signs)+1 { // the canary proves the key once
		t.Errorf("%d signatures after the loss", len(now)-len(signs))
	}
	s.untouched(before, "after the loss of the journal")
	out := s.must("init", "--yes", "--config", "certd.yaml")
	if !strings.Contains(out, "already") {
		t.Errorf("init after the recovery:\n%s", out)
	}
	// The next write bears a higher epoch.
	s.must("rotate", "issuer", "--all", "--yes", "--wait", "--config", "certd.yaml")
	var old, now uint64
	fmt.Sscan(was, &old)
	fmt.Sscan(s.secret(0).Annotations["certd.io/epoch"], &now)
	if now <= old {
		t.Errorf("the epoch is %d, was %d", now, old)
	}
	s.converged()
	d.term()
}

// Renewing by hand, from the command line to the history.
func TestRotateByHand(t *testing.T) {
	s := newSite(t, 2, daily)
	s.edit("{name: c2, ", "{name: c2, labels: {tier: prod}, ")
	s.refused(69, `needs the daemon.*certd run`, nil, "rotate", "issuer", "--all", "--yes", "--config", "certd.yaml")
	d := s.run() // before there is an anchor
	s.answering()
	s.found("", "NoAnchor", "no trust anchor")
	s.refused(75, `no trust anchor.*certd init`, nil, "rotate", "issuer", "c1", "--yes", "--config", "certd.yaml")
	// The ceremony goes through the daemon that runs.
	s.refused(0, `-anchor-1 in vault-transit, not exportable`, nil, "init", "--dry-run", "--config", "certd.yaml")
	s.refused(64, `--yes`, nil, "init", "--config", "certd.yaml")
	out := s.must("init", "--yes", "--config", "certd.yaml")
	if !strings.Contains(out, "the trust anchor is made") {
		t.Errorf("init through the daemon:\n%s", out)
	}
	s.converged()
	if !slices.ContainsFunc(s.history(), func(e rotation.HistoryItem) bool {
		return e.Step == rotation.StepAnchor && strings.HasSuffix(e.Actor, "@cli")
	}) {
		t.Error("the history does not say who made the anchor")
	}

	serial := func(i int) string { return s.secret(i).Annotations["certd.io/serial"] }
	first, second := serial(0), serial(1)
	before := s.revisions()
	s.refused(64, `--yes`, nil, "rotate", "issuer", "c1", "--config", "certd.yaml")
	s.refused(64, `no cluster "c9".*c1, c2`, nil, "rotate", "issuer", "c9", "--yes", "--config", "certd.yaml")
	s.refused(64, `no cluster matches`, nil, "rotate", "issuer", "-l", "tier=none", "--yes", "--config", "certd.yaml")
	s.refused(64, `one of these only`, nil, "rotate", "issuer", "--yes", "--config", "certd.yaml")
	s.refused(0, `Nothing was changed`, nil, "rotate", "issuer", "c1", "--dry-run", "--config", "certd.yaml")
	s.untouched(before, "requests that are refused")

	out = s.must("rotate", "issuer", "-l", "tier=prod", "--yes", "--wait", "--reason", "key drill", "--config", "certd.yaml")
	if serial(0) != first || serial(1) == second || !strings.Contains(out, "new issuer") || !strings.Contains(out, serial(1)) {
		t.Errorf("rotate -l tier=prod --wait: c1 %s was %s, c2 %s was %s\n%s", serial(0), first, serial(1), second, out)
	}
	found := false
	for _, e := range s.history() {
		if e.Serial == serial(1) && e.Step == rotation.StepIssuer {
			found = true
			if e.Actor != "root@cli" && !strings.HasSuffix(e.Actor, "@cli") || !strings.Contains(e.Reason, "key drill") || e.Cluster != "c2" {
				t.Errorf("the history says %+v", e)
			}
		}
	}
	if !found {
		t.Error("the history has no such issuer")
	}
	s.auditMatchesHistory()
	d.term()
}

// The commands that only look, in the formats that scripts use.
func TestLookingAround(t *testing.T) {
	s := newFolders(t)
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	for _, row := range []struct {
		command, want string
		code          int
	}{
		{"status", `folders`, 0},
		{"status east", `east`, 0},
		{"status -l tier=prod -o wide", `east`, 0},
		{"status -o short", `^CERTD OK - all 2 clusters ok .*clusters=2 ok=2 warning=0;0 critical=0;;0 unknown=0 min_expiry=\d+s`, 0},
		{"status -o jsonpath={.clusters[*].name}", `^east west\s*$`, 0},
		{"status -o yaml", `kind: FleetStatus`, 0},
		{"status --live -o json", `"source": "live"`, 0},
		{"status north", `no cluster "north".*east, west`, 64},
		{"status -o xml", `xml`, 64},
		{"plan --until 30d -o json", `"kind": "Plan"`, 0},
		{"plan --until 30d --exit-code", `east`, 2},
		{"plan --until 1m --exit-code", ``, 0},
		{"plan --if-stopped -o json", `"breaks": \[\s*{`, 0},
		{"plan --until sometime", `--until`, 64},
		{"history -o json --limit 1", `"kind": "HistoryList"`, 0},
		{"history --cluster west", `west`, 0},
		{"history --verify", `unbroken chain`, 0},
		{"inspect east", `usable as a Linkerd issuer: yes`, 0},
		{"inspect west/bundle", `usable as a Linkerd trust bundle: yes`, 0},
		{"config show", `defaults|issuer`, 0},
		{"config validate", `fleet folders, 2 clusters`, 0},
	} {
		s.refused(row.code, row.want, nil, append(strings.Fields(row.command), "--config", "certd.yaml")...)
	}
	s.refused(0, `complete`, nil, "completion", "bash")
	s.refused(0, `"goVersion": "go`, nil, "version", "-o", "json")
	s.refused(0, `apiVersion: certd/v1`, nil, "config", "example")
	s.refused(0, `"\$schema"`, nil, "config", "schema")
	// From another folder, and by the environment.
	s.refused(0, `folders`, []string{"CERTD_CONFIG=" + s.path("certd.yaml")}, "status")
	s.refused(0, `folders`, nil, "status") // ./certd.yaml
	d.term()
	s.refused(1, `no certd daemon answers`, nil, "status", "--config", "certd.yaml")
}

// Keys in files and folders for clusters: the whole way without anything else.
func TestFolders(t *testing.T) {
	s := newFolders(t)
	s.refused(0, `nothing was made`, nil, "init", "--dry-run", "--yes", "--config", "certd.yaml")
	for _, made := range []string{"keys", "east"} {
		if len(s.tree(made)) != 0 {
			t.Errorf("a rehearsal made %v", s.tree(made))
		}
	}
	s.must("init", "--config", "certd.yaml", "--yes")
	d := s.run()
	s.converged()
	for _, c := range []string{"east", "west"} {
		s.opensslAccepts(s.path(c+"/linkerd/"+rotation.BundleObject+"/ca-bundle.crt"), s.path(c+"/linkerd/"+rotation.IssuerObject+"/tls.crt"))
	}
	for path := range s.tree("keys") {
		if text := readFile(t, path); strings.Contains(text, "BEGIN EC PRIVATE KEY") || strings.Contains(text, "BEGIN PRIVATE KEY") {
			t.Errorf("%s holds a key in clear", path)
		}
	}
	was := s.tree("east", "west")
	s.must("rotate", "issuer", "east", "--yes", "--wait", "--config", "certd.yaml")
	if now := s.tree("east", "west"); maps.Equal(was, now) {
		t.Error("nothing was rotated")
	}
	d.term()

	// A wrong passphrase: told, and nothing changes; the right one again: on.
	was = s.tree("east", "west", "keys")
	s.write("passphrase", "another\n")
	d = s.run()
	s.converged()
	s.refused(1, `passphrase`, nil, "rotate", "issuer", "east", "--yes", "--wait", "--timeout", "20s", "--config", "certd.yaml")
	s.found("east", "StepFailed", "passphrase")
	s.same(was, "east", "west", "keys")
	s.write("passphrase", "correct horse battery staple\n")
	s.eventually(30*time.Second, func() string {
		if maps.Equal(was, s.tree("east", "west", "keys")) {
			return "certd does not go on with the right passphrase"
		}
		return ""
	})
	s.converged()
	d.term()
}

func (s *site) opensslAccepts(bundle, issuer string) {
	s.t.Helper()
	if out, err := exec.Command("openssl", "verify", "-x509_strict", "-CAfile", bundle, issuer).CombinedOutput(); err != nil {
		s.t.Errorf("openssl does not accept %s: %v\n%s", issuer, err, out)
	}
}

// Vault's PKI engine as the trust anchor: its root is taken over, and it signs
// the issuers.
func TestVaultPKI(t *testing.T) {
	s := newSite(t, 2, daily)
	var l struct {
		Vault struct {
			RoleID       string `json:"pkiRoleID"`
			SecretIDFile string `json:"pkiSecretIDFile"`
		} `json:"vault"`
	}
	if err := json.Unmarshal([]byte(readFile(t, os.Getenv("CERTD_LAB"))), &l); err != nil {
		t.Fatal(err)
	}
	s.edit("roleID: "+s.lab.Vault.RoleID, "roleID: "+l.Vault.RoleID, s.lab.Vault.SecretIDFile, l.Vault.SecretIDFile,
		"    auth:", "    pki: {mount: pki-root}\n    auth:")
	out := s.must("init", "--config", "certd.yaml", "--yes")
	root, _ := s.vaultRead("pki-root/cert/ca")["certificate"].(string)
	block, _ := pem.Decode([]byte(root))
	if block == nil {
		t.Fatalf("no root in pki-root\n%s", out)
	}
	d := s.run()
	s.converged()
	for i := range s.kube {
		b, _ := pem.Decode([]byte(s.bundle(i).Data["ca-bundle.crt"]))
		if b == nil || !bytes.Equal(b.Bytes, block.Bytes) {
			t.Errorf("the bundle of cluster %d is not the engine's root", i)
		}
		s.write("ca.pem", s.bundle(i).Data["ca-bundle.crt"])
		s.write("issuer.pem", string(s.secret(i).Data["tls.crt"]))
		s.opensslAccepts(s.path("ca.pem"), s.path("issuer.pem"))
	}
	d.term()
}

// A lost journal while Vault is sealed: nothing is done, nothing is lost, and
// the anchor is learnt once Vault answers.
func TestLostJournalWhileVaultIsSealed(t *testing.T) {
	s := newSite(t, 1, daily)
	gate := newVaultGate(s)
	gate.behind(s)
	s.enrolled()
	before := s.revisions()
	if err := os.RemoveAll(s.path("state")); err != nil {
		t.Fatal(err)
	}
	gate.mode.Store("sealed")
	d := s.run()
	s.answering()
	s.found("", "AnchorNotRecovered", `sealed.*unseal`)
	s.refused(69, `sealed.*unseal`, nil, "init", "--yes", "--config", "certd.yaml")
	s.untouched(before, "a lost journal and a sealed Vault")
	gate.mode.Store("open")
	// certd looks again within a minute, and at once when told to reload; a
	// login that was refused is tried again after a second or two.
	polls := 0
	s.eventually(90*time.Second, func() string {
		if polls++; polls%10 == 1 {
			d.cmd.Process.Signal(syscall.SIGHUP)
		}
		if st, _ := s.status(); st.State != rotation.StateOK {
			return "the anchor is not learnt"
		}
		return ""
	})
	s.untouched(before, "the anchor was learnt")
	d.term()
}
