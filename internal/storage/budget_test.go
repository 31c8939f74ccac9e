package storage

import (
	"runtime"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/record"
)

const (
	// allocationBudget is how often an append or a read may allocate for each batch. What a batch holds must cost nothing more.
	allocationBudget = 8
	// idleHeapBudget bounds the heap of a partition nobody uses, in bytes.
	idleHeapBudget = 16 << 10
)

// An append, as leader and as follower, and a read allocate a few times a batch, and not once more for more records in it.
func TestAllocationsOfABatch(t *testing.T) {
	of := map[string][]float64{} // allocations a batch, with one record and with many
	for _, records := range []int{1, 1000} {
		for name, n := range measureAllocations(t, records) {
			of[name] = append(of[name], n)
		}
	}
	for name, n := range of {
		t.Logf("%s: %.2f allocations a batch of one record, %.2f a batch of 1,000", name, n[0], n[1])
		if n[0] > allocationBudget || n[1] > allocationBudget {
			t.Errorf("%s: %.2f and %.2f allocations a batch, %d are allowed", name, n[0], n[1], allocationBudget)
		}
		if n[1]-n[0] >= 2 { // one of 1,000 records would be 1,000; an index that grows is a part of one
			t.Errorf("%s: %.2f allocations a batch of one record, %.2f with 1,000: records must not cost any", name, n[0], n[1])
		}
	}
}

// measureAllocations says how often each operation allocates a batch of so many records.
func measureAllocations(t *testing.T, records int) map[string]float64 {
	t.Helper()
	const runs, batches = 200, 4
	d, err := OpenDir(fsys.OS(), t.TempDir(), DirOptions{})
	must(t, err)
	leader, err := d.CreateLog(testPartition(0), Config{})
	must(t, err)
	follower, err := d.CreateLog(testPartition(1), Config{})
	must(t, err)
	data, h := makeBatch(t, producerRef{id: 7}, 1, records, 100, 1000)
	vec, of := [][]byte{data}, map[string]float64{}
	of["leader"] = testing.AllocsPerRun(runs, func() {
		checked, err := record.Validate(vec, record.Limits{})
		checked.ProducerID, checked.BaseSequence = record.NoProducerID, record.NoSequence // the same sequence would be a duplicate
		if err == nil {
			_, err = leader.AppendLeader(vec, checked, 1, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	var several []byte
	for range batches {
		several = append(several, data...)
	}
	of["follower"] = testing.AllocsPerRun(runs, func() {
		for i := range batches {
			record.PutHead(several[i*len(data):], follower.LogEndOffset()+int64(i*records), h.Length, 1)
		}
		if _, err := follower.AppendFollower(several, false); err != nil {
			t.Fatal(err)
		}
	}) / batches
	buf := make([]byte, batches*len(data))
	read := func(l *Log) float64 { // a whole read, even where it gives but one batch
		at := int64(0)
		return testing.AllocsPerRun(runs/batches-1, func() {
			res, err := l.Read(at, len(buf), l.LogEndOffset(), buf)
			if err != nil || len(res.Data) < len(data) {
				t.Fatalf("%d bytes at offset %d: %v", len(res.Data), at, err)
			}
			at = res.NextOffset
		})
	}
	of["read of the active segment"] = read(leader)
	must(t, follower.Roll())
	_, err = follower.Sync() // closes the sealed file
	must(t, err)
	of["read of a sealed segment"] = read(follower)
	must(t, d.Close())
	return of
}

// Many logs nobody uses take little heap each: as they were left by a few appends, with index blocks that are all but full, and
// opened again.
func TestHeapOfIdlePartitions(t *testing.T) {
	for _, c := range []struct{ partitions, batches int }{{2000, 3}, {200, indexBlockCap - 1}} {
		path := t.TempDir()
		for _, again := range []bool{false, true} {
			before := heapInUse()
			d, logs := idleLogs(t, path, c.partitions, c.batches, again)
			each := (heapInUse() - before) / int64(c.partitions)
			t.Logf("%d logs of %d batches, opened again %t: %d bytes each", c.partitions, c.batches, again, each)
			if each > idleHeapBudget {
				t.Errorf("%d bytes of heap for each of %d idle partitions, %d are allowed", each, c.partitions, idleHeapBudget)
			}
			for _, l := range logs {
				if l.LogEndOffset() != int64(c.batches) {
					t.Fatalf("a log ends at %d, not %d", l.LogEndOffset(), c.batches)
				}
			}
			must(t, d.Close())
		}
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first left in pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below
}

// idleLogs makes logs with so many batches each, which all get an index entry, or opens them again.
func idleLogs(t testing.TB, path string, partitions, batches int, again bool) (*Dir, []*Log) {
	t.Helper()
	cfg := Config{IndexIntervalBytes: 1}
	data, h := makeBatch(t, producerRef{id: 7}, 1, 1, 100, 1000)
	d, err := OpenDir(fsys.OS(), path, DirOptions{})
	must(t, err)
	logs := make([]*Log, partitions)
	for i := range logs {
		tp := testPartition(int32(i)) //nolint:gosec // small
		if again {
			logs[i], _, err = d.OpenLog(tp, cfg)
			must(t, err)
			continue
		}
		logs[i], err = d.CreateLog(tp, cfg)
		must(t, err)
		for n := range batches {
			h.BaseSequence, h.MaxTimestamp = int32(n), int64(1000+n) //nolint:gosec // small
			_, err = logs[i].AppendLeader([][]byte{data}, h, 1, 1)
			must(t, err)
		}
	}
	return d, logs
}
