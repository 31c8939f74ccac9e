package storage

import (
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// agedLog is a log of three segments, found by a new process without the hint of how old the first is: that holds a record of
// time 1000 and, behind it, one of time 9000. damage alters the file of the first segment, whose second batch begins at a position.
func agedLog(t *testing.T, damage func(mem *fsys.Mem, file string, second int64)) (l *Log, first string, second int64) {
	t.Helper()
	mem := fsys.NewMem(2, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for i, ts := range []int64{1000, 9000, 9000, 9000} {
		data, h := makeBatch(t, noProducer, i, 1, 100, ts)
		_, err := l.AppendLeader([][]byte{data}, h, 1, ts)
		must(t, err)
		if i == 0 {
			second = l.pos
		} else {
			must(t, l.Roll())
		}
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	first = l.segs[0].logName()
	mem = mem.CrashProcess()
	must(t, mem.Remove(l.snapshotName(2)))
	damage(mem, first, second)
	d = openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() {
		t.Fatalf("the opening has found it, this is about what it does not look at: %+v", report)
	}
	return l, first, second
}

// Data goes only on positive evidence: a segment whose age cannot be read, because of damage that nobody has marked yet, is not old.
func TestWhatCannotBeReadIsNotOld(t *testing.T) {
	const now = 5000 + 9000 // 9000 is not past the time, 1000 is
	policy, in := RetentionPolicy{Delete: true, Ms: 6000, Bytes: -1}, RetentionInput{NowMs: now, HighWatermark: 4}
	for name, damage := range map[string]func(mem *fsys.Mem, file string, second int64){
		"a bad header":    func(mem *fsys.Mem, file string, second int64) { must(t, mem.Flip(file, second+batchMagicAt, 0)) },
		"a bad length":    func(mem *fsys.Mem, file string, second int64) { must(t, mem.Flip(file, second+batchLengthAt, 4)) },
		"a bad timestamp": func(mem *fsys.Mem, file string, second int64) { must(t, mem.Flip(file, second+maxTimestampAt+6, 5)) },
		"a lost end": func(mem *fsys.Mem, file string, second int64) {
			f, err := mem.Open(file)
			must(t, err)
			must(t, errors.Join(f.Truncate(second), f.Close()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, first, second := agedLog(t, damage)
			for range 2 { // it is not forgotten
				res, err := l.RetentionStep(policy, in)
				var bad *CorruptError
				if !errors.As(err, &bad) || bad.File != first || bad.Position != second || bad.Offset != 1 {
					t.Errorf("%+v, %v", res, err)
				}
				if _, err := l.ExplainRetention(policy, in); !errors.Is(err, ErrCorruptLog) {
					t.Errorf("explained: %v", err)
				}
			}
			if start := l.LogStartOffset(); start != 0 {
				t.Errorf("the log begins at %d", start)
			}
			if at, ts, found, err := l.OffsetForTime(500); at != 0 || ts != 1000 || !found || err != nil {
				t.Errorf("what lies before: %d of time %d, %t, %v", at, ts, found, err)
			}
			if at, _, _, err := l.OffsetForTime(9000); !errors.Is(err, ErrCorruptLog) {
				t.Errorf("a record is passed over: %d, %v", at, err)
			}
		})
	}
}

// Without the hint the age of a segment is that of its latest record, wherever it stands.
func TestAgeWithoutHint(t *testing.T) {
	l, _, _ := agedLog(t, func(*fsys.Mem, string, int64) {})
	policy := RetentionPolicy{Delete: true, Ms: 6000, Bytes: -1}
	res, err := l.RetentionStep(policy, RetentionInput{NowMs: 15_000, HighWatermark: 4})
	if err != nil || res.Segments != 0 || res.Kept[0] != (Kept{Reason: KeptByTime, UntilMs: 15_001}) {
		t.Errorf("%+v, %v", res, err)
	}
	res, err = l.RetentionStep(policy, RetentionInput{NowMs: 15_001, HighWatermark: 4})
	if err != nil || res.Start != 4 {
		t.Errorf("%+v, %v", res, err)
	}
}
