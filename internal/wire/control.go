package wire

import (
	"encoding/binary"
	"fmt"

	"poip/internal/pcap"
)

// Bounds of the texts in control frames, in bytes.
const (
	MaxStreamLen      = 127  // sensor, a slash, capture
	MaxDescriptionLen = 1024 // of the interface
	MaxAgentLen       = 127  // the agent's version
	MaxReasonLen      = 512  // of a refusal
)

// Hello opens an epoch of a stream.
//
//	 0         2            4          8        24       32         40
//	+---------+------------+----------+--------+--------+----------+----
//	| version | link type  | snaplen  | epoch  | oldest | sent at  | …
//	+---------+------------+----------+--------+--------+----------+----
//	  … stream, interface, agent: each a 16-bit length and that many bytes
type Hello struct {
	Version   uint16 // the highest that the agent speaks; not 0
	LinkType  pcap.LinkType
	Snaplen   uint32 // longest captured length to come, 1 to pcap.MaxCaptured
	Epoch     Epoch
	Oldest    PacketNumber // the lowest number that the agent can still send
	SentAt    int64        // the sensor's clock, nanoseconds since 1970
	Stream    string       // "branch-7/eth0"; unchecked
	Interface string       // a description for people; unchecked
	Agent     string       // version of the agent; unchecked
}

// HelloAck accepts an epoch.
//
//	 0         2     4          12       16          20            24
//	+---------+-----+----------+--------+-----------+-------------+
//	| version | 0   | position | window | max batch | idle ms     |
//	+---------+-----+----------+--------+-----------+-------------+
type HelloAck struct {
	Version  uint16       // the one that both speak from here on
	Position PacketNumber // the next number that the relay wants
	Window   uint32       // bytes of frames that may be unacknowledged
	MaxBatch uint32       // largest payload of a batch frame that the relay takes
	Idle     uint32       // milliseconds of silence after which either side gives up
}

// Refusal ends the conversation: in place of a hello-ack, or at any time later.
//
//	 0      2
//	+------+------------------------------------+
//	| code | reason: a 16-bit length, then text |
//	+------+------------------------------------+
type Refusal struct {
	Code   Code
	Reason string // for people; unchecked
}

func (r Refusal) Error() string { return fmt.Sprintf("refused by relay (%s): %q", r.Code, r.Reason) }

// Gap stands in the place of packets that were lost.
//
//	 0       8       16      18  20  24         32       40
//	+-------+-------+-------+-------+----------+--------+
//	| first | count | cause | 0     | earliest | latest |
//	+-------+-------+-------+-------+----------+--------+
//
// A count of 0 means that nobody knows how many. Times bound the loss, in
// nanoseconds since 1970; 0 is unknown.
type Gap struct {
	First    PacketNumber
	Count    uint64
	Cause    Cause
	Earliest int64
	Latest   int64
}

// Next is the number after the last packet of the gap.
func (g Gap) Next() PacketNumber { return g.First + PacketNumber(g.Count) }

// Ack says that every number below Next of the current epoch is in the relay's
// care. A repeated one is a sign of life.
//
//	 0      8       9
//	+------+-------+
//	| next | ended |
//	+------+-------+
type Ack struct {
	Next  PacketNumber
	Ended bool // the answer to an end: it is in the relay's care as well
}

// Stats are the agent's counters of one stream since its epoch began.
//
//	 0         8          16     24      32        40       48
//	+---------+----------+------+-------+---------+--------+
//	| sent at | captured | lost | empty | queued  | queued |
//	|         | packets  |      |       | packets | bytes  |
//	+---------+----------+------+-------+---------+--------+
type Stats struct {
	SentAt        int64  // the sensor's clock, nanoseconds since 1970
	Captured      uint64 // packets with a number, the lost ones included
	Lost          uint64 // of these, in gaps
	Empty         uint64 // packets without captured bytes; they have no number
	QueuedPackets uint64 // held because they are not acknowledged
	QueuedBytes   uint64 // of the agent's memory that these take
}

// End closes an epoch. After it the agent may say hello again.
//
//	 0      8       9
//	+------+-------+
//	| next | final |
//	+------+-------+
type End struct {
	Next  PacketNumber // the number after the epoch's last packet
	Final bool         // the stream has ended for good, not just this epoch
}

// Append* functions append one whole frame to dst. Texts that are too long
// are cut; they come from our own side.

// AppendHello appends a hello frame.
func AppendHello(dst []byte, h Hello) []byte {
	return appendFrame(dst, TypeHello, func(b []byte) []byte {
		le := binary.LittleEndian
		b = le.AppendUint16(b, h.Version)
		b = le.AppendUint16(b, uint16(h.LinkType))
		b = le.AppendUint32(b, h.Snaplen)
		b = append(b, h.Epoch[:]...)
		b = le.AppendUint64(b, uint64(h.Oldest))
		b = le.AppendUint64(b, uint64(h.SentAt))
		b = appendText(b, h.Stream, MaxStreamLen)
		b = appendText(b, h.Interface, MaxDescriptionLen)
		return appendText(b, h.Agent, MaxAgentLen)
	})
}

// AppendHelloAck appends a hello-ack frame.
func AppendHelloAck(dst []byte, a HelloAck) []byte {
	return appendFrame(dst, TypeHelloAck, func(b []byte) []byte {
		le := binary.LittleEndian
		b = le.AppendUint16(b, a.Version)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint64(b, uint64(a.Position))
		b = le.AppendUint32(b, a.Window)
		b = le.AppendUint32(b, a.MaxBatch)
		return le.AppendUint32(b, a.Idle)
	})
}

// AppendRefusal appends a refusal frame.
func AppendRefusal(dst []byte, r Refusal) []byte {
	return appendFrame(dst, TypeRefusal, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint16(b, uint16(r.Code))
		return appendText(b, r.Reason, MaxReasonLen)
	})
}

// AppendGap appends a gap frame.
func AppendGap(dst []byte, g Gap) []byte {
	return appendFrame(dst, TypeGap, func(b []byte) []byte {
		le := binary.LittleEndian
		b = le.AppendUint64(b, uint64(g.First))
		b = le.AppendUint64(b, g.Count)
		b = le.AppendUint16(b, uint16(g.Cause))
		b = append(b, 0, 0, 0, 0, 0, 0)
		b = le.AppendUint64(b, uint64(g.Earliest))
		return le.AppendUint64(b, uint64(g.Latest))
	})
}

// AppendAck appends an ack frame.
func AppendAck(dst []byte, a Ack) []byte {
	return appendFrame(dst, TypeAck, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint64(b, uint64(a.Next))
		return appendBool(b, a.Ended)
	})
}

// AppendStats appends a statistics frame.
func AppendStats(dst []byte, s Stats) []byte {
	return appendFrame(dst, TypeStats, func(b []byte) []byte {
		le := binary.LittleEndian
		b = le.AppendUint64(b, uint64(s.SentAt))
		b = le.AppendUint64(b, s.Captured)
		b = le.AppendUint64(b, s.Lost)
		b = le.AppendUint64(b, s.Empty)
		b = le.AppendUint64(b, s.QueuedPackets)
		return le.AppendUint64(b, s.QueuedBytes)
	})
}

// AppendEnd appends an end frame.
func AppendEnd(dst []byte, e End) []byte {
	return appendFrame(dst, TypeEnd, func(b []byte) []byte {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Next))
		return appendBool(b, e.Final)
	})
}

func appendFrame(dst []byte, t Type, payload func([]byte) []byte) []byte {
	start := len(dst)
	dst = payload(appendHeader(dst, t, 0))
	binary.LittleEndian.PutUint32(dst[start+4:], uint32(len(dst)-start-FrameHeaderLen))
	return dst
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendText(b []byte, s string, most int) []byte {
	s = s[:min(len(s), most)]
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}
