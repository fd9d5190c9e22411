package api

import (
	"context"
	"time"
)

// Snapshot is the journal's file between two writes. Nothing in it is secret,
// and nothing of it is for people.
type Snapshot struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // JournalSnapshot
	Fleet      string `json:"fleet"`
	Data       []byte `json:"data"`
}

// JournalCopy says what a copy of the journal holds. All of it was verified.
type JournalCopy struct {
	Fleet    string         `json:"fleet"`
	Schema   int            `json:"schema"`
	Epoch    uint64         `json:"epoch"`
	Entries  uint64         `json:"entries"`
	First    uint64         `json:"first"`
	Last     uint64         `json:"last"`
	Head     string         `json:"head"` // hash of the last entry
	At       time.Time      `json:"at,omitzero"`
	Anchors  []CopiedAnchor `json:"anchors"`          // the newest generation first
	Change   string         `json:"change,omitempty"` // of the trust anchor, under way, in words
	Clusters int            `json:"clusters"`
	Bytes    int64          `json:"bytes"`
}

// CopiedAnchor is a generation of the trust anchor in a copy of the journal.
type CopiedAnchor struct {
	ID       string    `json:"id"`
	State    string    `json:"state"` // as in TrustAnchor
	NotAfter time.Time `json:"notAfter,omitzero"`
	SHA256   string    `json:"sha256,omitempty"`
}

// BackupReply is the document behind `certd backup -o json`.
type BackupReply struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"` // JournalBackup
	File       string    `json:"file"`
	SavedAt    time.Time `json:"savedAt"`
	JournalCopy
}

// RestoreRequest asks to put a copy into the place of the journal. It never
// goes over the socket: no daemon may run.
type RestoreRequest struct {
	File   string
	Actor  string
	Reason string
	DryRun bool
}

// RestoreReply says what took the place of what or, in a dry run, would.
type RestoreReply struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"` // JournalRestore
	File       string       `json:"file"`
	StateDir   string       `json:"stateDir"`
	DryRun     bool         `json:"dryRun"`
	Copy       JournalCopy  `json:"copy"`
	Present    *JournalCopy `json:"present,omitempty"`    // what was there; absent: nothing, or nothing readable
	Unreadable string       `json:"unreadable,omitempty"` // why it cannot be read
	Aside      string       `json:"aside,omitempty"`      // where that is kept
	Epoch      uint64       `json:"epoch,omitempty"`      // of the restored journal
	// Daemon says which certd holds the journal; only a dry run gets that far.
	Daemon string `json:"daemon,omitempty"`
}

// RecoverRequest asks to rebuild the journal. It never goes over the socket: no daemon
// may run.
type RecoverRequest struct {
	Actor  string
	Reason string
	DryRun bool
}

// RecoverReply says what the journal was rebuilt from and holds now or, in a dry run,
// would.
type RecoverReply struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"` // JournalRecovery
	StateDir   string             `json:"stateDir"`
	DryRun     bool               `json:"dryRun"`
	Mirror     *RecoveredMirror   `json:"mirror,omitempty"` // absent: none is configured
	Clusters   []RecoveredCluster `json:"clusters"`
	WebhookCAs int                `json:"webhookCAs"`
	Journal    JournalCopy        `json:"journal"`              // as it is rebuilt
	Present    *JournalCopy       `json:"present,omitempty"`    // what was there; absent: nothing, or nothing readable
	Unreadable string             `json:"unreadable,omitempty"` // why it cannot be read
	Aside      string             `json:"aside,omitempty"`      // where that is kept
	Epoch      uint64             `json:"epoch,omitempty"`
	Daemon     string             `json:"daemon,omitempty"` // which certd holds the journal; only a dry run gets that far
}

// RecoveredMirror is what the mirror had.
type RecoveredMirror struct {
	Records int    `json:"records"`          // that were taken over
	Holder  string `json:"holder,omitempty"` // who wrote it; absent: nothing is there
	Problem string `json:"problem,omitempty"`
}

// RecoveredCluster is a cluster that was looked at.
type RecoveredCluster struct {
	Name    string `json:"name"`
	Problem string `json:"problem,omitempty"` // why what it has is not known
}

// Snapshot asks the daemon for its journal.
func (c *Client) Snapshot(ctx context.Context) (doc Snapshot, err error) {
	return doc, c.ask(ctx, "/v1/snapshot", nil, &doc)
}
