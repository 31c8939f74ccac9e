package client

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
)

// Codes that the producer looks at.
const (
	codeInvalidRecord    = model.CodeInvalidRecord
	codeInvalidTimestamp = model.CodeInvalidTimestamp
	codeBatchTooLarge    = model.CodeBatchTooLarge
)

// maxRenewals bounds how often one batch is given another sequence before it is given up.
const maxRenewals = 5

// answer takes the status of a batch that was sent in the given generation.
//
// A receipt counts whenever it comes: the batch is in the log. An error counts only for the present generation: after the
// queue was sent anew, refusals of the earlier round say nothing.
func (pt *producerPartition) answer(b *batch, generation uint64, receipt *penstockv1.Receipt, err *Error) {
	now := pt.producer.client.clock.Now()
	pt.mu.Lock()
	switch {
	case b.finished:
	case err == nil:
		b.answered, b.receipt, b.err = true, receipt, nil
	case generation == pt.generation && !b.answered:
		b.err = err
		pt.hold = true
	}
	pt.settle(now)
	pt.schedule(now)
	pt.mu.Unlock()
	pt.finish()
}

// settle deals with the head of the queue as long as it is decided. It needs mu.
func (pt *producerPartition) settle(now time.Time) {
	for len(pt.queue) > 0 {
		b := pt.queue[0]
		switch {
		case b.answered:
			pt.failures = 0
			pt.pop(nil)
		case b.err != nil:
			if !pt.resolve(b, b.err, now) {
				return
			}
		case now.Sub(b.created) >= pt.producer.config.DeliveryTimeout:
			b.maybe = b.maybe || pt.next > 0
			pt.giveUp(b.overdue(pt.producer.config.DeliveryTimeout))
		default:
			pt.hold = pt.hold && slices.ContainsFunc(pt.queue, func(b *batch) bool { return b.err != nil })
			pt.bumpIfQuiet(now)
			return
		}
	}
	pt.hold = false
	pt.bumpIfQuiet(now)
}

// resolve deals with an error at the head; false where the queue goes out anew. It needs mu.
func (pt *producerPartition) resolve(b *batch, err *Error, now time.Time) bool {
	p := pt.producer
	idempotent := !p.config.DisableIdempotence
	switch {
	case idempotent && err.is(model.CodeDuplicateSequence):
		b.receipt = &penstockv1.Receipt{Partition: pt.number, BaseOffset: -1, Count: b.count, Duplicate: true}
		pt.pop(nil)
		return true
	case idempotent && err.is(model.CodeOutOfOrderSequence, model.CodeUnknownProducerID) && b.renewals < maxRenewals:
		// Neither this batch nor any after it is in the log.
		if !pt.gap {
			p.client.logger.Warn("the broker has lost track of the producer, going on with a new producer epoch",
				"topic", pt.topic.name, "partition", pt.number, "error", err)
		}
		pt.bump(now)
		return false
	case !err.Retryable:
		pt.giveUp(err)
		return true
	}
	b.maybe = b.maybe || !err.Definite
	if b.refusal = nil; err.Definite {
		b.refusal = err
	}
	expired := now.Sub(b.created) >= p.config.DeliveryTimeout
	if err.is(model.CodeUnknownTopicOrPartition, model.CodeUnknownTopicID) {
		if b.unknownAt.IsZero() {
			b.unknownAt = now
		}
		expired = expired || now.Sub(b.unknownAt) >= unknownTopicWait
	} else {
		b.unknownAt = time.Time{}
	}
	if expired {
		pt.giveUp(err)
		return true
	}
	if err.hint != nil {
		p.client.meta.hint(pt.topic.name, pt.topic.id, err.hint)
	}
	_, epoch, known := p.client.meta.leader(pt.topic.name, pt.topic.id, pt.number)
	newer := known && epoch > pt.leaderEpoch
	if !newer {
		p.client.meta.request(pt.topic.name)
	}
	pt.rewind(now, !newer, err.Definite && !b.maybe && idempotent)
	return false
}

// overdue is the failure of a batch whose time is up: why the cluster kept refusing it, where that is all that is known.
func (b *batch) overdue(timeout time.Duration) *Error {
	if b.refusal != nil && !b.maybe {
		late := *b.refusal
		late.Detail = fmt.Sprintf("%s (tried for %v)", late.Detail, timeout)
		return &late
	}
	return newError(model.CodeRequestTimedOut, !b.maybe, "the batch was not acknowledged within the delivery timeout of %v", timeout)
}

// giveUp ends the head with a failure; what follows it needs a new producer epoch. It needs mu.
func (pt *producerPartition) giveUp(err *Error) {
	b := pt.queue[0]
	final := *err
	final.Definite = err.Definite && !b.maybe
	pt.gap = !pt.producer.config.DisableIdempotence
	pt.pop(&final)
}

// pop takes the head off the queue. It needs mu.
func (pt *producerPartition) pop(failure error) {
	b := pt.queue[0]
	pt.queue = slices.Delete(pt.queue, 0, 1)
	pt.next = max(pt.next-1, 0)
	b.finished, b.failure = true, failure
	b.payload.Free()
	pt.producer.budget.give(b.reserved)
	pt.finished = append(pt.finished, b)
}

// rewind makes the whole queue be sent again, to whoever leads then. Unless certain says that nothing of it was appended,
// what is under way may have been. It needs mu.
func (pt *producerPartition) rewind(now time.Time, delay, certain bool) {
	for i, b := range pt.queue {
		if i < pt.next && b.err == nil && !certain {
			b.maybe = true
		}
		b.err = nil
	}
	pt.generation++
	pt.next, pt.hold = 0, false
	pt.leave()
	pt.retryAt = now
	if delay {
		pt.failures++
		pt.retryAt = now.Add(backoff(pt.failures))
	}
}

func (pt *producerPartition) leave() {
	if pt.stream != nil {
		pt.stream.forget(pt)
		pt.stream, pt.listed = nil, false
	}
}

// bumpIfQuiet goes on with a new producer epoch after a batch was given up, once everything that was sent under the old
// one is settled. It needs mu.
func (pt *producerPartition) bumpIfQuiet(now time.Time) {
	if !pt.gap || pt.renewing {
		return
	}
	for _, b := range pt.queue {
		if b.sent && !b.answered {
			return
		}
	}
	pt.bump(now)
}

// bump gives all of the queue a new producer epoch, from sequence 0 on: none of it is in the log. It needs mu.
func (pt *producerPartition) bump(now time.Time) {
	pt.gap = false
	for _, b := range pt.queue {
		b.sent, b.maybe = false, false
	}
	pt.rewind(now, false, true)
	if pt.epoch == math.MaxInt16 {
		pt.gap, pt.renewing = true, true
		pt.producer.renew(pt)
		return
	}
	pt.epoch++
	pt.renumber()
}

// renumber writes the present producer id and epoch to the queue. It needs mu.
func (pt *producerPartition) renumber() {
	pt.sequence = 0
	for _, b := range pt.queue {
		if b.answered { // it is in the log, and waits only for its turn
			continue
		}
		if err := b.renumber(pt.producer, pt.producerID, pt.epoch, pt.sequence); err != nil {
			// Only a batch that is not well-formed can fail so; it will be refused.
			pt.producer.client.logger.Error("a batch cannot be renumbered", "topic", pt.topic.name, "error", err)
		}
		pt.sequence = addSequence(pt.sequence, b.count)
	}
}

// lost deals with the end of the stream that the partition used.
func (pt *producerPartition) lost(s *produceStream, now time.Time) {
	pt.mu.Lock()
	if pt.stream == s {
		pt.rewind(now, true, false)
		pt.producer.client.meta.request(pt.topic.name)
		pt.settle(now)
		pt.schedule(now)
	}
	pt.mu.Unlock()
	pt.finish()
}

// sweep does what time brings: expiry, request timeouts, linger, retries, moved leaders.
func (pt *producerPartition) sweep(now time.Time, moved bool) {
	pt.mu.Lock()
	if moved {
		pt.followLeader(now)
	}
	pt.checkSilence(now)
	pt.checkTopic(now)
	pt.settle(now)
	pt.schedule(now)
	busy := len(pt.queue) > 0 || pt.open != nil && pt.open.builder.Count() > 0
	if !busy {
		pt.deactivate()
	}
	pt.mu.Unlock()
	pt.finish()
}

// checkSilence asks around where the leader does not answer, and in the end sends anew. It needs mu.
func (pt *producerPartition) checkSilence(now time.Time) {
	if len(pt.queue) == 0 || pt.next == 0 || pt.queue[0].answered || pt.queue[0].err != nil {
		return
	}
	silent := now.Sub(pt.queue[0].sentAt)
	if silent > silence && now.Sub(pt.askedAt) > silence {
		pt.askedAt = now
		pt.producer.client.meta.request(pt.topic.name)
	}
	if timeout := pt.producer.config.RequestTimeout; silent > timeout+timeout/2 {
		pt.rewind(now, true, false)
	}
}

// followLeader leaves a leader that is no longer one. It needs mu.
func (pt *producerPartition) followLeader(now time.Time) {
	address, epoch, ok := pt.producer.client.meta.leader(pt.topic.name, pt.topic.id, pt.number)
	if !ok || epoch <= pt.leaderEpoch {
		return
	}
	switch {
	case pt.stream == nil:
		pt.retryAt = now
	case pt.stream.address != address:
		pt.rewind(now, false, false)
	default:
		pt.leaderEpoch = epoch
	}
}

// checkTopic gives up the queue where the topic is gone or was made anew. It needs mu.
func (pt *producerPartition) checkTopic(now time.Time) {
	if len(pt.queue) == 0 || pt.stream != nil || pt.hold {
		return
	}
	info := pt.producer.client.meta.cached(pt.topic.name)
	b := pt.queue[0]
	if info != nil && info.id == pt.topic.id {
		return
	}
	if b.unknownAt.IsZero() {
		b.unknownAt = now
	}
	if now.Sub(b.unknownAt) >= unknownTopicWait && b.err == nil && !b.answered {
		pt.giveUp(newError(model.CodeUnknownTopicID, !b.maybe, "topic %q was deleted", pt.topic.name))
	}
}

// abort ends everything when the producer does.
func (pt *producerPartition) abort() {
	pt.mu.Lock()
	if pt.open != nil && pt.open.builder.Count() > 0 {
		pt.closeOpen()
	}
	pt.leave()
	for len(pt.queue) > 0 {
		b := pt.queue[0]
		if b.answered {
			pt.pop(nil)
			continue
		}
		b.maybe = b.maybe || b.sent
		pt.giveUp(newError(model.CodeRequestTimedOut, true, "%w before the record was acknowledged", ErrClosed))
	}
	pt.gap = false
	pt.mu.Unlock()
	pt.finish()
}

// finish calls the callbacks of what was settled, one goroutine at a time, so that they come in order.
func (pt *producerPartition) finish() {
	pt.mu.Lock()
	if pt.finishing {
		pt.mu.Unlock()
		return
	}
	pt.finishing = true
	for len(pt.finished) > 0 {
		list := pt.finished
		pt.finished = nil
		pt.mu.Unlock()
		for _, b := range list {
			b.run(pt.topic.name, pt.number)
		}
		pt.mu.Lock()
		for _, b := range list {
			b.ran, b.callbacks, b.receipt = true, nil, nil
			if b.done != nil {
				close(b.done)
			}
		}
	}
	pt.finishing = false
	pt.mu.Unlock()
}
