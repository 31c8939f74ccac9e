package syncjournal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// scanBytes is how much is read at once in search of a later round.
const scanBytes = 256 << 10

// errUnreadable says that the medium failed, so that more than an unfinished round is missing.
var errUnreadable = errors.New("cannot be read")

// scanner reads a generation from its first round on.
type scanner struct {
	file *journalFile
	head fileHeader
	part *part
	end  int64 // of the space for rounds

	// Where the next generation's header says so: how many rounds this one has, and frames that forget.
	closed          bool
	rounds, forgets uint64

	reader   roundReader
	position int64
	expect   uint64 // the next round
	seen     uint64 // frames that forget in the rounds before
}

// scan reads all rounds. It returns an error only where the process cannot go on.
func (s *scanner) scan() error {
	s.position, s.expect = pageBytes, 1
	s.reader = roundReader{file: s.file.file, end: s.end, generation: s.head.generation, salt: s.head.salt}
	for !s.closed || s.expect <= s.rounds {
		why := s.next()
		if why == nil {
			continue
		}
		if processEnds(why) {
			return why
		}
		goOn, err := s.skip(why)
		if err != nil || !goOn {
			return err
		}
	}
	return nil
}

// next takes the round at the position, or says why it cannot be believed.
func (s *scanner) next() error {
	if s.position >= s.end {
		return errors.New("the file ends")
	}
	h, body, err := s.reader.read(s.position, s.expect)
	var path *fs.PathError
	if errors.As(err, &path) && !processEnds(err) {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if err != nil {
		return err
	}
	if err := h.decodeFrames(body, nil); err != nil {
		s.part.torn = true // or damaged: skip finds out
		return err
	}
	if h.forgets != s.seen {
		s.part.doubt()
	}
	forgets, err := s.part.add(s.position, h, body)
	s.seen = h.forgets + forgets
	s.position += pageCeil(h.length)
	s.expect++
	s.part.forgets = s.seen
	return err
}

// skip goes to the next round behind one that cannot be believed; false where there is none.
func (s *scanner) skip(why error) (goOn bool, err error) {
	later, at, err := s.findLater()
	if err != nil {
		return false, err
	}
	damage := &DamageError{
		File: s.file.name, Position: s.position, Generation: s.head.generation, FirstRound: s.expect, Reason: why.Error(),
	}
	switch {
	case at > 0:
		damage.LastRound = later.round - 1
		if later.forgets != s.seen {
			s.part.doubt()
		}
		s.position, s.expect, s.seen = at, later.round, later.forgets
		goOn = true
	case s.closed:
		damage.LastRound = s.rounds
		if s.forgets != s.seen {
			s.part.doubt()
		}
	case errors.Is(why, errUnreadable):
		damage.LastRound = s.expect
		s.part.doubt()
	default:
		round, forgets, err := s.decayed()
		if err != nil || !round {
			return false, err // the end, torn or not
		}
		damage.LastRound = s.expect
		if forgets {
			s.part.doubt()
		}
	}
	s.part.torn = false
	s.part.damage = append(s.part.damage, damage)
	return goOn, nil
}

// findLater finds the first round behind the position that is later than the expected one. Its header alone proves that
// all before it were written and synced.
func (s *scanner) findLater() (h roundHeader, at int64, err error) {
	b := make([]byte, min(scanBytes, max(0, s.end-s.position-pageBytes)))
	for from := s.position + pageBytes; from < s.end; from += int64(len(b)) {
		chunk := b[:min(int64(len(b)), s.end-from)]
		n, err := s.file.file.ReadAt(chunk, from)
		if err != nil && !errors.Is(err, io.EOF) {
			if processEnds(err) {
				return h, 0, err
			}
			n = s.readPages(chunk, from)
		}
		for i := 0; i < n; i += pageBytes {
			h, ok := decodeRoundHeader(chunk[i:n])
			if ok && h.generation == s.head.generation && h.salt == s.head.salt && h.round > s.expect {
				return h, from + int64(i), nil
			}
		}
	}
	return h, 0, nil
}

// readPages reads page by page where that cannot be done at once; those that cannot be read are zeros.
func (s *scanner) readPages(chunk []byte, from int64) int {
	for i := 0; i < len(chunk); i += pageBytes {
		page := chunk[i:min(i+pageBytes, len(chunk))]
		if n, err := s.file.file.ReadAt(page, from+int64(i)); err != nil {
			clear(page[n:])
		}
	}
	return len(chunk)
}
