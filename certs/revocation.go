package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"poip/auth"
)

// RevocationsFile is the list of what was revoked, in a relay's data folder.
const RevocationsFile = "revoked.json"

// loadRevocations reads the list: an empty one where there never was any.
func loadRevocations(dir string) (*auth.Revocations, error) {
	path := filepath.Join(dir, RevocationsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(auth.Revocations), nil
	}
	if err != nil {
		return nil, fmt.Errorf("load revocations: %w", err)
	}
	revoked, err := auth.ParseRevocations(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put back a copy: without it nobody would be revoked", path, err)
	}
	return revoked, nil
}

// RevokeName revokes every certificate that the subject has, or may have, and
// returns how many of them were known. What is issued to it later is good.
func RevokeName(dir string, who Subject) (known int, err error) {
	var canceled error
	if who.Role == RoleSensor { // a token that was made before would let the thief in again
		_, canceled = OpenTokens(dir).Cancel(who.Name)
	}
	err = revoke(dir, func(revoked *auth.Revocations, registry Registry) error {
		record, err := registry.Lookup(who)
		if err != nil {
			return err
		}
		known = len(record.Certificates)
		for _, e := range record.Certificates {
			revoked.AddCertificate(e.revoked(who))
		}
		revoked.AddName(auth.RevokedName{Identity: who.identity(), When: time.Now().UTC()})
		return nil
	})
	return known, errors.Join(err, canceled)
}

// RevokeSerial revokes one certificate by its number, as it is printed
// anywhere, and those that were renewed from it.
func RevokeSerial(dir, number string) (who Subject, serials []string, err error) {
	serial, err := parseSerial(number)
	if err != nil {
		return who, nil, err
	}
	err = revoke(dir, func(revoked *auth.Revocations, registry Registry) error {
		record, _, err := registry.Find(serial)
		if err != nil {
			return err
		}
		if len(record.Certificates) == 0 {
			return fmt.Errorf("revoke: no certificate with the number %s was issued here: `poip-relay sensors --json` lists them; a name can be revoked as a whole", serial)
		}
		who = record.Subject()
		family := map[string]bool{serial: true}
		for _, e := range record.Certificates { // the oldest first, so parents before children
			if family[e.Serial] || e.From != "" && family[e.From] {
				family[e.Serial] = true
				serials = append(serials, e.Serial)
				revoked.AddCertificate(e.revoked(who))
			}
		}
		return nil
	})
	return who, serials, err
}

// revoke changes the list, while nobody renews what it is about.
func revoke(dir string, change func(*auth.Revocations, Registry) error) error {
	if err := CheckFolder(dir); err != nil {
		return err
	}
	root, unlock, err := lockFolder(dir, commandWaits)
	if err != nil {
		return err
	}
	defer unlock()
	revoked, err := loadRevocations(dir)
	if err != nil {
		return err
	}
	if err := change(revoked, OpenRegistry(dir)); err != nil {
		return err
	}
	text, err := revoked.Encode()
	if err != nil {
		return err
	}
	return replace(root, file{RevocationsFile, text, secretMode})
}

// How long somebody waits for others to be done with a relay's data folder.
// Each takes a few milliseconds, unless it was stopped.
const (
	relayWaits   = time.Second // it has five to end in, or to end the sessions of who is revoked
	commandWaits = 10 * time.Second
)

// lockFolder opens a relay's data folder, for as long as nobody else renews,
// revokes or rotates there.
func lockFolder(dir string, most time.Duration) (root *os.Root, unlock func(), err error) {
	root, err = os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open folder: %w", err)
	}
	release, err := lock(root, most)
	if err != nil {
		root.Close()
		return nil, nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return root, func() { release(); root.Close() }, nil
}

// parseSerial takes a number in hexadecimal as openssl, browsers and we print it.
func parseSerial(number string) (string, error) {
	digits := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(number), "0x"), ":", "")
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok || n.Sign() <= 0 || len(digits) > 64 {
		return "", fmt.Errorf("revoke: %.80q is no serial number: write it in hexadecimal, as `openssl x509 -noout -serial` does", number)
	}
	return fmt.Sprintf("%x", n.Bytes()), nil
}

func (e Entry) revoked(who Subject) auth.RevokedCertificate {
	return auth.RevokedCertificate{Identity: who.identity(), Serial: e.Serial, Key: e.SPKI, When: time.Now().UTC()}
}

// identity is the subject's URI.
func (s Subject) identity() string { return s.template().URIs[0].String() }
