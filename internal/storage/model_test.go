package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// modelBatch is one batch that the log took.
type modelBatch struct {
	h    record.Header
	data []byte
}

// logModel is what a log should be: every batch ever kept, trimmed ones included.
type logModel struct {
	batches    []modelBatch
	epochs     []EpochStart
	start, end int64
	durable    int64 // what must survive a power loss
	savedStart int64 // the LogStartOffset that must survive
	savedHW    int64
	epoch      model.LeaderEpoch
	producers  map[int64]producerRef // what each producer sends next
	builds     int
}

// logMachine drives a log and its model side by side.
type logMachine struct {
	t      *rapid.T
	tb     testing.TB
	mem    *fsys.Mem
	dir    *Dir
	log    *Log
	cfg    Config
	m      logModel
	weak   bool // a sync failed: only what was durable before is certain
	deaf   bool // a directory sync failed: nothing but a new boot makes later ones count
	faulty bool // a failure was planned at some time
	fails  int  // how many injected failures bit
}

func newLogMachine(t *rapid.T, tb testing.TB) *logMachine {
	x := &logMachine{t: t, tb: tb, mem: fsys.NewMem(rapid.Uint64().Draw(t, "seed"), fsys.MemOptions{})}
	x.cfg = Config{
		SegmentBytes:       rapid.SampledFrom([]int64{700, 3000, 200_000}).Draw(t, "segment"),
		IndexIntervalBytes: rapid.SampledFrom([]int{1, 100, 1000}).Draw(t, "interval"),
	}
	x.m.producers = map[int64]producerRef{}
	x.dir = openTestDir(tb, x.mem)
	log, err := x.dir.CreateLog(testPartition(0), x.cfg)
	if err != nil {
		t.Fatal(err)
	}
	x.log = log
	if _, err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := x.dir.Checkpoint(LogCheckpoint{Log: log}); err != nil {
		t.Fatal(err)
	}
	return x
}

// build makes the next batch of a random producer.
func (x *logMachine) build() ([]byte, record.Header) {
	x.m.builds++
	p := noProducer
	if id := rapid.Int64Range(-1, 2).Draw(x.t, "producer"); id >= 0 {
		var ok bool
		if p, ok = x.m.producers[id]; !ok {
			p = producerRef{id: id}
		}
		if rapid.IntRange(0, 9).Draw(x.t, "bump") == 0 {
			p.epoch, p.sequence = p.epoch+1, 0
		}
	}
	n := rapid.IntRange(1, 4).Draw(x.t, "records")
	size := rapid.SampledFrom([]int{0, 10, 100, 1500, 9000}).Draw(x.t, "size")
	return makeBatch(x.tb, p, x.m.builds, n, size, int64(1000+rapid.IntRange(0, 500).Draw(x.t, "time")))
}

// took notes a batch in the model.
func (x *logMachine) took(h record.Header, data []byte) {
	x.m.batches = append(x.m.batches, modelBatch{h: h, data: data})
	x.m.end = h.NextOffset()
	x.noteEpoch(model.LeaderEpoch(h.LeaderEpoch), h.BaseOffset)
	if h.HasProducer() {
		next := int32((int64(h.BaseSequence) + int64(h.LastOffsetDelta) + 1) & math.MaxInt32)
		x.m.producers[h.ProducerID] = producerRef{id: h.ProducerID, epoch: h.ProducerEpoch, sequence: next}
	}
}

func (x *logMachine) noteEpoch(epoch model.LeaderEpoch, at int64) {
	if n := len(x.m.epochs); n == 0 || x.m.epochs[n-1].Epoch < epoch {
		x.m.epochs = append(x.m.epochs, EpochStart{Epoch: epoch, StartOffset: at})
	}
	x.m.epoch = max(x.m.epoch, epoch)
}

func (x *logMachine) appendLeader() {
	if rapid.IntRange(0, 5).Draw(x.t, "newEpoch") == 0 {
		x.m.epoch++
	}
	data, h := x.build()
	before := x.log.LogEndOffset()
	cut := rapid.IntRange(0, len(data)).Draw(x.t, "piece")
	res, err := x.log.AppendLeader([][]byte{data[:cut], data[cut:]}, h, x.m.epoch, 5000)
	if err != nil {
		x.failed(err)
		if x.log.LogEndOffset() != before {
			x.t.Fatalf("a refused batch moved the end from %d to %d", before, x.log.LogEndOffset())
		}
		return
	}
	if res.BaseOffset != x.m.end || res.Duplicate {
		x.t.Fatalf("append at %d: %+v", x.m.end, res)
	}
	h.BaseOffset, h.LeaderEpoch = res.BaseOffset, int32(x.m.epoch)
	x.took(h, stamped(data, res.BaseOffset, x.m.epoch))
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
			x.t.Fatalf("resent batch at %d: %+v", b.h.BaseOffset, res)
		}
		return
	}
}

func (x *logMachine) appendFollower() {
	var all []byte
	var batches []modelBatch
	saved := map[int64]producerRef{}
	for id, p := range x.m.producers {
		saved[id] = p
	}
	next, epoch := x.m.end, x.m.epoch
	for range rapid.IntRange(1, 4).Draw(x.t, "batches") {
		data, h := x.build()
		if rapid.IntRange(0, 5).Draw(x.t, "newEpoch") == 0 {
			epoch++
		}
		if rapid.IntRange(0, 5).Draw(x.t, "gap") == 0 {
			next += 3
		}
		h.BaseOffset, h.LeaderEpoch = next, int32(epoch)
		data = stamped(data, next, epoch)
		all = append(all, data...)
		batches = append(batches, modelBatch{h, data})
		next = h.NextOffset()
		if h.HasProducer() {
			x.m.producers[h.ProducerID] = producerRef{h.ProducerID, h.ProducerEpoch, h.BaseSequence + h.LastOffsetDelta + 1}
		}
	}
	x.m.producers = saved
	_, err := x.log.AppendFollower(all, true)
	if err != nil {
		x.failed(err)
	}
	for _, b := range batches {
		if b.h.NextOffset() <= x.log.LogEndOffset() {
			x.took(b.h, b.data)
		}
	}
	if err == nil && x.m.end != next {
		x.t.Fatalf("follower took up to %d of %d", x.m.end, next)
	}
}

// failed accepts an error only while failures are injected.
func (x *logMachine) failed(err error) {
	if x.fails == 0 {
		x.t.Fatalf("unexpected error: %v", err)
	}
}

func (x *logMachine) sync() {
	var end int64
	var err error
	if rapid.Bool().Draw(x.t, "journaled") {
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
		x.t.Fatalf("synced to %d, durable %d of %d", end, x.log.DurableEnd(), x.m.end)
	}
	x.m.durable = end
}

func (x *logMachine) checkpoint() {
	hw := rapid.Int64Range(min(x.m.savedHW, x.m.durable), x.m.durable).Draw(x.t, "hw")
	if err := x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: hw}); err != nil {
		x.failed(err)
		x.weak = x.weak || errors.Is(err, ErrJournalFailed)
	} else if x.log.Failed() == nil {
		x.m.savedStart, x.m.savedHW = x.m.start, hw
	}
}

func (x *logMachine) trim() {
	to := rapid.Int64Range(x.m.start, max(x.m.start, x.m.durable)).Draw(x.t, "trim") // at most the HighWatermark
	if err := x.log.Trim(to); err != nil {
		x.failed(err)
		return
	}
	if to == x.m.start {
		return
	}
	x.m.start = to
	c := epochCache{starts: x.m.epochs}
	c.truncateStart(to)
	x.m.epochs = c.starts
}

func (x *logMachine) truncate() {
	low := max(x.m.start, min(x.m.savedHW, x.m.end))
	if hw := x.log.CheckpointedHighWatermark(); hw > low {
		low = hw
	}
	if low > x.m.end {
		return
	}
	to := rapid.Int64Range(low, x.m.end).Draw(x.t, "truncate")
	keep := x.batchesBelow(to)
	target := x.m.end
	if keep < len(x.m.batches) {
		target = x.endOf(keep, to)
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
		x.t.Fatalf("truncated to %d, asked for %d", end, to)
	}
	x.m.batches = x.m.batches[:keep]
	x.m.end, x.m.durable = end, min(x.m.durable, end)
	x.m.start, x.m.savedStart = min(x.m.start, end), min(x.m.savedStart, end)
	x.m.epochs = slices.DeleteFunc(slices.Clone(x.m.epochs), func(e EpochStart) bool { return e.StartOffset >= to || e.StartOffset > end })
	x.m.savedHW = min(x.m.savedHW, end)
	x.replayProducers()
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
func (x *logMachine) endOf(n int, _ int64) int64 {
	if n == 0 {
		return 0
	}
	return x.m.batches[n-1].h.NextOffset()
}

// replayProducers derives from the model's batches what each producer sends next.
func (x *logMachine) replayProducers() {
	x.m.producers = map[int64]producerRef{}
	for _, b := range x.m.batches {
		if b.h.HasProducer() {
			next := int32((int64(b.h.BaseSequence) + int64(b.h.LastOffsetDelta) + 1) & math.MaxInt32)
			x.m.producers[b.h.ProducerID] = producerRef{b.h.ProducerID, b.h.ProducerEpoch, next}
		}
	}
}

// inject lets one of the next operations fail.
func (x *logMachine) inject() {
	left := rapid.IntRange(1, 12).Draw(x.t, "failAt")
	err := rapid.SampledFrom([]error{syscall.EIO, fsys.ErrNoSpace}).Draw(x.t, "error")
	x.mem.SetInjector(func(op fsys.Op, _ string) error {
		if left--; left == 0 {
			x.fails++
			x.deaf = x.deaf || op == fsys.OpSyncDir || op == fsys.OpSyncFS
			return fmt.Errorf("injected: %w", err)
		}
		return nil
	})
}

func (x *logMachine) calm() {
	x.mem.SetInjector(nil)
}

// restart ends the process in one of several ways and opens the log again.
func (x *logMachine) restart(how string) {
	x.calm()
	broken := x.weak || x.log.Failed() != nil || x.dir.journal.failed != nil
	all := true // everything appended must be there again
	switch how {
	case "clean":
		if err := x.log.Close(true); err != nil && !broken {
			x.t.Fatal(err)
		}
		if err := x.dir.Close(); err != nil && !broken {
			x.t.Fatal(err)
		}
		if !broken {
			x.m.durable, x.m.savedStart = x.m.end, x.m.start
		}
	case "unclean":
		if err := x.dir.Close(); err != nil && !broken {
			x.t.Fatal(err)
		}
	case "kill":
		x.mem = x.mem.CrashProcess()
	case "power":
		x.mem = x.mem.Crash()
		all, x.faulty = false, true
	}
	all = all && !broken
	x.reopen(all, !broken, how == "clean" && !broken)
	x.weak, x.deaf, x.fails = false, false, 0
}

// reopen opens the log and takes over into the model what survived, which must be a prefix.
func (x *logMachine) reopen(all, healthy, clean bool) {
	x.dir = openTestDir(x.tb, x.mem)
	log, report, err := x.dir.OpenLog(testPartition(0), x.cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	x.log = log
	must(x.tb, x.dir.LossesRecorded())
	end := log.LogEndOffset()
	infos, _ := x.mem.List(log.path)
	x.t.Logf("report %+v files %+v", report, infos)
	if end != report.LogEndOffset || end > x.m.end || end < x.m.durable || (all && end != x.m.end) {
		x.t.Fatalf("opened again it ends at %d: durable %d, appended %d, all %t, %+v", end, x.m.durable, x.m.end, all, report)
	}
	if healthy && (report.Damage != nil || report.LostBelowRecoveryPoint() || (all && report.LostData())) {
		x.t.Fatalf("report %+v", report)
	}
	if clean && !x.faulty && report.ScannedBytes != 0 {
		x.t.Fatalf("scanned %d bytes after a clean close: %+v", report.ScannedBytes, report)
	}
	start := log.LogStartOffset()
	if start > x.m.start || start < x.m.savedStart {
		x.t.Fatalf("opened again it starts at %d: saved %d, trimmed to %d", start, x.m.savedStart, x.m.start)
	}
	keep := x.batchesBelow(end)
	x.m.batches = x.m.batches[:keep]
	x.m.end, x.m.durable, x.m.savedHW = end, end, min(x.m.savedHW, end)
	x.checkEpochs(log.EpochStarts())
	x.m.start, x.m.savedStart = start, min(start, x.m.savedStart)
	x.m.epochs = log.EpochStarts()
	x.replayProducers()
}

// checkEpochs: epochs with records at or above the start must be there; those without may be lost; no other exist.
func (x *logMachine) checkEpochs(got []EpochStart) {
	for _, e := range x.m.epochs {
		i := slices.IndexFunc(x.m.batches, func(b modelBatch) bool {
			return b.h.LeaderEpoch == int32(e.Epoch) && b.h.LastOffset() >= x.m.start
		})
		if i < 0 {
			continue
		}
		first := max(e.StartOffset, x.m.batches[i].h.BaseOffset, x.m.start) // a rebuilt start is that of the first record
		if !slices.ContainsFunc(got, func(g EpochStart) bool { return g.Epoch == e.Epoch && g.StartOffset <= first }) {
			x.t.Fatalf("epoch %+v was lost: %+v of %+v", e, got, x.m.epochs)
		}
	}
	for _, g := range got {
		if g.Epoch > x.m.epoch || g.StartOffset > x.m.end {
			x.t.Fatalf("epoch %+v was never begun: %+v", g, x.m.epochs)
		}
	}
}

// check compares everything that can be read with the model.
func (x *logMachine) check() {
	x.calm()
	if x.log.LogEndOffset() != x.m.end || x.log.LogStartOffset() != x.m.start {
		x.t.Fatalf("log is [%d,%d), model [%d,%d)", x.log.LogStartOffset(), x.log.LogEndOffset(), x.m.start, x.m.end)
	}
	if x.weak || x.log.Failed() != nil {
		return // what is read may be gone already; it is never acknowledged
	}
	var want []byte
	for _, b := range x.m.batches {
		if b.h.LastOffset() >= x.m.start {
			want = append(want, b.data...)
		}
	}
	var got []byte
	for at := x.m.start; at < x.m.end; {
		res, err := x.log.Read(at, rapid.SampledFrom([]int{0, 300, 5000, 1 << 20}).Draw(x.t, "max"), x.m.end, nil)
		if err != nil {
			x.t.Fatal(err)
		}
		if len(res.Data) == 0 {
			break // a gap at the end
		}
		got, at = append(got, res.Data...), res.NextOffset
	}
	if !bytes.Equal(got, want) {
		x.t.Fatalf("read %d bytes, want %d: %s", len(got), len(want), firstDifference(got, want))
	}
	if got := x.log.EpochStarts(); !slices.Equal(got, x.m.epochs) {
		x.t.Fatalf("epochs %+v, want %+v", got, x.m.epochs)
	}
	x.checkProducers()
	x.checkTime()
}

func (x *logMachine) checkProducers() {
	want := newProducerState()
	for _, b := range x.m.batches {
		want.apply(b.h, 0)
	}
	clone, _, err := decodeProducers(x.log.producers.encode(snapshotInfo{offset: max(x.m.end, 1)}))
	if err != nil {
		x.t.Fatal(err)
	}
	for _, p := range clone.byID {
		for i := range p.ring {
			p.ring[i].appendTimeMs = 0
		}
	}
	if !bytes.Equal(clone.encode(snapshotInfo{}), want.encode(snapshotInfo{})) {
		_, info, err := x.log.loadSnapshot(x.log.segs[0].base)
		x.t.Logf("snapshot %+v %v", info, err)
		x.t.Fatalf("producers %s, want %s", describeProducers(clone), describeProducers(want))
	}
}

func (x *logMachine) checkTime() {
	ts := int64(1000 + rapid.IntRange(-1, 502).Draw(x.t, "searchTime"))
	offset, got, found, err := x.log.OffsetForTime(ts)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, b := range x.m.batches {
		if b.h.LastOffset() >= x.m.start && b.h.MaxTimestamp >= ts {
			if want := max(b.h.BaseOffset, x.m.start); !found || offset != want || got != b.h.MaxTimestamp {
				x.t.Fatalf("time %d: offset %d at %d (%t), want %d at %d", ts, offset, got, found, want, b.h.MaxTimestamp)
			}
			return
		}
	}
	if found {
		x.t.Fatalf("time %d: found offset %d", ts, offset)
	}
}

// 33 runs of 100 checks, of 30 steps in the middle each: some 100,000 operations.
func TestLogAgainstModel(t *testing.T) {
	runs := 33
	if testing.Short() {
		runs = 1
	}
	for i := range runs {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			checkLogAgainstModel(t)
		})
	}
}

func checkLogAgainstModel(t *testing.T) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		x := newLogMachine(rt, t)
		steps := []struct {
			name   string
			weight int
			run    func()
		}{
			{"append", 30, x.appendLeader},
			{"follow", 10, x.appendFollower},
			{"resend", 4, x.resend},
			{"sync", 12, x.sync},
			{"checkpoint", 8, x.checkpoint},
			{"settle", 2, func() {
				for range 2 {
					if err := x.dir.Settle(); err != nil {
						x.failed(err)
						x.weak = true
					}
				}
			}},
			{"roll", 3, func() {
				if err := x.log.Roll(); err != nil {
					x.failed(err)
				}
			}},
			{"epoch", 3, func() {
				if err := x.log.AssignEpochStart(x.m.epoch+1, x.m.end); err != nil {
					x.failed(err)
				} else {
					x.noteEpoch(x.m.epoch+1, x.m.end)
				}
			}},
			{"trim", 3, x.trim},
			{"truncate", 5, x.truncate},
			{"clean", 2, func() { x.restart("clean") }},
			{"unclean", 1, func() { x.restart("unclean") }},
			{"kill", 2, func() { x.restart("kill") }},
			{"power", 4, func() { x.restart("power") }},
		}
		var bag []int
		for i, s := range steps {
			bag = append(bag, slices.Repeat([]int{i}, s.weight)...)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			faulty := rapid.IntRange(0, 7).Draw(rt, "faulty") == 0
			s := steps[rapid.SampledFrom(bag).Draw(rt, "step")]
			rt.Logf("step %s, faulty %t, end %d", s.name, faulty, x.m.end)
			if faulty {
				x.faulty = true // hints may be missing from now on
				x.inject()
			}
			s.run()
			x.check()
			if x.deaf {
				x.weak = true
				x.restart("power")
				x.check()
			}
			if x.weak || x.log.Failed() != nil || x.dir.journal.failed != nil {
				x.restart(rapid.SampledFrom([]string{"unclean", "kill", "power"}).Draw(rt, "how"))
				x.check()
			}
			x.fails = 0
		}
		x.restart("power")
		x.check()
		end := x.m.end
		x.restart("power") // recovery is idempotent
		if x.m.end != end {
			rt.Fatalf("a second recovery moved the end from %d to %d", end, x.m.end)
		}
	})
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
