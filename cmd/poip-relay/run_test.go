package main

import (
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
)

func TestATakenPortIsSaidWithARemedy(t *testing.T) {
	_, config := initialized(t, "a")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, []byte(strings.Replace(string(text), `tcp = "127.0.0.1:0"`, `tcp = "`+taken.Addr().String()+`"`, 1)))
	err = serve(t.Context(), config, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "relay.intake.tcp") || !strings.Contains(err.Error(), "ss -lntup") {
		t.Errorf("serve: %v", err)
	}
}
