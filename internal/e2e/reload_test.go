package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/pcap"
)

// TestReload: SIGHUP puts a new configuration in force or, when anything is
// wrong with it, nothing of it; who is still allowed notices nothing.
func TestReload(t *testing.T) {
	w := newWorld(t, "branch-7")
	first := w.relayTOML("", listenerTOML{"a", "", plainLive})
	r := w.startRelay(first)
	f := w.startFeed(r, "branch-7", "tls")
	analyst := dial(t, r.address("a"))
	expect(t, analyst, micro(nil)) // it is let in, and what comes now is for it
	f.packet()
	expect(t, analyst, pcap.Convert(nil, numbered(0), true, 65535))

	reload := func(toml, says string) {
		t.Helper()
		before := r.Count(func(l logLine) bool { return l["msg"] == says })
		w.write("relay.toml", toml)
		r.Signal(syscall.SIGHUP)
		eventually(t, says, func() bool { return r.Count(func(l logLine) bool { return l["msg"] == says }) > before })
	}
	const ok, failed = "configuration reloaded", "reload failed; what was in force stays"

	for _, mistake := range []string{
		"[[relay.listener]]\nname = \"b\"\n",
		"[[relay.listener]]\nname = \"b\"\nlisten = \"127.0.0.1:0\"\nstreams = [\"*/*\"]\nformatt = \"pcap\"\n",
		"[[relay.listener]]\nname = \"b\"\nlisten = \"0.0.0.0:0\"\nstreams = [\"*/*\"]\nallow = [\"0.0.0.0/0\"]\n",
		"[[relay.listener]]\nname = \"b\"\nlisten = \"192.0.2.1:1\"\nstreams = [\"*/*\"]\nallow_plaintext = true\n", // cannot be bound
		"[[relay.listener]\n",
	} {
		reload(first+mistake, failed)
		if r.door("b", "").Address != "" {
			t.Errorf("a listener of a configuration that failed is there: %s", mistake)
		}
	}

	reload(first+listenerTOML{"b", "", "tls = true\n" + plainLive}.String(), ok)
	before := serial(t, r.address("b"))
	f.packet()
	expect(t, analyst, pcap.Convert(nil, numbered(1), true, 65535))

	if renewed, err := certs.RenewRelay(w.path("relay"), time.Now().AddDate(1, 0, 0), time.Hour); !renewed || err != nil {
		t.Fatalf("the relay's certificate is not replaced: %v", err)
	}
	reload(first+listenerTOML{"b", "", "tls = true\n" + plainLive}.String(), ok)
	eventually(t, "the new certificate is shown", func() bool { return serial(t, r.address("b")) != before })
	f.packet()
	expect(t, analyst, pcap.Convert(nil, numbered(2), true, 65535))

	key, err := os.ReadFile(w.path("relay", "relay.key"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("relay/relay.key", "no key")
	reload(first, failed)
	if r.door("b", "").Address == "" {
		t.Error("a reload without a key took a listener away")
	}

	w.write("relay/relay.key", string(key))
	reload(strings.Replace(first, `"127.0.0.0/8", `, "", 1), ok)
	analyst.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(analyst); err != nil || len(rest) != 0 {
		t.Errorf("an analyst that is no longer allowed got %d bytes more and %v, want a clean end", len(rest), err)
	}
	if r.Count(func(l logLine) bool { return l["msg"] == "agent has gone" }) != 0 {
		t.Error("a reload disturbed the agent")
	}
}

// expect reads just these bytes.
func expect(t *testing.T, conn net.Conn, want []byte) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the analyst got %x (%v), want %x", got, err, want)
	}
}

// serial is the serial number of the certificate that a listener shows.
func serial(t *testing.T, address string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) // only the number matters here
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
