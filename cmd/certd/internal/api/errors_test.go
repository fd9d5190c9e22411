package api

import (
	"fmt"
	"testing"

	"certd.internal/rotation"
)

// A person reads what is wrong, and not what kind of error that is.
func TestTextLeavesOutTheClass(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("trust advance: name the clusters: %w: %w", rotation.ErrUnsupported, ErrUsage), "trust advance: name the clusters"},
		{fmt.Errorf("trust rotate: east: it does not answer: %w", ErrNotNow), "trust rotate: east: it does not answer"},
		{fmt.Errorf("not now: %w", ErrDenied), "not now: not permitted"},
		{rotation.ErrNoGain, "nothing to gain"},
	} {
		if got := Text(row.err); got != row.want {
			t.Errorf("%q, want %q", got, row.want)
		}
	}
}
