//go:build crashpoints

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// crashPoint kills the process at the nth write of the journal, counted from 1
// and twice for each, before and after, where n is $CERTD_CRASH_AT; only writes
// count whose name begins with $CERTD_CRASH_IN. It is for tests and not in any
// build that people get.
func crashPoint() func(string) {
	at, err := strconv.ParseInt(os.Getenv("CERTD_CRASH_AT"), 10, 64)
	if err != nil {
		return nil
	}
	in := os.Getenv("CERTD_CRASH_IN")
	var n atomic.Int64
	return func(point string) {
		if strings.HasPrefix(point, in) && n.Add(1) == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
