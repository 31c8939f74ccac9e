package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
)

func (a *app) topicCmd() *cobra.Command {
	return group("topic", "Create, list, describe, change and delete topics",
		a.topicCreateCmd(), a.topicListCmd(), a.topicDescribeCmd(), a.topicConfigCmd(), a.topicAddPartitionsCmd(), a.topicTrimCmd(),
		a.topicDeleteCmd())
}

func (a *app) topicCreateCmd() *cobra.Command {
	var partitions, factor int32
	var configs []string
	var ifNotExists, dryRun bool
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a topic", Args: args(1, 1)}
	f := cmd.Flags()
	f.Int32Var(&partitions, "partitions", 3, "number of partitions")
	f.Int32Var(&factor, "replication-factor", 3, "replicas of each partition (default 3, or as many as there are brokers)")
	f.StringArrayVar(&configs, "config", nil, "setting as KEY=VALUE; repeat for more")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "succeed where the topic exists already")
	f.BoolVar(&dryRun, "dry-run", false, "check everything and show the placement, change nothing")
	f.Lookup("replication-factor").DefValue = ""
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		spec := client.TopicSpec{Name: argv[0], Configs: make(map[string]string), ValidateOnly: dryRun}
		for _, c := range configs {
			key, value, ok := strings.Cut(c, "=")
			if !ok || key == "" {
				return usagef("--config %q is not KEY=VALUE", c)
			}
			if _, twice := spec.Configs[key]; twice {
				return usagef("--config %s is given twice", key)
			}
			spec.Configs[key] = value
		}
		if f.Changed("partitions") {
			spec.Partitions = &partitions
		}
		if f.Changed("replication-factor") {
			spec.ReplicationFactor = &factor
		}
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.createTopic(ctx, c, spec, ifNotExists)
		})
	}
	return cmd
}

func (a *app) createTopic(ctx context.Context, c *client.Client, spec client.TopicSpec, ifNotExists bool) error {
	topic, err := c.CreateTopic(ctx, spec)
	if ifNotExists && client.IsName(err, "TOPIC_ALREADY_EXISTS") {
		a.notef("topic %s exists already", spec.Name)
		return nil
	}
	if err != nil {
		return err
	}
	factor := 0
	if len(topic.Partitions) > 0 {
		factor = len(topic.Partitions[0].Replicas)
	}
	done := "created"
	if spec.ValidateOnly {
		done = "would create"
	}
	a.notef("%s topic %s: %d partitions, replication factor %d", done, topic.Name, len(topic.Partitions), factor)
	if a.output == "text" && !spec.ValidateOnly {
		return nil
	}
	return a.print(describedTopic(topic, nil, nil), func(w io.Writer, wide bool) error {
		return partitionTable(w, describedTopic(topic, nil, nil).Partitions, wide)
	})
}

type listedTopic struct {
	Name              string `json:"name"`
	TopicID           string `json:"topic_id"`
	Partitions        int32  `json:"partitions"`
	ReplicationFactor int32  `json:"replication_factor"`
	Internal          bool   `json:"internal"`
}

func (a *app) topicListCmd() *cobra.Command {
	var internal bool
	cmd := &cobra.Command{Use: "list", Short: "List topics", Args: args(0, 0)}
	cmd.Flags().BoolVar(&internal, "internal", false, "show topics of Penstock itself too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			topics, err := c.ListTopics(ctx, internal)
			if err != nil {
				return err
			}
			list := make([]listedTopic, 0, len(topics))
			for _, t := range topics {
				list = append(list, listedTopic{
					Name: t.Name, TopicID: t.ID, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Internal: t.Internal,
				})
			}
			return a.print(list, func(w io.Writer, wide bool) error { return topicTable(w, list, wide) })
		})
	}
	return cmd
}

func topicTable(w io.Writer, list []listedTopic, wide bool) error {
	head := []any{"NAME", "PARTITIONS", "REPLICATION"}
	if wide {
		head = append(head, "TOPIC ID", "INTERNAL")
	}
	if err := row(w, head...); err != nil {
		return err
	}
	for _, t := range list {
		cells := []any{t.Name, t.Partitions, t.ReplicationFactor}
		if wide {
			cells = append(cells, t.TopicID, t.Internal)
		}
		if err := row(w, cells...); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) topicDescribeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show a topic: leaders, replicas, offsets, settings", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				t, err := c.DescribeTopic(ctx, argv[0])
				if err != nil {
					return err
				}
				d := describedTopic(t.Topic, t.Configs, offsetsOf(ctx, c, a.timeout, t.Topic))
				return a.print(d, func(w io.Writer, wide bool) error { return describeTable(w, d, wide) })
			})
		},
	}
}

func (a *app) topicDeleteCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a topic and its records", Args: args(1, 1)}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		if err := a.confirm(cmd.Context(), yes, "delete topic "+argv[0]+" and all its records"); err != nil {
			return err
		}
		return a.withClient(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			if err := c.DeleteTopic(ctx, argv[0]); err != nil {
				return err
			}
			a.notef("deleted topic %s", argv[0])
			return nil
		})
	}
	return cmd
}
