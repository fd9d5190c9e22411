// Package api is the daemon's admin socket: HTTP over a Unix socket, for the
// certd command on the same host.
package api

import (
	"context"
	"errors"
	"time"

	"certd.internal/rotation"
)

// A Service is what the daemon offers over its socket. The documents are those
// that the commands print with -o json.
type Service interface {
	// Status is the fleet as the daemon last saw it; it asks no cluster.
	Status(ctx context.Context) (rotation.FleetStatus, error)
	// Plan lists what will happen until then, at most 10,000 items.
	Plan(ctx context.Context, until time.Time, ifStopped bool) (rotation.Plan, error)
	// History returns journal entries, oldest first.
	History(ctx context.Context, q HistoryQuery) (rotation.HistoryList, error)
	// Verify checks the journal's hash chain.
	Verify(ctx context.Context) (VerifyReport, error)
	// Rotate renews issuers now. Without Wait it returns once the request is
	// accepted, with Wait when each is written or has failed.
	Rotate(ctx context.Context, r RotateRequest) (RotateReply, error)
	// Init makes the trust anchor.
	Init(ctx context.Context, r InitRequest) (InitReply, error)
}

// HistoryQuery selects entries; the zero query selects all.
type HistoryQuery struct {
	Since   time.Time `json:"since,omitzero"`
	Cluster string    `json:"cluster,omitempty"`
	Limit   int       `json:"limit,omitempty"` // the newest so many
	After   uint64    `json:"after,omitempty"` // only entries with a larger seq
}

// VerifyReport is the verdict on the hash chain.
type VerifyReport struct {
	Entries uint64 `json:"entries"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Head    string `json:"head"`
	BadSeq  uint64 `json:"badSeq,omitempty"` // the first entry that does not hold; 0: all do
	Problem string `json:"problem,omitempty"`
}

// RotateRequest asks for new issuers in the named clusters.
type RotateRequest struct {
	Clusters []string `json:"clusters"`
	Reason   string   `json:"reason"`
	Actor    string   `json:"actor"` // set by the server from the peer's credentials
	Wait     bool     `json:"wait"`
	DryRun   bool     `json:"dryRun"`
}

// RotateReply says, per cluster, what came of it.
type RotateReply struct {
	Results []RotateResult `json:"results"`
}

// RotateResult is one cluster's part of a RotateReply.
type RotateResult struct {
	Cluster string          `json:"cluster"`
	Result  rotation.Result `json:"result"` // "" when accepted and not waited for
	Serial  string          `json:"serial,omitempty"`
	Detail  string          `json:"detail,omitempty"`
}

// InitRequest asks for the trust anchor. Token, if any, creates the key and
// is used for nothing else; it is never logged or stored.
type InitRequest struct {
	Actor     string   `json:"actor"`
	Operator  string   `json:"operator,omitempty"`
	Witnesses []string `json:"witnesses,omitempty"`
	Reason    string   `json:"reason,omitempty"`
	Token     string   `json:"token,omitempty"`
	DryRun    bool     `json:"dryRun"`
}

// InitReply is the record of the ceremony.
type InitReply struct {
	APIVersion string                `json:"apiVersion"`
	Kind       string                `json:"kind"` // Ceremony
	Fleet      string                `json:"fleet"`
	At         time.Time             `json:"at"`
	Created    bool                  `json:"created"` // false: the anchor was there already
	DryRun     bool                  `json:"dryRun"`
	Operator   string                `json:"operator,omitempty"`
	Witnesses  []string              `json:"witnesses"`
	Anchor     rotation.AnchorStatus `json:"anchor"`
	BundlePEM  string                `json:"bundlePEM"`
	Steps      []string              `json:"steps"` // what was checked and done, in order, in words
	Entries    []uint64              `json:"entries"`
}

// What a caller decides by; the text is for people. Over the socket each
// travels as the exit code the command ends with.
var (
	// ErrNoDaemon: nothing answers on the socket (exit 69).
	ErrNoDaemon = errors.New("no daemon answers")
	// ErrUsage: the request names something that is not there (exit 64).
	ErrUsage = errors.New("bad request")
	// ErrNotNow: try again later (exit 75).
	ErrNotNow = errors.New("not now")
	// ErrDenied: not permitted, by the socket, Vault or a cluster (exit 77).
	ErrDenied = errors.New("not permitted")
	// ErrUnavailable: a needed service does not answer (exit 69).
	ErrUnavailable = errors.New("unavailable")
	// ErrTimeout: waited too long (exit 124).
	ErrTimeout = errors.New("waited too long")
)
