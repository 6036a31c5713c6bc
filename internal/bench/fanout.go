//go:build linux

package main

import (
	"fmt"
	"time"
)

// fanoutScenarios are one stream to many readers.
func fanoutScenarios(a amounts) []scenario {
	return []scenario{plainFanout(a), stalledScenario(a), tlsFanout(a), perPacketFanout(a, mixed), perPacketFanout(a, 64)}
}

func toReaders(who string, n int) string { return fmt.Sprintf("%s, %d", who, n) }

func plainFanout(a amounts) scenario {
	s := scenario{
		name:    "fanout",
		about:   "file → TLS → relay → plain TCP → that many readers; mixed packet sizes",
		columns: []string{rate, cost, sendCost, relayCost, readCost, peakMiB, strangers},
	}
	for _, n := range []int{1, 10, 100, a.many} {
		s.contenders = append(s.contenders,
			contender{name: toReaders("poip", n), needs: ourPrograms, run: poipFanout(a, n, false)},
			contender{name: toReaders("Go, one buffer", n), run: flood(n, "-bytes", fmt.Sprint(a.each(n)))})
		if n <= 100 { // iperf3 takes 128 at most
			s.contenders = append(s.contenders, contender{name: toReaders("iperf3", n), needs: []string{"iperf3"}, run: iperf(n, a.last)})
		}
	}
	hundred, many, peer := toReaders("poip", 100), toReaders("poip", a.many), toReaders("iperf3", 100)
	s.targets = []target{
		atLeast(1.3, "100 plain readers: rate against iperf3 -P 100", ref{hundred, rate}, ref{peer, rate}),
		atMost(0.85, "100 plain readers: CPU per GiB against iperf3 -P 100", ref{hundred, cost}, ref{peer, cost}),
		atLeast(0.95, fmt.Sprintf("%d plain readers: rate against 100", a.many), ref{many, rate}, ref{hundred, rate}),
		atMost(ringMiB+float64(a.many)*64/1024, fmt.Sprintf("%d plain readers: relay's peak MiB, 16 MiB ring + 64 KiB each", a.many), ref{many, peakMiB}),
	}
	return s
}

// ringMiB is the ring of relayOptions where they say nothing.
const ringMiB = 16

func tlsFanout(a amounts) scenario {
	a = a.over(4)
	s := scenario{
		name:    "fanout-tls",
		about:   "file → TLS → relay → TLS → that many readers; mixed packet sizes",
		columns: []string{rate, cost, sendCost, relayCost, readCost, peakMiB, strangers},
	}
	for _, n := range []int{1, 10, 100} {
		ours, peer := toReaders("poip", n), toReaders("Go TLS, one buffer", n)
		s.contenders = append(s.contenders,
			contender{name: ours, needs: ourPrograms, run: poipFanout(a, n, true)},
			contender{name: peer, run: flood(n, "-tls", "-bytes", fmt.Sprint(a.each(n)))})
		if n > 1 {
			s.targets = append(s.targets, atLeast(0.95, fmt.Sprintf("%d TLS readers: rate against Go writing one buffer", n), ref{ours, rate}, ref{peer, rate}))
		}
	}
	return s
}

// perPacketFanout stands beside one write per packet and reader, which is how
// pcap-broker goes about it, itself not to be had where this runs; measured
// next to each other it came to half of this stand-in.
func perPacketFanout(a amounts, size int) scenario {
	a = a.over(4)
	s := scenario{
		name:    "fanout-mixed",
		about:   "beside one write per packet and reader, as pcap-broker has it; mixed packet sizes",
		columns: []string{rate, cost, strangers},
	}
	bounds := map[int]float64{1: 3, 10: 10, 50: 10}
	if size != mixed {
		s.name, s.about = "fanout-64", "beside one write per packet and reader, as pcap-broker has it; 64-byte packets"
		bounds = map[int]float64{1: 50, 10: 50, 50: 50}
	}
	for _, n := range []int{1, 10, 50} {
		ours, peer := toReaders("poip", n), toReaders("a write per packet", n)
		s.contenders = append(s.contenders,
			contender{name: ours, needs: ourPrograms, run: poipFanoutOf(a, n, size, false)},
			contender{name: peer, run: floodPackets(n, size, a.last)})
		s.targets = append(s.targets, atLeast(bounds[n], fmt.Sprintf("%s: rate to %d readers", s.name, n), ref{ours, rate}, ref{peer, rate}))
	}
	return s
}

func poipFanout(a amounts, n int, tls bool) func(*stage) (sample, error) {
	return poipFanoutOf(a, n, mixed, tls)
}

func poipFanoutOf(a amounts, n, size int, tls bool) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(size, a.each(n))
		if err != nil {
			return nil, err
		}
		d, err := s.deploy(relayOptions{overflow: "block", start: "oldest", tls: tls})
		if err != nil {
			return nil, err
		}
		if tls {
			return d.deliver(n, file, "tls", "-tls")
		}
		return d.deliver(n, file, "tls")
	}
}

// flood writes one buffer to n readers, which dial.
func flood(n int, args ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		at := local(s.port())
		sender, err := s.end("sender", append([]string{"send", "-listen", at, "-n", fmt.Sprint(n), "-sendbuffer", "262144"}, args...)...)
		if err != nil {
			return nil, err
		}
		if _, err := sender.expect("up", 10*time.Second); err != nil {
			return nil, err
		}
		return s.readFrom(sender, n, at, args...)
	}
}

func (s *stage) readFrom(sender *process, n int, at string, args ...string) (sample, error) {
	reader, err := s.end("reader", append([]string{"read", "-dial", at, "-n", fmt.Sprint(n)}, args...)...)
	if err != nil {
		return nil, err
	}
	for _, p := range []*process{sender, reader} {
		if _, err := p.expect("ready", patience); err != nil {
			return nil, err
		}
	}
	s.mark()
	if err := sender.say("go"); err != nil {
		return nil, err
	}
	t, err := tallyOf(reader, patience)
	if err != nil {
		return nil, err
	}
	return s.flow(t)
}

// floodPackets writes each record of a capture to each reader in turn.
func floodPackets(n, size int, last time.Duration) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(size, 64<<20)
		if err != nil {
			return nil, err
		}
		return flood(n, "-file", file, "-records", "-last", last.String())(s)
	}
}
