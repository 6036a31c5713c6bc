//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"poip/internal/poiptest"
)

// namespaceMark tells the child that it runs in the namespace already.
const namespaceMark = "POIP_BENCH_NAMESPACE"

func inNamespace() bool { return os.Getenv(namespaceMark) != "" }

// enterNamespace runs this program again in a network namespace of its own and
// waits for it: nothing of the machine's network is touched, every port is
// free, and nobody else's packets are measured. An ordinary user gets a user
// namespace around it.
func enterNamespace(ctx context.Context, args []string) error {
	err := inNewNetwork(ctx, args, syscall.CLONE_NEWNET)
	if errors.Is(err, syscall.EPERM) {
		err = inNewNetwork(ctx, args, syscall.CLONE_NEWNET|syscall.CLONE_NEWUSER)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("make a network namespace (run as root, or allow user namespaces): %w", err)
	}
	return err
}

func inNewNetwork(ctx context.Context, args []string, flags uintptr) error {
	child := exec.CommandContext(ctx, "/proc/self/exe", args...)
	child.Env = append(os.Environ(), namespaceMark+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = 20 * time.Second
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGTERM}
	if flags&syscall.CLONE_NEWUSER != 0 {
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return child.Run()
}

// The pair of interfaces that captures are measured on: what enters wireIn is
// captured on wireOut.
const (
	wireIn  = "benchin"
	wireOut = "benchout"
)

// setUpNetwork makes what the scenarios expect in a fresh namespace. IPv6 is
// silenced, so that nothing but the generator's frames is on the wire.
func setUpNetwork() error {
	for _, scope := range []string{"all", "default"} {
		os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
	}
	return poiptest.IP(
		"link set lo up",
		"link add "+wireIn+" type veth peer name "+wireOut,
		"link set "+wireIn+" up",
		"link set "+wireOut+" up",
	)
}
