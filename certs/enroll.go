package certs

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"poip/auth"
	"poip/internal/transport"
	"poip/internal/wire"
)

const (
	// joinTimeout bounds the wait for a sensor's request.
	joinTimeout = 10 * time.Second

	// writeTimeout bounds the answer, which fits into any socket's buffer. When
	// the relay ends, it has a fifth of it.
	writeTimeout = 5 * time.Second

	exporterLabel = "EXPORTER-poip-enroll"
)

// An Enrollment is a relay's side of joining: it gives a certificate to whoever
// proves a token, once. PROTOCOL.md, "Joining", specifies the conversation.
//
// Whoever talks to it is a stranger. All that a stranger can have it do is to
// read 8 KiB, verify one signature and look for one file, a few times a
// minute; and whatever is wrong with a token, it hears the same.
type Enrollment struct {
	// Set once, before the first Serve.
	Data  string               // the relay's data folder
	Life  func() time.Duration // of a certificate
	Log   *slog.Logger         // nil: slog.Default()
	Audit func(JoinEvent)      // is told of every certificate, and of every refusal; may be nil

	tries tries
}

// A JoinEvent is how a try to join ended.
type JoinEvent struct {
	When    time.Time
	Remote  string
	Network string          // "tls" or "quic"
	Token   string          // its ID; empty: none was named
	Sensor  auth.SensorName // empty: no token says
	Serial  string          // of the certificate; empty: there is none
	End     time.Time       // of the certificate
	Refused string          // why there is none, for the relay's people only
	Code    wire.Code       // what the stranger hears of that; 0: nothing
}

// refusal is what the sensor hears; the reason is for our log.
type refusal struct {
	code   wire.Code
	text   string
	reason error
}

func (r refusal) Error() string { return r.reason.Error() }
func (r refusal) Unwrap() error { return r.reason }

var errTooMany = errors.New("too many tries from this address")

// no is the same word for every token that is not good.
func no(reason error) error {
	return refusal{wire.CodeForbidden, "the token is not good: unknown, used, expired or canceled; make another one on the relay, whose log says which", reason}
}

func broken(reason error) error {
	return refusal{wire.CodeProtocol, "the request is not as it should be", reason}
}

// Serve holds one conversation, and leaves closing conn to its caller.
func (e *Enrollment) Serve(ctx context.Context, conn transport.Conn) {
	now := time.Now()
	conn.SetReadDeadline(now.Add(joinTimeout)) // one that cannot be set shows at the first read
	stop := context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		conn.SetWriteDeadline(time.Now().Add(writeTimeout / 5))
	})
	defer stop()
	event := JoinEvent{When: now.UTC(), Remote: conn.RemoteAddr().String(), Network: conn.Network()}
	answer, err := e.answer(conn, &event)
	if err != nil {
		answer = e.refused(ctx, conn, event, err)
	}
	if ctx.Err() == nil {
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	_, err = conn.Write(answer)
	if err == nil {
		err = conn.Flush()
	}
	if err != nil && (event.Serial != "" || e.tries.tell(time.Now())) {
		e.log().Warn("the answer did not reach who wants to join", "remote", event.Remote, "sensor", string(event.Sensor), "serial", event.Serial, "error", err)
	}
}

func (e *Enrollment) log() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.Default()
}

// refused writes down why, and returns what the stranger hears of it.
func (e *Enrollment) refused(ctx context.Context, conn transport.Conn, event JoinEvent, err error) []byte {
	now := time.Now()
	if !errors.Is(err, errTooMany) { // who is kept waiting does not wait the longer for it
		e.tries.charge(transport.Origin(conn.RemoteAddr()), now)
	}
	var told refusal
	if !errors.As(err, &told) && ctx.Err() != nil {
		told = refusal{code: wire.CodeDraining, text: "the relay is shutting down"}
	}
	event.Refused, event.Code = err.Error(), told.code
	if e.tries.tell(now) {
		e.log().Warn("refused to let a sensor join", "remote", event.Remote, "network", event.Network,
			"sensor", string(event.Sensor), "token", event.Token, "reason", event.Refused)
	}
	if e.Audit != nil {
		e.Audit(event)
	}
	if told.code == 0 {
		return nil // the connection broke, or said nothing
	}
	return wire.AppendRefusal(nil, wire.Refusal{Code: told.code, Reason: told.text})
}

// answer is the welcome, or an error.
func (e *Enrollment) answer(conn transport.Conn, event *JoinEvent) ([]byte, error) {
	if !e.tries.allows(transport.Origin(conn.RemoteAddr()), event.When) {
		return nil, refusal{wire.CodeLimit, "too many tries from this address: wait a minute", errTooMany}
	}
	join, err := readJoin(conn)
	if err != nil {
		return nil, err
	}
	event.Token = auth.TokenID(join.ID).String()
	csr, err := CheckCSR(join.CSR) // before the token: so that its answer says nothing about that
	if err != nil {
		return nil, broken(err)
	}
	state := conn.TLS()
	exporter, err := state.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("export from TLS session: %w", err)
	}
	a := admission{data: e.Data, tokens: OpenTokens(e.Data), csr: csr, life: e.Life(), event: event}
	if a.root, err = a.tokens.open(); err != nil {
		return nil, unable(err)
	}
	defer a.root.Close()
	if err := a.prove(join, exporter); err != nil {
		return nil, err
	}
	welcome, err := a.grant()
	if err != nil {
		return nil, err
	}
	e.log().Info("a sensor joined", "sensor", string(event.Sensor), "remote", event.Remote, "network", event.Network,
		"token", event.Token, "serial", event.Serial, "expires", event.End)
	if e.Audit != nil {
		e.Audit(*event)
	}
	return welcome, nil
}

func readJoin(conn transport.Conn) (wire.Join, error) {
	kind, payload, err := wire.ReadJoining(conn)
	if err == nil && kind != wire.TypeJoin {
		err = fmt.Errorf("%w: type %d in place of a join", wire.ErrMalformed, kind)
	}
	var join wire.Join
	if err == nil {
		join, err = wire.ParseJoin(payload)
	}
	if errors.Is(err, wire.ErrMalformed) {
		return join, broken(err)
	}
	return join, err
}

// unable is when it is we who fail. It is said to nobody without a good token.
func unable(reason error) error {
	return refusal{wire.CodeLimit, "the relay cannot issue a certificate now; its log says why", reason}
}

// admission is one request on its way to a certificate.
type admission struct {
	data   string
	tokens Tokens
	root   *os.Root // of tokens
	csr    *x509.CertificateRequest
	life   time.Duration
	event  *JoinEvent
	entry  TokenEntry
}

// prove holds the request against its token.
func (a *admission) prove(join wire.Join, exporter []byte) (err error) {
	if a.entry, err = a.tokens.find(a.root, join.ID, a.event.When); err != nil {
		return no(err)
	}
	a.event.Sensor = a.entry.Sensor
	if a.entry.State != TokenOpen {
		return no(fmt.Errorf("the token is %s", a.entry.State))
	}
	var verifier auth.Verifier
	if n, err := hex.Decode(verifier[:], []byte(a.entry.Verifier)); err != nil || n != len(verifier) {
		return no(errors.New("the token's file is damaged"))
	}
	claim := auth.Claim{Exporter: exporter, Sensor: a.entry.Sensor, CSR: join.CSR}
	if !verifier.Check(join.Proof, claim) {
		return no(errors.New("the proof does not hold for this session, this name and this request: somebody knows the token's ID and not its secret, or the line was changed"))
	}
	return nil
}

// grant uses the token up, then makes and enters a certificate. While it
// works nobody revokes or rotates: who revokes the name later knows of it.
func (a *admission) grant() ([]byte, error) {
	_, unlock, err := lockFolder(a.data, relayWaits)
	if err != nil {
		return nil, unable(err)
	}
	defer unlock()
	issuer, err := OpenIssuer(a.data)
	if err != nil {
		return nil, unable(err) // the token is still good
	}
	revoked, err := loadRevocations(a.data)
	if err != nil {
		return nil, unable(err)
	}
	if revoked.Certificate("", keyHash(a.csr.RawSubjectPublicKeyInfo)) {
		return nil, broken(errors.New("the request's key is a revoked one"))
	}
	if err := a.tokens.take(a.root, a.entry); err != nil {
		return nil, no(err)
	}
	welcome, err := a.sign(issuer)
	if errors.Is(err, ErrKnown) {
		return nil, no(errors.New("the name has a certificate by now, and the token was made without --replace"))
	}
	if err != nil {
		return nil, unable(errors.Join(err, a.tokens.giveBack(a.root, a.entry)))
	}
	if err := a.tokens.note(a.root, a.entry, a.event.Remote); err != nil {
		return nil, unable(err)
	}
	return welcome, nil
}

func (a *admission) sign(issuer *Issuer) ([]byte, error) {
	who := SensorSubject(a.entry.Sensor)
	cert, err := issuer.Sign(who, a.csr, a.life)
	if err != nil {
		return nil, err
	}
	welcome, err := wire.AppendWelcome(nil, wire.Welcome{Chain: issuer.Chain(cert), Authorities: issuer.Authorities()})
	if err != nil {
		return nil, err
	}
	add := OpenRegistry(a.data).AddFirst
	if a.entry.Replace {
		add = OpenRegistry(a.data).Add
	}
	if err := add(who, EntryOf(cert, HowEnrolled, a.event.Remote)); err != nil {
		return nil, err
	}
	a.event.Serial, a.event.End = SerialOf(cert), cert.NotAfter.UTC()
	return welcome, nil
}
