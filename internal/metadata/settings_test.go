package metadata

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/model"
)

func TestTopicSettingTable(t *testing.T) {
	table := TopicSettingTable()
	if !slices.IsSortedFunc(table, func(a, b TopicSetting) int { return strings.Compare(a.Key, b.Key) }) {
		t.Error("not sorted by key: lookups would miss")
	}
	for _, row := range table {
		if row.Doc == "" || row.Type == "" {
			t.Errorf("%s: no documentation or type", row.Key)
		}
		if row.Default == "" {
			continue
		}
		s, err := ParseTopicSettings(map[string]string{row.Key: row.Default})
		if err != nil || s != DefaultTopicSettings() {
			t.Errorf("%s: setting the default changes something: %+v, %v", row.Key, s, err)
		}
	}
}

func TestParseTopicSettings(t *testing.T) {
	s, err := ParseTopicSettings(map[string]string{
		"flush.mode": "os", "min.insync.replicas": "2", "max.message.bytes": "1024", "segment.bytes": "65536",
		"message.timestamp.type": "LogAppendTime", "index.interval.bytes": "1024", "segment.ms": "5000",
		"compression.type": "lz4", "cleanup.policy": "delete,compact", "retention.ms": "-1", "retention.bytes": "7",
		"delete.retention.ms": "0", "min.cleanable.dirty.ratio": "0.25", "min.compaction.lag.ms": "9",
	})
	want := TopicSettings{
		FlushMode: FlushOS, MinInsyncReplicas: 2, MaxMessageBytes: 1024, SegmentBytes: 65536, IndexIntervalBytes: 1024,
		MessageTimestampType: TimestampLogAppendTime, SegmentMs: 5000, CompressionType: CompressionLZ4,
		CleanupPolicy: CleanupCompactDelete, RetentionMs: -1, RetentionBytes: 7, MinCleanableDirtyRatio: 0.25, MinCompactionLagMs: 9,
	}
	if err != nil || s != want {
		t.Fatalf("%+v, %v", s, err)
	}
	if s.FlushMode.String() != "os" || s.MessageTimestampType.String() != "LogAppendTime" ||
		DefaultTopicSettings().FlushMode.String() != "fsync" || DefaultTopicSettings().MessageTimestampType.String() != "CreateTime" {
		t.Error("spelling")
	}
	for _, c := range []struct{ key, value, says string }{
		{"flush.mod", "os", `"flush.mode"`},
		{"min.in.sync.replicas", "1", `"min.insync.replicas"`},
		{"retention.m", "1", `"retention.ms"`},
		{"retention.ms", "-2", "between -1 and"},
		{"cleanup.policy", "compact|delete", "not one of"},
		{"cleanup.policy", "erase", "not one of delete, compact"},
		{"min.cleanable.dirty.ratio", "1.5", "number from 0 to 1"},
		{"min.cleanable.dirty.ratio", "NaN", "number from 0 to 1"},
		{"min.cleanable.dirty.ratio", "", "number from 0 to 1"},
		{strings.Repeat("x", 1<<20), "1", "did you mean"},
		{"", "1", "did you mean"},
		{"flush.mode", "OS", "fsync, os"},
		{"segment.bytes", "1e6", "not a whole number"},
		{"segment.bytes", "", "not a whole number"},
		{"segment.bytes", "1", "between"},
		{"segment.bytes", "99999999999999999999", "not a whole number"},
		{"min.insync.replicas", "-1", "between"},
		{"segment.ms", "999", "between 1000 and"},
		{"compression.type", "brotli", "not one of producer, uncompressed, gzip, snappy, lz4, zstd"},
		{"compression.type", "none", "not one of producer, uncompressed"},
	} {
		_, err := ParseTopicSettings(map[string]string{c.key: c.value})
		if !model.IsCode(err, model.CodeInvalidConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.20s=%s: got %.200v", c.key, c.value, err)
		}
	}
}

func TestCompressionType(t *testing.T) {
	for n, value := range []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"} {
		s, err := ParseTopicSettings(map[string]string{"compression.type": value})
		if err != nil || int(s.CompressionType) != n || s.CompressionType.String() != value {
			t.Errorf("%s: %v, %v", value, s.CompressionType, err)
		}
	}
	if got := CompressionType(9).String(); got != "CompressionType(9)" {
		t.Error(got)
	}
}

func TestCleanupPolicy(t *testing.T) {
	for value, want := range map[string]struct{ deletes, compacts bool }{
		"delete": {true, false}, "compact": {false, true}, "compact,delete": {true, true}, "delete,compact": {true, true},
	} {
		s, err := ParseTopicSettings(map[string]string{"cleanup.policy": value})
		if p := s.CleanupPolicy; err != nil || p.Deletes() != want.deletes || p.Compacts() != want.compacts {
			t.Errorf("%s: %v deletes %t, compacts %t, %v", value, p, p.Deletes(), p.Compacts(), err)
		}
	}
}

func TestEffectiveMinISR(t *testing.T) {
	for rf, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4} {
		if got := DefaultTopicSettings().EffectiveMinISR(rf); got != want {
			t.Errorf("replication factor %d: %d, want %d", rf, got, want)
		}
		if got := (TopicSettings{MinInsyncReplicas: 2}).EffectiveMinISR(rf); got != 2 {
			t.Errorf("set to 2: %d", got)
		}
	}
}
