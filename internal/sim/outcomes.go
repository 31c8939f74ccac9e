package sim

import (
	"cmp"
	"io"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
)

// RunOutcomes plays the schedule of a seed and judges it by what clients have seen alone, as a checker of histories does: every
// record acknowledged with acks=all or read by a consumer is in the log at the end, once, at its offset, and nothing that was
// seen has changed. It knows nothing of in-sync sets, epochs or disks.
func RunOutcomes(mode Mode, seed uint64, trace io.Writer) Result {
	w := newWorld(mode, seed, trace)
	w.oracle.outcomes = true
	w.play()
	return w.result(seed)
}

// see notes a batch that a client has been told of, or has read.
func (o *oracle) see(pr *promised, b batch) {
	i, known := slices.BinarySearchFunc(pr.seen, b.base, func(s batch, base int64) int { return cmp.Compare(s.base, base) })
	switch {
	case pr.forgiving:
	case known && !pr.seen[i].sameContent(b):
		o.fail("%s: offset %d held %s and holds %s", pr.p, b.base, pr.seen[i], b)
	case !known:
		b.raw = nil
		pr.seen = slices.Insert(pr.seen, i, b)
	}
}

// target is where all replicas of a partition are to be at the end.
func (w *world) target(p *partition) int64 {
	if !w.oracle.outcomes {
		return w.oracle.parts[p.index].end()
	}
	st, ok := w.raft.latest().Partition(p.tp)
	if !ok || st.Leader == model.NoNode {
		return 0
	}
	if r := w.nodeOf(st.Leader).broker.replica(p.index); r != nil {
		return r.core.Log().HighWatermark
	}
	return 0
}

// kept checks at the end that a log holds all that was seen, each batch once.
func (o *oracle) kept(pr *promised, batches []batch) {
	if pr.forgiving {
		return
	}
	next := map[int64]sequence{}
	for _, b := range batches {
		if want, known := next[b.pid]; known && want.pepoch == b.pepoch && want.seq != b.seq {
			o.fail("%s: the log holds %s at %d, the producer's next was %d", pr.p, b, b.base, want.seq)
		}
		next[b.pid] = sequence{b.pepoch, b.seq + b.count}
	}
	for _, s := range pr.seen {
		i, found := slices.BinarySearchFunc(batches, s.base, func(b batch, base int64) int { return cmp.Compare(b.base, base) })
		if !found || !batches[i].sameContent(s) {
			o.fail("%s: %s was acknowledged or read at %d and is not there", pr.p, s, s.base)
			return
		}
	}
}
