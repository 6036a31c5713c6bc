//go:build faults

package faults

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"poip/internal/pcap"
)

// A ledger is what the relay's history says of one stream: epochs with their
// numbers and gaps, and the packets themselves, in order.
type ledger struct {
	epochs  []ledgerEpoch
	packets []packet
}

type ledgerEpoch struct {
	Epoch   string
	First   uint64 // the lowest number that history still has
	Next    uint64
	Packets uint64
	Gaps    []ledgerGap
}

// A ledgerGap of count 0 is a loss of which nobody knows how many packets it
// was. Times are nanoseconds since 1970; 0 is unknown.
type ledgerGap struct {
	First, Count     uint64
	Cause            string
	Earliest, Latest int64
}

// A packet is a frame of the source's that came out of history.
type packet struct {
	counter uint64
	at      time.Time
	frame   []byte
}

// history reads a stream's ledger, while the relay runs or after.
func (r *relay) history(name string) *ledger {
	r.site.t.Helper()
	l := &ledger{epochs: r.historyList(name)}
	export := exec.Command(program("poip-relay"), "history", "export", name, "--config", r.config, "-w", "-")
	out, err := export.StdoutPipe()
	if err != nil {
		r.site.t.Fatal(err)
	}
	var said bytes.Buffer
	export.Stderr = &said
	if err := export.Start(); err != nil {
		r.site.t.Fatal(err)
	}
	err = l.read(out)
	if endErr := export.Wait(); err != nil || endErr != nil {
		r.site.t.Fatalf("export %s from history: %v, %v: %s", name, err, endErr, said.String())
	}
	return l
}

func (r *relay) historyList(name string) []ledgerEpoch {
	r.site.t.Helper()
	var answer struct {
		Streams []struct {
			Stream string
			Epochs []ledgerEpoch
		}
	}
	out := r.site.must("poip-relay", "history", "list", "--config", r.config, "--json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		r.site.t.Fatalf("history list --json: %v\n%s", err, out)
	}
	for _, s := range answer.Streams {
		if s.Stream == name {
			return s.Epochs
		}
	}
	r.site.t.Fatalf("history list has no stream %s:\n%s", name, out)
	return nil
}

// read takes the packets of a capture file in.
func (l *ledger) read(in io.Reader) error {
	packets, err := pcap.NewReader(in)
	if err != nil {
		return err
	}
	for {
		p, err := packets.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("packet %d: %w", len(l.packets), err)
		}
		counter, ok := counterOf(p.Data)
		if !ok {
			return fmt.Errorf("packet %d is not the source's", len(l.packets))
		}
		l.packets = append(l.packets, packet{counter, time.Unix(int64(p.Sec), int64(p.Nsec)), bytes.Clone(p.Data)})
	}
}

// A balance is what came out of closing a ledger.
type balance struct {
	kept     uint64            // packets in history
	lost     map[string]uint64 // in counted gaps, by cause
	unknown  map[string]int    // gaps of unknown count, by cause
	vanished uint64            // packets that are nowhere but within the time of such a gap
	trimmed  uint64            // packets that history has deleted for lack of room
}

func (b balance) String() string {
	return fmt.Sprintf("%d kept, lost %v, losses of unknown count %v with %d packets, %d trimmed", b.kept, b.lost, b.unknown, b.vanished, b.trimmed)
}

func (b balance) allLost() (n uint64) {
	for _, count := range b.lost {
		n += count
	}
	return n
}

// close audits the ledger for a test, which fails for whatever is wrong.
func (l *ledger) close(t *testing.T, s *source) balance {
	t.Helper()
	b, err := l.audit(s)
	if err != nil {
		t.Errorf("the ledger does not close: %v", err)
	}
	t.Logf("%d handed over: %v", s.total(), b)
	return b
}

// audit walks the history of a source from the first packet to the last. Every
// number of an epoch is either a packet, whose counter and bytes are those that
// were handed over under it, or in a gap; no counter comes twice. Packets may
// be nowhere only between two epochs, and only within the time of a gap of
// unknown count that stands there.
func (l *ledger) audit(s *source) (balance, error) {
	w := walk{source: s, ledger: l, got: sha256.New(), want: sha256.New()}
	w.lost, w.unknown = map[string]uint64{}, map[string]int{}
	for _, e := range l.epochs {
		if err := w.epoch(e); err != nil {
			return w.balance, err
		}
	}
	if err := w.leap(s.total()); err != nil {
		return w.balance, err
	}
	if w.at != len(l.packets) {
		return w.balance, fmt.Errorf("history exports %d packets, and lists %d", len(l.packets), w.at)
	}
	if got, want := w.got.Sum(nil), w.want.Sum(nil); !bytes.Equal(got, want) {
		return w.balance, fmt.Errorf("SHA-256 of what survived is %x, want %x", got, want)
	}
	if total := w.kept + w.allLost() + w.vanished + w.trimmed; total != s.total() {
		return w.balance, fmt.Errorf("%d in all, but %d were handed over", total, s.total())
	}
	return w.balance, nil
}

// A walk is the state of an audit.
type walk struct {
	balance
	source *source
	ledger *ledger

	at        int         // in the ledger's packets
	counter   uint64      // that should come next
	crashes   []ledgerGap // gaps of unknown count since the last packet
	got, want hash.Hash
}

func (w *walk) epoch(e ledgerEpoch) error {
	if e.First != 0 && w.counter == 0 && len(w.ledger.packets) > 0 { // the rest was deleted
		w.counter = w.ledger.packets[0].counter
		w.trimmed = w.counter
	}
	begun := false // with a number that a packet or a counted gap has
	n, gaps := e.First, e.Gaps
	for n < e.Next || len(gaps) > 0 {
		switch {
		case len(gaps) > 0 && gaps[0].First == n:
			if !begun && gaps[0].Count > 0 {
				begun = true
				if err := w.leap(w.firstCounter(n, gaps)); err != nil {
					return err
				}
			}
			w.gap(gaps[0])
			n += gaps[0].Count
			gaps = gaps[1:]
		case n >= e.Next:
			return fmt.Errorf("epoch %s ends at %d, and has a gap at %d", e.Epoch, e.Next, gaps[0].First)
		case w.at == len(w.ledger.packets):
			return fmt.Errorf("history lists packet %d of epoch %s, and exports nothing more", n, e.Epoch)
		default:
			if !begun {
				begun = true
				if err := w.leap(w.ledger.packets[w.at].counter); err != nil {
					return err
				}
			}
			if err := w.packet(); err != nil {
				return fmt.Errorf("number %d of epoch %s: %w (%s)", n, e.Epoch, err, w.ledger.around(w.at))
			}
			n++
		}
	}
	return nil
}

// firstCounter is with which counter an epoch begins that begins with gaps: so
// much before that of the first packet after them.
func (w *walk) firstCounter(n uint64, gaps []ledgerGap) uint64 {
	var gone uint64
	for _, g := range gaps {
		if g.First != n+gone {
			break
		}
		gone += g.Count
	}
	if w.at < len(w.ledger.packets) && w.ledger.packets[w.at].counter >= w.counter+gone {
		return w.ledger.packets[w.at].counter - gone
	}
	return w.counter
}

func (w *walk) packet() error {
	p := w.ledger.packets[w.at]
	if p.counter != w.counter {
		return fmt.Errorf("it is packet %d of the source, want %d", p.counter, w.counter)
	}
	if at := w.source.timeOf(p.counter); !at.Equal(p.at) {
		return fmt.Errorf("packet %d has the time %v, was handed over with %v", p.counter, p.at, at)
	}
	w.got.Write(p.frame)
	w.want.Write(appendFrame(nil, p.counter, p.at))
	w.at++
	w.counter++
	w.kept++
	w.crashes = nil
	return nil
}

func (w *walk) gap(g ledgerGap) {
	if g.Count == 0 {
		w.unknown[g.Cause]++
		w.crashes = append(w.crashes, g)
		return
	}
	w.lost[g.Cause] += g.Count
	w.counter += g.Count
}

// leap passes over packets that are nowhere.
func (w *walk) leap(to uint64) error {
	if to < w.counter {
		return fmt.Errorf("packet %d comes again, or too late: %d was expected", to, w.counter)
	}
	for ; w.counter < to; w.counter++ {
		if at := w.source.timeOf(w.counter); !w.explained(at) {
			return fmt.Errorf("packet %d, of %d that are nowhere, was handed over at %d, and no gap of unknown count covers that: %+v",
				w.counter, to-w.counter, at.UnixNano(), w.crashes)
		}
		w.vanished++
	}
	return nil
}

// explained says whether a gap of unknown count covers the time.
func (w *walk) explained(at time.Time) bool {
	for _, g := range w.crashes {
		if g.Earliest != 0 && g.Latest != 0 && g.Earliest <= at.UnixNano() && at.UnixNano() <= g.Latest {
			return true
		}
	}
	return false
}

// around is what stands near a packet, for those who read a failure.
func (l *ledger) around(at int) string {
	var out string
	for i := max(0, at-3); i < min(len(l.packets), at+3); i++ {
		out += strconv.FormatUint(l.packets[i].counter, 10) + " "
	}
	for _, e := range l.epochs {
		out += fmt.Sprintf("\n  %s %d..%d, %d packets, gaps %+v", e.Epoch, e.First, e.Next, e.Packets, e.Gaps)
	}
	return out
}
