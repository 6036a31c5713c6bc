package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/journal"
	"poip/internal/wire"
)

// TestOneBadHistoryHoldsUpItsOwnStreamOnly: a relay starts whatever it finds
// among its histories; the agent of one that cannot be used waits until it can.
func TestOneBadHistoryHoldsUpItsOwnStreamOnly(t *testing.T) {
	w := newWorld(t, keeping, plain("o", oldest))
	good, bad := w.agent("s/good"), w.agent("s/bad")
	good.packets("good 0")
	bad.packets("bad 0")
	good.acked(1)
	bad.acked(1)
	w.stop()
	for _, stray := range []string{"notes", "s/notes"} {
		if err := os.WriteFile(filepath.Join(w.cfg.Data, "history", stray), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ahead := time.Now().Add(time.Hour).UnixNano() // our clock was, when the bad one was written
	j, err := journal.Open(HistoryOf(w.cfg.Data, auth.StreamName{Sensor: "s", Capture: "bad"}), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j.Gap(wire.Gap{First: 1, Count: 1, Cause: wire.CauseKernelDrop}, ahead)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	var healed atomic.Bool
	w = startWorld(t, w.cfg, func(o *Options) {
		o.OpenJournal = func(dir string, o journal.Options) (*journal.Journal, error) {
			if filepath.Base(dir) == "bad" && !healed.Load() {
				return nil, errors.New("made up")
			}
			return journal.Open(dir, o)
		}
	})
	if !strings.Contains(w.logs.String(), "made up") {
		t.Error("nothing is said of the bad history")
	}
	if good = w.agent("s/good"); good.next != 1 {
		t.Errorf("the good one is at %d, want 1", good.next)
	}
	early := w.analyst(w.address("o"))
	early.header()
	early.want("good 0")
	refused := w.dial("s")
	refused.send(wire.AppendHello(nil, greeting1("s/bad")))
	if r := refused.refused(); !strings.Contains(r.Reason, "history") {
		t.Errorf("refused for %q", r.Reason)
	}
	w.address("o") // outsets are asked for meanwhile

	healed.Store(true)
	if bad = w.agent("s/bad"); bad.next != 2 {
		t.Fatalf("the bad one is at %d, want 2", bad.next)
	}
	if now := w.arrivals.Load(); now < uint64(ahead) {
		t.Errorf("stamps go on from %d, which is before %d", now, ahead)
	}
	bad.packets("bad 2")
	bad.acked(3)
	early.want("bad 2")
	if strings.Contains(w.logs.String(), "another link type") {
		t.Error("the log says that a link type has changed")
	}
	w = w.again()
	if bad = w.agent("s/bad"); bad.next != 3 {
		t.Errorf("after a restart the bad one is at %d, want 3", bad.next)
	}
	if n := w.streamStatus("s/bad").History.Packets; n != 2 {
		t.Errorf("its history has %d packets, want 2", n)
	}
}
