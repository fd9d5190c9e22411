package rotation

import (
	"maps"
	"slices"
	"sync"
)

// unseen is how an intent is closed of whose effect no cluster shows anything, where its
// outcome was not recorded: what was not recorded was not used, and nothing came of it.
func unseen(s Step, because string) (out Outcome, unseen bool) {
	switch s {
	case StepSign, StepCanary: // a key was used
		return Outcome{Result: Unknown, Detail: because + " before the answer was recorded"}, true
	case StepAnchor, StepTrustChange, StepRecover, StepStart, StepReload, StepPause, StepResume, StepRestore:
		return Outcome{Result: Abandoned, Detail: because + " before it took effect"}, true
	}
	return Outcome{}, false
}

// owing is a journal that is told later how intents ended that no cluster can show, if it
// could not be told at once, since its disk was full for instance. What stays untold the
// next start closes (SettleFleet).
type owing struct {
	Journal
	mu   sync.Mutex
	open map[uint64]Step // of those that are under way
	owed map[uint64]Outcome
}

func newOwing(j Journal) *owing {
	return &owing{Journal: j, open: map[uint64]Step{}, owed: map[uint64]Outcome{}}
}

// Begin implements Journal.
func (j *owing) Begin(in Intent) (uint64, error) {
	id, err := j.Journal.Begin(in)
	if _, ours := unseen(in.Step, ""); ours && err == nil {
		j.mu.Lock()
		j.open[id] = in.Step
		j.mu.Unlock()
	}
	return id, err
}

// Finish implements Journal.
func (j *owing) Finish(id uint64, out Outcome) error {
	err := j.Journal.Finish(id, out)
	j.mu.Lock()
	defer j.mu.Unlock()
	if step, ours := j.open[id]; ours && err != nil {
		late, _ := unseen(step, "the journal failed")
		late.SignRequest = out.SignRequest
		j.owed[id] = late
	}
	delete(j.open, id)
	return err
}

// pay tells what it can.
func (j *owing) pay() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(j.owed)) {
		if j.Journal.Finish(id, j.owed[id]) == nil {
			delete(j.owed, id)
		}
	}
}
