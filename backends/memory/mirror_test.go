package memory_test

import (
	"testing"

	"certd.internal/backends/backendtest"
	"certd.internal/backends/memory"
	"certd.internal/rotation"
)

func TestMirror(t *testing.T) {
	backendtest.TestMirror(t, func(*testing.T) (one, other rotation.Mirror) {
		m := &memory.Mirror{}
		return m, m
	})
}
