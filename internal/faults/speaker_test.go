//go:build faults

package faults

import (
	"io"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// A speaker talks to a relay's intake with a sensor's certificate, and says
// what no agent would.
type speaker struct {
	t    *testing.T
	conn transport.Conn
}

// dial opens a byte stream with the certificate of the sensor.
func (s *site) dial(sensor string) speaker {
	s.t.Helper()
	fatal := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	keypair, err := certs.LoadKeypair(s.path(sensor, certs.SensorCert), s.path(sensor, certs.SensorKey))
	fatal(err)
	relays, err := certs.LoadAuthorities(s.path(sensor, certs.CAFile))
	fatal(err)
	endpoint, err := transport.ParseEndpoint("tls://" + thisMachine + ":" + intakePort)
	fatal(err)
	dialer := &transport.Dialer{TLS: certs.AgentTLS(keypair, relays, "localhost")}
	s.t.Cleanup(func() { dialer.Close() })
	conn, err := dialer.Open(s.t.Context(), endpoint)
	fatal(err)
	s.t.Cleanup(func() { conn.Abort() })
	return speaker{s.t, conn}
}

// say sends bytes as they are.
func (s speaker) say(b []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
	if err := s.conn.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

func (s speaker) hello(stream string, at time.Time) {
	s.t.Helper()
	s.say(wire.AppendHello(nil, wire.Hello{
		Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535, Stream: stream, SentAt: at.UnixNano(),
	}))
}

// answer reads the relay's next frame of a type, passing over others.
func (s speaker) answer(want wire.Type) []byte {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		var buf [wire.FrameHeaderLen]byte
		header, err := wire.ReadHeader(s.conn, &buf)
		if err != nil {
			s.t.Fatalf("hear from the relay: %v", err)
		}
		payload := make([]byte, header.Length)
		if _, err := io.ReadFull(s.conn, payload); err != nil {
			s.t.Fatal(err)
		}
		if header.Type == want {
			return payload
		}
	}
}

func (s speaker) accepted() {
	s.t.Helper()
	if _, err := wire.ParseHelloAck(s.answer(wire.TypeHelloAck)); err != nil {
		s.t.Fatal(err)
	}
}

// refused reads the refusal that has to come.
func (s speaker) refused() wire.Refusal {
	s.t.Helper()
	refusal, err := wire.ParseRefusal(s.answer(wire.TypeRefusal))
	if err != nil {
		s.t.Fatal(err)
	}
	return refusal
}
