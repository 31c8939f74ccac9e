package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// fromEnv is a count that an environment variable may set.
func fromEnv(t testing.TB, name string, n int) int {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	return n
}

// anyBatch makes a batch of one of several kinds: small and large values, noise, text, and zeros over whole sectors.
func anyBatch(t testing.TB, rng *rand.Rand) ([]byte, record.Header) {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	size, kind := []int{0, 1, 40, 300, 1500, 9000, 30_000}[rng.IntN(7)], rng.IntN(4)
	for range 1 + rng.IntN(3) {
		value := make([]byte, size)
		for i := range value {
			switch kind {
			case 0: // zeros
			case 1:
				value[i] = "the quick brown fox "[i%20]
			case 2:
				if i%4096 < 1000 {
					value[i] = byte(rng.Uint32())
				}
			default:
				value[i] = byte(rng.Uint32())
			}
		}
		r := record.Record{Value: value, Timestamp: 1000 + int64(rng.IntN(100))}
		if rng.IntN(3) == 0 {
			r.Headers = []record.RecordHeader{{Key: "k", Value: []byte("v\x00")}}
		}
		must(t, b.Add(r))
	}
	codec := record.None
	if rng.IntN(4) == 0 {
		codec = record.Zstd
	}
	data, err := b.Finish(codec, record.NoProducerID, record.NoProducerEpoch, record.NoSequence)
	must(t, err)
	h, err := record.ParseHeader(data)
	must(t, err)
	return bytes.Clone(data), h
}

// tailLog writes batches of all kinds to a log, and syncs each, with checkpoints and rolls in between.
type tailLog struct {
	mem     *fsys.Mem
	dir     *Dir
	log     *Log
	rng     *rand.Rand
	epoch   model.LeaderEpoch
	all     []byte
	last    int   // where the last batch begins in all
	durable int64 // what a sync has returned
	point   int64 // what was durable at the last checkpoint
}

func newTailLog(t testing.TB, seed uint64) *tailLog {
	t.Helper()
	x := &tailLog{rng: rand.New(rand.NewPCG(seed, 2)), epoch: 1}
	x.mem = fsys.NewMem(seed, fsys.MemOptions{NoPreallocate: x.rng.IntN(3) == 0})
	x.dir = openTestDir(t, x.mem)
	cfg := Config{SegmentBytes: []int64{20_000, 400_000, 1 << 30}[x.rng.IntN(3)]}
	var err error
	x.log, err = x.dir.CreateLog(testPartition(0), cfg)
	must(t, err)
	_, err = x.log.Sync()
	must(t, err)
	if x.rng.IntN(2) == 0 { // preallocation begins only under load
		x.log.mu.Lock()
		x.log.written = preallocateMin
		x.log.mu.Unlock()
	}
	return x
}

// append writes one batch; the error is that of a planned crash.
func (x *tailLog) append(t testing.TB) error {
	t.Helper()
	if x.rng.IntN(30) == 0 {
		x.epoch += model.LeaderEpoch(1 + x.rng.IntN(2))
	}
	data, h := anyBatch(t, x.rng)
	at := x.log.LogEndOffset()
	x.last, x.all = len(x.all), append(x.all, stamped(data, at, x.epoch)...)
	_, err := x.log.AppendLeader([][]byte{data}, h, x.epoch, 1)
	return err
}

// step writes and syncs one batch.
func (x *tailLog) step(t testing.TB) {
	t.Helper()
	must(t, x.append(t))
	var err error
	x.durable, err = x.log.Sync()
	must(t, err)
	switch x.rng.IntN(12) {
	case 0:
		must(t, x.dir.Checkpoint(LogCheckpoint{Log: x.log, HighWatermark: x.durable}))
		x.point = x.durable
	case 1:
		must(t, x.log.Roll())
	}
}

// Whatever a crash leaves of one last batch that no sync has covered: nothing that was durable is gone, and the replica does not say
// that it lost something, for all replicas may lose their power together. It does where the crash took the batch's length, for then
// nothing tells it from more, and where it took but one bit, for then nothing tells it from decay.
func TestCrashesAloneConfessNothing(t *testing.T) {
	n, undecided := fromEnv(t, "PENSTOCK_CRASHES", 4000), 0
	kinds := map[CutKind]int{}
	for seed := range uint64(n) { //nolint:gosec // a count
		x := newTailLog(t, seed)
		for range x.rng.IntN(12) {
			x.step(t)
		}
		if x.rng.IntN(2) == 0 {
			x.mem.CrashAt(x.mem.Ops() + 1 + x.rng.Int64N(3))
		}
		_ = x.append(t) //nolint:errcheck // the crash may come before, within or after it
		mem := x.mem.Crash
		if x.rng.IntN(4) == 0 {
			mem = x.mem.CrashProcess
		}
		undecided += x.crashed(t, mem(), seed, kinds)
	}
	t.Logf("%d crashes: %v; %d could be more", n, kinds, undecided)
	if kinds[CutNone] < n/20 || kinds[CutZeros] < n/20 || kinds[CutUnfinishedBatch] < n/20 || undecided > n/10 {
		t.Fatal("the crashes did not bite, or took too much")
	}
}

// bitsLost is by how many bits the last batch differs from what was written.
func (x *tailLog) bitsLost(t *testing.T, mem *fsys.Mem, report RecoveryReport) (n int) {
	t.Helper()
	f, err := mem.OpenRead(report.CutFile)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	b := make([]byte, len(x.all)-x.last)
	_, err = readFull(f, b, report.CutPosition)
	must(t, err)
	for i := range b {
		n += bits.OnesCount8(b[i] ^ x.all[x.last+i])
	}
	return n
}

// crashed opens the log after a crash. It returns 1 where that left what may be more than a torn batch.
func (x *tailLog) crashed(t *testing.T, mem *fsys.Mem, seed uint64, kinds map[CutKind]int) (undecided int) {
	t.Helper()
	before := mem.Clone(1)
	verified := verifiedEnd(t, mem)
	d := openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	kinds[report.Cut]++
	if got := readAll(t, l, 1<<20); l.LogEndOffset() < x.durable || !bytes.HasPrefix(x.all, got) {
		t.Fatalf("seed %d: the log ends at %d, %d was durable, or it is not what was appended: %+v", seed, l.LogEndOffset(), x.durable, report)
	}
	if report.LostData() {
		// The journal may not have been told durably of an epoch that differs by one bit.
		epoch := strings.Contains(report.CutReason, "the journal was told of epoch")
		if !epoch && !lengthLost(t, before, report) && x.bitsLost(t, before, report) != 1 {
			t.Fatalf("seed %d: a crash was taken for decay: %+v", seed, report)
		}
		undecided = 1
	}
	verified.agrees(t, l, report, fmt.Sprintf("seed %d", seed))
	must(t, d.Close())
	return undecided
}

// lengthLost says whether the bytes from a cut to the next sector are zero, or those from there on, and with them some of the
// first twelve of the batch.
func lengthLost(t *testing.T, mem *fsys.Mem, report RecoveryReport) bool {
	t.Helper()
	f, err := mem.OpenRead(report.CutFile)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	b := make([]byte, 2*sectorSize)
	n, err := readFull(f, b, report.CutPosition)
	must(t, err)
	first := int(sectorSize - report.CutPosition%sectorSize)
	return n > first && (allZero(b[:first]) || (first < lengthBefore && allZero(b[first:min(n, first+sectorSize)])))
}

// verdict is what log verify says of a log before it is opened.
type verdict struct {
	sum    LogSummary
	faults []Finding
}

func verifiedEnd(t testing.TB, mem *fsys.Mem) verdict {
	t.Helper()
	o, err := OpenOffline(mem.Clone(1), "data")
	must(t, err)
	var v verdict
	sums, err := o.Verify(func(f Finding) {
		if f.Severity == SeverityFault {
			v.faults = append(v.faults, f)
		}
	})
	must(t, err)
	for _, s := range sums {
		v.sum = s
	}
	return v
}

// agrees compares what log verify said with what opening the log did.
func (v verdict) agrees(t testing.TB, l *Log, report RecoveryReport, what string) {
	t.Helper()
	lost := report.LostData()
	if lost != (len(v.faults) > 0) || (!lost && v.sum.LogEndOffset != l.LogEndOffset()) {
		t.Fatalf("%s: log verify said it ends at %d, with faults %+v; opening it: %+v", what, v.sum.LogEndOffset, v.faults, report)
	}
}

// One flipped bit in the last batch, which is durable and lies above the recovery point: the replica says that it lost something.
// Base offset and leader epoch are outside the CRC, and left out.
func TestFlipsInTheLastBatchAreNeverTakenForTornWrites(t *testing.T) {
	n, done, heads := fromEnv(t, "PENSTOCK_TAIL_FLIPS", 4000), 0, 0
	for seed := uint64(0); done < n; seed++ {
		x := newTailLog(t, seed)
		for range 1 + x.rng.IntN(12) {
			x.step(t)
		}
		if x.point == x.durable {
			continue
		}
		mem := x.mem.Clone(seed)
		if x.rng.IntN(2) == 0 {
			mem = x.mem.Crash()
		}
		for i := range 20 {
			at := x.last + batchCRCAt + 4 + x.rng.IntN(len(x.all)-x.last-batchBodyAt)
			if x.rng.IntN(3) == 0 {
				at = x.last + x.rng.IntN(batchBodyAt)
				heads++
			}
			x.flipped(t, mem.Clone(uint64(i)), at, fmt.Sprintf("seed %d, byte %d of %d", seed, at-x.last, len(x.all)-x.last)) //nolint:gosec // a count
			done++
		}
	}
	t.Logf("%d flips, %d of them in what describes the batch", done, heads)
}

// flipped flips one bit of a byte of the log and opens it.
func (x *tailLog) flipped(t *testing.T, mem *fsys.Mem, at int, what string) {
	t.Helper()
	file, pos := placeOf(t, mem, x.all, at)
	must(t, mem.Flip(file, pos, uint(x.rng.IntN(8)))) //nolint:gosec // below 8
	verified := verifiedEnd(t, mem)
	d := openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if !report.LostData() {
		t.Fatalf("%s: lost in silence: %+v", what, report)
	}
	if got := readAll(t, l, 1<<20); report.Damage == nil && !bytes.Equal(got, x.all[:x.last]) {
		t.Fatalf("%s: %d bytes of %d are read", what, len(got), x.last)
	}
	verified.agrees(t, l, report, what)
	must(t, d.Close())
}

// placeOf finds the file and the position of a byte of the log.
func placeOf(t *testing.T, mem *fsys.Mem, all []byte, at int) (file string, pos int64) {
	t.Helper()
	dir := "data/topics/" + testPartition(0).TopicID.String() + "/0"
	infos, err := mem.List(dir)
	must(t, err)
	for _, info := range infos { // sorted by name
		if !strings.HasSuffix(info.Name, segmentSuffix) {
			continue
		}
		base, _ := parseFileName(info.Name, segmentSuffix)
		begin := -1
		for p := 0; p < len(all); {
			h, err := record.ParseHeader(all[p:])
			must(t, err)
			if begin < 0 && h.BaseOffset >= base {
				begin = p
			}
			p += h.Size()
		}
		if begin >= 0 && begin <= at {
			file, pos = dir+"/"+info.Name, int64(at-begin)
		}
	}
	return file, pos
}

// What one batch can look like after a crash, and after decay.
func TestTailsOfOneBatch(t *testing.T) {
	const next = 1000
	data, _ := makeBatch(t, noProducer, 1, 3, 4000, 1)
	noise := rand.New(rand.NewPCG(1, 1))
	text, _ := anyBatch(t, noise)
	for len(text) < 5000 || bytes.Contains(text, make([]byte, 400)) {
		text, _ = anyBatch(t, noise)
	}
	batch, full := stamped(data, next, 3), stamped(text, next, 3)
	changed := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	long := binary.BigEndian.AppendUint32(nil, uint32(len(batch)+4096-lengthBefore)) //nolint:gosec // small
	for name, tt := range map[string]struct {
		pos  int // where in the file it begins
		tail []byte
		want CutKind
	}{
		"cut short":                       {100, batch[:9000], CutUnfinishedBatch},
		"cut short within the header":     {100, batch[:30], CutUnfinishedBatch},
		"cut short within the length":     {100, append(bytes.Clone(batch[:10]), make([]byte, 900)...), CutUnfinishedBatch},
		"another offset, cut short":       {100, stamped(data, 77, 3)[:9000], CutMore},
		"whole, a bit changed":            {100, changed(batch, 70, batch[70]^4), CutMore},
		"whole, bytes changed":            {100, changed(full, 70, 'x', 'y', 'z'), CutMore},
		"whole, a length too long":        {100, changed(batch, batchLengthAt, long...), CutMore},
		"whole, no length":                {100, changed(batch, batchLengthAt, 0, 0, 0, 0), CutMore},
		"whole, another head":             {100, changed(batch, 0, bytes.Repeat([]byte{0x5a}, batchCRCAt)...), CutMore},
		"whole, its sector lost":          {512 - 14, changed(batch, 0, make([]byte, 14)...), CutMore},
		"whole, not at a sector":          {512 - 20, changed(batch, 0, make([]byte, 14)...), CutMore},
		"a sector lost, a batch behind":   {0, append(changed(stamped(text, next, 3), 1024, make([]byte, 512)...), batch...), CutMore},
		"not a sector, a batch behind":    {3, append(changed(stamped(text, next, 3), 1024, make([]byte, 511)...), batch...), CutMore},
		"a sector of it lost":             {0, changed(full, 1024, make([]byte, 512)...), CutUnfinishedBatch},
		"less than a sector of it zero":   {3, changed(full, 1024, make([]byte, 511)...), CutMore},
		"its header's second sector lost": {512 - 30, changed(full, 30, make([]byte, 512)...), CutUnfinishedBatch},
		"zeros, then a batch":             {100, append(make([]byte, 4096-100), batch...), CutMore},
		"zeros, no sector, then a batch":  {100, append(make([]byte, 300), batch...), CutMore},
		"the batch before again":          {100, stamped(data, next-3, 3), CutMore},
		"its bytes in noise":              {100, bytes.Repeat([]byte{0xa5}, 3000), CutMore},
	} {
		t.Run(name, func(t *testing.T) {
			mem := fsys.NewMem(1, fsys.MemOptions{})
			f, err := mem.Create("f")
			must(t, err)
			_, err = f.Append(bytes.Repeat([]byte{1}, tt.pos), tt.tail)
			must(t, err)
			got, err := classifyTail(f, int64(tt.pos), f.Position(), next)
			if err != nil || got != tt.want {
				t.Fatalf("%s, %v; want %s", got, err, tt.want)
			}
			must(t, errors.Join(f.Close()))
		})
	}
}
