package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/client"
)

func TestOffsetRanges(t *testing.T) {
	now := time.UnixMilli(1800000000000)
	for in, want := range map[string]offsetRange{
		"start": {from: client.AtStart()}, "end": {from: client.AtEnd()}, "42": {from: client.AtOffset(42)},
		"+5": {from: client.AfterStart(5)}, "-7": {from: client.BeforeEnd(7)},
		"20..30": {from: client.AtOffset(20), end: client.AtOffset(30)}, "5..5": {from: client.AtOffset(5), end: client.AtOffset(5)},
		"@-1h": {from: client.AtTime(now.Add(-time.Hour))}, "@1764000000000": {from: client.AtTime(time.UnixMilli(1764000000000))},
		"@-2h..-90m":                    {from: client.AtTime(now.Add(-2 * time.Hour)), end: client.AtTime(now.Add(-90 * time.Minute))},
		"@2026-01-01T00:00:00Z":         {from: client.AtTime(time.UnixMilli(1767225600000))},
		"@0..2026-01-01T01:00:00+01:00": {from: client.AtTime(time.UnixMilli(0)), end: client.AtTime(time.UnixMilli(1767225600000))},
	} {
		if got, err := parseOffsetRange(in, now); err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "+", "-", "--1", "1..", "..1", "9..3", "1e3", "99999999999999999999", "@", "@x", "@1h", "@-1", "@5..4", "@0..", "@-1h..x", "@2026-01-01"} {
		var usage *usageError
		if _, err := parseOffsetRange(in, now); !errors.As(err, &usage) {
			t.Errorf("%q: got %v, want a usage error", in, err)
		}
	}
}

func TestFormat(t *testing.T) {
	rec := &client.Record{
		Topic: "logs", Partition: 3, Offset: 17, Key: []byte("k"), Value: []byte("v\r"),
		TimestampMs: 1764000000000,
		Headers:     []client.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}},
	}
	for in, want := range map[string]string{
		`%v\n`: "v\r\n", `%t/%p@%o`: "logs/3@17", `%k\t%d%%`: "k\t1764000000000%",
		`[%h{%k=%v }]\x00`: "[a=1 b= ]\x00", `\\n`: `\n`, ``: ``,
	} {
		f, err := parseFormat(in, false)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := string(f.append(nil, rec)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{`%`, `%q`, `\`, `\q`, `\x1`, `\xzz`, `%h`, `%h{%k`, `%h{%o}`} {
		var usage *usageError
		if _, err := parseFormat(in, false); !errors.As(err, &usage) {
			t.Errorf("%q: got %v, want a usage error", in, err)
		}
	}
}

func TestJSONRecordKeepsBytes(t *testing.T) {
	got, err := json.Marshal(newJSONRecord(&client.Record{
		Topic: "t", Value: []byte{0xff, 0}, TimestampMs: 5,
		Headers: []client.Header{{Key: "h", Value: []byte("ü")}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"topic":"t","partition":0,"offset":0,"timestamp":5,"key":null,"value":{"base64":"/wA="},` +
		`"headers":[{"key":"h","value":"ü"}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// TestLinesGiveEveryByteBack joins what the reader split and compares with the input.
func TestLinesGiveEveryByteBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringMatching(`[ab\r\n]{0,40}`).Draw(t, "input")
		r := newLineReader(strings.NewReader(in), 1000)
		var lines []string
		for {
			line, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		}
		var want []string
		if in != "" {
			want = strings.Split(strings.TrimSuffix(in, "\n"), "\n")
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLongLinesFailAlone(t *testing.T) {
	long := strings.Repeat("x", 300<<10)
	r := newLineReader(strings.NewReader("ok\n"+long+"\nstill\n"+long), 1<<10)
	var got []string
	for {
		line, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			if diff := cmp.Diff([]string{"ok", "LONG", "still", "LONG"}, got); diff != "" {
				t.Error(diff)
			}
			return
		case errors.Is(err, errLineTooLong):
			got = append(got, "LONG")
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, string(line))
		}
	}
}

// TestPossiblyLossyElectionsAreShown looks at a partition whose last election may have lost records, and one where not.
func TestPossiblyLossyElectionsAreShown(t *testing.T) {
	topic := client.Topic{Name: "t", Partitions: []client.Partition{{Partition: 0}, {Partition: 1, PossiblyLossy: true}}}
	var out strings.Builder
	if err := partitionTable(&out, describedTopic(topic, nil, nil).Partitions, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "partition 1: its last election may have lost") || strings.Contains(text, "partition 0: its") {
		t.Error(text)
	}
}
