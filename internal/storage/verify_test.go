package storage

import (
	"errors"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
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
