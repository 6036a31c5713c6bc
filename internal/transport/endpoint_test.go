package transport

import (
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]Endpoint{
		"tls://relay.example:57011":   {"tls", "relay.example", 57011},
		"quic://relay.example":        {"quic", "relay.example", DefaultPort},
		"tls://192.0.2.1:1":           {"tls", "192.0.2.1", 1},
		"tls://[2001:db8::1]:65535":   {"tls", "2001:db8::1", 65535},
		"quic://[2001:db8::1]":        {"quic", "2001:db8::1", DefaultPort},
		"tls://[fe80::1%eth0]:57011":  {"tls", "fe80::1%eth0", 57011},
		"tls://my_relay-2.Example.:5": {"tls", "my_relay-2.Example.", 5},
	} {
		got, err := ParseEndpoint(s)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
		if again, err := ParseEndpoint(got.String()); err != nil || again != got {
			t.Errorf("%s is printed as %s", s, got)
		}
	}
	for _, bad := range []string{
		"", "relay.example", "relay.example:57011", "tcp://a", "TLS://a", "tls:/a", "tls://", "tls://:57011", "tls://a:", "tls://a:0",
		"tls://a:65536", "tls://a:-1", "tls://a:http", "tls://a:1:2", "tls://::1", "tls://[::1", "tls://[::1]x", "tls://[::1]:", "tls://[]",
		"tls://a/", "tls://a:1/", "tls://a?x", "tls://u@a", "tls://a b", "tls://a\n", "tls://ä", "tls://a%", "tls://" + strings.Repeat("a", 254),
	} {
		if ep, err := ParseEndpoint(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, ep)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("raw bytes in %q", err)
		}
	}
}

// What is read is printed in a form that is read as the same.
func FuzzEndpoint(f *testing.F) {
	f.Add("tls://relay.example:57011")
	f.Add("quic://[2001:db8::1]")
	f.Add("tls://a:1:2")
	f.Fuzz(func(t *testing.T, s string) {
		ep, err := ParseEndpoint(s)
		if err != nil {
			return
		}
		if again, err := ParseEndpoint(ep.String()); err != nil || again != ep {
			t.Errorf("%q is %+v, printed as %s, read as %+v, %v", s, ep, ep, again, err)
		}
	})
}
