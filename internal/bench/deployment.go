//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// deployment is poip as a user sets it up: a relay with one listener, and the
// identity of a sensor. Agents are added by agent.
type deployment struct {
	*stage
	relay        *process
	config       string // of the relay
	intake       int    // ports
	admin, plain int
	past         int    // port of the second listener
	sensor       string // directory of the sensor's identity
}

// relayOptions are what scenarios vary.
type relayOptions struct {
	memory   string // of a stream's ring; empty is 16 MiB
	overflow string
	start    string
	tls      bool
	format   string
	host     string // where the intake listens; empty is loopback
	data     string // directory of the relay's data; empty is in memory
	history  string // of a stream; empty is none
	streams  string // that the listener offers; empty is all
	end      string
	past     string // streams of a second listener, from their oldest packet on; empty is none
}

// deploy makes an authority and an identity and starts the relay.
func (s *stage) deploy(o relayOptions) (*deployment, error) {
	d := &deployment{stage: s, intake: s.port(), admin: s.port(), plain: s.port(), past: s.port(), sensor: filepath.Join(s.dir, "sensor")}
	if o.data == "" {
		o.data = filepath.Join(s.dir, "relay")
	}
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	for _, argv := range [][]string{
		{"init", "--data", o.data, "--name", "relay.bench"},
		{"issue", "bench", "--data", o.data, "--out", d.sensor},
	} {
		if out, err := exec.Command(s.program("poip-relay"), argv...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("poip-relay %s: %w\n%s", argv[0], err, out)
		}
	}
	d.config = filepath.Join(s.dir, "relay.toml")
	if err := os.WriteFile(d.config, d.relayConfig(o), 0o600); err != nil {
		return nil, err
	}
	return d, d.startRelay()
}

func (d *deployment) startRelay() (err error) {
	if d.relay, err = d.start("relay", d.program("poip-relay"), "run", "--config", d.config); err != nil {
		return err
	}
	return d.awaitRelay()
}

func (d *deployment) relayConfig(o relayOptions) []byte {
	fill := func(v *string, otherwise string) {
		if *v == "" {
			*v = otherwise
		}
	}
	fill(&o.memory, "16MiB")
	fill(&o.overflow, "skip")
	fill(&o.start, "live")
	fill(&o.format, "pcap")
	fill(&o.history, "0")
	fill(&o.streams, "*/*")
	fill(&o.end, "close")
	text := fmt.Appendf(nil, `[relay]
name = "relay.bench"
data = %q
[relay.intake]
tcp = "%s:%d"
quic = "%s:%d"
max_streams_per_sensor = 200
[relay.admin]
listen = "127.0.0.1:%d"
[relay.stream]
memory = %q
history = %q
[[relay.listener]]
name = "bench"
listen = "127.0.0.1:%d"
streams = [%q]
tls = %t
allow = ["127.0.0.0/8"]
format = %q
overflow = %q
start = %q
end = %q
max_connections = 2000
`, o.data, o.host, d.intake, o.host, d.intake, d.admin, o.memory, o.history, d.plain, o.streams, o.tls, o.format, o.overflow, o.start, o.end)
	if o.past == "" {
		return text
	}
	return fmt.Appendf(text, `[[relay.listener]]
name = "past"
listen = "127.0.0.1:%d"
streams = [%q]
allow = ["127.0.0.0/8"]
start = "oldest"
`, d.past, o.past)
}

// awaitRelay waits until the relay says that it is well.
func (d *deployment) awaitRelay() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		reply, err := http.Get("http://" + local(d.admin) + "/healthz")
		if err == nil {
			reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-d.relay.exited:
			return d.relay.failure(fmt.Errorf("ended at start"))
		default:
		}
		if time.Now().After(deadline) {
			return d.relay.failure(fmt.Errorf("not healthy after 10 s"))
		}
	}
}

// agentOptions are what scenarios vary.
type agentOptions struct {
	relay      string // URL; empty is the deployment's over TLS
	congestion string
	spool      string // empty is the agent's default
	captures   string // the [[agent.capture]] tables
}

func (d *deployment) agent(o agentOptions) (*process, error) {
	if o.relay == "" {
		o.relay = "tls://" + local(d.intake)
	}
	if o.congestion == "" {
		o.congestion = "auto"
	}
	config := filepath.Join(d.dir, "agent.toml")
	text := fmt.Appendf(nil, "[agent]\nrelay = %q\nrelay_name = \"relay.bench\"\ndata = %q\ncongestion = %q\n",
		o.relay, d.sensor, o.congestion)
	if o.spool != "" {
		text = fmt.Appendf(text, "spool = %q\n", o.spool)
	}
	text = append(text, o.captures...)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	return d.start("agent", d.program("poip-agent"), "run", "--config", config)
}

func fileCapture(path string) string { return fileCaptureAs("trace", path) }

func fileCaptureAs(name, path string) string {
	return fmt.Sprintf("[[agent.capture]]\nname = %q\nfile = %q\npace = \"max\"\n", name, path)
}

func liveCapture(latency string) string {
	return fmt.Sprintf("[[agent.capture]]\nname = \"wire\"\ninterface = %q\nlatency = %q\n", wireOut, latency)
}

// metric sums a metric of the relay over its labels.
func (d *deployment) metric(name string) (float64, error) {
	reply, err := http.Get("http://" + local(d.admin) + "/metrics")
	if err != nil {
		return 0, fmt.Errorf("read the relay's metrics: %w", err)
	}
	defer reply.Body.Close()
	return sumMetric(reply.Body, name)
}

func sumMetric(text io.Reader, name string) (sum float64, err error) {
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		line := lines.Text()
		if series, _, _ := strings.Cut(line, "{"); series != name && !strings.HasPrefix(line, name+" ") {
			continue
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum += v
	}
	return sum, lines.Err()
}
