package replication

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// FoundBy says who came across damage of a log; it is a label of metrics.
type FoundBy string

// Who finds damage.
const (
	// FoundByRecovery is the opening of the log.
	FoundByRecovery FoundBy = "recovery"
	// FoundByScrub is the background check of everything on the disk.
	FoundByScrub FoundBy = "scrub"
	// FoundByConsumer is a read for a consumer.
	FoundByConsumer FoundBy = "consumer"
	// FoundByFollower is a read for a follower, or a follower that was sent bad batches.
	FoundByFollower FoundBy = "follower"
	// FoundByComparison is a check that a follower has asked for, or the comparison of digests.
	FoundByComparison FoundBy = "comparison"
	// FoundByMaintenance is retention or compaction.
	FoundByMaintenance FoundBy = "maintenance"
)

var allFoundBy = []FoundBy{FoundByRecovery, FoundByScrub, FoundByConsumer, FoundByFollower, FoundByComparison, FoundByMaintenance}

const (
	// checkStepBytes is the work of one step of a check, between two looks at its rate, and of one CheckRange request.
	checkStepBytes = 4 << 20
	// suspicionsMax bounds the checks that wait; what is dropped is found again by the next read, or the scrub.
	suspicionsMax = 256
	// checksAtOnce bounds the CheckRange requests that are served at a time.
	checksAtOnce = 4
	// giveUpTimeout bounds one request to the controller.
	giveUpTimeout = 5 * time.Second
)

// ReportDamage takes note of damage of an open log, which a scrub has found: the log is marked, and the replica gives up its
// seat and fetches anew from another, as soon as that can be done without a loss. Damage that is known already, and logs that
// are not in use here, are ignored.
func (m *Manager) ReportDamage(log *storage.Log, d storage.Damage) {
	m.mu.RLock()
	p := m.partitions[log.TopicPartition()]
	m.mu.RUnlock()
	if p != nil && p.log == log {
		m.damaged(p, d, FoundByScrub)
	}
}

// damaged marks the log and lets the core draw the consequences.
func (m *Manager) damaged(p *partition, d storage.Damage, by FoundBy) {
	m.run(p, func(*effects) core.Output {
		marked, err := p.log.MarkDamaged(d)
		if err != nil {
			m.opts.Logger.Error("damage of a log could not be put on file, a restart may forget it", "partition", p.tp.String(), "error", err)
		}
		if !marked {
			return core.Output{}
		}
		m.metrics.damages.WithLabelValues(string(by)).Inc()
		m.opts.Logger.Error("a log is damaged: it is fetched anew where another replica is in sync, else what is intact is served",
			"partition", p.tp.String(), "role", p.replica.Role().String(), "found_by", string(by), "file", d.File,
			"position", d.Position, "from_offset", d.From, "to_offset", d.To, "reason", d.Reason)
		if p.fetcher != nil {
			p.fetcher.unsubscribe(p)
		}
		return p.replica.FoundDamage(p.log.Damage().From, m.now())
	})
}

// suspicion is a place of a log that somebody could not read, or whose bytes were refused.
type suspicion struct {
	p      *partition
	offset int64
	by     FoundBy
	why    string
}

// suspicions are the checks that wait, each once.
type suspicions struct {
	wake chan struct{} // one token
	mu   sync.Mutex
	list []suspicion
}

// add puts a check into the queue. It may be called with any lock held.
func (s *suspicions) add(one suspicion) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.list {
		if have.p == one.p && have.offset == one.offset {
			return
		}
	}
	if len(s.list) < suspicionsMax {
		s.list = append(s.list, one)
		signal(s.wake)
	}
}

func (s *suspicions) take() (one suspicion, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return one, false
	}
	one = s.list[0]
	s.list = s.list[1:]
	return one, true
}

// suspect lets the log be checked where an error says that its bytes are bad, unless that is known.
func (m *Manager) suspect(p *partition, offset int64, err error, by FoundBy) {
	if !errors.Is(err, storage.ErrCorruptLog) {
		return
	}
	var bad *storage.CorruptError
	if errors.As(err, &bad) {
		offset = bad.Offset
	}
	for _, d := range p.log.Damages() {
		if d.From <= offset && offset < d.To {
			return
		}
	}
	m.suspicions.add(suspicion{p: p, offset: offset, by: by, why: err.Error()})
}

// checkLoop looks at what is suspected, one place after the other. It sleeps while there is nothing to do.
func (m *Manager) checkLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.suspicions.wake:
		}
		for ctx.Err() == nil {
			one, ok := m.suspicions.take()
			if !ok {
				break
			}
			m.check(one)
		}
	}
}

// check looks at the batches at one place, and at the one before: it may be that one's head that hides what lies there.
func (m *Manager) check(s suspicion) {
	from := max(s.offset-1, s.p.log.LogStartOffset())
	res, err := s.p.log.CheckRange(from, s.p.log.LogEndOffset(), checkStepBytes, true)
	for at := s.p.log.SegmentStart(from); err == nil && res.Damage == nil && at < from; at = res.Digest.NextOffset {
		// What was read there may have been led astray further ahead, by a batch that says it holds offsets of another.
		if res, err = s.p.log.CheckRange(at, from, checkStepBytes, true); res.Digest.NextOffset <= at {
			break
		}
	}
	switch {
	case err != nil:
		m.opts.Logger.Warn("checking a log failed", "partition", s.p.tp.String(), "offset", from, "error", err)
	case res.Damage != nil:
		m.damaged(s.p, *res.Damage, s.by)
	default:
		m.opts.Logger.Warn("a reader found a log damaged, and all of the segment up to there is sound when looked at again: where that "+
			"happens more than once see the machine's memory and network",
			"partition", s.p.tp.String(), "offset", s.offset, "found_by", string(s.by), "found", s.why)
	}
}

// beginDiscard puts the damage aside in the background: what is intact of a segment is copied, which may take long.
func (m *Manager) beginDiscard(p *partition, seq uint64) {
	started := m.group != nil && m.group.Go("damage-discarder", func(context.Context) error {
		pending, err := p.log.PrepareDiscard()
		defer pending.Abort()
		m.run(p, func(fx *effects) core.Output {
			if p.replica.Discarding(seq) {
				m.endDiscard(p, seq, pending, err, fx)
			}
			return core.Output{}
		})
		return nil
	})
	if !started {
		m.run(p, func(*effects) core.Output {
			p.replica.DiscardFailed(seq, m.now())
			return core.Output{}
		})
	}
}

// endDiscard ends the log before its damage. The caller holds p.mu.
func (m *Manager) endDiscard(p *partition, seq uint64, pending *storage.PendingDiscard, err error, fx *effects) {
	before, damage := p.log.LogEndOffset(), p.log.Damage()
	if pending != nil {
		_, err = pending.Commit()
	}
	switch {
	case err != nil && p.log.Failed() != nil:
		m.logFailed(p, "put damaged files aside", err, fx)
		return
	case err != nil:
		m.opts.Logger.Warn("damaged files could not be put aside, it is tried again", "partition", p.tp.String(), "error", err)
		p.replica.DiscardFailed(seq, m.now())
		return
	case pending != nil:
		m.metrics.discards.Inc()
		m.opts.Logger.Warn("damaged files were put aside, the replica fetches anew", "partition", p.tp.String(), "file", damage.File,
			"leader", p.replica.Leader(), "from_offset", p.log.LogEndOffset(), "to_offset", before)
	}
	p.replica.Truncated(p.logState())
	p.hw.Store(p.replica.Log().HighWatermark)
	fx.fetch = p.fetcher
}

// giveUp is a wish on its way to the controller.
type giveUp struct {
	p  *partition // nil where its log cannot be opened
	tp model.TopicPartition
	core.GiveUp
	reason   string
	logWhole bool // its disk takes no more, that is all
}

// giveUps gathers wishes while a request is under way.
type giveUps struct {
	wake chan struct{} // one token
	mu   sync.Mutex
	list []giveUp
}

func (q *giveUps) add(one giveUp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, one)
	signal(q.wake)
}

func (q *giveUps) take() []giveUp {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	return list
}

// giveUpLoop sends wishes, all that wait in one request.
func (m *Manager) giveUpLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.giveUps.wake:
		}
		if list := m.giveUps.take(); len(list) > 0 {
			m.sendGiveUps(ctx, list)
		}
	}
}

func (m *Manager) sendGiveUps(ctx context.Context, list []giveUp) {
	m.mu.RLock()
	epoch := m.brokerEpoch
	m.mu.RUnlock()
	req := &internalv1.GiveUpSeatsRequest{BrokerId: int32(m.opts.NodeID), BrokerEpoch: int64(epoch)}
	for _, q := range list {
		req.Seats = append(req.Seats, &internalv1.GivenUpSeat{
			TopicId: q.tp.TopicID.Bytes(), Partition: q.tp.Partition, LeaderEpoch: int32(q.LeaderEpoch), Reason: q.reason, LogWhole: q.logWhole,
		})
	}
	ctx, cancel := context.WithTimeout(ctx, giveUpTimeout)
	defer cancel()
	resp, err := m.opts.Controller.GiveUpSeats(ctx, req)
	if err != nil {
		m.opts.Logger.Warn("giving up seats of replicas that cannot go on failed, it is tried again", "partitions", len(list), "error", err)
	}
	for i, q := range list {
		accepted := false
		if err == nil && i < len(resp.GetResults()) {
			result := resp.GetResults()[i]
			accepted = result.GetErrorCode() == int32(model.CodeNone)
			m.opts.Logger.Info("a replica gives up its seat", "partition", q.tp.String(), "leader_epoch", q.LeaderEpoch, "reason", q.reason,
				"accepted", accepted, "code", model.ErrorCode(result.GetErrorCode()).String(), "detail", result.GetMessage())
		}
		if accepted {
			m.metrics.seatsGivenUp.Inc()
		}
		if q.p == nil {
			continue
		}
		m.run(q.p, func(*effects) core.Output {
			if q.logWhole {
				q.p.replica.HandOverDone(q.Seq, accepted, m.now())
			} else {
				q.p.replica.GiveUpDone(q.Seq, accepted, m.now())
			}
			return core.Output{}
		})
	}
}

// beginVerify asks the leader in the background whether it holds what is about to be discarded.
func (m *Manager) beginVerify(p *partition, v core.Verify) {
	done := func(outcome core.VerifyOutcome) {
		m.run(p, func(*effects) core.Output { return p.replica.VerifyDone(v.Seq, outcome, m.now()) })
	}
	started := m.group != nil && m.group.Go("damage-verifier", func(ctx context.Context) error {
		done(m.verify(ctx, p, v))
		return nil
	})
	if !started {
		done(core.VerifyUnknown)
	}
}

// verify has the leader look at the range piece by piece.
func (m *Manager) verify(ctx context.Context, p *partition, v core.Verify) core.VerifyOutcome {
	for at := v.From; at < v.To; {
		res, err := m.askLeader(ctx, p, v.Leader, v.LeaderEpoch, at, v.To, internalv1.CheckDepth_CHECK_DEPTH_BATCHES)
		switch {
		case model.CodeOf(err) == model.CodeCorruptRecord:
			m.opts.Logger.Error("the leader of a damaged replica is damaged too: nothing is thrown away",
				"partition", p.tp.String(), "leader", v.Leader, "from_offset", at, "to_offset", v.To, "error", err)
			return core.VerifyLeaderDamaged
		case err != nil:
			m.opts.Logger.Warn("the leader of a damaged replica could not show that it is whole, it is asked again",
				"partition", p.tp.String(), "leader", v.Leader, "error", err)
			return core.VerifyUnknown
		case res.LogEndOffset != nil && at >= res.GetLogEndOffset():
			return core.VerifyWhole // nothing from here on is committed
		case res.GetNextOffset() <= at:
			return core.VerifyUnknown
		}
		at = res.GetNextOffset()
	}
	return core.VerifyWhole
}

// askLeader sends one CheckRange request.
func (m *Manager) askLeader(
	ctx context.Context, p *partition, leader model.NodeID, epoch model.LeaderEpoch, from, to int64, depth internalv1.CheckDepth,
) (*internalv1.CheckRangeResponse, error) {
	m.mu.RLock()
	image, brokerEpoch := m.image, m.brokerEpoch
	m.mu.RUnlock()
	broker, ok := image.Broker(leader)
	if !ok {
		return nil, model.Errorf(model.CodeBrokerIDNotRegistered, "no broker %d is registered", leader)
	}
	timeout := checkTimeout
	if depth == internalv1.CheckDepth_CHECK_DEPTH_SEGMENTS {
		timeout = segmentsTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return m.opts.Endpoint.CheckRange(ctx, broker, &internalv1.CheckRangeRequest{
		Hello: &internalv1.ReplicaHello{
			ClusterId: image.ClusterID().Bytes(), BrokerId: int32(m.opts.NodeID), BrokerEpoch: int64(brokerEpoch), LeaderId: int32(leader),
		},
		TopicId: p.tp.TopicID.Bytes(), Partition: p.tp.Partition, LeaderEpoch: int32(epoch), FromOffset: from, ToOffset: to, Depth: depth,
	})
}

const (
	checkTimeout    = 10 * time.Second
	segmentsTimeout = 2 * time.Minute
)

// paced sleeps so that work of so many bytes since began keeps the rate of checks.
func (m *Manager) paced(ctx context.Context, began time.Duration, bytes int64) error {
	due := time.Duration(float64(bytes) / float64(m.opts.CheckBytesPerSecond) * float64(time.Second))
	return lifecycle.Sleep(ctx, m.opts.Clock, max(due-(m.now()-began), 0))
}
