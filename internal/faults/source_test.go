//go:build faults

package faults

import (
	"fmt"
	"net"
	"path/filepath"
	"sort"
	"sync"
	"testing"
	"time"

	"poip/internal/pcap"
)

// A source is where the packets of a capture come from. The agent runs a tap
// as the capture's command, and the tap carries over what this source, in the
// process of the test, sends; so it outlives the agent, and knows what it has
// handed over.
type source struct {
	t      *testing.T
	socket string
	ln     net.Listener

	// offset is how wrong the clock is that stamps packets; set before use.
	offset time.Duration

	mu     sync.Mutex
	conn   net.Conn      // guarded by mu: of the newest tap
	joined chan struct{} // guarded by mu: closed and replaced when a tap comes
	taps   int           // guarded by mu
	sent   uint64        // guarded by mu: packets handed over, the next one's counter
	chunks []chunk       // guarded by mu: what was handed over at once
	torn   int           // guarded by mu: chunks in which a tap broke
}

// A chunk is a run of packets with one time.
type chunk struct {
	first uint64
	at    time.Time
}

func newSource(t *testing.T, dir string) *source {
	t.Helper()
	socket := filepath.Join(dir, "source.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{t: t, socket: socket, ln: ln, joined: make(chan struct{})}
	done := make(chan struct{})
	go func() { defer close(done); s.accept() }()
	t.Cleanup(func() {
		ln.Close()
		<-done
		if s.conn != nil {
			s.conn.Close()
		}
	})
	return s
}

// accept lets taps in; a newer one replaces an older one.
func (s *source) accept() {
	header := pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, true)
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		if _, err := conn.Write(header); err != nil {
			conn.Close()
			continue
		}
		s.mu.Lock()
		if s.conn != nil {
			s.conn.Close()
		}
		s.conn = conn
		s.taps++
		close(s.joined)
		s.joined = make(chan struct{})
		s.mu.Unlock()
	}
}

// captureTOML is the capture's configuration.
func (s *source) captureTOML() string {
	return fmt.Sprintf("name = \"feed\"\ncommand = [%q, \"tap\", %q]\n", self, s.socket)
}

// tapCount is how many taps there have been.
func (s *source) tapCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taps
}

// tapped waits until a tap has come after the first n.
func (s *source) tapped(n int) {
	s.t.Helper()
	eventually(s.t, "the agent taps the source", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.taps > n
	})
}

// current is the newest tap that has not broken, and what tells of the next.
func (s *source) current() (net.Conn, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn, s.joined
}

// detach forgets the tap, whose agent is dead: a pipe that nobody reads any
// more would take a few packets yet.
func (s *source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// hand hands n packets over, or, where the tap breaks, perhaps some of them. It
// returns false when there is no tap.
func (s *source) hand(n int) bool {
	conn, _ := s.current()
	if conn == nil {
		return false
	}
	now := time.Now().Add(s.offset)
	var out []byte
	for i := range uint64(n) {
		out = appendRecord(out, s.sent+i, now)
	}
	s.mu.Lock()
	s.chunks = append(s.chunks, chunk{s.sent, now})
	s.sent += uint64(n)
	s.mu.Unlock()
	if _, err := conn.Write(out); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.torn++
		conn.Close()
		if s.conn == conn {
			s.conn = nil
		}
	}
	return true
}

// send hands exactly that many packets over, to taps that do not break.
func (s *source) send(n int) {
	s.t.Helper()
	for n > 0 {
		part := min(n, 200)
		if !s.hand(part) {
			s.t.Fatal("the source has lost its tap")
		}
		n -= part
	}
}

// trickle sends that many at a pace at which a disk takes them, 8 MB/s.
func (s *source) trickle(n int) {
	s.t.Helper()
	for ; n > 0; n -= 1000 {
		s.send(min(n, 1000))
		time.Sleep(50 * time.Millisecond)
	}
}

// flow hands that many packets a second over, whenever there is a tap, until
// stop is called.
func (s *source) flow(rate int) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		const beat = 5 * time.Millisecond
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for owed := 0.0; ; {
			select {
			case <-quit:
				return
			case <-tick.C:
				owed += float64(rate) * beat.Seconds()
				if n := int(owed); n > 0 {
					s.hand(n) // without a tap there are no packets
					owed -= float64(n)
				}
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { close(quit); <-done }) }
	s.t.Cleanup(stop)
	return stop
}

// total is how many packets were handed over.
func (s *source) total() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// timeOf is when the packet with that counter was handed over.
func (s *source) timeOf(counter uint64) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].first > counter })
	if i == 0 {
		return time.Time{}
	}
	return s.chunks[i-1].at
}
