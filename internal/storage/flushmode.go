package storage

import (
	"fmt"
	"path"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// osModeMarker is a file of a log that was written in flush.mode=os and not flushed whole since.
const osModeMarker = "flush.os"

func (l *Log) osModeName() string { return path.Join(l.path, osModeMarker) }

// MarkOSMode notes durably that records of the log may count as committed without being on the disk, before the first of
// them does. Repeating it costs little. A failure leaves open whether the mark is there.
func (l *Log) MarkOSMode() error {
	marked, err := l.OSMode()
	if err != nil {
		return err
	}
	if !marked {
		f, err := l.fs.Create(l.osModeName())
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return fmt.Errorf("mark log %s for flush.mode=os: %w", l.tp, err)
		}
	}
	l.mu.Lock()
	l.dirtyDir = l.dirtyDir || !marked
	named := !l.dirtyDir // of a mark that was found the name may not be durable: whoever made it may have died before
	l.mu.Unlock()
	if named {
		return nil
	}
	_, err = l.Sync()
	return err
}

// ClearOSMode takes the mark of MarkOSMode back, durably. The caller has seen to it that everything that was appended while it
// stood has been synced. A failed sync wraps ErrSyncFailed and is for ever.
func (l *Log) ClearOSMode() error {
	if err := removeIfExists(l.fs, l.osModeName()); err != nil {
		return fmt.Errorf("clear the mark of log %s for flush.mode=os: %w", l.tp, err)
	}
	return l.afterSync(l.fs.SyncDir(l.path))
}

// OSMode says whether the mark of MarkOSMode is there: after a restart of the machine without a clean shutdown the log may have
// lost records that it vouched for.
func (l *Log) OSMode() (bool, error) { return l.dir.OSMode(l.tp) }

// OSMode is Log.OSMode for a log that need not be open.
func (d *Dir) OSMode(tp model.TopicPartition) (bool, error) {
	_, err := d.fs.Stat(path.Join(d.logDir(tp), osModeMarker))
	if fsys.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}
