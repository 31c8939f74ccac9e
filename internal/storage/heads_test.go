package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// gappedLog is a follower's log of a compacted topic: rows of batches with gaps, some of which the recovery point has passed, and a last
// row of more than one epoch. Everything is synced.
func gappedLog(t *testing.T) (mem *fsys.Mem, d *Dir, l *Log, all []byte, point int64) {
	t.Helper()
	mem = fsys.NewMem(3, fsys.MemOptions{})
	d = openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{SegmentBytes: 2000})
	must(t, err)
	next, epoch := int64(0), model.LeaderEpoch(1)
	for row := range 8 {
		var data []byte
		for i := range 3 {
			b, h := makeBatch(t, producerRef{}, row, 2, 60, 1000)
			if row%2 == 0 || i == 1 {
				next += 1 + int64(row)
			}
			if row == 7 && i == 1 {
				epoch = 6
			}
			data = append(data, stamped(b, next, epoch)...)
			next += int64(h.LastOffsetDelta) + 1
		}
		_, err := l.AppendFollower(data, true)
		must(t, err)
		all = append(all, data...)
		if row == 2 {
			_, err = l.Sync()
			must(t, err)
			point = next
			must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: next}))
		}
	}
	_, err = l.Sync()
	must(t, err)
	return mem, d, l, all, point
}

// Every bit of the head of every batch, flipped after a kill or a loss of power: the log is what it was, or the replica says that it has
// lost something and serves nothing that was not written.
func TestEveryFlippedBitOfAHeadIsSeen(t *testing.T) {
	mem, _, _, all, point := gappedLog(t)
	for name, left := range map[string]*fsys.Mem{"kill": mem.Clone(1).CrashProcess(), "power loss": mem.Crash()} {
		whole := openTestDir(t, left.Clone(9))
		l, report, err := whole.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.LostData() || !bytes.Equal(readAll(t, l, 1<<20), all) || report.RecoveryPoint != point {
			t.Fatalf("%s: %+v", name, report)
		}
		must(t, whole.Close())
		for at := 0; at < len(all); {
			h, err := record.ParseHeader(all[at:])
			must(t, err)
			for bit := range 8 * record.HeadSize {
				if h.NextOffset() <= point {
					break // what lies below is held by the scrub and the digests
				}
				what := fmt.Sprintf("%s, bit %d of the head of offset %d", name, bit, h.BaseOffset)
				flipped := left.Clone(uint64(bit)) //nolint:gosec // small
				file, pos := placeOf(t, flipped, all, at+bit/8)
				must(t, flipped.Flip(file, pos, uint(bit%8))) //nolint:gosec // below 8
				verified := verifiedEnd(t, flipped)
				d := openTestDir(t, flipped)
				l, report, err := d.OpenLog(testPartition(0), Config{})
				must(t, err)
				if got := readAll(t, l, 1<<20); !report.LostData() || (report.Damage == nil && !bytes.HasPrefix(all[:at], got)) {
					t.Fatalf("%s: %+v, and %d bytes of %d are read", what, report, len(got), at)
				}
				verified.agrees(t, l, report, what)
				must(t, d.Close())
			}
			at += h.Size()
		}
	}
}

// What is left of a row of batches by a truncation is believed, what was told of the rest is void: others may be appended there.
func TestATruncationCutsWhatTheJournalWasToldOfARow(t *testing.T) {
	for name, crash := range map[string]func(*fsys.Mem) *fsys.Mem{"kill": (*fsys.Mem).CrashProcess, "power loss": (*fsys.Mem).Crash} {
		mem, _, l, all, _ := gappedLog(t)
		h, last := lastBatch(t, all)
		end, err := l.TruncateTo(h.BaseOffset)
		must(t, err)
		kept := all[:last]
		opened := func(mem *fsys.Mem, want []byte) *Log {
			d := openTestDir(t, mem)
			l, report, err := d.OpenLog(testPartition(0), Config{})
			must(t, err)
			if got := readAll(t, l, 1<<20); report.LostData() || !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes of %d: %+v", name, len(got), len(want), report)
			}
			return l
		}
		opened(crash(mem.Clone(1)), kept)
		data, _ := makeBatch(t, producerRef{}, 9, 4, 10, 1000) // other offsets than those of the row
		data = stamped(data, end+2, 9)
		_, err = l.AppendFollower(data, true)
		must(t, err)
		_, err = l.Sync()
		must(t, err)
		opened(crash(mem), append(bytes.Clone(kept), data...))
	}
}

// A row of which a loss of power has left a part is cut there, and durably so: what is written behind is not taken for the rest of it
// where the next one takes what the journal was told of that.
func TestATornRowIsForgottenDurably(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	first, _ := makeBatch(t, producerRef{}, 1, 2, 60, 1000)
	second, _ := makeBatch(t, producerRef{}, 2, 2, 60, 1000)
	_, err = l.AppendFollower(append(stamped(first, 0, 6), stamped(second, 5, 6)...), true)
	must(t, err)
	left := mem.CrashProcess()
	f, err := left.Open(l.path + "/" + fileName(0, segmentSuffix))
	must(t, err)
	must(t, f.Truncate(int64(len(first))+70))
	must(t, f.Close())
	d = openTestDir(t, left)
	l, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.Cut != CutUnfinishedBatch || report.LostData() {
		t.Fatalf("%+v", report)
	}
	end, journal := l.LogEndOffset(), journalOf(t, left)
	for tag := range 9 {
		appendTo(t, l, 6, tag, 2, 60)
	}
	after := left.CrashProcess()
	must(t, writeFileAtomic(after, "data/"+journalName, journal))
	d = openTestDir(t, after)
	l, report, err = d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || l.LogEndOffset() != end+18 {
		t.Errorf("it ended at %d, and ends at %d: %+v", end, l.LogEndOffset(), report)
	}
	must(t, d.Close())
}

// A loss of power while the journal was told much and nothing of it was synced is no damage.
func TestALossOfPowerAmongManyTellsIsNoDamage(t *testing.T) {
	bit := 0
	for seed := range uint64(60) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		for epoch := range model.LeaderEpoch(40) {
			appendTo(t, l, epoch, 1, 2, 40)
		}
		left := mem.Crash()
		again := openTestDir(t, left)
		if n := again.Report().JournalDamagedBytes; n > 0 {
			bit++
			if !again.Report().JournalTorn {
				t.Errorf("seed %d: %d bytes are damaged", seed, n)
			}
		}
		must(t, again.Close())
	}
	t.Logf("%d journals were torn", bit)
}

// The journal is told of nothing that a full disk refuses anyhow.
func TestARefusedAppendTellsNothing(t *testing.T) {
	mem, d, l, _, _ := gappedLog(t)
	before := len(journalOf(t, mem))
	d.space.minFree = 1 << 62
	d.space.budget.Store(0)
	data, h := makeBatch(t, producerRef{id: 9}, 9, 4, 10, 1000)
	if _, err := l.AppendLeader([][]byte{data}, h, 50, 1); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	if _, err := l.AppendFollower(stamped(data, l.LogEndOffset()+7, 50), true); !errors.Is(err, fsys.ErrNoSpace) {
		t.Fatal(err)
	}
	if after := len(journalOf(t, mem)); after != before || l.LatestEpoch() == 50 {
		t.Errorf("the journal grew by %d bytes, the latest epoch is %d", after-before, l.LatestEpoch())
	}
}

// lastBatch returns the header and the position of the last batch.
func lastBatch(t *testing.T, all []byte) (last record.Header, at int) {
	t.Helper()
	for next := 0; next < len(all); {
		h, err := record.ParseHeader(all[next:])
		must(t, err)
		last, at = h, next
		next += h.Size()
	}
	return last, at
}

// A loss of power may take what the journal was told of a new leader epoch and leave the batch. Where no single flipped bit would make
// the epoch of it the replica keeps its seat: what comes before it is all that was ever durable.
func TestAnEpochThatWasNeverDurable(t *testing.T) {
	for epoch, lost := range map[model.LeaderEpoch]bool{2: false, 4: false, 3: true, 1 + 1<<20: true} { // after epoch 1
		mem := fsys.NewMem(3, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		for tag := range 5 {
			appendTo(t, l, 1, tag, 2, 40)
		}
		_, err = l.Sync()
		must(t, err)
		before, end := mem.Clone(1).CrashProcess(), l.LogEndOffset()
		data, h := makeBatch(t, producerRef{}, 9, 4, 10, 1000)
		_, err = l.AppendLeader([][]byte{data}, h, epoch, 1)
		must(t, err)
		journal := journalOf(t, before)
		after := mem.CrashProcess()
		must(t, writeFileAtomic(after, "data/"+journalName, journal))
		again := openTestDir(t, after)
		l, report, err := again.OpenLog(testPartition(0), Config{})
		must(t, err)
		if l.LogEndOffset() != end || report.LostData() != lost || report.CutReason == "" {
			t.Errorf("epoch %d: the log ends at %d: %+v", epoch, l.LogEndOffset(), report)
		}
		must(t, again.Close())
	}
}

// A checkpoint that was collected before an epoch began never takes the epoch out of the journal again.
func TestACheckpointNeverForgetsAnEpochThatBeganMeanwhile(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for tag := range 5 {
		appendTo(t, l, 1, tag, 2, 40)
	}
	collected, ok := l.checkpoint(3)
	appendTo(t, l, 7, 9, 2, 40)
	if !ok {
		t.Fatal("nothing to note")
	}
	must(t, d.journal.commit(collected))
	again := openTestDir(t, mem.CrashProcess())
	found, report, err := again.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || found.LogEndOffset() != l.LogEndOffset() || found.LatestEpoch() != 7 {
		t.Errorf("[%d, %d) of epoch %d: %+v", found.LogStartOffset(), found.LogEndOffset(), found.LatestEpoch(), report)
	}
	must(t, again.Close())
}

// A journal of which something was damaged does not know all epochs: no batch is judged by it, at the next opening neither.
func TestADamagedJournalIsNoWitnessOfHeads(t *testing.T) {
	mem, _, l, all, _ := gappedLog(t)
	end := l.LogEndOffset()
	left := mem.CrashProcess()
	journal := journalOf(t, left)
	_, good := decodeJournal(journal)
	must(t, left.Flip("data/"+journalName, int64(good)-70, 3)) // in what was told last
	for range 2 {
		d := openTestDir(t, left)
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if got := readAll(t, l, 1<<20); report.Cut != CutNone || l.LogEndOffset() != end || !bytes.Equal(got, all) {
			t.Fatalf("%d bytes of %d up to %d: %+v", len(got), len(all), l.LogEndOffset(), report)
		}
		left = left.CrashProcess()
	}
}

// What rows of batches say follows appends, checkpoints and cuts.
func TestHeadRowsFollowTheLog(t *testing.T) {
	a, b, c := headRow{0, 10, 5, 1}, headRow{12, 20, 5, 2}, headRow{20, 30, 5, 3}
	for what, tt := range map[string]struct{ got, want []headRow }{
		"in their order":         {c.onto(b.onto(a.onto(nil))), []headRow{a, b, c}},
		"written again":          {headRow{12, 18, 5, 4}.onto([]headRow{a, b, c}), []headRow{a, {12, 18, 5, 4}}},
		"void from the end on":   {headRow{20, 20, 5, 0}.onto([]headRow{a, b, c}), []headRow{a, b}},
		"cut within":             {headRow{15, 15, 5, 0}.onto([]headRow{a, b, c}), []headRow{a, {12, 15, 0, unknownHeads}}},
		"cut within, and more":   {headRow{5, 9, 5, 7}.onto([]headRow{a, b, c}), []headRow{{0, 5, 0, unknownHeads}, {5, 9, 5, 7}}},
		"nothing behind":         {headRow{40, 40, 5, 0}.onto([]headRow{a}), []headRow{a}},
		"below a recovery point": {rowsAbove([]headRow{a, b, c}, 20), []headRow{c}},
		"within it":              {rowsAbove([]headRow{a, b, c}, 13), []headRow{b, c}},
	} {
		if fmt.Sprint(tt.got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %v, want %v", what, tt.got, tt.want)
		}
	}
}

func journalOf(t *testing.T, mem *fsys.Mem) []byte {
	t.Helper()
	data, err := readFile(mem, "data/"+journalName, maxJournalBytes)
	must(t, err)
	return data
}

// An append that fails after the journal was told of its epoch does not hide the epoch of the next one from it.
func TestTheEpochBehindAFailedAppendIsTold(t *testing.T) {
	mem := fsys.NewMem(3, fsys.MemOptions{})
	d := openTestDir(t, mem)
	l, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	for epoch := range model.LeaderEpoch(7) { // a cache with room for more
		appendTo(t, l, epoch, 1, 2, 40)
	}
	mem.SetInjector(func(op fsys.Op, path string) error {
		if op == fsys.OpAppend && path != "data/"+journalName {
			return fsys.ErrNoSpace
		}
		return nil
	})
	data, h := makeBatch(t, producerRef{}, 1, 2, 40, 1000)
	if _, err := l.AppendLeader([][]byte{data}, h, 8, 1); err == nil {
		t.Fatal("the append did not fail")
	}
	mem.SetInjector(nil)
	appendTo(t, l, 9, 1, 2, 40)
	d = openTestDir(t, mem.CrashProcess())
	again, report, err := d.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.LostData() || again.LogEndOffset() != l.LogEndOffset() {
		t.Errorf("it ends at %d: %+v", again.LogEndOffset(), report)
	}
	must(t, d.Close())
}

// A segment is not compacted while the journal was told of its batches, and they lie above the recovery point: the heads would be others.
func TestWhatTheJournalWasToldOfIsNotCompacted(t *testing.T) {
	_, d, l, _, point := gappedLog(t)
	must(t, l.Roll())
	saved, _ := d.journal.state(l.tp)
	if len(saved.rows) == 0 || saved.rows[0].from < point {
		t.Fatalf("nothing was told: %+v", saved)
	}
	l.mu.Lock()
	l.checkpointed = l.end // as where a checkpoint has come between a sync by the sync journal and its filing
	l.mu.Unlock()
	in := CleaningInput{HighWatermark: l.LogEndOffset(), LowestPosition: l.LogEndOffset()}
	state, err := l.CleaningState(CompactionPolicy{}, in)
	must(t, err)
	if state.To > saved.rows[0].from {
		t.Errorf("up to %d, of %d on the journal was told", state.To, saved.rows[0].from)
	}
	_, err = l.Sync()
	must(t, err)
	must(t, d.Checkpoint(LogCheckpoint{Log: l, HighWatermark: l.LogEndOffset()}))
	if state, err = l.CleaningState(CompactionPolicy{}, in); err != nil || state.To != l.LogEndOffset() {
		t.Errorf("up to %d behind the recovery point %d: %v", state.To, l.FiledEnd(), err)
	}
}

// A Reset to an offset before the end, cut off anywhere: while all batches are there none of them is taken for one that was never written.
func TestAnInterruptedResetBackwardsLosesNothing(t *testing.T) {
	for k := int64(1); ; k++ {
		mem, _, l, all, _ := gappedLog(t)
		end, before, bases := l.LogEndOffset(), mem.Ops(), segmentBases(t, mem, l.path)
		mem.CrashAt(before + k)
		err := l.Reset(5, nil)
		if err == nil {
			return
		}
		left := mem.CrashProcess()
		whole := slices.Equal(segmentBases(t, left, l.path), bases)
		again := openTestDir(t, left)
		found, report, err := again.OpenLog(testPartition(0), Config{})
		must(t, err)
		got := readAll(t, found, 1<<20)
		if whole && found.LogEndOffset() != end || found.LogEndOffset() == end && (report.LostData() || len(got) == 0) || !bytes.Contains(all, got) {
			t.Fatalf("operation %d: [%d, %d), %d bytes of %d: %+v", k, found.LogStartOffset(), found.LogEndOffset(), len(got), len(all), report)
		}
		must(t, again.Close())
	}
}

// A Reset that a kill has cut off is finished by recovery, durably: a loss of power brings no segment of before back beside what was
// appended since.
func TestAResetThatRecoveryFinishesIsDurable(t *testing.T) {
	begunAnew := 0
	for seed := range uint64(300) {
		mem := fsys.NewMem(seed, fsys.MemOptions{})
		d := openTestDir(t, mem)
		l, err := d.CreateLog(testPartition(0), Config{})
		must(t, err)
		appendTo(t, l, 1, 1, 3, 60)
		_, err = l.Sync()
		must(t, err)
		appendTo(t, l, 1, 2, 1, 60)                 // and this is not durable
		mem.CrashAt(mem.Ops() + 1 + int64(seed%20)) //nolint:gosec // small
		_ = l.Reset(4, nil)                         //nolint:errcheck // cut off
		left := mem.CrashProcess()
		d = openTestDir(t, left)
		l, report, err := d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if l.LogStartOffset() == 4 {
			begunAnew++
		}
		for tag := range 3 {
			appendTo(t, l, 2, tag, 2, 60)
			must(t, l.Roll())
		}
		start, end := l.LogStartOffset(), l.LogEndOffset()
		d = openTestDir(t, left.Crash())
		l, report, err = d.OpenLog(testPartition(0), Config{})
		must(t, err)
		if report.Damage != nil || l.LogStartOffset() != start || l.LogEndOffset() > end {
			t.Fatalf("seed %d: [%d, %d) has become [%d, %d): %+v", seed, start, end, l.LogStartOffset(), l.LogEndOffset(), report)
		}
		must(t, d.Close())
	}
	if begunAnew < 100 {
		t.Errorf("only %d began anew", begunAnew)
	}
}

// An append that tells the journal of its epoch says the LogStartOffset with it, and not durably: segments below go only once it is.
func TestTrimmedSegmentsWaitForWhatAnAppendHasTold(t *testing.T) {
	mem, d, l, _, point := gappedLog(t)
	must(t, l.Trim(l.LogEndOffset()-1))
	appendTo(t, l, 9, 1, 2, 60)
	if saved, _ := d.journal.state(l.tp); saved.logStart <= point {
		t.Fatalf("the journal says %+v", saved)
	}
	must(t, l.removeTrimmed())
	again := openTestDir(t, mem.Crash())
	found, report, err := again.OpenLog(testPartition(0), Config{})
	must(t, err)
	if report.Damage != nil || report.LostData() {
		t.Errorf("[%d, %d): %+v", found.LogStartOffset(), found.LogEndOffset(), report)
	}
	must(t, again.Close())
}
