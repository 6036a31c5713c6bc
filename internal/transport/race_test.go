package transport

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func addrPorts(n int) (addrs []netip.AddrPort) {
	for i := range n {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1))
	}
	return addrs
}

// The addresses are tried in order, each with a head start, and the losers
// are waited for and given away.
func TestRaceGivesHeadStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var started []time.Duration
		var discarded []int
		var mu sync.Mutex // of started
		var running atomic.Int32
		dial := func(ctx context.Context, addr netip.AddrPort) (int, error) {
			running.Add(1)
			defer running.Add(-1)
			mu.Lock()
			started = append(started, time.Since(begin))
			mu.Unlock()
			i := int(addr.Addr().As4()[3])
			switch i {
			case 0: // a black hole
				<-ctx.Done()
				return 0, ctx.Err()
			case 1: // late, and ignores that it is
				time.Sleep(time.Hour)
			case 2:
				return 0, errors.New("refused")
			case 3:
				time.Sleep(time.Second)
			}
			return i, nil
		}
		won, err := race(t.Context(), addrPorts(5), dial, func(i int) { discarded = append(discarded, i) })
		if won != 4 || err != nil {
			t.Errorf("%d won, %v", won, err)
		}
		slices.Sort(discarded)
		if !slices.Equal(discarded, []int{1, 3}) {
			t.Errorf("given away: %v", discarded)
		}
		// The third fails at once, so the fourth does not wait for its turn.
		want := []time.Duration{0, headStart, 2 * headStart, 2 * headStart, 3 * headStart}
		if !slices.Equal(started, want) {
			t.Errorf("started at %v", started)
		}
		if n := running.Load(); n > 0 {
			t.Errorf("%d dials go on", n)
		}
	})
}

func TestRaceTellsOfAllFailures(t *testing.T) {
	dial := func(_ context.Context, addr netip.AddrPort) (int, error) { return 0, errors.New(addr.String()) }
	_, err := race(t.Context(), addrPorts(2), dial, func(int) {})
	if err == nil || err.Error() != "192.0.2.0:1; 192.0.2.1:1" {
		t.Errorf("got %v", err)
	}
	if _, err := race(t.Context(), nil, dial, func(int) {}); err == nil {
		t.Error("no address, and no error")
	}
}
