package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// errRetry says that a read saw a truncation half-way and starts over.
var errRetry = errors.New("the log was truncated meanwhile")

// Read returns whole batches as they lie on disk: from the one that holds from (or the first behind it) on, up to
// maxBytes and below upTo, which is exclusive (the HighWatermark for consumers, the LogEndOffset for followers; a
// batch that upTo cuts is not returned). The first batch is returned whole even when it is larger than maxBytes. buf
// is used when its capacity is large enough, otherwise a new buffer is made; its content is overwritten either way.
//
// Batches are checked against their CRC unless this process has appended them itself to the segment that is still active.
//
// Offsets below LogStartOffset or above LogEndOffset give a *RangeError; between upTo and LogEndOffset there is no error
// and no data. Errors wrap ErrCorruptLog within damage, ErrLogClosed, or the file system's. Read may run beside the writer.
func (l *Log) Read(from int64, maxBytes int, upTo int64, buf []byte) (ReadResult, error) {
	q := readRequest{from: from, upTo: upTo, maxBytes: maxBytes}
	for {
		gen := l.generation.Load()
		v := l.view.Load()
		if gen%2 != 0 {
			l.waitForWriter()
			continue
		}
		res, err := l.readView(v, q, buf)
		if l.generation.Load() != gen || errors.Is(err, errRetry) {
			continue
		}
		if errors.Is(err, errIndexDoubt) {
			if err := l.rebuildIndex(from); err != nil {
				return ReadResult{}, err
			}
			q.walk = true
			continue
		}
		if err != nil {
			return ReadResult{}, fmt.Errorf("read log %s at offset %d: %w", l.tp, from, err)
		}
		return res, nil
	}
}

// rebuildIndex writes the indexes of the segment that holds offset anew from its batches. Where one of those is bad it does what
// it can: the read that asks, and from now on walks, meets it and says where.
func (l *Log) rebuildIndex(offset int64) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := segmentOf(l.segs, offset)
	s := l.segs[i]
	f, err := s.open(l.fs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	if i == len(l.segs)-1 {
		if err = walkHeaders(f, l.pos); err == nil {
			err = l.rebuildActive(f, l.pos)
			l.publish()
		}
	} else {
		x := newSegmentIndex(s)
		if err = x.removeFiles(l.fs); err == nil {
			err = x.walk(l.fs, f, s.size, l.cfg.IndexIntervalBytes)
			x.finish(l.fs)
		}
	}
	if errors.Is(err, errBadBatch) {
		return nil
	}
	return err
}

// walkHeaders says whether the batches of a file up to end follow each other.
func walkHeaders(f fsys.File, end int64) error {
	w := newWalker(f, 0, end, false)
	for {
		if _, ok, err := w.next(); err != nil || !ok {
			return err
		}
	}
}

// waitForWriter returns once no truncation is under way.
func (l *Log) waitForWriter() {
	l.mu.Lock()
	defer l.mu.Unlock()
}

func (l *Log) readView(v *view, q readRequest, buf []byte) (ReadResult, error) {
	none := ReadResult{FirstOffset: q.from, NextOffset: q.from}
	switch {
	case v.closed:
		return none, ErrLogClosed
	case q.from < v.start || q.from > v.end:
		return none, &RangeError{Offset: q.from, LogStartOffset: v.start, End: v.end}
	}
	q.upTo = min(q.upTo, v.end)
	if q.from >= q.upTo {
		return none, nil
	}
	for i := range v.damages {
		if d := &v.damages[i]; q.from < d.From {
			q.upTo = min(q.upTo, d.From)
			break
		} else if q.from < d.To {
			return none, &CorruptError{File: d.File, Position: d.Position, Offset: d.From, Reason: d.Reason}
		}
	}
	for i := segmentOf(v.segs, q.from); i < len(v.segs) && v.segs[i].base < q.upTo; i++ {
		var err error
		if q.pos, q.sure, err = l.position(v, i, q); err != nil {
			return none, err
		}
		q.least, q.next = leastBase(v, i, q)
		for j := range v.damages { // nothing of what is damaged is looked at
			if d := &v.damages[j]; d.behind > q.pos && q.from >= d.To && d.File == v.segs[i].logName() {
				q.pos, q.sure, q.least, q.next = d.behind, -1, 0, -1
			}
		}
		res, found, err := l.readSegment(v, i, q, buf)
		if err != nil || found {
			return res, err
		}
		if next := v.nextOf(i); q.from < next { // the offset is there, and a segment ends where its last batch does
			return none, &CorruptError{
				File: v.segs[i].logName(), Position: v.limit(i), Offset: q.from, Reason: fmt.Sprintf("no batch holds the offset, and it ends at %d", next),
			}
		}
	}
	return none, nil
}

// position looks up where in segment i to begin looking for q.from. sure is the base offset that the index promises
// there, or -1.
func (l *Log) position(v *view, i int, q readRequest) (pos, sure int64, err error) {
	if i == len(v.segs)-1 && len(v.index) > 0 && v.index[0].key <= q.from {
		e := v.index[floorEntry(v.index, q.from)]
		if q.walk { // it was made of the batches just now: what is wrong there is wrong with them, or with one before
			return 0, -1, nil
		}
		return e.value, e.key, nil
	}
	if hint := l.readOn.Load(); hint != nil && hint.offset == q.from && hint.segment == v.segs[i] {
		return hint.pos, -1, nil
	}
	if q.walk || v.limit(i) <= v.interval {
		return 0, -1, nil
	}
	if x := v.segs[i].entries.Load(); x != nil {
		if at := floorEntry(x.offsets, q.from); at >= 0 {
			return x.offsets[at].value, x.offsets[at].key, nil
		}
		return 0, -1, nil
	}
	e, found, err := lookupIndexFile(l.fs, v.segs[i].indexName(), indexKindOffset, q.from)
	if isMediumError(err) {
		return 0, -1, nil // the batches tell as well
	}
	if err != nil || !found {
		return 0, -1, err
	}
	if e.value < 0 || e.value > v.limit(i)-record.HeaderSize {
		return 0, -1, fmt.Errorf("%w: position %d of %d", errIndexDoubt, e.value, v.limit(i))
	}
	return e.value, e.key, nil
}

// nextOf is the first offset behind segment i.
func (v *view) nextOf(i int) int64 {
	if i == len(v.segs)-1 {
		return v.end
	}
	return v.segs[i].next
}

// leastBase is the offset that no batch at q.pos begins below, and the one that it has where none are left out: where a segment begins,
// and where the last read ended. The first segment may begin within a batch.
func leastBase(v *view, i int, q readRequest) (least, next int64) {
	switch {
	case q.pos == 0 && i > 0:
		return v.segs[i].base, v.segs[i].base
	case q.pos == 0:
		return 0, v.segs[0].base
	case q.sure < 0: // position had it from a readHint
		return q.from, q.from
	default:
		return 0, q.sure
	}
}

// readHint says where the last read of a sealed segment ended: who reads on there needs no look-up.
type readHint struct {
	offset  int64
	segment *segment
	pos     int64
}

// readRequest is what readSegment is asked for.
type readRequest struct {
	from, upTo int64
	maxBytes   int
	pos, sure  int64
	least      int64 // no batch at pos begins below it
	next       int64 // the offset of the batch at pos where none are left out before it; -1 where that is not known
	end        int64 // no offset of the segment reaches it
	trust      int64 // batches from this position on are not checked against their CRC
	walk       bool  // the index was rebuilt just now and is not to be asked again
}

// readSegment reads batches of one segment. found is false when it has none at or above q.from.
func (l *Log) readSegment(v *view, i int, q readRequest, buf []byte) (res ReadResult, found bool, err error) {
	res = ReadResult{FirstOffset: q.from, NextOffset: q.from}
	limit := v.limit(i)
	f, err := v.segs[i].open(l.fs)
	if err != nil {
		return res, false, l.openFailed(v, err)
	}
	defer func() { err = errors.Join(err, f.release()) }()
	f.readAhead(!l.dir.backlog.Crowded())
	began := q.pos
	q.end, q.trust = v.end, v.own
	if i < len(v.segs)-1 {
		q.end, q.trust = v.segs[i].next, limit
	}
	want := max(q.maxBytes, record.HeaderSize)
	for q.pos < limit {
		n := int(min(int64(want), limit-q.pos))
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		got, err := readFull(f, buf, q.pos)
		if isMediumError(err) && got >= record.HeaderSize {
			buf, n, want = buf[:got], got, -1
		} else if isMediumError(err) {
			return res, false, l.badRead(v, i, q, err.Error())
		} else if err != nil {
			return res, false, err
		}
		if got < n {
			return res, false, l.badRead(v, i, q, "the file is shorter than it was")
		}
		w := selectBatches(buf, q, limit-q.pos)
		switch {
		case w.end > w.begin:
			if fault := checkBatches(buf, &w, q); fault != "" {
				q.pos += int64(w.begin)
				return res, false, l.badRead(v, i, q, fault)
			}
			if i < len(v.segs)-1 {
				l.readOn.Store(&readHint{offset: w.next, segment: v.segs[i], pos: q.pos + int64(w.end)})
			}
			return ReadResult{
				Data: buf[w.begin:w.end], FirstOffset: w.first, NextOffset: w.next,
				BytesLeft: limit - q.pos - int64(w.end) + v.bytesBehind(i),
			}, true, nil
		case w.fault != "":
			q.pos += int64(w.begin)
			return res, false, l.badRead(v, i, q, w.fault)
		case w.stop:
			return res, true, nil
		}
		if want < 0 && w.begin == 0 {
			return res, false, l.badRead(v, i, q, err.Error())
		}
		// Nothing selected yet: go on behind what was skipped, with room for the whole next batch.
		if q.pos, q.sure, q.least = q.pos+int64(w.begin), -1, max(q.least, w.next); w.begin > 0 {
			q.next = q.least
		}
		want = max(q.maxBytes, record.HeaderSize, w.need)
		if q.pos-began > v.skip && !q.walk {
			return res, false, fmt.Errorf("%w: it skips %d bytes", errIndexDoubt, q.pos-began)
		}
	}
	return res, false, nil
}

// openFailed explains a segment that cannot be opened: one that was trimmed or truncated meanwhile is tried anew.
func (l *Log) openFailed(v *view, err error) error {
	if now := l.view.Load(); fsys.IsNotExist(err) && now != v && (now.segs[0] != v.segs[0] || now.end < v.end) {
		return errRetry
	}
	return err
}

// badRead explains bytes that should have been a batch: a truncation meanwhile, a wrong index, or damage.
func (l *Log) badRead(v *view, i int, q readRequest, fault string) error {
	if l.generation.Load()%2 != 0 {
		return errRetry
	}
	if q.pos != 0 && q.sure >= 0 {
		return fmt.Errorf("%w: %s at position %d", errIndexDoubt, fault, q.pos)
	}
	return &CorruptError{File: v.segs[i].logName(), Position: q.pos, Offset: q.from, Reason: fault}
}

// selection is what selectBatches found in a buffer.
type selection struct {
	begin, end  int   // of the selected batches; begin is where to go on when there are none
	first, next int64 // their first offset, and one above their last; without any, one above the last that was skipped
	need        int   // what to read for the batch at begin when the buffer ends too early
	stop        bool  // the batch at begin lies at or above upTo
	fault       string
}

// selectBatches walks the heads of the batches in buf, skips those below q.from, and selects whole ones below q.upTo.
// room is what is left of the segment from the buffer's start on.
func selectBatches(buf []byte, q readRequest, room int64) (s selection) {
	be := binary.BigEndian
	if room < record.HeaderSize {
		s.fault = fmt.Sprintf("%d bytes are too few for a batch", room)
		return s
	}
	at, next, expect := 0, q.least, q.next
	for at+record.HeaderSize <= len(buf) {
		b := buf[at:]
		fault := ""
		base := int64(be.Uint64(b)) //nolint:gosec // same bits
		size := int64(be.Uint32(b[8:])) + 12
		last := base + int64(be.Uint32(b[23:]))
		switch {
		case size < record.HeaderSize || int64(at)+size > room || int8(b[16]) != record.Magic: //nolint:gosec // same bits
			fault = "no batch begins there"
		case at == 0 && q.sure >= 0 && base != q.sure:
			fault = fmt.Sprintf("batch %d where batch %d should be", base, q.sure)
		case base < next || last < base || last >= q.end:
			fault = fmt.Sprintf("a batch of offsets %d to %d between %d and %d", base, last, next, q.end)
		}
		if fault == "" && expect >= 0 && base > expect && int64(at)+size+record.HeaderSize <= room {
			// Offsets are left out: rightly, or the batch says more than its own.
			behind := at + int(size)
			if behind+record.HeaderSize > len(buf) {
				if s.end == s.begin {
					s.need = behind - at + record.HeaderSize
				}
				return s
			}
			if h, err := record.ParseHeader(buf[behind:]); err == nil && h.BaseOffset >= expect && h.BaseOffset <= last {
				fault = fmt.Sprintf("a batch of offsets %d to %d, and the one behind begins at %d", base, last, h.BaseOffset)
			}
		}
		if fault == "" && last >= q.upTo {
			s.stop = true
			return s
		}
		if fault != "" {
			if s.end == s.begin { // otherwise the next read finds it
				s.fault = fault
			}
			return s
		}
		next, expect = last+1, last+1
		whole := int64(at)+size <= int64(len(buf))
		if last < q.from {
			at += int(size)
			s.begin, s.end, s.next = at, at, next
			if !whole {
				return s
			}
			continue
		}
		if !whole {
			s.need = int(size)
			return s
		}
		if s.end == s.begin {
			s.begin, s.first = at, base
		}
		at += int(size)
		s.end, s.next = at, last+1
	}
	return s
}

// checkBatches checks the CRC of the selected batches, and lets the selection end before the first bad one. It returns what
// is wrong where that is the first of all.
func checkBatches(buf []byte, s *selection, q readRequest) (fault string) {
	be := binary.BigEndian
	for at := s.begin; at < s.end && q.pos+int64(at) < q.trust; {
		size := int(be.Uint32(buf[at+8:])) + 12
		if err := record.CheckCRC(buf[at : at+size]); err != nil {
			if at == s.begin {
				return err.Error()
			}
			s.end, s.next = at, int64(be.Uint64(buf[at:])) //nolint:gosec // same bits
			return ""
		}
		at += size
	}
	return ""
}
