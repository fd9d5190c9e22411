package rotation

import (
	"crypto/x509"
	"time"
)

// A Journal keeps what certd set out to do and what came of it. Each method
// is one durable transaction: when it returns nil, the record is on disk.
type Journal interface {
	// Now is the time by the daemon's clock, by which entries are dated and
	// everything is decided: UTC, without a monotonic reading.
	Now() time.Time

	// Begin records an intent before its effect. If it fails, the effect must
	// not happen. The id is unique for the journal's whole life.
	Begin(Intent) (id uint64, err error)

	// Finish closes an intent: one entry is appended to the hash chain, and
	// what the outcome brings (certificate, anchor, enrolment) enters the
	// inventory in the same transaction.
	Finish(id uint64, out Outcome) error

	// Pending returns the intents that Begin recorded and nothing closed,
	// oldest first: after a crash, the effects whose outcome is unknown.
	Pending() ([]PendingIntent, error)

	// Anchors returns all anchor generations, oldest first.
	Anchors() ([]Anchor, error)

	// Change returns the change of the trust anchor that is under way, nil if
	// there is none.
	Change() (*Change, error)

	// Pauses returns what people have asked to be left alone, also what is over.
	Pauses() ([]Pause, error)

	// Recent returns the entries of some steps that were recorded at since or later,
	// oldest first, and from when on the journal tells: since, or, where it was begun
	// or cut off later, its first entry; the zero time if it has none.
	Recent(since time.Time, steps ...Step) (entries []Entry, from time.Time, err error)

	// WebhookCAs returns all generations of a cluster's webhook CA, oldest
	// first.
	WebhookCAs(cluster string) ([]WebhookCA, error)

	// Certificates returns the issuers in the inventory of one cluster,
	// newest first: as many as limit says (0 = all), and those that are valid since a
	// time or later (zero: no more).
	Certificates(cluster string, limit int, since time.Time) ([]CertificateRecord, error)

	// Cluster returns what is known of a cluster; a zero record if nothing is.
	Cluster(name string) (ClusterRecord, error)

	// Clusters returns what is known of all clusters, by name.
	Clusters() ([]ClusterRecord, error)

	// SaveCluster replaces it. Nothing is appended to the chain.
	SaveCluster(ClusterRecord) error

	// LastSigned is when a signature by the key last succeeded; zero if never.
	LastSigned(key string) (time.Time, error)

	// Epoch is this daemon's: larger than that of any daemon that opened the
	// journal before. RaiseEpoch makes it larger than seen, too (a journal
	// that was lost and begun anew).
	Epoch() uint64
	RaiseEpoch(seen uint64) (uint64, error)

	// SawEpoch notes an epoch with which somebody may have written, be it this daemon or
	// another: the next daemon that opens the journal has a larger one. before is the largest
	// that was noted until now.
	SawEpoch(seen uint64) (before uint64, err error)

	// Head is the newest entry of the chain; 0 while there is none. Has says whether
	// the chain has this very entry.
	Head() (seq uint64, hash string, err error)
	Has(seq uint64, hash string) (bool, error)

	// Prune drops chain entries and inventory of certificates that ended
	// before the time given. Anchors stay.
	Prune(before time.Time) error
}

// Step is one kind of thing certd does. The words are part of the surface
// (`history -o json`, `plan -o json`): they are added to, never changed.
type Step string

// The steps.
const (
	StepKey             Step = "key"              // create a CA key
	StepImport          Step = "import"           // put a CA key that was made elsewhere into the key backend
	StepSign            Step = "sign"             // one signature by a CA key
	StepCanary          Step = "canary"           // one signature that proves the path
	StepAnchor          Step = "anchor"           // enter a trust anchor
	StepNamespace       Step = "namespace"        // create the Linkerd namespace
	StepBundle          Step = "bundle"           // publish the bundle
	StepIssuer          Step = "issuer"           // publish a new issuer
	StepBundleCopy      Step = "bundle-copy"      // bring the copy of the bundle beside the issuer (ca.crt) along
	StepRepairBundle    Step = "repair-bundle"    // restore a damaged or deleted bundle
	StepRepairIssuer    Step = "repair-issuer"    // replace a lost or damaged issuer by a new one
	StepRepairMetadata  Step = "repair-metadata"  // restore marks or copies; nothing is signed
	StepWebhookCA       Step = "webhook-ca"       // make a new webhook CA
	StepWebhookTrust    Step = "webhook-trust"    // add the webhook CA to a caBundle, or to the Secret's ca.crt
	StepWebhook         Step = "webhook"          // publish a new serving certificate
	StepWebhookRetire   Step = "webhook-retire"   // take what serves nobody any more out of a caBundle or ca.crt
	StepWebhookReload   Step = "webhook-reload"   // have kubelets swap a Secret's files once more
	StepWebhookRestart  Step = "webhook-restart"  // roll out pods that missed their certificate
	StepRepairWebhook   Step = "repair-webhook"   // replace a lost or damaged serving certificate by a new one
	StepRepairTrust     Step = "repair-trust"     // put back into a caBundle what the served certificates need
	StepIssuerReload    Step = "issuer-reload"    // have kubelets swap the issuer's files once more
	StepIdentityRestart Step = "identity-restart" // roll out a linkerd-identity that missed what was delivered
	StepTrustRenew      Step = "trust-renew"      // give a trust anchor new dates; key and subject stay
	StepAdopt           Step = "adopt"            // take over a cluster with trust material that certd did not make
	StepTrustChange     Step = "trust-change"     // a change of the trust anchor begins, goes on, is held, turns back or ends
	StepControlRestart  Step = "control-restart"  // roll out a part of the control plane that trusts other anchors
	StepWorkloadRestart Step = "workload-restart" // roll out a workload whose pods trust other anchors
	StepPodEvict        Step = "pod-evict"        // have a pod replaced that trusts other anchors, of a workload that cannot be rolled out
	StepPause           Step = "pause"            // a cluster, or the fleet, is left alone for a while
	StepResume          Step = "resume"           // it is not any more
	StepRecover         Step = "recover"          // learn an anchor from the world after the journal was lost
	StepStart           Step = "start"            // the daemon started
	StepReload          Step = "reload"           // the configuration was reloaded
	StepRestore         Step = "restore"          // a copy of the journal took the place of the journal
)

// Intent is what certd is about to do.
type Intent struct {
	Step    Step   `json:"step"`
	Cluster string `json:"cluster,omitempty"` // "" for the fleet
	Actor   string `json:"actor"`             // "certd", or "lee@cli" for a request
	Reason  string `json:"reason"`
	Anchor  string `json:"anchor,omitempty"` // generation id
	Serial  string `json:"serial,omitempty"` // of the certificate to be made
	Key     string `json:"key,omitempty"`    // the CA key used
	Digest  string `json:"digest,omitempty"` // lower-case hex of the SHA-256 digest to be signed
	Object  string `json:"object,omitempty"`
	Writer  string `json:"writer,omitempty"` // for repairs: who wrote last
	Webhook string `json:"webhook,omitempty"`
	Wanted  string `json:"wanted,omitempty"` // lower-case hex of the SHA-256 of the CAs to be published
}

// PendingIntent is an intent without an outcome.
type PendingIntent struct {
	ID uint64
	At time.Time
	Intent
}

// Result says how a step ended.
type Result string

// The results.
const (
	OK        Result = "ok"
	Failed    Result = "failed"
	Unknown   Result = "unknown"   // it may or may not have taken effect
	Abandoned Result = "abandoned" // it had not begun
)

// Outcome is what came of an intent.
type Outcome struct {
	Result      Result
	Detail      string // the error, or a short fact
	SignRequest string // Vault's request_id
	Serial      string // where the signer chose it
	Revision    string // of the object written
	ByOthers    bool   // others were seen to have done it: certd did nothing

	Certificate *CertificateRecord  // enters the inventory
	Anchor      *Anchor             // enters or replaces the anchor with that ID
	Retired     []Anchor            // take the place of those with their IDs
	Forgotten   []string            // IDs of anchors that the journal is to know nothing of
	Checked     *Anchor             // Backend, Exportable and CheckedAt of the anchor with that ID, whose certificate may have been renewed meanwhile
	WebhookCA   *WebhookCA          // enters or replaces the cluster's webhook CA with that ID
	Change      *Change             // takes the place of the one under way; without a Stage it ends that
	Pauses      *[]Pause            // take the place of all there were
	Left        map[string]Adoption // by cluster, what those have that a change ended without; without an Anchor: it has the fleet's now
	Adopted     *Adoption           // what the intent's cluster came with; without an Anchor: it has the fleet's now
	Enrolled    bool                // the intent's cluster is managed from now on
}

// Entry is one closed intent: a link of the hash chain.
type Entry struct {
	Seq         uint64
	IntentID    uint64
	IntentAt    time.Time
	At          time.Time
	Intent      Intent
	Result      Result
	Detail      string
	SignRequest string
	Revision    string
	ByOthers    bool
	PrevHash    string // lower-case hex SHA-256
	Hash        string
}

// Anchor is one generation of the trust anchor.
type Anchor struct {
	ID         string // "g1", "g2", …
	Key        string // name in the key backend; "": certd does not have it, the anchor came with a mesh
	Backend    string
	Exportable bool
	CheckedAt  time.Time // when Exportable was last read
	Imported   bool      // its key was made elsewhere: there may be copies
	// Certificate is nil between the intent to make the key and the
	// signature on the certificate.
	Certificate *x509.Certificate
	// Formerly is the certificate that Certificate has taken the place of: of
	// the same key and subject, with other dates. Nil: none has.
	Formerly  *x509.Certificate
	CreatedAt time.Time
	RetiredAt time.Time // zero while in use
	// Compromised: it was retired since others may have its key.
	Compromised bool
}

// CertificateRecord is one certificate certd has had signed, or has met.
type CertificateRecord struct {
	Cluster     string
	Kind        string // "anchor", "issuer", "webhook-ca", "webhook"
	Name        string // of the webhook
	Serial      string
	SHA256      string
	SKI, AKI    string
	Subject     string
	Anchor      string // generation id of the signer
	Second      string // of the signer of the second certificate in an issuer's file; "": there is none
	Over        string // serial of the issuer in whose place it was put; "": there was none, or nobody knows
	NotBefore   time.Time
	NotAfter    time.Time
	SignedAt    time.Time
	DeliveredAt time.Time // zero: signed, and not known to have been written
}

// ClusterRecord is what the journal remembers of one cluster.
type ClusterRecord struct {
	Name     string
	Enrolled bool
	Target   string
	// TargetSince is when another cluster was last seen to have taken the place of the
	// one that was there: what was delivered before was to that one.
	TargetSince time.Time
	// LastContact is when an observation last succeeded, Error why the last
	// one did not ("" when it did).
	LastContact time.Time
	Error       string
	// What the cluster came with when it was taken over (see Adoption); Adopted
	// is the anchor's generation, "" where certd made the cluster's trust.
	Adopted       string
	AdoptedIssuer []byte
	AdoptedBundle []byte
	AdoptedAt     time.Time
	// Terms are those by which leaves may live there; none: those of the policy.
	Terms []LeafTerms
	// Status is the cluster's part of the last report, as JSON, for `status`
	// when no daemon runs. The journal does not look into it.
	Status []byte
}
