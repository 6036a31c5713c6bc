package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"poip/broker"
)

const example = "../../config.example.toml"

// TestExampleConfiguration: the documented file is one that run accepts, and
// documents every key that there is.
func TestExampleConfiguration(t *testing.T) {
	if _, err := loadConfig(example); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(reflect.TypeFor[broker.Config]()) {
		if !strings.Contains(string(text), "\n"+key+" = ") && !strings.Contains(string(text), "."+key+"]") {
			t.Errorf("%s does not document the key %q", example, key)
		}
	}
}

// TestDefaultsAreAsDocumented: the example's values are the defaults, but for
// those keys that have none.
func TestDefaultsAreAsDocumented(t *testing.T) {
	cfg, err := loadConfig(example)
	if err != nil {
		t.Fatal(err)
	}
	want := broker.DefaultConfig()
	want.Name, want.Data, want.Listeners, want.Analysts = cfg.Name, cfg.Data, cfg.Listeners, cfg.Analysts
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("the example is %+v, the defaults are %+v", cfg, want)
	}
}

// keys are the names of a configuration's keys and tables.
func keys(t reflect.Type) (names []string) {
	for t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("toml"); name != "" {
			names = append(append(names, name), keys(t.Field(i).Type)...)
		}
	}
	return names
}
