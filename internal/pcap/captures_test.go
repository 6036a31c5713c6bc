package pcap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// oracle is whose reading of a file must be ours.
type oracle int

const (
	wireshark oracle = iota // the rule
	tcpdump                 // for a reason that the table tells
	nobody                  // refused, with an error that contains the reason
)

// exceptions lists every capture that is not read as Wireshark reads it.
var exceptions = map[string]struct {
	oracle oracle
	reason string
}{
	// Wireshark does not know these link types; a relay need not.
	"tcpdump/dsa.pcap":             {tcpdump, "link type 284"},
	"tcpdump/edsa-high-vid.pcap":   {tcpdump, "link type 285"},
	"tcpdump/juniper_es_oobr.pcap": {tcpdump, "link type 132"},
	"tcpdump/kday6.pcap":           {tcpdump, "link type 182"},
	"tcpdump/vtp_asan-2.pcap":      {tcpdump, "link type 182"},
	"tcpdump/vtp_asan-3.pcap":      {tcpdump, "link type 182"},
	// Wireshark takes apart and rebuilds the pseudo header of ATM.
	"tcpdump/atm-oam-heapoverflow.pcap":           {tcpdump, "link type 123"},
	"tcpdump/atm-oam-loopback-print-overrun.pcap": {tcpdump, "link type 123"},
	// The record form counts seconds in 32 bits, as every pcap file does.
	"tcpdump/time_2106_overflow.pcapng": {nobody, "offset 112: time 4294967296 seconds since 1970 is not between 1970 and 2106"},
	"tcpdump/time_2107.pcapng":          {nobody, "offset 112: time 4323283200 seconds since 1970 is not between 1970 and 2106"},
}

// TestReadsEveryCaptureAsWiresharkDoes compares times, lengths, bytes and
// interfaces. The odd ones and those of several sections are compared with
// tshark itself, the many with editcap, which stands on the same library and
// starts faster.
func TestReadsEveryCaptureAsWiresharkDoes(t *testing.T) {
	folder := capturesFolder()
	for _, name := range captureNames(t, folder) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(folder, name)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := readOurs(content)
			e := exceptions[filepath.ToSlash(name)]
			switch {
			case e.oracle == tcpdump:
				check(t, got, readTcpdump(t, path))
			case e.oracle == nobody:
				if !strings.Contains(got.complaint, e.reason) {
					t.Errorf("complaint is %q, not %q", got.complaint, e.reason)
				}
			case strings.HasPrefix(name, "edge"):
				check(t, got, readTshark(t, path))
			default:
				check(t, got, readWireshark(t, path, content))
			}
		})
	}
}

func check(t *testing.T, got, want reading) {
	t.Helper()
	if d := difference(got, want); d != "" {
		t.Error(d)
	}
}

func capturesFolder() string {
	if folder := os.Getenv("POIP_CAPTURES"); folder != "" {
		return folder
	}
	return filepath.Join("..", "..", "..", "shared", "captures")
}

// captureNames lists the captures in a folder, relative to it.
func captureNames(t testing.TB, folder string) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*/*.pcap", "*/*.pcapng"} {
		paths, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			name, _ := filepath.Rel(folder, p)
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("no captures in %s; set POIP_CAPTURES", folder)
	}
	return names
}
