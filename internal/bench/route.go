//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// routeScenarios are the whole way of one stream: a file in memory at the
// sensor, a secured hop, a relaying process, a plain hop, one reader.
func routeScenarios(a amounts) []scenario {
	return []scenario{tlsRoute(a), quicRoute(a)}
}

const (
	bareTLS = "bare: Go TLS, file to reader"
	bareTCP = "bare: Go TCP, memory to reader"
)

func tlsRoute(a amounts) scenario {
	ours := ref{"poip", cost}
	return scenario{
		name:    "route",
		about:   "file → TLS → relay → plain TCP → one reader; mixed packet sizes",
		columns: []string{rate, cost, sendCost, relayCost, readCost, strangers},
		contenders: []contender{
			{name: "poip", needs: ourPrograms, run: poipRoute(a, relayOptions{}, "tls")},
			{name: "poip, format pcap-ns", needs: ourPrograms, run: poipRoute(a, relayOptions{format: "pcap-ns"}, "tls")},
			{name: "socat, 256 KiB buffers", needs: []string{"socat"}, run: peerRoute(a, startSocat)},
			{name: "stunnel4", needs: []string{"stunnel4"}, run: peerRoute(a, startStunnel)},
			{name: bareTLS, run: bareFile(a, "-tls")},
			{name: bareTCP, run: hop(nil, "-bytes", fmt.Sprint(a.stream))},
		},
		targets: []target{
			atMost(1.1, "route over TLS: CPU per GiB against bare TLS + bare TCP", ours, ref{bareTLS, cost}, ref{bareTCP, cost}),
			atMost(0.8, "route over TLS: CPU per GiB against socat, 256 KiB buffers", ours, ref{"socat, 256 KiB buffers", cost}),
			atMost(0.6, "route over TLS: CPU per GiB against stunnel4", ours, ref{"stunnel4", cost}),
		},
	}
}

func quicRoute(a amounts) scenario {
	a = a.over(4)
	const bare = "bare: quic-go, file to reader"
	return scenario{
		name:    "route-quic",
		about:   "file → QUIC → relay → plain TCP → one reader; mixed packet sizes",
		columns: []string{rate, cost, sendCost, relayCost, readCost, strangers},
		contenders: []contender{
			{name: "poip", needs: ourPrograms, run: poipRoute(a, relayOptions{}, "quic")},
			{name: bare, run: bareFile(a, "-quic")},
		},
		targets: []target{atLeast(0.9, "route over QUIC: rate against bare quic-go", ref{"poip", rate}, ref{bare, rate})},
	}
}

var ourPrograms = []string{"poip-relay", "poip-agent"}

// poipRoute sends a file through an agent and a relay. The listener blocks
// rather than skips, so every byte must arrive.
func poipRoute(a amounts, o relayOptions, scheme string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(mixed, a.stream)
		if err != nil {
			return nil, err
		}
		o.overflow, o.start = "block", "oldest"
		d, err := s.deploy(o)
		if err != nil {
			return nil, err
		}
		return d.deliver(1, file, scheme)
	}
}

// deliver has n readers connect, sends a file to them all, and takes the
// sample. The agent's start and its handshake count.
func (d *deployment) deliver(n int, file, scheme string, readerArgs ...string) (sample, error) {
	reader, err := d.end("reader", append([]string{"read", "-dial", local(d.plain), "-n", fmt.Sprint(n)}, readerArgs...)...)
	if err != nil {
		return nil, err
	}
	if _, err := reader.expect("ready", patience); err != nil {
		return nil, err
	}
	d.mark()
	agent, err := d.agent(agentOptions{relay: scheme + "://" + local(d.intake), captures: fileCapture(file)})
	if err != nil {
		return nil, err
	}
	t, err := tallyOf(reader, patience)
	if err != nil {
		return nil, fmt.Errorf("%w\nagent: %s\nrelay: %s", err, agent.stderr, d.relay.stderr)
	}
	if err := agent.wait(patience); err != nil {
		return nil, err
	}
	took := time.Since(d.marked)
	if err := d.allArrived(t, n, file); err != nil {
		return nil, err
	}
	result, err := d.flow(t)
	if err == nil {
		result[ackedRate] = float64(t.Least) / gib / took.Seconds()
		result[peakMiB] = float64(d.relay.peak()) / (1 << 20)
	}
	return result, err
}

func (d *deployment) allArrived(t tally, n int, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if t.Bytes != info.Size()*int64(n) || t.Least != info.Size() {
		return fmt.Errorf("%d readers of %d bytes got %d in all, the least %d", n, info.Size(), t.Bytes, t.Least)
	}
	return nil
}

// bareFile is one hop that reads the same file.
func bareFile(a amounts, transport string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(mixed, a.stream)
		if err != nil {
			return nil, err
		}
		return hop([]string{transport}, "-file", file)(s)
	}
}

// peerRoute puts another relaying process between our ends.
func peerRoute(a amounts, start func(s *stage, from, to string) error) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		file, err := s.capture(mixed, a.stream)
		if err != nil {
			return nil, err
		}
		from, to := local(s.port()), local(s.port())
		reader, err := s.listeningReader("-listen", to)
		if err != nil {
			return nil, err
		}
		if err := start(s, from, to); err != nil {
			return nil, err
		}
		return s.pump(reader, "-tls", "-dial", from, "-file", file)
	}
}

func startSocat(s *stage, from, to string) error {
	_, port, _ := net.SplitHostPort(from)
	_, err := s.start("relay", "socat", "-u", "-b", "262144",
		fmt.Sprintf("OPENSSL-LISTEN:%s,bind=127.0.0.1,reuseaddr,verify=0,cert=%s,key=%s", port, s.cert, s.key), "TCP:"+to)
	return err
}

func startStunnel(s *stage, from, to string) error {
	config := filepath.Join(s.dir, "stunnel.conf")
	text := fmt.Sprintf("foreground = yes\npid =\ndebug = err\n[bench]\naccept = %s\nconnect = %s\ncert = %s\nkey = %s\nciphersuites = TLS_AES_128_GCM_SHA256\n",
		from, to, s.cert, s.key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := s.start("relay", "stunnel4", config)
	return err
}
