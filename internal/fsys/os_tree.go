//go:build !linux

package fsys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// syncTree makes every file and directory below dir durable, one by one. It stands in for a call that writes out a
// whole file system, where there is none; files that live elsewhere are not covered.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != dir:
			return nil // removed meanwhile
		case err != nil:
			return err
		case d.IsDir():
			return syncDir(path)
		case d.Type().IsRegular():
			return syncPath(path)
		default:
			return nil
		}
	})
}

// syncPath makes one file durable.
func syncPath(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	return join(file.Sync(), file.Close())
}
