package rotation

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Mirror is one small document outside of the state directory, written by
// check-and-set. It is what a lost journal is rebuilt from, and whoever wrote it
// last is the one daemon of the fleet.
type Mirror interface {
	// Load returns the document and its version; nil and a version if what was
	// there was deleted, nil and 0 if nothing ever was. The errors are those of
	// Keys.
	Load(ctx context.Context) (doc []byte, version uint64, err error)

	// Version returns the version alone: a cheap Load.
	Version(ctx context.Context) (uint64, error)

	// Save replaces the document, a JSON object, if it still has the version was,
	// and returns the new one. Otherwise it changes nothing and returns an error
	// wrapping ErrChanged. After one wrapping ErrOutcomeUnknown it may have been
	// replaced.
	Save(ctx context.Context, doc []byte, was uint64) (version uint64, err error)
}

// MirrorLimit is how large a document in a mirror may be: what Vault's storage
// takes for one entry, whichever it is.
const MirrorLimit = 500 << 10

// mirrorTimeout bounds one exchange with the mirror: it stands before each step.
const mirrorTimeout = 3 * time.Second

const (
	// mirrorPause is how long recorded steps are collected before they are saved.
	mirrorPause = time.Second
	// mirrorEvery is how often it is looked whether the mirror is still this
	// daemon's, where nothing is to be done.
	mirrorEvery = time.Minute
	// mirrorAgain lies between tries where the mirror does not answer: until then
	// no step waits for it.
	mirrorAgain = 15 * time.Second
)

// ErrSecondDaemon: another certd has taken the mirror over, so this one writes
// nothing any more.
var ErrSecondDaemon = errors.New("another certd looks after this fleet")

// ErrNotLeader: this certd does not hold the Lease by which several elect the one that
// works, so it begins nothing. As the cause of a context's end it says that another may
// have begun already.
var ErrNotLeader = errors.New("this certd does not lead")

// mirrorRefresh is how old the document's Head may become where nothing else changes.
const mirrorRefresh = 24 * time.Hour

// mirrorFormat is the document's. It rises when a certd that does not know a new field
// would lose what matters by writing the document without it.
const mirrorFormat = 1

// mirrored is the document. There is no field for a private key. Fields are only
// added.
type mirrored struct {
	Format     int               `json:"format"` // 0 is 1
	Fleet      string            `json:"fleet"`
	Epoch      uint64            `json:"epoch"`  // of the daemon that wrote it
	Holder     string            `json:"holder"` // where that runs, for people
	Nonce      string            `json:"nonce"`  // tells it from all others
	Since      time.Time         `json:"since"`  // when it took the mirror over
	Anchors    []mirroredAnchor  `json:"anchors"`
	WebhookCAs []mirroredAnchor  `json:"webhookCAs"`
	Change     *Change           `json:"change,omitempty"`
	Pauses     []Pause           `json:"pauses,omitempty"`
	Clusters   []mirroredCluster `json:"clusters"`
	Leaves     []LeafTerms       `json:"leaves,omitempty"` // by which leaves may live in some cluster
	Head       *mirroredHead     `json:"head,omitempty"`   // of the journal that it was made from
}

// mirroredHead is the last entry of a journal: one that does not have it knows less than
// the mirror.
type mirroredHead struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// mirroredAnchor is an anchor, or a webhook CA of a cluster.
type mirroredAnchor struct {
	Cluster     string    `json:"cluster,omitempty"`
	ID          string    `json:"id"`
	Key         string    `json:"key"`
	Backend     string    `json:"backend"`
	Imported    bool      `json:"imported,omitempty"`
	Certificate []byte    `json:"certificate,omitempty"` // DER
	Formerly    []byte    `json:"formerly,omitempty"`    // DER
	CreatedAt   time.Time `json:"createdAt,omitzero"`
	RetiredAt   time.Time `json:"retiredAt,omitzero"`
	Compromised bool      `json:"compromised,omitempty"`
}

// mirroredCluster is a cluster that is certd's.
type mirroredCluster struct {
	Name    string `json:"name"`
	Adopted string `json:"adopted,omitempty"` // the generation it came with
}

func mirrorAnchor(a Anchor, cluster string) mirroredAnchor {
	m := mirroredAnchor{Cluster: cluster, ID: a.ID, Key: a.Key, Backend: a.Backend, Imported: a.Imported, CreatedAt: a.CreatedAt, RetiredAt: a.RetiredAt, Compromised: a.Compromised}
	if a.Certificate != nil {
		m.Certificate = a.Certificate.Raw
	}
	if a.Formerly != nil {
		m.Formerly = a.Formerly.Raw
	}
	return m
}

func (m mirroredAnchor) anchor() (a Anchor, err error) {
	a = Anchor{ID: m.ID, Key: m.Key, Backend: m.Backend, Imported: m.Imported, CreatedAt: m.CreatedAt, RetiredAt: m.RetiredAt, Compromised: m.Compromised}
	for _, c := range []struct {
		der  []byte
		into **x509.Certificate
	}{{m.Certificate, &a.Certificate}, {m.Formerly, &a.Formerly}} {
		if len(c.der) == 0 {
			continue
		}
		if *c.into, err = x509.ParseCertificate(c.der); err != nil {
			return a, fmt.Errorf("the certificate of %s: %w", m.ID, err)
		}
	}
	return a, nil
}

// A Fence keeps a mirror, and tells whether this daemon is still the one that
// may write. It is safe for concurrent use.
type Fence struct {
	mirror            Mirror
	journal           Journal
	keys, webhookKeys Keys
	fleet             string
	holder            string
	nonce             string       // tells this daemon from all others
	leads             func() error // nil: there is no election

	mu      sync.Mutex
	taken   bool // by this daemon, once
	version uint64
	wrote   []byte // at that version, without its head
	wroteAt time.Time
	since   time.Time
	lost    error     // why this daemon writes no more
	away    time.Time // when the mirror last did not answer; zero: it does

	dirty chan struct{} // something was recorded
}

// NewFence returns a fence that has not looked at the mirror yet. holder says
// where this daemon runs, for people. The keys prove what the mirror says.
func NewFence(m Mirror, j Journal, keys, webhookKeys Keys, fleet, holder string) *Fence {
	return &Fence{mirror: m, journal: j, keys: keys, webhookKeys: webhookKeys, fleet: fleet, holder: holder, nonce: rand.Text(), dirty: make(chan struct{}, 1)}
}

// Under has each step wait for leads to return nil: this daemon is one of several, of
// which one works at a time. leads is asked before each intent and each write of the
// mirror, and answers at once; its error wraps ErrNotLeader. What is recorded of anchors,
// of their change and of pauses is then in the mirror before it counts as done, as far as
// the mirror answers. It is for before the fence's first use.
func (f *Fence) Under(leads func() error) { f.leads = leads }

// mayLead is nil while no election forbids to write.
func (f *Fence) mayLead() error {
	if f.leads == nil {
		return nil
	}
	return f.leads()
}

// TakeOver makes this daemon the mirror's: its epoch rises above the one there,
// and whoever had it finds out before its next step. A journal that knows no
// anchor, or none of what another daemon did since it was last written, is given what
// the mirror has; recovered says how many records those were. After an error, Check
// tries again, and leaves the journal as it is.
func (f *Fence) TakeOver(ctx context.Context) (recovered int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.takeOver(ctx, true)
}

func (f *Fence) takeOver(ctx context.Context, recover bool) (recovered int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*mirrorTimeout)
	defer cancel()
	for range 3 {
		there, version, err := f.load(ctx)
		if err != nil {
			return recovered, err
		}
		if there != nil && recover {
			n, err := f.recover(ctx, *there)
			recovered += n
			if err != nil {
				return recovered, fmt.Errorf("take over what the mirror has: %w", err)
			}
		}
		if err := f.mayLead(); err != nil {
			return recovered, fmt.Errorf("take the mirror over: %w", err)
		}
		f.since = f.journal.Now().Truncate(time.Second)
		content, doc, err := f.document()
		if err != nil {
			return recovered, err
		}
		switch now, err := f.mirror.Save(ctx, doc, version); {
		case errors.Is(err, ErrChanged):
			continue // another one starts now: look again
		case errors.Is(err, ErrOutcomeUnknown):
			if _, own, err := f.look(ctx); err != nil {
				return recovered, err
			} else if own && bytes.Equal(f.wrote, content) {
				f.taken = true
				return recovered, nil
			}
		case err != nil:
			return recovered, fmt.Errorf("take the mirror over: %w", err)
		default:
			f.taken, f.version, f.wrote, f.wroteAt = true, now, content, f.journal.Now()
			return recovered, nil
		}
	}
	return recovered, fmt.Errorf("take the mirror over: it keeps changing: %w", ErrUnavailable)
}

// Copy gives a journal that knows no anchor what the mirror has, and leaves the mirror to
// whoever has it. It returns how many records those were, and who wrote it; "" says that
// nothing is there.
func (f *Fence) Copy(ctx context.Context) (recovered int, holder string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 4*mirrorTimeout)
	defer cancel()
	there, _, err := f.load(ctx)
	if err != nil || there == nil {
		return 0, "", err
	}
	if recovered, err = f.recover(ctx, *there); err != nil {
		return recovered, there.Holder, fmt.Errorf("take over what the mirror has: %w", err)
	}
	return recovered, there.Holder, nil
}

// load reads the mirror, and raises the epoch above that of who wrote it; nil says that
// nothing is there.
func (f *Fence) load(ctx context.Context) (*mirrored, uint64, error) {
	text, version, err := f.mirror.Load(ctx)
	if err != nil {
		return nil, version, fmt.Errorf("read the mirror: %w", err)
	}
	if text == nil {
		return nil, version, nil
	}
	var there mirrored
	if err := json.Unmarshal(text, &there); err != nil {
		return nil, version, fmt.Errorf("read the mirror: what is there is no document of certd's: %w; name another path, or delete it", err)
	}
	if there.Fleet != f.fleet {
		return nil, version, fmt.Errorf("the mirror belongs to fleet %q, and the configuration says %q: %w; name another path", there.Fleet, f.fleet, ErrUnsupported)
	}
	if there.Format > mirrorFormat {
		return nil, version, fmt.Errorf("the mirror was written by a newer certd (its format is %d, and this certd knows %d): %w; start that version, or delete the document to go on with what this one knows", there.Format, mirrorFormat, ErrUnsupported)
	}
	_, err = f.journal.RaiseEpoch(there.Epoch)
	return &there, version, err
}

// Check says whether this daemon may still write: an error wrapping
// ErrSecondDaemon says that it may not, now and from now on. Where the mirror
// does not answer within three seconds, it may: the epoch in each object stands
// against a late write; the error says what is wrong.
func (f *Fence) Check(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.lost != nil:
		return f.lost
	case !f.taken:
		_, err := f.takeOver(ctx, false)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	version, err := f.mirror.Version(ctx)
	if err != nil {
		return fmt.Errorf("look at the mirror: %w", err)
	}
	if version == f.version {
		return nil
	}
	return f.differs(ctx)
}

// Keep saves what the journal holds now, if that is something else than what
// was saved. The errors are those of Check.
func (f *Fence) Keep(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost != nil {
		return f.lost
	}
	if err := f.mayLead(); err != nil {
		return fmt.Errorf("save the mirror: %w", err)
	}
	if !f.taken {
		_, err := f.takeOver(ctx, false)
		return err
	}
	content, doc, err := f.document()
	if err != nil {
		return err
	}
	if bytes.Equal(content, f.wrote) && f.journal.Now().Sub(f.wroteAt).Abs() < mirrorRefresh {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*mirrorTimeout)
	defer cancel()
	version, err := f.mirror.Save(ctx, doc, f.version)
	switch {
	case errors.Is(err, ErrChanged):
		return f.differs(ctx)
	case errors.Is(err, ErrOutcomeUnknown):
		if err := f.differs(ctx); err != nil {
			return err
		}
		if bytes.Equal(f.wrote, content) {
			return nil
		}
		fallthrough // should it take effect later, the next Check finds this daemon's nonce
	case err != nil:
		return fmt.Errorf("save the mirror: %w", err)
	}
	f.version, f.wrote, f.wroteAt = version, content, f.journal.Now()
	return nil
}

// differs looks at what is there in the place of what this daemon wrote: its own
// document after all, if the answer to a write was lost, or another daemon's.
func (f *Fence) differs(ctx context.Context) error {
	there, own, err := f.look(ctx)
	if err != nil || own {
		return err
	}
	who := "somebody has changed or deleted it"
	if there.Fleet != "" {
		who = fmt.Sprintf("the one on %s has had it since %s, with epoch %d, and this one's is %d", there.Holder, there.Since.UTC().Format(time.RFC3339), there.Epoch, f.journal.Epoch())
	}
	f.lost = fmt.Errorf("the mirror is no longer this daemon's: %s; nothing is written any more: %w", who, ErrSecondDaemon)
	return f.lost
}

// look reads what is there, whoever wrote it, and knows it as written if that was this
// daemon: after a lost answer to a write there is nothing else that says so.
func (f *Fence) look(ctx context.Context) (there mirrored, own bool, err error) {
	text, version, err := f.mirror.Load(ctx)
	if err != nil {
		return there, false, fmt.Errorf("look at the mirror: %w", err)
	}
	if text == nil || json.Unmarshal(text, &there) != nil || there.Nonce != f.nonce {
		return there, false, nil
	}
	headless := there
	headless.Head = nil
	if f.wrote, err = json.Marshal(headless); err != nil {
		return there, false, err
	}
	f.version, f.wroteAt = version, f.journal.Now()
	return there, true, nil
}

// Lost is why this daemon writes no more, nil while it may.
func (f *Fence) Lost() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// document is what the journal holds, for the mirror. content is the same without the
// head, which alone is no reason to write.
func (f *Fence) document() (content, document []byte, err error) {
	doc := mirrored{Format: mirrorFormat, Fleet: f.fleet, Epoch: f.journal.Epoch(), Holder: f.holder, Nonce: f.nonce, Since: f.since, Anchors: []mirroredAnchor{}, WebhookCAs: []mirroredAnchor{}, Clusters: []mirroredCluster{}}
	anchors, err := f.journal.Anchors()
	if err != nil {
		return nil, nil, err
	}
	for _, a := range anchors {
		doc.Anchors = append(doc.Anchors, mirrorAnchor(a, ""))
	}
	if doc.Change, err = f.journal.Change(); err != nil {
		return nil, nil, err
	}
	if doc.Pauses, err = f.journal.Pauses(); err != nil {
		return nil, nil, err
	}
	clusters, err := f.journal.Clusters()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range clusters {
		if c.Enrolled {
			doc.Clusters = append(doc.Clusters, mirroredCluster{Name: c.Name, Adopted: c.Adopted})
		}
		doc.Leaves = joined(doc.Leaves, c.Terms)
		cas, err := f.journal.WebhookCAs(c.Name)
		if err != nil {
			return nil, nil, err
		}
		for _, ca := range cas {
			doc.WebhookCAs = append(doc.WebhookCAs, mirrorAnchor(ca.Anchor, ca.Cluster))
		}
	}
	if content, err = json.Marshal(doc); err != nil {
		return nil, nil, err
	}
	seq, hash, err := f.journal.Head()
	if err != nil {
		return nil, nil, err
	}
	doc.Head = &mirroredHead{seq, hash}
	document, err = json.Marshal(doc)
	if err == nil && len(document) > MirrorLimit {
		err = fmt.Errorf("what is to be mirrored has %d bytes, and Vault takes %d: %w", len(document), MirrorLimit, ErrUnsupported)
	}
	return content, document, err
}

// recover gives a journal what the mirror has: one that knows no anchor, and one that
// does not have the entry that the mirror was written after, so that another daemon has
// gone on since. It takes no more on the mirror's word than the key backend bears out: an
// anchor's or CA's key has to be there, and to be the certificate's. What came with a mesh,
// whose key is elsewhere, the clusters tell; so they do of a compromised anchor, except
// between daemons that elect one of them: turning away from it is not to be begun again,
// as an ordinary change, because its daemon died.
func (f *Fence) recover(ctx context.Context, m mirrored) (n int, err error) {
	known, err := f.journal.Anchors()
	if err != nil {
		return 0, err
	}
	why := "the journal is new"
	if len(known) > 0 {
		if m.Head == nil || len(m.Anchors) == 0 { // of a version that did not write it; of a daemon that knew less
			return 0, nil
		}
		if has, err := f.journal.Has(m.Head.Seq, m.Head.Hash); err != nil || has {
			return 0, err
		}
		why = "another daemon has gone on since the journal was last written"
	}
	enter := func(in Intent, out Outcome) error {
		in.Step, in.Actor = StepRecover, "certd"
		in.Reason = fmt.Sprintf("%s: %s, from the mirror that %s wrote", why, in.Reason, m.Holder)
		id, err := f.journal.Begin(in)
		if err != nil {
			return err
		}
		out.Result = OK
		n++
		return f.journal.Finish(id, out)
	}
	for _, ma := range m.WebhookCAs {
		cas, err := f.journal.WebhookCAs(ma.Cluster)
		if err != nil {
			return n, err
		}
		var all []Anchor
		for _, ca := range cas {
			all = append(all, ca.Anchor)
		}
		switch a, err := ma.news(ctx, f.webhookKeys, all, f.journal.Now()); {
		case err != nil:
			return n, err
		case a != nil:
			if err := enter(Intent{Reason: "webhook CA " + a.ID, Cluster: ma.Cluster, Anchor: a.ID, Key: a.Key}, Outcome{WebhookCA: &WebhookCA{Cluster: ma.Cluster, Anchor: *a}}); err != nil {
				return n, err
			}
		}
	}
	var news []Anchor
	for _, ma := range m.Anchors {
		switch a, err := ma.news(ctx, f.keys, known, f.journal.Now()); {
		case err != nil:
			return n, err
		case a != nil:
			news = append(news, *a)
		}
	}
	change, err := f.journal.Change()
	if err != nil {
		return n, err
	}
	knows := func(id string) bool {
		same := func(a Anchor) bool { return a.ID == id && a.Certificate != nil }
		return slices.ContainsFunc(news, same) || slices.ContainsFunc(known, same) || id == "" && len(known) > 0
	}
	next := change
	switch c := m.Change; {
	case c == nil && change != nil:
		next = &Change{} // it has ended
	case c != nil && knows(c.From) && knows(c.To) && (!c.Compromised || f.leads != nil) && !same(change, c):
		next = c
	}
	// With the last anchor comes the change: neither without the other.
	for i, a := range news {
		out := Outcome{Anchor: &a}
		if i == len(news)-1 && next != change {
			out.Change, change = next, next
		}
		if err := enter(Intent{Reason: "trust anchor " + a.ID, Anchor: a.ID, Key: a.Key}, out); err != nil {
			return n, err
		}
	}
	if next != change {
		if err := enter(Intent{Reason: "how far the change of the trust anchor is"}, Outcome{Change: next}); err != nil {
			return n, err
		}
	}
	pauses, err := f.journal.Pauses()
	if err != nil {
		return n, err
	}
	if !slices.EqualFunc(pauses, m.Pauses, same[Pause]) {
		there := slices.Concat([]Pause{}, m.Pauses)
		if err := enter(Intent{Reason: "what is paused"}, Outcome{Pauses: &there}); err != nil {
			return n, err
		}
	}
	for _, mc := range m.Clusters {
		rec, err := f.journal.Cluster(mc.Name)
		if err != nil {
			return n, err
		}
		if rec.Adopted != "" && mc.Adopted == "" { // the other way round, the cluster's marks tell
			if err := enter(Intent{Reason: "nothing is left of what it came with", Cluster: mc.Name}, Outcome{Adopted: rec.broughtHome()}); err != nil {
				return n, err
			}
		}
		// Whichever cluster it was: leaves that have ended are waited for in vain, which breaks nothing.
		if all := joined(rec.Terms, m.Leaves); !slices.Equal(all, rec.Terms) {
			rec.Name, rec.Terms = mc.Name, all
			if err := f.journal.SaveCluster(rec); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// same says whether two are one in the mirror.
func same[T any](a, b T) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// news is what the mirror tells of an anchor that known, all of its kind in the journal,
// do not; nil if it is nothing. That one was retired, or what its certificate took the
// place of, needs no proof: nothing is trusted for it.
func (m mirroredAnchor) news(ctx context.Context, keys Keys, known []Anchor, now time.Time) (*Anchor, error) {
	a, err := m.anchor()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(known, func(k Anchor) bool { return k.ID == a.ID })
	if i < 0 || known[i].Certificate == nil {
		return m.proved(ctx, keys, now)
	}
	was := known[i]
	switch {
	case a.Certificate == nil:
		return nil, nil
	case !was.Certificate.Equal(a.Certificate):
		return m.proved(ctx, keys, now)
	case was.RetiredAt.Equal(a.RetiredAt):
		return nil, nil
	}
	was.RetiredAt, was.Compromised = a.RetiredAt, a.Compromised
	return &was, nil
}

// proved is the anchor if the key backend has its key, nil if not. An error says
// that it could not be asked.
func (m mirroredAnchor) proved(ctx context.Context, keys Keys, now time.Time) (*Anchor, error) {
	a, err := m.anchor()
	if err != nil || a.Key == "" || a.Certificate == nil {
		return nil, err
	}
	switch key, err := keys.OpenKey(ctx, a.Key, a.Certificate.PublicKey); {
	case errors.Is(err, ErrKeyNotFound), errors.Is(err, ErrKeyUnfit):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look whether the key of %s from the mirror is there: %w", m.ID, err)
	default:
		a.Backend, a.Exportable, a.CheckedAt = key.Info().Backend, key.Info().Exportable, now
		return &a, nil
	}
}

// fenced is a journal whose intents are recorded only while the mirror is this
// daemon's: without an intent there is no effect, of any kind and anywhere.
type fenced struct {
	Journal
	fence *Fence
}

// Begin implements Journal. Its error wraps ErrSecondDaemon once another daemon
// has the mirror, and ErrNotLeader while this one does not lead.
func (j fenced) Begin(in Intent) (uint64, error) {
	if err := j.fence.mayWrite(); err != nil {
		return 0, fmt.Errorf("record an intent: %w", err)
	}
	return j.Journal.Begin(in)
}

// Finish implements Journal. What came of a step is recorded whoever has the
// mirror by then.
func (j fenced) Finish(id uint64, out Outcome) error {
	err := j.Journal.Finish(id, out)
	if err == nil {
		if j.fence.leads != nil && (out.Anchor != nil || out.WebhookCA != nil || out.Change != nil || out.Pauses != nil) {
			// Where that fails, keepMirror tries again, and says so.
			_ = j.fence.Keep(context.Background())
		}
		select {
		case j.fence.dirty <- struct{}{}:
		default:
		}
	}
	return err
}

// mayWrite is Check for a step that is about to begin. A mirror that has just
// failed to answer is not asked again for a while.
func (f *Fence) mayWrite() error {
	if err := f.mayLead(); err != nil {
		return err
	}
	f.mu.Lock()
	away, lost := f.away, f.lost
	f.mu.Unlock()
	if lost == nil && (away.IsZero() || f.journal.Now().Sub(away).Abs() >= mirrorAgain) {
		lost = f.Check(context.Background())
		f.answered(lost)
	}
	if errors.Is(lost, ErrSecondDaemon) {
		return lost
	}
	return nil
}

// answered keeps whether the mirror could be asked.
func (f *Fence) answered(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away = (time.Time{}); err != nil {
		f.away = f.journal.Now()
	}
}

// keepMirror saves what was recorded, soon after, and looks every minute whether
// the mirror is still this daemon's.
func (r *Reconciler) keepMirror(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.fence.dirty:
			select {
			case <-ctx.Done():
			case <-time.After(mirrorPause):
			}
		}
		if err := r.tendMirror(context.WithoutCancel(ctx)); err != nil {
			timer.Reset(mirrorAgain)
		} else {
			timer.Reset(mirrorEvery)
		}
	}
}

func (r *Reconciler) tendMirror(ctx context.Context) error {
	err := r.fence.Keep(ctx)
	if err == nil {
		err = r.fence.Check(ctx)
	}
	r.fence.answered(err)
	r.mirrorTold(err)
	return err
}

// mirrorTold turns what became of the mirror into findings.
func (r *Reconciler) mirrorTold(err error) {
	r.mu.Lock()
	raised := r.journal.Epoch()
	news := raised > r.epoch
	if news {
		r.seen, r.epoch = max(r.seen, r.epoch), raised
	}
	r.mu.Unlock()
	if news {
		if _, err := r.journal.SawEpoch(raised); err != nil {
			r.log.Error("journal not written", "err", err)
		}
	}
	switch {
	case errors.Is(err, ErrNotLeader): // it stops, and another one tells
	case err == nil:
		r.Solved("MirrorFailed", "SecondDaemon")
	case errors.Is(err, ErrSecondDaemon):
		if !r.has("SecondDaemon") {
			r.log.Error("another certd looks after this fleet: nothing is written any more", "err", err)
		}
		r.Solved("MirrorFailed")
		r.Problem("SecondDaemon", err)
	default:
		if !r.has("MirrorFailed") {
			r.log.Warn("the mirror of the journal is not kept", "err", err)
		}
		r.Problem("MirrorFailed", err)
	}
}

// deposed says that another daemon looks after the fleet, and so reports it.
func (r *Reconciler) deposed() bool {
	switch {
	case r.fence == nil:
		return false
	case r.fence.mayLead() != nil:
		return true
	case r.fence.Lost() == nil:
		return false
	}
	r.mirrorTold(r.fence.Lost())
	return true
}
