package storage

import "errors"

// heldSync is a log whose syncMu is held until its sync has ended, what there is to sync, and what came of it.
type heldSync struct {
	l         *Log
	p         pendingSync
	journaled bool // durable in the sync journal, not in its own files
	err       error
}

// jointSync is one sync of many logs of a directory. Those that fit are written to the sync journal; where that takes
// nothing, or too few fit, all are synced by one sync of the file system. hold, run and end follow each other.
type jointSync struct {
	dir      *Dir
	together int // from so many logs on one sync for all pays
	metrics  *SyncMetrics
	began    func(l *Log) // called before it is looked at what there is to sync
	finish   func(l *Log, end int64, err error)

	held  []*heldSync
	alone []*Log // to be synced one by one afterwards: they are being cut or closed, or lie in another directory
}

// hold takes the logs that have something to sync, and finishes those that have nothing.
func (j *jointSync) hold(logs []*Log) {
	for _, l := range logs {
		if l.dir != j.dir || !l.syncMu.TryLock() {
			j.alone = append(j.alone, l)
			continue
		}
		j.began(l)
		p, err := l.beginSync()
		if err != nil || !p.more {
			l.syncMu.Unlock()
			j.finish(l, p.end, err)
			continue
		}
		j.held = append(j.held, &heldSync{l: l, p: p})
	}
}

// run syncs what is held.
func (j *jointSync) run() {
	if err := j.syncTold(); err != nil {
		for _, h := range j.held {
			h.err = err
		}
		return
	}
	var fit, rest []*heldSync
	for _, h := range j.held {
		if j.dir.shared.fits(&h.p) {
			fit = append(fit, h)
		} else {
			rest = append(rest, h)
		}
	}
	if len(fit) >= j.together && len(rest) < j.together {
		rest = append(rest, j.byJournal(fit)...)
	} else {
		rest = j.held
	}
	if len(rest) < j.together {
		for _, h := range rest {
			h.err = j.measured(1, func() error { return h.l.syncFiles(h.p) })
		}
		return
	}
	err := j.measured(len(rest), func() error { return j.dir.fs.SyncFS(j.dir.path) })
	for _, h := range rest {
		h.err = err
	}
}

// syncTold makes durable what the journal was told of the batches of any of the logs, with one sync.
func (j *jointSync) syncTold() error {
	for _, h := range j.held {
		if h.p.told > 0 {
			return j.dir.syncTold(h.p)
		}
	}
	return nil
}

// byJournal writes what fits to the sync journal and returns what that did not take.
func (j *jointSync) byJournal(fit []*heldSync) (rest []*heldSync) {
	done := 0
	err := j.measured(len(fit), func() (err error) {
		done, err = j.dir.shared.write(fit)
		if errors.Is(err, errShared) {
			j.dir.shared.fallbacks.Add(1)
			return nil
		}
		return err
	})
	for _, h := range fit[:done] {
		h.journaled = true
	}
	if err == nil {
		return fit[done:]
	}
	for _, h := range fit[done:] {
		h.err = err
	}
	return nil
}

func (j *jointSync) measured(logs int, sync func() error) error {
	mark := j.metrics.begin()
	err := sync()
	j.metrics.end(mark, logs, err)
	return err
}

// end takes over what was reached and lets the logs go.
func (j *jointSync) end() {
	for _, h := range j.held {
		end, err := h.l.endHeld(h)
		h.l.syncMu.Unlock()
		j.finish(h.l, end, err)
	}
}

// endHeld is endSync for a log that may be durable in the sync journal alone. The caller holds syncMu.
func (l *Log) endHeld(h *heldSync) (int64, error) {
	if !h.journaled {
		return l.endSync(h.p, h.err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return l.durable.Load(), err
	}
	l.noteDurable(h.p)
	return h.p.end, nil
}

// SyncJournaled makes what was appended to the logs of the directory durable, by the sync journal where it can, however few
// they are. It is what the Syncer does for many logs, as a plain call: for simulations, tests and measurements. Each log tells its
// DurableEnd, or that it has failed; the error is that of any of them.
func (d *Dir) SyncJournaled(logs ...*Log) error {
	var errs []error
	j := jointSync{
		dir: d, together: 1,
		began:  func(*Log) {}, // the queue is the Syncer's
		finish: func(_ *Log, _ int64, err error) { errs = append(errs, err) },
	}
	if err := d.shared.work(); err != nil {
		d.failLogs(err)
		return err
	}
	j.hold(logs)
	j.run()
	j.end()
	for _, l := range j.alone {
		_, err := l.Sync()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// work does what the journal wants done beside the syncs: it makes its files, and files an earlier generation.
func (j *sharedJournal) work() error {
	if !j.wantsWork() {
		return nil
	}
	if err := j.makeReady(); err != nil {
		return err
	}
	if !j.behind() {
		return nil
	}
	return j.file()
}
