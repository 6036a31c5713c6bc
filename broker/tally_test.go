package broker

import (
	"io"
	"maps"
	"testing"
)

// open is how far a ledger is from closing.
func (l ListenerStatus) open() int64 {
	settled := l.Sent + l.Pending
	for _, n := range l.Skipped {
		settled += n
	}
	return int64(l.Offered - settled)
}

func (c ConnectionStatus) open() int64 {
	return int64(c.Offered - c.Sent - c.Skipped - c.Pending)
}

// fell names what has become less between two looks at a listener's counters.
func fell(before, after ListenerStatus) (what []string) {
	was, is := maps.Clone(before.Skipped), maps.Clone(after.Skipped)
	was["offered"], is["offered"] = before.Offered, after.Offered
	was["sent"], is["sent"] = before.Sent, after.Sent
	for name, n := range was {
		if is[name] < n {
			what = append(what, name)
		}
	}
	return what
}

// What a listener counts does not depend on which doors it has: an analyst who
// is sent home and does not read stays for a while, and is on the ledger still.
func TestTheLedgerOutlivesTheDoor(t *testing.T) {
	with := func(l ListenerConfig, change func(*ListenerConfig)) ListenerConfig { change(&l); return l }
	one, many := plain("l"), with(each(ports(t, 1), 1), func(l *ListenerConfig) { l.Name = "l" })
	for name, c := range map[string]struct{ before, after ListenerConfig }{
		"another listener in its place": {one, with(one, func(l *ListenerConfig) { l.Snaplen = 1000 })},
		"a stream has no door any more": {many, with(many, func(l *ListenerConfig) { l.Streams = []string{"other/*"} })},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, c.before)
			a := w.agent("s/c")
			r := w.either("l", false)
			r.header()
			a.flood(0, 8000)
			w.eventually("the reader to stall", func() bool { return w.reader(r).State == "stalled" })
			before := w.listenerStatus("l")
			if before.Offered != 8000 {
				t.Errorf("offered %d", before.Offered)
			}
			cfg := w.cfg
			cfg.Listeners = []ListenerConfig{c.after}
			if err := w.Reload(cfg); err != nil {
				t.Fatal(err)
			}
			if w.listenerStatus("l").Connections != 0 {
				t.Error("the reader still has its door")
			}
			w.eventually("the reader to be gone", func() bool {
				now := w.listenerStatus("l")
				if what := fell(before, now); what != nil || now.open() != 0 {
					t.Fatalf("fell: %v; %d open: %+v", what, now.open(), now)
				}
				before = now
				return now.balanced()
			})
			if before.Offered != 8000 || before.Skipped["disconnect"] == 0 {
				t.Errorf("%+v", before)
			}
		})
	}
}

// Whoever looks at the ledger in the midst of it finds it closed.
func TestTheLedgerClosesAtEveryMoment(t *testing.T) {
	w := newWorld(t, nil, plain("l", func(l *ListenerConfig) { l.Streams = []string{"s/*", "t/*"} }))
	agents := []*agent{w.agent("s/c"), w.agent("t/c")}
	for range 3 {
		r := w.either("l", false)
		r.header()
		go io.Copy(io.Discard, struct{ io.Reader }{r.conn})
	}
	w.either("l", false).header() // and reads no more
	done := make(chan bool)
	go func() {
		defer close(done)
		for i := range 40 {
			agents[i%2].flood(400*(i/2), 400)
		}
	}()
	looks, last := 0, w.listenerStatus("l")
	for busy := true; busy; looks++ {
		select {
		case <-done:
			busy = false
		default:
		}
		now := w.listenerStatus("l")
		if what := fell(last, now); what != nil || now.open() != 0 || now.Pending > now.Offered {
			t.Fatalf("look %d: fell: %v; %d open: %+v", looks, what, now.open(), now)
		}
		for _, c := range now.Doors[0].Analysts {
			if c.open() != 0 || c.Pending > c.Offered {
				t.Fatalf("look %d: %d open: %+v", looks, c.open(), c)
			}
		}
		last = now
	}
	if last.Offered != 4*40*400 {
		t.Errorf("offered %d after %d looks", last.Offered, looks)
	}
}
