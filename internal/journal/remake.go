package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A remake is another generation of a segment. The new index takes the old
// one's place in one step, by renaming; it says which pcap file is meant.
type remake struct {
	fs         FS
	noSync     bool
	old        header
	header     header  // of the new generation
	entries    []entry // offsets are of the old pcap file; changed to those of the new one
	sum        summary // that they come to
	repack     bool    // make a new pcap file
	quarantine bool    // keep the old files aside, rather than delete them
}

// make does it. On failure the old generation stands.
func (m *remake) make() error {
	n := m.header.name()
	if m.repack {
		if err := m.copyPackets(); err != nil {
			m.fs.Remove(n.packets(m.header.generation))
			return err
		}
	}
	if err := m.writeIndex(); err != nil {
		m.fs.Remove(n.draft())
		return err
	}
	if m.quarantine {
		m.keepIndex()
	}
	if m.repack { // the index must not come to stay before the file that it describes
		if err := m.syncDir("."); err != nil {
			return fmt.Errorf("replace packets: %w", err)
		}
	}
	if err := m.fs.Rename(n.draft(), n.index()); err != nil {
		return fmt.Errorf("replace index: %w", err)
	}
	if err := m.syncDir("."); err != nil {
		return fmt.Errorf("replace index: %w", err)
	}
	if m.repack || m.header.flags&flagNoPackets != 0 {
		m.leaveOld()
	}
	return nil
}

func (m *remake) syncDir(name string) error {
	if m.noSync {
		return nil
	}
	return m.fs.SyncDir(name)
}

func (m *remake) sync(f File) error {
	if m.noSync {
		return nil
	}
	return f.Sync()
}

// copyPackets writes a pcap file of the batches that are kept.
func (m *remake) copyPackets() error {
	to, err := create(m.fs, m.header.name().packets(m.header.generation), m.header.fileHeader())
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := m.fs.OpenFile(m.header.name().packets(m.old.generation), os.O_RDONLY, 0)
	if err == nil {
		defer from.Close()
	}
	size := int64(pcap.FileHeaderLen)
	buf := make([]byte, wire.MaxBatchLen)
	for i := range m.entries {
		e := &m.entries[i]
		if b := buf[:e.length]; e.kind == Batch {
			if from == nil {
				return fmt.Errorf("copy packets: %w", err)
			}
			if _, err := from.ReadAt(b, int64(e.offset)); err != nil {
				return fmt.Errorf("copy packets: %w", err)
			}
			if _, err := to.WriteAt(b, size); err != nil {
				return fmt.Errorf("copy packets: %w", err)
			}
		}
		e.offset = uint32(size)
		size += int64(e.length)
	}
	m.sum.size = size
	return m.sync(to)
}

// writeIndex writes the new index under the name of a draft.
func (m *remake) writeIndex() error {
	n := m.header.name()
	if err := m.fs.Remove(n.draft()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := create(m.fs, n.draft(), m.header.append(nil))
	if err != nil {
		return err
	}
	defer f.Close()
	b, seed := make([]byte, 0, indexPiece), n.seed()
	at := int64(headerLen)
	flush := func() error {
		_, err := f.WriteAt(b, at)
		at += int64(len(b))
		b = b[:0]
		return err
	}
	for i := range m.entries {
		e := m.entries[i]
		e.flags &^= flagConfirmed
		b = append(b, make([]byte, entryLen)...)
		e.put(b[len(b)-entryLen:], seed)
		if len(b) == indexPiece {
			if err := flush(); err != nil {
				return fmt.Errorf("write index: %w", err)
			}
		}
	}
	m.sum.entries = int64(len(m.entries))
	e := m.sum.seal()
	b = append(b, make([]byte, entryLen)...)
	e.put(b[len(b)-entryLen:], seed)
	if err := flush(); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return m.sync(f)
}

// keepIndex puts a copy of the old index into quarantine, as far as that goes.
func (m *remake) keepIndex() {
	if err := m.fs.Mkdir(quarantine, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return
	}
	n := m.header.name()
	from, err := m.fs.OpenFile(n.index(), os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer from.Close()
	to, err := create(m.fs, fmt.Sprintf("%s/%s.%d%s", quarantine, n, m.header.generation, indexSuffix), nil)
	if err != nil {
		return
	}
	defer to.Close()
	buf := make([]byte, indexPiece)
	for at := int64(0); at < mostEntries*entryLen; {
		got, _ := from.ReadAt(buf, at)
		if got == 0 {
			return
		}
		if _, err := to.WriteAt(buf[:got], at); err != nil {
			return
		}
		at += int64(got)
	}
}

// leaveOld deletes the old pcap file or puts it into quarantine.
func (m *remake) leaveOld() {
	if m.old.flags&flagNoPackets != 0 || m.old.generation == m.header.generation && m.header.flags&flagNoPackets == 0 {
		return
	}
	setAside(m.fs, m.header.name().packets(m.old.generation), m.quarantine)
	m.syncDir(".")
	if m.quarantine {
		m.syncDir(quarantine)
	}
}

// setAside deletes a file or puts it into quarantine. What fails is done again
// when the journal is opened.
func setAside(fsys FS, name string, keep bool) {
	if keep {
		if err := fsys.Mkdir(quarantine, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			if fsys.Rename(name, quarantine+"/"+name) == nil {
				return
			}
		}
	}
	fsys.Remove(name)
}
