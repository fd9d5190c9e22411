package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
)

// A transcript is the file a ceremony's record goes to. It is opened before
// anything is made, so that a record that cannot be kept stops the ceremony.
type transcript struct {
	path string
	file *os.File // nil: none is wanted
}

func newTranscript(path string) (*transcript, error) {
	if path == "" {
		return &transcript{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, usage("--transcript %s is there already, and a record is not overwritten", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the transcript: %w", err)
	}
	return &transcript{path, f}, nil
}

// discard removes a record of nothing.
func (t *transcript) discard() {
	if t.file != nil {
		t.file.Close()
		os.Remove(t.path)
	}
}

func (t *transcript) write(s style, r api.InitReply) error {
	if t.file == nil {
		return nil
	}
	text := markdown(s, r)
	if strings.HasSuffix(t.path, ".json") {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the transcript: %w", err)
		}
		text = string(b) + "\n"
	}
	_, err := t.file.WriteString(text)
	err = errors.Join(err, t.file.Sync(), t.file.Close())
	if err != nil {
		return fmt.Errorf("write the transcript %s (the trust anchor is as certd status says, and certd init -o json prints the record again): %w", t.path, err)
	}
	return nil
}

// markdown is the record for people. Its times are in UTC: it is read years
// later and elsewhere.
func markdown(s style, r api.InitReply) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Trust anchor of %s", s.clean(r.Fleet))
	line("")
	line("%s", r.At.UTC().Format(time.RFC3339))
	switch {
	case r.DryRun:
		line("\nA rehearsal: nothing was made.")
	case !r.Created:
		line("\nThe anchor was there already; nothing was changed.")
	}
	line("\n| | |\n|---|---|")
	row := func(name, value string) {
		if value != "" {
			line("| %s | %s |", name, strings.ReplaceAll(s.clean(value), "|", "\\|"))
		}
	}
	row("operator", r.Operator)
	row("witnesses", strings.Join(r.Witnesses, ", "))
	row("anchor", r.Anchor.ID)
	row("subject", r.Anchor.Subject)
	if !r.Anchor.NotAfter.IsZero() {
		row("valid", r.Anchor.NotBefore.UTC().Format(time.RFC3339)+" to "+r.Anchor.NotAfter.UTC().Format(time.RFC3339))
	}
	row("key", fmt.Sprintf("%s in %s, exportable: %v", r.Anchor.Key.Name, r.Anchor.Key.Backend, r.Anchor.Key.Exportable))
	row("SKI", r.Anchor.SKI)
	row("SHA-256", r.Anchor.SHA256)
	if len(r.Entries) > 0 {
		row("journal entries", strings.Trim(fmt.Sprint(r.Entries), "[]"))
	}
	line("\n## Steps\n")
	for i, step := range r.Steps {
		line("%d. %s", i+1, s.clean(step))
	}
	if r.BundlePEM != "" {
		line("\n## Bundle\n\n```\n%s\n```", strings.TrimSpace(r.BundlePEM))
	}
	return b.String()
}
