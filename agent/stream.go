package agent

import (
	"context"
	"crypto/rand"
	"log/slog"

	"poip/agent/capture"
	"poip/auth"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// A stream is what one capture, or one interface of it, sends to the relay:
// a queue, an uplink that empties it, and the batcher that fills it.
type stream struct {
	name   auth.StreamName
	queue  *queue
	uplink *uplink
	log    *slog.Logger

	// Owned by the goroutine that runs the capture.
	epoch   *epoch   // nil between two runs
	batcher *batcher // of the epoch
}

// begin opens a new epoch. A capture that announces the same stream again has
// begun anew.
func (s *stream) begin(info capture.Info, version string, stop <-chan struct{}) capture.Sink {
	s.end(false)
	hello := wire.Hello{
		Version:   wire.Version,
		LinkType:  info.LinkType,
		Snaplen:   min(max(info.Snaplen, 1), pcap.MaxCaptured),
		Stream:    s.name.String(),
		Interface: info.Description,
		Agent:     version,
	}
	rand.Read(hello.Epoch[:]) // it never fails
	s.epoch = s.queue.begin(hello)
	s.batcher = newBatcher(s.queue, s.epoch, stop)
	return s.batcher
}

// end closes the epoch, if one is open.
func (s *stream) end(final bool) {
	if s.epoch == nil {
		return
	}
	s.batcher.Flush()
	s.queue.close(s.epoch, final)
	s.epoch, s.batcher = nil, nil
}

// deliver runs the uplink and tells how it all came out.
func (s *stream) deliver(ctx context.Context) {
	s.uplink.run(ctx)
	status := s.status()
	log := s.log.With("captured", status.Captured, "acknowledged", status.Acknowledged, "lost", status.LostPackets(), "empty", status.Empty)
	if status.Queued > 0 {
		log.Warn("stream ends with packets that no relay has acknowledged", "left", status.Queued)
		return
	}
	log.Info("stream ended")
}

func (s *stream) status() StreamStatus {
	s.uplink.mu.Lock()
	l := s.uplink.link
	s.uplink.mu.Unlock()
	return statusOf(s.name, l, s.queue.totals())
}
