package replication

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage"
)

func TestAcksInBothFlushModes(t *testing.T) {
	for _, mode := range []string{"fsync", "os"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			tp := c.topic(1, map[string]string{"flush.mode": mode}, 1, 2, 3)
			var want []string
			for i, acks := range []Acks{AcksAll, AcksLeader, AcksNone, AcksAll} {
				values := []string{fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)}
				receipt := mustAck(t, c.send(1, tp, acks, values...))
				if receipt.BaseOffset != int64(len(want)) || receipt.Count != 2 || receipt.LeaderEpoch != 0 || receipt.ISR != 3 || receipt.Duplicate {
					t.Errorf("acks %d: receipt %+v", acks, receipt)
				}
				if acks == AcksAll && (receipt.Acked != 3 || (mode == "fsync" && receipt.FSynced != 3)) {
					t.Errorf("acks all: receipt %+v", receipt)
				}
				if acks == AcksLeader && receipt.Acked < 1 {
					t.Errorf("acks leader: receipt %+v", receipt)
				}
				want = append(want, values...)
			}
			c.agree(tp, want, 1, 2, 3)
			if got := c.nodes[1].mgr.pending.Load(); got != 0 {
				t.Errorf("%d bytes still count as pending", got)
			}
		})
	}
}

func TestWrongBrokerIsTold(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2)
	err := mustFail(t, c.send(2, tp, AcksAll, "x"), model.CodeNotLeaderForPartition)
	if !strings.Contains(err.Error(), "broker 1 does") || IsIndefinite(err) {
		t.Errorf("error %v", err)
	}
	mustFail(t, c.send(3, tp, AcksAll, "x"), model.CodeNotLeaderForPartition)
	mustFail(t, c.send(1, model.TopicPartition{TopicID: tp.TopicID, Partition: 9}, AcksAll, "x"), model.CodeUnknownTopicOrPartition)
	mustFail(t, c.send(1, model.TopicPartition{TopicID: testUUID(77)}, AcksAll, "x"), model.CodeUnknownTopicID)
	mustFail(t, c.send(1, tp, 7, "x"), model.CodeInvalidRequiredAcks)
	if leader, epoch, ok := c.nodes[3].mgr.LeaderOf(tp); leader != 1 || epoch != 0 || !ok {
		t.Errorf("leader %d, epoch %d, %v", leader, epoch, ok)
	}
}

func TestISRShrinksAndTheFollowerRejoins(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.link(1, 3, false)
	// The append waits for broker 3 until it is out of the ISR.
	receipt := mustAck(t, c.send(1, tp, AcksAll, "1"))
	if receipt.ISR != 2 || receipt.Acked != 2 {
		t.Errorf("receipt %+v", receipt)
	}
	if isr := c.partition(tp).ISR; len(isr) != 2 {
		t.Errorf("ISR %v", isr)
	}
	c.link(1, 3, true)
	eventually(t, "broker 3 rejoins", func() bool { return len(c.partition(tp).ISR) == 3 })
	mustAck(t, c.send(1, tp, AcksAll, "2"))
	c.agree(tp, []string{"0", "1", "2"}, 1, 2, 3)
	// It caught up on a stream of its own, and is back on the one of in-sync traffic.
	eventually(t, "the catch-up stream is gone", func() bool {
		m := c.nodes[3].mgr
		m.fetchMu.Lock()
		defer m.fetchMu.Unlock()
		return len(m.fetchers) == 1 && m.fetchers[fetcherKey{leader: 1}] != nil
	})
}

func TestDivergedCommittedDataStopsTheReplica(t *testing.T) {
	c := newCluster(t, 2, nil)
	tp := c.topic(1, nil, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.link(1, 2, false)
	mustAck(t, c.send(1, tp, AcksAll, "1")) // by broker 1 alone, once broker 2 is out
	c.lead(tp, 2, 2)                        // what the controller never does: the new leader lacks it
	mustAck(t, c.send(2, tp, AcksAll, "other"))
	c.link(1, 2, true)
	eventually(t, "broker 1 stops", func() bool {
		state, err := c.nodes[1].mgr.PartitionState(tp)
		return err == nil && state.Role == "stopped" && strings.Contains(state.Stopped, "COMMITTED_DATA_DIVERGED")
	})
	mustFail(t, c.send(1, tp, AcksAll, "x"), model.CodeCommittedDataDiverged)
	if _, err := c.nodes[1].mgr.OpenReader(tp, 0, model.NoLeaderEpoch); !model.IsCode(err, model.CodeCommittedDataDiverged) {
		t.Errorf("error %v", err)
	}
	if got := c.nodes[1].values(tp); len(got) != 2 || got[1] != "1" {
		t.Errorf("broker 1 has %q", got)
	}
	c.agree(tp, []string{"0", "other"}, 2)
}

func TestMinISRIsAskedForBeforeAndAfterTheAppend(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.link(1, 2, false)
	c.link(1, 3, false)
	if err := mustFail(t, c.send(1, tp, AcksAll, "1"), model.CodeNotEnoughReplicasAfterAppend); !IsIndefinite(err) {
		t.Errorf("definite: %v", err)
	}
	before := c.nodes[1].mgr.partitions[tp].log.LogEndOffset()
	if err := mustFail(t, c.send(1, tp, AcksAll, "2"), model.CodeNotEnoughReplicas); IsIndefinite(err) {
		t.Errorf("indefinite: %v", err)
	}
	if after := c.nodes[1].mgr.partitions[tp].log.LogEndOffset(); after != before {
		t.Errorf("a refused batch was written: %d, then %d", before, after)
	}
	c.link(1, 2, true)
	c.link(1, 3, true)
	eventually(t, "both rejoin", func() bool { return len(c.partition(tp).ISR) == 3 })
	c.agree(tp, []string{"0", "1"}, 1, 2, 3)
}

func TestLeaderChangeWithDivergence(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "0", "1"))
	// Broker 1 writes alone; its followers never hear of it.
	c.link(1, 2, false)
	c.link(1, 3, false)
	c.mu.Lock()
	c.refuse = model.CodeNoQuorum
	c.mu.Unlock()
	lost := c.send(1, tp, AcksAll, "lost")
	alone := mustAck(t, c.send(1, tp, AcksLeader, "alone"))
	if alone.BaseOffset != 3 || alone.Acked != 1 {
		t.Errorf("receipt %+v", alone)
	}
	c.mu.Lock()
	c.refuse = model.CodeNone
	c.mu.Unlock()
	c.lead(tp, 2, 2, 3)
	if err := mustFail(t, lost, model.CodeNotLeaderForPartition); !IsIndefinite(err) {
		t.Errorf("definite: %v", err)
	}
	mustAck(t, c.send(2, tp, AcksAll, "2"))
	c.link(1, 2, true)
	c.link(1, 3, true)
	eventually(t, "broker 1 rejoins", func() bool { return len(c.partition(tp).ISR) == 3 })
	mustAck(t, c.send(2, tp, AcksAll, "3"))
	c.agree(tp, []string{"0", "1", "2", "3"}, 1, 2, 3)
}

func TestFollowerRestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			c := newCluster(t, 3, nil)
			tp := c.topic(1, nil, 1, 2, 3)
			var want []string
			for i := range 20 {
				want = append(want, strconv.Itoa(i))
				mustAck(t, c.send(1, tp, AcksAll, want[i]))
			}
			c.nodes[3].stop(clean)
			for i := 20; i < 40; i++ {
				want = append(want, strconv.Itoa(i))
				mustAck(t, c.send(1, tp, AcksAll, want[i]))
			}
			c.nodes[3].start()
			if clean && !c.nodes[3].dir.Report().CleanShutdown {
				t.Error("not marked clean")
			}
			if lost := c.nodes[3].lost; len(lost) != 1 || lost[0].GetSeatLostReason() != "" || lost[0].GetLogEndOffset() < 20 || lost[0].GetLastLeaderEpoch() != 0 {
				t.Errorf("replicas %v", lost)
			}
			eventually(t, "broker 3 rejoins", func() bool { return len(c.partition(tp).ISR) == 3 })
			c.agree(tp, want, 1, 2, 3)
		})
	}
}

func TestLeaderRestartsWithANewEpoch(t *testing.T) {
	c := newCluster(t, 1, nil)
	tp := c.topic(1, nil, 1)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.nodes[1].stop(false)
	c.nodes[1].start()
	receipt := mustAck(t, c.send(1, tp, AcksAll, "1"))
	if receipt.LeaderEpoch != 1 || receipt.BaseOffset != 1 || receipt.ISR != 1 || receipt.FSynced != 1 {
		t.Errorf("receipt %+v", receipt)
	}
	c.agree(tp, []string{"0", "1"}, 1)
}

func TestDuplicateAfterLeaderChange(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp := c.topic(1, nil, 1, 2, 3)
	batch, header := batchOf(t, 7, 0, "a", "b")
	first := mustAck(t, c.produce(1, tp, AcksAll, 0, batch, header))
	again := mustAck(t, c.produce(1, tp, AcksAll, 0, batch, header))
	if !again.Duplicate || again.BaseOffset != first.BaseOffset || again.LeaderEpoch != first.LeaderEpoch || again.AppendTimeMs != first.AppendTimeMs {
		t.Errorf("original %+v, duplicate %+v", first, again)
	}
	c.lead(tp, 2, 1, 2, 3)
	again = mustAck(t, c.produce(2, tp, AcksAll, 0, batch, header))
	if !again.Duplicate || again.BaseOffset != 0 || again.Count != 2 || again.LeaderEpoch != 0 {
		t.Errorf("at the new leader %+v", again)
	}
	// A gap in the sequence is refused and leaves no trace.
	batch, header = batchOf(t, 7, 5, "x")
	if err := mustFail(t, c.produce(2, tp, AcksAll, 0, batch, header), model.CodeOutOfOrderSequence); IsIndefinite(err) {
		t.Errorf("indefinite: %v", err)
	}
	c.agree(tp, []string{"a", "b"}, 1, 2, 3)
}

func TestDuplicateWaitsForItsOriginal(t *testing.T) {
	c := newCluster(t, 3, func(o *Options) { o.Core.LagTimeMax = time.Hour })
	tp := c.topic(1, nil, 1, 2, 3)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.link(1, 2, false)
	batch, header := batchOf(t, 7, 0, "a")
	first := c.produce(1, tp, AcksAll, 0, batch, header)
	again := c.produce(1, tp, AcksAll, 0, batch, header)
	leader := mustAck(t, c.produce(1, tp, AcksLeader, 0, batch, header))
	if !leader.Duplicate {
		t.Errorf("receipt %+v", leader)
	}
	select {
	case a := <-again:
		t.Fatalf("the duplicate was answered before its original was committed: %+v", a)
	case a := <-first:
		t.Fatalf("the original was answered without broker 2: %+v", a)
	default:
	}
	c.link(1, 2, true)
	if a, b := mustAck(t, first), mustAck(t, again); a.Duplicate || !b.Duplicate || a.BaseOffset != b.BaseOffset {
		t.Errorf("original %+v, duplicate %+v", a, b)
	}
}

func TestDeletion(t *testing.T) {
	c := newCluster(t, 3, nil)
	tp, kept := c.topic(1, nil, 1, 2), c.topic(2, nil, 1, 2)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	mustAck(t, c.send(1, kept, AcksAll, "0"))
	c.link(1, 2, false)
	waits := c.send(1, tp, AcksAll, "1")
	c.change(&rec{Kind: &internalv1.MetadataRecord_DeletedTopic{
		DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: tp.TopicID.Bytes(), Name: "topic-1", Holders: []int32{1, 2}},
	}})
	mustFail(t, waits, model.CodeUnknownTopicID)
	eventually(t, "both report", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.image.DeletedTopics()) == 0
	})
	for _, id := range []model.NodeID{1, 2} {
		logs, err := c.nodes[id].dir.Logs()
		if err != nil || len(logs) != 1 || logs[0] != kept {
			t.Errorf("broker %d holds %v (%v)", id, logs, err)
		}
	}
	mustFail(t, c.send(1, tp, AcksAll, "2"), model.CodeUnknownTopicID)
	c.link(1, 2, true)
	mustAck(t, c.send(1, kept, AcksAll, "1"))
}

func TestUnknownDataIsSetAside(t *testing.T) {
	c := newCluster(t, 1, nil)
	kept := c.topic(1, nil, 1)
	mustAck(t, c.send(1, kept, AcksAll, "0"))
	c.nodes[1].stop(true)
	dir, err := storage.OpenDir(c.nodes[1].fs, "/data", storage.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stray := model.TopicPartition{TopicID: testUUID(50)}
	if _, err := dir.CreateLog(stray, storage.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].start()
	path := "/data/topics/" + stray.TopicID.String() + "/0.stray"
	eventually(t, "it is set aside", func() bool { _, err := c.nodes[1].fs.Stat(path); return err == nil })
	c.agree(kept, []string{"0"}, 1)
}

func TestLostSeatsAreConfessed(t *testing.T) {
	c := newCluster(t, 1, nil)
	tp := c.topic(1, nil, 1)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.nodes[1].stop(true)
	if err := c.nodes[1].fs.RemoveAll("/data/topics/" + tp.TopicID.String()); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].start()
	if lost := c.nodes[1].lost; len(lost) != 1 || lost[0].GetSeatLostReason() == "" || lost[0].LogEndOffset == nil {
		t.Errorf("replicas %v", lost)
	}
}

func TestLogAppendTime(t *testing.T) {
	c := newCluster(t, 1, nil)
	tp := c.topic(1, map[string]string{"message.timestamp.type": "LogAppendTime"}, 1)
	receipt := mustAck(t, c.send(1, tp, AcksAll, "0"))
	found, err := c.nodes[1].mgr.ListOffset(tp, OffsetForTime, receipt.AppendTimeMs)
	if err != nil || found.Offset != 0 || found.TimestampMs != receipt.AppendTimeMs {
		t.Errorf("found %+v, %v", found, err)
	}
	found, err = c.nodes[1].mgr.ListOffset(tp, OffsetForTime, receipt.AppendTimeMs+1)
	if err != nil || found.Offset != 1 || found.TimestampMs != -1 {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestPendingBytesAreBounded(t *testing.T) {
	batch, header := batchOf(t, -1, -1, strings.Repeat("x", 1000))
	c := newCluster(t, 2, func(o *Options) { o.MaxPendingBytes, o.Core.LagTimeMax = int64(len(batch))+10, time.Hour })
	tp := c.topic(1, nil, 1, 2)
	c.link(1, 2, false)
	waits := c.produce(1, tp, AcksAll, 0, batch, header)
	mustFail(t, c.produce(1, tp, AcksAll, 0, batch, header), model.CodeTooManyRequests)
	c.link(1, 2, true)
	mustAck(t, waits)
	mustAck(t, c.produce(1, tp, AcksAll, 0, batch, header))
}

func TestAppendTimesOut(t *testing.T) {
	c := newCluster(t, 2, func(o *Options) { o.Core.LagTimeMax = time.Hour })
	tp := c.topic(1, nil, 1, 2)
	c.link(1, 2, false)
	batch, header := batchOf(t, -1, -1, "0")
	if err := mustFail(t, c.produce(1, tp, AcksAll, 50*time.Millisecond, batch, header), model.CodeRequestTimedOut); !IsIndefinite(err) {
		t.Errorf("definite: %v", err)
	}
	c.link(1, 2, true)
}

func TestDiskFailureStopsAcknowledging(t *testing.T) {
	failed := make(chan error, 1)
	c := newCluster(t, 1, func(o *Options) { o.OnDiskFailure = func(err error) { failed <- err } })
	tp := c.topic(1, nil, 1)
	mustAck(t, c.send(1, tp, AcksAll, "0"))
	c.nodes[1].mgr.OnSynced(c.nodes[1].mgr.partitions[tp].log, 0, fmt.Errorf("log: %w", storage.ErrSyncFailed))
	if err := <-failed; !errors.Is(err, storage.ErrSyncFailed) {
		t.Errorf("error %v", err)
	}
	mustFail(t, c.send(1, tp, AcksAll, "1"), model.CodeStorageError)
	c.nodes[1].stop(false)
}
