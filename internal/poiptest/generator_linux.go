package poiptest

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Where a Generator's frame holds what, in bytes. All numbers are big-endian.
//
//	0          14     34    42        50          58
//	+----------+------+-----+---------+-----------+------+
//	| Ethernet | IPv4 | UDP | counter | sent (ns) | zero |
//	+----------+------+-----+---------+-----------+------+
const (
	CounterOffset = 42
	SentOffset    = 50

	// MinGenerated is the shortest frame that has room for both.
	MinGenerated = 58
)

// A burst is one system call: a virtio_net_hdr, the headers, and the payloads
// of as many datagrams as the kernel shall cut it into (linux/virtio_net.h).
const (
	virtioHeaderLen = 10
	frameHeadersLen = 42
	maxBurst        = 32 // frames; more was slower
	maxBurstBytes   = 60000
	minBurstBytes   = 400 // shorter ones are not cut; a kernel may refuse to have that lower

	virtioNeedsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	virtioSegmentUDP    = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
)

// Generator sends UDP frames out of a veth interface, about a million a
// second. It hands many at once to the kernel as one large datagram, which the
// kernel cuts into ordinary frames before captures and the interface see them:
// twice as fast as sendmmsg or a PACKET_TX_RING. Each frame carries a counter
// and the time at which its burst was made. It belongs to one goroutine.
type Generator struct {
	fd      int
	payload int    // of one frame, in bytes
	burst   []byte // header and payloads of maxBurst frames, or fewer if they are long
	count   uint64 // frames sent
}

// NewGenerator opens the interface for frames of the given length, from
// MinGenerated to the MTU and 14. They go to nobody's address, so that only
// captures see them. It forbids the interface to take large datagrams as they
// are, which needs CAP_NET_ADMIN and a kernel of version 6.2 or later.
func NewGenerator(ifname string, length int) (*Generator, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("generate frames on %s: %w", ifname, err)
	}
	if length < MinGenerated || length > ifi.MTU+14 {
		return nil, fmt.Errorf("generate frames on %s: length %d is not within %d and the MTU plus 14, %d", ifname, length, MinGenerated, ifi.MTU+14)
	}
	if err := IP(fmt.Sprintf("link set %s gso_max_size %d", ifname, minBurstBytes)); err != nil {
		return nil, fmt.Errorf("generate frames: %w", err)
	}
	g := &Generator{payload: length - frameHeadersLen}
	g.burst = make([]byte, virtioHeaderLen+frameHeadersLen+min(maxBurst, maxBurstBytes/g.payload)*g.payload)
	g.writeHeaders()
	if g.fd, err = openSender(ifi.Index); err != nil {
		return nil, fmt.Errorf("generate frames on %s: %w", ifname, err)
	}
	return g, nil
}

func openSender(ifindex int) (int, error) {
	// Protocol 0: this socket is to receive nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: 0x0008}) // IPv4, big-endian
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set up packet socket: %w", err)
	}
	return fd, nil
}

// writeHeaders writes what is the same in every burst.
func (g *Generator) writeHeaders() {
	virtio, frame := g.burst[:virtioHeaderLen], g.burst[virtioHeaderLen:]
	virtio[0], virtio[1] = virtioNeedsChecksum, virtioSegmentUDP
	binary.NativeEndian.PutUint16(virtio[2:], frameHeadersLen)
	binary.NativeEndian.PutUint16(virtio[4:], uint16(g.payload))
	binary.NativeEndian.PutUint16(virtio[6:], 34) // where the checksum begins
	binary.NativeEndian.PutUint16(virtio[8:], 6)  // and where from there it stands

	copy(frame, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0})
	ip, udp := frame[14:], frame[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	copy(ip[12:], []byte{198, 18, 0, 1, 198, 18, 0, 2}) // RFC 2544
	udp[1], udp[3] = 9, 9                               // discard
}

// Send sends count frames, at rate frames a second; 0 is as fast as it goes.
// It returns how long it took.
func (g *Generator) Send(count uint64, rate float64) (time.Duration, error) {
	start := time.Now()
	largest := uint64((len(g.burst) - virtioHeaderLen - frameHeadersLen) / g.payload)
	for sent := uint64(0); sent < count; {
		n := min(count-sent, largest)
		if rate > 0 {
			n = min(n, awaitDue(start, sent, rate))
		}
		if frameHeadersLen+int(n)*g.payload < minBurstBytes {
			n = 1
		}
		if err := g.sendBurst(int(n)); err != nil {
			return time.Since(start), err
		}
		sent += n
	}
	return time.Since(start), nil
}

// awaitDue sleeps until at least one frame is due and tells how many are.
func awaitDue(start time.Time, sent uint64, rate float64) uint64 {
	for {
		due := uint64(time.Since(start).Seconds()*rate) + 1
		if due > sent {
			return due - sent
		}
		at := time.Duration(float64(sent) / rate * 1e9)
		time.Sleep(max(at-time.Since(start), 50*time.Microsecond))
	}
}

func (g *Generator) sendBurst(n int) error {
	frame := g.burst[virtioHeaderLen : virtioHeaderLen+frameHeadersLen+n*g.payload]
	binary.BigEndian.PutUint16(frame[16:], uint16(len(frame)-14)) // IPv4's length
	binary.BigEndian.PutUint16(frame[38:], uint16(len(frame)-34)) // UDP's
	now := uint64(time.Now().UnixNano())
	for i := range n {
		p := frame[frameHeadersLen+i*g.payload:]
		binary.BigEndian.PutUint64(p, g.count+uint64(i))
		binary.BigEndian.PutUint64(p[SentOffset-CounterOffset:], now)
	}
	for {
		_, err := unix.Write(g.fd, g.burst[:virtioHeaderLen+len(frame)])
		switch err {
		case nil:
			g.count += uint64(n)
			return nil
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS:
		default:
			return fmt.Errorf("generate frames: send: %w", err)
		}
	}
}

// Sent is how many frames were sent since NewGenerator. The next one gets this
// number as its counter.
func (g *Generator) Sent() uint64 { return g.count }

// Close frees the socket.
func (g *Generator) Close() error { return unix.Close(g.fd) }

// Stamps reads what the generator wrote into an Ethernet frame, tagged or not.
// It reports false for frames that are not the generator's.
func Stamps(frame []byte) (counter uint64, sent time.Time, ok bool) {
	for len(frame) >= MinGenerated && frame[12] == 0x81 && frame[13] == 0 {
		frame = frame[4:]
	}
	if len(frame) < MinGenerated || binary.BigEndian.Uint32(frame[26:]) != 198<<24|18<<16|1 {
		return 0, time.Time{}, false
	}
	counter = binary.BigEndian.Uint64(frame[CounterOffset:])
	return counter, time.Unix(0, int64(binary.BigEndian.Uint64(frame[SentOffset:]))), true
}
