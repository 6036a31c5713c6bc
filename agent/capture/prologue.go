package capture

import (
	"fmt"

	"golang.org/x/net/bpf"

	"poip/internal/pcap"
)

// prologue is the part of a capture's kernel filter that is ours: it rejects
// the packets that no expression of the user's shall see, and hands the others
// over to the user's program.
//
// All loads are relative to the start of the packet. The kernel's other
// offset, relative to the network header (SKF_NET_OFF), would do without
// knowledge of the link layer, but it fails on packets whose headers are not
// in one piece in memory, and a load that fails rejects the packet.
type prologue struct {
	linkType  pcap.LinkType
	direction Direction
	any       bool // all interfaces at once, lo among them
	loops     bool // the interface hands over twice what is sent on it
	minLen    uint32
	maxLen    uint32 // only packets of minLen to maxLen bytes; 0 is without limit
	exclude   []exclusion
}

// packetOutgoing is PACKET_OUTGOING of linux/if_packet.h; loopbackIndex is the
// index of lo in every network namespace.
const (
	packetOutgoing = 4
	loopbackIndex  = 1
)

var (
	accept = bpf.RetConstant{Val: pcap.MaxCaptured}
	reject = bpf.RetConstant{Val: 0}
)

// before returns the prologue and the user's program, or just a program that
// takes snaplen bytes of everything if the user has none.
func (p prologue) before(user []bpf.RawInstruction, snaplen uint32) ([]bpf.RawInstruction, error) {
	a := new(assembler)
	p.addLength(a)
	p.addDirection(a)
	if p.canExclude() && len(p.exclude) > 0 {
		newUplinkCode(a, p.linkType != pcap.LinkEthernet, p.exclude).addAll()
	}
	if user == nil {
		a.add(accept)
	}
	program := append(a.code, user...)
	limitSnaplen(program, snaplen)
	if len(program) > maxProgram {
		return nil, fmt.Errorf("filter has %d instructions, %d with the uplink's exclusion; the kernel takes %d: make it simpler", len(user), len(program), maxProgram)
	}
	return program, nil
}

// canExclude reports whether we know where the IP header is.
func (p prologue) canExclude() bool {
	return p.linkType == pcap.LinkEthernet || p.linkType == pcap.LinkRaw || p.linkType == pcap.LinkSLL2
}

func (p prologue) addLength(a *assembler) {
	if p.minLen > 0 {
		a.add(bpf.LoadExtension{Num: bpf.ExtLen}, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: p.minLen, SkipTrue: 1}, reject)
	}
	if p.maxLen > 0 {
		a.add(bpf.LoadExtension{Num: bpf.ExtLen}, bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: p.maxLen, SkipTrue: 1}, reject)
	}
}

// addDirection also sees to it that nothing is captured twice: what is sent on
// lo comes back as received.
func (p prologue) addDirection(a *assembler) {
	outgoing := bpf.JumpIf{Cond: bpf.JumpEqual, Val: packetOutgoing}
	switch {
	case p.direction == DirectionOut:
		outgoing.SkipTrue = 1
		a.add(bpf.LoadExtension{Num: bpf.ExtType}, outgoing, reject)
	case p.direction == DirectionIn || p.loops:
		outgoing.SkipFalse = 1
		a.add(bpf.LoadExtension{Num: bpf.ExtType}, outgoing, reject)
	case p.any:
		outgoing.SkipFalse = 3
		a.add(bpf.LoadExtension{Num: bpf.ExtType}, outgoing,
			bpf.LoadExtension{Num: bpf.ExtInterfaceIndex}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: loopbackIndex, SkipFalse: 1}, reject)
	}
}
