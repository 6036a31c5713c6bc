package transport

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func from(ip string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(ip)) }

func TestGateBoundsStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(3, 2)
		evicted := ""
		enter := func(name, ip string) (*Stranger, error) {
			return g.Enter(from(ip), func() { evicted += name })
		}
		a, err := enter("a", "192.0.2.1:1")
		if err != nil {
			t.Fatal(err)
		}
		enter("b", "192.0.2.1:2")
		if _, err := enter("c", "192.0.2.1:3"); !errors.Is(err, errCrowded) {
			t.Errorf("a third of one address: %v", err)
		}
		g.Leave(a)
		g.Leave(a)
		if _, err := enter("c", "192.0.2.1:3"); err != nil {
			t.Errorf("in the place of who has left: %v", err)
		}
		if _, err := enter("d", "[2001:db8::1]:1"); err != nil {
			t.Errorf("another address: %v", err)
		}
		if _, err := enter("e", "192.0.2.9:1"); !errors.Is(err, errCrowded) {
			t.Errorf("a fourth in all: %v", err)
		}
		if evicted != "" {
			t.Errorf("evicted %q although all were fresh", evicted)
		}
		time.Sleep(evictAfter)
		enter("f", "192.0.2.1:4")
		enter("g", "192.0.2.9:1")
		if evicted != "bc" {
			t.Errorf("evicted %q, want the oldest of the address, then of all", evicted)
		}
		if len(g.strangers) != 3 {
			t.Errorf("%d are in", len(g.strangers))
		}
	})
}

// Who is not gone at once keeps its place for longer, and the next oldest gives way.
func TestGatePassesOverWhoIsNotGoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(2, 2)
		evicted := ""
		g.enterSticky(from("192.0.2.1:1"), func() { evicted += "a" })
		g.Enter(from("192.0.2.2:1"), func() { evicted += "b" })
		time.Sleep(evictAfter)
		g.Enter(from("192.0.2.3:1"), func() {})
		time.Sleep(stickyAfter)
		g.Enter(from("192.0.2.4:1"), func() {})
		if evicted != "ba" {
			t.Errorf("evicted %q", evicted)
		}
	})
}

// Strangers who are not gone at once leave half of the places to the others, and
// three quarters of those of their address. Fails without the first case in enter.
func TestGateKeepsPlacesForWhoIsGoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(4, 4)
		for i, want := range []error{nil, errCrowded} {
			if _, err := g.enterSticky(from("192.0.2.1:1"), func() {}); !errors.Is(err, want) {
				t.Errorf("stranger %d over QUIC: %v, want %v", i+1, err, want)
			}
		}
		for i, want := range []error{nil, errCrowded} {
			if _, err := g.enterSticky(from("192.0.2.3:1"), func() {}); !errors.Is(err, want) {
				t.Errorf("stranger %d of another address over QUIC: %v, want %v", i+1, err, want)
			}
		}
		for i := range 4 {
			if _, err := g.Enter(from("192.0.2.2:1"), func() {}); err != nil {
				t.Errorf("stranger %d over TCP: %v", i+1, err)
			}
			time.Sleep(evictAfter)
		}
	})
}

func TestOriginIsAnAddressOrACustomer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8::ffff:1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%1]:1", "[fe80::2%2]:1", true},
	} {
		if (origin(from(c.a)) == origin(from(c.b))) != c.same {
			t.Errorf("%s and %s: %s, %s", c.a, c.b, origin(from(c.a)), origin(from(c.b)))
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if origin(a.LocalAddr()) != (netip.Prefix{}) {
		t.Error("a pipe has an origin")
	}
}

func TestComplaintsAreLimitedAndCounted(t *testing.T) {
	var c Complaints
	now := time.Unix(1e9, 0)
	said := 0
	for range 100 {
		if _, ok := c.allow(now); ok {
			said++
		}
	}
	if said != complaintBurst {
		t.Errorf("%d lines at once", said)
	}
	if withheld, ok := c.allow(now.Add(time.Second)); !ok || withheld != 100-complaintBurst {
		t.Errorf("a second later: %v, %d withheld", ok, withheld)
	}
	if _, ok := c.allow(now.Add(time.Second)); ok {
		t.Error("more than one a second")
	}
}
