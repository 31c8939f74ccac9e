package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

const (
	recoverHint   = "rebuilt from the segments when it is needed"
	recoverDamage = "the files are kept as .corrupt and fetched anew from the leader; a sole replica serves what lies around"
)

// logVerifier checks one log.
type logVerifier struct {
	o      *Offline
	log    offlineLog
	sum    LogSummary
	state  logState
	known  bool
	heads  headCheck
	unsure bool           // more may have been durable than the journal knows
	places []mark         // damage on file
	bound  int64          // no batch of the segment being walked reaches beyond
	replay *offlineReplay // nil where the sync journal holds nothing of it

	segs      []*segment
	snapshots []snapshotInfo // the sound ones, by offset

	epoch int32 // of the last sound batch
	lost  int64 // end of the damage that the last segment ends with: the offsets up to there keep their place
	cutAt int64 // where recovery ends the log because of what it finds there, -1 where nothing is cut

	// of the segment being walked
	marks   []walkMark // batch boundaries that hints point at are looked up here
	offsets hintCheck
	times   hintCheck
	maxTs   int64
	walked  int64 // the end of its last batch
	adrift  bool  // what lies before was no sound batch
}

// walkMark is a producer snapshot's claim about the segment being walked.
type walkMark struct {
	name string
	info snapshotInfo
	seen bool
}

// hintCheck walks the entries of an index along with the batches.
type hintCheck struct {
	name    string
	entries []indexEntry
	at      int
	bad     bool
}

func (v *logVerifier) run() (LogSummary, error) {
	o := v.o
	v.sum.Path = v.log.path
	if v.log.known {
		v.sum.Partition = v.log.tp.String()
		v.state, v.known = o.states[v.log.tp]
		v.replay, v.unsure = o.replays[v.log.tp], o.unsure[v.log.tp]
	}
	v.sum.RecoveryPoint, v.sum.HighWatermark = v.state.point(), v.state.highWatermark
	if err := v.list(); err != nil {
		return v.sum, err
	}
	if len(v.segs) == 0 {
		if v.state.point() > v.state.logStart {
			o.note(SeverityFault, v.log.path, -1, v.state.logStart, "there are no segments", "the log begins anew; the replica gives up its seat")
		}
		return v.sum, nil
	}
	v.sum.Segments = len(v.segs)
	v.sum.LogStartOffset = max(v.state.logStart, v.segs[0].base)
	if v.segs[0].base > v.state.logStart && v.known && !v.unsure {
		o.note(SeverityFault, v.segs[0].logName(), -1, v.state.logStart, fmt.Sprintf("the log should begin at offset %d", v.state.logStart), recoverDamage)
	}
	v.heads = headCheck{state: v.state, start: v.sum.LogStartOffset, firstDirty: readCleanedBelow(v.o.fs, v.log.path)}
	var end int64
	v.cutAt, v.epoch = -1, int32(model.NoLeaderEpoch)
	for i := range v.segs {
		next, err := v.segment(i)
		if err != nil {
			return v.sum, err
		}
		end = next
	}
	if v.cutAt >= 0 {
		end = v.cutAt
	}
	end = max(end, v.lost)
	v.sum.LogEndOffset = end
	if v.replay != nil {
		end = max(end, v.replay.end)
	}
	if end < v.state.point() {
		o.note(SeverityFault, v.segs[len(v.segs)-1].logName(), -1, end,
			fmt.Sprintf("the log ends at offset %d, and was durable up to %d", end, v.state.point()), "the replica gives up its seat and fetches what is missing")
	} else if end < v.state.highWatermark {
		o.note(SeverityFault, v.segs[len(v.segs)-1].logName(), -1, end,
			fmt.Sprintf("the log ends at offset %d, below its high watermark %d", end, v.state.highWatermark), "the replica gives up its seat and fetches what is missing")
	}
	return v.sum, nil
}

// list finds segments and snapshots, and notes what else lies in the directory.
func (v *logVerifier) list() error {
	infos, err := v.o.fs.List(v.log.path)
	if err != nil {
		return err
	}
	bases := map[int64]bool{}
	for _, info := range infos {
		if base, ok := parseFileName(info.Name, segmentSuffix); ok && !info.Dir {
			bases[base] = true
			v.segs = append(v.segs, newSegment(v.log.path, base))
		}
	}
	slices.SortFunc(v.segs, func(a, b *segment) int { return int(max(-1, min(1, a.base-b.base))) })
	var swaps []swapFile
	for _, info := range infos {
		name := path.Join(v.log.path, info.Name)
		if offset, ok := parseFileName(info.Name, producersSuffix); ok {
			v.snapshot(name, offset)
			continue
		}
		hint := false
		for _, suffix := range []string{offsetIndexSuffix, timeIndexSuffix, digestSuffix} {
			if base, ok := parseFileName(info.Name, suffix); ok {
				if hint = true; !bases[base] {
					v.o.note(SeverityNote, name, -1, -1, "its segment is not there", "ignored")
				}
			}
		}
		if base, end, ok := parseSwapName(info.Name); ok && !info.Dir {
			swaps = append(swaps, swapFile{name: name, base: base, end: end})
		}
		_, segment := parseFileName(info.Name, segmentSuffix)
		if !hint && (!segment || info.Dir) {
			if err := v.otherFile(name, info); err != nil {
				return err
			}
		}
	}
	for _, one := range swaps {
		v.swap(one)
	}
	return nil
}

// swapFile is a compacted segment that has not taken the place of those it was made of.
type swapFile struct {
	name      string
	base, end int64
}

// swap lets a compacted segment take its place, as the next opening does before it looks at anything.
func (v *logVerifier) swap(one swapFile) {
	v.segs = slices.DeleteFunc(v.segs, func(s *segment) bool { return one.base <= s.base && s.base < one.end })
	v.snapshots = slices.DeleteFunc(v.snapshots, func(info snapshotInfo) bool { return one.base < info.offset && info.offset < one.end })
	s := newSegment(v.log.path, one.base)
	s.as = one.name
	at := slices.IndexFunc(v.segs, func(have *segment) bool { return have.base > one.base })
	if at < 0 {
		at = len(v.segs)
	}
	v.segs = slices.Insert(v.segs, at, s)
}

func (v *logVerifier) snapshot(name string, offset int64) {
	data, err := readFile(v.o.fs, name, maxSnapshotBytes)
	var info snapshotInfo
	if err == nil {
		_, info, err = decodeProducers(data)
	}
	if err == nil && info.offset != offset {
		err = fmt.Errorf("%w: it is of offset %d", ErrBadSnapshot, info.offset)
	}
	if err != nil {
		v.o.note(SeverityHint, name, 0, offset, err.Error(), "the producers are rebuilt from an older snapshot and the segments")
		return
	}
	v.snapshots = append(v.snapshots, info)
}

// segment checks segment i, and returns the offset behind its last batch.
func (v *logVerifier) segment(i int) (next int64, err error) {
	s, last := v.segs[i], i == len(v.segs)-1
	f, err := v.o.fs.OpenRead(s.logName())
	if err != nil {
		return s.base, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return s.base, err
	}
	if v.bound, err = boundOf(v.o.fs, v.segs, i); err != nil {
		return s.base, err
	}
	s.next = 1<<63 - 1
	if !last {
		s.next = v.segs[i+1].base
	}
	v.begin(s)
	next, sum, whole, err := v.walk(s, f, size, last)
	if err != nil {
		return next, err
	}
	v.checkHints(whole)
	if whole && !last && next < s.next { // compaction keeps the last header of a segment
		return next, v.gap(i, size, next)
	}
	if whole && !last {
		s.size = size
		v.digest(s, sum)
	}
	return next, nil
}

// gap notes that segment i ends, at size, before the next one begins.
func (v *logVerifier) gap(i int, size, next int64) error {
	s := v.segs[i]
	severity, recovery := SeverityFault, v.recovery(next, CutMore)
	data, err := holdData(v.o.fs, v.segs[i+1:])
	if err != nil {
		return err
	}
	if !data && next >= v.state.point() {
		severity, recovery = SeverityNote, "the log ends there; the empty segments behind are removed"
	}
	kept := data && v.keeps(next)
	if kept {
		recovery = recoverDamage
	}
	v.o.note(severity, s.logName(), size, next, fmt.Sprintf("it ends at offset %d, and the next segment begins at %d", next, s.next), recovery)
	if !kept {
		v.cut(next)
	}
	return nil
}

// keeps says whether what is bad at an offset may have been durable though it lies at or above the recovery point: see recovery.keeps.
func (v *logVerifier) keeps(offset int64) bool {
	r := recovery{unsure: v.unsure, places: v.places}
	return r.keeps(offset)
}

// cut notes that recovery ends the log at an offset at the latest, where nothing is known to have been durable behind it.
func (v *logVerifier) cut(at int64) {
	if at >= v.state.recoveryPoint && v.cutAt < 0 {
		v.cutAt = at
	}
}

// begin loads the hints of a segment.
func (v *logVerifier) begin(s *segment) {
	v.maxTs, v.marks, v.walked, v.offsets, v.times = noTimestamp, nil, 0, hintCheck{}, hintCheck{}
	if s.as != "" {
		return // what describes the old one goes
	}
	load := func(name string, kind byte) hintCheck {
		data, err := readFile(v.o.fs, name, maxIndexBytes)
		if fsys.IsNotExist(err) {
			return hintCheck{name: name}
		}
		c := hintCheck{name: name}
		if err == nil {
			c.entries, err = decodeIndex(data, kind)
		}
		if err != nil {
			v.o.note(SeverityHint, name, int64(len(c.entries)/indexBlockCap*indexBlockSize), -1, err.Error(), recoverHint)
			c.bad = true
		}
		return c
	}
	v.offsets, v.times = load(s.indexName(), indexKindOffset), load(s.timeIndexName(), indexKindTime)
	for _, info := range v.snapshots {
		if info.segmentBase == s.base && info.position > 0 {
			v.marks = append(v.marks, walkMark{name: path.Join(v.log.path, fileName(info.offset, producersSuffix)), info: info})
		}
	}
}

// batchAt compares the hints with a batch at a position.
func (v *logVerifier) batchAt(h record.Header, at int64) {
	for c := &v.offsets; c.at < len(c.entries) && c.entries[c.at].value <= at; c.at++ {
		if e := c.entries[c.at]; e.value != at || e.key != h.BaseOffset {
			v.badEntry(c, fmt.Sprintf("offset %d at position %d", e.key, e.value), h.BaseOffset, at)
		}
	}
	v.maxTs, v.walked, v.epoch = max(v.maxTs, h.MaxTimestamp), at+int64(h.Size()), h.LeaderEpoch
	for c := &v.times; c.at < len(c.entries) && c.entries[c.at].value <= h.BaseOffset; c.at++ {
		if e := c.entries[c.at]; e.value != h.BaseOffset || e.key != h.MaxTimestamp || e.key != v.maxTs {
			v.badEntry(c, fmt.Sprintf("timestamp %d at offset %d", e.key, e.value), h.BaseOffset, at)
		}
	}
	for i := range v.marks {
		if m := &v.marks[i]; m.info.position == at+int64(h.Size()) {
			m.seen = m.info.offset >= h.NextOffset()
		}
	}
}

func (v *logVerifier) badEntry(c *hintCheck, entry string, offset, at int64) {
	if c.bad {
		return // once a file
	}
	c.bad = true
	position := int64(c.at/indexBlockCap*indexBlockSize + indexHeaderSize + c.at%indexBlockCap*indexEntrySize)
	found := fmt.Sprintf("the batch of offset %d is at position %d", offset, at)
	if offset < 0 {
		found = fmt.Sprintf("the segment ends at position %d", at)
	}
	v.o.note(SeverityHint, c.name, position, offset, fmt.Sprintf("entry %d says %s, %s", c.at, entry, found), recoverHint)
}

// checkHints notes what points behind the end of a segment that was walked whole.
func (v *logVerifier) checkHints(whole bool) {
	if !whole {
		return
	}
	for _, c := range []*hintCheck{&v.offsets, &v.times} {
		if c.at < len(c.entries) && !c.bad {
			v.badEntry(c, fmt.Sprintf("%d at %d", c.entries[c.at].key, c.entries[c.at].value), -1, v.walked)
		}
	}
	for _, m := range v.marks {
		if !m.seen {
			v.o.note(SeverityHint, m.name, -1, m.info.offset, fmt.Sprintf("no batch ends at position %d of segment %d", m.info.position, m.info.segmentBase),
				"the producers are rebuilt from an older snapshot and the segments")
		}
	}
}

func (v *logVerifier) digest(s *segment, sum batchDigest) {
	noted, err := s.loadDigest(v.o.fs)
	if s.as != "" {
		return // as above
	}
	switch {
	case fsys.IsNotExist(err):
	case err != nil:
		v.o.note(SeverityHint, s.digestName(), 0, s.base, err.Error(), "written anew by the next scrub")
	case noted.NextOffset != s.next || noted.SizeBytes != s.size || noted.BaseOffset != s.base:
		v.o.note(SeverityHint, s.digestName(), 8, s.base, fmt.Sprintf("it is of offsets %d to %d in %d bytes, the segment is another", noted.BaseOffset, noted.NextOffset-1, noted.SizeBytes),
			"written anew by the next scrub")
	case noted.Sum != sum.sum || noted.Batches != sum.batches:
		v.o.note(SeverityFault, s.logName(), -1, s.base, fmt.Sprintf("its digest is %016x of %d batches, %016x of %d when it was sealed", sum.sum, sum.batches, noted.Sum, noted.Batches),
			"found by the scrub; "+recoverDamage)
	default:
		v.sum.Digests++
	}
}

// recovery says what opening the log would do about bytes at an offset where no batch is.
func (v *logVerifier) recovery(offset int64, kind CutKind) string {
	switch {
	case offset < v.state.point() && kind != CutZeros:
		return recoverDamage
	case offset < v.state.point():
		return "the log ends there; the replica gives up its seat and fetches what is missing"
	case kind == CutZeros:
		return "cut off: space that was asked for ahead"
	case kind == CutUnfinishedBatch:
		return "cut off: a write that a crash interrupted, never acknowledged as durable"
	case kind == CutNone, kind == CutMore:
		return "the log ends there, what follows is cut; the replica gives up its seat and fetches what is missing"
	default:
		return ""
	}
}

// epochAt is the leader epoch that the journal knows for an offset.
func (v *logVerifier) epochAt(offset int64) model.LeaderEpoch {
	c := epochCache{starts: v.state.epochs}
	return c.at(offset)
}
