package broker

import "github.com/prometheus/client_golang/prometheus"

// HistoryStatus is how the history of a stream fares.
type HistoryStatus struct {
	Packets  uint64 `json:"packets"` // on disk
	Bytes    int64  `json:"bytes"`   // that they take, with what belongs to them, in whole blocks of the disk
	Limit    int64  `json:"limit_bytes"`
	Pending  int64  `json:"pending_bytes"`     // on their way to the disk, not acknowledged
	Trimmed  uint64 `json:"trimmed_packets"`   // that went for size, age or a full disk, since the relay started
	Damaged  uint64 `json:"damaged_packets"`   // that were on disk and are known to be damaged, as far back as the history goes
	Trouble  string `json:"trouble,omitempty"` // why it cannot be written now
	Blocking bool   `json:"blocking"`          // it is not trimmed, and the stream held, for a reader with overflow = "block"
}

func (h *history) status() *HistoryStatus {
	if h == nil {
		return nil
	}
	out := &HistoryStatus{
		Packets: h.journal.Packets(), Bytes: h.journal.Size(), Limit: h.limit.Load(), Pending: h.journal.Pending(),
		Trimmed: h.trimmed.Load(), Damaged: h.journal.Damaged(),
	}
	if err := h.journal.Trouble(); err != nil {
		out.Trouble = err.Error()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out.Blocking = !h.overfull.IsZero()
	return out
}

var (
	metricHistoryPackets = metric("history_packets", "Packets in the history on disk.", "sensor", "stream")
	metricHistoryBytes   = metric("history_bytes", "Bytes that the history takes on disk.", "sensor", "stream")
	metricHistoryLimit   = metric("history_limit_bytes", "Bytes that the history may take on disk.", "sensor", "stream")
	metricHistoryPending = metric("history_pending_bytes", "Bytes that came and are not on disk yet.", "sensor", "stream")
	metricHistoryTrimmed = metric("history_trimmed_packets_total", "Packets that left the history for size, age or a full disk.", "sensor", "stream")
	metricHistoryCorrupt = metric("history_corrupt_packets", "Packets of the history that are known to be damaged. They were received.", "sensor", "stream")
	metricHistoryTrouble = metric("history_trouble", "1 while the history cannot be written.", "sensor", "stream")
)

func (h *HistoryStatus) collect(out chan<- prometheus.Metric, sensor, stream string) {
	if h == nil {
		return
	}
	gauge(out, metricHistoryPackets, float64(h.Packets), sensor, stream)
	gauge(out, metricHistoryBytes, float64(h.Bytes), sensor, stream)
	gauge(out, metricHistoryLimit, float64(h.Limit), sensor, stream)
	gauge(out, metricHistoryPending, float64(h.Pending), sensor, stream)
	counter(out, metricHistoryTrimmed, h.Trimmed, sensor, stream)
	gauge(out, metricHistoryCorrupt, float64(h.Damaged), sensor, stream)
	trouble := 0.0
	if h.Trouble != "" {
		trouble = 1
	}
	gauge(out, metricHistoryTrouble, trouble, sensor, stream)
}
