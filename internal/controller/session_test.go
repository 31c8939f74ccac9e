package controller

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/controller/core"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

func (c *cluster) answerProbes(b *fakeBroker, answer func() (ProbeResult, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.brokers[b.address] = answer
}

// open beats once on a new stream.
func (b *fakeBroker) open(c *cluster) *Session {
	c.t.Helper()
	s := c.active().ctl.OpenSession()
	if resp, err := s.Beat(testContext(c.t), b.beat()); err != nil || resp.GetFenced() {
		c.t.Fatalf("%v, %v", resp, err)
	}
	return s
}

func (c *cluster) fenced(b *fakeBroker) bool {
	x, ok := c.active().ctl.Image().Broker(b.id)
	return ok && x.Fenced
}

func TestEarlyFencing(t *testing.T) {
	c := startCluster(t, 1, nil)
	for name, answer := range map[string]func(b *fakeBroker) (ProbeResult, error){
		"refused":             func(*fakeBroker) (ProbeResult, error) { return ProbeResult{}, errors.New("connection refused") },
		"another incarnation": func(*fakeBroker) (ProbeResult, error) { return ProbeResult{IncarnationID: model.NewUUID()}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newFakeBroker(1)
			if old, ok := c.active().ctl.Image().Broker(1); ok {
				b.directory, b.epoch = old.DirectoryID, int64(old.Epoch)
			}
			b.join(c)
			s := b.open(c)
			c.answerProbes(b, func() (ProbeResult, error) { return answer(b) })
			s.End()
			until(t, "the broker is fenced", func() bool { return c.fenced(b) })
		})
	}
}

func TestNoEarlyFencing(t *testing.T) {
	c := startCluster(t, 1, nil)
	b := newFakeBroker(1)
	b.join(c)
	probed := make(chan struct{}, 16)
	c.answerProbes(b, func() (ProbeResult, error) {
		probed <- struct{}{}
		return ProbeResult{IncarnationID: b.incarnation}, nil
	})
	b.open(c).End()
	<-probed // the connection was lost, the broker lives
	s := b.open(c)
	goodbye := b.beat()
	goodbye.Goodbye = true
	if resp, err := s.Beat(testContext(t), goodbye); err != nil || !resp.GetFenced() || !resp.GetMayStop() {
		t.Fatalf("%v, %v", resp, err)
	}
	s.End()
	c.active().ctl.OpenSession().End() // a stream without a heartbeat
	createdBefore := c.active().ctl.Image().Offset()
	b.join(c)
	if len(probed) > 0 || c.active().ctl.Image().Offset() != createdBefore+1 {
		t.Fatalf("%d probes after a goodbye, offset %d after %d", len(probed), c.active().ctl.Image().Offset(), createdBefore)
	}
}

func TestSilentBrokersAreFencedTogether(t *testing.T) {
	c := startCluster(t, 1, func(cfg *Config) { cfg.Core = core.Config{SessionTimeout: 300 * time.Millisecond} })
	one, two := newFakeBroker(1), newFakeBroker(2)
	one.join(c)
	two.join(c)
	until(t, "both sessions end", func() bool { return c.fenced(one) && c.fenced(two) })
}

func TestNewActiveControllerFencesThoseThatRefuse(t *testing.T) {
	c := startCluster(t, 3, nil)
	gone, mute, alive := newFakeBroker(1), newFakeBroker(2), newFakeBroker(3)
	for _, b := range []*fakeBroker{gone, mute, alive} {
		b.join(c)
	}
	c.answerProbes(gone, func() (ProbeResult, error) { return ProbeResult{}, errors.New("connection refused") })
	c.setCut(mute.address, true) // does not answer, and is given its session
	c.active().stop()
	until(t, "the broker that refuses is fenced", func() bool { return c.fenced(gone) })
	if c.fenced(mute) || c.fenced(alive) {
		t.Fatal("a broker that does not refuse is fenced")
	}
}

// slowLog is a log on a disk whose writes wait.
type slowLog struct {
	logStore
	wait func()
}

func (s *slowLog) StoreLogs(entries []*raft.Log) error {
	s.wait()
	return s.logStore.StoreLogs(entries)
}

func TestSlowDiskCostsTheLeadership(t *testing.T) {
	slow := make(chan time.Duration, 1)
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.SlowWrite, cfg.HungWrite = 300*time.Millisecond, time.Minute
		cfg.wrapLog = func(inner logStore) logStore {
			return &slowLog{logStore: inner, wait: func() {
				select {
				case d := <-slow:
					<-time.NewTimer(d).C
				default:
				}
			}}
		}
	})
	for _, n := range c.nodes {
		n.start()
	}
	newFakeBroker(1).join(c)
	old := c.active()
	slow <- 600 * time.Millisecond
	ctx := testContext(t)
	_, err := old.ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{Name: "t"})
	t.Logf("the request's outcome: %v", err)
	until(t, "another controller", func() bool { return c.active() != old })
}

func TestHungDiskStopsTheNode(t *testing.T) {
	hang := make(chan struct{})
	armed := make(chan struct{}, 1)
	c := startCluster(t, 1, func(cfg *Config) {
		cfg.SlowWrite, cfg.HungWrite, cfg.ApplyTimeout = time.Second, 3*time.Second, time.Second
		cfg.wrapLog = func(inner logStore) logStore {
			return &slowLog{logStore: inner, wait: func() {
				select {
				case <-armed:
					<-hang
				default:
				}
			}}
		}
	})
	n := c.active()
	ctl := n.ctl
	newFakeBroker(1).join(c)
	armed <- struct{}{}
	_, err := ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"})
	if !model.IsCode(err, model.CodeUnknownOutcome) {
		t.Errorf("the request's outcome: %v", err)
	}
	if ctl.Active() {
		t.Error("still decides though it does not know what became of its write")
	}
	until(t, "the node fails", func() bool { return n.group.Err() != nil })
	if err := n.group.Err(); !errors.Is(err, ErrHungDisk) {
		t.Errorf("got %v", err)
	}
	// The test lets go of the disk, so that all goroutines end; a process would be gone by now.
	close(hang)
	if err := n.group.Wait(); !errors.Is(err, ErrHungDisk) {
		t.Errorf("got %v", err)
	}
	n.group = nil
	if err := errors.Join(ctl.raft.Load().Shutdown().Error(), ctl.trans.Close(), ctl.store.Close()); err != nil {
		t.Error(err)
	}
}

// brokenLog is a log on a disk that fails.
type brokenLog struct {
	logStore
	broken *atomic.Bool
}

func (b *brokenLog) StoreLogs(entries []*raft.Log) error {
	if b.broken.Load() {
		return errors.New("input/output error")
	}
	return b.logStore.StoreLogs(entries)
}

func TestFailedLogStopsTheNode(t *testing.T) {
	var broken atomic.Bool
	c := startCluster(t, 1, func(cfg *Config) {
		cfg.wrapLog = func(inner logStore) logStore { return &brokenLog{logStore: inner, broken: &broken} }
	})
	newFakeBroker(1).join(c)
	n := c.active()
	broken.Store(true)
	_, err := n.ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"})
	if err == nil {
		t.Error("a write that failed was acknowledged")
	}
	if err := n.group.Wait(); !errors.Is(err, ErrLogFailed) {
		t.Errorf("got %v", err)
	}
	n.group = nil
}

// TestUnknownOutcomeIsFollowedByABarrier makes one write outlast the apply timeout without hanging for good.
func TestUnknownOutcomeIsFollowedByABarrier(t *testing.T) {
	hang, armed := make(chan struct{}), make(chan struct{}, 1)
	c := startCluster(t, 1, func(cfg *Config) {
		cfg.ApplyTimeout = time.Second
		cfg.wrapLog = func(inner logStore) logStore {
			return &slowLog{logStore: inner, wait: func() {
				select {
				case <-armed:
					<-hang
				default:
				}
			}}
		}
	})
	newFakeBroker(1).join(c)
	ctl := c.active().ctl
	armed <- struct{}{}
	_, err := ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"})
	if !model.IsCode(err, model.CodeUnknownOutcome) || ctl.Active() {
		t.Fatalf("got %v, active %t", err, ctl.Active())
	}
	close(hang)
	if c.active().ctl != ctl {
		t.Fatal("not the same controller")
	}
	if _, err := ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"}); !model.IsCode(err, model.CodeTopicAlreadyExists) {
		t.Fatalf("the write took effect, and the controller does not know: %v", err)
	}
}

func TestTwoSnapshotInstallsWithoutProgressAreFatal(t *testing.T) {
	var failed error
	f := &fsm{hub: newHub(), clock: lifecycle.RealClock(), fail: func(err error) { failed = err }}
	f.running.Store(true)
	image := metadata.Empty()
	advance := func() {
		var err error
		if image, _, err = image.Apply(&internalv1.MetadataEntry{DecidedOn: uint64(image.Offset()), TimeMs: image.TimeMs()}); err != nil {
			t.Fatal(err)
		}
	}
	advance()
	install := func() {
		if err := f.Restore(io.NopCloser(bytesOf(t, image))); err != nil {
			t.Fatal(err)
		}
	}
	install()
	if got := f.Apply(&raft.Log{Data: []byte{0x08, 0x01}}).(applied).err; got != nil { // decided on 1: an empty entry
		t.Fatal(got)
	}
	install()
	advance()
	advance()
	install() // by another leader, whose snapshot is newer
	if failed != nil {
		t.Fatalf("there was progress: %v", failed)
	}
	install()
	if !errors.Is(failed, ErrSnapshotLoop) {
		t.Fatalf("got %v", failed)
	}
}

func TestCallersThatLeaveAreNotDecided(t *testing.T) {
	c := startCluster(t, 1, nil)
	newFakeBroker(1).join(c)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	offset := c.active().ctl.Image().Offset()
	for range 20 {
		_, err := c.active().ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{Name: "t"})
		if !model.IsCode(err, model.CodeRequestTimedOut) {
			t.Fatalf("got %v", err)
		}
	}
	createTopic(c, "u")
	if got := c.active().ctl.Image().Offset(); got != offset+1 {
		t.Fatalf("offset %d after %d", got, offset)
	}
}
