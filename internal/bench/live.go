//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// liveScenarios are packets from a wire to a reader behind a relay.
func liveScenarios(a amounts) []scenario {
	return []scenario{
		liveAt(wire{frame: 64, rate: 100e3, last: a.last}, 1),
		liveAt(wire{frame: 64, rate: 600e3, last: a.last}, 0.3),
		liveAt(wire{frame: 1400, rate: 200e3, last: a.last}, 0.8),
	}
}

func liveAt(w wire, bound float64) scenario {
	what := fmt.Sprintf("%.0f kpps of %d bytes", w.rate/1e3, w.frame)
	return scenario{
		name:    fmt.Sprintf("live-%.0fx%d", w.rate/1e3, w.frame),
		about:   "veth → TLS → relaying process → plain TCP → one reader; " + what,
		columns: []string{seconds, nanos, kpps, lost, strangers},
		contenders: []contender{
			{name: "poip", needs: ourPrograms, run: liveRoute(w)},
			{name: "tcpdump -U | socat", needs: []string{"tcpdump", "socat"}, run: liveByPeers(w, "-U")},
			{name: "tcpdump | socat", needs: []string{"tcpdump", "socat"}, run: liveByPeers(w)},
		},
		targets: []target{
			atMost(0, "live, "+what+": lost %", ref{"poip", lost}),
			atMost(bound, "live, "+what+": CPU per packet against tcpdump -U | socat", ref{"poip", nanos}, ref{"tcpdump -U | socat", nanos}),
		},
	}
}

func liveRoute(w wire) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{memory: "64MiB"})
		if err != nil {
			return nil, err
		}
		reader, err := s.end("reader", "read", "-packets", "-dial", local(d.plain))
		if err != nil {
			return nil, err
		}
		if _, err := d.agent(agentOptions{captures: liveCapture("normal")}); err != nil {
			return nil, err
		}
		return s.liveLoad(w, reader)
	}
}

// liveByPeers has tcpdump write into a TLS pipe, another socat relay it, and
// our reader read it.
func liveByPeers(w wire, args ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		from, to := local(s.port()), local(s.port())
		reader, err := s.listeningReader("-packets", "-listen", to)
		if err != nil {
			return nil, err
		}
		if err := startSocat(s, from, to); err != nil {
			return nil, err
		}
		if err := awaitListener(from); err != nil {
			return nil, err
		}
		argv := append([]string{"tcpdump", "-i", wireOut, "-n", "-Z", "root", "-w", "-"}, args...)
		_, err = s.pipe("tcpdump", "uplink", argv,
			[]string{"socat", "-u", "-b", "262144", "-", "OPENSSL:" + from + ",verify=0"})
		if err != nil {
			return nil, err
		}
		return s.liveLoad(w, reader)
	}
}

func (s *stage) liveLoad(w wire, reader *process) (sample, error) {
	if _, err := reader.expect("ready", patience); err != nil {
		return nil, err
	}
	settle()
	s.mark()
	sent, took, err := w.load()
	if err != nil {
		return nil, err
	}
	drained()
	spent := s.cpu()
	t, err := stopAndTally(reader)
	return s.captured(w, float64(t.Packets), sent, took, spent), err
}

// awaitListener waits, without connecting, until somebody listens on TCP.
func awaitListener(address string) error {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	listening := fmt.Sprintf(":%04X 00000000:0000 0A", port) // see tcp(7), /proc/net/tcp
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if table, err := os.ReadFile("/proc/net/tcp"); err == nil && strings.Contains(string(table), listening) {
			return nil
		}
	}
	return fmt.Errorf("nobody listens on %s", address)
}
