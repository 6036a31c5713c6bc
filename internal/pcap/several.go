package pcap

import (
	"errors"
	"io"
)

// SeveralInterfaces tells whether a capture file declares more than one
// interface anywhere. It looks at the headers of blocks alone, up to the second
// interface or where the file cannot be read any further. Errors are left to
// who reads the packets.
func SeveralInterfaces(file io.ReadSeeker) bool {
	r := &Reader{in: newWindow(file)}
	n := &ng{r: r}
	for len(r.interfaces) < 2 {
		b, err := n.header()
		if err == nil {
			err = n.survey(b, file)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// errNoSection ends the survey of a file that is not pcapng.
var errNoSection = errors.New("no section")

// survey goes past one block and reads it if it matters to the number of
// interfaces.
func (n *ng) survey(b block, file io.Seeker) error {
	switch {
	case b.kind == blockSection:
		return n.section(b)
	case b.at == 0:
		return errNoSection
	case b.kind == blockInterface:
		return n.declare(b)
	}
	return n.r.in.leap(int64(b.length), file)
}

// leap is skip for an input in which one can seek.
func (w *window) leap(n int64, file io.Seeker) error {
	if held := int64(w.end - w.begin); n-held > int64(len(w.buf)) {
		w.advance(int(held))
		if _, err := file.Seek(n-held, io.SeekCurrent); err != nil {
			return err
		}
		w.offset += n - held
		return nil
	}
	return w.skip(n)
}
