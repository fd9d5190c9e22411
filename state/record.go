package state

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"certd.internal/rotation"
)

// The records, as they stand in the file. A released field keeps its meaning.

type stateRecord struct {
	Fleet      string         `json:"fleet"`
	Epoch      uint64         `json:"epoch"`
	NextIntent uint64         `json:"nextIntent"`
	First      uint64         `json:"first"` // seq of the oldest entry kept, or of the next one if none is
	Last       uint64         `json:"last"`  // 0 = none yet
	Base       digest         `json:"base"`  // hash of the entry before First
	Head       digest         `json:"head"`  // hash of Last
	Sums       map[string]sum `json:"sums"`
	Commit     int            `json:"commit,omitempty"` // bbolt's number of the commit that wrote it, since schema 7
	Seen       uint64         `json:"seen,omitempty"`   // the largest that SawEpoch was told, since schema 8
}

func (s stateRecord) clone() stateRecord {
	s.Sums = maps.Clone(s.Sums)
	return s
}

// sum stands for all records of a bucket.
type sum struct {
	Count uint64 `json:"n"`
	XOR   seal   `json:"x"`
}

type pendingRecord struct {
	At     time.Time       `json:"at"`
	Intent rotation.Intent `json:"intent"`
}

// entryRecord begins with at, so that a search by time can look no further.
type entryRecord struct {
	At          time.Time       `json:"at"`
	IntentAt    time.Time       `json:"intentAt"`
	IntentID    uint64          `json:"intentId"`
	Intent      rotation.Intent `json:"intent"`
	Result      rotation.Result `json:"result"`
	Detail      string          `json:"detail,omitempty"`
	SignRequest string          `json:"signRequest,omitempty"`
	Revision    string          `json:"revision,omitempty"`
	ByOthers    bool            `json:"byOthers,omitempty"` // since schema 4
}

type anchorRecord struct {
	ID          string    `json:"id"`
	Key         string    `json:"key"`
	Backend     string    `json:"backend"`
	Exportable  bool      `json:"exportable"`
	CheckedAt   time.Time `json:"checkedAt,omitzero"`
	Imported    bool      `json:"imported,omitempty"`    // since schema 3
	Certificate []byte    `json:"certificate,omitempty"` // DER
	Formerly    []byte    `json:"formerly,omitempty"`    // DER, since schema 2
	CreatedAt   time.Time `json:"createdAt,omitzero"`
	RetiredAt   time.Time `json:"retiredAt,omitzero"`
	Compromised bool      `json:"compromised,omitempty"` // since schema 8
}

// webhookCARecord begins with its cluster, and goes on like an anchor.
type webhookCARecord struct {
	Cluster string `json:"cluster"`
	anchorRecord
}

type certificateRecord struct {
	Cluster     string    `json:"cluster,omitempty"`
	Kind        string    `json:"kind"`
	Name        string    `json:"name,omitempty"` // since schema 2
	Serial      string    `json:"serial"`
	SHA256      string    `json:"sha256,omitempty"`
	SKI         string    `json:"ski,omitempty"`
	AKI         string    `json:"aki,omitempty"`
	Subject     string    `json:"subject,omitempty"`
	Anchor      string    `json:"anchor,omitempty"`
	Second      string    `json:"second,omitempty"` // since schema 3
	Over        string    `json:"over,omitempty"`   // since schema 8
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	SignedAt    time.Time `json:"signedAt,omitzero"`
	DeliveredAt time.Time `json:"deliveredAt,omitzero"`
}

// changeRecord is a change of the trust anchor.
type changeRecord struct {
	From        string          `json:"from"`
	To          string          `json:"to"`
	Stage       rotation.Stage  `json:"stage"`
	Back        bool            `json:"back,omitempty"`
	Held        bool            `json:"held,omitempty"`
	Compromised bool            `json:"compromised,omitempty"` // since schema 4
	Alone       bool            `json:"alone,omitempty"`       // since schema 4
	Manual      bool            `json:"manual,omitempty"`      // since schema 4
	Proceed     bool            `json:"proceed,omitempty"`     // since schema 4
	Without     []string        `json:"without,omitempty"`
	Behind      []string        `json:"behind,omitempty"` // since schema 4
	Actor       string          `json:"actor"`
	TurnedBy    string          `json:"turnedBy,omitempty"` // since schema 8
	Reason      string          `json:"reason"`
	StartedAt   time.Time       `json:"startedAt"`
	StageAt     time.Time       `json:"stageAt"`
	First       string          `json:"first,omitempty"` // since schema 4
	CanaryAt    time.Time       `json:"canaryAt,omitzero"`
	ProvedAt    time.Time       `json:"provedAt,omitzero"`
	Approval    *approvalRecord `json:"approval,omitempty"` // since schema 8
}

type approvalRecord struct {
	Actor  string    `json:"actor"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

func fromChange(c rotation.Change) changeRecord {
	r := changeRecord{From: c.From, To: c.To, Stage: c.Stage, Back: c.Back, Held: c.Held, Compromised: c.Compromised, Alone: c.Alone, Manual: c.Manual, Proceed: c.Proceed,
		Without: c.Without, Behind: c.Behind, Actor: c.Actor, TurnedBy: c.TurnedBy, Reason: c.Reason, First: c.First,
		StartedAt: utc(c.StartedAt), StageAt: utc(c.StageAt), CanaryAt: utc(c.CanaryAt), ProvedAt: utc(c.ProvedAt)}
	if a := c.Approval; a != nil {
		r.Approval = &approvalRecord{Actor: a.Actor, Reason: a.Reason, At: utc(a.At)}
	}
	return r
}

func (r changeRecord) change() rotation.Change {
	c := rotation.Change{From: r.From, To: r.To, Stage: r.Stage, Back: r.Back, Held: r.Held, Compromised: r.Compromised, Alone: r.Alone, Manual: r.Manual, Proceed: r.Proceed,
		Without: r.Without, Behind: r.Behind, Actor: r.Actor, TurnedBy: r.TurnedBy, Reason: r.Reason, First: r.First,
		StartedAt: r.StartedAt, StageAt: r.StageAt, CanaryAt: r.CanaryAt, ProvedAt: r.ProvedAt}
	if a := r.Approval; a != nil {
		c.Approval = &rotation.Approval{Actor: a.Actor, Reason: a.Reason, At: a.At}
	}
	return c
}

// pausesRecord is what people have asked to be left alone (since schema 6).
type pausesRecord struct {
	Pauses []pauseRecord `json:"pauses"`
}

type pauseRecord struct {
	Cluster string    `json:"cluster,omitempty"`
	At      time.Time `json:"at"`
	Until   time.Time `json:"until,omitzero"`
	Actor   string    `json:"actor"`
	Reason  string    `json:"reason"`
}

type clusterRecord struct {
	Name        string    `json:"name"`
	Enrolled    bool      `json:"enrolled"`
	Target      string    `json:"target,omitempty"`
	TargetSince time.Time `json:"targetSince,omitzero"` // since schema 8
	LastContact time.Time `json:"lastContact,omitzero"`
	Error       string    `json:"error,omitempty"`
	// What it came with, since schema 4.
	Adopted       string    `json:"adopted,omitempty"`
	AdoptedIssuer []byte    `json:"adoptedIssuer,omitempty"`
	AdoptedBundle []byte    `json:"adoptedBundle,omitempty"`
	AdoptedAt     time.Time `json:"adoptedAt,omitzero"`
	// Since schema 8.
	Terms  []termsRecord `json:"terms,omitempty"`
	Status []byte        `json:"status,omitempty"`
}

type termsRecord struct {
	Lifetime time.Duration `json:"lifetimeNs"`
	Skew     time.Duration `json:"skewNs"`
	Until    time.Time     `json:"until,omitzero"`
}

type signedRecord struct {
	At time.Time `json:"at"`
}

// noticeRecord is a finding that is told of.
type noticeRecord struct {
	Cluster  string         `json:"cluster,omitempty"`
	Finding  string         `json:"finding"`
	Severity rotation.State `json:"severity"`
	Message  string         `json:"message,omitempty"`
	Since    time.Time      `json:"since,omitzero"`
	Told     []string       `json:"told,omitempty"`
	Summed   []string       `json:"summed,omitempty"`
}

// outgoingRecord is a message that was not acknowledged yet.
type outgoingRecord struct {
	ID       string    `json:"id"`
	Receiver string    `json:"receiver"`
	At       time.Time `json:"at"`
	Body     []byte    `json:"body"`
}

// receiverRecord is how a receiver of notifications does.
type receiverRecord struct {
	Name         string    `json:"name"`
	LastOKAt     time.Time `json:"lastOKAt,omitzero"`
	FailingSince time.Time `json:"failingSince,omitzero"`
	Error        string    `json:"error,omitempty"`
	Lost         int       `json:"lost,omitempty"`
	LostSince    time.Time `json:"lostSince,omitzero"`
}

// toldRecord is what was told that is no finding.
type toldRecord struct {
	Trust    *TrustMark `json:"trust,omitempty"`
	DigestAt time.Time  `json:"digestAt,omitzero"`
}

// utc drops what a record cannot hold: the zone and the monotonic clock.
func utc(t time.Time) time.Time { return t.Round(0).UTC() }

func fromAnchor(a rotation.Anchor) anchorRecord {
	r := anchorRecord{ID: a.ID, Key: a.Key, Backend: a.Backend, Exportable: a.Exportable, Imported: a.Imported,
		CheckedAt: utc(a.CheckedAt), CreatedAt: utc(a.CreatedAt), RetiredAt: utc(a.RetiredAt), Compromised: a.Compromised}
	if a.Certificate != nil {
		r.Certificate = a.Certificate.Raw
	}
	if a.Formerly != nil {
		r.Formerly = a.Formerly.Raw
	}
	return r
}

func (r anchorRecord) anchor() (rotation.Anchor, error) {
	a := rotation.Anchor{ID: r.ID, Key: r.Key, Backend: r.Backend, Exportable: r.Exportable, Imported: r.Imported,
		CheckedAt: r.CheckedAt, CreatedAt: r.CreatedAt, RetiredAt: r.RetiredAt, Compromised: r.Compromised}
	if r.Certificate == nil {
		return a, nil
	}
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return a, fmt.Errorf("its certificate: %v: %w", err, ErrDamaged)
	}
	a.Certificate = cert
	if r.Formerly == nil {
		return a, nil
	}
	if a.Formerly, err = x509.ParseCertificate(r.Formerly); err != nil {
		return a, fmt.Errorf("its former certificate: %v: %w", err, ErrDamaged)
	}
	return a, nil
}

func fromCertificate(c rotation.CertificateRecord) certificateRecord {
	r := certificateRecord(c)
	r.NotBefore, r.NotAfter = utc(c.NotBefore), utc(c.NotAfter)
	r.SignedAt, r.DeliveredAt = utc(c.SignedAt), utc(c.DeliveredAt)
	return r
}

func fromCluster(c rotation.ClusterRecord) clusterRecord {
	r := clusterRecord{Name: c.Name, Enrolled: c.Enrolled, Target: c.Target, TargetSince: utc(c.TargetSince), LastContact: utc(c.LastContact), Error: clip(c.Error),
		Adopted: c.Adopted, AdoptedIssuer: c.AdoptedIssuer, AdoptedBundle: c.AdoptedBundle, AdoptedAt: utc(c.AdoptedAt), Status: c.Status}
	for _, t := range c.Terms {
		r.Terms = append(r.Terms, termsRecord{t.Lifetime, t.Skew, utc(t.Until)})
	}
	return r
}

func (r clusterRecord) cluster() rotation.ClusterRecord {
	c := rotation.ClusterRecord{Name: r.Name, Enrolled: r.Enrolled, Target: r.Target, TargetSince: r.TargetSince, LastContact: r.LastContact, Error: r.Error,
		Adopted: r.Adopted, AdoptedIssuer: r.AdoptedIssuer, AdoptedBundle: r.AdoptedBundle, AdoptedAt: r.AdoptedAt, Status: r.Status}
	for _, t := range r.Terms {
		c.Terms = append(c.Terms, rotation.LeafTerms(t))
	}
	return c
}

// Limits on what one record takes up. What a cluster sends must not be able
// to fill the disk.
const (
	maxText   = 4 << 10 // a reason, an error
	maxField  = 1 << 10 // a name, a serial, a revision
	maxStatus = 1 << 20
)

// clip shortens a text for people to what a record holds.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	cut := maxText - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// checkField refuses what no name, serial or revision looks like.
func checkField(name, value string) error {
	switch {
	case len(value) > maxField:
		return fmt.Errorf("%s has %d bytes, and a record holds %d", name, len(value), maxField)
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return fmt.Errorf("%s %q is not text", name, value)
	}
	return nil
}

// looksLikeKey finds PEM, and PKCS#8 in base64 as it begins for P-256, P-384
// and RSA.
func looksLikeKey[T string | []byte](text T) bool {
	for _, mark := range [...]string{"PRIVATE KEY", "MIGHAgEAMBMGByqGSM49", "MIG2AgEAMBAGByqGSM49", "MIIEvgIBADANBgkqhkiG9w0BAQEF", "MIIEvQIBADANBgkqhkiG9w0BAQEF"} {
		found := false
		switch text := any(text).(type) { // a record is not copied to be searched
		case string:
			found = strings.Contains(text, mark)
		case []byte:
			found = bytes.Contains(text, []byte(mark))
		}
		if found {
			return true
		}
	}
	return false
}

// HoldsKey says whether a text looks like a private key, so that no record takes
// it.
func HoldsKey(text string) bool { return looksLikeKey(text) }

// encode returns the canonical form of a record.
func encode(record any) ([]byte, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if looksLikeKey(text) {
		return nil, ErrKeyMaterial
	}
	return text, nil
}

// decode reads a record. strict refuses everything that encode would not have
// written: unknown fields, another order, other spellings of a value. Without
// it fields of a newer schema are passed over.
func decode(text []byte, record any, strict bool) error {
	if !strict {
		return json.Unmarshal(text, record)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(record); err != nil {
		return err
	}
	again, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, text) {
		return errors.New("the record is not in canonical form")
	}
	return nil
}

const sealSize = 16

// seal is half a SHA-256 over a record and where it stands. As text: hex.
type seal [sealSize]byte

// digest is a SHA-256 in the chain. As text: hex.
type digest [sha256.Size]byte

func (s seal) MarshalText() ([]byte, error)       { return fmt.Appendf(nil, "%x", s[:]), nil }
func (s *seal) UnmarshalText(text []byte) error   { return unhex(s[:], text) }
func (d digest) MarshalText() ([]byte, error)     { return fmt.Appendf(nil, "%x", d[:]), nil }
func (d *digest) UnmarshalText(text []byte) error { return unhex(d[:], text) }
func (d digest) String() string                   { return fmt.Sprintf("%x", d[:]) }

func unhex(dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("%q has not %d bytes in hex", text, len(dst))
	}
	_, err := hex.Decode(dst, text)
	return err
}

func (s seal) xor(other seal) seal {
	for i := range s {
		s[i] ^= other[i]
	}
	return s
}

// sealOf is the seal of a record at its place.
func sealOf(bucket string, key, record []byte) seal {
	h := sha256.New()
	h.Write([]byte("certd journal record\n"))
	for _, part := range [][]byte{[]byte(bucket), key, record} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return seal(h.Sum(nil)[:sealSize])
}

// sealed is a value as it stands in a bucket.
func sealed(bucket string, key, record []byte) []byte {
	s := sealOf(bucket, key, record)
	return append(s[:], record...)
}

// unseal checks a value and returns its seal and its record.
func unseal(bucket string, key, value []byte) (seal, []byte, error) {
	if len(value) < sealSize {
		return seal{}, nil, damaged(bucket, key, "the value is cut short")
	}
	s, record := seal(value[:sealSize]), value[sealSize:]
	if s != sealOf(bucket, key, record) {
		return seal{}, nil, damaged(bucket, key, "the record does not match its checksum")
	}
	return s, record, nil
}
