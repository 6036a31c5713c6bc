//go:build linux && !amd64 && !arm64 && !arm && !mipsle

package confine

// Nobody has looked at the other architectures' calls: they have no filter.
const (
	architecture = 0
	private      = 0
)

var refusedHere, refusedAloneHere []uint32
