package record

import "fmt"

// Scanner splits a region of consecutive batches, as read from a segment or a fetch response; the last batch may be cut
// off. It checks each header and the length, neither the CRC nor the records, and copies nothing. The zero value is not
// useful; make one with NewScanner. It is for one goroutine.
//
//	s := record.NewScanner(region, record.Limits{})
//	for s.Next() {
//		use(s.Header(), s.Batch())
//	}
//	if err := s.Err(); err != nil { ... }
type Scanner struct {
	region []byte
	lim    Limits
	offset int // where the next batch begins
	batch  []byte
	header Header
	need   int
	err    error
}

// NewScanner returns a Scanner over region, which it keeps.
func NewScanner(region []byte, lim Limits) *Scanner { return &Scanner{region: region, lim: lim} }

// Next moves to the next whole batch and reports whether there is one. It stops at the end, at a batch that the region
// holds only in part (no error), and at a bad header (Err).
func (s *Scanner) Next() bool {
	s.batch, s.need = nil, 0
	rest := s.region[s.offset:]
	if s.err != nil || len(rest) == 0 {
		return false
	}
	if len(rest) < HeaderSize {
		s.need = HeaderSize
		return false
	}
	h, err := ParseHeader(rest)
	if err == nil && h.Size() > s.lim.maxBytes() {
		err = fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, h.Size(), s.lim.maxBytes())
	}
	if err != nil {
		s.err = fmt.Errorf("batch at byte %d: %w", s.offset, err)
		return false
	}
	if h.Size() > len(rest) {
		s.need = h.Size()
		return false
	}
	s.header, s.batch = h, rest[:h.Size():h.Size()]
	s.offset += h.Size()
	return true
}

// Header returns the header of the current batch.
func (s *Scanner) Header() Header { return s.header }

// Batch returns the current batch, which aliases the region.
func (s *Scanner) Batch() []byte { return s.batch }

// Err returns why the scan stopped at a bad header (an error of ParseHeader, or ErrTooLarge), or nil.
func (s *Scanner) Err() error { return s.err }

// Offset returns how many bytes of the region the whole batches so far take; the current one is included.
func (s *Scanner) Offset() int { return s.offset }

// Rest returns what follows those batches: empty at a clean end, a cut-off batch, or the bytes that Err is about.
func (s *Scanner) Rest() []byte { return s.region[s.offset:] }

// Need returns, after Next has stopped at a batch that is cut off, how many bytes from Offset on the region must hold
// for Next to go on: HeaderSize while the header itself is cut off, then the size of the batch. Otherwise it is 0.
func (s *Scanner) Need() int { return s.need }

// SplitBatches returns the whole batches at the beginning of region, as slices of it, and what follows them: a cut-off
// batch or nothing. A bad header gives the batches before it, the rest from it on, and the error.
func SplitBatches(region []byte, lim Limits) (batches [][]byte, rest []byte, err error) {
	s := NewScanner(region, lim)
	for s.Next() {
		batches = append(batches, s.Batch())
	}
	return batches, s.Rest(), s.Err()
}
