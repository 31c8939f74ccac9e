package fsys

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// classified is a cause together with the sentinel of this package that it belongs to: both are found by errors.Is.
type classified struct {
	class error
	cause error
}

// Error names the class and the cause, once where they read the same.
func (e *classified) Error() string {
	class, cause := e.class.Error(), e.cause.Error()
	if class == cause {
		return class
	}
	return class + ": " + cause
}

// Unwrap returns the class and the cause.
func (e *classified) Unwrap() []error { return []error{e.class, e.cause} }

// opError wraps the cause of a failed operation once with the operation and the path, and gives it its class. It
// returns nil for nil.
func opError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	cause := rootCause(err)
	if isNoSpace(cause) && !errors.Is(cause, ErrNoSpace) {
		cause = &classified{class: ErrNoSpace, cause: cause}
	}
	return &fs.PathError{Op: op, Path: path, Err: cause}
}

// syncError is opError for operations that make something durable. A closed or crashed handle, a missing directory and a
// file in its place say nothing about the disk: those keep their own error alone.
func syncError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	cause := rootCause(err)
	if errors.Is(cause, fs.ErrClosed) || errors.Is(cause, ErrCrashed) || errors.Is(cause, fs.ErrNotExist) ||
		errors.Is(cause, syscall.ENOTDIR) {
		return &fs.PathError{Op: op, Path: path, Err: cause}
	}
	if isNoSpace(cause) && !errors.Is(cause, ErrNoSpace) {
		cause = &classified{class: ErrNoSpace, cause: cause}
	}
	if !errors.Is(cause, ErrSyncFailed) {
		cause = &classified{class: ErrSyncFailed, cause: cause}
	}
	return &fs.PathError{Op: op, Path: path, Err: cause}
}

// rootCause takes off the wrappers that package os puts around a system error, so that path and operation are said
// once.
func rootCause(err error) error {
	for {
		switch e := err.(type) { //nolint:errorlint // takes off exactly the outermost wrapper, layer by layer
		case *fs.PathError:
			err = e.Err
		case *os.LinkError:
			err = e.Err
		case *os.SyscallError:
			err = e.Err
		default:
			return err
		}
	}
}

// join is errors.Join that leaves a lone error as it is.
func join(first, second error) error {
	if first == nil {
		return second
	}
	if second == nil {
		return first
	}
	return errors.Join(first, second)
}
