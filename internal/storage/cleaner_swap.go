package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/fsys"
)

// A cleaned segment takes the place of its sources in steps, each of which recovery can finish or undo:
//
//  1. It is written and synced under <base>.clean, and a producer snapshot of its end is made durable that does not depend on
//     positions in the sources; checkpoints.journal is synced. Until here recovery removes what was written.
//  2. It is renamed to <base>-<end>.swap, durably. From here on recovery completes the steps that follow.
//  3. Readers get the new segment, whose file is open. Those that hold an old view go on with files they have open, and look
//     again when they open another.
//  4. The sources but the first go, with the snapshots within and all indexes, durably.
//  5. It is renamed to <base>.log, over the first source, durably.
//  6. Its indexes and the snapshot of its end are written.

// swapName is the name of a whole new segment for the offsets [base, end).
func swapName(dir string, base, end int64) string {
	return path.Join(dir, fmt.Sprintf("%020d-%020d%s", base, end, swapSuffix))
}

// parseSwapName is the inverse of swapName.
func parseSwapName(name string) (base, end int64, ok bool) {
	name, ok = strings.CutSuffix(name, swapSuffix)
	if !ok || len(name) != 41 || name[20] != '-' {
		return 0, 0, false
	}
	first, err := strconv.ParseUint(name[:20], 10, 63) // no signs
	if err != nil {
		return 0, 0, false
	}
	behind, err := strconv.ParseUint(name[21:], 10, 63)
	return int64(first), int64(behind), err == nil && behind > first //nolint:gosec // 63 bits
}

// replace lets the synced new segment of g take the place of its sources. replaced says that it has; an error beside it wraps
// ErrLogFailed or ErrSyncFailed: the log must be opened again, which completes what is left.
func (l *Log) replace(g *groupCopy) (replaced bool, err error) {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	s := newSegment(l.path, g.sources[0].base)
	s.files = l.dir.files
	s.next, s.size = g.sources[len(g.sources)-1].next, g.pos
	s.maxTimestamp.Store(g.index.maxTs)
	producers, err := l.producersBefore(g, s.next)
	if err != nil {
		return false, err
	}
	neutral := snapshotInfo{offset: s.next, segmentBase: s.next, maxTimestamp: noTimestamp}
	if err := writeFileAtomic(l.fs, l.snapshotName(s.next), producers.encode(neutral)); err != nil {
		return false, l.afterSync(err)
	}
	if err := l.leave(); err != nil {
		return false, err
	}
	// The recovery point that let it be cleaned, and voided the rows below, may not be durable yet.
	if err := l.dir.journal.commit(); err != nil {
		return false, err
	}
	swap := swapName(l.path, s.base, s.next)
	if err := l.fs.Rename(g.name, swap); err != nil {
		return false, err
	}
	if err := l.fs.SyncDir(l.path); err != nil {
		return false, l.failReplace(err)
	}
	s.file.Store(g.file)
	s.entries.Store(&segmentEntries{offsets: g.index.offsets.pending, times: g.index.times.pending})
	l.mu.Lock()
	l.splice(g.sources, s)
	l.publish()
	l.mu.Unlock()
	for _, old := range g.sources {
		old.gone.Store(true)
	}
	if err := l.settle(g, s, swap, producers); err != nil {
		return true, l.failReplace(err)
	}
	return true, nil
}

// producersBefore checks that the sources are still the log's, and returns the state of the producers at their end.
func (l *Log) producersBefore(g *groupCopy, end int64) (*producerState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return nil, err
	}
	row := slices.Concat(l.trimmed, l.segs)
	i := slices.Index(row, g.sources[0])
	if i < 0 || !slices.Equal(row[i:min(i+len(g.sources), len(row))], g.sources) {
		return nil, errCleaningStopped
	}
	state, _, err := l.loadSnapshot(end)
	if err == nil || ignoreBadHint(err) != nil {
		return state, err
	}
	snapshots, err := l.listSnapshots()
	if err != nil {
		return nil, err
	}
	return l.producersAt(row, snapshots, end)
}

// splice puts s in the place of sources, which may have been trimmed meanwhile. The caller holds mu, and syncMu.
func (l *Log) splice(sources []*segment, s *segment) {
	row := slices.Concat(l.trimmed, l.segs)
	i := slices.Index(row, sources[0])
	row = slices.Replace(row, i, i+len(sources), s)
	n := 0
	for n < len(row)-1 && row[n].next <= l.start {
		n++
	}
	l.trimmed, l.segs = slices.Clone(row[:n]), slices.Clone(row[n:])
	// Their records are durable, but no sync may have come since they were sealed.
	l.unsynced = slices.DeleteFunc(slices.Clone(l.unsynced), func(u *segment) bool { return slices.Contains(sources, u) })
}

// settle does what is left once readers have the new segment. The caller holds syncMu.
func (l *Log) settle(g *groupCopy, s *segment, swap string, producers *producerState) error {
	for _, old := range g.sources {
		if err := old.letGo(); err != nil {
			return err
		}
	}
	if err := completeSwap(l.fs, l.path, swap, s.base, s.next); err != nil {
		return err
	}
	// The indexes and the snapshot are hints.
	e := s.entries.Load()
	for _, x := range []struct {
		name    string
		kind    byte
		entries []indexEntry
	}{{s.indexName(), indexKindOffset, e.offsets}, {s.timeIndexName(), indexKindTime, e.times}} {
		if len(x.entries) > 0 {
			_ = writeHint(l.fs, x.name, encodeIndex(x.entries, x.kind)) //nolint:errcheck // see above
		}
	}
	s.entries.Store(nil)
	s.writeDigest(l.fs, &g.index)
	info := snapshotInfo{offset: s.next, segmentBase: s.base, position: s.size, maxTimestamp: s.maxTimestamp.Load()}
	if err := writeFileAtomic(l.fs, l.snapshotName(s.next), producers.encode(info)); errors.Is(err, fsys.ErrSyncFailed) {
		return err
	}
	return s.letGo()
}

// completeSwap does steps 4 and 5 for the new segment in the file swap.
func completeSwap(fsy fsys.FS, dir, swap string, base, end int64) error {
	infos, err := fsy.List(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if at, ok := ofSource(info.Name, base); !ok || at < base || at >= end {
			continue
		}
		if err := removeIfExists(fsy, path.Join(dir, info.Name)); err != nil {
			return err
		}
	}
	if err := fsy.SyncDir(dir); err != nil {
		return err
	}
	if err := fsy.Rename(swap, path.Join(dir, fileName(base, segmentSuffix))); err != nil {
		return err
	}
	return fsy.SyncDir(dir)
}

// ofSource says of which offset a file is, where it goes with the sources of a new segment at base: whatever describes them,
// but neither the snapshot of the beginning nor the file that is replaced, and nothing that was set aside.
func ofSource(name string, base int64) (at int64, ok bool) {
	if len(name) < 21 {
		return 0, false
	}
	suffix := name[20:]
	at, ok = parseFileName(name, suffix)
	if !ok || suffix[0] != '.' || strings.HasSuffix(name, corruptSuffix) {
		return 0, false
	}
	return at, at != base || (suffix != segmentSuffix && suffix != producersSuffix)
}

// listSettled lists the directory of a log, after it has completed or undone what a cleaning, or the giving up of damage, left when
// its process died.
// touched says that anything was changed.
func listSettled(fsy fsys.FS, dir string) (infos []fsys.FileInfo, touched bool, err error) {
	if infos, err = fsy.List(dir); err != nil {
		return nil, false, err
	}
	for _, info := range infos {
		name := path.Join(dir, info.Name)
		if strings.HasSuffix(info.Name, cleanSuffix) {
			touched = true
			if err := fsy.Remove(name); err != nil {
				return nil, touched, err
			}
		}
		if log, ok := strings.CutSuffix(name, keptSuffix); ok {
			touched = true
			if err := settleKept(fsy, name, log); err != nil {
				return nil, touched, err
			}
		}
		if base, end, ok := parseSwapName(info.Name); ok {
			touched = true
			// Its name may not have been durable when the process died without a loss of power.
			if err := fsy.SyncDir(dir); err != nil {
				return nil, touched, err
			}
			if err := completeSwap(fsy, dir, name, base, end); err != nil {
				return nil, touched, err
			}
		}
	}
	if touched {
		infos, err = fsy.List(dir)
	}
	return infos, touched, err
}

// settleKept gives the intact beginning of a damaged segment its name, unless the segment was not set aside.
func settleKept(fsy fsys.FS, name, log string) error {
	_, err := fsy.Stat(log)
	switch {
	case fsys.IsNotExist(err):
		return fsy.Rename(name, log)
	case err != nil:
		return err
	default:
		return fsy.Remove(name)
	}
}

// afterSync makes an error sticky where it is one of a sync.
func (l *Log) afterSync(err error) error {
	if !errors.Is(err, fsys.ErrSyncFailed) {
		return err
	}
	return l.failReplace(err)
}

// failReplace makes an error of the change of places sticky.
func (l *Log) failReplace(err error) error {
	kind := ErrLogFailed
	if errors.Is(err, fsys.ErrSyncFailed) {
		kind = ErrSyncFailed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail(kind, err)
}

// segmentEntries are the indexes of a cleaned segment until their files are there.
type segmentEntries struct {
	offsets, times []indexEntry
}
