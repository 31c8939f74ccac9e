package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

func verifyAll(t testing.TB, fsy fsys.FS, dir string) ([]LogSummary, []Finding) {
	t.Helper()
	o, err := OpenOffline(fsy, dir)
	must(t, err)
	var findings []Finding
	logs, err := o.Verify(func(f Finding) { findings = append(findings, f) })
	must(t, err)
	for _, f := range findings {
		if f.File == "" || f.What == "" || f.Recovery == "" {
			t.Fatalf("unfinished finding %+v", f)
		}
	}
	return logs, findings
}

func TestVerifySoundDirectories(t *testing.T) {
	for _, st := range flipStates(t) {
		ops := st.mem.Ops()
		logs, findings := verifyAll(t, st.mem, "data")
		want := 0
		if st.name != "clean true" {
			want = 1 // not shut down cleanly
		}
		if len(findings) != want || len(logs) != 1 || logs[0].Batches != 40 || logs[0].LogEndOffset != st.end || logs[0].Bytes != int64(len(st.want)) ||
			logs[0].Digests != logs[0].Segments-1 || logs[0].Segments < 3 {
			t.Fatalf("%s: %+v %+v", st.name, logs, findings)
		}
		if logs, findings := verifyAll(t, st.mem, st.dir); len(findings) != 0 || logs[0].Batches != 40 || logs[0].RecoveryPoint != st.end {
			t.Fatalf("%s: %+v %+v", st.name, logs, findings)
		}
		if st.mem.Ops() == ops {
			t.Fatal("nothing was looked at")
		}
	}
	if _, err := OpenOffline(fsys.NewMem(1, fsys.MemOptions{}), "/"); !errors.Is(err, ErrNoData) {
		t.Fatal(err)
	}
}

// Every byte of every file is covered: one flipped bit is a finding in that file (or, for an offset that points there, beside it),
// and a fault exactly where records or positions are concerned.
func TestVerifyFindsEveryFlip(t *testing.T) {
	st := flipStates(t)[0]
	for _, f := range st.files {
		for at := int64(0); at < f.Size; at += 1 + f.Size/40 {
			t.Run(fmt.Sprintf("%s/%d", f.Name, at), func(t *testing.T) {
				mem := st.mem.Clone(1)
				must(t, mem.Flip(f.Name, at, uint(at%8))) //nolint:gosec // below 8
				_, findings := verifyAll(t, mem, "data")
				if len(findings) == 0 {
					t.Fatal("not found")
				}
				if got := findings[0]; got.File != f.Name {
					t.Fatalf("%+v", got)
				}
			})
		}
	}
}

func TestVerifyTails(t *testing.T) {
	mem, batches, dir := damagedLog(t, 2)
	bases := segmentBases(t, mem, dir)
	name := dir + "/" + fileName(bases[len(bases)-1], segmentSuffix)
	f, err := mem.Open(name)
	must(t, err)
	size := f.Position()
	must(t, f.Preallocate(size+5000))
	_, findings := verifyAll(t, mem, dir)
	if len(findings) != 1 || findings[0].Severity != SeverityNote || findings[0].Position != size || findings[0].Offset != 20 {
		t.Fatalf("zeros: %+v", findings)
	}
	must(t, f.Truncate(size-100))
	_, findings = verifyAll(t, mem, dir)
	if len(findings) != 1 || findings[0].Severity != SeverityNote || findings[0].Position != size-int64(len(batches[9])) {
		t.Fatalf("torn: %+v", findings)
	}
	_, err = f.Append(make([]byte, 500), batches[0])
	must(t, err)
	_, findings = verifyAll(t, mem, dir)
	if len(findings) == 0 || findings[0].Severity != SeverityFault {
		t.Fatalf("more: %+v", findings)
	}
}

func TestDump(t *testing.T) {
	st := flipStates(t)[0]
	o, err := OpenOffline(st.mem, "data")
	must(t, err)
	var all []byte
	must(t, o.Dump(func(b DumpedBatch) error {
		all = append(all, b.Data...)
		return b.Fault
	}))
	if string(all) != string(st.want) {
		t.Fatalf("%d bytes of %d", len(all), len(st.want))
	}
	mem := st.mem.Clone(1)
	must(t, mem.Flip(st.dir+"/"+fileName(0, segmentSuffix), 100, 1))
	o, err = OpenOffline(mem, st.dir)
	must(t, err)
	sound, bad := 0, 0
	must(t, o.Dump(func(b DumpedBatch) error {
		if b.Fault != nil {
			bad++
		} else {
			sound++
		}
		return nil
	}))
	if sound != 39 || bad != 1 {
		t.Fatalf("%d sound, %d bad", sound, bad)
	}
}

// An end of the journal that a crash cut short was never acknowledged; what lies in the middle, or is no beginning of a frame, is
// damage.
func TestVerifyJournalTails(t *testing.T) {
	st := flipStates(t)[1]
	name := "data/" + journalName
	whole, err := readFile(st.mem, name, maxJournalBytes)
	must(t, err)
	state := logState{recoveryPoint: st.end, highWatermark: st.end}
	for i := range 100 {
		state.epochs = append(state.epochs, EpochStart{Epoch: model.LeaderEpoch(i), StartOffset: int64(i) / 4})
	}
	frame := appendEpochsFrame(nil, testPartition(0), state)
	put := func(tail ...[]byte) (severity Severity) {
		t.Helper()
		mem := st.mem.Clone(1)
		must(t, writeFileAtomic(mem, name, append(bytes.Clone(whole), slices.Concat(tail...)...)))
		_, findings := verifyAll(t, mem, "data")
		for _, f := range findings {
			if f.File == name {
				if f.Position != int64(len(whole)) {
					t.Fatalf("%+v", f)
				}
				severity = f.Severity
			}
		}
		return severity
	}
	if got := put(frame); got != "" {
		t.Fatalf("a whole frame: %q", got)
	}
	for n := 1; n < len(frame); n += 1 + n/64 {
		if got := put(frame[:n]); got != SeverityNote {
			t.Fatalf("%d bytes of a frame: %q", n, got)
		}
		bad := bytes.Clone(frame)
		bad[n] ^= 4
		if got := put(bad); got != SeverityFault {
			t.Fatalf("a bad byte %d: %q", n, got)
		}
		if got := put(bad, frame); got != SeverityFault {
			t.Fatalf("a bad byte %d and a frame behind: %q", n, got)
		}
	}
	lost := bytes.Clone(frame)
	clear(lost[sectorSize-len(whole)%sectorSize:][:sectorSize]) // never written
	if got := put(lost); got != SeverityNote {
		t.Fatalf("a frame without one of its sectors: %q", got)
	}
	if got := put(lost, frame); got != SeverityFault {
		t.Fatalf("a frame without one of its sectors, and one behind: %q", got)
	}
	if got := put(make([]byte, 3000)); got != SeverityNote {
		t.Fatalf("zeros: %q", got)
	}
}

// Where the last batch of a log is bad the log ends before it, also where an empty segment follows.
func TestVerifyEndBeforeAnEmptySegment(t *testing.T) {
	mem := fsys.NewMem(6, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for i := range 3 {
		appendTo(t, l, 1, i, 2, 100)
	}
	last, file := l.pos, l.active().logName()
	must(t, l.Roll())
	mem = mem.CrashProcess()
	must(t, mem.Flip(file, last-10, 0))
	logs, findings := verifyAll(t, mem, "data")
	l, report, err := openTestDir(t, mem).OpenLog(testPartition(0), Config{})
	must(t, err)
	if l.LogEndOffset() != 4 || logs[0].LogEndOffset != 4 {
		t.Fatalf("it opens at %d, the verification says %d: %+v %+v", l.LogEndOffset(), logs[0].LogEndOffset, findings, report)
	}
}

// A sealed segment that ends at a batch's end, but before the next one begins, has lost records: it is no gap that compaction made.
func TestSealedSegmentThatIsCutShort(t *testing.T) {
	for _, digest := range []bool{true, false} {
		mem, batches, dir := damagedLog(t, 10)
		first := newSegment(dir, segmentBases(t, mem, dir)[0])
		f, err := mem.Open(first.logName())
		must(t, err)
		must(t, f.Truncate(int64(len(batches[0]))))
		must(t, f.Close())
		if !digest {
			must(t, removeIfExists(mem, first.digestName()))
		}
		_, findings := verifyAll(t, mem, "data")
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return f.Severity == SeverityFault && f.File == first.logName() && f.Offset == 2 && f.Position == int64(len(batches[0]))
		}) {
			t.Fatalf("%+v", findings)
		}
		d := openTestDir(t, mem)
		l, _, err := d.OpenLog(testPartition(0), Config{SegmentBytes: 1500, IndexIntervalBytes: 1})
		must(t, err)
		found, _ := scrubAll(t, l, 1<<20)
		if len(found) != 1 || found[0].From != 2 || found[0].To != l.segs[0].next || found[0].File != first.logName() {
			t.Fatalf("%+v", found)
		}
		res, err := l.CheckRange(0, l.LogEndOffset(), 1<<20, false)
		if err != nil || res.Damage == nil || res.Damage.From != 2 || res.Digest.NextOffset != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		marked, err := l.MarkDamaged(found[0])
		if must(t, err); !marked {
			t.Fatal("not marked")
		}
		must(t, l.Close(true))
		l, report, err := d.OpenLog(testPartition(0), Config{SegmentBytes: 1500, IndexIntervalBytes: 1})
		must(t, err)
		if report.Damage == nil || report.Damage.From != 2 {
			t.Fatalf("forgotten: %+v", report)
		}
		var corrupt *CorruptError
		if _, err := l.Read(2, 100, l.LogEndOffset(), nil); !errors.As(err, &corrupt) || corrupt.File != first.logName() {
			t.Fatal(err)
		}
		if end, err := l.DiscardDamage(); err != nil || end != 2 || !bytes.Equal(readAll(t, l, 1<<20), batches[0]) {
			t.Fatalf("%d, %v", end, err)
		}
	}
}
