package server

import (
	"context"
	"slices"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/replication"
)

// adminTimeout bounds what is asked of the controller where the client sets no deadline.
const adminTimeout = 10 * time.Second

// adminService is penstock.v1.AdminService.
type adminService struct {
	penstockv1.UnimplementedAdminServiceServer
	cache    *Cache
	quorum   Quorum
	replicas *replication.Manager
	spread   spread
}

// CreateTopic passes the request on and waits until every broker knows the topic.
func (s *adminService) CreateTopic(
	ctx context.Context, req *penstockv1.CreateTopicRequest,
) (*penstockv1.CreateTopicResponse, error) {
	if err := Authorize(ctx, OperationCreate, topic(req.GetName())); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	made, err := s.quorum.CreateTopic(ctx, &internalv1.CreateTopicRequest{
		Name: req.GetName(), Partitions: req.Partitions, ReplicationFactor: req.ReplicationFactor,
		Configs: req.GetConfigs(), ValidateOnly: req.GetValidateOnly(), Actor: RequestOf(ctx).Principal,
	})
	if err != nil {
		return nil, err
	}
	if !req.GetValidateOnly() {
		s.spread.await(ctx, model.MetadataOffset(made.GetMetadataOffset()))
		if t, ok := s.cache.Image().Topic(req.GetName()); ok {
			return &penstockv1.CreateTopicResponse{Topic: topicOf(t)}, nil
		}
	}
	return &penstockv1.CreateTopicResponse{Topic: plannedTopic(req.GetName(), made)}, nil
}

// plannedTopic is a topic as the controller answered it.
func plannedTopic(name string, made *internalv1.CreateTopicResponse) *penstockv1.TopicMetadata {
	t := &penstockv1.TopicMetadata{Name: name, TopicId: made.GetTopicId(), Internal: model.IsInternalTopic(name)}
	for _, p := range made.GetPartitions() {
		t.Partitions = append(t.Partitions, plannedPartition(p))
	}
	return t
}

func plannedPartition(p *internalv1.PartitionRecord) *penstockv1.PartitionMetadata {
	return &penstockv1.PartitionMetadata{
		Partition: p.GetPartition(), LeaderId: p.GetLeader(), LeaderEpoch: p.GetLeaderEpoch(),
		PartitionEpoch: p.GetPartitionEpoch(), Replicas: p.GetReplicas(), Isr: p.GetIsr(), Elr: p.GetElr(),
	}
}

// DeleteTopic passes the request on and waits until every broker knows that the topic is gone.
func (s *adminService) DeleteTopic(
	ctx context.Context, req *penstockv1.DeleteTopicRequest,
) (*penstockv1.DeleteTopicResponse, error) {
	if err := Authorize(ctx, OperationDelete, topic(req.GetName())); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	gone, err := s.quorum.DeleteTopic(ctx, &internalv1.DeleteTopicRequest{
		Name: req.GetName(), TopicId: req.GetTopicId(), Actor: RequestOf(ctx).Principal,
	})
	if err != nil {
		return nil, err
	}
	s.spread.await(ctx, model.MetadataOffset(gone.GetMetadataOffset()))
	return &penstockv1.DeleteTopicResponse{TopicId: gone.GetTopicId()}, nil
}

// ListTopics answers from the image in force.
func (s *adminService) ListTopics(
	ctx context.Context, req *penstockv1.ListTopicsRequest,
) (*penstockv1.ListTopicsResponse, error) {
	if err := Authorize(ctx, OperationDescribe, cluster()); err != nil {
		return nil, err
	}
	resp := &penstockv1.ListTopicsResponse{}
	for t := range s.cache.Image().Topics() {
		internal := model.IsInternalTopic(t.Name)
		if internal && !req.GetIncludeInternal() {
			continue
		}
		resp.Topics = append(resp.Topics, &penstockv1.TopicListing{
			Name: t.Name, TopicId: t.ID.Bytes(), Internal: internal,
			Partitions:        int32(t.Partitions()),       //nolint:gosec // bounded
			ReplicationFactor: int32(replicationFactor(t)), //nolint:gosec // bounded
		})
	}
	return resp, nil
}

func replicationFactor(t *metadata.Topic) int {
	p, ok := t.Partition(0)
	if !ok {
		return 0
	}
	return len(p.Replicas)
}

// DescribeTopic answers from the image in force.
func (s *adminService) DescribeTopic(
	ctx context.Context, req *penstockv1.DescribeTopicRequest,
) (*penstockv1.DescribeTopicResponse, error) {
	if err := Authorize(ctx, OperationDescribe, topic(req.GetName())); err != nil {
		return nil, err
	}
	t, err := resolveTopic(s.cache.Image(), req.GetName(), nil)
	if err != nil {
		return nil, err
	}
	return &penstockv1.DescribeTopicResponse{Topic: topicOf(t), Configs: configsOf(t)}, nil
}

// DescribeQuorum asks the active controller.
func (s *adminService) DescribeQuorum(
	ctx context.Context, _ *penstockv1.DescribeQuorumRequest,
) (*penstockv1.DescribeQuorumResponse, error) {
	if err := Authorize(ctx, OperationDescribe, cluster()); err != nil {
		return nil, err
	}
	q, err := s.quorum.DescribeQuorum(ctx)
	if err != nil {
		return nil, err
	}
	resp := &penstockv1.DescribeQuorumResponse{
		LeaderId: q.GetLeaderId(), Term: q.GetTerm(), CommitIndex: q.GetCommitIndex(), AppliedIndex: q.GetAppliedIndex(),
		MetadataOffset: q.GetMetadataOffset(), FeatureLevel: q.GetFeatureLevel(),
	}
	for _, v := range q.GetVoters() {
		resp.Voters = append(resp.Voters, &penstockv1.Voter{Id: v.GetId(), Address: v.GetAddress(), Leader: v.GetId() == q.GetLeaderId()})
	}
	slices.SortFunc(resp.Voters, func(a, b *penstockv1.Voter) int { return int(a.GetId() - b.GetId()) })
	return resp, nil
}
