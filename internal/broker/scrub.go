package broker

import (
	"github.com/penstock-io/penstock/internal/storage"
)

// startScrub begins the background check of everything on the disk.
func (n *Node) startScrub() error {
	damages, checked := metricScrubDamages.Counter(), metricScrubChecked.Counter()
	if err := n.registry.Register(damages, checked); err != nil {
		return err
	}
	storage.StartScrubber(n.groups.replicas, n.dir, storage.ScrubOptions{
		BytesPerSecond: n.cfg.Scrub.BytesPerSecond, Interval: n.cfg.Scrub.Interval, Clock: n.clock,
		OnRound: func(bytes int64) { checked.Add(float64(bytes)) },
		OnDamage: func(l *storage.Log, d storage.Damage) {
			damages.Inc()
			if d.From >= d.To {
				n.log.Error("the scrub cannot read on", "partition", l.TopicPartition().String(), "file", d.File, "reason", d.Reason)
				return
			}
			n.replicas.ReportDamage(l, d)
		},
		OnLog: n.replicas.Scrubbed,
	})
	return nil
}
