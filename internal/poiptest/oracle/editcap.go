package oracle

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sectionType begins a pcapng file, and each further section.
var sectionType = []byte("\n\r\r\n")

// readWireshark reads with editcap, or with tshark what editcap cannot.
func readWireshark(tb testing.TB, path string) Reading {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if bytes.Count(content, sectionType) > 1 {
		return readTshark(tb, path)
	}
	got, ok := readEditcap(tb, path, content)
	if !ok {
		return readTshark(tb, path)
	}
	return got
}

// readEditcap reads with Wireshark's library, which is fast this way. It
// cannot cope with several sections, a file without interfaces, or resolutions
// other than 10^-9 and coarser powers of ten.
func readEditcap(tb testing.TB, path string, content []byte) (got Reading, ok bool) {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "out")
	format, split := "nsecpcap", splitRecords
	if bytes.HasPrefix(content, sectionType) {
		format, split = "pcapng", splitBlocks
	}
	var said bytes.Buffer
	cmd := exec.Command("editcap", "-F", format, path, out)
	cmd.Stderr = &said
	_ = cmd.Run() // its status tells less than what it says
	content, _ = os.ReadFile(out)
	got.Complaint = said.String()
	got.Frames, ok = split(content)
	return got, ok && !strings.Contains(got.Complaint, "can't be written")
}

// splitBlocks takes apart a pcapng file that Wireshark has written: of one
// section, little-endian, times of a power of ten, enhanced packet blocks only.
func splitBlocks(b []byte) (frames []Frame, ok bool) {
	le := binary.LittleEndian
	var units []uint64
	for len(b) >= 28 {
		length := le.Uint32(b[4:])
		switch le.Uint32(b) {
		case 1:
			units = append(units, 1e6)
			for o := b[16 : length-4]; len(o) >= 4; o = o[4+(le.Uint16(o[2:])+3)&^3:] {
				if le.Uint16(o) == 9 && o[4] > 9 {
					return nil, false
				} else if le.Uint16(o) == 9 {
					units[len(units)-1] = pow10(o[4])
				}
			}
		case 6:
			id, stamp := le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))<<32|uint64(le.Uint32(b[16:]))
			u := units[id]
			frames = append(frames, Frame{
				Interface: int(id), Sec: int64(stamp / u), Nsec: int64(stamp % u * (1e9 / u)),
				Original: int64(le.Uint32(b[24:])), Data: string(b[28 : 28+le.Uint32(b[20:])]),
			}.canonical())
		}
		b = b[length:]
	}
	return frames, true
}

func pow10(n byte) uint64 {
	v := uint64(1)
	for range n {
		v *= 10
	}
	return v
}
