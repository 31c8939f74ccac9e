package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rule names a promise that can be broken.
type Rule string

// The rules of Check.
const (
	RuleLost      Rule = "acked-lost"       // an acknowledged record is nowhere
	RuleMoved     Rule = "acked-elsewhere"  // an acknowledged record is not, or not as it was sent, at its (partition, offset)
	RuleTwice     Rule = "twice"            // a record stands in the log more than once
	RuleForeign   Rule = "foreign"          // a record was read that nobody sent, or whose key was changed
	RuleRefused   Rule = "refused-present"  // a record that certainly failed is in the log
	RuleOrder     Rule = "order"            // records of one key and producer changed their order
	RuleSplitKey  Rule = "split-key"        // records of one key stand in two partitions
	RuleReceipt   Rule = "receipt"          // a receipt says what cannot be
	RuleSamePlace Rule = "same-place"       // two records were promised the same (partition, offset)
	RuleGap       Rule = "gap"              // offsets of a partition are not contiguous from 0
	RuleEpoch     Rule = "leader-epoch"     // leader epochs fall along a partition, or differ between receipt and record
	RuleVanished  Rule = "read-vanished"    // what one consumer read another one did not find later, or found changed
	RuleAnswers   Rule = "too-many-answers" // more receipts than records
	maxTold            = 5                  // violations of one rule that are told in full
)

// Report is what Check found.
type Report struct {
	// Sent, Acked, Refused (certainly not in the log), Unknown (failed without saying so) and Unanswered records.
	Sent, Acked, Refused, Unknown, Unanswered int
	// Duplicates are receipts of retries whose original had arrived; Present is how many records the last view holds.
	Duplicates, Present int
	broken              map[Rule]int
	told                []string
}

// OK reports whether every promise was kept.
func (r *Report) OK() bool { return len(r.broken) == 0 }

// Broken returns how often a rule was broken.
func (r *Report) Broken(rule Rule) int { return r.broken[rule] }

// String sums the report up: one line when all is well, otherwise each broken rule with examples.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d acknowledged (%d duplicates answered), %d refused, %d of unknown outcome, %d unanswered; %d in the log",
		r.Sent, r.Acked, r.Duplicates, r.Refused, r.Unknown, r.Unanswered, r.Present)
	if r.OK() {
		return b.String() + "; every promise kept"
	}
	for _, rule := range slices.Sorted(maps.Keys(r.broken)) {
		fmt.Fprintf(&b, "\nBROKEN %s: %d times", rule, r.broken[rule])
	}
	for _, text := range r.told {
		b.WriteString("\n  " + text)
	}
	return b.String()
}

func (r *Report) violate(rule Rule, format string, args ...any) {
	r.broken[rule]++
	if r.broken[rule] <= maxTold {
		r.told = append(r.told, string(rule)+": "+fmt.Sprintf(format, args...))
	}
}

// place is a (partition, offset).
type place struct {
	partition int32
	offset    int64
}

func (p place) String() string { return fmt.Sprintf("%d/%d", p.partition, p.offset) }

// origin is where a value comes from: the producer and the number of the record within it.
type origin struct{ producer, number int }

// checker holds the indexes over a history.
type checker struct {
	*Report
	h       History
	promise Promise
	origins map[string]origin // by value
	places  map[string]place  // by value, in the last view
	last    []Read            // the last view, by partition and offset
}

// Check holds a history against what was promised. It needs at least one view; values that are not unique are the caller's
// mistake and reported as such.
func Check(h History, promise Promise) *Report {
	c := &checker{
		Report: &Report{broken: map[Rule]int{}}, h: h, promise: promise,
		origins: map[string]origin{}, places: map[string]place{},
	}
	for p, producer := range h.Producers {
		for n, sent := range producer.Sent {
			if _, twice := c.origins[sent.Value]; twice {
				c.violate(RuleForeign, "the test sent the value %q twice: values must be unique", sent.Value)
			}
			c.origins[sent.Value] = origin{p, n}
		}
		c.Sent += len(producer.Sent)
	}
	if len(h.Views) == 0 {
		c.violate(RuleLost, "nothing was read: there is no view")
		return c.Report
	}
	c.last = slices.SortedStableFunc(slices.Values(h.Views[len(h.Views)-1].Records), byPlace)
	c.Present = len(c.last)
	c.checkLog()
	c.checkReceipts()
	c.checkViews()
	return c.Report
}

func byPlace(a, b Read) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// checkLog looks at the last view alone: contiguous offsets, growing epochs, everything from a producer, once, in order.
func (c *checker) checkLog() {
	type sequence struct {
		producer int
		key      string
	}
	type end struct {
		partition int32
		number    int
	}
	ends := map[sequence]end{}
	next := place{partition: -1}
	var epoch int32
	for _, r := range c.last {
		at := place{r.Partition, r.Offset}
		if r.Partition != next.partition {
			next, epoch = place{r.Partition, 0}, -1
		}
		if at != next {
			c.violate(RuleGap, "after %d/%d comes %v", next.partition, next.offset-1, at)
		}
		next = place{r.Partition, r.Offset + 1}
		if r.LeaderEpoch >= 0 && r.LeaderEpoch < epoch {
			c.violate(RuleEpoch, "the record at %v has leader epoch %d, one before it %d", at, r.LeaderEpoch, epoch)
		}
		epoch = max(epoch, r.LeaderEpoch)
		from, known := c.origins[r.Value]
		if !known || c.h.Producers[from.producer].Sent[from.number].Key != r.Key {
			c.violate(RuleForeign, "the record at %v was never sent: key %q, value %q", at, r.Key, clip(r.Value))
			continue
		}
		if first, twice := c.places[r.Value]; twice {
			c.violate(RuleTwice, "record %d of %s stands at %v and at %v", from.number, c.h.Producers[from.producer].Name, first, at)
			continue
		}
		c.places[r.Value] = at
		key := sequence{from.producer, r.Key}
		before, seen := ends[key]
		switch {
		case seen && before.partition != r.Partition && !c.promise.Unkeyed:
			c.violate(RuleSplitKey, "key %q stands in partitions %d and %d", r.Key, before.partition, r.Partition)
		case seen && before.partition == r.Partition && before.number > from.number:
			c.violate(RuleOrder, "key %q of %s: record %d at %v stands behind record %d",
				r.Key, c.h.Producers[from.producer].Name, from.number, at, before.number)
		}
		ends[key] = end{r.Partition, from.number}
	}
}

// checkReceipts holds each promise against the last view.
func (c *checker) checkReceipts() {
	at := make(map[place]*Read, len(c.last))
	for i := range c.last {
		at[place{c.last[i].Partition, c.last[i].Offset}] = &c.last[i]
	}
	promised := map[place]origin{}
	for p, producer := range c.h.Producers {
		if len(producer.Receipts) > len(producer.Sent) {
			c.violate(RuleAnswers, "%s got %d receipts for %d records", producer.Name, len(producer.Receipts), len(producer.Sent))
			continue
		}
		c.Unanswered += len(producer.Sent) - len(producer.Receipts)
		for n, receipt := range producer.Receipts {
			name := fmt.Sprintf("record %d of %s", n, producer.Name)
			if receipt.Error != "" {
				c.checkFailure(name, producer.Sent[n], receipt)
				continue
			}
			c.checkFields(name, receipt)
			where := place{receipt.Partition, receipt.Offset}
			if other, taken := promised[where]; taken {
				c.violate(RuleSamePlace, "%s and record %d of %s were both promised %v",
					name, other.number, c.h.Producers[other.producer].Name, where)
			}
			promised[where] = origin{p, n}
			c.checkPresent(name, producer.Sent[n], receipt, at[where])
		}
	}
}

func (c *checker) checkFailure(name string, sent Sent, receipt Receipt) {
	if !receipt.Definite {
		c.Unknown++
		return
	}
	c.Refused++
	if there, present := c.places[sent.Value]; present {
		c.violate(RuleRefused, "%s failed for certain with %s, and stands at %v", name, receipt.Error, there)
	}
}

// checkFields looks at what a receipt says for itself.
func (c *checker) checkFields(name string, r Receipt) {
	c.Acked++
	if r.Duplicate {
		c.Duplicates++
	}
	bad := func(format string, args ...any) {
		c.violate(RuleReceipt, "%s: %s in %+v", name, fmt.Sprintf(format, args...), r)
	}
	switch {
	case r.Partition < 0 || r.Partition >= c.promise.Partitions:
		bad("no such partition")
	case r.Offset < 0 || r.LeaderEpoch < 0 || r.AppendTime <= 0:
		bad("no place or time")
	case r.ISR < max(1, c.promise.MinISR):
		bad("an ISR below min.insync.replicas (%d)", c.promise.MinISR)
	case r.Acked < max(1, c.promise.MinISR):
		bad("fewer acknowledgements than min.insync.replicas (%d)", c.promise.MinISR)
	case r.ISR > c.promise.Replicas || r.Acked > c.promise.Replicas:
		bad("more replicas than the replication factor (%d)", c.promise.Replicas)
	case c.promise.Fsync && r.FSynced != r.Acked:
		bad("acknowledged without fsync")
	case r.FSynced < 0 || r.FSynced > r.Acked:
		bad("more fsyncs than acknowledgements")
	}
}

// checkPresent looks for an acknowledged record at its place, where found is what stands there, and elsewhere.
func (c *checker) checkPresent(name string, sent Sent, receipt Receipt, found *Read) {
	where := place{receipt.Partition, receipt.Offset}
	there, present := c.places[sent.Value]
	switch {
	case !present:
		c.violate(RuleLost, "%s (key %q), acknowledged at %v in leader epoch %d by %d replicas, is not in the log",
			name, sent.Key, where, receipt.LeaderEpoch, receipt.Acked)
	case there != where:
		c.violate(RuleMoved, "%s was acknowledged at %v and stands at %v", name, where, there)
	case found.LeaderEpoch >= 0 && found.LeaderEpoch != receipt.LeaderEpoch:
		c.violate(RuleEpoch, "%s at %v: its receipt names leader epoch %d, the record has %d",
			name, where, receipt.LeaderEpoch, found.LeaderEpoch)
	}
}

// checkViews looks for what was read once and is not, or not the same, in the last view; and at the order within views.
func (c *checker) checkViews() {
	final := make(map[place]Read, len(c.last))
	for _, r := range c.last {
		final[place{r.Partition, r.Offset}] = r
	}
	for _, view := range c.h.Views {
		next := map[int32]int64{}
		for _, r := range view.Records {
			at := place{r.Partition, r.Offset}
			if r.Offset != next[r.Partition] {
				c.violate(RuleGap, "%s: in place of %d/%d came %v", view.Name, r.Partition, next[r.Partition], at)
			}
			next[r.Partition] = r.Offset + 1
			now, there := final[at]
			switch {
			case !there:
				c.violate(RuleVanished, "%s read %v (key %q), which is gone", view.Name, at, r.Key)
			case now.Key != r.Key || now.Value != r.Value:
				c.violate(RuleVanished, "%s read %v as %q, which is %q now", view.Name, at, clip(r.Value), clip(now.Value))
			case r.LeaderEpoch >= 0 && now.LeaderEpoch >= 0 && r.LeaderEpoch != now.LeaderEpoch:
				c.violate(RuleVanished, "%s read %v with leader epoch %d, which is %d now", view.Name, at, r.LeaderEpoch, now.LeaderEpoch)
			}
		}
	}
}

func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// CheckKeyed holds a complete view against the lines that were sent for each key, for payloads that repeat: every line is
// there, as often and in the order it was sent for its key, all of a key in one partition, offsets contiguous, nothing
// else. It returns what is wrong, at most a handful.
func CheckKeyed(sent map[string][]string, view View) []string {
	report := &Report{broken: map[Rule]int{}}
	records := slices.SortedStableFunc(slices.Values(view.Records), byPlace)
	got := make(map[string][]string, len(sent))
	home := map[string]int32{}
	next := place{partition: -1}
	for _, r := range records {
		if r.Partition != next.partition {
			next = place{r.Partition, 0}
		}
		if at := (place{r.Partition, r.Offset}); at != next {
			report.violate(RuleGap, "in place of %v comes %v", next, at)
		}
		next = place{r.Partition, r.Offset + 1}
		if p, seen := home[r.Key]; seen && p != r.Partition {
			report.violate(RuleSplitKey, "key %q stands in partitions %d and %d", r.Key, p, r.Partition)
		}
		home[r.Key] = r.Partition
		got[r.Key] = append(got[r.Key], r.Value)
	}
	for _, key := range slices.Sorted(maps.Keys(sent)) {
		compareKey(report, key, sent[key], got[key])
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, known := sent[key]; !known {
			report.violate(RuleForeign, "key %q was never sent", key)
		}
	}
	return report.told
}

func compareKey(report *Report, key string, sent, got []string) {
	for i := range min(len(sent), len(got)) {
		if sent[i] != got[i] {
			report.violate(RuleOrder, "key %q: record %d is %q, sent was %q", key, i, clip(got[i]), clip(sent[i]))
			return
		}
	}
	if len(sent) != len(got) {
		report.violate(RuleLost, "key %q: %d records were sent, %d came back", key, len(sent), len(got))
	}
}
