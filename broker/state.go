package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"poip/auth"
	"poip/internal/pcap"
)

const (
	stateFile = "streams.json"

	// maxState bounds the file; a thousand streams take about 200 KiB.
	maxState = 64 << 20
)

// memory is what a relay remembers across a restart.
type memory struct {
	Streams []knownStream                `json:"streams"` // in the order in which they first came
	Ports   map[string]map[string]uint16 `json:"ports"`   // by listener and stream
}

type knownStream struct {
	Name     string        `json:"name"`
	LinkType pcap.LinkType `json:"link_type"`
	Recent   bool          `json:"recent"` // it was sent while the relay ran last
}

// A store keeps the memory in the data directory.
type store struct {
	dir string
	mu  sync.Mutex // held from taking a snapshot until it is written, so that the latest wins
}

// load reads the memory. A damaged file is put aside: streams come back by
// themselves, only ports may change.
func (s *store) load() (memory, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return memory{}, fmt.Errorf("open data directory: %w: run `poip-relay init --data %s` first, or correct the key data", err, s.dir)
	}
	defer root.Close()
	m, err := read(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return memory{}, nil
	case err == nil:
		return m, nil
	}
	if renameErr := root.Rename(stateFile, stateFile+".damaged"); renameErr != nil {
		return memory{}, fmt.Errorf("read %s: %w", stateFile, errors.Join(err, renameErr))
	}
	return memory{}, damaged{err}
}

// damaged says why a state file was put aside.
type damaged struct{ error }

func read(root *os.Root) (memory, error) {
	f, err := root.Open(stateFile)
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return memory{}, err
	}
	var m memory
	if err := json.Unmarshal(text, &m); err != nil {
		return memory{}, err
	}
	known := make(map[string]bool)
	for _, k := range m.Streams {
		if _, err := auth.ParseStreamName(k.Name); err != nil {
			return memory{}, err
		}
		if known[k.Name] {
			return memory{}, fmt.Errorf("stream %s is there twice", k.Name)
		}
		known[k.Name] = true
	}
	return m, nil
}

// save replaces the file by what snapshot returns, at once or not at all.
func (s *store) save(snapshot func() memory) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := json.MarshalIndent(snapshot(), "", "\t")
	if err != nil {
		return fmt.Errorf("save %s: %w", stateFile, err)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return fmt.Errorf("save %s: %w", stateFile, err)
	}
	defer root.Close()
	if err := replace(root, append(text, '\n')); err != nil {
		return fmt.Errorf("save %s: %w", stateFile, err)
	}
	return nil
}

func replace(root *os.Root, text []byte) error {
	const fresh = stateFile + ".new"
	f, err := root.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(fresh, stateFile)
}
