package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// recorded is what a journal wrote before something happened to its files.
type recorded struct {
	d    *disk
	next wire.PacketNumber
	key  *Key
	gaps map[wire.PacketNumber]uint64 // that are no damage
	hurt map[string]bool              // files
}

// recordSegments makes four segments or so; the last is not concluded if torn.
func recordSegments(t testing.TB, key *Key, withGaps, torn bool) recorded {
	r := recorded{d: newDisk(), key: key, gaps: map[wire.PacketNumber]uint64{}, hurt: map[string]bool{}}
	j := openModel(t, r.d, Options{Segment: 6000, Key: key})
	j.Begin(testEpoch(1), 0)
	for i := range 24 {
		r.next = write(j, r.next, 1)
		if withGaps && i%4 == 1 {
			j.Gap(wire.Gap{First: r.next, Count: 2, Cause: wire.CauseKernelDrop}, 1)
			r.gaps[r.next] = 2
			r.next += 2
		}
		if i%3 == 2 {
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	before := r.d
	if torn {
		before = r.d.crash()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r.d = before
	return r
}

// harm does to the files what the script says: five bytes for each thing.
func (r *recorded) harm(script []byte, truncate bool) {
	for n := 0; len(script) >= 5 && n < 5; n, script = n+1, script[5:] {
		names := r.d.names(".")
		name := names[int(script[0])%len(names)]
		b := r.d.bytes(name)
		if len(b) == 0 {
			continue
		}
		r.hurt[name] = true
		at := int(binary.LittleEndian.Uint16(script[2:])) % len(b)
		switch {
		case !truncate || script[1]%4 < 2:
			b[at] ^= 1 << (script[4] % 8)
		case script[1]%4 == 2:
			r.d.put(name, b[:at])
		default:
			r.d.put(name, append(bytes.Clone(b), bytes.Repeat(script[4:5], at)...))
		}
	}
}

// unvouched says whether packet n is in a plain segment that was hurt in both of
// its files: where the index is lost, nothing says that a packet is as it was.
func (r *recorded) unvouched(n wire.PacketNumber) bool {
	var last name
	for _, file := range r.d.names(".") {
		if s, _, _, ok := parseFileName(file); ok && s.first <= n && s.first >= last.first {
			last = s
		}
	}
	return r.key == nil && r.hurt[last.index()] && r.hurt[last.packets(0)]
}

// read opens the journal and checks that what it holds is what was written:
// packets in their places, gaps of exact size, nothing twice. It returns how
// many packets are in gaps that damage made, and where the log ends.
func (r *recorded) read(t *testing.T) (damaged uint64, end wire.PacketNumber) {
	j, err := Open("model", Options{FS: r.d, Segment: 6000, Key: r.key, Damage: wire.CauseSpoolCorrupt})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	all, records := readAll(t, j.ReadOrdinal(0))
	for i, e := range all {
		if i > 0 && e.First != end {
			t.Fatalf("entry %d is at %d, want %d", i, e.First, end)
		}
		end = e.Next()
		switch {
		case e.Kind == Batch && r.unvouched(e.First):
		case e.Kind == Batch:
			checkPackets(t, e.First, records[i])
		case e.Kind == Gap && e.Cause == wire.CauseSpoolCorrupt:
			damaged += e.Lost
		case e.Kind == Gap && r.gaps[e.First] != e.Lost:
			t.Fatalf("gap of %d at %d, want %d", e.Lost, e.First, r.gaps[e.First])
		}
	}
	if end > r.next {
		t.Fatalf("the log ends at %d; no more than %d were written", end, r.next)
	}
	j.menders.Wait()
	return damaged, end
}

func checkPackets(t *testing.T, n wire.PacketNumber, records []byte) {
	for ; len(records) > 0; n++ {
		_, want := testBatch(n, 1, 100)
		if !bytes.HasPrefix(records, want) {
			t.Fatalf("packet %d is not what was written", n)
		}
		records = records[len(want):]
	}
}

func (r *recorded) checkRecovery(t *testing.T) (damaged uint64, end wire.PacketNumber) {
	damaged, end = r.read(t)
	if again, endAgain := r.read(t); again != damaged || endAgain != end {
		t.Fatalf("read again, %d packets are damaged and the log ends at %d; before %d and %d", again, endAgain, damaged, end)
	}
	for _, f := range packetFiles(r.d) {
		if b := r.d.bytes(f); len(b) < pcap.FileHeaderLen {
			t.Fatalf("%s is no pcap file", f)
		}
	}
	return damaged, end
}

var harms = [][]byte{
	{0, 0, 200, 1, 3},
	{1, 0, 0, 9, 7, 3, 1, 9, 9, 1},
	{2, 2, 60, 0, 0},
	{0, 3, 64, 0, 0},
	{7, 2, 200, 8, 0, 6, 0, 64, 8, 2},
	{4, 2, 0, 0, 0, 5, 2, 0, 0, 0},
}

// A history that was closed in good order, and then damaged: bits only, so that
// the index knows all but what is damaged itself.
func FuzzHistoryRecover(f *testing.F) {
	for _, script := range harms {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := recordSegments(t, nil, true, false)
		r.harm(script, false)
		if _, end := r.checkRecovery(t); end < r.next-60 {
			t.Fatalf("the log ends at %d of %d", end, r.next)
		}
	})
}

// A spool that was left in the middle of writing, and then cut, damaged, or
// prolonged with garbage anywhere.
func FuzzSpoolRecover(f *testing.F) {
	for _, script := range harms {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := recordSegments(t, nil, false, true)
		r.harm(script, true)
		r.checkRecovery(t)
	})
}

// Encrypted segments, closed in good order or left, and then damaged, cut, or
// prolonged with garbage: nothing but what was written comes out. Where all
// that says which key it was is damaged, it may be taken for another one.
func FuzzEncryptedRecover(f *testing.F) {
	for _, script := range harms {
		f.Add(script, false)
		f.Add(script, true)
	}
	f.Fuzz(func(t *testing.T, script []byte, torn bool) {
		r := recordSegments(t, testKey(1), !torn, torn)
		r.harm(script, torn)
		if j, err := Open("model", Options{FS: r.d.crash(), Key: r.key}); err == nil {
			j.Close()
		} else if errors.Is(err, ErrKey) {
			return
		}
		r.checkRecovery(t)
	})
}

// The names of files are part of what somebody may have put there.
func FuzzFileName(f *testing.F) {
	n := name{seq: 5, epoch: wire.Epoch{1, 2}, first: 77}
	for _, s := range []string{n.index(), n.packets(0), n.packets(3), n.draft(), name{seq: 5, first: 77, encrypted: true}.packets(3), "../x.idx", "lock"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, kind, g, ok := parseFileName(s)
		if !ok {
			return
		}
		if again := map[fileKind]string{indexFile: n.index(), packetFile: n.packets(g), draftFile: n.draft()}[kind]; again != s {
			t.Errorf("%q is taken for %q", s, again)
		}
	})
}
