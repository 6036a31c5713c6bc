package capture

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/net/bpf"

	"poip/internal/pcap"
)

// AnyInterface is the name under which all interfaces are captured at once.
const AnyInterface = "any"

// Direction says which packets an interface capture takes, as seen from this
// machine.
type Direction string

// The directions.
const (
	DirectionBoth Direction = ""
	DirectionIn   Direction = "in"
	DirectionOut  Direction = "out"
)

// Latency says how soon a packet leaves an interface capture.
type Latency string

// The latencies.
const (
	LatencyNormal Latency = "normal" // within 5 ms, cheaply
	LatencyLow    Latency = "low"    // at once, at more CPU; cuts at 69,760 bytes (only BIG TCP has more)
)

// Interface captures from a network interface of this machine, through a ring
// of memory shared with the kernel. It tells what tcpdump would: tags are put
// back, nothing comes twice, link types are libpcap's. Only Linux has it.
//
// It needs CAP_NET_RAW when Run begins, and nothing afterwards: an interface
// that goes down or vanishes is waited for, and captured again through the
// same sockets. With Prepare, it needs it only there.
//
// The fields are set before Run.
type Interface struct {
	Name        string               // of the interface, or AnyInterface
	Filter      string               // tcpdump's language; empty takes everything
	Program     []bpf.RawInstruction // instead of Filter: as from ParseProgram; for cooked packets, of tcpdump -ddd -y LINUX_SLL2
	Snaplen     uint32               // bytes to take of each packet; 0 is pcap.MaxCaptured
	Promiscuous bool                 // also take what is for other machines; AnyInterface cannot
	Direction   Direction
	Latency     Latency     // empty is LatencyNormal
	Buffer      int         // bytes of ring memory; 0 is 16 MiB; LatencyLow takes it three times
	Exclude     *Exclusions // the agent's own traffic; may be nil
	Log         *slog.Logger

	// Presence, if set, is told whether the interface is there and up: when Run
	// waits for it, and when it has come. Run's goroutine calls it, maybe with
	// nothing new.
	Presence func(here bool)

	ahead *preparation // what Prepare has made, or nil; owned by Prepare, then by Run
}

// Check reports what is wrong with the settings. It opens no sockets and needs
// no permission. The filter is compiled, for the link type that the interface
// has now; for Ethernet if there is no such interface yet.
func (i *Interface) Check(ctx context.Context) error {
	linkType, err := linkTypeNow(i.Name)
	if err != nil {
		return err
	}
	switch i.Direction {
	case DirectionBoth, DirectionIn, DirectionOut:
	default:
		return fmt.Errorf("capture on %s: direction %q is neither in nor out", i.Name, i.Direction)
	}
	switch i.Latency {
	case "", LatencyNormal, LatencyLow:
	default:
		return fmt.Errorf("capture on %s: latency %q is neither normal nor low", i.Name, i.Latency)
	}
	_, err = i.program(ctx, linkType, compileAnywhere)
	return err
}

// program is the user's part of the kernel's filter, if need be by a compiler.
func (i *Interface) program(ctx context.Context, linkType pcap.LinkType, compile compiler) ([]bpf.RawInstruction, error) {
	if len(i.Program) == 0 {
		return compile(ctx, i.Filter, i.Name, linkType, i.longest(linkType))
	}
	program := slices.Clone(i.Program)
	if err := checkProgram(program); err != nil || linkType != pcap.LinkSLL2 {
		return program, err
	}
	return program, cookProgram(program)
}

// longest is the captured length to keep to. A cooked packet is never cut
// within its header.
func (i *Interface) longest(linkType pcap.LinkType) uint32 {
	n := i.Snaplen
	if n == 0 || n > pcap.MaxCaptured {
		n = pcap.MaxCaptured
	}
	if linkType == pcap.LinkSLL2 {
		n = max(n, sll2Len+1)
	}
	return n
}
