//go:build faults

package faults

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Dice are what is left to chance. The seed is printed, and SEED throws the
// same again.
type dice struct {
	*rand.Rand
	seed uint64
}

func newDice(t *testing.T) dice {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED=%q: want a number", text)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return dice{rand.New(rand.NewPCG(seed, 0)), seed}
}

// between is a random time.
func (d dice) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Int64N(int64(most-least)))
}

// pause sleeps for one.
func (d dice) pause(least, most time.Duration) { time.Sleep(d.between(least, most)) }
