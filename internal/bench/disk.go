//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/journal"
	"poip/internal/pcap"
	protocol "poip/internal/wire"
)

// Metrics of the disk.
const (
	syncs  = "fsyncs/s"
	millis = "ms"
)

// How the journal is fed: batches as a busy agent makes them, and no more
// waiting for the disk than a relay would let wait.
const (
	diskBatch   = 64 << 10
	diskGroup   = 4 << 20
	diskPending = 16 << 20
)

// diskScenarios measure the journal against plain files, on a disk.
func diskScenarios(a amounts) []scenario {
	return []scenario{
		{
			name:    "disk write",
			about:   "64 KiB batches to disk, fsync for every 4 MiB or so",
			columns: []string{rate, syncs, strangers},
			contenders: []contender{
				{name: "plain file", run: onDisk(func(s *stage, dir string) (sample, error) { return s.writePlain(dir, a.stream) })},
				{name: "journal", run: onDisk(func(s *stage, dir string) (sample, error) { return s.writeJournal(dir, a.stream) })},
			},
			targets: []target{atLeast(0.5, "journal: rate of a plain file with fsync", ref{"journal", rate}, ref{"plain file", rate})},
		},
		{
			name:    "disk read",
			about:   "from the beginning to the end, from a disk that has nothing cached, 1 MiB at a time",
			columns: []string{rate, strangers},
			contenders: []contender{
				{name: "plain file", run: onDisk(func(s *stage, dir string) (sample, error) { return s.readPlain(dir, a.stream/4) })},
				{name: "journal", run: onDisk(func(s *stage, dir string) (sample, error) { return s.readJournal(dir, a.stream/4) })},
			},
			targets: []target{atLeast(0.8, "journal: rate of reading a plain file", ref{"journal", rate}, ref{"plain file", rate})},
		},
		recovery(a),
	}
}

// recovery opens journals whose last segment was being written when the
// process died.
func recovery(a amounts) scenario {
	s := scenario{
		name:    "recovery",
		about:   "open a journal after its process died, nothing cached",
		columns: []string{millis, strangers},
	}
	for _, size := range []int64{a.stream / 32, a.stream / 4, a.stream} {
		name := fmt.Sprintf("%d MiB", size>>20)
		s.contenders = append(s.contenders, contender{name: name, run: onDisk(func(s *stage, dir string) (sample, error) { return s.recoverJournal(dir, size) })})
		s.targets = append(s.targets, atMost(2000, "recovery of "+name+": ms", ref{name, millis}))
	}
	return s
}

// onDisk gives a contender a directory that is not in memory.
func onDisk(run func(s *stage, dir string) (sample, error)) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		disk := "/var/tmp" // by convention it outlives a reboot
		if info, err := os.Stat(disk); err != nil || !info.IsDir() {
			disk = ""
		}
		dir, err := os.MkdirTemp(disk, "poip-bench-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		return run(s, dir)
	}
}

// A diskFrame is a batch of full frames, whose number changes.
type diskFrame struct {
	frame []byte
	next  protocol.PacketNumber
	count uint32
}

func newDiskFrame() *diskFrame {
	d := &diskFrame{frame: make([]byte, protocol.BatchPrefixLen, protocol.BatchPrefixLen+diskBatch)}
	data := make([]byte, 1500)
	for len(d.frame)+pcap.RecordHeaderLen+len(data) <= cap(d.frame) {
		d.frame = pcap.AppendRecord(d.frame, 1700000000, d.count, uint32(len(data)), data)
		d.count++
	}
	return d
}

func (d *diskFrame) records() []byte { return d.frame[protocol.BatchPrefixLen:] }

// seal returns the header of the next batch.
func (d *diskFrame) seal() []byte {
	protocol.SealBatch(d.frame, protocol.BatchHeader{First: d.next, Count: d.count})
	d.next += protocol.PacketNumber(d.count)
	return d.frame[protocol.FrameHeaderLen:protocol.BatchPrefixLen]
}

func (s *stage) writePlain(dir string, bytes int64) (sample, error) {
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	records := newDiskFrame().records()
	s.mark()
	began, unsynced, count := time.Now(), 0, 0
	for written := int64(0); written < bytes; written += int64(len(records)) {
		if _, err := f.Write(records); err != nil {
			return nil, err
		}
		if unsynced += len(records); unsynced >= diskGroup {
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				return nil, err
			}
			unsynced = 0
			count++
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return s.written(bytes, count, time.Since(began)), nil
}

func (s *stage) written(bytes int64, count int, took time.Duration) sample {
	return sample{
		rate:      float64(bytes) / (1 << 30) / took.Seconds(),
		syncs:     float64(count) / took.Seconds(),
		strangers: s.noise(),
	}
}

func (s *stage) writeJournal(dir string, bytes int64) (sample, error) {
	commits := 0 // owned by the journal until it is closed
	j, err := journal.Open(dir, journal.Options{Committed: func() { commits++ }})
	if err != nil {
		return nil, err
	}
	s.mark()
	began := time.Now()
	feedJournal(j, bytes)
	if err := j.Close(); err != nil {
		return nil, err
	}
	const files = 2 // packets and index
	return s.written(bytes, files*commits, time.Since(began)), nil
}

// feedJournal appends batches, no more ahead of the disk than a relay lets
// them be.
func feedJournal(j *journal.Journal, bytes int64) {
	j.Begin(journal.Epoch{ID: protocol.Epoch{1}, LinkType: pcap.LinkEthernet, Snaplen: 65535}, 0)
	d := newDiskFrame()
	for written := int64(0); written < bytes; written += int64(len(d.records())) {
		j.Append(d.seal(), d.records(), 1)
		for j.Pending() > diskPending {
			time.Sleep(100 * time.Microsecond)
		}
	}
}
