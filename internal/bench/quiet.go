//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"poip/internal/pcap"
)

// quietScenarios are many readers and little to read.
func quietScenarios(a amounts) []scenario {
	return []scenario{trickle(a), idle(a)}
}

func trickle(a amounts) scenario {
	claim := fmt.Sprintf("%d readers × 1000 pps: cores of all", a.many)
	return scenario{
		name:       "trickle",
		about:      fmt.Sprintf("veth at 1000 pps → TLS → relay → %d plain readers", a.many),
		columns:    []string{cores, relayLoad, lost, peakMiB, strangers},
		contenders: []contender{{name: "poip", needs: ourPrograms, run: trickleToMany(a)}},
		targets: []target{
			atMost(1.2, claim, ref{"poip", cores}),
			atMost(0, fmt.Sprintf("%d readers × 1000 pps: lost %%", a.many), ref{"poip", lost}),
		},
	}
}

func trickleToMany(a amounts) func(*stage) (sample, error) {
	w := wire{frame: 100, rate: 1000, last: a.delayLast}
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{})
		if err != nil {
			return nil, err
		}
		reader, err := s.end("reader", "read", "-packets", "-dial", local(d.plain), "-n", fmt.Sprint(a.many))
		if err != nil {
			return nil, err
		}
		if _, err := d.agent(agentOptions{captures: liveCapture("normal")}); err != nil {
			return nil, err
		}
		if _, err := reader.expect("ready", patience); err != nil {
			return nil, err
		}
		settle()
		return d.trickleLoad(w, reader, float64(a.many))
	}
}

func (d *deployment) trickleLoad(w wire, reader *process, readers float64) (sample, error) {
	d.mark()
	sent, took, err := w.load()
	if err != nil {
		return nil, err
	}
	drained()
	result := sample{
		cores:     d.cpu().Seconds() / took.Seconds(),
		relayLoad: d.cpu("relay").Seconds() / took.Seconds(),
		peakMiB:   float64(d.relay.peak()) / (1 << 20),
		strangers: d.noise(),
	}
	t, err := stopAndTally(reader)
	result[lost] = (1 - float64(t.Packets)/(sent*readers)) * 100
	return result, err
}

func idle(a amounts) scenario {
	const streams = 100
	claim := fmt.Sprintf("idle, %d readers, %d streams: cores of the relay", a.many, streams)
	return scenario{
		name:       "idle",
		about:      fmt.Sprintf("%d streams and %d readers, no traffic at all", streams, a.many),
		columns:    []string{relayLoad, peakMiB, strangers},
		contenders: []contender{{name: "poip", needs: ourPrograms, run: idleRelay(a, streams)}},
		targets:    []target{atMost(0.01, claim, ref{"poip", relayLoad})},
	}
}

// idleRelay has an agent with commands that give a file header and then hold
// their peace.
func idleRelay(a amounts, streams int) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{})
		if err != nil {
			return nil, err
		}
		header := filepath.Join(s.dir, "empty.pcap")
		if err := os.WriteFile(header, pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, true), 0o600); err != nil {
			return nil, err
		}
		var captures strings.Builder
		for i := range streams {
			fmt.Fprintf(&captures, "[[agent.capture]]\nname = \"c%d\"\ncommand = [\"sh\", \"-c\", %q]\n", i, "cat "+header+"; exec sleep 600")
		}
		if _, err := d.agent(agentOptions{captures: captures.String()}); err != nil {
			return nil, err
		}
		reader, err := s.end("reader", "read", "-dial", local(d.plain), "-n", fmt.Sprint(a.many))
		if err != nil {
			return nil, err
		}
		if _, err := reader.expect("ready", patience); err != nil {
			return nil, err
		}
		return d.idleLoad(a.delayLast)
	}
}

func (d *deployment) idleLoad(last time.Duration) (sample, error) {
	time.Sleep(3 * time.Second) // until nothing of the start is left
	d.mark()
	time.Sleep(last)
	return sample{
		relayLoad: d.cpu("relay").Seconds() / last.Seconds(),
		peakMiB:   float64(d.relay.peak()) / (1 << 20),
		strangers: d.noise(),
	}, alive(d.relay)
}
