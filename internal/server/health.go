package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// quorumTimeout is how long the active controller may take to show that it is there.
const quorumTimeout = 1500 * time.Millisecond

// The codes of health reasons.
const (
	reasonNoQuorum        = "NO_QUORUM"
	reasonMetadataBehind  = "METADATA_BEHIND"
	reasonBrokerFenced    = "BROKER_FENCED"
	reasonBrokerStarting  = "BROKER_STARTING"
	reasonBrokerStopping  = "BROKER_STOPPING"
	reasonLeaderless      = "LEADERLESS_PARTITIONS"
	reasonUnderReplicated = "UNDER_REPLICATED"
	reasonDamaged         = "DAMAGED_REPLICAS"
	reasonDiffering       = "DIFFERING_REPLICAS"
	reasonDiskFull        = "DISK_FULL"
	reasonDiskStalled     = "DISK_STALLED"
)

// DescribeCluster shows the brokers and what is wrong. The controller is asked, not believed.
func (s *adminService) DescribeCluster(
	ctx context.Context, _ *penstockv1.DescribeClusterRequest,
) (*penstockv1.DescribeClusterResponse, error) {
	if err := Authorize(ctx, OperationDescribe, cluster()); err != nil {
		return nil, err
	}
	asked, cancel := context.WithTimeout(ctx, quorumTimeout)
	defer cancel()
	quorum, quorumErr := s.quorum.DescribeQuorum(asked)
	var behind error
	if quorumErr == nil {
		// What the controller has decided is waited for, briefly, so that the answer is not older than the question.
		behind = s.cache.Await(asked, model.MetadataOffset(quorum.GetMetadataOffset()))
	}
	image := s.cache.Image()
	resp := &penstockv1.DescribeClusterResponse{
		ClusterId: image.ClusterID().String(), ControllerId: int32(model.NoNode), MetadataOffset: uint64(image.Offset()),
		Brokers: brokersOf(image, RequestOf(ctx).Listener),
	}
	if quorumErr != nil {
		resp.Reasons = append(resp.Reasons, &penstockv1.HealthReason{Code: reasonNoQuorum, Message: fmt.Sprintf(
			"no active controller: topics and leaders cannot change; see that a majority of the controllers runs (%v)", quorumErr)})
	} else {
		resp.ControllerId = quorum.GetLeaderId()
	}
	if behind != nil {
		resp.Reasons = append(resp.Reasons, &penstockv1.HealthReason{Code: reasonMetadataBehind, Message: fmt.Sprintf(
			"the broker that answers has metadata up to %d of %d and may not know what is wrong; wait, or ask another one",
			image.Offset(), quorum.GetMetadataOffset())})
	}
	for _, b := range image.Brokers() {
		if reason := brokerReason(b); reason != nil {
			resp.Reasons = append(resp.Reasons, reason)
		}
	}
	countPartitions(image, resp)
	resp.Reasons = append(resp.Reasons, troubleReasons(image, quorum.GetTroubles())...)
	resp.Reasons = append(resp.Reasons, diskReasons(quorum.GetDisks())...)
	resp.Healthy = len(resp.Reasons) == 0
	return resp, nil
}

func brokerReason(b *metadata.Broker) *penstockv1.HealthReason {
	switch stateOf(b) {
	case penstockv1.BrokerState_BROKER_STATE_FENCED:
		return &penstockv1.HealthReason{Code: reasonBrokerFenced, Message: fmt.Sprintf(
			"broker %d is not heard of: it leads nothing; start it, or see its log", b.ID)}
	case penstockv1.BrokerState_BROKER_STATE_STARTING:
		return &penstockv1.HealthReason{Code: reasonBrokerStarting, Message: fmt.Sprintf(
			"broker %d has registered and is catching up; wait", b.ID)}
	case penstockv1.BrokerState_BROKER_STATE_STOPPING:
		return &penstockv1.HealthReason{Code: reasonBrokerStopping, Message: fmt.Sprintf(
			"broker %d is on its way to a clean stop", b.ID)}
	case penstockv1.BrokerState_BROKER_STATE_ONLINE, penstockv1.BrokerState_BROKER_STATE_DRAINING,
		penstockv1.BrokerState_BROKER_STATE_UNSPECIFIED:
		return nil
	default:
		return nil
	}
}

func countPartitions(image *metadata.Image, resp *penstockv1.DescribeClusterResponse) {
	for t := range image.Topics() {
		for _, p := range t.AllPartitions() {
			if p.Leader == model.NoNode {
				resp.LeaderlessPartitions++
			}
			if len(p.ISR) < len(p.Replicas) {
				resp.UnderReplicatedPartitions++
			}
		}
	}
	if n := resp.LeaderlessPartitions; n > 0 {
		resp.Reasons = append(resp.Reasons, &penstockv1.HealthReason{Code: reasonLeaderless, Message: fmt.Sprintf(
			"%d partitions have no leader and take no records; start the brokers that hold them", n)})
	}
	if n := resp.UnderReplicatedPartitions; n > 0 {
		resp.Reasons = append(resp.Reasons, &penstockv1.HealthReason{Code: reasonUnderReplicated, Message: fmt.Sprintf(
			"%d partitions have fewer replicas in sync than assigned; start missing brokers, or wait until they have caught up", n)})
	}
}

// diskReasons says which brokers' disks are full, or hang.
func diskReasons(disks []*internalv1.BrokerDisk) (reasons []*penstockv1.HealthReason) {
	for _, d := range disks {
		if d.GetDisk().GetFull() {
			reasons = append(reasons, &penstockv1.HealthReason{Code: reasonDiskFull, Message: fmt.Sprintf(
				"the disk of broker %d is full: it takes no records and hands its leaderships over where another replica in sync has room; "+
					"delete or trim topics, or make the disk larger", d.GetBrokerId())})
		}
		if ms := d.GetDisk().GetStalledMs(); ms > 0 {
			reasons = append(reasons, &penstockv1.HealthReason{Code: reasonDiskStalled, Message: fmt.Sprintf(
				"the disk of broker %d has not answered for %v: what its partitions take is not acknowledged; "+
					"see the log of its machine, and stop the broker where it stays so", d.GetBrokerId(), time.Duration(ms)*time.Millisecond)})
		}
	}
	return reasons
}

// namedTroubles bounds how many replicas a reason names.
const namedTroubles = 5

// troubleReasons says which replicas are damaged, or differ from their leader's.
func troubleReasons(image *metadata.Image, troubles []*internalv1.ReplicaTrouble) []*penstockv1.HealthReason {
	var reasons []*penstockv1.HealthReason
	for _, kind := range []struct {
		kind            internalv1.TroubleKind
		code, what, end string
	}{
		{
			internalv1.TroubleKind_TROUBLE_KIND_DAMAGED, reasonDamaged, "%d replicas hold bytes that are not what was written (%s)",
			"each is fetched anew where another replica holds what it lost; one that stays leads and serves what is intact: " +
				"bring its other replicas back, or restore from a copy",
		},
		{
			internalv1.TroubleKind_TROUBLE_KIND_DIFFERS, reasonDiffering, "%d replicas differ from their leader's in committed records (%s)",
			"each is sound by itself and nothing is deleted: compare them and decide which to keep",
		},
	} {
		n, named := 0, []string{}
		for _, t := range troubles {
			if t.GetKind() != kind.kind {
				continue
			}
			if n++; n <= namedTroubles {
				named = append(named, troubleName(image, t))
			}
		}
		if n > namedTroubles {
			named = append(named, "...")
		}
		if n > 0 {
			message := fmt.Sprintf(kind.what, n, strings.Join(named, ", ")) + ": " + kind.end
			reasons = append(reasons, &penstockv1.HealthReason{Code: kind.code, Message: message})
		}
	}
	return reasons
}

func troubleName(image *metadata.Image, t *internalv1.ReplicaTrouble) string {
	name := "a deleted topic"
	if id, err := model.UUIDFromBytes(t.GetTopicId()); err == nil {
		if topic, ok := image.TopicByID(id); ok {
			name = topic.Name
		}
	}
	return fmt.Sprintf("%s/%d on broker %d, offsets %d to %d", name, t.GetPartition(), t.GetBrokerId(), t.GetFromOffset(), t.GetToOffset()-1)
}
