//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench is one run: what all scenarios share. It belongs to the main goroutine.
type bench struct {
	ctx      context.Context
	o        options
	log      io.Writer
	self     string   // this program
	tmp      string   // in memory, so that no disk is measured
	env      []string // of every process
	cert     string   // throw-away TLS certificate of the ends and the peers
	key      string
	lastPort int
	pcaps    map[string]string // generated captures by name
}

func newBench(ctx context.Context, o options, log io.Writer) (*bench, error) {
	tmp, err := os.MkdirTemp(memoryDir(), "poip-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a working directory: %w", err)
	}
	b := &bench{ctx: ctx, o: o, log: log, tmp: tmp, lastPort: 20000, pcaps: map[string]string{}}
	if err := b.prepare(); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare() (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.o.profile != "" {
		if err := os.MkdirAll(b.o.profile, 0o755); err != nil {
			return err
		}
	}
	if err := setUpNetwork(); err != nil {
		return err
	}
	b.cert, b.key = filepath.Join(b.tmp, "cert.pem"), filepath.Join(b.tmp, "key.pem")
	if err := writeCertificate(b.cert, b.key); err != nil {
		return err
	}
	return b.writeOpenSSLConfig()
}

// writeOpenSSLConfig has OpenSSL's programs use the cipher that Go prefers:
// AES-128-GCM instead of AES-256-GCM, which costs an eighth more.
func (b *bench) writeOpenSSLConfig() error {
	path := filepath.Join(b.tmp, "openssl.cnf")
	b.env = []string{"OPENSSL_CONF=" + path}
	return os.WriteFile(path, []byte("openssl_conf = top\n[top]\nssl_conf = ssl\n[ssl]\nsystem_default = all\n[all]\n"+
		"Ciphersuites = TLS_AES_128_GCM_SHA256\n"), 0o600)
}

func (b *bench) close() { os.RemoveAll(b.tmp) }

// memoryDir is a directory in memory where there is one.
func memoryDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// measure runs a scenario: every contender once a round, in turn. A contender
// that fails is reported and left out of the rest.
func (b *bench) measure(s scenario) result {
	samples, failed := map[string][]sample{}, map[string]string{}
	rounds := b.o.rounds
	if s.rounds > 0 {
		rounds = min(rounds, s.rounds)
	}
	for round := range rounds {
		for _, c := range s.contenders {
			if failed[c.name] != "" || b.ctx.Err() != nil || !b.o.only.MatchString(c.name) {
				continue
			}
			began := time.Now()
			one, err := b.once(s.name+" "+c.name, c)
			if b.ctx.Err() != nil {
				continue // it was interrupted, and says nothing about the contender
			}
			fmt.Fprintf(b.log, "%s, round %d of %d: %s (%.1f s)\n", s.name, round+1, rounds, c.name, time.Since(began).Seconds())
			if err != nil {
				fmt.Fprintf(b.log, "%s: %s: %v\n", s.name, c.name, err)
				failed[c.name], _, _ = strings.Cut(err.Error(), "\n")
				continue
			}
			samples[c.name] = append(samples[c.name], one)
		}
	}
	return newResult(s, samples, failed)
}

// once runs a contender on a stage of its own.
func (b *bench) once(name string, c contender) (sample, error) {
	for _, program := range c.needs {
		if _, err := exec.LookPath(b.program(program)); err != nil {
			return nil, fmt.Errorf("%s is not installed", program)
		}
	}
	s, err := b.newStage(name)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return c.run(s)
}

// program is the path of one of ours, and the bare name of any other.
func (b *bench) program(name string) string {
	if strings.HasPrefix(name, "poip-") {
		return filepath.Join(b.o.bin, name)
	}
	return name
}

// describeMachine says what was measured on, for the record.
func describeMachine() string {
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if rest, found := strings.CutPrefix(line, "model name"); found {
			model = strings.Trim(rest, " \t:\n")
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), strings.TrimSpace(string(release)), runtime.Version())
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
