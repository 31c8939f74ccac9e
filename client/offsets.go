package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// Position names a place in a partition. The zero value names none.
type Position struct {
	kind  positionKind
	value int64
}

type positionKind uint8

const (
	positionNone positionKind = iota
	positionOffset
	positionStart
	positionEnd
	positionLogEnd
	positionTime
)

// AtOffset is an absolute offset, at least 0.
func AtOffset(offset int64) Position { return Position{positionOffset, offset} }

// AtStart is the first offset that can be read.
func AtStart() Position { return Position{kind: positionStart} }

// AfterStart is n records after the start, but not beyond the end.
func AfterStart(n int64) Position { return Position{positionStart, n} }

// AtEnd is where the next record will be read: the high watermark.
func AtEnd() Position { return Position{kind: positionEnd} }

// BeforeEnd is n records before the end, but not before the start.
func BeforeEnd(n int64) Position { return Position{positionEnd, -n} }

// AtLogEnd is the end of the leader's log, committed or not.
func AtLogEnd() Position { return Position{kind: positionLogEnd} }

// AtTime is the first record whose time is at least t; the end where there is none.
func AtTime(t time.Time) Position { return Position{positionTime, t.UnixMilli()} }

// IsZero reports whether p names no place.
func (p Position) IsZero() bool { return p.kind == positionNone }

// String describes the position.
func (p Position) String() string {
	switch p.kind {
	case positionNone:
		return "nowhere"
	case positionOffset:
		return fmt.Sprintf("offset %d", p.value)
	case positionStart:
		return fmt.Sprintf("start+%d", p.value)
	case positionEnd:
		return fmt.Sprintf("end%+d", p.value)
	case positionLogEnd:
		return "log end"
	case positionTime:
		return "time " + time.UnixMilli(p.value).UTC().Format(time.RFC3339Nano)
	default:
		return "nowhere"
	}
}

// ListOffset resolves one position in one partition. It asks the partition's leader, follows it where it moves, and gives up
// when ctx ends or after Config.RequestTimeout. A partition that does not exist is an error at once.
func (c *Client) ListOffset(ctx context.Context, topic string, partition int32, at Position) (int64, error) {
	offsets, err := c.ListOffsets(ctx, topic, partition, at)
	if err != nil {
		return -1, err
	}
	return offsets[0], nil
}

// ListOffsets resolves positions in one partition, in the order given, at one moment; see ListOffset.
func (c *Client) ListOffsets(ctx context.Context, topic string, partition int32, at ...Position) ([]int64, error) {
	// Relative positions and times need the start and the end too.
	queries := []*penstockv1.OffsetQuery{
		positionQuery(partition, penstockv1.OffsetPosition_OFFSET_POSITION_START),
		positionQuery(partition, penstockv1.OffsetPosition_OFFSET_POSITION_END),
	}
	for _, p := range at {
		switch p.kind {
		case positionTime:
			queries = append(queries, &penstockv1.OffsetQuery{
				Partition: partition, Target: &penstockv1.OffsetQuery_TimestampMs{TimestampMs: p.value},
			})
		case positionLogEnd:
			queries = append(queries, positionQuery(partition, penstockv1.OffsetPosition_OFFSET_POSITION_LOG_END))
		case positionOffset, positionStart, positionEnd:
		case positionNone:
			return nil, newError(model.CodeInvalidRequest, true, "a position is missing")
		default:
			return nil, newError(model.CodeInvalidRequest, true, "the position is not known")
		}
	}
	results, err := c.leaderOffsets(ctx, topic, partition, queries)
	if err != nil {
		return nil, err
	}
	start, end, rest := results[0].GetOffset(), results[1].GetOffset(), results[2:]
	out := make([]int64, 0, len(at))
	for _, p := range at {
		var offset int64
		switch p.kind {
		case positionOffset:
			offset = p.value
		case positionStart:
			offset = min(saturatingAdd(start, p.value), end)
		case positionEnd:
			offset = max(saturatingAdd(end, p.value), start)
		case positionLogEnd, positionTime:
			if offset, rest = rest[0].GetOffset(), rest[1:]; offset < 0 {
				offset = end
			}
		case positionNone:
		default:
		}
		out = append(out, offset)
	}
	return out, nil
}

func saturatingAdd(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	default:
		return a + b
	}
}

func positionQuery(partition int32, p penstockv1.OffsetPosition) *penstockv1.OffsetQuery {
	return &penstockv1.OffsetQuery{Partition: partition, Target: &penstockv1.OffsetQuery_Position{Position: p}}
}

// leaderOffsets asks the leader until it answers.
func (c *Client) leaderOffsets(
	ctx context.Context, topic string, partition int32, queries []*penstockv1.OffsetQuery,
) (results []*penstockv1.OffsetResult, err error) {
	err = c.atLeader(ctx, topic, partition, func(ctx context.Context, conn *grpc.ClientConn, topicID []byte) error {
		request := &penstockv1.ListOffsetsRequest{Topic: topic, TopicId: topicID, Queries: queries}
		r, err := penstockv1.NewConsumerServiceClient(conn).ListOffsets(ctx, request)
		if err != nil {
			return toError(err)
		}
		results = r.GetResults()
		if len(results) != len(queries) {
			return newError(model.CodeUnknownServerError, true, "%d answers came to %d look-ups", len(results), len(queries))
		}
		for _, result := range results {
			if result.GetError() != nil {
				return protoError(result.GetError())
			}
		}
		return nil
	})
	return results, err
}

// atLeader runs ask against the leader of a partition until it succeeds or fails for a reason that repeating does not mend.
// It follows the leader where it moves, and gives up when ctx ends or after Config.RequestTimeout.
func (c *Client) atLeader(
	ctx context.Context, topic string, partition int32, ask func(ctx context.Context, conn *grpc.ClientConn, topicID []byte) error,
) error {
	ctx, cancel := c.context(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, c.config.RequestTimeout)
	defer stop()
	t, err := c.meta.topic(ctx, topic)
	if err != nil {
		return err
	}
	if partition < 0 || int(partition) >= len(t.partitions) {
		return newError(model.CodeUnknownTopicOrPartition, true,
			"topic %q has the partitions 0 to %d, not %d", topic, len(t.partitions)-1, partition)
	}
	for failures := 1; ; failures++ {
		err := c.askLeader(ctx, t, partition, ask)
		if err == nil {
			return nil
		}
		var e *Error
		if !errors.As(err, &e) || !e.Retryable {
			return err
		}
		if e.hint != nil && c.meta.hint(topic, t.id, e.hint) {
			continue
		}
		if lifecycle.Sleep(ctx, c.clock, backoff(failures)) != nil {
			return err
		}
		if refreshErr := c.meta.refresh(ctx, []string{topic}); refreshErr != nil {
			return errors.Join(err, refreshErr)
		}
		if fresh := c.meta.cached(topic); fresh == nil || fresh.id != t.id {
			return newError(model.CodeUnknownTopicOrPartition, true, "topic %q was deleted", topic)
		}
	}
}

func (c *Client) askLeader(
	ctx context.Context, t *topicInfo, partition int32, ask func(ctx context.Context, conn *grpc.ClientConn, topicID []byte) error,
) error {
	address, _, ok := c.meta.leader(t.name, t.id, partition)
	if !ok {
		return newError(model.CodeLeaderNotAvailable, true, "%s/%d has no leader now", t.name, partition)
	}
	conn, err := c.connected(ctx, address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return ask(ctx, conn, t.id.Bytes())
}
