package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// keyedRecord is one record that a log of keys took.
type keyedRecord struct {
	offset, ts int64
	key, value []byte
}

// equal says that nothing was altered: neither bytes, nor what is null.
func (r keyedRecord) equal(o keyedRecord) bool {
	return r.offset == o.offset && r.ts == o.ts && bytes.Equal(r.key, o.key) && bytes.Equal(r.value, o.value) &&
		(r.key == nil) == (o.key == nil) && (r.value == nil) == (o.value == nil)
}

// keyedLog drives a log of keyed records and knows what it may and must hold.
type keyedLog struct {
	fatalf func(format string, args ...any)
	tb     testing.TB
	mem    *fsys.Mem
	dir    *Dir
	log    *Log
	cfg    Config

	records   []keyedRecord // all that were appended, in order, whatever became of them since
	producers map[int64]producerRef
	lastBatch map[int64][]byte
	epoch     model.LeaderEpoch
	end       int64
	durable   int64
	savedHW   int64
	now       int64
	builds    int

	firstProducer int64
	quiet         bool // clean reads nothing

	cleaned   int64           // no cleaning has looked at this offset or later ones
	cleanedAt map[int64]int64 // when a tombstone was first looked at
	lowest    int64           // the highest LowestPosition of all cleanings
	policy    CompactionPolicy
}

const keyedRetentionMs = 50

func newKeyedLog(tb testing.TB, fatalf func(string, ...any), mem *fsys.Mem, cfg Config) *keyedLog {
	x := &keyedLog{
		fatalf: fatalf, tb: tb, mem: mem, cfg: cfg, now: 1_000_000, producers: map[int64]producerRef{}, lastBatch: map[int64][]byte{},
		cleanedAt: map[int64]int64{}, policy: CompactionPolicy{DeleteRetentionMs: keyedRetentionMs},
	}
	return x
}

func (x *keyedLog) create() error {
	d, err := OpenDir(x.mem, "data", testDirOptions())
	if err != nil {
		return err
	}
	x.dir = d
	if x.log, err = d.CreateLog(testPartition(0), x.cfg); err != nil {
		return err
	}
	return x.sync()
}

// batchOf builds a batch of the records and says what it holds.
func (x *keyedLog) batchOf(p producerRef, codec record.Codec, records []keyedRecord) ([]byte, record.Header) {
	b := record.NewBuilder(record.BuilderOptions{})
	for _, r := range records {
		if err := b.Add(record.Record{Key: r.key, Value: r.value, Timestamp: r.ts}); err != nil {
			x.fatalf("%v", err)
		}
	}
	data, err := b.Finish(codec, p.id, p.epoch, p.sequence)
	if err != nil {
		x.fatalf("%v", err)
	}
	h, err := record.Validate([][]byte{data}, record.Limits{})
	if err != nil {
		x.fatalf("%v", err)
	}
	return bytes.Clone(data), h
}

// append appends records; producer -1 is none.
func (x *keyedLog) append(producer int64, codec record.Codec, records []keyedRecord) error {
	p := noProducer
	if producer >= 0 {
		producer += x.firstProducer
		if p = x.producers[producer]; p == (producerRef{}) {
			p = producerRef{id: producer}
		}
	}
	x.builds++
	data, h := x.batchOf(p, codec, records)
	res, err := x.log.AppendLeader([][]byte{data}, h, x.epoch, x.now)
	if err != nil {
		return err
	}
	for i := range records {
		records[i].offset = res.BaseOffset + int64(i)
	}
	x.records = append(x.records, records...)
	x.end = res.LogEndOffset
	if producer >= 0 {
		x.producers[producer] = producerRef{p.id, p.epoch, p.sequence + int32(len(records))} //nolint:gosec // small
		x.lastBatch[producer] = data
	}
	return nil
}

func (x *keyedLog) sync() error {
	if x.builds%2 == 0 { // in the sync journal, where it fits
		err := x.dir.SyncJournaled(x.log)
		if err == nil {
			x.durable = x.log.DurableEnd()
		}
		return err
	}
	end, err := x.log.Sync()
	if err == nil {
		x.durable = end
	}
	return err
}

func (x *keyedLog) checkpoint(hw int64) error {
	err := x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: hw})
	if err == nil && x.log.Failed() == nil {
		x.savedHW = hw
	}
	return err
}

// clean runs a cleaning of at most steps steps, and checks what a whole one leaves.
func (x *keyedLog) clean(c *Cleaner, lowest int64, steps int) error {
	in := CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: lowest}
	state, err := x.log.CleaningState(x.policy, in)
	if err != nil {
		return err
	}
	x.cleaned, x.lowest = max(x.cleaned, state.To), max(x.lowest, lowest)
	for _, r := range x.records {
		if _, seen := x.cleanedAt[r.offset]; !seen && r.value == nil && r.offset < state.To {
			x.cleanedAt[r.offset] = x.now
		}
	}
	cl, err := c.Begin(x.log, x.policy, in)
	if err != nil || cl == nil {
		return err
	}
	for ; steps > 0; steps-- {
		_, done, err := cl.Step(200)
		if err != nil {
			return errors.Join(err, cl.Close())
		}
		if done {
			if !x.quiet {
				x.mem.SetInjector(nil)
				x.checkCleaned(cl.Stats().CleanedTo)
			}
			break
		}
	}
	return cl.Close()
}

// read reads all records from an offset on.
func (x *keyedLog) read(from int64) []keyedRecord {
	var out []keyedRecord
	it := new(record.Iterator)
	for at := from; at < x.log.LogEndOffset(); {
		res, err := x.log.Read(at, 700, math.MaxInt64, nil)
		if err != nil {
			x.fatalf("read at %d: %v", at, err)
		}
		if len(res.Data) == 0 {
			x.fatalf("nothing to read at %d of [%d, %d)", at, x.log.LogStartOffset(), x.log.LogEndOffset())
		}
		s := record.NewScanner(res.Data, record.Limits{})
		for s.Next() {
			if err := it.Reset(s.Batch(), record.Limits{}); err != nil {
				x.fatalf("batch at %d: %v", s.Header().BaseOffset, err)
			}
			for it.Next() {
				if r := it.Record().Clone(); r.Offset >= from {
					out = append(out, keyedRecord{r.Offset, r.Timestamp, r.Key, r.Value})
				}
			}
			if it.Err() != nil {
				x.fatalf("batch at %d: %v", s.Header().BaseOffset, it.Err())
			}
		}
		if s.Err() != nil || len(s.Rest()) > 0 {
			x.fatalf("read at %d: %v, %d bytes left", at, s.Err(), len(s.Rest()))
		}
		at = res.NextOffset
	}
	return out
}

// checkCleaned: below an offset that a whole cleaning has reached there is one record of each key at most.
func (x *keyedLog) checkCleaned(to int64) {
	seen := map[string]int64{}
	for _, r := range x.read(x.log.LogStartOffset()) {
		if r.key == nil || r.offset >= to {
			continue
		}
		if before, twice := seen[string(r.key)]; twice {
			x.fatalf("cleaned to %d, key %q stands at %d and at %d", to, r.key, before, r.offset)
		}
		seen[string(r.key)] = r.offset
	}
}

// check compares the log with everything that was appended.
func (x *keyedLog) check() {
	start := x.log.LogStartOffset()
	if x.log.LogEndOffset() != x.end {
		x.fatalf("the log ends at %d, not at %d", x.log.LogEndOffset(), x.end)
	}
	got := x.read(start)
	held := map[int64]bool{}
	oldest := map[string]int64{} // of those held
	for i, r := range got {
		if i > 0 && r.offset <= got[i-1].offset {
			x.fatalf("offset %d after %d", r.offset, got[i-1].offset)
		}
		held[r.offset] = true
		if _, ok := oldest[string(r.key)]; !ok && r.key != nil {
			oldest[string(r.key)] = r.offset
		}
		at, ok := slices.BinarySearchFunc(x.records, r.offset, func(k keyedRecord, offset int64) int { return int(k.offset - offset) })
		if !ok || !x.records[at].equal(r) {
			x.fatalf("record %+v was never appended", r)
		}
	}
	newest := map[string]int64{}
	for _, r := range slices.Backward(x.records) {
		later, superseded := newest[string(r.key)]
		if r.key != nil && !superseded && r.offset < x.cleaned {
			newest[string(r.key)] = r.offset
		}
		if r.offset < start || held[r.offset] {
			continue
		}
		switch {
		case r.key == nil:
			x.fatalf("record %d without a key is gone", r.offset)
		case r.offset >= x.cleaned:
			x.fatalf("record %d is gone, cleaned to %d", r.offset, x.cleaned)
		case superseded && later < x.cleaned:
		case r.value != nil:
			x.fatalf("record %d, the latest of key %q, is gone", r.offset, r.key)
		case r.offset >= x.lowest || x.now < x.cleanedAt[r.offset]+keyedRetentionMs:
			x.fatalf("tombstone %d of key %q is gone at %d: cleaned at %d, lowest position %d", r.offset, r.key, x.now, x.cleanedAt[r.offset], x.lowest)
		default:
			if before, ok := oldest[string(r.key)]; ok && before < r.offset {
				x.fatalf("tombstone %d of key %q is gone, and what it deleted is there at %d", r.offset, r.key, before)
			}
		}
	}
	x.checkProducers()
}

// checkProducers: the last batch of each producer is a duplicate, wherever it stood.
func (x *keyedLog) checkProducers() {
	for id, p := range x.producers {
		have := x.log.producers.byID[id]
		if have == nil || have.last().nextSequence() != p.sequence {
			x.fatalf("producer %d is at %+v, its next sequence was %d", id, have, p.sequence)
		}
		data := x.lastBatch[id]
		h, err := record.ParseHeader(data)
		if err != nil {
			x.fatalf("%v", err)
		}
		if res, err := x.log.AppendLeader([][]byte{data}, h, x.epoch, x.now); x.log.Failed() == nil && (err != nil || !res.Duplicate) {
			x.fatalf("the last batch of producer %d was taken again: %+v, %v", id, res, err)
		}
	}
}

// reopen opens the log after its process has ended; all says that everything appended must be there.
func (x *keyedLog) reopen(all bool) {
	start := x.log.LogStartOffset()
	d, err := OpenDir(x.mem, "data", testDirOptions())
	if err != nil {
		x.fatalf("%v", err)
	}
	x.dir = d
	log, report, err := d.OpenLog(testPartition(0), x.cfg)
	if err != nil {
		x.fatalf("%v", err)
	}
	x.log = log
	end := log.LogEndOffset()
	if end < x.durable || end > x.end || (all && end != x.end) || report.Damage != nil || log.LogStartOffset() > start {
		x.fatalf("opened again it is [%d, %d) of [%d, %d), durable %d, all %t: %+v", log.LogStartOffset(), end, start, x.end, x.durable, all, report)
	}
	infos, err := x.mem.List(log.path)
	if err != nil {
		x.fatalf("%v", err)
	}
	for _, info := range infos {
		if _, _, ok := parseSwapName(info.Name); ok || bytes.HasSuffix([]byte(info.Name), []byte(cleanSuffix)) {
			x.fatalf("%s is left over", info.Name)
		}
	}
	x.cutTo(end)
	x.durable, x.savedHW = end, min(x.savedHW, end)
}

// cutTo takes over that the log ends at end.
func (x *keyedLog) cutTo(end int64) {
	if end == x.end {
		return
	}
	x.end = end
	x.records = slices.DeleteFunc(x.records, func(r keyedRecord) bool { return r.offset >= end })
	for at := range x.cleanedAt {
		if at >= end {
			delete(x.cleanedAt, at)
		}
	}
	// What became of the producers is tested elsewhere; others write from now on.
	x.producers, x.lastBatch = map[int64]producerRef{}, map[int64][]byte{}
	x.firstProducer += 100
}

func drawRecords(t *rapid.T, now int64) []keyedRecord {
	var out []keyedRecord
	for range rapid.IntRange(1, 4).Draw(t, "records") {
		r := keyedRecord{ts: now - int64(rapid.IntRange(0, 3).Draw(t, "age"))}
		if k := rapid.IntRange(-1, 11).Draw(t, "key"); k >= 0 {
			r.key = fmt.Appendf(nil, "key-%d", k)
		}
		if r.key == nil || rapid.IntRange(0, 3).Draw(t, "tombstone") > 0 {
			r.value = bytes.Repeat([]byte{byte(now)}, rapid.SampledFrom([]int{0, 10, 150}).Draw(t, "size"))
		}
		out = append(out, r)
	}
	return out
}

// After any interleaving of appends, rolls, truncations, cleanings, retention, failures and crashes the log holds the latest
// record of each key, tombstones until their time, and nothing that was not appended.
func TestCleaningAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := newKeyedLog(t, rt.Fatalf, fsys.NewMem(rapid.Uint64().Draw(rt, "seed"), fsys.MemOptions{}), Config{
			SegmentBytes:       rapid.SampledFrom([]int64{400, 900, 3000}).Draw(rt, "segment"),
			IndexIntervalBytes: rapid.SampledFrom([]int{1, 100, 1000}).Draw(rt, "interval"),
		})
		if err := x.create(); err != nil {
			rt.Fatal(err)
		}
		m := &keyedMachine{keyedLog: x, t: rt, cleaner: NewCleaner(CleanerOptions{})}
		bag := []string{
			"append", "append", "append", "append", "append", "append", "sync", "sync", "checkpoint", "checkpoint", "roll", "epoch",
			"clean", "clean", "clean", "time", "time", "truncate", "retain", "stop", "kill", "power",
		}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			step := rapid.SampledFrom(bag).Draw(rt, "step")
			rt.Logf("step %s, end %d", step, x.end)
			m.step(step, rapid.IntRange(0, 5).Draw(rt, "faulty") == 0)
			if x.log.Failed() != nil || x.dir.journal.failed != nil {
				how := "power"
				if !m.deaf {
					how = rapid.SampledFrom([]string{"kill", "power"}).Draw(rt, "how")
				}
				m.step(how, false)
			}
			x.check()
		}
		m.step("power", false)
		x.check()
	})
}

type keyedMachine struct {
	*keyedLog
	t       *rapid.T
	cleaner *Cleaner
	failed  bool // a failure was injected and bit
	deaf    bool // in a sync of a directory
	broken  bool // a sync failed since the last start
}

// inject lets one of the next operations fail.
func (m *keyedMachine) inject() {
	left := rapid.IntRange(1, 30).Draw(m.t, "failAt")
	err := rapid.SampledFrom([]error{syscall.EIO, fsys.ErrNoSpace}).Draw(m.t, "error")
	m.mem.SetInjector(func(op fsys.Op, _ string) error {
		if left--; left == 0 {
			m.failed = true
			m.deaf = m.deaf || op == fsys.OpSyncDir || op == fsys.OpSyncFS
			m.broken = m.broken || m.deaf || op == fsys.OpSyncData
			return fmt.Errorf("injected: %w", err)
		}
		return nil
	})
}

func (m *keyedMachine) step(step string, faulty bool) {
	x, t := m.keyedLog, m.t
	if faulty && (step == "clean" || step == "retain" || step == "roll") {
		m.inject()
	}
	err := m.run(step)
	x.mem.SetInjector(nil)
	if err != nil && !m.failed {
		t.Fatalf("%s: %v", step, err)
	}
	if m.deaf && x.log.Failed() == nil && step != "kill" && step != "power" {
		_ = m.run("power") //nolint:errcheck // it returns nil
	}
	m.failed = false
}

func (m *keyedMachine) run(step string) error {
	x, t := m.keyedLog, m.t
	switch step {
	case "append":
		x.now++
		codec := rapid.SampledFrom([]record.Codec{record.None, record.None, record.Zstd, record.Snappy}).Draw(t, "codec")
		return x.append(rapid.Int64Range(-1, 2).Draw(t, "producer"), codec, drawRecords(t, x.now))
	case "sync":
		return x.sync()
	case "checkpoint":
		return x.checkpoint(rapid.Int64Range(min(x.savedHW, x.durable), x.durable).Draw(t, "hw"))
	case "roll":
		return x.log.Roll()
	case "epoch":
		x.epoch++
		return x.log.AssignEpochStart(x.epoch, x.end)
	case "time":
		x.now += int64(rapid.IntRange(1, 100).Draw(t, "ms"))
	case "clean":
		m.cleaner.opts.MapBytes = rapid.SampledFrom([]int64{1, 1 << 20}).Draw(t, "map")
		return x.clean(m.cleaner, rapid.Int64Range(0, x.end).Draw(t, "lowest"), rapid.SampledFrom([]int{1, 5, 20, math.MaxInt}).Draw(t, "stop"))
	case "truncate":
		low := max(x.log.LogStartOffset(), x.log.CheckpointedHighWatermark())
		end, err := x.log.TruncateTo(rapid.Int64Range(low, max(low, x.end)).Draw(t, "to"))
		if err == nil {
			x.durable = min(x.durable, end)
			x.cutTo(end)
		}
		return err
	case "retain":
		return m.retain()
	default:
		return m.restart(step)
	}
	return nil
}

// retain deletes by age or size, and checks that only what is old, or beyond the size, has gone.
func (m *keyedMachine) retain() error {
	x, t := m.keyedLog, m.t
	p := RetentionPolicy{Delete: true, Ms: -1, Bytes: -1}
	if rapid.Bool().Draw(t, "byTime") {
		p.Ms = int64(rapid.IntRange(30, 300).Draw(t, "retention"))
	} else {
		p.Bytes = int64(rapid.IntRange(0, 3000).Draw(t, "bytes"))
	}
	before, size := x.log.LogStartOffset(), x.log.SizeBytes()
	res, err := x.log.RetentionStep(p, RetentionInput{NowMs: x.now, HighWatermark: x.savedHW})
	if err != nil {
		return err
	}
	start := x.log.LogStartOffset()
	if res.Start != start || start < before || (start > before && start > x.savedHW) {
		t.Fatalf("retention moved the start from %d to %d: %+v, high watermark %d", before, start, res, x.savedHW)
	}
	if p.Bytes >= 0 && start > before && x.log.SizeBytes() < min(p.Bytes, size) {
		t.Fatalf("%d bytes are left of %d, %d were to be kept", x.log.SizeBytes(), size, p.Bytes)
	}
	for _, r := range x.records {
		if p.Ms >= 0 && r.offset >= before && r.offset < start && x.now-r.ts <= p.Ms {
			t.Fatalf("record %d of time %d is gone at %d: %+v", r.offset, r.ts, x.now, p)
		}
	}
	if start == before && len(res.Kept) == 0 && x.end > start {
		t.Fatalf("no reason for keeping [%d, %d)", start, x.end)
	}
	return nil
}

func (m *keyedMachine) restart(how string) error {
	x := m.keyedLog
	broken := m.broken || x.log.Failed() != nil || x.dir.journal.failed != nil
	switch how {
	case "stop":
		if err := x.log.Close(true); err != nil && !broken {
			return err
		}
		if err := x.dir.Close(); err != nil && !broken {
			return err
		}
	case "kill":
		x.mem = x.mem.CrashProcess()
	case "power":
		x.mem = x.mem.Crash()
	}
	m.deaf, m.broken = false, false
	x.reopen(how != "power" && !broken)
	return nil
}
