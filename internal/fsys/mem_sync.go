package fsys

import (
	"errors"
	"syscall"
)

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	fault := m.begin(OpSyncDir, dir)
	n, err := d.tree.find(clean(dir))
	switch {
	case errors.Is(fault, ErrCrashed):
		err = fault
	case err != nil:
	case !n.dir:
		err = syscall.ENOTDIR
	case fault != nil:
		n.deaf = n.deaf || d.rng.IntN(2) == 0
		err = fault
	case !n.deaf:
		d.tree.sync(func(c *change) bool { return c.touches(n) })
	}
	return syncError(OpSyncDir.String(), dir, err)
}

// SyncFS implements FS.
func (m *Mem) SyncFS(dir string) error {
	d := m.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	fault := m.begin(OpSyncFS, dir)
	_, err := d.tree.find(clean(dir))
	switch {
	case errors.Is(fault, ErrCrashed):
		err = fault
	case err != nil:
	case fault != nil:
		d.failSyncAll()
		err = fault
	default:
		d.tree.sync(func(c *change) bool { return !c.deaf() })
		d.tree.walk(false, func(n *node) {
			if !n.dir {
				n.content.sync()
			}
		})
	}
	return syncError(OpSyncFS.String(), dir, err)
}

// failSyncAll is a sync of everything in which the device failed.
func (d *disk) failSyncAll() {
	d.tree.walk(false, func(n *node) {
		if n.dir {
			n.deaf = n.deaf || d.rng.IntN(2) == 0
			return
		}
		n.content.failSync(d.rng, d.reverts, &d.stats)
	})
}
