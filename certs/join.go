package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/owner"
	"poip/internal/transport"
	"poip/internal/wire"
)

// A Joiner is a sensor's side of joining: it turns a token into the files
// sensor.key, sensor.pem and ca.pem of an agent's data folder. The key is made
// there and leaves it never; the token's secret leaves this process never.
type Joiner struct {
	Token   auth.Token
	Dir     string           // the agent's data folder; made if it is not there
	Replace bool             // put the files in place of others
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: slog.Default()
}

// Joined is what came of it.
type Joined struct {
	Certificate *x509.Certificate
	Endpoint    transport.Endpoint // that let us in
	Named       bool               // the relay's certificate is for the endpoint's host; else agents have to be told the relay's name
}

const (
	// answerTimeout bounds the wait for the relay's answer.
	answerTimeout = 30 * time.Second

	// drafts is the folder within the agent's in which its files are made.
	drafts = ".joining"
)

// Join tries the token's endpoints in turn. When it fails, it leaves nothing
// behind.
func (j *Joiner) Join(ctx context.Context) (done Joined, err error) {
	endpoints, err := j.endpoints()
	if err != nil {
		return done, err
	}
	f, err := j.openFolder()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, f.close(err == nil)) }()
	csr, err := f.makeKey()
	if err != nil {
		return done, err
	}
	var failed []error
	for _, ep := range endpoints {
		result, err := j.ask(ctx, ep, csr)
		if err == nil {
			return Joined{result.leaf, ep, result.named}, f.settle(result)
		}
		failed = append(failed, err)
		if errors.As(err, new(wire.Refusal)) || ctx.Err() != nil {
			break // what one relay says of a token, it says everywhere
		}
	}
	return done, fmt.Errorf("join: %w", errors.Join(failed...))
}

func (j *Joiner) endpoints() (out []transport.Endpoint, err error) {
	for _, text := range j.Token.Endpoints {
		ep, err := transport.ParseEndpoint(text)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		out = append(out, ep)
	}
	return out, nil
}

func (j *Joiner) now() time.Time {
	if j.Now != nil {
		return j.Now()
	}
	return time.Now()
}

// granted is what the relay has given, checked.
type granted struct {
	leaf  *x509.Certificate
	named bool
	wire.Welcome
}

// ask holds the conversation with one endpoint.
func (j *Joiner) ask(ctx context.Context, ep transport.Endpoint, csr []byte) (granted, error) {
	dialer := &transport.Dialer{TLS: joinTLS(j.Token, j.now), Protocol: transport.ALPNJoin, Log: j.Log}
	defer dialer.Close()
	conn, err := dialer.Open(ctx, ep)
	if err != nil {
		return granted{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Abort() })
	defer stop()
	g, err := j.converse(conn, csr)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return g, fmt.Errorf("ask %s: %w", ep, err)
	}
	g.named = conn.TLS().PeerCertificates[0].VerifyHostname(ep.Host) == nil
	return g, nil
}

// converse sends the request and reads the answer. The handshake, and with it
// the verification of the relay, is over.
func (j *Joiner) converse(conn transport.Conn, csr []byte) (granted, error) {
	state := conn.TLS()
	root, err := verifyPinned(state.PeerCertificates, j.Token, j.now()) // again: nothing of the token is touched before this line
	if err != nil {
		return granted{}, err
	}
	exporter, err := state.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return granted{}, fmt.Errorf("export from TLS session: %w", err)
	}
	proof := j.Token.Secret.Prove(auth.Claim{Exporter: exporter, Sensor: j.Token.Sensor, CSR: csr})
	if err := conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return granted{}, err
	}
	if _, err := conn.Write(wire.AppendJoin(nil, wire.Join{ID: j.Token.Secret.ID(), Proof: proof, CSR: csr})); err != nil {
		return granted{}, err
	}
	if err := conn.Flush(); err != nil {
		return granted{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return granted{}, err
	}
	kind, payload, err := wire.ReadJoining(conn)
	if err != nil {
		return granted{}, fmt.Errorf("read the relay's answer: %w", err)
	}
	return j.read(kind, payload, root, csr)
}

// read takes the answer apart and trusts none of it.
func (j *Joiner) read(kind wire.Type, payload []byte, root *x509.Certificate, csr []byte) (g granted, err error) {
	switch kind {
	case wire.TypeRefusal:
		refusal, err := wire.ParseRefusal(payload)
		if err != nil {
			return g, err
		}
		return g, refusal
	case wire.TypeWelcome:
		g.Welcome, err = wire.ParseWelcome(payload)
	default:
		err = fmt.Errorf("%w: the relay answers with type %d", wire.ErrMalformed, kind)
	}
	if err != nil {
		return g, err
	}
	if g.leaf, err = j.check(g.Welcome, root, csr); err != nil {
		return g, fmt.Errorf("check the certificate that the relay gave: %w", err)
	}
	return g, nil
}

// check holds the certificate against what we asked for.
func (j *Joiner) check(w wire.Welcome, root *x509.Certificate, csr []byte) (*x509.Certificate, error) {
	chain, err := parseChain(w.Chain)
	if err != nil {
		return nil, err
	}
	roots, err := parseRoots(w.Authorities)
	if err != nil {
		return nil, err
	}
	asked, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	name, err := auth.SensorOf(chain[0])
	switch {
	case err != nil:
		return nil, err
	case name != j.Token.Sensor:
		return nil, fmt.Errorf("it is for sensor %q, the token for %q", string(name), string(j.Token.Sensor))
	case !slices.Equal(chain[0].RawSubjectPublicKeyInfo, asked.RawSubjectPublicKeyInfo):
		return nil, errors.New("it is for another key than ours")
	case !slices.ContainsFunc(roots, root.Equal):
		return nil, errors.New("the CA of the token is not among the relay's authorities")
	}
	at := j.now()
	if at.Before(chain[0].NotBefore) { // a clock that is behind a little; it is the relay's that this certificate is judged by
		at = chain[0].NotBefore
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: poolOf(roots), Intermediates: poolOf(chain[1:]), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return chain[0], err
}

// agentFolder is an agent's data folder while its identity comes into being.
type agentFolder struct {
	root   *os.Root
	drafts *os.Root
	made   bool     // it was not there before
	placed []string // files that are in place now, and were not there before
}

// openFolder refuses before anything is asked what would fail after.
func (j *Joiner) openFolder() (*agentFolder, error) {
	_, err := os.Lstat(j.Dir)
	f := &agentFolder{made: errors.Is(err, fs.ErrNotExist)}
	if err := os.MkdirAll(j.Dir, folderMode); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if err := CheckFolder(j.Dir); err != nil {
		return nil, err
	}
	if f.root, err = os.OpenRoot(j.Dir); err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	if err := f.prepare(j.Replace); err != nil {
		return nil, errors.Join(err, f.close(false))
	}
	return f, nil
}

func (f *agentFolder) prepare(replace bool) error {
	for _, name := range []string{SensorCert, SensorKey, CAFile} {
		if _, err := f.root.Lstat(name); err == nil && !replace {
			return fmt.Errorf("%s is there already: this sensor has an identity; to give it another one, add --replace (and make the token with --replace, too)", filepath.Join(f.root.Name(), name))
		}
	}
	err := owner.Mkdir(f.root, drafts, folderMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: another enroll is running, or was killed; if none is running, remove that folder", filepath.Join(f.root.Name(), drafts))
	}
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	f.drafts, err = f.root.OpenRoot(drafts)
	return err
}

// makeKey makes the sensor's key, on the disk, and a request for it.
func (f *agentFolder) makeKey() (csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := create(f.drafts, file{SensorKey, text, secretMode}); err != nil {
		return nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key) // the name is the relay's to say
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// settle puts the files in place. Until the last of them, the certificate, is
// there, there is no identity.
func (f *agentFolder) settle(g granted) error {
	for _, made := range []file{
		{CAFile, encodeChain(g.Authorities), publicMode},
		{SensorCert, encodeChain(g.Chain), publicMode},
	} {
		if err := create(f.drafts, made); err != nil {
			return err
		}
	}
	key, err := f.drafts.ReadFile(SensorKey)
	if err != nil {
		return err
	}
	if err := f.place(CAFile); err != nil {
		return err
	}
	if _, err := f.root.Lstat(SensorCert); err == nil { // a pair is replaced such that a running agent never sees halves of two
		return replacePair(f.root, SensorCert, SensorKey, encodeChain(g.Chain), key)
	}
	if err := errors.Join(f.place(SensorKey), f.place(SensorCert)); err != nil {
		return err
	}
	return syncFolder(f.root)
}

func (f *agentFolder) place(name string) error {
	_, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		f.placed = append(f.placed, name)
	}
	if err := f.root.Rename(filepath.Join(drafts, name), name); err != nil {
		return fmt.Errorf("put %s in place: %w", filepath.Join(f.root.Name(), name), err)
	}
	return nil
}

// close removes the drafts, and where nothing came of it, what was made for it.
func (f *agentFolder) close(good bool) error {
	var errs []error
	if f.drafts != nil {
		errs = append(errs, f.drafts.Close(), f.root.RemoveAll(drafts))
	}
	if !good {
		for _, name := range f.placed {
			if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, f.root.Close())
	if !good && f.made {
		errs = append(errs, os.Remove(f.root.Name()))
	}
	return errors.Join(errs...)
}
