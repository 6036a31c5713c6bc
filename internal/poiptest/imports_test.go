package poiptest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// root is the module's folder, seen from this one.
const root = "../.."

// TestImportsAreAsDocumented holds the table of docs/ARCHITECTURE.md against
// the code, both ways: no import without a row, no row without a package.
func TestImportsAreAsDocumented(t *testing.T) {
	allowed := documentedImports(t)
	outside := []string{"internal/poiptest", "internal/poiptest/oracle", "internal/bench", "internal/e2e", "internal/faults"}
	for pkg, imports := range actualImports(t) {
		if slices.Contains(outside, pkg) {
			continue
		}
		may, ok := allowed[pkg]
		if !ok {
			t.Errorf("%s has no row in docs/ARCHITECTURE.md", pkg)
			continue
		}
		for _, i := range imports {
			if !slices.Contains(may, i) {
				t.Errorf("%s imports %s, which docs/ARCHITECTURE.md does not allow", pkg, i)
			}
		}
		delete(allowed, pkg)
	}
	for pkg := range allowed {
		t.Errorf("docs/ARCHITECTURE.md has a row for %s, which is no package", pkg)
	}
}

func documentedImports(t *testing.T) map[string][]string {
	text, err := os.ReadFile(root + "/docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| may import |\n")
	if !found {
		t.Fatal("docs/ARCHITECTURE.md has no table of imports")
	}
	rows := map[string][]string{}
	for _, line := range strings.Split(table, "\n")[1:] {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			break
		}
		var may []string
		for _, name := range strings.Split(cells[3], ",") {
			if name = strings.TrimSpace(name); name != "" {
				may = append(may, name)
			}
		}
		rows[strings.TrimSpace(cells[1])] = may
	}
	return rows
}

func actualImports(t *testing.T) map[string][]string {
	imports := map[string][]string{}
	for _, line := range goList(t, `{{if .GoFiles}}{{.ImportPath}} {{join .Imports " "}}{{end}}`, "./...") {
		var ours []string
		for _, path := range strings.Fields(line) {
			if name, ok := strings.CutPrefix(path, "poip/"); ok {
				ours = append(ours, name)
			}
		}
		if len(ours) > 0 {
			imports[ours[0]] = ours[1:]
		}
	}
	return imports
}

// TestProgramsLeaveDangerOut: neither program dissects packets, offers a
// profiler or speaks HTTP/3, and so carries none of that code; and the relay
// has no way to capture.
func TestProgramsLeaveDangerOut(t *testing.T) {
	for command, has := range map[string]string{"./cmd/poip-relay": "poip/broker", "./cmd/poip-agent": "poip/agent"} {
		deps := goList(t, "{{.ImportPath}}", "-deps", command)
		for _, path := range []string{"net/http/pprof", "github.com/quic-go/quic-go/http3", "plugin"} {
			if slices.Contains(deps, path) {
				t.Errorf("%s carries %s", command, path)
			}
		}
		for _, path := range deps {
			if strings.Contains(path, "gopacket") || command == "./cmd/poip-relay" && path == "poip/agent/capture" {
				t.Errorf("%s carries %s", command, path)
			}
		}
		if !slices.Contains(deps, has) {
			t.Errorf("the list of dependencies lacks %s: it proves nothing", has)
		}
	}
}

func goList(t *testing.T, format string, args ...string) []string {
	cmd := exec.Command("go", append([]string{"list", "-f", format}, args...)...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
