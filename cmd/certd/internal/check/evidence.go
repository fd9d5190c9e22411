package check

import (
	"crypto"
	"time"

	"certd.internal/backends/kube"
	"certd.internal/backends/vault"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/rotation"
)

// Evidence is all that claims are judged by.
type Evidence struct {
	Now    time.Time
	Pre    bool   // before a daemon and a trust anchor are there
	Source string // daemon or command: whose rights and connections were used
	// Daemon is what the daemon says of itself, nil where none was asked or none
	// answered; Unanswered says why none did.
	Daemon     *rotation.DaemonStatus
	Unanswered string
	// Versions of the command and of the daemon that answered.
	Version, DaemonVersion string

	// Config is nil where Problems, a line each, keep it from loading.
	Config   *config.Config
	Problems []string

	StateDir Place
	Socket   Place // the folder of the admin socket
	Journal  Journal

	Fleet rotation.Fleet // what the journal knows of anchors
	// Findings are those of certd itself: the daemon's, or what one look now
	// comes to.
	Findings []Finding
	Keys     Keys
	KeysErr  error     // the way to the key backend cannot even be set up
	Clusters []Cluster // in the order of the configuration

	// Trust is promise I1 with the pairs that it rests on; nil where it was not
	// judged, and Unjudged says why.
	Trust    *rotation.PromiseVerdict
	Pairs    rotation.PairSummary
	Unjudged string
}

// Finding is one of certd's own findings; Cluster is "" where it is the fleet's.
type Finding struct {
	Cluster string
	rotation.Finding
}

// Place is a folder that certd writes to, or has to make.
type Place struct {
	Path   string
	Exists bool
	Err    error // why nothing can be written there; nil: it can
}

// Journal is the journal's own verdict on itself.
type Journal struct {
	Exists  bool
	Entries uint64
	BadSeq  uint64 // the first entry that does not hold; 0: all do
	Problem string
	Err     error  // it could not be read
	Busy    string // why it was left alone, "" if it was not
}

// Keys is what the key backend showed.
type Keys struct {
	About   string // "Vault at https://vault.example:8200"
	Files   *KeyFiles
	Vault   *vault.Examination
	Anchors []Key // of the anchors in use, oldest first
	// WebhookCAs are the keys of the webhook CAs in use.
	WebhookCAs []Key
}

// KeyFiles is about keys in files.
type KeyFiles struct {
	Dir        Place
	Private    bool  // nobody but its owner may look into the folder, as far as it exists
	Passphrase error // why it could not be read
}

// Key is what the backend says of one key.
type Key struct {
	Cluster string // of a webhook CA
	Of      string // "g1", "w2"
	Name    string
	Public  crypto.PublicKey // the certificate's
	Err     error            // it could not be opened, or must not sign
	Info    rotation.KeyInfo
	// Flags are of a key in Vault's Transit engine; FlagsErr is why they could not be
	// read. Both are nil elsewhere.
	Flags    *vault.KeyFlags
	FlagsErr error
}

// Cluster is what looking at one cluster showed.
type Cluster struct {
	rotation.View
	// Kube is what the API server says of rights and of how Linkerd was installed; nil
	// of a folder, and where it was not asked.
	Kube *kube.Examination
}

func (c Cluster) name() string { return c.Policy.Cluster }

func (e Evidence) fleetName() string {
	if e.Config == nil {
		return ""
	}
	return e.Config.Name
}
