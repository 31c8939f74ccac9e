package sim

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage"
)

// disk is what a broker's data directory holds. It outlives processes.
type disk struct {
	n      *node
	dirID  model.UUID
	epoch  model.BrokerEpoch // the broker epoch on file
	trying model.BrokerEpoch // what was last written there, perhaps not to the end
	boot   int               // number of the machine's present boot
	booted int               // the boot on file
	used   bool              // a process has opened the directory before
	// unconfessed are the partitions whose loss an earlier process has found and died before it had said so: recovery cuts what
	// it cannot believe, and the next one finds nothing.
	unconfessed []int
	clean       bool // the last process has stopped cleanly and nothing was written since
	failed      bool // a sync failed: what it holds is unknown, the operator replaces it

	logs []*modelLog // by partition; nil where there is none

	mem *fsys.Mem // storage mode alone
	dir *storage.Dir

	slow      bool // syncs take long
	failSyncs int  // that many syncs to come fail
	haltPower bool // the machine, or else only the process, dies within the operation that CrashAt has chosen
}

// found is what recovery tells of a directory, for the registration.
type found struct {
	previous model.BrokerEpoch
	allLost  string
	osLost   bool
	lost     []int // partitions whose replica must confess
}

func newDisk(n *node) *disk {
	d := &disk{n: n, boot: 1}
	d.replace()
	return d
}

// replace puts a new, empty disk in.
func (d *disk) replace() {
	w := d.n.w
	d.dirID, d.epoch, d.used, d.failed, d.clean = w.uuid(), model.NoBrokerEpoch, false, false, false
	d.logs, d.unconfessed = make([]*modelLog, len(d.logs)), nil
	d.failSyncs = 0
	if w.storage() {
		d.mem = fsys.NewMem(w.rng.Uint64(), fsys.MemOptions{})
	}
}

// log returns the log of a partition, or nil.
func (d *disk) log(i int) *modelLog {
	if i >= len(d.logs) {
		return nil
	}
	return d.logs[i]
}

func (d *disk) setLog(i int, l *modelLog) {
	for len(d.logs) <= i {
		d.logs = append(d.logs, nil)
	}
	d.logs[i] = l
}

// died is what the end of a process does to the disk.
func (d *disk) died(power bool) {
	if power {
		d.boot++
	}
	if d.mem != nil {
		if power {
			d.mem = d.mem.Crash()
		} else {
			d.mem = d.mem.CrashProcess()
		}
		d.dir = nil
	}
	for _, l := range d.logs {
		if l == nil {
			continue
		}
		l.confess = false
		switch {
		case d.mem != nil:
			l.real, l.unsure = nil, power || l.unsure
		case power:
			l.confess = l.losePower()
		}
	}
}

// open recovers the directory for a new process. An error is a fault that was injected: the process ends.
func (d *disk) open() (found, error) {
	if d.failed {
		d.replace()
		d.n.replaced, d.n.everReplaced = true, true
	}
	f, err := d.recover()
	for _, i := range d.unconfessed {
		if !slices.Contains(f.lost, i) {
			f.lost = append(f.lost, i)
		}
	}
	d.unconfessed = slices.Clone(f.lost)
	return f, err
}

// recover finds what the directory holds.
func (d *disk) recover() (found, error) {
	if d.n.w.storage() {
		return d.openReal()
	}
	f := found{previous: d.epoch, osLost: d.used && !d.clean && d.booted != d.boot}
	if !d.used {
		f.allLost = "new directory"
	}
	for i, l := range d.logs {
		if l == nil {
			continue
		}
		l.restart()
		l.durable = l.end()
		if l.confess {
			f.lost = append(f.lost, i)
		}
	}
	d.used = true
	return f, nil
}

// create makes an empty log.
func (d *disk) create(p *partition) (*modelLog, error) {
	l := newModelLog(p, d.n)
	if d.n.w.storage() {
		real, err := d.dir.CreateLog(p.tp, d.n.w.cfg.logs)
		if err != nil {
			return nil, err
		}
		l.real = &realLog{model: l, log: real}
	}
	d.setLog(p.index, l)
	return l, nil
}

// registered writes the broker epoch and the boot down. Not earlier: a process that dies before its registration has said
// what was lost must leave that to the next.
func (d *disk) registered(epoch model.BrokerEpoch) error {
	d.trying = epoch
	if d.dir != nil {
		err := d.dir.UpdateMeta(func(m *storage.Meta) {
			m.BrokerEpoch, m.NodeID, m.CleanShutdown, m.BootID = epoch, d.n.id, false, bootName(d.boot)
		})
		if err != nil {
			return err
		}
		if err := d.dir.LossesRecorded(); err != nil {
			return err
		}
	}
	d.epoch, d.booted, d.clean, d.unconfessed = epoch, d.boot, false, nil
	return nil
}

// sync makes a log durable up to end, which was its end when the sync began.
func (d *disk) sync(l *modelLog, end int64) error {
	if d.failSyncs > 0 {
		d.failSyncs--
		d.n.w.faults.bite(faultSync, d.n.index)
		if d.mem == nil {
			return fsys.ErrSyncFailed
		}
		d.mem.SetInjector(func(op fsys.Op, path string) error {
			if op == fsys.OpSyncData && (strings.HasSuffix(path, ".log") || strings.HasSuffix(path, ".journal") && strings.Contains(path, "/sync-journal/")) {
				return fsys.ErrSyncFailed
			}
			return nil
		})
		defer d.mem.SetInjector(nil)
	}
	if l.real != nil {
		at, err := d.syncReal(l.real.log)
		if err != nil {
			return err
		}
		end = at
	}
	l.durable = max(l.durable, min(end, l.end()))
	return nil
}

// syncReal makes a log durable by its own files, or by the sync journal in schedules that have one.
func (d *disk) syncReal(log *storage.Log) (end int64, err error) {
	if d.n.w.cfg.journal == 0 {
		return log.Sync()
	}
	err = d.dir.SyncJournaled(log)
	return log.DurableEnd(), err
}

// close is the end of a clean stop: everything is synced and noted.
func (d *disk) close(replicas []*replica) error {
	if err := d.checkpoint(replicas); err != nil {
		return err
	}
	for _, r := range replicas {
		if r == nil {
			continue
		}
		if r.log.real != nil {
			if err := r.log.real.log.Close(true); err != nil {
				return err
			}
		}
		r.log.durable = r.log.end()
	}
	if d.dir != nil {
		if err := errors.Join(d.dir.MarkClean(), d.dir.Close()); err != nil {
			return err
		}
	}
	d.clean = true
	return nil
}

// checkpoint notes HighWatermarks, epochs and recovery points.
func (d *disk) checkpoint(replicas []*replica) error {
	var items []storage.LogCheckpoint
	for _, r := range replicas {
		if r == nil {
			continue
		}
		hw := r.core.Log().HighWatermark
		r.log.save(hw)
		if r.log.real != nil {
			items = append(items, storage.LogCheckpoint{Log: r.log.real.log, HighWatermark: hw})
		}
	}
	if d.dir == nil || len(items) == 0 {
		return nil
	}
	return errors.Join(d.dir.Checkpoint(items...), d.dir.Settle())
}

func bootName(boot int) string { return "boot-" + strconv.Itoa(boot) }
