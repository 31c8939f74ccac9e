package storage

import (
	"fmt"
	"math"
)

// RetentionPolicy is what a topic's settings say of its log's age and size. The zero value deletes everything at once: -1
// stands for "for ever" and "any size".
type RetentionPolicy struct {
	// Delete says that cleanup.policy has "delete"; without it nothing goes.
	Delete bool
	// Ms is retention.ms, Bytes is retention.bytes; negative values have no bound.
	Ms, Bytes int64
}

// RetentionInput is what a retention step is decided on besides the log.
type RetentionInput struct {
	// NowMs is the wall clock in ms since 1970.
	NowMs int64
	// HighWatermark is the replica's: nothing at or above it goes.
	HighWatermark int64
	// Clock says how far NowMs can be believed.
	Clock ClockVerdict
}

// RetentionSegment is one segment as the decision sees it.
type RetentionSegment struct {
	// Base and Next bound the offsets, Next is exclusive; Size is in bytes.
	Base, Next, Size int64
	// MaxTimestamp is the largest timestamp, in ms since 1970; negative where no record has one or there is no record.
	MaxTimestamp int64
}

// KeptReason is one reason why the oldest segment of a log is still there.
type KeptReason uint8

// The reasons why data is kept.
const (
	// KeptPolicy: cleanup.policy has no "delete".
	KeptPolicy KeptReason = iota + 1
	// KeptForever: retention.ms is -1.
	KeptForever
	// KeptAnySize: retention.bytes is -1.
	KeptAnySize
	// KeptByTime: the segment's latest record is younger than retention.ms.
	KeptByTime
	// KeptFutureTimestamp: the segment's latest record has a timestamp in the future, and is kept until then and retention.ms.
	KeptFutureTimestamp
	// KeptNoTimestamp: no record of the segment has a timestamp, and the segments behind it are not past retention.ms.
	KeptNoTimestamp
	// KeptBySize: without the segment the log would be smaller than retention.bytes.
	KeptBySize
	// KeptHighWatermark: not all records of the segment are committed.
	KeptHighWatermark
	// KeptActiveSegment: the segment is being written to, and goes by age alone.
	KeptActiveSegment
	// KeptClockJumped: the segment is past retention.ms, by a clock that is not believed.
	KeptClockJumped
	// KeptEmpty: there is nothing in it.
	KeptEmpty
)

var keptNames = [...]string{
	KeptPolicy: "cleanup.policy keeps old records", KeptForever: "retention.ms is -1", KeptAnySize: "retention.bytes is -1",
	KeptByTime: "younger than retention.ms", KeptFutureTimestamp: "its latest timestamp lies in the future",
	KeptNoTimestamp: "its records have no timestamps", KeptBySize: "within retention.bytes",
	KeptHighWatermark: "not committed yet", KeptActiveSegment: "it is being written to",
	KeptClockJumped: "the clock jumped, deletions by age are paused", KeptEmpty: "it is empty",
}

// String says the reason for people.
func (r KeptReason) String() string {
	if int(r) < len(keptNames) && keptNames[r] != "" {
		return keptNames[r]
	}
	return fmt.Sprintf("KeptReason(%d)", uint8(r))
}

// Kept says why the oldest segment that stays is kept, and all behind it with it.
type Kept struct {
	// Reason is one of the reasons; each of those returned stands by itself.
	Reason KeptReason
	// Base is the first offset of the segment.
	Base int64
	// UntilMs is when the reason ends by itself, in ms since 1970; 0 where time alone does not end it.
	UntilMs int64
	// MissingBytes is how much more must be appended until the reason ends, for KeptBySize.
	MissingBytes int64
}

// RetentionDecision is what DecideRetention decides.
type RetentionDecision struct {
	// Segments is how many segments go, from the first on, the active one included.
	Segments int
	// Start is the LogStartOffset afterwards.
	Start int64
	// Bytes is how much goes.
	Bytes int64
	// Paused says that more would have gone by age if the clock were believed.
	Paused bool
	// Kept are the reasons why the first segment that stays is kept; none where nothing stays.
	Kept []Kept
}

// DecideRetention decides which of the oldest segments of a log go. The last of segs is the active one, which goes by age
// alone, when it is to be rolled first. It is a pure function.
func DecideRetention(segs []RetentionSegment, logStart int64, p RetentionPolicy, in RetentionInput) RetentionDecision {
	d := RetentionDecision{Start: logStart}
	if len(segs) == 0 {
		return d
	}
	var total int64
	for _, s := range segs {
		total += s.Size
	}
	trusted := in.Clock == ClockTrusted || (in.Clock == ClockDoubtful && !allExpired(segs, p, in.NowMs))
	for i, s := range segs {
		active := i == len(segs)-1
		aged := expired(segs, i, p, in.NowMs)
		tooMuch := !active && p.Bytes >= 0 && total-s.Size >= p.Bytes
		blocked := !p.Delete || s.Next > in.HighWatermark || s.Size == 0 && active
		if !blocked && (aged && trusted || tooMuch) {
			d.Segments, d.Start, d.Bytes = i+1, max(d.Start, s.Next), d.Bytes+s.Size
			total -= s.Size
			continue
		}
		d.Paused = !blocked && aged
		d.Kept = keptBy(segs, i, total, p, in, aged)
		return d
	}
	return d
}

// ageOf is the timestamp that decides over segment i: its own, or where no record of it has one that of the next that does.
func ageOf(segs []RetentionSegment, i int) (ms int64, ok bool) {
	for ; i < len(segs); i++ {
		if ms := segs[i].MaxTimestamp; ms >= 0 {
			return ms, true
		}
	}
	return 0, false
}

func expired(segs []RetentionSegment, i int, p RetentionPolicy, nowMs int64) bool {
	ms, ok := ageOf(segs, i)
	return ok && p.Ms >= 0 && nowMs-ms > p.Ms
}

// allExpired says whether nothing with records would stay.
func allExpired(segs []RetentionSegment, p RetentionPolicy, nowMs int64) bool {
	for i, s := range segs {
		if s.Size > 0 && !expired(segs, i, p, nowMs) {
			return false
		}
	}
	return true
}

// keptBy collects the reasons that keep segment i.
func keptBy(segs []RetentionSegment, i int, total int64, p RetentionPolicy, in RetentionInput, aged bool) []Kept {
	s, active := segs[i], i == len(segs)-1
	var kept []Kept
	add := func(k Kept) { k.Base = s.Base; kept = append(kept, k) }
	switch {
	case active && s.Size == 0:
		add(Kept{Reason: KeptEmpty})
		return kept
	case !p.Delete:
		add(Kept{Reason: KeptPolicy})
		return kept
	case s.Next > in.HighWatermark:
		add(Kept{Reason: KeptHighWatermark})
	}
	switch ms, ok := ageOf(segs, i); {
	case p.Ms < 0:
		add(Kept{Reason: KeptForever})
	case aged && in.Clock != ClockTrusted:
		add(Kept{Reason: KeptClockJumped})
	case aged:
	case !ok || s.MaxTimestamp < 0:
		add(Kept{Reason: KeptNoTimestamp})
	case ms > in.NowMs:
		add(Kept{Reason: KeptFutureTimestamp, UntilMs: after(ms, p.Ms)})
	default:
		add(Kept{Reason: KeptByTime, UntilMs: after(ms, p.Ms)})
	}
	switch {
	case p.Bytes < 0:
		add(Kept{Reason: KeptAnySize})
	case active:
		add(Kept{Reason: KeptActiveSegment})
	case total-s.Size < p.Bytes:
		add(Kept{Reason: KeptBySize, MissingBytes: p.Bytes - (total - s.Size)})
	}
	return kept
}

// after is the first ms at which something of time ms is older than age.
func after(ms, age int64) int64 {
	if ms > math.MaxInt64-1-age {
		return math.MaxInt64
	}
	return ms + age + 1
}

// RetentionResult is what Log.RetentionStep did.
type RetentionResult struct {
	RetentionDecision
	// Rolled says that the active segment was sealed because all of it is past retention.ms.
	Rolled bool
}

// RetentionStep decides which records are too old or too many, and raises the LogStartOffset above them; the result's Start is
// the new one. It is for the leader alone: followers follow. The files go with the next Dir.Checkpoint. A log that is
// in order and has nothing to delete costs no I/O, but for the age of its oldest segment, once after each opening. Errors
// are those of Trim and Roll; nothing is deleted by a damaged log.
func (l *Log) RetentionStep(p RetentionPolicy, in RetentionInput) (RetentionResult, error) {
	segs, end, err := l.retentionSegments(p, in)
	if err != nil || len(segs) == 0 {
		return RetentionResult{RetentionDecision: RetentionDecision{Start: l.LogStartOffset()}}, err
	}
	res := RetentionResult{RetentionDecision: DecideRetention(segs, l.LogStartOffset(), p, in)}
	if res.Segments == 0 {
		return res, nil
	}
	if res.Segments == len(segs) {
		if res.Rolled, err = l.rollAt(end); err != nil {
			return RetentionResult{}, err
		}
		if !res.Rolled { // appended to meanwhile
			segs[len(segs)-1].MaxTimestamp = in.NowMs
			res.RetentionDecision = DecideRetention(segs, l.LogStartOffset(), p, in)
		}
	}
	if err := l.Trim(res.Start); err != nil {
		return RetentionResult{}, err
	}
	res.Start = l.LogStartOffset()
	return res, nil
}

// ExplainRetention says what RetentionStep would do and why the oldest records are kept. It changes nothing.
func (l *Log) ExplainRetention(p RetentionPolicy, in RetentionInput) (RetentionDecision, error) {
	segs, _, err := l.retentionSegments(p, in)
	if err != nil || len(segs) == 0 {
		return RetentionDecision{Start: l.LogStartOffset()}, err
	}
	return DecideRetention(segs, l.LogStartOffset(), p, in), nil
}

// retentionSegments describes the segments; ages are looked up from the first on, as far as they matter.
func (l *Log) retentionSegments(p RetentionPolicy, in RetentionInput) (segs []RetentionSegment, end int64, err error) {
	v := l.view.Load()
	if v.closed || l.Damage() != nil {
		return nil, 0, nil
	}
	segs = make([]RetentionSegment, len(v.segs))
	ageMatters := p.Delete && p.Ms >= 0
	for i, s := range v.segs {
		r := RetentionSegment{Base: s.base, Next: s.next, Size: v.limit(i), MaxTimestamp: NoAge}
		if i == len(v.segs)-1 {
			r.Next, r.MaxTimestamp = v.end, max(v.maxTs, NoAge)
		} else if ageMatters {
			ms, err := l.sealedMaxTimestamp(v, s)
			if err != nil {
				return nil, 0, fmt.Errorf("age of %s: %w", s.logName(), err)
			}
			r.MaxTimestamp = max(ms, NoAge)
			ageMatters = in.NowMs-r.MaxTimestamp > p.Ms
		} else {
			r.MaxTimestamp = in.NowMs // not asked: a younger one lies before it
		}
		segs[i] = r
	}
	return segs, v.end, nil
}

// NoAge is the MaxTimestamp of a RetentionSegment without one.
const NoAge int64 = -1

// rollAt seals the active segment unless the log does not end at end any more.
func (l *Log) rollAt(end int64) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writable(); err != nil {
		return false, err
	}
	if l.end != end || l.pos == 0 {
		return false, nil
	}
	return true, l.roll()
}

// ReleaseTrimmed seals the active segment where it lies wholly below the LogStartOffset, so that the next Dir.Checkpoint frees
// its space: on a follower, after its leader has deleted everything. It says whether it did.
func (l *Log) ReleaseTrimmed() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.damage != nil || l.pos == 0 || l.start < l.end {
		return false, nil
	}
	if err := l.writable(); err != nil {
		return false, err
	}
	if err := l.roll(); err != nil {
		return false, err
	}
	l.setAsideTrimmed()
	l.publish()
	return true, nil
}

// setAsideTrimmed moves the segments that lie wholly below the LogStartOffset to the trimmed ones. The caller holds mu.
func (l *Log) setAsideTrimmed() {
	n := 0
	for n < len(l.segs)-1 && l.segs[n].next <= l.start {
		n++
	}
	if n > 0 {
		l.trimmed = append(l.trimmed[:len(l.trimmed):len(l.trimmed)], l.segs[:n]...)
		l.segs = append([]*segment(nil), l.segs[n:]...)
	}
}
