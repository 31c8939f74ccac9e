//go:build unix

package resources

import (
	"syscall"
	"testing"
)

// The limit of this process is lowered and raised again; tests of the package do not run in parallel.
func TestRaiseOpenFiles(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if before.Max < 200 {
		t.Skipf("the hard limit is %d", before.Max)
	}
	lowered := before
	lowered.Cur = 150
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	got, err := RaiseOpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	var after syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &after); err != nil {
		t.Fatal(err)
	}
	if after.Cur <= lowered.Cur || (got != 0 && uint64(got) != uint64(after.Cur)) {
		t.Errorf("raised to %d, in force is %d of %d", got, after.Cur, after.Max)
	}
}
