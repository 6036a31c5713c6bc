//go:build faults

package faults

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"poip/internal/poiptest"
)

// binaries is the variable that names the folder of the two programs, for the
// children of tests that run in a namespace.
const binaries = "POIP_FAULTS_BIN"

// self is this program, which plays other roles as well:
//
//	tap SOCKET      a capture's command: writes what a source of packets sends
//	fetch HOST PATH a page, from another network namespace
var self string

func TestMain(m *testing.M) { os.Exit(play(m)) }

func play(m *testing.M) int {
	var err error
	if self, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch {
	case len(os.Args) == 3 && os.Args[1] == "tap":
		return tap(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "fetch":
		return fetch(os.Args[2], os.Args[3])
	}
	return buildAndRun(m)
}

func buildAndRun(m *testing.M) int {
	if os.Getenv(binaries) == "" {
		dir, err := os.MkdirTemp("", "poip-faults-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir+"/", "./cmd/poip-relay", "./cmd/poip-agent")
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the commands: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binaries, dir)
	}
	return m.Run()
}

// program is the path of one of our commands.
func program(name string) string { return filepath.Join(os.Getenv(binaries), name) }

func tap(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		_, err = io.Copy(os.Stdout, conn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fetch(address, path string) int {
	page, err := poiptest.Page(address, path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Print(page)
	return 0
}
