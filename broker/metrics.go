package broker

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"poip/internal/wire"
)

// A meter reads the ledgers when it is asked, so that counting costs nothing
// but the ledgers themselves. Labels are bounded: by the limits on streams, by
// the configuration, and for connections by numbers that are used again.
type meter struct{ broker *Broker }

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("poip_relay_"+name, help, labels, nil)
}

var (
	metricReceived      = metric("received_packets_total", "Packets received from agents, duplicates not counted.", "sensor", "stream")
	metricReceivedBytes = metric("received_bytes_total", "Bytes of the records of these.", "sensor", "stream")
	metricDuplicates    = metric("duplicate_packets_total", "Packets that agents sent once more, and that were dropped.", "sensor", "stream")
	metricLost          = metric("lost_packets_total", "Packets lost on the way to the relay.", "sensor", "stream", "cause")
	metricUnknown       = metric("lost_unknown_total", "Losses of which nobody knows how many packets they were.", "sensor", "stream", "cause")
	metricLive          = metric("stream_live", "1 while an agent sends the stream.", "sensor", "stream")
	metricSessions      = metric("sessions_total", "Sessions of agents.", "sensor", "stream")
	metricFenced        = metric("fenced_sessions_total", "Sessions that a newer one of the same stream took over from.", "sensor", "stream")
	metricSkew          = metric("clock_skew_seconds", "The relay's clock less the sensor's.", "sensor", "stream")
	metricRingPackets   = metric("ring_packets", "Packets in the ring.", "sensor", "stream")
	metricRingBytes     = metric("ring_bytes", "Bytes of the records in the ring.", "sensor", "stream")
	metricRingMemory    = metric("ring_memory_bytes", "Memory that the ring takes.", "sensor", "stream")
	metricRingLimit     = metric("ring_limit_bytes", "Memory that the ring may take.", "sensor", "stream")

	metricOffered     = metric("offered_packets_total", "Packets offered to analysts: sent, skipped and pending ones.", "listener")
	metricSent        = metric("sent_packets_total", "Packets sent to analysts.", "listener")
	metricSentBytes   = metric("sent_bytes_total", "Bytes of the records of these.", "listener")
	metricSkipped     = metric("skipped_packets_total", "Packets offered to analysts and not sent.", "listener", "cause")
	metricPending     = metric("pending_packets", "Packets that wait for analysts.", "listener")
	metricConnections = metric("connections", "Analysts connected.", "listener")
	metricConnected   = metric("connections_total", "Analysts that were let in.", "listener")
	metricEvicted     = metric("evicted_connections_total", "Analysts disconnected for reading too slowly.", "listener")
	metricTurnedAway  = metric("refused_connections_total", "Connections that were not let in.", "listener", "reason")

	metricRefusedAgents = metric("refused_agents_total", "Agents, and strangers at the intake, that were refused.")
	metricAuditFailures = metric("audit_failures_total", "Writes of the audit log that failed.")

	metricConnOffered = metric("connection_offered_packets", "Packets offered to the analyst.", "listener", "connection")
	metricConnSent    = metric("connection_sent_packets", "Packets sent to the analyst.", "listener", "connection")
	metricConnSkipped = metric("connection_skipped_packets", "Packets offered to the analyst and not sent.", "listener", "connection")
	metricConnPending = metric("connection_pending_packets", "Packets that wait for the analyst.", "listener", "connection")
)

// Describe sends nothing: which metrics there are depends on who is there.
func (m meter) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m meter) Collect(out chan<- prometheus.Metric) {
	for _, s := range m.broker.Streams() {
		s.collect(out)
	}
	for _, l := range m.broker.Listeners() {
		l.collect(out)
	}
	m.broker.collectTrust(out)
	counter(out, metricRefusedAgents, m.broker.refusedAgents.Load())
	counter(out, metricAuditFailures, m.broker.opts.Audit.Failures())
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s StreamStatus) collect(out chan<- prometheus.Metric) {
	sensor, stream := string(s.Sensor), string(s.Stream)
	counter(out, metricReceived, s.Received, sensor, stream)
	counter(out, metricReceivedBytes, s.Bytes, sensor, stream)
	counter(out, metricDuplicates, s.Duplicates, sensor, stream)
	counter(out, metricSessions, s.Sessions, sensor, stream)
	counter(out, metricFenced, s.Fenced, sensor, stream)
	for _, c := range wire.Causes {
		counter(out, metricLost, s.Lost[c.String()], sensor, stream, c.String())
	}
	for cause, n := range s.Unknown {
		counter(out, metricUnknown, n, sensor, stream, cause)
	}
	if unknown := wire.Cause(0).String(); s.Lost[unknown] > 0 {
		counter(out, metricLost, s.Lost[unknown], sensor, stream, unknown)
	}
	live := 0.0
	if s.State == "live" {
		live = 1
	}
	gauge(out, metricLive, live, sensor, stream)
	gauge(out, metricSkew, s.ClockSkew, sensor, stream)
	gauge(out, metricRingPackets, float64(s.Ring.Packets), sensor, stream)
	gauge(out, metricRingBytes, float64(s.Ring.Bytes), sensor, stream)
	gauge(out, metricRingMemory, float64(s.Ring.Memory), sensor, stream)
	gauge(out, metricRingLimit, float64(s.Ring.Limit), sensor, stream)
	s.History.collect(out, sensor, stream)
}

func (l ListenerStatus) collect(out chan<- prometheus.Metric) {
	counter(out, metricOffered, l.Offered, l.Name)
	counter(out, metricSent, l.Sent, l.Name)
	counter(out, metricSentBytes, l.SentBytes, l.Name)
	counter(out, metricConnected, l.Connected, l.Name)
	counter(out, metricEvicted, l.Evicted, l.Name)
	for cause, n := range l.Skipped {
		counter(out, metricSkipped, n, l.Name, cause)
	}
	for reason, n := range l.TurnedAway {
		counter(out, metricTurnedAway, n, l.Name, reason)
	}
	gauge(out, metricPending, float64(l.Pending), l.Name)
	gauge(out, metricConnections, float64(l.Connections), l.Name)
	for _, d := range l.Doors {
		for _, c := range d.Analysts {
			number := strconv.Itoa(c.Number)
			gauge(out, metricConnOffered, float64(c.Offered), l.Name, number)
			gauge(out, metricConnSent, float64(c.Sent), l.Name, number)
			gauge(out, metricConnSkipped, float64(c.Skipped), l.Name, number)
			gauge(out, metricConnPending, float64(c.Pending), l.Name, number)
		}
	}
}
