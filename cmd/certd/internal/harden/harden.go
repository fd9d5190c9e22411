// Package harden keeps what is in certd's memory out of files: core dumps, the
// memory of a process that another one traces, and swap space.
package harden

// Process forbids core dumps of this process, and that another process of the same user
// reads its memory (on Linux). It is for every command, since a token, a passphrase
// or an issuer's key may be in any. The errors say what the system did not let it do.
func Process() error { return process() }

// Lock keeps the pages of this process out of swap space, those to come too, where the
// limit on locked memory (LimitMEMLOCK, ulimit -l) does not stand against that: with
// a limit, allocations would fail once it is reached. It returns why they are not kept
// out, "" if they are.
func Lock() (why string) { return lock() }
