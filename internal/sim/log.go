package sim

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
)

// batch is a record batch as the model knows it: who it is, not what it says. raw holds its bytes in storage mode.
type batch struct {
	base   int64
	count  int32
	epoch  model.LeaderEpoch
	pid    int64
	pepoch int16
	seq    int32
	raw    []byte
}

func (b batch) end() int64  { return b.base + int64(b.count) }
func (b batch) size() int64 { return 80 + 20*int64(b.count) }

// same says whether two batches are one: content, offset and leader epoch.
func (b batch) same(o batch) bool {
	return b.base == o.base && b.epoch == o.epoch && b.sameContent(o)
}

func (b batch) sameContent(o batch) bool {
	return b.pid == o.pid && b.pepoch == o.pepoch && b.seq == o.seq && b.count == o.count
}

// epochStart says where a leader epoch begins.
type epochStart struct {
	epoch model.LeaderEpoch
	start int64
}

// window is what is remembered of an idempotent producer: its batches in its present epoch, oldest first.
type window struct {
	pid     int64
	pepoch  int16
	batches []batch
}

const windowBatches = 64

// modelLog is a log as simple as it can be. In storage mode it is the expectation that the real log is held against.
type modelLog struct {
	w          *world
	part       *partition
	node       *node
	batches    []batch
	durable    int64
	wasDurable int64 // before cuts
	epochs     []epochStart
	windows    []*window
	savedHW    int64
	savedEps   []epochStart

	dirty bool  // waits for a sync
	uncut int64 // no cut went below since the sync under way began

	matched int  // batches that agree with the oracle's committed ones
	confess bool // a power loss tore a hole that recovery will report

	tried   []batch // an append that a crash has cut short
	cutting int64   // where a cut that a crash has cut short was to end; -1 for none

	decay    *decayed // storage mode alone; nil while all is whole
	hadDecay bool     // a bit of it has flipped, once

	real   *realLog
	unsure bool // power was lost, or a sync failed, since a process had the real log open
}

func newModelLog(p *partition, n *node) *modelLog {
	return &modelLog{w: n.w, part: p, node: n, uncut: maxOffset, cutting: -1}
}

func (l *modelLog) end() int64 {
	if n := len(l.batches); n > 0 {
		return l.batches[n-1].end()
	}
	return 0
}

// lastEpoch is the epoch of the last batch.
func (l *modelLog) lastEpoch() model.LeaderEpoch {
	if n := len(l.batches); n > 0 {
		return l.batches[n-1].epoch
	}
	return model.NoLeaderEpoch
}

// LatestEpoch implements core.History.
func (l *modelLog) LatestEpoch() model.LeaderEpoch {
	if l.real != nil {
		return l.real.log.LatestEpoch()
	}
	if n := len(l.epochs); n > 0 {
		return l.epochs[n-1].epoch
	}
	return model.NoLeaderEpoch
}

// EpochEndOffset implements core.History.
func (l *modelLog) EpochEndOffset(epoch model.LeaderEpoch) (model.LeaderEpoch, int64) {
	if l.real != nil {
		return l.real.log.EpochEndOffset(epoch)
	}
	end := l.end()
	for i := len(l.epochs) - 1; i >= 0; i-- {
		if l.epochs[i].epoch <= epoch {
			return l.epochs[i].epoch, end
		}
		end = l.epochs[i].start
	}
	return model.NoLeaderEpoch, end
}

// describeEpochs is the epoch history for people.
func (l *modelLog) describeEpochs() string {
	if l.real != nil {
		return fmt.Sprint(l.real.log.EpochStarts())
	}
	return fmt.Sprint(l.epochs)
}

// assignEpoch notes that an epoch begins at the log's end.
func (l *modelLog) assignEpoch(epoch model.LeaderEpoch, start int64) error {
	if l.real != nil {
		return l.real.log.AssignEpochStart(epoch, start)
	}
	if n := len(l.epochs); n > 0 && l.epochs[n-1].epoch >= epoch {
		if l.epochs[n-1].epoch == epoch {
			return nil
		}
		return model.Errorf(model.CodeFencedLeaderEpoch, "epoch %d after %d", epoch, l.epochs[n-1].epoch)
	}
	l.epochs = append(l.epochs, epochStart{epoch, start})
	return nil
}

func (l *modelLog) window(pid int64) *window {
	for _, w := range l.windows {
		if w.pid == pid {
			return w
		}
	}
	return nil
}

// checkSequence is the model of R12: a duplicate, an error, or neither.
func (l *modelLog) checkSequence(b batch) (original batch, duplicate bool, code model.ErrorCode) {
	w := l.window(b.pid)
	switch {
	case w == nil && b.seq == 0:
		return original, false, model.CodeNone
	case w == nil:
		return original, false, model.CodeUnknownProducerID
	case b.pepoch < w.pepoch:
		return original, false, model.CodeInvalidProducerEpoch
	case b.pepoch > w.pepoch && b.seq == 0:
		return original, false, model.CodeNone
	case b.pepoch > w.pepoch:
		return original, false, model.CodeOutOfOrderSequence
	}
	last := w.batches[len(w.batches)-1]
	if b.seq == last.seq+last.count {
		return original, false, model.CodeNone
	}
	for _, o := range slices.Backward(w.batches) {
		if o.sameContent(b) {
			return o, true, model.CodeNone
		}
	}
	if b.seq < w.batches[0].seq {
		return original, false, model.CodeDuplicateSequence
	}
	return original, false, model.CodeOutOfOrderSequence
}

func (l *modelLog) remember(b batch) {
	w := l.window(b.pid)
	if w == nil {
		w = &window{pid: b.pid, pepoch: b.pepoch}
		l.windows = append(l.windows, w)
	}
	if w.pepoch != b.pepoch {
		w.pepoch, w.batches = b.pepoch, nil
	}
	if w.batches = append(w.batches, b); len(w.batches) > windowBatches {
		w.batches = w.batches[1:]
	}
}

// appendLeader appends as leader; where the batch is a duplicate its original is returned and nothing is written.
// A refusal is a *model.Error.
func (l *modelLog) appendLeader(b batch, epoch model.LeaderEpoch, nowMs int64) (at batch, duplicate bool, err error) {
	original, duplicate, code := l.checkSequence(b)
	b.base, b.epoch = l.end(), epoch
	if l.real != nil {
		var err error
		l.tried = []batch{b}
		b, err = l.real.appendLeader(b, original, duplicate, code, nowMs)
		if corrupt(err) {
			l.tried = nil
			return b, false, model.Errorf(model.CodeCorruptRecord, "the log is damaged")
		}
		if err != nil {
			return b, false, err
		}
		l.tried = nil
	}
	switch {
	case code != model.CodeNone:
		return b, false, model.Errorf(code, "refused")
	case duplicate:
		return original, true, nil
	}
	l.note(b)
	return b, false, nil
}

// note takes a written batch into the model.
func (l *modelLog) note(b batch) {
	if n := len(l.epochs); n == 0 || l.epochs[n-1].epoch < b.epoch {
		l.epochs = append(l.epochs, epochStart{b.epoch, b.base})
	}
	l.batches = append(l.batches, b)
	l.remember(b)
	l.w.oracle.appended(l, b)
}

// appendFollower appends what the leader sent.
func (l *modelLog) appendFollower(batches []batch) error {
	next, epoch := l.end(), l.LatestEpoch()
	for _, b := range batches {
		switch {
		case b.base != next:
			return model.Errorf(model.CodeCorruptBatch, "batch at %d, the log ends at %d", b.base, next)
		case b.epoch < epoch:
			return model.Errorf(model.CodeFencedLeaderEpoch, "batch of epoch %d at %d after epoch %d", b.epoch, b.base, epoch)
		}
		next, epoch = b.end(), b.epoch
	}
	if l.real != nil {
		l.tried = batches
		if err := l.real.appendFollower(batches); err != nil {
			return err
		}
		l.tried = nil
	}
	for _, b := range batches {
		l.note(b)
	}
	return nil
}

// read returns the batches in [from, upTo), at most maxBytes but one at least.
func (l *modelLog) read(from, upTo, maxBytes int64) ([]batch, error) {
	if l.real != nil {
		return l.real.read(from, upTo, maxBytes)
	}
	i, _ := slices.BinarySearchFunc(l.batches, from, func(b batch, from int64) int { return cmp.Compare(b.end(), from+1) })
	n, bytes := i, int64(0)
	for n < len(l.batches) && l.batches[n].end() <= upTo && (n == i || bytes+l.batches[n].size() <= maxBytes) {
		bytes += l.batches[n].size()
		n++
	}
	return slices.Clone(l.batches[i:n]), nil
}

// truncate cuts the log, and the epochs that begin there or later.
func (l *modelLog) truncate(to int64) error {
	if l.real != nil {
		l.cutting = to
		err := l.real.truncate(to)
		if corrupt(err) {
			l.cutting = -1
		}
		if err != nil {
			return err
		}
		if at := l.real.log.LogEndOffset(); at < to && !slices.ContainsFunc(l.batches, func(b batch) bool { return b.base == at && b.end() > to }) {
			l.w.oracle.fail("%s on broker %d: cut to %d instead of %d", l.part, l.node.id, at, to)
		}
		l.cutting = -1
	}
	l.cutModel(to)
	return nil
}

// cutModel is the model's part of a cut.
func (l *modelLog) cutModel(to int64) {
	n := len(l.batches)
	for n > 0 && l.batches[n-1].end() > to {
		n--
	}
	l.cutTo(n)
	if l.decay != nil && l.end() <= l.decay.from {
		l.decay = nil
	}
	for len(l.epochs) > 0 && l.epochs[len(l.epochs)-1].start >= to {
		l.epochs = l.epochs[:len(l.epochs)-1]
	}
	l.save(min(l.savedHW, l.end()))
}

// cutTo keeps n batches.
func (l *modelLog) cutTo(n int) {
	if n < len(l.batches) {
		l.batches = slices.Clone(l.batches[:n])
		l.windows = nil
		for _, b := range l.batches {
			l.remember(b)
		}
	}
	l.wasDurable = max(l.wasDurable, l.durable)
	l.durable = min(l.durable, l.end())
	l.matched = min(l.matched, n)
}

// save is a checkpoint of what is not in the batches.
func (l *modelLog) save(hw int64) {
	l.savedHW, l.savedEps = hw, slices.Clone(l.epochs)
}

// restart is what the next process finds in the page cache.
func (l *modelLog) restart() {
	l.windows = nil
	var scanned []epochStart
	for _, b := range l.batches {
		l.remember(b)
		if n := len(scanned); n == 0 || scanned[n-1].epoch < b.epoch {
			scanned = append(scanned, epochStart{b.epoch, b.base})
		}
	}
	// Epochs without records are known from the checkpoint alone, as far as they fit between the others.
	merged := scanned
	for _, e := range l.savedEps {
		known := slices.ContainsFunc(merged, func(o epochStart) bool { return o.epoch == e.epoch })
		fits := !slices.ContainsFunc(merged, func(o epochStart) bool {
			return (o.epoch < e.epoch && o.start > e.start) || (o.epoch > e.epoch && o.start < e.start)
		})
		if !known && fits && e.start <= l.end() {
			merged = append(merged, e)
		}
	}
	slices.SortFunc(merged, func(a, b epochStart) int { return cmp.Compare(a.epoch, b.epoch) })
	l.epochs = merged
}

// losePower drops unsynced batches, each on its own, and says whether recovery must confess: something stood behind the
// first that is missing.
func (l *modelLog) losePower() (confess bool) {
	n := len(l.batches)
	for i, b := range l.batches {
		if b.end() <= l.durable {
			continue
		}
		if l.w.chance(0.5) {
			if i > n {
				confess = true
			}
			continue
		}
		n = min(n, i)
	}
	if n < len(l.batches) {
		l.w.faults.bite(faultPower, l.node.index)
	}
	l.cutTo(n)
	return confess
}
