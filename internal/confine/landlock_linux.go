package confine

import (
	"fmt"
	"os"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// leastABI is the first version of Landlock that lets files move from one
// folder to another, which the journal does with damaged ones.
const leastABI = 2

// What paths may be used for.
const (
	mayRead  = landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSReadDir)
	mayRun   = mayRead | landlock.AccessFSSet(ll.AccessFSExecute)
	mayWrite = mayRead | landlock.AccessFSSet(ll.AccessFSWriteFile|ll.AccessFSTruncate|
		ll.AccessFSMakeReg|ll.AccessFSMakeDir|ll.AccessFSMakeSock|
		ll.AccessFSRemoveFile|ll.AccessFSRemoveDir|ll.AccessFSRefer)
)

// lock puts Landlock in force, as far as the kernel has it. Of later versions
// it leaves the network alone: who is dialed may change its address, and those
// who listen are bounded by the configuration.
func lock(need Need, force *InForce) error {
	abi, err := ll.LandlockGetABIVersion()
	switch {
	case need.Commands && need.Mode != Require:
		force.Why = `commands may need any file (confine = "require" would confine them, too)`
		return nil
	case err != nil || abi < leastABI:
		force.Why = fmt.Sprintf("this kernel has too old a version of it, or none (%d)", max(abi, 0))
		if need.Mode == Require {
			return fmt.Errorf(`confine = "require": %s: take a kernel from 5.19 on with lsm=landlock, or confine = "auto"`, force.Why)
		}
		return nil
	}
	// Devices beside, a process in the background opens only the empty one.
	rules := []landlock.Rule{landlock.RWFiles("/dev/null").IgnoreIfMissing()}
	add := func(what string, access landlock.AccessFSSet, paths []string) {
		for _, path := range paths {
			rules = append(rules, rule(access, path))
			force.Paths = append(force.Paths, what+":"+path)
		}
	}
	add("read", mayRead, need.Read)
	add("run", mayRun, need.Run)
	add("write", mayWrite, need.Write)
	slices.Sort(force.Paths)
	all := landlock.V8
	all.HandledAccessNet = 0
	if err := all.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	force.Landlock = abi
	return nil
}

// rule is for a file or a folder, whichever it is: what only folders can grant
// is left out for a file.
func rule(access landlock.AccessFSSet, path string) landlock.Rule {
	if isFile(path) {
		access &= landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSExecute | ll.AccessFSTruncate)
	}
	return landlock.PathAccess(access, path).IgnoreIfMissing()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}
