package client

import (
	"context"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// AddPartitions gives a topic more partitions, so that it has total of them, and returns the topic with the new ones alone.
// With validateOnly nothing is changed. Fewer or as many as there are is INVALID_PARTITIONS.
func (c *Client) AddPartitions(ctx context.Context, name string, total int32, validateOnly bool) (Topic, error) {
	var out Topic
	request := &penstockv1.AddPartitionsRequest{Name: name, Total: total, ValidateOnly: validateOnly}
	err := c.call(ctx, validateOnly, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).AddPartitions(ctx, request)
		out = topicOf(r.GetTopic())
		return finalIfUnknownTopic(err)
	})
	return out, err
}

// TopicConfigChange says which settings of a topic to change.
type TopicConfigChange struct {
	// Set has the new values, by key.
	Set map[string]string
	// Unset names settings that go back to their default.
	Unset []string
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
}

// AlterTopicConfig changes settings of a topic, all or none, and returns all that are in force then, by key.
func (c *Client) AlterTopicConfig(ctx context.Context, name string, change TopicConfigChange) ([]TopicConfig, error) {
	var out []TopicConfig
	request := &penstockv1.AlterTopicConfigRequest{
		Name: name, Set: change.Set, Unset: change.Unset, ValidateOnly: change.ValidateOnly,
	}
	err := c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).AlterTopicConfig(ctx, request)
		out = configsOf(r.GetConfigs())
		return finalIfUnknownTopic(err)
	})
	return out, err
}

func configsOf(list []*penstockv1.TopicConfig) []TopicConfig {
	out := make([]TopicConfig, 0, len(list))
	for _, setting := range list {
		source := "unknown"
		switch setting.GetSource() {
		case penstockv1.ConfigSource_CONFIG_SOURCE_DEFAULT:
			source = "default"
		case penstockv1.ConfigSource_CONFIG_SOURCE_TOPIC:
			source = "topic"
		case penstockv1.ConfigSource_CONFIG_SOURCE_UNSPECIFIED:
		default:
		}
		out = append(out, TopicConfig{
			Key: setting.GetKey(), Value: setting.GetValue(), Source: source, Default: setting.GetDefaultValue(),
			Documentation: setting.GetDocumentation(), Allowed: setting.GetAllowed(),
		})
	}
	return out
}

// TrimToEnd asks TrimPartition to give up everything that is committed.
const TrimToEnd int64 = -1

// Trimmed tells what TrimPartition did, or would do.
type Trimmed struct {
	// PreviousStart and Start are the first readable offsets before and after.
	PreviousStart, Start int64
	HighWatermark        int64
	// RemovedSegments and RemovedBytes are what the leader removes from its disk.
	RemovedSegments int32
	RemovedBytes    int64
}

// TrimPartition gives up the records of a partition below the offset to, or TrimToEnd, for good; what is not committed is
// kept. It asks the partition's leader and follows it where it moves. With validateOnly nothing is changed.
func (c *Client) TrimPartition(ctx context.Context, topic string, partition int32, to int64, validateOnly bool) (Trimmed, error) {
	var out Trimmed
	err := c.atLeader(ctx, topic, partition, func(ctx context.Context, conn *grpc.ClientConn, topicID []byte) error {
		r, err := penstockv1.NewAdminServiceClient(conn).TrimPartition(ctx, &penstockv1.TrimPartitionRequest{
			Topic: topic, TopicId: topicID, Partition: partition, ToOffset: to, ValidateOnly: validateOnly,
		})
		if err != nil {
			return toError(err)
		}
		out = Trimmed{
			PreviousStart: r.GetPreviousLogStartOffset(), Start: r.GetLogStartOffset(), HighWatermark: r.GetHighWatermark(),
			RemovedSegments: r.GetRemovedSegments(), RemovedBytes: r.GetRemovedBytes(),
		}
		return nil
	})
	return out, err
}
