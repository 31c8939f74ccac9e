package server

import (
	"context"

	"google.golang.org/grpc/mem"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication"
	"github.com/penstock-io/penstock/internal/wire"
)

const (
	minReadBytes = 16 << 10 // the first read of a subscription; reads grow while they come back full
	noEnd        = int64(-1)
)

// subscription is the reading of one partition, from an offset on. It belongs to one goroutine.
type subscription struct {
	id        uint64
	partition int32
	tp        model.TopicPartition
	reader    *replication.Reader
	offset    int64 // first offset that was asked for
	end       int64 // exclusive end of the range; noEnd reads on for ever
	failed    error // with its leader hint

	held     []wire.Payload // read, not yet sent
	size     int
	batches  int64 // of what is held
	records  int64 // in them
	next     int64 // where reading goes on after what is held
	last     replication.ReadResult
	readSize int
}

// subscribe checks what a client asks for and opens a reader.
func (s *consumerService) subscribe(ctx context.Context, req *penstockv1.FetchSubscribe) (*subscription, error) {
	image := s.client.Cache.Image()
	t, err := resolveTopic(image, req.GetTopic(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	if err := Authorize(ctx, OperationRead, topic(t.Name)); err != nil {
		return nil, err
	}
	sub := &subscription{
		partition: req.GetPartition(), offset: req.GetOffset(), next: req.GetOffset(), end: noEnd, readSize: minReadBytes,
	}
	if sub.tp, err = resolvePartition(t, req.GetPartition()); err != nil {
		return nil, err
	}
	if req.EndOffset != nil {
		if sub.end = req.GetEndOffset(); sub.end < 0 {
			return nil, model.Errorf(model.CodeInvalidRequest, "end_offset is %d: it cannot be negative", sub.end)
		}
	}
	epoch := model.NoLeaderEpoch
	if req.CurrentLeaderEpoch != nil {
		epoch = model.LeaderEpoch(req.GetCurrentLeaderEpoch())
	}
	sub.reader, err = s.client.Replicas.OpenReader(sub.tp, sub.offset, epoch)
	return sub, withHint(image, RequestOf(ctx).Listener, sub.tp, err)
}

// over reports whether the range has been read whole.
func (s *subscription) over() bool { return s.end >= 0 && s.next >= s.end }

func (s *subscription) heldBytes() int { return s.size }

// readMore reads up to limit bytes (but one batch at least) and holds them. Without new data nothing changes but the bounds. The
// error is replication.ErrBacklogFull where old records are to be read and others are reading such: readInTurn waits for them.
func (s *subscription) readMore(limit int) error {
	return s.keep(readOnce(s.reader, s.want(limit)))
}

// readInTurn is readMore when it is the reader's turn.
func (s *subscription) readInTurn(ctx context.Context, limit int) error {
	if err := s.reader.Await(ctx); err != nil {
		return err
	}
	return s.readMore(limit)
}

// want is how much the next read asks for.
func (s *subscription) want(limit int) int { return min(s.readSize, max(limit, 1)) }

// freshRead is what one read of a subscription's reader brought.
type freshRead struct {
	payload wire.Payload
	res     replication.ReadResult
	want    int
	err     error
}

func readOnce(reader *replication.Reader, want int) freshRead {
	payload, buf := wire.DefaultPool().Alloc(want)
	res, err := reader.Read(want, buf[:0:len(buf)])
	if err != nil {
		payload.Free()
		payload = wire.Payload{}
	}
	return freshRead{payload: payload, res: res, want: want, err: err}
}

// keep takes over what was read.
func (s *subscription) keep(r freshRead) error {
	if r.err != nil {
		return r.err
	}
	s.last = r.res
	data := s.cut(r.res.Data)
	if len(data) == 0 {
		r.payload.Free()
		s.next = max(s.next, r.res.NextOffset)
		s.readSize = minReadBytes
		return nil
	}
	s.hold(r.payload, data)
	s.next = r.res.NextOffset
	if len(r.res.Data) > r.want/2 {
		s.readSize = min(2*s.readSize, maxFrameBytes)
	}
	return nil
}

// hold keeps data, without a copy where it lies in the payload.
func (s *subscription) hold(payload wire.Payload, data []byte) {
	s.held = append(s.held, payload.Part(data))
	s.size += len(data)
	batches, records := record.Count(data)
	s.batches += batches
	s.records += records
}

// cut leaves out whole batches behind the end of the range.
func (s *subscription) cut(data []byte) []byte {
	if s.end < 0 {
		return data
	}
	for at := 0; at < len(data); {
		header, err := record.ParseHeader(data[at:])
		if err != nil {
			return data // the consumer finds what is wrong with it
		}
		if header.BaseOffset >= s.end {
			return data[:at]
		}
		at += header.Size()
	}
	return data
}

// frame makes a frame of what is held, of the failure, or of the bounds alone, and holds nothing any more. The caller owns the
// payload.
func (s *subscription) frame(plain bool) *wire.FetchResponse {
	frame := &wire.FetchResponse{}
	frame.Head.SubscriptionId, frame.Head.Partition = s.id, s.partition
	frame.Head.HighWatermark, frame.Head.LastStableOffset = s.last.HighWatermark, s.last.HighWatermark
	frame.Head.LogStartOffset, frame.Head.LeaderEpoch = s.last.LogStartOffset, int32(s.last.LeaderEpoch)
	s.countOut()
	payload := s.take()
	frame.Head.NextOffset = s.next
	if plain && payload.Len() > 0 {
		records, err := decode(payload.Contiguous(), s.offset, s.end)
		if err == nil {
			frame.Head.Records = records
		} else if s.failed == nil {
			s.failed = err
		}
		payload.Free()
	} else {
		frame.Payload = payload
	}
	if s.failed != nil {
		frame.Head.Error = wire.ErrorProto(s.failed)
	} else if s.over() {
		frame.Head.EndOfRange = true
	}
	return frame
}

// countOut counts what is held as sent.
func (s *subscription) countOut() {
	if s.size > 0 {
		s.reader.CountOut(s.batches, s.records, int64(s.size))
	}
}

// take joins what is held into one payload.
func (s *subscription) take() wire.Payload {
	var joined wire.Payload
	switch len(s.held) {
	case 0:
	case 1:
		joined = s.held[0]
	default:
		buffers := make(mem.BufferSlice, 0, len(s.held))
		for _, p := range s.held {
			for _, piece := range p.Bytes() {
				buffers = append(buffers, mem.Copy(piece, wire.DefaultPool()))
			}
			p.Free()
		}
		joined = wire.BufferPayload(buffers)
	}
	s.held, s.size, s.batches, s.records = nil, 0, 0, 0
	return joined
}

// drop frees what is held.
func (s *subscription) drop() { s.take().Free() }
