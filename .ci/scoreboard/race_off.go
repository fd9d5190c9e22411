//go:build !race

package scoreboard

const raced = false
