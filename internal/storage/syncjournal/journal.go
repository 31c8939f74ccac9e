package syncjournal

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

const (
	// DefaultFileBytes is the size of each of the two files where Options says none.
	DefaultFileBytes = 64 << 20
	// MinFileBytes is the smallest size of a file.
	MinFileBytes = 16 * pageBytes

	// forgetReserve is how much of a file Write leaves for Forget, in bytes; an eighth of a small file.
	forgetReserve = 256 << 10
	// forgetsARound is how many logs one round forgets at most: as many as fit the reserve of large files.
	forgetsARound = 2048
)

// Options are the properties of a journal.
type Options struct {
	// FileBytes is the size of each of the two files, rounded down to whole pages of 4 KiB; 0 is DefaultFileBytes, less
	// than MinFileBytes is MinFileBytes. Files of another size are replaced by Clear and Prepare.
	FileBytes int64
	// Salt tells rounds from bytes that clients send, which lie in the frames: a number that no client can know, a
	// different one each time a journal is opened.
	Salt uint64
}

// Journal is the journal of one directory, open for writing. At most one may be open in a directory.
type Journal struct {
	fs       fsys.FS
	dir      string
	fileSize int64
	salt     uint64

	// Written with mu held, read by anybody.
	generation, oldestLive atomic.Uint64

	preparing sync.Mutex // held by Prepare, taken before mu

	mu      sync.Mutex
	files   [2]*journalFile // nil where there is none
	cleared bool
	ready   bool // both files are there, and no earlier process's frame is live
	failed  error

	// Of the current generation; open says that there is one.
	open           bool
	position       int64
	round, forgets uint64

	written map[model.TopicPartition]uint64 // the newest generation with a frame of a log, where that is live
	heads   []byte
	vector  [][]byte
}

// Open reads what the directory holds, makes nothing, and changes nothing; a missing directory is an empty journal. The
// frames of earlier processes stay live until Clear.
func Open(fsy fsys.FS, dir string, o Options) (*Journal, error) {
	size := o.FileBytes / pageBytes * pageBytes
	if o.FileBytes == 0 {
		size = DefaultFileBytes
	}
	j := &Journal{
		fs: fsy, dir: dir, fileSize: max(size, MinFileBytes), salt: o.Salt, written: make(map[model.TopicPartition]uint64),
	}
	liveFrom, last := uint64(1), uint64(0)
	for i := range j.files {
		f, err := openJournalFile(fsy, dir, i, false)
		if err != nil {
			return nil, closeAfter(err, j.closeFiles)
		}
		if j.files[i] = f; f != nil && f.whole {
			liveFrom, last = max(liveFrom, f.head.liveFrom), max(last, f.head.last)
		}
	}
	j.generation.Store(last)
	j.oldestLive.Store(liveFrom)
	return j, nil
}

// Generation is the newest generation; 0 before the first.
func (j *Journal) Generation() uint64 { return j.generation.Load() }

// OldestLive is the oldest generation whose frames a crash brings back; above Generation where there is none.
func (j *Journal) OldestLive() uint64 { return j.oldestLive.Load() }

// Ready says whether Write can be called.
func (j *Journal) Ready() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ready && j.failed == nil
}

// Holds says whether a live generation has a frame of the log that this journal wrote and did not forget.
func (j *Journal) Holds(log model.TopicPartition) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.holds(log)
}

func (j *Journal) holds(log model.TopicPartition) bool {
	return j.written[log] >= j.oldestLive.Load()
}

// usable says why nothing can be written. The caller holds mu.
func (j *Journal) usable() error {
	switch {
	case j.failed != nil:
		return j.failed
	case !j.ready:
		return fmt.Errorf("%w: %s", ErrNotReady, j.dir)
	}
	return nil
}

// Write makes frames durable, all or none of them, and returns the generation that holds them. The order of the frames is
// kept. With ErrFull, ErrRoundTooLarge, ErrBadFrame and ErrNotReady nothing was written; after any other error (ErrFailed)
// a crash may find the frames or not, and the journal takes nothing more.
func (j *Journal) Write(frames []Frame) (generation uint64, err error) {
	length := int64(roundHeaderBytes)
	for _, f := range frames {
		if err := f.check(); err != nil {
			return 0, err
		}
		length += frameHeaderBytes + int64(len(f.Data))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return 0, err
	}
	if len(frames) == 0 {
		return j.generation.Load(), nil
	}
	if most := min(MaxRoundBytes, j.dataEnd()-j.reserve()-pageBytes); length > most {
		return 0, fmt.Errorf("%w: %d, at most %d", ErrRoundTooLarge, length, most)
	}
	if err := j.place(pageCeil(length) + j.reserve()); err != nil {
		return 0, err
	}
	if err := j.writeRound(frameData, length, frames); err != nil {
		return 0, err
	}
	generation = j.generation.Load()
	for _, f := range frames {
		j.written[f.Log] = generation
	}
	return generation, nil
}

// Forget makes all frames of the logs that were written so far void, durably: no crash brings them back. Logs without
// such frames are passed over. ErrFull as from Write: the caller syncs all segments and releases, which forgets too.
func (j *Journal) Forget(logs []model.TopicPartition) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	var frames []Frame
	for _, log := range logs {
		if j.holds(log) {
			frames = append(frames, Frame{Log: log})
		}
	}
	for chunk := range slices.Chunk(frames, forgetsARound) {
		length := roundHeaderBytes + frameHeaderBytes*int64(len(chunk))
		if err := j.place(pageCeil(length) + pageBytes); err != nil {
			return err
		}
		if err := j.writeRound(frameForget, length, chunk); err != nil {
			return err
		}
		// Damage of the last round cannot be told from a round that was never finished. A round that forgets must not be
		// the last: what it made void would come back in silence.
		if err := j.writeRound(frameData, roundHeaderBytes, nil); err != nil {
			return err
		}
		for _, f := range chunk {
			delete(j.written, f.Log)
		}
	}
	return nil
}

// Release says that every frame of the generations up to g is durable in its own segment. Durable on return: from then on
// no crash brings them back, and until then one may.
func (j *Journal) Release(g uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	g = min(g, j.generation.Load())
	if g < j.oldestLive.Load() {
		return nil
	}
	if err := j.usable(); err != nil {
		return err
	}
	f := j.files[g%2]
	head := f.head
	head.liveFrom, head.last = g+1, j.generation.Load()
	if err := f.writeHeader(head); err != nil {
		return j.fail(err)
	}
	j.freeUpTo(g)
	return nil
}

// freeUpTo takes over that nothing up to generation g is live. The caller holds mu.
func (j *Journal) freeUpTo(g uint64) {
	j.oldestLive.Store(g + 1)
	j.open = j.open && g < j.generation.Load()
	for log, last := range j.written {
		if last <= g {
			delete(j.written, log)
		}
	}
}

// Close closes the files; what is live stays so.
func (j *Journal) Close() error {
	j.preparing.Lock()
	defer j.preparing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ready, j.cleared = false, false
	return j.closeFiles()
}

// fail notes that what the journal holds is unknown from now on. The caller holds mu.
func (j *Journal) fail(err error) error {
	j.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	return j.failed
}

// dataEnd is where the rounds of a file end: behind it lies the second header.
func (j *Journal) dataEnd() int64 { return j.fileSize - pageBytes }

// reserve is what Write leaves for Forget.
func (j *Journal) reserve() int64 { return min(forgetReserve, j.fileSize/8/pageBytes*pageBytes) }

// place makes sure that size bytes fit behind the last round of the current generation, and begins the next one where
// they do not. The caller holds mu.
func (j *Journal) place(size int64) error {
	if j.open && j.position+size <= j.dataEnd() {
		return nil
	}
	next := j.generation.Load() + 1
	f := j.files[next%2]
	if f.head.generation >= j.oldestLive.Load() {
		return fmt.Errorf("%w: generation %d is not released", ErrFull, f.head.generation)
	}
	head := fileHeader{
		size: j.fileSize, generation: next, salt: j.salt, liveFrom: j.oldestLive.Load(), last: next,
		closedRounds: j.round, closedForgets: j.forgets,
	}
	if err := f.writeHeader(head); err != nil {
		return j.fail(err)
	}
	j.generation.Store(next)
	j.open, j.position, j.round, j.forgets = true, pageBytes, 0, 0
	return nil
}

// writeRound writes and syncs the next round. The caller holds mu and has made place.
func (j *Journal) writeRound(kind byte, length int64, frames []Frame) error {
	h := roundHeader{
		length: length, frames: uint32(len(frames)), generation: j.generation.Load(), salt: j.salt, //nolint:gosec // bounded by length
		round: j.round + 1, liveFrom: j.oldestLive.Load(), forgets: j.forgets,
	}
	heads := slices.Grow(j.heads[:0], roundHeaderBytes+frameHeaderBytes*len(frames)) // never moves below
	heads = h.append(heads)
	vector, from := j.vector[:0], 0
	for _, f := range frames {
		heads = h.appendFrame(heads, kind, f)
		vector = append(vector, heads[from:], f.Data)
		from = len(heads)
	}
	vector = append(vector, heads[from:], zeros[:pageCeil(length)-length]) // whole pages: none has to be read first
	file := j.files[h.generation%2].file
	_, err := file.Overwrite(j.position, vector...)
	clear(vector)
	j.heads, j.vector = heads, vector
	if err != nil {
		return j.fail(err)
	}
	if err := file.SyncData(); err != nil {
		return j.fail(err)
	}
	j.position += pageCeil(length)
	j.round++
	if kind == frameForget {
		j.forgets += uint64(len(frames))
	}
	return nil
}
