package storage

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// noProducer builds batches without idempotence.
var noProducer = producerRef{id: record.NoProducerID, epoch: record.NoProducerEpoch, sequence: record.NoSequence}

type producerRef struct {
	id       int64
	epoch    int16
	sequence int32
}

// makeBatch builds a batch of n records at the timestamp; their values are size bytes derived from tag.
func makeBatch(t testing.TB, p producerRef, tag, n, size int, timestamp int64) ([]byte, record.Header) {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for i := range n {
		value := make([]byte, size)
		copy(value, fmt.Sprintf("%d/%d", tag, i))
		if err := b.Add(record.Record{Value: value, Timestamp: timestamp}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := b.Finish(record.None, p.id, p.epoch, p.sequence)
	if err != nil {
		t.Fatal(err)
	}
	h, err := record.Validate([][]byte{data}, record.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), data...), h
}

func testPartition(n int32) model.TopicPartition {
	var id model.UUID
	copy(id[:], "topic-of-storage")
	return model.TopicPartition{TopicID: id, Partition: n}
}

// testJournalBytes is small: the sync journal turns often.
const testJournalBytes = 64 << 10

func testDirOptions() DirOptions {
	var id model.UUID
	copy(id[:], "directory-number")
	return DirOptions{DirectoryID: id, SyncJournalBytes: testJournalBytes, SyncJournalSalt: 1}
}

func openTestDir(t testing.TB, fsy fsys.FS) *Dir {
	t.Helper()
	d, err := OpenDir(fsy, "data", testDirOptions())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// appendTo appends one batch as leader and returns what Read must give back for it.
func appendTo(t testing.TB, l *Log, epoch model.LeaderEpoch, tag, n, size int) ([]byte, AppendResult) {
	t.Helper()
	data, h := makeBatch(t, noProducer, tag, n, size, int64(1000+tag))
	res, err := l.AppendLeader([][]byte{data}, h, epoch, int64(1000+tag))
	if err != nil {
		t.Fatal(err)
	}
	return stamped(data, res.BaseOffset, epoch), res
}

// stamped is a batch as the leader writes it.
func stamped(data []byte, base int64, epoch model.LeaderEpoch) []byte {
	out := append([]byte(nil), data...)
	record.PutHead(out, base, int32(binary.BigEndian.Uint32(data[8:])), int32(epoch))
	return out
}

// readAll reads the log from its start to end.
func readAll(t testing.TB, l *Log, maxBytes int) []byte {
	t.Helper()
	var all []byte
	for at := l.LogStartOffset(); at < l.LogEndOffset(); {
		res, err := l.Read(at, maxBytes, l.LogEndOffset(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Data) == 0 || res.NextOffset <= at {
			t.Fatalf("read at %d of %d: %d bytes, next %d", at, l.LogEndOffset(), len(res.Data), res.NextOffset)
		}
		all = append(all, res.Data...)
		at = res.NextOffset
	}
	return all
}
