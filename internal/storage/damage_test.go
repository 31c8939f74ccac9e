package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// damagedLog makes a log of ten batches (two records each) in one segment per five, of which the first durable ones are
// below the recovery point, and returns the file system without its process.
func damagedLog(t *testing.T, durable int) (*fsys.Mem, [][]byte, string) {
	t.Helper()
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 5 * 300, IndexIntervalBytes: 1})
	must(t, err)
	var batches [][]byte
	for i := range 10 {
		data, _ := appendTo(t, l, 1, i, 2, 100)
		batches = append(batches, data)
		if i+1 == durable {
			_, err := l.Sync()
			must(t, err)
			must(t, d.Checkpoint(LogCheckpoint{Log: l}))
		}
	}
	return mem.CrashProcess(), batches, d.logDir(testPartition(0))
}

func TestTornTails(t *testing.T) {
	for name, tt := range map[string]struct {
		cut  int // bytes cut off the last segment's end
		tail func(batch []byte) []byte
		want CutKind
		lost int // batches
	}{
		"whole":                   {0, nil, CutNone, 0},
		"half a batch":            {100, nil, CutUnfinishedBatch, 1},
		"a few bytes of a header": {0, func([]byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, 20, 1} }, CutUnfinishedBatch, 0},
		"zeros":                   {0, func([]byte) []byte { return make([]byte, 5000) }, CutZeros, 0},
		"half a batch and zeros":  {100, func([]byte) []byte { return make([]byte, 5000) }, CutUnfinishedBatch, 1},
		"garbage":                 {0, func([]byte) []byte { return bytes.Repeat([]byte{0xa5}, 200) }, CutMore, 0},
		"zeros, then a batch":     {0, func(b []byte) []byte { return append(make([]byte, 300), b...) }, CutMore, 0},
		"the same batch again":    {0, func(b []byte) []byte { return b }, CutMore, 0},
	} {
		t.Run(name, func(t *testing.T) {
			mem, batches, dir := damagedLog(t, 2)
			infos, err := mem.List(dir)
			must(t, err)
			var last string
			for _, info := range infos {
				if _, ok := parseFileName(info.Name, segmentSuffix); ok {
					last = dir + "/" + info.Name
				}
			}
			f, err := mem.Open(last)
			must(t, err)
			must(t, f.Truncate(f.Position()-int64(tt.cut)))
			if tt.tail != nil {
				_, err = f.Append(tt.tail(batches[9]))
				must(t, err)
			}
			must(t, f.Close())
			for round := range 2 { // recovery is idempotent, and what was lost is told again
				d := openTestDir(t, mem)
				l, report, err := d.OpenLog(testPartition(0), Config{})
				must(t, err)
				want := tt.want
				if round == 1 {
					want = CutNone
				}
				if report.Cut != want || report.LostData() != (tt.want == CutMore) || report.LogEndOffset != int64(20-2*tt.lost) {
					t.Fatalf("round %d: %+v", round, report)
				}
				if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches[:10-tt.lost], nil)) {
					t.Fatalf("round %d: %d bytes", round, len(got))
				}
				mem = mem.CrashProcess()
			}
		})
	}
}

func TestDamageBelowTheRecoveryPoint(t *testing.T) {
	mem, batches, dir := damagedLog(t, 10)
	// The active segment is scanned at every unclean start; its first batch is hit.
	d := openTestDir(t, mem)
	l, _, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	base := l.active().base
	mem = mem.CrashProcess()
	must(t, mem.Flip(dir+"/"+fileName(base, segmentSuffix), int64(len(batches[0]))+16, 3)) // the magic
	d = openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	from := base + 2
	if report.Damage == nil || report.Damage.From != from || !report.LostData() || l.LogEndOffset() != 20 {
		t.Fatalf("%+v, damage %+v", report, report.Damage)
	}
	res, err := l.Read(0, 1<<20, 20, nil)
	if err != nil || len(res.Data) == 0 {
		t.Fatalf("what lies before the damage is not readable: %v", err)
	}
	if _, err := l.Read(from, 1000, 20, nil); !errors.Is(err, ErrCorruptLog) {
		t.Fatalf("read within the damage: %v", err)
	}
	data, h := makeBatch(t, noProducer, 1, 1, 10, 1)
	if _, err := l.AppendLeader([][]byte{data}, h, 1, 1); !errors.Is(err, ErrCorruptLog) {
		t.Fatalf("append to a damaged log: %v", err)
	}
	end, err := l.DiscardDamage()
	if err != nil || end != from || l.Damage() != nil {
		t.Fatalf("discarded to %d: %v", end, err)
	}
	if _, err := mem.Stat(dir + "/" + fileName(base, segmentSuffix) + corruptSuffix); err != nil {
		t.Fatalf("the damaged file was not kept: %v", err)
	}
	_, err = l.AppendFollower(bytes.Join(batches[from/2:], nil), false)
	must(t, err)
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches, nil)) {
		t.Fatalf("%d bytes after fetching anew", len(got))
	}
	// The same segment is damaged again: what was put aside first may hold the last copy of something and stays.
	kept := mustRead(t, mem, dir+"/"+fileName(base, segmentSuffix)+corruptSuffix)
	_, err = l.MarkDamaged(Damage{From: from, To: l.LogEndOffset(), File: l.active().logName(), Position: int64(len(batches[0])), Reason: "again"})
	must(t, err)
	_, err = l.DiscardDamage()
	must(t, err)
	if again := mustRead(t, mem, dir+"/"+fileName(base, segmentSuffix)+corruptSuffix); !bytes.Equal(again, kept) {
		t.Fatal("the file that was put aside first was replaced")
	}
	if second := mustRead(t, mem, dir+"/"+fileName(base, segmentSuffix)+".1"+corruptSuffix); bytes.Equal(second, kept) || len(second) == 0 {
		t.Fatalf("the second file was not kept: %d bytes", len(second))
	}
}

func TestDamagedIndexesAreRebuilt(t *testing.T) {
	for _, suffix := range []string{offsetIndexSuffix, timeIndexSuffix, producersSuffix} {
		for _, how := range []string{"flip", "remove", "garbage"} {
			t.Run(suffix+" "+how, func(t *testing.T) {
				mem := fsys.NewMem(9, fsys.MemOptions{})
				d := openTestDir(t, mem)
				cfg := Config{SegmentBytes: 40_000, IndexIntervalBytes: 100, MaxBatchBytes: 400}
				l, err := d.CreateLog(testPartition(0), cfg)
				must(t, err)
				var want []byte
				for i := range 300 {
					data, _ := appendTo(t, l, 1, i, 2, 100)
					want = append(want, data...)
				}
				must(t, l.Close(true))
				infos, err := mem.List(l.path)
				must(t, err)
				hit := 0
				for _, info := range infos {
					if _, ok := parseFileName(info.Name, suffix); !ok {
						continue
					}
					hit++
					name := l.path + "/" + info.Name
					switch how {
					case "flip":
						must(t, mem.Flip(name, info.Size/2, 1))
						must(t, mem.Flip(name, min(info.Size-1, 20), 1))
					case "remove":
						must(t, mem.Remove(name))
					case "garbage":
						must(t, writeHint(mem, name, bytes.Repeat([]byte("garbage!"), 1024)))
					}
				}
				if hit == 0 {
					t.Fatal("no file to damage")
				}
				l, report, err := d.OpenLog(testPartition(0), cfg)
				must(t, err)
				if report.LostData() || !bytes.Equal(readAll(t, l, 500), want) {
					t.Fatalf("%+v", report)
				}
				for i := range 300 {
					if at, ts, found, err := l.OffsetForTime(int64(1000 + i)); err != nil || !found || at != int64(2*i) || ts != int64(1000+i) {
						t.Fatalf("time %d: %d at %d, %t, %v", 1000+i, at, ts, found, err)
					}
				}
			})
		}
	}
}

func TestReset(t *testing.T) {
	leader := openTestDir(t, fsys.NewMem(1, fsys.MemOptions{}))
	from, err := leader.CreateLog(testPartition(0), Config{})
	must(t, err)
	p := producerRef{id: 7}
	var sent [][]byte
	for i := range 5 {
		data, h := makeBatch(t, p, i, 4, 10, 1)
		_, err := from.AppendLeader([][]byte{data}, h, 1, 1)
		must(t, err)
		sent, p.sequence = append(sent, stamped(data, int64(4*i), 1)), p.sequence+4
	}
	must(t, from.Trim(10)) // within the third batch
	snapshot, err := from.ProducerSnapshot(10)
	must(t, err)

	mem := fsys.NewMem(2, fsys.MemOptions{})
	d := openTestDir(t, mem)
	to, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	if err := to.Reset(9, snapshot); !errors.Is(err, ErrBadSnapshot) {
		t.Fatalf("a snapshot of another offset: %v", err)
	}
	must(t, to.Reset(10, snapshot))
	_, err = to.AppendFollower(bytes.Join(sent[2:], nil), false)
	must(t, err)
	_, err = to.Sync()
	must(t, err)
	mem = mem.Crash()
	d = openTestDir(t, mem)
	to, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || to.LogStartOffset() != 10 || to.LogEndOffset() != 20 {
		t.Fatalf("%+v", report)
	}
	res, err := to.Read(10, 1<<20, 20, nil)
	if err != nil || res.FirstOffset != 8 || !bytes.Equal(res.Data, bytes.Join(sent[2:], nil)) {
		t.Fatalf("%+v, %v", res, err)
	}
	for i := range 5 { // all five are remembered
		data, h := makeBatch(t, producerRef{id: 7, sequence: int32(4 * i)}, i, 4, 10, 1)
		if got, err := to.AppendLeader([][]byte{data}, h, 2, 1); err != nil || !got.Duplicate || got.BaseOffset != int64(4*i) {
			t.Fatalf("batch %d: %+v, %v", i, got, err)
		}
	}
}

// A flip below the recovery point is not looked for at the opening; it is found when it is read, and never served.
func TestFlipIsFoundByReading(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		mem, batches, dir := damagedLog(t, 10)
		bases := segmentBases(t, mem, dir)
		base := bases[0]
		if !sealed {
			base = bases[len(bases)-1]
		}
		hit := base/2 + 1 // the second batch of the segment
		must(t, mem.Flip(dir+"/"+fileName(base, segmentSuffix), int64(len(batches[0]))+80, 3))
		d := openTestDir(t, mem)
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || report.ScannedBytes != 0 {
			t.Fatalf("%+v", report)
		}
		for i, want := range batches {
			res, err := l.Read(int64(2*i), 1, 20, nil)
			var bad *CorruptError
			switch {
			case int64(i) != hit:
				if err != nil || !bytes.Equal(res.Data, want) {
					t.Fatalf("batch %d: %d bytes, %v", i, len(res.Data), err)
				}
			case !errors.As(err, &bad) || !errors.Is(err, ErrCorruptLog) || bad.Offset != 2*hit || bad.Position != int64(len(want)):
				t.Fatalf("batch %d: %v", i, err)
			}
		}
		res, err := l.Read(base, 1<<20, 20, nil)
		if err != nil || !bytes.Equal(res.Data, batches[base/2]) {
			t.Fatalf("a read that runs into it: %d bytes, %v", len(res.Data), err)
		}
		must(t, d.Close())
	}
}

func segmentBases(t *testing.T, mem fsys.FS, dir string) (bases []int64) {
	t.Helper()
	infos, err := mem.List(dir)
	must(t, err)
	for _, info := range infos {
		if base, ok := parseFileName(info.Name, segmentSuffix); ok {
			bases = append(bases, base)
		}
	}
	return bases
}

// Sectors that cannot be read make damage, whatever they hold, and never a broker that does not start; what lies around
// stays readable, and the index leads on behind.
func TestUnreadableSectors(t *testing.T) {
	for name, c := range map[string]struct {
		durable  int
		segment  int
		position func(size int) int64
		from, to int64
	}{
		"head of a sealed segment":        {10, 0, func(int) int64 { return 0 }, 0, 2},
		"header in the active segment":    {10, -1, func(n int) int64 { return int64(n) }, -2, -1},
		"body above the recovery point":   {2, -1, func(n int) int64 { return int64(n) + 100 }, -2, -1},
		"header above the recovery point": {2, -1, func(n int) int64 { return int64(n) }, -2, -1},
	} {
		t.Run(name, func(t *testing.T) {
			mem, batches, dir := damagedLog(t, c.durable)
			bases := segmentBases(t, mem, dir)
			base := bases[(c.segment+len(bases))%len(bases)]
			must(t, mem.BreakRead(dir+"/"+fileName(base, segmentSuffix), c.position(len(batches[0])), 4))
			d := openTestDir(t, mem)
			l, report, err := d.OpenLog(testPartition(0), Config{})
			must(t, err)
			if c.segment >= 0 {
				if report.Damage != nil { // it is read by nobody at the opening
					t.Fatalf("%+v", report)
				}
				if _, err := l.Read(0, 1, 20, nil); err == nil {
					t.Fatal("it was read")
				}
				return
			}
			if report.Damage == nil || report.Damage.From != base+2 || !report.LostData() || report.Cut != CutNone {
				t.Fatalf("%+v, %+v", report, report.Damage)
			}
			for i, want := range batches[:base/2+1] {
				if res, err := l.Read(int64(2*i), 1, 20, nil); err != nil || !bytes.Equal(res.Data, want) {
					t.Fatalf("batch %d: %d bytes, %v", i, len(res.Data), err)
				}
			}
			if _, err := l.Read(base+2, 1, 20, nil); c.durable == 10 && !errors.Is(err, ErrCorruptLog) {
				t.Fatalf("within: %v", err)
			}
			if end, err := l.DiscardDamage(); err != nil || end != base+2 {
				t.Fatalf("discarded to %d, %v", end, err)
			}
			_, err = l.AppendFollower(bytes.Join(batches[base/2+1:], nil), false)
			must(t, err)
			if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches, nil)) {
				t.Fatalf("%d bytes after fetching anew", len(got))
			}
		})
	}
}

// Where the index survived, what lies behind a damaged header in the same segment stays readable.
func TestReadingGoesOnBehindDamage(t *testing.T) {
	mem := fsys.NewMem(9, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{IndexIntervalBytes: 1})
	must(t, err)
	var batches [][]byte
	for i := range 600 { // two whole blocks of the index
		data, _ := appendTo(t, l, 1, i, 1, 10)
		batches = append(batches, data)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: 600}))
	name := l.active().logName()
	mem = mem.CrashProcess()
	must(t, mem.Flip(name, int64(100*len(batches[0]))+16, 0))
	d = openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{IndexIntervalBytes: 1})
	must(t, err)
	if report.Damage == nil || report.Damage.From != 100 || report.Damage.To != 101 || l.LogEndOffset() != 600 {
		t.Fatalf("%+v, %+v", report, report.Damage)
	}
	for i, want := range batches {
		res, err := l.Read(int64(i), 1, 600, nil)
		if i == 100 {
			if !errors.Is(err, ErrCorruptLog) {
				t.Fatalf("batch 100: %v", err)
			}
		} else if err != nil || !bytes.Equal(res.Data, want) {
			t.Fatalf("batch %d: %d bytes, %v", i, len(res.Data), err)
		}
	}
}

// A read that meets a bad batch of the active segment right where the index points ends, and says so.
func TestReadOfADamagedIndexedBatchEnds(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{IndexIntervalBytes: 1})
	must(t, err)
	size := 0
	for i := range 20 {
		data, _ := appendTo(t, l, 1, i, 2, 1000)
		size = len(data)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	mem = mem.CrashProcess()
	must(t, mem.Flip(l.active().logName(), int64(10*size+size/2), 1))
	d = openTestDir(t, mem)
	l, _, err = d.OpenLog(testPartition(0), Config{IndexIntervalBytes: 1})
	must(t, err)
	for at := int64(0); at < l.LogEndOffset(); at++ {
		_, err := l.Read(at, 4*size, l.LogEndOffset(), nil)
		if hit := at == 20 || at == 21; hit != errors.Is(err, ErrCorruptLog) || (!hit && err != nil) {
			t.Fatalf("read at %d: %v", at, err)
		}
	}
}

// mustRead reads a whole file.
func mustRead(t *testing.T, mem *fsys.Mem, name string) []byte {
	t.Helper()
	f, err := mem.Open(name)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	data := make([]byte, size)
	n, err := readFull(f, data, 0)
	must(t, err)
	must(t, f.Close())
	return data[:n]
}
