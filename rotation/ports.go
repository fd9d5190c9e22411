package rotation

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"time"

	"certd.internal/pki"
)

// What a caller may do about an error is decided by these alone; the text is
// for people. Backends wrap exactly one of them, or none for a plain failure.
var (
	// ErrUnavailable: no answer, or one that says "later". The call did not
	// take effect.
	ErrUnavailable = errors.New("unavailable")
	// ErrOutcomeUnknown: the call may or may not have taken effect (time-out,
	// lost answer). Look before trying again.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrTryAgain: the call did not take effect, and an immediate repeat is
	// sensible (a token had died and certd has logged in again).
	ErrTryAgain = errors.New("try again")
	// ErrDenied: a person must grant something; the text names the missing
	// Vault capability or Kubernetes verb.
	ErrDenied = errors.New("not permitted")
	// ErrChanged: the object is not the one the write was decided on.
	ErrChanged = errors.New("changed meanwhile")
	// ErrKeyExists, ErrKeyNotFound: the name is taken, or nothing has it.
	ErrKeyExists   = errors.New("key exists")
	ErrKeyNotFound = errors.New("key not found")
	// ErrKeyUnfit: the key must not sign (exportable, another type, another
	// public key than the pinned one); the text says which.
	ErrKeyUnfit = errors.New("key unfit")
	// ErrUnsupported: this backend cannot do that, by nature.
	ErrUnsupported = errors.New("not supported by this backend")
)

// Keys is a place where CA keys live. It never hands out a private key.
type Keys interface {
	// CreateKey makes a new P-256 signing key called name. A taken name is an
	// error wrapping ErrKeyExists, whatever the backend itself answers. After
	// an error wrapping ErrOutcomeUnknown the key may exist; OpenKey tells.
	CreateKey(ctx context.Context, name string) (Key, error)

	// OpenKey reads the key's flags afresh and refuses, wrapping ErrKeyUnfit,
	// what must not sign. A non-nil pinned must equal the key's public key.
	OpenKey(ctx context.Context, name string, pinned crypto.PublicKey) (Key, error)

	// Close forgets tokens and stops renewing them.
	Close() error
}

// A Key is one opened CA key. It also implements DigestSigner or IssuerSigner.
type Key interface{ Info() KeyInfo }

// KeyInfo describes a CA key; nothing in it is secret.
type KeyInfo struct {
	Backend    string // "vault-transit", "vault-pki", "file" or "kms"
	Name       string
	Public     crypto.PublicKey
	Exportable bool
}

// A DigestSigner signs what certd has built.
type DigestSigner interface {
	Key
	// SignDigest signs a SHA-256 digest (32 bytes, anything else is refused)
	// with one request to the backend, never repeated inside, and verifies
	// the answer under Info().Public. Signature.Request is set, where the
	// backend tells it, also beside an error.
	SignDigest(ctx context.Context, digest []byte) (Signature, error)
}

// Signature is a verified ECDSA signature, ASN.1 DER (RFC 3279 §2.2.3).
type Signature struct {
	ASN1    []byte
	Request string // the backend's own id of the request: Vault's request_id
}

// An IssuerSigner builds the certificate itself (Vault's PKI engine).
type IssuerSigner interface {
	Key
	// Anchor is the CA certificate that SignIssuer signs under.
	Anchor() *x509.Certificate
	// SignIssuer asks once for a certificate of profile p for pub and returns
	// what came back, unchecked: pki.CheckIssuer judges it. csr is a PKCS#10
	// request (DER) for pub.
	SignIssuer(ctx context.Context, p pki.IssuerProfile, csr []byte) (cert *x509.Certificate, request string, err error)
}

// A Cluster is what certd asks of one Kubernetes cluster, or of a folder that
// stands for one. All calls may run at the same time as calls on other
// clusters; calls on one cluster come one at a time, Watch excepted.
type Cluster interface {
	// Observe reads everything certd decides by, and no more. What is absent
	// is part of the answer, not an error. An error means nothing is known;
	// it wraps ErrUnavailable or ErrDenied where that is what happened.
	Observe(ctx context.Context) (Observation, error)

	// Reread is last with the bundle or the issuer as it is now, and the cluster's clock where
	// it was asked: much cheaper than Observe where that asks many. What its last write of
	// the object was answered a backend may take for a look at it. Errors are as Observe's.
	Reread(ctx context.Context, last Observation, object string) (Observation, error)

	// CreateNamespace makes the Linkerd namespace; an existing one is no error.
	CreateNamespace(ctx context.Context) error

	// WriteBundle and WriteIssuer write one object in one step if it is still
	// at w.Revision ("" = it does not exist), and otherwise change nothing and
	// return an error wrapping ErrChanged. Writing what is already there is no
	// error and leaves the revision alone. Fields and keys that certd does not
	// own stay as they are. They return the new revision.
	WriteBundle(ctx context.Context, w BundleWrite) (revision string, err error)
	WriteIssuer(ctx context.Context, w IssuerWrite) (revision string, err error)

	// WriteWebhook writes a webhook's Secret as WriteIssuer writes the issuer's:
	// compare-and-set at w.Revision, type and foreign keys kept.
	WriteWebhook(ctx context.Context, w WebhookWrite) (revision string, err error)

	// WriteCABundle writes the caBundle of one object that exists, if it is
	// still at w.Revision, and nothing else of it but certd's annotations.
	WriteCABundle(ctx context.Context, w CABundleWrite) (revision string, err error)

	// Restart rolls the pods of a Deployment, DaemonSet or StatefulSet out anew,
	// one after another, as `kubectl rollout restart` does.
	Restart(ctx context.Context, namespace string, owner ObjectRef) error

	// RestartSince does so unless that was done at since or later, by whomever; then
	// certd says whether that was certd. It refuses, wrapping ErrDenied, what bears the
	// label certd.io/restart: never, what would keep pods all the same (paused, OnDelete,
	// a partition) and, if whole is set, what does not have all its pods available: a
	// restart could take the others.
	RestartSince(ctx context.Context, namespace string, owner ObjectRef, since time.Time, whole bool) (certd bool, err error)

	// Evict has pods of a ReplicaSet or a ReplicationController replaced that cannot
	// be rolled out, through the Eviction API: of those created before e.Since that
	// do not trust e.Wanted, with e.Whole one, that which is not available before
	// the oldest, else all at once. It returns their names; none and no error says
	// that there are none. It refuses, wrapping ErrDenied, what bears the label
	// certd.io/restart: never, and what belongs to something else that makes pods;
	// and, wrapping ErrNotNow, where a PodDisruptionBudget stands against it and, with
	// e.Whole, while another of its pods is not available or is being deleted.
	Evict(ctx context.Context, namespace string, owner ObjectRef, e Eviction) (pods []string, err error)

	// ProbeWebhooks finds out what each replica of these webhooks serves, and
	// whether they do what they are for. There is an answer for each, by name:
	// what could not be seen is unknown and says why. Webhooks come with the
	// namespace and names that Observe filled in.
	ProbeWebhooks(ctx context.Context, webhooks []WebhookSpec) map[string]WebhookEvidence

	// CountProxies looks at every meshed pod of the cluster. There is always an
	// answer: what could not be seen is in it. A cluster without pods answers
	// with the zero Proxies.
	CountProxies(ctx context.Context) Proxies

	// Event tells people who look at the object (a Kubernetes Event). A
	// backend without such a thing does nothing.
	Event(ctx context.Context, e Event) error

	// Watch calls changed after each change to a managed object that might
	// not be certd's own and that the last Observe has not shown, until ctx ends; changed
	// does not block. It reconnects by itself, calls changed where something may have
	// changed meanwhile, and returns only with ctx's error.
	Watch(ctx context.Context, changed func()) error

	// Close drops connections.
	Close() error
}

// Object names the managed objects in text: journal, events, findings.
const (
	BundleObject = "linkerd-identity-trust-roots"
	IssuerObject = "linkerd-identity-issuer"
)

// RestartLabel on a workload, with the value RestartNever, keeps certd from
// restarting it.
const (
	RestartLabel = "certd.io/restart"
	RestartNever = "never"
)

// Eviction says which pods of an owner are to be replaced.
type Eviction struct {
	Since  time.Time // by the cluster's clock; who was created then or later is let be
	Wanted pki.Bundle
	Whole  bool // the others must stay available
}

// Marks are the annotations and the label certd keeps on what it manages.
type Marks struct {
	Fleet  string // annotation certd.io/fleet
	Serial string // annotation certd.io/serial: the issuer's, the webhook's; "" on what holds no certificate of its own
	Epoch  uint64 // annotation certd.io/epoch: of the daemon that wrote last
	Keep   bool   // annotation helm.sh/resource-policy: keep
	Label  bool   // label app.kubernetes.io/managed-by: certd
	// Adopted (annotation certd.io/adopted, on the bundle) is the SHA-256 of the
	// anchor that the cluster came with, as long as that is in use: what a lost
	// journal no longer knows.
	Adopted string
}

// ObjectState is what certd sees of one object beside its payload.
type ObjectState struct {
	Exists   bool
	Revision string
	Marks    Marks
	// Writers are the other parties that wrote fields certd manages, the most
	// recent first ("kubectl-edit", "helm", "argocd-controller").
	Writers []Writer
	// Keeper is another program that is set up to write the object; nil: none is
	// known.
	Keeper *Keeper
}

// Writer is another party seen to have written a managed object.
type Writer struct {
	Name string
	At   time.Time
}

// Observation is what one look at a cluster told. It holds no private key.
type Observation struct {
	At        time.Time     // certd's clock, when the look began
	ClockSkew time.Duration // the cluster's clock minus certd's; 0 where unknown
	Target    string        // what tells two configured clusters from one: the kube-system UID, or the folder
	Version   string        // of the API server; "" for a folder

	Credential *Credential // by which certd was let in; nil: none that is known to end

	Namespace bool // the Linkerd namespace exists

	Bundle          ObjectState
	BundleText      []byte    // ca-bundle.crt as it stands
	BundleWrittenAt time.Time // when certd last changed it; zero: never, or not known

	Issuer          ObjectState
	IssuerFacts     pki.IssuerFacts
	IssuerWrittenAt time.Time // when certd last changed the Secret; zero likewise
	IssuerReload    string    // what WriteIssuer last gave as Reload

	Identity *Identity // nil where no linkerd-identity can run

	// Webhooks has one entry for each webhook that the backend was told to look
	// for, in that order; none where none can run.
	Webhooks []Webhook

	bundles *readBundles // of the cluster
}

// serial is the issuer's, "" where there is none, or none that can be read.
func (o *Observation) serial() string {
	if len(o.IssuerFacts.Chain) == 0 {
		return ""
	}
	return pki.Serial(o.IssuerFacts.Chain[0])
}

// behind is by how much the cluster's clock is behind certd's, 0 where it is not: what it dates
// is more recent by that than it seems, and is to be waited for longer. Where it is ahead, certd
// waits too long, which breaks nothing.
func (o *Observation) behind() time.Duration { return max(0, -o.ClockSkew) }

// readBundle is pki.ReadBundle.
func (o *Observation) readBundle(text []byte) (pki.Bundle, error) {
	r := o.bundles.read(text)
	return r.bundle, r.err
}

// Identity is what certd saw of linkerd-identity. Absent Deployment: Replicas
// is empty and Deployed false.
type Identity struct {
	Deployed     bool
	LeafLifetime time.Duration // the longest by which a replica may sign; 0: not known
	ClockSkew    time.Duration // that it adds at both ends of it, likewise
	Scheme       string        // -identity-scheme, "" if not given
	// OwnRoots: its Deployment mounts no ConfigMap with the bundle, so that it has its
	// anchors from elsewhere.
	OwnRoots bool
	Replicas []Replica
}

// Replica is one running pod of linkerd-identity and what it was seen to use.
type Replica struct {
	Pod      string
	Started  time.Time
	NotAfter time.Time // of the issuer it has loaded; zero: could not be seen
	Evidence string    // "metric", or why there is none
	At       time.Time // when the evidence was read, by certd's clock
	// GoneBy is by when it is to be gone that is being deleted; zero: it is not. It signs
	// for who is connected to it until it is gone, and may take no other issuer up.
	GoneBy time.Time
}

// leaving says whether the replica is being deleted.
func (r Replica) leaving() bool { return !r.GoneBy.IsZero() }

// BundleWrite publishes Bundle. The zero Bundle leaves the data as it is, and
// writes the marks alone.
type BundleWrite struct {
	Revision string
	Fleet    string
	Epoch    uint64
	Adopted  string // for the mark
	Bundle   pki.Bundle
}

// IssuerWrite publishes an issuer. A nil Credential keeps the certificate and
// key that are in the object, proves that they belong together, and rewrites
// only what stands beside them (ca.crt, the second pair of names, the marks).
// With Chain, these certificates take the place of those that are there, proved
// to be for the key that stays.
type IssuerWrite struct {
	Revision   string
	Fleet      string
	Epoch      uint64
	Serial     string
	Credential *pki.Credential
	Chain      []*x509.Certificate
	Bundle     pki.Bundle // for ca.crt
	// Missing writes no more than the marks, and the names that are not there or
	// not in step.
	Missing bool
	// Scheme is linkerd-identity's, by whose names the pair is found that stays.
	Scheme string
	// Reload, if not "", is put beside them under a key that Linkerd does not
	// read: a change of it makes the kubelet swap the files once more.
	Reload string
}

// Event is one thing to tell people in the cluster.
type Event struct {
	Reason string // CertdIssuerRotated, CertdBundleChanged, CertdWebhookRotated, CertdDriftRepaired, CertdFailed
	Object string // BundleObject or IssuerObject; for webhooks the name of the Secret
	// Namespace of a webhook's Secret; "" is Linkerd's own.
	Namespace string
	Warning   bool
	Message   string
}
