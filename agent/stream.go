package agent

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

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
	spool  *spool // nil: none
	log    *slog.Logger

	spoolTrouble string // why there is none, though there should be

	// Owned by the goroutine that runs the capture.
	epoch   *epoch   // nil between two runs
	batcher *batcher // of the epoch
	began   int64    // when the epoch did, or the gap before it
	broken  int64    // since when a capture that has broken off may have missed packets; else 0
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
	s.began = time.Now().UnixNano()
	if s.broken != 0 {
		s.began = s.broken
		s.queue.gap(s.epoch, wire.Gap{Cause: wire.CauseCaptureRestart, Earliest: s.broken, Latest: time.Now().UnixNano()})
		s.broken = 0
	}
	s.batcher = newBatcher(s.queue, s.epoch, stop)
	return s.batcher
}

// breakOff ends the epoch of a capture that has broken off. What comes by until
// it runs again is lost, and nobody knows how much that is.
func (s *stream) breakOff() {
	if s.epoch == nil {
		return
	}
	s.batcher.Flush()
	if s.broken = s.batcher.last; s.broken == 0 {
		s.broken = s.began
	}
	s.end(false)
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
	if s.spool != nil {
		<-s.queue.over
		close(s.spool.quit)
		<-s.spool.done
	}
	status := s.status()
	log := s.log.With("captured", status.Captured, "acknowledged", status.Acknowledged, "lost", status.LostPackets(), "empty", status.Empty)
	switch {
	case status.Queued > 0 && s.kept():
		log.Info("stream ends with packets that are kept on disk, to be sent when the agent runs again", "left", status.Queued)
		return
	case status.Queued > 0:
		log.Warn("stream ends with packets that no relay has acknowledged", "left", status.Queued)
		return
	}
	log.Info("stream ended")
}

// kept says whether what is left at the end is on disk.
func (s *stream) kept() bool { return s.spool != nil && s.spool.safe }

func (s *stream) status() StreamStatus {
	s.uplink.mu.Lock()
	l := s.uplink.link
	s.uplink.mu.Unlock()
	t := s.queue.totals()
	status := statusOf(s.name, l, t)
	switch {
	case s.spool != nil:
		status.Spool = s.spool.status(t)
	case s.spoolTrouble != "":
		status.Spool = &SpoolStatus{Trouble: s.spoolTrouble}
	}
	return status
}
