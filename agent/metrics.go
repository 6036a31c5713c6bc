package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"poip/internal/wire"
)

// A meter reads the ledgers when it is asked, so that counting costs nothing
// but the ledgers themselves.
type meter struct{ agent *Agent }

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("poip_agent_"+name, help, append([]string{"capture"}, labels...), nil)
}

// At every moment captured = acknowledged + lost + queued.
var (
	metricCaptured     = metric("captured_packets_total", "Packets that have a number, the lost and the recovered ones included.")
	metricRecovered    = metric("recovered_packets_total", "Captured packets found in the spool, from an earlier run of the agent.")
	metricLost         = metric("lost_packets_total", "Captured packets that were lost.", "cause")
	metricUnknown      = metric("lost_unknown_total", "Losses of which nobody knows how many packets they were.", "cause")
	metricAcknowledged = metric("acknowledged_packets_total", "Captured packets in a relay's care.")
	metricQueued       = metric("queued_packets", "Captured packets that no relay has acknowledged.")
	metricQueuedBytes  = metric("queued_bytes", "Bytes of memory that these take.")
	metricSent         = metric("sent_packets_total", "Packets put on the wire, repetitions included.")
	metricEmpty        = metric("empty_packets_total", "Packets without captured bytes, which cannot be sent.")
	metricConnected    = metric("connected", "1 while a relay takes the stream.")
	metricSessions     = metric("sessions_total", "Sessions that a relay has accepted.")
	metricEpochs       = metric("epochs_total", "Runs of the capture.")

	metricSpoolBytes   = metric("spool_bytes", "Bytes of the spool on disk.")
	metricSpoolLimit   = metric("spool_limit_bytes", "Bytes that the spool may take.")
	metricSpoolPackets = metric("spool_packets", "Packets that are in the spool and nowhere else.")
	metricSpoolAge     = metric("spool_oldest_age_seconds", "Age of the oldest packet that no relay has acknowledged.")
	metricSpoolTrouble = metric("spool_trouble", "1 while the spool cannot be written.")

	metricRunning = metric("capture_running", "1 while the capture runs, 0 while it waits, has broken off or has ended.")
)

// Describe sends nothing: which metrics there are depends on who is there.
func (m meter) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m meter) Collect(out chan<- prometheus.Metric) {
	for _, s := range m.agent.Status() {
		s.collect(out)
	}
	m.agent.Renewal.collect(out)
	for _, c := range m.agent.Captures() {
		gauge(out, metricRunning, one(c.State == CaptureRunning), c.Name)
	}
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (s StreamStatus) collect(out chan<- prometheus.Metric) {
	name := string(s.Stream.Capture)
	counter(out, metricCaptured, s.Captured, name)
	counter(out, metricRecovered, s.Recovered, name)
	counter(out, metricAcknowledged, s.Acknowledged, name)
	counter(out, metricSent, s.Sent, name)
	counter(out, metricEmpty, s.Empty, name)
	counter(out, metricSessions, s.Sessions, name)
	counter(out, metricEpochs, s.Epochs, name)
	for _, c := range wire.Causes {
		counter(out, metricLost, s.Lost[c], name, c.String())
	}
	for c, n := range s.Unknown {
		counter(out, metricUnknown, n, name, c.String())
	}
	gauge(out, metricQueued, float64(s.Queued), name)
	gauge(out, metricQueuedBytes, float64(s.QueuedBytes), name)
	gauge(out, metricConnected, one(s.State == StateConnected), name)
	if s.Spool != nil {
		s.Spool.collect(out, name)
	}
}

func (s *SpoolStatus) collect(out chan<- prometheus.Metric, name string) {
	gauge(out, metricSpoolBytes, float64(s.Bytes), name)
	gauge(out, metricSpoolLimit, float64(s.Limit), name)
	gauge(out, metricSpoolPackets, float64(s.Packets), name)
	gauge(out, metricSpoolAge, s.Age.Seconds(), name)
	gauge(out, metricSpoolTrouble, one(s.Trouble != ""), name)
}
