package capture

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Reserved bytes in front of each packet in the ring: for a VLAN tag, or a
// cooked header and a tag, of which the kernel leaves 16 bytes anyway.
const (
	reserveTag    = 4
	reserveCooked = 8
)

// packetSocket is an AF_PACKET socket and the ring through which it hands
// packets over. It receives nothing before bind, so a filter attached until
// then is in force from the first packet on.
type packetSocket struct {
	fd     int
	memory []byte // the ring, shared with the kernel
}

// packetFD opens a socket for whole packets, or for cooked ones that begin with
// the network header. This is what takes CAP_NET_RAW, and nothing after it does.
func packetFD(cooked bool) (int, error) {
	kind := unix.SOCK_RAW
	if cooked {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, openError(err)
	}
	return fd, nil
}

// openPacketSocket makes ready the socket that descriptor opens.
func openPacketSocket(descriptor func(cooked bool) (int, error), cooked bool, version int) (*packetSocket, error) {
	reserve := reserveTag
	if cooked {
		reserve = reserveCooked
	}
	fd, err := descriptor(cooked)
	if err != nil {
		return nil, err
	}
	s := &packetSocket{fd: fd}
	if err = s.set(unix.PACKET_VERSION, version); err == nil {
		err = s.set(unix.PACKET_RESERVE, reserve)
	}
	// Have packets stamped as they arrive, and not only as they come to a
	// socket: then all captures agree, ours, its lanes and tcpdump's.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *packetSocket) set(option, value int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, option, value); err != nil {
		return fmt.Errorf("set packet socket option %d to %d: %w", option, value, err)
	}
	return nil
}

// ignoreOutgoing spares the kernel the work for packets that the filter would
// reject. Before Linux 4.20 it has to do it.
func (s *packetSocket) ignoreOutgoing() { _ = s.set(unix.PACKET_IGNORE_OUTGOING, 1) }

// mapRing makes a ring of blocks, half as many as long as the kernel has no
// memory for them; make asks it for so many.
func (s *packetSocket) mapRing(blockSize, blocks int, make func(blocks int) error) (got int, err error) {
	for ; ; blocks /= 2 {
		if err = make(blocks); err == nil || !errors.Is(err, unix.ENOMEM) || blocks <= 2 {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("make a capture ring of %d blocks of %d bytes: %w", blocks, blockSize, err)
	}
	s.memory, err = unix.Mmap(s.fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map the capture ring: %w", err)
	}
	return blocks, nil
}

// attach puts a filter in force, in place of the one before.
func (s *packetSocket) attach(program []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("attach filter of %d instructions: %w: raise net.core.optmem_max by sysctl, or make the filter simpler", len(program), err)
	}
	if err != nil {
		return fmt.Errorf("attach filter of %d instructions: %w", len(program), err)
	}
	return nil
}

// bind begins reception from an interface, in promiscuous mode if so wanted;
// index 0 is all interfaces.
func (s *packetSocket) bind(index int, promiscuous bool) error {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // big-endian on every machine
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	if !promiscuous || index == 0 {
		return nil
	}
	member := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member); err != nil {
		return fmt.Errorf("enter promiscuous mode: %w", err)
	}
	return nil
}

// boundTo is the index of the interface that the socket is bound to, or -1 if
// it is not or if the interface is no more.
func (s *packetSocket) boundTo() int {
	name, err := unix.Getsockname(s.fd)
	address, ok := name.(*unix.SockaddrLinklayer)
	if err != nil || !ok || address.Protocol == 0 {
		return -1
	}
	return address.Ifindex
}

// drops is how many packets that passed the filter found no room in the ring
// since it was asked last. (The kernel's count of packets, beside it, has
// these among them.)
func (s *packetSocket) drops() (uint64, error) {
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read capture statistics: %w", err)
	}
	return uint64(stats.Drops), nil
}

// failure takes the error that the kernel has noted for the socket, if any.
func (s *packetSocket) failure() error {
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// close is for when nobody reads the ring any more.
func (s *packetSocket) close() {
	if s.memory != nil {
		unix.Munmap(s.memory)
	}
	unix.Close(s.fd)
}
