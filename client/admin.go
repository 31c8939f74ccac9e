package client

import (
	"context"
	"encoding/hex"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// TopicSpec describes a topic to create.
type TopicSpec struct {
	// Name is 1 to 249 of A-Z a-z 0-9 . _ - without two leading underscores.
	Name string
	// Partitions is their number, 1 to 10,000; nil means 3.
	Partitions *int32
	// ReplicationFactor is the number of replicas of each; nil means 3, or as many as there are brokers.
	ReplicationFactor *int32
	// Configs are topic settings in Kafka's spelling.
	Configs map[string]string
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
}

// Topic is the replication state of a topic.
type Topic struct {
	Name string
	// ID is the topic id in its text form; empty where nothing was created.
	ID string
	// Internal topics belong to Penstock itself.
	Internal   bool
	Partitions []Partition
}

// Partition is the replication state of a partition.
type Partition struct {
	Partition int32
	// Leader is a broker id; -1 where there is none.
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
	// Replicas are all that are assigned, the preferred leader first.
	Replicas []int32
	ISR      []int32
	ELR      []int32
	// PossiblyLossy says that the last election may have lost acknowledged records: no replica that held a seat was left.
	PossiblyLossy bool
}

// TopicListing is one line of a list of topics.
type TopicListing struct {
	Name              string
	ID                string
	Partitions        int32
	ReplicationFactor int32
	Internal          bool
}

// TopicConfig is one setting of a topic.
type TopicConfig struct {
	Key, Value string
	// Source is "default" or "topic".
	Source string
	// Default is the value in force where the topic sets none, Allowed tells which values there are, Documentation what the
	// setting does.
	Default, Allowed, Documentation string
}

// TopicDescription is a topic with its settings.
type TopicDescription struct {
	Topic
	Configs []TopicConfig
}

// Broker is one registered broker.
type Broker struct {
	ID   int32
	Host string
	Port int32
	Rack string
	// State is online, fenced, starting, draining, stopping or unknown.
	State string
	Epoch int64
}

// Address returns host:port.
func (b Broker) Address() string { return addressOf(b.Host, b.Port) }

// HealthReason is one thing that is wrong with a cluster.
type HealthReason struct {
	Code, Message string
}

// ClusterDescription is the health of a cluster.
type ClusterDescription struct {
	ClusterID string
	Healthy   bool
	// Controller is the node id of the active controller; -1 where there is none.
	Controller                int32
	Brokers                   []Broker
	LeaderlessPartitions      int32
	UnderReplicatedPartitions int32
	Reasons                   []HealthReason
	MetadataOffset            uint64
}

// Voter is a member of the controller quorum.
type Voter struct {
	ID      int32
	Address string
	Leader  bool
}

// QuorumDescription is the controller quorum.
type QuorumDescription struct {
	// Leader is the node id of the active controller; -1 where there is none.
	Leader                    int32
	Term                      uint64
	CommitIndex, AppliedIndex uint64
	MetadataOffset            uint64
	FeatureLevel              int32
	Voters                    []Voter
}

// Metadata is brokers and topics as one broker sees them.
type Metadata struct {
	ClusterID      string
	Controller     int32
	MetadataOffset uint64
	Brokers        []Broker
	Topics         []Topic
}

// CreateTopic creates a topic and returns it as placed.
func (c *Client) CreateTopic(ctx context.Context, spec TopicSpec) (Topic, error) {
	request := &penstockv1.CreateTopicRequest{
		Name: spec.Name, Partitions: spec.Partitions, ReplicationFactor: spec.ReplicationFactor,
		Configs: spec.Configs, ValidateOnly: spec.ValidateOnly,
	}
	var out Topic
	err := c.call(ctx, spec.ValidateOnly, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).CreateTopic(ctx, request)
		out = topicOf(r.GetTopic())
		return err
	})
	return out, err
}

// DeleteTopic deletes a topic by name; its data goes as the brokers that hold it report it done.
func (c *Client) DeleteTopic(ctx context.Context, name string) error {
	return c.call(ctx, false, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := penstockv1.NewAdminServiceClient(conn).DeleteTopic(ctx, &penstockv1.DeleteTopicRequest{Name: name})
		return finalIfUnknownTopic(err)
	})
}

// finalIfUnknownTopic keeps administration from waiting for a topic to appear.
func finalIfUnknownTopic(err error) error {
	if err == nil {
		return nil
	}
	if e := asError(err); e.is(model.CodeUnknownTopicOrPartition, model.CodeUnknownTopicID) {
		e.Retryable = false
		return e
	}
	return err
}

// lookUp is call for what may have been created just now: the broker that is asked may not have heard of it yet.
func (c *Client) lookUp(ctx context.Context, f func(context.Context, *grpc.ClientConn) error) error {
	deadline := c.clock.Now().Add(unknownTopicWait)
	for failures := 1; ; failures++ {
		err := c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
			return finalIfUnknownTopic(f(ctx, conn))
		})
		if !IsName(err, model.CodeUnknownTopicOrPartition.String()) || c.clock.Now().After(deadline) {
			return err
		}
		if lifecycle.Sleep(ctx, c.clock, backoff(failures)) != nil {
			return err
		}
	}
}

// ListTopics lists topics by name.
func (c *Client) ListTopics(ctx context.Context, includeInternal bool) ([]TopicListing, error) {
	var out []TopicListing
	err := c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).ListTopics(ctx,
			&penstockv1.ListTopicsRequest{IncludeInternal: includeInternal})
		out = make([]TopicListing, 0, len(r.GetTopics()))
		for _, t := range r.GetTopics() {
			out = append(out, TopicListing{
				Name: t.GetName(), ID: idText(t.GetTopicId()), Partitions: t.GetPartitions(),
				ReplicationFactor: t.GetReplicationFactor(), Internal: t.GetInternal(),
			})
		}
		return err
	})
	return out, err
}

// DescribeTopic returns a topic with its settings. Offsets are asked with ListOffsets.
func (c *Client) DescribeTopic(ctx context.Context, name string) (TopicDescription, error) {
	var out TopicDescription
	err := c.lookUp(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).DescribeTopic(ctx, &penstockv1.DescribeTopicRequest{Name: name})
		out = TopicDescription{Topic: topicOf(r.GetTopic()), Configs: configsOf(r.GetConfigs())}
		return err
	})
	return out, err
}

// DescribeCluster returns the health of the cluster as one broker sees it.
func (c *Client) DescribeCluster(ctx context.Context) (ClusterDescription, error) {
	var out ClusterDescription
	err := c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).DescribeCluster(ctx, &penstockv1.DescribeClusterRequest{})
		out = ClusterDescription{
			ClusterID: r.GetClusterId(), Healthy: r.GetHealthy(), Controller: r.GetControllerId(),
			Brokers: brokersOf(r.GetBrokers()), LeaderlessPartitions: r.GetLeaderlessPartitions(),
			UnderReplicatedPartitions: r.GetUnderReplicatedPartitions(), MetadataOffset: r.GetMetadataOffset(),
		}
		for _, reason := range r.GetReasons() {
			out.Reasons = append(out.Reasons, HealthReason{Code: reason.GetCode(), Message: reason.GetMessage()})
		}
		return err
	})
	return out, err
}

// DescribeQuorum returns the controller quorum.
func (c *Client) DescribeQuorum(ctx context.Context) (QuorumDescription, error) {
	var out QuorumDescription
	err := c.call(ctx, true, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewAdminServiceClient(conn).DescribeQuorum(ctx, &penstockv1.DescribeQuorumRequest{})
		out = QuorumDescription{
			Leader: r.GetLeaderId(), Term: r.GetTerm(), CommitIndex: r.GetCommitIndex(), AppliedIndex: r.GetAppliedIndex(),
			MetadataOffset: r.GetMetadataOffset(), FeatureLevel: r.GetFeatureLevel(),
		}
		for _, v := range r.GetVoters() {
			out.Voters = append(out.Voters, Voter{ID: v.GetId(), Address: v.GetAddress(), Leader: v.GetLeader()})
		}
		return err
	})
	return out, err
}

// Metadata returns brokers and the topics named; with no name, all topics. A topic that does not exist is an error, after a
// moment in which it may appear.
func (c *Client) Metadata(ctx context.Context, topics ...string) (Metadata, error) {
	var out Metadata
	for _, name := range topics {
		if err := model.ValidateTopicName(name); err != nil {
			return out, newError(model.CodeInvalidTopic, true, "%w", err)
		}
	}
	request := &penstockv1.GetMetadataRequest{Topics: topics, AllTopics: len(topics) == 0}
	err := c.lookUp(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := penstockv1.NewMetadataServiceClient(conn).GetMetadata(ctx, request)
		if err != nil {
			return err
		}
		out = Metadata{
			ClusterID: r.GetClusterId(), Controller: r.GetControllerId(), MetadataOffset: r.GetMetadataOffset(),
			Brokers: brokersOf(r.GetBrokers()),
		}
		for _, t := range r.GetTopics() {
			if t.GetError() != nil {
				return protoError(t.GetError())
			}
			out.Topics = append(out.Topics, topicOf(t))
		}
		return nil
	})
	return out, err
}

func topicOf(t *penstockv1.TopicMetadata) Topic {
	out := Topic{Name: t.GetName(), ID: idText(t.GetTopicId()), Internal: t.GetInternal()}
	for _, p := range t.GetPartitions() {
		out.Partitions = append(out.Partitions, Partition{
			Partition: p.GetPartition(), Leader: p.GetLeaderId(), LeaderEpoch: p.GetLeaderEpoch(),
			PartitionEpoch: p.GetPartitionEpoch(), Replicas: p.GetReplicas(), ISR: p.GetIsr(), ELR: p.GetElr(),
			PossiblyLossy: p.GetPossiblyLossy(),
		})
	}
	return out
}

func idText(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	id, err := model.UUIDFromBytes(b)
	if err != nil {
		return hex.EncodeToString(b)
	}
	return id.String()
}

func brokersOf(list []*penstockv1.Broker) []Broker {
	out := make([]Broker, 0, len(list))
	for _, b := range list {
		out = append(out, Broker{
			ID: b.GetId(), Host: b.GetHost(), Port: b.GetPort(), Rack: b.GetRack(), State: stateText(b.GetState()),
			Epoch: b.GetBrokerEpoch(),
		})
	}
	return out
}

func stateText(s penstockv1.BrokerState) string {
	switch s {
	case penstockv1.BrokerState_BROKER_STATE_ONLINE:
		return "online"
	case penstockv1.BrokerState_BROKER_STATE_FENCED:
		return "fenced"
	case penstockv1.BrokerState_BROKER_STATE_STARTING:
		return "starting"
	case penstockv1.BrokerState_BROKER_STATE_DRAINING:
		return "draining"
	case penstockv1.BrokerState_BROKER_STATE_STOPPING:
		return "stopping"
	case penstockv1.BrokerState_BROKER_STATE_UNSPECIFIED:
		return "unknown"
	default:
		return "unknown"
	}
}
