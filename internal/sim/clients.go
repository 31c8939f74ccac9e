package sim

import (
	"slices"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
)

// producer is an idempotent producer for one partition, with several batches under way.
type producer struct {
	n       *node
	p       *partition
	acks    ackKind
	limit   int // batches under way
	pause   time.Duration
	pid     int64
	pepoch  int16
	nextSeq int32
	sent    []*sending // oldest first
	conn    *conn
	attempt int
	epoch   model.LeaderEpoch // the newest of the receipts
	blamed  bool              // the oldest was refused for its sequence once
	builder *record.Builder
	done    int64 // records acknowledged
}

// sending is a batch that is not acknowledged.
type sending struct {
	batch  batch
	oldest bool // it was the oldest when it was sent last
}

func newProducer(w *world, n *node, p *partition) *producer {
	pr := &producer{
		n: n, p: p, acks: acksAll, limit: 1 + w.intn(6), epoch: model.NoLeaderEpoch, pid: int64(n.index), pause: w.between(20*time.Millisecond, 200*time.Millisecond),
		builder: record.NewBuilder(record.BuilderOptions{InitialBytes: 512}),
	}
	if w.chance(0.25) {
		pr.acks = acksLeader
	}
	n.after(w.between(0, 100*time.Millisecond), pr.produce)
	n.after(0, pr.connect)
	return pr
}

// produce makes a batch now and then.
func (pr *producer) produce() {
	w := pr.n.w
	if !w.producing {
		return
	}
	pr.n.after(w.between(pr.pause/2, pr.pause*3/2), pr.produce)
	if len(pr.sent) >= pr.limit {
		return
	}
	s := &sending{batch: batch{count: int32(1 + w.intn(5)), pid: pr.pid, pepoch: pr.pepoch, seq: pr.nextSeq}}
	pr.nextSeq += s.batch.count
	pr.sent = append(pr.sent, s)
	if pr.conn != nil {
		pr.send(s)
	}
}

// connect finds the leader and sends what is not acknowledged, in order.
func (pr *producer) connect() {
	w := pr.n.w
	asked := w.brokers[w.intn(len(w.brokers))]
	attempt := pr.attempt
	w.net.call(pr.n, asked, 500*time.Millisecond, func(answer func(any)) {
		answer(asked.broker.leaderOf(pr.p))
	}, func(v any, _ callStatus) {
		if attempt != pr.attempt {
			return
		}
		leader, _ := v.(*node)
		if leader == nil {
			pr.again()
			return
		}
		c := w.net.dial(pr.n, leader)
		pr.conn = c
		c.closed[0] = func() {
			if pr.conn == c {
				pr.again()
			}
		}
		for _, s := range pr.sent {
			pr.send(s)
		}
	})
}

// leaderOf is the leader of a partition as a broker knows it, or nil.
func (b *broker) leaderOf(p *partition) *node {
	if st, ok := b.image.Partition(p.tp); ok {
		return b.w.nodeOf(st.Leader)
	}
	return nil
}

// again drops the connection and begins anew a little later.
func (pr *producer) again() {
	if pr.conn != nil {
		pr.conn.close(0)
		pr.conn = nil
	}
	pr.attempt++
	pr.n.after(pr.n.w.between(10*time.Millisecond, 150*time.Millisecond), pr.connect)
}

func (pr *producer) send(s *sending) {
	w, c, attempt, x := pr.n.w, pr.conn, pr.attempt, s.batch
	s.oldest = s == pr.sent[0]
	if w.storage() {
		raw, err := x.encode(pr.builder, w.now.Milliseconds())
		if err != nil {
			w.oracle.fail("producer %d cannot encode a batch: %v", pr.pid, err)
			return
		}
		x.raw = raw
	}
	leader := c.ends[1]
	epoch := pr.epoch
	c.send(0, func() {
		answer := func(rc receipt) { c.send(1, func() { pr.answered(s, attempt, rc) }) }
		if r := leader.broker.replica(pr.p.index); r != nil {
			r.produce(x, pr.acks, epoch, answer)
		} else {
			answer(receipt{code: model.CodeUnknownTopicOrPartition})
		}
	})
	pr.n.after(w.between(2*time.Second, 4*time.Second), func() {
		if attempt == pr.attempt && slices.Contains(pr.sent, s) {
			pr.again()
		}
	})
}

// answered takes the end of a request, perhaps one of a connection long given up.
func (pr *producer) answered(s *sending, attempt int, rc receipt) {
	w := pr.n.w
	i := slices.Index(pr.sent, s)
	if i < 0 {
		return
	}
	if rc.code == model.CodeNone {
		if pr.acks == acksAll {
			w.oracle.received(pr.p, rc.batch)
		}
		pr.sent = slices.Delete(pr.sent, i, i+1)
		pr.done += int64(s.batch.count)
		pr.blamed, pr.epoch = false, max(pr.epoch, rc.batch.epoch)
		return
	}
	if attempt != pr.attempt {
		return
	}
	w.note("produce-refused", pr.pid, int64(s.batch.seq), int64(rc.code), 0)
	switch rc.code { //nolint:exhaustive // all others are asked again
	case model.CodeOutOfOrderSequence, model.CodeUnknownProducerID, model.CodeInvalidProducerEpoch, model.CodeDuplicateSequence:
		if i == 0 && s.oldest {
			pr.outOfSequence(s, rc.code)
		}
	}
	pr.again()
}

// outOfSequence handles a refusal of the oldest batch: earlier ones are missing. With acks=all that cannot be; with
// acks=leader what was acknowledged may be lost, and the producer goes on in a new epoch.
func (pr *producer) outOfSequence(s *sending, code model.ErrorCode) {
	w := pr.n.w
	if pr.acks == acksAll && !w.oracle.parts[pr.p.index].forgiving {
		if pr.blamed {
			w.oracle.fail("%s: producer %d is refused with %s at %s by broker %d, and everything before was acknowledged; committed is all "+
				"before sequence %d", pr.p, pr.pid, code, s.batch, pr.conn.ends[1].id, w.oracle.parts[pr.p.index].next[pr.pid].seq)
		}
		pr.blamed = true
		return
	}
	pr.pepoch++
	pr.nextSeq = 0
	for _, s := range pr.sent {
		s.batch.pepoch, s.batch.seq = pr.pepoch, pr.nextSeq
		pr.nextSeq += s.batch.count
	}
}

// consumer reads one partition from the start on.
type consumer struct {
	n      *node
	p      *partition
	offset int64
	epoch  model.LeaderEpoch // the newest that data came in
}

func newConsumer(w *world, n *node, p *partition) *consumer {
	c := &consumer{n: n, p: p, epoch: model.NoLeaderEpoch}
	n.after(w.between(0, 200*time.Millisecond), c.poll)
	return c
}

func (c *consumer) poll() {
	w := c.n.w
	asked := w.brokers[w.intn(len(w.brokers))]
	later := func() { c.n.after(w.between(30*time.Millisecond, 250*time.Millisecond), c.poll) }
	w.net.call(c.n, asked, 300*time.Millisecond, func(answer func(any)) {
		answer(asked.broker.leaderOf(c.p))
	}, func(v any, _ callStatus) {
		leader, _ := v.(*node)
		if leader == nil {
			later()
			return
		}
		w.net.call(c.n, leader, 500*time.Millisecond, func(answer func(any)) {
			if r := leader.broker.replica(c.p.index); r != nil {
				answer(r.fetch(c.offset, c.epoch))
			}
		}, func(v any, _ callStatus) {
			if f, ok := v.(fetched); ok {
				c.take(f)
			}
			later()
		})
	})
}

func (c *consumer) take(f fetched) {
	w := c.n.w
	pr := w.oracle.parts[c.p.index]
	if f.code == model.CodeOffsetOutOfRange {
		if !pr.forgiving {
			w.oracle.fail("%s: a consumer at %d is told OFFSET_OUT_OF_RANGE", c.p, c.offset)
		}
		c.offset = min(c.offset, w.target(c.p))
		return
	}
	if end := w.target(c.p); pr.forgiving && c.offset > end {
		c.offset = end
		return
	}
	if pr.forgiving && !w.oracle.outcomes { // what was under way may be of before the lossy election
		for _, b := range f.batches {
			if at, ok := pr.at(b.base); !ok || !at.same(b) {
				return
			}
		}
	}
	c.epoch = max(c.epoch, f.epoch)
	if next := w.oracle.consumed(c.p, c.offset, f.batches); next > c.offset {
		w.note("read", int64(c.p.index), c.offset, next, 0)
		c.offset = next
	}
}
