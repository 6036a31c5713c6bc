package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"regexp"
	"strings"
	"testing"

	"poip/internal/pcap"
)

var update = flag.Bool("update", false, "write the test vectors of PROTOCOL.md anew")

// vectors are the frames that PROTOCOL.md shows, by name.
func vectors() map[string][]byte {
	const at = 1700000000_000000000
	hello := Hello{
		Version: 1, LinkType: pcap.LinkEthernet, Snaplen: 262144, Oldest: 7, SentAt: at + 1,
		Stream: "branch-7/eth0", Interface: "eth0", Agent: "poip-agent 1",
	}
	for i := range hello.Epoch {
		hello.Epoch[i] = byte(i)
	}
	batch := make([]byte, BatchPrefixLen)
	batch = pcap.AppendRecord(batch, at/1e9, 1, 2, []byte{0xde, 0xad})
	batch = pcap.AppendRecord(batch, at/1e9, 2, 60, []byte{0xbe, 0xef, 0x01})
	SealBatch(batch, BatchHeader{First: 7, Count: 2, Earliest: at + 1, Latest: at + 2})
	return map[string][]byte{
		"hello":     AppendHello(nil, hello),
		"hello-ack": AppendHelloAck(nil, HelloAck{Version: 1, Position: 7, Window: 16 << 20, MaxBatch: 1 << 20, Idle: 15000}),
		"refusal":   AppendRefusal(nil, Refusal{Code: CodeFenced, Reason: "a newer session took over"}),
		"batch":     batch,
		"gap":       AppendGap(nil, Gap{First: 9, Count: 100, Cause: CauseKernelDrop, Earliest: at + 2}),
		"ack":       AppendAck(nil, Ack{Next: 109}),
		"ack-ended": AppendAck(nil, Ack{Next: 109, Ended: true}),
		"stats":     AppendStats(nil, Stats{SentAt: at + 5e9, Captured: 109, Lost: 100, Empty: 1, QueuedPackets: 2, QueuedBytes: 512}),
		"end":       AppendEnd(nil, End{Next: 109, Final: true}),

		"renew":               AppendRenew(nil, Renew{Request: []byte{0x30, 0x01, 0x00}}),
		"certificate":         AppendCertificate(nil, Certificate{Chain: [][]byte{{0x30, 0x01, 0x01}, {0x30, 0x01, 0x02}}}),
		"certificate-refused": AppendCertificate(nil, Certificate{Reason: "no key to sign with"}),
		"trust":               AppendTrust(nil, Trust{Authorities: [][]byte{{0x30, 0x01, 0x03}, {0x30, 0x01, 0x04}}}),
	}
}

var vectorBlock = regexp.MustCompile("(?s)```vector ([a-z-]+)\n(.*?)```")

func TestProtocolVectorsAreWhatTheCodeWrites(t *testing.T) {
	page, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	want := vectors()
	if *update {
		page = vectorBlock.ReplaceAllFunc(page, func(block []byte) []byte {
			name := string(vectorBlock.FindSubmatch(block)[1])
			return fmt.Appendf(nil, "```vector %s\n%s```", name, hexLines(want[name]))
		})
		if err := os.WriteFile("PROTOCOL.md", page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range vectorBlock.FindAllSubmatch(page, -1) {
		name := string(m[1])
		got, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		if err != nil {
			t.Errorf("vector %s: %v", name, err)
		}
		if !bytes.Equal(got, want[name]) {
			t.Errorf("vector %s is\n%s, the code writes\n%s", name, hexLines(got), hexLines(want[name]))
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("PROTOCOL.md has no vector %s", name)
	}
}

// hexLines shows the frame header on a line of its own, then 16 bytes a line.
func hexLines(frame []byte) string {
	var b strings.Builder
	for width := FrameHeaderLen; len(frame) > 0; width = 16 {
		width = min(width, len(frame))
		fmt.Fprintf(&b, "% x\n", frame[:width])
		frame = frame[width:]
	}
	return b.String()
}

func TestCRCIsCastagnoliOverAllButItself(t *testing.T) {
	digits := []byte("123456789")
	if sum := crc32.Checksum(digits, castagnoli); sum != 0xe3069283 {
		t.Errorf("CRC of the digits is %08x", sum)
	}
	header := make([]byte, BatchHeaderLen)
	copy(header, digits)
	sum := batchCRC(header, digits)
	header[12], header[15] = 1, 1
	if batchCRC(header, digits) != sum {
		t.Error("the CRC covers itself")
	}
	for _, i := range []int{0, 11, 16, 31} {
		header[i] ^= 0x40
		if batchCRC(header, digits) == sum {
			t.Errorf("the CRC does not cover byte %d of the header", i)
		}
		header[i] ^= 0x40
	}
}
