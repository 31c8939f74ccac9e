package testcluster_test

import (
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/testcluster"
)

// Nobody is left to take leaderships over when all nodes stop: they must not wait for it.
func TestStoppingAllNodesAtOnceIsQuick(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 3, Settings: map[string]string{"shutdown.timeout": "50s"}})
	createTopic(t, cluster.Client(), "topic", 3, nil)
	began := time.Now()
	cluster.StopAll()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("stopping took %v", took)
	}
}
