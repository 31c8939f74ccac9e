package replication

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
)

// CheckRange looks at a range of a log that this broker leads, for a follower. It is called by the service on the peer listener.
// Errors are *model.Error: those of a replica stream's hello and of a subscription, OFFSET_OUT_OF_RANGE, TOO_MANY_REQUESTS,
// and CORRUPT_RECORD where the leader's own log is damaged there, which it has taken note of then.
func (m *Manager) CheckRange(ctx context.Context, req *internalv1.CheckRangeRequest) (*internalv1.CheckRangeResponse, error) {
	if _, err := m.greet(nil, req.GetHello()); err != nil {
		return nil, err
	}
	topicID, err := model.UUIDFromBytes(req.GetTopicId())
	if err != nil {
		return nil, model.Errorf(model.CodeInvalidRequest, "topic id: %w", err)
	}
	p, err := m.lookup(model.TopicPartition{TopicID: topicID, Partition: req.GetPartition()})
	if err != nil {
		return nil, err
	}
	view, err := m.leaderView(p)
	if err != nil {
		return nil, err
	}
	if err := checkLeaderEpoch(p.name, model.LeaderEpoch(req.GetLeaderEpoch()), view.leaderEpoch); err != nil {
		return nil, err
	}
	select {
	case m.checks <- struct{}{}:
		defer func() { <-m.checks }()
	default:
		return nil, model.Errorf(model.CodeTooManyRequests, "broker %d is at other checks; retry", m.opts.NodeID)
	}
	logEnd := p.log.LogEndOffset()
	resp := &internalv1.CheckRangeResponse{
		FromOffset: max(req.GetFromOffset(), p.log.LogStartOffset()), Compacted: p.log.EverCleaned(), LogEndOffset: &logEnd,
	}
	to := min(req.GetToOffset(), logEnd)
	if req.GetDepth() == internalv1.CheckDepth_CHECK_DEPTH_HEADERS {
		to = min(to, p.hw.Load(), p.log.SealedEnd())
	}
	resp.NextOffset = resp.GetFromOffset()
	if to <= resp.GetFromOffset() {
		return resp, nil // nothing to look at, or all of it lies below the log's start
	}
	switch req.GetDepth() {
	case internalv1.CheckDepth_CHECK_DEPTH_HEADERS, internalv1.CheckDepth_CHECK_DEPTH_BATCHES:
		return resp, m.checkPiece(p, resp, to, req.GetDepth() == internalv1.CheckDepth_CHECK_DEPTH_BATCHES)
	case internalv1.CheckDepth_CHECK_DEPTH_SEGMENTS:
		resp.NextOffset = to
		return resp, m.checkSegments(ctx, p, resp.GetFromOffset(), to)
	case internalv1.CheckDepth_CHECK_DEPTH_UNSPECIFIED:
		return nil, model.Errorf(model.CodeInvalidRequest, "the depth of the check is missing")
	default:
		return nil, model.Errorf(model.CodeInvalidRequest, "the depth of the check is not known: %d", req.GetDepth())
	}
}

// checkPiece checks the next batches of a range.
func (m *Manager) checkPiece(p *partition, resp *internalv1.CheckRangeResponse, to int64, deep bool) error {
	res, err := p.log.CheckRange(resp.GetFromOffset(), to, checkStepBytes, deep)
	if err != nil {
		return asModelError(err)
	}
	if res.Damage != nil {
		m.damaged(p, *res.Damage, FoundByComparison)
		return m.corrupt(p, *res.Damage)
	}
	resp.NextOffset, resp.Digest, resp.Batches = res.Digest.NextOffset, res.Digest.Sum, res.Digest.Batches
	return nil
}

func (m *Manager) corrupt(p *partition, d storage.Damage) error {
	return model.Errorf(model.CodeCorruptRecord, "the log of %s on broker %d is damaged from offset %d to %d: %s", p.tp, m.opts.NodeID, d.From, d.To, d.Reason)
}

// checkSegments checks every byte and the digests of the segments that hold the offsets [from, to), at the rate of checks.
// Damage is taken note of, and answered by CORRUPT_RECORD.
func (m *Manager) checkSegments(ctx context.Context, p *partition, from, to int64) error {
	if at := slices.IndexFunc(p.log.Damages(), func(d storage.Damage) bool { return d.To > from && d.From < to }); at >= 0 {
		return m.corrupt(p, p.log.Damages()[at])
	}
	began, work := m.now(), int64(0)
	for c := storage.ScrubFrom(from); ; {
		res, err := p.log.Scrub(&c, checkStepBytes)
		if err != nil {
			return asModelError(err)
		}
		if d := res.Damage; d != nil && d.To > from && d.From < to {
			m.damaged(p, *d, FoundByComparison)
			return m.corrupt(p, *d)
		}
		if res.Done || c.Offset() >= to {
			return nil
		}
		work += max(res.Bytes, 1)
		if err := m.paced(ctx, began, work); err != nil {
			return model.Errorf(model.CodeRequestTimedOut, "the check was given up: %w", err)
		}
	}
}

// Scrubbed says that a log was scrubbed to its end: a follower then compares its digests with the leader's.
func (m *Manager) Scrubbed(log *storage.Log) {
	m.mu.RLock()
	p := m.partitions[log.TopicPartition()]
	m.mu.RUnlock()
	if p == nil || p.log != log {
		return
	}
	m.comparisons.add(p)
}

// comparisons are the logs whose digests are to be compared. They have a goroutine of their own: a comparison is paced, and
// damage that somebody has run into must not wait for it.
type comparisons struct {
	wake chan struct{} // one token
	mu   sync.Mutex
	list []*partition
}

func (c *comparisons) add(p *partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.list, p) {
		c.list = append(c.list, p)
		signal(c.wake)
	}
}

func (c *comparisons) take() *partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) == 0 {
		return nil
	}
	p := c.list[0]
	c.list = c.list[1:]
	return p
}

// compareLoop compares one log after the other. It sleeps while there is nothing to do.
func (m *Manager) compareLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.comparisons.wake:
		}
		for p := m.comparisons.take(); p != nil && ctx.Err() == nil; p = m.comparisons.take() {
			m.compare(ctx, p)
		}
	}
}

// compare holds a follower's sealed, committed batches against the leader's, digest by digest. Compacted logs may differ
// rightly and are left alone, and so is damage, which is known.
func (m *Manager) compare(ctx context.Context, p *partition) {
	p.mu.Lock()
	follows := !p.closed && p.replica.Role() == core.RoleFollower && !p.replica.Damaged() && !p.settings.CleanupPolicy.Compacts()
	leader, epoch, hw := p.replica.Leader(), p.replica.LeaderEpoch(), p.replica.Log().HighWatermark
	p.mu.Unlock()
	if !follows || p.log.EverCleaned() {
		return
	}
	to := min(hw, p.log.SealedEnd())
	began, work := m.now(), int64(0)
	differs := int64(-1)
	for at := p.log.LogStartOffset(); at < to; {
		theirs, err := m.askLeader(ctx, p, leader, epoch, at, to, internalv1.CheckDepth_CHECK_DEPTH_HEADERS)
		if err != nil || theirs.GetCompacted() || theirs.GetNextOffset() <= at {
			m.opts.Logger.Debug("digests are not compared", "partition", p.tp.String(), "offset", at, "error", err)
			return // another round
		}
		from, next := max(theirs.GetFromOffset(), p.log.LogStartOffset()), min(theirs.GetNextOffset(), to)
		if from == theirs.GetFromOffset() && from < next {
			own, err := p.log.RangeDigest(from, next)
			if err != nil {
				m.suspect(p, from, err, FoundByComparison)
				return
			}
			m.metrics.comparisons.Inc()
			work += own.SizeBytes
			if own.Sum != theirs.GetDigest() || own.Batches != theirs.GetBatches() {
				differs = from
				if m.different(ctx, p, leader, epoch, from, next) {
					return
				}
			}
		}
		at = next
		if m.paced(ctx, began, work) != nil {
			return
		}
	}
	if differs < 0 {
		m.setDiffering(p, false, 0, 0)
	}
}

// different draws the consequences of digests that differ: both sides look closely at what they have. Whoever's own checks fail
// is the damaged one. Where both pass, nobody knows who is right: that is an alarm, and nothing is deleted. resolved says
// that one side was found damaged, or that it cannot be told now.
func (m *Manager) different(ctx context.Context, p *partition, leader model.NodeID, epoch model.LeaderEpoch, from, to int64) (resolved bool) {
	m.metrics.mismatches.Inc()
	if err := m.checkSegments(ctx, p, from, to); err != nil {
		m.opts.Logger.Warn("the digest of a range differs from the leader's, and the own log fails its check",
			"partition", p.tp.String(), "leader", leader, "from_offset", from, "to_offset", to, "error", err)
		return true
	}
	_, err := m.askLeader(ctx, p, leader, epoch, from, to, internalv1.CheckDepth_CHECK_DEPTH_SEGMENTS)
	if err != nil {
		m.opts.Logger.Warn("the digest of a range differs from the leader's, and the leader does not pass its check",
			"partition", p.tp.String(), "leader", leader, "from_offset", from, "to_offset", to, "error", err)
		return true
	}
	p.mu.Lock()
	same := p.replica.LeaderEpoch() == epoch && p.replica.Role() == core.RoleFollower
	p.mu.Unlock()
	if !same || p.log.EverCleaned() {
		return true
	}
	m.opts.Logger.Error("two replicas differ in committed records though each agrees with its own checksums: compare them and decide which to keep; nothing is deleted",
		"partition", p.tp.String(), "leader", leader, "from_offset", from, "to_offset", to)
	m.setDiffering(p, true, from, to)
	return false
}

// countTroubles counts the replicas that something is wrong with.
func (m *Manager) countTroubles(kind internalv1.TroubleKind) (n int) {
	for _, t := range m.Troubles() {
		if t.GetKind() == kind {
			n++
		}
	}
	return n
}

// setDiffering notes whether the replica is known to differ from its leader's.
func (m *Manager) setDiffering(p *partition, differs bool, from, to int64) {
	switch old := p.differs.Load(); {
	case !differs:
		p.differs.Store(nil)
	case old == nil:
		p.differs.Store(&offsets{from, to})
	default:
		p.differs.Store(&offsets{old.from, max(old.to, to)})
	}
}

// offsets is a range; to is exclusive.
type offsets struct{ from, to int64 }

// stalledAfter is how long a sync may take before the disk is said to hang.
const stalledAfter = 2 * time.Second

// Disk tells what is wrong with the data directory; nil for nothing. It takes no lock that a hanging disk may hold.
func (m *Manager) Disk() *internalv1.DiskState {
	state := &internalv1.DiskState{Full: m.opts.Dir.Full() || m.hasClosed()}
	if m.opts.Stalled != nil {
		switch stall := m.opts.Stalled(); {
		case stall >= stalledAfter:
			state.StalledMs = uint32(min(stall.Milliseconds(), math.MaxUint32)) //nolint:gosec // bounded
			if !m.stalled.Swap(true) {
				m.opts.Logger.Error("the disk does not answer: what is appended is not acknowledged until it does; see the machine's log, and "+
					"stop the broker where it stays so", "sync_running", stall.Round(time.Millisecond))
			}
		case m.stalled.Swap(false):
			m.opts.Logger.Warn("the disk answers again")
		}
	}
	if !state.GetFull() && state.GetStalledMs() == 0 {
		return nil
	}
	return state
}

// troublesMax bounds what a broker tells of its replicas.
const troublesMax = 1000

// Troubles tells which replicas of this broker are damaged, or differ from their leader's, ordered by topic id and partition.
func (m *Manager) Troubles() []*internalv1.ReplicaTrouble {
	var troubles []*internalv1.ReplicaTrouble
	for _, p := range m.allPartitions() { // no lock of a partition is taken, which a slow disk may hold
		differs := p.differs.Load()
		if p.log.Damage() == nil && differs == nil {
			continue
		}
		damages := p.log.Damages()
		t := &internalv1.ReplicaTrouble{TopicId: p.tp.TopicID.Bytes(), Partition: p.tp.Partition}
		if len(damages) > 0 {
			t.Kind, t.FromOffset, t.ToOffset = internalv1.TroubleKind_TROUBLE_KIND_DAMAGED, damages[0].From, damages[len(damages)-1].To
		} else if differs != nil {
			t.Kind, t.FromOffset, t.ToOffset = internalv1.TroubleKind_TROUBLE_KIND_DIFFERS, differs.from, differs.to
		}
		troubles = append(troubles, t)
	}
	slices.SortFunc(troubles, func(a, b *internalv1.ReplicaTrouble) int {
		return cmp.Or(slices.Compare(a.GetTopicId(), b.GetTopicId()), cmp.Compare(a.GetPartition(), b.GetPartition()))
	})
	return troubles[:min(len(troubles), troublesMax)]
}
