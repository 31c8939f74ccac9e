package fsys

import (
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	var lock *memLock
	err := m.do(OpLock, name, func(d *disk, cleaned string) error {
		dir, base, err := d.tree.parent(cleaned)
		if err != nil {
			return err
		}
		n := dir.cached[base]
		switch {
		case n == nil:
			n = newFile()
			d.tree.link(dir, base, n)
		case n.dir:
			return syscall.EISDIR
		case d.locks[n]:
			return fmt.Errorf("%w (this process holds it)", ErrLocked)
		}
		d.locks[n] = true
		n.opens++
		lock = &memLock{mem: m, node: n, name: name}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// memLock is a lock that is held.
type memLock struct {
	mem    *Mem
	node   *node
	name   string
	closed bool
}

// Close releases the lock.
func (l *memLock) Close() error {
	d := l.mem.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case l.mem.incarnation != d.incarnation || d.halted:
		return opError("unlock", l.name, ErrCrashed)
	case l.closed:
		return opError("unlock", l.name, fs.ErrClosed)
	}
	l.closed = true
	delete(d.locks, l.node)
	l.node.opens--
	d.release(l.node)
	return nil
}
