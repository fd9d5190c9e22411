//go:build !linux

package harden

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func process() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set the limit on core dumps to 0 (RLIMIT_CORE): %w", err)
	}
	return nil
}

func lock() string { return "memory is locked on Linux alone" }
