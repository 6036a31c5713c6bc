package certs

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"poip/auth"
)

// Tokens are those that a relay has made, one file each in the folder tokens
// of its data folder. The file's name is the token's and its state:
//
//	tokens/ID.open      may be used until it expires
//	tokens/ID.used      has been used: whoever renames ID.open to this may sign
//	tokens/ID.canceled  has been canceled
//
// A rename happens once, however many try, and survives a power cut. So a
// token is good for one certificate, whatever else happens, and commands
// need no running relay, nor a relay them.
//
// The file holds no secret: see auth.Verifier for what its thief can do.
type Tokens struct{ dir string }

// OpenTokens are the tokens in a relay's data folder.
func OpenTokens(dir string) Tokens { return Tokens{dir} }

// TokenState is where a token stands.
type TokenState string

// The states; a token that has expired is still open on the disk.
const (
	TokenOpen     TokenState = "open"
	TokenUsed     TokenState = "used"
	TokenCanceled TokenState = "canceled"
	TokenExpired  TokenState = "expired"
	TokenDamaged  TokenState = "damaged" // its file cannot be read
)

// TokenEntry is what a relay keeps of a token.
type TokenEntry struct {
	ID       string          `json:"id"`
	Sensor   auth.SensorName `json:"sensor"`
	Verifier string          `json:"verifier,omitempty"` // auth.Verifier in hexadecimal
	Replace  bool            `json:"replace"`            // the sensor may have a certificate already
	Made     time.Time       `json:"made"`
	Expires  time.Time       `json:"expires"`
	Used     time.Time       `json:"used,omitzero"`
	Remote   string          `json:"remote,omitempty"` // address that used it

	State TokenState `json:"-"` // by the file's name, and the clock
}

const (
	// MaxTokenLife bounds how long a token may wait.
	MaxTokenLife = 24 * time.Hour

	// tokenMemory is how long after its end a token is still listed.
	tokenMemory = 7 * 24 * time.Hour
)

// Make makes a token for a sensor and returns its secret, which is kept nowhere.
func (k Tokens) Make(sensor auth.SensorName, life time.Duration, replaces bool) (auth.Secret, error) {
	if life <= 0 || life > MaxTokenLife {
		return auth.Secret{}, fmt.Errorf("make token: a life of %s; choose one of up to %s", life, MaxTokenLife)
	}
	known, err := OpenRegistry(k.dir).Lookup(SensorSubject(sensor))
	if err != nil {
		return auth.Secret{}, fmt.Errorf("make token: %w", err)
	}
	if len(known.Certificates) > 0 && !replaces {
		return auth.Secret{}, fmt.Errorf("make token: sensor %s has a certificate already; choose another name, or give --replace to let it join anew", sensor)
	}
	secret, now := auth.NewSecret(), time.Now().UTC().Truncate(time.Second)
	verifier := secret.Verifier()
	entry := TokenEntry{
		ID: secret.ID().String(), Sensor: sensor, Verifier: hex.EncodeToString(verifier[:]), Replace: replaces,
		Made: now, Expires: now.Add(life),
	}
	root, err := k.open()
	if err != nil {
		return auth.Secret{}, err
	}
	defer root.Close()
	if err := k.forget(root, now); err != nil {
		return auth.Secret{}, err
	}
	if err := keep(root, entry, TokenOpen); err != nil {
		return auth.Secret{}, fmt.Errorf("make token: %w", err)
	}
	return secret, nil
}

// List returns all tokens that are remembered, the oldest first.
func (k Tokens) List() ([]TokenEntry, error) {
	root, err := k.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return list(root, time.Now())
}

// Cancel ends the open tokens of a sensor, or the one with this ID, and
// returns them.
func (k Tokens) Cancel(which string) (canceled []TokenEntry, err error) {
	root, err := k.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := list(root, time.Now())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.State != TokenOpen && e.State != TokenDamaged || e.ID != which && string(e.Sensor) != which {
			continue
		}
		err := move(root, e.ID, TokenOpen, TokenCanceled)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was used in this moment
		}
		if err != nil {
			return canceled, fmt.Errorf("cancel token %s: %w", e.ID, err)
		}
		e.State = TokenCanceled
		canceled = append(canceled, e)
	}
	return canceled, nil
}

// find reads a token in whatever state.
func (k Tokens) find(root *os.Root, id auth.TokenID, now time.Time) (TokenEntry, error) {
	for _, state := range []TokenState{TokenOpen, TokenUsed, TokenCanceled} {
		e, err := readToken(root, id.String(), state, now)
		if !errors.Is(err, fs.ErrNotExist) {
			return e, err
		}
	}
	return TokenEntry{}, errors.New("no such token")
}

// take uses a token up. Of any number of callers it lets one go on.
func (k Tokens) take(root *os.Root, e TokenEntry) error {
	err := move(root, e.ID, TokenOpen, TokenUsed)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the token was used or canceled in this moment")
	}
	return err
}

// giveBack undoes take, where no certificate came of it.
func (k Tokens) giveBack(root *os.Root, e TokenEntry) error {
	return move(root, e.ID, TokenUsed, TokenOpen)
}

// note remembers by whom a token was used, and nothing that could prove it.
func (k Tokens) note(root *os.Root, e TokenEntry, remote string) error {
	e.Used, e.Remote, e.Verifier = time.Now().UTC().Truncate(time.Second), remote, ""
	return keep(root, e, TokenUsed)
}

// forget removes tokens that ended long ago.
func (k Tokens) forget(root *os.Root, now time.Time) error {
	entries, err := list(root, now)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.State == TokenDamaged || now.Before(e.Expires.Add(tokenMemory)) {
			continue
		}
		for _, state := range []TokenState{TokenOpen, TokenUsed, TokenCanceled} {
			if err := root.Remove(e.ID + "." + string(state)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove old token: %w", err)
			}
		}
	}
	return nil
}

func (k Tokens) open() (*os.Root, error) { return openWithin(k.dir, "tokens") }

func list(root *os.Root, now time.Time) ([]TokenEntry, error) {
	files, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var out []TokenEntry
	for _, f := range files {
		id, state, ok := strings.Cut(f.Name(), ".")
		if !ok || len(id) != 2*len(auth.TokenID{}) {
			continue
		}
		e, err := readToken(root, id, TokenState(state), now)
		if errors.Is(err, fs.ErrNotExist) {
			continue // moved meanwhile
		}
		if errors.Is(err, errDamaged) {
			e = TokenEntry{ID: id, State: TokenDamaged}
		} else if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b TokenEntry) int { return a.Made.Compare(b.Made) })
	return out, nil
}

var errDamaged = errors.New("the token's file is damaged: cancel it and make another one")

func readToken(root *os.Root, id string, state TokenState, now time.Time) (e TokenEntry, err error) {
	name := id + "." + string(state)
	text, err := root.ReadFile(name)
	if err != nil {
		return e, fmt.Errorf("read token: %w", err)
	}
	if err := json.Unmarshal(text, &e); err != nil || e.ID != id {
		return e, fmt.Errorf("read %s/%s: %w", root.Name(), name, errDamaged)
	}
	if e.State = state; state == TokenOpen && !now.Before(e.Expires) {
		e.State = TokenExpired
	}
	return e, nil
}

func keep(root *os.Root, e TokenEntry, state TokenState) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return replace(root, file{e.ID + "." + string(state), append(text, '\n'), secretMode})
}

// move renames a token's file, and has that on the disk.
func move(root *os.Root, id string, from, to TokenState) error {
	if err := root.Rename(id+"."+string(from), id+"."+string(to)); err != nil {
		return err
	}
	return syncFolder(root)
}
