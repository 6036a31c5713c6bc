package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"poip/internal/wire"
)

// A Renewal keeps the sensor's certificate alive over the sessions that there
// are: one of them asks for a new one when that is due, and all of them hear
// whom to trust. How to make a key, and where to keep what comes, it is
// handed. A nil Renewal renews nothing and believes nobody.
type Renewal struct {
	// Set before Run, and called by any goroutine.
	Life    func() (from, to time.Time)                          // of the certificate in use
	Due     func(now time.Time) bool                             // it should be renewed
	Request func() ([]byte, error)                               // makes a fresh key, and the request for it
	Accept  func(chain [][]byte) error                           // takes the answer to the last Request into use
	Trust   func(authorities [][]byte) (changed bool, err error) // replaces the authorities
	Log     *slog.Logger

	mu      sync.Mutex // guards what follows
	asker   *session   // which has asked and has no answer yet; nil: none
	next    time.Time  // before which nobody asks again
	trouble error      // of the last try; nil: none since the last success
}

// ask returns what the session shall send now, or nothing: another one has
// asked, or it is not time.
func (r *Renewal) ask(s *session) []byte {
	if r == nil {
		return nil
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asker != nil || now.Before(r.next) || !r.Due(now) {
		return nil
	}
	request, err := r.Request()
	if err != nil {
		r.failed(err)
		return nil
	}
	r.asker = s
	return request
}

// left is told that a session is over. Its question will not be answered.
func (r *Renewal) left(s *session) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asker == s {
		r.asker = nil
	}
}

// answered takes the answer to the session's question. An error breaks the
// protocol; a certificate that we do not get, or cannot use, does not.
func (r *Renewal) answered(s *session, payload []byte) error {
	answer, err := wire.ParseCertificate(payload)
	if err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asker != s {
		return fmt.Errorf("%w: relay sent a certificate that was not asked for", wire.ErrMalformed)
	}
	r.asker = nil
	if len(answer.Chain) == 0 {
		err = fmt.Errorf("the relay does not renew: %q", answer.Reason)
	} else {
		err = r.Accept(answer.Chain)
	}
	if err != nil {
		r.failed(err)
		return nil
	}
	r.trouble = nil
	_, to := r.Life()
	r.Log.Info("certificate renewed", "until", to.UTC().Format(time.RFC3339))
	return nil
}

// believe takes the authorities that a relay announces.
func (r *Renewal) believe(payload []byte) error {
	trust, err := wire.ParseTrust(payload)
	if err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	changed, err := r.Trust(trust.Authorities)
	switch {
	case err != nil:
		r.Log.Error("authorities that the relay announces are not taken; its next certificate may be refused", "error", err)
	case changed:
		r.Log.Info("relay announces other authorities", "count", len(trust.Authorities))
	}
	return nil
}

// failed notes why there is no new certificate, and has it tried again later;
// for holders of mu.
func (r *Renewal) failed(err error) {
	from, to := r.Life()
	pause := min(time.Minute, to.Sub(from)/20)
	r.trouble, r.next = err, time.Now().Add(pause)
	r.Log.Warn("certificate is not renewed; trying again", "error", err, "in", pause.Round(time.Second).String())
}

// urgency is how far the life of a certificate has gone without renewal.
type urgency int

const (
	calm     urgency = iota
	late             // half of the time that there was for renewing is over
	pressing         // three quarters are
	over             // it has expired
)

// urgencyOf judges by parts of the certificate's life: it is renewed after
// two thirds.
func urgencyOf(from, to, now time.Time) urgency {
	rest := to.Sub(from) / 3
	switch {
	case now.After(to):
		return over
	case now.After(to.Add(-rest / 4)):
		return pressing
	case now.After(to.Add(-rest / 2)):
		return late
	}
	return calm
}

// sayAgain is how often an operator is told of a certificate that is in
// danger, beside the moments in which it gets worse.
const sayAgain = time.Hour

// watch tells an operator in time when the certificate does not get renewed,
// whatever the reason, until ctx ends.
func (r *Renewal) watch(ctx context.Context) {
	if r == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said, at := calm, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			from, to := r.Life()
			is := urgencyOf(from, to, now)
			if is > said || is > calm && now.Sub(at) >= sayAgain {
				r.warn(ctx, is, to)
				at = now
			}
			said = is
		}
	}
}

func (r *Renewal) warn(ctx context.Context, is urgency, to time.Time) {
	r.mu.Lock()
	trouble, asking := r.trouble, r.asker != nil
	r.mu.Unlock()
	switch {
	case trouble == nil && asking:
		trouble = errors.New("the relay has not answered yet")
	case trouble == nil:
		trouble = errors.New("no session with a relay that could renew it")
	}
	log := r.Log.With("until", to.UTC().Format(time.RFC3339), "reason", trouble)
	const remedy = "on the relay: poip-relay token SENSOR --replace; here: poip-agent enroll --replace"
	switch is {
	case late:
		log.Warn("certificate should have been renewed long ago")
	case pressing:
		log.Error("certificate expires soon and is not renewed", "remedy", "see to the relay; when it is too late, "+remedy)
	case over:
		log.Error("certificate has expired: no relay takes it, and what is captured is kept as far as there is room", "remedy", remedy)
	}
}

var metricCertificate = prometheus.NewDesc("poip_agent_certificate_expiry_timestamp_seconds",
	"When the sensor's certificate ends, in seconds since 1970.", nil, nil)

// collect implements a part of prometheus.Collector.
func (r *Renewal) collect(out chan<- prometheus.Metric) {
	if r == nil {
		return
	}
	_, to := r.Life()
	out <- prometheus.MustNewConstMetric(metricCertificate, prometheus.GaugeValue, float64(to.Unix()))
}
