package syncjournal

import (
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/penstock-io/penstock/internal/fsys"
)

const (
	tempSuffix = ".tmp"
	zeroChunk  = 1 << 20
)

// fileNames are the names of the two files; generation g lies in the one numbered g mod 2.
var fileNames = [2]string{"0.journal", "1.journal"}

// journalFile is one of the two files. A file bears its name only once it was filled and has a header.
type journalFile struct {
	file  fsys.File
	name  string
	size  int64
	head  fileHeader
	whole bool   // head can be believed
	why   string // what is wrong where it cannot
}

// openJournalFile opens a file and reads its headers; nil where there is none.
func openJournalFile(fsy fsys.FS, dir string, index int, readOnly bool) (*journalFile, error) {
	name := path.Join(dir, fileNames[index])
	open := fsy.Open
	if readOnly {
		open = fsy.OpenRead
	}
	file, err := open(name)
	if fsys.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the sync journal: %w", err)
	}
	f := &journalFile{file: file, name: name}
	if err := f.readHeaders(index); err != nil {
		return nil, closeAfter(fmt.Errorf("read the sync journal %s: %w", name, err), file.Close)
	}
	return f, nil
}

// readHeaders takes the newer of the two headers that can be believed.
func (f *journalFile) readHeaders(index int) (err error) {
	if f.size, err = f.file.Size(); err != nil {
		return err
	}
	f.why = fmt.Sprintf("neither header of the %d bytes can be believed", f.size)
	b := make([]byte, pageBytes)
	for _, at := range []int64{0, max(0, f.size/pageBytes-1) * pageBytes} {
		n, err := f.file.ReadAt(b, at)
		if err != nil && !errors.Is(err, io.EOF) {
			if processEnds(err) {
				return err
			}
			f.why = err.Error()
			continue
		}
		head, ok, err := decodeFileHeader(b[:n])
		if err != nil {
			return err
		}
		if !ok || head.generation > 0 && head.generation%2 != uint64(index) { //nolint:gosec // 0 or 1
			continue
		}
		if !f.whole || head.newer(f.head) {
			f.head, f.whole = head, true
		}
	}
	return nil
}

// writeHeader replaces both headers durably, one after the other: a crash leaves one of them whole.
func (f *journalFile) writeHeader(head fileHeader) error {
	b := head.encode()
	for _, at := range []int64{0, f.size - pageBytes} {
		if _, err := f.file.Overwrite(at, b); err != nil {
			return err
		}
		if err := f.file.SyncData(); err != nil {
			return err
		}
	}
	f.head = head
	return nil
}

// Clear makes nothing live, durably: at start when all that Read found is durable in the segments, and at a clean stop.
// The first time it writes also where nothing is live: what the process before has written may be in the page cache alone, and a
// power loss would bring back what it replaced. Files that cannot be used (damaged, of another size) are removed.
func (j *Journal) Clear() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	last := j.generation.Load()
	if !j.cleared || j.oldestLive.Load() <= last {
		for _, f := range j.files {
			if f == nil || !f.whole || f.size != f.head.size {
				continue
			}
			head := f.head
			head.liveFrom, head.last = last+1, last
			if err := f.writeHeader(head); err != nil {
				return j.fail(err)
			}
		}
	}
	if err := j.removeUnusable(); err != nil {
		return j.fail(err)
	}
	for i := range fileNames {
		if j.cleared { // Prepare may be at work
			break
		}
		if err := j.removeTemp(i); err != nil {
			return j.fail(err)
		}
	}
	j.freeUpTo(max(last, j.oldestLive.Load()-1))
	j.cleared = true
	return nil
}

// removeUnusable removes the files that no generation can be written to.
func (j *Journal) removeUnusable() error {
	removed := false
	for i, f := range j.files {
		if f == nil && !j.cleared { // the process before may have removed it and not synced that
			_, err := j.fs.Stat(j.dir)
			if err != nil && !fsys.IsNotExist(err) {
				return err
			}
			removed = removed || err == nil
		}
		if f == nil || f.whole && f.size == f.head.size && f.size == j.fileSize {
			continue
		}
		j.files[i], j.ready, removed = nil, false, true
		if err := errors.Join(f.file.Close(), j.fs.Remove(f.name)); err != nil {
			return err
		}
	}
	if !removed {
		return nil
	}
	return j.fs.SyncDir(j.dir)
}

// Prepare makes the files that are not there and fills them with zeros, which takes as long as writing FileBytes twice; other
// methods can be called meanwhile. Clear comes first. Where the disk is too full (fsys.ErrNoSpace) nothing is left behind.
// After that and other errors Prepare can be called again; a failed sync fails the journal, which holds nothing then.
func (j *Journal) Prepare() error {
	j.preparing.Lock()
	defer j.preparing.Unlock()
	missing, err := j.missing()
	if err != nil {
		return err
	}
	made := [2]*journalFile{}
	for _, i := range missing {
		if made[i], err = j.makeFile(i); err != nil {
			break
		}
	}
	if err == nil && len(missing) == 0 { // a process that was killed may have renamed without the sync
		err = j.syncNames()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, f := range made {
		if f != nil {
			j.files[i] = f
		}
	}
	if errors.Is(err, fsys.ErrSyncFailed) {
		return j.fail(err)
	}
	if err != nil {
		return fmt.Errorf("make the sync journal: %w", err)
	}
	j.ready = true
	return nil
}

// missing are the files to be made.
func (j *Journal) missing() ([]int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return nil, j.failed
	}
	if !j.cleared {
		return nil, fmt.Errorf("%w: %s is not cleared", ErrNotReady, j.dir)
	}
	var missing []int
	for i, f := range j.files {
		if f == nil {
			missing = append(missing, i)
		}
	}
	return missing, nil
}

// makeFile makes one file under its name, durably, or leaves nothing.
func (j *Journal) makeFile(index int) (*journalFile, error) {
	if err := j.fs.MkdirAll(j.dir); err != nil {
		return nil, err
	}
	name := path.Join(j.dir, fileNames[index])
	temp := name + tempSuffix
	if err := j.removeTemp(index); err != nil {
		return nil, err
	}
	file, err := j.fs.Create(temp)
	if err != nil {
		return nil, err
	}
	if err = errors.Join(j.fill(file), file.Close()); err != nil {
		return nil, closeAfter(err, func() error { return j.removeTemp(index) })
	}
	if err := j.fs.Rename(temp, name); err != nil {
		return nil, err
	}
	if err := j.syncNames(); err != nil {
		return nil, err
	}
	return openJournalFile(j.fs, j.dir, index, false)
}

// syncNames makes the names of the directory and of the files durable.
func (j *Journal) syncNames() error {
	if err := j.fs.SyncDir(path.Dir(j.dir)); err != nil {
		return err
	}
	return j.fs.SyncDir(j.dir)
}

// removeTemp removes what a Prepare left that did not come to its end.
func (j *Journal) removeTemp(index int) error {
	if err := j.fs.Remove(path.Join(j.dir, fileNames[index]+tempSuffix)); err != nil && !fsys.IsNotExist(err) {
		return err
	}
	return nil
}

// fill writes zeros, so that later syncs change no metadata, and the first headers. No generation has begun in it, and
// while it is made nothing is live.
func (j *Journal) fill(file fsys.File) error {
	chunk := make([]byte, min(zeroChunk, j.fileSize))
	for file.Position() < j.fileSize {
		if _, err := file.Append(chunk[:min(int64(len(chunk)), j.fileSize-file.Position())]); err != nil {
			return err
		}
	}
	head := fileHeader{size: j.fileSize, liveFrom: j.oldestLive.Load(), last: j.generation.Load()}
	for _, at := range []int64{0, j.dataEnd()} {
		if _, err := file.Overwrite(at, head.encode()); err != nil {
			return err
		}
	}
	return file.SyncData()
}

// closeFiles closes what is open.
func (j *Journal) closeFiles() error {
	var errs []error
	for i, f := range j.files {
		if f != nil {
			errs = append(errs, f.file.Close())
			j.files[i] = nil
		}
	}
	return errors.Join(errs...)
}

// closeAfter tidies up after an error.
func closeAfter(err error, tidy func() error) error {
	if tidyErr := tidy(); tidyErr != nil {
		return errors.Join(err, tidyErr)
	}
	return err
}
