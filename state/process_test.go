package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certd.internal/rotation"
)

// These tests run the journal in a process of its own: this test binary,
// told by childMode what to be.
const (
	childMode = "CERTD_STATE_TEST_CHILD"
	childDir  = "CERTD_STATE_TEST_DIR"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	var err error
	switch mode := os.Getenv(childMode); {
	case mode == "":
		os.Exit(m.Run())
	case mode == "hold":
		err = holdJournal(dir)
	case mode == "write":
		err = writeForEver(dir)
	case mode == "full":
		err = fillDisk(dir)
	case strings.HasPrefix(mode, "crash "):
		var n int
		fmt.Sscanf(mode, "crash %d", &n)
		err = crashAt(dir, n)
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child starts this binary in a mode; stop kills it.
func child(t *testing.T, mode, dir string) (out *bufio.Scanner, in io.Closer, stop func()) {
	t.Helper()
	cmd := exec.Command(must[string](t)(os.Executable()))
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir)
	stdin := must[io.WriteCloser](t)(cmd.StdinPipe())
	stdout := must[io.ReadCloser](t)(cmd.StdoutPipe())
	cmd.Stderr = os.Stderr
	ok(t, cmd.Start())
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(stop)
	return bufio.NewScanner(stdout), stdin, stop
}

// script does a few steps and says after each what the journal acknowledged.
func script(j *Journal) error {
	for n := range 3 {
		serial := fmt.Sprint(n)
		id, err := j.Begin(signing("eu", serial))
		if err != nil {
			return err
		}
		fmt.Println("begun", id)
		cert := issuer("eu", serial, noon.Add(time.Duration(n)*time.Hour))
		if err := j.Finish(id, rotation.Outcome{Result: rotation.OK, Certificate: &cert, Enrolled: true}); err != nil {
			return err
		}
		fmt.Println("finished", id)
		if err := j.SaveCluster(rotation.ClusterRecord{Name: "eu", Enrolled: true, Target: serial}); err != nil {
			return err
		}
		add := []Outgoing{{ID: serial, Receiver: "pager", At: noon, Body: []byte("{}")}, {ID: serial, Receiver: "soc", At: noon, Body: []byte("{}")}}
		if err := j.Notify(NotifyChange{Put: []Notice{{Cluster: "eu", Finding: "F" + serial, Severity: rotation.StateWarning, Told: []string{"pager", "soc"}}}, Add: add}); err != nil {
			return err
		}
		fmt.Println("told", n+1)
	}
	if _, err := j.RaiseEpoch(100); err != nil {
		return err
	}
	fmt.Println("epoch", j.Epoch())
	return nil
}

// crashAt dies at the n-th crash point, as after kill -9.
func crashAt(dir string, n int) error {
	j, err := Open(dir, Options{Fleet: "acme", Reserve: 4096, CrashPoint: func(string) {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		return err
	}
	if err := script(j); err != nil {
		return err
	}
	fmt.Println("done")
	return j.Close()
}

func writeForEver(dir string) error {
	j, err := Open(dir, Options{Fleet: "acme", Reserve: 4096, LockTimeout: 5 * time.Second})
	for err == nil {
		err = script(j)
	}
	return err
}

func holdJournal(dir string) error {
	j, err := Open(dir, Options{Fleet: "acme"})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return j.Close()
}

// acknowledged is what a child said before it died.
type acknowledged struct {
	begun, finished []uint64
	told            []uint64
	epoch           uint64
	done            bool
}

func (a *acknowledged) read(t *testing.T, line string) {
	t.Helper()
	var word string
	var n uint64
	fmt.Sscan(line, &word, &n)
	switch word {
	case "begun":
		a.begun = append(a.begun, n)
	case "finished":
		a.finished = append(a.finished, n)
	case "told":
		a.told = append(a.told, n)
	case "epoch":
		a.epoch = n
	case "done":
		a.done = true
	default:
		t.Fatalf("the child says %q", line)
	}
}

// check opens what the dead child left and looks for all it acknowledged.
func (a *acknowledged) check(t *testing.T, dir, when string) {
	t.Helper()
	j, err := Open(dir, Options{Fleet: "acme", Reserve: -1, NoSync: true, LockTimeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer j.Close()
	open, closed := map[uint64]bool{}, map[uint64]bool{}
	for _, p := range must[[]rotation.PendingIntent](t)(j.Pending()) {
		open[p.ID] = true
	}
	for _, e := range must[[]rotation.Entry](t)(j.Entries(Filter{})) {
		closed[e.IntentID] = true
	}
	largest := uint64(0)
	for _, id := range a.begun {
		if open[id] == closed[id] {
			t.Errorf("%s: intent %d is open: %v, and closed: %v", when, id, open[id], closed[id])
		}
		largest = max(largest, id)
	}
	for _, id := range a.finished {
		if !closed[id] {
			t.Errorf("%s: the outcome of intent %d is lost", when, id)
		}
	}
	if len(a.finished) > 0 {
		if c := must[rotation.ClusterRecord](t)(j.Cluster("eu")); !c.Enrolled {
			t.Errorf("%s: the enrolment is lost", when)
		}
		if len(must[[]rotation.CertificateRecord](t)(j.Certificates("eu", 0, time.Time{}))) == 0 {
			t.Errorf("%s: the certificate is lost", when)
		}
	}
	n := must[Notifications](t)(j.Notifications())
	for _, nth := range a.told {
		serial := fmt.Sprint(nth - 1)
		sends := slices.DeleteFunc(slices.Clone(n.Outbox), func(o Outgoing) bool { return o.ID != serial })
		if len(sends)%2 != 0 || len(sends) == 0 || !slices.ContainsFunc(n.Notices, func(n Notice) bool { return n.Finding == "F"+serial }) {
			t.Errorf("%s: notification %d is not whole: %+v", when, nth, n)
		}
	}
	if len(n.Outbox)%2 != 0 {
		t.Errorf("%s: half a notification is in the outbox: %+v", when, n.Outbox)
	}
	if j.Epoch() <= a.epoch {
		t.Errorf("%s: epoch %d after %d", when, j.Epoch(), a.epoch)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" {
		t.Errorf("%s: %s", when, r.Problem)
	}
	if id := must[uint64](t)(j.Begin(signing("eu", "x"))); id <= largest {
		t.Errorf("%s: intent %d was given out again", when, id)
	}
}

func TestCrashAtEachCommit(t *testing.T) {
	for n := 1; ; n++ {
		dir := t.TempDir()
		out, _, stop := child(t, fmt.Sprint("crash ", n), dir)
		var a acknowledged
		for out.Scan() {
			a.read(t, out.Text())
		}
		stop()
		a.check(t, dir, fmt.Sprint("crash point ", n))
		if a.done {
			if n < 20 {
				t.Errorf("only %d crash points", n-1)
			}
			return
		}
	}
}

func TestKilledAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	for n := range 25 {
		out, _, stop := child(t, "write", dir)
		var a acknowledged
		for range n % 12 {
			if out.Scan() {
				a.read(t, out.Text())
			}
		}
		stop()
		for out.Scan() { // what it said before it died
			a.read(t, out.Text())
		}
		a.check(t, dir, fmt.Sprint("kill ", n))
	}
}

func TestHeldByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir)
	out, in, stop := child(t, "hold", dir)
	if !out.Scan() || out.Text() != "ready" {
		t.Fatalf("the child says %q", out.Text())
	}
	for _, readOnly := range []bool{false, true} {
		began := time.Now()
		_, err := Open(dir, Options{Fleet: "acme", ReadOnly: readOnly, LockTimeout: 100 * time.Millisecond})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "(pid ") {
			t.Errorf("read-only %v: %v", readOnly, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("read-only %v: it took %v", readOnly, took)
		}
	}
	scratch := t.TempDir()
	j := must[*Journal](t)(OpenCopy(dir, scratch, Options{Fleet: "acme"}))
	if _, err := readAll(j); err != nil {
		t.Error(err)
	}
	if n := len(must[[]rotation.PendingIntent](t)(j.Pending())); n != 3 || j.Epoch() != 2 {
		t.Errorf("the copy has %d pending, epoch %d", n, j.Epoch())
	}
	if _, err := j.Begin(signing("eu", "1")); !errors.Is(err, ErrReadOnly) {
		t.Errorf("writing to the copy: %v", err)
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(scratch)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	ok(t, j.Close())
	in.Close()
	for out.Scan() {
	}
	stop()
	ok(t, openTest(t, dir, Options{LockTimeout: 5 * time.Second}).Close())
}

func TestCopyWhileAnotherProcessWrites(t *testing.T) {
	dir := t.TempDir()
	out, _, stop := child(t, "write", dir)
	var a acknowledged
	for range 30 {
		if !out.Scan() {
			t.Fatal("the child ended")
		}
		a.read(t, out.Text())
	}
	go func() {
		for out.Scan() {
		}
	}()
	for range 5 {
		j := must[*Journal](t)(OpenCopy(dir, t.TempDir(), Options{Fleet: "acme"}))
		closed := map[uint64]bool{}
		for _, e := range must[[]rotation.Entry](t)(j.Entries(Filter{})) {
			closed[e.IntentID] = true
		}
		for _, id := range a.finished {
			if !closed[id] {
				t.Errorf("the copy lacks intent %d", id)
			}
		}
		ok(t, j.Close())
	}
	stop()
	if _, err := OpenCopy(t.TempDir(), "", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a copy of nothing: %v", err)
	}
}

// fillDisk lives through a full disk. A limit on the size of files stands in
// for it, which needs no privilege and comes from the kernel like the real one.
func fillDisk(dir string) error {
	const reserve = 16 << 10
	limit := func(n uint64) {
		r := syscall.Rlimit{Cur: n, Max: ^uint64(0)}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
			panic(err)
		}
	}
	const unlimited = ^uint64(0)
	finishes := 0
	j, err := Open(dir, Options{Fleet: "acme", Reserve: reserve, CrashPoint: func(p string) {
		if p == "finish: before" {
			if finishes++; finishes == 2 { // the reserve has been given back
				limit(unlimited)
			}
		}
	}})
	if err != nil {
		return err
	}
	limit(uint64(j.Size()))
	in := signing("eu", "1")
	in.Reason = strings.Repeat("because ", 200)
	var ids []uint64
	for len(ids) < 1000 {
		id, err := j.Begin(in)
		if errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		ids = append(ids, id)
	}
	open, err := j.Pending()
	if err != nil || len(open) != len(ids) || len(ids) == 1000 {
		return fmt.Errorf("%d acknowledged, %d pending: %v", len(ids), len(open), err)
	}
	if _, err := j.Begin(in); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), dir) {
		return fmt.Errorf("still full: %v", err)
	}
	if _, err := os.Stat(j.reservePath()); err != nil {
		return fmt.Errorf("begin spent the reserve: %w", err)
	}
	big := rotation.Outcome{Result: rotation.OK, Detail: strings.Repeat("done ", 800)}
	if err := j.Finish(ids[0], big); err != nil || finishes != 2 {
		return fmt.Errorf("finish at attempt %d: %w", finishes, err)
	}
	if _, err := os.Stat(j.reservePath()); err == nil {
		return errors.New("the reserve is still there")
	}
	limit(reserve / 2)
	if _, err := j.Begin(signing("eu", "2")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "reserve") {
		return fmt.Errorf("begin without a reserve: %v", err)
	}
	limit(unlimited)
	if _, err := j.Begin(signing("eu", "3")); err != nil {
		return fmt.Errorf("begin with room again: %w", err)
	}
	if info, err := os.Stat(j.reservePath()); err != nil || info.Size() != reserve {
		return fmt.Errorf("the reserve is not back: %v", err)
	}
	if r, err := j.Verify(); err != nil || r.Problem != "" || r.Entries != 1 {
		return fmt.Errorf("%+v, %w", r, err)
	}
	if err := j.Close(); err != nil {
		return err
	}
	if j, err = Open(dir, Options{Fleet: "acme"}); err != nil {
		return err
	}
	if open, err = j.Pending(); err != nil || len(open) != len(ids) {
		return fmt.Errorf("reopened: %d pending, %w", len(open), err)
	}
	if err := j.Close(); err != nil {
		return err
	}
	// A disk that is full from the start leaves nothing behind.
	limit(4096)
	if _, err := Open(dir+"/new", Options{Fleet: "acme"}); !errors.Is(err, ErrFull) {
		return fmt.Errorf("a new journal: %v", err)
	}
	limit(unlimited)
	j, err = Open(dir+"/new", Options{Fleet: "acme"})
	if err != nil || !j.Created() {
		return fmt.Errorf("a new journal after all: %w", err)
	}
	fmt.Println("done")
	return j.Close()
}

func TestFullDisk(t *testing.T) {
	out, _, _ := child(t, "full", t.TempDir())
	if !out.Scan() {
		t.Fatal("the child died")
	}
	if out.Text() != "done" {
		t.Fatal(out.Text())
	}
}

func TestFinishThatTookEffectOnAFullDisk(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	id := must[uint64](t)(j.Begin(signing("eu", "1")))
	ok(t, j.Finish(id, rotation.Outcome{Result: rotation.OK}))
	err := j.update("finish", "again", func(txn *txn) error {
		return j.finish(txn, id, rotation.Outcome{Result: rotation.OK}, true)
	})
	if err != nil || len(must[[]rotation.Entry](t)(j.Entries(Filter{}))) != 1 {
		t.Errorf("%v", err)
	}
}

func TestDiskThatGivesErrorsIsNotTrustedAgain(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	j.disk = func() error { return syscall.EIO }
	if _, err := j.Begin(signing("eu", "1")); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	j.disk = nil
	if _, err := j.Begin(signing("eu", "1")); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "restart certd") {
		t.Errorf("afterwards: %v", err)
	}
}
