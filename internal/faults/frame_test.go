//go:build faults

package faults

import (
	"encoding/binary"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// shortest and longest frame of a source, in bytes.
const (
	shortest = 64
	longest  = 764
)

// frameLen is the length of the frame with that counter.
func frameLen(counter uint64) int {
	return shortest + int(scatter(counter)%(longest-shortest))
}

// scatter is the finalizer of SplitMix64: a number that looks random and is
// always the same.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendFrame makes a frame of which counter and time decide every byte, laid
// out as poiptest's Generator does, with something other than zeros behind.
func appendFrame(dst []byte, counter uint64, at time.Time) []byte {
	size := frameLen(counter)
	begin := len(dst)
	dst = append(dst, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0)
	dst = append(dst, 0x45, 0, byte((size-14)>>8), byte(size-14), 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2)
	dst = append(dst, 0, 9, 0, 9, byte((size-34)>>8), byte(size-34), 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, counter)
	dst = binary.BigEndian.AppendUint64(dst, uint64(at.UnixNano()))
	for x := scatter(counter); len(dst) < begin+size; x = scatter(x) {
		dst = binary.LittleEndian.AppendUint64(dst, x)
	}
	return dst[:begin+size]
}

// appendRecord makes a record of it, as in a nanosecond pcap file.
func appendRecord(dst []byte, counter uint64, at time.Time) []byte {
	frame := appendFrame(nil, counter, at)
	return pcap.AppendRecord(dst, uint32(at.Unix()), uint32(at.Nanosecond()), uint32(len(frame)), frame)
}

// counterOf reads what appendFrame wrote.
func counterOf(frame []byte) (uint64, bool) {
	counter, _, ok := poiptest.Stamps(frame)
	return counter, ok
}
