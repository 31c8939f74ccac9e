package storage

import (
	"errors"
	"fmt"
	"path"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage/syncjournal"
)

// Replay says what OpenDir found in the sync journal and has written to the segments.
type Replay struct {
	// Logs, Frames and Bytes count what was written; nothing after a clean shutdown.
	Logs          int
	Frames, Bytes int64
	// Damage lists what of the journal could not be believed and was no unfinished end. Every log gives up its seats then: the
	// journal may have held the last copy of what any of them has acknowledged.
	Damage []*syncjournal.DamageError
}

// replay writes what the sync journal holds to the segments, before any log is opened, and syncs it. It returns how far each
// log was durable. Nothing of the journal is given up yet: a crash before clear repeats all of it.
func (d *Dir) replay() (ends map[model.TopicPartition]int64, err error) {
	contents, err := syncjournal.Read(d.fs, d.shared.path())
	if err != nil {
		return nil, err
	}
	r := replayer{dir: d, contents: contents}
	defer func() { err = errors.Join(err, r.close()) }()
	if plantedSkipReplay {
		return nil, nil
	}
	if err := contents.Each(r.frame); err != nil {
		return nil, err
	}
	if err := r.close(); err != nil {
		return nil, err
	}
	ends = make(map[model.TopicPartition]int64, len(contents.Ends))
	for tp, end := range contents.Ends {
		ends[tp] = end.Offset
	}
	d.report.Replay = Replay{Logs: len(ends), Frames: r.frames, Bytes: r.bytes, Damage: contents.Damage}
	if r.frames == 0 {
		return ends, nil
	}
	if err := d.fs.SyncFS(d.path); err != nil {
		d.noteSyncFailure(err)
		return nil, err
	}
	d.synced = true
	return ends, nil
}

// replayer writes frames to segments.
type replayer struct {
	dir      *Dir
	contents *syncjournal.Contents
	file     fsys.File // the last one written to, or nil
	frames   int64
	bytes    int64
}

// frame writes the bytes of a frame to their place, also where they seem to be there: what a page shows after a failed sync need
// not be on the disk. A segment that is not there is not made: either it was trimmed, or recovery finds that the log ends
// too early.
func (r *replayer) frame(f syncjournal.Frame) error {
	name := path.Join(r.dir.logDir(f.Log), fileName(f.SegmentBase, segmentSuffix))
	if r.file == nil || r.file.Name() != name {
		if err := r.close(); err != nil {
			return err
		}
		file, err := r.dir.fs.Open(name)
		if fsys.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		r.file = file
	}
	r.frames++
	r.bytes += int64(len(f.Data))
	err := r.dir.space.within(func() error { return r.write(f.Position, f.Data) })
	if errors.Is(err, fsys.ErrNoSpace) { // the journal's own idle file is room
		if gave, giveErr := r.contents.GiveUpIdle(); giveErr != nil {
			err = errors.Join(err, giveErr)
		} else if gave {
			err = r.write(f.Position, f.Data)
		}
	}
	if errors.Is(err, fsys.ErrNoSpace) {
		err = fmt.Errorf("%w; the sync journal keeps it and nothing is lost: make room in %s and start again", err, r.dir.path)
	}
	if err != nil {
		return fmt.Errorf("write %d bytes of the sync journal to %s at %d: %w", len(f.Data), name, f.Position, err)
	}
	return nil
}

// write may be repeated.
func (r *replayer) write(at int64, data []byte) error {
	for gap := at - r.file.Position(); gap > 0; gap = at - r.file.Position() { // what was there is lost: zeros, so that it shows
		if _, err := r.file.Append(make([]byte, min(gap, zeroChunk))); err != nil {
			return err
		}
	}
	there := min(int64(len(data)), r.file.Position()-at)
	if there > 0 {
		if _, err := r.file.Overwrite(at, data[:there]); err != nil {
			return err
		}
	}
	if there == int64(len(data)) {
		return nil
	}
	_, err := r.file.Append(data[there:])
	return err
}

func (r *replayer) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// noteReplayed notes durably how far each log was durable by the sync journal, which logs have lost something with it, and then
// that nothing is left to replay. there says which logs have a directory.
func (d *Dir) noteReplayed(ends map[model.TopicPartition]int64, there map[model.TopicPartition]bool) error {
	var updates []logUpdate
	for tp, end := range ends {
		if there[tp] {
			updates = append(updates, logUpdate{tp: tp, change: logRaised, state: logState{raised: end}})
		} else if !d.journal.isLost(tp) {
			updates = append(updates, logUpdate{tp: tp, change: logLost})
			d.report.MissingLogs = append(d.report.MissingLogs, tp)
		}
	}
	if len(d.report.Replay.Damage) > 0 {
		for tp := range there {
			updates = append(updates, logUpdate{tp: tp, change: logLost})
		}
	}
	if err := d.journal.commit(updates...); err != nil {
		return err
	}
	return d.shared.open()
}
