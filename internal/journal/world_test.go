package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// testBatch makes a batch whose packets hold their numbers.
func testBatch(first wire.PacketNumber, count, length int) (header, records []byte) {
	frame := make([]byte, wire.BatchPrefixLen)
	base := int64(1700000000e9)
	for i := range count {
		n := int64(first) + int64(i)
		data := make([]byte, max(8, length))
		binary.BigEndian.PutUint64(data, uint64(n))
		t := base + n*1000
		frame = pcap.AppendRecord(frame, uint32(t/1e9), uint32(t%1e9), uint32(len(data)), data)
	}
	wire.SealBatch(frame, wire.BatchHeader{
		First: first, Count: uint32(count), Earliest: base + int64(first)*1000, Latest: base + (int64(first)+int64(count)-1)*1000,
	})
	payload := frame[wire.FrameHeaderLen:]
	return payload[:wire.BatchHeaderLen], payload[wire.BatchHeaderLen:]
}

// testKey is the same one for the same n.
func testKey(n byte) *Key {
	k, err := NewKey(bytes.Repeat([]byte{n}, KeyLen))
	if err != nil {
		panic(err)
	}
	return k
}

// bothWays runs a test with plain packets, and with encrypted ones.
func bothWays(t *testing.T, test func(t *testing.T, key *Key)) {
	t.Run("plain", func(t *testing.T) { test(t, nil) })
	t.Run("encrypted", func(t *testing.T) { test(t, testKey(1)) })
}

func testEpoch(id byte) Epoch {
	return Epoch{ID: wire.Epoch{id}, LinkType: pcap.LinkEthernet, Snaplen: 65535, Interface: "eth0", Agent: "test"}
}

func mustOpen(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

// readAll reads to the end of what is written.
func readAll(t fataler, r *Reader) (all []Entry, records [][]byte) {
	t.Helper()
	defer r.Close()
	for {
		c, err := r.Next(1 << 20)
		if errors.Is(err, io.EOF) {
			return all, records
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range c.Entries {
			all = append(all, e)
			records = append(records, append([]byte(nil), c.Records[e.Offset:e.Offset+e.Length]...))
		}
	}
}

// extent is how far entries go from packet 0 on, without a hole, and how many of
// the packets are lost.
func extent(t *testing.T, all []Entry) (next wire.PacketNumber, lost uint64) {
	t.Helper()
	for _, e := range all {
		if e.First != next {
			t.Fatalf("entry %+v, want it at %d", e, next)
		}
		next, lost = e.Next(), lost+e.Lost
	}
	return next, lost
}

// within waits for something that takes a moment.
func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 2 minutes for: %s", what)
		}
	}
}
