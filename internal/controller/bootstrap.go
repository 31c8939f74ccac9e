package controller

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// awaitQuorum returns once Raft may be started. A voter that has state may at once. One whose directory is empty may only
// when every configured voter has answered, since this process runs, that it holds no metadata: then none of them has
// acknowledged anything, so that nothing can be forgotten. A voter that lost its directory after that is refused for ever; it
// would vote twice. It waits to be removed and added again.
//
// A voter counts as empty until it holds metadata, whether its Raft runs already or not, and the first active controller
// waits for all voters before it writes (loop.go); so that voters that start together all get through.
func (c *Controller) awaitQuorum(ctx context.Context) error {
	has, err := raft.HasExistingState(c.store, c.store, c.snaps)
	if err != nil {
		return fmt.Errorf("controller: look for raft state: %w", err)
	}
	if has {
		return nil
	}
	empty := map[model.NodeID]bool{c.cfg.NodeID: true}
	warned := false
	for len(empty) < len(c.cfg.Voters) {
		established := c.probeVoters(ctx, empty)
		if established != model.NoNode && !warned {
			warned = true
			c.cfg.Logger.Warn("this voter's directory is empty, but the quorum has metadata already; "+
				"it waits to be removed from the voters and added again with its new directory",
				"established_voter", established, "directory_id", c.cfg.DirectoryID.String())
		}
		if len(empty) == len(c.cfg.Voters) {
			break
		}
		if err := lifecycle.Sleep(ctx, c.cfg.Clock, c.cfg.BootstrapInterval); err != nil {
			return err
		}
	}
	return c.bootstrap()
}

// probeVoters asks the voters that have not answered "empty" yet, and returns one that holds metadata, if there is one.
func (c *Controller) probeVoters(ctx context.Context, empty map[model.NodeID]bool) model.NodeID {
	established := model.NoNode
	for _, v := range c.cfg.Voters {
		if empty[v.ID] {
			continue
		}
		probeCtx, cancel := context.WithTimeout(ctx, c.cfg.ProbeTimeout)
		result, err := c.cfg.Prober.Probe(probeCtx, v.Address)
		cancel()
		switch {
		case err != nil:
			c.cfg.Logger.Debug("a voter does not answer", "voter", v.ID, "address", v.Address, "error", err)
		case result.NodeID != v.ID:
			c.cfg.Logger.Warn("another node answers at a voter's address", "voter", v.ID, "address", v.Address, "node", result.NodeID)
		case result.QuorumState == QuorumStateEmpty:
			empty[v.ID] = true
		case result.QuorumState == QuorumStateEstablished:
			established = v.ID
		}
	}
	return established
}

// bootstrap writes the configured voters as the first entry of the log, the same on each of them.
func (c *Controller) bootstrap() error {
	var servers []raft.Server
	for _, v := range c.cfg.Voters {
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: serverID(v.ID), Address: raft.ServerAddress(v.Address)})
	}
	_, inmem := raft.NewInmemTransport("bootstrap") // it only lends its encoding
	conf := c.raftConfig(nil)
	if err := raft.BootstrapCluster(conf, c.store, c.store, c.snaps, inmem, raft.Configuration{Servers: servers}); err != nil {
		return fmt.Errorf("controller: bootstrap the quorum: %w", err)
	}
	c.cfg.Logger.Info("every voter is empty: the quorum begins", "voters", len(servers))
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
