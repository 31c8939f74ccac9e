package client

import (
	"math"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/wire"
)

// chunkBytes is the step in which a growing batch takes from the buffer budget.
const chunkBytes = 16 << 10

// openBatch collects records.
type openBatch struct {
	builder   *record.Builder
	callbacks []func(Receipt, error)
	reserved  int
	created   time.Time
}

// batch is a closed batch on its way. Its fields are guarded by its partition.
type batch struct {
	payload   wire.Payload
	count     int32
	callbacks []func(Receipt, error)
	reserved  int
	created   time.Time

	sentAt    time.Time
	sent      bool // under its present sequence
	maybe     bool // it may have been appended: the outcome of an attempt is unknown
	renewals  int  // how often its sequence was changed
	unknownAt time.Time

	answered bool // a receipt came
	receipt  *penstockv1.Receipt
	err      *Error // what the last attempt was answered, until the partition has dealt with it
	refusal  *Error // why the last attempt certainly had no effect

	finished bool // taken off the queue
	failure  error
	ran      bool          // callbacks have returned
	done     chan struct{} // made for who waits, closed after ran
}

// run calls the callbacks. The batch is finished, nobody else touches it.
func (b *batch) run(topic string, partition int32) {
	if b.failure != nil {
		for _, f := range b.callbacks {
			if f != nil {
				f(Receipt{}, b.failure)
			}
		}
		return
	}
	r := Receipt{
		Topic: topic, Partition: partition, Offset: b.receipt.GetBaseOffset(), LeaderEpoch: b.receipt.GetLeaderEpoch(),
		AppendTimeMs: b.receipt.GetAppendTimeMs(), ISR: b.receipt.GetIsr(), Acked: b.receipt.GetAcked(),
		FSynced: b.receipt.GetFsynced(), Duplicate: b.receipt.GetDuplicate(),
	}
	known := r.Offset >= 0
	for _, f := range b.callbacks {
		if f != nil {
			f(r, nil)
		}
		if known {
			r.Offset++
		}
	}
}

// renumber gives the batch another identity, in bytes of its own: the old ones may still be on their way.
func (b *batch) renumber(p *Producer, producerID int64, epoch int16, sequence int32) error {
	payload, data := p.client.pool.Alloc(b.payload.Len())
	at := 0
	for _, piece := range b.payload.Bytes() {
		at += copy(data[at:], piece)
	}
	if err := record.SetProducer(data, producerID, epoch, sequence); err != nil {
		payload.Free()
		return err
	}
	b.payload.Free()
	b.payload = payload
	b.sent, b.maybe = false, false
	b.renewals++
	return nil
}

// addSequence counts on, wrapping from MaxInt32 to 0.
func addSequence(sequence, count int32) int32 {
	return int32((int64(sequence) + int64(count)) & math.MaxInt32) //nolint:gosec // masked
}
