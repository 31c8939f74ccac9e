package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-io/penstock/internal/storage"
)

// startScrub begins the background check of everything on the disk.
func (n *Node) startScrub() error {
	damages, checked := metricScrubDamages.Counter(), metricScrubChecked.Counter()
	if err := n.registry.Register(damages, checked); err != nil {
		return err
	}
	storage.StartScrubber(n.groups.replicas, n.dir, n.scrubOptions(damages, checked))
	return nil
}

// scrubOptions says what becomes of what the scrub finds.
func (n *Node) scrubOptions(damages, checked prometheus.Counter) storage.ScrubOptions {
	return storage.ScrubOptions{
		BytesPerSecond: n.cfg.Scrub.BytesPerSecond, Interval: n.cfg.Scrub.Interval, Clock: n.clock,
		OnRound: func(bytes int64) { checked.Add(float64(bytes)) },
		OnDamage: func(l *storage.Log, d storage.Damage) {
			damages.Inc()
			if d.From >= d.To {
				n.log.Warn("a sealed segment holds bytes behind its last batch: no record is missing, and they go with the segment; look at the disk",
					"partition", l.TopicPartition().String(), "file", d.File, "position", d.Position, "reason", d.Reason)
				return
			}
			n.replicas.ReportDamage(l, d)
		},
		OnFailure: func(l *storage.Log, err error) {
			damages.Inc()
			n.log.Error("the scrub cannot read a log on, and goes on with the next one", "partition", l.TopicPartition().String(), "error", err)
		},
		OnLog: n.replicas.Scrubbed,
	}
}
