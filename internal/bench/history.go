//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Metrics of histories.
const (
	ackedRate = "acked GiB/s" // of one stream, from the agent's start until all was acknowledged and it ended
	megabytes = "MB/s"        // of one stream, once it has begun
)

// historyScenarios are what a relay's history on disk costs, and how fast it
// comes back.
func historyScenarios(a amounts) []scenario {
	return []scenario{historyRoute(a), catchUp(a.over(2)), coldReaders(a.over(4))}
}

const (
	historyOff = "poip, no history"
	historyOn  = "poip, history"
	diskAlone  = "disk alone: plain file, fsync for every 4 MiB"
)

// historyRoute is the TLS route with a history. What it acknowledges is on the
// disk, so it cannot be faster than that.
func historyRoute(a amounts) scenario {
	return scenario{
		name:    "history",
		about:   "file → TLS → relay with a history on disk → plain TCP → one reader, until all is acknowledged; mixed packet sizes",
		columns: []string{ackedRate, rate, cost, sendCost, relayCost, peakMiB, strangers},
		contenders: []contender{
			{name: historyOff, needs: ourPrograms, run: historyDelivery(a, "0")},
			{name: historyOn, needs: ourPrograms, run: historyDelivery(a, roomFor(a))},
			{name: diskAlone, run: onDisk(func(s *stage, dir string) (sample, error) {
				result, err := s.writePlain(dir, a.stream)
				if err == nil {
					result[ackedRate] = result[rate]
				}
				return result, err
			})},
		},
		targets: []target{
			atLeast(0.8, "history: rate of acknowledgment against none", ref{historyOn, ackedRate}, ref{historyOff, ackedRate}),
		},
	}
}

// roomFor is a history that holds a stream whole.
func roomFor(a amounts) string { return fmt.Sprintf("%dMiB", a.stream>>19) }

// historyDelivery has the relay's data on a disk, with a history or without.
func historyDelivery(a amounts, history string) func(*stage) (sample, error) {
	return onDisk(func(s *stage, dir string) (sample, error) {
		d, file, err := s.deployHistory(a, dir, history)
		if err != nil {
			return nil, err
		}
		return d.deliver(1, file, "tls")
	})
}

func (s *stage) deployHistory(a amounts, dir, history string) (d *deployment, file string, err error) {
	if file, err = s.capture(mixed, a.stream); err != nil {
		return nil, "", err
	}
	d, err = s.deploy(relayOptions{overflow: "block", start: "oldest", data: filepath.Join(dir, "relay"), history: history})
	return d, file, err
}

// catchUp is a reader who comes when everything is over and the relay was
// started again, so that all it gets is from disk.
func catchUp(a amounts) scenario {
	s := scenario{
		name:    "catch-up",
		about:   "history on disk → relay, just started → plain TCP → one reader from the oldest packet on; mixed packet sizes",
		columns: []string{megabytes, cost, sendCost, relayCost, readCost, strangers},
	}
	for _, cached := range []bool{false, true} {
		how := "nothing cached"
		if cached {
			how = "cached"
		}
		ours, peer := "poip, "+how, "cat | nc, "+how
		s.contenders = append(s.contenders,
			contender{name: ours, needs: ourPrograms, run: catchUpFromHistory(a, cached)},
			contender{name: peer, needs: []string{"cat", "nc"}, run: catchUpFromFile(a, cached)})
		s.targets = append(s.targets, atLeast(0.8, "catch-up, "+how+": rate against cat | nc", ref{ours, megabytes}, ref{peer, megabytes}))
	}
	return s
}

func catchUpFromHistory(a amounts, cached bool) func(*stage) (sample, error) {
	return onDisk(func(s *stage, dir string) (sample, error) {
		d, file, err := s.deployHistory(a, dir, roomFor(a))
		if err != nil {
			return nil, err
		}
		if err := d.fillHistory(fileCapture(file)); err != nil {
			return nil, err
		}
		prepare := forget
		if cached {
			prepare = recall
		}
		if err := prepare(filepath.Join(dir, "relay", "history", "bench", "trace", "*")); err != nil {
			return nil, err
		}
		if err := d.startRelay(); err != nil {
			return nil, err
		}
		d.mark()
		reader, err := d.end("reader", "read", "-dial", local(d.plain))
		if err != nil {
			return nil, err
		}
		return d.caughtUp(reader, file)
	})
}

// fillHistory sends a file to a relay that nobody reads from, and stops it.
func (d *deployment) fillHistory(capture string) error {
	agent, err := d.agent(agentOptions{captures: capture})
	if err != nil {
		return err
	}
	if err := agent.wait(patience); err != nil {
		return err
	}
	d.relay.stop(syscall.SIGTERM)
	return nil
}

// caughtUp waits until a reader has a file whole, and takes the sample.
func (s *stage) caughtUp(reader *process, file string) (sample, error) {
	t, err := tallyOf(reader, patience)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if t.Bytes != info.Size() {
		return nil, fmt.Errorf("the reader got %d bytes of %d", t.Bytes, info.Size())
	}
	result, err := s.flow(t)
	if err == nil {
		result[megabytes] = float64(t.Bytes) / 1e6 / t.wall().Seconds()
	}
	return result, err
}

func catchUpFromFile(a amounts, cached bool) func(*stage) (sample, error) {
	return onDisk(func(s *stage, dir string) (sample, error) {
		memory, err := s.capture(mixed, a.stream)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, "trace.pcap")
		if err := copyToDisk(memory, file); err != nil {
			return nil, err
		}
		if !cached {
			if err := forget(file); err != nil {
				return nil, err
			}
		}
		port := s.port()
		reader, err := s.listeningReader("-listen", local(port))
		if err != nil {
			return nil, err
		}
		s.mark()
		nc := []string{"nc", "-N", "127.0.0.1", fmt.Sprint(port)}
		if _, err := s.pipe("sender", "sender", []string{"cat", file}, nc); err != nil {
			return nil, err
		}
		return s.caughtUp(reader, file)
	})
}

// copyToDisk returns when the copy is on the disk.
func copyToDisk(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, source); err != nil {
		return err
	}
	return out.Sync()
}
