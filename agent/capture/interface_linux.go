package capture

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"poip/internal/pcap"
)

// Run captures until ctx ends. It waits for an interface that is not there
// yet, goes down or vanishes. It returns an error when the interface comes back
// with another link type.
func (i *Interface) Run(ctx context.Context, open func(Info) Sink) error {
	if i.ahead == nil {
		if err := Permitted(); err != nil {
			return err // at once, and in better words than tcpdump's
		}
	}
	defer func() {
		if ctx.Err() != nil {
			i.release()
		}
	}()
	watch, err := newLinkWatch(i.Name)
	if err != nil {
		return err
	}
	defer watch.close()
	waker, err := newWaker(ctx)
	if err != nil {
		return err
	}
	defer waker.release()
	n := &presence{log: i.Log.With("interface", i.Name), tell: i.Presence}
	l, err := n.await(ctx, watch, waker)
	if err != nil {
		return err
	}
	t, err := i.open(ctx, l)
	if err != nil {
		return err
	}
	defer t.close()
	t.watch, t.waker, t.presence = watch, waker, n
	return t.run(ctx, open)
}

// open makes the sockets and rings for an interface, filters in force, but not
// bound yet.
func (i *Interface) open(ctx context.Context, l link) (*tap, error) {
	program, err := i.filter(ctx, l.linkType)
	if err != nil {
		return nil, err
	}
	t := &tap{spec: i, linkType: l.linkType}
	t.form = formOf(l.linkType, i.longest(l.linkType))
	t.losing = t.countDrops
	if !i.resume(t) {
		if err := t.openRing(); err != nil {
			t.ring = nil
			t.close()
			return nil, err
		}
	}
	if t.leave, err = i.Exclude.enter(func(ends []exclusion) error { return t.attach(program, l, ends) }); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// tap is a running capture of an interface. It belongs to the goroutine that
// runs it, but for the sockets' filters, which Exclusions replace.
type tap struct {
	spec     *Interface
	linkType pcap.LinkType
	watch    *linkWatch
	waker    *waker
	presence *presence
	bound    bool // to an interface, at some time

	lanes []packetLane // one socket, or two that share the packets by length
	ring  ring
	leave func() // the Exclusions

	delivery // where packets go
	countedN uint64
	counted  time.Time // drops were last asked for then, when countedN packets had been delivered
	pausedN  uint64
	paused   time.Time // likewise for the last pause
}

// packetLane is a socket and the lengths of the packets that it takes.
type packetLane struct {
	*packetSocket
	minLen, maxLen uint32 // as in prologue
}

func (t *tap) openRing() error {
	buffer := t.spec.Buffer
	if buffer == 0 {
		buffer = defaultBuffer
	}
	if t.spec.Latency == LatencyLow {
		return t.openLanes(buffer)
	}
	s, err := t.openLane(unix.TPACKET_V3, 0, 0)
	if err != nil {
		return err
	}
	t.ring, err = newBlockRing(s, buffer, t.snaplen)
	return err
}

func (t *tap) openLane(version int, minLen, maxLen uint32) (*packetSocket, error) {
	s, err := openPacketSocket(t.spec.descriptor, t.cooked, version)
	if err != nil {
		return nil, err
	}
	if t.spec.Direction == DirectionIn {
		s.ignoreOutgoing()
	}
	t.lanes = append(t.lanes, packetLane{s, minLen, maxLen})
	return s, nil
}

// openLanes makes one lane if every packet is cut to a small one, else two.
func (t *tap) openLanes(buffer int) error {
	maxLen := uint32(smallPacket)
	if t.snaplen <= smallPacket {
		maxLen = 0
	}
	small, err := t.openLane(unix.TPACKET_V2, 0, maxLen)
	if err != nil {
		return err
	}
	r := new(laneRing)
	t.ring = r
	if r.small, err = newLane(small, 2*buffer, smallSlot); err != nil || maxLen == 0 {
		return err
	}
	large, err := t.openLane(unix.TPACKET_V2, maxLen+1, 0)
	if err != nil {
		return err
	}
	r.large, err = newLane(large, buffer, largeSlot)
	return err
}

// attach puts the whole filter in force on all lanes.
func (t *tap) attach(user []bpf.RawInstruction, l link, ends []exclusion) error {
	p := prologue{
		linkType: l.linkType, direction: t.spec.Direction, exclude: ends,
		any: l.index == 0, loops: loopsBack(l.hardware),
	}
	for _, lane := range t.lanes {
		p.minLen, p.maxLen = lane.minLen, lane.maxLen
		program, err := p.before(user, uint32(t.snaplen))
		if err != nil {
			return err
		}
		if err := lane.attach(program); err != nil {
			return fmt.Errorf("capture on %s: %w", t.spec.Name, err)
		}
	}
	return nil
}

func (t *tap) close() {
	if t.leave != nil {
		t.leave()
	}
	if t.spec.keep(t) {
		return
	}
	for _, lane := range t.lanes {
		lane.close()
	}
}
