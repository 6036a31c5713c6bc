package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"poip/auth"
)

// This file is what a relay leaves on the disk about who was there, for
// commands that ask without it.

const (
	rosterFile = "seen.json"

	// rosterPace is how often the file is written, and rosterLook how soon when
	// somebody has come or gone.
	rosterPace = 10 * time.Second
	rosterLook = time.Second

	// maxRoster bounds the sensors in the file: those seen last stay.
	maxRoster = 4096
)

// A Roster is which sensors a relay has seen.
type Roster struct {
	Written time.Time                    `json:"written"`
	Running bool                         `json:"running"` // the relay was, when it wrote this
	Sensors map[auth.SensorName]Sighting `json:"sensors"`
}

// A Sighting is how a sensor was seen last.
type Sighting struct {
	Last    time.Time                   `json:"last_seen"`
	Online  bool                        `json:"online"`
	Remote  string                      `json:"remote"`
	Network string                      `json:"network"`
	Agent   string                      `json:"agent"`   // its own words; unchecked
	Streams map[auth.CaptureName]string `json:"streams"` // their states
}

// Online says whether the sensor has a session now, as far as the file can
// tell: a relay that was killed has not written that it is gone.
func (r Roster) Online(name auth.SensorName, now time.Time) bool {
	return r.Running && now.Sub(r.Written) < 3*rosterPace && r.Sensors[name].Online
}

// LoadRoster reads what a relay has left in its data directory. Where none
// has, nobody was seen.
func LoadRoster(dir string) (Roster, error) {
	r := Roster{Sensors: make(map[auth.SensorName]Sighting)}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return r, fmt.Errorf("open data directory: %w", err)
	}
	defer root.Close()
	f, err := root.Open(rosterFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", rosterFile, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxState))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w; the relay makes it anew when you remove it", rosterFile, err)
	}
	if r.Sensors == nil {
		r.Sensors = make(map[auth.SensorName]Sighting)
	}
	return r, nil
}

// keepRoster writes the roster every now and then, while somebody is there or
// has just gone, and at the end.
func (b *Broker) keepRoster(ctx context.Context) {
	roster, err := LoadRoster(b.store.dir)
	if err != nil {
		b.log.Warn("who was seen before is forgotten", "error", err)
		roster = Roster{Sensors: make(map[auth.SensorName]Sighting)}
	}
	tick := time.NewTicker(rosterLook)
	defer tick.Stop()
	var there string
	write := func(running bool) {
		if err := b.writeRoster(&roster, running); err != nil {
			b.complaints.Warn(b.log, "cannot write who was seen", "error", err)
		}
	}
	write(true)
	for {
		select {
		case <-ctx.Done():
			write(false)
			return
		case <-tick.C:
			if now := b.whoIsThere(); now != there || time.Since(roster.Written) >= rosterPace {
				there = now
				write(true)
			}
		}
	}
}

// whoIsThere is another text whenever a stream begins, ends or moves.
func (b *Broker) whoIsThere() string {
	var text strings.Builder
	for _, st := range b.Streams() {
		fmt.Fprintln(&text, st.Sensor, st.Stream, st.State, st.Remote)
	}
	return text.String()
}

func (b *Broker) writeRoster(r *Roster, running bool) error {
	r.update(b.Streams(), time.Now(), running)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(b.store.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const fresh = rosterFile + ".new"
	if err := root.WriteFile(fresh, append(text, '\n'), 0o600); err != nil { // no fsync: it is of no use after a crash
		return err
	}
	return root.Rename(fresh, rosterFile)
}

// update enters what the streams say.
func (r *Roster) update(streams []StreamStatus, now time.Time, running bool) {
	r.Written, r.Running = now.UTC(), running
	for name, s := range r.Sensors {
		s.Online = false
		r.Sensors[name] = s
	}
	seen := make(map[auth.SensorName]bool)
	for _, st := range streams {
		if st.Remote == "" {
			continue // known from before, and not seen since
		}
		s := r.Sensors[st.Sensor]
		if !seen[st.Sensor] {
			s.Streams, seen[st.Sensor] = make(map[auth.CaptureName]string), true
		}
		s.Streams[st.Stream] = st.State
		last := st.Since
		if st.State == "live" {
			last, s.Online = now, running
		}
		if !last.Before(s.Last) {
			s.Last, s.Remote, s.Network, s.Agent = last.UTC(), st.Remote, st.Network, shortened(st.Agent)
		}
		r.Sensors[st.Sensor] = s
	}
	r.bound()
}

// bound forgets those who were not seen for longest.
func (r *Roster) bound() {
	if len(r.Sensors) <= maxRoster {
		return
	}
	var names []auth.SensorName
	for name := range r.Sensors {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b auth.SensorName) int { return r.Sensors[b].Last.Compare(r.Sensors[a].Last) })
	for _, name := range names[maxRoster:] {
		delete(r.Sensors, name)
	}
}
