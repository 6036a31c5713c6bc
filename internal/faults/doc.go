// Package faults tests what becomes of packets when something breaks. It runs
// the two programs as they are shipped, breaks one thing at a time (a process,
// a link, a disk, a limit, a clock, a reader), and then closes the ledger: every
// packet that was handed to the agent is in the relay's history exactly once,
// byte for byte, or inside a gap that is counted and has a cause; the programs'
// metrics say the same; and what they hold (goroutines, descriptors) is what
// they held before.
//
// A row of the fault matrix is a test. They take minutes, and so are behind the
// build tag faults:
//
//	make test-faults                # every row, in a few minutes
//	make soak SOAK=8h SEED=7        # a random mix of them, for as long as wanted
//
// docs/DELIVERY.md says which promise each of them holds.
package faults
