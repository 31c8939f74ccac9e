package replication

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/model"
)

// topicSeries are the values of a metric by its label topic.
func topicSeries(t *testing.T, registry *prometheus.Registry, metric string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// manyTopics makes topics of one partition on broker 1 in one entry, named many-0 and so on.
func manyTopics(c *cluster, n int) []model.TopicPartition {
	c.t.Helper()
	tps, records := make([]model.TopicPartition, n), make([]*rec, 0, 2*n)
	for i := range tps {
		id := testUUID(1)
		binary.BigEndian.PutUint16(id[1:], uint16(i))
		tps[i] = model.TopicPartition{TopicID: id}
		records = append(records,
			&rec{Kind: &internalv1.MetadataRecord_Topic{
				Topic: &internalv1.TopicRecord{Name: fmt.Sprintf("many-%d", i), TopicId: id.Bytes()},
			}},
			&rec{Kind: &internalv1.MetadataRecord_Partition{Partition: &internalv1.PartitionRecord{
				TopicId: id.Bytes(), Replicas: []int32{1}, Isr: []int32{1}, Leader: 1,
			}}})
	}
	c.change(records...)
	return tps
}

// deleteTopics deletes topics of which broker 1 holds a replica.
func deleteTopics(c *cluster, tps ...model.TopicPartition) {
	c.t.Helper()
	var records []*rec
	for _, tp := range tps {
		c.mu.Lock()
		topic, _ := c.image.TopicByID(tp.TopicID)
		c.mu.Unlock()
		records = append(records, &rec{Kind: &internalv1.MetadataRecord_DeletedTopic{
			DeletedTopic: &internalv1.DeletedTopicRecord{TopicId: tp.TopicID.Bytes(), Name: topic.Name, Holders: []int32{1}},
		}})
	}
	c.change(records...)
}

// However many topics there are, a broker shows maxTopicSeries of them by name, and what is beyond together;
// topics that go make room for new ones, and what was counted for those beyond never falls.
func TestTopicsBeyondTheBoundShareTheirSeries(t *testing.T) {
	const beyond = 5
	registry := prometheus.NewRegistry()
	c := newCluster(t, 1, func(o *Options) { o.Metrics = registry })
	tps := manyTopics(c, maxTopicSeries+beyond)
	named := topicSeries(t, registry, "topic_replicas")
	if len(named) != maxTopicSeries+1 || named[otherTopics] != beyond {
		t.Fatalf("%d series; %v replicas of other topics", len(named), named[otherTopics])
	}
	// Which topics have names is up to the order in which the broker met them.
	var known, others []model.TopicPartition
	for i, tp := range tps {
		if _, ok := named[fmt.Sprintf("many-%d", i)]; ok {
			known = append(known, tp)
		} else {
			others = append(others, tp)
		}
		mustAck(t, c.send(1, tp, AcksAll, "x", "y"))
	}
	if len(others) != beyond {
		t.Fatalf("%d topics have no series", len(others))
	}
	counted := topicSeries(t, registry, "topic_in_records_total")
	for topic, records := range counted {
		if want := map[bool]float64{false: 2, true: 2 * beyond}[topic == otherTopics]; records != want {
			t.Errorf("%v records of %s, want %v", records, topic, want)
		}
	}
	if len(counted) != maxTopicSeries+1 {
		t.Errorf("%d series", len(counted))
	}

	deleteTopics(c, append(others, known[0])...)
	counted = topicSeries(t, registry, "topic_in_records_total")
	if len(counted) != maxTopicSeries || counted[otherTopics] != 2*beyond {
		t.Errorf("after the deletion: %d series, %v records of other topics", len(counted), counted[otherTopics])
	}
	if have := topicSeries(t, registry, "topic_replicas")[otherTopics]; have != 0 {
		t.Errorf("%v replicas of other topics are left", have)
	}
	late := c.topic(2, nil, 1)
	mustAck(t, c.send(1, late, AcksAll, "z"))
	counted = topicSeries(t, registry, "topic_in_records_total")
	if counted["topic-2"] != 1 || counted[otherTopics] != 2*beyond {
		t.Errorf("a later topic has %v records, the others %v", counted["topic-2"], counted[otherTopics])
	}
}
