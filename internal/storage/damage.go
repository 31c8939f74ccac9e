package storage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
)

// Damage that is found while a log is open is kept in a file beside its segments until it is discarded: the next start would
// not look below the recovery point. docs/format/segment.md describes the file.
const (
	marksName    = "damaged"
	marksMagic   = 0x50534452 // "PSDR"
	marksVersion = 1
	markSize     = 41
	marksMax     = 1 << 20
)

// Damages returns what is known to be damaged, in the order of offsets, as a copy.
func (l *Log) Damages() []Damage { return slices.Clone(l.view.Load().damages) }

// MarkDamaged takes note of damage that Scrub, CheckRange or Read has found while the log was open, durably. As with damage
// found at the opening, the log takes no appends and serves what lies around until DiscardDamage. What does not lie within the
// log is ignored, and so is what lies in a segment that was replaced since. marked says whether anything is new; an error
// beside it concerns the file alone, unless it wraps ErrSyncFailed, which is for ever.
func (l *Log) MarkDamaged(d Damage) (marked bool, err error) {
	l.syncMu.Lock() // no compaction replaces the segment meanwhile
	defer l.syncMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return false, err
	}
	d.From, d.To = max(d.From, l.start), min(d.To, l.end)
	if d.From >= d.To || (d.segment != nil && !slices.Contains(l.segs, d.segment)) ||
		slices.ContainsFunc(l.damages, func(k Damage) bool { return k.From <= d.From && d.To <= k.To }) {
		return false, nil
	}
	l.noteDamage(d)
	l.publish()
	err = writeFileAtomic(l.fs, path.Join(l.path, marksName), encodeMarks(l.damages, l.segs))
	if errors.Is(err, fsys.ErrSyncFailed) {
		return true, l.fail(ErrSyncFailed, err)
	}
	return true, err
}

// noteDamage adds to what is damaged. The caller holds mu.
func (l *Log) noteDamage(d Damage) {
	if slices.ContainsFunc(l.damages, func(k Damage) bool { return k.From <= d.From && d.To <= k.To }) {
		return
	}
	damages := append(slices.Clone(l.damages), d)
	slices.SortFunc(damages, func(a, b Damage) int { return int(max(-1, min(1, a.From-b.From))) })
	l.damages, l.damage = damages, &damages[0]
}

// forgetMarks removes the file of the damage, which is discarded, durably: what is appended there from now on is another thing, and
// its loss must not be taken for the old damage.
func (l *Log) forgetMarks() error {
	err := l.fs.Remove(path.Join(l.path, marksName))
	if fsys.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.fs.SyncDir(l.path)
}

// encodeMarks puts damage on record: of each the offsets, the base of its segment, the positions, and whether the digest alone
// tells.
func encodeMarks(damages []Damage, segs []*segment) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, marksMagic)
	b = be.AppendUint32(b, marksVersion)
	for _, d := range damages {
		base := segs[segmentOf(segs, d.From)].base
		if i := slices.IndexFunc(segs, func(s *segment) bool { return s.logName() == d.File }); i >= 0 {
			base = segs[i].base
		}
		for _, v := range []int64{d.From, d.To, base, d.Position, d.behind} {
			b = be.AppendUint64(b, uint64(v)) //nolint:gosec // same bits
		}
		kind := byte(0)
		if d.byDigest {
			kind = 1
		}
		b = append(b, kind)
	}
	return be.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// mark is one place of the file.
type mark struct {
	from, to, base, position, behind int64
	byDigest                         bool
}

// decodeMarks reads the file; false where it cannot be believed.
func decodeMarks(b []byte) ([]mark, bool) {
	be := binary.BigEndian
	n := len(b) - 12
	if n < 0 || n%markSize != 0 || be.Uint32(b[len(b)-4:]) != crc32.Checksum(b[:len(b)-4], castagnoli) ||
		be.Uint32(b) != marksMagic || be.Uint32(b[4:]) != marksVersion {
		return nil, false
	}
	marks := make([]mark, 0, n/markSize)
	for row := range slices.Chunk(b[8:len(b)-4], markSize) {
		m := mark{byDigest: row[markSize-1] != 0}
		for i, p := range []*int64{&m.from, &m.to, &m.base, &m.position, &m.behind} {
			*p = int64(be.Uint64(row[8*i:])) //nolint:gosec // same bits
		}
		marks = append(marks, m)
	}
	return marks, true
}

// loadMarks reads what was damaged when the log was open last. What cannot be read the scrub finds again.
func (r *recovery) loadMarks() error {
	data, err := readFile(r.log.fs, path.Join(r.log.path, marksName), marksMax)
	if errors.Is(err, fsys.ErrCrashed) {
		return err
	}
	if marks, ok := decodeMarks(data); err == nil && ok {
		r.places = marks
	}
	return nil
}

// remember looks again at what was damaged when the log was open last, and notes what still is.
func (r *recovery) remember() error {
	if len(r.places) == 0 {
		return nil
	}
	l := r.log
	l.publish()
	for _, m := range r.places {
		i := slices.IndexFunc(l.segs, func(s *segment) bool { return s.base == m.base })
		from, to := max(m.from, l.start), min(m.to, l.end)
		if i < 0 || from >= to {
			continue
		}
		if m.byDigest {
			l.noteDamage(Damage{
				From: from, To: to, File: l.segs[i].logName(), Position: m.position, behind: m.behind, byDigest: true,
				Reason: "the digest of the segment differed from that of its sealing, as an earlier scrub found",
			})
			continue
		}
		for from < to {
			res, err := l.CheckRange(from, to, to-from, true)
			if err != nil {
				return err
			}
			if res.Damage == nil {
				break
			}
			l.noteDamage(*res.Damage)
			from = max(res.Damage.To, from+1)
		}
	}
	l.publish()
	if len(l.damages) > 0 {
		return nil
	}
	return l.forgetMarks()
}
