package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"poip/auth"
)

// A Registry remembers, in a relay's data folder, every certificate that the
// relay's authority has issued and that has not been over for long: one file
// for each sensor, sensors/NAME.json, and each analyst, analysts/NAME.json.
// It is what says which serial numbers and keys belong to a name.
//
// Commands and a running relay may use it at the same time.
type Registry struct{ dir string }

// OpenRegistry is the registry of a relay's data folder.
func OpenRegistry(dir string) Registry { return Registry{dir} }

// How a certificate came about.
type How string

// The ways to a certificate.
const (
	HowIssued   How = "issue"  // by a command on the relay
	HowEnrolled How = "enroll" // by a token
	HowRenewed  How = "renew"  // in place of one that was about to expire
)

// An Entry is one certificate.
type Entry struct {
	Serial    string    `json:"serial"` // as SerialOf writes it
	SPKI      string    `json:"spki"`   // as KeyOf writes it
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	How       How       `json:"how"`
	When      time.Time `json:"when"`
	Remote    string    `json:"remote,omitempty"` // address that asked for it
	Issuer    string    `json:"issuer,omitempty"` // key identifier of who signed it, in hexadecimal
	From      string    `json:"from,omitempty"`   // of a renewed one: the number of that before
}

// A Record is all that is known of one name.
type Record struct {
	Role         Role    `json:"role"`
	Name         string  `json:"name"`
	Certificates []Entry `json:"certificates"` // the oldest first
}

// Subject is whom the record is about.
func (r Record) Subject() Subject { return Subject{r.Role, r.Name} }

// remembered is how long an entry outlives its certificate.
const remembered = 90 * 24 * time.Hour

// ErrKnown says that a name has a certificate already.
var ErrKnown = errors.New("the name has a certificate already")

// SerialOf is a certificate's number in hexadecimal, as openssl prints it,
// in lower case.
func SerialOf(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }

// KeyOf is the SHA-256 of a certificate's SubjectPublicKeyInfo, in hexadecimal.
func KeyOf(cert *x509.Certificate) string { return keyHash(cert.RawSubjectPublicKeyInfo) }

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// EntryOf describes a certificate that comes about now.
func EntryOf(cert *x509.Certificate, how How, remote string) Entry {
	return Entry{
		Serial: SerialOf(cert), SPKI: KeyOf(cert),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		How: how, When: time.Now().UTC().Truncate(time.Second), Remote: remote, Issuer: hex.EncodeToString(cert.AuthorityKeyId),
	}
}

// Add enters a certificate. When it returns, the entry is on the disk.
func (r Registry) Add(who Subject, e Entry) error { return r.change(who, e, false) }

// AddFirst enters a certificate of a name that has none, or returns ErrKnown.
func (r Registry) AddFirst(who Subject, e Entry) error { return r.change(who, e, true) }

func (r Registry) change(who Subject, e Entry, first bool) error {
	root, err := r.open(who.Role)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := lock(root, relayWaits)
	if err != nil {
		return fmt.Errorf("lock %s: %w", root.Name(), err)
	}
	defer unlock()
	record, err := read(root, who)
	if err != nil {
		return err
	}
	if first && len(record.Certificates) > 0 {
		return fmt.Errorf("%s: %w", who, ErrKnown)
	}
	past := e.When.Add(-remembered)
	record.Certificates = slices.DeleteFunc(record.Certificates, func(old Entry) bool { return old.NotAfter.Before(past) })
	record.Certificates = append(record.Certificates, e)
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("enter certificate of %s: %w", who, err)
	}
	return replace(root, file{who.Name + ".json", append(text, '\n'), secretMode})
}

// Lookup finds what is known of a name: a Record without certificates where
// nothing is.
func (r Registry) Lookup(who Subject) (Record, error) {
	root, err := r.open(who.Role)
	if err != nil {
		return Record{}, err
	}
	defer root.Close()
	return read(root, who)
}

// List returns the records of a role, by name.
func (r Registry) List(role Role) ([]Record, error) {
	root, err := r.open(role)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root.Name(), err)
	}
	var out []Record
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if _, err := auth.ParseSensorName(name); !ok || err != nil {
			continue
		}
		record, err := read(root, Subject{role, name})
		if err != nil {
			return nil, err
		}
		out = append(out, record)
	}
	return out, nil
}

// Find returns whose certificate has the serial number, as SerialOf writes
// it. The Record has no certificates where nobody's has.
func (r Registry) Find(serial string) (Record, Entry, error) {
	for _, role := range []Role{RoleSensor, RoleAnalyst} {
		records, err := r.List(role)
		if err != nil {
			return Record{}, Entry{}, err
		}
		for _, record := range records {
			i := slices.IndexFunc(record.Certificates, func(e Entry) bool { return e.Serial == serial })
			if i >= 0 {
				return record, record.Certificates[i], nil
			}
		}
	}
	return Record{}, Entry{}, nil
}

func (r Registry) open(role Role) (*os.Root, error) {
	if role != RoleSensor && role != RoleAnalyst {
		return nil, fmt.Errorf("open registry: no role %q", string(role))
	}
	return openWithin(r.dir, string(role)+"s")
}

func read(root *os.Root, who Subject) (Record, error) {
	record := Record{Role: who.Role, Name: who.Name}
	if _, err := auth.ParseSensorName(who.Name); err != nil { // before it becomes a path
		return record, err
	}
	name := who.Name + ".json"
	text, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	path := filepath.Join(root.Name(), name)
	if err != nil {
		return record, fmt.Errorf("read %s: %w", path, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&record); err != nil {
		return record, fmt.Errorf("read %s: %w; put back a copy, or move it away", path, err)
	}
	if record.Subject() != who {
		return record, fmt.Errorf("read %s: it is about %s; move it away", path, record.Subject())
	}
	return record, nil
}
