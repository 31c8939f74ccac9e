package replication

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage"
)

// GiveUpSeats grants what another member of the ISR makes possible; where the log is whole, one with room on its disk.
func (k controller) GiveUpSeats(_ context.Context, req *internalv1.GiveUpSeatsRequest) (*internalv1.GiveUpSeatsResponse, error) {
	c := k.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &internalv1.GiveUpSeatsResponse{}
	c.surrenders += len(req.GetSeats())
	for _, seat := range req.GetSeats() {
		id, _ := model.UUIDFromBytes(seat.GetTopicId())
		p, _ := c.image.Partition(model.TopicPartition{TopicID: id, Partition: seat.GetPartition()})
		rest := slices.DeleteFunc(slices.Clone(p.ISR), func(n model.NodeID) bool {
			b, _ := c.image.Broker(n)
			return n == k.n.id || b.Fenced || (seat.GetLogWhole() && c.nodes[n].dir.Full())
		})
		code := model.CodeNone
		switch {
		case p.LeaderEpoch != model.LeaderEpoch(seat.GetLeaderEpoch()):
			code = model.CodeFencedLeaderEpoch
		case len(rest) == 0:
			code = model.CodeIneligibleReplica
		default:
			change := &internalv1.PartitionChangeRecord{NewLeaderEpoch: true}
			if p.InISR(k.n.id) {
				change.Isr = &internalv1.NodeIDs{Ids: metadata.IDs(rest)}
			}
			if p.Leader == k.n.id {
				leader := int32(rest[0])
				change.Leader = &leader
			}
			c.changeLocked(changeRecord(id, seat.GetPartition(), change))
		}
		resp.Results = append(resp.Results, &internalv1.GivenUpSeatResult{ErrorCode: int32(code)})
	}
	return resp, nil
}

// CheckRange asks the other manager.
func (e endpoint) CheckRange(
	ctx context.Context, leader *metadata.Broker, req *internalv1.CheckRangeRequest,
) (*internalv1.CheckRangeResponse, error) {
	c := e.n.c
	c.mu.Lock()
	to := c.nodes[leader.ID]
	down := to == nil || to.group == nil || c.cut[[2]model.NodeID{min(e.n.id, leader.ID), max(e.n.id, leader.ID)}]
	c.mu.Unlock()
	if down {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d cannot be reached", leader.ID)
	}
	return to.mgr.CheckRange(ctx, req)
}

// damageTest is a topic with some sealed segments.
type damageTest struct {
	*cluster
	tp   model.TopicPartition
	want []string
}

func newDamageTest(t *testing.T, configs map[string]string, replicas ...model.NodeID) *damageTest {
	t.Helper()
	d := &damageTest{cluster: newCluster(t, len(replicas), func(o *Options) { o.CheckpointInterval = 20 * time.Millisecond })}
	settings := map[string]string{"segment.bytes": "16384", "index.interval.bytes": "1024"}
	for k, v := range configs {
		settings[k] = v
	}
	d.tp = d.topic(1, settings, replicas...)
	d.write(replicas[0], 60)
	d.agree(d.tp, d.want, replicas...)
	for _, id := range replicas {
		eventually(t, "the high watermark is noted", func() bool { return d.log(id).CheckpointedHighWatermark() == int64(len(d.want)) })
	}
	return d
}

// write has a leader acknowledge n more records; it may change meanwhile.
func (d *damageTest) write(leader model.NodeID, n int) {
	d.t.Helper()
	for range n {
		value := fmt.Sprintf("%d-%s", len(d.want), strings.Repeat("x", 1000))
		for {
			a := mustAnswer(d.t, d.send(leader, d.tp, AcksAll, value))
			if a.err == nil {
				break
			}
			if !model.IsCode(a.err, model.CodeNotLeaderForPartition) && !model.IsCode(a.err, model.CodeNotEnoughReplicas) || IsIndefinite(a.err) {
				d.t.Fatal(a.err)
			}
			leader = d.partition(d.tp).Leader
		}
		d.want = append(d.want, value)
	}
}

func (d *damageTest) log(id model.NodeID) *storage.Log {
	m := d.mgrOf(id)
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.partitions[d.tp].log
}

// flip inverts a bit of the batch at an offset, within its records, and returns the file.
func (d *damageTest) flip(id model.NodeID, offset int64) string { return d.flipAt(id, offset, 500) }

// flipAt inverts a bit of a byte of the batch at an offset, and returns the file.
func (d *damageTest) flipAt(id model.NodeID, offset, byteOf int64) string {
	d.t.Helper()
	n := d.nodes[id]
	base, position := int64(0), int64(0)
	for _, s := range d.log(id).SegmentDigests() {
		if s.BaseOffset <= offset {
			base = s.BaseOffset
			position = (offset-base)*s.SizeBytes/s.Batches + byteOf
		}
	}
	file := path.Join(n.path, "topics", d.tp.TopicID.String(), fmt.Sprint(d.tp.Partition), fmt.Sprintf("%020d.log", base))
	if err := n.mem.Flip(file, position, 3); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// scrub looks at everything of one broker once, and tells its manager, as the background scrub does.
func (d *damageTest) scrub(id model.NodeID) {
	d.t.Helper()
	log, m := d.log(id), d.mgrOf(id)
	for c := new(storage.ScrubCursor); ; {
		res, err := log.Scrub(c, 1<<20)
		if err != nil {
			d.t.Fatal(err)
		}
		if res.Damage != nil {
			m.ReportDamage(log, *res.Damage)
		}
		if res.Done {
			break
		}
	}
	m.Scrubbed(log)
}

func (d *damageTest) metric(c prometheus.Collector) float64 {
	d.t.Helper()
	return metricValue(d.t, c)
}

func (d *damageTest) damages(id model.NodeID, by FoundBy) float64 {
	return d.metric(d.mgrOf(id).metrics.damages.WithLabelValues(string(by)))
}

// mended waits until all replicas are in sync and identical, and looks at the file that was set aside.
func (d *damageTest) mended(id model.NodeID, file string, by FoundBy, replicas ...model.NodeID) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("broker %d finds the damage", id), func() bool { return d.damages(id, by) > 0 })
	eventually(d.t, "all are in sync again", func() bool {
		return len(d.partition(d.tp).ISR) == len(replicas) && d.log(id).Damage() == nil
	})
	d.write(d.partition(d.tp).Leader, 3)
	d.agree(d.tp, d.want, replicas...)
	first, err := d.log(replicas[0]).RangeDigest(0, int64(len(d.want)))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, other := range replicas[1:] {
		if digest, err := d.log(other).RangeDigest(0, int64(len(d.want))); err != nil || digest.Sum != first.Sum {
			d.t.Fatalf("broker %d has digest %+v, broker %d %+v: %v", other, digest, replicas[0], first, err)
		}
	}
	if _, err := d.nodes[id].mem.Stat(file + ".corrupt"); err != nil {
		d.t.Fatalf("the damaged file is not kept: %v", err)
	}
	if n := d.metric(d.mgrOf(id).metrics.discards); n != 1 {
		d.t.Fatalf("%v discards", n)
	}
}

func TestRunningFollowerWithDamageFetchesAnew(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	before := d.partition(d.tp)
	file := d.flip(2, 20)
	d.scrub(2)
	d.mended(2, file, FoundByScrub, 1, 2, 3)
	after := d.partition(d.tp)
	if after.Leader != 1 || after.LeaderEpoch != before.LeaderEpoch+1 {
		t.Fatalf("%+v after %+v", after, before)
	}
	if n := d.metric(d.mgrOf(2).metrics.seatsGivenUp); n != 1 {
		t.Fatalf("%v seats given up", n)
	}
}

func TestDamagedLeaderHandsOver(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	file := d.flip(1, 20)
	// A consumer finds it, and reads all in the end.
	var got []string
	var refused int
	for leader := model.NodeID(1); len(got) < len(d.want); leader = d.partition(d.tp).Leader {
		r, err := d.mgrOf(leader).OpenReader(d.tp, int64(len(got)), model.NoLeaderEpoch)
		for err == nil && len(got) < len(d.want) {
			var res ReadResult
			if res, err = r.Read(4096, nil); err == nil {
				got = append(got, valuesOf(t, res.Data)...)
			}
		}
		if err != nil {
			if code := model.CodeOf(err); code != model.CodeNotLeaderForPartition && code != model.CodeOffsetNotAvailable && code != model.CodeFencedLeaderEpoch {
				t.Fatal(err)
			}
			refused++
		}
	}
	if !slices.Equal(got, d.want) || refused == 0 {
		t.Fatalf("%d records of %d, %d times refused", len(got), len(d.want), refused)
	}
	d.mended(1, file, FoundByConsumer, 1, 2, 3)
	if p := d.partition(d.tp); p.Leader == 1 {
		t.Fatalf("%+v", p)
	}
}

// Compaction, and retention that looks for a segment's latest timestamp, read what nobody may have read since: what they meet is damage
// as what a scrub meets.
func TestMaintenanceThatMeetsDamageActs(t *testing.T) {
	t.Run("compaction", func(t *testing.T) {
		d := newDamageTest(t, nil, 1, 2, 3)
		file, end := d.flip(2, 20), d.log(2).LogEndOffset()
		cl, err := storage.NewCleaner(storage.CleanerOptions{}).Begin(d.log(2), storage.CompactionPolicy{}, storage.CleaningInput{
			NowMs: time.Now().UnixMilli(), HighWatermark: end, LowestPosition: end, Clock: storage.ClockTrusted,
		})
		if err != nil || cl == nil {
			t.Fatal(cl, err)
		}
		for done := false; err == nil && !done; {
			_, done, err = cl.Step(1 << 20)
		}
		if !errors.Is(err, storage.ErrCorruptLog) {
			t.Fatalf("it met no damage: %v", err)
		}
		stats := cl.Stats()
		if err := cl.Close(); err != nil {
			t.Fatal(err)
		}
		p, lookupErr := d.mgrOf(2).lookup(d.tp)
		if lookupErr != nil {
			t.Fatal(lookupErr)
		}
		d.mgrOf(2).cleaned(p, stats, err)
		d.mended(2, file, FoundByMaintenance, 1, 2, 3)
	})
	t.Run("retention", func(t *testing.T) {
		d := newDamageTest(t, map[string]string{"retention.ms": "1000000"}, 1, 2, 3)
		d.nodes[1].stop(true)
		dir := path.Join(d.nodes[1].path, "topics", d.tp.TopicID.String(), fmt.Sprint(d.tp.Partition))
		infos, err := d.nodes[1].mem.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos { // the latest timestamps
			if strings.HasSuffix(info.Name, ".producers") {
				if err := d.nodes[1].mem.Remove(path.Join(dir, info.Name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		d.nodes[1].start()
		eventually(t, "broker 1 is back in sync", func() bool { return len(d.partition(d.tp).ISR) == 3 })
		d.lead(d.tp, 1, 1, 2, 3)
		d.write(1, 1)
		file := d.flip(1, 0)
		p, err := d.mgrOf(1).lookup(d.tp)
		if err != nil {
			t.Fatal(err)
		}
		d.mgrOf(1).retain(p, time.Now(), storage.ClockTrusted)
		d.mended(1, file, FoundByMaintenance, 1, 2, 3)
	})
}

// What a reader met may have its cause in a batch that lies further ahead: all of the segment is looked at before anybody is told that it
// is sound.
func TestDamageAheadOfTheSuspicionIsFound(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	file := d.flip(2, 20)
	p, err := d.mgrOf(2).lookup(d.tp)
	if err != nil {
		t.Fatal(err)
	}
	d.mgrOf(2).suspect(p, 22, &storage.CorruptError{File: file, Offset: 22, Reason: "a batch of other offsets"}, FoundByFollower)
	d.mended(2, file, FoundByFollower, 1, 2, 3)
}

// Clients know a topic by its name.
func TestErrorsNameTheTopic(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2)
	topic, _ := d.mgrOf(1).image.TopicByID(d.tp.TopicID)
	want, id := topic.Name+"/0", d.tp.TopicID.String()
	elsewhere := model.TopicPartition{TopicID: d.tp.TopicID, Partition: 7}
	_, notLeader := d.mgrOf(2).OpenReader(d.tp, 0, model.NoLeaderEpoch)
	_, behind := d.mgrOf(1).OpenReader(d.tp, 1000, model.NoLeaderEpoch)
	_, stale := d.mgrOf(1).OpenReader(d.tp, 0, 99)
	for what, err := range map[string]error{"another leads": notLeader, "no such offset": behind, "another epoch": stale} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v does not name %s", what, err, want)
		}
	}
	if _, err := d.mgrOf(1).OpenReader(elsewhere, 0, model.NoLeaderEpoch); err == nil || strings.Contains(err.Error(), id) {
		t.Errorf("no such partition: %v", err)
	}
}

// The head of a batch says that it holds the offsets of those behind it: who reads one of those comes across it.
func TestDamageThatHidesWhatLiesBehind(t *testing.T) {
	d := newDamageTest(t, map[string]string{"index.interval.bytes": "16384"}, 1, 2, 3)
	file := d.flipAt(1, 20, 24) // the last offset is larger by half a million
	r, err := d.mgrOf(1).OpenReader(d.tp, 21, model.NoLeaderEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(1, nil); !model.IsCode(err, model.CodeNotLeaderForPartition) && !model.IsCode(err, model.CodeFencedLeaderEpoch) {
		t.Fatalf("offset 21 is read: %v", err)
	}
	d.mended(1, file, FoundByConsumer, 1, 2, 3)
}

func TestSoleDamagedReplicaServesWhatIsIntact(t *testing.T) {
	d := newDamageTest(t, nil, 1)
	d.flip(1, 20)
	d.scrub(1)
	eventually(t, "the damage is known", func() bool { return d.log(1).Damage() != nil })
	for at := int64(0); at < int64(len(d.want)); {
		r, err := d.mgrOf(1).OpenReader(d.tp, at, model.NoLeaderEpoch)
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.Read(1, nil)
		if at == 20 {
			if !model.IsCode(err, model.CodeCorruptRecord) {
				t.Fatalf("offset %d: %v", at, err)
			}
			at++
			continue
		}
		if values := valuesOf(t, res.Data); err != nil || len(values) == 0 || values[0] != d.want[at] {
			t.Fatalf("offset %d: %d values, %v", at, len(values), err)
		}
		at = res.NextOffset
	}
	mustFail(t, d.send(1, d.tp, AcksAll, "more"), model.CodeCorruptRecord)
	if troubles := d.mgrOf(1).Troubles(); len(troubles) != 1 || troubles[0].GetFromOffset() != 20 || troubles[0].GetToOffset() != 21 {
		t.Fatalf("%v", troubles)
	}
	if p := d.partition(d.tp); p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
}

// The leader is alone with its damage until another one is in sync again; the damage is behind what that one lacks.
func TestDamagedLeaderHandsOverOnceAnotherIsInSync(t *testing.T) {
	d := newDamageTest(t, map[string]string{"min.insync.replicas": "1"}, 1, 2)
	d.nodes[2].stop(false)
	d.fence(2)
	d.write(1, 5)
	file := d.flip(1, 20)
	d.scrub(1)
	eventually(t, "the damage is known", func() bool { return d.damages(1, FoundByScrub) == 1 })
	mustFail(t, d.send(1, d.tp, AcksAll, "more"), model.CodeCorruptRecord)
	if p := d.partition(d.tp); p.Leader != 1 {
		t.Fatalf("%+v", p)
	}
	d.nodes[2].start()
	d.mended(1, file, FoundByScrub, 1, 2)
	if p := d.partition(d.tp); p.Leader != 2 {
		t.Fatalf("%+v", p)
	}
}

// A follower that begins anew reads what nobody else looks at.
func TestDamageFoundByAFollowersFetch(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	d.nodes[3].stop(false)
	d.fence(3)
	d.nodes[3].mem = fsys.NewMem(33, fsys.MemOptions{})
	d.nodes[3].fs = d.nodes[3].mem
	file := d.flip(1, 20)
	d.nodes[3].start()
	d.mended(1, file, FoundByFollower, 1, 2, 3)
}

// Leader and follower are damaged in different places. Who can be shown that the other holds what it would throw away fetches anew,
// and then the other does. Only where the leader has handed over to a replica that turns out to be damaged behind the leader's
// own damage, nobody may throw anything away.
func TestTwoDamagedReplicas(t *testing.T) {
	for _, c := range []struct {
		leader, follower int64
		first            model.NodeID
		stuck            bool
	}{{20, 40, 2, false}, {40, 20, 1, false}, {20, 40, 1, true}} {
		t.Run(fmt.Sprintf("%d and %d, %d first", c.leader, c.follower, c.first), func(t *testing.T) {
			d := newDamageTest(t, map[string]string{"min.insync.replicas": "1"}, 1, 2)
			d.flip(1, c.leader)
			d.flip(2, c.follower)
			d.scrub(c.first)
			if c.stuck {
				eventually(t, "both know", func() bool { return d.log(1).Damage() != nil && d.log(2).Damage() != nil })
				pause(t, 300*time.Millisecond)
				for id := model.NodeID(1); id <= 2; id++ {
					if end := d.log(id).LogEndOffset(); end != int64(len(d.want)) || d.metric(d.mgrOf(id).metrics.discards) != 0 {
						t.Fatalf("broker %d ends at %d", id, end)
					}
				}
				return
			}
			eventually(t, "both are whole and in sync", func() bool {
				if d.metric(d.mgrOf(c.first).metrics.discards) == 1 && d.log(c.first).Damage() == nil && d.damages(3-c.first, FoundByScrub) == 0 {
					d.scrub(3 - c.first)
				}
				whole := len(d.partition(d.tp).ISR) == 2
				for id := model.NodeID(1); id <= 2; id++ {
					whole = whole && d.log(id).Damage() == nil && d.metric(d.mgrOf(id).metrics.discards) == 1
				}
				return whole
			})
			d.write(d.partition(d.tp).Leader, 2)
			d.agree(d.tp, d.want, 1, 2)
		})
	}
}

// What the operator does then, as docs/operations.md says: with both brokers stopped, the segment that is whole on one takes the place
// of the damaged one of that name on the other. The next start looks again at what was damaged, and goes on.
func TestOperatorMendsTwoDamagedReplicas(t *testing.T) {
	d := newDamageTest(t, map[string]string{"min.insync.replicas": "1"}, 1, 2)
	files := map[model.NodeID]string{1: d.flip(1, 20), 2: d.flip(2, 40)}
	d.scrub(1)
	eventually(t, "both know", func() bool { return d.log(1).Damage() != nil && d.log(2).Damage() != nil })
	for id := model.NodeID(1); id <= 2; id++ {
		d.nodes[id].stop(true)
	}
	for id, name := range files {
		if files[1] == files[2] {
			t.Fatal("both are damaged in the same segment")
		}
		copyFile(t, d.nodes[3-id].mem, d.nodes[id].mem, name)
	}
	for id := model.NodeID(1); id <= 2; id++ {
		d.nodes[id].start()
	}
	for id := model.NodeID(1); id <= 2; id++ {
		d.scrub(id)
		if damage := d.log(id).Damage(); damage != nil {
			t.Fatalf("broker %d: %+v", id, damage)
		}
	}
	eventually(t, "both are in sync", func() bool { return len(d.partition(d.tp).ISR) == 2 })
	d.write(d.partition(d.tp).Leader, 2)
	d.agree(d.tp, d.want, 1, 2)
}

// copyFile puts a file of one file system in the place of that of the same name on another.
func copyFile(t *testing.T, from, to *fsys.Mem, name string) {
	t.Helper()
	source, err := from.OpenRead(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := source.Size()
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, size)
	_, err = source.ReadAt(content, 0)
	if err = errors.Join(err, source.Close(), to.Remove(name)); err != nil {
		t.Fatal(err)
	}
	target, err := to.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = target.Append(content)
	if err = errors.Join(err, target.SyncData(), target.Close()); err != nil {
		t.Fatal(err)
	}
}

// Both have lost the same record: nothing is thrown away, and what is intact is served.
func TestDamageThatNobodyCanReplace(t *testing.T) {
	d := newDamageTest(t, map[string]string{"min.insync.replicas": "1"}, 1, 2)
	d.flip(1, 20)
	d.flip(2, 20)
	d.scrub(2)
	d.scrub(1)
	eventually(t, "both know", func() bool { return d.log(1).Damage() != nil && d.log(2).Damage() != nil })
	pause(t, 300*time.Millisecond)
	for id := model.NodeID(1); id <= 2; id++ {
		if end := d.log(id).LogEndOffset(); end != int64(len(d.want)) || d.metric(d.mgrOf(id).metrics.discards) != 0 {
			t.Fatalf("broker %d ends at %d", id, end)
		}
	}
	leader := d.partition(d.tp).Leader
	r, err := d.mgrOf(leader).OpenReader(d.tp, 21, model.NoLeaderEpoch)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := r.Read(1, nil); err != nil || valuesOf(t, res.Data)[0] != d.want[21] {
		t.Fatalf("behind the damage: %v", err)
	}
}

// A running broker's finding outlives its process: the next incarnation has lost its seat, and fetches anew.
func TestDamageIsRememberedByTheNextIncarnation(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	d.link(1, 2, false) // nobody can show broker 2 that it is whole
	d.flip(2, 20)
	d.scrub(2)
	eventually(t, "the damage is known", func() bool { return d.damages(2, FoundByScrub) == 1 })
	d.nodes[2].stop(false)
	d.fence(2)
	d.link(1, 2, true)
	d.nodes[2].start()
	lost := 0
	for _, state := range d.nodes[2].lost {
		if strings.Contains(state.GetSeatLostReason(), "damaged from offset 20") {
			lost++
		}
	}
	if lost != 1 || d.damages(2, FoundByRecovery) != 1 {
		t.Fatalf("%v", d.nodes[2].lost)
	}
	eventually(t, "all are in sync", func() bool { return len(d.partition(d.tp).ISR) == 3 })
	d.agree(d.tp, d.want, 1, 2, 3)
}

// Frames that are altered on their way are not appended, the leader is told, and nobody is taken for damaged.
func TestBadFramesAreRefused(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	d.alter(5)
	d.write(1, 20)
	d.agree(d.tp, d.want, 1, 2, 3)
	bad := d.metric(d.mgrOf(2).metrics.badFrames) + d.metric(d.mgrOf(3).metrics.badFrames)
	if bad == 0 || d.altered() != 0 {
		t.Fatalf("%v bad frames, %d left to alter", bad, d.altered())
	}
	for id := model.NodeID(1); id <= 3; id++ {
		if len(d.mgrOf(id).Troubles()) > 0 {
			t.Fatalf("broker %d: %v", id, d.mgrOf(id).Troubles())
		}
	}
}

// Equal replicas are compared in silence. One whose record is another, with checksums that fit, is an alarm: nothing is deleted.
func TestDigestsAreCompared(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	compared := func(id model.NodeID) float64 { return d.metric(d.mgrOf(id).metrics.comparisons) }
	d.scrub(2)
	eventually(t, "digests are compared", func() bool { return compared(2) > 0 })
	d.forge(2, 20)
	d.scrub(2)
	eventually(t, "the difference is noticed", func() bool { return len(d.mgrOf(2).Troubles()) == 1 })
	trouble := d.mgrOf(2).Troubles()[0]
	if trouble.GetKind() != internalv1.TroubleKind_TROUBLE_KIND_DIFFERS || trouble.GetFromOffset() > 20 || trouble.GetToOffset() <= 20 {
		t.Fatalf("%v", trouble)
	}
	if n := d.metric(d.mgrOf(2).metrics.mismatches); n == 0 {
		t.Fatalf("%v mismatches", n)
	}
	if p := d.partition(d.tp); p.Leader != 1 || len(p.ISR) != 3 {
		t.Fatalf("%+v", p)
	}
	for id := model.NodeID(1); id <= 3; id++ {
		if d.log(id).Damage() != nil || d.log(id).LogEndOffset() != int64(len(d.want)) {
			t.Fatalf("broker %d: %+v", id, d.log(id).Damage())
		}
	}
	d.forge(2, 20) // back
	d.scrub(2)
	eventually(t, "the difference is gone", func() bool { return len(d.mgrOf(2).Troubles()) == 0 })
}

// A leader that the comparison makes look at its segments finds that it is the damaged one.
func TestComparisonFindsTheDamagedLeader(t *testing.T) {
	d := newDamageTest(t, nil, 1, 2, 3)
	file := d.flipHeader(1, 20)
	d.scrub(2)
	d.mended(1, file, FoundByComparison, 1, 2, 3)
}

// forge makes another batch of the one at an offset, whose checksum fits, and lets its segment have no digest: a second time it
// makes the first one again.
func (d *damageTest) forge(id model.NodeID, offset int64) {
	d.t.Helper()
	read, err := d.log(id).Read(offset, 1, offset+1, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	file := d.flip(id, offset)
	forged := slices.Clone(read.Data)
	forged[500] ^= 1 << 3
	before, after := read.Data[17:21], crc32.Checksum(forged[21:], crc32.MakeTable(crc32.Castagnoli))
	at := int64(-1)
	for _, s := range d.log(id).SegmentDigests() {
		if s.BaseOffset <= offset {
			at = (offset - s.BaseOffset) * s.SizeBytes / s.Batches
		}
	}
	for i := range 4 {
		for bit := range uint(8) {
			if (before[i]^byte(after>>(24-8*i)))>>bit&1 == 1 {
				if err := d.nodes[id].mem.Flip(file, at+17+int64(i), bit); err != nil {
					d.t.Fatal(err)
				}
			}
		}
	}
	if err := d.nodes[id].mem.Remove(strings.TrimSuffix(file, ".log") + ".digest"); err != nil {
		d.t.Fatal(err)
	}
	d.scrub(id) // writes the digest anew
}

// flipHeader inverts a bit of a batch's stored CRC: a header-only look does not tell that it is wrong.
func (d *damageTest) flipHeader(id model.NodeID, offset int64) string {
	d.t.Helper()
	file := d.flip(id, offset) // its records
	for _, s := range d.log(id).SegmentDigests() {
		if s.BaseOffset <= offset && offset < s.NextOffset {
			position := (offset - s.BaseOffset) * s.SizeBytes / s.Batches
			if err := d.nodes[id].mem.Flip(file, position+18, 1); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	return file
}

// alter has the next n frames with batches altered on their way.
func (c *cluster) alter(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alterFrames = n
}

func (c *cluster) altered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alterFrames
}
