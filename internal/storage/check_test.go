package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// Every flip of a bit that a CRC or the neighbours tell of is found by a check of the range that holds it, in one piece or in
// many; a check of sound batches gives the digest of RangeDigest.
func TestCheckRange(t *testing.T) {
	for _, pieces := range []int64{1, 1 << 20} {
		mem, batches, dir := damagedLog(t, 10)
		d := openTestDir(t, mem)
		l, _, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		size := int64(len(batches[0]))
		check := func(from, to int64, deep bool) (found *Damage, sum uint64, steps int) {
			t.Helper()
			for at := from; at < to; steps++ {
				res, err := l.CheckRange(at, to, pieces, deep)
				must(t, err)
				if res.Damage != nil {
					return res.Damage, 0, steps
				}
				if res.Digest.NextOffset <= at {
					t.Fatalf("no progress at %d: %+v", at, res)
				}
				at, sum = res.Digest.NextOffset, res.Digest.Sum
			}
			return nil, sum, steps
		}
		for _, deep := range []bool{false, true} {
			damage, sum, steps := check(0, 20, deep)
			if damage != nil || (pieces == 1 && steps != 10) {
				t.Fatalf("deep %t: %+v in %d steps", deep, damage, steps)
			}
			if want, err := l.RangeDigest(0, 20); err != nil || (pieces > 1 && want.Sum != sum) {
				t.Fatalf("deep %t: digest %x, want %x, %v", deep, sum, want.Sum, err)
			}
		}
		for segment := range int64(2) {
			base := segment * 10
			for at := range size {
				file := dir + "/" + fileName(base, segmentSuffix)
				must(t, mem.Flip(file, 2*size+at, uint(at%8)))
				damage, _, _ := check(base+3, base+7, true)
				if damage == nil || damage.From > base+4 || damage.To <= base+4 {
					t.Fatalf("segment %d, byte %d: %+v", base, at, damage)
				}
				if behind, _, _ := check(base+6, base+10, true); behind != nil && damage.To <= base+6 {
					t.Fatalf("segment %d, byte %d: %+v behind %+v", base, at, behind, damage)
				}
				must(t, mem.Flip(file, 2*size+at, uint(at%8)))
			}
		}
		if damage, _, _ := check(0, 20, true); damage != nil {
			t.Fatalf("%+v when all is well again", damage)
		}
		must(t, d.Close())
	}
}

// A batch that a range holds a part of counts for no digest of it.
func TestCheckOfAPartOfABatch(t *testing.T) {
	mem, _, _ := damagedLog(t, 10)
	l, _, err := openTestDir(t, mem).OpenLog(testPartition(0), Config{})
	must(t, err)
	for _, r := range [][2]int64{{0, 3}, {1, 5}, {3, 4}, {2, 19}} {
		want, err := l.RangeDigest(r[0], r[1])
		must(t, err)
		for _, deep := range []bool{false, true} {
			res, err := l.CheckRange(r[0], r[1], 1<<20, deep)
			if must(t, err); res.Damage != nil || res.Digest.Sum != want.Sum || res.Digest.Batches != want.Batches {
				t.Errorf("%v, deep %t: %+v, want %+v", r, deep, res.Digest, want)
			}
		}
	}
}

// What a running broker found damaged is known to the next start, which tells of it as of what it finds itself, until the
// damage is discarded; what was mended meanwhile is forgotten.
func TestDamageIsRemembered(t *testing.T) {
	for _, byDigest := range []bool{false, true} {
		mem, batches, dir := damagedLog(t, 10)
		d := openTestDir(t, mem)
		l, _, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		file, at := dir+"/"+fileName(0, segmentSuffix), int64(len(batches[0]))
		if byDigest {
			at += 12 // the leader epoch, in the file and in the journal's place: the scrub's digest alone would tell
		} else {
			at += 100
		}
		must(t, mem.Flip(file, at, 0))
		found, _ := scrubAll(t, l, 1<<20)
		if len(found) == 0 {
			t.Fatal("nothing found")
		}
		found[0].byDigest = byDigest
		for i, want := range []bool{true, false} {
			if marked, err := l.MarkDamaged(found[0]); err != nil || marked != want {
				t.Fatalf("marked %t the %d. time: %v", marked, i, err)
			}
		}
		known := l.Damages()
		for round := range 2 {
			if round == 0 {
				mem = mem.CrashProcess()
			} else {
				must(t, d.Close())
			}
			d = openTestDir(t, mem)
			var report RecoveryReport
			l, report, err = d.OpenLog(testPartition(0), Config{})
			must(t, err)
			if report.Damage == nil || !report.LostData() || len(l.Damages()) != len(known) {
				t.Fatalf("round %d: %+v, %+v", round, report, l.Damages())
			}
			if got := l.Damages()[0]; got.From != known[0].From || got.To != known[0].To || got.Position != known[0].Position {
				t.Fatalf("round %d: %+v, was %+v", round, got, known[0])
			}
			if _, err := l.Read(known[0].From, 1, 20, nil); !errors.Is(err, ErrCorruptLog) {
				t.Fatalf("round %d: read within: %v", round, err)
			}
			if res, err := l.Read(known[0].To, 1, 20, nil); err != nil || len(res.Data) == 0 {
				t.Fatalf("round %d: read behind: %v", round, err)
			}
		}
		end, err := l.DiscardDamage()
		must(t, err)
		_, err = l.AppendFollower(bytes.Join(batches[end/2:], nil), false)
		must(t, err)
		must(t, d.LossesRecorded())
		must(t, d.Close())
		d = openTestDir(t, mem)
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || len(l.Damages()) > 0 {
			t.Fatalf("after it was discarded: %+v", report)
		}
		if got := readAll(t, l, 1<<20); !bytes.Equal(got, bytes.Join(batches, nil)) {
			t.Fatalf("%d bytes", len(got))
		}
		must(t, d.Close())
	}
}

func TestMendedDamageIsForgotten(t *testing.T) {
	mem, batches, dir := damagedLog(t, 10)
	d := openTestDir(t, mem)
	l, _, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	file, at := dir+"/"+fileName(0, segmentSuffix), int64(len(batches[0]))+100
	must(t, mem.Flip(file, at, 0))
	found, _ := scrubAll(t, l, 1<<20)
	_, err = l.MarkDamaged(found[0])
	must(t, err)
	mem = mem.CrashProcess()
	must(t, mem.Flip(file, at, 0))
	d = openTestDir(t, mem)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.Damage != nil || len(l.Damages()) > 0 {
		t.Fatalf("%+v", report)
	}
	must(t, d.Close())
}

func FuzzMarks(f *testing.F) {
	seg := newSegment("/x", 0)
	f.Add(encodeMarks([]Damage{{From: 1, To: 3, File: seg.logName(), Position: 9, byDigest: true}}, []*segment{seg}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		marks, ok := decodeMarks(data)
		if !ok {
			return
		}
		var damages []Damage
		var segs []*segment
		for _, m := range marks {
			s := newSegment("/x", m.base)
			segs = append(segs, s)
			damages = append(damages, Damage{From: m.from, To: m.to, File: s.logName(), Position: m.position, behind: m.behind, byDigest: m.byDigest})
		}
		again, ok := decodeMarks(encodeMarks(damages, segs))
		if !ok || fmt.Sprint(again) != fmt.Sprint(marks) {
			t.Fatalf("%v, then %v", marks, again)
		}
	})
}
