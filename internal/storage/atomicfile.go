package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/penstock-io/penstock/internal/fsys"
)

const tempSuffix = ".tmp"

// writeFileAtomic replaces a file durably: temporary file, sync, rename, sync of the directory. On an error the old
// content or the new one is there, whole.
func writeFileAtomic(fsy fsys.FS, name string, data []byte) error {
	temp := name + tempSuffix
	if err := fsy.Remove(temp); err != nil && !fsys.IsNotExist(err) {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	f, err := fsy.Create(temp)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	_, err = f.Append(data)
	if err == nil {
		err = f.SyncData()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if err := fsy.Rename(temp, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if err := fsy.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}

// overwriteSector writes a file of one sector in its place, durably, where there is no room for a new one; false where it is not such a
// file. A disk writes a sector whole or not at all, so the old content or the new one is there after a crash.
func overwriteSector(fsy fsys.FS, name string, data []byte) (done bool, err error) {
	if len(data) != sectorSize {
		return false, nil
	}
	f, err := fsy.Open(name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size, err := f.Size(); err != nil || size != sectorSize {
		return false, err
	}
	if _, err := f.Overwrite(0, data); err != nil {
		return true, fmt.Errorf("overwrite %s: %w", name, err)
	}
	return true, f.SyncData()
}

// writeHint writes a file that is only a hint: nothing is synced, and a torn one is found by its checksum.
func writeHint(fsy fsys.FS, name string, data []byte) error {
	if err := removeIfExists(fsy, name); err != nil {
		return err
	}
	f, err := fsy.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Append(data)
	return errors.Join(err, f.Close())
}

// readFile reads a whole file of at most limit bytes.
func readFile(fsy fsys.FS, name string, limit int64) (data []byte, err error) {
	f, err := fsy.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d expected at most", name, size, limit)
	}
	data = make([]byte, size)
	n, err := readFull(f, data, 0)
	return data[:n], err
}

// readFull fills buf from off on; n is smaller than the buffer only at the end of the file or with an error.
func readFull(r io.ReaderAt, buf []byte, off int64) (n int, err error) {
	n, err = r.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func removeIfExists(fsy fsys.FS, name string) error {
	if err := fsy.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
