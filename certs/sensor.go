package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"poip/auth"
)

// A Sensor is an agent's own identity, in its data folder: its certificate
// with its key, and the authorities that its relays come from. It is renewed
// while the agent runs, by what a relay sends, or by somebody who puts other
// files there.
type Sensor struct {
	// Set once.
	dir       string
	relayName string
	name      auth.SensorName

	mu      sync.Mutex // guards what follows
	pair    *Keypair
	roots   []*x509.Certificate // the newest first
	config  *tls.Config         // made of these; another one for each change
	files   [2]fs.FileInfo      // as they were read: certificate, authorities
	request *ecdsa.PrivateKey   // of a request that is on its way; nil: none
}

// OpenSensor reads a sensor's identity. The relay's certificate has to be for
// relayName; where that is empty, for the host dialed.
func OpenSensor(dir, relayName string) (*Sensor, error) {
	if err := CheckFolder(dir); err != nil {
		return nil, err
	}
	s := &Sensor{dir: dir, relayName: relayName}
	if err := s.load(); err != nil {
		return nil, err
	}
	var err error
	if s.name, err = auth.SensorOf(s.pair.Certificate().Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path(SensorCert), err)
	}
	return s, nil
}

// Name is the sensor's.
func (s *Sensor) Name() auth.SensorName { return s.name }

// TLS is for the next connection: the same as before until certificate or
// authorities have changed.
func (s *Sensor) TLS() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	return s.config
}

// Life is when the certificate in use began to be valid, and when it ends.
func (s *Sensor) Life() (from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leaf := s.pair.Certificate().Leaf
	return leaf.NotBefore, leaf.NotAfter
}

// Due says whether the certificate should be renewed: two thirds of its life
// are over, or there is a newer authority than the one that it is from.
func (s *Sensor) Due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	pair := s.pair.Certificate()
	if now.After(dueAt(pair.Leaf)) {
		return true
	}
	chain, err := parseChain(pair.Certificate)
	return err == nil && !comesFrom(s.roots[0], chain)
}

// Request makes a fresh key, and the request for a certificate for it.
func (s *Sensor) Request() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = key
	return request, nil
}

// Accept takes the answer to the last Request into use: the certificate is
// for its key, for this sensor, and on the disk before anybody uses it.
func (s *Sensor) Accept(ders [][]byte) error {
	chain, err := parseChain(ders)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.request == nil || len(chain) == 0 {
		return errors.New("take renewed certificate: none was asked for")
	}
	if err := s.check(chain[0]); err != nil {
		return fmt.Errorf("take renewed certificate: %w", err)
	}
	secret, err := encodeKey(crypto.Signer(s.request))
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	if err := replacePair(root, SensorCert, SensorKey, encodeChain(ders), secret); err != nil {
		return err
	}
	s.request = nil
	return s.load()
}

func (s *Sensor) check(leaf *x509.Certificate) error {
	if !s.request.PublicKey.Equal(leaf.PublicKey) {
		return errors.New("it is for another key than we have made")
	}
	name, err := auth.SensorOf(leaf)
	if err != nil {
		return err
	}
	if name != s.name {
		return fmt.Errorf("it is for sensor %q, we are %q", string(name), string(s.name))
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return errors.New("it is not for clients")
	}
	return nil
}

// Trust replaces the authorities by those that a relay announces, on the disk
// too, and says whether they are others than before. All have to be believed.
func (s *Sensor) Trust(ders [][]byte) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	roots, err := believed(ders, s.roots)
	if err != nil {
		return false, fmt.Errorf("take authorities: %w", err)
	}
	if slices.EqualFunc(roots, s.roots, (*x509.Certificate).Equal) {
		return false, nil
	}
	var text []byte
	for _, r := range roots {
		text = append(text, encodeCert(r.Raw)...)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return false, fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	if err := replace(root, file{CAFile, text, publicMode}); err != nil {
		return false, err
	}
	return true, s.load()
}

func (s *Sensor) path(name string) string { return filepath.Join(s.dir, name) }

// refresh reads what somebody has put there, an operator who has the sensor
// join anew; until that is good, what we have stays.
func (s *Sensor) refresh() {
	for i, name := range []string{SensorCert, CAFile} {
		info, err := os.Stat(s.path(name))
		if err == nil && !unchanged(info, s.files[i]) {
			_ = s.load() // when it is good: with the next look
			return
		}
	}
}

func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// load reads everything, or changes nothing.
func (s *Sensor) load() error {
	var files [2]fs.FileInfo
	for i, name := range []string{SensorCert, CAFile} {
		var err error
		if files[i], err = os.Stat(s.path(name)); err != nil { // before it is read, so that a change in between is seen
			return fmt.Errorf("load identity: %w", err)
		}
	}
	pair, err := LoadKeypair(s.path(SensorCert), s.path(SensorKey))
	if err != nil {
		return err
	}
	roots, err := loadRoots(s.path(CAFile))
	if err != nil {
		return err
	}
	if name, err := auth.SensorOf(pair.Certificate().Leaf); s.name != "" && (err != nil || name != s.name) {
		return fmt.Errorf("%s is of another sensor now: restart the agent", s.path(SensorCert))
	}
	s.pair, s.roots, s.files = pair, roots, files
	s.config = AgentTLS(pair, poolOf(roots), s.relayName)
	return nil
}
