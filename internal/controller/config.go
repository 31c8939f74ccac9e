package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/model"
)

// Voter is a configured member of the quorum.
type Voter struct {
	ID      model.NodeID
	Address string // peer address, host:port
}

// QuorumState says whether a node takes part in the quorum; the values are those of the internal protocol.
type QuorumState int32

const (
	// QuorumStateNone is that of a node that is no voter.
	QuorumStateNone QuorumState = 0
	// QuorumStateEmpty is that of a voter that has acknowledged nothing yet: its log holds no metadata.
	QuorumStateEmpty QuorumState = 1
	// QuorumStateEstablished is that of a voter that holds metadata.
	QuorumStateEstablished QuorumState = 2
)

// ProbeResult is a node's answer to "who are you?".
type ProbeResult struct {
	NodeID        model.NodeID
	IncarnationID model.UUID
	ClusterID     model.UUID // zero where not known yet
	QuorumState   QuorumState
	DirectoryID   model.UUID
}

// Prober asks a node who it is. An address that refuses the connection, or accepts it and ends it, gives an error at once;
// one that does not answer gives an error once ctx is done, and not before. Implementations open a connection for each
// probe, or make sure that an old one cannot hide a refusal.
type Prober interface {
	Probe(ctx context.Context, address string) (ProbeResult, error)
}

// Config says how a controller runs. Durations of 0 and nil Clock and Logger mean the defaults.
type Config struct {
	// NodeID of this node; it must be among Voters.
	NodeID model.NodeID
	// Voters as configured, the same on each of them.
	Voters []Voter
	// Dir is the directory for raft.db and snapshots/; it is made where it is missing. The node's lock must be held.
	Dir string
	// Listener hands out the connections on which Raft is spoken, its prefix stripped. The controller closes it.
	Listener net.Listener
	// Dial opens a connection on which the other side expects Raft.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Prober asks other nodes who they are.
	Prober Prober
	// IncarnationID of this process.
	IncarnationID model.UUID
	// DirectoryID of this node's data directory.
	DirectoryID model.UUID

	Clock  lifecycle.Clock
	Logger *slog.Logger
	// Metrics registers the controller's metrics; nil registers none.
	Metrics prometheus.Registerer

	libraries *slog.Logger // Logger as given: each library names itself as the component

	// Core are the constants of decisions: session timeout, defaults of topics.
	Core core.Config
	// HeartbeatTimeout, ElectionTimeout and LeaseTimeout of Raft: 500, 500, 250 ms.
	HeartbeatTimeout, ElectionTimeout, LeaseTimeout time.Duration
	// CommitInterval is how soon followers hear of a commit; 20 ms.
	CommitInterval time.Duration
	// ApplyTimeout is how long a write may take before its outcome counts as unknown; 5 s.
	ApplyTimeout time.Duration
	// ProbeTimeout is how long a broker whose connection was lost has to answer a probe; 500 ms.
	ProbeTimeout time.Duration
	// BootstrapInterval is the time between two rounds of probes while the quorum is not there yet; 250 ms.
	BootstrapInterval time.Duration
	// BirthTimeout is how long the first active controller waits for all voters before it names the cluster; 5 s.
	BirthTimeout time.Duration
	// ProgressInterval is the longest silence of a feed; 1 s.
	ProgressInterval time.Duration
	// SnapshotInterval, SnapshotThreshold and TrailingLogs of Raft: 60 s, 16384 entries, 131072 entries (about 256 MiB of entries
	// of 2 KiB).
	SnapshotInterval                time.Duration
	SnapshotThreshold, TrailingLogs uint64
	// SlowWrite and HungWrite are the times after which a write to the Raft log costs the leadership and the process: 2 s, 5 s.
	SlowWrite, HungWrite time.Duration

	// wrapLog lets tests make the disk slow.
	wrapLog func(logStore) logStore
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = lifecycle.RealClock()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.HeartbeatTimeout = cmp.Or(c.HeartbeatTimeout, 500*time.Millisecond)
	c.ElectionTimeout = cmp.Or(c.ElectionTimeout, 500*time.Millisecond)
	c.LeaseTimeout = cmp.Or(c.LeaseTimeout, 250*time.Millisecond)
	c.CommitInterval = cmp.Or(c.CommitInterval, 20*time.Millisecond)
	c.ApplyTimeout = cmp.Or(c.ApplyTimeout, 5*time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 500*time.Millisecond)
	c.BootstrapInterval = cmp.Or(c.BootstrapInterval, 250*time.Millisecond)
	c.BirthTimeout = cmp.Or(c.BirthTimeout, 5*time.Second)
	c.ProgressInterval = cmp.Or(c.ProgressInterval, time.Second)
	c.SnapshotInterval = cmp.Or(c.SnapshotInterval, time.Minute)
	c.SnapshotThreshold = cmp.Or(c.SnapshotThreshold, 16384)
	c.TrailingLogs = cmp.Or(c.TrailingLogs, 131072)
	c.SlowWrite = cmp.Or(c.SlowWrite, 2*time.Second)
	c.HungWrite = cmp.Or(c.HungWrite, 5*time.Second)
	return c
}

func (c Config) check() error {
	if len(c.Voters) == 0 || c.Dir == "" || c.Listener == nil || c.Dial == nil || c.Prober == nil {
		return errors.New("controller: voters, directory, listener, dialer and prober must be given")
	}
	for i, v := range c.Voters {
		if v.ID < 0 || v.Address == "" {
			return fmt.Errorf("controller: voter %d@%s: the id must not be negative and the address not empty", v.ID, v.Address)
		}
		for _, other := range c.Voters[:i] {
			if other.ID == v.ID || other.Address == v.Address {
				return fmt.Errorf("controller: voters %d@%s and %d@%s share an id or an address", other.ID, other.Address, v.ID, v.Address)
			}
		}
	}
	if _, ok := c.voter(c.NodeID); !ok {
		return fmt.Errorf("controller: node %d is not among the configured voters", c.NodeID)
	}
	return nil
}

func (c Config) voter(id model.NodeID) (Voter, bool) {
	i := slices.IndexFunc(c.Voters, func(v Voter) bool { return v.ID == id })
	if i < 0 {
		return Voter{}, false
	}
	return c.Voters[i], true
}
