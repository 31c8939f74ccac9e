package storage

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// spoilJournal makes the journal one that cannot be believed.
var spoilJournal = map[string]func(t *testing.T, mem *fsys.Mem){
	"a damaged journal": func(t *testing.T, mem *fsys.Mem) { must(t, mem.Flip("data/"+journalName, 12+8+2, 1)) },
	"no journal":        func(t *testing.T, mem *fsys.Mem) { must(t, mem.Remove("data/"+journalName)) },
	"an empty journal": func(t *testing.T, mem *fsys.Mem) {
		must(t, mem.Remove("data/"+journalName))
		f, err := mem.Create("data/" + journalName)
		must(t, errors.Join(err, f.Close()))
	},
}

// segmentSizes are the sizes of the segments, by their names.
func segmentSizes(t *testing.T, mem fsys.FS, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for _, base := range segmentBases(t, mem, dir) {
		name := dir + "/" + fileName(base, segmentSuffix)
		info, err := mem.Stat(name)
		must(t, err)
		sizes[name] = info.Size
	}
	return sizes
}

var unsureConfig = Config{SegmentBytes: 5 * 300, IndexIntervalBytes: 1}

// whereIs is where the batch of an index lies in damagedLog.
func whereIs(t *testing.T, mem fsys.FS, dir string, batches [][]byte, index int) (name string, position int64) {
	t.Helper()
	bases := segmentBases(t, mem, dir)
	for i := range batches {
		if offset := int64(2 * i); len(bases) > 1 && bases[1] == offset {
			bases, position = bases[1:], 0
		}
		if i == index {
			break
		}
		position += int64(len(batches[i]))
	}
	return dir + "/" + fileName(bases[0], segmentSuffix), position
}

// A bad batch with whole ones behind it is damage where the journal cannot be believed, whatever bit of it is bad: nothing is cut, and
// what is whole is served. The next start finds the same, also one that follows a start which opened no log; and a verification says it
// before.
func TestNothingWholeIsCutWithoutAJournal(t *testing.T) {
	for name, spoil := range spoilJournal {
		for _, at := range []int64{0, 7, 8, 9, 10, 11, 15, 16, 17, 22, 60, 150} {
			for index := range 10 {
				t.Run(fmt.Sprintf("%s, byte %d of batch %d", name, at, index), func(t *testing.T) {
					mem, batches, dir := damagedLog(t, 10)
					file, position := whereIs(t, mem, dir, batches, index)
					must(t, mem.Flip(file, position+at, 0))
					spoil(t, mem)
					before := segmentSizes(t, mem, dir)
					logs, findings := verifyAll(t, mem, "data")
					for round := range 3 {
						d := openTestDir(t, mem)
						if round == 0 {
							mem = mem.CrashProcess()
							d = openTestDir(t, mem)
						}
						l, report, err := d.OpenLog(testPartition(0), unsureConfig)
						must(t, err)
						lost := 0
						for i, want := range batches {
							res, err := l.Read(int64(2*i), 1, l.LogEndOffset(), nil)
							if err != nil || !bytes.Equal(res.Data, want) {
								lost++
							}
						}
						switch after := segmentSizes(t, mem, dir); {
						case index == 9 && at == 7: // nothing behind it tells
						case lost != 1 && at != 15:
							t.Fatalf("%d batches are not served: %+v", lost, report)
						case index < 9 && (fmt.Sprint(after) != fmt.Sprint(before) || report.Cut != CutNone):
							t.Fatalf("segments %v became %v: %+v", before, after, report)
						case index < 9 && at != 15 && report.Damage == nil:
							t.Fatalf("nothing is said of the damage: %+v", report)
						}
						if l.LogEndOffset() != logs[0].LogEndOffset && round == 0 {
							t.Fatalf("it ends at %d, the verification said %d: %+v", l.LogEndOffset(), logs[0].LogEndOffset, findings)
						}
						mem = mem.CrashProcess()
					}
				})
			}
		}
	}
}

// A log that was trimmed begins with its first segment where nothing else says so, and stays.
func TestTrimmedLogWithoutAJournalStays(t *testing.T) {
	for name, spoil := range spoilJournal {
		t.Run(name, func(t *testing.T) {
			mem, batches, dir := damagedLog(t, 10)
			first := segmentBases(t, mem, dir)
			must(t, mem.Remove(dir+"/"+fileName(first[0], segmentSuffix)))
			spoil(t, mem)
			for range 3 {
				d := openTestDir(t, mem)
				l, report, err := d.OpenLog(testPartition(0), unsureConfig)
				must(t, err)
				if report.LostData() || l.LogStartOffset() != first[1] || l.LogEndOffset() != 20 {
					t.Fatalf("%+v", report)
				}
				if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches[first[1]/2:], nil)) {
					t.Fatalf("%d bytes", len(got))
				}
				mem = mem.CrashProcess()
			}
			if _, err := mem.Stat("data/" + unsureName); !fsys.IsNotExist(err) {
				t.Fatalf("the list stays: %v", err)
			}
		})
	}
}

// With a whole journal, or one that a crash has cut short, the log ends before the first bad batch above its recovery point: unsynced
// pages survive a power loss in any order.
func TestTheJournalThatIsWholeIsBelieved(t *testing.T) {
	for _, torn := range []bool{false, true} {
		mem, batches, dir := damagedLog(t, 2)
		file, position := whereIs(t, mem, dir, batches, 5)
		must(t, mem.Flip(file, position+100, 0))
		if torn {
			f, err := mem.Open("data/" + journalName)
			must(t, err)
			_, err = f.Append(appendStateFrame(nil, testPartition(0), logState{})[:30])
			must(t, errors.Join(err, f.Close()))
		}
		_, report, err := openTestDir(t, mem).OpenLog(testPartition(0), unsureConfig)
		must(t, err)
		if report.LogEndOffset != 10 || report.Cut != CutMore || report.Unsure {
			t.Fatalf("torn %t: %+v", torn, report)
		}
	}
}

// What was found damaged while the log was open is damage at the next start too, above the recovery point as below: it had been whole.
func TestMarkedDamageAboveTheRecoveryPointIsKept(t *testing.T) {
	mem, batches, dir := damagedLog(t, 2)
	d := openTestDir(t, mem)
	l, _, err := d.OpenLog(testPartition(0), unsureConfig)
	must(t, err)
	file, position := whereIs(t, mem, dir, batches, 5)
	must(t, mem.Flip(file, position+100, 0))
	found, _ := scrubAll(t, l, 1<<20)
	if len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	_, err = l.MarkDamaged(found[0])
	must(t, err)
	mem = mem.CrashProcess()
	logs, findings := verifyAll(t, mem, "data")
	if !strings.Contains(fmt.Sprint(findings), recoverDamage) || logs[0].LogEndOffset != 20 {
		t.Fatalf("%+v %+v", logs, findings)
	}
	l, report, err := openTestDir(t, mem).OpenLog(testPartition(0), unsureConfig)
	must(t, err)
	if report.Cut != CutNone || report.Damage == nil || report.Damage.From != 10 || report.Damage.To != 12 || l.LogEndOffset() != 20 {
		t.Fatalf("%+v, ends at %d", report, l.LogEndOffset())
	}
	if res, err := l.Read(12, 1, 20, nil); err != nil || !bytes.Equal(res.Data, batches[6]) {
		t.Fatalf("%+v, %v", res, err)
	}
}

// A record that holds what looks like a batch is not taken for one.
func TestABatchWithinARecordIsNotFoundBehindDamage(t *testing.T) {
	mem := fsys.NewMem(1, fsys.MemOptions{})
	f, err := mem.Create("f")
	must(t, err)
	inner, _ := makeBatch(t, noProducer, 1, 1, 50, 1)
	first, _ := makeBatch(t, noProducer, 2, 1, 50, 1)
	second, _ := makeBatch(t, noProducer, 3, 1, 50, 1)
	first = append(append(first, stamped(inner, 5, 1)...), "the rest of the record"...)
	_, err = f.Append(first, stamped(second, 8, 1), make([]byte, 100))
	must(t, err)
	must(t, mem.Flip("f", 9, 7)) // its length leads nowhere
	size, err := f.Size()
	must(t, err)
	e, found, err := wholeBehind(f, 0, size, 1, 100)
	if err != nil || !found || e != (indexEntry{key: 8, value: int64(len(first))}) {
		t.Fatalf("%+v, %t, %v", e, found, err)
	}
	if _, found, err := wholeBehind(f, 0, size, 1, 8); err != nil || found {
		t.Fatalf("beyond the bound: %t, %v", found, err)
	}
}
