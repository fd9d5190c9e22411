// Package audit holds certd's history against Vault's audit log: each signature that Vault
// gave with a key of the fleet's is in the history, and each in the history was given by
// Vault. They are joined by Vault's request id, which the history keeps.
package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// maxLine is the longest entry of an audit log that is read. Vault's largest request has
// 32 MiB; one for a signature has less than 2 KiB.
const maxLine = 1 << 20

// edge is how near the ends of the log an entry of the history may be without being
// missed: the log may begin or end in the midst of what belongs together.
const edge = time.Minute

// Keys say which requests sign with keys of the fleet's.
type Keys struct {
	// Prefixes of the paths of such requests, as in certd-transit/sign/acme-anchor-.
	Prefixes []string
}

// Signature is one that Vault gave, or refused to give.
type Signature struct {
	At      time.Time `json:"at"`
	Request string    `json:"signRequest"`       // Vault's request id
	Path    string    `json:"path"`              // mount, operation and key
	By      string    `json:"by,omitempty"`      // Vault's display name of the token
	Address string    `json:"address,omitempty"` // of who asked
}

// Report is what holding the two against each other gave.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // AuditReport
	Fleet      string `json:"fleet"`
	// State is critical where there are strangers, warning where signatures are missing,
	// unknown where the log is empty.
	State    rotation.State `json:"state"`
	From     time.Time      `json:"from,omitzero"` // the first entry of the log, whatever it is about
	To       time.Time      `json:"to,omitzero"`
	Requests int            `json:"requests"` // all that the log has
	Refused  int            `json:"refused"`  // for signatures, that Vault did not give
	Matched  int            `json:"matched"`
	Older    int            `json:"older"` // from before the history begins: not judged
	// Strangers are signatures by the fleet's keys that certd did not ask for, or has
	// no record of.
	Strangers []Signature `json:"strangers"`
	// Missing are entries of the history whose signature the log does not have, although it
	// covers their time.
	Missing []rotation.HistoryItem `json:"missing"`
	// Unreadable counts lines that are no entries of an audit log.
	Unreadable int `json:"unreadable"`
}

// Log is what was read of audit logs.
type Log struct {
	signatures []Signature
	seen       map[string]bool
	report     Report
}

// entry is as much of an entry of Vault's audit log as is needed.
// https://developer.hashicorp.com/vault/docs/audit
type entry struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Error   string    `json:"error"`
	Auth    who       `json:"auth"`
	Request struct {
		ID            string `json:"id"`
		Operation     string `json:"operation"`
		Path          string `json:"path"`
		RemoteAddress string `json:"remote_address"`
	} `json:"request"`
}

type who struct {
	DisplayName string `json:"display_name"`
}

// Read takes in an audit log, or a part of one: parts may come in any order.
func (l *Log) Read(r io.Reader, keys Keys) error {
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := nextLine(in)
		if len(bytes.TrimSpace(line)) > 0 {
			l.take(line, keys)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the audit log: %w", err)
		}
	}
}

// nextLine returns a line, cut off where it is too long.
func nextLine(in *bufio.Reader) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(line) < maxLine {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func (l *Log) take(line []byte, keys Keys) {
	var e entry
	if err := json.Unmarshal(line, &e); err != nil || e.Time.IsZero() || e.Type != "request" && e.Type != "response" {
		l.report.Unreadable++
		return
	}
	r := &l.report
	if r.From.IsZero() || e.Time.Before(r.From) {
		r.From = e.Time.UTC()
	}
	if e.Time.After(r.To) {
		r.To = e.Time.UTC()
	}
	if e.Type != "response" {
		return
	}
	r.Requests++
	signs := slices.ContainsFunc(keys.Prefixes, func(p string) bool { return strings.HasPrefix(strings.TrimPrefix(e.Request.Path, "/"), p) })
	switch {
	case !signs || e.Request.Operation != "update" && e.Request.Operation != "create":
	case e.Error != "":
		r.Refused++
	case !l.seen[e.Request.ID]: // two devices log each request twice
		l.seen[e.Request.ID] = true
		l.signatures = append(l.signatures, Signature{At: e.Time.UTC(), Request: e.Request.ID, Path: e.Request.Path, By: e.Auth.DisplayName, Address: e.Request.RemoteAddress})
	}
}

// Against holds what was read against the history, oldest entry first. begins is when the
// history does: what is older was dropped from it, or was before it.
func (l *Log) Against(h rotation.HistoryList, begins time.Time) Report {
	r := l.report
	r.APIVersion, r.Kind, r.Fleet = rotation.APIVersion, "AuditReport", h.Fleet
	r.Strangers, r.Missing = []Signature{}, []rotation.HistoryItem{}
	known := map[string]bool{}
	for _, item := range h.Items {
		if item.SignRequest == "" {
			continue
		}
		known[item.SignRequest] = true
		if at := item.At; !l.seen[item.SignRequest] && at.After(r.From.Add(edge)) && at.Before(r.To.Add(-edge)) {
			r.Missing = append(r.Missing, item)
		}
	}
	slices.SortFunc(l.signatures, func(a, b Signature) int { return a.At.Compare(b.At) })
	for _, s := range l.signatures {
		switch {
		case known[s.Request]:
			r.Matched++
		case s.At.Before(begins):
			r.Older++
		default:
			r.Strangers = append(r.Strangers, s)
		}
	}
	switch {
	case len(r.Strangers) > 0:
		r.State = rotation.StateCritical
	case len(r.Missing) > 0:
		r.State = rotation.StateWarning
	case r.Requests == 0:
		r.State = rotation.StateUnknown
	default:
		r.State = rotation.StateOK
	}
	return r
}
