package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// What sslscan finds at each port: agents speak TLS 1.3 and nothing else;
// analysts and operators 1.2 as well, without CBC, compression or renegotiation.
// It fails when certs.IntakeTLS has no MinVersion, or certs.AnalystTLS no
// CipherSuites.
func TestScannersFindNothingOld(t *testing.T) {
	w := newWorld(t)
	r := w.startRelay(w.relayTOML("[[relay.analyst]]\nname = \"anna\"\nstreams = [\"*/*\"]\n",
		listenerTOML{"open", "", "tls = true\nclient_auth = \"none\"\n" + plainOldest},
		listenerTOML{"known", "", "tls = true\nclient_auth = \"cert\"\n" + plainOldest}))
	newer, both := "TLSv1.3", "TLSv1.2 TLSv1.3"
	scan(t, "tls", r.address("tls"), newer)
	// A port that wants a certificate shows no suites of 1.2 to who has none.
	if n := scan(t, "open", r.address("open"), both); n != 6 {
		t.Errorf("%d suites at an open listener", n)
	}
	scan(t, "known", r.address("known"), both)
	r.stop()

	admin := func(auth string) *relay {
		text := w.relayTOML("[[relay.analyst]]\nname = \"olga\"\nstreams = [\"*/*\"]\nadmin = \"operator\"\n")
		return w.startRelay(strings.Replace(text, "[relay.admin]\n", "[relay.admin]\ntls = true\nclient_auth = \""+auth+"\"\n", 1))
	}
	r = admin("none")
	if n := scan(t, "admin", r.address("admin"), both); n != 6 {
		t.Errorf("%d suites at the administration", n)
	}
	r.stop()
	r = admin("cert")
	scan(t, "admin by certificate", r.address("admin"), both)
	r.stop()
}

// scan returns how many suites were found.
func scan(t *testing.T, name, address, speaks string) (suites int) {
	t.Helper()
	found, code := shell(t, patience, "sslscan --no-colour %s", address)
	if code != 0 {
		t.Fatalf("sslscan: %s", found)
	}
	var enabled []string
	for _, m := range regexp.MustCompile(`(?m)^(\S+) +enabled$`).FindAllStringSubmatch(found, -1) {
		enabled = append(enabled, m[1])
	}
	if got := strings.Join(enabled, " "); got != speaks {
		t.Errorf("%s speaks %q, want %q", name, got, speaks)
	}
	if !strings.Contains(found, "Session renegotiation not supported") {
		t.Errorf("%s renegotiates:\n%s", name, found)
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:Preferred|Accepted) +\S+ +\d+ bits +(\S+)`).FindAllStringSubmatch(found, -1) {
		suites++
		if !strings.Contains(m[1], "GCM") && !strings.Contains(m[1], "CHACHA20") {
			t.Errorf("%s takes %s, which does not authenticate what it encrypts", name, m[1])
		}
	}
	if suites < 3 && !strings.Contains(speaks, "1.2") {
		t.Errorf("%s: %d suites were found:\n%s", name, suites, found)
	}
	return suites
}
