//go:build linux

package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"poip/internal/pcap"
)

// amounts are how much work the scenarios do.
type amounts struct {
	stream    int64 // bytes of one stream to one reader
	fanout    int64 // bytes to all readers together
	least     int64 // but no less than this to each
	last      time.Duration
	delayLast time.Duration
	lossyLast time.Duration
	many      int // readers, where it says 1000
}

var (
	fullAmounts = amounts{stream: 2 << 30, fanout: 10 << 30, least: 24 << 20, last: 3 * time.Second,
		delayLast: 10 * time.Second, lossyLast: 10 * time.Second, many: 1000}
	shortAmounts = amounts{stream: 256 << 20, fanout: 1 << 30, least: 2 << 20, last: time.Second,
		delayLast: 2 * time.Second, lossyLast: 4 * time.Second, many: 200}
)

// each is how much one of n readers gets.
func (a amounts) each(n int) int64 {
	return max(a.least, min(a.stream, a.fanout/int64(n)))
}

// over is for contenders that take longer for the same.
func (a amounts) over(k int64) amounts {
	a.stream, a.fanout, a.least = a.stream/k, a.fanout/k, a.least/k
	return a
}

// mixed is the size that stands for the mixture below.
const mixed = 0

// The mixture of frame lengths: what a busy access network carries, about 700
// bytes in the mean. Half are short, as acknowledgments are, a third are full.
var mixture = []struct{ share, least, most int }{
	{50, 60, 120},
	{17, 200, 1100},
	{33, 1400, 1514},
}

// capture makes a pcap file of about that many bytes in memory, once a run.
// Times are a microsecond apart; the content does not matter to anybody.
func (b *bench) capture(size int, bytes int64) (string, error) {
	name := fmt.Sprintf("%d-%d.pcap", size, bytes)
	if path := b.pcaps[name]; path != "" {
		return path, nil
	}
	path := filepath.Join(b.tmp, name)
	if err := writeCapture(path, size, bytes); err != nil {
		return "", fmt.Errorf("generate a capture: %w", err)
	}
	b.pcaps[name] = path
	return path, nil
}

func writeCapture(path string, size int, bytes int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := w.Write(pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, true)); err != nil {
		return err
	}
	dice, data := rand.New(rand.NewPCG(1, 2)), make([]byte, 2048)
	copy(data, "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x88\xb5") // an experimental EtherType
	var record []byte
	for i, left := int64(0), bytes; left > 0; i++ {
		length := size
		if size == mixed {
			length = throw(dice)
		}
		record = pcap.AppendRecord(record[:0], uint32(1.7e9+i/1e6), uint32(i%1e6*1000), uint32(length), data[:length])
		if _, err := w.Write(record); err != nil {
			return err
		}
		left -= int64(len(record))
	}
	return w.Flush()
}

func throw(dice *rand.Rand) int {
	n := dice.IntN(100)
	for _, m := range mixture {
		if n -= m.share; n < 0 {
			return m.least + dice.IntN(m.most-m.least+1)
		}
	}
	return 1514
}
