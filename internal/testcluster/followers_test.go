package testcluster_test

import (
	"errors"
	"testing"
	"time"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/testcluster"
)

var errLeft = errors.New("data of deleted topics is left")

// Nodes without a vote follow the metadata over a stream; they lead, and lose nothing, while controllers come and go.
func TestBrokersThatAreNoControllers(t *testing.T) {
	t.Parallel()
	cluster := testcluster.Start(t, testcluster.Options{Nodes: 5})
	c := cluster.Client()
	createTopic(t, c, "topic", 3, nil)
	want := produceLogs(t, c, "topic", func(_ testcluster.SampleLog, line []byte) []byte { return keyOfLine(line) })
	active := cluster.ActiveController()
	cluster.Kill(active)
	next := cluster.ActiveController()
	if next == active {
		t.Errorf("node %d was killed and decides", active)
	}
	create(t, c, client.TopicSpec{Name: "made-without-it"})
	verify(t, c, "topic", want)
	cluster.Kill(5)
	verify(t, c, "topic", want)
	cluster.RestartAll()
	cluster.AwaitHealthy()
	verify(t, c, "topic", want)
	if err := c.DeleteTopic(bounded(t, time.Minute), "made-without-it"); err != nil {
		t.Error(err)
	}
	cluster.Await("every holder has reported the deletion", func() error {
		image := cluster.Node(4).Image()
		if n := len(image.DeletedTopics()); n > 0 {
			return errLeft
		}
		return nil
	})
}
