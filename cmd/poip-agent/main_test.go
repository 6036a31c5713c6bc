package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"poip/agent"
)

// TestExampleConfiguration: the documented file is one that run accepts, and
// documents every key that there is.
func TestExampleConfiguration(t *testing.T) {
	const example = "../../config.example.toml"
	s := settings{file: example}
	cfg, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	if want := agent.DefaultConfig(); cfg.Memory != want.Memory || cfg.Congestion != want.Congestion {
		t.Errorf("the example has memory %v and congestion %q, the defaults are %v and %q", cfg.Memory, cfg.Congestion, want.Memory, want.Congestion)
	}
	if want := agent.DefaultConfig(); cfg.Spool != want.Spool || cfg.SpoolOverflow != want.SpoolOverflow || cfg.SpoolSync != want.SpoolSync || cfg.Admin != want.Admin {
		t.Errorf("the example has %+v, the defaults are %+v", cfg, want)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []reflect.Type{reflect.TypeFor[agent.Config](), reflect.TypeFor[agent.CaptureConfig](), reflect.TypeFor[agent.AdminConfig]()} {
		for i := range table.NumField() {
			key := table.Field(i).Tag.Get("toml")
			if !strings.Contains(string(text), key+" ") && !strings.Contains(string(text), "."+key+"]") {
				t.Errorf("%s does not document the key %q", example, key)
			}
		}
	}
}
