//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stage is where one contender runs once: the processes of its route, their
// directory, and what they have spent since the mark. It belongs to the
// goroutine that runs the scenario.
type stage struct {
	*bench
	name     string // of the scenario and the contender
	dir      string
	crew     []*process
	profiler *process // nil: none

	marked time.Time
	busy   time.Duration // of the whole machine, at the mark
	own    time.Duration // of the bench itself, at the mark
}

func (b *bench) newStage(name string) (*stage, error) {
	dir, err := os.MkdirTemp(b.tmp, "stage")
	return &stage{bench: b, name: name, dir: dir, marked: time.Now()}, err
}

// start adds a process to the crew. Its CPU counts from its first instruction,
// or from the next mark.
func (s *stage) start(name string, argv ...string) (*process, error) {
	return s.startWith(name, nil, nil, argv...)
}

func (s *stage) startWith(name string, stdin, stdout *os.File, argv ...string) (*process, error) {
	p, err := startProcess(s.ctx, name, stdin, stdout, s.env, argv...)
	if err != nil {
		return nil, err
	}
	s.crew = append(s.crew, p)
	return p, nil
}

// pipe starts two processes, the first one's output the second one's input.
func (s *stage) pipe(from, to string, fromArgv, toArgv []string) (first *process, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	if _, err := s.startWith(to, r, nil, toArgv...); err != nil {
		return nil, err
	}
	return s.startWith(from, nil, w, fromArgv...)
}

// end starts one of our own ends; see runEnd.
func (s *stage) end(name string, args ...string) (*process, error) {
	args = append([]string{s.self, "end"}, args...)
	return s.start(name, append(args, "-cert", s.cert, "-key", s.key)...)
}

// mark begins the measured part.
func (s *stage) mark() {
	for _, p := range s.crew {
		p.spent = p.cpu()
	}
	s.marked, s.busy, s.own = time.Now(), machineBusy(), ownCPU()
	if s.o.profile != "" {
		s.startProfiler()
	}
}

// startProfiler has perf sample the whole machine until the stage is closed.
// Read what it wrote with perf report --comm poip-relay.
func (s *stage) startProfiler() {
	path := filepath.Join(s.o.profile, notInNames.ReplaceAllString(s.name, "-")+".perf")
	p, err := startProcess(s.ctx, "perf", nil, nil, nil, "perf", "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", "1999", "-o", path)
	if err != nil {
		fmt.Fprintln(s.log, err)
		return
	}
	s.profiler = p
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// cpu is what the named processes, or all, have spent since the mark.
func (s *stage) cpu(names ...string) (sum time.Duration) {
	for _, p := range s.crew {
		if len(names) == 0 || slices.Contains(names, p.name) {
			sum += p.cpu() - p.spent
		}
	}
	return sum
}

// fromDisk is what the kernel has fetched from a disk for the named processes,
// in bytes.
func (s *stage) fromDisk(names ...string) (sum int64) {
	for _, p := range s.crew {
		if slices.Contains(names, p.name) {
			sum += p.fromDisk()
		}
	}
	return sum
}

// noise is how many cores others than the crew and the bench have kept busy
// since the mark: strangers, and the kernel's own threads.
func (s *stage) noise() float64 {
	others := machineBusy() - s.busy - s.cpu() - (ownCPU() - s.own)
	return max(0, others.Seconds()/time.Since(s.marked).Seconds())
}

func ownCPU() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}

// close ends the crew, the last one first, and removes the directory.
func (s *stage) close() {
	if s.profiler != nil {
		s.profiler.stop(syscall.SIGINT)
	}
	for _, p := range slices.Backward(s.crew) {
		p.stop(syscall.SIGKILL)
	}
	os.RemoveAll(s.dir)
}

// machineBusy is how long the machine's processors have worked since boot.
func machineBusy() (busy time.Duration) {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	for i, field := range strings.Fields(line) {
		// cpu user nice system idle iowait irq softirq steal
		if n, err := strconv.Atoi(field); err == nil && (i <= 3 || i == 6 || i == 7) {
			busy += time.Duration(n) * tick
		}
	}
	return busy
}

// port hands out TCP and UDP ports of the namespace, each once.
func (b *bench) port() int {
	b.lastPort++
	return b.lastPort
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
