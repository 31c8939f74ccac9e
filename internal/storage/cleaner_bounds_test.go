package storage

import (
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/record"
)

// What is not durable is not compacted, however far the HighWatermark is: with flush.mode=os it may be ahead of the disk.
func TestWhatIsNotDurableIsNotCompacted(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, -1, "a", []byte("1"))
	x.seal(t)
	x.put(t, -1, "a", []byte("2"))
	must(t, x.checkpoint(x.end))
	must(t, x.log.Roll())
	if s := x.stateOf(t, x.policy); s.To != 1 || x.log.CheckpointedHighWatermark() != 2 {
		t.Errorf("durable to %d, committed to %d: %+v", x.log.DurableEnd(), x.log.CheckpointedHighWatermark(), s)
	}
	must(t, x.sync())
	if s := x.stateOf(t, x.policy); s.To != 2 {
		t.Errorf("durable to %d: %+v", x.log.DurableEnd(), s)
	}
}

// The header of the last batch of a producer below the end of the compaction stays also where the producer's next batch begins right
// there: were that cut off again, nothing else would tell the sequence.
func TestTheLastBatchBelowTheEndOfTheCompactionStays(t *testing.T) {
	x := steady(t, Config{})
	x.put(t, -1, "a", []byte("0")) // the first of its epoch
	x.put(t, 5, "a", []byte("1"))
	x.put(t, -1, "a", []byte("2"))
	x.seal(t)
	x.put(t, 5, "b", []byte("3"))
	x.cleanBy(t, CleanerOptions{}, ClockTrusted)
	res, err := x.log.Read(0, 1<<20, 3, nil)
	must(t, err)
	var got []int64
	for s := record.NewScanner(res.Data, record.Limits{}); s.Next(); {
		got = append(got, s.Header().BaseOffset)
	}
	if fmt.Sprint(got) != "[0 1 2]" {
		t.Errorf("batches at %v are left", got)
	}
}

// withHorizon is a batch of one tombstone whose time is over: a leader that has compacted its log sends such ones.
func withHorizon(t *testing.T, x *keyedLog, key string) []byte {
	t.Helper()
	data, _ := x.batchOf(noProducer, record.None, []keyedRecord{{ts: x.now, key: []byte(key)}})
	var thinner record.Thinner
	must(t, thinner.Reset(data, record.Limits{}))
	for thinner.Next() {
		thinner.Keep()
	}
	out, err := thinner.Append(nil, 1)
	must(t, err)
	return out
}

// A tombstone past its time stays while what it deletes does: on a follower whose own log has the value still, in a pass whose memory does
// not suffice for the key.
func TestATombstoneOfTheLeaderWaitsForItsKey(t *testing.T) {
	x := steady(t, Config{SegmentBytes: 1 << 20})
	for i := range 800 { // the smallest map holds 768
		x.put(t, -1, fmt.Sprintf("key-%d", i), []byte("1"))
	}
	x.put(t, -1, "late", []byte("1"))
	res, err := x.log.AppendFollower(stamped(withHorizon(t, x, "late"), x.end, x.epoch), false)
	must(t, err)
	x.end = res.LogEndOffset
	x.put(t, -1, "last", []byte("1"))
	x.seal(t)
	has := func(key string) bool {
		for _, k := range x.keysOf() {
			if k == key {
				return true
			}
		}
		return false
	}
	for pass := range 3 {
		x.cleanBy(t, CleanerOptions{MapBytes: 1}, ClockTrusted)
		if has("late@800") && !has("late@801") {
			t.Fatalf("pass %d: the tombstone is gone before the value", pass)
		}
	}
	if has("late@800") {
		t.Fatal("the value stays")
	}
}
