package core

import (
	"cmp"
	"slices"

	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// load is what a broker carries already, as placement sees it.
type load struct {
	broker       *metadata.Broker
	leads        int // partitions of this topic that prefer it as leader
	replicas     int // replicas of this topic
	totalLeads   int
	totalReplica int
}

// place assigns replicas for new partitions: of a new topic, or of one that has partitions already. Leaders are spread evenly over the live brokers, first within the topic, then over
// all; the other replicas go to live brokers before fenced ones and to racks that have none yet before others. Equal brokers
// are taken by id. The error is BROKER_NOT_AVAILABLE where no broker is live.
func place(image *metadata.Image, topic *metadata.Topic, partitions, rf int) ([]*metadata.Partition, error) {
	loads := loadsOf(image, topic)
	if !slices.ContainsFunc(loads, func(l *load) bool { return l.broker.Live() }) {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "no broker is up to lead the topic; start one and try again")
	}
	placed := make([]*metadata.Partition, partitions)
	for n := range placed {
		chosen := []*load{leastBy(loads, nil, leaderOrder)}
		chosen[0].leads++
		chosen[0].totalLeads++
		for len(chosen) < rf {
			chosen = append(chosen, leastBy(loads, chosen, func(a, b *load) int { return followerOrder(chosen, a, b) }))
		}
		p := &metadata.Partition{Leader: chosen[0].broker.ID}
		for _, l := range chosen {
			l.replicas++
			l.totalReplica++
			p.Replicas = append(p.Replicas, l.broker.ID)
			if l.broker.Live() {
				p.ISR = append(p.ISR, l.broker.ID)
			}
		}
		placed[n] = p
	}
	return placed, nil
}

func leaderOrder(a, b *load) int {
	return cmp.Or(deadLast(a, b), cmp.Compare(a.leads, b.leads), cmp.Compare(a.totalLeads, b.totalLeads),
		cmp.Compare(a.totalReplica, b.totalReplica), cmp.Compare(a.broker.ID, b.broker.ID))
}

func followerOrder(chosen []*load, a, b *load) int {
	return cmp.Or(deadLast(a, b), cmp.Compare(rackUses(chosen, a), rackUses(chosen, b)), cmp.Compare(a.replicas, b.replicas),
		cmp.Compare(a.totalReplica, b.totalReplica), cmp.Compare(a.broker.ID, b.broker.ID))
}

func deadLast(a, b *load) int {
	switch {
	case a.broker.Live() == b.broker.Live():
		return 0
	case a.broker.Live():
		return -1
	default:
		return 1
	}
}

// rackUses is how many of the chosen stand in the same rack; brokers without a rack share none.
func rackUses(chosen []*load, l *load) int {
	n := 0
	for _, c := range chosen {
		if l.broker.Rack != "" && c.broker.Rack == l.broker.Rack {
			n++
		}
	}
	return n
}

// leastBy returns the first in the order that is not taken.
func leastBy(loads, taken []*load, order func(a, b *load) int) *load {
	var best *load
	for _, l := range loads {
		if !slices.Contains(taken, l) && (best == nil || order(l, best) < 0) {
			best = l
		}
	}
	return best
}

// loadsOf counts what each registered broker carries, by id; own is the topic that is placed, or nil.
func loadsOf(image *metadata.Image, own *metadata.Topic) []*load {
	byID := map[model.NodeID]*load{}
	loads := make([]*load, 0, len(image.Brokers()))
	for _, b := range image.Brokers() {
		l := &load{broker: b}
		loads = append(loads, l)
		byID[b.ID] = l
	}
	for t := range image.Topics() {
		for _, p := range t.AllPartitions() {
			for at, id := range p.Replicas {
				l := byID[id]
				if l == nil {
					continue
				}
				l.totalReplica++
				if at == 0 {
					l.totalLeads++
				}
				if own == nil || t.ID != own.ID {
					continue
				}
				l.replicas++
				if at == 0 {
					l.leads++
				}
			}
		}
	}
	return loads
}
