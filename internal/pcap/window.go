package pcap

import "io"

// Sizes of a window, in bytes.
const (
	initialWindow = 128 << 10

	// maxWindow holds the largest packet, and the options of a pcapng block
	// around it unless they are unreasonable.
	maxWindow = 512 << 10
)

// window is what has been read of an input and not been used yet. It reads
// only when it holds less than it is asked for.
type window struct {
	in         io.Reader
	err        error // why in has no more
	buf        []byte
	begin, end int   // of what is not used yet, in buf
	offset     int64 // of buf[begin], in the input
}

func newWindow(in io.Reader) *window {
	return &window{in: in, buf: make([]byte, initialWindow)}
}

// peek returns the next n bytes, n being at most maxWindow, and does not use
// them up. If there are fewer it returns these and why. They are valid until
// the next peek or skip.
func (w *window) peek(n int) ([]byte, error) {
	if w.end-w.begin < n {
		if err := w.fill(n); err != nil {
			return w.held(), err
		}
	}
	return w.buf[w.begin : w.begin+n : w.begin+n], nil
}

// held is what has been read and not used yet.
func (w *window) held() []byte { return w.buf[w.begin:w.end] }

// replace has rest held, which fits into the window, and counts n bytes that were
// used before it.
func (w *window) replace(rest []byte, n int) {
	w.begin, w.end = 0, copy(w.buf, rest)
	w.offset += int64(n)
}

// advance uses up n bytes that were peeked at; they stay valid as before.
func (w *window) advance(n int) {
	w.begin += n
	w.offset += int64(n)
}

// skip uses up n bytes that need not fit into the window.
func (w *window) skip(n int64) error {
	for n > 0 {
		if _, err := w.peek(1); err != nil {
			return err
		}
		step := min(n, int64(len(w.held())))
		w.advance(int(step))
		n -= step
	}
	return nil
}

func (w *window) fill(n int) error {
	w.makeRoom(n)
	for idle := 0; w.end < n; {
		if w.err != nil {
			return w.err
		}
		var got int
		got, w.err = w.in.Read(w.buf[w.end:])
		w.end += got
		if idle++; got > 0 {
			idle = 0
		} else if idle > 100 && w.err == nil {
			w.err = io.ErrNoProgress
		}
	}
	return nil
}

// makeRoom moves what is not used yet to the front of a buffer of n bytes at
// least.
func (w *window) makeRoom(n int) {
	rest := w.held()
	if n > len(w.buf) {
		w.buf = make([]byte, min(max(n, 2*len(w.buf)), maxWindow))
	}
	w.begin, w.end = 0, copy(w.buf, rest)
}
