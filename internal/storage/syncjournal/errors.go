package syncjournal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/penstock-io/penstock/internal/fsys"
)

// Errors to test for with errors.Is.
var (
	// ErrFull says that the frames do not fit before the older generation is released. Nothing was written; the caller
	// syncs the segments themselves and releases.
	ErrFull = errors.New("the sync journal is full")
	// ErrNotReady says that Clear and Prepare come first, or that the journal is closed.
	ErrNotReady = errors.New("the sync journal is not ready")
	// ErrFailed says that a write or a sync of the journal failed: what it holds is unknown, and it takes nothing more.
	ErrFailed = errors.New("the sync journal has failed")
	// ErrRoundTooLarge says that the frames of one Write exceed MaxRoundBytes or the journal's file.
	ErrRoundTooLarge = errors.New("too many bytes for one round of the sync journal")
	// ErrBadFrame says that a frame given to Write has no bytes or a negative number.
	ErrBadFrame = errors.New("bad frame for the sync journal")
	// ErrVersion says that a newer version of the software wrote the journal.
	ErrVersion = errors.New("unknown version of the sync journal")
	// ErrDamaged is what DamageError unwraps to.
	ErrDamaged = errors.New("the sync journal is damaged")
)

// DamageError says where acknowledged rounds cannot be read. It unwraps to ErrDamaged.
type DamageError struct {
	// File is the journal file, Position where in it the damage begins, in bytes.
	File     string
	Position int64
	// Generation is the one that is damaged; 0 where that is unknown.
	Generation uint64
	// FirstRound and LastRound are the rounds that are lost, both inclusive; both 0 where that is unknown.
	FirstRound, LastRound uint64
	// Reason is what is wrong there.
	Reason string
}

// Error names file, position and what is lost.
func (e *DamageError) Error() string {
	lost := ""
	if e.FirstRound > 0 {
		lost = fmt.Sprintf(", rounds %d to %d of generation %d", e.FirstRound, e.LastRound, e.Generation)
	} else if e.Generation > 0 {
		lost = fmt.Sprintf(", generation %d", e.Generation)
	}
	return fmt.Sprintf("%v: %s, position %d%s: %s", ErrDamaged, e.File, e.Position, lost, e.Reason)
}

// Unwrap returns ErrDamaged.
func (e *DamageError) Unwrap() error { return ErrDamaged }

// processEnds says whether an error of reading says nothing about the medium.
func processEnds(err error) bool {
	return errors.Is(err, fsys.ErrCrashed) || errors.Is(err, fs.ErrClosed)
}
