package server

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// brokersAt is an image at the offset with brokers 1, 2 and so on, each of them fenced or not; their addresses are their ids.
func brokersAt(t *testing.T, offset uint64, fenced ...bool) *metadata.Image {
	t.Helper()
	s := &internalv1.MetadataSnapshot{MetadataOffset: offset, Records: []*internalv1.MetadataRecord{
		{Kind: &internalv1.MetadataRecord_FeatureLevel{FeatureLevel: &internalv1.FeatureLevelRecord{Level: 1}}},
		{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: model.NewUUID().Bytes()}}},
	}}
	for i, out := range fenced {
		s.Records = append(s.Records, &internalv1.MetadataRecord{Kind: &internalv1.MetadataRecord_BrokerRegistration{
			BrokerRegistration: &internalv1.BrokerRegistrationRecord{
				BrokerId: int32(i + 1), PeerAddress: strconv.Itoa(i + 1), //nolint:gosec // few
				IncarnationId: model.NewUUID().Bytes(), DirectoryId: model.NewUUID().Bytes(), MinFeatureLevel: 1, MaxFeatureLevel: 1,
				Restored: &internalv1.BrokerState{BrokerEpoch: int64(i + 1), Fenced: out, WasUnfenced: true},
			},
		}})
	}
	image, err := metadata.FromSnapshot(s)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// fakeOthers answers as the function of each address says; addresses without one say nothing until they are waited for no more.
type fakeOthers map[string]func() error

// AwaitMetadata implements Others.
func (f fakeOthers) AwaitMetadata(ctx context.Context, address string, _ model.MetadataOffset) error {
	if answer := f[address]; answer != nil {
		return answer()
	}
	<-ctx.Done()
	return ctx.Err()
}

// A change is answered when all brokers at work have it, and in bounded time, short of the caller's own, where one is silent.
func TestSpreadWaitsForBrokersAtWorkAndForNobodyElse(t *testing.T) {
	after := func(d time.Duration) func() error {
		return func() error {
			time.Sleep(d)
			return nil
		}
	}
	const fenced, atWork = true, false
	for name, c := range map[string]struct {
		brokers  []bool
		answers  fakeOthers
		deadline time.Duration
		change   time.Duration // when the second broker is fenced; 0 is never
		want     time.Duration
	}{
		"the last one counts":          {brokers: []bool{atWork, atWork}, answers: fakeOthers{"1": after(0), "2": after(time.Second)}, want: time.Second},
		"a fenced one does not":        {brokers: []bool{atWork, fenced}, answers: fakeOthers{"1": after(time.Second)}, want: time.Second},
		"nor one that is fenced now":   {brokers: []bool{atWork, atWork}, answers: fakeOthers{"1": after(0)}, change: 2 * time.Second, want: 2 * time.Second},
		"a silent one holds up little": {brokers: []bool{atWork, atWork}, answers: fakeOthers{"1": after(0)}, want: spreadTimeout},
		"and less than is left":        {brokers: []bool{atWork, atWork}, answers: fakeOthers{"1": after(0)}, deadline: time.Second, want: time.Second / 2},
		"one that fails is passed over": {
			brokers: []bool{atWork, atWork}, answers: fakeOthers{"1": after(0), "2": func() error { return errors.New("no such request") }},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cache, group := NewCache(), lifecycle.New(t.Context(), "clients", slog.New(slog.DiscardHandler))
				cache.Publish(brokersAt(t, 7, c.brokers...), nil)
				s := spread{cache: cache, others: c.answers, group: group, clock: lifecycle.RealClock(), timeout: spreadTimeout}
				ctx := t.Context()
				if c.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				if c.change > 0 {
					time.AfterFunc(c.change, func() { cache.Publish(brokersAt(t, 8, atWork, fenced), nil) })
				}
				began := time.Now()
				s.await(ctx, 7)
				if took := time.Since(began); took != c.want {
					t.Errorf("it took %v, want %v", took, c.want)
				}
				if err := group.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
