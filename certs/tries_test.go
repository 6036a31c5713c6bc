package certs

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func originOf(n uint32) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.PrefixFrom(netip.AddrFrom4(b), 32)
}

func TestAnAddressMayFailSoOften(t *testing.T) {
	var tries tries
	now := time.Unix(1700000000, 0)
	mine, other := originOf(1), originOf(2)
	for i := range triesBurst {
		if !tries.allows(mine, now) {
			t.Fatalf("try %d is refused", i+1)
		}
		tries.charge(mine, now)
	}
	if tries.allows(mine, now) {
		t.Error("one more than the burst is allowed")
	}
	if !tries.allows(other, now) {
		t.Error("another address is held liable")
	}
	if now = now.Add(triesRefill); !tries.allows(mine, now) {
		t.Error("it never forgets")
	}
	tries.charge(mine, now)
	if tries.allows(mine, now) {
		t.Error("one refill is good for two tries")
	}
	if tries.allows(mine, now.Add(-time.Hour)) {
		t.Error("a clock that is set back gives new tries")
	}
}

// Fails without makeRoom: whoever has many addresses could fill the memory.
func TestAddressesAreRememberedUpToABound(t *testing.T) {
	var tries tries
	now := time.Unix(1700000000, 0)
	stubborn := originOf(0xffffffff)
	for range triesBurst {
		tries.charge(stubborn, now)
	}
	for i := range uint32(3 * mostOrigins) {
		tries.charge(originOf(i), now)
		if len(tries.failed) > mostOrigins {
			t.Fatalf("%d addresses are remembered", len(tries.failed))
		}
	}
	if tries.allows(stubborn, now) {
		t.Error("who failed most was forgotten before those who failed once")
	}
}

func TestRefusalsAreToldUpToABound(t *testing.T) {
	var tries tries
	now := time.Unix(1700000000, 0)
	told := 0
	for range 1000 {
		if tries.tell(now) {
			told++
		}
	}
	if told != toldBurst {
		t.Errorf("%d lines at once", told)
	}
	if !tries.tell(now.Add(2 * toldRefill)) {
		t.Error("nothing is told any more")
	}
}
