package agent

import (
	"time"

	"poip/internal/wire"
)

// Report is the agent's status as it is told over HTTP.
type Report struct {
	Sensor   string          `json:"sensor"`
	Agent    string          `json:"agent"` // its version
	Expires  *time.Time      `json:"certificate_expires,omitempty"`
	Captures []CaptureReport `json:"captures"`
	Streams  []StreamReport  `json:"streams"`
}

// CaptureReport is a CaptureStatus.
type CaptureReport struct {
	Name    string       `json:"name"`
	State   CaptureState `json:"state"`
	Trouble string       `json:"trouble,omitempty"`
}

// StreamReport is a StreamStatus.
type StreamReport struct {
	Capture      string            `json:"capture"` // the stream's name is sensor/capture
	State        State             `json:"state"`   // of the uplink
	Relay        string            `json:"relay,omitempty"`
	Trouble      string            `json:"trouble,omitempty"`
	Sessions     uint64            `json:"sessions"`
	Epochs       uint64            `json:"epochs"`
	Captured     uint64            `json:"captured_packets"`
	Recovered    uint64            `json:"recovered_packets"`
	Acknowledged uint64            `json:"acknowledged_packets"`
	Lost         map[string]uint64 `json:"lost_packets"` // by cause
	Unknown      map[string]uint64 `json:"lost_unknown"` // by cause
	Queued       uint64            `json:"queued_packets"`
	QueuedBytes  int64             `json:"queued_bytes"`
	Sent         uint64            `json:"sent_packets"`
	Empty        uint64            `json:"empty_packets"`
	Spool        *SpoolReport      `json:"spool,omitempty"`
}

// SpoolReport is a SpoolStatus.
type SpoolReport struct {
	Bytes   int64   `json:"bytes"`
	Limit   int64   `json:"limit_bytes"`
	Packets uint64  `json:"packets"`
	Age     float64 `json:"oldest_age_seconds"`
	Trouble string  `json:"trouble,omitempty"`
}

// LostPackets are the lost ones of all causes.
func (s StreamReport) LostPackets() (n uint64) {
	for _, lost := range s.Lost {
		n += lost
	}
	return n
}

// Report tells everything.
func (a *Agent) Report() Report {
	r := Report{Sensor: string(a.sensor), Agent: a.version, Captures: []CaptureReport{}, Streams: []StreamReport{}}
	if a.Renewal != nil {
		_, to := a.Renewal.Life()
		r.Expires = &to
	}
	for _, c := range a.Captures() {
		r.Captures = append(r.Captures, CaptureReport(c))
	}
	for _, s := range a.Status() {
		r.Streams = append(r.Streams, s.report())
	}
	return r
}

func (s StreamStatus) report() StreamReport {
	r := StreamReport{
		Capture: string(s.Stream.Capture), State: s.State, Relay: s.Relay, Trouble: s.Trouble,
		Sessions: s.Sessions, Epochs: s.Epochs, Captured: s.Captured, Recovered: s.Recovered, Acknowledged: s.Acknowledged,
		Lost: named(s.Lost), Unknown: named(s.Unknown), Queued: s.Queued, QueuedBytes: s.QueuedBytes, Sent: s.Sent, Empty: s.Empty,
	}
	if p := s.Spool; p != nil {
		r.Spool = &SpoolReport{
			Bytes: p.Bytes, Limit: p.Limit, Packets: p.Packets,
			Age: p.Age.Round(time.Millisecond).Seconds(), Trouble: p.Trouble,
		}
	}
	return r
}

func named(counts map[wire.Cause]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for cause, n := range counts {
		m[cause.String()] = n
	}
	return m
}
