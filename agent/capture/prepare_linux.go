package capture

import (
	"context"
	"errors"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// Prepare does beforehand all that Run would need CAP_NET_RAW for, so that the
// process may give that up: it opens the sockets, whatever the interface may
// turn out to be, and has the filter compiled while tcpdump may open the
// interface as well. After it Run may be called any number of times, until its
// context ends, and never opens another socket.
func (i *Interface) Prepare(ctx context.Context) error {
	a := &preparation{programs: map[pcap.LinkType][]bpf.RawInstruction{}}
	for _, cooked := range []bool{false, true} {
		for range mostLanes {
			fd, err := packetFD(cooked)
			if err != nil {
				a.close()
				return err
			}
			a.set(cooked).fds = append(a.set(cooked).fds, fd)
		}
	}
	if err := a.compile(ctx, i); err != nil {
		a.close()
		return err
	}
	i.ahead = a
	return nil
}

// mostLanes is how many sockets a capture has at most.
const mostLanes = 2

// preparation is what an Interface has from its Prepare. It belongs to the
// goroutine that runs the capture.
type preparation struct {
	programs map[pcap.LinkType][]bpf.RawInstruction
	whole    laneSet // for whole packets
	cooked   laneSet
}

// laneSet is the sockets of one kind: before their first use as descriptors,
// between two uses with the ring that they have by then, since the kernel does
// not take that back from them.
type laneSet struct {
	fds   []int
	lanes []packetLane
	ring  ring
}

func (a *preparation) set(cooked bool) *laneSet {
	if cooked {
		return &a.cooked
	}
	return &a.whole
}

// compile makes the program for the link type that the interface has, or for
// Ethernet where there is no interface yet. What is wrong with it for a link
// type that is only guessed shows when the interface comes.
func (a *preparation) compile(ctx context.Context, i *Interface) error {
	watch, err := newLinkWatch(i.Name)
	if err != nil {
		return err
	}
	defer watch.close()
	l, err := watch.look()
	absent := errors.Is(err, unix.ENODEV)
	if absent {
		l.linkType, err = pcap.LinkEthernet, nil
	}
	if err != nil {
		return err
	}
	program, err := i.program(ctx, l.linkType, Compile)
	if err == nil {
		a.programs[l.linkType] = program
	}
	if absent && ctx.Err() == nil {
		return nil
	}
	return err
}

// filter is the user's program for a link type: the one that was prepared, or
// what can be compiled without permission.
func (i *Interface) filter(ctx context.Context, linkType pcap.LinkType) ([]bpf.RawInstruction, error) {
	if i.ahead != nil {
		if program, ok := i.ahead.programs[linkType]; ok {
			return program, nil
		}
	}
	return i.program(ctx, linkType, Compile)
}

// descriptor is a new packet socket, or one that was prepared.
func (i *Interface) descriptor(cooked bool) (int, error) {
	if i.ahead != nil {
		set := i.ahead.set(cooked)
		if n := len(set.fds); n > 0 {
			fd := set.fds[n-1]
			set.fds = set.fds[:n-1]
			return fd, nil
		}
	}
	return packetFD(cooked)
}

// resume gives a tap the lanes of the one before, if there are any. What came
// to them since is forgotten: it belongs to neither.
func (i *Interface) resume(t *tap) bool {
	if i.ahead == nil || i.ahead.set(t.cooked).ring == nil {
		return false
	}
	set := i.ahead.set(t.cooked)
	t.lanes, t.ring = set.lanes, set.ring
	set.lanes, set.ring = nil, nil
	past := delivery{form: t.form, sink: nowhere{}, losing: func() {}}
	for t.ring.drain(&past) {
	}
	for _, lane := range t.lanes {
		_, _ = lane.drops()
	}
	return true
}

// keep takes the lanes of a tap that has ended for the next one.
func (i *Interface) keep(t *tap) bool {
	if i.ahead == nil {
		return false
	}
	set := i.ahead.set(t.cooked)
	if t.ring == nil { // it was never made
		for _, lane := range t.lanes {
			if lane.memory != nil {
				lane.close()
				continue
			}
			set.fds = append(set.fds, lane.fd)
		}
		return true
	}
	for _, lane := range t.lanes {
		_ = lane.attach(rejectAll)
	}
	time.Sleep(2 * blockTimeout) // until the kernel has handed over the last block
	set.lanes, set.ring = t.lanes, t.ring
	return true
}

// release closes what is prepared, as the capture ends for good.
func (i *Interface) release() {
	if i.ahead != nil {
		i.ahead.close()
		i.ahead = nil
	}
}

func (a *preparation) close() {
	for _, set := range []*laneSet{&a.whole, &a.cooked} {
		for _, fd := range set.fds {
			unix.Close(fd)
		}
		for _, lane := range set.lanes {
			lane.close()
		}
	}
}

// nowhere takes what nobody wants.
type nowhere struct{}

func (nowhere) Packet(_, _, _ uint32, _ []byte) {}
func (nowhere) Lost(uint64, wire.Cause)         {}
func (nowhere) Empty()                          {}
func (nowhere) Flush()                          {}
