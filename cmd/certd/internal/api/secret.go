package api

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const hidden = "(hidden)"

// redacted is the request without its token.
func (r InitRequest) redacted() InitRequest {
	if r.Token != "" {
		r.Token = hidden
	}
	return r
}

// Format hides the token from every verb of fmt.
func (r InitRequest) Format(f fmt.State, _ rune) {
	type plain InitRequest // without this method
	fmt.Fprintf(f, "%+v", plain(r.redacted()))
}

// LogValue hides the token from log/slog.
func (r InitRequest) LogValue() slog.Value {
	type plain InitRequest // without this method
	return slog.AnyValue(plain(r.redacted()))
}

// redacted is the request without its token.
func (r ChangeRequest) redacted() ChangeRequest {
	if r.Token != "" {
		r.Token = hidden
	}
	return r
}

// Format hides the token from every verb of fmt.
func (r ChangeRequest) Format(f fmt.State, _ rune) {
	type plain ChangeRequest // without this method
	fmt.Fprintf(f, "%+v", plain(r.redacted()))
}

// LogValue hides the token from log/slog.
func (r ChangeRequest) LogValue() slog.Value {
	type plain ChangeRequest // without this method
	return slog.AnyValue(plain(r.redacted()))
}

// scrub takes a token out of a text, should an error quote it.
func scrub(text, token string) string {
	if token == "" {
		return text
	}
	return strings.ReplaceAll(text, token, hidden)
}

var _ fmt.Formatter = InitRequest{}
var _ io.Writer = (*logWriter)(nil)

// A logWriter takes net/http's own complaints into the log.
type logWriter struct{ log *slog.Logger }

func (w *logWriter) Write(b []byte) (int, error) {
	w.log.Warn("admin socket", "err", strings.TrimSpace(string(b)))
	return len(b), nil
}
