package capture

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
)

// link is an interface as it is now.
type link struct {
	index    int // 0 is all interfaces
	hardware uint16
	linkType pcap.LinkType
	up       bool
}

// linkWatch looks an interface up and tells when any interface changes. Its
// socket is kept open from the start, so that it works also when this process
// may no longer open one.
type linkWatch struct {
	name string
	fd   int // a netlink socket, non-blocking
}

func newLinkWatch(name string) (*linkWatch, error) {
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("capture on interface %q: names have 1 to %d characters", name, unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch interface %s: %w", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch interface %s: %w", name, err)
	}
	return &linkWatch{name, fd}, nil
}

// look returns the interface as it is, or unix.ENODEV if there is none.
func (w *linkWatch) look() (link, error) {
	if w.name == AnyInterface {
		return link{linkType: linkTypeOf(AnyInterface, 0), up: true}, nil
	}
	var l link
	for _, question := range []struct {
		request uint
		take    func(*unix.Ifreq)
	}{
		{unix.SIOCGIFINDEX, func(r *unix.Ifreq) { l.index = int(r.Uint32()) }},
		{unix.SIOCGIFHWADDR, func(r *unix.Ifreq) { l.hardware = r.Uint16() }},
		{unix.SIOCGIFFLAGS, func(r *unix.Ifreq) { l.up = r.Uint16()&unix.IFF_UP != 0 }},
	} {
		r, err := unix.NewIfreq(w.name)
		if err != nil {
			return l, err
		}
		if err := unix.IoctlIfreq(w.fd, question.request, r); err != nil {
			return l, lookError(w.name, err)
		}
		question.take(r)
	}
	l.linkType = linkTypeOf(w.name, l.hardware)
	return l, nil
}

func lookError(name string, err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return unix.ENODEV
	}
	return fmt.Errorf("look up interface %s: %w", name, err)
}

// drain forgets the changes that were told so far. One look afterwards sees
// them all.
func (w *linkWatch) drain() {
	var buf [4096]byte
	for {
		// A full socket buffer is an error, once, and has told enough.
		if _, err := unix.Read(w.fd, buf[:]); err != nil && err != unix.EINTR && err != unix.ENOBUFS {
			return
		}
	}
}

func (w *linkWatch) close() { unix.Close(w.fd) }
