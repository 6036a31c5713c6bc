package oracle

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"testing"
)

// readTcpdump reads with libpcap, which tells no interfaces apart.
func readTcpdump(tb testing.TB, path string) Reading {
	tb.Helper()
	var said bytes.Buffer
	cmd := exec.Command("tcpdump", "--nano", "-r", path, "-w", "-")
	cmd.Stderr = &said
	out, err := cmd.Output()
	got := Reading{}
	if err != nil {
		got.Complaint = said.String()
	}
	got.Frames, _ = splitRecords(out)
	return got
}

// splitRecords takes apart a pcap file that a tool has written, little-endian
// and with nanoseconds: a header of 24 bytes, then packets behind 16 bytes each.
func splitRecords(b []byte) (frames []Frame, ok bool) {
	le := binary.LittleEndian
	for b = b[min(len(b), 24):]; len(b) >= 16; {
		captured := le.Uint32(b[8:])
		frames = append(frames, Frame{
			Sec: int64(le.Uint32(b)), Nsec: int64(le.Uint32(b[4:])),
			Original: int64(le.Uint32(b[12:])), Data: string(b[16 : 16+captured]),
		}.canonical())
		b = b[16+captured:]
	}
	return frames, true
}
