//go:build race

package rotation_test

// raced: the race detector makes simulations six times as long. With it some of
// their years, seeds, rows and looks are gone through; without it all (.ci/test).
const (
	raced = true
	pace  = 5 // minutes from look to look, where each minute is looked at
)
