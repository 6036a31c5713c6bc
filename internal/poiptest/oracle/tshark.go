package oracle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// readTshark reads with tshark itself.
func readTshark(tb testing.TB, path string) Reading {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("tshark", "-n", "-r", path, "-T", "json", "-x", "-j", "frame")
	cmd.Stderr = &said
	out, runErr := cmd.Output()
	got := Reading{}
	if runErr != nil {
		got.Complaint = said.String()
	}
	if len(out) == 0 && runErr != nil {
		return got
	}
	var list []tsharkFrame
	if err := json.Unmarshal(out, &list); err != nil {
		tb.Fatalf("tshark's JSON: %v", err)
	}
	earlier := interfacesOf(content).earlier // tshark counts interfaces anew in each section
	for _, f := range list {
		l := f.Source.Layers
		if len(earlier) > 0 && l.Frame.ID == "" {
			continue // a custom block or journal entry, which tshark lists too
		}
		got.Frames = append(got.Frames, l.frame(tb, earlier).canonical())
	}
	return got
}

type tsharkFrame struct {
	Source struct {
		Layers tsharkLayers `json:"layers"`
	} `json:"_source"`
}

type tsharkLayers struct {
	Raw   []any `json:"frame_raw"`
	Frame struct {
		Section string `json:"frame.section_number"` // from 1; absent with pcap, like the next
		ID      string `json:"frame.interface_id"`
		Time    string `json:"frame.time_epoch"`
		Len     string `json:"frame.len"`
		CapLen  string `json:"frame.cap_len"`
	} `json:"frame"`
}

func (l tsharkLayers) frame(tb testing.TB, earlier []int) (f Frame) {
	tb.Helper()
	if len(earlier) > 0 {
		f.Interface = earlier[number(tb, l.Frame.Section)-1] + int(number(tb, l.Frame.ID))
	}
	if whole, fraction, timed := strings.Cut(l.Frame.Time, "."); timed {
		f.Sec, f.Nsec = number(tb, whole), number(tb, fraction)
	}
	f.Original = number(tb, l.Frame.Len)
	if number(tb, l.Frame.CapLen) > 0 {
		data, err := hex.DecodeString(l.Raw[0].(string))
		if err != nil {
			tb.Fatal(err)
		}
		f.Data = string(data)
	}
	return f
}

func number(tb testing.TB, s string) int64 {
	tb.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}
