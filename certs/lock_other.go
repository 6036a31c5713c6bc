//go:build !unix

package certs

import (
	"os"
	"sync"
	"time"
)

var folders sync.Mutex

// lock keeps other goroutines from changing a folder. Relays, whose commands
// change folders beside them, run on Unix.
func lock(*os.Root, time.Duration) (unlock func(), err error) {
	folders.Lock()
	return folders.Unlock, nil
}
