package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/journal"
	"poip/internal/wire"
)

// historyFolder is where histories are, below the data directory: one folder
// for each sensor, and in it one for each capture.
const historyFolder = "history"

// An archive is the histories of all streams. Each is open for as long as its
// stream is known or somebody reads it.
type archive struct {
	// Set once.
	dir  string
	log  *slog.Logger
	open func(dir string, o journal.Options) (*journal.Journal, error)
	key  *journal.Key  // nil: histories are plain
	kick chan struct{} // a history is to be looked at; holds one

	reading atomic.Int64 // cursors that read from disk now

	mu      sync.Mutex
	all     map[auth.StreamName]*history
	closing sync.WaitGroup
}

func newArchive(data string, log *slog.Logger, open func(string, journal.Options) (*journal.Journal, error)) *archive {
	return &archive{
		dir:  filepath.Join(data, historyFolder),
		log:  log,
		open: open,
		kick: make(chan struct{}, 1),
		all:  make(map[auth.StreamName]*history),
	}
}

// names lists the streams that have a folder. What else lies there is none of
// ours. Streams that can be found are returned whatever the error.
func (a *archive) names() (names []auth.StreamName, err error) {
	sensors, err := foldersIn(a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // there never was a history
	}
	errs := []error{err}
	for _, sensor := range sensors {
		if _, err := auth.ParseSensorName(sensor); err != nil {
			continue
		}
		captures, err := foldersIn(filepath.Join(a.dir, sensor))
		errs = append(errs, err)
		for _, capture := range captures {
			if name, err := auth.ParseStreamName(sensor + "/" + capture); err == nil {
				names = append(names, name)
			}
		}
	}
	return names, errors.Join(errs...)
}

// foldersIn lists the folders in dir, and links to such.
func foldersIn(dir string) (names []string, err error) {
	all, err := os.ReadDir(dir)
	for _, e := range all {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// hasRoom says whether the stream's sensor has fewer than most histories on
// disk, or this one among them. A folder that cannot be read shows when it is opened.
func (a *archive) hasRoom(name auth.StreamName, most int) bool {
	found, err := os.ReadDir(filepath.Join(a.dir, string(name.Sensor)))
	this := func(e fs.DirEntry) bool { return e.Name() == string(name.Capture) }
	return err != nil || len(found) < most || slices.ContainsFunc(found, this)
}

// history opens the history of a stream, or returns the one that is open
// still. The caller is a user of it.
func (a *archive) history(name auth.StreamName, config StreamConfig) (*history, error) {
	a.mu.Lock()
	for a.all[name] != nil {
		h := a.all[name]
		if h.users > 0 {
			h.users++
			a.mu.Unlock()
			return h, nil
		}
		a.mu.Unlock()
		<-h.closed
		a.mu.Lock()
	}
	opening := &history{closed: make(chan struct{})} // keeps others out
	a.all[name] = opening
	a.mu.Unlock()
	h, err := a.recover(name, config)
	a.mu.Lock()
	defer a.mu.Unlock()
	defer close(opening.closed)
	if err != nil {
		delete(a.all, name)
		return nil, fmt.Errorf("open history of %s: %w", name, err)
	}
	a.all[name] = h
	return h, nil
}

func (a *archive) recover(name auth.StreamName, config StreamConfig) (*history, error) {
	h := &history{
		name:     name,
		log:      a.log.With("sensor", string(name.Sensor), "stream", string(name.Capture)),
		archive:  a,
		closed:   make(chan struct{}),
		users:    1,
		dry:      make(map[*subscriber]struct{}),
		blockers: make(map[*cursor]struct{}),
	}
	h.limit.Store(int64(config.History))
	var opened atomic.Bool
	o := journal.Options{Damage: wire.CauseHistoryCorrupt, Log: h.log, Key: a.key}
	o.Segment, o.Age = config.segment()
	o.Committed = func() {
		if opened.Load() {
			h.committed()
		}
	}
	dir, err := journal.Within(filepath.Dir(a.dir), filepath.Join(historyFolder, string(name.Sensor), string(name.Capture)))
	if err != nil {
		return nil, err
	}
	h.journal, err = a.open(dir, o)
	opened.Store(err == nil)
	if errors.Is(err, journal.ErrKey) {
		err = fmt.Errorf("key stream.history_key: %w", err)
	}
	return h, err
}

// histories opens those of many streams, some at a time: each may have to be
// read in part. One that cannot be opened is left out: its stream waits for it.
func (a *archive) histories(names []auth.StreamName, config StreamConfig) map[auth.StreamName]*history {
	var mu sync.Mutex
	out := make(map[auth.StreamName]*history)
	var work sync.WaitGroup
	turns := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	for _, name := range names {
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			h, err := a.history(name, config)
			if err != nil {
				a.log.Error("history cannot be used; its agent is refused until it can", "sensor", string(name.Sensor), "stream", string(name.Capture), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = h
		})
	}
	work.Wait()
	return out
}

// use makes the caller one more user of a history that has some.
func (a *archive) use(h *history) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h.users++
}

// leave ends a use. The last one closes the history, and does not wait for that.
func (a *archive) leave(h *history) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	a.closing.Go(func() {
		if err := h.journal.Close(); err != nil {
			h.log.Error("history was closed before all of it was on disk; its agent has the rest", "error", err)
		}
		a.mu.Lock()
		delete(a.all, h.name)
		a.mu.Unlock()
		close(h.closed)
	})
}

// inUse lists the histories that are open.
func (a *archive) inUse() (out []*history) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.all {
		if h.users > 0 {
			out = append(out, h)
		}
	}
	return out
}

// tend has the keeper look at the histories soon.
func (a *archive) tend() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// roundPace is how often histories that nobody uses are visited.
const roundPace = time.Hour

// keep trims the histories as the configuration says, until ctx ends.
func (a *archive) keep(ctx context.Context, config func() StreamConfig) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var r round
	defer func() { a.bidFarewell(&r) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.trim(config(), time.Now())
			a.visit(&r, config(), time.Now())
		case <-a.kick:
			a.trim(config(), time.Now())
		}
	}
}

// A round of visits opens the histories of streams that are not known any more,
// one after the other, so that these are trimmed too. Owned by the keeper.
type round struct {
	names []auth.StreamName // still to be visited
	next  time.Time         // when the next round begins
	guest *history          // nil: none is visited now
}

// visit leaves the history that was visited so far and opens the next one.
func (a *archive) visit(r *round, config StreamConfig, now time.Time) {
	a.bidFarewell(r)
	if len(r.names) == 0 && !now.Before(r.next) {
		var err error
		if r.names, err = a.names(); err != nil {
			a.log.Warn("histories cannot be listed", "error", err)
		}
		r.next = now.Add(roundPace)
	}
	for len(r.names) > 0 && r.guest == nil {
		name := r.names[0]
		r.names = r.names[1:]
		if a.isOpen(name) {
			continue
		}
		h, err := a.history(name, config)
		if err != nil {
			a.log.Warn("a history that nobody uses cannot be trimmed", "error", err)
			return
		}
		r.guest = h
		h.trim(int64(config.History), config.since(now)) // and again before we leave
	}
}

func (a *archive) bidFarewell(r *round) {
	if r.guest != nil {
		a.leave(r.guest)
		r.guest = nil
	}
}

func (a *archive) isOpen(name auth.StreamName) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[name] != nil
}

// since is the stamp before which packets may go.
func (c StreamConfig) since(now time.Time) int64 {
	if c.HistoryAge == 0 {
		return 0
	}
	return now.Add(-time.Duration(c.HistoryAge)).UnixNano()
}

func (a *archive) trim(config StreamConfig, now time.Time) {
	since := config.since(now)
	full := false
	all := a.inUse()
	for _, h := range all {
		h.trim(int64(config.History), since)
		full = full || journal.IsFull(h.journal.Trouble())
	}
	if full && config.HistoryFull == "drop_oldest" {
		part, _ := config.segment()
		largest(all).yield(part)
	}
}

// largest is the history that has most to give.
func largest(all []*history) *history {
	most := all[0]
	for _, h := range all {
		if h.journal.Size() > most.journal.Size() {
			most = h
		}
	}
	return most
}

// pastRead is how much a reader gets from disk at once: less, the more there
// are.
func (a *archive) pastRead() int {
	return max(leastPastRead, min(mostPastRead, pastBudget/int(max(1, a.reading.Load()))))
}

// Histories lists the streams that have a history below a data directory, as
// far as it can be read. Where there never was one, that is an error.
func Histories(data string) ([]auth.StreamName, error) {
	a := newArchive(data, slog.New(slog.DiscardHandler), nil)
	if _, err := os.Stat(a.dir); err != nil {
		return nil, fmt.Errorf("no history in %s: %w", data, err)
	}
	return a.names()
}

// HistoryOf is the folder of a stream's history.
func HistoryOf(data string, name auth.StreamName) string {
	return filepath.Join(data, historyFolder, string(name.Sensor), string(name.Capture))
}
