package capture

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of a laneRing, in bytes.
const (
	laneBlock    = 1 << 20
	slotOverhead = 144 // headers and alignment in front of a packet, at most
	smallSlot    = 2048
	smallPacket  = smallSlot - slotOverhead // has room in a small slot
	largeSlot    = laneBlock / 15 &^ 15     // has room for 64 KiB and their headers
	largePacket  = largeSlot - slotOverhead
)

// laneRing has the kernel hand over each packet at once, for the lowest delay.
// Such a ring (TPACKET_V2) has slots of one size. Were they large enough for
// what segmentation offload makes of TCP, there would be few of them, and with
// few, packets are lost as soon as this process does not run for a moment.
// Hence two lanes: a socket for small packets with many slots, and, unless
// packets are cut short anyway, one for large packets. A filter on length
// sends every packet down just one of them. They merge by time: a packet that
// came before another one is visible at the latest when that one is, so it
// suffices to look at both lanes before taking from either.
type laneRing struct {
	small, large *lane // large may be nil
}

// lane is a ring with slots of one size.
type lane struct {
	socket   *packetSocket
	slotSize int
	perBlock int // slots in a block
	slots    int
	next     int // the slot that the kernel hands over next
}

func newLane(s *packetSocket, buffer, slotSize int) (*lane, error) {
	l := &lane{socket: s, slotSize: slotSize, perBlock: laneBlock / slotSize}
	blocks, err := s.mapRing(laneBlock, max(1, buffer/laneBlock), func(blocks int) error {
		return unix.SetsockoptTpacketReq(s.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
			Block_size: laneBlock, Block_nr: uint32(blocks),
			Frame_size: uint32(slotSize), Frame_nr: uint32(blocks * l.perBlock),
		})
	})
	l.slots = blocks * l.perBlock
	return l, err
}

// head is the header of the next packet, or nil if there is none.
func (l *lane) head() *unix.Tpacket2Hdr {
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&l.socket.memory[l.at()]))
	if atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER == 0 {
		return nil
	}
	return h
}

func (l *lane) at() int { return l.next/l.perBlock*laneBlock + l.next%l.perBlock*l.slotSize }

// deliver takes the next packet and frees its slot.
func (l *lane) deliver(d *delivery, h *unix.Tpacket2Hdr) {
	d.take(h.Sec, h.Nsec, slot{
		memory: l.socket.memory[l.at():][:l.slotSize], address: unix.SizeofTpacket2Hdr, packet: int(h.Mac), captured: int(h.Snaplen),
		original: h.Len, status: h.Status, tci: h.Vlan_tci, tpid: h.Vlan_tpid,
	})
	atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
	if l.next++; l.next == l.slots {
		l.next = 0
	}
}

func (r *laneRing) drain(d *delivery) (more bool) {
	counted := false
	for range r.small.slots {
		l, h := r.first()
		if h == nil {
			return false
		}
		// Every packet says so until the drops are counted, which takes a
		// system call.
		if h.Status&unix.TP_STATUS_LOSING != 0 && !counted {
			d.losing()
			counted = true
		}
		l.deliver(d, h)
	}
	return true
}

// first is the lane whose head comes next.
func (r *laneRing) first() (*lane, *unix.Tpacket2Hdr) {
	if r.large == nil {
		return r.small, r.small.head()
	}
	large := r.large.head()
	small := r.small.head()
	if small != nil && large == nil {
		large = r.large.head() // again, now that there is something small
	}
	if large == nil || small != nil && !later(small, large) {
		return r.small, small
	}
	return r.large, large
}

func later(a, b *unix.Tpacket2Hdr) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}

func (r *laneRing) filling() bool { return false }
