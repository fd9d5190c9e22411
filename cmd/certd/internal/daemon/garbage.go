package daemon

import "runtime/debug"

// garbage is by how much of what is in use, in percent, the heap may grow before it is
// collected. What a fleet has in use is large and stays, and little is added to it: half of
// Go's own 100 costs no CPU that can be measured. A quarter costs a seventh more in quiet and
// several seconds for a start with 1,000 clusters.
const garbage = 50

// collect has garbage collected early, where GOGC does not say when.
func collect(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}
