package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"poip/certs"
	"poip/internal/cli"
)

func newDemo(logs *cli.LogFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Run a relay and a sensor on this machine, to try the whole thing",
		Long: `demo makes a throw-away CA, runs a relay on loopback and an agent that captures
this machine's main interface (where that is permitted; made-up traffic where
not), and prints what to paste into another terminal to see the packets.

Everything that it makes is in a temporary directory, which it removes at the
end. It needs the poip-agent command beside this one or on PATH.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), logs, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// demoPorts are tried first; a taken one is replaced by a free one.
type demoPorts struct{ Intake, Plain, TLS, Admin int }

func runDemo(ctx context.Context, logs *cli.LogFlags, stdout, stderr io.Writer) error {
	log, err := logs.Logger(stderr)
	if err != nil {
		return err
	}
	agent, err := findAgent()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "poip-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ports := demoPorts{freePort(57011), freePort(57012), freePort(57013), freePort(57080)}
	capture := demoCapture(ctx, agent)
	if err := writeDemo(dir, ports, capture); err != nil {
		return err
	}

	fmt.Fprintf(stdout, demoText, capture.about, ports.Plain, ports.TLS, ports.Admin, dir)
	ctx, end := context.WithCancel(ctx) // either side's end is the other's
	sensor := make(chan error, 1)
	go func() {
		defer end()
		sensor <- runAgent(ctx, agent, dir, logs.Args(), stderr)
	}()
	err = serve(ctx, filepath.Join(dir, "relay.toml"), log)
	end()
	return errors.Join(err, <-sensor)
}

// findAgent looks for the agent's command beside our own, then on PATH.
func findAgent() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "poip-agent")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("poip-agent")
	if err != nil {
		return "", errors.New("the demonstration needs poip-agent beside poip-relay or on PATH: `make build` makes both")
	}
	return path, nil
}

// freePort returns the port if it can be bound on loopback for TCP and UDP, or
// else one that can.
func freePort(wanted int) int {
	for _, port := range []int{wanted, 0} {
		tcp, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		port = tcp.Addr().(*net.TCPAddr).Port
		udp, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		return port
	}
	return wanted
}

// A demoSource is what the demonstration captures.
type demoSource struct{ toml, about string }

// demoCapture chooses an interface that the agent may capture, and made-up
// traffic where there is none.
func demoCapture(ctx context.Context, agent string) demoSource {
	if name, ok := capturable(ctx, agent); ok {
		return demoSource{
			toml:  fmt.Sprintf("name = \"live\"\ninterface = %q\n", name),
			about: "what passes the interface " + name + " (is it quiet? fetch a page)",
		}
	}
	self, err := os.Executable()
	if err != nil {
		self = "poip-relay"
	}
	return demoSource{
		toml:  fmt.Sprintf("name = \"made-up\"\ncommand = [%q, \"demo-traffic\"]\n", self),
		about: "made-up DNS queries, since no interface may be captured here (see: poip-agent interfaces)",
	}
}

// capturable asks the agent for an interface that is up and may be captured.
func capturable(ctx context.Context, agent string) (string, bool) {
	out, err := exec.CommandContext(ctx, agent, "interfaces", "--json").Output()
	if err != nil {
		return "", false
	}
	var interfaces []struct {
		Name      string
		Running   bool
		Permitted bool
	}
	if err := json.Unmarshal(out, &interfaces); err != nil {
		return "", false
	}
	for _, i := range interfaces {
		if i.Running && i.Permitted && i.Name != "any" && !isLoopback(i.Name) {
			return i.Name, true
		}
	}
	return "", false
}

func isLoopback(name string) bool {
	i, err := net.InterfaceByName(name)
	return err == nil && i.Flags&net.FlagLoopback != 0
}

func writeDemo(dir string, ports demoPorts, capture demoSource) error {
	relay, sensor := filepath.Join(dir, "relay"), filepath.Join(dir, "sensor")
	if err := certs.Init(relay, "localhost", nil); err != nil {
		return err
	}
	if err := certs.IssueSensor(relay, "demo", sensor); err != nil {
		return err
	}
	files := map[string]string{
		"relay.toml": fmt.Sprintf(demoRelayTOML, relay, ports.Intake, ports.Plain, ports.TLS, ports.Admin),
		"agent.toml": fmt.Sprintf(demoAgentTOML, ports.Intake, sensor, capture.toml),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// runAgent runs the sensor's side until ctx ends.
func runAgent(ctx context.Context, agent, dir string, logFlags []string, stderr io.Writer) error {
	args := append([]string{"run", "--config", filepath.Join(dir, "agent.toml")}, logFlags...)
	cmd := exec.CommandContext(ctx, agent, args...) // #nosec G204 -- our own program, beside us or on PATH
	cmd.Stdout, cmd.Stderr = stderr, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for us alone; we pass it on
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("poip-agent ended: %w", err)
}

// The demonstration has a folder to remove and an agent to end when it ends,
// so it confines itself to nothing.
const demoRelayTOML = `[relay]
name = "localhost"
data = %q
confine = "off"
[relay.intake]
tcp = "127.0.0.1:%[2]d"
quic = "127.0.0.1:%[2]d"
[relay.admin]
listen = "127.0.0.1:%[5]d"
[[relay.listener]]
name = "plain"
listen = "127.0.0.1:%[3]d"
streams = ["*/*"]
allow = ["127.0.0.0/8", "::1/128"]
start = "oldest"
[[relay.listener]]
name = "tls"
listen = "127.0.0.1:%[4]d"
streams = ["*/*"]
tls = true
allow = ["127.0.0.0/8", "::1/128"]
start = "oldest"
`

const demoAgentTOML = `[agent]
relay = "tls://127.0.0.1:%d"
data = %q
[[agent.capture]]
%s`

const demoText = `poip demonstration: one sensor, one relay, on this machine.
The sensor captures %[1]s.

Paste one of these into another terminal:

  wireshark -k -i TCP@127.0.0.1:%[2]d
  tshark -i TCP@127.0.0.1:%[2]d
  nc 127.0.0.1 %[2]d | tcpdump -l -n -r -
  ncat --ssl --recv-only 127.0.0.1 %[3]d | tshark -l -r -
  curl http://127.0.0.1:%[4]d/api/v1/streams
  curl http://127.0.0.1:%[4]d/metrics

Everything is in %[5]s until Ctrl-C ends the demonstration.
`
