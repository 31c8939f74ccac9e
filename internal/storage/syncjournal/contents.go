package syncjournal

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// End is what the journal knows of the end of a log.
type End struct {
	// Offset is the highest EndOffset of the log's live frames: everything below it was durable.
	Offset int64
	// Doubtful says that frames which count for Offset may have been forgotten in rounds that are damaged: they
	// are not delivered, and the log may rightly end before Offset.
	Doubtful bool
}

// Contents are the live frames that Read has found. They are read again by Each, so the directory must not change meanwhile.
type Contents struct {
	// Ends are the logs with live frames.
	Ends map[model.TopicPartition]End
	// Damage says where acknowledged rounds cannot be read. It may concern any log that was written lately.
	Damage []*DamageError
	// Torn says that the last round was not finished. That is no fault: it was never acknowledged.
	Torn bool
	// Rounds are the rounds of live generations, Bytes the data in them, those of frames that are forgotten included.
	Rounds int
	Bytes  int64

	fs    fsys.FS
	dir   string
	parts []*part // by generation
}

// part is what one live generation holds.
type part struct {
	generation, salt uint64
	rounds           []roundAt
	bytes            int64
	ends             map[model.TopicPartition]End
	forgotten        map[model.TopicPartition]int // frames in rounds before this one, an index of rounds
	doubtBefore      int                          // the same for all logs: what forgot them may be lost
	doubtEarlier     bool                         // in earlier generations too
	liveFrom         uint64                       // the highest that a round has
	damage           []*DamageError
	torn             bool
	end              int64  // where reading has ended
	forgets          uint64 // frames that forget, in all rounds
}

// roundAt is where a round lies that was read whole.
type roundAt struct {
	position int64
	round    uint64
}

// doubt notes that a round may be lost that forgot anything before.
func (p *part) doubt() {
	p.doubtBefore, p.doubtEarlier = len(p.rounds), true
	for log, end := range p.ends {
		end.Doubtful = true
		p.ends[log] = end
	}
}

// add takes over a round that was read whole, and returns how many of its frames forget.
func (p *part) add(position int64, h roundHeader, body []byte) (forgets uint64, err error) {
	index := len(p.rounds)
	p.rounds = append(p.rounds, roundAt{position, h.round})
	p.liveFrom = max(p.liveFrom, h.liveFrom)
	err = h.decodeFrames(body, func(kind byte, f Frame) {
		if kind == frameForget {
			forgets++
			delete(p.ends, f.Log)
			p.forgotten[f.Log] = index
			return
		}
		p.bytes += int64(len(f.Data))
		end := p.ends[f.Log]
		end.Offset = max(end.Offset, f.EndOffset)
		p.ends[f.Log] = end
	})
	return forgets, err
}

// Read finds the live frames of a directory and checks all of them; a missing directory has none. Damage is no error: it
// is listed in the result. Memory is bounded by MaxRoundBytes and by what the result says of logs and rounds.
func Read(fsy fsys.FS, dir string) (c *Contents, err error) {
	c = &Contents{Ends: make(map[model.TopicPartition]End), fs: fsy, dir: dir}
	var files [2]*journalFile
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.file.Close())
			}
		}
	}()
	liveFrom, last := uint64(1), uint64(0)
	for i := range files {
		if files[i], err = openJournalFile(fsy, dir, i, true); err != nil {
			return nil, err
		}
		if f := files[i]; f != nil && f.whole {
			liveFrom, last = max(liveFrom, f.head.liveFrom), max(last, f.head.last)
		}
	}
	if err := c.readParts(files, liveFrom, last); err != nil {
		return nil, fmt.Errorf("read the sync journal %s: %w", dir, err)
	}
	c.combine()
	return c, nil
}

// readParts reads the live generations, and notes those that are not there.
func (c *Contents) readParts(files [2]*journalFile, liveFrom, last uint64) error {
	for i, f := range files {
		switch name := path.Join(c.dir, fileNames[i]); {
		case f != nil && !f.whole:
			c.lose(name, 0, f.why)
		case f == nil && liveFrom <= last: // made before the first generation began
			c.lose(name, 0, "the file is missing")
		}
	}
	if last > 1 && liveFrom < last-1 { // two files hold two generations
		c.lose(path.Join(c.dir, fileNames[liveFrom%2]), liveFrom, fmt.Sprintf("generations %d to %d are gone", liveFrom, last-2))
		liveFrom = last - 1
	}
	for g := liveFrom; g <= last; g++ {
		if f := files[g%2]; f != nil && f.whole && f.head.generation != g {
			c.lose(f.name, g, fmt.Sprintf("the file holds generation %d", f.head.generation))
		}
	}
	for g := liveFrom; g <= last; g++ {
		p, err := c.readPart(files, g, last)
		if err != nil {
			return err
		}
		if len(c.Damage) > 0 { // a whole file is lost: it may have been the newer one, and have forgotten anything
			p.doubt()
		}
		c.parts = append(c.parts, p)
	}
	return nil
}

// lose notes that all that a file held is lost.
func (c *Contents) lose(name string, generation uint64, why string) {
	c.Damage = append(c.Damage, &DamageError{File: name, Generation: generation, Reason: why})
}

// readPart reads generation g, which is live; nothing where its file is lost.
func (c *Contents) readPart(files [2]*journalFile, g, last uint64) (*part, error) {
	p := &part{
		generation: g, ends: make(map[model.TopicPartition]End), forgotten: make(map[model.TopicPartition]int),
	}
	f := files[g%2]
	if f == nil || !f.whole || f.head.generation != g {
		return p, nil
	}
	s := &scanner{file: f, head: f.head, part: p, end: min(f.size, f.head.size)/pageBytes*pageBytes - pageBytes}
	if next := files[(g+1)%2]; g < last && next != nil && next.whole && next.head.generation == g+1 {
		s.closed, s.rounds, s.forgets = true, next.head.closedRounds, next.head.closedForgets
	}
	p.salt = f.head.salt
	if err := s.scan(); err != nil {
		return nil, err
	}
	p.end = s.position
	if f.size != f.head.size {
		p.damage = append(p.damage, &DamageError{
			File: f.name, Position: min(f.size, f.head.size), Generation: g,
			Reason: fmt.Sprintf("the file has %d bytes and was made with %d", f.size, f.head.size),
		})
		p.doubt()
	}
	return p, nil
}

// combine puts the generations together.
func (c *Contents) combine() {
	for i, p := range c.parts {
		if i > 0 && p.liveFrom > c.parts[i-1].generation {
			c.parts[i-1] = nil // it was released
		}
	}
	parts := c.parts
	c.parts = nil
	for _, p := range parts {
		if p == nil {
			clear(c.Ends)
			continue
		}
		for log := range p.forgotten {
			delete(c.Ends, log)
		}
		for log, end := range c.Ends {
			end.Doubtful = end.Doubtful || p.doubtEarlier
			c.Ends[log] = end
		}
		for log, end := range p.ends {
			earlier := c.Ends[log]
			c.Ends[log] = End{Offset: max(earlier.Offset, end.Offset), Doubtful: earlier.Doubtful || end.Doubtful}
		}
		c.parts = append(c.parts, p)
		c.Damage = append(c.Damage, p.damage...)
		c.Rounds += len(p.rounds)
		c.Bytes += p.bytes
		c.Torn = p.torn
	}
}

// GiveUpIdle makes room on a full disk while what was found is replayed: it cuts the file that holds no live generation down to its first
// header, where there is one, and says whether there was. A crash at any time leaves what Read finds as it is; Clear removes the
// rest, and Prepare makes the file anew.
func (c *Contents) GiveUpIdle() (gave bool, err error) {
	if len(c.Damage) > 0 {
		return false, nil
	}
	for i := range fileNames {
		if slices.ContainsFunc(c.parts, func(p *part) bool { return p.generation%2 == uint64(i) }) { //nolint:gosec // 0 or 1
			continue
		}
		f, err := openJournalFile(c.fs, c.dir, i, false)
		if err != nil {
			return false, err
		}
		if f == nil {
			continue
		}
		if f.whole && f.size > pageBytes {
			err, gave = f.file.Truncate(pageBytes), true
		}
		if err = errors.Join(err, f.file.Close()); err != nil {
			return false, err
		}
	}
	return gave, nil
}

// IdleBytes is what GiveUpIdle would make free.
func (c *Contents) IdleBytes() (bytes int64) {
	if len(c.Damage) > 0 {
		return 0
	}
	for i, name := range fileNames {
		if slices.ContainsFunc(c.parts, func(p *part) bool { return p.generation%2 == uint64(i) }) { //nolint:gosec // 0 or 1
			continue
		}
		if info, err := c.fs.Stat(path.Join(c.dir, name)); err == nil {
			bytes += max(0, info.Size-pageBytes)
		}
	}
	return bytes
}

// Each gives the live frames to visit, in the order in which they were written; the data are valid until it returns. It
// ends with the first error of visit.
func (c *Contents) Each(visit func(Frame) error) error {
	var buf []byte
	for i, p := range c.parts {
		var err error
		buf, err = c.eachRound(p, buf, func(round int, h roundHeader, body []byte) (failed error) {
			err := h.decodeFrames(body, func(kind byte, f Frame) {
				if failed == nil && kind == frameData && c.live(i, round, f.Log) {
					failed = visit(f)
				}
			})
			return errors.Join(failed, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// live says whether the frames of a log in a round of part i, the index of it, count.
func (c *Contents) live(i, round int, log model.TopicPartition) bool {
	p := c.parts[i]
	if at, ok := p.forgotten[log]; round < p.doubtBefore || ok && round < at {
		return false
	}
	for _, later := range c.parts[i+1:] {
		if _, ok := later.forgotten[log]; ok || later.doubtEarlier {
			return false
		}
	}
	return true
}

// eachRound gives the rounds of one generation to visit, by their index.
func (c *Contents) eachRound(p *part, buf []byte, visit func(round int, h roundHeader, body []byte) error) (_ []byte, err error) {
	if len(p.rounds) == 0 {
		return buf, nil
	}
	name := path.Join(c.dir, fileNames[p.generation%2])
	file, err := c.fs.OpenRead(name)
	if err != nil {
		return buf, fmt.Errorf("open the sync journal: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return buf, err
	}
	r := roundReader{file: file, end: size, generation: p.generation, salt: p.salt, buf: buf}
	for i, at := range p.rounds {
		h, body, err := r.read(at.position, at.round)
		if err == nil {
			err = h.decodeFrames(body, nil)
		}
		if err != nil {
			return r.buf, fmt.Errorf("%s has changed since it was read: position %d: %w", name, at.position, err)
		}
		if err := visit(i, h, body); err != nil {
			return r.buf, err
		}
	}
	return r.buf, nil
}

// roundReader reads rounds of one generation.
type roundReader struct {
	file             fsys.File
	end              int64
	generation, salt uint64
	buf              []byte
}

// read reads the round at a position, its frames unchecked; header alone is checked. The bytes are valid until the next
// call. header is not zero where it can be believed.
func (r *roundReader) read(position int64, round uint64) (header roundHeader, body []byte, err error) {
	b, err := r.fill(position, 0, min(pageBytes, r.end-position))
	if err != nil {
		return header, nil, err
	}
	h, ok := decodeRoundHeader(b)
	switch {
	case !ok:
		return header, nil, errors.New("no round begins there")
	case h.generation != r.generation || h.salt != r.salt || h.round != round:
		return header, nil, fmt.Errorf("round %d of generation %d begins there", h.round, h.generation)
	case h.length > r.end-position:
		return header, nil, fmt.Errorf("%d bytes, %d are left", h.length, r.end-position)
	}
	body, err = r.fill(position, int64(len(b)), h.length)
	return h, body, err
}

// fill reads bytes have to want from a position on, behind those that it has read there, and returns all of them.
func (r *roundReader) fill(position, have, want int64) ([]byte, error) {
	if want <= have {
		return r.buf[:want], nil
	}
	if int64(cap(r.buf)) < want {
		r.buf = append(make([]byte, 0, max(want, 64<<10)), r.buf[:have]...)
	}
	r.buf = r.buf[:want]
	_, err := r.file.ReadAt(r.buf[have:], position+have)
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	return r.buf, err
}
