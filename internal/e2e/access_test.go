package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/audit"
)

// certified is a listener for analysts with a certificate.
func certified(name, streams string) listenerTOML {
	return listenerTOML{name, "", fmt.Sprintf("streams = [%q]\nallow = [\"127.0.0.0/8\"]\ntls = true\nclient_auth = \"cert\"\nstart = \"oldest\"\nend = \"close\"\n", streams)}
}

func (w *world) issueAnalyst(name string) (bundle string) {
	w.t.Helper()
	w.must("poip-relay", "issue", "--analyst", name, "--data", w.path("relay"), "--out", w.path(name))
	return w.path(name, certs.AnalystBundle)
}

// audited waits for a line of the relay's audit log.
func (w *world) audited(what string, suits func(audit.Entry) bool) {
	w.t.Helper()
	eventually(w.t, "an audit line about "+what, func() bool {
		text, err := os.ReadFile(w.path("relay", audit.File))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, line := range bytes.Split(text, []byte("\n")) {
			var e audit.Entry
			if json.Unmarshal(line, &e) == nil && suits(e) {
				return true
			}
		}
		return false
	})
}

// TestToolsAsAnalysts: ncat, socat, openssl and stunnel with an analyst's
// certificate get byte for byte the streams that are granted; with another's,
// a sensor's or none, not a byte. It fails without the certificates' check in
// VerifyConnection (broker, visitorOf) and without the grant in door.offers.
func TestToolsAsAnalysts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7", "branch-8")
	bob, carol, mallory := w.issueAnalyst("bob"), w.issueAnalyst("carol"), w.issueAnalyst("mallory")
	const analysts = "[[relay.analyst]]\nname = \"bob\"\nstreams = [\"branch-7/*\"]\n[[relay.analyst]]\nname = \"carol\"\nstreams = [\"branch-8/*\"]\n"
	r := w.startRelay(w.relayTOML(analysts, certified("all", "*/*"), certified("sevens", "branch-7/*")))
	seven, eight := w.startFeed(r, "branch-7", "tls"), w.startFeed(r, "branch-8", "tls")
	for i := range 150 {
		seven.packet()
		if i%2 == 0 {
			eight.packet()
		}
	}
	for _, f := range []*feed{seven, eight} {
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Fatalf("agent ended with code %d", code)
		}
	}
	ca := w.path("relay", "ca.pem")
	sensor := w.path("sensor.pem")
	for _, name := range []string{certs.SensorKey, certs.SensorCert} {
		text, err := os.ReadFile(w.path("branch-7", name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(sensor, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(text)
		f.Close()
	}
	for _, c := range []struct {
		who, bundle, listener string
		want                  []byte
	}{
		{"bob", bob, "all", seven.micro()},
		{"bob", bob, "sevens", seven.micro()},
		{"carol", carol, "all", eight.micro()},
		{"carol", carol, "sevens", nil},
		{"mallory", mallory, "all", nil},
		{"a sensor", sensor, "all", nil},
		{"nobody", "", "all", nil},
	} {
		for _, command := range w.toolsFor(r.address(c.listener), ca, c.bundle) {
			got, _ := shell(t, patience, "%s", command)
			if got != string(c.want) {
				t.Errorf("%s at %s: %s: %d bytes, want %d", c.who, c.listener, command, len(got), len(c.want))
			}
		}
	}
	w.audited("bob", func(e audit.Entry) bool {
		return e.Event == audit.ReadEnded && e.Analyst == "bob" && e.Listener == "all" && *e.Packets == 150 && e.Streams[0] == "branch-7/feed"
	})
	w.audited("carol", func(e audit.Entry) bool {
		return e.Event == audit.ReadRefused && e.Analyst == "carol" && e.Listener == "sevens"
	})
	w.audited("mallory", func(e audit.Entry) bool { return e.Event == audit.ReadRefused && e.Analyst == "mallory" })
	w.audited("the certificate", func(e audit.Entry) bool { return e.Event == audit.Issued && e.Analyst == "bob" && e.Serial != "" })
	r.stop()
	w.audited("the end", func(e audit.Entry) bool { return e.Event == audit.RelayStopped })
}

// toolsFor are commands that read from a TLS listener with what is in bundle:
// key and certificate; empty: none.
func (w *world) toolsFor(address, ca, bundle string) []string {
	host, port := splitAddress(w.t, address)
	ncat, socat, openssl, stunnel := "", "", "", ""
	if bundle != "" {
		ncat = fmt.Sprintf("--ssl-cert %[1]s --ssl-key %[1]s", bundle)
		socat = ",cert=" + bundle
		openssl = fmt.Sprintf("-cert %[1]s -key %[1]s", bundle)
		stunnel = "cert = " + bundle + "\n"
	}
	local, err := net.Listen("tcp", "127.77.0.5:0") // nobody else's address, so that the port stays free
	if err != nil {
		w.t.Fatal(err)
	}
	at := local.Addr().(*net.TCPAddr).Port
	local.Close()
	config := w.write(fmt.Sprintf("stunnel-%d.conf", at), fmt.Sprintf(
		"foreground = yes\npid =\ndebug = err\n[analyst]\nclient = yes\naccept = 127.77.0.5:%d\nconnect = %s\nCAfile = %s\nverifyChain = yes\ncheckHost = localhost\n%s", at, address, ca, stunnel))
	return []string{
		fmt.Sprintf("ncat --ssl %s --recv-only %s %s 2>/dev/null", ncat, host, port),
		fmt.Sprintf("socat -u OPENSSL:localhost:%s,cafile=%s%s - 2>/dev/null", port, ca, socat),
		fmt.Sprintf("openssl s_client %s -quiet -connect %s </dev/null 2>/dev/null", openssl, address),
		fmt.Sprintf("openssl s_client -tls1_2 %s -quiet -connect %s </dev/null 2>/dev/null", openssl, address),
		// It takes a while to listen; nc is tried until somebody does.
		fmt.Sprintf("{ stunnel4 %s >/dev/null 2>&1 & s=$!; for i in $(seq 200); do kill -0 $s || break; nc.openbsd -z 127.77.0.5 %d && break; sleep 0.1; done; nc.openbsd -d 127.77.0.5 %[2]d; kill $s; wait $s; } 2>/dev/null", config, at),
	}
}

// TestLostAccessKeepsFromStarting: a configuration from which what says who may
// come in was lost does not start, and says what is missing. It fails without
// checkClientAuth, and without AdminConfig.check.
func TestLostAccessKeepsFromStarting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const analyst = "[[relay.analyst]]\nname = \"bob\"\nstreams = [\"*/*\"]\n"
	const listener = "[[relay.listener]]\nname = \"a\"\nlisten = \"0.0.0.0:0\"\nstreams = [\"*/*\"]\nallow = [\"0.0.0.0/0\"]\n"
	admin := func(s string) string { return strings.Replace(w.relayTOML(""), `listen = "127.0.0.1:0"`+"\n", s, 1) }
	for _, c := range []struct{ lost, toml, says string }{
		{"client_auth", w.relayTOML(analyst) + listener + "tls = true\n", "client_auth is missing"},
		{"the analysts", w.relayTOML("") + listener + "tls = true\nclient_auth = \"cert\"\n", "no [[relay.analyst]]"},
		{"both", w.relayTOML("") + listener + "tls = true\n", "client_auth is missing"},
		{"tls", w.relayTOML(analyst) + listener, "set tls = true"},
		{"tls of certificates", w.relayTOML(analyst) + listener + "client_auth = \"cert\"\n", "set tls = true"},
		{"tls and log-in of the administration", admin("listen = \"0.0.0.0:0\"\n"), "asks nobody who he is"},
		{"log-in of the administration", admin("listen = \"0.0.0.0:0\"\ntls = true\n"), "asks nobody who he is"},
		{"tls of the administration", admin("listen = \"0.0.0.0:0\"\npasswords = \"passwords\"\n"), "not encrypted"},
		{"the password file", admin("listen = \"0.0.0.0:0\"\ntls = true\npasswords = \"passwords\"\n"), "passwords"},
	} {
		config := w.write("lost.toml", c.toml)
		for _, command := range []string{"check", "run"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			out, err := exec.CommandContext(ctx, program("poip-relay"), command, "--config", config).CombinedOutput()
			if err == nil || ctx.Err() != nil || !strings.Contains(string(out), c.says) {
				t.Errorf("without %s, %s: %v\n%s", c.lost, command, err, out)
			}
			cancel()
		}
	}
}

// mutants are configurations with a mistake each.
func mutants(good string) []string {
	listener := func(lines string) string { return good + "[[relay.listener]]\nname = \"m\"\n" + lines }
	const open = "listen = \"127.0.0.1:0\"\nstreams = [\"*/*\"]\nallow = [\"127.0.0.0/8\"]\n"
	change := func(from, to string) string { return strings.Replace(good, from, to, 1) }
	return []string{
		"",
		good[:len(good)/2],
		good + "\x00",
		good + "[[relay.listener]\n",
		good + "[relay]\n",
		good + "[broker]\n",
		change("[relay]\n", "[relay]\nnmae = \"x\"\n"),
		change("[relay]\n", "[relay.stream]\nmemory = \"64MB\"\n[relay]\n"),
		change("[relay]\n", "[relay.limits]\npending = \"many\"\n[relay]\n"),
		change("[relay]\n", "[relay.limits]\npending = 0\n[relay]\n"),
		change("[relay]\n", "[relay.audit]\nfile = \"elsewhere.jsonl\"\n[relay]\n"),
		change("name = \"localhost\"", "name = \"other.example\""),
		change("quic = \"127.0.0.1:0\"", "quic = \"\""),
		listener(""),
		listener(open + "formatt = \"pcap\"\n"),
		listener(open + "format = \"pcapng2\"\n"),
		listener(open + "snaplen = 262145\n"),
		listener(open + "client_auth = \"cert\"\n"),
		listener(open + "tls = true\nclient_auth = \"cert\"\n"),
		listener("listen = \"0.0.0.0:0\"\nstreams = [\"*/*\"]\nallow = [\"0.0.0.0/0\"]\n"),
		listener("listen = \"192.0.2.1:1\"\nstreams = [\"*/*\"]\nallow_plaintext = true\n"), // cannot be bound
		listener(open) + "[[relay.listener]]\nname = \"m\"\n" + open,
		good + "[[relay.analyst]]\nname = \"Bob\"\nstreams = [\"*/*\"]\n",
		good + "[[relay.analyst]]\nname = \"bob\"\n",
	}
}

// TestBadConfigurationsLoseNothing: what is in force stays while packets flow,
// each mistake is told, and the analyst has every byte. It fails when Reload
// changes anything before it knows that all of it can be.
func TestBadConfigurationsLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "branch-7")
	good := w.relayTOML("", listenerTOML{"a", "", plainOldest})
	r := w.startRelay(good)
	f := w.startFeed(r, "branch-7", "tls")
	conn := dial(t, r.address("a"))
	read := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(conn) // to the relay's end
		read <- all
	}()
	const failed = "reload failed; what was in force stays"
	bad := mutants(good)
	for i, toml := range bad {
		w.write("relay.toml", toml)
		for range 5 {
			f.packet()
		}
		r.Signal(syscall.SIGHUP)
		for range 5 {
			f.packet()
		}
		eventually(t, fmt.Sprintf("mistake %d is told", i), func() bool {
			return r.Count(func(l logLine) bool { return l["msg"] == failed && l["level"] == "ERROR" }) > i
		})
		if r.door("m", "").Address != "" {
			t.Errorf("mistake %d: a listener of it is there", i)
		}
	}
	w.write("relay.toml", good)
	r.Signal(syscall.SIGHUP)
	r.WaitMessage("configuration reloaded")
	f.packet()
	sent := 10*len(bad) + 1
	eventually(t, "all are sent", func() bool { return r.metric("poip_relay_sent_packets_total") == float64(sent) })
	if got := r.Count(func(l logLine) bool { return l["msg"] == failed }); got != len(bad) {
		t.Errorf("%d reloads have failed of %d", got, len(bad))
	}
	r.stop()
	if got := <-read; !bytes.Equal(got, f.micro()) {
		t.Errorf("the analyst has %d bytes, want %d", len(got), len(f.micro()))
	}
	w.audited("a mistake", func(e audit.Entry) bool { return e.Event == audit.ConfigRefused })
	w.audited("the reload", func(e audit.Entry) bool { return e.Event == audit.ConfigChanged })
}

// TestAdministrationElsewhere: over TLS and with a password, on every address;
// a line of passwd lets in, and no port has a profiler. It fails when
// broker.desk.login lets a wrong password in.
func TestAdministrationElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	passwd := exec.Command(program("poip-relay"), "passwd", "olaf", "--role", "operator")
	passwd.Stdin = strings.NewReader("correct horse battery\n")
	line, err := passwd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(line), "horse") || !strings.HasPrefix(string(line), "olaf:operator:$argon2id$") {
		t.Fatalf("passwd printed %q", line)
	}
	w.write("relay/passwords", string(line))
	toml := strings.Replace(w.relayTOML("", listenerTOML{"plain", "", plainLive}, listenerTOML{"secure", "", "tls = true\n" + plainLive}),
		"[relay.admin]\nlisten = \"127.0.0.1:0\"\n", "[relay.admin]\nlisten = \"0.0.0.0:0\"\ntls = true\npasswords = \"passwords\"\n", 1)
	config := w.write("relay.toml", toml)
	r := &relay{process: w.start("poip-relay", "run", "--config", config, "--log-format", "json", "--log-level", "debug"), world: w}
	running := r.WaitMessage("relay is running")
	_, port := splitAddress(t, running["admin"].(string))
	base := "https://localhost:" + port
	trust := w.clientTLS()
	ask := func(method, url, user, password string) int {
		t.Helper()
		request, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			request.SetBasicAuth(user, password)
		}
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust}}
		answer, err := client.Do(request)
		if err != nil {
			return 0 // it speaks no HTTP
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
	for _, c := range []struct {
		method, path, user, password string
		want                         int
	}{
		{"GET", "/healthz", "", "", 200},
		{"GET", "/metrics", "", "", 401},
		{"GET", "/metrics", "olaf", "wrong", 401},
		{"GET", "/metrics", "olaf", "correct horse battery", 200},
		{"GET", "/debug/pprof/", "olaf", "correct horse battery", 404},
		{"POST", "/api/v1/reload", "olaf", "correct horse battery", 200},
	} {
		if got := ask(c.method, base+c.path, c.user, c.password); got != c.want {
			t.Errorf("%s %s as %q: %d, want %d", c.method, c.path, c.user, got, c.want)
		}
	}
	w.audited("the operator", func(e audit.Entry) bool { return e.Event == audit.AdminAction && e.Actor == "olaf" })
	w.audited("the wrong password", func(e audit.Entry) bool { return e.Event == audit.AdminRefused && e.Actor == "olaf" })
	w.audited("the reload", func(e audit.Entry) bool { return e.Event == audit.ConfigChanged })

	var listeners struct {
		Listeners []struct{ Doors []door }
	}
	request, _ := http.NewRequest("GET", base+"/api/v1/listeners", nil)
	request.SetBasicAuth("olaf", "correct horse battery")
	answer, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&listeners); err != nil {
		t.Fatal(err)
	}
	ports := []string{running["tls"].(string)}
	for _, l := range listeners.Listeners {
		ports = append(ports, l.Doors[0].Address)
	}
	for _, address := range ports {
		client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust}}
		for _, scheme := range []string{"http://", "https://"} {
			if answer, err := client.Get(scheme + address + "/debug/pprof/"); err == nil {
				t.Errorf("%s%s answers to HTTP: %s", scheme, address, answer.Status)
				answer.Body.Close()
			}
		}
	}
	if strings.Contains(r.Log(), "horse") {
		t.Error("the password is in the log")
	}
}
