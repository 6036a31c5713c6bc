package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"poip/agent/capture"
	"poip/internal/wire"
)

// get asks an agent for a page, under a name.
func get(a *Agent, host, path string) *httptest.ResponseRecorder {
	ad := &admin{agent: a, log: a.log}
	request := httptest.NewRequest(http.MethodGet, "http://"+host+path, nil)
	response := httptest.NewRecorder()
	ad.pages().ServeHTTP(response, request)
	return response
}

// TestMetricsAndStatusAgreeWithTheLedger, in the names that DESIGN has.
func TestMetricsAndStatusAgreeWithTheLedger(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.down.Store(true)
		ctx, stop := context.WithCancel(t.Context())
		var a *Agent
		var metrics, status string
		a = s.agent(func(sink capture.Sink) {
			paced(sink, 1, 8000)
			sink.Lost(5, wire.CauseKernelDrop)
			sink.Empty()
			sink.Flush()
			time.Sleep(10 * time.Second)
			metrics = get(a, "127.0.0.1:57081", "/metrics").Body.String()
			status = get(a, "localhost", "/api/v1/status").Body.String()
			stop()
		})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`poip_agent_captured_packets_total{capture="eth0"} 8005`,
			`poip_agent_acknowledged_packets_total{capture="eth0"} 0`,
			`poip_agent_lost_packets_total{capture="eth0",cause="kernel_drop"} 5`,
			`poip_agent_lost_packets_total{capture="eth0",cause="spool_overflow"} 0`,
			`poip_agent_queued_packets{capture="eth0"} 8000`,
			`poip_agent_empty_packets_total{capture="eth0"} 1`,
			`poip_agent_recovered_packets_total{capture="eth0"} 0`,
			`poip_agent_spool_limit_bytes{capture="eth0"} 6.7108864e+07`,
			`poip_agent_spool_trouble{capture="eth0"} 0`,
			`poip_agent_connected{capture="eth0"} 0`,
			`poip_agent_capture_running{capture="eth0"} 1`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("metrics lack %s", want)
			}
		}
		var r Report
		if err := json.Unmarshal([]byte(status), &r); err != nil || len(r.Streams) != 1 || len(r.Captures) != 1 {
			t.Fatalf("status %s: %v", status, err)
		}
		got := r.Streams[0]
		if r.Sensor != "s" || got.Capture != "eth0" || got.Captured != 8005 || got.Queued != 8000 || got.Lost["kernel_drop"] != 5 || got.LostPackets() != 5 || got.Empty != 1 {
			t.Errorf("status %+v", r)
		}
		if got.Spool == nil || got.Spool.Bytes < 8<<20 || got.Spool.Packets == 0 || got.Spool.Age <= 0 || r.Captures[0].State != CaptureRunning {
			t.Errorf("status %+v, %+v", r, got.Spool)
		}
		if captures := a.Captures(); captures[0].State != CaptureEnded {
			t.Errorf("in the end: %+v", captures)
		}
	})
}

func TestOnlyThisMachineIsAnswered(t *testing.T) {
	a := testAgent(t, newFakeRelay(t), map[string]capture.Source{"eth0": interfaceOf(func(capture.Sink) {})})
	for host, want := range map[string]int{
		"127.0.0.1:57081": 200, "[::1]:57081": 200, "localhost:57081": 200, "localhost": 200,
		"sensor.example": 403, "192.0.2.1:57081": 403, "127.0.0.1.rebind.example": 403,
	} {
		for _, path := range []string{"/healthz", "/metrics", "/api/v1/status"} {
			if got := get(a, host, path).Code; got != want {
				t.Errorf("%s%s: %d, want %d", host, path, got, want)
			}
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/api/v1/streams"} {
		if got := get(a, "localhost", path).Code; got != 404 {
			t.Errorf("%s: %d", path, got)
		}
	}
}

// TestAgentAnswersWhileItRuns, over TCP, and a port that is taken does not keep
// it from capturing.
func TestAgentAnswersWhileItRuns(t *testing.T) {
	relay := newFakeRelay(t)
	first := testAgent(t, relay, map[string]capture.Source{"eth0": interfaceOf(func(capture.Sink) {})})
	first.config.Admin.Listen = "127.0.0.1:0"
	ad := first.listenAdmin()
	if ad == nil {
		t.Fatal("it does not listen")
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		ad.serve(ctx)
	}()
	address := ad.listener.Addr().String()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://%s/healthz", address))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if string(body) != "ok\n" {
		t.Errorf("got %q", body)
	}
	second := testAgent(t, relay, map[string]capture.Source{"file": file(10, 60)})
	second.config.Admin.Listen = address
	if err := second.Run(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	<-served
}

// TestTheAdminTellsOtherSitesNothing: not to a page of another site in a browser
// on this machine, and a browser does nothing with an answer but show it. Each
// row fails without its line of admissible.
func TestTheAdminTellsOtherSitesNothing(t *testing.T) {
	a := New(Config{}, "branch-7", "test", slog.New(slog.DiscardHandler))
	pages := (&admin{agent: a, log: a.log}).pages()
	for _, c := range []struct {
		host    string
		origins []string
		want    int
	}{
		{"127.0.0.1:57081", nil, http.StatusOK},
		{"localhost:57081", []string{"http://localhost:57081"}, http.StatusOK},
		{"evil.example", nil, http.StatusForbidden},
		{"127.0.0.1:57081", []string{"http://evil.example"}, http.StatusForbidden},
		{"127.0.0.1:57081", []string{"http://127.0.0.1:8000"}, http.StatusForbidden},
		{"127.0.0.1:57081", []string{"https://127.0.0.1:57081"}, http.StatusForbidden},
		{"127.0.0.1:57081", []string{"null"}, http.StatusForbidden},
		{"127.0.0.1:57081", []string{"http://127.0.0.1:57081", "http://evil.example"}, http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://"+c.host+"/api/v1/status", nil)
		r.Header["Origin"] = c.origins
		answer := httptest.NewRecorder()
		pages.ServeHTTP(answer, r)
		if answer.Code != c.want {
			t.Errorf("%s from %q: %d, want %d", c.host, c.origins, answer.Code, c.want)
		}
		if csp := answer.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s from %q: policy %q", c.host, c.origins, csp)
		}
	}
}

// TestTheAdminsConnectionsAreBounded: those beyond wait for a place.
func TestTheAdminsConnectionsAreBounded(t *testing.T) {
	a := New(Config{Admin: AdminConfig{Listen: "127.0.0.1:0"}}, "branch-7", "test", slog.New(slog.DiscardHandler))
	ad := a.listenAdmin()
	defer ad.close()
	served := make(chan net.Conn, 2*adminConnections)
	go func() {
		for {
			conn, err := ad.listener.Accept()
			if err != nil {
				close(served)
				return
			}
			served <- conn
		}
	}()
	for range adminConnections + 5 {
		conn, err := net.Dial("tcp", ad.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for range adminConnections {
		defer (<-served).Close()
	}
	select {
	case conn := <-served:
		conn.Close()
		t.Error("there is no bound")
	case <-time.After(100 * time.Millisecond):
	}
}
