package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"poip/internal/pcap"
)

// open opens the files, and reads their headers or makes up for them.
func (x *examination) open() {
	n, ok := x.found.name, false
	if x.found.index {
		var err error
		if x.index, err = x.fs.OpenFile(n.index(), os.O_RDONLY, 0); err != nil {
			x.opening("index", err)
			x.index = nil
		} else {
			b := make([]byte, headerLen)
			x.index.ReadAt(b, 0)
			if x.header, ok = parseHeader(b, n); ok {
				n = x.header.name()
				x.found.name = n
			}
		}
	}
	if !ok {
		x.problem("the index is missing, or its header is damaged")
		x.reindex = true
		x.header = x.missingHeader()
	}
	if x.header.flags&flagNoPackets != 0 {
		return
	}
	var err error
	if x.packets, err = x.fs.OpenFile(n.packets(x.header.generation), os.O_RDONLY, 0); err != nil {
		x.opening("packets", err)
		x.packets, x.repack, x.missing = nil, true, errors.Is(err, fs.ErrNotExist)
		return
	}
	if info, err := x.packets.Stat(); err == nil {
		x.size = info.Size()
	}
	x.readFileHeader(ok)
}

// opening notes why a file cannot be opened. For want of descriptors, or of the
// right to read it, says nothing about the file.
func (x *examination) opening(what string, err error) {
	x.problem("open %s: %w", what, err)
	if isShortage(err) || errors.Is(err, fs.ErrPermission) {
		x.impossible = fmt.Errorf("open %s of segment %s: %w", what, x.found.name, err)
	}
}

// missingHeader is what can be known of a segment without its index.
func (x *examination) missingHeader() header {
	n, p := x.found.name, x.before
	h := header{seq: n.seq, first: n.first, ordinal: p.ordinal, arrival: p.arrival}
	h.epoch = Epoch{ID: n.epoch, LinkType: pcap.LinkEthernet, Snaplen: pcap.MaxCaptured}
	if p.epoch != nil && p.epoch.ID == n.epoch {
		h.epoch, h.latest = *p.epoch, p.latest
	}
	if g := x.found.generations; len(g) > 0 {
		h.generation = g[len(g)-1]
	}
	if n.encrypted {
		h.flags = flagEncrypted
	}
	return h
}

// readFileHeader compares the header of the pcap file with the index's, or
// takes over what it says.
func (x *examination) readFileHeader(known bool) {
	b := make([]byte, pcap.FileHeaderLen)
	n, _ := x.packets.ReadAt(b, 0)
	whole := n == len(b)
	e := &x.header.epoch
	if !known && x.header.encrypted() && !x.header.parseEncrypted(b) && x.key != nil {
		x.header.encryption.key = x.key.id // nothing says which it was; it will open none
	}
	if !known && !x.header.encrypted() && whole {
		link, snaplen := pcap.LinkType(uint16(b[20])|uint16(b[21])<<8), uint32(b[16])|uint32(b[17])<<8|uint32(b[18])<<16|uint32(b[19])<<24
		if bytes.Equal(b, pcap.AppendFileHeader(nil, link, snaplen, true)) {
			e.LinkType, e.Snaplen = link, snaplen
			return
		}
	}
	if !whole || !bytes.Equal(b, x.header.fileHeader()) {
		x.problem("the header of the file of packets is damaged")
		x.repack, x.missing = true, true
	}
}

// unlock finds out how the packets are encrypted. It returns false where they
// are, and the key is not the one: then nothing can be said about them.
func (x *examination) unlock() (ok bool) {
	if x.trusting || x.size <= pcap.FileHeaderLen {
		return true // there is nothing to decrypt
	}
	c, err := x.key.cipher(&x.header)
	if err != nil {
		x.impossible = fmt.Errorf("segment %s: %w", x.found.name, err)
	}
	x.cipher = c
	return err == nil
}

// vouch says whether the seal vouches for the segment, so that nothing else
// has to be read.
func (x *examination) vouch() bool {
	if x.reindex || x.repack || x.whole || x.index == nil {
		return false
	}
	n := x.entriesInFile()
	var b [entryLen]byte
	if n == 0 || !x.readEntry(b[:], n-1) {
		return false
	}
	e, ok := parseEntry(b[:], x.found.name.seed())
	if !ok || e.kind != seal || e.first < x.header.first || e.ordinal < x.header.ordinal || x.limited && e.first > x.limit {
		return false
	}
	if x.packets != nil && x.size != int64(e.offset) {
		return false
	}
	x.sum, x.vouched = unseal(&e, n-1), true
	if x.readEntry(b[:], 0) {
		if first, ok := parseEntry(b[:], x.found.name.seed()); ok {
			x.sum.firstArrival = first.arrival
		}
	}
	return true
}

// entriesInFile is how many whole entries the index has room for.
func (x *examination) entriesInFile() int64 {
	if x.index == nil {
		return 0
	}
	info, err := x.index.Stat()
	if err != nil {
		return 0
	}
	return min(max(0, (info.Size()-headerLen)/entryLen), mostEntries)
}

func (x *examination) readEntry(b []byte, i int64) bool {
	n, _ := x.index.ReadAt(b, headerLen+i*entryLen)
	return n == len(b)
}

// scan calls do with each entry of the index until that returns false. ok says
// whether the entry is one.
func (x *examination) scan(do func(i int64, e *entry, ok bool) bool) {
	piece, seed := make([]byte, indexPiece), x.found.name.seed()
	for i, n := int64(0), x.entriesInFile(); i < n; {
		b := piece[:min(indexPiece, (n-i)*entryLen)]
		got, _ := x.index.ReadAt(b, headerLen+i*entryLen)
		clear(b[got:])
		for ; len(b) > 0; b = b[entryLen:] {
			e, ok := parseEntry(b, seed)
			if !do(i, &e, ok) {
				return
			}
			i++
		}
	}
}
