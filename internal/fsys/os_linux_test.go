package fsys

import (
	"testing"
)

// TestFullDevice appends to the device that is always full.
func TestFullDevice(t *testing.T) {
	f, err := OS().Open("/dev/full")
	must(t, err)
	n, err := f.Append([]byte("a"), []byte("b"))
	wantIs(t, err, ErrNoSpace)
	if n != 0 || f.Position() != 0 {
		t.Fatalf("%d bytes written, position %d", n, f.Position())
	}
	must(t, f.Close())
}

// TestUnsyncable syncs what cannot be synced: the failure has its class.
func TestUnsyncable(t *testing.T) {
	f, err := OS().Open("/dev/full")
	must(t, err)
	wantIs(t, f.SyncData(), ErrSyncFailed)
	must(t, f.Close())
}
