package sim

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/storage"
)

// realLog is the real log beside the model of it: every answer is held against what the model expects.
type realLog struct {
	model *modelLog
	log   *storage.Log
}

const dataDir = "/data"

// openReal recovers the directory by the real storage core.
func (d *disk) openReal() (found, error) {
	w := d.n.w
	dir, err := storage.OpenDir(d.mem, dataDir, storage.DirOptions{
		DirectoryID: d.dirID, SyncJournalBytes: w.cfg.journal, SyncJournalSalt: w.cfg.salt,
	})
	if err != nil {
		return found{}, err
	}
	d.dir = dir
	if dir.Report().Replay.Frames > 0 {
		w.replays++
	}
	f := found{previous: dir.Meta().BrokerEpoch, osLost: dir.LostPageCache(bootName(d.boot))}
	if dir.Report().Created {
		f.allLost = "new directory"
		if d.used {
			w.oracle.fail("broker %d: the data directory is gone", d.n.id)
		}
	}
	if f.previous == d.trying { // a write that a crash has cut short behind its effect
		d.epoch = d.trying
	}
	if f.previous != d.epoch {
		w.oracle.fail("broker %d: meta.properties says broker epoch %d, %d was written", d.n.id, f.previous, d.epoch)
	}
	d.used = true
	tps, err := dir.Logs()
	if err != nil {
		return f, err
	}
	for _, p := range w.parts {
		l := d.log(p.index)
		if !slices.Contains(tps, p.tp) {
			if slices.Contains(dir.Report().MissingLogs, p.tp) {
				f.lost = append(f.lost, p.index)
			}
			if l != nil {
				d.checkFound(l, nil)
				d.setLog(p.index, nil)
			}
			continue
		}
		if l == nil {
			l = newModelLog(p, d.n)
			d.setLog(p.index, l)
		}
		lost, err := d.openLog(l)
		if err != nil {
			return f, err
		}
		if lost {
			f.lost = append(f.lost, p.index)
		}
	}
	return f, nil
}

// openLog recovers one log and takes over what it holds.
func (d *disk) openLog(l *modelLog) (lost bool, err error) {
	log, report, err := d.dir.OpenLog(l.part.tp, d.n.w.cfg.logs)
	if err != nil {
		return false, err
	}
	if report.Damage != nil && l.decay == nil {
		d.n.w.oracle.fail("%s on broker %d: recovery found damage at %d that nobody made: %+v", l.part, d.n.id, report.Damage.From, report)
	}
	real := &realLog{model: l, log: log}
	if l.decay != nil && d.dir.Report().Replay.Frames > 0 && l.isWhole(real) {
		d.n.w.comment("%s on broker %d: the sync journal has written the flipped batch at %d anew", l.part, d.n.id, l.decay.from)
		l.decay = nil
	}
	if l.decay != nil {
		d.adoptDecayed(l, real, report)
		d.n.w.note("recovered", int64(d.n.id), int64(l.part.index), log.LogEndOffset(), int64(report.Cut))
		l.takeOver(real, l.batches)
		return report.LostData(), nil
	}
	batches, err := real.read(log.LogStartOffset(), log.LogEndOffset(), 1<<30)
	if err != nil {
		return false, err
	}
	d.checkFound(l, batches)
	d.n.w.note("recovered", int64(d.n.id), int64(l.part.index), log.LogEndOffset(), int64(report.Cut))
	d.n.w.comment("%s on broker %d: %d producers, %+v", l.part, d.n.id, log.ProducerCount(), report)
	l.takeOver(real, batches)
	return report.LostData(), nil
}

// isWhole says whether the batch of which a bit was flipped is what was written.
func (l *modelLog) isWhole(real *realLog) bool {
	got, err := real.read(l.decay.from, l.decay.to, 0)
	return err == nil && len(got) == 1 && slices.ContainsFunc(l.batches, func(b batch) bool { return b.base == l.decay.from && got[0].same(b) })
}

// takeOver lets the model hold what a log was found to hold.
func (l *modelLog) takeOver(real *realLog, batches []batch) {
	l.real, l.unsure = real, false
	l.batches, l.windows, l.matched = batches, nil, 0
	for i := range batches {
		batches[i].raw = nil
		l.remember(batches[i])
	}
	l.durable = real.log.DurableEnd()
	l.savedHW = real.log.CheckpointedHighWatermark()
}

// checkFound holds what recovery found against what was written: all that was synced is there, after kill -9 everything, and
// nothing else but what an operation that was cut short has left.
func (d *disk) checkFound(l *modelLog, batches []batch) {
	o, must := d.n.w.oracle, l.end()
	if l.unsure {
		must = l.durable
	}
	written := l.batches
	if len(l.tried) > 0 {
		written = slices.Concat(written, l.tried)
	}
	if l.cutting >= 0 {
		must = min(must, l.cutting)
		for _, b := range l.batches { // a cut ends before the batch that holds its offset
			if b.base < l.cutting && b.end() > l.cutting {
				must = min(must, b.base)
			}
		}
	}
	l.tried, l.cutting = nil, -1
	end := int64(0)
	for i, b := range batches {
		if i >= len(written) || !b.same(written[i]) {
			o.fail("%s on broker %d: recovery found %s epoch %d at %d, which is not what was written there", l.part, d.n.id, b, b.epoch,
				b.base)
			return
		}
		end = b.end()
		if i >= len(l.batches) {
			o.appended(l, b)
		}
	}
	if end < must {
		o.fail("%s on broker %d: recovery found the log up to %d, %d was safe", l.part, d.n.id, end, must)
	}
	if end < l.end() {
		d.n.w.faults.bite(faultPower, d.n.index)
	}
}

func (r *realLog) appendLeader(b, original batch, duplicate bool, code model.ErrorCode, nowMs int64) (batch, error) {
	h, err := record.ParseHeader(b.raw)
	if err != nil {
		return b, err
	}
	o, l := r.model.w.oracle, r.model
	res, err := r.log.AppendLeader([][]byte{b.raw}, h, b.epoch, nowMs)
	b.raw = nil
	var refused *storage.SequenceError
	switch {
	case errors.As(err, &refused):
		if sequenceCode(refused) != code {
			o.fail("%s on broker %d: the log says %v, the model %s", l.part, l.node.id, err, code)
		}
		return b, nil
	case err != nil:
		return b, err
	case code != model.CodeNone:
		o.fail("%s on broker %d: the log takes a batch that the model refuses with %s", l.part, l.node.id, code)
	case res.Duplicate != duplicate:
		o.fail("%s on broker %d: duplicate is %t, the model says %t", l.part, l.node.id, res.Duplicate, duplicate)
	case duplicate && (res.BaseOffset != original.base || res.LeaderEpoch != original.epoch):
		o.fail("%s on broker %d: the receipt of a duplicate names offset %d epoch %d, the original has %d and %d", l.part, l.node.id,
			res.BaseOffset, res.LeaderEpoch, original.base, original.epoch)
	case !duplicate && res.BaseOffset != b.base:
		o.fail("%s on broker %d: appended at %d, the model says %d", l.part, l.node.id, res.BaseOffset, b.base)
	}
	return b, nil
}

func sequenceCode(err *storage.SequenceError) model.ErrorCode {
	switch {
	case errors.Is(err, storage.ErrOutOfOrderSequence):
		return model.CodeOutOfOrderSequence
	case errors.Is(err, storage.ErrDuplicateSequence):
		return model.CodeDuplicateSequence
	case errors.Is(err, storage.ErrInvalidProducerEpoch):
		return model.CodeInvalidProducerEpoch
	default:
		return model.CodeUnknownProducerID
	}
}

func (r *realLog) appendFollower(batches []batch) error {
	var data []byte
	for i := range batches {
		data = append(data, batches[i].raw...)
		batches[i].raw = nil
	}
	res, err := r.log.AppendFollower(data, false)
	if err != nil {
		return err
	}
	if end := batches[len(batches)-1].end(); res.LogEndOffset != end {
		return fmt.Errorf("the log ends at %d after an append up to %d", res.LogEndOffset, end)
	}
	return nil
}

// read reads batches with their bytes.
func (r *realLog) read(from, upTo, maxBytes int64) ([]batch, error) {
	var out []batch
	for from < upTo && (maxBytes > 0 || len(out) == 0) {
		res, err := r.log.Read(from, int(min(maxBytes, 1<<20)), upTo, nil)
		if corrupt(err) && len(out) > 0 {
			return out, nil // as below
		}
		if err != nil {
			return nil, err
		}
		if len(res.Data) == 0 {
			break
		}
		for data := res.Data; len(data) > 0; {
			h, err := record.ParseHeader(data)
			if err != nil {
				return nil, err
			}
			if h.Size() > len(data) {
				return nil, fmt.Errorf("%w: the header says %d bytes, there are %d", record.ErrCorruptBatch, h.Size(), len(data))
			}
			if err := record.CheckCRC(data[:h.Size()]); err != nil {
				if len(out) > 0 {
					return out, nil // it is found by who reads on
				}
				return nil, err
			}
			out = append(out, batch{
				base: h.BaseOffset, count: h.Count, epoch: model.LeaderEpoch(h.LeaderEpoch), pid: h.ProducerID, pepoch: h.ProducerEpoch,
				seq: h.BaseSequence, raw: data[:h.Size():h.Size()],
			})
			data = data[h.Size():]
		}
		maxBytes -= int64(len(res.Data))
		from = res.NextOffset
	}
	return out, nil
}

func (r *realLog) truncate(to int64) error {
	end, err := r.log.TruncateTo(to)
	if err != nil {
		return err
	}
	if end > to {
		return fmt.Errorf("the log ends at %d after it was cut to %d", end, to)
	}
	return nil
}

// encode makes the bytes of a batch, as a producer sends them.
func (b batch) encode(builder *record.Builder, stampMs int64) ([]byte, error) {
	builder.Reset()
	var value [64]byte
	for i := range b.count {
		text := fmt.Appendf(value[:0], "producer %d epoch %d record %d", b.pid, b.pepoch, b.seq+i)
		if err := builder.Add(record.Record{Timestamp: stampMs, Value: text}); err != nil {
			return nil, err
		}
	}
	raw, err := builder.Finish(record.None, b.pid, b.pepoch, b.seq)
	return slices.Clone(raw), err
}
