package broker

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/config"
	"poip/internal/transport"
)

// A rate holds one sensor back to so many bytes a second, all its streams
// together. Who has taken a batch that is beyond what was saved up waits for
// as long as it takes to earn it; meanwhile TCP or QUIC holds the agent back.
// Debts queue up, so that no stream starves another.
type rate struct {
	limited atomic.Bool // limit is not 0; so that no limit costs no lock

	complaints transport.Complaints // about the sensor: whatever it does, it fills no disk

	mu    sync.Mutex
	limit float64 // bytes a second
	saved float64 // may be less than nothing
	at    time.Time
}

// take pays for n bytes, and says how long to wait before the next read.
func (r *rate) take(n int, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limit == 0 {
		return 0
	}
	r.saved = min(r.limit, r.saved+now.Sub(r.at).Seconds()*r.limit) // one second's worth at most
	r.at = now
	r.saved -= float64(n)
	if r.saved >= 0 {
		return 0
	}
	return time.Duration(-r.saved / r.limit * float64(time.Second))
}

func (r *rate) set(limit config.Size, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if float64(limit) != r.limit {
		r.limit, r.saved, r.at = float64(limit), float64(limit), now
		r.limited.Store(limit != 0)
	}
}

// rateOf is for holders of Broker.mu. There are as many as sensors that ever
// had a certificate and came.
func (b *Broker) rateOf(sensor auth.SensorName) *rate {
	r := b.rates[sensor]
	if r == nil {
		r = new(rate)
		b.rates[sensor] = r
	}
	r.set(b.config.Intake.MaxRate, time.Now())
	return r
}

// setRates is for holders of Broker.mu.
func (b *Broker) setRates(limit config.Size) {
	for _, r := range b.rates {
		r.set(limit, time.Now())
	}
}

// complain says what the sensor does wrong, as often as its own account of such
// lines allows.
func (s *session) complain(log *slog.Logger, text string, attrs ...any) {
	if s.rate == nil {
		log.Warn(text, attrs...)
		return
	}
	s.rate.complaints.Warn(log, text, attrs...)
}

// pay holds the session back after a batch of n bytes, as the rate of its
// sensor has it. Meanwhile analysts are served, and the agent hears from us.
func (s *session) pay(n int) error {
	if s.rate == nil || !s.rate.limited.Load() {
		return nil
	}
	begin := time.Now()
	wait := s.rate.take(n, begin)
	if wait <= 0 {
		return nil
	}
	s.publish()
	until := begin.Add(wait)
	for {
		now := time.Now()
		s.heard = now // it is we who do not listen
		if err := s.tick(now); err != nil {
			return err
		}
		left := until.Sub(now)
		if left <= 0 {
			return nil
		}
		time.Sleep(min(left, holdPoll))
	}
}
