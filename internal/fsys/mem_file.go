package fsys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// memFile is a handle of a file in memory.
type memFile struct {
	mem      *Mem
	node     *node
	name     string
	readOnly bool
	position int64
	closed   bool
}

// Name implements File.
func (f *memFile) Name() string { return f.name }

// Position implements File.
func (f *memFile) Position() int64 {
	f.mem.disk.mu.Lock()
	defer f.mem.disk.mu.Unlock()
	return f.position
}

// begin counts an operation on the handle and says why it cannot be done; blocked says that nothing can have happened.
func (f *memFile) begin(op Op, writes bool) (blocked bool, err error) {
	d := f.mem.disk
	blocked = d.halted || f.mem.incarnation != d.incarnation
	switch fault := f.mem.begin(op, f.name); {
	case blocked:
		return true, fault
	case f.closed:
		return true, fs.ErrClosed
	case writes && f.readOnly:
		return true, fs.ErrPermission
	default:
		return false, fault
	}
}

// do runs an operation on the handle with the lock held; a fault leaves it undone.
func (f *memFile) do(op Op, writes bool, body func(d *disk, c *content) error) error {
	d := f.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := f.begin(op, writes)
	if err == nil {
		err = body(d, &f.node.content)
	}
	return opError(op.String(), f.name, err)
}

// ReadAt implements File.
func (f *memFile) ReadAt(p []byte, offset int64) (int, error) {
	n, short := 0, false
	err := f.do(OpRead, false, func(_ *disk, c *content) error {
		if offset < 0 {
			return fmt.Errorf("%w: offset %d", fs.ErrInvalid, offset)
		}
		left := max(0, int64(len(c.cached))-offset)
		want := min(len(p), int(left))
		short = want < len(p)
		if want == 0 {
			return nil
		}
		readable, broken := c.unreadable(offset, want)
		n = copy(p, c.cached[offset:offset+int64(readable)])
		if broken {
			return syscall.EIO
		}
		return nil
	})
	if err == nil && short {
		return n, io.EOF
	}
	return n, err
}

// Append implements File.
func (f *memFile) Append(bufs ...[]byte) (int, error) {
	d := f.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := f.write(OpAppend, f.position, bufs)
	f.position += int64(n)
	return n, err
}

// Overwrite implements File.
func (f *memFile) Overwrite(offset int64, bufs ...[]byte) (int, error) {
	d := f.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	return f.write(OpOverwrite, offset, bufs)
}

// write puts the buffers at an offset, as far as faults and space let it, and returns how many bytes of them are there.
func (f *memFile) write(op Op, at int64, bufs [][]byte) (int, error) {
	d, c := f.mem.disk, &f.node.content
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	blocked, err := f.begin(op, true)
	if bad := checkOverwrite(at, bufs, f.position); !blocked && op == OpOverwrite && bad != nil {
		blocked, err = true, bad
	}
	if blocked {
		return 0, opError(op.String(), f.name, err)
	}
	n := total
	if err != nil {
		n = d.part(total)
	}
	size := int64(len(c.cached))
	if room := d.room(); at+int64(n)-size > room {
		n = max(0, int(size-at+room))
		if err == nil {
			err = ErrNoSpace
		}
	}
	if n < total {
		d.stats.ShortAppends++
	}
	if op == OpOverwrite {
		c.overwrite(at, bufs, n)
	} else {
		c.write(at, bufs, n)
	}
	d.used += int64(len(c.cached)) - size
	return n, opError(op.String(), f.name, err)
}

// part draws how many of total bytes a failed write has written: often none, never all.
func (d *disk) part(total int) int {
	if total == 0 || d.rng.IntN(2) == 0 {
		return 0
	}
	return d.rng.IntN(total)
}

// Truncate implements File.
func (f *memFile) Truncate(size int64) error {
	return f.do(OpTruncate, true, func(d *disk, c *content) error {
		now := int64(len(c.cached))
		if size < 0 || size > now {
			return fmt.Errorf("%w: %d bytes asked of a file of %d", fs.ErrInvalid, size, now)
		}
		if size < now {
			c.truncate(size)
		}
		d.used -= now - size
		f.position = min(f.position, size)
		return nil
	})
}

// Preallocate implements File.
func (f *memFile) Preallocate(size int64) error {
	return f.do(OpPreallocate, true, func(d *disk, c *content) error {
		need := size - int64(len(c.cached))
		if need <= 0 || d.noPrealloc {
			return nil
		}
		if need > d.room() {
			return ErrNoSpace
		}
		c.extend(size)
		d.used += need
		return nil
	})
}

// SyncData implements File.
func (f *memFile) SyncData() error {
	d := f.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	blocked, err := f.begin(OpSyncData, false)
	switch {
	case blocked || errors.Is(err, ErrCrashed):
	case err != nil:
		f.node.content.failSync(d.rng, d.reverts, &d.stats)
	default:
		f.node.content.sync()
	}
	return syncError(OpSyncData.String(), f.name, err)
}

// ReadAhead implements File: memory has nothing to read ahead.
func (*memFile) ReadAhead(bool) {}

// Size implements File.
func (f *memFile) Size() (int64, error) {
	var size int64
	err := f.do(OpSize, false, func(_ *disk, c *content) error {
		size = int64(len(c.cached))
		return nil
	})
	return size, err
}

// Close implements File.
func (f *memFile) Close() error {
	d := f.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case f.mem.incarnation != d.incarnation || d.halted:
		return opError("close", f.name, ErrCrashed)
	case f.closed:
		return opError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.node.opens--
	d.release(f.node)
	return nil
}
