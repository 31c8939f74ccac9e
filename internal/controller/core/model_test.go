package core

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// logs is a model of what replicas hold: how many records each has of a partition, and how many are committed.
type logs struct {
	end       map[model.NodeID]int
	committed int
	epoch     model.LeaderEpoch
}

// cluster drives random faults through the core and checks that no leader ever lacks a committed record.
type cluster struct {
	*world
	logs map[model.TopicPartition]*logs
	up   map[model.NodeID]bool // the process runs and beats
}

const modelBrokers = 4

func newModel(t *rapid.T) *cluster {
	m := &cluster{world: newWorld(t, Config{}), logs: map[model.TopicPartition]*logs{}, up: map[model.NodeID]bool{}}
	for id := model.NodeID(1); id <= modelBrokers; id++ {
		m.join(id)
		m.up[id] = true
	}
	for n, rf := range []int32{1, 2, 3, 3} {
		configs := map[string]string{}
		if n == 3 {
			configs["min.insync.replicas"] = "1"
		}
		var replicas []int32
		for r := range rf {
			replicas = append(replicas, (int32(n)+r)%modelBrokers+1)
		}
		tp := m.topic(fmt.Sprintf("t%d", n), configs, replicas...)
		m.logs[tp] = &logs{end: map[model.NodeID]int{}}
	}
	return m
}

func (m *cluster) anyPartition(t *rapid.T) model.TopicPartition {
	return rapid.SampledFrom(slices.SortedFunc(maps.Keys(m.logs), metadata.CompareTopicPartitions)).Draw(t, "partition")
}

func anyBroker(t *rapid.T) model.NodeID {
	return model.NodeID(rapid.IntRange(1, modelBrokers).Draw(t, "broker"))
}

// check looks at every leader that is new: it must hold what was committed.
func (m *cluster) check(t *rapid.T) {
	for tp, l := range m.logs {
		p := m.partition(tp)
		if p.Leader == model.NoNode || p.LeaderEpoch == l.epoch {
			continue
		}
		l.epoch = p.LeaderEpoch
		if p.PossiblyLossy {
			l.committed = min(l.committed, l.end[p.Leader])
		}
		if l.end[p.Leader] < l.committed {
			t.Fatalf("%s: leader %d has %d records of %d committed ones: %+v", tp, p.Leader, l.end[p.Leader], l.committed, p)
		}
		for id, end := range l.end { // followers cut what the leader does not have
			l.end[id] = min(end, l.end[p.Leader])
		}
	}
}

// produce appends a record to a leader and to any of its followers; it commits when the whole ISR has it.
func (m *cluster) produce(t *rapid.T) {
	tp := m.anyPartition(t)
	p, l := m.partition(tp), m.logs[tp]
	topic, _ := m.state.Image().TopicByID(tp.TopicID)
	if p.Leader == model.NoNode || !m.up[p.Leader] {
		return
	}
	l.end[p.Leader]++
	for _, id := range p.Replicas {
		if m.up[id] && rapid.Bool().Draw(t, "replicated") {
			l.end[id] = l.end[p.Leader]
		}
	}
	if len(p.ISR) < topic.Settings().EffectiveMinISR(len(p.Replicas)) {
		return
	}
	low := l.end[p.Leader]
	for _, id := range p.ISR {
		low = min(low, l.end[id])
	}
	l.committed = max(l.committed, low)
}

// alter lets a leader propose any set whose new members have caught up.
func (m *cluster) alter(t *rapid.T) {
	tp := m.anyPartition(t)
	p, l := m.partition(tp), m.logs[tp]
	if p.Leader == model.NoNode || !m.up[p.Leader] {
		return
	}
	isr := ids(p.Leader)
	for _, id := range p.Replicas {
		if id == p.Leader || !rapid.Bool().Draw(t, "in") {
			continue
		}
		if b, _ := m.state.Image().Broker(id); b.Fenced || b.Stopping {
			continue
		}
		if !p.InISR(id) {
			if !m.up[id] {
				continue
			}
			l.end[id] = l.end[p.Leader]
		}
		isr = append(isr, id)
	}
	if r := m.propose(tp, isr); r.GetErrorCode() != 0 {
		t.Fatalf("%v", r)
	}
}

// die lets processes end; they are found dead together.
func (m *cluster) die(t *rapid.T) {
	var dead []model.NodeID
	for _, id := range rapid.SliceOfNDistinct(rapid.IntRange(1, modelBrokers), 1, 3, rapid.ID).Draw(t, "dead") {
		b, _ := m.state.Image().Broker(model.NodeID(id))
		m.up[b.ID] = false
		if !b.Fenced {
			dead = append(dead, b.ID)
		}
	}
	slices.Sort(dead)
	if len(dead) > 0 {
		m.kill(dead...)
	}
}

// restart registers a new incarnation, after a crash or out of the blue, with what recovery found.
func (m *cluster) restart(t *rapid.T) {
	id := anyBroker(t)
	damage := rapid.SampledFrom([]string{"", "", "", "one", "all", "restored"}).Draw(t, "damage")
	if b, _ := m.state.Image().Broker(id); damage == "restored" && !b.Fenced {
		m.kill(id)
	}
	m.register(id, func(r *internalv1.RegisterBrokerRequest) {
		defer m.tellEnds(r)
		switch damage {
		case "one":
			tp := m.anyPartition(t)
			if end := m.logs[tp].end[id]; end > 0 {
				m.logs[tp].end[id] = rapid.IntRange(0, end-1).Draw(t, "left")
				r.LostSeats = []*internalv1.ReplicaState{{TopicId: tp.TopicID.Bytes(), SeatLostReason: "cut"}}
			}
		case "all", "restored":
			for _, l := range m.logs {
				l.end[id] = 0
			}
			r.AllSeatsLostReason = "empty"
			if damage == "restored" {
				r.AllSeatsLostReason, r.PreviousBrokerEpoch = "", r.GetPreviousBrokerEpoch()-1000
			}
		}
	})
	m.up[id] = true
}

// tellEnds lists all replicas of the broker with what they hold by now.
func (m *cluster) tellEnds(r *internalv1.RegisterBrokerRequest) {
	for tp, l := range m.logs {
		at := slices.IndexFunc(r.GetLostSeats(), func(s *internalv1.ReplicaState) bool {
			return string(s.GetTopicId()) == string(tp.TopicID.Bytes())
		})
		if at < 0 {
			at = len(r.GetLostSeats())
			r.LostSeats = append(r.LostSeats, &internalv1.ReplicaState{TopicId: tp.TopicID.Bytes()})
		}
		r.LostSeats[at].LogEndOffset = proto.Int64(int64(l.end[model.NodeID(r.GetRegistration().GetBrokerId())]))
	}
}

// giveUp lets a broker find damage while it runs: its log ends before it once it is out of the ISR in a new leader epoch.
func (m *cluster) giveUp(t *rapid.T) {
	id, tp := anyBroker(t), m.anyPartition(t)
	p, l := m.partition(tp), m.logs[tp]
	whole := rapid.IntRange(0, 3).Draw(t, "whole") == 0
	if b, _ := m.state.Image().Broker(id); b.Fenced || !m.up[id] || !p.HasReplica(id) {
		return
	}
	if m.giveUpSeat(tp, id, whole) != model.CodeNone {
		if after := m.partition(tp); after.PartitionEpoch != p.PartitionEpoch {
			t.Fatalf("%s: refused, and yet changed: %+v after %+v", tp, after, p)
		}
		return
	}
	after := m.partition(tp)
	if after.InISR(id) || after.Leader == id || after.LeaderEpoch != p.LeaderEpoch+1 || (!whole && after.InELR(id)) {
		t.Fatalf("%s: %d gave up its seat: %+v after %+v", tp, id, after, p)
	}
	if end := l.end[id]; !whole && end > 0 {
		l.end[id] = rapid.IntRange(0, end-1).Draw(t, "left")
	}
}

func (m *cluster) letIn(t *rapid.T) {
	id := anyBroker(t)
	if m.up[id] {
		m.heartbeat(id, func(r *internalv1.HeartbeatRequest) { r.WantUnfence = true })
	}
}

func (m *cluster) stop(t *rapid.T) {
	id := anyBroker(t)
	if !m.up[id] {
		return
	}
	goodbye := rapid.Bool().Draw(t, "goodbye")
	m.heartbeat(id, func(r *internalv1.HeartbeatRequest) { r.WantStop, r.Goodbye = true, goodbye })
	if goodbye {
		m.up[id] = false
	}
}

func (m *cluster) failOver(*rapid.T) {
	m.now = m.now.Add(time.Second)
	m.state.Deactivate()
	m.state.Activate(m.now, m.state.Image())
}

func TestNoLeaderLacksACommittedRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		actions := map[string]func(*rapid.T){
			"produce": m.produce, "alter": m.alter, "die": m.die, "restart": m.restart, "letIn": m.letIn, "letIn2": m.letIn,
			"stop": m.stop, "giveUp": m.giveUp, "giveUp2": m.giveUp, "failOver": m.failOver, "": m.check,
		}
		t.Repeat(actions)
	})
}

// TestEqualInputsGiveEqualEntries replays the same requests and compares the records byte for byte.
func TestEqualInputsGiveEqualEntries(t *testing.T) {
	run := func() []byte {
		w := newWorld(t, Config{})
		w.join(1, 2, 3, 4)
		for n := range 8 {
			w.create(&internalv1.CreateTopicRequest{
				Name: fmt.Sprintf("t%d", n), Configs: map[string]string{"flush.mode": "os", "segment.bytes": "65536"},
			})
		}
		w.kill(1, 3)
		w.register(1, func(r *internalv1.RegisterBrokerRequest) { r.OsModeSeatsLost = true })
		w.unfence(1)
		var out []byte
		for _, e := range w.entries {
			out = fmt.Append(out, e.GetRecords())
		}
		return out
	}
	first := run()
	for range 5 {
		if !slices.Equal(first, run()) {
			t.Fatal("not the same")
		}
	}
}
