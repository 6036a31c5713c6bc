package pcap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"poip/internal/poiptest/oracle"
)

const (
	someSec  = 1700000000
	someTime = someSec*1000000 + 123456 // microseconds
)

var someData = []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5 any sixty bytes will do, if they are sixty at all")[:60]

// odd is a file that a tool or an accident might have made.
type odd struct {
	name    string
	content []byte
	oracle  oracle.Oracle
	reason  string // of a refusal, or why the oracle is not Wireshark
}

func oddClassics() []odd {
	l, d := little, someData
	n := uint32(len(d))
	one := l.record(someSec, 5, n, n, d)
	longer := l.record(someSec, 5, 90, n, d)
	modified := l.record(someSec, 5, n, n, append(make([]byte, 8), d...))
	return []odd{
		{"original shorter than captured", join(l.usual(1), l.record(someSec, 5, n, 40, d), one), oracle.Wireshark, ""},
		{"original 0", join(l.usual(1), l.record(someSec, 5, n, 0, d), one), oracle.Wireshark, ""},
		{"captured 0", join(l.usual(1), l.record(someSec, 5, 0, 60, nil), one), oracle.Wireshark, ""},
		{"version 2.0", join(l.file(magicMicro, 2, 0, 65535, 1), longer), oracle.Wireshark, ""},
		{"version 2.2", join(l.file(magicMicro, 2, 2, 65535, 1), longer), oracle.Wireshark, ""},
		{"version 2.3, lengths as in 2.2", join(l.file(magicMicro, 2, 3, 65535, 1), longer, one), oracle.Wireshark, ""},
		{"version 2.3", join(l.file(magicMicro, 2, 3, 65535, 1), l.record(someSec, 5, n, 90, d)), oracle.Wireshark, ""},
		{"version 2.5", join(l.file(magicMicro, 2, 5, 65535, 1), one), oracle.Wireshark, ""},
		{"version 3.0", join(l.file(magicMicro, 3, 0, 65535, 1), one), oracle.Wireshark, ""},
		{"version 543.0", join(l.file(magicMicro, 543, 0, 65535, 1), longer), oracle.Wireshark, ""},
		{"version 1.9", join(l.file(magicMicro, 1, 9, 65535, 1), one), oracle.Nobody, "offset 0: pcap version 1.9"},
		{"big-endian version 2.2", join(big.file(magicMicro, 2, 2, 65535, 1), big.record(someSec, 5, 90, n, d)), oracle.Wireshark, ""},
		{"modified", join(l.file(magicModified, 2, 4, 65535, 1), modified, modified), oracle.Wireshark, ""},
		{"modified, with headers of 28 bytes", join(l.file(magicModified, 2, 4, 65535, 1), patched(12), patched(12), patched(12)), oracle.Tcpdump, "Wireshark guesses it from three packets, in files only"},
		{"headers of 24 bytes under the usual magic", join(l.usual(1), patched(8), patched(8), patched(8)), oracle.Tcpdump, "likewise"},
		{"ixia", join(l.file(0x1c0001ac, 2, 4, 65535, 1), make([]byte, 4), one), oracle.Nobody, "offset 0: not a pcap or pcapng file: begins with ac 01 00 1c"},
		{"fraction of 1.5 s", join(l.file(magicNano, 2, 4, 65535, 1), l.record(someSec, 1500000000, n, n, d), one), oracle.Wireshark, ""},
		{"fraction of 4.2 s", join(l.file(magicNano, 2, 4, 65535, 1), l.record(someSec, 1<<32-1, n, n, d), one), oracle.Wireshark, ""},
		{"fraction that wraps around", join(l.usual(1), l.record(someSec, 4295000, n, n, d), one), oracle.Wireshark, ""},
		{"last second, with a fraction of 1.5 s", join(l.usual(1), one, l.record(1<<32-1, 1500000, n, n, d)), oracle.Nobody, "offset 100: time 4294967296"},
		{"FCS bits", join(l.usual(0x24000001), one), oracle.Wireshark, ""},
		{"bit 27", join(l.usual(0x08000001), one), oracle.Wireshark, ""},
		{"reserved bits", join(l.usual(0x00010001), one), oracle.Nobody, "offset 0: link type 0x00010001 has reserved bits set"},
		{"unknown link type", join(l.usual(65000), one), oracle.Nobody, ""},
		{"snaplen below captured", join(l.file(magicMicro, 2, 4, 20, 1), one, one), oracle.Wireshark, ""},
		{"262145 bytes", join(l.usual(1), one, l.record(someSec, 5, 262145, 262145, make([]byte, 262145))), oracle.Tcpdump, "Wireshark guesses another variant"},
		{"huge original", join(l.usual(1), l.record(someSec, 5, n, 1<<31-1, d)), oracle.Wireshark, ""},
		{"cut in a record header", join(l.usual(1), one, one[:7]), oracle.Wireshark, ""},
		{"cut behind a record header", join(l.usual(1), one, one[:16]), oracle.Wireshark, ""},
		{"cut in the data", join(l.usual(1), one, one[:40]), oracle.Wireshark, ""},
		{"cut in the file header", l.usual(1)[:20], oracle.Wireshark, ""},
		{"magic only", l.usual(1)[:4], oracle.Wireshark, ""},
		{"two bytes", l.usual(1)[:2], oracle.Nobody, "offset 0: no capture file: cut off after 2 of 4 bytes"},
		{"nothing", nil, oracle.Nobody, "offset 0: no capture file: cut off after 0 of 4 bytes"},
		{"text", []byte("hello, this is no capture"), oracle.Nobody, "offset 0: not a pcap or pcapng file: begins with 68 65 6c 6c"},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"), oracle.Nobody, "offset 0: compressed with gzip"},
	}
}

// patched is a record whose header has more bytes than its magic says.
func patched(more int) []byte {
	n := uint32(len(someData))
	return little.record(someSec, 5, n, n, append(make([]byte, more), someData...))
}

func oddNGs() []odd {
	l, d := little, someData
	n := uint32(len(d))
	head, one := join(l.section(0), l.iface(1, 0)), l.packet(0, someTime, d)
	two := join(head, one)
	list := []odd{
		{"version 1.1", join(l.section(1), l.iface(1, 0), one), oracle.Wireshark, ""},
		{"version 1.2", join(l.section(2), l.iface(1, 0), one), oracle.Wireshark, ""},
		{"second section of version 1.1", join(two, l.section(1), l.iface(1, 0), one), oracle.Wireshark, ""},
		{"second section of either byte order", join(two, big.section(0), big.iface(1, 0), big.packet(0, someTime, d)), oracle.Wireshark, ""},
		{"second section with a bad magic", join(two, l.block(blockSection, l.sectionBody(0x11111111, 1, 0)), l.iface(1, 0), one), oracle.Wireshark, ""},
		{"second section without interface", join(two, l.section(0), one), oracle.Wireshark, ""},
		{"same interfaces in each section", join(two, l.iface(101, 0), l.section(0), l.iface(101, 0), one, l.iface(1, 0), l.packet(1, someTime, d)), oracle.Wireshark, ""},
		{"no interface", join(l.section(0), one), oracle.Wireshark, ""},
		{"simple, no interface", join(l.section(0), l.simple(n, d)), oracle.Wireshark, ""},
		{"simple, empty", join(two, l.simple(0, nil), one), oracle.Wireshark, ""},
		{"simple, cut by the snaplen", join(l.section(0), l.iface(1, 20), l.simple(60, d[:20]), l.simple(10, d[:10])), oracle.Wireshark, ""},
		{"simple, shorter than the snaplen lets expect", join(head, l.simple(60, d[:20]), one), oracle.Wireshark, ""},
		{"obsolete", join(head, l.obsolete(0, 0xffff, someTime, n, d), l.obsolete(0, 3, someTime+1, 90, d)), oracle.Wireshark, ""},
		{"obsolete, big-endian", join(big.section(0), big.iface(1, 0), big.obsolete(0, 1, someTime, 90, d[:57])), oracle.Wireshark, ""},
		{"resolution of two bytes", join(l.section(0), l.iface(1, 0, l.option(9, 9, 9)...), one), oracle.Wireshark, ""},
		{"resolution twice", join(l.section(0), l.iface(1, 0, join(l.option(9, 9), l.option(9, 6))...), l.packet(0, someTime*1000, d)), oracle.Wireshark, ""},
		{"offset twice", join(l.section(0), l.iface(1, 0, join(l.option(14, 10, 0, 0, 0, 0, 0, 0, 0), l.option(14, 20, 0, 0, 0, 0, 0, 0, 0))...), one), oracle.Wireshark, ""},
		{"offset of four bytes", join(l.section(0), l.iface(1, 0, l.option(14, 10, 0, 0, 0)...), one), oracle.Wireshark, ""},
		{"offset, big-endian", join(big.section(0), big.iface(1, 0, big.option(14, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0)...), big.packet(0, someTime, d)), oracle.Wireshark, ""},
		{"offset to before 1970", join(l.section(0), l.iface(1, 0, l.option(14, 0, 0, 0, 0, 0, 0, 0, 0x80)...), one), oracle.Nobody, "is not between 1970 and 2106"},
		{"offset beyond all time", join(l.section(0), l.iface(1, 0, l.option(14, 0, 0, 0, 0, 0, 0, 0, 0x7f)...), one), oracle.Nobody, "is not between 1970 and 2106"},
		{"time in whole seconds beyond all time", join(l.section(0), l.iface(1, 0, l.option(9, 0)...), l.packet(0, 1<<64-1, d)), oracle.Nobody, "is not between 1970 and 2106"},
		{"resolution of 10^-20", join(l.section(0), l.iface(1, 0, l.option(9, 20)...), one), oracle.Tcpdump, "wrong in Wireshark"},
		{"resolution of 2^-64", join(l.section(0), l.iface(1, 0, l.option(9, 0xc0)...), one), oracle.Tcpdump, "wrong in Wireshark"},
		{"option behind the end of options", join(l.section(0), l.iface(1, 0, join(l.option(0), l.option(9, 9))...), one), oracle.Wireshark, ""},
		{"end of options with a value", join(l.section(0), l.iface(1, 0, join(l.option(0, 1, 2, 3, 4), l.option(9, 9))...), one), oracle.Wireshark, ""},
		{"option cut off", join(l.section(0), l.iface(1, 0, 2, 0, 40, 0, 'e', 't', 'h', '0'), one), oracle.Wireshark, ""},
		{"option of a packet cut off", join(head, l.enhanced(0, someTime, n, n, d, 1, 0, 200, 0), one), oracle.Tcpdump, "its options are not read"},
		{"option of a section cut off", join(l.section(0, 1, 0, 200, 0), l.iface(1, 0), one), oracle.Tcpdump, "its options are not read"},
		{"packet with 1.2 MB of options", join(two, l.enhanced(0, someTime, n, n, d, manyComments()...), one), oracle.Wireshark, ""},
		{"big-endian packet with 1.2 MB of options", join(big.section(0), big.iface(1, 0), big.enhanced(0, someTime, n, n, d, manyComments()...), big.packet(0, someTime, d)), oracle.Nobody, ""},
		{"original shorter than captured", join(head, l.enhanced(0, someTime, n, 40, d), one), oracle.Wireshark, ""},
		{"captured more than fits", join(two, l.enhanced(0, someTime, 100, 100, d), one), oracle.Wireshark, ""},
		{"captured one more than fits", join(two, l.enhanced(0, someTime, n+1, n+1, d), one), oracle.Wireshark, ""},
		{"captured into the options", join(two, l.enhanced(0, someTime, n+1, n+1, append(d[:60:60], 1, 2, 3, 4)), one), oracle.Wireshark, ""},
		{"262145 bytes", join(two, l.packet(0, someTime, make([]byte, 262145)), one), oracle.Wireshark, ""},
		{"interface unknown", join(two, l.packet(7, someTime, d), one), oracle.Wireshark, ""},
		{"interface unknown, obsolete", join(two, l.obsolete(1, 0, someTime, n, d), one), oracle.Wireshark, ""},
		{"lengths without padding", join(head, l.rawBlock(blockEnhanced, 89, join(l.words(0, 0, 5, 57, 57), d[:57]), 89), one), oracle.Wireshark, ""},
		{"length without padding at the beginning", join(head, l.rawBlock(blockEnhanced, 89, join(l.words(0, 0, 5, 57, 57), d[:57]), 92), one), oracle.Wireshark, ""},
		{"lengths differ", join(two, l.rawBlock(blockEnhanced, 92, join(l.words(0, 0, 5, n, n), d), 96), one), oracle.Wireshark, ""},
		{"lengths of a section differ", join(l.rawBlock(blockSection, 28, l.sectionBody(byteOrderMagic, 1, 0), 0), l.iface(1, 0), one), oracle.Wireshark, ""},
		{"lengths of an unknown block differ", join(two, l.rawBlock(0x99, 16, make([]byte, 4), 20), one), oracle.Wireshark, ""},
		{"length below the least", join(two, l.words(6, 8, 8), one), oracle.Wireshark, ""},
		{"length 0", join(two, l.words(0x99, 0, 0), one), oracle.Wireshark, ""},
		{"length 4 GiB", join(two, l.words(0x99, 1<<32-1, 0), one), oracle.Wireshark, ""},
		{"length beyond Wireshark's", join(two, l.words(0x99, maxBlock+4, 0), one), oracle.Wireshark, ""},
		{"unknown block of 20 MB", join(two, l.block(0x99, make([]byte, 20<<20)), one), oracle.Wireshark, ""},
		{"unknown block, private", join(two, l.block(0x80000099, d), one), oracle.Wireshark, ""},
		{"cut in a block header", join(two, one[:3]), oracle.Wireshark, ""},
		{"cut in a packet", join(two, one[:50]), oracle.Wireshark, ""},
		{"cut in the length at the end", join(two, one[:len(one)-2]), oracle.Wireshark, ""},
		{"cut in an unknown block", join(two, l.block(0x99, d)[:30]), oracle.Wireshark, ""},
		{"cut in the section header", l.section(0)[:20], oracle.Nobody, "offset 0: block: cut off after 20 of 28 bytes"},
		{"cut in the byte order magic", l.section(0)[:10], oracle.Nobody, "offset 0: section header: cut off after 10 of 12 bytes"},
		{"cut in the interface", join(l.section(0), l.iface(1, 0)[:18]), oracle.Wireshark, ""},
		{"short interface", join(l.section(0), l.block(blockInterface, make([]byte, 4)), one), oracle.Wireshark, ""},
		{"short section", join(l.rawBlock(blockSection, 24, l.sectionBody(byteOrderMagic, 1, 0)[:12], 24), l.iface(1, 0)), oracle.Wireshark, ""},
		{"short enhanced", join(two, l.block(blockEnhanced, make([]byte, 16)), one), oracle.Wireshark, ""},
		{"short simple", join(two, l.block(blockSimple, nil), one), oracle.Wireshark, ""},
		{"interface first", join(l.iface(1, 0), one), oracle.Nobody, "offset 0: not a pcap or pcapng file"},
		{"unknown link type", join(l.section(0), l.iface(0xfff0, 0), one), oracle.Nobody, ""},
		{"statistics of no interface", join(two, l.block(5, l.words(9, 0, 0)), one), oracle.Wireshark, ""},
		{"broken name resolution", join(two, l.block(4, []byte{1, 0, 0xff, 0, 1, 2, 3, 4}), one), oracle.Tcpdump, "it is not read"},
		{"broken secrets", join(two, l.block(10, l.words(1, 4000, 0)), one), oracle.Tcpdump, "they are not read"},
		{"short custom block", join(two, l.block(0xbad, nil), one), oracle.Tcpdump, "it is not read"},
	}
	for _, resolution := range []byte{0, 1, 3, 6, 9, 10, 0x80, 0x8a, 0x94, 0xa0, 19, 12, 0xbf} {
		o := odd{fmt.Sprintf("resolution %#02x", resolution), nil, oracle.Wireshark, ""}
		if resolution == 12 || resolution == 19 || resolution == 0xbf { // beyond 2^34 units
			o.oracle, o.reason = oracle.Tcpdump, "overflows in Wireshark"
		}
		o.content = join(l.section(0), l.iface(1, 0, l.option(9, resolution)...), l.packet(0, 1, d), l.packet(0, 1234567890, d))
		list = append(list, o)
	}
	return list
}

func manyComments() (options []byte) {
	for range 20 {
		options = append(options, little.option(1, make([]byte, 60000)...)...)
	}
	return options
}

func TestReadsOddFilesAsWiresharkDoes(t *testing.T) {
	for ending, list := range map[string][]odd{"pcap": oddClassics(), "pcapng": oddNGs()} {
		for _, o := range list {
			t.Run(ending+"/"+o.name, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "odd."+ending)
				if err := os.WriteFile(path, o.content, 0o600); err != nil {
					t.Fatal(err)
				}
				got := readOurs(o.content)
				if o.oracle != oracle.Nobody {
					check(t, got, o.oracle.Read(t, path))
				} else if !strings.Contains(got.Complaint, o.reason) || o.reason == "" && got.Complaint != "" {
					t.Errorf("complaint is %q, not %q", got.Complaint, o.reason)
				}
				if got.Complaint != "" && !strings.HasPrefix(got.Complaint, "offset ") {
					t.Errorf("complaint %q names no offset", got.Complaint)
				}
			})
		}
	}
}
