//go:build linux

package main

import (
	"fmt"
	"net"
)

// stalledScenario is what a reader who reads nothing costs the others.
func stalledScenario(a amounts) scenario {
	const readers = 9
	alone, beside := toReaders("poip", readers), toReaders("poip, one stopped beside", readers)
	return scenario{
		name:    "stalled",
		about:   "file → TLS → relay → plain TCP → nine readers, while a tenth reads nothing; mixed packet sizes",
		columns: []string{rate, cost, relayCost, peakMiB, strangers},
		contenders: []contender{
			{name: alone, needs: ourPrograms, run: besideStalled(a, readers, 0)},
			{name: beside, needs: ourPrograms, run: besideStalled(a, readers, 1)},
		},
		targets: []target{atLeast(0.9, "nine readers beside a stopped one: rate against nine", ref{beside, rate}, ref{alone, rate})},
	}
}

// besideStalled has n readers get a file whole, while others have connected and
// read nothing. These are on a listener that skips what they do not take.
func besideStalled(a amounts, n, stalled int) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(mixed, a.each(n))
		if err != nil {
			return nil, err
		}
		d, err := s.deploy(relayOptions{overflow: "block", start: "oldest", past: "*/*"})
		if err != nil {
			return nil, err
		}
		for range stalled {
			conn, err := net.Dial("tcp", local(d.past))
			if err != nil {
				return nil, fmt.Errorf("connect who will read nothing: %w", err)
			}
			defer conn.Close()
		}
		return d.deliver(n, file, "tls")
	}
}
