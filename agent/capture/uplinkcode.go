package capture

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Scratch slots of the code below.
const (
	slotProtocol = 0 // shifted left by 16
	slotFromPort = 1 // or slotProtocol
	slotToPort   = 2
	slotFrom     = 4 // the last word of the source address; of IPv6 the others follow
	slotTo       = 8
)

// EtherTypes and PPP protocol numbers.
const (
	typeIPv4  = 0x0800
	typeIPv6  = 0x86dd
	typePPPoE = 0x8864
	pppIPv4   = 0x0021
	pppIPv6   = 0x0057

	tagLen       = 4
	pppoeLen     = 8    // with the PPP protocol number
	pppoeVersion = 0x11 // its first byte: version and type
)

// tagTypes introduce a VLAN tag that is still in the packet.
var tagTypes = []uint32{0x8100, 0x88a8, 0x9100}

// uplinkCode is the code that rejects TCP and UDP packets from or to one of
// the ends. Most packets leave it after a look at their addresses. Of
// fragments only first ones are known by their ports; TCP and QUIC do not
// fragment. IPv6 packets with extension headers are let through; TCP and QUIC
// have none.
type uplinkCode struct {
	*assembler
	network uint32 // where the network header begins, but for tags and PPPoE
	cooked  bool   // that is at the very beginning
	ends    []exclusion

	// Entrances for IP packets: directly behind the link header, or with X
	// bytes in between. Those of a version without ends are done.
	plain4, plain6, behind4, behind6 *label
	done                             label
}

func newUplinkCode(a *assembler, cooked bool, ends []exclusion) *uplinkCode {
	x := &uplinkCode{assembler: a, network: 14, cooked: cooked, ends: ends}
	if cooked {
		x.network = 0
	}
	x.plain4, x.behind4, x.plain6, x.behind6 = &x.done, &x.done, &x.done, &x.done
	if x.has(net4) {
		x.plain4, x.behind4 = new(label), new(label)
	}
	if x.has(net6) {
		x.plain6, x.behind6 = new(label), new(label)
	}
	return x
}

// ipVersion is what the code has to know of a version of IP: sizes and places
// in its header, in bytes.
type ipVersion struct {
	address  int // size of an address
	header   uint32
	from, to uint32 // addresses
	protocol uint32
}

var (
	net4 = ipVersion{address: 4, header: 20, from: 12, to: 16, protocol: 9}
	net6 = ipVersion{address: 16, header: 40, from: 8, to: 24, protocol: 6}
)

func (v ipVersion) owns(e exclusion) bool { return e.end.Addr().BitLen()/8 == v.address }

func (x *uplinkCode) has(v ipVersion) bool {
	for _, e := range x.ends {
		if v.owns(e) {
			return true
		}
	}
	return false
}

// addAll appends the whole code, which ends where the user's program begins.
func (x *uplinkCode) addAll() {
	x.addDispatch()
	if x.has(net4) {
		x.addVersion(net4, x.plain4, x.behind4)
	}
	if x.has(net6) {
		x.addVersion(net6, x.plain6, x.behind6)
	}
	x.place(&x.done)
	x.add(bpf.LoadConstant{Dst: bpf.RegA}, bpf.LoadConstant{Dst: bpf.RegX}) // as the kernel starts programs
}

// load loads size bytes at an offset into the network header.
func (x *uplinkCode) load(offset uint32, size int) {
	x.add(bpf.LoadAbsolute{Off: x.network + offset, Size: size})
}

// loadX does so X bytes further on.
func (x *uplinkCode) loadX(offset uint32, size int) {
	x.add(bpf.LoadIndirect{Off: x.network + offset, Size: size})
}

func (x *uplinkCode) setX(n uint32) { x.add(bpf.LoadConstant{Dst: bpf.RegX, Val: n}) }

// need leaves if the packet has fewer than n bytes from its network header on.
// To load what is not there would reject the packet.
func (x *uplinkCode) need(n uint32) {
	x.add(bpf.LoadExtension{Num: bpf.ExtLen})
	x.when(bpf.JumpLessThan, x.network+n, &x.done)
}

// needX does so with X bytes more, where X is below 2³¹.
func (x *uplinkCode) needX(n uint32) {
	x.add(bpf.LoadExtension{Num: bpf.ExtLen}, bpf.ALUOpX{Op: bpf.ALUOpSub})
	x.when(bpf.JumpGreaterOrEqual, 1<<31, &x.done) // below zero
	x.when(bpf.JumpLessThan, x.network+n, &x.done)
}

// addDispatch finds the IP header.
func (x *uplinkCode) addDispatch() {
	var tagged, pppoe label
	x.setX(0)
	x.addFirstType(&pppoe)
	x.whenTag(&tagged)
	x.when(bpf.JumpEqual, typePPPoE, &pppoe)
	x.jump(&x.done)

	x.place(&tagged)
	x.addTags()

	x.place(&pppoe)
	x.addPPPoE(0)
}

func (x *uplinkCode) whenTag(to *label) {
	for _, tag := range tagTypes {
		x.when(bpf.JumpEqual, tag, to)
	}
}

// addFirstType loads the packet's type into A and goes on with plain IP.
func (x *uplinkCode) addFirstType(pppoe *label) {
	if x.cooked {
		x.addCookedType(pppoe)
	} else {
		x.need(0)
		x.add(bpf.LoadAbsolute{Off: 12, Size: 2})
	}
	x.when(bpf.JumpEqual, typeIPv4, x.plain4)
	x.when(bpf.JumpEqual, typeIPv6, x.plain6)
}

// addCookedType has the type from the kernel. Tagged packets that are sent are
// a case of their own: they begin behind their tags already, and only their
// first byte tells what they are.
func (x *uplinkCode) addCookedType(pppoe *label) {
	var tag, other label
	x.add(bpf.LoadExtension{Num: bpf.ExtProto})
	x.whenTag(&tag)
	x.jump(&other)

	x.place(&tag)
	x.add(bpf.LoadExtension{Num: bpf.ExtType})
	x.unless(bpf.JumpEqual, packetOutgoing, &other)
	x.need(1)
	x.load(0, 1)
	x.when(bpf.JumpEqual, pppoeVersion, pppoe)
	x.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4})
	x.when(bpf.JumpEqual, 4, x.plain4)
	x.when(bpf.JumpEqual, 6, x.plain6)
	x.jump(&x.done)

	x.place(&other)
	x.add(bpf.LoadExtension{Num: bpf.ExtProto})
}

// addTags looks behind one tag or two: each is two bytes and the type of what
// follows.
func (x *uplinkCode) addTags() {
	var second, pppoe label
	x.addTag(1)
	x.when(bpf.JumpEqual, typePPPoE, &pppoe)
	x.whenTag(&second)
	x.jump(&x.done)

	x.place(&second)
	x.addTag(2)
	x.jump(&x.done)

	x.place(&pppoe)
	x.addPPPoE(tagLen)
}

// addTag loads the type behind the nth tag and goes on with IP.
func (x *uplinkCode) addTag(n uint32) {
	x.need(n * tagLen)
	x.load(n*tagLen-2, 2)
	x.setX(n * tagLen)
	x.when(bpf.JumpEqual, typeIPv4, x.behind4)
	x.when(bpf.JumpEqual, typeIPv6, x.behind6)
}

// addPPPoE looks into a PPPoE session, in which many a branch has its uplink.
func (x *uplinkCode) addPPPoE(at uint32) {
	x.need(at + pppoeLen)
	x.load(at+pppoeLen-2, 2)
	x.setX(at + pppoeLen)
	x.when(bpf.JumpEqual, pppIPv4, x.behind4)
	x.when(bpf.JumpEqual, pppIPv6, x.behind6)
	x.jump(&x.done)
}

// addVersion is the code for one version of IP.
func (x *uplinkCode) addVersion(v ipVersion, plain, behind *label) {
	var common, hit label
	lastWord := uint32(v.address - 4)
	x.place(plain)
	x.need(v.header + 4)
	x.keep(x.load, v.from+lastWord, slotFrom)
	x.keep(x.load, v.to+lastWord, slotTo)
	x.jump(&common)

	x.place(behind)
	x.needX(v.header + 4)
	x.keep(x.loadX, v.from+lastWord, slotFrom)
	x.keep(x.loadX, v.to+lastWord, slotTo)

	x.place(&common)
	x.addPreselection(v, &hit)
	x.place(&hit)
	for word := range v.address/4 - 1 {
		x.keep(x.loadX, v.from+uint32(4*word), slotFrom+1+word)
		x.keep(x.loadX, v.to+uint32(4*word), slotTo+1+word)
	}
	x.addTransport(v)
	x.addDecision(v)
}

// keep loads a word and stores it in a scratch slot.
func (x *uplinkCode) keep(load func(uint32, int), offset uint32, slot int) {
	load(offset, 4)
	x.store(slot)
}

func (x *uplinkCode) store(slot int) { x.add(bpf.StoreScratch{Src: bpf.RegA, N: slot}) }

// addPreselection leaves unless an address ends like one of an end.
func (x *uplinkCode) addPreselection(v ipVersion, hit *label) {
	for _, slot := range []int{slotFrom, slotTo} {
		x.add(bpf.LoadScratch{Dst: bpf.RegA, N: slot})
		seen := map[uint32]bool{}
		for _, e := range x.ends {
			if last := addressWords(e.end.Addr())[0]; v.owns(e) && !seen[last] {
				seen[last] = true
				x.when(bpf.JumpEqual, last, hit)
			}
		}
	}
	x.jump(&x.done)
}

// addTransport leaves unless this is TCP or UDP with ports, and stores them.
func (x *uplinkCode) addTransport(v ipVersion) {
	var known label
	x.loadX(v.protocol, 1)
	x.when(bpf.JumpEqual, 6, &known)
	x.unless(bpf.JumpEqual, 17, &x.done)
	x.place(&known)
	x.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 16})
	x.store(slotProtocol)
	if v == net4 {
		x.loadX(6, 2)
		x.when(bpf.JumpBitsSet, 0x1fff, &x.done) // a later fragment
		x.loadX(0, 1)
		x.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 15}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2})
	} else {
		x.add(bpf.LoadConstant{Dst: bpf.RegA, Val: v.header})
	}
	x.add(bpf.ALUOpX{Op: bpf.ALUOpAdd}, bpf.TAX{})
	x.addPorts()
}

// addPorts stores both ports, each with the protocol above it. X leads to the
// transport header.
func (x *uplinkCode) addPorts() {
	x.needX(4)
	x.loadX(2, 2)
	x.store(slotToPort)
	x.loadX(0, 2)
	x.add(bpf.LoadScratch{Dst: bpf.RegX, N: slotProtocol}, bpf.ALUOpX{Op: bpf.ALUOpOr})
	x.store(slotFromPort)
	x.add(bpf.LoadScratch{Dst: bpf.RegA, N: slotToPort}, bpf.ALUOpX{Op: bpf.ALUOpOr})
	x.store(slotToPort)
}

// addDecision rejects what is from or to one of the ends.
func (x *uplinkCode) addDecision(v ipVersion) {
	for _, e := range x.ends {
		if v.owns(e) {
			x.addEnd(e, slotFrom, slotFromPort)
			x.addEnd(e, slotTo, slotToPort)
		}
	}
	x.jump(&x.done)
}

func (x *uplinkCode) addEnd(e exclusion, addressSlot, portSlot int) {
	var other label
	for i, word := range addressWords(e.end.Addr()) {
		x.add(bpf.LoadScratch{Dst: bpf.RegA, N: addressSlot + i})
		x.unless(bpf.JumpEqual, word, &other)
	}
	x.add(bpf.LoadScratch{Dst: bpf.RegA, N: portSlot})
	x.unless(bpf.JumpEqual, uint32(e.protocol)<<16|uint32(e.end.Port()), &other)
	x.add(reject)
	x.place(&other)
}

// addressWords cuts an address into words of 32 bits, as the scratch slots have
// them: the last one first, then the others in order.
func addressWords(addr netip.Addr) []uint32 {
	b := addr.AsSlice()
	last := len(b) - 4
	words := []uint32{binary.BigEndian.Uint32(b[last:])}
	for at := 0; at < last; at += 4 {
		words = append(words, binary.BigEndian.Uint32(b[at:]))
	}
	return words
}
