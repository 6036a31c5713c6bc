package capture

import (
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BenchmarkDrain is our own part of a packet's cost: from the ring into a
// batch, without the kernel.
func BenchmarkDrain(b *testing.B) {
	const frame, stride, perBlock = 64, 160, 6000
	r := &blockRing{socket: &packetSocket{memory: make([]byte, 4*largestBlock)}, blockSize: largestBlock, blocks: 4}
	for k := range r.blocks {
		block := r.socket.memory[k*largestBlock:][:largestBlock]
		h := (*unix.TpacketHdrV1)(unsafe.Pointer(&block[8]))
		h.Num_pkts, h.Offset_to_first_pkt = perBlock, 48
		for p := range perBlock {
			*(*unix.Tpacket3Hdr)(unsafe.Pointer(&block[48+p*stride])) = unix.Tpacket3Hdr{
				Next_offset: stride, Snaplen: frame, Len: frame, Mac: 86, Sec: 1,
			}
		}
	}
	s := &batchSink{buf: make([]byte, 0, 64<<10)}
	d := &delivery{form: form{ethernet: true, snaplen: 262144}, sink: s}
	started := threadTime()
	for b.Loop() {
		for k := range r.blocks {
			h := (*unix.TpacketHdrV1)(unsafe.Pointer(&r.socket.memory[k*largestBlock+8]))
			atomic.StoreUint32(&h.Block_status, unix.TP_STATUS_USER)
		}
		r.drain(d)
	}
	b.ReportMetric(float64(threadTime()-started)/float64(s.packets), "cpu-ns/packet")
}
