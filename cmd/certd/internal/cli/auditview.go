package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/audit"
	"certd.internal/rotation"
)

// auditLogs holds the history against Vault's audit log.
func (a *App) auditLogs(ctx context.Context, files []string, o output) error {
	keys, err := a.AuditKeys(a.configPath)
	if err != nil {
		return err
	}
	var log audit.Log
	for _, name := range files {
		if err := a.readLog(&log, name, keys); err != nil {
			return err
		}
	}
	list, note, err := a.entries(ctx, api.HistoryQuery{})
	if err != nil {
		return err
	}
	if note != "" {
		a.aside(note)
	}
	var begins time.Time
	if len(list.Items) > 0 {
		begins = list.Items[0].IntentAt
	}
	r := log.Against(list, begins)
	if o.machine() {
		err = a.document(o, r)
	} else {
		a.tell(a.style().auditLines(r)...)
	}
	if code := stateCode(r.State); err == nil && code != exitOK {
		return exit(code)
	}
	return err
}

func (a *App) readLog(log *audit.Log, name string, keys audit.Keys) (err error) {
	in := a.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("open Vault's audit log: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		in = io.Reader(file)
	}
	if err := log.Read(in, keys); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (v style) auditLines(r audit.Report) (lines []string) {
	say := func(m mark, format string, args ...any) {
		lines = append(lines, v.wrap(v.mark(m)+" ", "  ", v.clean(fmt.Sprintf(format, args...)))...)
	}
	if r.Requests == 0 {
		say(markUnknown, "the audit log has no entries: nothing is proved by it")
		return lines
	}
	say(markOK, "the log covers %s to %s: %s", v.when(r.From), v.when(r.To), count(r.Requests, "request"))
	if r.Unreadable > 0 {
		say(markWarning, "%s could not be read; the last may have been being written", count(r.Unreadable, "line"))
	}
	for _, s := range r.Strangers {
		say(markCritical, "%s: a signature that the history does not have: %s, by %s from %s, request %s", v.when(s.At), s.Path, orUnknown(s.By), orUnknown(s.Address), s.Request)
	}
	if len(r.Strangers) > 0 {
		lines = append(lines, v.wrap("    ", "    ", "Somebody else signed with a key of the fleet's, or the journal was lost since. Find out who: what they signed may be an issuer that every mesh accepts.")...)
		lines = append(lines, v.next("certd runbook TrustCompromised")...)
	}
	for _, m := range r.Missing {
		say(markWarning, "entry %d of %s has signature %s, which the log does not have: it is not whole, or is another Vault's", m.Seq, v.when(m.At), m.SignRequest)
	}
	if r.State == rotation.StateOK {
		say(markOK, "%s by the fleet's keys, each in the history, and none there that Vault does not have", count(r.Matched, "signature"))
	}
	if r.Older > 0 {
		say(markWaiting, "%s from before the history begins: not judged", count(r.Older, "signature"))
	}
	if r.Refused > 0 {
		say(markWaiting, "%s for a signature refused by Vault", count(r.Refused, "request"))
	}
	return lines
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
