package metadata

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/model"
)

// MaxPartitionsPerTopic bounds the number of partitions of a topic.
const MaxPartitionsPerTopic = 10_000

// FlushMode says what a replica's position means.
type FlushMode uint8

const (
	// FlushFsync reports the durable end: a record is acknowledged once it is fsynced. The default.
	FlushFsync FlushMode = iota
	// FlushOS reports the appended end and leaves flushing to the operating system.
	FlushOS
)

// String returns the value in Kafka's manner of spelling settings.
func (m FlushMode) String() string {
	if m == FlushOS {
		return "os"
	}
	return "fsync"
}

// TimestampType says which time a record carries.
type TimestampType uint8

const (
	// TimestampCreateTime keeps the producer's time. The default.
	TimestampCreateTime TimestampType = iota
	// TimestampLogAppendTime takes the leader's time at the append.
	TimestampLogAppendTime
)

// String returns Kafka's spelling.
func (t TimestampType) String() string {
	if t == TimestampLogAppendTime {
		return "LogAppendTime"
	}
	return "CreateTime"
}

// CompressionType says how batches are stored.
type CompressionType uint8

const (
	// CompressionProducer keeps what the producer chose. The default.
	CompressionProducer CompressionType = iota
	// CompressionUncompressed and those after it have the leader compress anew what comes otherwise.
	CompressionUncompressed
	// CompressionGzip is gzip.
	CompressionGzip
	// CompressionSnappy is snappy, in the framing that Kafka's clients write.
	CompressionSnappy
	// CompressionLZ4 is an LZ4 frame.
	CompressionLZ4
	// CompressionZstd is zstd.
	CompressionZstd
)

// compressionTypes are Kafka's spellings, by number.
var compressionTypes = [...]string{
	CompressionProducer: "producer", CompressionUncompressed: "uncompressed", CompressionGzip: "gzip",
	CompressionSnappy: "snappy", CompressionLZ4: "lz4", CompressionZstd: "zstd",
}

// String returns Kafka's spelling.
func (c CompressionType) String() string {
	if int(c) >= len(compressionTypes) {
		return fmt.Sprintf("CompressionType(%d)", uint8(c))
	}
	return compressionTypes[c]
}

// CleanupPolicy says how a log is kept from growing for ever.
type CleanupPolicy uint8

const (
	// CleanupDelete removes the oldest segments by retention.ms and retention.bytes. The default.
	CleanupDelete CleanupPolicy = iota
	// CleanupCompact keeps the latest record of each key.
	CleanupCompact
	// CleanupCompactDelete does both.
	CleanupCompactDelete
)

// String returns Kafka's spelling.
func (p CleanupPolicy) String() string {
	switch p {
	case CleanupDelete:
		return "delete"
	case CleanupCompact:
		return "compact"
	case CleanupCompactDelete:
		return "compact,delete"
	default:
		return fmt.Sprintf("CleanupPolicy(%d)", uint8(p))
	}
}

// Deletes says whether old segments go.
func (p CleanupPolicy) Deletes() bool { return p != CleanupCompact }

// Compacts says whether older records of a key go: records need keys then.
func (p CleanupPolicy) Compacts() bool { return p != CleanupDelete }

// TopicSettings are the settings of a topic, typed. The zero value is not valid: see DefaultTopicSettings.
type TopicSettings struct {
	FlushMode            FlushMode
	MinInsyncReplicas    int // 0: the default, by replication factor; see EffectiveMinISR
	MaxMessageBytes      int // largest batch, in bytes
	SegmentBytes         int64
	SegmentMs            int64 // age of the active segment, in milliseconds, at which it is closed
	IndexIntervalBytes   int   // log bytes between two entries of the offset index
	MessageTimestampType TimestampType
	CompressionType      CompressionType

	CleanupPolicy          CleanupPolicy
	RetentionMs            int64   // -1: for ever
	RetentionBytes         int64   // of each partition; -1: any size
	DeleteRetentionMs      int64   // how long tombstones are kept once they were compacted
	MinCleanableDirtyRatio float64 // share of the log not yet compacted, 0 to 1, from which on it is
	MinCompactionLagMs     int64   // age of a record below which it is not compacted
}

// EffectiveMinISR is the number of in-sync replicas that acks=all and the HighWatermark want of a partition with rf
// replicas: what was set, or else 1 up to replication factor 2 and the majority from 3 on.
func (s TopicSettings) EffectiveMinISR(rf int) int {
	switch {
	case s.MinInsyncReplicas > 0:
		return s.MinInsyncReplicas
	case rf <= 2:
		return 1
	default:
		return rf/2 + 1
	}
}

// TopicSetting is one row of the table of topic settings.
type TopicSetting struct {
	Key     string // Kafka's spelling
	Type    string // "int", "ratio" (0 to 1), or the values allowed, separated by "|"
	Default string // the value in force where nothing is set; empty where it depends on the topic
	Min     int64  // for "int"
	Max     int64  // for "int"
	Doc     string

	set      func(s *TopicSettings, n int64, word string)
	setRatio func(s *TopicSettings, r float64) // of type "ratio"
}

var topicSettings = []TopicSetting{
	{
		Key: "cleanup.policy", Type: "delete|compact|compact,delete|delete,compact", Default: "delete",
		Doc: "delete removes old segments by retention.ms and retention.bytes; compact keeps the latest record of each key, and " +
			"records without a key are refused; both together do both.",
		set: func(s *TopicSettings, _ int64, word string) {
			switch word {
			case "compact":
				s.CleanupPolicy = CleanupCompact
			case "delete":
				s.CleanupPolicy = CleanupDelete
			default:
				s.CleanupPolicy = CleanupCompactDelete
			}
		},
	},
	{
		Key: "compression.type", Type: strings.Join(compressionTypes[:], "|"), Default: "producer",
		Doc: "How batches are stored. producer keeps the compression that the producer chose and costs nothing; with another value the " +
			"leader compresses anew what comes otherwise, but for what that does not make smaller. Records may then decompress to 16 times " +
			"max.message.bytes, at least 1 MiB and at most 64 MiB. Batches stored before a change stay as they are.",
		set: func(s *TopicSettings, _ int64, word string) {
			s.CompressionType = CompressionType(max(0, slices.Index(compressionTypes[:], word))) //nolint:gosec // an index of a short table
		},
	},
	{
		Key: "delete.retention.ms", Type: "int", Default: "86400000", Min: 0, Max: math.MaxInt64,
		Doc: "How long, in milliseconds, a compacted log keeps a record with a null value (a tombstone) after it has removed what the " +
			"tombstone deletes, so that readers hear of it.",
		set: func(s *TopicSettings, n int64, _ string) { s.DeleteRetentionMs = n },
	},
	{
		Key: "flush.mode", Type: "fsync|os", Default: "fsync",
		Doc: "fsync acknowledges records once they are on disk; os once they are in the page cache, as Kafka does.",
		set: func(s *TopicSettings, _ int64, word string) {
			s.FlushMode = FlushFsync
			if word == "os" {
				s.FlushMode = FlushOS
			}
		},
	},
	{
		Key: "index.interval.bytes", Type: "int", Default: "4096", Min: 512, Max: 16 << 20,
		Doc: "Bytes of log between two entries of the offset index.",
		set: func(s *TopicSettings, n int64, _ string) { s.IndexIntervalBytes = int(n) },
	},
	{
		Key: "max.message.bytes", Type: "int", Default: "1048588", Min: 256, Max: 16 << 20,
		Doc: "Largest record batch, in bytes, as it is sent, and as it is stored where compression.type makes that another.",
		set: func(s *TopicSettings, n int64, _ string) { s.MaxMessageBytes = int(n) },
	},
	{
		Key: "message.timestamp.type", Type: "CreateTime|LogAppendTime", Default: "CreateTime",
		Doc: "Whether records keep the producer's time or get the leader's at the append.",
		set: func(s *TopicSettings, _ int64, word string) {
			s.MessageTimestampType = TimestampCreateTime
			if word == "LogAppendTime" {
				s.MessageTimestampType = TimestampLogAppendTime
			}
		},
	},
	{
		Key: "min.cleanable.dirty.ratio", Type: "ratio", Default: "0.5",
		Doc:      "Share of a compacted log, in bytes, that was not compacted yet, from which on it is.",
		set:      func(*TopicSettings, int64, string) {},
		setRatio: func(s *TopicSettings, r float64) { s.MinCleanableDirtyRatio = r },
	},
	{
		Key: "min.compaction.lag.ms", Type: "int", Default: "0", Min: 0, Max: math.MaxInt64,
		Doc: "Age in milliseconds below which a record is not compacted.",
		set: func(s *TopicSettings, n int64, _ string) { s.MinCompactionLagMs = n },
	},
	{
		Key: "min.insync.replicas", Type: "int", Default: "", Min: 1, Max: 32,
		Doc: "In-sync replicas that acks=all needs. Not set: 1 up to replication factor 2, the majority from 3 on.",
		set: func(s *TopicSettings, n int64, _ string) { s.MinInsyncReplicas = int(n) },
	},
	{
		Key: "retention.bytes", Type: "int", Default: "-1", Min: -1, Max: math.MaxInt64,
		Doc: "Bytes of each partition that are kept at least; older segments beyond go. -1 keeps any size.",
		set: func(s *TopicSettings, n int64, _ string) { s.RetentionBytes = n },
	},
	{
		Key: "retention.ms", Type: "int", Default: "604800000", Min: -1, Max: math.MaxInt64,
		Doc: "Age in milliseconds at which a segment goes, by its latest record; also the last one of a partition that is written to " +
			"no more. -1 keeps records for ever.",
		set: func(s *TopicSettings, n int64, _ string) { s.RetentionMs = n },
	},
	{
		Key: "segment.bytes", Type: "int", Default: "1073741824", Min: 16 << 10, Max: 1 << 30,
		Doc: "Size at which a segment is closed and the next begun.",
		set: func(s *TopicSettings, n int64, _ string) { s.SegmentBytes = n },
	},
	{
		Key: "segment.ms", Type: "int", Default: "604800000", Min: 1000, Max: math.MaxInt64,
		Doc: "Age in milliseconds at which a segment that holds records is closed and the next begun. It is looked at every few " +
			"seconds, on each replica by itself.",
		set: func(s *TopicSettings, n int64, _ string) { s.SegmentMs = n },
	},
}

// Allowed tells the values allowed, for people.
func (row TopicSetting) Allowed() string {
	switch {
	case row.Type == "ratio":
		return "number from 0 to 1"
	case row.Type != "int":
		return row.Type
	case row.Min == -1 && row.Max == math.MaxInt64:
		return "-1, or whole number from 0 on"
	case row.Max == math.MaxInt64:
		return fmt.Sprintf("whole number from %d on", row.Min)
	default:
		return fmt.Sprintf("whole number from %d to %d", row.Min, row.Max)
	}
}

// TopicSettingByKey finds a row of the table. The error is INVALID_CONFIG and names the nearest key that is known.
func TopicSettingByKey(key string) (TopicSetting, error) {
	at, found := slices.BinarySearchFunc(topicSettings, key, func(row TopicSetting, key string) int {
		return strings.Compare(row.Key, key)
	})
	if !found {
		return TopicSetting{}, model.Errorf(model.CodeInvalidConfig,
			"unknown topic setting %q; did you mean %q?", key[:min(len(key), 64)], nearestKey(key))
	}
	return topicSettings[at], nil
}

// TopicSettingTable returns the table of topic settings, by key. The caller owns the slice.
func TopicSettingTable() []TopicSetting { return slices.Clone(topicSettings) }

var defaultTopicSettings = mustDefaults()

// DefaultTopicSettings are in force where nothing is set.
func DefaultTopicSettings() TopicSettings { return defaultTopicSettings }

func mustDefaults() TopicSettings {
	var s TopicSettings
	for _, row := range topicSettings {
		if row.Default == "" {
			continue
		}
		if err := row.parse(&s, row.Default); err != nil {
			panic(err)
		}
	}
	return s
}

// ParseTopicSettings puts values, by key, over the defaults. The error is INVALID_CONFIG and names the key, and for an
// unknown one the nearest that is known.
func ParseTopicSettings(configs map[string]string) (TopicSettings, error) {
	s := DefaultTopicSettings()
	for _, key := range slices.Sorted(maps.Keys(configs)) {
		row, err := TopicSettingByKey(key)
		if err != nil {
			return TopicSettings{}, err
		}
		if err := row.parse(&s, configs[key]); err != nil {
			return TopicSettings{}, err
		}
	}
	return s, nil
}

func (row TopicSetting) parse(s *TopicSettings, value string) error {
	if row.Type == "ratio" {
		r, err := strconv.ParseFloat(value, 64)
		if err != nil || !(r >= 0 && r <= 1) { // a NaN is neither
			return model.Errorf(model.CodeInvalidConfig, "topic setting %s: %q is not a number from 0 to 1", row.Key, value)
		}
		row.setRatio(s, r)
		return nil
	}
	if row.Type != "int" {
		if !slices.Contains(strings.Split(row.Type, "|"), value) {
			return model.Errorf(model.CodeInvalidConfig, "topic setting %s: %q is not one of %s", row.Key, value,
				strings.ReplaceAll(row.Type, "|", ", "))
		}
		row.set(s, 0, value)
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return model.Errorf(model.CodeInvalidConfig, "topic setting %s: %q is not a whole number", row.Key, value)
	}
	if n < row.Min || n > row.Max {
		return model.Errorf(model.CodeInvalidConfig, "topic setting %s: %d is not between %d and %d", row.Key, n, row.Min, row.Max)
	}
	row.set(s, n, "")
	return nil
}

// nearestKey is the known key with the smallest edit distance.
func nearestKey(key string) string {
	best, bestDistance := "", -1
	for _, row := range topicSettings {
		if d := distance(key, row.Key); bestDistance < 0 || d < bestDistance {
			best, bestDistance = row.Key, d
		}
	}
	return best
}

// distance is the edit distance of two strings, in bytes; long ones are cut.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
