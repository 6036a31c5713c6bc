package broker

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"poip/internal/wire"
)

func (w *world) get(path string) string {
	w.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + w.admin.Addr().String() + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s, %v", path, r.Status, err)
	}
	return string(text)
}

func TestTheLedgerIsOnTheAdminPages(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	r := w.analyst(w.address("p"))
	a := w.agent("branch-7/eth0")
	a.packets("one", "two", "three")
	a.gap(10, wire.CauseKernelDrop)
	a.gap(0, wire.CauseAgentCrash)
	a.send(wire.AppendStats(nil, wire.Stats{Captured: 13, Lost: 10, Empty: 4}))
	a.acked(13)
	r.header()
	r.read(3)
	w.eventually("the ledger", func() bool { return w.listenerStatus("p").balanced() })

	if got := w.get("/healthz"); got != "ok\n" {
		t.Errorf("health: %q", got)
	}
	metrics := w.get("/metrics")
	for _, want := range []string{
		`poip_relay_received_packets_total{sensor="branch-7",stream="eth0"} 3`,
		`poip_relay_lost_packets_total{cause="kernel_drop",sensor="branch-7",stream="eth0"} 10`,
		`poip_relay_lost_packets_total{cause="relay_restart",sensor="branch-7",stream="eth0"} 0`,
		`poip_relay_lost_unknown_total{cause="agent_crash",sensor="branch-7",stream="eth0"} 1`,
		`poip_relay_stream_live{sensor="branch-7",stream="eth0"} 1`,
		`poip_relay_ring_packets{sensor="branch-7",stream="eth0"} 3`,
		`poip_relay_offered_packets_total{listener="p"} 3`,
		`poip_relay_sent_packets_total{listener="p"} 3`,
		`poip_relay_skipped_packets_total{cause="overrun",listener="p"} 0`,
		`poip_relay_pending_packets{listener="p"} 0`,
		`poip_relay_connections{listener="p"} 1`,
		`poip_relay_connection_sent_packets{connection="0",listener="p"} 3`,
		`go_goroutines`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}

	var streams struct{ Streams []StreamStatus }
	if err := json.Unmarshal([]byte(w.get("/api/v1/streams")), &streams); err != nil {
		t.Fatal(err)
	}
	s := streams.Streams[0]
	if s.Received != 3 || s.Position != 13 || s.Counters.Empty != 4 || s.LinkTypeName != "EN10MB" || s.Interface != "if0" {
		t.Errorf("%+v", s)
	}
	var listeners struct{ Listeners []ListenerStatus }
	if err := json.Unmarshal([]byte(w.get("/api/v1/listeners")), &listeners); err != nil {
		t.Fatal(err)
	}
	d := listeners.Listeners[0].Doors[0]
	if !slices.Contains(d.Commands, "tshark -i TCP@"+d.Address) || len(d.Analysts) != 1 || d.Analysts[0].Sent != 3 {
		t.Errorf("%+v", d)
	}
}

func TestAdminAnswersLoopbackNamesAndGETOnly(t *testing.T) {
	w := newWorld(t, nil)
	pages := w.adminPages()
	for _, c := range []struct {
		method, host, path string
		want               int
	}{
		{"GET", "127.0.0.1:57080", "/healthz", 200},
		{"GET", "localhost", "/healthz", 200},
		{"GET", "[::1]:57080", "/api/v1/streams", 200},
		{"HEAD", "127.0.0.1", "/metrics", 200},
		{"GET", "evil.example:57080", "/metrics", 403},
		{"GET", "192.0.2.1", "/metrics", 403},
		{"GET", "localhost.evil.example", "/metrics", 403},
		{"GET", "", "/metrics", 403},
		{"POST", "127.0.0.1", "/api/v1/streams", 405},
		{"GET", "127.0.0.1", "/debug/pprof/", 404},
		{"GET", "127.0.0.1", "/", 404},
	} {
		r := httptest.NewRequest(c.method, "http://127.0.0.1"+c.path, nil)
		r.Host = c.host
		answer := httptest.NewRecorder()
		pages.ServeHTTP(answer, r)
		if answer.Code != c.want {
			t.Errorf("%s %s as %q: %d, want %d", c.method, c.path, c.host, answer.Code, c.want)
		}
	}
}

func TestAgentCountersOutliveTheEpoch(t *testing.T) {
	w := newWorld(t, nil)
	a := w.agent("s/c")
	a.packets("one", "two")
	a.send(wire.AppendStats(nil, wire.Stats{Captured: 2, Empty: 1, QueuedPackets: 2, QueuedBytes: 65536}))
	a.end(true)
	if got, want := w.streamStatus("s/c").Counters, (AgentCounters{Captured: 2, Empty: 1}); got != want {
		t.Errorf("counters %+v, want %+v", got, want)
	}
}

func TestCommands(t *testing.T) {
	at := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	from := func(networks ...string) plan {
		p, err := plain("p", func(l *ListenerConfig) { l.Allow = networks }).compile()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if got := from("192.0.2.0/24").commands(at("192.0.2.1:57012")); got[0] != "wireshark -k -i TCP@192.0.2.1:57012" {
		t.Error(got)
	}
	if got := from("2001:db8::/64").commands(at("[2001:db8::1]:57012")); got[1] != "tshark -i 'TCP@[2001:db8::1]:57012'" {
		t.Error(got)
	}
	encrypted := from("::1/128")
	encrypted.config.TLS = true
	if got := encrypted.commands(at("[::1]:57013")); got[0] != "ncat --ssl --recv-only ::1 57013 | wireshark -k -i -" {
		t.Error(got)
	}
	for _, c := range []struct {
		listen, allow string
		want          []string
	}{
		{"[::]:57012", "127.0.0.0/8 ::1/128", []string{"TCP@127.0.0.1:57012", "'TCP@[::1]:57012'"}},
		{"[::]:57012", "127.0.0.1/32", []string{"TCP@127.0.0.1:57012"}},
		{"0.0.0.0:57012", "127.0.0.0/8 ::1/128", []string{"TCP@127.0.0.1:57012"}},
		{"[::]:57012", "", nil},
	} {
		var sources []string
		for _, line := range from(strings.Fields(c.allow)...).commands(at(c.listen)) {
			if source, ok := strings.CutPrefix(line, "tshark -i "); ok {
				sources = append(sources, source)
			}
		}
		if !slices.Equal(sources, c.want) {
			t.Errorf("listen %s, allow %q: %q, want %q", c.listen, c.allow, sources, c.want)
		}
	}
	own := []net.Addr{
		&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
		&net.IPNet{IP: net.ParseIP("fe80::1"), Mask: net.CIDRMask(64, 128)},
		&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)},
	}
	if got := primary(own, false); len(got) != 2 || got[0].String() != "192.0.2.7" || got[1].String() != "2001:db8::7" {
		t.Error(got)
	}
	if got := primary(own, true); len(got) != 1 || got[0].String() != "192.0.2.7" {
		t.Error(got)
	}
	if got := primary(own[:2], false); len(got) != 1 || got[0].String() != "127.0.0.1" {
		t.Error(got)
	}
}
