package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
	"poip/internal/poiptest"
	"poip/internal/transport"
	"poip/internal/wire"
)

// A door is a relay that lets sensors join, over TCP and QUIC.
type door struct {
	*certs.Enrollment
	t     *testing.T
	data  string
	ca    *poiptest.CA
	notes *poiptest.Log
	at    map[string]string // URL by network
	asked atomic.Int32      // requests that were good until their tokens were looked at

	mu     sync.Mutex
	events []certs.JoinEvent // guarded by mu
}

func openDoor(t *testing.T) *door {
	t.Helper()
	ca := poiptest.NewCA(t)
	d := openDoorOf(t, ca.Dir)
	d.ca = ca
	return d
}

// openDoorOf serves for the authority in a relay's folder.
func openDoorOf(t *testing.T, dir string) *door {
	t.Helper()
	d := &door{t: t, data: dir, notes: new(poiptest.Log), at: map[string]string{}}
	d.Enrollment = &certs.Enrollment{
		Data: dir, Log: slog.New(slog.NewTextHandler(d.notes, nil)),
		Audit: func(e certs.JoinEvent) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.events = append(d.events, e)
		},
	}
	d.Life = func() time.Duration {
		d.asked.Add(1)
		return certs.SensorLife
	}
	trust, err := certs.LoadTrust(dir)
	must(t, err)
	d.listen(certs.WithJoining(trust.IntakeTLS(), trust.JoiningTLS), d.Serve)
	return d
}

// listen serves both networks until the test ends. Who has a certificate gets
// a word.
func (d *door) listen(cfg *tls.Config, join func(context.Context, transport.Conn)) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var servers sync.WaitGroup
	d.t.Cleanup(func() { cancel(); servers.Wait() })
	handle := func(ctx context.Context, conn transport.Conn) {
		if conn.TLS().NegotiatedProtocol == transport.ALPNJoin {
			join(ctx, conn)
			return
		}
		conn.Write([]byte("hello"))
	}
	options := transport.ServeOptions{Trial: transport.ALPNJoin, Log: slog.New(slog.DiscardHandler), MaxPending: 1000, MaxPendingPerAddr: 1000}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(d.t, err)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(d.t, err)
	d.at["tls"], d.at["quic"] = "tls://"+ln.Addr().String(), "quic://"+pc.LocalAddr().String()
	servers.Go(func() { transport.ServeTLS(ctx, ln, cfg, options, handle) })
	servers.Go(func() { transport.ServeQUIC(ctx, pc, cfg, options, handle) })
}

// token makes one for the network.
func (d *door) token(network string, sensor auth.SensorName, replaces bool) auth.Token {
	d.t.Helper()
	secret, err := certs.OpenTokens(d.data).Make(sensor, time.Hour, replaces)
	must(d.t, err)
	return auth.Token{Sensor: sensor, Relay: "relay.test", Endpoints: []string{d.at[network]}, Pin: d.pin(), Secret: secret}
}

func (d *door) pin() auth.Pin {
	d.t.Helper()
	return certs.PinOf(readCert(d.t, filepath.Join(d.data, certs.CAFile)))
}

// issued is how many certificates the registry has of a sensor.
func (d *door) issued(sensor auth.SensorName) int {
	d.t.Helper()
	record, err := certs.OpenRegistry(d.data).Lookup(certs.SensorSubject(sensor))
	must(d.t, err)
	return len(record.Certificates)
}

// waitNote waits until the relay's log has the words.
func (d *door) waitNote(words string) {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(d.notes.String(), words); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("the relay's log does not say %q:\n%s", words, d.notes)
		}
	}
}

func newFolder(t *testing.T) string { return filepath.Join(t.TempDir(), "agent") }

func overBoth(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tls", "quic"} {
		t.Run(network, func(t *testing.T) { test(t, network) })
	}
}

func TestASensorJoins(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d, dir := openDoor(t), newFolder(t)
		joined, err := (&certs.Joiner{Token: d.token(network, "branch-7", false), Dir: dir}).Join(t.Context())
		must(t, err)
		if joined.Endpoint.Scheme != network || !joined.Named {
			t.Errorf("joined at %v, named %t", joined.Endpoint, joined.Named)
		}
		cert := readCert(t, filepath.Join(dir, certs.SensorCert))
		if name, err := auth.SensorOf(cert); err != nil || name != "branch-7" {
			t.Errorf("identity %q, %v", name, err)
		}
		if days := time.Until(cert.NotAfter).Hours() / 24; days < 6.9 || days > 7.1 {
			t.Errorf("lasts %.1f days", days)
		}
		record, err := certs.OpenRegistry(d.data).Lookup(certs.SensorSubject("branch-7"))
		must(t, err)
		if len(record.Certificates) != 1 || record.Certificates[0].Serial != certs.SerialOf(cert) || record.Certificates[0].How != certs.HowEnrolled {
			t.Errorf("the registry has %+v", record)
		}
		for name, want := range map[string]fs.FileMode{".": 0o700, certs.SensorKey: 0o600, certs.SensorCert: 0o644, certs.CAFile: 0o644} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
		if files, _ := os.ReadDir(dir); len(files) != 3 {
			t.Errorf("the folder has %v", files)
		}
		d.connects(network, dir)
		d.waitNote("a sensor joined")
	})
}

// connects opens a stream with the identity in the folder.
func (d *door) connects(network, dir string) {
	d.t.Helper()
	pair, err := certs.LoadKeypair(filepath.Join(dir, certs.SensorCert), filepath.Join(dir, certs.SensorKey))
	must(d.t, err)
	pool, err := certs.LoadAuthorities(filepath.Join(dir, certs.CAFile))
	must(d.t, err)
	dialer := &transport.Dialer{TLS: certs.AgentTLS(pair, pool, "")}
	defer dialer.Close()
	ep, err := transport.ParseEndpoint(d.at[network])
	must(d.t, err)
	conn, err := dialer.Open(d.t.Context(), ep)
	must(d.t, err)
	defer conn.Close()
	_, err = conn.Write([]byte{1}) // QUIC shows a stream to the relay when something comes
	must(d.t, errors.Join(err, conn.Flush(), conn.SetReadDeadline(time.Now().Add(20*time.Second))))
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		d.t.Errorf("the identity is of no use: %v", err)
	}
}

// Fails without move in Tokens.take: whoever had read the token before it was
// used would get a certificate, too. So that many have, nobody goes on until all
// have asked.
func TestOneTokenIsGoodForOneCertificate(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		const many = 100
		d := openDoor(t)
		token := d.token(network, "branch-7", true) // with --replace, so that nothing but the token is in the way
		var all sync.WaitGroup
		together := make(chan struct{})
		d.Life = func() time.Duration {
			if d.asked.Add(1) == many {
				close(together)
			}
			select {
			case <-together:
			case <-time.After(3 * time.Second): // some did not come through, on a busy machine
			}
			return certs.SensorLife
		}
		var in atomic.Int32
		parent := t.TempDir()
		for i := range many {
			all.Go(func() {
				dir := filepath.Join(parent, strconv.Itoa(i))
				_, err := (&certs.Joiner{Token: token, Dir: dir}).Join(context.Background())
				if err == nil {
					in.Add(1)
				} else if _, err := os.Stat(dir); err == nil {
					t.Errorf("who did not join has a folder")
				}
			})
		}
		all.Wait()
		if n := d.issued("branch-7"); in.Load() != 1 || n != 1 {
			t.Errorf("%d joined, %d certificates were issued", in.Load(), n)
		}
	})
}

// Two tokens for one new name are good for one sensor. Fails without AddFirst.
func TestOneNameIsGivenOnce(t *testing.T) {
	d := openDoor(t)
	first, second := d.token("tls", "branch-7", false), d.token("quic", "branch-7", false)
	_, err := (&certs.Joiner{Token: first, Dir: newFolder(t)}).Join(t.Context())
	must(t, err)
	_, err = (&certs.Joiner{Token: second, Dir: newFolder(t)}).Join(t.Context())
	wants(t, err, "not good")
	d.waitNote("made without --replace")
	if _, err := certs.OpenTokens(d.data).Make("branch-7", time.Hour, false); err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Errorf("a token for a name that is taken: %v", err)
	}
	_, err = (&certs.Joiner{Token: d.token("tls", "branch-7", true), Dir: newFolder(t)}).Join(t.Context())
	must(t, err)
	if n := d.issued("branch-7"); n != 2 {
		t.Errorf("%d certificates", n)
	}
}

// Whatever is wrong with a token, its holder hears the same; the relay's log
// says what it is, and no certificate comes of it. Each row fails without one
// line: the state's check in admission.prove, or the words in no.
func TestTokensThatAreNotGoodSoundTheSame(t *testing.T) {
	d := openDoor(t)
	tokens := certs.OpenTokens(d.data)
	used := d.token("tls", "used", true)
	_, err := (&certs.Joiner{Token: used, Dir: newFolder(t)}).Join(t.Context())
	must(t, err)
	canceled := d.token("tls", "canceled", false)
	if gone, err := tokens.Cancel("canceled"); err != nil || len(gone) != 1 {
		t.Fatalf("canceled %v, %v", gone, err)
	}
	unknown := d.token("tls", "unknown", false)
	unknown.Secret = auth.NewSecret()
	renamed := d.token("tls", "branch-7", false)
	renamed.Sensor = "branch-8" // the line was changed
	secret := d.token("tls", "secret", false)
	must(t, os.Rename(d.tokenFile(secret), strings.Replace(d.tokenFile(secret), secret.Secret.ID().String(), unknown.Secret.ID().String(), 1)))
	expired := d.token("tls", "expired", false)
	rewrite(t, d.tokenFile(expired), `"expires": "2`, `"expires": "1`) // the next token that is made would sweep it away
	var heard string
	for _, c := range []struct {
		what  string
		token auth.Token
		log   string
	}{
		{"used", used, "the token is used"},
		{"canceled", canceled, "the token is canceled"},
		{"expired", expired, "the token is expired"},
		{"unknown", secret, "no such token"},
		{"for another name", renamed, "the proof does not hold"},
		{"damaged", unknown, "damaged"},
	} {
		dir := newFolder(t)
		_, err := (&certs.Joiner{Token: c.token, Dir: dir}).Join(t.Context())
		var refusal wire.Refusal
		if !errors.As(err, &refusal) {
			t.Fatalf("%s: %v", c.what, err)
		}
		if heard == "" {
			heard = refusal.Error()
		}
		if refusal.Error() != heard {
			t.Errorf("%s sounds like %q, others like %q", c.what, refusal.Error(), heard)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a folder is left", c.what)
		}
		d.waitNote(c.log)
	}
	for _, name := range []auth.SensorName{"canceled", "expired", "unknown", "branch-7", "branch-8", "secret"} {
		if n := d.issued(name); n > 0 {
			t.Errorf("%s has %d certificates", name, n)
		}
	}
	if n := d.issued("used"); n != 1 {
		t.Errorf("used has %d certificates", n)
	}
}

func (d *door) tokenFile(token auth.Token) string {
	return filepath.Join(d.data, "tokens", token.Secret.ID().String()+".open")
}

func rewrite(t *testing.T, path, old, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %s", path, old)
	}
	must(t, os.WriteFile(path, []byte(strings.Replace(string(b), old, text, 1)), 0o600))
}

// Whoever revokes a sensor means the tokens that wait for it, too; one that is
// made later is good. Fails without Cancel in RevokeName.
func TestRevokingASensorCancelsItsTokens(t *testing.T) {
	d := openDoor(t)
	before := d.token("tls", "branch-7", true)
	_, err := certs.RevokeName(d.data, certs.SensorSubject("branch-7"))
	must(t, err)
	_, err = (&certs.Joiner{Token: before, Dir: newFolder(t)}).Join(t.Context())
	wants(t, err, "not good")
	dir := newFolder(t)
	_, err = (&certs.Joiner{Token: d.token("tls", "branch-7", true), Dir: dir}).Join(t.Context())
	must(t, err)
	trust, err := certs.LoadTrust(d.data)
	must(t, err)
	must(t, trust.Standing([]*x509.Certificate{readCert(t, filepath.Join(dir, certs.SensorCert))}))
}

// An impostor is a relay of another authority that writes down all it hears.
type impostor struct {
	poiptest.Log
	at map[string]string
}

func newImpostor(t *testing.T, cfg *tls.Config) *impostor {
	t.Helper()
	im := &impostor{at: map[string]string{}}
	d := &door{t: t, at: im.at}
	d.listen(cfg, func(_ context.Context, c transport.Conn) {
		words := make([]byte, wire.MaxJoinLen)
		n, _ := c.Read(words)
		im.Write(words[:n])
	})
	return im
}

// Fails without either look of verifyPinned: for a root with the pin, or for a
// chain to that root. VerifyConnection and converse both call it; with neither,
// an impostor would get the request and the proof.
func TestNothingIsSaidToAnImpostor(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d, other := openDoor(t), poiptest.NewCA(t)
		ours, err := certs.LoadTrust(d.data)
		must(t, err)
		theirs, err := certs.LoadTrust(other.Dir)
		must(t, err)
		stolen := d.ca.Sensor("stolen")
		sensor, err := certs.LoadKeypair(filepath.Join(stolen, certs.SensorCert), filepath.Join(stolen, certs.SensorKey))
		must(t, err)
		for _, c := range []struct {
			what string
			cfg  *tls.Config
			word string
		}{
			{"of another CA", theirs.JoiningTLS(), "not the relay that made the token"},
			{"of another CA, showing ours", certs.JoiningTLS(theirs.Relay(), append(theirs.Authorities(), ours.Authorities()...)), "does not hold"},
			{"with a sensor's certificate", certs.JoiningTLS(sensor, ours.Authorities()), "does not hold"},
			{"without its CA", certs.JoiningTLS(ours.Relay(), nil), "not the relay that made the token"},
		} {
			im := newImpostor(t, c.cfg)
			token := d.token(network, "branch-7", false)
			token.Endpoints = []string{im.at[network]}
			_, err := (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
			wants(t, err, c.word)
			if heard := im.String(); heard != "" {
				t.Errorf("a relay %s heard %d bytes", c.what, len(heard))
			}
			// The true relay is tried after it, and nothing was used up.
			token.Endpoints = append(token.Endpoints, d.at[network])
			token.Relay = "relay.test"
			dir := newFolder(t)
			if _, err = (&certs.Joiner{Token: token, Dir: dir}).Join(t.Context()); err != nil {
				t.Fatalf("after a relay %s: %v", c.what, err)
			}
			must(t, os.Remove(filepath.Join(d.data, "sensors", "branch-7.json")))
		}
		token := d.token(network, "branch-7", false)
		token.Relay = "elsewhere.test"
		_, err = (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
		wants(t, err, "does not hold", "elsewhere.test")
	})
}

// request is a CSR for a key.
func request(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"relay.test"}}, key)
	must(t, err)
	return der
}

// dialJoining is a sensor's connection that the test speaks on.
func (d *door) dialJoining(network string) transport.Conn {
	d.t.Helper()
	dialer := &transport.Dialer{TLS: &tls.Config{RootCAs: d.ca.Pool, ServerName: "relay.test"}, Protocol: transport.ALPNJoin}
	d.t.Cleanup(func() { dialer.Close() })
	ep, err := transport.ParseEndpoint(d.at[network])
	must(d.t, err)
	conn, err := dialer.Open(d.t.Context(), ep)
	must(d.t, err)
	d.t.Cleanup(func() { conn.Abort() })
	must(d.t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	return conn
}

// say sends bytes and returns the relay's answer.
func say(t *testing.T, conn transport.Conn, frame []byte) (wire.Type, wire.Refusal) {
	t.Helper()
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	must(t, conn.Flush())
	kind, payload, err := wire.ReadJoining(conn)
	must(t, err)
	refusal, _ := wire.ParseRefusal(payload)
	return kind, refusal
}

func joinFrame(t *testing.T, conn transport.Conn, token auth.Token, claimed, sent []byte) []byte {
	t.Helper()
	state := conn.TLS()
	exporter, err := state.ExportKeyingMaterial("EXPORTER-poip-enroll", nil, 32)
	must(t, err)
	proof := token.Secret.Prove(auth.Claim{Exporter: exporter, Sensor: token.Sensor, CSR: claimed})
	return wire.AppendJoin(nil, wire.Join{ID: token.Secret.ID(), Proof: proof, CSR: sent})
}

// Who has heard a whole conversation can do nothing with it in another one,
// nor put another request in its place. Fails without exporter, or CSR, in the
// Claim of admission.prove.
func TestProofsAreOfNoUseElsewhere(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		token := d.token(network, "branch-7", false)
		mine, thiefs := request(t, poiptest.NewKey(t)), request(t, poiptest.NewKey(t))
		heard := joinFrame(t, d.dialJoining(network), token, mine, mine)
		for what, frame := range map[string]func(transport.Conn) []byte{
			"in another session": func(transport.Conn) []byte { return heard },
			"for another key":    func(c transport.Conn) []byte { return joinFrame(t, c, token, mine, thiefs) },
		} {
			conn := d.dialJoining(network)
			if kind, refusal := say(t, conn, frame(conn)); kind != wire.TypeRefusal || refusal.Code != wire.CodeForbidden {
				t.Errorf("%s: type %d, %v", what, kind, refusal)
			}
		}
		if n := d.issued("branch-7"); n > 0 {
			t.Fatalf("%d certificates were issued", n)
		}
		conn := d.dialJoining(network) // and the token is still good
		if kind, refusal := say(t, conn, joinFrame(t, conn, token, mine, mine)); kind != wire.TypeWelcome {
			t.Errorf("the true one: type %d, %v", kind, refusal)
		}
	})
}

// A request is refused before its token is looked for, so the answer says
// nothing about that; the token stays good. Fails without CheckCSR.
func TestRequestsAreChecked(t *testing.T) {
	d := openDoor(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	good := request(t, poiptest.NewKey(t))
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1 // the signature
	token := d.token("tls", "branch-7", false)
	for what, csr := range map[string][]byte{"RSA-1024": request(t, weak), "P-384": request(t, curve), "not signed by its key": forged, "no request": {1}, "bytes behind it": append(bytes.Clone(good), 0)} {
		conn := d.dialJoining("tls")
		if kind, refusal := say(t, conn, joinFrame(t, conn, token, csr, csr)); kind != wire.TypeRefusal || refusal.Code != wire.CodeProtocol {
			t.Errorf("%s: type %d, %v", what, kind, refusal)
		}
	}
	// Nothing of the request but its key is in the certificate.
	conn := d.dialJoining("tls")
	_, err = conn.Write(joinFrame(t, conn, token, good, good))
	must(t, err)
	must(t, conn.Flush())
	_, payload, err := wire.ReadJoining(conn)
	must(t, err)
	welcome, err := wire.ParseWelcome(payload)
	must(t, err)
	cert, err := x509.ParseCertificate(welcome.Chain[0])
	must(t, err)
	if len(cert.DNSNames) > 0 || cert.Subject.CommonName != "branch-7" || cert.IsCA || len(cert.URIs) != 1 {
		t.Errorf("the certificate says %v %v %v", cert.Subject, cert.DNSNames, cert.URIs)
	}
}

// What breaks the protocol is answered, or not, and ends; never does it use a
// token up.
func TestBrokenConversationsEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		for what, bytes := range map[string][]byte{
			"another protocol": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
			"a long frame":     {32, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f},
			"a relay's frame":  wire.AppendRefusal(nil, wire.Refusal{Code: 1, Reason: "x"}),
			"a short join":     {32, 0, 0, 0, 1, 0, 0, 0, 7},
		} {
			if kind, refusal := say(t, d.dialJoining(network), bytes); kind != wire.TypeRefusal || refusal.Code != wire.CodeProtocol {
				t.Errorf("%s: type %d, %v", what, kind, refusal)
			}
		}
	})
}

// A relay that ends says so to who has not asked yet. Fails without the case
// of ctx in Enrollment.refused.
func TestARelayThatEndsSaysSo(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		trust, err := certs.LoadTrust(d.data)
		must(t, err)
		ended := &door{t: t, data: d.data, ca: d.ca, at: map[string]string{}}
		ended.listen(trust.JoiningTLS(), func(_ context.Context, conn transport.Conn) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			d.Serve(ctx, conn)
		})
		conn := ended.dialJoining(network)
		if _, err := conn.Write([]byte{32}); err != nil { // QUIC shows a stream to the relay when something comes
			t.Fatal(err)
		}
		must(t, conn.Flush())
		_, payload, err := wire.ReadJoining(conn)
		must(t, err)
		if refusal, err := wire.ParseRefusal(payload); err != nil || refusal.Code != wire.CodeDraining {
			t.Errorf("heard %v, %v", refusal, err)
		}
	})
}

// Whoever has no good token is kept waiting after a few tries, and cannot fill the
// log; but each try is told to the audit log, which counts what it leaves out. The
// first fails without tries.charge, the second without tries.tell in refused, the
// third if it is told to Audit what goes into the log only.
func TestTriesAreBoundedPerAddress(t *testing.T) {
	const many = 120
	d := openDoor(t)
	wrong := d.token("tls", "branch-7", false)
	wrong.Secret = auth.NewSecret()
	limited := 0
	began := time.Now()
	for range many {
		_, err := (&certs.Joiner{Token: wrong, Dir: newFolder(t)}).Join(t.Context())
		var refusal wire.Refusal
		if !errors.As(err, &refusal) {
			t.Fatal(err)
		}
		if refusal.Code == wire.CodeLimit {
			limited++
		}
	}
	seconds := int(time.Since(began).Seconds()) + 1
	if most := 10 + seconds/6 + 1; many-limited > most {
		t.Errorf("%d wrong tries were looked at in %d s, want at most %d", many-limited, seconds, most)
	}
	if n, most := strings.Count(d.notes.String(), "\n"), 20+seconds; n > most {
		t.Errorf("%d tries made %d lines in %d s, want at most %d", many, n, seconds, most)
	}
	d.mu.Lock()
	told := len(d.events)
	d.mu.Unlock()
	if told != many {
		t.Errorf("the audit log heard of %d tries of %d", told, many)
	}
	if n := d.issued("branch-7"); n > 0 {
		t.Errorf("%d certificates", n)
	}
}

// A sensor whose clock stands at the beginning of time is told so, and its
// token is not used up. Fails without the last check of verifyPinned.
func TestAWrongClockIsNamed(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		token := d.token(network, "branch-7", false)
		dir := newFolder(t)
		_, err := (&certs.Joiner{Token: token, Dir: dir, Now: func() time.Time { return time.Unix(100, 0) }}).Join(t.Context())
		wants(t, err, "clock", "1970-01-01T00:01:40Z", "still good")
		if _, err := os.Stat(dir); err == nil {
			t.Error("a folder is left")
		}
		_, err = (&certs.Joiner{Token: token, Dir: dir}).Join(t.Context())
		must(t, err)
	})
}

// An identity that is there is not touched, unless it is to be.
func TestAnIdentityIsNotOverwritten(t *testing.T) {
	d := openDoor(t)
	dir := d.ca.Sensor("branch-7")
	before := readCert(t, filepath.Join(dir, certs.SensorCert))
	token := d.token("tls", "branch-7", true)
	_, err := (&certs.Joiner{Token: token, Dir: dir}).Join(t.Context())
	wants(t, err, "there already", "--replace")
	if !readCert(t, filepath.Join(dir, certs.SensorCert)).Equal(before) {
		t.Error("it was overwritten")
	}
	_, err = (&certs.Joiner{Token: token, Dir: dir, Replace: true}).Join(t.Context())
	must(t, err)
	if readCert(t, filepath.Join(dir, certs.SensorCert)).Equal(before) {
		t.Error("it was not replaced")
	}
	d.connects("quic", dir)

	must(t, os.Mkdir(filepath.Join(dir, ".joining"), 0o700))
	_, err = (&certs.Joiner{Token: token, Dir: dir, Replace: true}).Join(t.Context())
	wants(t, err, "another enroll is running")
	must(t, os.Chmod(dir, 0o755))
	_, err = (&certs.Joiner{Token: token, Dir: dir, Replace: true}).Join(t.Context())
	wants(t, err, "chmod 0700")
}

// A sensor that gives up leaves nothing.
func TestGivingUpLeavesNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	must(t, err)
	defer ln.Close()
	d := openDoor(t)
	token := d.token("tls", "branch-7", false)
	token.Endpoints = []string{"tls://" + ln.Addr().String()}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	dir := newFolder(t)
	if _, err := (&certs.Joiner{Token: token, Dir: dir}).Join(ctx); err == nil {
		t.Error("joined nobody")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder is left")
	}
}

// Where the relay cannot sign, the token stays good: that is not the sensor's
// fault. Fails without giveBack, and without OpenIssuer before take.
func TestATokenOutlivesTheRelaysTroubles(t *testing.T) {
	d := openDoor(t)
	token := d.token("tls", "branch-7", false)
	key := filepath.Join(d.data, certs.CAKey)
	for what, trouble := range map[string]struct{ begin, end func() }{
		"no key":      {func() { must(t, os.Rename(key, key+".away")) }, func() { must(t, os.Rename(key+".away", key)) }},
		"no registry": {func() { must(t, os.WriteFile(filepath.Join(d.data, "sensors", "branch-7.json"), []byte("{"), 0o600)) }, func() { must(t, os.Remove(filepath.Join(d.data, "sensors", "branch-7.json"))) }},
	} {
		trouble.begin()
		_, err := (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
		trouble.end()
		var refusal wire.Refusal
		if !errors.As(err, &refusal) || refusal.Code != wire.CodeLimit {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
	must(t, err)
}

// The relay's folder, its log and its audit hook hold nothing from which the
// secret, or a proof, could be made.
func TestTheSecretStaysWithTheSensor(t *testing.T) {
	d := openDoor(t)
	for _, spoil := range []bool{true, false} {
		token := d.token("tls", "branch-7", false)
		marker := token.Line()[strings.Index(token.Line(), "secret=")+7:]
		if spoil {
			token.Sensor = "branch-8"
		}
		_, err := (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
		if spoil && err == nil || !spoil && err != nil {
			t.Fatal(err)
		}
		if err != nil && strings.Contains(err.Error(), marker) {
			t.Errorf("the error has it: %v", err)
		}
		if strings.Contains(d.notes.String(), marker) {
			t.Error("the log has it")
		}
		must(t, filepath.WalkDir(d.data, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if strings.Contains(string(text), marker) {
				t.Errorf("%s has it", path)
			}
			info, _ := e.Info()
			if strings.Contains(path, "tokens") && info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return err
		}))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.events) != 2 || d.events[0].Refused == "" || d.events[1].Serial == "" || d.events[1].Sensor != "branch-7" {
		t.Errorf("audited: %+v", d.events)
	}
}

// Who has no certificate and does not ask for joining alone is held to the
// intake. Fails where WithJoining looks for the word anywhere in the offer.
func TestJoiningIsNoWayAroundTheCertificate(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		ep, err := transport.ParseEndpoint(d.at[network])
		must(t, err)
		refused(t, ep, &transport.Dialer{TLS: &tls.Config{RootCAs: d.ca.Pool, ServerName: "relay.test"}})
	})
	d := openDoor(t)
	for _, offer := range [][]string{{"poip/1"}, {"poip/1", "poip-enroll/1"}, {"poip-enroll/1", "poip/1"}, {}, {"h2"}} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(d.at["tls"], "tls://"), &tls.Config{RootCAs: d.ca.Pool, ServerName: "relay.test", NextProtos: offer})
		if err == nil {
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err = conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%q got in", offer)
			}
			conn.Close()
		}
		if err != nil && !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("%q was not refused for want of a certificate: %v", offer, err)
		}
	}
	old, err := tls.Dial("tcp", strings.TrimPrefix(d.at["tls"], "tls://"), &tls.Config{RootCAs: d.ca.Pool, ServerName: "relay.test", NextProtos: []string{"poip-enroll/1"}, MaxVersion: tls.VersionTLS12})
	if err == nil {
		old.Close()
		t.Error("joining over TLS 1.2")
	}
}

func refused(t *testing.T, ep transport.Endpoint, d *transport.Dialer) {
	t.Helper()
	defer d.Close()
	conn, err := d.Open(t.Context(), ep)
	if err == nil {
		conn.Write([]byte{1})
		conn.Flush()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		conn.Abort()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got in without a certificate: %v", err)
	}
}
