package server

import (
	"context"
	"strconv"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// AddPartitions passes the request on and waits until every broker knows the new partitions.
func (s *adminService) AddPartitions(
	ctx context.Context, req *penstockv1.AddPartitionsRequest,
) (*penstockv1.AddPartitionsResponse, error) {
	if err := Authorize(ctx, OperationAlter, topic(req.GetName())); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	added, err := s.quorum.AddPartitions(ctx, &internalv1.AddPartitionsRequest{
		Name: req.GetName(), TopicId: req.GetTopicId(), Total: req.GetTotal(), ValidateOnly: req.GetValidateOnly(),
		Actor: RequestOf(ctx).Principal,
	})
	if err != nil {
		return nil, err
	}
	resp := &penstockv1.AddPartitionsResponse{PreviousTotal: added.GetPreviousTotal(), Topic: &penstockv1.TopicMetadata{
		Name: req.GetName(), TopicId: added.GetTopicId(), Internal: model.IsInternalTopic(req.GetName()),
	}}
	for _, p := range added.GetPartitions() {
		resp.Topic.Partitions = append(resp.Topic.Partitions, plannedPartition(p))
	}
	s.spread.await(ctx, model.MetadataOffset(added.GetMetadataOffset()))
	if t, err := resolveTopic(s.cache.Image(), "", added.GetTopicId()); err == nil {
		resp.Topic.Name = t.Name
	}
	return resp, nil
}

// AlterTopicConfig passes the request on and waits until every broker has the new settings in use.
func (s *adminService) AlterTopicConfig(
	ctx context.Context, req *penstockv1.AlterTopicConfigRequest,
) (*penstockv1.AlterTopicConfigResponse, error) {
	if err := Authorize(ctx, OperationAlter, topic(req.GetName())); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	altered, err := s.quorum.AlterTopicConfig(ctx, &internalv1.AlterTopicConfigRequest{
		Name: req.GetName(), TopicId: req.GetTopicId(), Set: req.GetSet(), Unset: req.GetUnset(),
		ValidateOnly: req.GetValidateOnly(), Actor: RequestOf(ctx).Principal,
	})
	if err != nil {
		return nil, err
	}
	s.spread.await(ctx, model.MetadataOffset(altered.GetMetadataOffset()))
	factor := 0
	if t, err := resolveTopic(s.cache.Image(), "", altered.GetTopicId()); err == nil {
		factor = replicationFactor(t)
	}
	return &penstockv1.AlterTopicConfigResponse{Configs: configsInForce(altered.GetConfigs(), factor)}, nil
}

// configsOf lists the settings of a topic in force, by key.
func configsOf(t *metadata.Topic) []*penstockv1.TopicConfig {
	return configsInForce(t.Configs(), replicationFactor(t))
}

// configsInForce lists the settings in force where a topic of that replication factor sets those.
func configsInForce(set map[string]string, factor int) []*penstockv1.TopicConfig {
	var configs []*penstockv1.TopicConfig
	for _, row := range metadata.TopicSettingTable() {
		c := &penstockv1.TopicConfig{
			Key: row.Key, Value: row.Default, Source: penstockv1.ConfigSource_CONFIG_SOURCE_DEFAULT,
			Documentation: row.Doc, Allowed: row.Allowed(),
		}
		if row.Default == "" && row.Key == "min.insync.replicas" {
			c.Value = strconv.Itoa(metadata.DefaultTopicSettings().EffectiveMinISR(factor))
		}
		c.DefaultValue = c.GetValue()
		if own, ok := set[row.Key]; ok {
			c.Value, c.Source = own, penstockv1.ConfigSource_CONFIG_SOURCE_TOPIC
		}
		configs = append(configs, c)
	}
	return configs
}

// TrimPartition moves the start of a partition that this broker leads.
func (s *adminService) TrimPartition(
	ctx context.Context, req *penstockv1.TrimPartitionRequest,
) (*penstockv1.TrimPartitionResponse, error) {
	image := s.cache.Image()
	t, err := resolveTopic(image, req.GetTopic(), req.GetTopicId())
	if err != nil {
		return nil, err
	}
	if err := Authorize(ctx, OperationDelete, topic(t.Name)); err != nil {
		return nil, err
	}
	if model.IsInternalTopic(t.Name) {
		return nil, model.Errorf(model.CodeInvalidTopic, "topic %q belongs to Penstock itself and cannot be trimmed", t.Name)
	}
	tp, err := resolvePartition(t, req.GetPartition())
	if err != nil {
		return nil, err
	}
	done, err := s.replicas.Trim(tp, req.GetToOffset(), req.GetValidateOnly())
	if err != nil {
		return nil, withHint(s.cache.Image(), RequestOf(ctx).Listener, tp, err)
	}
	return &penstockv1.TrimPartitionResponse{
		PreviousLogStartOffset: done.Before, LogStartOffset: done.Start, HighWatermark: done.HighWatermark,
		RemovedBytes: done.RemovedBytes, RemovedSegments: int32(done.RemovedSegments), //nolint:gosec // bounded by the disk
	}, nil
}
