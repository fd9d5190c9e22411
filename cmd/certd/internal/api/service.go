// Package api is the daemon's admin socket: HTTP over a Unix socket, for the
// certd command on the same host.
package api

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"certd.internal/cmd/certd/internal/check"
	"certd.internal/pki"
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
	// Verification has the clusters looked at anew and judges the promises. It
	// takes as long as the slowest of them, 20 s and a little at most, and needs
	// the daemon.
	Verification(ctx context.Context) (rotation.Verification, error)
	// Check has the key backend and the clusters looked at anew and judges the
	// claims that are selected. It takes as long as a Verification, and needs the
	// daemon.
	Check(ctx context.Context, s check.Select) (check.Report, error)
	// Export is what other tools need to know of a cluster.
	Export(ctx context.Context, cluster string) (ClusterExport, error)
	// Trust lists every generation of the trust anchor.
	Trust(ctx context.Context) (TrustList, error)
	// RenewTrust gives the active trust anchor new dates. It needs the daemon.
	RenewTrust(ctx context.Context, r RenewRequest) (RenewReply, error)
	// ChangeTrust begins a change of the trust anchor, or steers the one under
	// way. It needs the daemon.
	ChangeTrust(ctx context.Context, r ChangeRequest) (ChangeReply, error)
	// Adopt takes over clusters with trust material that certd did not make. It
	// needs the daemon.
	Adopt(ctx context.Context, r AdoptRequest) (AdoptReply, error)
	// Pause has clusters left alone for a while, or ends that. It needs the daemon.
	Pause(ctx context.Context, r PauseRequest) (PauseReply, error)
	// Rotate renews issuers, webhooks' certificates or the CAs over them now.
	// Without Wait it returns once the request is accepted, with Wait when each
	// is done or has failed.
	Rotate(ctx context.Context, r RotateRequest) (RotateReply, error)
	// TestReceiver sends a test to a receiver of notifications, and returns when
	// that has taken it. It needs the daemon.
	TestReceiver(ctx context.Context, r ReceiverTest) (ReceiverTestReply, error)
	// LogLevel tells how much the daemon logs, and changes that for a while. It
	// needs the daemon.
	LogLevel(ctx context.Context, r LogLevelRequest) (LogLevel, error)
	// Diagnosis is what the daemon says of itself. It needs the daemon.
	Diagnosis(ctx context.Context) (Diagnosis, error)
	// Snapshot is a copy of the journal.
	Snapshot(ctx context.Context) (Snapshot, error)
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

// ClusterExport is what other tools need to know of a cluster. Nothing in it
// is secret.
type ClusterExport struct {
	APIVersion  string `json:"apiVersion"`
	Kind        string `json:"kind"` // ClusterExport
	Cluster     string `json:"cluster"`
	Directory   bool   `json:"directory"` // a folder of files, no Kubernetes cluster
	Namespace   string `json:"namespace"` // of Linkerd's control plane
	TrustDomain string `json:"trustDomain"`
	Webhooks    bool   `json:"webhooks"` // certd looks after the cluster's webhooks
	// BundlePEM is the trust bundle; absent before there is an anchor.
	BundlePEM string `json:"bundlePEM,omitempty"`
	// WebhookCAPEM is every webhook CA in use, the oldest first; absent before
	// certd has made one.
	WebhookCAPEM string `json:"webhookCAPEM,omitempty"`
}

// TrustList is the document behind `certd trust list`. Nothing in it is secret.
type TrustList struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"` // TrustList
	Fleet      string        `json:"fleet"`
	ObservedAt time.Time     `json:"observedAt"`
	Source     string        `json:"source"`   // daemon or journal
	Clusters   int           `json:"clusters"` // how many there are
	Unseen     int           `json:"unseen"`   // of these, whose bundle is not known
	Items      []TrustAnchor `json:"items"`    // the newest generation first
}

// What a generation of the trust anchor is for.
const (
	AnchorActive   = "active"   // signs, and is trusted
	AnchorTrusted  = "trusted"  // is trusted, and signs nothing new
	AnchorRetired  = "retired"  // was taken out of every bundle
	AnchorUnsigned = "unsigned" // its key is made or about to be; it has no certificate yet
)

// TrustAnchor is one generation of the trust anchor. What its certificate says
// is absent while it has none.
type TrustAnchor struct {
	ID             string             `json:"id"`
	State          string             `json:"state"`
	Subject        string             `json:"subject,omitempty"`
	NotBefore      time.Time          `json:"notBefore,omitzero"`
	NotAfter       time.Time          `json:"notAfter,omitzero"`
	SHA256         string             `json:"sha256,omitempty"`
	SKI            string             `json:"ski,omitempty"`
	Key            rotation.KeyStatus `json:"key"`
	Clusters       int                `json:"clusters"` // in whose bundle it was last seen
	CreatedAt      time.Time          `json:"createdAt,omitzero"`
	RetiredAt      time.Time          `json:"retiredAt,omitzero"`
	CertificatePEM string             `json:"certificatePEM,omitempty"`
}

// Published says whether the anchor belongs to the bundle that certd publishes.
func (t TrustAnchor) Published() bool { return t.State == AnchorActive || t.State == AnchorTrusted }

// RenewRequest asks for new dates for the active trust anchor.
type RenewRequest struct {
	Actor  string `json:"actor"`
	Reason string `json:"reason,omitempty"`
	DryRun bool   `json:"dryRun"`
}

// RenewReply has the anchor before and after; they are equal in a dry run.
type RenewReply struct {
	Before rotation.AnchorStatus `json:"before"`
	After  rotation.AnchorStatus `json:"after"`
}

// ChangeBegin is the order that begins a change; the others are rotation's.
const ChangeBegin rotation.ChangeOrder = "rotate"

// ChangeRequest begins a change of the trust anchor, or steers the one under
// way. Token, if any, creates the new anchor's key and is used for nothing
// else; it is never logged or stored.
type ChangeRequest struct {
	Order   rotation.ChangeOrder `json:"order"`
	Without []string             `json:"without,omitempty"` // for advance: clusters not to wait for
	// Compromised: for rotate: away from the anchor in use at once, at whatever cost.
	Compromised bool `json:"compromised,omitempty"`
	// Manual: for rotate: each stage ends by a person's word.
	Manual bool `json:"manual,omitempty"`
	// Outsiders: for rotate and advance: whom the meshes talk to, and whom certd does not
	// look after, has been seen to.
	Outsiders bool `json:"outsiders,omitempty"`
	// Approves: for approve: what is retired, a generation or "adopted".
	Approves string `json:"approves,omitempty"`
	Actor    string `json:"actor"`
	// ByID is the actor by the number of the peer's user, also where that has a name; set
	// by the server.
	ByID   string `json:"-"`
	Reason string `json:"reason,omitempty"`
	Token  string `json:"token,omitempty"`
	DryRun bool   `json:"dryRun"`
}

// ChangeReply says what the change is now or, in a dry run, would be.
type ChangeReply struct {
	Rotation rotation.RotationStatus `json:"rotation"`
	// Anchor is the new one, when a change begins; without dates in a dry run.
	Anchor *rotation.AnchorStatus `json:"anchor,omitempty"`
	Steps  []string               `json:"steps"` // what was checked and done, in order, in words
	// Costs is what turning away from a compromised anchor does to each cluster.
	Costs []string `json:"costs,omitempty"`
}

// AdoptRequest asks to take clusters over.
type AdoptRequest struct {
	Clusters []string `json:"clusters"`
	Actor    string   `json:"actor"`
	Reason   string   `json:"reason,omitempty"`
	DryRun   bool     `json:"dryRun"`
}

// AdoptReply says, per cluster, what that means.
type AdoptReply struct {
	Results []AdoptResult `json:"results"`
}

// AdoptResult is one cluster's part of an AdoptReply.
type AdoptResult struct {
	Cluster string `json:"cluster"`
	Refused string `json:"refused,omitempty"` // why it cannot be; the rest is absent then
	// Anchor is what its issuer is under; Known says that it is an anchor of the
	// fleet, or of a cluster taken over before.
	Anchor *rotation.AnchorStatus `json:"anchor,omitempty"`
	Known  bool                   `json:"known"`
	Ends   *time.Time             `json:"ends,omitempty"` // notAfter of its issuer
	Writes []string               `json:"writes"`         // what is written, in words
	Notes  []string               `json:"notes"`          // what a person should know
}

// PauseRequest asks that clusters are left alone for a while, or not any more.
type PauseRequest struct {
	Resume   bool     `json:"resume"`
	Clusters []string `json:"clusters"` // none: the fleet; to resume: all that is paused
	// Seconds is how long; 0: until somebody resumes.
	Seconds int64  `json:"seconds,omitempty"`
	Actor   string `json:"actor"` // set by the server from the peer's credentials
	Reason  string `json:"reason"`
	DryRun  bool   `json:"dryRun"`
}

// PauseReply says what is paused from now on or, in a dry run, would be.
type PauseReply struct {
	Pauses []Pause `json:"pauses"`
	// Ended are those that a resume ends.
	Ended []Pause `json:"ended"`
}

// Pause is a cluster that is left alone, or the fleet.
type Pause struct {
	Cluster string     `json:"cluster,omitempty"` // absent: the fleet
	Since   time.Time  `json:"since"`
	Until   *time.Time `json:"until,omitempty"` // absent: until somebody resumes
	By      string     `json:"by"`
	Reason  string     `json:"reason"`
}

// ReceiverTest asks for a test of a receiver of notifications.
type ReceiverTest struct {
	Receiver string `json:"receiver"` // its name in the configuration
	Actor    string `json:"actor"`    // set by the server from the peer's credentials
}

// ReceiverTestReply says that it has arrived.
type ReceiverTestReply struct {
	Receiver string    `json:"receiver"`
	ID       string    `json:"id"` // of the message
	At       time.Time `json:"at"`
}

// RotateRequest asks for new certificates in the named clusters.
type RotateRequest struct {
	Target   rotation.Target `json:"target"` // "" is issuer: a client that knows no other does not say
	Clusters []string        `json:"clusters"`
	Reason   string          `json:"reason"`
	Actor    string          `json:"actor"` // set by the server from the peer's credentials
	Wait     bool            `json:"wait"`
	DryRun   bool            `json:"dryRun"`
}

// RotateReply says, per cluster, what came of it.
type RotateReply struct {
	Results []RotateResult `json:"results"`
}

// RotateResult is one cluster's part of a RotateReply.
type RotateResult struct {
	Cluster string          `json:"cluster"`
	Result  rotation.Result `json:"result"`           // "" when accepted and not waited for
	Serial  string          `json:"serial,omitempty"` // of each new certificate, with ", " between them
	Detail  string          `json:"detail,omitempty"`
}

// Webhook is what one look at a cluster told of a webhook: an item of the List
// that `certd inspect` explains. Nothing in it is secret.
type Webhook struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // Webhook
	Name       string `json:"name"`
	Secret     string `json:"secret"`            // namespace/name
	DNSName    string `json:"dnsName"`           // the API server verifies what is served under it; "" if it is not known
	Problem    string `json:"problem,omitempty"` // why nobody could serve with what is in the Secret
	Chain      string `json:"chain"`             // tls.crt, as PEM
	CAs        string `json:"cas"`               // ca.crt, as PEM

	Objects  []WebhookObject       `json:"objects"`
	Replicas []WebhookReplica      `json:"replicas,omitzero"` // absent where the pods were not asked
	Check    *rotation.CheckStatus `json:"check,omitempty"`
}

// WebhookObject is an object that holds a caBundle.
type WebhookObject struct {
	Object   string `json:"object"` // KIND/NAME
	CABundle string `json:"caBundle"`
	Ignored  bool   `json:"ignored"` // failurePolicy is Ignore
}

// WebhookReplica is a pod behind a webhook's Service.
type WebhookReplica struct {
	Pod      string `json:"pod"`
	Chain    string `json:"chain"`    // as PEM; "" if it could not be seen
	Evidence string `json:"evidence"` // how it was seen, or why it was not
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

// ImportRequest is a trust anchor that was made elsewhere. It never goes over
// the socket: what has the private key is the process that asked for it.
type ImportRequest struct {
	Actor       string
	Reason      string
	Token       string // as in InitRequest
	DryRun      bool
	Certificate *x509.Certificate
	Key         pki.PrivateKey // the caller wipes it
}

// InitReply is the record of the ceremony, or of an import.
type InitReply struct {
	APIVersion string                `json:"apiVersion"`
	Kind       string                `json:"kind"` // Ceremony or TrustImport
	Fleet      string                `json:"fleet"`
	At         time.Time             `json:"at"`
	Created    bool                  `json:"created"` // false: the anchor was there already
	DryRun     bool                  `json:"dryRun"`
	Operator   string                `json:"operator,omitempty"`
	Witnesses  []string              `json:"witnesses"`
	Anchor     rotation.AnchorStatus `json:"anchor"`
	BundlePEM  string                `json:"bundlePEM"`
	Steps      []string              `json:"steps"`             // what was checked and done, in order, in words
	Warnings   []string              `json:"warnings,omitzero"` // of an import: what is to be known about the anchor
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
