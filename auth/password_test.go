package auth

import (
	"strings"
	"testing"
)

func hashed(t testing.TB, password string) string {
	t.Helper()
	text, err := HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPassword(t *testing.T) {
	text := hashed(t, "correct horse")
	p, err := ParsePassword(text)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Verify("correct horse") || p.Verify("correct horsf") || p.Verify("") || p.Verify(strings.Repeat("x", 1<<20)) {
		t.Error("it takes another password, or not its own")
	}
	if strings.Contains(text, "correct") || hashed(t, "correct horse") == text {
		t.Error("the text gives something away")
	}
	if new(Password).Verify("") || (Password{}).Verify("x") {
		t.Error("the zero password is right")
	}
	for _, bad := range []string{"", "short", strings.Repeat("x", 2000)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("a password of %d bytes was taken", len(bad))
		}
	}
}

// What a file may make us spend is bounded: without the bounds in ParsePassword
// one line takes terabytes, or hours.
func TestPasswordBounds(t *testing.T) {
	const salt, hash = "MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
	good := "$argon2id$v=19$m=8192,t=1,p=1$" + salt + "$" + hash
	if _, err := ParsePassword(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "plain", "$2y$10$abc", "$argon2i$v=19$m=8192,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=16$m=8192,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=65537,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=1024,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=4294967295,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=0,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=255$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=256$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=0$" + salt + "$" + hash,
		"$argon2id$v=19$m=08192,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=-1,t=1,p=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=1,x=1$" + salt + "$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=1$$" + hash,
		"$argon2id$v=19$m=8192,t=1,p=1$" + salt + "$",
		"$argon2id$v=19$m=8192,t=1,p=1$" + salt + "$" + strings.Repeat(hash, 10),
		good + "=", good + " ", good + "$",
	} {
		if _, err := ParsePassword(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestPasswords(t *testing.T) {
	alice, bob := hashed(t, "alice's secret"), hashed(t, "bob's own secret")
	p, err := ParsePasswords("# who may look\n\nalice:viewer:"+alice+"\nbob:operator:"+bob+"\r\n", "viewer", "operator")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, password, role string }{
		{"alice", "alice's secret", "viewer"},
		{"bob", "bob's own secret", "operator"},
		{"alice", "bob's own secret", ""},
		{"carol", "alice's secret", ""},
		{"", "alice's secret", ""},
		{"alice", "", ""},
	} {
		role, ok := p.Verify(c.name, c.password)
		if role != c.role || ok != (c.role != "") {
			t.Errorf("%s with %q: %q, %t", c.name, c.password, role, ok)
		}
	}
	if _, ok := new(Passwords).Verify("", ""); ok {
		t.Error("nobody may log in")
	}
	var none *Passwords
	if _, ok := none.Verify("", ""); ok {
		t.Error("nobody may log in")
	}
}

func TestPasswordsRefusals(t *testing.T) {
	hash := hashed(t, "some secret")
	for _, bad := range []string{
		"", "# nobody\n", "alice", "alice:viewer", "alice:root:" + hash, "Alice:viewer:" + hash, ":viewer:" + hash,
		"alice:viewer:secret-in-clear", "alice:viewer:" + hash + "\nalice:operator:" + hash,
	} {
		_, err := ParsePasswords(bad, "viewer", "operator")
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "secret-in-clear") || strings.Contains(err.Error(), hash) {
			t.Errorf("the error repeats what is secret: %v", err)
		}
	}
}

func FuzzPasswords(f *testing.F) {
	f.Add("alice:viewer:$argon2id$v=19$m=8192,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n")
	f.Add("a:b:c")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePasswords(text, "viewer")
		if err != nil {
			return
		}
		for name, l := range p.of {
			if !grammar.MatchString(name) || l.password.memory > 64<<10 || l.password.passes > 10 || l.password.lanes > 4 {
				t.Errorf("%q: %+v", name, l)
			}
		}
	})
}

// TestNobodyLearnsWhoIsAUser: a log-in costs the same work, at the price of some
// user's password, whether there is such a user or not, and each name's price
// stays the same. It fails if Verify returns before it has computed a hash, and
// if pretend chooses anew for each try.
func TestNobodyLearnsWhoIsAUser(t *testing.T) {
	kept := argon2id
	t.Cleanup(func() { argon2id = kept })
	var prices []uint32
	argon2id = func(_, _ []byte, _, memory uint32, _ uint8, length uint32) []byte {
		prices = append(prices, memory)
		return make([]byte, length)
	}
	const rest = ",t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n"
	p, err := ParsePasswords("alice:viewer:$argon2id$v=19$m=8192"+rest+"bob:viewer:$argon2id$v=19$m=16384"+rest, "viewer")
	if err != nil {
		t.Fatal(err)
	}
	price := map[string]uint32{"alice": 8192, "bob": 16384}
	for range 8 {
		for _, name := range []string{"alice", "bob", "carol", "dave", "erin", "", "Alice", strings.Repeat("x", 5000)} {
			prices = nil
			if _, ok := p.Verify(name, "a wrong password"); ok || len(prices) != 1 {
				t.Fatalf("%.20q: %t after %d computations, want one", name, ok, len(prices))
			}
			if want, seen := price[name]; seen && prices[0] != want || prices[0] != 8192 && prices[0] != 16384 {
				t.Errorf("%.20q costs %d KiB, want %d", name, prices[0], want)
			}
			price[name] = prices[0]
		}
	}
}
