package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/lifecycle"
)

type brokerJSON struct {
	ID      int32  `json:"id"`
	State   string `json:"state"`
	Address string `json:"address"`
	Rack    string `json:"rack,omitempty"`
	Epoch   int64  `json:"broker_epoch"`
}

type reasonJSON struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type healthJSON struct {
	Healthy                   bool         `json:"healthy"`
	ClusterID                 string       `json:"cluster_id"`
	Controller                *int32       `json:"controller"`
	Brokers                   []brokerJSON `json:"brokers"`
	LeaderlessPartitions      int32        `json:"leaderless_partitions"`
	UnderReplicatedPartitions int32        `json:"under_replicated_partitions"`
	Reasons                   []reasonJSON `json:"reasons"`
}

func (a *app) clusterCmd() *cobra.Command {
	var wait time.Duration
	health := &cobra.Command{Use: "health", Short: "Say whether the cluster is healthy, and why not", Args: args(0, 0)}
	health.Flags().DurationVar(&wait, "wait", 0, "wait so long for it to become healthy")
	health.RunE = func(cmd *cobra.Command, _ []string) error {
		if wait < 0 {
			return usagef("--wait %v is negative", wait)
		}
		h, err := a.awaitHealth(cmd.Context(), wait)
		if err != nil {
			return err
		}
		if err := a.print(h, func(w io.Writer, _ bool) error { return healthTable(w, h) }); err != nil {
			return err
		}
		if !h.Healthy {
			return errUnhealthy
		}
		return nil
	}
	return group("cluster", "Look at the cluster as a whole", health)
}

const healthPoll = 100 * time.Millisecond

// awaitHealth asks until the cluster is healthy or the wait is over, and returns the last answer.
func (a *app) awaitHealth(ctx context.Context, wait time.Duration) (healthJSON, error) {
	clock := lifecycle.RealClock()
	end := clock.Now().Add(wait)
	for {
		h, err := a.health(ctx)
		if err == nil && h.Healthy || !clock.Now().Before(end) {
			return h, err
		}
		if lifecycle.Sleep(ctx, clock, healthPoll) != nil {
			return h, err
		}
	}
}

func (a *app) health(ctx context.Context) (h healthJSON, err error) {
	err = a.withClient(ctx, func(ctx context.Context, c *client.Client) error {
		d, err := c.DescribeCluster(ctx)
		if err != nil {
			return err
		}
		h = healthJSON{
			Healthy: d.Healthy, ClusterID: d.ClusterID, Controller: nodeOrNull(d.Controller), Brokers: brokersJSON(d.Brokers),
			LeaderlessPartitions: d.LeaderlessPartitions, UnderReplicatedPartitions: d.UnderReplicatedPartitions,
			Reasons: []reasonJSON{},
		}
		for _, r := range d.Reasons {
			h.Reasons = append(h.Reasons, reasonJSON{Code: r.Code, Message: r.Message})
		}
		return nil
	})
	return h, err
}

func brokersJSON(list []client.Broker) []brokerJSON {
	out := make([]brokerJSON, 0, len(list))
	for _, b := range list {
		out = append(out, brokerJSON{ID: b.ID, State: b.State, Address: b.Address(), Rack: b.Rack, Epoch: b.Epoch})
	}
	return out
}

func healthTable(w io.Writer, h healthJSON) error {
	verdict := "healthy"
	if !h.Healthy {
		verdict = "NOT HEALTHY"
	}
	online := 0
	for _, b := range h.Brokers {
		if b.State == "online" {
			online++
		}
	}
	err := row(w, fmt.Sprintf("%s: controller %v, %d of %d brokers online, %d partitions without leader, %d under-replicated",
		verdict, known(h.Controller), online, len(h.Brokers), h.LeaderlessPartitions, h.UnderReplicatedPartitions))
	for _, r := range h.Reasons {
		if err == nil {
			err = row(w, r.Code, r.Message)
		}
	}
	return err
}

func (a *app) brokerCmd() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List brokers", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				d, err := c.DescribeCluster(ctx)
				if err != nil {
					return err
				}
				brokers := brokersJSON(d.Brokers)
				return a.print(brokers, func(w io.Writer, wide bool) error { return brokerTable(w, brokers, wide) })
			})
		},
	}
	return group("broker", "Look at brokers", list, a.readyCmd())
}

func brokerTable(w io.Writer, list []brokerJSON, wide bool) error {
	head := []any{"ID", "STATE", "ADDRESS"}
	if wide {
		head = append(head, "RACK", "EPOCH")
	}
	if err := row(w, head...); err != nil {
		return err
	}
	for _, b := range list {
		cells := []any{b.ID, b.State, b.Address}
		if wide {
			cells = append(cells, b.Rack, b.Epoch)
		}
		if err := row(w, cells...); err != nil {
			return err
		}
	}
	return nil
}

func partitionName(topic string, partition int32) string {
	return fmt.Sprintf("%s/%d", topic, partition)
}

func (a *app) partitionCmd() *cobra.Command {
	var topic string
	list := &cobra.Command{Use: "list", Short: "List partitions with leaders, replicas and offsets", Args: args(0, 0)}
	list.Flags().StringVar(&topic, "topic", "", "of this topic alone")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			var names []string
			if topic != "" {
				names = []string{topic}
			}
			m, err := c.Metadata(ctx, names...)
			if err != nil {
				return err
			}
			partitions := []partitionJSON{}
			offsets := offsetsOf(ctx, c, a.timeout, m.Topics...)
			for _, t := range m.Topics {
				for _, p := range t.Partitions {
					partitions = append(partitions, describedPartition(t.Name, p, offsets[partitionName(t.Name, p.Partition)]))
				}
			}
			return a.print(partitions, func(w io.Writer, wide bool) error { return partitionTable(w, partitions, wide) })
		})
	}
	return group("partition", "Look at partitions", list)
}

type voterJSON struct {
	ID      int32  `json:"id"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
}

type quorumJSON struct {
	Leader         *int32      `json:"leader"`
	Term           uint64      `json:"term"`
	CommitIndex    uint64      `json:"commit_index"`
	AppliedIndex   uint64      `json:"applied_index"`
	MetadataOffset uint64      `json:"metadata_offset"`
	FeatureLevel   int32       `json:"feature_level"`
	Voters         []voterJSON `json:"voters"`
}

func (a *app) controllerCmd() *cobra.Command {
	status := &cobra.Command{
		Use: "status", Short: "Show the controllers that own the metadata", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				d, err := c.DescribeQuorum(ctx)
				if err != nil {
					return err
				}
				q := quorumJSON{
					Leader: nodeOrNull(d.Leader), Term: d.Term, CommitIndex: d.CommitIndex, AppliedIndex: d.AppliedIndex,
					MetadataOffset: d.MetadataOffset, FeatureLevel: d.FeatureLevel, Voters: []voterJSON{},
				}
				for _, v := range d.Voters {
					q.Voters = append(q.Voters, voterJSON{ID: v.ID, Address: v.Address, Leader: v.Leader})
				}
				return a.print(q, func(w io.Writer, _ bool) error { return quorumTable(w, q) })
			})
		},
	}
	return group("controller", "Look at the controllers", status)
}

func quorumTable(w io.Writer, q quorumJSON) error {
	if err := row(w, fmt.Sprintf("leader %v, term %d, commit %d, applied %d, metadata offset %d, feature level %d",
		known(q.Leader), q.Term, q.CommitIndex, q.AppliedIndex, q.MetadataOffset, q.FeatureLevel)); err != nil {
		return err
	}
	if err := row(w, "VOTER", "ADDRESS", "LEADER"); err != nil {
		return err
	}
	for _, v := range q.Voters {
		if err := row(w, v.ID, v.Address, v.Leader); err != nil {
			return err
		}
	}
	return nil
}
