package storage

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

func TestDecideRetention(t *testing.T) {
	segs := []RetentionSegment{
		{Base: 0, Next: 10, Size: 100, MaxTimestamp: 1000},
		{Base: 10, Next: 20, Size: 100, MaxTimestamp: NoAge},
		{Base: 20, Next: 30, Size: 100, MaxTimestamp: 3000},
		{Base: 30, Next: 40, Size: 100, MaxTimestamp: 4000},
	}
	last := func(s RetentionSegment) []RetentionSegment { return append(slices.Clone(segs[:3]), s) }
	now := func(ms, hw int64, clock ClockVerdict) RetentionInput {
		return RetentionInput{NowMs: ms, HighWatermark: hw, Clock: clock}
	}
	by := func(ms, bytes int64) RetentionPolicy { return RetentionPolicy{Delete: true, Ms: ms, Bytes: bytes} }
	for _, c := range []struct {
		name   string
		segs   []RetentionSegment
		policy RetentionPolicy
		in     RetentionInput
		start  int64
		paused bool
		kept   []Kept
	}{
		{"for ever", segs, by(-1, -1), now(1e9, 40, 0), 0, false, []Kept{{Reason: KeptForever}, {Reason: KeptAnySize}}},
		{"not yet", segs, by(500, -1), now(1500, 40, 0), 0, false, []Kept{{Reason: KeptByTime, UntilMs: 1501}, {Reason: KeptAnySize}}},
		{
			"one, and one without times waits for the next", segs, by(500, -1), now(1501, 40, 0), 10, false,
			[]Kept{{Reason: KeptNoTimestamp, Base: 10}, {Reason: KeptAnySize, Base: 10}},
		},
		{
			"up to the active one", segs, by(500, -1), now(4400, 40, 0), 30, false,
			[]Kept{{Reason: KeptByTime, Base: 30, UntilMs: 4501}, {Reason: KeptAnySize, Base: 30}},
		},
		{"the active one too", segs, by(500, -1), now(9000, 40, 0), 40, false, nil},
		{
			"below the high watermark", segs, by(500, -1), now(9000, 25, 0), 20, false,
			[]Kept{{Reason: KeptHighWatermark, Base: 20}, {Reason: KeptAnySize, Base: 20}},
		},
		{
			"the future", last(RetentionSegment{Base: 30, Next: 40, Size: 9, MaxTimestamp: 99000}), by(500, -1), now(9000, 40, 0), 30, false,
			[]Kept{{Reason: KeptFutureTimestamp, Base: 30, UntilMs: 99501}, {Reason: KeptAnySize, Base: 30}},
		},
		{
			"an empty active one", last(RetentionSegment{Base: 30, Next: 30, MaxTimestamp: NoAge}), by(500, -1), now(9000, 30, 0), 30, false,
			[]Kept{{Reason: KeptEmpty, Base: 30}},
		},
		{
			"by size", segs, by(-1, 250), now(9000, 40, 0), 10, false,
			[]Kept{{Reason: KeptForever, Base: 10}, {Reason: KeptBySize, Base: 10, MissingBytes: 50}},
		},
		{
			"no bytes at all", segs, by(-1, 0), now(9000, 40, 0), 30, false,
			[]Kept{{Reason: KeptForever, Base: 30}, {Reason: KeptActiveSegment, Base: 30}},
		},
		{"compacted only", segs, RetentionPolicy{Ms: 0, Bytes: 0}, now(9000, 40, 0), 0, false, []Kept{{Reason: KeptPolicy}}},
		{"the clock jumped", segs, by(500, -1), now(9000, 40, ClockJumped), 0, true, []Kept{{Reason: KeptClockJumped}, {Reason: KeptAnySize}}},
		{
			"the clock jumped, size goes on", segs, by(500, 300), now(9000, 40, ClockJumped), 10, true,
			[]Kept{{Reason: KeptClockJumped, Base: 10}, {Reason: KeptBySize, Base: 10, MissingBytes: 100}},
		},
		{"doubtful, all would go", segs, by(500, -1), now(9000, 40, ClockDoubtful), 0, true, []Kept{{Reason: KeptClockJumped}, {Reason: KeptAnySize}}},
		{
			"doubtful, some stay", segs, by(500, -1), now(4400, 40, ClockDoubtful), 30, false,
			[]Kept{{Reason: KeptByTime, Base: 30, UntilMs: 4501}, {Reason: KeptAnySize, Base: 30}},
		},
		{
			"times without end", segs, by(math.MaxInt64, -1), now(9000, 40, 0), 0, false,
			[]Kept{{Reason: KeptByTime, UntilMs: math.MaxInt64}, {Reason: KeptAnySize}},
		},
		{"nothing", nil, by(0, 0), now(9000, 0, 0), 0, false, nil},
	} {
		d := DecideRetention(c.segs, 0, c.policy, c.in)
		if d.Start != c.start || d.Paused != c.paused || !slices.Equal(d.Kept, c.kept) {
			t.Errorf("%s: %+v, want start %d, paused %t, %+v", c.name, d, c.start, c.paused, c.kept)
		}
	}
}

func TestClockGuard(t *testing.T) {
	const wall = int64(1_700_000_000_000)
	type look struct {
		after time.Duration // on the monotonic clock
		jump  time.Duration // of the wall clock besides
		want  ClockVerdict
		alarm bool
	}
	for _, c := range []struct {
		name  string
		seen  int64
		looks []look
	}{
		{"steady", 0, []look{{time.Hour, 0, ClockTrusted, false}, {time.Hour, time.Minute, ClockTrusted, false}, {time.Hour, -time.Minute, ClockTrusted, false}}},
		{"a jump, accepted after the grace time", 0, []look{
			{time.Hour, 365 * 24 * time.Hour, ClockJumped, true},
			{time.Hour, 0, ClockJumped, false},
			{22 * time.Hour, 0, ClockJumped, false},
			{time.Hour, 0, ClockTrusted, false},
			{time.Hour, 0, ClockTrusted, false},
		}},
		{"a jump that is taken back", 0, []look{{time.Hour, time.Hour, ClockJumped, true}, {time.Minute, -time.Hour, ClockTrusted, false}, {time.Hour, 0, ClockTrusted, false}}},
		{"a second jump starts the grace time anew", 0, []look{
			{time.Hour, time.Hour, ClockJumped, true}, {20 * time.Hour, time.Hour, ClockJumped, true}, {20 * time.Hour, 0, ClockJumped, false}, {4 * time.Hour, 0, ClockTrusted, false},
		}},
		{"back, and forward again", 0, []look{{time.Hour, -48 * time.Hour, ClockTrusted, false}, {time.Hour, 48 * time.Hour, ClockTrusted, false}}},
		{"back for good, then forward", 0, []look{
			{time.Hour, -48 * time.Hour, ClockTrusted, false}, {24 * time.Hour, 0, ClockTrusted, false}, {time.Hour, 48 * time.Hour, ClockJumped, true},
		}},
		{"many small steps are a jump", 0, []look{
			{time.Hour, 2 * time.Minute, ClockTrusted, false}, {time.Hour, 2 * time.Minute, ClockTrusted, false}, {time.Hour, 2 * time.Minute, ClockJumped, true},
		}},
		{"a short restart", wall - time.Hour.Milliseconds(), []look{{time.Minute, 0, ClockTrusted, false}}},
		{"a clock that was set wrongly while the broker was away", wall - (25 * time.Hour).Milliseconds(), []look{
			{time.Minute, 0, ClockDoubtful, false}, {23 * time.Hour, 0, ClockDoubtful, false}, {time.Hour, 0, ClockTrusted, false},
		}},
	} {
		g := NewClockGuard(ClockGuardOptions{})
		now, mono := wall, 5*time.Second
		g.Begin(c.seen, now, mono)
		for i, l := range c.looks {
			now, mono = now+(l.after+l.jump).Milliseconds(), mono+l.after
			if v, alarm, _ := g.Observe(now, mono); v != l.want || alarm != l.alarm {
				t.Errorf("%s, look %d: %v, alarm %t", c.name, i, v, alarm)
			}
		}
	}
}

func TestSeenTime(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	if ms, err := d.SeenTime(); ms != 0 || err != nil {
		t.Errorf("%d, %v", ms, err)
	}
	for _, ms := range []int64{5, 1_700_000_000_000} {
		must(t, d.NoteSeenTime(ms))
		if got, err := d.SeenTime(); got != ms || err != nil {
			t.Errorf("%d, %v", got, err)
		}
	}
}

// A partition that nobody writes to is emptied when it is too old, and its space comes free, on followers too.
func TestRetentionOfAQuietLog(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, -1, "a", []byte("1"))
	x.put(t, -1, "b", []byte("2"))
	must(t, x.sync())
	p := RetentionPolicy{Delete: true, Ms: 100, Bytes: -1}
	step := func(hw int64) RetentionResult {
		t.Helper()
		res, err := x.log.RetentionStep(p, RetentionInput{NowMs: x.now, HighWatermark: hw})
		must(t, err)
		return res
	}
	if res := step(2); res.Segments != 0 || res.Kept[0].Reason != KeptByTime {
		t.Errorf("%+v", res)
	}
	x.now += 101
	if res := step(1); res.Segments != 0 || res.Kept[0].Reason != KeptHighWatermark {
		t.Errorf("%+v", res)
	}
	d, err := x.log.ExplainRetention(p, RetentionInput{NowMs: x.now, HighWatermark: 2})
	if err != nil || d.Start != 2 || x.log.LogStartOffset() != 0 {
		t.Errorf("explained: %+v, %v", d, err)
	}
	if res := step(2); !res.Rolled || res.Start != 2 || res.Segments != 1 {
		t.Errorf("%+v", res)
	}
	must(t, x.checkpoint(2))
	if x.log.SizeBytes() != 0 || x.log.LogStartOffset() != 2 || len(mustList(t, x.mem, x.log.path)) > 3 {
		t.Errorf("%d bytes from %d on, %v", x.log.SizeBytes(), x.log.LogStartOffset(), mustList(t, x.mem, x.log.path))
	}
	if res := step(2); res.Segments != 0 || res.Kept[0].Reason != KeptEmpty {
		t.Errorf("%+v", res)
	}
	x.put(t, -1, "c", []byte("3"))
	must(t, x.sync())
	if ok, err := x.log.ReleaseTrimmed(); ok || err != nil {
		t.Errorf("released what can be read: %t, %v", ok, err)
	}
	must(t, x.log.Trim(3)) // as a follower
	if ok, err := x.log.ReleaseTrimmed(); !ok || err != nil {
		t.Errorf("not released: %t, %v", ok, err)
	}
	must(t, x.checkpoint(3))
	x.mem = x.mem.Crash()
	x.reopen(true)
	if x.log.SizeBytes() != 0 || x.log.LogStartOffset() != 3 {
		t.Errorf("%d bytes from %d on", x.log.SizeBytes(), x.log.LogStartOffset())
	}
}

// Compaction at full speed: half of the records are superseded.
func BenchmarkCleaning(b *testing.B) {
	for _, codec := range []record.Codec{record.None, record.Zstd} {
		b.Run(codec.String(), func(b *testing.B) {
			var bytes int64
			for b.Loop() {
				b.StopTimer()
				x := benchKeyedLog(b, codec)
				cl, err := NewCleaner(CleanerOptions{}).Begin(x.log, x.policy, CleaningInput{NowMs: x.now, HighWatermark: x.end, LowestPosition: x.end})
				must(b, err)
				b.StartTimer()
				_, _, err = cl.Step(math.MaxInt64)
				must(b, err)
				b.StopTimer()
				bytes = cl.Stats().BytesRead
				must(b, cl.Close())
				must(b, x.dir.Close())
				b.StartTimer()
			}
			b.SetBytes(bytes)
		})
	}
}

// benchKeyedLog is a log on the machine's disk of 64 MiB of 1 KiB records with 32Ki keys.
func benchKeyedLog(b *testing.B, codec record.Codec) *keyedLog {
	b.Helper()
	d, err := OpenDir(fsys.OS(), b.TempDir(), testDirOptions())
	must(b, err)
	x := newKeyedLog(b, b.Fatalf, nil, Config{SegmentBytes: 16 << 20})
	x.dir = d
	x.log, err = d.CreateLog(testPartition(0), x.cfg)
	must(b, err)
	value := make([]byte, 1000)
	for i := range len(value) {
		value[i] = byte(i * i >> 3)
	}
	var key [4]byte
	for i := range 1024 {
		builder := record.NewBuilder(record.BuilderOptions{})
		for j := range 64 {
			n := (i*64 + j) % (32 << 10)
			key = [4]byte{byte(n), byte(n >> 8), 'k', 'y'}
			must(b, builder.Add(record.Record{Key: key[:], Value: value, Timestamp: 1}))
		}
		data, err := builder.Finish(codec, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
		must(b, err)
		h, err := record.ParseHeader(data)
		must(b, err)
		res, err := x.log.AppendLeader([][]byte{data}, h, 0, 1)
		must(b, err)
		x.end = res.LogEndOffset
	}
	x.durable, err = x.log.Sync()
	must(b, err)
	must(b, d.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: x.end}))
	must(b, x.log.Roll())
	return x
}
