package capture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// tape records everything that a Source does, in order. Its fields are
// guarded by mu where nothing else is said.
type tape struct {
	mu      sync.Mutex
	changed sync.Cond
	infos   []Info
	events  []string // "open SUB", "packet SUB DATA", "empty SUB", "flush SUB"

	// Of the goroutine that runs the Source.
	room    [64 << 10]byte
	inPlace int // packets that came by Records
}

func newTape() *tape {
	t := &tape{}
	t.changed.L = &t.mu
	return t
}

func (t *tape) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	event := strings.TrimSpace(fmt.Sprintf(format, args...))
	if strings.HasPrefix(event, "flush") && strings.HasPrefix(t.latest(), "flush") {
		return // nothing has happened in between
	}
	t.events = append(t.events, event)
	t.changed.Broadcast()
}

func (t *tape) latest() string {
	if len(t.events) == 0 {
		return ""
	}
	return t.events[len(t.events)-1]
}

func (t *tape) open(i Info) Sink {
	t.note("open %s", i.Sub)
	t.mu.Lock()
	t.infos = append(t.infos, i)
	t.mu.Unlock()
	return reel{t, i.Sub}
}

// await returns when event has happened n times.
func (t *tape) await(event string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.count(event) < n {
		t.changed.Wait()
	}
}

// count counts the events that begin so. The caller holds mu.
func (t *tape) count(event string) (n int) {
	for _, e := range t.events {
		if strings.HasPrefix(e, event) {
			n++
		}
	}
	return n
}

func (t *tape) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.events, ", ")
}

// reel is the RecordSink of one stream.
type reel struct {
	tape *tape
	sub  string
}

func (r reel) Packet(sec, nsec, original uint32, data []byte) {
	r.tape.note("packet %s %d.%09d %d %s", r.sub, sec, nsec, original, data)
}
func (r reel) Lost(n uint64, cause wire.Cause) { r.tape.note("lost %s %d %v", r.sub, n, cause) }
func (r reel) Empty()                          { r.tape.note("empty %s", r.sub) }
func (r reel) Flush()                          { r.tape.note("flush %s", r.sub) }

func (r reel) Room() []byte { return r.tape.room[:] }
func (r reel) Records(run pcap.Run) {
	for records := r.tape.room[:run.Len]; len(records) > 0; {
		sec, nsec, captured, original := pcap.Record(records)
		length := pcap.RecordHeaderLen + captured
		r.Packet(sec, nsec, original, records[pcap.RecordHeaderLen:length])
		records = records[length:]
	}
	r.tape.inPlace += run.Count
}

func expectTape(t *testing.T, got *tape, want ...string) {
	t.Helper()
	if got.String() != strings.Join(want, ", ") {
		t.Errorf("\ngot  %s\nwant %s", got, strings.Join(want, ", "))
	}
}

// captureOf is a pcap file with a packet for each text, a second apart; an
// empty one is a packet without captured bytes.
func captureOf(texts ...string) []byte {
	file := pcap.AppendFileHeader(nil, pcap.LinkEthernet, 1000, true)
	for i, text := range texts {
		file = pcap.AppendRecord(file, uint32(i+1), 500, 100, []byte(text))
	}
	return file
}

// capturesFolder is where the captures for tests are.
func capturesFolder() string {
	if folder := os.Getenv("POIP_CAPTURES"); folder != "" {
		return folder
	}
	return filepath.Join("..", "..", "..", "shared", "captures")
}

// takeOf is a Filter that lets pass what contains a text.
func takeOf(text string) Take {
	return Take{Filter: func(context.Context, pcap.LinkType, uint32) (func(uint32, []byte) bool, error) {
		return func(_ uint32, data []byte) bool { return strings.Contains(string(data), text) }, nil
	}}
}
