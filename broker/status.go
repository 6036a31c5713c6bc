package broker

import (
	"maps"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// StreamStatus is what there is to know of one stream.
type StreamStatus struct {
	Sensor       auth.SensorName   `json:"sensor"`
	Stream       auth.CaptureName  `json:"stream"`
	State        string            `json:"state"` // live, offline, ended
	Since        time.Time         `json:"since"` // of the session, or of its end
	LinkType     pcap.LinkType     `json:"link_type"`
	LinkTypeName string            `json:"link_type_name"`
	Snaplen      uint32            `json:"snaplen,omitempty"`
	Interface    string            `json:"interface,omitempty"` // the agent's words
	Agent        string            `json:"agent,omitempty"`     // the agent's words
	Remote       string            `json:"remote,omitempty"`
	Network      string            `json:"network,omitempty"`
	Epoch        string            `json:"epoch,omitempty"`
	Position     uint64            `json:"position"` // the next packet number that is wanted
	ClockSkew    float64           `json:"clock_skew_seconds"`
	Received     uint64            `json:"received_packets"`
	Bytes        uint64            `json:"received_bytes"`
	Duplicates   uint64            `json:"duplicate_packets"`
	Lost         map[string]uint64 `json:"lost_packets"` // by cause
	Unknown      map[string]uint64 `json:"lost_unknown"` // losses of unknown count, by cause
	Sessions     uint64            `json:"sessions"`
	Fenced       uint64            `json:"fenced_sessions"`
	Ring         RingStatus        `json:"ring"`
	History      *HistoryStatus    `json:"history,omitempty"` // nil: off
	Counters     AgentCounters     `json:"agent_counters"`
}

// RingStatus is how full the memory of a stream is.
type RingStatus struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Memory  int    `json:"memory_bytes"`
	Limit   int    `json:"limit_bytes"`
	Readers int    `json:"readers"`
}

// AgentCounters are the agent's own, of the epoch at hand.
type AgentCounters struct {
	Captured      uint64 `json:"captured_packets"`
	Lost          uint64 `json:"lost_packets"`
	Empty         uint64 `json:"empty_packets"`
	QueuedPackets uint64 `json:"queued_packets"`
	QueuedBytes   uint64 `json:"queued_bytes"`
}

// Streams describes every stream, in the order in which they first came.
func (b *Broker) Streams() []StreamStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]StreamStatus, 0, len(b.order))
	for _, st := range b.order {
		out = append(out, st.status())
	}
	return out
}

// status is for holders of Broker.mu.
func (s *stream) status() StreamStatus {
	out := StreamStatus{
		Sensor: s.name.Sensor, Stream: s.name.Capture, State: "offline",
		LinkType: s.ring.link, LinkTypeName: s.ring.link.String(),
		Received: s.ledger.packets.Load(), Bytes: s.ledger.bytes.Load(), Duplicates: s.ledger.duplicates.Load(),
		Lost: make(map[string]uint64), Unknown: make(map[string]uint64),
		Sessions: s.ledger.sessions.Load(), Fenced: s.ledger.fenced.Load(),
	}
	switch {
	case s.session != nil:
		out.State = "live"
	case s.ring.over.Load():
		out.State = "ended"
	}
	for i := range causes {
		cause := wire.Cause(i).String()
		if n := s.ledger.lost[i].Load(); n > 0 {
			out.Lost[cause] = n
		}
		if n := s.ledger.unknown[i].Load(); n > 0 {
			out.Unknown[cause] = n
		}
	}
	r := &out.Ring
	r.Packets, r.Bytes, r.Memory, r.Limit = s.ring.occupancy()
	r.Readers = len(s.ring.readers.readers())
	out.History = s.history.status()
	s.describe(&out)
	return out
}

// describe adds what the agent has said.
func (s *stream) describe(out *StreamStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Since = s.since
	if len(s.epochs) == 0 {
		return
	}
	e := s.epochs[len(s.epochs)-1]
	out.Epoch, out.Position = e.id.String(), e.next.Load()
	out.Snaplen, out.Interface, out.Agent = s.hello.Snaplen, s.hello.Interface, s.hello.Agent
	out.Remote, out.Network, out.ClockSkew = s.remote, s.network, s.skew.Seconds()
	out.Counters = AgentCounters{
		Captured: s.stats.Captured, Lost: s.stats.Lost, Empty: s.stats.Empty,
		QueuedPackets: s.stats.QueuedPackets, QueuedBytes: s.stats.QueuedBytes,
	}
}

// ListenerStatus is what there is to know of one listener. For each
// connection, and for all of them, offered = sent + skipped + pending.
type ListenerStatus struct {
	Name        string            `json:"name"`
	TLS         bool              `json:"tls"`
	ClientAuth  string            `json:"client_auth"`
	Format      string            `json:"format"`
	Snaplen     int               `json:"snaplen"`
	Overflow    string            `json:"overflow"`
	Start       string            `json:"start"`
	End         string            `json:"end"`
	Allow       []string          `json:"allow"`
	Offered     uint64            `json:"offered_packets"`
	Sent        uint64            `json:"sent_packets"`
	SentBytes   uint64            `json:"sent_bytes"`
	Pending     uint64            `json:"pending_packets"`
	Skipped     map[string]uint64 `json:"skipped_packets"` // by cause
	Connections int               `json:"connections"`
	Connected   uint64            `json:"connections_total"`
	Evicted     uint64            `json:"evicted_connections"`
	TurnedAway  map[string]uint64 `json:"refused_connections"` // by reason
	LeftOut     []string          `json:"left_out"`            // streams of another link type than what is offered
	Unserved    []string          `json:"without_port"`        // streams for which the range was too small
	Doors       []DoorStatus      `json:"doors"`
}

// DoorStatus is one port of a listener.
type DoorStatus struct {
	Stream   string             `json:"stream,omitempty"` // of a listener with each
	Address  string             `json:"address"`
	Error    string             `json:"error,omitempty"` // why it cannot be bound
	LinkType string             `json:"link_type_name,omitempty"`
	Commands []string           `json:"commands"` // to read from it
	Analysts []ConnectionStatus `json:"connections"`
}

// ConnectionStatus is one analyst.
type ConnectionStatus struct {
	Number    int       `json:"number"`            // unique in the listener, and used again
	Analyst   string    `json:"analyst,omitempty"` // by certificate
	Remote    string    `json:"remote"`
	Since     time.Time `json:"since"`
	State     string    `json:"state"` // waiting, current, behind, stalled, ending
	Offered   uint64    `json:"offered_packets"`
	Sent      uint64    `json:"sent_packets"`
	SentBytes uint64    `json:"sent_bytes"`
	Skipped   uint64    `json:"skipped_packets"`
	Pending   uint64    `json:"pending_packets"`
}

// Listeners describes every listener, as in the configuration.
func (b *Broker) Listeners() []ListenerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]ListenerStatus, 0, len(b.listeners))
	for _, l := range b.listeners {
		out = append(out, b.listenerStatus(l))
	}
	return out
}

func (b *Broker) listenerStatus(l *listener) ListenerStatus {
	c := l.plan.Load().config
	out := ListenerStatus{
		Name: c.Name, TLS: c.TLS, ClientAuth: c.ClientAuth, Format: c.Format, Snaplen: int(c.Snaplen),
		Overflow: c.Overflow, Start: c.Start, End: c.End, Allow: c.Allow,
		Connected: l.tally.connected.Load(), Evicted: l.tally.evicted.Load(),
		TurnedAway: make(map[string]uint64), LeftOut: []string{}, Unserved: []string{}, Doors: []DoorStatus{},
	}
	l.tally.balance(&out)
	for i := range aways {
		out.TurnedAway[i.String()] = l.tally.away[i].Load()
	}
	for name := range l.unserved {
		out.Unserved = append(out.Unserved, name.String())
	}
	slices.Sort(out.Unserved)
	for _, d := range l.doors {
		out.Doors = append(out.Doors, b.doorStatus(d, &out))
	}
	return out
}

func (b *Broker) doorStatus(d *door, l *ListenerStatus) DoorStatus {
	out := DoorStatus{Address: d.address(), Commands: []string{}, Analysts: []ConnectionStatus{}}
	if d.stream.Sensor != "" {
		out.Stream = d.stream.String()
	}
	if d.socket != nil {
		out.Address = d.socket.ln.Addr().String()
		out.Commands = d.listener.plan.Load().commands(d.socket.ln.Addr())
	} else if d.bindError != nil {
		out.Error = d.bindError.Error()
	}
	b.describeStreams(d, l, &out)
	connections := slices.SortedFunc(maps.Keys(d.subscribers), func(a, b *subscriber) int { return a.slot - b.slot })
	for _, s := range connections {
		out.Analysts = append(out.Analysts, s.status())
		l.Connections++
	}
	return out
}

// describeStreams says which link type a new connection would get, and which
// streams would be left out.
func (b *Broker) describeStreams(d *door, l *ListenerStatus, out *DoorStatus) {
	lead := b.lead(d, nil)
	if lead == nil {
		return
	}
	out.LinkType = lead.ring.link.String()
	for _, st := range b.order {
		if d.takes(st.name) && st.ring.link != lead.ring.link {
			l.LeftOut = append(l.LeftOut, st.name.String())
		}
	}
}

func (s *subscriber) status() ConnectionStatus {
	out := ConnectionStatus{
		Number: s.slot, Analyst: s.visit.analyst(), Remote: s.remote, Since: s.since, State: "current",
		Sent: s.sent.Load(), SentBytes: s.sentBytes.Load(), Skipped: s.skipped.Load(),
	}
	offered, others := s.offered() // last; see tally.balance
	out.Offered, out.Skipped = offered, out.Skipped+others
	out.Pending = out.Offered - out.Sent - out.Skipped
	s.mu.Lock()
	linked := s.linked
	s.mu.Unlock()
	switch {
	case s.order.Load() != orderNone:
		out.State = "ending"
	case !linked:
		out.State = "waiting"
	case s.stalled.Load():
		out.State = "stalled"
	case out.Pending > 0:
		out.State = "behind"
	}
	return out
}
