package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A relay moves to a new authority in two steps, between which nobody is
// turned away. Rotate makes the new one: the relay trusts both from then on,
// and shows a certificate of the new one together with the bridge, which is
// the new authority's name and key signed by the old one (bridge.go). Whoever
// trusts either finds a way. Agents learn of the new authority, and of the
// bridge, over their sessions, and renew at once what the old one has signed.
// When all have, Retire ends the trust in the old one.

// Rotate makes a new authority, and the relay a certificate of it. The old
// authority's key is gone after it. Where that is kept elsewhere, offline names
// the folder, and the relay gets an intermediate of the new one; a rotation
// that was cut short there goes on where it was.
func Rotate(dir, offline string, relayLife time.Duration) error {
	root, unlock, err := lockFolder(dir, commandWaits)
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := folderOfKey(dir, offline)
	if err != nil {
		return err
	}
	defer keys.Close()
	roots, err := loadRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return err
	}
	now, err := openAuthority(keys.Name())
	if err != nil {
		return err
	}
	switch made := decodeCerts(now.roots); {
	case len(roots) == 1 && now.cert.Equal(roots[0]):
		if now, err = succeed(root, keys, now); err != nil {
			return err
		}
	case offline != "" && len(made) == 2 && bytes.Equal(made[1], roots[len(roots)-1].Raw) && !delegated(dir, now.cert):
	case len(roots) > 1:
		return fmt.Errorf("rotate: %s holds two authorities already: end the rotation that is under way first, with `poip-relay ca retire`", filepath.Join(dir, CAFile))
	default:
		return fmt.Errorf("rotate: the CA in %s is not the one that %s trusts", keys.Name(), dir)
	}
	if offline != "" {
		if err := replace(root, file{CAFile, now.roots, publicMode}); err != nil {
			return err
		}
		if err := now.delegateTo(root); err != nil {
			return err
		}
	}
	return reissueRelay(root, relayLife)
}

// folderOfKey opens the folder with the authority's key.
func folderOfKey(dir, offline string) (*os.Root, error) {
	certFile, _ := signerFiles(dir)
	elsewhere := filepath.Base(certFile) != CAFile
	switch {
	case elsewhere && offline == "":
		return nil, errors.New("rotate: the CA's key is kept elsewhere: name its folder with --offline-ca")
	case !elsewhere && offline != "":
		return nil, fmt.Errorf("rotate: the CA's key is in %s itself: leave out --offline-ca", dir)
	case elsewhere:
		dir = offline
	}
	keys, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	return keys, nil
}

// delegated says whether the relay signs with an intermediate of this root.
func delegated(dir string, root *x509.Certificate) bool {
	certFile, _ := signerFiles(dir)
	chain, err := loadRoots(certFile)
	return err == nil && comesFrom(root, chain)
}

// succeed puts a new authority in the place of the old one, and the bridge to
// it beside the relay's certificate.
func succeed(root, keys *os.Root, old *authority) (*authority, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(old.cert.Subject.CommonName, authorityOf), ", ")
	fresh, err := newAuthority(name + ", " + strings.ToLower(rand.Text()[:6])) // another subject than the old one's
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	bridge, err := old.bridgeTo(fresh)
	if err != nil {
		return nil, fmt.Errorf("sign the new authority: %w", err)
	}
	key, err := encodeKey(fresh.key)
	if err != nil {
		return nil, err
	}
	fresh.roots = append(fresh.roots, encodeCert(old.cert.Raw)...)
	if err := replace(root, file{BridgeFile, bridge, publicMode}); err != nil {
		return nil, err
	}
	return fresh, replacePair(keys, CAFile, CAKey, fresh.roots, key)
}

// Retire ends the trust in every authority but the newest. It refuses while
// somebody has no certificate of that yet, unless it is forced; these have to
// join anew then.
func Retire(dir string, relayLife time.Duration, force bool) error {
	root, unlock, err := lockFolder(dir, commandWaits)
	if err != nil {
		return err
	}
	defer unlock()
	roots, err := loadRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return err
	}
	if len(roots) < 2 {
		return errors.New("retire: there is one authority only; `poip-relay ca rotate` makes a new one first")
	}
	waiting, err := relyingOnOld(dir)
	if err != nil {
		return err
	}
	if len(waiting) > 0 && !force {
		return fmt.Errorf("retire: these have no certificate of the new authority yet: %s; wait until they have been online, or say --force: they have to join anew then",
			strings.Join(waiting, ", "))
	}
	if err := replace(root, file{CAFile, encodeCert(roots[0].Raw), publicMode}); err != nil {
		return err
	}
	if err := root.Remove(BridgeFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove bridge: %w", err)
	}
	return reissueRelay(root, relayLife)
}

// relyingOnOld lists who would be turned away without the old authorities.
func relyingOnOld(dir string) (names []string, err error) {
	standing, err := loadStanding(dir)
	if err != nil {
		return nil, err
	}
	for _, role := range []Role{RoleSensor, RoleAnalyst} {
		records, err := standing.registry.List(role)
		if err != nil {
			return nil, err
		}
		for _, record := range records {
			if e, ok := standing.latest(record, time.Now()); ok && !standing.FromNewest(e) {
				names = append(names, record.Subject().String())
			}
		}
	}
	return names, nil
}

// latest is the newest certificate of a name that is still good.
func (t *Trust) latest(record Record, now time.Time) (Entry, bool) {
	for _, e := range slices.Backward(record.Certificates) {
		if now.Before(e.NotAfter) && !t.revoked.Certificate(e.Serial, e.SPKI) {
			return e, true
		}
	}
	return Entry{}, false
}
