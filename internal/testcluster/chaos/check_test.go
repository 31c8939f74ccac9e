package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// goodHistory is two producers, three keys, two partitions, two leader epochs, a failure of each kind, and two views.
func goodHistory() History {
	h := History{Producers: []Producer{{Name: "p0"}, {Name: "p1"}}}
	var log []Read
	next := map[int32]int64{}
	for n := range 30 {
		for p := range h.Producers {
			producer := &h.Producers[p]
			sent := Sent{Key: fmt.Sprintf("k%d", n%3), Value: fmt.Sprintf("p%d-%04d", p, n)}
			producer.Sent = append(producer.Sent, sent)
			partition, epoch := int32(n%3%2), int32(n/15)
			receipt := Receipt{
				Partition: partition, Offset: next[partition], LeaderEpoch: epoch, AppendTime: 1_764_000_000_000,
				ISR: 3, Acked: 3, FSynced: 3, Duplicate: n == 9,
			}
			written := true
			switch {
			case p == 1 && n == 10:
				receipt, written = Receipt{Error: "BATCH_TOO_LARGE", Definite: true}, false
			case p == 1 && n == 11:
				receipt = Receipt{Error: "REQUEST_TIMED_OUT"} // and yet it is in the log
			case p == 1 && n == 12:
				receipt, written = Receipt{Error: "REQUEST_TIMED_OUT"}, false
			}
			if written {
				log = append(log, Read{Partition: partition, Offset: next[partition], LeaderEpoch: epoch, Key: sent.Key, Value: sent.Value})
				next[partition]++
			}
			if p == 0 || n < 28 { // the last two of p1 were not answered
				producer.Receipts = append(producer.Receipts, receipt)
			}
		}
	}
	h.Views = []View{{Name: "early", Records: slices.Clone(log[:20])}, {Name: "last", Records: log}}
	return h
}

var goodPromise = Promise{Partitions: 2, MinISR: 2, Replicas: 3, Fsync: true}

func TestCheckGoodHistory(t *testing.T) {
	report := Check(goodHistory(), goodPromise)
	if !report.OK() {
		t.Fatal(report)
	}
	if report.Sent != 60 || report.Acked != 55 || report.Refused != 1 || report.Unknown != 2 || report.Unanswered != 2 ||
		report.Duplicates != 2 || report.Present != 58 {
		t.Fatalf("counts: %v", report)
	}
	if !strings.Contains(report.String(), "every promise kept") {
		t.Fatalf("summary: %v", report)
	}
}

// TestCheckWrongHistories plants one fault at a time; each must be found under its own name.
func TestCheckWrongHistories(t *testing.T) {
	last := func(h *History) *[]Read { return &h.Views[len(h.Views)-1].Records }
	// renumber gives the records of a changed view offsets without gaps.
	renumber := func(view *[]Read) {
		next := map[int32]int64{}
		for i := range *view {
			r := &(*view)[i]
			r.Offset = next[r.Partition]
			next[r.Partition]++
		}
	}
	acked := func(h *History, n int) *Receipt { return &h.Producers[0].Receipts[n] }
	for _, c := range []struct {
		name  string
		rule  Rule
		plant func(h *History, p *Promise)
	}{
		{"an acknowledged record is lost at the end", RuleLost, func(h *History, _ *Promise) {
			view := last(h)
			*view = (*view)[:len(*view)-2]
		}},
		{"an acknowledged record is lost in the middle", RuleLost, func(h *History, _ *Promise) {
			view := last(h)
			*view = slices.Delete(*view, 30, 31)
			renumber(view)
		}},
		{"records moved to other offsets", RuleMoved, func(h *History, _ *Promise) {
			view := last(h)
			(*view)[30], (*view)[31] = (*view)[31], (*view)[30]
			(*view)[30].Offset, (*view)[31].Offset = (*view)[31].Offset, (*view)[30].Offset
		}},
		{"nothing was read", RuleLost, func(h *History, _ *Promise) { h.Views = nil }},
		{"a retry was appended twice", RuleTwice, func(h *History, _ *Promise) {
			view := last(h)
			again := (*view)[len(*view)-1]
			again.Offset++
			*view = append(*view, again)
		}},
		{"a record of unknown outcome was appended twice", RuleTwice, func(h *History, _ *Promise) {
			view := last(h)
			i := slices.IndexFunc(*view, func(r Read) bool { return r.Value == "p1-0011" })
			again := (*view)[i]
			again.Offset = 1000
			*view = append(*view, again)
		}},
		{"a record nobody sent", RuleForeign, func(h *History, _ *Promise) { (*last(h))[57].Value = "p9-0001" }},
		{"a key was changed", RuleForeign, func(h *History, _ *Promise) { (*last(h))[57].Key = "k9" }},
		{"the test's values are not unique", RuleForeign, func(h *History, _ *Promise) {
			h.Producers[1].Sent[5].Value = h.Producers[0].Sent[5].Value
		}},
		{"a record that failed for certain is there", RuleRefused, func(h *History, _ *Promise) {
			h.Producers[0].Receipts[29] = Receipt{Error: "CORRUPT_BATCH", Definite: true}
		}},
		{"records of one key changed their order", RuleOrder, func(h *History, _ *Promise) {
			for _, view := range h.Views {
				a := slices.IndexFunc(view.Records, func(r Read) bool { return r.Value == "p0-0000" })
				b := slices.IndexFunc(view.Records, func(r Read) bool { return r.Value == "p0-0003" })
				view.Records[a].Value, view.Records[b].Value = view.Records[b].Value, view.Records[a].Value
			}
			*acked(h, 0), *acked(h, 3) = *acked(h, 3), *acked(h, 0)
		}},
		{"a key in two partitions", RuleSplitKey, func(h *History, _ *Promise) {
			view := last(h)
			(*view)[57].Partition = 1 - (*view)[57].Partition
			renumber(view)
		}},
		{"an ISR below the minimum", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).ISR = 1 }},
		{"acknowledged by the leader alone", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).Acked, acked(h, 4).FSynced = 1, 1 }},
		{"acknowledged without fsync", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).FSynced = 2 }},
		{"more fsyncs than acknowledgements", RuleReceipt, func(h *History, p *Promise) { p.Fsync, acked(h, 4).Acked = false, 2 }},
		{"more acknowledgements than replicas", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).Acked, acked(h, 4).FSynced = 4, 4 }},
		{"no such partition", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).Partition = 2 }},
		{"an offset of -1", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).Offset = -1 }},
		{"no append time", RuleReceipt, func(h *History, _ *Promise) { acked(h, 4).AppendTime = 0 }},
		{"two receipts for one place", RuleSamePlace, func(h *History, _ *Promise) { acked(h, 6).Offset = acked(h, 0).Offset }},
		{"a gap in the offsets", RuleGap, func(h *History, _ *Promise) { (*last(h))[57].Offset += 3 }},
		{"the log does not begin at 0", RuleGap, func(h *History, _ *Promise) { *last(h) = (*last(h))[1:] }},
		{"an offset comes twice in a view", RuleGap, func(h *History, _ *Promise) {
			early := &h.Views[0].Records
			*early = append(*early, (*early)[19])
		}},
		{"the leader epoch falls", RuleEpoch, func(h *History, _ *Promise) { (*last(h))[57].LeaderEpoch = 0 }},
		{"a receipt names another leader epoch", RuleEpoch, func(h *History, _ *Promise) { acked(h, 20).LeaderEpoch = 0 }},
		{"what was read is gone", RuleVanished, func(h *History, _ *Promise) {
			view := last(h)
			h.Views[0].Records = slices.Clone(*view)
			*view = (*view)[:len(*view)-2]
		}},
		{"what was read has another epoch now", RuleVanished, func(h *History, _ *Promise) { h.Views[0].Records[3].LeaderEpoch = 1 }},
		{"what was read has another value now", RuleVanished, func(h *History, _ *Promise) { h.Views[0].Records[3].Value = "p0-x" }},
		{"more receipts than records", RuleAnswers, func(h *History, _ *Promise) {
			h.Producers[0].Receipts = append(h.Producers[0].Receipts, *acked(h, 0))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, promise := goodHistory(), goodPromise
			c.plant(&h, &promise)
			report := Check(h, promise)
			if report.OK() || report.Broken(c.rule) == 0 {
				t.Fatalf("planted: %s; want a violation of %s, got: %v", c.name, c.rule, report)
			}
			if !strings.Contains(report.String(), string(c.rule)) {
				t.Fatalf("the summary does not name %s: %v", c.rule, report)
			}
		})
	}
}

func TestParseReceipts(t *testing.T) {
	good := `{"partition":0,"offset":17,"leader_epoch":2,"append_time":1764000000000,"isr":3,"acked":3,"fsynced":3,"duplicate":false}
{"error":"NOT_ENOUGH_REPLICAS","definite":true}
`
	var got []Receipt
	if err := ParseReceipts(strings.NewReader(good), func(r Receipt) { got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	want := []Receipt{
		{Offset: 17, LeaderEpoch: 2, AppendTime: 1764000000000, ISR: 3, Acked: 3, FSynced: 3},
		{Error: "NOT_ENOUGH_REPLICAS", Definite: true},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v", got)
	}
	for _, bad := range []string{
		"no json", `{"partition":0,"offset":17}`, `{"error":"X"}`, `{"error":"X","definite":true,"offset":4}`,
		`{"partition":"0","offset":17,"leader_epoch":2,"append_time":1,"isr":3,"acked":3,"fsynced":3,"duplicate":false}`,
		`{"partition":0,"offset":17,"leader_epoch":2,"append_time":1,"isr":3,"acked":3,"fsynced":3,"duplicate":false,"x":1}`,
	} {
		if err := ParseReceipts(strings.NewReader(bad), func(Receipt) {}); err == nil {
			t.Errorf("%s: taken for a receipt", bad)
		}
	}
}

func TestCheckKeyed(t *testing.T) {
	sent := map[string][]string{"a": {"x", "x", "", "y\r"}, "b": {"x"}}
	good := func() View {
		return View{Name: "v", Records: []Read{
			{Partition: 1, Offset: 0, Key: "a", Value: "x"},
			{Partition: 1, Offset: 1, Key: "a", Value: "x"},
			{Partition: 0, Offset: 0, Key: "b", Value: "x"},
			{Partition: 1, Offset: 2, Key: "a", Value: ""},
			{Partition: 1, Offset: 3, Key: "a", Value: "y\r"},
		}}
	}
	if wrong := CheckKeyed(sent, good()); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	for name, plant := range map[string]func(v *View){
		"lost":       func(v *View) { v.Records = v.Records[:4] },
		"twice":      func(v *View) { v.Records = append(v.Records, Read{Partition: 1, Offset: 4, Key: "a", Value: "y\r"}) },
		"a CR lost":  func(v *View) { v.Records[4].Value = "y" },
		"order":      func(v *View) { v.Records[3].Value, v.Records[4].Value = "y\r", "" },
		"foreign":    func(v *View) { v.Records = append(v.Records, Read{Partition: 1, Offset: 4, Key: "c", Value: "z"}) },
		"gap":        func(v *View) { v.Records[4].Offset = 9 },
		"split key":  func(v *View) { v.Records[4].Partition, v.Records[4].Offset = 0, 1 },
		"no records": func(v *View) { v.Records = nil },
	} {
		view := good()
		plant(&view)
		if wrong := CheckKeyed(sent, view); len(wrong) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}
