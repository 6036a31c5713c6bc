package oracle

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// Capture is one of the capture files that tests read.
type Capture struct {
	Name string // within the folder, with slashes
	Path string // absolute

	exception
}

// exception is another oracle than the rule, and why: for Nobody, what our
// complaint has to contain.
type exception struct {
	oracle Oracle
	reason string
}

// exceptions lists every capture that is not read as Wireshark reads it.
var exceptions = map[string]exception{
	// Wireshark does not know these link types; a relay need not.
	"tcpdump/dsa.pcap":             {Tcpdump, "link type 284"},
	"tcpdump/edsa-high-vid.pcap":   {Tcpdump, "link type 285"},
	"tcpdump/juniper_es_oobr.pcap": {Tcpdump, "link type 132"},
	"tcpdump/kday6.pcap":           {Tcpdump, "link type 182"},
	"tcpdump/vtp_asan-2.pcap":      {Tcpdump, "link type 182"},
	"tcpdump/vtp_asan-3.pcap":      {Tcpdump, "link type 182"},
	// Wireshark takes apart and rebuilds the pseudo header of ATM.
	"tcpdump/atm-oam-heapoverflow.pcap":           {Tcpdump, "link type 123"},
	"tcpdump/atm-oam-loopback-print-overrun.pcap": {Tcpdump, "link type 123"},
	// The record form counts seconds in 32 bits, as every pcap file does.
	"tcpdump/time_2106_overflow.pcapng": {Nobody, "offset 112: time 4294967296 seconds since 1970 is not between 1970 and 2106"},
	"tcpdump/time_2107.pcapng":          {Nobody, "offset 112: time 4323283200 seconds since 1970 is not between 1970 and 2106"},
}

// Captures lists all capture files in the folder that POIP_CAPTURES names.
func Captures(tb testing.TB) (captures []Capture) {
	tb.Helper()
	folder := os.Getenv("POIP_CAPTURES")
	if folder == "" { // beside the project, seen from a package of internal
		folder = filepath.Join("..", "..", "..", "shared", "captures")
	}
	folder, err := filepath.Abs(folder)
	if err != nil {
		tb.Fatal(err)
	}
	err = fs.WalkDir(os.DirFS(folder), ".", func(name string, _ fs.DirEntry, err error) error {
		if ext := path.Ext(name); ext == ".pcap" || ext == ".pcapng" {
			captures = append(captures, newCapture(folder, name))
		}
		return err
	})
	if err != nil || len(captures) == 0 {
		tb.Fatalf("no captures in %s (%v): set POIP_CAPTURES to a folder of pcap and pcapng files", folder, err)
	}
	return captures
}

// newCapture chooses the oracle. The odd files go to tshark itself, the many to
// what starts faster.
func newCapture(folder, name string) Capture {
	e, excepted := exceptions[name]
	if !excepted && strings.HasPrefix(name, "edge/") {
		e.oracle = Tshark
	}
	return Capture{name, filepath.Join(folder, filepath.FromSlash(name)), e}
}

// Read is how we must read the capture: as its oracle does, or no packet of it
// and a complaint.
func (c Capture) Read(tb testing.TB) Reading {
	tb.Helper()
	if c.oracle == Nobody {
		return Reading{Complaint: c.reason, refusal: c.reason}
	}
	return c.oracle.Read(tb, c.Path)
}
