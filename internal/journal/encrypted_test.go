package journal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// recordDir writes a journal of several segments to a folder, and closes it.
func recordDir(t testing.TB, dir string, key *Key) (next wire.PacketNumber) {
	t.Helper()
	j := mustOpen(t, dir, Options{Segment: 20 << 10, Key: key})
	j.Begin(testEpoch(1), 0)
	next = write(j, 0, 40)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return next
}

// contents is what all files below a folder hold.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var b []byte
			b, err = os.ReadFile(path)
			all[path] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// It fails when committer.open does not encrypt, and when batchCipher.stored
// leaves the batch's CRC in the index.
func TestEncryptedPacketsAreNotOnTheDisk(t *testing.T) {
	h, r := testBatch(0, 10, 100)
	seen := func(key *Key) (packets, crc int) {
		dir := t.TempDir()
		recordDir(t, dir, key)
		for _, text := range contents(t, dir) {
			packets += strings.Count(text, string(r[len(r)-100:]))
			crc += strings.Count(text, string(h[12:16]))
		}
		return packets, crc
	}
	if packets, crc := seen(nil); packets == 0 || crc == 0 {
		t.Errorf("plain: the packets are there %d times, their CRC %d times: the test proves nothing", packets, crc)
	}
	if packets, crc := seen(testKey(1)); packets+crc > 0 {
		t.Errorf("encrypted: the packets are there %d times, their CRC %d times", packets, crc)
	}
}

// What is read is what was appended, to the bit: headers, and records that
// stand one behind the other. It fails when Reader.check does not move records up,
// or leaves the CRC as it is in the index.
func TestDecryptedBatchesAreAsTheyCame(t *testing.T) {
	dir := t.TempDir()
	o := Options{Key: testKey(1)}
	j := mustOpen(t, dir, o)
	j.Begin(testEpoch(1), 0)
	var headers, records []byte
	n := wire.PacketNumber(0)
	for _, length := range []int{8, 100000, 9, 60} { // the second is longer than a chunk of memory
		for range 5 {
			h, r := testBatch(n, 5, length)
			j.Append(h, r, 1)
			headers, records = append(headers, h...), append(records, r...)
			n += 5
		}
	}
	for range 2 {
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		r := j.ReadOrdinal(0)
		c, err := r.Next(64 << 20)
		if err != nil || len(c.Entries) != 20 || !bytes.Equal(c.Records, records) {
			t.Fatalf("read %d entries, %d bytes, want 20 and %d: %v", len(c.Entries), len(c.Records), len(records), err)
		}
		for i, e := range c.Entries {
			var h [wire.BatchHeaderLen]byte
			e.PutHeader(h[:])
			if !bytes.Equal(h[:], headers[i*len(h):][:len(h)]) {
				t.Errorf("header %d is another", i)
			}
			if err := wire.VerifyBatch(h[:], c.Records[e.Offset:e.Offset+e.Length]); err != nil {
				t.Errorf("batch %d: %v", i, err)
			}
		}
		r.Close()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = mustOpen(t, dir, o)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// A journal says what it takes on the disk, and its segments keep to their
// size, however short batches are. It fails when committer.sizeOf forgets what
// encryption adds.
func TestSizesCountWhatEncryptionAdds(t *testing.T) {
	dir := t.TempDir()
	const segment = 8 << 10
	j := mustOpen(t, dir, Options{Segment: segment, Delay: time.Hour, Key: testKey(1)})
	j.Begin(testEpoch(1), 0)
	for n := range wire.PacketNumber(400) {
		h, r := testBatch(n, 1, 8)
		j.Append(h, r, 1)
	}
	if got, want := j.Pending(), int64(400*(8+16+entryLen+encryptedMore)+leastBytes); got != want {
		t.Errorf("%d bytes are pending, want %d", got, want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for path, text := range contents(t, dir) {
		if total += blocks(int64(len(text))); strings.HasSuffix(path, encryptedSuffix) {
			if n := len(text) + len(contents(t, dir)[indexOf(path)]) - headerLen; n > segment {
				t.Errorf("%s and its index take %d bytes, want at most %d", path, n, segment)
			}
		}
	}
	if got := j.Size(); got != total {
		t.Errorf("the journal says that it takes %d bytes, and takes %d", got, total)
	}
}

// Without the key that it takes, a journal is not opened, and not a byte of it
// is changed. It fails when recover does not call checkKey first, or unlock
// takes a key for the right one.
func TestAnotherKeyChangesNothing(t *testing.T) {
	all := func(pattern string, harm func(path string) error) func(dir string) error {
		return func(dir string) error {
			paths, err := filepath.Glob(filepath.Join(dir, pattern))
			for _, path := range paths {
				err = errors.Join(err, harm(path))
			}
			return err
		}
	}
	for state, harm := range map[string]func(dir string) error{
		"closed in good order":      func(string) error { return nil },
		"left in the middle":        all("*.idx", func(p string) error { return os.Truncate(p, headerLen+10*entryLen) }),
		"with damaged headers":      all("*.idx", func(p string) error { return flipFile(p, 100) }),
		"with damaged packets":      all("*.enc", func(p string) error { return flipFile(p, 3000) }),
		"with other damaged files":  all("*.enc", func(p string) error { return flipFile(p, 9) }),
		"without indexes":           all("*.idx", os.Remove),
		"with an index left undone": all("*.idx", func(p string) error { return os.WriteFile(p+draftSuffix, nil, 0o600) }),
	} {
		t.Run(state, func(t *testing.T) {
			dir := t.TempDir()
			recordDir(t, dir, testKey(1))
			if err := harm(dir); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			for given, key := range map[string]*Key{"none": nil, testKey(2).String(): testKey(2)} {
				j, err := Open(dir, Options{Key: key})
				if err == nil {
					j.Close()
				}
				sayKey(t, err, given)
				a, err := Inspect(dir, key)
				if err == nil {
					a.Close()
				}
				sayKey(t, err, given)
			}
			after := contents(t, dir)
			for path := range before {
				if before[path] != after[path] {
					t.Errorf("%s was changed", filepath.Base(path))
				}
			}
			if len(after) != len(before) {
				t.Errorf("the folder has %d files, before it had %d", len(after), len(before))
			}
			j := mustOpen(t, dir, Options{Key: testKey(1)}) // and the right one opens it still
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// sayKey wants an error that names the segment, both keys, and what to do.
func sayKey(t *testing.T, err error, given string) {
	t.Helper()
	if !errors.Is(err, ErrKey) {
		t.Errorf("with key %s: %v", given, err)
		return
	}
	for _, want := range []string{"segment 00000000", testKey(1).String(), given, "give the file"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

// An archive is open while the relay's key changes, or somebody verifies with
// another one.
func TestVerifyTakesTheKey(t *testing.T) {
	dir := t.TempDir()
	next := recordDir(t, dir, testKey(1))
	a, err := Inspect(dir, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Verify(func(s string, problem error) { t.Errorf("%s: %v", s, problem) }); err != nil {
		t.Error(err)
	}
	all, _ := readAll(t, a.Read())
	if len(all) != 40 || all[39].Next() != next {
		t.Errorf("the archive has %d entries", len(all))
	}
	a.key = testKey(2)
	if err := a.Verify(func(s string, problem error) { t.Errorf("%s: %v", s, problem) }); !errors.Is(err, ErrKey) {
		t.Errorf("with another key: %v", err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"+encryptedSuffix))
	if err := errorsOf(err, flipFile(paths[0], 5000)); err != nil {
		t.Fatal(err)
	}
	found := 0
	a.key = testKey(1)
	if err := a.Verify(func(string, error) { found++ }); err != nil || found != 1 {
		t.Errorf("%d pieces of damage, want one: %v", found, err)
	}
}

// Encryption begins with the next segment, and what is plain stays readable.
func TestEncryptionIsTurnedOn(t *testing.T) {
	dir := t.TempDir()
	next := recordDir(t, dir, nil)
	j := mustOpen(t, dir, Options{Segment: 20 << 10, Key: testKey(1)})
	next = write(j, next, 40)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	plain, _ := filepath.Glob(filepath.Join(dir, "*"+packetSuffix))
	encrypted, _ := filepath.Glob(filepath.Join(dir, "*"+encryptedSuffix))
	if len(plain) < 2 || len(encrypted) < 2 {
		t.Errorf("%d segments are plain, %d encrypted: no proof", len(plain), len(encrypted))
	}
	a, err := Inspect(dir, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if all, _ := readAll(t, a.Read()); all[len(all)-1].Next() != next {
		t.Errorf("the archive ends at %d, want %d", all[len(all)-1].Next(), next)
	}
	j = mustOpen(t, dir, Options{Segment: 20 << 10, Key: testKey(1)})
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// What holds no packets takes no key: so a spool that was delivered can have
// another one. It fails when unlock does not look at the size.
func TestWithoutPacketsAnyKeyWillDo(t *testing.T) {
	dir := t.TempDir()
	recordDir(t, dir, testKey(1))
	j := mustOpen(t, dir, Options{Key: testKey(1)})
	j.Begin(testEpoch(2), 0)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	j.TrimBelow(testEpoch(2).ID, 0)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []*Key{testKey(2), nil} {
		j := mustOpen(t, dir, Options{Key: key})
		if all, _ := readAll(t, j.ReadOrdinal(0)); len(all) != 0 || j.Trouble() != nil {
			t.Errorf("read %d entries, trouble %v", len(all), j.Trouble())
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Without their index, encrypted batches cannot be told apart. Their segment
// goes into quarantine; where the next one begins says how many were in it. It
// fails when rebuild does not look whether they are encrypted.
func TestALostIndexOfEncryptedPackets(t *testing.T) {
	for _, which := range []string{"in the middle", "at the end"} {
		t.Run(which, func(t *testing.T) {
			d := newDisk()
			want, next := record(t, d, 20<<10, testKey(1), 40)
			files := packetFiles(d)
			at := 1
			if which == "at the end" {
				at = len(files) - 1
			}
			n, _, _, _ := parseFileName(files[at])
			_, records := testBatch(n.first, 10, 100)
			copy(d.bytes(files[at])[pcap.FileHeaderLen:], records) // whatever it looks like
			lost, lostTo := n.first, next
			if at < len(files)-1 {
				following, _, _, _ := parseFileName(files[at+1])
				lostTo = following.first
			}
			if err := d.Remove(indexOf(files[at])); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				j := openModel(t, d, Options{Key: testKey(1)})
				damaged, end := covered(t, j, want)
				switch {
				case which == "at the end" && (damaged != 0 || end != lost):
					t.Errorf("%d packets are in gaps and the log ends at %d, want none and %d", damaged, end, lost)
				case which == "in the middle" && (damaged != uint64(lostTo-lost) || end != next):
					t.Errorf("%d packets are in gaps and the log ends at %d, want %d and %d", damaged, end, lostTo-lost, next)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if kept := d.names(quarantine); len(kept) != 1 || kept[0] != files[at] {
				t.Errorf("in quarantine is %q, want %s", kept, files[at])
			}
		})
	}
}

// One encrypted batch in the place of another is damage, be it of the same
// segment or of another, and of exact size.
func TestExchangedBatchesAreNotTakenForEachOther(t *testing.T) {
	for _, where := range []string{"of one segment", "of two segments"} {
		t.Run(where, func(t *testing.T) {
			d := newDisk()
			j := openModel(t, d, Options{Segment: 20 << 10, Key: testKey(1)})
			j.Begin(testEpoch(1), 0)
			next := write(j, 0, 40)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			files := packetFiles(d)
			first, second := d.bytes(files[0]), d.bytes(files[1])
			_, r := testBatch(0, 10, 100)
			length := len(r) + encryptedMore
			a, b := first[pcap.FileHeaderLen:][:length], second[pcap.FileHeaderLen:][:length]
			if where == "of one segment" {
				b = first[pcap.FileHeaderLen+length:][:length]
			}
			kept := bytes.Clone(a)
			copy(a, b)
			copy(b, kept)
			j = openModel(t, d, Options{Key: testKey(1)})
			all, _ := readAll(t, j.ReadOrdinal(0))
			if at, lost := extent(t, all); at != next || lost != 20 {
				t.Errorf("read up to %d of %d, %d lost; want 20", at, next, lost)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// It fails when anything that is listed here is left out of what a batch is
// bound to: by batchCipher.bind, or by the key of its segment.
func TestABatchIsBoundToItsPlace(t *testing.T) {
	h := header{seq: 3, epoch: testEpoch(1)}
	h.encrypt(testKey(1))
	batch, records := testBatch(7, 2, 100)
	b := wire.ParseBatchHeader(batch)
	e := entry{kind: Batch, first: b.First, count: uint64(b.Count), crc: b.CRC, earliest: b.Earliest, latest: b.Latest, length: uint32(len(records))}
	code, err := testKey(1).cipher(&h)
	if err != nil {
		t.Fatal(err)
	}
	sealed := code.seal(nil, &e, [][]byte{records[:50], records[50:]})
	e = code.stored(e)
	opens := func(h header, e entry) error {
		key := testKey(1)
		key.id = h.encryption.key // an attacker would see to it
		code, err := key.cipher(&h)
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := code.open(&e, bytes.Clone(sealed))
		if err == nil && !bytes.Equal(got, records) {
			t.Error("other records were read")
		}
		return err
	}
	if err := opens(h, e); err != nil {
		t.Fatalf("in its own place: %v", err)
	}
	for what, change := range map[string]func(h *header, e *entry){
		"sequence number": func(h *header, _ *entry) { h.seq++ },
		"epoch":           func(h *header, _ *entry) { h.epoch.ID[15]++ },
		"link type":       func(h *header, _ *entry) { h.epoch.LinkType++ },
		"salt":            func(h *header, _ *entry) { h.encryption.salt[0]++ },
		"key":             func(h *header, _ *entry) { h.encryption.key[0]++ },
		"first number":    func(_ *header, e *entry) { e.first++ },
		"count":           func(_ *header, e *entry) { e.count++ },
		"earliest time":   func(_ *header, e *entry) { e.earliest++ },
		"latest time":     func(_ *header, e *entry) { e.latest++ },
	} {
		h, e := h, e
		change(&h, &e)
		reason := "decrypt: "
		if strings.HasSuffix(what, "time") {
			reason = "CRC" // the one within
		}
		if err := opens(h, e); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("with another %s: %v, want %q", what, err, reason)
		}
	}
	other := h
	if other.encrypt(testKey(1)); other.encryption == h.encryption {
		t.Error("two segments have one salt")
	}
	if first, second := code.seal(nil, &e, nil), code.seal(nil, &e, nil); bytes.Equal(first, second) {
		t.Error("the same batch is encrypted alike twice")
	}
}

// Another program reads a segment by FORMAT.md alone.
func TestAnotherProgramDecryptsASegment(t *testing.T) {
	d := newDisk()
	key := bytes.Repeat([]byte{1}, KeyLen)
	want, _ := record(t, d, 20<<10, testKey(1), 10)
	file := d.bytes(packetFiles(d)[0])
	index := d.bytes(indexOf(packetFiles(d)[0]))
	le := binary.LittleEndian
	id, err := hkdf.Key(sha256.New, key, nil, "poip journal key identifier", 8)
	if err != nil || string(file[:8]) != "poip-enc" || le.Uint16(file[8:]) != 1 || !bytes.Equal(file[16:24], id) {
		t.Fatalf("the file begins with %q: %v", file[:24], err)
	}
	if fmt.Sprintf("%x", id) != "be4f56d564ceaeae" {
		t.Errorf("the key is called %x", id)
	}
	if !bytes.Equal(index[2032:2048], file[8:24]) || le.Uint16(index[10:])&64 == 0 {
		t.Error("the index says something else")
	}
	info := append([]byte("poip journal segment"), index[32:40]...)
	info = append(info, index[16:32]...)
	segmentKey, err := hkdf.Key(sha256.New, key, file[:24], string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(segmentKey)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	batches := 0
	for e := index[2048:]; len(e) > 0; e = e[64:] {
		if e[0] != 1 {
			continue
		}
		b := file[le.Uint32(e[56:]):][:le.Uint32(e[60:])]
		bound := append(bytes.Clone(e[8:16]), e[16:20]...)
		plain, err := aead.Open(nil, b[:12], b[12:], append(bound, 0, 0, 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		header := bytes.Clone(e[8:20])
		header = append(header, plain[:4]...)
		header = append(header, e[24:40]...)
		if err := wire.VerifyBatch(header, plain[4:]); err != nil || !bytes.Equal(plain[4:], want[wire.PacketNumber(le.Uint64(e[8:]))]) {
			t.Errorf("batch %d: %v", batches, err)
		}
		batches++
	}
	if batches != 10 {
		t.Errorf("%d batches", batches)
	}
}

func TestAKeyDoesNotPrint(t *testing.T) {
	k := testKey('K')
	type inside struct {
		Key    Key
		hidden Key
		P      *Key
		o      Options
	}
	shown := inside{*k, *k, k, Options{Key: k}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%c", "%U"} {
		for _, what := range []any{k, *k, shown, &shown} {
			fmt.Fprintf(&out, verb+"\n", what)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k, "value", *k, "in", shown)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "value", *k, "in", shown)
	if b, err := json.Marshal(shown); err == nil {
		out.Write(b)
	}
	for _, verb := range []string{"%s", "%x", "%X", "%d", "%b", "%o", "%U", "%v", "%#v"} {
		one := fmt.Sprintf(verb, []byte("KKK"))
		if one = strings.Trim(one, "[]"); strings.Contains(out.String(), one) {
			t.Errorf("it is there by %s, as %s", verb, one)
		}
	}
	if !strings.Contains(out.String(), k.id.String()) {
		t.Error("not even its identifier is there")
	}
	if _, err := NewKey(make([]byte, 31)); err == nil {
		t.Error("31 bytes are a key")
	}
}

// What could not be written is encrypted again, and nothing else with it. It
// fails when writeEncrypted keeps what an earlier write has left.
func TestEncryptedPacketsAreWrittenAgain(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Key: testKey(1)})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 2)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	full := true
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "write" && strings.HasSuffix(name, encryptedSuffix) && full {
			return syscall.ENOSPC
		}
		return nil
	}
	d.mu.Unlock()
	next = write(j, next, 3)
	if err := j.Sync(); !IsFull(err) {
		t.Fatalf("on a full disk: %v", err)
	}
	next = write(j, next, 3)
	d.mu.Lock()
	full = false
	d.mu.Unlock()
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
