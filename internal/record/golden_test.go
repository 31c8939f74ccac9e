package record

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// The golden batches are written down field by field from the protocol's description; their CRCs come from the bitwise
// form of CRC-32C (reflected polynomial 0x82f63b78), not from this package.

const goldenTime int64 = 1_700_000_000_000 // 0x018bcfe56800

const goldenSmall = `
0000000000000000  base offset
0000003b          length
ffffffff          leader epoch
02                magic
0f776885          crc
0000              attributes
00000000          last offset delta
0000018bcfe56800  base timestamp
0000018bcfe56800  max timestamp
ffffffffffffffff  producer id
ffff              producer epoch
ffffffff          base sequence
00000001          count
12 00 00 00 026b 047631 00   record: length, attributes, deltas, key, value, header count
`

var goldenRich = `
0000000000000000  base offset
00000091          length
ffffffff          leader epoch
02                magic
3fd98038          crc
0000              attributes
00000002          last offset delta
0000018bcfe56800  base timestamp
0000018bcfe5692c  max timestamp
0000000000001234  producer id
0005              producer epoch
7ffffffe          base sequence
00000003          count
0c 00 00 00 01 00 00                      null key, empty value
1c 00 d804 02 00 01 04 0268 0278 026e 01  empty key, null value, headers h=x and n=null
9001 00 01 04 0261 8001 ` + strings.Repeat("7a", 64) + ` 00  64 bytes, one millisecond before the base
`

// fromGolden takes the hexadecimal words of each line: two blanks begin the explanation.
func fromGolden(tb testing.TB, text string) []byte {
	tb.Helper()
	var all strings.Builder
	for line := range strings.Lines(text) {
		words, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		all.WriteString(strings.ReplaceAll(words, " ", ""))
	}
	b, err := hex.DecodeString(all.String())
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func goldenRichRecords() []Record {
	return []Record{
		{Value: []byte{}, Timestamp: goldenTime},
		{Key: []byte{}, Headers: []RecordHeader{{Key: "h", Value: []byte("x")}, {Key: "n"}}, Timestamp: goldenTime + 300},
		{Key: []byte("a"), Value: bytes.Repeat([]byte("z"), 64), Timestamp: goldenTime - 1},
	}
}

// bitwiseCRC is CRC-32C from its definition.
func bitwiseCRC(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78&-(crc&1)
		}
	}
	return ^crc
}

func TestGoldenBatches(t *testing.T) {
	for _, tc := range []struct {
		name, golden string
		records      []Record
		producerID   int64
		epoch        int16
		sequence     int32
		last         int32
	}{
		{"small", goldenSmall, []Record{{Key: []byte("k"), Value: []byte("v1"), Timestamp: goldenTime}}, -1, -1, -1, -1},
		{"rich", goldenRich, goldenRichRecords(), 0x1234, 5, 0x7ffffffe, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := fromGolden(t, tc.golden)
			b := NewBuilder(BuilderOptions{MaxBytes: len(want)})
			for i, r := range tc.records {
				if !b.Fits(r) {
					t.Fatalf("record %d does not fit %d bytes", i, len(want))
				}
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
			got, err := b.Finish(None, tc.producerID, tc.epoch, tc.sequence)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("built\n%x, want\n%x", got, want)
			}
			h, err := Validate([][]byte{want}, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if crc := bitwiseCRC(want[posAttributes:]); h.CRC != crc {
				t.Fatalf("CRC %#x, by definition %#x", h.CRC, crc)
			}
			if h.LastSequence() != tc.last || h.Count != int32(len(tc.records)) || h.LeaderEpoch != -1 {
				t.Fatalf("header %+v, last sequence %d", h, h.LastSequence())
			}
			records, err := readAll(want, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if err := equalRecords(records, tc.records); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A raw snappy block and xerial's framing around the same block, by hand: varint 3, literal of 3 bytes.
func TestGoldenSnappyFraming(t *testing.T) {
	raw := []byte{3, 2 << 2, 'a', 'b', 'c'}
	framed := append([]byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05"), raw...)
	if got := compressSnappy(nil, []byte("abc")); !bytes.Equal(got, framed) {
		t.Fatalf("written %x, want %x", got, framed)
	}
	twice := append(bytes.Clone(framed), framed[len(xerialHeader):]...)
	for want, src := range map[string][]byte{"abc": framed, "abcabc": twice} {
		if got, err := Snappy.decompress(nil, src, 6); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got, err := Snappy.decompress(nil, raw, 3); err != nil || string(got) != "abc" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestPutHeadLeavesTheRest(t *testing.T) {
	batch := fromGolden(t, goldenRich)
	want := bytes.Clone(batch)
	PutHead(batch, 0x0102030405060708, 0x91, 0x0a0b0c0d)
	copy(want, []byte{1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0x91, 0x0a, 0x0b, 0x0c, 0x0d})
	if !bytes.Equal(batch, want) {
		t.Fatalf("%x", batch[:HeaderSize])
	}
	h, err := Validate([][]byte{batch}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if h.BaseOffset != 0x0102030405060708 || h.LeaderEpoch != 0x0a0b0c0d || h.NextOffset() != h.BaseOffset+3 {
		t.Fatalf("%+v", h)
	}
}
