package journal

import (
	"fmt"
	"os"
)

// createSegment makes the files of a segment that is empty. The index is on the
// disk before there are packets: without it nobody could tell, after a power
// cut, which of them were never confirmed.
func createSegment(fsys FS, h *header, noSync bool) (packets, index File, err error) {
	n := h.name()
	if index, err = create(fsys, n.index(), h.append(nil)); err != nil {
		return nil, nil, fmt.Errorf("make segment: %w", err)
	}
	if !noSync {
		if err = index.Sync(); err == nil {
			err = fsys.SyncDir(".")
		}
	}
	if err == nil {
		packets, err = create(fsys, n.packets(h.generation), h.fileHeader())
	}
	if err != nil {
		index.Close()
		fsys.Remove(n.index()) // a leftover is dealt with when the journal is opened
		return nil, nil, fmt.Errorf("make segment: %w", err)
	}
	return packets, index, nil
}

// create makes a file that begins with b.
func create(fsys FS, name string, b []byte) (File, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		fsys.Remove(name)
		return nil, err
	}
	return f, nil
}

// writeSeal appends the seal to an index whose entries are all confirmed.
func writeSeal(index File, n name, sum *summary, noSync bool) error {
	var b [entryLen]byte
	e := sum.seal()
	e.put(b[:], n.seed())
	if _, err := index.WriteAt(b[:], headerLen+sum.entries*entryLen); err != nil {
		return err
	}
	if noSync {
		return nil
	}
	return index.Sync()
}
