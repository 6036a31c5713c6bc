package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"poip/internal/owner"
)

// keyDigits is how many hexadecimal digits a key has.
const keyDigits = 64

// ReadKey reads a key from the file at path, which is for its owner alone and
// lies outside of the folder data: who takes that away must not have both. No
// error shows anything of the key.
func ReadKey(path, data string) ([]byte, error) {
	if err := outside(path, data); err != nil {
		return nil, err
	}
	f, err := owner.OpenSecret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 2*keyDigits))
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || 2*len(key) != keyDigits {
		return nil, fmt.Errorf("%s holds no key: want %d hexadecimal digits, as `openssl rand -hex %d` makes them", path, keyDigits, keyDigits/2)
	}
	return key, nil
}

// outside refuses a file within a folder, wherever links lead.
func outside(path, dir string) error {
	file, err := resolve(path)
	if err != nil {
		return err
	}
	folder, err := resolve(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if below, err := filepath.Rel(folder, file); err == nil && filepath.IsLocal(below) {
		return fmt.Errorf("%s lies within the data folder %s: who copies or steals that would have the packets and their key: put it elsewhere, as in /etc/poip", path, dir)
	}
	return nil
}

func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}
