package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// What sslscan finds at each port: agents speak TLS 1.3 and nothing else;
// analysts 1.2 as well, without CBC, compression or renegotiation. It fails when
// certs.IntakeTLS has no MinVersion, or certs.AnalystTLS no CipherSuites.
func TestScannersFindNothingOld(t *testing.T) {
	w := newWorld(t)
	r := w.startRelay(w.relayTOML("[[relay.analyst]]\nname = \"anna\"\nstreams = [\"*/*\"]\n",
		listenerTOML{"open", "", "tls = true\nclient_auth = \"none\"\n" + plainOldest},
		listenerTOML{"known", "", "tls = true\nclient_auth = \"cert\"\n" + plainOldest}))
	for name, speaks := range map[string][]string{"tls": {"TLSv1.3"}, "open": {"TLSv1.2", "TLSv1.3"}, "known": {"TLSv1.2", "TLSv1.3"}} {
		found, code := shell(t, patience, "sslscan --no-colour %s", r.address(name))
		if code != 0 {
			t.Fatalf("sslscan: %s", found)
		}
		var enabled []string
		for _, m := range regexp.MustCompile(`(?m)^(\S+) +enabled$`).FindAllStringSubmatch(found, -1) {
			enabled = append(enabled, m[1])
		}
		if strings.Join(enabled, " ") != strings.Join(speaks, " ") {
			t.Errorf("%s speaks %q, want %q", name, enabled, speaks)
		}
		if !strings.Contains(found, "Session renegotiation not supported") {
			t.Errorf("%s renegotiates:\n%s", name, found)
		}
		suites := regexp.MustCompile(`(?m)^(?:Preferred|Accepted) +\S+ +\d+ bits +(\S+)`).FindAllStringSubmatch(found, -1)
		for _, m := range suites {
			if !strings.Contains(m[1], "GCM") && !strings.Contains(m[1], "CHACHA20") {
				t.Errorf("%s takes %s, which does not authenticate what it encrypts", name, m[1])
			}
		}
		// A listener that wants a certificate shows no suites of 1.2 to who has none.
		if name == "open" && len(suites) != 6 || len(suites) < 3 && name != "known" {
			t.Errorf("%s: %d suites were found:\n%s", name, len(suites), found)
		}
	}
}
