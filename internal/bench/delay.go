//go:build linux

package main

import (
	"fmt"
	"math"
	"net"
	"time"
)

// delayScenarios are how long a packet takes from the wire to the analyst.
func delayScenarios(a amounts) []scenario {
	return []scenario{
		delayAt(wire{frame: 100, rate: 10, last: a.delayLast}),
		delayAt(wire{frame: 100, rate: 1000, last: a.last}),
	}
}

func delayAt(w wire) scenario {
	const immediate = "tcpdump -U --immediate-mode | nc"
	what := fmt.Sprintf("delay at %.0f pps", w.rate)
	return scenario{
		name:    fmt.Sprintf("delay-%.0f", w.rate),
		about:   what + ", from the wire to the reader, ms",
		columns: []string{median, tailDelay, lost, cores, strangers},
		contenders: []contender{
			{name: "poip, normal", needs: ourPrograms, run: delayByPoip(w, "normal")},
			{name: "poip, low", needs: ourPrograms, run: delayByPoip(w, "low")},
			{name: "tcpdump -U | nc", needs: []string{"tcpdump", "nc"}, run: delayByTcpdump(w)},
			{name: immediate, needs: []string{"tcpdump", "nc"}, run: delayByTcpdump(w, "--immediate-mode")},
		},
		targets: []target{
			atMost(0, what+", latency normal: lost %", ref{"poip, normal", lost}),
			atMost(0, what+", latency low: lost %", ref{"poip, low", lost}),
			atMost(8, what+", latency normal: p99 in ms", ref{"poip, normal", tailDelay}),
			atMost(2.5, what+", latency low: p50 against tcpdump --immediate-mode", ref{"poip, low", median}, ref{immediate, median}),
			atMost(2.5, what+", latency low: p99 against tcpdump --immediate-mode", ref{"poip, low", tailDelay}, ref{immediate, tailDelay}),
		},
	}
}

func delayByPoip(w wire, latency string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{})
		if err != nil {
			return nil, err
		}
		reader, err := s.end("reader", "delay", "-dial", local(d.plain))
		if err != nil {
			return nil, err
		}
		if _, err := d.agent(agentOptions{captures: liveCapture(latency)}); err != nil {
			return nil, err
		}
		return s.delayLoad(w, reader)
	}
}

func delayByTcpdump(w wire, args ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		at := local(s.port())
		reader, err := s.end("reader", "delay", "-listen", at)
		if err != nil {
			return nil, err
		}
		if _, err := reader.expect("up", 10*time.Second); err != nil {
			return nil, err
		}
		host, port, _ := net.SplitHostPort(at)
		argv := append([]string{"tcpdump", "-i", wireOut, "-n", "-Z", "root", "-U", "-w", "-"}, args...)
		if _, err := s.pipe("tcpdump", "uplink", argv, []string{"nc", host, port}); err != nil {
			return nil, err
		}
		return s.delayLoad(w, reader)
	}
}

func (s *stage) delayLoad(w wire, reader *process) (sample, error) {
	if _, err := reader.expect("ready", 10*time.Second); err != nil {
		return nil, err
	}
	settle()
	s.mark()
	sent, took, err := w.load()
	if err != nil {
		return nil, err
	}
	spent, byRelay, noise := s.cpu(), s.cpu("relay"), s.noise()
	time.Sleep(1500 * time.Millisecond) // tcpdump holds packets back for up to a second
	t, err := stopAndTally(reader)
	if err != nil {
		return nil, err
	}
	result, err := delaysOf(t, sent)
	if err == nil {
		result[cores], result[relayLoad] = spent.Seconds()/took.Seconds(), byRelay.Seconds()/took.Seconds()
		result[strangers] = noise
	}
	return result, err
}

// delaysOf is how late those packets were that arrived, and how many did not.
func delaysOf(t tally, sent float64) (sample, error) {
	if t.Packets == 0 {
		return nil, fmt.Errorf("none of %.0f packets arrived", sent)
	}
	return sample{
		median:    quantile(t.Delays, 0.5),
		tailDelay: quantile(t.Delays, 0.99),
		lost:      (1 - float64(t.Packets)/sent) * 100,
	}, nil
}

// quantile is the least of the sorted values that no less than a share q of them
// reach at most: of a hundred, 0.99 is the last but one.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
