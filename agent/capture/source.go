// Package capture is where packets enter: from a network interface, a file,
// standard input or another program. Every kind is a Source, which pushes
// packets into a Sink for as long as it runs.
package capture

import (
	"context"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// Info describes one stream of packets that a Source has found.
type Info struct {
	// Sub tells the streams of one capture apart, where it has several: the
	// interface's number in a pcapng file ("0", "1", …). Mostly empty.
	Sub         string
	LinkType    pcap.LinkType
	Snaplen     uint32 // the longest captured length to expect, in bytes; never 0
	Description string // of the interface, for people; unchecked
}

// A Source reads packets until it ends.
type Source interface {
	// Run announces each stream by a call of open, before its first packet,
	// and fills the Sinks that it gets. It returns nil when the capture has
	// ended for good, ctx.Err() when ctx was canceled, and another error when
	// the capture broke off and may be tried anew.
	Run(ctx context.Context, open func(Info) Sink) error
}

// A Sink takes the packets of one stream. Only the goroutine that runs the
// Source calls it. Nothing is retained of what it is given.
type Sink interface {
	// Packet takes one packet. Time is since 1970, nsec below 1e9; original is
	// the length on the wire; data is what was captured of it, 1 to
	// pcap.MaxCaptured bytes. It may block while the agent's memory is full.
	Packet(sec, nsec, original uint32, data []byte)

	// Lost says that count packets went missing just here.
	Lost(count uint64, cause wire.Cause)

	// Empty counts a packet without any captured bytes, which cannot be sent.
	Empty()

	// Flush sends what was gathered. A Source calls it before it waits, so
	// that a packet is never held back for the sake of a fuller batch.
	Flush()
}

// A RecordSink takes whole records as well, from where it has room for them.
type RecordSink interface {
	Sink

	// Room is where records may be put, until any other method is called. It is
	// tens of KiB.
	Room() []byte

	// Records takes the records that the room begins with.
	Records(run pcap.Run)
}
