package harden

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func process() error {
	var dump, core error
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		dump = fmt.Errorf("make the process undumpable (PR_SET_DUMPABLE): %w", err)
	}
	// A unit with LimitCORE=0 may forbid to set limits at all.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err == nil && limit == (unix.Rlimit{}) {
		return dump
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		core = fmt.Errorf("set the limit on core dumps to 0 (RLIMIT_CORE): %w", err)
	}
	return errors.Join(dump, core)
}

// With MCL_ONFAULT a page is locked when it is first used: the Go runtime reserves
// far more than it uses.
func lock() string {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Sprintf("read the limit on locked memory: %v", err)
	}
	if limit.Cur != unix.RLIM_INFINITY {
		return fmt.Sprintf("the limit on locked memory is %d KiB; LimitMEMLOCK=infinity, or ulimit -l unlimited, lifts it", limit.Cur>>10)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Sprintf("lock memory (mlockall): %v", err)
	}
	return ""
}
