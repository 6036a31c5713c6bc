//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"poip/internal/pcap"
)

func TestEndsDeliverEverything(t *testing.T) {
	dir := t.TempDir()
	cert, key, file := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "file")
	if err := writeCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
	if err := writeCapture(file, mixed, 1<<20); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		sender []string
		reader []string
		want   int64
	}{
		{"TCP", []string{"-bytes", "5000000"}, nil, 5000000},
		{"TCP, file", []string{"-file", file}, []string{"-packets"}, info.Size()},
		{"TCP, three", []string{"-bytes", "1000", "-n", "3"}, []string{"-n", "3"}, 3000},
		{"TLS", []string{"-tls", "-bytes", "5000000"}, []string{"-tls"}, 5000000},
		{"QUIC", []string{"-quic", "-bytes", "5000000"}, []string{"-quic"}, 5000000},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pair := []string{"-cert", cert, "-key", key}
			got := transfer(t, slices.Concat(pair, c.reader), slices.Concat(pair, c.sender))
			if got.Bytes != c.want {
				t.Errorf("%d bytes arrived, want %d", got.Bytes, c.want)
			}
			if c.reader != nil && c.reader[0] == "-packets" && got.Packets < 1000 {
				t.Errorf("%d packets of 1 MiB", got.Packets)
			}
		})
	}
}

func TestAPacedReaderReadsNoFaster(t *testing.T) {
	got := transfer(t, []string{"-pace", "4000000"}, []string{"-bytes", "2000000"})
	if got.Bytes != 2000000 || got.wall() < 400*time.Millisecond { // half a second, but for the last read
		t.Errorf("%d bytes in %v", got.Bytes, got.wall())
	}
}

// runningEnd is an end within this process.
type runningEnd struct {
	in  io.Writer
	out *bufio.Reader
}

// transfer has one end send to another one, by their flags, and returns what that
// has counted.
func transfer(t *testing.T, reads, sends []string) (got tally) {
	t.Helper()
	at := freeAddress(t)
	reader := startEnd(t, append([]string{"read", "-listen", at}, reads...))
	reader.expect(t, "up")
	sender := startEnd(t, append([]string{"send", "-dial", at}, sends...))
	sender.expect(t, "ready")
	reader.expect(t, "ready")
	io.WriteString(sender.in, "go\n")
	if err := json.Unmarshal([]byte(reader.expect(t, "{")), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func startEnd(t *testing.T, args []string) runningEnd {
	t.Helper()
	inReader, in := io.Pipe()
	out, outWriter := io.Pipe()
	done := make(chan error)
	go func() {
		err := runEnd(t.Context(), args, inReader, outWriter)
		outWriter.Close()
		done <- err
	}()
	t.Cleanup(func() {
		in.Close()
		go io.Copy(io.Discard, out)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return runningEnd{in, bufio.NewReader(out)}
}

func (e runningEnd) expect(t *testing.T, prefix string) string {
	t.Helper()
	line, err := e.out.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		t.Fatalf("got %q, %v, want %q", line, err, prefix)
	}
	return line
}

// freeAddress is an address that nobody listens on, over TCP or UDP.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestRecordCounterTakesAnyPieces(t *testing.T) {
	file := pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, false)
	for i := range uint32(50) {
		file = pcap.AppendRecord(file, i, 0, 100, make([]byte, 1+i))
	}
	for piece := 1; piece < 100; piece++ {
		c := newRecordCounter()
		for at := 0; at < len(file); at += piece {
			c.feed(file[at:min(at+piece, len(file))])
		}
		if c.n != 50 {
			t.Errorf("pieces of %d bytes: %d records, want 50", piece, c.n)
		}
	}
}
