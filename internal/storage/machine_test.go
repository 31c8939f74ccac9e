package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// draws is where a machine's choices come from.
type draws interface {
	// between draws from [lo, hi].
	between(label string, lo, hi int64) int64
}

type rapidDraws struct{ t *rapid.T }

func (d rapidDraws) between(label string, lo, hi int64) int64 {
	return rapid.Int64Range(lo, hi).Draw(d.t, label)
}

type seededDraws struct{ rng *rand.Rand }

func newSeededDraws(seed, stream uint64) seededDraws {
	return seededDraws{rand.New(rand.NewPCG(seed, stream))}
}

func (d seededDraws) between(_ string, lo, hi int64) int64 { return lo + d.rng.Int64N(hi-lo+1) }

func pick[T any](d draws, label string, from ...T) T {
	return from[d.between(label, 0, int64(len(from)-1))]
}

// modelBatch is one batch that the log took.
type modelBatch struct {
	h    record.Header
	data []byte
}

// logModel is what a log should be: every batch ever kept, trimmed ones included.
type logModel struct {
	batches    []modelBatch
	epochs     []EpochStart
	base       int64 // where the log began, at first or after a reset
	start, end int64
	durable    int64 // what must survive a power loss
	savedStart int64 // the LogStartOffset that must survive
	savedHW    int64
	epoch      model.LeaderEpoch
	producers  map[int64]producerRef // what each producer sends next
	carried    []byte                // the state of the producers at base, nil for none
	builds     int

	marked    bool            // for flush.mode=os
	unmarked  bool            // whether the mark is there is not known
	compacted bool            // batches may have been thinned since the log was made
	sent      []record.Header // of every batch since base that was not cut off again, those that a cleaning removed among them
	unsure    bool            // the log was compacted and then cut: it may know more of producers than its batches tell

	tried    []modelBatch // an append that a crash has cut short may have left them
	resetTo  int64        // a reset that failed may have been done; -1 for none
	decayed  int64        // durable bytes have changed, and nothing from this offset on is certain; -1 for none
	cleaning bool         // a cleaning was at work since the batches were looked at last
}

// logMachine drives a log and its model side by side.
type logMachine struct {
	d       draws
	fatalf  func(format string, args ...any)
	logf    func(format string, args ...any)
	tb      testing.TB
	mem     *fsys.Mem
	dir     *Dir
	log     *Log
	cfg     Config
	m       logModel
	k       *keyedLog // what compaction may do to records
	weak    bool      // a sync failed: only what was durable before is certain
	deaf    bool      // a directory sync failed: nothing but a new boot makes later ones count
	faulty  bool      // a failure was planned at some time
	fails   int       // how many injected failures bit
	next    found     // at the next opening
	swept   bool      // one failure was planned from outside: injectors stay
	bitten  bool      // that failure, or any other, has bitten
	forgot  bool      // a snapshot of producers could not be read: this process may know less of them
	crashed bool      // in the operation that was planned for it
	sizes   []int     // of values, to be drawn from
	ops     int64     // steps that were run
}

// machineHooks say how a machine fails and talks.
type machineHooks struct {
	fatalf, logf func(format string, args ...any)
	tb           testing.TB
}

// newLogMachine makes a directory with an empty log whose creation is durable.
func newLogMachine(d draws, on machineHooks) *logMachine {
	x := &logMachine{d: d, fatalf: on.fatalf, logf: on.logf, tb: on.tb, sizes: []int{0, 10, 100, 1500, 9000}}
	x.mem = fsys.NewMem(uint64(d.between("seed", 0, math.MaxInt32)), fsys.MemOptions{}) //nolint:gosec // not negative
	x.cfg = Config{
		SegmentBytes:       pick[int64](d, "segment", 700, 3000, 200_000),
		IndexIntervalBytes: pick(d, "interval", 1, 100, 1000),
	}
	x.m = logModel{producers: map[int64]producerRef{}, resetTo: -1, decayed: -1}
	x.k = newKeyedLog(on.tb, on.fatalf, x.mem, x.cfg)
	x.k.quiet = true
	x.dir = x.openDir()
	log, err := x.dir.CreateLog(testPartition(0), x.cfg)
	x.must(err)
	x.log = log
	_, err = log.Sync()
	x.must(err)
	x.must(x.dir.Checkpoint(LogCheckpoint{Log: log}))
	return x
}

func (x *logMachine) must(err error) {
	x.tb.Helper()
	if err != nil {
		x.fatalf("%v", err)
	}
}

func (x *logMachine) openDir() *Dir {
	d, err := OpenDir(x.mem, "data", testDirOptions())
	x.must(err)
	return d
}

// fork is an independent machine at the same point, whose log is not open, on a copy of the file system.
func (x *logMachine) fork(seed uint64) *logMachine {
	y := *x
	y.mem, y.dir, y.log = x.mem.Clone(seed), nil, nil
	y.m.batches, y.m.epochs = slices.Clone(x.m.batches), slices.Clone(x.m.epochs)
	y.m.producers, y.m.sent = maps.Clone(x.m.producers), slices.Clone(x.m.sent)
	k := *x.k
	k.mem, k.records, k.cleanedAt = y.mem, slices.Clone(x.k.records), maps.Clone(x.k.cleanedAt)
	y.k = &k
	return &y
}

// build makes the next batch of a random producer: of records with keys and without, tombstones among them; some are stamped as
// for a topic with log append time.
func (x *logMachine) build() ([]byte, record.Header) {
	x.m.builds++
	x.learnProducers()
	p := noProducer
	if id := x.d.between("producer", -1, 2); id >= 0 {
		var ok bool
		if p, ok = x.m.producers[id]; !ok {
			p = producerRef{id: id}
		}
		if x.d.between("bump", 0, 9) == 0 {
			p.epoch, p.sequence = p.epoch+1, 0
		}
	}
	n, size := x.d.between("records", 1, 4), pick(x.d, "size", x.sizes...)
	b := record.NewBuilder(record.BuilderOptions{InitialBytes: 256})
	ts := 1000 + x.d.between("time", 0, 500)
	for i := range n {
		r := record.Record{Value: make([]byte, size), Timestamp: ts}
		copy(r.Value, fmt.Sprintf("%d/%d", x.m.builds, i))
		if key := x.d.between("key", -2, 7); key >= 0 {
			r.Key = fmt.Appendf(nil, "key-%d", key)
			if x.d.between("tombstone", 0, 3) == 0 {
				r.Value = nil
			}
		}
		x.must(b.Add(r))
	}
	data, err := b.Finish(record.None, p.id, p.epoch, p.sequence)
	x.must(err)
	data = bytes.Clone(data)
	h, err := record.Validate([][]byte{data}, record.Limits{})
	x.must(err)
	if x.d.between("append time", 0, 3) == 0 {
		h = record.StampAppendTime(data, [][]byte{bytes.Clone(data)}, 1000+x.d.between("time", 0, 500))
	}
	return data, h
}

// took notes a batch in the model.
func (x *logMachine) took(h record.Header, data []byte) {
	x.m.batches = append(x.m.batches, modelBatch{h: h, data: data})
	x.m.sent = append(x.m.sent, h)
	x.m.end = h.NextOffset()
	x.noteEpoch(model.LeaderEpoch(h.LeaderEpoch), h.BaseOffset)
	x.m.producers = advance(x.m.producers, h)
	for _, r := range recordsOf(x.fatalf, data) {
		if n := len(x.k.records); n == 0 || r.offset > x.k.records[n-1].offset {
			x.k.records = append(x.k.records, r)
		}
	}
}

// advance notes what the producer of a batch sends next.
func advance(producers map[int64]producerRef, h record.Header) map[int64]producerRef {
	if h.HasProducer() {
		next := int32((int64(h.BaseSequence) + int64(h.LastOffsetDelta) + 1) & math.MaxInt32)
		producers[h.ProducerID] = producerRef{id: h.ProducerID, epoch: h.ProducerEpoch, sequence: next}
	}
	return producers
}

func recordsOf(fatalf func(string, ...any), batch []byte) (all []keyedRecord) {
	it, err := record.Records(batch, record.Limits{})
	if err != nil {
		fatalf("%v", err)
	}
	for it.Next() {
		r := it.Record().Clone()
		all = append(all, keyedRecord{r.Offset, r.Timestamp, r.Key, r.Value})
	}
	if it.Err() != nil {
		fatalf("%v", it.Err())
	}
	return all
}

func (x *logMachine) noteEpoch(epoch model.LeaderEpoch, at int64) {
	if n := len(x.m.epochs); n == 0 || x.m.epochs[n-1].Epoch < epoch {
		x.m.epochs = append(x.m.epochs, EpochStart{Epoch: epoch, StartOffset: at})
	}
	x.m.epoch = max(x.m.epoch, epoch)
}

// failed accepts an error only while failures are injected, or after a planned crash.
func (x *logMachine) failed(err error) {
	if x.swept && errors.Is(err, fsys.ErrCrashed) {
		x.fails++
		x.bitten, x.crashed = true, true
	}
	if x.fails == 0 {
		x.fatalf("unexpected error: %v", err)
	}
}

// batchesBelow counts the batches that lie wholly below an offset.
func (x *logMachine) batchesBelow(offset int64) int {
	n := 0
	for n < len(x.m.batches) && x.m.batches[n].h.NextOffset() <= offset {
		n++
	}
	return n
}

// endOf is the lowest end of a log that keeps n batches.
func (x *logMachine) endOf(n int) int64 {
	if n == 0 {
		return x.m.base
	}
	return x.m.batches[n-1].h.NextOffset()
}

// cutTo takes over that the log ends at end now, which is durable.
func (x *logMachine) cutTo(end int64) {
	x.m.batches = x.m.batches[:x.batchesBelow(end)]
	x.m.sent = slices.DeleteFunc(slices.Clone(x.m.sent), func(h record.Header) bool { return h.NextOffset() > end })
	x.m.unsure = x.m.compacted
	x.m.end, x.m.durable, x.m.savedHW = end, min(x.m.durable, end), min(x.m.savedHW, end)
	x.m.start, x.m.savedStart = min(x.m.start, end), min(x.m.savedStart, end)
	x.k.records = slices.DeleteFunc(slices.Clone(x.k.records), func(r keyedRecord) bool { return r.offset >= end })
	maps.DeleteFunc(x.k.cleanedAt, func(offset, _ int64) bool { return offset >= end })
	x.replayProducers()
}

// replayProducers derives from the model's batches what each producer sends next.
func (x *logMachine) replayProducers() {
	x.m.producers = map[int64]producerRef{}
	state := x.carriedProducers()
	for id, p := range state.byID {
		x.m.producers[id] = producerRef{id: id, epoch: p.epoch, sequence: p.last().nextSequence()}
	}
	for _, b := range x.m.batches {
		advance(x.m.producers, b.h)
	}
}

// learnProducers takes over what a log that was compacted and cut knows of producers whose last batches are gone: its snapshots may
// hold more than its batches tell, but nothing that was not sent.
func (x *logMachine) learnProducers() {
	if !x.m.unsure {
		return
	}
	x.m.unsure = false
	for id, have := range x.log.producers.byID {
		next := producerRef{id: id, epoch: have.epoch, sequence: have.last().nextSequence()}
		wasSent := slices.ContainsFunc(x.m.sent, func(h record.Header) bool {
			return h.ProducerID == id && advance(map[int64]producerRef{}, h)[id] == next
		})
		if !wasSent {
			continue // it is what the batches tell, or wrong
		}
		if p, ok := x.m.producers[id]; !ok || p.epoch < next.epoch || (p.epoch == next.epoch && p.sequence < next.sequence) {
			x.m.producers[id] = next
		}
	}
}

func (x *logMachine) carriedProducers() *producerState {
	if x.m.carried == nil {
		return newProducerState()
	}
	state, _, err := decodeProducers(x.m.carried)
	x.must(err)
	return state
}

// inject lets one of the next operations fail.
func (x *logMachine) inject() {
	left := x.d.between("failAt", 1, 12)
	err := pick[error](x.d, "error", syscall.EIO, fsys.ErrNoSpace)
	x.mem.SetInjector(func(op fsys.Op, _ string) error {
		if left--; left == 0 {
			return x.bite(op, err)
		}
		return nil
	})
}

// bite notes that an operation fails.
func (x *logMachine) bite(op fsys.Op, err error) error {
	x.fails++
	x.bitten = true
	x.deaf = x.deaf || op == fsys.OpSyncDir || op == fsys.OpSyncFS
	return fmt.Errorf("injected: %w", err)
}

func (x *logMachine) calm() {
	if !x.swept {
		x.mem.SetInjector(nil)
	}
}

// broken says that the log must be opened again.
func (x *logMachine) broken() bool {
	return x.weak || x.log.Failed() != nil || x.dir.journal.failed != nil
}

// found is what must be found at the next opening.
type found struct {
	all     bool // everything that was appended
	healthy bool // no damage, and no loss that is not a power loss's
	clean   bool // a clean shutdown: nothing is looked at
}

// restart ends the process in one of several ways and opens the log again.
func (x *logMachine) restart(how string) {
	x.endProcess(how)
	x.reopen()
}

// endProcess ends the process in one of several ways.
func (x *logMachine) endProcess(how string) {
	x.calm()
	broken := x.broken()
	all := true // everything appended must be there again
	clean := false
	switch how {
	case "clean":
		err := x.log.Close(true)
		clean = err == nil && !broken
		if err == nil && !broken && x.d.between("mark", 0, 1) == 0 {
			err = x.dir.MarkClean()
		}
		if err = errors.Join(err, x.dir.Close()); err != nil && !broken {
			x.failed(err)
		}
		if clean {
			x.m.durable = x.m.end
		}
		if clean && err == nil { // a clean close of the log leaves the sync of the journal to the directory
			x.m.savedStart = x.m.start
		}
		if err != nil || x.fails > 0 {
			broken, x.mem = true, x.mem.CrashProcess()
		}
	case "unclean":
		if err := x.dir.Close(); err != nil {
			if !broken {
				x.failed(err)
			}
			broken, x.mem = true, x.mem.CrashProcess()
		}
	case "kill":
		x.mem = x.mem.CrashProcess()
	case "power":
		x.mem = x.mem.Crash()
		all, x.faulty = false, true
	}
	x.log, x.dir = nil, nil
	x.next = found{all && !broken, !broken, clean && !broken}
}

// reopen opens the log and takes over into the model what survived, which must be a prefix.
func (x *logMachine) reopen() {
	log, report, err := x.open()
	if errors.Is(err, fsys.ErrCrashed) {
		x.failed(err)
		return
	}
	if err != nil || (report.Damage != nil && x.fails > 0) { // one failure was planned for the opening: the next one succeeds
		x.failed(err)
		x.mem = x.mem.CrashProcess()
		if x.deaf {
			x.mem = x.mem.Crash()
		}
		x.next, x.faulty = found{}, true
		if log, report, err = x.open(); err != nil || (report.Damage != nil && x.m.decayed < 0) {
			x.fatalf("opened once more: %+v, %v", report.Damage, err)
		}
	}
	if x.fails > 0 {
		x.next.healthy, x.next.clean = false, false
	}
	x.log, x.k.log, x.k.mem = log, log, x.mem
	if x.swept && !x.bitten { // it was looked at before
		x.m.durable = x.m.end
		x.m.epochs = log.EpochStarts()
		return
	}
	x.settle(report)
	x.survived(report)
	if marked, err := log.OSMode(); err != nil || (marked != x.m.marked && !x.m.unmarked) {
		x.fatalf("marked for flush.mode=os %t, now %t: %v", x.m.marked, marked, err)
	} else {
		x.m.marked, x.m.unmarked = marked, false
	}
	x.adopt()
	x.weak, x.deaf, x.fails = false, false, 0
}

// survived compares what the opened log holds with what must and may have survived, and takes it over.
func (x *logMachine) survived(report RecoveryReport) {
	end, start := x.log.LogEndOffset(), x.log.LogStartOffset()
	for len(x.m.tried) > 0 && x.m.tried[0].h.NextOffset() <= end {
		x.took(x.m.tried[0].h, x.m.tried[0].data)
		x.m.tried = x.m.tried[1:]
	}
	decayed := x.m.decayed >= 0
	if decayed {
		x.next = found{}
	}
	x.m.tried, x.m.decayed = nil, -1
	if end > x.m.end || end < x.m.durable || (x.next.all && end != x.m.end) {
		x.fatalf("opened again it ends at %d: durable %d, appended %d, %+v, %+v", end, x.m.durable, x.m.end, x.next, report)
	}
	if x.next.healthy && (report.Damage != nil || report.LostBelowRecoveryPoint() || (x.next.all && report.LostData())) {
		x.fatalf("report %+v", report)
	}
	if x.next.clean && !x.faulty && report.ScannedBytes != 0 {
		x.fatalf("scanned %d bytes after a clean close: %+v", report.ScannedBytes, report)
	}
	if start > x.m.start || start < min(x.m.savedStart, end) {
		x.fatalf("opened again it starts at %d: saved %d, trimmed to %d", start, x.m.savedStart, x.m.start)
	}
	trimmed := x.m.start
	x.m.cleaning = x.m.cleaning || (x.m.compacted && start < trimmed) // what was trimmed was cleaned too
	x.cutTo(end)
	x.m.durable = end
	x.m.start, x.m.savedStart = start, min(start, x.m.savedStart)
	if decayed {
		x.rememberRecords()
	}
	x.checkEpochs(x.log.EpochStarts(), trimmed)
	x.m.epochs = x.log.EpochStarts()
}

func (x *logMachine) open() (log *Log, report RecoveryReport, err error) {
	if x.dir, err = OpenDir(x.mem, "data", testDirOptions()); err != nil {
		return nil, report, err
	}
	if err = x.dir.ClearClean("boot"); err != nil {
		return nil, report, err
	}
	if log, report, err = x.dir.OpenLog(testPartition(0), x.cfg); err != nil {
		return nil, report, err
	}
	if log.LogEndOffset() != report.LogEndOffset || (report.Damage != nil && (report.Damage.File == "" || (x.m.decayed < 0 && x.fails == 0))) {
		x.fatalf("[%d, %d), damage %+v: %+v", log.LogStartOffset(), log.LogEndOffset(), report.Damage, report)
	}
	return log, report, x.dir.LossesRecorded()
}

// checkEpochs: epochs with records at or above the start must be there; those without may be lost; no other exist.
func (x *logMachine) checkEpochs(got []EpochStart, start int64) {
	for _, e := range x.m.epochs {
		i := slices.IndexFunc(x.m.batches, func(b modelBatch) bool {
			return b.h.LeaderEpoch == int32(e.Epoch) && b.h.LastOffset() >= start
		})
		if i < 0 {
			continue
		}
		first := max(e.StartOffset, x.m.batches[i].h.BaseOffset, start) // a rebuilt start is that of the first record
		if !slices.ContainsFunc(got, func(g EpochStart) bool { return g.Epoch == e.Epoch && g.StartOffset <= first }) {
			x.fatalf("epoch %+v was lost: %+v of %+v", e, got, x.m.epochs)
		}
	}
	for _, g := range got {
		if g.Epoch > x.m.epoch || g.StartOffset > x.m.end {
			x.fatalf("epoch %+v was never begun: %+v", g, x.m.epochs)
		}
	}
}

// check compares everything that can be read with the model.
func (x *logMachine) check() {
	x.calm()
	if x.log.LogEndOffset() != x.m.end || x.log.LogStartOffset() != x.m.start {
		x.fatalf("log is [%d,%d), model [%d,%d)", x.log.LogStartOffset(), x.log.LogEndOffset(), x.m.start, x.m.end)
	}
	if x.weak || x.log.Failed() != nil {
		return // what is read may be gone already; it is never acknowledged
	}
	if x.m.cleaning {
		x.adopt()
	}
	var want []byte
	for _, b := range x.m.batches {
		if b.h.LastOffset() >= x.m.start {
			want = append(want, b.data...)
		}
	}
	if got := x.read(); !bytes.Equal(got, want) {
		x.fatalf("read %d bytes, want %d: %s", len(got), len(want), firstDifference(got, want))
	}
	if got := x.log.EpochStarts(); !slices.Equal(got, x.m.epochs) {
		x.fatalf("epochs %+v, want %+v", got, x.m.epochs)
	}
	x.checkProducers()
	x.checkTime()
}

// read reads the log from its start to its end, in pieces.
func (x *logMachine) read() (got []byte) {
	for at := x.m.start; at < x.m.end; {
		res, err := x.log.Read(at, pick(x.d, "max", 0, 300, 5000, 1<<20), x.m.end, nil)
		x.must(err)
		if len(res.Data) == 0 {
			break // a gap at the end
		}
		got, at = append(got, res.Data...), res.NextOffset
	}
	return got
}

func (x *logMachine) checkProducers() {
	if x.forgot {
		return
	}
	x.learnProducers()
	if x.m.compacted { // of what went nothing but where each producer is needs to be known
		for id, p := range x.m.producers {
			have := x.log.producers.byID[id]
			if have == nil || have.epoch != p.epoch || have.last().nextSequence() != p.sequence {
				x.fatalf("producer %+v: %s", p, describeProducers(x.log.producers))
			}
		}
		return
	}
	want := x.carriedProducers()
	for _, b := range x.m.batches {
		want.apply(b.h, 0)
	}
	clone, _, err := decodeProducers(x.log.producers.encode(snapshotInfo{offset: max(x.m.end, 1)}))
	x.must(err)
	for _, s := range []*producerState{clone, want} {
		for _, p := range s.byID {
			for i := range p.ring {
				p.ring[i].appendTimeMs = 0
			}
		}
	}
	if !bytes.Equal(clone.encode(snapshotInfo{}), want.encode(snapshotInfo{})) {
		x.fatalf("producers %s, want %s", describeProducers(clone), describeProducers(want))
	}
}

func (x *logMachine) checkTime() {
	ts := 1000 + x.d.between("searchTime", -1, 502)
	offset, got, found, err := x.log.OffsetForTime(ts)
	x.must(err)
	for _, b := range x.m.batches {
		if b.h.LastOffset() < x.m.start || b.h.MaxTimestamp < ts {
			continue
		}
		for _, r := range recordsOf(x.fatalf, b.data) {
			if r.offset < x.m.start || r.ts < ts {
				continue
			}
			if !found || offset != r.offset || got != r.ts {
				x.fatalf("time %d: offset %d at %d (%t), want %d at %d", ts, offset, got, found, r.offset, r.ts)
			}
			return
		}
	}
	if found {
		x.fatalf("time %d: found offset %d", ts, offset)
	}
}

// firstDifference names the first batch in which two rows of batches differ.
func firstDifference(got, want []byte) string {
	for len(got) >= record.HeaderSize && len(want) >= record.HeaderSize {
		g, gotErr := record.ParseHeader(got)
		w, wantErr := record.ParseHeader(want)
		if gotErr != nil || wantErr != nil || g != w || !bytes.Equal(got[:g.Size()], want[:w.Size()]) {
			return fmt.Sprintf("%+v (%v) instead of %+v (%v)", g, gotErr, w, wantErr)
		}
		got, want = got[g.Size():], want[w.Size():]
	}
	return "one ends early"
}

func describeProducers(s *producerState) string {
	var b strings.Builder
	for id := range int64(3) {
		if p, ok := s.byID[id]; ok {
			fmt.Fprintf(&b, "[%d epoch %d:", id, p.epoch)
			for i := range p.ring {
				fmt.Fprintf(&b, " %d@%d", p.at(i).baseSequence, p.at(i).baseOffset)
			}
			b.WriteString("]")
		}
	}
	return b.String()
}
