//go:build linux

package chaos

import (
	"fmt"
	"testing"
	"time"
)

// TestSyncJournalKills kills the only replica of many partitions while their syncs go by the sync journal. A kill counts only
// where the journal was written to since the start before it, and where the start behind it has replayed something.
func TestSyncJournalKills(t *testing.T) {
	const topic, keys = "journaled", 1000
	partitions := either(64, 200)
	began := time.Now()
	c := startDev(t, 1)
	c.configure("storage.sync.journal.bytes: 2MiB\n") // made at once, and it turns
	c.createTopic(topic, partitions, 1)
	l := c.startKeyedLoad(topic, "p0", keys)
	l.awaitAnswers(1000, 60*time.Second)
	for i := range either(2, 20) {
		c.awaitHealthy()
		l.setBurst(true)
		eventually(t, 60*time.Second, "syncs go by the journal", func() error {
			if rounds := c.metric(1, "storage_sync_journal_rounds_total"); rounds < 5 {
				return fmt.Errorf("%v rounds", rounds)
			}
			return nil
		})
		l.rush(inFlight)
		led := ledBy(c.mustTopic(topic), 1)
		seen := l.watchFor(led)
		c.kill(1)
		l.setBurst(false)
		c.start(1)
		l.awaitAck(seen, 60*time.Second)
		c.mustHaveGrown(topic, led)
		back := c.metric(1, "storage_sync_journal_replayed_bytes")
		if back == 0 {
			t.Errorf("kill %d: nothing was replayed", i+1)
		}
		if damages := c.metric(1, "storage_sync_journal_damages"); damages > 0 {
			t.Errorf("kill %d: %v damages of the journal", i+1, damages)
		}
		t.Logf("kill %d: %.0f bytes replayed, after %v", i+1, back, time.Since(began).Round(time.Millisecond))
	}
	producer := l.finish()
	promise := Promise{Partitions: int32(partitions), MinISR: 1, Replicas: 1, Fsync: true} //nolint:gosec // small
	mustKeep(t, c.check(topic, promise, []Producer{producer}))
	c.compareStopped(topic)
}
