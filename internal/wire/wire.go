// Package wire is the language that agents and relays speak: frames on one
// byte stream per capture stream, over TLS or QUIC alike. PROTOCOL.md in this
// folder specifies it; each layout stands again, short, beside its type.
//
// A conversation is a sequence of epochs. The agent opens each with a hello,
// the relay answers with a hello-ack or a refusal, then batches, gaps and
// statistics flow one way and acks the other, until the agent's end closes
// the epoch. A new hello may follow on the same byte stream.
package wire

import (
	"errors"
	"fmt"
	"time"

	"poip/internal/pcap"
)

// Version is the protocol version that this package speaks.
const Version = 1

// Type says what a frame holds.
type Type uint8

// The frame types, and who sends them.
const (
	TypeHello    Type = 1 // agent: opens an epoch
	TypeHelloAck Type = 2 // relay: where the epoch stands
	TypeRefusal  Type = 3 // relay: no, or no longer, and why
	TypeBatch    Type = 4 // agent: packets
	TypeGap      Type = 5 // agent: packets that were lost, and why
	TypeAck      Type = 6 // relay: every number below this is in my care
	TypeStats    Type = 7 // agent: its counters; a sign of life as well
	TypeEnd      Type = 8 // agent: the epoch is over

	TypeRenew       Type = 9  // agent: its certificate is to be replaced
	TypeCertificate Type = 10 // relay: here is the new one, or why there is none
	TypeTrust       Type = 11 // relay: whom to trust from here on
)

// Bounds, all checked before anything is allocated. Sizes are in bytes.
const (
	FrameHeaderLen = 8
	BatchHeaderLen = 32 // follows the frame header

	// BatchPrefixLen is what precedes the records of a batch on the wire.
	BatchPrefixLen = FrameHeaderLen + BatchHeaderLen

	// MaxBatchLen bounds the payload of a batch frame.
	MaxBatchLen = 1 << 20

	// LeastMaxBatch is what every relay takes: one packet of any length.
	LeastMaxBatch = BatchHeaderLen + pcap.MaxRecordLen

	// MaxControlLen bounds the payload of every other frame.
	MaxControlLen = 4096
)

// Timers of both sides. A relay may choose another Idle in its hello-ack.
const (
	SignOfLife   = 5 * time.Second  // statistics one way, repeated acks the other
	Idle         = 15 * time.Second // of silence, after which the link is dead
	LeastIdle    = 3 * time.Second  // what a hello-ack may say …
	MostIdle     = 60 * time.Second // … at least and at most
	HelloTimeout = 10 * time.Second // for the first hello, from the handshake on
)

// PacketNumber counts the packets that a sensor's filter matched within one
// epoch, the lost ones included. The first is 0.
type PacketNumber uint64

// Epoch names one uninterrupted run of a capture. It is random.
type Epoch [16]byte

func (e Epoch) String() string { return fmt.Sprintf("%x", e[:]) }

// MarshalText is for logs.
func (e Epoch) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Cause says why packets were lost.
type Cause uint16

// The causes of gaps. Their names are labels of metrics, so a value that a
// later version may send has one name as well.
const (
	CauseKernelDrop     Cause = 1 // the kernel's capture ring was full
	CauseCaptureRestart Cause = 2 // the capture had to be opened anew
	CauseSpoolOverflow  Cause = 3 // the agent had no room to keep them
	CauseSpoolCorrupt   Cause = 4 // the agent's spool was damaged
	CauseAgentCrash     Cause = 5 // the agent died; the count is unknown
	CauseHistoryCorrupt Cause = 6 // the relay's history was damaged
	CauseRelayRestart   Cause = 7 // acknowledged to a relay that has forgotten them
)

// Causes lists every cause, for tables that need one cell for each.
var Causes = []Cause{
	CauseKernelDrop, CauseCaptureRestart, CauseSpoolOverflow, CauseSpoolCorrupt,
	CauseAgentCrash, CauseHistoryCorrupt, CauseRelayRestart,
}

func (c Cause) String() string {
	switch c {
	case CauseKernelDrop:
		return "kernel_drop"
	case CauseCaptureRestart:
		return "capture_restart"
	case CauseSpoolOverflow:
		return "spool_overflow"
	case CauseSpoolCorrupt:
		return "spool_corrupt"
	case CauseAgentCrash:
		return "agent_crash"
	case CauseHistoryCorrupt:
		return "history_corrupt"
	case CauseRelayRestart:
		return "relay_restart"
	}
	return "unknown"
}

// Code says why a relay refuses a stream.
type Code uint16

// The codes of refusals. PROTOCOL.md says what an agent does about each.
const (
	CodeVersion   Code = 1  // no common protocol version
	CodeForbidden Code = 2  // the certificate does not allow this stream
	CodeLimit     Code = 3  // a limit of the relay is reached
	CodeFenced    Code = 4  // a newer session of the same stream took over
	CodeDraining  Code = 5  // the relay is shutting down or moving
	CodeProtocol  Code = 6  // a frame broke the protocol
	CodeHole      Code = 7  // a packet number was left out
	CodeCorrupt   Code = 8  // a batch failed its CRC
	CodeRevoked   Code = 9  // the certificate, or its authority, is not accepted any more
	CodeExpired   Code = 10 // the certificate has expired
)

func (c Code) String() string {
	switch c {
	case CodeVersion:
		return "version"
	case CodeForbidden:
		return "forbidden"
	case CodeLimit:
		return "limit"
	case CodeFenced:
		return "fenced"
	case CodeDraining:
		return "draining"
	case CodeProtocol:
		return "protocol"
	case CodeHole:
		return "hole"
	case CodeCorrupt:
		return "corrupt"
	case CodeRevoked:
		return "revoked"
	case CodeExpired:
		return "expired"
	}
	return "unknown"
}

// ErrMalformed is wrapped by every error about bytes that break the protocol,
// as against errors of the connection.
var ErrMalformed = errors.New("malformed frame")
