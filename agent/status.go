package agent

import (
	"poip/auth"
	"poip/internal/wire"
)

// State says what an uplink is doing.
type State string

// The states of uplinks.
const (
	StateIdle       State = "idle"       // nothing to say yet
	StateConnecting State = "connecting" //
	StateConnected  State = "connected"  // the relay takes the stream
	StateWaiting    State = "waiting"    // to try again
	StateRefused    State = "refused"    // by the relay; it tries again
	StateDone       State = "done"       // everything is said and acknowledged
)

// StreamStatus is what one stream has counted since the agent began. At every
// moment captured = acknowledged + lost + queued.
type StreamStatus struct {
	Stream       auth.StreamName
	State        State
	Relay        string // the endpoint; empty when not connected
	Trouble      string // what went wrong last; empty when connected
	Sessions     uint64 // that a relay has accepted; the first one is no reconnect
	Epochs       uint64
	Captured     uint64                // packets that have a number, the lost ones included
	Lost         map[wire.Cause]uint64 // of these, in gaps; only causes that occurred
	Acknowledged uint64                // of these, in a relay's care
	Queued       uint64                // of these, held until a relay acknowledges them
	QueuedBytes  int64                 // of memory that they take
	Sent         uint64                // packets put on the wire, repetitions included
	Empty        uint64                // packets without captured bytes, which have no number
}

// LostPackets are the lost ones of all causes.
func (s StreamStatus) LostPackets() uint64 {
	var n uint64
	for _, lost := range s.Lost {
		n += lost
	}
	return n
}

func statusOf(name auth.StreamName, l link, t totals) StreamStatus {
	s := StreamStatus{
		Stream: name, State: l.state, Relay: l.relay, Trouble: l.trouble, Sessions: l.sessions, Epochs: t.epochs,
		Captured: t.captured, Acknowledged: t.acknowledged, Queued: t.held(), QueuedBytes: t.bytes,
		Sent: t.sent, Empty: t.empty, Lost: map[wire.Cause]uint64{},
	}
	for cause, n := range t.lost {
		if n > 0 {
			s.Lost[wire.Cause(cause)] = n
		}
	}
	return s
}
