package fsys

import (
	"fmt"
	"io/fs"
	"math"
)

// Op is a kind of operation, for fault injection.
type Op uint8

// The operations that are counted and can fail. Name, Position and Close always work.
const (
	OpCreate      Op = iota + 1 // FS.Create
	OpOpen                      // FS.Open and FS.OpenRead
	OpMkdirAll                  // FS.MkdirAll
	OpRemove                    // FS.Remove
	OpRemoveAll                 // FS.RemoveAll
	OpRename                    // FS.Rename; the path is the old name
	OpSyncDir                   // FS.SyncDir
	OpSyncFS                    // FS.SyncFS
	OpList                      // FS.List
	OpStat                      // FS.Stat
	OpLock                      // FS.Lock
	OpFreeBytes                 // FS.FreeBytes
	OpRead                      // File.ReadAt
	OpAppend                    // File.Append
	OpOverwrite                 // File.Overwrite
	OpTruncate                  // File.Truncate
	OpPreallocate               // File.Preallocate
	OpSyncData                  // File.SyncData
	OpSize                      // File.Size
)

// opNames are the names used in errors.
var opNames = [...]string{
	OpCreate: "create", OpOpen: "open", OpMkdirAll: "mkdir", OpRemove: "remove", OpRemoveAll: "remove",
	OpRename: "rename", OpSyncDir: "sync directory", OpSyncFS: "sync file system of", OpList: "list", OpStat: "stat",
	OpLock: "lock", OpFreeBytes: "free space of", OpRead: "read", OpAppend: "append", OpOverwrite: "overwrite",
	OpTruncate: "truncate", OpPreallocate: "preallocate", OpSyncData: "sync", OpSize: "size",
}

// String returns the name used in errors.
func (o Op) String() string {
	if int(o) < len(opNames) && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// Injector decides whether an operation on a path (as the caller gave it) fails: nil lets it pass. It runs with the
// file system locked and must not call it. What a failing operation leaves behind is described at Mem.
type Injector func(op Op, path string) error

// SetInjector puts a hook before every operation, in place of the one before; nil removes it. It survives crashes.
func (m *Mem) SetInjector(hook Injector) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.injector = hook
}

// MemStats counts the faults that bit since NewMem or Clone, over all incarnations: a test that means to show what a
// fault does should see its counter move.
type MemStats struct {
	// Crashes counts power losses. Of what was not durable then, PagesKept and PagesLost count the dirty pages that were
	// and were not found, PagesTorn those kept as they stood earlier, TruncationsUndone the files found with what had
	// been cut off, NamesKept and NamesLost the creations, removals and renames that had and had not taken place.
	Crashes, PagesKept, PagesLost, PagesTorn, TruncationsUndone, NamesKept, NamesLost int64
	// Failed counts operations failed by FailAt or the Injector, PagesDropped the pages that failed syncs dropped,
	// ShortAppends the appends and overwrites that wrote less than asked, for whatever reason.
	Failed, PagesDropped, ShortAppends int64
}

// Stats returns the counters.
func (m *Mem) Stats() MemStats {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.disk.stats
}

// Ops returns how many operations were begun since NewMem or Clone, failed ones and those of earlier incarnations
// included.
func (m *Mem) Ops() int64 {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.disk.ops
}

// FailAt makes the k-th operation fail with err, counted as Ops counts: k = Ops()+1 is the next one. Several can be
// planned; those not yet reached end with a crash.
func (m *Mem) FailAt(k int64, err error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.disk.failAt == nil {
		m.disk.failAt = make(map[int64]error)
	}
	m.disk.failAt[k] = err
}

// CrashAt stops the machine within the k-th operation, counted as Ops counts: an Append or Overwrite there is cut short anywhere,
// and it and all later operations return ErrCrashed until Crash or CrashProcess says what the stop was. 0 cancels.
func (m *Mem) CrashAt(k int64) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.crashAt = k
}

// SetCapacity bounds the sum of all file sizes to that many bytes; 0 lifts the bound. An Append that does not fit
// writes what does and returns ErrNoSpace; a Preallocate that does not fit does nothing and returns ErrNoSpace. A
// capacity below what is used already only stops growth. It survives crashes.
func (m *Mem) SetCapacity(size int64) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.capacity = size
}

// Flip inverts one bit (0 to 7) of the byte at an offset, on the device and in the cache: a decayed medium. It fails
// where there is no such file or byte.
func (m *Mem) Flip(name string, offset int64, bit uint) error {
	return m.damage("flip", name, func(c *content) error {
		if offset < 0 || offset >= int64(len(c.cached)) || bit > 7 {
			return fmt.Errorf("%w: bit %d of byte %d in a file of %d", fs.ErrInvalid, bit, offset, len(c.cached))
		}
		c.cached[offset] ^= 1 << bit
		if offset < int64(len(c.durable)) {
			c.durable[offset] ^= 1 << bit
		}
		return nil
	})
}

// BreakRead makes reads that touch size bytes at an offset fail with EIO, after the bytes before them, until they are
// written anew or cut off. It survives crashes.
func (m *Mem) BreakRead(name string, offset, size int64) error {
	return m.damage("break", name, func(c *content) error {
		if offset < 0 || size <= 0 || offset > math.MaxInt64-size {
			return fmt.Errorf("%w: %d bytes at %d", fs.ErrInvalid, size, offset)
		}
		c.bad = append(c.bad, span{offset, offset + size})
		return nil
	})
}

// damage changes the contents of a file from outside: it counts as no operation.
func (m *Mem) damage(op, name string, change func(*content) error) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	n, err := m.disk.tree.find(clean(name))
	if err == nil && n.dir {
		err = fs.ErrInvalid
	}
	if err == nil {
		err = change(&n.content)
	}
	return opError(op, name, err)
}
