package storage

import "fmt"

// CutKind says what recovery found behind the last valid batch of a log.
type CutKind uint8

// The kinds of cuts, from harmless to worst.
const (
	// CutNone means that the log ended with its last batch.
	CutNone CutKind = iota
	// CutZeros means that only preallocated zeros were cut.
	CutZeros
	// CutUnfinishedBatch means that the beginning of one last batch was cut, with nothing but zeros behind it.
	CutUnfinishedBatch
	// CutMore means that more was cut: bytes that are no unfinished batch, or whole batches behind a bad one.
	CutMore
)

// String names the kind.
func (k CutKind) String() string {
	switch k {
	case CutNone:
		return "none"
	case CutZeros:
		return "zeros"
	case CutUnfinishedBatch:
		return "unfinished batch"
	case CutMore:
		return "more than an unfinished batch"
	default:
		return fmt.Sprintf("CutKind(%d)", uint8(k))
	}
}

// Damage is a place below the recovery point where the bytes are not what was written and synced. The log is open for
// reading: Read answers ErrCorruptLog within the damage and serves what lies before and behind. It takes no appends until
// Log.DiscardDamage has put the damaged files aside.
type Damage struct {
	// From is the first offset that is damaged, To the first one behind that is not known to be; reading goes on there.
	From, To int64
	// File and Position say where the first bad byte is.
	File     string
	Position int64
	// Reason is what was wrong there.
	Reason string

	behind   int64    // position of the batch that begins at To, in the same file; 0 where To lies in another
	byDigest bool     // each batch looks sound: only the segment's digest tells
	segment  *segment // where it was found in an open log, or nil: once that is replaced the damage is gone
}

// RecoveryReport says what opening a log found and did.
type RecoveryReport struct {
	// Known says that the journal had positions of the log; without it everything was scanned.
	Known bool
	// Unsure says that the journal was damaged or missing, now or at an earlier opening, and that the log was not opened without damage
	// since: more of it may have been durable than RecoveryPoint says.
	Unsure bool
	// LogStartOffset and LogEndOffset are those of the opened log.
	LogStartOffset, LogEndOffset int64
	// RecoveryPoint and HighWatermark are what the journal said; they may exceed LogEndOffset when data was lost.
	RecoveryPoint, HighWatermark int64
	// ScannedBytes and ScannedSegments say how much was read and checked.
	ScannedBytes    int64
	ScannedSegments int
	// Cut, CutFile, CutPosition and CutBytes say what was cut behind the last valid batch; CutBytes counts later segments.
	Cut         CutKind
	CutFile     string
	CutPosition int64
	CutBytes    int64
	// CutReason says what was wrong with the bytes there, empty where nothing but the end was found.
	CutReason string
	// RemovedSegments is the number of segments behind the cut that were removed.
	RemovedSegments int
	// SyncFailed says that a sync failed when the directory was last open: what lies above the recovery point was written
	// to the disk anew.
	SyncFailed bool
	// LostBefore says that an earlier opening has found a loss, and has repaired the log since, that Dir.LossesRecorded was not
	// called for.
	LostBefore bool
	// Damage is set when bytes below the recovery point are damaged.
	Damage *Damage
}

// LostBelowRecoveryPoint says that the log ends before what was known to be synced: its disk forgot.
func (r RecoveryReport) LostBelowRecoveryPoint() bool { return r.LogEndOffset < r.RecoveryPoint }

// LostData says that the replica may have lost records that it had acknowledged: it gives up its seats in ISR and ELR.
// That is the case for damage, after a failed sync, for a cut of more than an unfinished batch, and for a log that ends
// below the recovery point or the HighWatermark on file; and until Dir.LossesRecorded where an earlier opening found that.
func (r RecoveryReport) LostData() bool {
	return r.LostBefore || r.Damage != nil || r.SyncFailed || r.Cut == CutMore || r.LostBelowRecoveryPoint() || r.LogEndOffset < r.HighWatermark
}
