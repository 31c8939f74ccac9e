package config

import (
	"math"
	"time"

	"github.com/penstock-io/penstock/internal/telemetry"
)

// Keys returns the table, in the order of documentation.
func Keys() []Key { return append([]Key(nil), keys...) }

// Units of the bounds.
const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	day = 24 * time.Hour
)

var keys = []Key{
	{
		Name: "node.id", Kind: KindInt, Default: "1", Min: 0, Max: math.MaxInt32, Takes: TakesNever,
		set: setNodeID,
		Doc: "Number of the node, 0 or more, unique in the cluster and fixed for its life.",
	},
	{
		Name: "roles", Kind: KindList, Default: "controller,broker", Values: []string{roleController, roleBroker},
		set: setRoles,
		Doc: "What the node does: controller, broker, or both.",
	},
	{
		Name: "controllers", Kind: KindList,
		set: setControllers,
		Doc: "The voters of the metadata quorum as id@host:port of their peer listeners, the same on every node; empty is this node alone.",
	},
	{
		Name: "rack", Kind: KindString,
		set: func(c *Config, v string) error { c.Rack = v; return nil },
		Doc: "Rack or zone of the node, for placement.",
	},
	{
		Name: "data.dir", Kind: KindPath, Default: "data",
		set: setDataDir,
		Doc: "Directory of all data of the node.",
	},
	{
		Name: "pid.file", Kind: KindPath,
		set: func(c *Config, v string) error { c.PIDFile = v; return nil },
		Doc: "File that holds the number of the process while the node runs.",
	},
	{
		Name: "listen.client", Kind: KindList, Default: "127.0.0.1:9092",
		set: setClientListeners,
		Doc: "Listeners for clients as name=host:port; one without a name is called client.",
	},
	{
		Name: "listen.peer", Kind: KindAddress, Default: "127.0.0.1:9093",
		set: bind(func(c *Config) *Listener { return &c.PeerListener }),
		Doc: "Listener for other nodes.",
	},
	{
		Name: "listen.admin", Kind: KindAddress, Default: "127.0.0.1:9094",
		set: bind(func(c *Config) *Listener { return &c.AdminListener }),
		Doc: "HTTP listener for metrics, health and the log level.",
	},
	{
		Name: "listen.gossip", Kind: KindAddress, Default: "127.0.0.1:9095",
		set: bind(func(c *Config) *Listener { return &c.GossipListener }),
		Doc: "Listener for gossip, TCP and UDP.",
	},
	{
		Name: "advertised.client", Kind: KindList,
		set: setAdvertisedClients,
		Doc: "Addresses that clients reach the listeners at, as name=host:port; the bind address where not given.",
	},
	{
		Name: "advertised.peer", Kind: KindAddress,
		set: advertise(func(c *Config) *Listener { return &c.PeerListener }),
		Doc: "Address that other nodes reach the peer listener at.",
	},
	{
		Name: "advertised.gossip", Kind: KindAddress,
		set: advertise(func(c *Config) *Listener { return &c.GossipListener }),
		Doc: "Address that other nodes reach the gossip listener at.",
	},
	{
		Name: "gossip.seeds", Kind: KindList,
		set: setSeeds,
		Doc: "Gossip addresses of some other nodes, host:port; joined again periodically.",
	},
	{
		Name: "gossip.key.file", Kind: KindPath,
		set: setGossipKeyFile,
		Doc: "File with the 32-byte key of the gossip, raw or as 64 hexadecimal digits, the same on every node; needed where listen.gossip is beyond loopback.",
	},
	{
		Name: "log.level", Kind: KindString, Default: "info", Values: telemetry.Levels(), Takes: TakesAtOnce,
		set: setLogLevel,
		Doc: "Lowest level that is logged: trace, debug, info, warn or error.",
	},
	{
		Name: "log.format", Kind: KindString, Default: "text", Values: []string{string(telemetry.LogText), string(telemetry.LogJSON)},
		set: setLogFormat,
		Doc: "Form of log lines: text or json.",
	},
	{
		Name: "session.timeout", Kind: KindDuration, Default: "3s", Min: int64(100 * time.Millisecond), Max: int64(10 * time.Minute),
		set: duration(func(c *Config) dst { return &c.SessionTimeout }),
		Doc: "A broker that was not heard of for so long is fenced.",
	},
	{
		Name: "heartbeat.interval", Kind: KindDuration, Default: "500ms", Min: int64(10 * time.Millisecond), Max: int64(time.Minute),
		set: duration(func(c *Config) dst { return &c.HeartbeatInterval }),
		Doc: "Time between two heartbeats of a broker; at most a third of session.timeout.",
	},
	{
		Name: "replica.lag.time.max", Kind: KindDuration, Default: "3s", Min: int64(10 * time.Millisecond), Max: int64(time.Hour),
		set: duration(func(c *Config) dst { return &c.ReplicaLagTime }),
		Doc: "A follower that stays behind for longer leaves the in-sync set.",
	},
	{
		Name: "retention.check.interval", Kind: KindDuration, Default: "5m", Min: int64(time.Second), Max: int64(24 * time.Hour),
		set: duration(func(c *Config) dst { return &c.Retention.CheckInterval }),
		Doc: "How often retention and compaction look at every partition; not more often than every 5 seconds.",
	},
	{
		Name: "retention.clock.tolerance", Kind: KindDuration, Default: "5m", Min: int64(time.Second), Max: int64(30 * day),
		set: duration(func(c *Config) dst { return &c.Retention.ClockTolerance }),
		Doc: "A wall clock that jumps ahead by more raises an alarm, and nothing is deleted by age.",
	},
	{
		Name: "retention.clock.grace", Kind: KindDuration, Default: "24h", Min: int64(time.Second), Max: int64(365 * day),
		set: duration(func(c *Config) dst { return &c.Retention.ClockGrace }),
		Doc: "How long nothing is deleted by age after the clock jumped, unless it goes back before.",
	},
	{
		Name: "cleaner.bytes.per.second", Kind: KindBytes, Default: "64MiB", Min: 64 * kib, Max: 64 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Retention.CleanerBytesPerSecond }),
		Doc: "Most bytes that compaction reads and writes in a second.",
	},
	{
		Name: "cleaner.map.bytes", Kind: KindBytes, Default: "16MiB", Min: 64 * kib, Max: 4 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Retention.CleanerMapBytes }),
		Doc: "Most memory for the keys of the log that is being compacted; more keys take more passes.",
	},
	{
		Name: "scrub.bytes.per.second", Kind: KindBytes, Default: "8MiB", Min: 4 * kib, Max: 64 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Scrub.BytesPerSecond }),
		Doc: "Most bytes that the background check of everything on the disk reads in a second.",
	},
	{
		Name: "scrub.interval", Kind: KindDuration, Default: "24h", Min: int64(10 * time.Millisecond), Max: int64(365 * day),
		set: duration(func(c *Config) dst { return &c.Scrub.Interval }),
		Doc: "Least time from the start of one check of everything on the disk to the next.",
	},
	{
		Name: "raft.heartbeat.timeout", Kind: KindDuration, Default: "500ms", Min: int64(10 * time.Millisecond), Max: int64(time.Minute),
		set: duration(func(c *Config) dst { return &c.Raft.Heartbeat }),
		Doc: "A controller that did not hear of the active one for so long starts an election.",
	},
	{
		Name: "raft.election.timeout", Kind: KindDuration, Default: "500ms", Min: int64(10 * time.Millisecond), Max: int64(time.Minute),
		set: duration(func(c *Config) dst { return &c.Raft.Election }),
		Doc: "How long one election of the active controller may take; at least raft.heartbeat.timeout.",
	},
	{
		Name: "raft.lease.timeout", Kind: KindDuration, Default: "250ms", Min: int64(10 * time.Millisecond), Max: int64(time.Minute),
		set: duration(func(c *Config) dst { return &c.Raft.Lease }),
		Doc: "An active controller without contact to a majority for so long steps down; at most raft.heartbeat.timeout.",
	},
	{
		Name: "shutdown.timeout", Kind: KindDuration, Default: "10s", Min: int64(100 * time.Millisecond), Max: int64(time.Hour),
		set: duration(func(c *Config) dst { return &c.ShutdownTimeout }),
		Doc: "How long a clean stop waits for leaderships to move away.",
	},
	{
		Name: "limits.streams", Kind: KindInt, Default: "1024", Min: 1, Max: 1_000_000,
		set: number(func(c *Config) *int { return &c.Limits.StreamsPerConnection }),
		Doc: "Most streams on one connection.",
	},
	{
		Name: "limits.header.bytes", Kind: KindBytes, Default: "16KiB", Min: kib, Max: 16 * mib,
		set: bytesInt(func(c *Config) *int { return &c.Limits.HeaderListBytes }),
		Doc: "Largest header list of one call.",
	},
	{
		Name: "limits.message.bytes", Kind: KindBytes, Default: "16MiB", Min: kib, Max: gib,
		set: bytesInt(func(c *Config) *int { return &c.Limits.MessageBytes }),
		Doc: "Largest request that is taken, and so the largest batch of records.",
	},
	{
		Name: "limits.inflight.bytes", Kind: KindBytes, Default: "64MiB", Min: kib, Max: 64 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Limits.InFlightBytes }),
		Doc: "Most unanswered bytes on one produce stream; the broker reads no more until some are answered.",
	},
	{
		Name: "limits.fetch.credit.bytes", Kind: KindBytes, Default: "256MiB", Min: kib, Max: 64 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Limits.FetchCreditBytes }),
		Doc: "Largest credit of one fetch stream.",
	},
	{
		Name: "limits.subscriptions", Kind: KindInt, Default: "10000", Min: 1, Max: 1_000_000,
		set: number(func(c *Config) *int { return &c.Limits.Subscriptions }),
		Doc: "Most subscriptions on one fetch stream.",
	},
	{
		Name: "storage.open.files", Kind: KindInt, Default: "0", Min: 0, Max: 10_000_000,
		set: number(func(c *Config) *int { return &c.OpenFiles }),
		Doc: "Most files of segments that are kept open; 0 is half of what the process may open beside connections, at most 65536.",
	},
	{
		Name: "storage.backlog.reads", Kind: KindInt, Default: "0", Min: 0, Max: 10_000,
		set: number(func(c *Config) *int { return &c.BacklogReads }),
		Doc: "Most reads at a time of consumers that are more than 8 MiB behind the end of their log; the others wait in turn, so that appends and readers of the tail are not held up. 0 is half the processors.",
	},
	{
		Name: "storage.sync.journal.bytes", Kind: KindBytes, Default: "64MiB", Min: 0, Max: 4 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.SyncJournalBytes }),
		Doc: "Size of each of the two files of the sync journal, by which many partitions are synced at once; 0 makes none.",
	},
	{
		Name: "admin.pprof", Kind: KindBool, Default: "false", Values: []string{"true", "false"},
		set: boolean(func(c *Config) *bool { return &c.PProf }),
		Doc: "Serve Go profiles below /debug/pprof/ on the admin listener.",
	},
	{
		Name: "memory.gc.percent", Kind: KindInt, Default: "400", Min: 10, Max: 10_000,
		set: number(func(c *Config) *int { return &c.Memory.GCPercent }),
		Doc: "Growth of the heap between two collections, as GOGC; GOGC in the environment goes before it.",
	},
	{
		Name: "memory.limit.bytes", Kind: KindBytes, Default: "0", Min: 0, Max: 16_384 * gib,
		set: bytesInt64(func(c *Config) *int64 { return &c.Memory.LimitBytes }),
		Doc: "Soft limit of the memory of the Go runtime, as GOMEMLIMIT, which goes before it; 0 is 90% of the limit of the control group, and none without one.",
	},
}

func findKey(name string) (Key, bool) {
	for _, k := range keys {
		if k.Name == name {
			return k, true
		}
	}
	return Key{}, false
}
