package config

import (
	"log/slog"
	"time"

	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// Config is the settings of one node, checked and complete.
type Config struct {
	NodeID      model.NodeID
	Roles       Roles
	Controllers []Voter // configured voters by id; never empty
	Rack        string
	DataDir     string
	PIDFile     string // empty for none

	ClientListeners []ClientListener // at least one; names are unique
	PeerListener    Listener
	AdminListener   Listener
	GossipListener  Listener

	GossipSeeds   []string
	GossipKeyFile string
	GossipKey     []byte // contents of GossipKeyFile, 32 bytes; nil without one

	LogLevel  slog.Level
	LogFormat telemetry.LogFormat

	SessionTimeout    time.Duration // after so long without a heartbeat a broker is fenced
	HeartbeatInterval time.Duration
	ReplicaLagTime    time.Duration // replica.lag.time.max
	Retention         Retention
	Scrub             Scrub
	Raft              RaftTimeouts
	ShutdownTimeout   time.Duration // how long a clean stop waits for leaderships to move

	Limits       Limits
	BacklogReads int // storage.backlog.reads; 0 where it follows from the processors

	OpenFiles int // storage.open.files; 0 where it follows from what the process may open
	// SyncJournalBytes is storage.sync.journal.bytes: the size of each of the two files of the sync journal; 0 makes none.
	SyncJournalBytes int64
	Memory           Memory
	PProf            bool // profiles on the admin listener

	settings []Setting
	exposed  string // a file with a secret that everybody on the machine can read; empty for none
}

// Roles are what a node does; at least one is set.
type Roles struct {
	Controller bool
	Broker     bool
}

// Voter is one configured member of the metadata quorum.
type Voter struct {
	ID      model.NodeID
	Address string // peer address, host:port
}

// Listener is a bind address and the address that others reach it at; both are host:port.
type Listener struct {
	Bind       string
	Advertised string
}

// ClientListener is a named listener for clients.
type ClientListener struct {
	Name string
	Listener
}

// Retention is how retention and compaction work on this node.
type Retention struct {
	CheckInterval         time.Duration // retention.check.interval
	ClockTolerance        time.Duration // retention.clock.tolerance
	ClockGrace            time.Duration // retention.clock.grace
	CleanerBytesPerSecond int64         // cleaner.bytes.per.second
	CleanerMapBytes       int64         // cleaner.map.bytes
}

// Scrub is how everything on the disk is checked in the background.
type Scrub struct {
	BytesPerSecond int64         // scrub.bytes.per.second
	Interval       time.Duration // scrub.interval
}

// RaftTimeouts are those of the metadata quorum.
type RaftTimeouts struct {
	Heartbeat time.Duration
	Election  time.Duration
	Lease     time.Duration
}

// Limits bound what one client can take of a node.
type Limits struct {
	StreamsPerConnection int   // gRPC streams
	HeaderListBytes      int   // headers of one call
	MessageBytes         int   // largest request, in bytes
	InFlightBytes        int64 // unanswered bytes of one produce stream
	FetchCreditBytes     int64 // largest credit of one fetch stream
	Subscriptions        int   // of one fetch stream
}

// Memory tunes the garbage collector.
type Memory struct {
	GCPercent  int
	LimitBytes int64 // soft limit of the Go runtime; 0 where it follows from the control group
}

// IsVoter reports whether the node is one of the configured voters.
func (c *Config) IsVoter() bool {
	for _, v := range c.Controllers {
		if v.ID == c.NodeID {
			return true
		}
	}
	return false
}
