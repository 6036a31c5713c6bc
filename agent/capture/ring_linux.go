package capture

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ring hands over the packets of one or more sockets. It belongs to the
// goroutine that runs the capture.
type ring interface {
	// drain delivers what is ready, but no more than the ring holds. It
	// reports whether there may be more.
	drain(d *delivery) (more bool)

	// filling reports whether the kernel holds packets back in order to hand
	// over more at a time.
	filling() bool
}

// delivery is where packets go. Owned by the goroutine that runs the capture.
type delivery struct {
	form
	sink    Sink
	losing  func() // drops have been, just before the packet at hand
	packets uint64 // delivered so far
}

// take delivers a packet that has to be put together first.
func (d *delivery) take(sec, nsec uint32, s slot) {
	data, original := d.whole(s)
	d.give(sec, nsec, original, data)
}

// give delivers a packet that is whole.
func (d *delivery) give(sec, nsec, original uint32, data []byte) {
	if len(data) > d.snaplen {
		data = data[:d.snaplen]
	}
	d.packets++
	if len(data) == 0 {
		d.sink.Empty()
		return
	}
	d.sink.Packet(sec, nsec, original, data)
}

// blockTimeout is after how long the kernel hands over a block that is not
// full. The kernel's timer may be as coarse as 4 ms, and 5 would then be 8.
const blockTimeout = 4 * time.Millisecond

// Sizes of a blockRing, in bytes. Each block that is handed over wakes us, so
// blocks are large; nothing else is gained by that.
const (
	defaultBuffer = 16 << 20
	largestBlock  = 1 << 20
	blockOverhead = 512 // headers of the block and of one packet, with room to spare
)

// blockRing is a TPACKET_V3 ring. The kernel packs packets of any size into
// blocks and hands over whole blocks, which costs one wake-up for thousands.
type blockRing struct {
	socket    *packetSocket
	blockSize int
	blocks    int
	next      int // the block that the kernel hands over next
}

// newBlockRing makes a ring of about so many bytes, in which a packet of the
// given size fits whole.
func newBlockRing(s *packetSocket, buffer, largest int) (*blockRing, error) {
	r := &blockRing{socket: s, blockSize: largestBlock}
	for r.blockSize/2 >= max(largest+blockOverhead, unix.Getpagesize()) && r.blockSize*4 > buffer {
		r.blockSize /= 2
	}
	var err error
	r.blocks, err = s.mapRing(r.blockSize, max(2, buffer/r.blockSize), func(blocks int) error {
		return unix.SetsockoptTpacketReq3(s.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
			Block_size: uint32(r.blockSize), Block_nr: uint32(blocks),
			Frame_size: uint32(r.blockSize), Frame_nr: uint32(blocks), // packets are of any size
			Retire_blk_tov: uint32(blockTimeout.Milliseconds()),
		})
	})
	return r, err
}

// header is that of the next block; the kernel's struct begins with a version
// and an offset.
func (r *blockRing) header() *unix.TpacketHdrV1 {
	return (*unix.TpacketHdrV1)(unsafe.Pointer(&r.socket.memory[r.next*r.blockSize+8]))
}

func (r *blockRing) drain(d *delivery) (more bool) {
	for range r.blocks {
		header := r.header()
		status := atomic.LoadUint32(&header.Block_status)
		if status&unix.TP_STATUS_USER == 0 {
			return false
		}
		if status&unix.TP_STATUS_LOSING != 0 {
			d.losing()
		}
		r.deliver(d, header)
		atomic.StoreUint32(&header.Block_status, unix.TP_STATUS_KERNEL)
		r.next = (r.next + 1) % r.blocks
	}
	return true
}

func (r *blockRing) deliver(d *delivery, header *unix.TpacketHdrV1) {
	block := r.socket.memory[r.next*r.blockSize:][:r.blockSize]
	at := int(header.Offset_to_first_pkt)
	for range header.Num_pkts {
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[at]))
		if !d.cooked && h.Status&tagged == 0 { // nearly always
			d.give(h.Sec, h.Nsec, h.Len, block[at+int(h.Mac):][:h.Snaplen])
			at += int(h.Next_offset)
			continue
		}
		d.take(h.Sec, h.Nsec, slot{
			memory: block[at:], address: unix.SizeofTpacket3Hdr, packet: int(h.Mac), captured: int(h.Snaplen),
			original: h.Len, status: h.Status, tci: uint16(h.Hv1.Vlan_tci), tpid: h.Hv1.Vlan_tpid,
		})
		at += int(h.Next_offset)
	}
}

func (r *blockRing) filling() bool {
	header := r.header()
	return atomic.LoadUint32(&header.Block_status)&unix.TP_STATUS_USER == 0 && atomic.LoadUint32(&header.Num_pkts) > 0
}
