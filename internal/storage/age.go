package storage

import (
	"errors"

	"github.com/penstock-io/penstock/internal/record"
)

// RollAged seals the active segment where it holds records and was begun maxAgeMs or more before nowMs (ms since 1970), and
// says whether it did. A segment begins with its first append; on a follower, when it is looked at first after that; after a
// restart, at the timestamp of its first batch. Errors are those of Roll.
func (l *Log) RollAged(nowMs, maxAgeMs int64) (rolled bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return false, err
	}
	if l.pos == 0 || l.damage != nil {
		return false, nil
	}
	if l.begun == 0 {
		l.begun = l.beginOfActive(nowMs)
	}
	if nowMs-l.begun < maxAgeMs {
		return false, nil
	}
	return true, l.roll()
}

// beginOfActive is when the active segment was begun where the append was not seen: now, or for one that was found at the
// opening the timestamp of its first batch. The caller holds mu.
func (l *Log) beginOfActive(nowMs int64) int64 {
	if !l.found {
		return nowMs
	}
	head := make([]byte, record.HeaderSize)
	f, err := l.active().open(l.fs)
	if err != nil {
		return nowMs
	}
	n, err := readFull(f, head, 0)
	if err = errors.Join(err, f.release()); err != nil || n < len(head) {
		return nowMs
	}
	h, err := record.ParseHeader(head)
	if err != nil || h.MaxTimestamp <= 0 {
		return nowMs
	}
	return min(h.MaxTimestamp, nowMs)
}

// TrimmedBy tells what Trim to start would let go of: the segments that lie wholly below, and their bytes.
func (l *Log) TrimmedBy(start int64) (segments int, bytes int64) {
	v := l.view.Load()
	for _, s := range v.segs[:len(v.segs)-1] {
		if s.next > start {
			break
		}
		segments++
		bytes += s.size
	}
	return segments, bytes
}
