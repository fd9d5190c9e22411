package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"certd.internal/rotation"
)

// classes ties what a caller decides by to the exit code it travels as, and
// to the HTTP status that goes with it. The first row with a code is what the
// client makes of that code.
var classes = [...]struct {
	err    error
	exit   int
	status int
}{
	{ErrUsage, 64, http.StatusBadRequest},
	{ErrUnavailable, 69, http.StatusServiceUnavailable},
	{ErrNoDaemon, 69, http.StatusServiceUnavailable},
	{ErrNotNow, 75, http.StatusConflict},
	{ErrDenied, 77, http.StatusForbidden},
	{ErrTimeout, 124, http.StatusGatewayTimeout},
	{context.DeadlineExceeded, 124, http.StatusGatewayTimeout},
}

// exitFailed is the exit code of an error of no class.
const exitFailed = 1

// ExitCode is the code a command ends with after err: 0 for nil, 1 for an
// error of no class.
func ExitCode(err error) int {
	code, _ := classify(err)
	return code
}

// Text is what an error says to a person: without the names of classes at its end, which
// the exit code tells.
func Text(err error) string {
	text := err.Error()
	for {
		before := text
		for _, class := range []error{ErrUsage, ErrNotNow, rotation.ErrUnsupported} {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
		if text == before {
			return text
		}
	}
}

func classify(err error) (exit, status int) {
	if err == nil {
		return 0, http.StatusOK
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.exit, c.status
		}
	}
	return exitFailed, http.StatusInternalServerError
}

// failure is an error as it travels.
type failure struct {
	Code int    `json:"code"` // exit code
	Text string `json:"error"`
}

// An answer is a failure that came over the socket: the daemon's text, and
// the class its code stands for.
type answer struct {
	text  string
	class error // nil: of no class
}

func (a answer) Error() string { return a.text }
func (a answer) Unwrap() error { return a.class }

func (f failure) err() error {
	for _, c := range classes {
		if c.exit == f.Code {
			return answer{f.Text, c.err}
		}
	}
	return answer{text: f.Text}
}
