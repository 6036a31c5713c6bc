package poiptest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// LossyConfig says how bad a LossyLink is. Both directions are equally bad,
// each with a queue of its own.
type LossyConfig struct {
	Bandwidth int64         // bits a second; 0 is without limit
	RTT       time.Duration // half of it passes in each direction
	Loss      float64       // probability that a packet is lost, 0 to 1, each way
	Reorder   float64       // probability that a packet is held back by an eighth of RTT
	Queue     int           // bytes that may wait for bandwidth before tail drop; 0 is Bandwidth × RTT
	Seed      uint64        // of the dice; the same seed loses the same packets
}

// Direction names a way across a LossyLink.
type Direction int

// The two ways.
const (
	ToFar  Direction = 0
	ToNear Direction = 1
)

// LossyStats counts what became of the packets of one direction.
type LossyStats struct {
	Delivered uint64
	Lost      uint64 // by the dice, or because the way was down
	Dropped   uint64 // because the queue was full
}

// LossyLink is a bad network between two addresses of this machine: two TUN
// devices in the network namespace of the caller, and this process between
// them. Whoever listens on Far is reached, through the link, by dialing
// DialFar, and sees the peer as DialNear; no second namespace is needed. The
// caller must be in a namespace of its own and hold CAP_NET_ADMIN there.
//
//	near device             this process              far device
//	Near (source) ──────> delay, loss, rate ──────> Far (listens)
//	to DialFar             addresses swapped         from DialNear
type LossyLink struct {
	Near, DialFar netip.Addr // set once: what the near side is and dials
	Far, DialNear netip.Addr // set once: what the far side is and dials

	NearDevice, FarDevice string // set once: names of the TUN devices

	devices [2]*os.File // set once: near, far
	ways    [2]*lossyWay
	running sync.WaitGroup
}

// links numbers the links of this process, so that addresses are unique.
var links atomic.Uint32

// NewLossyLink makes a link and starts it. The addresses are of 198.18.0.0/15,
// which RFC 2544 sets aside for measurements.
func NewLossyLink(cfg LossyConfig) (*LossyLink, error) {
	k := byte(links.Add(1))
	l := &LossyLink{
		Near: netip.AddrFrom4([4]byte{198, 18, k, 1}), DialFar: netip.AddrFrom4([4]byte{198, 19, k, 2}),
		Far: netip.AddrFrom4([4]byte{198, 19, k, 1}), DialNear: netip.AddrFrom4([4]byte{198, 18, k, 2}),
		NearDevice: fmt.Sprintf("near%d", k), FarDevice: fmt.Sprintf("far%d", k),
	}
	if err := l.openDevices(); err != nil {
		l.closeDevices()
		return nil, err
	}
	l.ways[ToFar] = newLossyWay(l.devices[0], l.devices[1], cfg)
	cfg.Seed++
	l.ways[ToNear] = newLossyWay(l.devices[1], l.devices[0], cfg)
	for _, w := range l.ways {
		l.running.Go(w.read)
		l.running.Go(w.write)
	}
	return l, nil
}

// SetLoss changes the probability of loss, both ways.
func (l *LossyLink) SetLoss(p float64) {
	for _, w := range l.ways {
		w.loss.Store(chance(p))
	}
}

// SetReorder changes the probability that a packet is held back, both ways.
func (l *LossyLink) SetReorder(p float64) {
	for _, w := range l.ways {
		w.reorder.Store(chance(p))
	}
}

// SetDown cuts the link or mends it. Nobody is told: packets vanish.
func (l *LossyLink) SetDown(down bool) {
	l.SetOneWay(ToFar, down)
	l.SetOneWay(ToNear, down)
}

// SetOneWay cuts or mends one direction only.
func (l *LossyLink) SetOneWay(d Direction, down bool) { l.ways[d].down.Store(down) }

// Stats returns what became of the packets of one direction.
func (l *LossyLink) Stats(d Direction) LossyStats { return l.ways[d].stats() }

// Close removes the devices and waits until nothing runs any more.
func (l *LossyLink) Close() error {
	err := l.closeDevices()
	for _, w := range l.ways {
		w.close()
	}
	l.running.Wait()
	return err
}

func (l *LossyLink) openDevices() (err error) {
	if l.devices[0], err = openTUN(l.NearDevice, l.Near, l.DialFar); err != nil {
		return err
	}
	l.devices[1], err = openTUN(l.FarDevice, l.Far, l.DialNear)
	return err
}

func (l *LossyLink) closeDevices() error {
	var errs []error
	for _, d := range l.devices {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

// openTUN makes a TUN device with an address of its own and a route to peer.
// It vanishes when the file is closed.
func openTUN(name string, local, peer netip.Addr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := attachTUN(fd, name); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TUN device %s (needs CAP_NET_ADMIN in a network namespace): %w", name, err)
	}
	// Only now, as a descriptor without a device cannot be polled.
	return os.NewFile(uintptr(fd), "tun "+name), configure(name, local, peer)
}

func attachTUN(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// configure gives the device its addresses, and a transmit queue long enough
// that every loss is one of ours.
func configure(name string, local, peer netip.Addr) error {
	return IP(
		fmt.Sprintf("address add %s peer %s dev %s", local, peer, name),
		fmt.Sprintf("link set %s up mtu 1500 txqueuelen 10000", name),
	)
}
