package capture

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Interfaces lists the interfaces that can be captured from, AnyInterface last.
func Interfaces() ([]InterfaceState, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var states []InterfaceState
	for _, i := range all {
		s, err := interfaceState(i)
		if errors.Is(err, unix.ENODEV) { // it has just gone
			continue
		}
		if err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return append(states, InterfaceState{
		Name: AnyInterface, LinkType: linkTypeOf(AnyInterface, 0), Up: true, Running: true,
	}), nil
}

func interfaceState(i net.Interface) (InterfaceState, error) {
	watch, err := newLinkWatch(i.Name)
	if err != nil {
		return InterfaceState{}, err
	}
	defer watch.close()
	l, err := watch.look()
	if err != nil {
		return InterfaceState{}, err
	}
	return InterfaceState{
		Name: i.Name, Index: i.Index, LinkType: l.linkType, MTU: i.MTU,
		Up: l.up, Running: i.Flags&net.FlagRunning != 0,
	}, nil
}
