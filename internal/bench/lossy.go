//go:build linux

package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"poip/internal/poiptest"
)

// lossyScenarios are one stream across a long, lossy link.
func lossyScenarios(a amounts) []scenario {
	return []scenario{lossyAt(a, 0.01), lossyAt(a, 0.1), lossyAt(a, 1)}
}

// lossyAt loses so many percent each way.
func lossyAt(a amounts, percent float64) scenario {
	link := poiptest.LossyConfig{Bandwidth: 500e6, RTT: 40 * time.Millisecond, Loss: percent / 100, Seed: 1}
	s := scenario{
		name:    fmt.Sprintf("lossy-%g", percent),
		about:   fmt.Sprintf("one stream over 500 Mbit/s, RTT 40 ms, %g %% lost each way", percent),
		columns: []string{mbits, strangers},
		rounds:  3,
		contenders: []contender{
			{name: "poip over TLS, BBR", needs: ourPrograms, run: lossyRoute(a, link, "tls", "bbr")},
			{name: "poip over TLS, CUBIC", needs: ourPrograms, run: lossyRoute(a, link, "tls", "cubic")},
			{name: "poip over QUIC", needs: ourPrograms, run: lossyRoute(a, link, "quic", "")},
			{name: "iperf3, BBR", needs: []string{"iperf3"}, run: lossyIperf(a, link, "bbr")},
			{name: "iperf3, CUBIC", needs: []string{"iperf3"}, run: lossyIperf(a, link, "cubic")},
			{name: "quic-go", run: lossyQUIC(a, link)},
		},
	}
	if percent == 1 {
		s.targets = []target{atLeast(50, "1 % loss, RTT 40 ms: rate with BBR against CUBIC",
			ref{"poip over TLS, BBR", mbits}, ref{"poip over TLS, CUBIC", mbits})}
	}
	return s
}

// across runs something across a link of its own.
func across(cfg poiptest.LossyConfig, run func(*stage, *poiptest.LossyLink) (sample, error)) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		link, err := poiptest.NewLossyLink(cfg)
		if err != nil {
			return nil, err
		}
		defer link.Close()
		return run(s, link)
	}
}

func lossyRoute(a amounts, cfg poiptest.LossyConfig, scheme, congestion string) func(*stage) (sample, error) {
	return across(cfg, func(s *stage, link *poiptest.LossyLink) (sample, error) {
		file, err := s.capture(mixed, a.stream)
		if err != nil {
			return nil, err
		}
		d, err := s.deploy(relayOptions{host: link.Far.String()})
		if err != nil {
			return nil, err
		}
		reader, err := s.end("reader", "read", "-dial", local(d.plain))
		if err != nil {
			return nil, err
		}
		if _, err := reader.expect("ready", 10*time.Second); err != nil {
			return nil, err
		}
		s.mark()
		agent, err := d.agent(agentOptions{
			relay:      fmt.Sprintf("%s://%s:%d", scheme, link.DialFar, d.intake),
			congestion: congestion,
			captures:   fileCapture(file),
		})
		if err != nil {
			return nil, err
		}
		result, err := s.readFor(reader, a.lossyLast)
		if err != nil {
			err = fmt.Errorf("%w\nagent: %s\nrelay: %s", err, agent.stderr, d.relay.stderr)
		}
		return result, err
	})
}

// readFor lets the reader read for some time. A header that came ahead of the
// first packet counts as the begin.
func (s *stage) readFor(reader *process, last time.Duration) (sample, error) {
	time.Sleep(last)
	t, err := stopAndTally(reader)
	if err != nil {
		return nil, err
	}
	return s.flow(t)
}

func lossyIperf(a amounts, cfg poiptest.LossyConfig, congestion string) func(*stage) (sample, error) {
	return across(cfg, func(s *stage, link *poiptest.LossyLink) (sample, error) {
		return s.iperfBetween(link.Far.String(), link.DialFar.String(), 1, a.lossyLast, "-C", congestion)
	})
}

func lossyQUIC(a amounts, cfg poiptest.LossyConfig) func(*stage) (sample, error) {
	return across(cfg, func(s *stage, link *poiptest.LossyLink) (sample, error) {
		port := strconv.Itoa(s.port())
		reader, err := s.listeningReader("-quic", "-listen", net.JoinHostPort(link.Far.String(), port))
		if err != nil {
			return nil, err
		}
		sender, err := s.end("sender", "send", "-quic", "-dial", net.JoinHostPort(link.DialFar.String(), port), "-bytes", fmt.Sprint(a.stream))
		if err != nil {
			return nil, err
		}
		for _, p := range []*process{sender, reader} {
			if _, err := p.expect("ready", 20*time.Second); err != nil {
				return nil, err
			}
		}
		s.mark()
		if err := sender.say("go"); err != nil {
			return nil, err
		}
		return s.readFor(reader, a.lossyLast)
	})
}
