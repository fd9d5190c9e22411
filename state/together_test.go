package state

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"certd.internal/rotation"
)

// together has writes wait for a commit that is under way, in this order, and returns what
// came of each once that has ended. disk is what it says to the commits after it.
func together(t *testing.T, j *Journal, disk func() error, writes ...func() error) (came []error, commits int) {
	t.Helper()
	underWay, begin := make(chan struct{}), make(chan struct{})
	j.disk = func() error {
		j.disk = func() error { commits++; return disk() }
		close(underWay)
		<-begin
		return nil
	}
	var working sync.WaitGroup
	working.Go(func() {
		if _, err := j.RaiseEpoch(j.Epoch()); err != nil {
			t.Error(err)
		}
	})
	<-underWay
	came = make([]error, len(writes))
	for i, f := range writes {
		working.Go(func() { came[i] = f() })
		for waiting := 0; waiting <= i; {
			j.waiting.Lock()
			waiting = len(j.waits)
			j.waiting.Unlock()
		}
	}
	close(begin)
	working.Wait()
	j.disk = nil
	return came, commits
}

func well() error { return nil }

// Writes that wait for the same commit share the next one; each has its own outcome.
func TestWritesThatWaitShareACommit(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	var writes []func() error
	ids := make([]uint64, 40)
	for i := range ids {
		writes = append(writes, func() (err error) { ids[i], err = j.Begin(signing(fmt.Sprint("c", i), "1")); return err })
	}
	came, commits := together(t, j, well, writes...)
	ok(t, errors.Join(came...))
	if commits != 1 {
		t.Errorf("%d writes took %d commits", len(writes), commits)
	}
	writes = nil
	for i, id := range ids {
		writes = append(writes, func() error { return j.Finish(id, rotation.Outcome{Result: rotation.OK, Detail: fmt.Sprint(i)}) })
	}
	came, commits = together(t, j, well, writes...)
	ok(t, errors.Join(came...))
	if commits != 1 {
		t.Errorf("%d writes took %d commits", len(writes), commits)
	}
	ok(t, j.Close())
	j = openTest(t, dir, Options{})
	entries := must[[]rotation.Entry](t)(j.Entries(Filter{}))
	if len(entries) != len(ids) {
		t.Fatalf("%d entries of %d", len(entries), len(ids))
	}
	for i, e := range entries {
		if e.IntentID != ids[i] || e.Intent.Cluster != fmt.Sprint("c", i) || e.Detail != fmt.Sprint(i) {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" {
		t.Error(r.Problem)
	}
}

// A write that is refused, or changes nothing, keeps nobody else's from the disk.
func TestARefusedWriteConcernsNobodyElse(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	id := must[uint64](t)(j.Begin(signing("eu", "1")))
	came, _ := together(t, j, well,
		func() error { return j.SaveCluster(rotation.ClusterRecord{Name: "eu"}) },
		func() error { return j.Finish(99, rotation.Outcome{Result: rotation.OK}) },
		func() error { return j.SaveCluster(rotation.ClusterRecord{Name: "eu"}) },
		func() error { return j.Finish(id, rotation.Outcome{Result: rotation.OK}) },
	)
	for i, want := range []error{nil, ErrNotPending, nil, nil} {
		if !errors.Is(came[i], want) {
			t.Errorf("write %d: %v, want %v", i, came[i], want)
		}
	}
	if got := must[[]rotation.ClusterRecord](t)(j.Clusters()); len(got) != 1 {
		t.Errorf("clusters: %v", got)
	}
	if got := must[[]rotation.Entry](t)(j.Entries(Filter{})); len(got) != 1 || got[0].IntentID != id {
		t.Errorf("entries: %v", got)
	}
	if r := must[Report](t)(j.Verify()); r.Problem != "" {
		t.Error(r.Problem)
	}
}

// Where the disk is full for a commit, no outcome in it is lost: the reserve makes room for
// all of them.
func TestAFullDiskLosesNoOutcomeOfMany(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	var writes []func() error
	for i := range 10 {
		id := must[uint64](t)(j.Begin(signing(fmt.Sprint("c", i), "1")))
		writes = append(writes, func() error { return j.Finish(id, rotation.Outcome{Result: rotation.OK}) })
	}
	full := true
	came, _ := together(t, j, func() error {
		if full {
			full = false
			return syscall.ENOSPC
		}
		return nil
	}, writes...)
	ok(t, errors.Join(came...))
	if got := must[[]rotation.Entry](t)(j.Entries(Filter{})); len(got) != len(writes) {
		t.Errorf("%d entries of %d", len(got), len(writes))
	}
}

// What a disk does not take, none of those who waited takes for written.
func TestADiskThatGivesErrorsTellsAllWhoWaited(t *testing.T) {
	j := openTest(t, t.TempDir(), Options{})
	save := func(name string) func() error {
		return func() error { return j.SaveCluster(rotation.ClusterRecord{Name: name}) }
	}
	came, _ := together(t, j, func() error { return syscall.EIO }, save("a"), save("b"), save("c"))
	for i, err := range came {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("write %d: %v", i, err)
		}
	}
}
