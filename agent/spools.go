package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"poip/auth"
	"poip/internal/journal"
	"poip/internal/wire"
)

// spoolFolder is where the spools are, below the agent's data folder: one
// folder for each stream, named like its capture.
const spoolFolder = "spool"

// divideSpool gives each live capture its share of the disk. What files and
// standard input have not yielded yet can wait where it is.
func (a *Agent) divideSpool(captures []*capturing) (live int64) {
	for _, c := range captures {
		if !c.config.finite() {
			live++
		}
	}
	if a.config.Spool == 0 || live == 0 {
		return 0
	}
	for _, c := range captures {
		if !c.config.finite() {
			c.spool = a.spoolConfig(int64(a.config.Spool) / live)
		}
	}
	return live
}

func (a *Agent) spoolConfig(limit int64) *spoolConfig {
	return &spoolConfig{share: &diskShare{limit: limit}, overflow: a.config.SpoolOverflow, sync: a.config.SpoolSync, key: a.SpoolKey}
}

// recoverSpools makes the streams of which an earlier run of the agent has left
// something on disk, and those of interfaces: their packets must not wait until
// a journal is recovered.
func (a *Agent) recoverSpools(captures []*capturing) {
	if a.divideSpool(captures) == 0 {
		return
	}
	for _, name := range a.spooledNames() {
		if err := a.recoverSpool(captures, name); err != nil {
			a.log.Error("spool cannot be sent", "capture", string(name), "error", err)
		}
	}
	for _, c := range captures {
		if c.config.Interface == "" || c.streams[""] != nil {
			continue
		}
		if _, err := c.newStream(""); err != nil {
			c.log.Error("stream cannot be begun", "error", err)
		}
	}
}

// spooledNames lists the folders that spools have left.
func (a *Agent) spooledNames() (names []auth.CaptureName) {
	entries, err := os.ReadDir(filepath.Join(a.config.Data, spoolFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("spools cannot be listed", "error", err)
	}
	for _, e := range entries {
		if name, err := auth.ParseCaptureName(e.Name()); err == nil && e.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

// recoverSpool makes the stream whose spool has that name, for the capture that
// it belongs to. If there is no such capture any more, the stream ends with what
// is on disk. Nothing is made of a spool that holds nothing, unless it is that of
// a capture itself.
func (a *Agent) recoverSpool(captures []*capturing, name auth.CaptureName) error {
	owner, sub := ownerOf(captures, string(name))
	if (owner == nil || sub != "") && a.discardEmpty(name) {
		return nil
	}
	if owner != nil {
		_, err := owner.newStream(sub)
		return err
	}
	c := &capturing{
		config: CaptureConfig{Name: string(name)}, stream: a.newStream, agent: a.version,
		memory: newMemory(int64(a.config.Memory)), streams: map[string]*stream{}, log: a.log.With("capture", string(name)),
		spool: a.spoolConfig(int64(a.config.Spool)),
	}
	c.log.Info("a capture that is no more has left a spool, which is sent")
	s, err := c.newStream("")
	if err == nil {
		s.queue.end()
	}
	return err
}

// discardEmpty deletes a spool that holds nothing which a relay has not
// acknowledged, and says whether it is one. Why a spool cannot be looked into is
// told by who opens it next.
func (a *Agent) discardEmpty(name auth.CaptureName) bool {
	dir, err := a.spoolDir(name)
	if err != nil {
		return false
	}
	log := a.log.With("capture", string(name))
	j, err := journal.Open(dir, journal.Options{Damage: wire.CauseSpoolCorrupt, Key: a.SpoolKey, Log: log, FS: a.files(dir)})
	if err != nil {
		return false
	}
	if len(leftIn(j)) > 0 {
		j.Close() // nothing was written
		return false
	}
	if err := j.Discard(); err != nil {
		log.Warn("empty spool cannot be deleted", "error", err)
	} else if os.Remove(filepath.Join(dir, "lock")); os.Remove(dir) == nil { // else there is something else in it
		log.Info("empty spool deleted")
	}
	return true
}

// spoolDir is where the spool of a stream is.
func (a *Agent) spoolDir(name auth.CaptureName) (string, error) {
	return journal.Within(a.config.Data, filepath.Join(spoolFolder, string(name)))
}

// ownerOf finds the capture that a stream's name belongs to: its own, or one
// that it goes on from by a dot.
func ownerOf(captures []*capturing, name string) (owner *capturing, sub string) {
	for _, c := range captures {
		if c.spool == nil {
			continue
		}
		rest, found := strings.CutPrefix(name, c.config.Name)
		after, dot := strings.CutPrefix(rest, ".")
		switch {
		case found && rest == "":
			return c, ""
		case found && dot && (owner == nil || len(c.config.Name) > len(owner.config.Name)):
			owner, sub = c, after
		}
	}
	return owner, sub
}

// openSpool opens the spool of a stream. Without one, which is told, the stream
// has its memory.
func (a *Agent) openSpool(s *stream, c *spoolConfig, log *slog.Logger) {
	dir, err := a.spoolDir(s.name.Capture)
	if err == nil {
		s.spool, err = openSpool(dir, a.files(dir), s.queue, *c, s.name.String(), log)
	}
	if err != nil {
		s.spoolTrouble = err.Error()
		remedy := "make the folder writable for this user, or set spool = \"0\""
		if errors.Is(err, journal.ErrKey) {
			remedy = "set spool_key to the file of that key, and what is in the spool will be sent"
		}
		log.Error("no spool: what does not fit into memory will be lost", "error", err, "remedy", remedy)
		return
	}
	s.spool.stopping = a.stopping
	s.uplink.load = s.spool.load
	a.uplinks.Go(s.spool.run)
}
