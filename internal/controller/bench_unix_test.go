//go:build unix

package controller

import (
	"syscall"
	"testing"
	"time"
)

// BenchmarkIdleQuorum reports the share of one core that three idle controllers of one process take.
func BenchmarkIdleQuorum(b *testing.B) {
	c := startCluster(b, 3, func(cfg *Config) {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout, cfg.CommitInterval = 0, 0, 0, 0
	})
	c.active()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, began := used(), time.Now()
	b.ResetTimer()
	for range b.N {
		<-time.NewTimer(time.Second).C
	}
	b.ReportMetric(100*float64(used()-before)/float64(time.Since(began)), "%core")
}
