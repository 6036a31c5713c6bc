//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"time"
)

// Metrics of analysts who read the past.
const (
	coldRate = "cold MB/s" // to all of them together
	diskRate = "disk MB/s" // that had to be fetched for them
)

const (
	coldNobody = "poip, nobody reads the past"
	coldPeer   = "poip, cat | nc of a file beside it"
	coldOther  = "poip, another stream's past"
	coldSame   = "poip, the same stream's past"
)

// How many analysts read the past, how long each would take to the end of it,
// and how far apart they begin: farther than the kernel reads ahead. They read
// slowly enough to leave the machine idle for the most part: if they read as
// fast as they can, the live path would wait for a processor, whoever served
// them.
const (
	coldAnalysts = 4
	coldPass     = 25 * time.Second
	coldApart    = 2 * time.Second
)

// coldReaders is what reading history costs those who read live. The control
// has the same bytes come from the same disk to as many readers, but not
// through the relay: what is more than that is ours.
func coldReaders(a amounts) scenario {
	s := scenario{
		name: "cold-readers",
		about: fmt.Sprintf("delay from a wire at 1000 pps, through a relay with a history on disk, to one reader, while %d others read %.3g MB/s each of the past from disk; latency low",
			coldAnalysts, float64(coldPace(a))/1e6),
		rounds:  3,
		columns: []string{median, tailDelay, lost, coldRate, diskRate, relayLoad, cores, strangers},
		contenders: []contender{
			{name: coldNobody, needs: ourPrograms, run: delayBeside(a, "old", nil)},
			{name: coldPeer, needs: append([]string{"cat", "nc"}, ourPrograms...), run: delayBeside(a, "old", readFile)},
			{name: coldOther, needs: ourPrograms, run: delayBeside(a, "old", readPast)},
			{name: coldSame, needs: ourPrograms, run: delayBeside(a, "wire", readPast)},
		},
	}
	for _, ours := range []string{coldOther, coldSame} {
		s.targets = append(s.targets,
			atMost(0, ours+": lost % live", ref{ours, lost}),
			atMost(1.5, ours+": live p50 against cat | nc", ref{ours, median}, ref{coldPeer, median}),
			atMost(1.5, ours+": live p99 against cat | nc", ref{ours, tailDelay}, ref{coldPeer, tailDelay}),
			atLeast(0.95, ours+": its readers' rate against cat | nc", ref{ours, coldRate}, ref{coldPeer, coldRate}))
	}
	return s
}

func coldPace(a amounts) int64 { return a.stream / int64(coldPass.Seconds()) }

// delayBeside measures the delay of live packets while others read the past of
// a stream, each started by read; nil: nobody does.
func delayBeside(a amounts, stream string, read func(d *deployment, pace, file string) (*process, error)) func(*stage) (sample, error) {
	return onDisk(func(s *stage, dir string) (sample, error) {
		d, past, err := s.deployPast(a, dir, stream)
		if err != nil {
			return nil, err
		}
		live, err := d.end("reader", "delay", "-dial", local(d.plain))
		if err != nil {
			return nil, err
		}
		if _, err := d.agent(agentOptions{captures: liveCapture("low")}); err != nil {
			return nil, err
		}
		enough := keepForgetting(past)
		defer enough()
		var analysts []*process
		for range coldAnalysts {
			if read == nil {
				break
			}
			analyst, err := read(d, fmt.Sprint(coldPace(a)), pastFile(dir))
			if err != nil {
				return nil, err
			}
			analysts = append(analysts, analyst)
			time.Sleep(coldApart)
		}
		return d.delayWhile(a, live, analysts)
	})
}

func readPast(d *deployment, pace, _ string) (*process, error) {
	return d.end("analyst", "read", "-pace", pace, "-dial", local(d.past))
}

func readFile(d *deployment, pace, file string) (*process, error) {
	port := d.port()
	analyst, err := d.end("analyst", "read", "-pace", pace, "-listen", local(port))
	if err != nil {
		return nil, err
	}
	if _, err := analyst.expect("up", 10*time.Second); err != nil {
		return nil, err
	}
	_, err = d.pipe("cat", "nc", []string{"cat", file}, []string{"nc", "-N", "127.0.0.1", fmt.Sprint(port)})
	return analyst, err
}

// pastFile is what the control reads, beside the relay's data.
func pastFile(dir string) string { return filepath.Join(dir, "past.pcap") }

// deployPast starts a relay that has the past of a stream, on disk and not in
// memory, and makes a file of the same packets. It returns the files of both.
func (s *stage) deployPast(a amounts, dir, stream string) (d *deployment, past []string, err error) {
	file, err := s.capture(mixed, a.stream)
	if err != nil {
		return nil, nil, err
	}
	if err := copyToDisk(file, pastFile(dir)); err != nil {
		return nil, nil, err
	}
	data := filepath.Join(dir, "relay")
	d, err = s.deploy(relayOptions{data: data, history: roomFor(a), streams: "bench/wire", end: "wait", past: "bench/" + stream})
	if err != nil {
		return nil, nil, err
	}
	if err := d.fillHistory(fileCaptureAs(stream, file)); err != nil {
		return nil, nil, err
	}
	past, err = filepath.Glob(filepath.Join(data, "history", "bench", stream, "*"))
	if err != nil || len(past) == 0 {
		return nil, nil, fmt.Errorf("nothing was kept of %s: %w", stream, err)
	}
	return d, append(past, pastFile(dir)), d.startRelay()
}

// keepForgetting has the kernel cache nothing of some files until it is told
// that it is enough. So each reader's bytes come from the disk, although the
// one before has just read the same.
func keepForgetting(files []string) (enough func()) {
	told, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for _, file := range files {
				forget(file)
			}
			select {
			case <-told:
				return
			case <-time.After(coldApart * 3 / 4):
			}
		}
	}()
	return func() { close(told); <-ended }
}

// delayWhile is the delay of live packets while analysts read the past. None
// of them may come to its end meanwhile.
func (d *deployment) delayWhile(a amounts, live *process, analysts []*process) (sample, error) {
	fetched, began := d.fromDisk("relay", "cat"), time.Now()
	result, err := d.delayLoad(wire{frame: 1000, rate: 1000, last: a.delayLast}, live)
	if err != nil {
		return nil, err
	}
	result[diskRate] = float64(d.fromDisk("relay", "cat")-fetched) / 1e6 / time.Since(began).Seconds()
	result[coldRate] = 0
	for _, analyst := range analysts {
		t, err := stopAndTally(analyst)
		if err != nil {
			return nil, err
		}
		result[coldRate] += float64(t.Bytes) / 1e6 / t.wall().Seconds()
	}
	return result, reallyCold(result)
}

// reallyCold makes sure that it was the disk which was read.
func reallyCold(one sample) error {
	if one[diskRate] < 0.8*one[coldRate] {
		return fmt.Errorf("of %.1f MB/s that were read of the past only %.1f came from a disk", one[coldRate], one[diskRate])
	}
	return nil
}
