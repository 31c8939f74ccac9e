package storage

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// machineStep is one kind of operation: its letter in scripts, and how often it is drawn.
type machineStep struct {
	letter byte
	name   string
	weight int
	run    func(x *logMachine)
}

// machineSteps are all of them. Those whose run is nil end the process in the way of their name.
func machineSteps() []machineStep {
	return []machineStep{
		{'a', "append", 30, (*logMachine).appendLeader},
		{'f', "follow", 10, (*logMachine).appendFollower},
		{'r', "resend", 4, (*logMachine).resend},
		{'s', "sync", 12, (*logMachine).sync},
		{'c', "checkpoint", 8, (*logMachine).checkpoint},
		{'o', "roll", 3, func(x *logMachine) {
			if err := x.log.Roll(); err != nil {
				x.failed(err)
			}
		}},
		{'e', "epoch", 3, func(x *logMachine) {
			if err := x.log.AssignEpochStart(x.m.epoch+1, x.m.end); err != nil {
				x.failed(err)
			} else {
				x.noteEpoch(x.m.epoch+1, x.m.end)
			}
		}},
		{'t', "trim", 3, (*logMachine).trim},
		{'d', "retain", 3, (*logMachine).retain},
		{'u', "truncate", 5, (*logMachine).truncate},
		{'k', "compact", 4, (*logMachine).compact},
		{'b', "scrub", 2, (*logMachine).scrub},
		{'y', "decay", 2, (*logMachine).decay},
		{'z', "reset", 1, (*logMachine).reset},
		{'l', "settle", 2, func(x *logMachine) {
			for range 2 {
				if err := x.dir.Settle(); err != nil {
					x.failed(err)
					x.weak = true
				}
			}
		}},
		{'m', "mark", 1, (*logMachine).mark},
		{'n', "unmark", 1, (*logMachine).unmark},
		{'x', "clean", 2, nil},
		{'w', "unclean", 1, nil},
		{'i', "kill", 2, nil},
		{'p', "power", 4, nil},
	}
}

// step runs one kind of operation and compares. What is broken afterwards is opened again.
func (x *logMachine) step(s machineStep, compare bool) {
	x.ops++
	x.logf("step %s, [%d, %d), durable %d", s.name, x.m.start, x.m.end, x.m.durable)
	if s.run == nil {
		x.restart(s.name)
	} else {
		s.run(x)
	}
	if x.crashed || (!compare && x.fails == 0) {
		return
	}
	x.check()
	if x.deaf {
		x.weak = true
		x.restart("power")
		x.check()
	}
	if x.broken() {
		x.restart(pick(x.d, "how", "unclean", "kill", "power"))
		x.check()
	}
	x.fails = 0
}

func (x *logMachine) appendLeader() {
	if x.d.between("newEpoch", 0, 5) == 0 {
		x.m.epoch++
	}
	data, h := x.build()
	before := x.log.LogEndOffset()
	if x.swept {
		at, as := x.m.end, h
		as.BaseOffset, as.LeaderEpoch = at, int32(x.m.epoch)
		x.m.tried = []modelBatch{{as, stamped(data, at, x.m.epoch)}}
	}
	cut := x.d.between("piece", 0, int64(len(data)))
	res, err := x.log.AppendLeader([][]byte{data[:cut], data[cut:]}, h, x.m.epoch, 5000)
	if err != nil {
		x.failed(err)
		if x.log.LogEndOffset() != before {
			x.fatalf("a refused batch moved the end from %d to %d", before, x.log.LogEndOffset())
		}
		return
	}
	if res.BaseOffset != x.m.end || res.Duplicate {
		x.fatalf("append at %d: %+v", x.m.end, res)
	}
	h.BaseOffset, h.LeaderEpoch = res.BaseOffset, int32(x.m.epoch)
	x.took(h, stamped(data, res.BaseOffset, x.m.epoch))
	x.m.tried = nil
}

func (x *logMachine) resend() {
	for _, b := range slices.Backward(x.m.batches) {
		if !b.h.HasProducer() || x.m.producers[b.h.ProducerID].epoch != b.h.ProducerEpoch {
			continue
		}
		res, err := x.log.AppendLeader([][]byte{b.data}, b.h, x.m.epoch, 6000)
		if err != nil {
			x.failed(err)
		} else if !res.Duplicate || res.BaseOffset != b.h.BaseOffset || res.LeaderEpoch != model.LeaderEpoch(b.h.LeaderEpoch) {
			x.fatalf("resent batch at %d: %+v", b.h.BaseOffset, res)
		}
		return
	}
}

func (x *logMachine) appendFollower() {
	var all []byte
	var batches []modelBatch
	x.learnProducers()
	saved := maps.Clone(x.m.producers)
	next, epoch := x.m.end, x.m.epoch
	for range x.d.between("batches", 1, 4) {
		data, h := x.build()
		if x.d.between("newEpoch", 0, 5) == 0 {
			epoch++
		}
		if x.d.between("gap", 0, 5) == 0 {
			next += 3
		}
		h.BaseOffset, h.LeaderEpoch = next, int32(epoch)
		data = stamped(data, next, epoch)
		all = append(all, data...)
		batches = append(batches, modelBatch{h, data})
		next = h.NextOffset()
		advance(x.m.producers, h)
	}
	x.m.producers = saved
	x.follow(all, batches)
}

// follow appends batches as a follower.
func (x *logMachine) follow(all []byte, batches []modelBatch) {
	_, err := x.log.AppendFollower(all, true)
	if err != nil {
		x.failed(err)
	}
	for len(batches) > 0 && batches[0].h.NextOffset() <= x.log.LogEndOffset() {
		x.took(batches[0].h, batches[0].data)
		batches = batches[1:]
	}
	if err == nil && len(batches) > 0 {
		x.fatalf("follower took up to %d: %d batches are left", x.m.end, len(batches))
	}
	if x.swept {
		x.m.tried = batches
	}
	for _, b := range batches { // the journal may have been told of it
		x.m.epoch = max(x.m.epoch, model.LeaderEpoch(b.h.LeaderEpoch))
	}
}

func (x *logMachine) sync() {
	var end int64
	var err error
	if x.d.between("journaled", 0, 1) == 0 {
		err = x.dir.SyncJournaled(x.log)
		end = x.log.DurableEnd()
	} else {
		end, err = x.log.Sync()
	}
	if err != nil {
		x.failed(err)
		x.weak = true
		return
	}
	if end != x.m.end || x.log.DurableEnd() != end {
		x.fatalf("synced to %d, durable %d of %d", end, x.log.DurableEnd(), x.m.end)
	}
	x.m.durable = end
}

func (x *logMachine) checkpoint() {
	hw := x.d.between("hw", min(x.m.savedHW, x.m.durable), x.m.durable)
	if err := x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: hw}); err != nil {
		x.failed(err)
		x.weak = x.weak || errors.Is(err, ErrJournalFailed)
	} else if x.log.Failed() == nil {
		x.m.savedStart, x.m.savedHW = x.m.start, hw
	}
}

// trimmedTo takes over that the log starts at start now.
func (x *logMachine) trimmedTo(start int64) {
	if start == x.m.start {
		return
	}
	x.m.start = start
	c := epochCache{starts: x.m.epochs}
	c.truncateStart(start)
	x.m.epochs = c.starts
}

func (x *logMachine) trim() {
	to := x.d.between("trim", x.m.start, max(x.m.start, x.m.durable)) // at most the HighWatermark
	if err := x.log.Trim(to); err != nil {
		x.failed(err)
		return
	}
	x.trimmedTo(to)
}

// retain deletes by age or size, and checks that only what is old, or beyond the size, has gone.
func (x *logMachine) retain() {
	const now = 1500
	p := RetentionPolicy{Delete: true, Ms: -1, Bytes: -1}
	if x.d.between("byTime", 0, 1) == 0 {
		p.Ms = x.d.between("retention", 30, 600)
	} else {
		p.Bytes = x.d.between("bytes", 0, 6000)
	}
	before, size := x.log.LogStartOffset(), x.log.SizeBytes()
	res, err := x.log.RetentionStep(p, RetentionInput{NowMs: now, HighWatermark: x.m.savedHW})
	if err != nil {
		x.failed(err)
		return
	}
	start := x.log.LogStartOffset()
	if res.Start != start || start < before || (start > before && start > x.m.savedHW) {
		x.fatalf("retention moved the start from %d to %d: %+v, high watermark %d", before, start, res, x.m.savedHW)
	}
	if p.Bytes >= 0 && start > before && x.log.SizeBytes() < min(p.Bytes, size) {
		x.fatalf("%d bytes are left of %d, %d were to be kept", x.log.SizeBytes(), size, p.Bytes)
	}
	for _, b := range x.m.batches {
		if p.Ms < 0 || x.m.cleaning || b.h.BaseOffset >= start {
			break // of a log that was just cleaned it is not known which records were left to go
		}
		for _, r := range recordsOf(x.fatalf, b.data) {
			if r.offset >= before && r.offset < start && now-r.ts <= p.Ms {
				x.fatalf("record %d of time %d is gone at %d: %+v", r.offset, r.ts, now, p)
			}
		}
	}
	x.trimmedTo(start)
	if _, err := x.log.ReleaseTrimmed(); err != nil {
		x.failed(err)
	}
}

func (x *logMachine) truncate() {
	low := max(x.m.start, min(x.m.savedHW, x.m.end), x.log.CheckpointedHighWatermark())
	if low > x.m.end {
		return
	}
	to := x.d.between("truncate", low, x.m.end)
	keep := x.batchesBelow(to)
	target := x.m.end
	if keep < len(x.m.batches) {
		target = x.endOf(keep)
	}
	if x.m.cleaning || (x.m.compacted && target <= x.m.start) { // the batch before may be gone
		target = x.m.base
	}
	end, err := x.log.TruncateTo(to)
	if err != nil {
		x.failed(err)
		if x.log.Failed() != nil { // opened again it ends somewhere between
			x.m.durable = min(x.m.durable, target)
			x.m.savedStart = min(x.m.savedStart, target)
			x.weak = true
		}
		return
	}
	if end > to || (keep > 0 && end < x.m.batches[keep-1].h.NextOffset()) {
		x.fatalf("truncated to %d, asked for %d", end, to)
	}
	x.cutTo(end)
	x.m.epochs = slices.DeleteFunc(slices.Clone(x.m.epochs), func(e EpochStart) bool { return e.StartOffset >= to || e.StartOffset > end })
}

// reset lets the log begin anew behind its end, or at it with what it knows of producers.
func (x *logMachine) reset() {
	start := x.m.end + x.d.between("beyond", 0, 5)
	var producers []byte
	if start == x.m.end && x.d.between("snapshot", 0, 1) == 0 {
		var err error
		if producers, err = x.log.ProducerSnapshot(start); err != nil {
			x.failed(err)
			return
		}
	}
	if err := x.log.Reset(start, producers); err != nil {
		x.failed(err)
		if x.log.Failed() != nil {
			x.m.resetTo, x.weak = start, true
		}
		return
	}
	x.begunAt(start, producers)
}

// begunAt takes over that the log is empty at start.
func (x *logMachine) begunAt(start int64, producers []byte) {
	x.m.batches, x.m.epochs, x.m.carried, x.m.compacted, x.k.records = nil, nil, producers, false, nil
	x.m.sent, x.m.tried = nil, nil
	clear(x.k.cleanedAt)
	x.m.base, x.m.start, x.m.end, x.m.durable, x.m.savedStart = start, start, start, start, start
	x.replayProducers()
}

func (x *logMachine) mark() {
	if err := x.log.MarkOSMode(); err != nil {
		x.failed(err)
		x.m.unmarked = true
		x.weak = x.weak || x.log.Failed() != nil
		return
	}
	if !x.m.marked || x.m.unmarked { // it was synced with the mark
		x.m.durable = max(x.m.durable, x.log.DurableEnd())
	}
	x.m.marked = true
}

func (x *logMachine) unmark() {
	if err := x.log.ClearOSMode(); err != nil {
		x.failed(err)
		x.m.unmarked = true
		return
	}
	x.m.marked, x.m.unmarked = false, false
}

// compact runs a cleaning, or begins one that is given up.
func (x *logMachine) compact() {
	if x.d.between("settled", 0, 1) == 0 { // all of it may be cleaned
		x.sync()
		if x.weak {
			return
		}
		if err := x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: x.m.end}); err != nil {
			x.failed(err)
			x.weak = x.weak || errors.Is(err, ErrJournalFailed)
			return
		}
		x.m.savedStart, x.m.savedHW = x.m.start, x.m.end
	}
	x.k.log, x.k.end, x.k.now = x.log, x.m.end, x.k.now+20
	x.m.cleaning, x.m.compacted = true, true
	c := NewCleaner(CleanerOptions{MapBytes: pick[int64](x.d, "map", 1, 1<<20)})
	if err := x.k.clean(c, x.d.between("lowest", 0, x.m.end), pick(x.d, "stop", 1, 5, 20, math.MaxInt)); err != nil {
		x.failed(err)
	}
}

// adopt checks what cleanings have left of the log, and takes it over into the model.
func (x *logMachine) adopt() {
	if !x.m.cleaning || x.log.Failed() != nil {
		return
	}
	x.m.cleaning = false
	x.k.end, x.k.log = x.m.end, x.log
	x.k.check()
	var kept []modelBatch
	for _, b := range x.m.batches {
		if b.h.LastOffset() < x.m.start {
			kept = append(kept, b)
		}
	}
	for at := x.m.start; at < x.m.end; {
		res, err := x.log.Read(at, 1<<20, x.m.end, nil)
		x.must(err)
		if len(res.Data) == 0 {
			break
		}
		at = res.NextOffset
		s := record.NewScanner(res.Data, record.Limits{})
		for s.Next() {
			kept = append(kept, modelBatch{s.Header(), bytes.Clone(s.Batch())})
		}
		x.must(s.Err())
	}
	x.thinnedTo(kept)
}

// thinnedTo takes over batches that a cleaning has left: each is one that was there, with the same offsets, epoch and producer.
func (x *logMachine) thinnedTo(kept []modelBatch) {
	old := x.m.batches
	for _, b := range kept {
		i, ok := slices.BinarySearchFunc(old, b.h.BaseOffset, func(o modelBatch, base int64) int { return int(o.h.BaseOffset - base) })
		if !ok {
			x.fatalf("a batch at offset %d was never appended", b.h.BaseOffset)
		}
		was := old[i].h
		if was.LastOffsetDelta != b.h.LastOffsetDelta || was.LeaderEpoch != b.h.LeaderEpoch || was.ProducerID != b.h.ProducerID ||
			was.ProducerEpoch != b.h.ProducerEpoch || was.BaseSequence != b.h.BaseSequence {
			x.fatalf("batch %+v became %+v", was, b.h)
		}
	}
	x.m.batches = kept
}

// scrub checks the whole log in pieces.
func (x *logMachine) scrub() {
	if found := x.scrubbed(); len(found) > 0 && x.fails == 0 {
		x.fatalf("damage that nobody made: %+v", found)
	}
}

func (x *logMachine) scrubbed() (found []Damage) {
	c := ScrubFrom(x.d.between("from", 0, x.m.start))
	for range 100_000 {
		res, err := x.log.Scrub(&c, pick[int64](x.d, "step", 1, 500, 1<<20))
		if err != nil {
			x.failed(err)
			return found
		}
		if res.Damage != nil {
			found = append(found, *res.Damage)
		}
		if res.Done {
			return found
		}
	}
	x.fatalf("the scrub does not end")
	return found
}

// decay changes a bit of a durable batch, which the scrub must find; then the damage is discarded, and mostly fetched anew as from
// a leader.
func (x *logMachine) decay() {
	first := slices.IndexFunc(x.m.batches, func(b modelBatch) bool { return b.h.LastOffset() >= x.m.start })
	if first < 0 || x.m.cleaning || x.fails > 0 {
		return
	}
	x.sync()
	if x.weak {
		return
	}
	if err := x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: x.m.savedHW}); err != nil {
		x.failed(err)
		x.weak = x.weak || errors.Is(err, ErrJournalFailed)
		return
	}
	x.m.savedStart = x.m.start
	i := int(x.d.between("batch", int64(first), int64(len(x.m.batches)-1)))
	b := x.m.batches[i]
	file, pos, err := x.place(b.h)
	if err != nil {
		x.failed(err)
		return
	}
	x.logf("decay of %+v in %s", b.h, file)
	at := x.d.between("byte", 12, int64(b.h.Size())-1)                               // of the base offset a gap may hide a change, of the length many things
	if err := x.mem.Flip(file, pos+at, uint(x.d.between("bit", 0, 7))); err != nil { //nolint:gosec // 0 to 7
		x.fatalf("%v", err)
	}
	lost, horizons := slices.Clone(x.m.batches), maps.Clone(x.k.cleanedAt)
	x.m.decayed = x.endOf(i)
	if x.m.compacted && i == first {
		x.m.decayed = x.m.base // the batch before may be gone
	}
	x.m.durable, x.m.savedStart = min(x.m.durable, x.m.decayed), min(x.m.savedStart, x.m.decayed)
	found := x.scrubbed()
	if x.fails > 0 {
		x.weak = true // what became of it is seen at the next opening
		return
	}
	if len(found) == 0 || found[0].From > max(b.h.BaseOffset, x.m.start) || found[0].To <= max(b.h.BaseOffset, x.m.start) {
		x.fatalf("byte %d of the batch at offset %d in %s was changed, and the scrub finds %+v", at, b.h.BaseOffset, file, found)
	}
	for _, d := range found {
		if _, err := x.log.MarkDamaged(d); err != nil {
			x.failed(err)
		}
	}
	if x.log.Failed() != nil {
		x.weak = true
		return
	}
	x.checkAround(found)
	if end, ok := x.discard(); ok && x.d.between("fetch", 0, 4) > 0 {
		x.fetch(lost, end)
		maps.Copy(x.k.cleanedAt, horizons) // the batches that come back say when their tombstones may go
		maps.DeleteFunc(x.k.cleanedAt, func(offset, _ int64) bool { return offset >= x.m.end })
	}
}

// place finds the file and position of a batch.
func (x *logMachine) place(h record.Header) (file string, pos int64, err error) {
	i := segmentOf(x.log.segs, h.BaseOffset)
	f, err := x.log.segs[i].open(x.log.fs)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.release()) }()
	w := newWalker(f, 0, x.log.segmentEnd(i), false)
	for {
		at := w.pos
		g, ok, err := w.next()
		switch {
		case err != nil:
			return "", 0, err
		case !ok:
			x.fatalf("there is no batch at offset %d", h.BaseOffset)
		case g.BaseOffset == h.BaseOffset:
			return x.log.segs[i].logName(), at, nil
		}
	}
}

// checkAround: all that does not lie within the damage is served, and nothing of what does.
func (x *logMachine) checkAround(found []Damage) {
	var want []byte
	for _, b := range x.m.batches {
		if b.h.LastOffset() >= x.m.start && !slices.ContainsFunc(found, func(d Damage) bool {
			return b.h.BaseOffset < d.To && b.h.NextOffset() > d.From
		}) {
			want = append(want, b.data...)
		}
	}
	got, bad, err := readAround(x.log, x.m.end)
	if x.fails > 0 {
		return // a read that failed is taken for damage, too
	}
	if err != nil || !bad || !bytes.Equal(got, want) {
		x.fatalf("around %+v: told %t, %d bytes of %d: %s, %v", found, bad, len(got), len(want), firstDifference(got, want), err)
	}
}

// discard gives the damage up; false where that failed.
func (x *logMachine) discard() (end int64, ok bool) {
	d := x.log.Damage()
	if d == nil {
		x.weak = true
		return 0, false
	}
	from := d.From
	end, err := x.log.DiscardDamage()
	if err != nil {
		x.failed(err)
		x.weak = true
		return 0, false
	}
	if end > from || end < x.m.decayed {
		x.fatalf("discarded from offset %d: it ends at %d, certain up to %d", from, end, x.m.decayed)
	}
	x.cutTo(end)
	x.m.epochs = slices.DeleteFunc(slices.Clone(x.m.epochs), func(e EpochStart) bool { return e.StartOffset >= min(from, end+1) })
	x.m.durable, x.m.decayed = end, -1
	x.rememberRecords()
	return end, true
}

// rememberRecords takes over that what has made records obsolete may have been given up with the damage.
func (x *logMachine) rememberRecords() {
	x.k.records = nil
	for _, b := range x.m.batches {
		x.k.records = append(x.k.records, recordsOf(x.fatalf, b.data)...)
	}
}

// fetch appends again what was given up, as a leader would send it.
func (x *logMachine) fetch(lost []modelBatch, from int64) {
	var all []byte
	var batches []modelBatch
	for _, b := range lost {
		if b.h.BaseOffset >= from && model.LeaderEpoch(b.h.LeaderEpoch) >= x.log.LatestEpoch() {
			all, batches = append(all, b.data...), append(batches, b)
		}
	}
	if len(batches) > 0 {
		x.follow(all, batches)
	}
}

// settle does, once the log was opened, what a crash has interrupted: a reset, or giving up damage.
func (x *logMachine) settle(report RecoveryReport) {
	if x.m.resetTo >= 0 && x.log.LogStartOffset() == x.m.resetTo && x.log.LogEndOffset() == x.m.resetTo {
		x.begunAt(x.m.resetTo, x.log.producers.encode(snapshotInfo{offset: max(x.m.resetTo, 1)}))
	}
	x.m.resetTo = -1
	if x.m.decayed < 0 {
		return
	}
	x.fails = 0
	found := x.scrubbed()
	if len(found) == 0 && x.log.Damage() == nil {
		if x.log.LogEndOffset() > x.m.end || (x.log.LogEndOffset() == x.m.end && x.damaged()) {
			x.fatalf("damage is forgotten: %+v", report)
		}
		return
	}
	for _, d := range found {
		_, err := x.log.MarkDamaged(d)
		x.must(err)
	}
	end := x.log.LogEndOffset()
	if _, err := x.log.DiscardDamage(); err != nil {
		x.fatalf("discard up to %d: %v", end, err)
	}
}

// damaged says whether anything reads other than it was written.
func (x *logMachine) damaged() bool {
	got, bad, err := readAround(x.log, x.m.end)
	var want []byte
	for _, b := range x.m.batches {
		if b.h.LastOffset() >= x.m.start {
			want = append(want, b.data...)
		}
	}
	return err != nil || bad || !bytes.Equal(got, want)
}
