package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/argon2"
)

// What a password of ours costs to check: argon2id with 32 MiB, three passes,
// one lane; RFC 9106 recommends more memory where there is, and a relay checks
// two at a time.
const (
	passwordMemory = 32 << 10 // KiB
	passwordPasses = 3
	passwordLanes  = 1
	saltLen        = 16
	hashLen        = 32
)

// MinPassword is the least length of a password, in bytes.
const MinPassword = 10

// maxPassword bounds what is hashed.
const maxPassword = 1024

// A Password is what is kept of one: enough to check it, not to know it.
type Password struct {
	memory, passes uint32
	lanes          uint8
	salt, hash     []byte
}

// HashPassword makes the text that is kept of a password, in the form of the
// argon2 command: $argon2id$v=19$m=…,t=…,p=…$SALT$HASH.
func HashPassword(password string) (string, error) {
	if len(password) < MinPassword || len(password) > maxPassword {
		return "", fmt.Errorf("a password has %d to %d bytes; this one has %d", MinPassword, maxPassword, len(password))
	}
	salt := make([]byte, saltLen)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	p := Password{memory: passwordMemory, passes: passwordPasses, lanes: passwordLanes, salt: salt, hash: make([]byte, hashLen)}
	p.hash = p.compute(password)
	return p.String(), nil
}

// String is the text that ParsePassword reads.
func (p Password) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		b64.EncodeToString(p.salt), b64.EncodeToString(p.hash))
}

// ParsePassword reads what HashPassword has made, or the argon2 command. What
// checking it would cost is bounded: the file may come from elsewhere.
func ParsePassword(text string) (Password, error) {
	var p Password
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return p, errors.New("not an argon2id hash, as `poip-relay passwd` makes it")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, fmt.Errorf("%.20q: want version %d of argon2id", parts[2], argon2.Version)
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); n != 3 || err != nil {
		return p, fmt.Errorf("%.40q: want m=…,t=…,p=…", parts[3])
	}
	if p.memory < 8<<10 || p.memory > 64<<10 || p.passes < 1 || p.passes > 10 || p.lanes < 1 || p.lanes > 4 {
		return p, fmt.Errorf("%.40q: want m=8192 to 65536 (KiB), t=1 to 10, p=1 to 4", parts[3])
	}
	var errSalt, errHash error
	p.salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.hash, errHash = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errHash != nil || len(p.salt) < 8 || len(p.salt) > 64 || len(p.hash) < 16 || len(p.hash) > 64 {
		return p, errors.New("want a salt of 8 to 64 bytes and a hash of 16 to 64, in base64 without padding")
	}
	if p.String() != text {
		return p, errors.New("not written as `poip-relay passwd` writes it")
	}
	return p, nil
}

// Verify reports whether this is the password. It takes a tenth of a second and
// tens of megabytes.
func (p Password) Verify(password string) bool {
	if len(p.hash) == 0 || len(password) > maxPassword {
		return false
	}
	return subtle.ConstantTimeCompare(p.compute(password), p.hash) == 1
}

// argon2id is what costs; tests count how often it is done.
var argon2id = argon2.IDKey

func (p Password) compute(password string) []byte {
	return argon2id([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.hash)))
}

// Passwords are those of all users, by name. Its zero value lets nobody in.
type Passwords struct {
	of    map[string]login
	names []string // in the order of the file
	blind [32]byte // chooses for each unknown name whose cost it pretends to have
}

type login struct {
	role     string
	password Password
}

const maxLogins = 1000

// ParsePasswords reads lines of NAME:ROLE:HASH. Empty ones, and those that
// begin with #, are passed over.
func ParsePasswords(text string, roles ...string) (*Passwords, error) {
	p := &Passwords{of: make(map[string]login)}
	if _, err := rand.Read(p.blind[:]); err != nil {
		return nil, err
	}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := p.add(line, roles); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if len(p.of) == 0 {
		return nil, errors.New("there is no user in it: add a line made by `poip-relay passwd`")
	}
	return p, nil
}

// add does not repeat the line in errors: somebody may have written a password.
func (p *Passwords) add(line string, roles []string) error {
	parts := strings.SplitN(line, ":", 3)
	if len(parts) != 3 {
		return errors.New("want NAME:ROLE:HASH, as `poip-relay passwd` makes it")
	}
	name, role := parts[0], parts[1]
	if checkName(name) != nil {
		return errors.New("the name is made of a-z, 0-9 and, not in front, . _ -")
	}
	if !slices.Contains(roles, role) {
		return fmt.Errorf("the role of %s: want one of %q", name, roles)
	}
	password, err := ParsePassword(parts[2])
	if err != nil {
		return fmt.Errorf("the hash of %s: %w", name, err)
	}
	if _, ok := p.of[name]; ok || len(p.of) == maxLogins {
		return fmt.Errorf("%s is there already, or there are more than %d users", name, maxLogins)
	}
	p.of[name] = login{role, password}
	p.names = append(p.names, name)
	return nil
}

// Equal reports whether both let in the same users, by the same passwords as the
// same roles; nil and the zero value let nobody in.
func (p *Passwords) Equal(other *Passwords) bool {
	users := func(p *Passwords) map[string]login {
		if p == nil {
			return nil
		}
		return p.of
	}
	return maps.EqualFunc(users(p), users(other), func(a, b login) bool {
		return a.role == b.role && a.password.String() == b.password.String()
	})
}

// Known reports whether there is such a user. It is for logs, not for answers.
func (p *Passwords) Known(name string) bool {
	_, ok := p.of[name]
	return ok
}

// Verify returns the user's role, or false. For a name that nobody has it does
// the work that it does for one that somebody has.
func (p *Passwords) Verify(name, password string) (role string, ok bool) {
	if p == nil || len(p.names) == 0 {
		return "", false
	}
	user, known := p.of[name]
	if !known {
		user = p.of[p.names[p.pretend(name)]]
	}
	right := user.password.Verify(password)
	if !known || !right {
		return "", false
	}
	return user.role, true
}

func (p *Passwords) pretend(name string) int {
	mac := hmac.New(sha256.New, p.blind[:])
	mac.Write([]byte(name))
	return int(binary.LittleEndian.Uint64(mac.Sum(nil)) % uint64(len(p.names)))
}
