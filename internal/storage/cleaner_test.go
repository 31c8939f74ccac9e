package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

// steady is a keyedLog without random faults.
func steady(t testing.TB, cfg Config) *keyedLog {
	t.Helper()
	x := newKeyedLog(t, t.Fatalf, fsys.NewMem(1, fsys.MemOptions{}), cfg)
	if err := x.create(); err != nil {
		t.Fatal(err)
	}
	return x
}

// put appends one record; a nil value is a tombstone.
func (x *keyedLog) put(t testing.TB, producer int64, key string, value []byte) {
	t.Helper()
	x.now++
	must(t, x.append(producer, record.None, []keyedRecord{{ts: x.now, key: []byte(key), value: value}}))
}

// seal makes everything appended so far compactable.
func (x *keyedLog) seal(t testing.TB) {
	t.Helper()
	must(t, x.sync())
	must(t, x.checkpoint(x.end))
	must(t, x.log.Roll())
}

func (x *keyedLog) keysOf() (keys []string) {
	for _, r := range x.read(x.log.LogStartOffset()) {
		keys = append(keys, fmt.Sprintf("%s@%d", r.key, r.offset))
	}
	return keys
}

func TestTombstonesGoInTheirTime(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, -1, "a", []byte("1"))
	x.put(t, -1, "b", []byte("2"))
	x.put(t, -1, "a", nil)
	x.put(t, -1, "c", []byte("3"))
	x.seal(t)
	c := NewCleaner(CleanerOptions{})
	want := func(keys ...string) {
		t.Helper()
		x.check()
		if got := x.keysOf(); !slices.Equal(got, keys) {
			t.Fatalf("%q, want %q", got, keys)
		}
	}
	must(t, x.clean(c, x.end, math.MaxInt))
	want("b@1", "a@2", "c@3")
	due := func() bool {
		s, err := x.log.CleaningState(CompactionPolicy{MinDirtyRatio: 0.5}, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		return s.Due
	}
	x.now += keyedRetentionMs - 1
	if due() {
		t.Error("due before the tombstone is")
	}
	must(t, x.clean(c, x.end, math.MaxInt))
	want("b@1", "a@2", "c@3")
	x.now += 2
	if !due() {
		t.Error("not due though the tombstone is")
	}
	must(t, x.clean(c, 2, math.MaxInt)) // a replica has not got it
	want("b@1", "a@2", "c@3")
	if due() {
		t.Error("due at once again though a replica holds it up")
	}
	x.now += tombstoneRetryMs
	if !due() {
		t.Error("not tried again")
	}
	must(t, x.clean(c, 3, math.MaxInt))
	want("b@1", "c@3")
}

// A cleaning keeps what recovery, producers and replicas need of batches whose records all go.
func TestHeadersThatStay(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, 5, "a", []byte("1"))                                                               // the first of its epoch
	x.put(t, 5, "a", []byte("2"))                                                               //
	x.put(t, 7, "a", []byte("3"))                                                               // the last of producer 7
	x.epoch = 3                                                                                 //
	x.put(t, 5, "a", []byte("4"))                                                               // the first of its epoch
	x.put(t, -1, "a", []byte("5"))                                                              //
	x.put(t, 5, "a", []byte("6"))                                                               // the last of producer 5
	must(t, x.append(-1, record.None, []keyedRecord{{ts: 1, key: nil, value: []byte("kept")}})) // no key
	x.put(t, -1, "a", []byte("7"))                                                              // the last of the segment
	x.seal(t)
	x.put(t, -1, "a", []byte("8"))
	x.put(t, -1, "b", []byte("8"))
	x.seal(t)
	must(t, x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt))
	x.check()
	res, err := x.log.Read(0, 1<<20, math.MaxInt64, nil)
	must(t, err)
	var got []string
	for s := record.NewScanner(res.Data, record.Limits{}); s.Next(); {
		h := s.Header()
		got = append(got, fmt.Sprintf("%d-%d epoch %d producer %d: %d", h.BaseOffset, h.LastOffset(), h.LeaderEpoch, h.ProducerID, h.Count))
	}
	want := []string{
		"0-0 epoch 0 producer 5: 0", "2-2 epoch 0 producer 7: 0", "3-3 epoch 3 producer 5: 0", "5-5 epoch 3 producer 5: 0",
		"6-6 epoch 3 producer -1: 1", "8-8 epoch 3 producer -1: 1", "9-9 epoch 3 producer -1: 1",
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	// Without any hint everything is still known.
	for _, info := range mustList(t, x.mem, x.log.path) {
		if _, ok := parseFileName(info.Name, segmentSuffix); !ok {
			must(t, x.mem.Remove(x.log.path+"/"+info.Name))
		}
	}
	must(t, x.mem.Remove("data/"+journalName))
	x.mem = x.mem.CrashProcess()
	before := x.log.EpochStarts()
	x.reopen(true)
	x.check()
	if got := x.log.EpochStarts(); !slices.Equal(got, before) {
		t.Errorf("epochs %v, want %v", got, before)
	}
}

func mustList(t testing.TB, fsy fsys.FS, dir string) []fsys.FileInfo {
	t.Helper()
	infos, err := fsy.List(dir)
	must(t, err)
	return infos
}

// Transactions, and batches that cannot be opened, stay whole, and so do the tombstones behind them.
func TestUnopenedBatchesStay(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, -1, "a", []byte("1"))
	data, _ := x.batchOf(noProducer, record.Zstd, []keyedRecord{{ts: 5, key: []byte("a"), value: make([]byte, 500)}})
	data[record.HeaderSize] ^= 0xff // no zstd frame any more
	h := sealed(t, data)
	res, err := x.log.AppendLeader([][]byte{data}, h, 0, 5)
	must(t, err)
	x.end = res.LogEndOffset
	x.records = append(x.records, keyedRecord{offset: 1, ts: 5})
	x.put(t, -1, "a", nil)
	x.seal(t)
	for range 3 {
		x.now += keyedRetentionMs + tombstoneRetryMs
		cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		if cl != nil {
			if _, done, err := cl.Step(math.MaxInt64); !done || err != nil || cl.Stats().Unreadable != 1 {
				t.Fatalf("%t, %v, %+v", done, err, cl.Stats())
			}
			must(t, cl.Close())
		}
	}
	out, err := x.log.Read(0, 1<<20, math.MaxInt64, nil)
	must(t, err)
	if !bytes.Contains(out.Data, stamped(data, 1, 0)) {
		t.Error("the batch that cannot be opened has changed")
	}
	last, err := record.ParseHeader(out.Data[len(out.Data)-headSizeOfLast(t, out.Data):])
	if err != nil || last.BaseOffset != 2 || last.Count != 1 {
		t.Errorf("the tombstone: %+v, %v", last, err)
	}
}

func headSizeOfLast(t testing.TB, data []byte) (size int) {
	t.Helper()
	for s := record.NewScanner(data, record.Limits{}); s.Next(); {
		size = s.Header().Size()
	}
	return size
}

// sealed gives a batch whose bytes were altered the CRC to match.
func sealed(t testing.TB, batch []byte) record.Header {
	t.Helper()
	must(t, record.SetProducer(batch, record.NoProducerID, record.NoProducerEpoch, record.NoSequence))
	h, err := record.Verify([][]byte{batch}, record.Limits{})
	must(t, err)
	return h
}

// More keys than the memory holds take several passes, of which each gets further.
func TestCleaningInSeveralPasses(t *testing.T) {
	x := steady(t, Config{SegmentBytes: 50_000})
	for i := range 6000 {
		x.put(t, -1, fmt.Sprintf("key-%d", i%2500), []byte("0123456789"))
	}
	x.seal(t)
	c := NewCleaner(CleanerOptions{MapBytes: 1}) // the smallest map: 768 keys
	passes, at := 0, int64(-1)
	for more := true; more; passes++ {
		cl, err := c.Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		if _, done, err := cl.Step(math.MaxInt64); !done || err != nil {
			t.Fatal(done, err)
		}
		more = cl.Stats().More
		if cl.Stats().CleanedTo <= at {
			t.Fatalf("pass %d is stuck at %d", passes, at)
		}
		at = cl.Stats().CleanedTo
		must(t, cl.Close())
	}
	x.cleaned = x.end
	x.check()
	if n := len(x.read(0)); n != 2500 || passes < 3 {
		t.Errorf("%d records after %d passes", n, passes)
	}
}

// Files of a swap that was interrupted anywhere are put right by the next start, whatever the failure: every operation of a
// script with cleanings, retention and truncations fails once, by an error or a crash, before a kill and before a loss of power.
func TestEveryOperationOfACleaningFailsOnce(t *testing.T) {
	script := func(x *keyedLog) error {
		x.quiet = true
		if err := x.create(); err != nil {
			return err
		}
		c := NewCleaner(CleanerOptions{})
		for round := range 4 {
			for i := range 9 {
				x.now++
				r := keyedRecord{ts: x.now, key: fmt.Appendf(nil, "key-%d", i%4), value: make([]byte, 60)}
				if i == 3 && round < 3 {
					r.value = nil
				}
				if err := x.append(int64(i%3-1), []record.Codec{record.None, record.Snappy}[i%2], []keyedRecord{r}); err != nil {
					return err
				}
			}
			if err := x.sync(); err != nil {
				return err
			}
			if err := x.checkpoint(x.end); err != nil {
				return err
			}
			if err := x.log.Roll(); err != nil {
				return err
			}
			if err := x.clean(c, x.end, math.MaxInt); err != nil {
				return err
			}
			x.now += keyedRetentionMs
		}
		if _, err := x.log.RetentionStep(RetentionPolicy{Delete: true, Ms: -1, Bytes: 300}, RetentionInput{NowMs: x.now, HighWatermark: x.savedHW}); err != nil {
			return err
		}
		return x.checkpoint(x.end)
	}
	cfg := Config{SegmentBytes: 500, IndexIntervalBytes: 100}
	count := newKeyedLog(t, t.Fatalf, fsys.NewMem(1, fsys.MemOptions{}), cfg)
	must(t, script(count))
	t.Logf("%d operations", count.mem.Ops())
	for _, fault := range []string{"error", "full", "crash"} {
		for k := int64(1); k <= count.mem.Ops(); k++ {
			for _, power := range []bool{false, true} {
				where := fmt.Sprintf("%s at operation %d, power loss %t: ", fault, k, power)
				x := newKeyedLog(t, func(format string, args ...any) { t.Helper(); t.Fatalf(where+format, args...) },
					fsys.NewMem(uint64(k), fsys.MemOptions{}), cfg) //nolint:gosec // k is positive
				switch fault {
				case "error":
					x.mem.FailAt(k, fmt.Errorf("injected: %w", syscall.EIO))
				case "full":
					x.mem.FailAt(k, fmt.Errorf("injected: %w", fsys.ErrNoSpace))
				default:
					x.mem.CrashAt(k)
				}
				err := script(x)
				if x.log == nil {
					continue
				}
				if err == nil && fault == "crash" && k < count.mem.Ops() {
					t.Fatalf("%sit went on", where)
				}
				if power {
					x.mem = x.mem.Crash()
				} else {
					x.mem = x.mem.CrashProcess()
				}
				if x.durable == 0 { // the log itself may be gone
					continue
				}
				x.reopen(false)
				x.check()
			}
		}
	}
}

// Readers beside cleanings, with views of any age, see each key's latest record, and never an error or a stall.
func TestReadersBesideCleaning(t *testing.T) {
	x := steady(t, Config{SegmentBytes: 4000, IndexIntervalBytes: 300})
	const keys = 40
	for i := range 400 {
		x.put(t, -1, fmt.Sprintf("key-%d", i%keys), make([]byte, 50))
	}
	x.seal(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var reads atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // a test
			it := new(record.Iterator)
			for !stop.Load() {
				end := x.log.LogEndOffset()
				last := int64(-1)
				for at := r.Int64N(end); at < end; {
					res, err := x.log.Read(at, 500, end, nil)
					if err == nil && len(res.Data) == 0 && x.log.LogEndOffset() > end {
						break // what was there has later values behind end
					}
					if err != nil || len(res.Data) == 0 {
						t.Errorf("read at %d of %d: %d bytes, %v", at, end, len(res.Data), err)
						return
					}
					for s := record.NewScanner(res.Data, record.Limits{}); s.Next(); {
						if err := it.Reset(s.Batch(), record.Limits{}); err != nil || s.Header().BaseOffset <= last {
							t.Errorf("batch %d after %d: %v", s.Header().BaseOffset, last, err)
							return
						}
						last = s.Header().LastOffset()
					}
					at = res.NextOffset
				}
				if _, _, _, err := x.log.OffsetForTime(x0Time + r.Int64N(400)); err != nil {
					t.Error(err)
					return
				}
				reads.Add(1)
			}
		})
	}
	c := NewCleaner(CleanerOptions{})
	for range 60 {
		for i := range keys / 4 {
			must(t, x.append(-1, record.None, []keyedRecord{{ts: x0Time, key: fmt.Appendf(nil, "key-%d", i), value: make([]byte, 50)}}))
		}
		x.seal(t)
		cl, err := c.Begin(x.log, x.policy, CleaningInput{NowMs: x0Time, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		if cl == nil {
			continue
		}
		if _, done, err := cl.Step(math.MaxInt64); !done || err != nil {
			t.Fatal(done, err)
		}
		must(t, cl.Close())
	}
	stop.Store(true)
	wg.Wait()
	if reads.Load() == 0 {
		t.Log("no reader came through while the log was cleaned")
	}
	x.cleaned = x.end
	x.check()
}

const x0Time = int64(1_000_000)

// A cleaning is given up when its log is closed, and never touches a damaged segment.
func TestCleaningOfALogThatGoesAway(t *testing.T) {
	for _, after := range []int{0, 1, 3, 8, 20} {
		x := steady(t, Config{SegmentBytes: 400})
		for i := range 40 {
			x.put(t, -1, fmt.Sprintf("key-%d", i%4), make([]byte, 50))
		}
		x.seal(t)
		cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		done := false
		for range after {
			_, done, err = cl.Step(1)
			must(t, err)
		}
		must(t, x.log.Close(true))
		for !done && err == nil {
			_, done, err = cl.Step(1)
		}
		if err != nil && !cl.Stopped(err) {
			t.Errorf("after %d steps: %v", after, err)
		}
		must(t, cl.Close())
		x.mem = x.mem.CrashProcess()
		x.cleaned = x.end
		x.reopen(true)
		x.check()
	}
	x := steady(t, Config{})
	for i := range 4 {
		x.put(t, -1, "key", fmt.Appendf(nil, "%d", i))
	}
	x.seal(t)
	must(t, x.mem.Flip(x.log.segs[0].logName(), 100, 3))
	cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
	must(t, err)
	if _, _, err := cl.Step(math.MaxInt64); !errors.Is(err, ErrCorruptLog) || cl.Stopped(err) {
		t.Errorf("a damaged batch: %v", err)
	}
	must(t, cl.Close())
}
