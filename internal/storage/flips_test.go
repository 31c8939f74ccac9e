package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
)

// flipState is a data directory at rest whose every record was durable and checkpointed.
type flipState struct {
	name  string
	mem   *fsys.Mem
	files []fsys.FileInfo
	dir   string
	want  []byte
	end   int64

	compacted int64 // how far the log is compacted, as a hint says
	damaged   bool  // some of it is damaged, and on file as that
	lost      bool  // it has lost something that is not on record elsewhere
	seen      int64 // the time in clock.seen
}

var flipConfig = Config{SegmentBytes: 3000, IndexIntervalBytes: 100}

// flipStates makes directories with several segments, indexes, snapshots and digests: closed cleanly, and killed.
func flipStates(t testing.TB) []*flipState {
	t.Helper()
	var states []*flipState
	for _, clean := range []bool{true, false} {
		mem := fsys.NewMem(5, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), flipConfig)
		must(t, err)
		st := &flipState{name: fmt.Sprintf("clean %t", clean), dir: l.path}
		p := producerRef{id: 7}
		for i := range 40 {
			data, h := makeBatch(t, p, i, 1+i%3, 60, int64(1000+i))
			res, err := l.AppendLeader([][]byte{data}, h, 1, int64(1000+i))
			must(t, err)
			p.sequence += int32(1 + i%3)
			st.want = append(st.want, stamped(data, res.BaseOffset, 1)...)
		}
		_, err = l.Sync()
		must(t, err)
		st.end = l.LogEndOffset()
		must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: st.end}))
		if clean {
			must(t, l.Close(true))
			must(t, d.MarkClean())
			must(t, d.Close())
		}
		st.mem = mem.CrashProcess()
		st.list(t)
		states = append(states, st)
	}
	return states
}

// list takes all files in.
func (st *flipState) list(t testing.TB) {
	t.Helper()
	for _, dir := range []string{"data", "data/" + sharedName, st.dir} {
		infos, err := st.mem.List(dir)
		if fsys.IsNotExist(err) {
			continue
		}
		must(t, err)
		for _, info := range infos {
			if !info.Dir && info.Size > 0 {
				st.files = append(st.files, fsys.FileInfo{Name: dir + "/" + info.Name, Size: info.Size})
			}
		}
	}
}

// Any single bit, flipped in any file: opening, reading and scrubbing give exactly what was written, or say in which file and
// at which offset it is not. Never fewer records in silence, never others, never a panic; and what was durable is never taken
// for a torn tail.
func TestSingleBitFlips(t *testing.T) {
	n := 10_000
	if s := os.Getenv("PENSTOCK_FLIPS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	const seed = 20
	t.Logf("%d flips, seed %d; PENSTOCK_FLIPS sets another number", n, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	states := append(flipStates(t), compactedFlipState(t), journaledFlipState(t), damagedFlipState(t))
	refused, damaged, harmless := 0, 0, 0
	for i := range n {
		st := states[i%len(states)]
		var total int64
		for _, f := range st.files {
			total += f.Size
		}
		at, file := rng.Int64N(total), ""
		if rng.IntN(2) == 0 { // half of them among all bytes, half among all files
			f := st.files[rng.IntN(len(st.files))]
			file, at = f.Name, rng.Int64N(f.Size)
		}
		for _, f := range st.files {
			if file != "" {
				break
			}
			if at < f.Size {
				file = f.Name
			} else {
				at -= f.Size
			}
		}
		bit := uint(rng.IntN(8)) //nolint:gosec // below 8
		what := fmt.Sprintf("%s, %s, byte %d, bit %d", st.name, file, at, bit)
		mem := st.mem.Clone(uint64(i)) //nolint:gosec // positive
		must(t, mem.Flip(file, at, bit))
		found, err := checkFlipped(t, mem, st, what)
		switch {
		case errors.Is(err, ErrMetaDamaged):
			refused++
		case err != nil:
			t.Fatalf("%s: %v", what, err)
		case found:
			damaged++
		default:
			harmless++
		}
	}
	t.Logf("%d found as damage, %d refused to start (meta.properties), %d changed nothing (hints, rebuilt)", damaged, refused, harmless)
	if damaged < n/10 || refused == 0 || harmless == 0 {
		t.Fatal("the flips did not bite")
	}
}

// checkFlipped opens, reads and scrubs. found says that the damage was told.
func checkFlipped(t *testing.T, mem *fsys.Mem, st *flipState, what string) (found bool, err error) {
	t.Helper()
	d, err := OpenDir(mem, "data", testDirOptions())
	if err != nil {
		return false, err
	}
	l, report, err := d.OpenLog(testPartition(0), flipConfig)
	if err != nil {
		return false, err
	}
	if report.Damage != nil {
		if report.Damage.File == "" || !report.LostData() {
			return false, fmt.Errorf("damage without a place, or a seat kept: %+v", report)
		}
		found = true
	}
	journal := d.report.JournalDamagedBytes > 0 // positions are unknown then: no bit of a segment is flipped
	if told, err := toldByReplay(d, l, report, st); told || err != nil {
		return true, errors.Join(err, d.Close())
	}
	if st.lost && !report.LostData() {
		return false, fmt.Errorf("a loss that is not on record is forgotten: %+v", report)
	}
	if err := checkHints(d, l, st); err != nil {
		return false, err
	}
	if report.Cut == CutMore || report.Cut == CutUnfinishedBatch || (l.LogEndOffset() < st.end && !found) {
		return false, fmt.Errorf("durable records were taken for a torn tail: %+v", report)
	}
	if journal && (found && !st.damaged || l.LogEndOffset() != st.end) {
		return false, fmt.Errorf("a damaged journal costs records: %+v", report)
	}
	var c ScrubCursor
	for done := false; !done; {
		res, err := l.Scrub(&c, 1<<20)
		if err != nil {
			return false, err
		}
		if res.Damage != nil {
			found = true
			_, err := l.MarkDamaged(*res.Damage)
			must(t, err)
		}
		done = res.Done
	}
	got, bad, err := readAround(l, st.end)
	if err != nil {
		return false, err
	}
	if bad != found {
		return false, fmt.Errorf("damage told %t, met by reading %t", found, bad)
	}
	if !found && !bytes.Equal(got, st.want) {
		return false, fmt.Errorf("%d bytes instead of %d, in silence", len(got), len(st.want))
	}
	if found && !isSubsequence(got, st.want) {
		return false, errors.New("a batch that was never written was served")
	}
	if found { // a replica gives up what is damaged and fetches it anew
		from, err := l.DiscardDamage()
		if err != nil {
			return false, err
		}
		if from > 0 {
			prefix, bad, err := readAround(l, from)
			if err != nil {
				return false, err
			}
			if bad || !bytes.HasPrefix(st.want, prefix) {
				return false, fmt.Errorf("the intact beginning up to %d is not", from)
			}
		}
	}
	return found, d.Close()
}

// readAround reads everything up to end, one batch at a time, and goes on behind damage.
func readAround(l *Log, end int64) (got []byte, bad bool, err error) {
	for at := l.LogStartOffset(); at < end; {
		res, err := l.Read(at, 1, end, nil)
		var corrupt *CorruptError
		switch {
		case errors.As(err, &corrupt):
			if corrupt.File == "" || corrupt.Offset < 0 || corrupt.Position < 0 {
				return nil, true, fmt.Errorf("it does not say where: %w", err)
			}
			bad, at = true, at+1
		case err != nil:
			return nil, bad, fmt.Errorf("read at %d: %w", at, err)
		case len(res.Data) == 0:
			at++
		default:
			if res.NextOffset <= at {
				return nil, bad, fmt.Errorf("read at %d goes back to %d", at, res.NextOffset)
			}
			got, at = append(got, res.Data...), res.NextOffset
		}
	}
	return got, bad, nil
}

// isSubsequence says whether got is a selection of the batches of want, in order.
func isSubsequence(got, want []byte) bool {
	size := func(b []byte) int { return 12 + int(uint32(b[8])<<24|uint32(b[9])<<16|uint32(b[10])<<8|uint32(b[11])) }
	for len(got) > 0 {
		n := size(got)
		if n > len(got) {
			return false
		}
		for len(want) > 0 && !bytes.Equal(want[:size(want)], got[:n]) {
			want = want[size(want):]
		}
		if len(want) == 0 {
			return false
		}
		got, want = got[n:], want[n:]
	}
	return true
}
