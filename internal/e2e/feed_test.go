package e2e

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"poip/internal/pcap"
)

// A feed is a sensor whose packets the test hands over one by one: an agent
// that reads a pcap from its standard input.
type feed struct {
	*process
	sent []byte // what was handed over, in the record form
	n    int
}

// startFeed starts an agent for the sensor, whose stream is SENSOR/feed. The
// relay knows the link type when it returns.
func (w *world) startFeed(r *relay, sensor, scheme string) *feed {
	w.t.Helper()
	begins := func(l logLine) bool { return l["msg"] == "stream begins" && l["sensor"] == sensor }
	before := r.Count(begins)
	f := w.startFeedAt(sensor, r.intake(scheme))
	eventually(w.t, "the relay knows the stream", func() bool { return r.Count(begins) > before })
	return f
}

// startFeedAt starts an agent with a way of its own to the relay.
func (w *world) startFeedAt(sensor, relayURL string) *feed {
	w.t.Helper()
	f := &feed{process: w.startAgent(sensor, w.agentTOML(sensor, relayURL, "name = \"feed\"\nstdin = true\n"))}
	f.write(pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, true))
	return f
}

// intake is the URL at which agents reach the relay.
func (r *relay) intake(scheme string) string {
	r.t.Helper()
	return scheme + "://" + r.address(scheme)
}

func (f *feed) write(b []byte) {
	f.t.Helper()
	if _, err := f.Stdin.Write(b); err != nil {
		f.t.Fatalf("feed the agent: %v", err)
	}
}

// packet hands over one packet, made at a time that only its number decides.
func (f *feed) packet() []byte {
	f.t.Helper()
	record := numbered(f.n)
	f.n++
	f.sent = append(f.sent, record...)
	f.write(record)
	return record
}

// micro is what analysts of a default listener get for what was handed over.
func (f *feed) micro() []byte { return micro(f.sent) }

func micro(records []byte) []byte {
	file := pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, false)
	return pcap.Convert(file, records, true, 65535)
}

// numbered is a record of an Ethernet frame with a UDP packet over IPv4 that
// holds n.
func numbered(n int) []byte {
	frame := []byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00" +
		"\x45\x00\x00\x24\x00\x00\x00\x00\x40\x11\x00\x00\xc6\x33\x64\x01\xc0\x00\x02\x01" +
		"\x30\x39\x30\x3a\x00\x10\x00\x00")
	frame = binary.BigEndian.AppendUint64(frame, uint64(n))
	at := feedEpoch.Add(time.Duration(n) * 1001 * time.Microsecond)
	return pcap.AppendRecord(nil, uint32(at.Unix()), uint32(at.Nanosecond()), uint32(len(frame)), frame)
}

// feedEpoch is the time of packet 0.
var feedEpoch = time.Date(2026, 11, 23, 10, 0, 0, 123456000, time.UTC)

// epochTime is a packet's time as tshark's frame.time_epoch prints it.
func epochTime(n int) string {
	at := feedEpoch.Add(time.Duration(n) * 1001 * time.Microsecond)
	return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond())
}

// overBoth runs a test with the agent's uplink over TLS on TCP, and over QUIC.
func overBoth(t *testing.T, test func(t *testing.T, scheme string)) {
	for _, scheme := range []string{"tls", "quic"} {
		t.Run(scheme, func(t *testing.T) { test(t, scheme) })
	}
}
