package journal

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"poip/internal/wire"
)

// A name says which segment a file belongs to. Files are opened by names that
// were formatted here or that parsed back to the same text, and by no other.
//
//	SEQ-EPOCH-FIRST.idx      the index
//	SEQ-EPOCH-FIRST.pcap     the packets
//	SEQ-EPOCH-FIRST.G.pcap   the packets of generation G, from 1 on
//	….enc                    in place of .pcap, if the packets are encrypted
type name struct {
	seq   uint64 // of the segment in the journal, from 1 on: 16 hexadecimal digits
	epoch wire.Epoch
	first wire.PacketNumber // decimal

	encrypted bool // the packets, in all generations
}

// mostSeq leaves room for all that will ever be added.
const mostSeq = 1 << 62

// Suffixes of files.
const (
	indexSuffix     = ".idx"
	packetSuffix    = ".pcap"
	encryptedSuffix = ".enc"
	draftSuffix     = ".tmp" // behind indexSuffix: of an index that was not finished
)

// quarantine is the folder of damaged files.
const quarantine = "quarantine"

func (n name) String() string {
	return fmt.Sprintf("%016x-%x-%d", n.seq, n.epoch[:], uint64(n.first))
}

func (n name) index() string { return n.String() + indexSuffix }

func (n name) draft() string { return n.index() + draftSuffix }

func (n name) packets(generation uint32) string {
	suffix := packetSuffix
	if n.encrypted {
		suffix = encryptedSuffix
	}
	if generation == 0 {
		return n.String() + suffix
	}
	return n.String() + "." + strconv.FormatUint(uint64(generation), 10) + suffix
}

// A fileKind is what a file of a segment holds.
type fileKind int

const (
	indexFile fileKind = iota
	packetFile
	draftFile
)

// parseFileName takes the name of a file apart. It accepts what name's methods
// write and nothing else.
func parseFileName(s string) (n name, kind fileKind, generation uint32, ok bool) {
	stem, rest, found := strings.Cut(s, ".")
	if !found {
		return n, 0, 0, false
	}
	parts := strings.Split(stem, "-")
	if len(parts) != 3 || len(parts[1]) != 2*len(n.epoch) {
		return n, 0, 0, false
	}
	seq, err := strconv.ParseUint(parts[0], 16, 64)
	if err != nil || seq == 0 || seq > mostSeq {
		return n, 0, 0, false
	}
	if _, err := hex.Decode(n.epoch[:], []byte(parts[1])); err != nil {
		return n, 0, 0, false
	}
	first, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil {
		return n, 0, 0, false
	}
	n.seq, n.first = seq, wire.PacketNumber(first)
	switch "." + rest {
	case indexSuffix:
		return n, indexFile, 0, s == n.index()
	case indexSuffix + draftSuffix:
		return n, draftFile, 0, s == n.draft()
	}
	digits, found := strings.CutSuffix("."+rest, packetSuffix)
	if !found {
		digits, n.encrypted = strings.CutSuffix("."+rest, encryptedSuffix)
	}
	if found || n.encrypted {
		g := uint64(0)
		if digits != "" {
			if g, err = strconv.ParseUint(digits[1:], 10, 32); err != nil {
				return n, 0, 0, false
			}
		}
		return n, packetFile, uint32(g), s == n.packets(uint32(g))
	}
	return n, 0, 0, false
}
