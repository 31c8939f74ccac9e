package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/wire"
)

// healthPoller asks the nodes of a development cluster how they are.
type healthPoller struct {
	plan  devPlan
	conns map[int]*grpc.ClientConn
}

func newHealthPoller(plan devPlan) *healthPoller {
	return &healthPoller{plan: plan, conns: map[int]*grpc.ClientConn{}}
}

func (h *healthPoller) close() {
	for _, conn := range h.conns {
		_ = conn.Close() // the process goes on or ends; nothing depends on it
	}
}

// poll returns nil when every node answers that the cluster is healthy and complete.
func (h *healthPoller) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for i := 1; i <= h.plan.brokers; i++ {
		if err := h.node(ctx, i); err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
	}
	return nil
}

func (h *healthPoller) node(ctx context.Context, i int) error {
	conn := h.conns[i]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient("passthrough:///"+h.plan.address(i, 0), wire.DialOptions(wire.Limits{})...)
		if err != nil {
			return err
		}
		h.conns[i] = conn
	}
	health, err := penstockv1.NewAdminServiceClient(conn).DescribeCluster(ctx, &penstockv1.DescribeClusterRequest{})
	if err != nil {
		return wire.FromStatus(err)
	}
	if n := len(health.GetBrokers()); n != h.plan.brokers {
		return fmt.Errorf("%d of %d brokers have registered", n, h.plan.brokers)
	}
	if reasons := health.GetReasons(); len(reasons) > 0 {
		return errors.New(reasons[0].GetMessage())
	}
	return nil
}
