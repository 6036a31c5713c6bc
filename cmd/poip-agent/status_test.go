package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"poip/agent"
	"poip/internal/cli"
)

// agentThatSays serves a report, and returns its address.
func agentThatSays(t *testing.T, r agent.Report) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(r) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

var example = agent.Report{
	Sensor: "branch-7", Agent: "poip-agent 1",
	Captures: []agent.CaptureReport{{Name: "eth0", State: agent.CaptureRunning}, {Name: "eth1", State: agent.CaptureWaiting}, {Name: "tap", State: agent.CaptureBroken, Trouble: "no such\x1bprogram"}},
	Streams: []agent.StreamReport{
		{
			Capture: "eth0", State: agent.StateWaiting, Trouble: "connection refused",
			Captured: 1000, Recovered: 10, Acknowledged: 600, Lost: map[string]uint64{"kernel_drop": 7, "spool_overflow": 3}, Queued: 390, QueuedBytes: 2 << 20,
			Unknown: map[string]uint64{"agent_crash": 1},
			Spool:   &agent.SpoolReport{Bytes: 3 << 20, Limit: 1 << 30, Packets: 90, Age: 61.5, Trouble: "no space left on device"},
		},
		{Capture: "tap.0", State: agent.StateDone},
	},
}

func TestStatusShowsEverything(t *testing.T) {
	var out, errs bytes.Buffer
	if code := cli.Run(newRoot(), []string{"status", "--admin", agentThatSays(t, example)}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"sensor branch-7, poip-agent 1",
		"eth0 running waiting 1000 600 10 390 2.0 MiB 3.0 MiB of 1.0 GiB 1m1.5s",
		"tap.0 broken done 0 0 0 0 0 B off -",
		"eth1 waiting - - -",
		"eth0: uplink: connection refused",
		"eth0: spool: no space left on device",
		"eth0: 7 packets lost: kernel_drop",
		"eth0: 3 packets lost: spool_overflow",
		"eth0: 1 losses of unknown size: agent_crash",
		"eth0: 10 of the captured packets were found in the spool",
		`tap: capture: "no such\x1bprogram"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, out.String())
		}
	}
}

func TestStatusIsThereForPrograms(t *testing.T) {
	config := filepath.Join(t.TempDir(), "agent.toml")
	text := fmt.Sprintf("[agent.admin]\nlisten = %q\n", agentThatSays(t, example))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := cli.Run(newRoot(), []string{"status", "--json", "--config", config}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var got agent.Report
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Streams[0].Spool.Packets != 90 || got.Streams[0].Lost["kernel_drop"] != 7 {
		t.Errorf("got %s: %v", out.String(), err)
	}
}

func TestStatusFailsWhereNoAgentAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := ln.Addr().String()
	ln.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(other.Close)
	off := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(off, []byte("[agent.admin]\nlisten = \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ want, flag, value string }{
		{"no agent answers at " + silent, "--admin", silent},
		{"is no agent", "--admin", other.Listener.Addr().String()},
		{"give it an address", "--config", off},
		{"no such file", "--config", off + "x"},
	} {
		var out, errs bytes.Buffer
		if code := cli.Run(newRoot(), []string{"status", c.flag, c.value}, &out, &errs); code == 0 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%s %s: exit code %d, %s", c.flag, c.value, code, errs.String())
		}
	}
}
