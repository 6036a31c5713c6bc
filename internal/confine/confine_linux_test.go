package confine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"poip/internal/confine"
	"poip/internal/poiptest"
)

// childMark holds, in the environment of a child that confines itself, its task.
const childMark = "POIP_TEST_CONFINE"

// A task is what a child is to do once it is confined.
type task struct {
	Need    confine.Need
	Threads int        // that are there already
	Try     []string   // paths to read
	Write   []string   // files to make
	Rename  [][]string // from, to
	Exec    [][]string // programs and their arguments
	Calls   [][]uint64 // system calls, number and arguments, for each of Threads
}

// An outcome is what the child reports. Errors are texts; "" is none.
type outcome struct {
	Error   string
	Force   confine.InForce
	Uid     int
	Groups  []int
	Status  []map[string]string // of each thread, from /proc
	Read    []string
	Written []string
	Renamed []string
	Ran     []string
	Called  [][]syscall.Errno // by each thread
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childMark); text != "" {
		os.Unsetenv(childMark)
		var t task
		if err := json.Unmarshal([]byte(text), &t); err != nil {
			panic(err)
		}
		json.NewEncoder(os.Stdout).Encode(t.run())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func (t task) run() outcome {
	confined, called := make(chan struct{}), make(chan []syscall.Errno)
	for range t.Threads {
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			<-confined
			called <- t.call()
			select {} // so that the thread stays
		}()
		<-started
	}
	force, err := confine.Apply(t.Need)
	o := outcome{Error: text(err), Force: force, Uid: os.Getuid(), Status: threads()}
	o.Groups, _ = os.Getgroups()
	for _, path := range t.Try {
		_, err := os.ReadFile(path)
		o.Read = append(o.Read, text(err))
	}
	for _, path := range t.Write {
		o.Written = append(o.Written, text(os.WriteFile(path, []byte("x"), 0o600)))
	}
	for _, r := range t.Rename {
		o.Renamed = append(o.Renamed, text(os.Rename(r[0], r[1])))
	}
	for _, args := range t.Exec {
		cmd := exec.Command(args[0], args[1:]...)
		if strings.Contains(force.Capabilities, "net_raw") {
			cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
		}
		out, err := cmd.CombinedOutput()
		o.Ran = append(o.Ran, strings.TrimSpace(string(out)+text(err)))
	}
	close(confined)
	for range t.Threads {
		o.Called = append(o.Called, <-called)
	}
	return o
}

func (t task) call() (all []syscall.Errno) {
	for _, c := range t.Calls {
		var a [4]uintptr
		for i, v := range c {
			a[i] = uintptr(v)
		}
		_, _, errno := unix.RawSyscall(a[0], a[1], a[2], a[3])
		all = append(all, errno)
	}
	return all
}

func text(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrPermission):
		return "refused: " + err.Error()
	}
	return err.Error()
}

func threads() (all []map[string]string) {
	files, _ := filepath.Glob("/proc/self/task/*/status")
	for _, file := range files {
		status := map[string]string{}
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		all = append(all, status)
	}
	return all
}

// inChild has a child of this process, which is what the test is, carry a task out.
func inChild(t *testing.T, do task) outcome {
	t.Helper()
	b, err := json.Marshal(do)
	must(t, err)
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childMark+"="+string(b))
	child.Stderr = os.Stderr
	if poiptest.RealRoot() { // with a group to give up
		child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4}}}
	}
	out, err := child.Output()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	var o outcome
	must(t, json.Unmarshal(out, &o))
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// proc has what a child needs to look at itself.
var proc = []string{"/proc"}

const nothing = "0000000000000000"

// Every thread, those that were there before included, has no capability in any
// set. Take the capset of dropCapabilities out, or the bounding set's prctl, and it
// fails.
func TestNoThreadKeepsACapability(t *testing.T) {
	poiptest.RunInNetns(t, func() { // where everybody is root
		o := inChild(t, task{Need: confine.Need{Mode: confine.Auto, Read: proc}, Threads: 5})
		if o.Error != "" || o.Force.Capabilities != "none" {
			t.Fatalf("%+v", o)
		}
		if len(o.Status) < 6 {
			t.Errorf("only %d threads were looked at", len(o.Status))
		}
		for _, s := range o.Status {
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if s[set] != nothing {
					t.Errorf("thread %s: %s is %s", s["Pid"], set, s[set])
				}
			}
			if s["NoNewPrivs"] != "1" || s["Seccomp"] != "2" {
				t.Errorf("thread %s: NoNewPrivs is %s, Seccomp %s", s["Pid"], s["NoNewPrivs"], s["Seccomp"])
			}
		}
	})
}

// An ordinary user has nothing to give up, and need not be root for it.
func TestWhoeverMayConfineItself(t *testing.T) {
	o := inChild(t, task{Need: confine.Need{Mode: confine.Auto, Read: proc}})
	if o.Error != "" {
		t.Fatal(o.Error)
	}
	for _, s := range o.Status {
		if s["CapEff"] != nothing || s["CapPrm"] != nothing || s["NoNewPrivs"] != "1" || s["Seccomp"] != "2" {
			t.Errorf("CapEff %s, CapPrm %s, NoNewPrivs %s, Seccomp %s", s["CapEff"], s["CapPrm"], s["NoNewPrivs"], s["Seccomp"])
		}
	}
}

// What is not named cannot be opened, run or written, by us or by whom we start.
// It fails when lock does not call Restrict.
func TestLandlockLeavesWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"data/quarantine", "config", "secret"} {
		must(t, os.MkdirAll(filepath.Join(dir, folder), 0o700))
	}
	path := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, file := range []string{"data/segment", "config/agent.toml", "secret/shadow", "single"} {
		must(t, os.WriteFile(path(file), []byte(file), 0o600))
	}
	must(t, os.Symlink(path("secret/shadow"), path("data/planted")))
	script := path("data/script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\necho ran\n"), 0o700))

	do := task{
		Need: confine.Need{
			Mode: confine.Auto,
			Read: append(proc, path("config"), path("single"), path("not-there")), Run: []string{"/usr", "/bin", "/lib", "/lib64"},
			Write: []string{path("data")},
		},
		Try:    []string{path("data/segment"), path("config/agent.toml"), path("single"), path("secret/shadow"), path("data/planted"), "/etc/passwd"},
		Write:  []string{path("data/new"), path("data/segment"), path("config/new"), path("secret/new"), path("single"), "/dev/null"},
		Rename: [][]string{{path("data/new"), path("data/quarantine/new")}, {path("data/segment"), path("config/segment")}},
		Exec:   [][]string{{"/bin/sh", "-c", "echo ran"}, {script}, {"/bin/sh", "-c", "cat " + path("secret/shadow")}},
	}
	o := inChild(t, do)
	if o.Error != "" {
		t.Fatal(o.Error)
	}
	if o.Force.Landlock == 0 { // an old kernel: it has to say so
		if o.Force.Why == "" {
			t.Error("no word about why Landlock is off")
		}
		return
	}
	check := func(what string, got []string, want ...bool) {
		t.Helper()
		for i, allowed := range want {
			if refused := strings.Contains(strings.ToLower(got[i]), "permission denied") || strings.Contains(got[i], "refused"); refused == allowed {
				t.Errorf("%s %d: %q, want allowed %v", what, i, got[i], allowed)
			}
		}
	}
	check("read", o.Read, true, true, true, false, false, false)
	check("write", o.Written, true, true, false, false, false, true)
	check("rename", o.Renamed, true, false)
	check("exec", o.Ran, true, false, false)
	if o.Ran[0] != "ran" {
		t.Errorf("what may be run said %q", o.Ran[0])
	}
}

// A command gets what it takes to capture, and any file; the agent itself has no
// capability in effect. Take the prctl for no_new_privs out, which Landlock brings
// along elsewhere, and it fails.
func TestCommandsKeepWhatTheyNeed(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		status := []string{"grep", "CapEff", "/proc/self/status"}
		o := inChild(t, task{Need: confine.Need{Mode: confine.Auto, Commands: true}, Exec: [][]string{status}})
		if o.Error != "" || o.Force.Landlock != 0 || o.Force.Capabilities != "for commands: net_raw setgid setuid" {
			t.Fatalf("%+v", o)
		}
		for _, s := range o.Status {
			if s["CapEff"] != nothing || s["NoNewPrivs"] != "1" {
				t.Errorf("thread %s: CapEff is %s, NoNewPrivs %s", s["Pid"], s["CapEff"], s["NoNewPrivs"])
			}
		}
		const want = 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID
		if got := o.Ran[0]; got != fmt.Sprintf("CapEff:\t%016x", want) {
			t.Errorf("a command has %q", got)
		}
		o = inChild(t, task{Need: confine.Need{Mode: confine.Require, Commands: true, Read: proc, Run: []string{"/usr", "/bin", "/lib", "/lib64"}}, Exec: [][]string{status}})
		if o.Error == "" && o.Ran[0] != "CapEff:\t"+nothing {
			t.Errorf("required: a command has %q", o.Ran[0])
		}
	})
}

func TestBecomesAnotherUser(t *testing.T) {
	o := inChild(t, task{Need: confine.Need{Mode: confine.Auto, User: "no-such-user-here"}})
	if !strings.Contains(o.Error, "useradd") {
		t.Errorf("an unknown user: %q", o.Error)
	}
	if !poiptest.RealRoot() { // nobody else may become anybody
		o = inChild(t, task{Need: confine.Need{Mode: confine.Auto, User: "root"}})
		if os.Getuid() != 0 && !strings.Contains(o.Error, "start as root") {
			t.Errorf("become root: %q", o.Error)
		}
		return
	}
	dir := t.TempDir()
	o = inChild(t, task{Need: confine.Need{Mode: confine.Auto, User: "nobody", Read: proc, Write: []string{dir}}, Threads: 3})
	if !strings.Contains(o.Error, "chown -R") {
		t.Errorf("root's folder: %q", o.Error)
	}
	dir, err := os.MkdirTemp("/var/tmp", "poip-confine-") // which everybody can reach
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chown(dir, o.Uid, o.Uid))
	o = inChild(t, task{
		Need:  confine.Need{Mode: confine.Auto, User: "nobody", Read: proc, Write: []string{dir}},
		Write: []string{filepath.Join(dir, "new")}, Threads: 3,
	})
	if o.Error != "" || o.Uid == 0 || len(o.Groups) > 0 || o.Written[0] != "" {
		t.Errorf("%+v", o)
	}
	for _, s := range o.Status {
		uid := fmt.Sprint(o.Uid)
		if strings.Join(strings.Fields(s["Uid"]), " ") != strings.Join([]string{uid, uid, uid, uid}, " ") || s["CapPrm"] != nothing {
			t.Errorf("thread %s: users %s, CapPrm %s", s["Pid"], s["Uid"], s["CapPrm"])
		}
	}
}

func TestOffLeavesEverything(t *testing.T) {
	before := threads()[0]
	o := inChild(t, task{Need: confine.Need{Mode: confine.Off}, Try: []string{"/etc/passwd"}})
	if o.Error != "" || o.Read[0] != "" || o.Status[0]["CapEff"] != before["CapEff"] || o.Status[0]["NoNewPrivs"] != before["NoNewPrivs"] || o.Status[0]["Seccomp"] != before["Seccomp"] {
		t.Errorf("%+v", o)
	}
	if err := confine.Mode("maybe").Check(); err == nil || confine.Auto.Check() != nil {
		t.Errorf("confine = maybe: %v", err)
	}
}
