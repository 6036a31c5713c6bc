package certs_test

import (
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"poip/certs"
)

func entry(serial int64) certs.Entry {
	e := certs.EntryOf(&x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}, certs.HowIssued, "192.0.2.7:1")
	return e
}

func TestTheRegistryRemembers(t *testing.T) {
	dir := initialized(t)
	r := certs.OpenRegistry(dir)
	who := certs.SensorSubject("branch-7")
	must(t, r.AddFirst(who, entry(1)))
	if err := r.AddFirst(who, entry(2)); !errors.Is(err, certs.ErrKnown) {
		t.Errorf("a name was given twice: %v", err)
	}
	must(t, r.Add(who, entry(0x1234)))
	must(t, r.Add(certs.AnalystSubject("branch-7"), entry(3))) // another than the sensor of that name
	record, err := r.Lookup(who)
	must(t, err)
	if len(record.Certificates) != 2 || record.Certificates[1].Serial != "1234" || record.Certificates[1].Remote != "192.0.2.7:1" {
		t.Errorf("remembers %+v", record)
	}
	found, e, err := r.Find("1234")
	if err != nil || found.Subject() != who || e.Serial != "1234" {
		t.Errorf("found %v %v %v", found, e, err)
	}
	if found, _, err := r.Find("ffff"); err != nil || len(found.Certificates) > 0 {
		t.Errorf("found %v, %v", found, err)
	}
	for role, want := range map[certs.Role]int{certs.RoleSensor: 1, certs.RoleAnalyst: 1} {
		if list, err := r.List(role); err != nil || len(list) != want {
			t.Errorf("%s: %v, %v", role, list, err)
		}
	}
	for path, want := range map[string]os.FileMode{"sensors": 0o700, "sensors/branch-7.json": 0o600, "analysts": 0o700} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Fails without lock: of two who add at the same time, one would be forgotten,
// and its certificate could not be revoked by its name.
func TestTheRegistryForgetsNobodyWhoComesAtTheSameTime(t *testing.T) {
	r := certs.OpenRegistry(initialized(t))
	who := certs.SensorSubject("branch-7")
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() { must(t, r.Add(who, entry(int64(i+1)))) })
	}
	all.Wait()
	record, err := r.Lookup(who)
	must(t, err)
	if len(record.Certificates) != 32 {
		t.Errorf("remembers %d of 32", len(record.Certificates))
	}
}

func TestTheRegistryForgetsWhatIsLongOver(t *testing.T) {
	r := certs.OpenRegistry(initialized(t))
	who := certs.SensorSubject("branch-7")
	old := entry(1)
	old.NotAfter = time.Now().Add(-100 * 24 * time.Hour)
	must(t, r.Add(who, old))
	must(t, r.Add(who, entry(2)))
	if record, err := r.Lookup(who); err != nil || len(record.Certificates) != 1 || record.Certificates[0].Serial != "02" {
		t.Errorf("remembers %+v, %v", record, err)
	}
}

// Names become paths, and files may be anybody's doing.
func TestTheRegistryTrustsNoNameAndNoFile(t *testing.T) {
	dir := initialized(t)
	r := certs.OpenRegistry(dir)
	for _, name := range []string{"", "../x", "a/b", ".lock", "Branch", "x\x00"} {
		if err := r.Add(certs.Subject{Role: certs.RoleSensor, Name: name}, entry(1)); err == nil {
			t.Errorf("took the name %q", name)
		}
		if _, err := r.Lookup(certs.Subject{Role: certs.RoleSensor, Name: name}); err == nil {
			t.Errorf("looked for %q", name)
		}
	}
	if err := r.Add(certs.Subject{Role: "../x", Name: "a"}, entry(1)); err == nil {
		t.Error("took a role that is none")
	}
	must(t, r.Add(certs.SensorSubject("a"), entry(1)))
	for what, text := range map[string]string{
		"of another": `{"role":"sensor","name":"b","certificates":[]}`, "damaged": "{", "empty": "", "with a field that nobody knows": `{"role":"sensor","name":"a","x":1}`,
	} {
		must(t, os.WriteFile(filepath.Join(dir, "sensors", "a.json"), []byte(text), 0o600))
		if _, err := r.Lookup(certs.SensorSubject("a")); err == nil || !strings.Contains(err.Error(), "a.json") {
			t.Errorf("a file %s: %v", what, err)
		}
		if err := r.Add(certs.SensorSubject("a"), entry(2)); err == nil {
			t.Errorf("a file %s was written over", what)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "sensors", "a.json")))
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte(`{"role":"sensor","name":"a","certificates":[{"serial":"01"}]}`), 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "sensors", "a.json")))
	if record, err := r.Lookup(certs.SensorSubject("a")); err == nil {
		t.Errorf("followed a link to %v", record)
	}
}
