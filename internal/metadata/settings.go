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

// TopicSettings are the settings of a topic, typed. The zero value is not valid: see DefaultTopicSettings.
type TopicSettings struct {
	FlushMode            FlushMode
	MinInsyncReplicas    int // 0: the default, by replication factor; see EffectiveMinISR
	MaxMessageBytes      int // largest batch, in bytes
	SegmentBytes         int64
	SegmentMs            int64 // age of the active segment, in milliseconds, at which it is closed
	IndexIntervalBytes   int   // log bytes between two entries of the offset index
	MessageTimestampType TimestampType
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
	Type    string // "int", or the values allowed, separated by "|"
	Default string // the value in force where nothing is set; empty where it depends on the topic
	Min     int64  // for "int"
	Max     int64  // for "int"
	Doc     string

	set func(s *TopicSettings, n int64, word string)
}

var topicSettings = []TopicSetting{
	{
		Key: "compression.type", Type: "producer", Default: "producer",
		Doc: "Batches keep the compression that the producer chose; the broker does not compress anew.",
		set: func(*TopicSettings, int64, string) {},
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
		Doc: "Largest record batch, in bytes, as it is sent.",
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
		Key: "min.insync.replicas", Type: "int", Default: "", Min: 1, Max: 32,
		Doc: "In-sync replicas that acks=all needs. Not set: 1 up to replication factor 2, the majority from 3 on.",
		set: func(s *TopicSettings, n int64, _ string) { s.MinInsyncReplicas = int(n) },
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
	if row.Type != "int" {
		return row.Type
	}
	if row.Max == math.MaxInt64 {
		return fmt.Sprintf("whole number from %d on", row.Min)
	}
	return fmt.Sprintf("whole number from %d to %d", row.Min, row.Max)
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
