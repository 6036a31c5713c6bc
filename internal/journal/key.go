package journal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
)

// KeyLen is the length of a key, in bytes.
const KeyLen = 32

// A Key encrypts packets at rest. Whatever prints it gets its identifier, which
// says nothing about it and stands in every segment that it has encrypted.
type Key struct {
	// derive makes a key for one purpose, from which there is no way back. What
	// prints a struct around a Key sees an address here; of bytes, even behind a
	// pointer, fmt has verbs that show them.
	derive func(salt []byte, purpose string, length int) ([]byte, error)

	id keyID
}

// A keyID tells keys apart.
type keyID [8]byte

func (id keyID) String() string { return fmt.Sprintf("%x", id[:]) }

// NewKey makes a key of KeyLen bytes that nobody can guess.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) != KeyLen {
		return nil, fmt.Errorf("a key of %d bytes: want %d", len(secret), KeyLen)
	}
	secret = bytes.Clone(secret)
	k := &Key{derive: func(salt []byte, purpose string, length int) ([]byte, error) {
		return hkdf.Key(sha256.New, secret, salt, purpose, length)
	}}
	id, err := k.derive(nil, "poip journal key identifier", len(k.id))
	copy(k.id[:], id)
	return k, err
}

func (k Key) String() string { return "key " + k.id.String() }

// GoString is what %#v prints.
func (k Key) GoString() string { return k.String() }

// LogValue is what a log shows.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// ErrKey says that packets are encrypted with another key than the one that
// was given, or that none was. They are not damaged.
var ErrKey = errors.New("not the key that its packets are encrypted with")

// fits says why the key does not open what was encrypted with the one that has
// this identifier.
func (k *Key) fits(id keyID) error {
	given := "none"
	if k != nil {
		given = k.String()
	}
	if k == nil || k.id != id {
		return fmt.Errorf("%w: they need key %s, and the one given is %s: give the file that holds it, or move the folder away", ErrKey, id, given)
	}
	return nil
}
