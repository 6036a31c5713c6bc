package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// shortLife leaves ten seconds between the moment in which a certificate is
// renewed at the latest and its end, for a machine that is busy.
const shortLife = 45 * time.Second

// shortLived gives a sensor a certificate that ends soon.
func (w *world) shortLived(sensor string, life time.Duration) (end time.Time) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	identity, err := certs.OpenSensor(w.path(sensor), "localhost")
	must(err)
	request, err := identity.Request()
	must(err)
	csr, err := certs.CheckCSR(request)
	must(err)
	issuer, err := certs.OpenIssuer(w.path("relay"))
	must(err)
	who := certs.SensorSubject(auth.SensorName(sensor))
	cert, err := issuer.Sign(who, csr, life)
	must(err)
	must(certs.OpenRegistry(w.path("relay")).Add(who, certs.EntryOf(cert, certs.HowIssued, "")))
	must(identity.Accept(issuer.Chain(cert)))
	return cert.NotAfter
}

func says(message string) func(logLine) bool {
	return func(l logLine) bool { return l["msg"] == message }
}

// slowly is eventually for what takes the better part of a minute by itself.
func slowly(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestCertificateIsRenewedMidSession: a life of less than a minute ends while the
// session goes on, undisturbed. Without the RENEW in agent's session.stats, or
// without guard.renew moving the session to the new certificate, it breaks.
func TestCertificateIsRenewedMidSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "over-tls", "over-quic")
	w.shortLived("over-tls", shortLife)
	end := w.shortLived("over-quic", shortLife)
	r := w.startRelay(w.relayTOML(fmt.Sprintf("[relay.certs]\nsensor = %q\n", shortLife), listenerTOML{"plain", "", plainOldest}))
	feeds := []*feed{w.startFeed(r, "over-tls", "tls"), w.startFeed(r, "over-quic", "quic")}
	for _, f := range feeds {
		f.packet()
		slowly(t, "the certificate is renewed", func() bool { return f.Count(says("certificate renewed")) > 0 })
	}
	slowly(t, "the first ones have expired", func() bool { return time.Now().After(end.Add(3 * time.Second)) })
	for _, f := range feeds {
		f.packet()
	}
	eventually(t, "packets pass after the end of the first certificates", func() bool { return r.metric("poip_relay_received_packets_total") == 4 })
	for i, f := range feeds {
		if n := f.Count(says("connected to relay")); n != 1 {
			t.Errorf("connected %d times, want 1", n)
		}
		label := []string{`sensor="over-tls"`, `sensor="over-quic"`}[i]
		if left := time.Until(time.Unix(int64(r.metric("poip_relay_sensor_certificate_expiry_timestamp_seconds", label)), 0)); left <= 0 {
			t.Errorf("%s: the relay goes by a certificate that has ended %s ago", label, -left)
		}
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Errorf("the agent ended with %d", code)
		}
	}
}

// TestExpiredSessionEndsAndItsDataIsKept: a relay that cannot sign. The sensor
// is told well before, the session ends with the certificate, what is captured
// meanwhile is kept, and delivered when the sensor has joined anew, without a
// restart. Without guard.watch the session goes on for ever.
func TestExpiredSessionEndsAndItsDataIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "over-tls", "over-quic")
	sensors := []string{"over-tls", "over-quic"}
	ends := []time.Time{w.shortLived("over-tls", shortLife), w.shortLived("over-quic", shortLife)}
	key, hidden := w.path("relay", certs.CAKey), w.path("relay", "elsewhere")
	if err := os.Rename(key, hidden); err != nil {
		t.Fatal(err)
	}
	each := "listen = \"127.0.0.1:0\"\nformat = \"pcap-ns\"\nallow = [\"127.0.0.0/8\"]\nstart = \"oldest\"\n"
	r := w.startRelay(w.relayTOML("") +
		"[[relay.listener]]\nname = \"over-tls\"\nstreams = [\"over-tls/*\"]\n" + each +
		"[[relay.listener]]\nname = \"over-quic\"\nstreams = [\"over-quic/*\"]\n" + each)
	feeds := []*feed{w.startFeed(r, "over-tls", "tls"), w.startFeed(r, "over-quic", "quic")}
	received := func(sensor string) float64 {
		return r.metric("poip_relay_received_packets_total", fmt.Sprintf("sensor=%q", sensor))
	}
	for i, f := range feeds {
		f.packet()
		eventually(t, "the first packet arrives", func() bool { return received(sensors[i]) == 1 })
	}
	for _, f := range feeds {
		for _, warning := range []string{"certificate is not renewed; trying again", "certificate expires soon and is not renewed"} {
			slowly(t, warning, func() bool { return f.Count(says(warning)) > 0 })
		}
	}
	for i, f := range feeds {
		away := func(l logLine) bool { return l["msg"] == "sending away" && l["who"] == "sensor "+sensors[i] }
		slowly(t, "the session is ended", func() bool { return r.Count(away) > 0 })
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r.WaitLog("that it sends the sensor away", away)["time"]))
		if late := at.Sub(ends[i]); err != nil || late < 0 || late > 15*time.Second { // 5 s, and what a loaded machine adds
			t.Errorf("%s: ended %s after the certificate, %v", sensors[i], late, err)
		}
		f.WaitMessage("certificate has expired: no relay takes it, and what is captured is kept as far as there is room")
		f.WaitLog("what to do", func(l logLine) bool {
			return l["msg"] == "no uplink" && strings.Contains(fmt.Sprint(l["remedy"]), "poip-agent enroll")
		})
		for range 3 {
			f.packet()
		}
		if n := received(sensors[i]); n != 1 {
			t.Errorf("%v packets came with an expired certificate", n)
		}
	}

	if err := os.Rename(hidden, key); err != nil {
		t.Fatal(err)
	}
	for i, f := range feeds {
		w.shortLived(sensors[i], time.Hour) // as joining anew does
		slowly(t, "what was kept is delivered", func() bool { return received(sensors[i]) == 4 })
		expect(t, dial(t, r.address(sensors[i])), append(pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, true), f.sent...))
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Errorf("the agent ended with %d", code)
		}
	}
}

// TestAuthorityIsRotated: two steps, in which no session breaks; then the old
// authority is worth nothing. Without session.announce nobody would renew in
// time; without guard.review the old sessions would outlive it.
func TestAuthorityIsRotated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7", "branch-8", "asleep", "leaving")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	feeds := []*feed{w.startFeed(r, "branch-7", "tls"), w.startFeed(r, "branch-8", "quic")}
	trusted := r.Count(says("certificates and revocations loaded anew"))
	old := w.client(t, "leaving")
	live := w.client(t, "leaving").hello(r.intake("tls"), "leaving/eth0") // knows nothing of RENEW

	w.must("poip-relay", "ca", "rotate", "--data", w.path("relay"))
	eventually(t, "the relay notices", func() bool { return r.Count(says("certificates and revocations loaded anew")) > trusted })
	for _, f := range feeds {
		f.WaitMessage("relay announces other authorities")
		f.WaitMessage("certificate renewed")
		f.packet()
	}
	eventually(t, "packets pass", func() bool { return r.metric("poip_relay_received_packets_total") == 2 })
	for _, scheme := range []string{"tls", "quic"} { // in the overlap the old one is good, with its tickets
		for _, resumed := range []bool{false, true} {
			conn := old.hello(r.intake(scheme), "leaving/"+scheme)
			if got := conn.TLS().DidResume; got != resumed {
				t.Errorf("%s: resumed %t, want %t", scheme, got, resumed)
			}
			conn.Abort()
		}
	}
	if out, err := w.try("poip-relay", "ca", "retire", "--data", w.path("relay")); err == nil || !strings.Contains(out, "asleep") {
		t.Errorf("retire goes over who has not renewed: %s", out)
	}

	w.must("poip-relay", "ca", "retire", "--data", w.path("relay"), "--force")
	if code := refusalOn(t, live); code != wire.CodeRevoked {
		t.Errorf("the old authority's session ends with %s", code)
	}
	for _, scheme := range []string{"tls", "quic"} {
		if !old.refused(r.intake(scheme)) {
			t.Errorf("%s: no ticket was shown", scheme)
		}
	}
	for _, f := range feeds {
		f.packet()
	}
	eventually(t, "packets pass", func() bool { return r.metric("poip_relay_received_packets_total") == 4 })
	for _, f := range feeds {
		if n := f.Count(says("connected to relay")); n != 1 {
			t.Errorf("connected %d times, want 1", n)
		}
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Errorf("the agent ended with %d", code)
		}
	}
	again := w.startFeed(r, "branch-7", "tls") // from what it has kept on the disk
	again.WaitMessage("connected to relay")
}

// TestRevokedMidSession: sessions over TCP and QUIC end, and neither a fresh
// handshake nor a ticket opens another. Without Trust.judging both do; without
// guard.review the sessions stay.
func TestRevokedMidSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7", "branch-8")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	agent, other := w.startFeed(r, "branch-7", "quic"), w.startFeed(r, "branch-8", "tls")
	thief := w.client(t, "branch-7") // has the same files
	var live []transport.Conn
	for _, scheme := range []string{"tls", "quic"} {
		for _, resumed := range []bool{false, true} {
			conn := thief.hello(r.intake(scheme), "branch-7/"+scheme)
			if got := conn.TLS().DidResume; got != resumed {
				t.Fatalf("%s: resumed %t, want %t", scheme, got, resumed)
			}
			if resumed {
				live = append(live, conn)
			}
		}
	}

	revoked := time.Now()
	w.must("poip-relay", "revoke", "branch-7", "--data", w.path("relay"))
	for _, conn := range live {
		if code := refusalOn(t, conn); code != wire.CodeRevoked {
			t.Errorf("%s: ended with %s", conn.Network(), code)
		}
	}
	agent.WaitLog("that it is revoked", func(l logLine) bool {
		return l["msg"] == "no uplink" && l["level"] == "ERROR" && strings.Contains(fmt.Sprint(l["error"]), "revoked")
	})
	if took := time.Since(revoked); took > 15*time.Second { // 5 s, and what a loaded machine adds
		t.Errorf("it took %s", took)
	}
	for _, scheme := range []string{"tls", "quic"} {
		if !thief.refused(r.intake(scheme)) {
			t.Errorf("%s: no ticket was shown", scheme)
		}
	}
	if state := w.sensors()["branch-7"].State; state != "revoked" {
		t.Errorf("branch-7 is %s", state)
	}

	other.packet()
	eventually(t, "the others go on", func() bool { return r.metric("poip_relay_received_packets_total") == 1 })
	if n := other.Count(says("connected to relay")); n != 1 {
		t.Errorf("connected %d times, want 1", n)
	}
	w.joinAnew(r, "branch-7")
	w.client(t, "branch-7").hello(r.intake("tls"), "branch-7/fresh").Abort()
	if state := w.sensors()["branch-7"].State; state == "revoked" {
		t.Error("branch-7 is revoked although it has joined again")
	}
}

// TestDamagedRevocationsAreLoud: a running relay keeps what it knows, and one
// that starts does not. The first round fails without Follows in keeper.load, the
// second if loadRevocations takes what it cannot parse for an empty list.
func TestDamagedRevocationsAreLoud(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7", "branch-8")
	w.must("poip-relay", "revoke", "branch-7", "--data", w.path("relay"))
	toml := w.relayTOML("", listenerTOML{"plain", "", plainOldest})
	r := w.startRelay(toml)
	w.client(t, "branch-7").refused(r.intake("tls"))
	const bad = "changed certificates or revocations are of no use; what was in force stays"
	for n, damage := range []string{`{"version":1}`, "{"} {
		w.write("relay/"+certs.RevocationsFile, damage)
		eventually(t, "it says so", func() bool { return r.Count(says(bad)) > n })
		w.client(t, "branch-7").refused(r.intake("tls"))
	}
	w.client(t, "branch-8").hello(r.intake("tls"), "branch-8/x").Abort()
	r.stop()
	if code := w.start("poip-relay", "run", "--config", w.path("relay.toml")).Wait(); code == 0 {
		t.Error("started without knowing who is revoked")
	}
}

// TestSensorsAreListed: with a relay that runs, and after it has ended. It fails
// without either Online or LastSeen in describeSensor.
func TestSensorsAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7", "never")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	f := w.startFeed(r, "branch-7", "tls")
	slowly(t, "branch-7 is online", func() bool { return w.sensors()["branch-7"].State == "online" })
	s := w.sensors()["branch-7"]
	if s.Streams["feed"] != "live" || s.Remote == "" || !strings.HasPrefix(s.Agent, "poip-agent") || time.Until(s.Expires) < 24*time.Hour {
		t.Errorf("it is described as %+v", s)
	}
	if s := w.sensors()["never"]; s.State != "offline" || s.LastSeen != nil {
		t.Errorf("who was never here is %+v", s)
	}
	f.stop()
	r.stop()
	if s := w.sensors()["branch-7"]; s.State != "offline" || s.LastSeen == nil || time.Since(*s.LastSeen) > 2*time.Minute {
		t.Errorf("after the end of the relay it is %+v", s)
	}
	if out := w.must("poip-relay", "sensors", "--data", w.path("relay")); !strings.Contains(out, "branch-7") || !strings.Contains(out, "never") {
		t.Errorf("printed\n%s", out)
	}
}

type sensorLine struct {
	Name     string
	State    string
	LastSeen *time.Time `json:"last_seen"`
	Remote   string
	Agent    string
	Expires  time.Time `json:"certificate_expires"`
	Streams  map[string]string
}

// sensors asks the command for its list.
func (w *world) sensors() map[string]sensorLine {
	w.t.Helper()
	var lines []sensorLine
	if err := json.Unmarshal([]byte(w.must("poip-relay", "sensors", "--data", w.path("relay"), "--json")), &lines); err != nil {
		w.t.Fatal(err)
	}
	out := make(map[string]sensorLine)
	for _, l := range lines {
		out[l.Name] = l
	}
	return out
}

// joinAnew gives a sensor that has one already another identity.
func (w *world) joinAnew(r *relay, sensor string) {
	w.t.Helper()
	line := w.must("poip-relay", "token", sensor, "--replace", "--data", w.path("relay"), "--relay", r.intake("tls"))
	enroll := exec.Command(program("poip-agent"), "enroll", "--replace", "--data", w.path(sensor))
	enroll.Stdin = strings.NewReader(line)
	if out, err := enroll.CombinedOutput(); err != nil {
		w.t.Fatalf("join anew: %v\n%s", err, out)
	}
}

// A client is somebody with a sensor's files who resumes TLS sessions, as our
// own agent does not.
type client struct {
	t      *testing.T
	config *tls.Config
	cache  *countingCache
}

// countingCache says how often a ticket was there to be shown.
type countingCache struct {
	tls.ClientSessionCache
	shown atomic.Int32
}

func (c *countingCache) Get(key string) (*tls.ClientSessionState, bool) {
	s, ok := c.ClientSessionCache.Get(key)
	if ok && s != nil {
		c.shown.Add(1)
	}
	return s, ok
}

// client loads the sensor's files as they are now; what becomes of them later
// does not matter to it.
func (w *world) client(t *testing.T, sensor string) *client {
	t.Helper()
	identity, err := certs.OpenSensor(w.path(sensor), "localhost")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, config: identity.TLS().Clone(), cache: &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}}
	c.config.ClientSessionCache = c.cache
	return c
}

// open makes a connection of its own, which may have to be refused yet.
func (c *client) open(relayURL string) (transport.Conn, error) {
	c.t.Helper()
	endpoint, err := transport.ParseEndpoint(relayURL)
	if err != nil {
		c.t.Fatal(err)
	}
	config := c.config.Clone()
	config.ServerName = endpoint.Scheme + ".localhost" // names the cache's place; both have tickets of their own
	config.InsecureSkipVerify = true                   // it is about what the relay thinks
	dialer := &transport.Dialer{TLS: config}
	c.t.Cleanup(func() { dialer.Close() })
	return dialer.Open(c.t.Context(), endpoint)
}

// hello opens a stream and reads the relay's hello-ack, and with it the tickets.
func (c *client) hello(relayURL, stream string) transport.Conn {
	c.t.Helper()
	conn, err := c.open(relayURL)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Abort() })
	send(c.t, conn, stream)
	if h := nextFrame(c.t, conn); h.Type != wire.TypeHelloAck {
		c.t.Fatalf("answer to hello: type %d", h.Type)
	}
	return conn
}

func send(t *testing.T, conn transport.Conn, stream string) {
	t.Helper()
	hello := wire.Hello{Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535, Stream: stream}
	if _, err := conn.Write(wire.AppendHello(nil, hello)); err != nil {
		t.Log(err) // the answer says more
	}
	if err := conn.Flush(); err != nil {
		t.Log(err)
	}
}

// refused tries with a ticket where there is one, and without; neither may be
// let in. It says whether a ticket was shown.
func (c *client) refused(relayURL string) (shown bool) {
	c.t.Helper()
	before := c.cache.shown.Load()
	if err := c.attempt(relayURL); err == nil || strings.Contains(err.Error(), "deadline") {
		c.t.Errorf("%s, with what is cached: %v", relayURL, err)
	}
	shown = c.cache.shown.Load() > before
	kept := c.config.ClientSessionCache
	c.config.ClientSessionCache = nil
	if err := c.attempt(relayURL); err == nil || strings.Contains(err.Error(), "deadline") {
		c.t.Errorf("%s, without a ticket: %v", relayURL, err)
	}
	c.config.ClientSessionCache = kept
	return shown
}

// attempt says why the relay does not answer a hello: in TLS 1.3 that shows
// after the handshake.
func (c *client) attempt(relayURL string) error {
	conn, err := c.open(relayURL)
	if err != nil {
		return err
	}
	defer conn.Abort()
	send(c.t, conn, "any/thing")
	conn.SetReadDeadline(time.Now().Add(patience))
	var buf [wire.FrameHeaderLen]byte
	_, err = wire.ReadHeader(conn, &buf)
	return err
}

// nextFrame reads one frame.
func nextFrame(t *testing.T, conn transport.Conn) wire.Header {
	t.Helper()
	h, _ := readFrame(t, conn)
	return h
}

func readFrame(t *testing.T, conn transport.Conn) (wire.Header, []byte) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	var buf [wire.FrameHeaderLen]byte
	h, err := wire.ReadHeader(conn, &buf)
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	for n := 0; n < len(payload); {
		m, err := conn.Read(payload[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	return h, payload
}

// refusalOn waits for the refusal that ends a live session.
func refusalOn(t *testing.T, conn transport.Conn) wire.Code {
	t.Helper()
	for {
		h, payload := readFrame(t, conn)
		if h.Type != wire.TypeRefusal {
			continue
		}
		r, err := wire.ParseRefusal(payload)
		if err != nil {
			t.Fatal(err)
		}
		return r.Code
	}
}

// try runs one of our commands, which may fail.
func (w *world) try(name string, args ...string) (string, error) {
	out, err := exec.Command(program(name), args...).CombinedOutput()
	return string(out), err
}

// TestRevokedAnalystIsSentAway: who reads stops reading, and a ticket opens no
// listener again. Without vouchAnalyst the connection stays.
func TestRevokedAnalystIsSentAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7")
	const certified = "streams = [\"*/*\"]\nallow = [\"127.0.0.0/8\"]\ntls = true\nclient_auth = \"cert\"\nstart = \"oldest\"\n"
	r := w.startRelay(w.relayTOML("[[relay.analyst]]\nname = \"alice\"\nstreams = [\"*/*\"]\n", listenerTOML{"certified", "", certified}))
	f := w.startFeed(r, "branch-7", "tls")
	f.packet()
	config := w.analyst("alice", "first")
	var reading *tls.Conn
	for _, resumed := range []bool{false, true} {
		conn, err := readHeader(r.address("certified"), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.ConnectionState().DidResume; got != resumed {
			t.Fatalf("resumed %t, want %t", got, resumed)
		}
		reading = conn
	}
	w.must("poip-relay", "revoke", "--analyst", "alice", "--data", w.path("relay"))
	reading.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, reading); err != nil {
		t.Errorf("the connection does not end in order: %v", err)
	}
	for what, cache := range map[string]tls.ClientSessionCache{"ticket": config.ClientSessionCache, "fresh": nil} {
		config := config.Clone()
		config.ClientSessionCache = cache
		if conn, err := readHeader(r.address("certified"), config); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: let in, or not refused: %v", what, err)
			if conn != nil {
				conn.Close()
			}
		}
	}
	conn, err := readHeader(r.address("certified"), w.analyst("alice", "second"))
	if err != nil {
		t.Fatalf("another certificate of the same name: %v", err)
	}
	conn.Close()
}

// analyst issues a certificate for an analyst, who resumes sessions.
func (w *world) analyst(name, folder string) *tls.Config {
	w.t.Helper()
	w.must("poip-relay", "issue", "--analyst", name, "--data", w.path("relay"), "--out", w.path(folder))
	pair, err := tls.LoadX509KeyPair(w.path(folder, certs.AnalystCert), w.path(folder, certs.AnalystKey))
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{pair},
		InsecureSkipVerify: true, // it is about what the relay thinks
		ServerName:         "localhost",
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
	}
}

// readHeader connects to a listener and reads the file's header: what TLS 1.3
// servers think of a client shows only then.
func readHeader(address string, config *tls.Config) (*tls.Conn, error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, make([]byte, 24)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
