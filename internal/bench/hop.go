//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const gib = 1 << 30

// patience is how long a contender may take for its work before it has failed.
const patience = 2 * time.Minute

// flow turns a reader's tally and what the crew has spent into a sample.
func (s *stage) flow(t tally) (sample, error) {
	if t.Bytes == 0 || t.Last <= t.First {
		return nil, fmt.Errorf("nothing was delivered")
	}
	delivered := float64(t.Bytes) / gib
	perGiB := func(names ...string) float64 { return s.cpu(names...).Seconds() / delivered }
	return sample{
		rate:      delivered / t.wall().Seconds(),
		mbits:     float64(t.Bytes) * 8 / 1e6 / t.wall().Seconds(),
		cost:      perGiB(),
		relayCost: perGiB("relay"),
		sendCost:  perGiB("sender", "agent"),
		readCost:  perGiB("reader"),
		strangers: s.noise(),
	}, nil
}

// hop is a sending end connected to a reading end and nothing between them.
// The transport, as arguments of both, is -tls, -quic or nothing.
func hop(transport []string, sender ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		at := local(s.port())
		reader, err := s.listeningReader(append(transport, "-listen", at)...)
		if err != nil {
			return nil, err
		}
		return s.pump(reader, append(append(sender, transport...), "-dial", at)...)
	}
}

// listeningReader starts a reading end that accepts.
func (s *stage) listeningReader(args ...string) (*process, error) {
	reader, err := s.end("reader", append([]string{"read"}, args...)...)
	if err != nil {
		return nil, err
	}
	_, err = reader.expect("up", 10*time.Second)
	return reader, err
}

// pump starts a sending end, lets it send everything once the route to the
// reader stands, and takes the sample.
func (s *stage) pump(reader *process, args ...string) (sample, error) {
	sender, err := s.end("sender", append([]string{"send"}, args...)...)
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
	t, err := tallyOf(reader, patience)
	if err != nil {
		return nil, fmt.Errorf("%w\nsender: %s", err, sender.stderr)
	}
	return s.flow(t)
}

// iperf is iperf3 with n streams for some time, and further arguments.
func iperf(n int, last time.Duration, args ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) { return s.iperfBetween("127.0.0.1", "127.0.0.1", n, last, args...) }
}

func (s *stage) iperfBetween(listen, dial string, n int, last time.Duration, args ...string) (sample, error) {
	port := strconv.Itoa(s.port())
	if _, err := s.start("reader", "iperf3", "-s", "-1", "-B", listen, "-p", port); err != nil {
		return nil, err
	}
	time.Sleep(200 * time.Millisecond) // it does not say when it listens
	out, err := os.Create(filepath.Join(s.dir, "iperf3.json"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.mark()
	args = append([]string{"iperf3", "-J", "-c", dial, "-p", port, "-P", strconv.Itoa(n),
		"-t", strconv.Itoa(max(1, int(last.Seconds())))}, args...)
	client, err := s.startWith("sender", nil, out, args...)
	if err != nil {
		return nil, err
	}
	if err := client.wait(patience); err != nil {
		return nil, err
	}
	t, err := readIperf(out.Name())
	if err != nil {
		return nil, err
	}
	return s.flow(t)
}

func readIperf(path string) (tally, error) {
	var said struct {
		End struct {
			Received struct {
				Bytes   int64   `json:"bytes"`
				Seconds float64 `json:"seconds"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return tally{}, err
	}
	err = json.Unmarshal(text, &said)
	return tally{Bytes: said.End.Received.Bytes, First: 1, Last: 1 + int64(said.End.Received.Seconds*1e9)}, err
}
