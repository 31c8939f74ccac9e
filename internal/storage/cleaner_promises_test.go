package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// stateOf says what there is to compact of a log all of whose sealed records are committed.
func (x *keyedLog) stateOf(t *testing.T, p CompactionPolicy) CleaningState {
	t.Helper()
	s, err := x.log.CleaningState(p, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
	must(t, err)
	return s
}

// cleanBy runs a whole cleaning by a clock that is believed or not; false where there was nothing to clean.
func (x *keyedLog) cleanBy(t *testing.T, o CleanerOptions, clock ClockVerdict) bool {
	t.Helper()
	in := CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end, Clock: clock}
	cl, err := NewCleaner(o).Begin(x.log, x.policy, in)
	must(t, err)
	if cl == nil {
		return false
	}
	if _, done, err := cl.Step(math.MaxInt64); !done || err != nil {
		t.Fatal(done, err)
	}
	must(t, cl.Close())
	return true
}

// min.compaction.lag.ms: a segment with a record that is younger is left alone, and all behind it.
func TestYoungRecordsAreNotCompacted(t *testing.T) {
	x := steady(t, Config{})
	begun := x.now
	x.put(t, -1, "a", []byte("1")) // at begun+1
	x.seal(t)
	x.now = begun + 500
	x.put(t, -1, "a", []byte("2")) // at begun+501
	x.seal(t)
	x.now = begun + 100
	x.put(t, -1, "a", []byte("3")) // at begun+101, by a clock that went back
	x.seal(t)
	for _, c := range []struct{ now, to int64 }{{200, 0}, {201, 1}, {500, 1}, {700, 1}, {701, 3}} {
		x.now = begun + c.now
		if s := x.stateOf(t, CompactionPolicy{MinLagMs: 200}); s.To != c.to || s.Due != (c.to > 0) {
			t.Errorf("at %d: %+v, want up to %d", c.now, s, c.to)
		}
		if s := x.stateOf(t, CompactionPolicy{}); s.To != 3 {
			t.Errorf("at %d without a lag: %+v", c.now, s)
		}
	}
}

// Segments that are trimmed away while their ages are looked up are no error: there is nothing to compact of them.
func TestCleaningStateBesideATrim(t *testing.T) {
	l, mem, spy := segmentsOf(t, 1000, 1000, 1000)
	must(t, mem.Remove(l.snapshotName(1)))
	spy.opens = func(name string) {
		if !strings.HasSuffix(name, producersSuffix) {
			return
		}
		spy.opens = nil
		must(t, l.Trim(2))
		must(t, l.dir.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 3}))
	}
	s, err := l.CleaningState(CompactionPolicy{MinLagMs: 1}, CleaningInput{NowMs: 9000, HighWatermark: 3, LowestPosition: 3})
	if err != nil || s.Due || spy.opens != nil {
		t.Fatalf("%+v, %v", s, err)
	}
}

// The hint of how far a log is compacted is not believed where it lies beyond the log's end.
func TestCleanPointBeyondTheEndIsNotBelieved(t *testing.T) {
	for _, firstDirty := range []int64{3, 4, math.MaxInt64} {
		l, mem, _ := segmentsOf(t, 1000, 1000, 1000)
		must(t, writeHint(mem, path.Join(l.path, cleanPointName), cleanPoint{firstDirty: firstDirty, horizon: math.MaxInt64}.encode()))
		s, err := l.CleaningState(CompactionPolicy{}, CleaningInput{NowMs: 9000, HighWatermark: 3, LowestPosition: 3})
		if believed := firstDirty <= 3; err != nil || (s.CleanBytes > 0) != believed || (s.DirtyBytes > 0) == believed {
			t.Errorf("compacted up to %d of 3: %+v, %v", firstDirty, s, err)
		}
		if l.EverCleaned() != (firstDirty <= 3) {
			t.Errorf("compacted up to %d of 3: ever cleaned %t", firstDirty, l.EverCleaned())
		}
	}
}

// compactedTwice is a log with a segment of four records of two keys, compacted, and the batches that it had before.
func compactedTwice(t *testing.T) (x *keyedLog, before []byte) {
	t.Helper()
	x = steady(t, Config{})
	for i := range 4 {
		x.put(t, -1, fmt.Sprintf("key-%d", i%2), fmt.Appendf(nil, "%d", i))
	}
	before = readAll(t, x.log, 1<<20)
	x.seal(t)
	must(t, x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt))
	if s := x.stateOf(t, x.policy); s.From != 4 || s.DirtyBytes > 0 || !x.log.EverCleaned() {
		t.Fatalf("compacted: %+v", s)
	}
	return x, before
}

// What takes the place of compacted records is compacted anew, whatever they were given up for, and after a restart too. A cut behind
// them changes nothing.
func TestWhatTakesThePlaceOfCompactedRecordsIsDirty(t *testing.T) {
	emptied := func(t *testing.T, x *keyedLog) {
		t.Helper()
		f, err := x.mem.Open(x.log.segs[0].logName())
		must(t, err)
		must(t, errors.Join(f.Truncate(0), f.Close()))
		x.restart(t)
	}
	discard := func(t *testing.T, x *keyedLog) {
		t.Helper()
		must(t, x.mem.Flip(x.log.segs[0].logName(), batchMagicAt, 0))
		_, err := x.log.MarkDamaged(Damage{To: 4, File: x.log.segs[0].logName(), Reason: "found"})
		must(t, err)
		_, err = x.log.DiscardDamage()
		must(t, err)
	}
	for name, give := range map[string]func(t *testing.T, x *keyedLog){
		"discarded":                      discard,
		"lost, above the recovery point": emptied,
		"found by recovery": func(t *testing.T, x *keyedLog) {
			t.Helper()
			must(t, x.checkpoint(x.end)) // that it is filed
			emptied(t, x)
			if x.log.Damage() == nil {
				t.Fatal("no damage")
			}
			_, err := x.log.DiscardDamage()
			must(t, err)
		},
		"lost, all files": func(t *testing.T, x *keyedLog) {
			t.Helper()
			x.loseSegments(t)
			x.restart(t)
		},
		"reset": func(t *testing.T, x *keyedLog) { t.Helper(); must(t, x.log.Reset(0, nil)) },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", name, restart), func(t *testing.T) {
				x, before := compactedTwice(t)
				give(t, x)
				if x.log.LogEndOffset() != 0 {
					t.Fatalf("it ends at %d", x.log.LogEndOffset())
				}
				_, err := x.log.AppendFollower(before, false)
				must(t, err)
				if restart {
					_, err := x.log.Sync()
					must(t, err)
					x.restart(t)
				}
				x.seal(t)
				if s := x.stateOf(t, x.policy); s.From != 0 || s.To != 4 || s.CleanBytes > 0 || !s.Due {
					t.Fatalf("%+v", s)
				}
				must(t, x.clean(NewCleaner(CleanerOptions{}), x.end, math.MaxInt))
				if got := x.keysOf(); !slices.Equal(got, []string{"key-0@2", "key-1@3"}) {
					t.Errorf("%q", got)
				}
			})
		}
	}
	for _, restart := range []bool{false, true} {
		x, _ := compactedTwice(t)
		x.put(t, -1, "key-0", []byte("4"))
		_, err := x.log.TruncateTo(4)
		must(t, err)
		if restart {
			x.restart(t)
		}
		if s := x.stateOf(t, x.policy); s.From != 4 {
			t.Errorf("a cut behind, restart %t: %+v", restart, s)
		}
	}
}

// restart opens the log as a new process, whatever became of it.
func (x *keyedLog) restart(t *testing.T) {
	t.Helper()
	x.mem = x.mem.CrashProcess()
	x.dir = openTestDir(t, x.mem)
	l, _, err := x.dir.OpenLog(testPartition(0), x.cfg)
	must(t, err)
	x.log = l
}

// loseSegments removes all segments, as a file system check does that finds them lost.
func (x *keyedLog) loseSegments(t *testing.T) {
	t.Helper()
	for _, info := range mustList(t, x.mem, x.log.path) {
		if strings.HasSuffix(info.Name, segmentSuffix) {
			must(t, x.mem.Remove(path.Join(x.log.path, info.Name)))
		}
	}
}

// A clock that is not believed neither lets tombstones go, nor begins their time, nor makes a cleaning due for them.
func TestTombstonesStayWhileTheClockIsNotBelieved(t *testing.T) {
	for _, doubt := range []ClockVerdict{ClockDoubtful, ClockJumped} {
		x := steady(t, Config{})
		x.put(t, -1, "a", []byte("1"))
		x.put(t, -1, "a", nil)
		x.put(t, -1, "b", []byte("1"))
		x.seal(t)
		x.cleanBy(t, CleanerOptions{}, doubt) // its time does not begin
		x.now += 1000 * keyedRetentionMs
		x.put(t, -1, "c", []byte("1"))
		x.seal(t)
		x.cleanBy(t, CleanerOptions{}, ClockTrusted) // it begins
		want := func(when string, keys ...string) {
			t.Helper()
			if got := x.keysOf(); !slices.Equal(got, keys) {
				t.Fatalf("%s, %s: %q, want %q", doubt, when, got, keys)
			}
		}
		want("at the first look by a clock that is believed", "a@1", "b@2", "c@3")
		x.now += keyedRetentionMs + 1
		due := func(clock ClockVerdict) bool {
			s, err := x.log.CleaningState(x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end, Clock: clock})
			must(t, err)
			return s.Due
		}
		if due(doubt) || !due(ClockTrusted) {
			t.Errorf("%s: due %t, by a clock that is believed %t", doubt, due(doubt), due(ClockTrusted))
		}
		x.put(t, -1, "d", []byte("1"))
		x.seal(t)
		x.cleanBy(t, CleanerOptions{}, doubt)
		want("past its time", "a@1", "b@2", "c@3", "d@4")
		x.now += tombstoneRetryMs
		x.put(t, -1, "e", []byte("1"))
		x.seal(t)
		x.cleanBy(t, CleanerOptions{}, ClockTrusted)
		want("past its time by a clock that is believed", "b@2", "c@3", "d@4", "e@5")
	}
}

// The time of a tombstone begins once what it deletes is gone: not in a pass whose memory did not suffice for its key.
func TestTombstoneTimeBeginsWhenItsKeyIsCompacted(t *testing.T) {
	x := steady(t, Config{SegmentBytes: 1 << 20})
	for i := range 800 { // the smallest map holds 768
		x.put(t, -1, fmt.Sprintf("key-%d", i), []byte("1"))
	}
	x.put(t, -1, "late", []byte("1"))
	x.put(t, -1, "late", nil)
	x.put(t, -1, "last", []byte("1"))
	x.seal(t)
	small := CleanerOptions{MapBytes: 1}
	x.cleanBy(t, small, ClockTrusted)
	has := func(key string) bool { return slices.Contains(x.keysOf(), key) }
	if !has("late@800") || !has("late@801") {
		t.Fatal("the pass went further than it is to")
	}
	x.now += keyedRetentionMs + 1
	x.cleanBy(t, small, ClockTrusted)
	if has("late@800") || !has("late@801") {
		t.Fatalf("value there %t, tombstone there %t", has("late@800"), has("late@801"))
	}
	x.now += keyedRetentionMs + 1
	x.cleanBy(t, small, ClockTrusted)
	if has("late@801") {
		t.Fatal("the tombstone stays")
	}
}

// A cleaning leaves the least of space free, too: where the new segment does not fit beside that, nothing changes; where it does, to the
// byte, the cleaning is done. Without a least nobody asks.
func TestCleaningLeavesTheLeastFree(t *testing.T) {
	x := steady(t, Config{})
	for i := range 6 {
		x.put(t, -1, "key", bytes.Repeat([]byte{byte(i)}, 200))
	}
	x.seal(t)
	size := x.log.segs[0].size
	used := int64(1<<40) - mustFree(t, x.mem)
	begin := func() error {
		cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		_, _, err = cl.Step(math.MaxInt64)
		return errors.Join(err, cl.Close())
	}
	const least = 100_000
	x.dir.space.minFree = least
	x.mem.SetCapacity(used + least + size - 1)
	var full *SpaceError
	if err := begin(); !errors.As(err, &full) || full.MinFreeBytes != least+size || len(x.keysOf()) != 6 {
		t.Fatalf("%v, %d records", err, len(x.keysOf()))
	}
	for _, info := range mustList(t, x.mem, x.log.path) {
		if strings.HasSuffix(info.Name, cleanSuffix) {
			t.Errorf("%s is left", info.Name)
		}
	}
	x.dir.space.minFree = 0
	x.mem.SetInjector(func(op fsys.Op, _ string) error {
		if op == fsys.OpFreeBytes {
			return syscall.ENOSYS
		}
		return nil
	})
	y := *x
	y.mem = x.mem.Clone(1)
	must(t, begin())
	if len(x.keysOf()) != 1 {
		t.Errorf("without a least: %d records", len(x.keysOf()))
	}
	y.restart(t)
	x = &y
	x.dir.space.minFree = least
	x.mem.SetCapacity(0)
	x.mem.SetCapacity(int64(1<<40) - mustFree(t, x.mem) + least + size)
	must(t, begin())
	if len(x.keysOf()) != 1 {
		t.Errorf("to the byte: %d records", len(x.keysOf()))
	}
}

func mustFree(t *testing.T, mem *fsys.Mem) int64 {
	t.Helper()
	free, err := mem.FreeBytes("data")
	must(t, err)
	return free
}

// A log that is trimmed up to its active segment while it is compacted goes on from there.
func TestCleaningOfALogThatIsTrimmedWhole(t *testing.T) {
	for _, checkpoint := range []bool{false, true} {
		for steps := range 14 {
			x := steady(t, Config{SegmentBytes: 400})
			for i := range 8 {
				x.put(t, -1, "key", bytes.Repeat([]byte{byte(i)}, 100))
			}
			x.seal(t)
			cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
			must(t, err)
			done := false
			for range steps {
				if !done {
					_, done, err = cl.Step(1)
					must(t, err)
				}
			}
			must(t, x.log.Trim(x.end))
			if checkpoint {
				must(t, x.checkpoint(x.end))
			}
			for !done && err == nil {
				_, done, err = cl.Step(1)
			}
			if err != nil && !cl.Stopped(err) {
				t.Fatalf("after %d steps: %v", steps, err)
			}
			must(t, cl.Close())
			if x.log.SegmentCount() != 1 || x.log.LogStartOffset() != 8 || x.log.LogEndOffset() != 8 {
				t.Fatalf("after %d steps: %d segments of [%d, %d)", steps, x.log.SegmentCount(), x.log.LogStartOffset(), x.log.LogEndOffset())
			}
			x.put(t, -1, "key", []byte("new"))
			must(t, x.sync())
			must(t, x.checkpoint(x.end))
			x.mem = x.mem.Crash()
			x.restart(t)
			if got := x.keysOf(); !slices.Equal(got, []string{"key@8"}) {
				t.Fatalf("after %d steps: %q", steps, got)
			}
		}
	}
}

// A power loss at any operation of the change of places, whatever of the names it leaves, keeps each key's latest record, and what the
// opening has settled stays so.
func TestPowerLossWithinTheChangeOfPlaces(t *testing.T) {
	begin := func(seed uint64) (x *keyedLog, cl *Cleaning) {
		x = newKeyedLog(t, t.Fatalf, fsys.NewMem(seed, fsys.MemOptions{}), Config{SegmentBytes: 400})
		must(t, x.create())
		for i := range 12 {
			x.put(t, -1, fmt.Sprintf("key-%d", i%3), bytes.Repeat([]byte{byte(i)}, 100))
		}
		x.seal(t)
		x.log.Reconfigure(Config{SegmentBytes: 10_000}) // all sources become one
		cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
		must(t, err)
		return x, cl
	}
	x, cl := begin(0)
	at, first := x.mem.Ops(), int64(0) // the operation that gives the new segment its second name
	x.mem.SetInjector(func(op fsys.Op, name string) error {
		if at++; op == fsys.OpRename && strings.HasSuffix(name, cleanSuffix) {
			first = at
		}
		return nil
	})
	_, _, err := cl.Step(math.MaxInt64)
	must(t, errors.Join(err, cl.Close()))
	crashes := 0
	for k := first; k <= x.mem.Ops(); k++ {
		for seed := range uint64(20) {
			x, cl := begin(seed)
			x.mem.CrashAt(k)
			if _, _, err := cl.Step(math.MaxInt64); err != nil && !errors.Is(err, fsys.ErrCrashed) {
				t.Fatal(err)
			}
			x.mem = x.mem.Crash()
			for round := range 2 {
				x.reopen(true)
				x.cleaned = x.end
				x.check()
				x.mem = x.mem.Crash()
				if t.Failed() {
					t.Fatalf("seed %d, operation %d, opening %d", seed, k, round)
				}
			}
			crashes++
		}
	}
	if first <= 0 || crashes < 200 {
		t.Fatalf("%d crashes from operation %d on", crashes, first)
	}
}
