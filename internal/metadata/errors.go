package metadata

import (
	"errors"
	"fmt"
)

var (
	// ErrStaleEntry says that an entry was decided on another image than the current one; the whole entry is dropped.
	ErrStaleEntry = errors.New("entry was decided on another metadata offset")
	// ErrUnknownRecord says that an entry holds a record, a field, a setting or a feature level that this version does not
	// know. A node that meets one must stop and be upgraded: to skip it would make its image differ from the others'.
	ErrUnknownRecord = errors.New("metadata record of an unknown kind")
	// ErrInvalid says that an entry contradicts the image or itself; the whole entry is dropped, on every node alike.
	ErrInvalid = errors.New("metadata entry contradicts the image")
	// ErrGap says that entries are missing between the image and what was to be loaded.
	ErrGap = errors.New("gap in the metadata log")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
