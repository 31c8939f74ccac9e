package controller

import (
	"sync"
	"testing"

	"github.com/penstock-io/penstock/api/gen/internalv1"
)

// BenchmarkAllocateProducerIDs is the cost of one entry through three voters with fsync, alone and from many callers at once
// (which share entries).
func BenchmarkAllocateProducerIDs(b *testing.B) {
	for name, callers := range map[string]int{"alone": 1, "callers=64": 64} {
		b.Run(name, func(b *testing.B) {
			c := startCluster(b, 3, nil)
			broker := newFakeBroker(1)
			broker.join(c)
			ctl := c.active().ctl
			ctx := testContext(b)
			b.ResetTimer()
			work := make(chan struct{}, b.N)
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			var wait sync.WaitGroup
			for range callers {
				wait.Go(func() {
					for range work {
						req := &internalv1.AllocateProducerIDsRequest{BrokerId: 1, BrokerEpoch: broker.epoch}
						if _, err := ctl.AllocateProducerIDs(ctx, req); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wait.Wait()
		})
	}
}
