package daemon

import (
	"context"
	"fmt"
	"time"

	"certd.internal/rotation"
	"certd.internal/state"
)

// journalDay is how far back the journal is read for what was done lately.
const journalDay = 24 * time.Hour

func (s *running) Verification(ctx context.Context) (rotation.Verification, error) {
	e := s.reconciler.Evidence(ctx)
	if err := ctx.Err(); err != nil {
		return rotation.Verification{}, fmt.Errorf("verify the fleet: %w", err)
	}
	e.Journal = journalEvidence(s.journal, e.At)
	return rotation.Verify(e), nil
}

// journalEvidence checks the journal as `certd history --verify` does, and reads
// what is open and what was done in the last day. Where it cannot be read, that
// is the evidence.
func journalEvidence(j *state.Journal, now time.Time) (e rotation.JournalEvidence) {
	report, err := j.Verify()
	if err == nil {
		e.Entries, e.First, e.Last, e.BadSeq, e.Problem = report.Entries, report.First, report.Last, report.BadSeq, report.Problem
		e.Open, err = j.Pending()
	}
	if err == nil && e.Problem == "" {
		e.Recent, err = j.Entries(state.Filter{Since: now.Add(-journalDay)})
	}
	e.Err = err
	return e
}
