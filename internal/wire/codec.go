package wire

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codecName is the content subtype: our bytes are plain proto.
const codecName = "proto"

// codec is the zero-copy CodecV2. It is given to gRPC by ServerOptions and DialOptions, never registered.
type codec struct{ pool *Pool }

var _ encoding.CodecV2 = (*codec)(nil)

// NewCodec returns the codec that [ServerOptions] and [DialOptions] install, for those who drive gRPC in another way. It
// encodes proto messages and the data messages of this package; a nil pool means [DefaultPool].
func NewCodec(pool *Pool) encoding.CodecV2 {
	if pool == nil {
		pool = DefaultPool()
	}
	return &codec{pool: pool}
}

// Name implements encoding.CodecV2.
func (*codec) Name() string { return codecName }

// Marshal implements encoding.CodecV2.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case dataMessage:
		return c.marshalData(m)
	case proto.Message:
		return c.marshalProto(m)
	default:
		return nil, fmt.Errorf("wire: cannot marshal %T: it is no proto message", v)
	}
}

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case dataMessage:
		return c.unmarshalData(data, m)
	case proto.Message:
		return c.unmarshalProto(data, m)
	default:
		return fmt.Errorf("wire: cannot unmarshal into %T: it is no proto message", v)
	}
}

func (c *codec) marshalProto(m proto.Message) (mem.BufferSlice, error) {
	size := proto.Size(m)
	options := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := options.MarshalAppend(make([]byte, 0, size), m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	buf := c.pool.Get(size)
	b, err := options.MarshalAppend((*buf)[:0], m)
	if err != nil {
		c.pool.Put(buf)
		return nil, err
	}
	if len(b) != size {
		c.pool.Put(buf)
		return nil, fmt.Errorf("wire: %T was changed while it was being sent", m)
	}
	return mem.BufferSlice{mem.NewBuffer(buf, c.pool)}, nil
}

func (c *codec) unmarshalProto(data mem.BufferSlice, m proto.Message) error {
	buf := data.MaterializeToBuffer(c.pool)
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

// errBatchInHead says that a sender set the bytes field of Head.
var errBatchInHead = errors.New("wire: the batch bytes stand in Head: set Payload instead")

// marshalData writes the head, then tag and length of the payload, and appends the payload's own buffers.
func (c *codec) marshalData(m dataMessage) (mem.BufferSlice, error) {
	payload := m.payload()
	head := m.head()
	if len(m.takeBytes()) > 0 {
		return nil, errBatchInHead
	}
	if payload.size == 0 {
		return c.marshalProto(head)
	}
	size := proto.Size(head)
	b := make([]byte, 0, size+1+protowire.SizeVarint(uint64(payload.size))) //nolint:gosec // a length
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, head)
	if err != nil {
		return nil, err
	}
	b = protowire.AppendTag(b, payloadField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(payload.size)) //nolint:gosec // a length
	out := make(mem.BufferSlice, 0, 1+len(payload.bufs))
	out = append(out, mem.SliceBuffer(b))
	for _, piece := range payload.bufs {
		piece.Ref()
		out = append(out, piece)
	}
	return out, nil
}

// unmarshalData slices the payload out of data where it is the last field and the fields before it lie in the first
// buffer. Everything else is left to plain proto, which gives the same result or the same refusal.
func (c *codec) unmarshalData(data mem.BufferSlice, m dataMessage) error {
	for len(data) > 0 && data[0].Len() == 0 {
		data = data[1:]
	}
	if len(data) == 0 {
		return c.decodeWhole(data, m)
	}
	first := data[0].ReadOnlyData()
	headEnd, start, ok := findPayload(first, data.Len())
	if !ok {
		return c.decodeWhole(data, m)
	}
	if err := proto.Unmarshal(first[:headEnd], m.head()); err != nil {
		return err
	}
	out := m.payload()
	*out = Payload{bufs: make(mem.BufferSlice, 0, len(data))}
	if start < len(first) {
		out.bufs = append(out.bufs, data[0].Slice(start, len(first)))
		out.size = len(first) - start
	}
	for _, piece := range data[1:] {
		if n := piece.Len(); n > 0 {
			piece.Ref()
			out.bufs = append(out.bufs, piece)
			out.size += n
		}
	}
	return nil
}

// decodeWhole is the plain way: proto copies the payload.
func (c *codec) decodeWhole(data mem.BufferSlice, m dataMessage) error {
	*m.payload() = Payload{}
	if err := c.unmarshalProto(data, m.head()); err != nil {
		return err
	}
	if b := m.takeBytes(); len(b) > 0 {
		*m.payload() = NewPayload(b)
	}
	return nil
}

// findPayload walks the fields of a message of total bytes that begins with b. It returns where the fields before the
// payload end and where the payload starts; false where the payload is not found in b as the last field of the message,
// each field before it being whole and well-formed as far as its length goes.
func findPayload(b []byte, total int) (headEnd, start int, ok bool) {
	at := 0
	for at < len(b) {
		number, kind, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return 0, 0, false
		}
		if number == payloadField {
			if kind != protowire.BytesType {
				return 0, 0, false
			}
			length, m := protowire.ConsumeVarint(b[at+n:])
			start = at + n + m
			return at, start, m > 0 && length == uint64(total-start) //nolint:gosec // start <= len(b) <= total
		}
		m := scalarSize(kind, b[at+n:])
		if m < 0 {
			return 0, 0, false
		}
		at += n + m
	}
	return 0, 0, false
}

// scalarSize returns the size of a field's value at the beginning of b, or a negative number where it is not whole or a
// group, which our messages do not have.
func scalarSize(kind protowire.Type, b []byte) int {
	switch kind {
	case protowire.VarintType:
		_, n := protowire.ConsumeVarint(b)
		return n
	case protowire.Fixed32Type:
		_, n := protowire.ConsumeFixed32(b)
		return n
	case protowire.Fixed64Type:
		_, n := protowire.ConsumeFixed64(b)
		return n
	case protowire.BytesType:
		_, n := protowire.ConsumeBytes(b)
		return n
	case protowire.StartGroupType, protowire.EndGroupType:
		return -1
	default:
		return -1
	}
}
