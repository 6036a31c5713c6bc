package pcap

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"poip/internal/poiptest/oracle"
)

// TestPseudoHeadersOfBigEndianFiles compares what becomes of packets that
// begin with numbers in the byte order of their machine with what Wireshark
// and tcpdump make of them, cut at every length.
func TestPseudoHeadersOfBigEndianFiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	usb := func(transfer byte, mapped bool) []byte {
		b := noise(64 + 3*16 + 5)
		b[9] = transfer
		binary.BigEndian.PutUint32(b[44:], 3) // descriptors asked for
		if mapped {
			binary.BigEndian.PutUint32(b[60:], 3) // and given
		}
		return b
	}
	cooked := func(headerLen, protocolAt int, protocol uint16) []byte {
		b := noise(headerLen + 16)
		binary.BigEndian.PutUint16(b[protocolAt:], protocol)
		return b
	}
	nflog := big.words(0x02000001) // family, version 0, resource
	for _, length := range []int{8, 5, 4, 17} {
		nflog = big.AppendUint16(nflog, uint16(length))
		nflog = big.AppendUint16(nflog, 9)
		nflog = append(nflog, pad(noise(length-4))...)
	}
	both := []oracle.Oracle{oracle.Wireshark, oracle.Tcpdump}
	cases := []struct {
		name string
		link LinkType
		data []byte
		says []oracle.Oracle // mostly both, since mostly they agree
	}{
		{"USB control", linkUSB, usb(2, false), both},
		{"USB isochronous", linkUSB, usb(0, false), []oracle.Oracle{oracle.Tcpdump}},
		{"USB mapped, control", linkUSBMapped, usb(2, true), both},
		{"USB mapped, isochronous", linkUSBMapped, usb(0, true), []oracle.Oracle{oracle.Tcpdump}},
		{"cooked CAN", LinkSLL, cooked(16, 14, 0x000c), both},
		{"cooked CAN FD", LinkSLL, cooked(16, 14, 0x000d), both},
		{"cooked IP", LinkSLL, cooked(16, 14, 0x0800), both},
		{"cooked 2 CAN", LinkSLL2, cooked(20, 0, 0x000c), []oracle.Oracle{oracle.Wireshark}},
		{"cooked 2 IP", LinkSLL2, cooked(20, 0, 0x0800), both},
		{"NFLOG", linkNFLOG, nflog, both},
		{"NFLOG of version 1", linkNFLOG, append(big.words(0x02010001), nflog[4:]...), both},
		{"NFLOG with a short attribute", linkNFLOG, append(big.words(0x02000001, 0x00020001), nflog[4:]...), both},
		{"Ethernet", LinkEthernet, noise(60), both},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			content := big.usual(uint32(c.link))
			for n := 1; n <= len(c.data); n++ {
				content = append(content, big.record(uint32(n), 0, uint32(n), uint32(len(c.data)), c.data[:n])...)
			}
			path := filepath.Join(t.TempDir(), "big.pcap")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			got := readOurs(content)
			for _, o := range c.says {
				check(t, got, o.Read(t, path))
			}
		})
	}
}
