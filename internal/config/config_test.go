package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Name   string   `toml:"name"`
	Memory Size     `toml:"memory"`
	Wait   Duration `toml:"wait"`
	Port   int      `toml:"port"`
	Inner  struct {
		TCP string `toml:"tcp"`
	} `toml:"inner"`
	Listeners []struct {
		Name string   `toml:"name"`
		Wait Duration `toml:"wait"`
		Most Count    `toml:"most"`
	} `toml:"listener"`
}

func TestDecodeFillsTheTableAskedFor(t *testing.T) {
	got := sample{Memory: 5, Port: 7}
	text := "[relay]\nname = \"r\"\nwait = \"15s\"\n[relay.inner]\ntcp = \":1\"\n[[relay.listener]]\nname = \"a\"\n[agent]\nwhatever = 1\n"
	if err := Decode("f.toml", []byte(text), "relay", &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "r" || got.Wait != Duration(15*time.Second) || got.Inner.TCP != ":1" || len(got.Listeners) != 1 {
		t.Errorf("decoded %+v", got)
	}
	if got.Memory != 5 || got.Port != 7 {
		t.Errorf("keys that the file lacks lost their defaults: %+v", got)
	}
}

func TestDecodeRefusesAndSaysWhere(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "[relay]\nname = \"r\"\nnmae = \"x\"\n", `f.toml:3: unknown key "relay.nmae"`},
		{"unknown key in a table", "[relay]\n[relay.inner]\nudp = 1\n", `f.toml:3: unknown key "relay.inner.udp"`},
		{"unknown key in an array", "[relay]\n[[relay.listener]]\nname = \"a\"\n[[relay.listener]]\ntsl = true\n", `f.toml:5: unknown key "relay.listener.tsl"`},
		{"unknown table under ours", "[relay]\n[relay.iner]\ntcp = \":1\"\n", `f.toml:2: unknown key "relay.iner`},
		{"unknown top table", "[relay]\n[broker]\n", "f.toml:2: unknown table [broker]"},
		{"top key", "x = 1\n[relay]\n", "f.toml:1: key x stands in no table"},
		{"wrong type", "[relay]\n\nname = 5\n", "f.toml:3: "},
		{"bad size", "[relay]\nmemory = \"64MB\"\n", `f.toml:2: `},
		{"bad size", "[relay]\nmemory = \"64MB\"\n", `"64MB" is not a size`},
		{"bare size", "[relay]\nmemory = \"64\"\n", "is not a size"},
		{"number for a size", "[relay]\nmemory = 64\n", "is not a size"},
		{"negative size", "[relay]\nmemory = \"-1MiB\"\n", "is not a size"},
		{"huge size", "[relay]\nmemory = \"9999999999TiB\"\n", "is not a size"},
		{"bad duration", "[relay]\nwait = \"5\"\n", "is not a duration"},
		{"number for a duration", "[relay]\nwait = 5\n", "is not a duration"},
		{"count of none", "[relay]\n[[relay.listener]]\nmost = 0\n", "f.toml:3: key relay.listener.most: 0: want a whole number, at least 1"},
		{"count below that", "[relay]\n[[relay.listener]]\nmost = -1\n", "at least 1"},
		{"count beyond an int of 32 bits", "[relay]\n[[relay.listener]]\nmost = 4294967297\n", "at least 1"},
		{"text for a count", "[relay]\n[[relay.listener]]\nmost = \"5\"\n", "at least 1"},
		{"syntax", "[relay\n", "f.toml:2: "},
		{"twice", "[relay]\nname = \"a\"\nname = \"b\"\n", "f.toml:3: "},
		{"range", "[relay]\nport = 99999999999999999999\n", "f.toml:2: "},
		{"no table", "[agent]\n", "no [relay] table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Decode("f.toml", []byte(c.text), "relay", new(sample))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	if err := Load(missing, "relay", new(sample)); err == nil || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("missing file: %v", err)
	}
	big := filepath.Join(t.TempDir(), "big.toml")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(big, "relay", new(sample)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
}

func TestSizeRoundTrip(t *testing.T) {
	for _, text := range []string{"1B", "1KiB", "3MiB", "64MiB", "2GiB", "1TiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s: %d written as %s, read as %d (%v)", text, s, s, again, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("[relay]\nname = \"r\"\nmemory = \"64MiB\"\n[[relay.listener]]\nname = \"a\"\nwait = \"5s\"\n")
	f.Add("[relay]\nx = 1\n[agent]\n")
	f.Add("[relay")
	f.Fuzz(func(t *testing.T, text string) {
		err := Decode("f.toml", []byte(text), "relay", new(sample))
		if err == nil {
			return
		}
		if !strings.HasPrefix(err.Error(), "f.toml:") {
			t.Errorf("error without a place: %v", err)
		}
		if strings.ContainsAny(err.Error(), "\x1b\x00\r") {
			t.Errorf("raw bytes in %q", err)
		}
	})
}
