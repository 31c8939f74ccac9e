package core

import (
	"slices"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/model"
)

// modelRecord is a record as (epoch, value); the value is unique.
type modelRecord struct {
	epoch model.LeaderEpoch
	value int
}

// modelLog is a log in memory: one record a batch.
type modelLog struct {
	records []modelRecord
	durable int64
	starts  []epochStart
	saved   int64 // checkpointed HighWatermark
}

type epochStart struct {
	epoch model.LeaderEpoch
	start int64
}

func (l *modelLog) end() int64 { return int64(len(l.records)) }

func (l *modelLog) state() LogState {
	return LogState{End: l.end(), Durable: l.durable, HighWatermark: l.saved}
}

func (l *modelLog) LatestEpoch() model.LeaderEpoch {
	if len(l.starts) == 0 {
		return model.NoLeaderEpoch
	}
	return l.starts[len(l.starts)-1].epoch
}

func (l *modelLog) EpochEndOffset(epoch model.LeaderEpoch) (model.LeaderEpoch, int64) {
	end := l.end()
	for _, s := range slices.Backward(l.starts) {
		if s.epoch <= epoch {
			return s.epoch, end
		}
		end = s.start
	}
	return model.NoLeaderEpoch, end
}

func (l *modelLog) assign(epoch model.LeaderEpoch) {
	if epoch > l.LatestEpoch() {
		l.starts = append(l.starts, epochStart{epoch, l.end()})
	}
}

// append refuses epochs that fall, as the storage engine does.
func (l *modelLog) append(r modelRecord) bool {
	if r.epoch < l.LatestEpoch() {
		return false
	}
	l.assign(r.epoch)
	l.records = append(l.records, r)
	return true
}

func (l *modelLog) truncate(to int64) {
	to = min(to, l.end())
	l.records = l.records[:to]
	l.durable = min(l.durable, to)
	for len(l.starts) > 0 && l.starts[len(l.starts)-1].start >= to {
		l.starts = l.starts[:len(l.starts)-1]
	}
}

// crash loses what was not synced; epoch starts are rebuilt from the records.
func (l *modelLog) crash() {
	l.records = l.records[:l.durable]
	l.starts = nil
	for i, r := range l.records {
		if r.epoch > l.LatestEpoch() {
			l.starts = append(l.starts, epochStart{r.epoch, int64(i)})
		}
	}
}

func (l *modelLog) fill(epochs ...model.LeaderEpoch) *modelLog {
	for i, e := range epochs {
		l.append(modelRecord{epoch: e, value: i})
	}
	l.durable = l.end()
	return l
}

// partitionOf is an image of a partition with brokers 1 to 3, each in broker epoch 10 + id.
func partitionOf(leader model.NodeID, epoch model.LeaderEpoch, partitionEpoch model.PartitionEpoch, isr ...model.NodeID) PartitionState {
	st := PartitionState{Leader: leader, LeaderEpoch: epoch, PartitionEpoch: partitionEpoch, ISR: isr, MinISR: 2}
	for id := model.NodeID(1); id <= 3; id++ {
		st.Replicas = append(st.Replicas, Member{ID: id, BrokerEpoch: model.BrokerEpoch(10 + id)})
	}
	return st
}

// leaderOf returns broker 1 as leader of epoch over log.
func leaderOf(t *testing.T, log *modelLog, st PartitionState) *Replica {
	t.Helper()
	r := NewReplica(1, 11, Config{}, log.state(), log)
	out := r.Apply(st, 0)
	if r.Role() != RoleLeader || !out.AssignEpoch || out.EpochStart != log.end() {
		t.Fatalf("not leading: %v, %+v", r, out)
	}
	log.assign(st.LeaderEpoch)
	return r
}

// followerOf returns broker 2 as follower over log.
func followerOf(t *testing.T, log *modelLog, st PartitionState) *Replica {
	t.Helper()
	r := NewReplica(2, 12, Config{}, log.state(), log)
	out := r.Apply(st, 0)
	if r.Role() != RoleFollower {
		t.Fatalf("not following: %v", r)
	}
	if out.Truncate {
		log.truncate(out.TruncateTo)
		r.Truncated(log.state())
	}
	return r
}

// subscribed lets a follower of the leader's present epoch subscribe at offset with the epoch of the batch before it.
func subscribed(t *testing.T, r *Replica, id model.NodeID, offset int64, last model.LeaderEpoch, now time.Duration) Output {
	t.Helper()
	answer, out := r.FollowerSubscribed(Subscribe{
		SubscriptionID: uint64(id), Follower: id, FollowerEpoch: model.BrokerEpoch(10 + id), LeaderEpoch: r.LeaderEpoch(),
		FetchOffset: offset, LastFetchedEpoch: last, DurableEnd: offset, Credit: 1 << 20,
	}, now)
	if answer != (SubscribeAnswer{}) {
		t.Fatalf("follower %d was refused: %+v", id, answer)
	}
	return out
}

// acked reports that a follower has everything below end, on its disk below durable.
func acked(r *Replica, id model.NodeID, end, durable int64, now time.Duration) Output {
	r.Sent(id, uint64(id), end, 0)
	return r.FollowerAcked(id, Ack{SubscriptionID: uint64(id), LeaderEpoch: r.LeaderEpoch(), LogEnd: end, DurableEnd: durable}, now)
}

// appended appends n records as leader and syncs them.
func appended(t *testing.T, r *Replica, log *modelLog, n int, now time.Duration) Output {
	t.Helper()
	for range n {
		if !log.append(modelRecord{epoch: r.LeaderEpoch(), value: int(log.end())}) {
			t.Fatal("append refused")
		}
	}
	r.LocalAppend(log.end(), now)
	log.durable = log.end()
	return r.LocalDurable(log.end(), now)
}

func wantHW(t *testing.T, r *Replica, want int64) {
	t.Helper()
	if got := r.Log().HighWatermark; got != want {
		t.Fatalf("high watermark %d, want %d (%v)", got, want, r)
	}
}

func isrOf(p Proposal) []model.NodeID {
	var ids []model.NodeID
	for _, m := range p.ISR {
		ids = append(ids, m.ID)
	}
	return ids
}
