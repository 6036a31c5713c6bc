// Package oracle tells tests how Wireshark and tcpdump read a capture file:
// every packet's interface, time, lengths and bytes, and whether the file can
// be read to its end. It shares no code with what it judges, and imports none
// of poip.
package oracle

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Frame is a packet as some reader delivered it. An oracle's are canonical:
// the fraction is below a second, the original length no less than the
// captured one.
type Frame struct {
	Interface int // in the file's order, from 0; those of a further section are numbered on
	Link      int // link type, as the file declares it for the interface
	Sec       int64
	Nsec      int64
	Original  int64
	Data      string // the captured bytes, maybe none
}

func (f Frame) canonical() Frame {
	f.Sec, f.Nsec = f.Sec+f.Nsec/1e9, f.Nsec%1e9
	f.Original = max(f.Original, int64(len(f.Data)))
	return f
}

// Reading is what came of reading a file: the frames, and what was said of it
// if it could not be read to its end.
type Reading struct {
	Frames    []Frame
	Complaint string

	refusal string // what our complaint has to contain
}

// ByInterface arranges a reading as streams carry it: one interface after
// another, without packets of which no byte was captured.
func (r Reading) ByInterface() Reading {
	r.Frames = slices.DeleteFunc(slices.Clone(r.Frames), func(f Frame) bool { return f.Data == "" })
	slices.SortStableFunc(r.Frames, func(a, b Frame) int { return a.Interface - b.Interface })
	return r
}

// Oracle is whose reading of a file must be ours.
type Oracle int

// The oracles. Nobody cannot be asked: the file must be refused, or nobody
// else reads it.
const (
	Wireshark Oracle = iota // the rule: its library, in editcap or in tshark
	Tshark                  // tshark itself, which starts slowly
	Tcpdump
	Nobody
)

// Read has the oracle read a file. What no oracle shows as it is in the file,
// the link types, is looked up there.
func (o Oracle) Read(tb testing.TB, path string) Reading {
	tb.Helper()
	got := o.read(tb, path)
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	links := interfacesOf(content).links
	for i, f := range got.Frames {
		got.Frames[i].Link = links[f.Interface]
	}
	return got
}

func (o Oracle) read(tb testing.TB, path string) Reading {
	tb.Helper()
	switch o {
	case Wireshark:
		return readWireshark(tb, path)
	case Tshark:
		return readTshark(tb, path)
	case Tcpdump:
		return readTcpdump(tb, path)
	}
	tb.Fatalf("nobody reads %s", path)
	return Reading{}
}

// Difference tells how our reading differs from an oracle's, or is empty.
// Complaints need not be the same, but made by both or by neither; only of a
// capture that we must refuse, ours must give the reason.
func Difference(got, want Reading) string {
	if (got.Complaint == "") != (want.Complaint == "") {
		return fmt.Sprintf("we complain %q, they %q", got.Complaint, want.Complaint)
	}
	if !strings.Contains(got.Complaint, want.refusal) {
		return fmt.Sprintf("we complain %q, and should %q", got.Complaint, want.refusal)
	}
	for i := range min(len(got.Frames), len(want.Frames)) {
		if g, w := got.Frames[i], want.Frames[i]; g != w {
			return fmt.Sprintf("frame %d:\nours   %.200q\ntheirs %.200q", i, fmt.Sprint(g), fmt.Sprint(w))
		}
	}
	if len(got.Frames) != len(want.Frames) {
		return fmt.Sprintf("%d frames, theirs are %d; we complain %q, they %q", len(got.Frames), len(want.Frames), got.Complaint, want.Complaint)
	}
	return ""
}
