package fsys

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"syscall"
)

// MemOptions are the properties of an in-memory file system. The zero value is a device without limit.
type MemOptions struct {
	// Capacity bounds the sum of all file sizes, in bytes; 0 is no bound. SetCapacity changes it later.
	Capacity int64
	// NoPreallocate makes Preallocate do nothing, as on systems without the means.
	NoPreallocate bool
}

// Mem is a file system in memory that crashes, fails and fills up on demand. It implements FS as one process sees it;
// Crash and CrashProcess end the process and return the file system as the next one finds it. All is decided by the
// seed and the order of operations: the same of both give the same bytes. The package documentation describes the
// model. Paths are cleaned, and relative ones begin at the root.
//
// A failed operation (FailAt, Injector) has no effect, with these exceptions: a failed Append or Overwrite may have
// written any part of its bytes, which it reports; a failed SyncData or SyncFS writes some dirty pages and drops the
// others for good; a failed SyncDir or SyncFS may make the directory deaf: its later syncs succeed and do nothing.
type Mem struct {
	disk        *disk
	incarnation uint64
}

// disk is what the incarnations share.
type disk struct {
	mu          sync.Mutex
	pcg         *rand.PCG
	rng         *rand.Rand
	tree        tree
	incarnation uint64
	locks       map[*node]bool
	used        int64 // the sizes of all files that have a name or a handle
	capacity    int64
	noPrealloc  bool
	reverts     bool // a dropped page reads as the device has it
	ops         int64
	failAt      map[int64]error
	crashAt     int64
	halted      bool // stopped by crashAt
	injector    Injector
	stats       MemStats
}

// NewMem makes an empty file system whose faults are drawn from seed. Whether the pages that a failed sync drops read
// back from the cache or as the device has them is drawn once, here.
func NewMem(seed uint64, options MemOptions) *Mem {
	d := &disk{
		tree: tree{root: newDir()}, capacity: options.Capacity, noPrealloc: options.NoPreallocate,
		locks: make(map[*node]bool),
	}
	d.seed(seed)
	d.reverts = d.rng.IntN(2) == 0
	return &Mem{disk: d}
}

// seed starts the random numbers.
func (d *disk) seed(seed uint64) {
	d.pcg = rand.NewPCG(seed, 0x70656e73746f636b)
	d.rng = rand.New(d.pcg)
}

// Crash cuts the power: it ends this incarnation, whose operations and handles return ErrCrashed from now on, and returns
// the file system as the machine finds it when it comes back. Planned failures (FailAt, CrashAt) end.
func (m *Mem) Crash() *Mem {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Crashes++
	d.tree.crash(d.rng, &d.stats)
	return d.next()
}

// CrashProcess ends the process as kill -9 does: this incarnation's operations and handles return ErrCrashed from now on,
// its locks are free, and the page cache stays whole. Planned failures (FailAt, CrashAt) end.
func (m *Mem) CrashProcess() *Mem {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tree.walk(false, func(n *node) { n.opens = 0 })
	return d.next()
}

// next begins an incarnation.
func (d *disk) next() *Mem {
	d.incarnation++
	d.halted, d.crashAt, d.failAt = false, 0, nil
	clear(d.locks)
	d.used = 0
	d.tree.walk(false, func(n *node) { d.used += int64(len(n.content.cached)) })
	return &Mem{disk: d, incarnation: d.incarnation}
}

// Clone returns an independent copy of the file system as a process finds it that is started now, with its own seed:
// cloning and then crashing explores what a power loss at this point can leave. Capacity goes with it; locks, handles,
// the injector and planned failures do not.
func (m *Mem) Clone(seed uint64) *Mem {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	twin := &disk{
		tree: d.tree.clone(), capacity: d.capacity, noPrealloc: d.noPrealloc, reverts: d.reverts,
		locks: make(map[*node]bool),
	}
	twin.seed(seed)
	return twin.next()
}

// begin counts an operation and says why it cannot be done. The caller holds the lock.
func (m *Mem) begin(op Op, name string) error {
	d := m.disk
	if d.halted || m.incarnation != d.incarnation {
		return ErrCrashed
	}
	d.ops++
	if d.crashAt != 0 && d.ops >= d.crashAt {
		d.halted = true
		return ErrCrashed
	}
	err := d.failAt[d.ops]
	delete(d.failAt, d.ops)
	if err == nil && d.injector != nil {
		err = d.injector(op, name)
	}
	if err != nil {
		d.stats.Failed++
	}
	return err
}

// do runs an operation on a path with the lock held.
func (m *Mem) do(op Op, name string, body func(d *disk, cleaned string) error) error {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	err := m.begin(op, name)
	if err == nil && name == "" {
		err = fs.ErrNotExist
	}
	if err == nil {
		err = body(d, clean(name))
	}
	return opError(op.String(), name, err)
}

// clean returns the absolute form of a path.
func clean(name string) string { return path.Clean("/" + name) }

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	var f *memFile
	err := m.do(OpCreate, name, func(d *disk, cleaned string) error {
		dir, base, err := d.tree.parent(cleaned)
		if err != nil {
			return err
		}
		if dir.cached[base] != nil {
			return fs.ErrExist
		}
		n := newFile()
		d.tree.link(dir, base, n)
		f = m.handle(name, n, false)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.open(name, false) }

// OpenRead implements FS.
func (m *Mem) OpenRead(name string) (File, error) { return m.open(name, true) }

// open makes a handle of an existing file.
func (m *Mem) open(name string, readOnly bool) (File, error) {
	var f *memFile
	err := m.do(OpOpen, name, func(d *disk, cleaned string) error {
		n, err := d.tree.find(cleaned)
		if err != nil {
			return err
		}
		if n.dir {
			return syscall.EISDIR
		}
		f = m.handle(name, n, readOnly)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// handle makes a handle of a file.
func (m *Mem) handle(name string, n *node, readOnly bool) *memFile {
	n.opens++
	return &memFile{mem: m, node: n, name: name, readOnly: readOnly, position: int64(len(n.content.cached))}
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	return m.do(OpMkdirAll, dir, func(d *disk, cleaned string) error {
		n := d.tree.root
		for part := range strings.SplitSeq(cleaned[1:], "/") {
			if part == "" {
				continue // the root
			}
			next := n.cached[part]
			if next == nil {
				next = newDir()
				d.tree.link(n, part, next)
			}
			if !next.dir {
				return syscall.ENOTDIR
			}
			n = next
		}
		return nil
	})
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	return m.do(OpRemove, name, func(d *disk, cleaned string) error {
		dir, base, err := d.tree.parent(cleaned)
		if err != nil {
			return err
		}
		n := dir.cached[base]
		switch {
		case n == nil:
			return fs.ErrNotExist
		case len(n.cached) > 0:
			return syscall.ENOTEMPTY
		}
		d.release(d.tree.unlink(dir, base))
		return nil
	})
}

// RemoveAll implements FS.
func (m *Mem) RemoveAll(name string) error {
	return m.do(OpRemoveAll, name, func(d *disk, cleaned string) error {
		dir, base, err := d.tree.parent(cleaned)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if dir.cached[base] != nil {
			d.removeTree(dir, base)
		}
		return nil
	})
}

// removeTree removes a name and all below it, the deepest first.
func (d *disk) removeTree(dir *node, base string) {
	n := dir.cached[base]
	for _, name := range children(n.cached) {
		d.removeTree(n, name)
	}
	d.release(d.tree.unlink(dir, base))
}

// release gives the space of a file back when neither a name nor a handle is left of it.
func (d *disk) release(n *node) {
	if n.links == 0 && n.opens == 0 {
		d.used -= int64(len(n.content.cached))
	}
}

// Rename implements FS.
func (m *Mem) Rename(oldName, newName string) error {
	err := m.do(OpRename, oldName, func(d *disk, cleaned string) error {
		target := clean(newName)
		oldDir, oldBase, err := d.tree.parent(cleaned)
		if err != nil {
			return err
		}
		newDir, newBase, err := d.tree.parent(target)
		if err != nil {
			return err
		}
		moved, replaced := oldDir.cached[oldBase], newDir.cached[newBase]
		switch {
		case moved == nil:
			return fs.ErrNotExist
		case replaced != nil && replaced.dir:
			return fs.ErrExist
		case replaced != nil && moved.dir:
			return syscall.ENOTDIR
		case moved == replaced:
			return nil
		case moved.dir && strings.HasPrefix(target, cleaned+"/"):
			return fmt.Errorf("%w: into itself, %s", fs.ErrInvalid, newName)
		}
		if gone := d.tree.rename(oldDir, oldBase, newDir, newBase); gone != nil {
			d.release(gone)
		}
		return nil
	})
	return opError(OpRename.String(), oldName+" to "+newName, err)
}

// List implements FS.
func (m *Mem) List(dir string) ([]FileInfo, error) {
	var infos []FileInfo
	err := m.do(OpList, dir, func(d *disk, cleaned string) error {
		n, err := d.tree.find(cleaned)
		if err != nil {
			return err
		}
		if !n.dir {
			return syscall.ENOTDIR
		}
		infos = make([]FileInfo, 0, len(n.cached))
		for _, name := range children(n.cached) {
			infos = append(infos, n.cached[name].info(name))
		}
		return nil
	})
	return infos, err
}

// Stat implements FS.
func (m *Mem) Stat(name string) (FileInfo, error) {
	var info FileInfo
	err := m.do(OpStat, name, func(d *disk, cleaned string) error {
		n, err := d.tree.find(cleaned)
		if err == nil {
			info = n.info(path.Base(cleaned))
		}
		return err
	})
	return info, err
}

// info describes a node.
func (n *node) info(name string) FileInfo {
	return FileInfo{Name: name, Size: int64(len(n.content.cached)), Dir: n.dir}
}

// FreeBytes implements FS. Without a capacity it is 1 TiB less what is used.
func (m *Mem) FreeBytes(dir string) (int64, error) {
	var free int64
	err := m.do(OpFreeBytes, dir, func(d *disk, cleaned string) error {
		_, err := d.tree.find(cleaned)
		capacity := d.capacity
		if capacity == 0 {
			capacity = 1 << 40
		}
		free = max(0, capacity-d.used)
		return err
	})
	if err != nil {
		return 0, err
	}
	return free, nil
}

// room returns how much files may grow.
func (d *disk) room() int64 {
	if d.capacity == 0 {
		return math.MaxInt64
	}
	return max(0, d.capacity-d.used)
}
