package chaos

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/internal/record"
)

// ReplicaLog is the committed part of one partition as it lies on one node's disk.
type ReplicaLog struct {
	Batches int
	Records int64
	Bytes   int64
	// Digest covers every byte of every batch below the HighWatermark.
	Digest [sha256.Size]byte
}

// ReadReplica reads the batches below highWatermark from the segment files in dir, a partition's directory of a node that
// does not run. It checks each batch whole, and that they follow one another without a gap from offset 0 to highWatermark.
func ReadReplica(dir string, highWatermark int64) (ReplicaLog, error) {
	var log ReplicaLog
	segments, err := segmentFiles(dir)
	if err != nil {
		return log, err
	}
	digest := sha256.New()
	next := int64(0)
	for i, path := range segments {
		region, err := os.ReadFile(path)
		if err != nil {
			return log, err
		}
		scanner := record.NewScanner(region, record.Limits{})
		for next < highWatermark && scanner.Next() {
			header := scanner.Header()
			if header.BaseOffset != next || header.NextOffset() > highWatermark {
				return log, fmt.Errorf("%s: a batch from %d to %d where %d is due, below the HighWatermark %d",
					path, header.BaseOffset, header.LastOffset(), next, highWatermark)
			}
			if _, err := record.Verify([][]byte{scanner.Batch()}, record.Limits{}); err != nil {
				return log, fmt.Errorf("%s: the batch at offset %d: %w", path, next, err)
			}
			_, _ = digest.Write(scanner.Batch()) // a hash never fails
			log.Batches++
			log.Records += int64(header.Count)
			log.Bytes += int64(header.Size())
			next = header.NextOffset()
		}
		if next < highWatermark && len(bytes.Trim(scanner.Rest(), "\x00")) > 0 && i < len(segments)-1 {
			return log, fmt.Errorf("%s: %d bytes that are no batch behind offset %d", path, len(scanner.Rest()), next)
		}
	}
	if next < highWatermark {
		return log, fmt.Errorf("%s: the log ends at %d, below the HighWatermark %d", dir, next, highWatermark)
	}
	digest.Sum(log.Digest[:0])
	return log, nil
}

// segmentFiles returns the log files of a partition by base offset.
func segmentFiles(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil, err
	}
	bases := make(map[string]int64, len(paths))
	for _, path := range paths {
		base, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(path), ".log"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: the name is no base offset: %w", path, err)
		}
		bases[path] = base
	}
	slices.SortFunc(paths, func(a, b string) int { return int(bases[a] - bases[b]) })
	return paths, nil
}

// CompareReplicas compares one partition on several stopped nodes, byte for byte below highWatermark. dirs are the
// partition's directories, one a replica.
func CompareReplicas(dirs []string, highWatermark int64) (ReplicaLog, error) {
	var first ReplicaLog
	for i, dir := range dirs {
		log, err := ReadReplica(dir, highWatermark)
		if err != nil {
			return first, err
		}
		if i == 0 {
			first = log
		}
		if log != first {
			return first, fmt.Errorf("below the HighWatermark %d, %s (%d batches, %d bytes) differs from %s (%d batches, %d bytes)",
				highWatermark, dir, log.Batches, log.Bytes, dirs[0], first.Batches, first.Bytes)
		}
	}
	return first, nil
}
