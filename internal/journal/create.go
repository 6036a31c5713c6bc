package journal

import (
	"fmt"
	"os"
)

// createSegment makes the files of a segment that is empty.
func createSegment(fsys FS, h *header) (packets, index File, err error) {
	n := h.name()
	packets, err = create(fsys, n.packets(h.generation), h.fileHeader())
	if err != nil {
		return nil, nil, err
	}
	index, err = create(fsys, n.index(), h.append(nil))
	if err != nil {
		packets.Close()
		fsys.Remove(n.packets(h.generation)) // a leftover is dealt with when the journal is opened
		return nil, nil, err
	}
	return packets, index, nil
}

// create makes a file that begins with b.
func create(fsys FS, name string, b []byte) (File, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make segment: %w", err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		fsys.Remove(name)
		return nil, fmt.Errorf("begin segment: %w", err)
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
