package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
)

// sharedLog is what the sweep knows of one log.
type sharedLog struct {
	log        *Log
	epoch      model.LeaderEpoch
	batches    []sharedBatch
	start      int64 // trimmed to
	savedStart int64 // surely trimmed to
	durable    int64 // surely there
	resetTo    int64 // a reset to it is under way, or -1
	going      bool  // a deletion is under way
	gone       bool
	noted      bool // its name is durable
}

type sharedBatch struct {
	base, end int64
	data      []byte
}

func (s *sharedLog) end() int64 {
	if n := len(s.batches); n > 0 {
		return s.batches[n-1].end
	}
	return s.start
}

// acknowledged notes that all of it was reported durable, and so its name too, unless nothing was: of an empty log that says nothing.
func (s *sharedLog) acknowledged() {
	s.durable, s.noted = s.end(), s.noted || s.end() > 0
}

// sharedSweep runs scripts over a few logs of a directory with a sync journal. A step is a letter and the number of a log: a append,
// j sync by the journal (J all), s plain sync, c checkpoint all, t truncate to the middle, r reset, d delete and create,
// y set aside and create, m trim to the middle, R roll, o close and open, w let the journal settle.
type sharedSweep struct {
	t      testing.TB
	mem    *fsys.Mem
	dir    *Dir
	logs   [3]sharedLog
	first  int32 // the partition of the first of them
	builds int
	setUp  int64 // operations before the first step
}

var sharedConfig = Config{SegmentBytes: 1500, IndexIntervalBytes: 100}

func (x *sharedSweep) run(script string) error {
	d, err := OpenDir(x.mem, "data", testDirOptions())
	if err != nil {
		return err
	}
	x.dir = d
	for i := range x.logs {
		if err := x.create(i); err != nil {
			return err
		}
	}
	x.setUp = x.mem.Ops()
	for step := range strings.FieldsSeq(script) {
		i := 0
		if len(step) > 1 {
			i = int(step[1] - '0')
		}
		if err := x.step(step[0], i); err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
	}
	return d.Close()
}

func (x *sharedSweep) create(i int) error {
	x.logs[i] = sharedLog{epoch: 1, resetTo: -1}
	l, err := x.dir.CreateLog(x.partition(i), sharedConfig)
	x.logs[i].log = l
	return err
}

func (x *sharedSweep) partition(i int) model.TopicPartition { return testPartition(x.first + int32(i)) } //nolint:gosec // small

func (x *sharedSweep) step(op byte, i int) error {
	s := &x.logs[i]
	switch op {
	case 'a':
		return x.append(s, 60+(x.builds+1)%5*50)
	case 'j', 'J':
		return x.syncJournaled(op == 'J', i)
	case 's':
		end, err := s.log.Sync()
		if err == nil {
			s.durable, s.noted = end, true
		}
		return err
	case 'c':
		return x.checkpoint()
	case 't':
		return x.truncate(s)
	case 'r':
		return x.reset(s)
	case 'd', 'y':
		return x.remove(op, i)
	case 'm':
		if s.durable > s.start {
			s.start = s.durable - 1
		}
		return s.log.Trim(s.start)
	case 'R':
		return s.log.Roll()
	case 'o':
		if err := s.log.Close(true); err != nil {
			return err
		}
		s.durable, s.noted = s.end(), true
		var err error
		s.log, _, err = x.dir.OpenLog(s.log.tp, sharedConfig)
		return err
	case 'w':
		return errors.Join(x.dir.Settle(), x.dir.Settle())
	}
	panic("no such step")
}

func (x *sharedSweep) append(s *sharedLog, size int) error {
	x.builds++
	data, h := makeBatch(x.t, noProducer, x.builds, 2, size, int64(1000+x.builds))
	res, err := s.log.AppendLeader([][]byte{data}, h, s.epoch, 1)
	if err == nil {
		s.batches = append(s.batches, sharedBatch{res.BaseOffset, res.LogEndOffset, stamped(data, res.BaseOffset, s.epoch)})
	}
	return err
}

func (x *sharedSweep) syncJournaled(all bool, i int) error {
	logs := []*Log{x.logs[i].log}
	if all {
		logs = []*Log{x.logs[0].log, x.logs[1].log, x.logs[2].log}
	}
	err := x.dir.SyncJournaled(logs...)
	for k := range x.logs {
		if s := &x.logs[k]; (all || k == i) && s.log.Failed() == nil && s.log.DurableEnd() == s.end() {
			s.acknowledged() // whatever became of others
		}
	}
	return err
}

func (x *sharedSweep) checkpoint() error {
	var items []LogCheckpoint
	for i := range x.logs {
		items = append(items, LogCheckpoint{Log: x.logs[i].log})
	}
	if err := x.dir.Checkpoint(items...); err != nil {
		return err
	}
	for i := range x.logs {
		if x.logs[i].log.Failed() == nil { // of a failed one nothing is noted
			x.logs[i].savedStart = x.logs[i].start
		}
	}
	return nil
}

func (x *sharedSweep) truncate(s *sharedLog) error {
	n := 0
	for n < len(s.batches) && s.batches[n].base <= s.start {
		n++
	}
	n += (len(s.batches) - n) / 2
	if n == len(s.batches) {
		return nil
	}
	to := s.batches[n].base
	s.durable = min(s.durable, to)
	if _, err := s.log.TruncateTo(to); err != nil {
		return err
	}
	s.batches = s.batches[:n]
	s.epoch++
	return nil
}

func (x *sharedSweep) reset(s *sharedLog) error {
	s.resetTo, s.durable = s.end()+7, 0
	if x.builds%2 == 0 {
		s.resetTo = 0
	}
	if err := s.log.Reset(s.resetTo, nil); err != nil {
		return err
	}
	to := s.resetTo
	*s = sharedLog{log: s.log, epoch: s.epoch + 1, start: to, savedStart: to, durable: to, resetTo: -1, noted: true}
	return nil
}

func (x *sharedSweep) remove(op byte, i int) error {
	s := &x.logs[i]
	s.going, s.durable, s.noted = true, 0, false
	var err error
	if op == 'd' {
		err = x.dir.DeleteLog(x.partition(i))
	} else {
		_, err = x.dir.StrayLog(x.partition(i))
	}
	if err != nil {
		return err
	}
	s.gone, s.batches = true, nil
	return x.create(i)
}

// verify opens everything and holds it against what is known. whole says that nothing but a crash happened to the process, kill
// that the machine went on.
func (x *sharedSweep) verify(whole, kill bool) error {
	d, err := OpenDir(x.mem, "data", testDirOptions())
	if err != nil {
		return fmt.Errorf("the directory does not open: %w", err)
	}
	if len(d.Report().Replay.Damage) > 0 {
		return fmt.Errorf("damage in the sync journal: %w", d.Report().Replay.Damage[0])
	}
	return x.verifyLogs(d, whole, kill)
}

func (x *sharedSweep) verifyLogs(d *Dir, whole, kill bool) error {
	x.dir = d
	for i := range x.logs {
		s := &x.logs[i]
		l, report, err := d.OpenLog(x.partition(i), sharedConfig)
		if errors.Is(err, ErrNoLog) {
			if s.noted && !s.going {
				return fmt.Errorf("log %d is gone", i)
			}
			s.log = nil
			continue
		}
		if err != nil {
			return fmt.Errorf("log %d does not open: %w", i, err)
		}
		s.log = l
		if whole && (report.Damage != nil || report.LostBelowRecoveryPoint() || report.LostBefore || (kill && report.LostData())) {
			return fmt.Errorf("log %d: %+v, damage %+v", i, report, report.Damage)
		}
		if err := s.verify(x.t, l); err != nil {
			return fmt.Errorf("log %d: %w; %+v; %+v", i, err, report, d.Report().Replay)
		}
	}
	return nil
}

func (s *sharedLog) verify(t testing.TB, l *Log) error {
	from, to := l.LogStartOffset(), l.LogEndOffset()
	if s.resetTo >= 0 && from == s.resetTo && to == s.resetTo {
		return nil
	}
	if from > s.start || from < min(s.savedStart, s.durable) && s.resetTo < 0 {
		return fmt.Errorf("it starts at %d: trimmed to %d, surely to %d", from, s.start, s.savedStart)
	}
	if to < s.durable {
		return fmt.Errorf("it ends at %d, %d was durable", to, s.durable)
	}
	var want []byte
	for _, b := range s.batches {
		if b.end > from && b.end <= to {
			want = append(want, b.data...)
		}
	}
	if got := readAll(t, l, 1<<20); !bytes.Equal(got, want) {
		return fmt.Errorf("[%d,%d) holds other batches than were appended: %s", from, to, firstDifference(got, want))
	}
	c := epochCache{starts: l.EpochStarts()}
	for _, b := range s.batches {
		epoch := model.LeaderEpoch(int32(b.data[15])) //nolint:gosec // epochs are small here
		if b.base >= from && b.end <= to && c.at(b.base) != epoch {
			return fmt.Errorf("offset %d is of epoch %d, the log says %d", b.base, epoch, c.at(b.base))
		}
	}
	return nil
}

// sharedScriptCount counts the scripts by hand and those that are drawn.
const sharedScriptCount = 24

func sharedScripts() []string {
	scripts := []string{
		"a0 s0 a0 a0 j0 a0", "a0 a1 a2 s0 s1 s2 a0 a1 J a2 J c a0 J",
		"a0 s0 c a0 a0 a0 j0 t0 a0 s0 a0 j0", "a0 s0 a0 j0 t0 a0 j0 w a0 j0 t0 a0 a0 s0",
		"a0 s0 a0 j0 r0 a0 s0 a0 j0", "a0 s0 a0 j0 d0 a0 s0 a0 j0", "a0 s0 a0 j0 y0 a0 s0 a0 j0",
		"a0 s0 a0 a0 j0 R0 s0 a0 j0 m0 c a0 j0", "a0 s0 a0 j0 o0 a0 j0 t0 a0 j0",
		"a0 s0 c " + strings.Repeat("a0 a1 J ", 12) + "w a0 j0",
	}
	rng := rand.New(rand.NewPCG(11, 3))
	const letters = "aaaaaaaaaaaaaaaaaaaajjjjjjjjJJJJJJJsscctttrdymRRow"
	for len(scripts) < sharedScriptCount {
		steps := []string{"s0", "s1", "s2"}
		for range 10 + rng.IntN(24) {
			steps = append(steps, fmt.Sprintf("%c%d", letters[rng.IntN(len(letters))], rng.IntN(3)))
		}
		scripts = append(scripts, strings.Join(steps, " "))
	}
	return scripts
}

// Whatever operation a crash or an I/O error hits: what was acknowledged is there, what was cut, reset or deleted does not come
// back in another's place, and that holds for a second crash too.
func TestSyncJournalSurvivesEveryCrash(t *testing.T) {
	for n, script := range sharedScripts() {
		t.Run(fmt.Sprintf("%d/%s", n, script), func(t *testing.T) {
			t.Parallel()
			count := &sharedSweep{t: t, mem: fsys.NewMem(1, fsys.MemOptions{})}
			if err := count.run(script); err != nil {
				t.Fatal(err)
			}
			if testing.Short() && n%4 != 0 {
				return
			}
			for k := count.setUp; k <= count.mem.Ops()+1; k++ {
				sharedSweepOnce(t, script, "crash", k, false)
				switch k % 3 {
				case 0:
					sharedSweepOnce(t, script, "crash", k, true)
				case 1:
					sharedSweepOnce(t, script, "error", k, k%2 == 0)
				}
			}
		})
	}
}

func sharedSweepOnce(t *testing.T, script, fault string, k int64, kill bool) {
	t.Helper()
	x := &sharedSweep{t: t, mem: fsys.NewMem(uint64(k), fsys.MemOptions{})} //nolint:gosec // k is positive
	if fault == "crash" {
		x.mem.CrashAt(k)
	} else {
		x.mem.FailAt(k, fmt.Errorf("injected: %w", syscall.EIO))
	}
	_ = x.run(script) //nolint:errcheck // the fault
	crash := func() {
		if kill {
			x.mem = x.mem.CrashProcess()
		} else {
			x.mem = x.mem.Crash()
		}
	}
	crash()
	if err := x.verify(fault == "crash", kill); err != nil {
		t.Fatalf("%s at operation %d, kill %t: %v", fault, k, kill, err)
	}
	x.goOn(t)
	crash()
	if err := x.verify(false, kill); err != nil {
		t.Fatalf("%s at operation %d, kill %t, and once more: %v", fault, k, kill, err)
	}
}

// goOn appends to what was found, and makes it durable by the journal.
func (x *sharedSweep) goOn(t *testing.T) {
	t.Helper()
	x.takeOver(t)
	var logs []*Log
	for i := range x.logs {
		logs = append(logs, x.logs[i].log)
	}
	for range 2 {
		for i := range x.logs {
			must(t, x.step('a', i))
		}
		must(t, x.dir.SyncJournaled(logs...))
	}
	for i := range x.logs {
		x.logs[i].durable, x.logs[i].noted = x.logs[i].end(), true
	}
}

// takeOver begins anew with what was found, and makes the logs that are gone.
func (x *sharedSweep) takeOver(t *testing.T) {
	t.Helper()
	must(t, x.dir.LossesRecorded())
	for i := range x.logs {
		s := &x.logs[i]
		if s.log == nil {
			must(t, x.create(i))
		}
		from, to := s.log.LogStartOffset(), s.log.LogEndOffset()
		n := 0
		for n < len(s.batches) && s.batches[n].end <= to {
			n++
		}
		*s = sharedLog{log: s.log, epoch: s.log.LatestEpoch() + 1, batches: s.batches[:n], start: from, savedStart: from, resetTo: -1}
	}
}
