package pcap

import (
	"bytes"
	"io"
	"os"
	"testing"

	"poip/internal/poiptest/oracle"
)

// TestReadsEveryCaptureAsWiresharkDoes compares times, lengths, bytes and
// interfaces.
func TestReadsEveryCaptureAsWiresharkDoes(t *testing.T) {
	for _, c := range oracle.Captures(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(c.Path)
			if err != nil {
				t.Fatal(err)
			}
			check(t, readOurs(content), c.Read(t))
		})
	}
}

func check(t *testing.T, got, want oracle.Reading) {
	t.Helper()
	if d := oracle.Difference(got, want); d != "" {
		t.Error(d)
	}
}

// readOurs reads with the Reader of this package.
func readOurs(content []byte) oracle.Reading { return readAll(bytes.NewReader(content)) }

func readAll(in io.Reader) oracle.Reading {
	var got oracle.Reading
	r, err := NewReader(in)
	for err == nil {
		var p *Packet
		if p, err = r.Next(); err == nil {
			got.Frames = append(got.Frames, frameOf(r, p))
		}
	}
	if err != io.EOF {
		got.Complaint = err.Error()
	}
	return got
}

func frameOf(r *Reader, p *Packet) oracle.Frame {
	return oracle.Frame{
		Interface: p.Interface, Link: int(r.interfaces[p.Interface].LinkType),
		Sec: int64(p.Sec), Nsec: int64(p.Nsec), Original: int64(p.Original), Data: string(p.Data),
	}
}
