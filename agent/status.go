package agent

import (
	"slices"
	"strings"
	"sync"
	"time"

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
	Captured     uint64                // packets that have a number, the lost and the recovered ones included
	Recovered    uint64                // of these, found in the spool, from an earlier run of the agent
	Lost         map[wire.Cause]uint64 // of these, in gaps; only causes that occurred
	Unknown      map[wire.Cause]uint64 // losses of which nobody knows how many packets they were
	Acknowledged uint64                // of these, in a relay's care
	Queued       uint64                // of these, held until a relay acknowledges them
	QueuedBytes  int64                 // of memory that they take
	Sent         uint64                // packets put on the wire, repetitions included
	Empty        uint64                // packets without captured bytes, which have no number
	Spool        *SpoolStatus          // nil: none
}

// SpoolStatus is how a stream's spool fares.
type SpoolStatus struct {
	Bytes   int64         // on disk, what is acknowledged and not deleted yet included
	Limit   int64         // of these
	Packets uint64        // that are on disk and nowhere else
	Age     time.Duration // of the oldest packet that no relay has acknowledged, by the sensor's clock
	Trouble string        // why nothing is written, or empty
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
	return StreamStatus{
		Stream: name, State: l.state, Relay: l.relay, Trouble: l.trouble, Sessions: l.sessions, Epochs: t.epochs,
		Captured: t.captured, Recovered: t.recovered, Acknowledged: t.acknowledged, Queued: t.held(), QueuedBytes: t.bytes,
		Sent: t.sent, Empty: t.empty, Lost: byCause(t.lost), Unknown: byCause(t.unknown),
	}
}

func byCause(counts [causes]uint64) map[wire.Cause]uint64 {
	m := map[wire.Cause]uint64{}
	for cause, n := range counts {
		if n > 0 {
			m[wire.Cause(cause)] = n
		}
	}
	return m
}

// status tells how the spool fares; t is of its queue.
func (s *spool) status(t totals) *SpoolStatus {
	status := &SpoolStatus{Bytes: s.journal.Size(), Limit: s.share.each(), Packets: t.disk}
	if t.oldest != 0 {
		status.Age = max(0, time.Since(time.Unix(0, t.oldest)))
	}
	if err := s.journal.Trouble(); err != nil {
		status.Trouble = err.Error()
	}
	return status
}

// CaptureState says what a capture is doing.
type CaptureState string

// The states of captures.
const (
	CaptureWaiting CaptureState = "waiting" // for its interface, or what it reads from
	CaptureRunning CaptureState = "running"
	CaptureBroken  CaptureState = "broken" // off; it tries again
	CaptureEnded   CaptureState = "ended"
)

// CaptureStatus is how a configured capture fares.
type CaptureStatus struct {
	Name    string
	State   CaptureState
	Trouble string // why it is broken, or empty
}

// condition is a CaptureStatus that changes.
type condition struct {
	mu     sync.Mutex
	status CaptureStatus // guarded by mu
}

func (c *condition) set(state CaptureState, trouble error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.State, c.status.Trouble = state, ""
	if trouble != nil {
		c.status.Trouble = trouble.Error()
	}
}

// presence takes whether a capture's interface is there.
func (c *condition) presence(here bool) {
	if here {
		c.set(CaptureRunning, nil)
	} else {
		c.set(CaptureWaiting, nil)
	}
}

func (c *condition) get() CaptureStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Status tells about every stream that there has been, by name.
func (a *Agent) Status() []StreamStatus {
	a.mu.Lock()
	streams := slices.Clone(a.streams)
	a.mu.Unlock()
	var all []StreamStatus
	for _, s := range streams {
		all = append(all, s.status())
	}
	slices.SortFunc(all, func(a, b StreamStatus) int { return strings.Compare(a.Stream.String(), b.Stream.String()) })
	return all
}

// Captures tells about every capture that is configured, in that order, once
// the agent runs.
func (a *Agent) Captures() []CaptureStatus {
	a.mu.Lock()
	conditions := slices.Clone(a.conditions)
	a.mu.Unlock()
	var all []CaptureStatus
	for _, c := range conditions {
		all = append(all, c.get())
	}
	return all
}
