// Package config reads the one configuration file that relays and agents
// share. It is strict: an unknown key, a wrong type, a bad size or duration is
// an error that names the file, the line and what was expected, and nothing is
// half applied. What the keys mean stands with those who own them, in
// broker.Config and agent.Config. It reads the files of secret keys as well.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// tables are the tables that a file may hold; a program reads one of them.
var tables = []string{"relay", "agent"}

// Load reads the table of that name from the file at path into dst, a pointer
// to a struct with toml tags. Fields without a key keep the values they have,
// so dst brings the defaults.
func Load(path, table string, dst any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes; is this a configuration file?", path, maxFile)
	}
	return Decode(path, text, table, dst)
}

// Decode is Load for a text at hand; path is for messages.
func Decode(path string, text []byte, table string, dst any) error {
	var file map[string]toml.Primitive
	meta, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&file)
	if err != nil {
		return located(path, text, err)
	}
	for _, key := range meta.Keys() {
		if len(key) > 1 || slices.Contains(tables, key[0]) {
			continue
		}
		name := printable(key[0])
		if meta.Type(key[0]) == "Hash" {
			return fmt.Errorf("%s:%d: unknown table [%s]: want [relay] or [agent]", path, lineOf(text, key), name)
		}
		return fmt.Errorf("%s:%d: key %s stands in no table: write it below [relay] or [agent]", path, lineOf(text, key), name)
	}
	primitive, ok := file[table]
	if !ok {
		return fmt.Errorf("%s: no [%s] table: this program reads that one", path, table)
	}
	if err := meta.PrimitiveDecode(primitive, dst); err != nil {
		var value toml.ParseError
		if errors.As(err, &value) {
			value.Message = "key " + value.LastKey + ": " + value.Message
			err = value
		}
		return located(path, text, err)
	}
	for _, key := range meta.Undecoded() {
		if len(key) > 1 && key[0] == table {
			return fmt.Errorf("%s:%d: unknown key %q: see config.example.toml for those there are", path, lineOf(text, key), printable(key.String()))
		}
	}
	return nil
}

// located gives a decoder's error the form "file:line: what".
func located(path string, text []byte, err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %s", path, parse.Position.Line, printable(parse.Message))
	}
	message := printable(strings.TrimPrefix(err.Error(), "toml: "))
	if m := typeMismatch.FindStringSubmatch(message); m != nil {
		return fmt.Errorf("%s:%s: key %s: %s", path, m[1], m[2], m[3])
	}
	return fmt.Errorf("%s: %s", path, message)
}

// typeMismatch is how the decoder words an error about one key's value.
var typeMismatch = regexp.MustCompile(`(?s)^line (\d+) \(last key (".*?")\): (.*)$`)

// lineOf finds the line of a key, which the decoder does not tell for keys
// that it passed over. Where tables of one name repeat, it is the first line
// that fits.
func lineOf(text []byte, key toml.Key) int {
	table, last := "", key[len(key)-1]
	parent := strings.Join(key[:len(key)-1], ".")
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(strings.SplitN(line, "#", 2)[0], "[] \t")
			if table == key.String() {
				return i + 1
			}
			continue
		}
		name, _, found := strings.Cut(line, "=")
		if name = strings.Trim(strings.TrimSpace(name), `"'`); found && table == parent && name == last {
			return i + 1
		}
	}
	return 1
}

// printable makes a text from a file fit for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
