package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// What a verification says of the end of a log, and of a loss, is what opening the log does.
func TestVerifySaysWhatOpeningDoes(t *testing.T) {
	for name, tt := range map[string]struct {
		durable int // batches of 10, two records each
		damage  func(t *testing.T, mem *fsys.Mem, dir string, bases []int64)
		fault   bool
		what    string // in a finding
	}{
		"epoch falls above the recovery point": {2, func(t *testing.T, mem *fsys.Mem, dir string, bases []int64) {
			must(t, mem.Flip(dir+"/"+fileName(bases[1], segmentSuffix), 15, 2))
		}, true, "epoch 5 at offset 10, the journal was told of epoch 1"},
		"last batch below the recovery point": {10, func(t *testing.T, mem *fsys.Mem, dir string, bases []int64) {
			must(t, mem.Flip(dir+"/"+fileName(bases[len(bases)-1], segmentSuffix), 80, 2))
		}, true, "CRC"},
		"an empty segment far behind": {2, func(t *testing.T, mem *fsys.Mem, dir string, _ []int64) {
			f, err := mem.Create(dir + "/" + fileName(5000, segmentSuffix))
			must(t, err)
			must(t, f.Preallocate(4096))
		}, false, "empty segments"},
		"bytes behind the last batch of a segment": {10, func(t *testing.T, mem *fsys.Mem, dir string, bases []int64) {
			f, err := mem.Open(dir + "/" + fileName(bases[0], segmentSuffix))
			must(t, err)
			_, err = f.Append([]byte(strings.Repeat("garbage", 20)))
			must(t, err)
		}, true, "nothing is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			mem, _, dir := damagedLog(t, tt.durable)
			tt.damage(t, mem, dir, segmentBases(t, mem, dir))
			logs, findings := verifyAll(t, mem, "data")
			faults := 0
			for _, f := range findings {
				if f.Severity == SeverityFault {
					faults++
				}
			}
			if (faults > 0) != tt.fault || faults > 1 || !strings.Contains(fmt.Sprint(findings), tt.what) {
				t.Fatalf("%d faults: %+v", faults, findings)
			}
			l, report, err := openTestDir(t, mem).OpenLog(testPartition(0), Config{SegmentBytes: 1500, IndexIntervalBytes: 1})
			must(t, err)
			if l.LogEndOffset() != logs[0].LogEndOffset || (!tt.fault && report.Cut == CutMore) {
				t.Fatalf("it opens at %d with %+v, the verification says %d: %+v", l.LogEndOffset(), report, logs[0].LogEndOffset, findings)
			}
		})
	}
}

// An empty journal is a loss like a missing one, and every name is told for what it is.
func TestVerifyNamesWhatLiesAbout(t *testing.T) {
	mem, _, dir := damagedLog(t, 10)
	put := func(name, text string) {
		t.Helper()
		f, err := mem.Create(name)
		must(t, err)
		if text != "" {
			_, err = f.Append([]byte(text))
			must(t, err)
		}
		must(t, f.Close())
	}
	put(dir+"/"+osModeMarker, "")
	put(dir+"/"+cleanPointName, string(cleanPoint{firstDirty: 2}.encode()))
	_, clean := verifyAll(t, mem, "data")
	if len(clean) != 1 { // not shut down cleanly
		t.Fatalf("%+v", clean)
	}
	for name, want := range map[string]string{
		dir + "/" + cleanPointName:                              "hint: it cannot be believed",
		dir + "/" + marksName:                                   "hint: the list of damage cannot be believed",
		dir + "/notes.txt":                                      "note: not a file of a log",
		dir + "/00000000000000000000.clean":                     "note: a compaction that was not finished",
		dir + "/00000000000000000000-00000000000000000004.swap": "note: a compacted segment whose change of places was not finished",
		dir + "/00000000000000000000.log.kept":                  "note: the intact beginning of a damaged segment",
		"data/stranger":                                         "note: not a file of a data directory",
		"data/seats.lost":                                       "fault: the list of lost seats is damaged",
		"data/meta.properties.tmp":                              "note: a file that was not finished",
		"data/" + journalName:                                   "fault: the journal is missing or empty",
	} {
		if name == "data/"+journalName {
			must(t, mem.Remove(name))
			put(name, "")
		} else {
			_ = removeIfExists(mem, name) //nolint:errcheck // the next line fails as well
			put(name, "xxxxxxxx")
		}
		_, findings := verifyAll(t, mem, "data")
		if !slices.ContainsFunc(findings, func(f Finding) bool {
			return f.File == name && strings.HasPrefix(string(f.Severity)+": "+f.What, want)
		}) {
			t.Errorf("%s: %+v", name, findings)
		}
	}
}

// A compacted segment that has not taken its place is judged as if it had, for the next opening lets it take that first: what became of the
// segments that it was made of is of no matter.
func TestVerifySeesAPendingSwapInItsPlace(t *testing.T) {
	mem, batches, dir := damagedLog(t, 10)
	bases := segmentBases(t, mem, dir)
	data, err := readFile(mem, dir+"/"+fileName(bases[0], segmentSuffix), 1<<20)
	must(t, err)
	swap := swapName(dir, bases[0], bases[1])
	must(t, writeFileAtomic(mem, swap, data))
	must(t, mem.Flip(dir+"/"+fileName(bases[0], segmentSuffix), 100, 1))
	logs, findings := verifyAll(t, mem, "data")
	for _, f := range findings {
		if f.Severity != SeverityNote {
			t.Errorf("%+v", f)
		}
	}
	if logs[0].LogEndOffset != 20 || logs[0].Batches != 10 || logs[0].Segments != len(bases) {
		t.Errorf("%+v", logs[0])
	}
	bad := mem.Clone(1)
	must(t, bad.Flip(swap, 100, 1))
	if _, findings := verifyAll(t, bad, "data"); !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Severity == SeverityFault && f.File == swap && f.Position == 0
	}) {
		t.Errorf("a flip in it is not found: %+v", findings)
	}
	l, report, err := openTestDir(t, mem).OpenLog(testPartition(0), unsureConfig)
	must(t, err)
	if report.LostData() || string(readAll(t, l, 1<<20)) != string(slices.Concat(batches...)) {
		t.Fatalf("%+v", report)
	}
}
