package wire

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// pair is a data message and the generated message it stands for.
type pair struct {
	fresh    func() dataMessage
	stock    func() proto.Message
	setBytes func(proto.Message, []byte)
}

var pairs = map[string]pair{
	"ProduceRequest": {
		fresh:    func() dataMessage { return new(ProduceRequest) },
		stock:    func() proto.Message { return new(penstockv1.ProduceRequest) },
		setBytes: func(m proto.Message, b []byte) { m.(*penstockv1.ProduceRequest).Batch = b },
	},
	"FetchResponse": {
		fresh:    func() dataMessage { return new(FetchResponse) },
		stock:    func() proto.Message { return new(penstockv1.FetchResponse) },
		setBytes: func(m proto.Message, b []byte) { m.(*penstockv1.FetchResponse).Batches = b },
	},
	"ReplicateResponse": {
		fresh:    func() dataMessage { return new(ReplicateResponse) },
		stock:    func() proto.Message { return new(internalv1.ReplicateResponse) },
		setBytes: func(m proto.Message, b []byte) { m.(*internalv1.ReplicateResponse).Batches = b },
	},
}

// generated puts the payload of m back where the generated message has it.
func (p pair) generated(m dataMessage) proto.Message {
	out := proto.Clone(m.head())
	if b := m.payload().Materialize(); len(b) > 0 {
		p.setBytes(out, b)
	}
	return out
}

// drawHead fills the fields below the payload.
func drawHead(t *rapid.T, m proto.Message) {
	text := rapid.StringMatching(`[a-zäü.]{0,12}`)
	blob := rapid.SliceOfN(rapid.Byte(), 0, 40)
	switch m := m.(type) {
	case *penstockv1.ProduceRequest:
		m.CorrelationId = rapid.Uint64().Draw(t, "correlation")
		m.Topic = text.Draw(t, "topic")
		m.TopicId = blob.Draw(t, "topic id")
		m.Partition = rapid.Int32().Draw(t, "partition")
		m.Acks = penstockv1.Acks(rapid.Int32Range(0, 3).Draw(t, "acks"))
		m.TimeoutMs = rapid.Uint32().Draw(t, "timeout")
		for range rapid.IntRange(0, 3).Draw(t, "records") {
			m.Records = append(m.Records, &penstockv1.Record{Key: blob.Draw(t, "key"), Value: blob.Draw(t, "value")})
		}
	case *penstockv1.FetchResponse:
		m.SubscriptionId = rapid.Uint64().Draw(t, "subscription")
		m.HighWatermark = rapid.Int64().Draw(t, "hw")
		m.LeaderEpoch = rapid.Int32().Draw(t, "epoch")
		m.EndOfRange = rapid.Bool().Draw(t, "end")
		if rapid.Bool().Draw(t, "failed") {
			m.Error = &penstockv1.Error{Code: penstockv1.ErrorCode(rapid.Int32().Draw(t, "code")), Message: text.Draw(t, "message")}
		}
	case *internalv1.ReplicateResponse:
		m.SubscriptionId = rapid.Uint64().Draw(t, "subscription")
		m.BaseOffset = rapid.Int64().Draw(t, "base")
		m.Message = text.Draw(t, "message")
		if rapid.Bool().Draw(t, "diverging") {
			m.Diverging = &internalv1.DivergingEpoch{Epoch: rapid.Int32().Draw(t, "epoch")}
		}
	}
}

// cut copies b into pooled and plain buffers of drawn sizes, as frames deliver it.
func cut(t *rapid.T, pool *Pool, b []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := min(rapid.SampledFrom([]int{1, 2, 7, 100, 1500, 3000, 16384}).Draw(t, "piece"), len(b))
		out = append(out, mem.Copy(b[:n], pool))
		b = b[n:]
		if rapid.IntRange(0, 9).Draw(t, "empty piece") == 0 {
			out = append(out, mem.SliceBuffer(nil))
		}
	}
	return out
}

func forEachPair(t *testing.T, check func(*rapid.T, pair)) {
	for name, p := range pairs {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { check(t, p) })
		})
	}
}

func drawPayload(t *rapid.T) []byte {
	n := rapid.SampledFrom([]int{0, 1, 127, 128, 1000, 1024, 1025, 5000, 40000}).Draw(t, "payload bytes")
	b := make([]byte, n)
	seed := rapid.Byte().Draw(t, "payload seed")
	for i := range b {
		b[i] = seed + byte(i*31)
	}
	return b
}

func TestMarshalIsWhatTheGeneratedMessageReads(t *testing.T) {
	forEachPair(t, func(t *rapid.T, p pair) {
		pool := NewDebugPool()
		c := &codec{pool: pool}
		m := p.fresh()
		drawHead(t, m.head())
		data := drawPayload(t)
		*m.payload() = BufferPayload(cut(t, pool, data))
		encoded, err := c.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m.payload().Free() // the encoded form holds its own reference
		got := p.stock()
		if err := proto.Unmarshal(encoded.Materialize(), got); err != nil {
			t.Fatal(err)
		}
		want := proto.Clone(m.head())
		if len(data) > 0 {
			p.setBytes(want, data)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		encoded.Free()
		if leaks := pool.Leaks(); len(leaks) > 0 {
			t.Fatalf("leaked: %s", leaks[0])
		}
	})
}

func TestUnmarshalReadsWhatTheGeneratedMessageWrites(t *testing.T) {
	forEachPair(t, func(t *rapid.T, p pair) {
		pool := NewDebugPool()
		c := &codec{pool: pool}
		want := p.stock()
		drawHead(t, want)
		if data := drawPayload(t); len(data) > 0 {
			p.setBytes(want, data)
		}
		encoded, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		bufs := cut(t, pool, encoded)
		m := p.fresh()
		if err := c.Unmarshal(bufs, m); err != nil {
			t.Fatal(err)
		}
		bufs.Free() // as gRPC does: the message holds its own references
		if got := p.generated(m); !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		m.payload().Free()
		if leaks := pool.Leaks(); len(leaks) > 0 {
			t.Fatalf("leaked: %s", leaks[0])
		}
	})
}

// TestUnmarshalAgreesOnMangledBytes mangles good messages: fields repeated, moved behind the payload, unknown, cut off.
func TestUnmarshalAgreesOnMangledBytes(t *testing.T) {
	forEachPair(t, func(t *rapid.T, p pair) {
		m := p.stock()
		drawHead(t, m)
		p.setBytes(m, drawPayload(t))
		encoded, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 3).Draw(t, "mangles") {
			switch rapid.IntRange(0, 4).Draw(t, "mangle") {
			case 0:
				encoded = append(encoded, encoded...)
			case 1:
				encoded = protowire.AppendTag(encoded, protowire.Number(rapid.Int32Range(1, 40).Draw(t, "field")), protowire.VarintType)
				encoded = protowire.AppendVarint(encoded, rapid.Uint64().Draw(t, "value"))
			case 2:
				encoded = encoded[:rapid.IntRange(0, len(encoded)).Draw(t, "cut")]
			case 3:
				if len(encoded) > 0 {
					encoded = bytes.Clone(encoded)
					encoded[rapid.IntRange(0, len(encoded)-1).Draw(t, "at")] ^= rapid.Byte().Draw(t, "flip")
				}
			case 4:
				front := protowire.AppendTag(nil, 99, protowire.StartGroupType)
				front = protowire.AppendTag(front, 99, protowire.EndGroupType)
				encoded = append(front, encoded...)
			}
		}
		pool := NewDebugPool()
		agree(t, p, pool, cut(t, pool, encoded), encoded)
	})
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// agree demands that our decoder refuses exactly what proto refuses and otherwise reads the same, and leaks nothing.
func agree(t failer, p pair, pool *Pool, bufs mem.BufferSlice, encoded []byte) {
	t.Helper()
	want := p.stock()
	wantErr := proto.Unmarshal(encoded, want)
	m := p.fresh()
	err := (&codec{pool: pool}).Unmarshal(bufs, m)
	bufs.Free()
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("error %v, proto says %v", err, wantErr)
	}
	if err == nil {
		if got := p.generated(m); !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		m.payload().Free()
	}
	if leaks := pool.Leaks(); len(leaks) > 0 {
		t.Fatalf("leaked: %s", leaks[0])
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, p := range pairs {
		m := p.stock()
		p.setBytes(m, []byte("payload"))
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(3))
		f.Add(append(b, b...), uint16(1))
		f.Add(append([]byte{8, 1, 16, 2}, b...), uint16(5))
	}
	f.Add([]byte{0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, uint16(100))
	f.Fuzz(func(t *testing.T, encoded []byte, piece uint16) {
		for _, p := range pairs {
			pool := NewDebugPool()
			var bufs mem.BufferSlice
			for rest := encoded; len(rest) > 0; {
				n := min(max(int(piece), 1), len(rest))
				bufs = append(bufs, mem.Copy(rest[:n], pool))
				rest = rest[n:]
			}
			agree(t, p, pool, bufs, encoded)
		}
	})
}

func TestUnmarshalDoesNotCopyThePayload(t *testing.T) {
	pool := NewDebugPool()
	c := &codec{pool: pool}
	encoded, err := proto.Marshal(&penstockv1.ProduceRequest{CorrelationId: 7, Batch: bytes.Repeat([]byte("x"), 40000)})
	if err != nil {
		t.Fatal(err)
	}
	bufs := mem.BufferSlice{mem.Copy(encoded[:16384], pool), mem.Copy(encoded[16384:], pool)}
	var m ProduceRequest
	if err := c.Unmarshal(bufs, &m); err != nil {
		t.Fatal(err)
	}
	last := bufs[1].ReadOnlyData()
	pieces := m.Payload.Bytes()
	if &pieces[len(pieces)-1][0] != &last[0] {
		t.Error("the payload was copied")
	}
	bufs.Free()
	m.Free()
	m.Free() // only the first counts
	if len(pool.Leaks()) != 0 {
		t.Error("leaked")
	}
}

func TestMarshalRefusesBytesInHead(t *testing.T) {
	c := NewCodec(nil)
	if _, err := c.Marshal(&FetchResponse{Head: penstockv1.FetchResponse{Batches: []byte("x")}}); err == nil {
		t.Error("bytes in Head were accepted")
	}
	if _, err := c.Marshal("text"); err == nil {
		t.Error("a string was marshalled")
	}
	if err := c.Unmarshal(nil, new(string)); err == nil {
		t.Error("a string was unmarshalled")
	}
	if c.Name() != "proto" {
		t.Errorf("name %q", c.Name())
	}
}
