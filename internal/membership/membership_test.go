package membership_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/membership"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/testports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, id model.NodeID, cluster model.UUID, address string, key []byte, seeds ...string) (*membership.Gossip, func()) {
	t.Helper()
	group := lifecycle.New(context.Background(), "test", slog.New(slog.DiscardHandler))
	g, err := membership.Start(membership.Config{
		NodeID: id, PeerAddress: "peer:1", Bind: address, Advertised: address, Seeds: seeds, Key: key,
		Logger: slog.New(slog.DiscardHandler), Clock: lifecycle.RealClock(),
	}, group)
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := group.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	if err != nil {
		stop()
		t.Fatal(err)
	}
	g.Join(cluster)
	return g, stop
}

func await(t *testing.T, g *membership.Gossip, kind membership.HintKind, id model.NodeID) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case hint := <-g.Hints():
			if hint.Kind == kind && hint.Member.ID == id {
				return
			}
		case <-timeout:
			t.Fatalf("no hint that node %d %v; members: %v", id, kind, g.Members())
		}
	}
}

func TestJoinAndLeave(t *testing.T) {
	cluster, key := model.NewUUID(), make([]byte, 32)
	a, b := testports.Address(t), testports.Address(t)
	one, stopOne := start(t, 1, cluster, a, key)
	defer stopOne()
	two, stopTwo := start(t, 2, cluster, b, key, a)
	await(t, one, membership.HintJoined, 2)
	for deadline := time.Now().Add(20 * time.Second); len(one.Members()) != 2 || len(two.Members()) != 2; {
		if time.Now().After(deadline) {
			t.Fatalf("members: %v and %v", one.Members(), two.Members())
		}
		if err := lifecycle.Sleep(context.Background(), lifecycle.RealClock(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	stopTwo()
	await(t, one, membership.HintLeft, 2)
}

func TestOtherClusterIsNotHeard(t *testing.T) {
	a, b := testports.Address(t), testports.Address(t)
	one, stopOne := start(t, 1, model.NewUUID(), a, nil)
	defer stopOne()
	two, stopTwo := start(t, 2, model.NewUUID(), b, nil, a)
	defer stopTwo()
	// Members of one cluster find each other within milliseconds (TestJoinAndLeave); these get a while and never do.
	alone := func(g *membership.Gossip, id model.NodeID) bool {
		members := g.Members()
		for _, m := range members {
			if m.ID != id {
				t.Fatalf("node %d of another cluster is a member of node %d's", m.ID, id)
			}
		}
		return len(members) == 1
	}
	clock := lifecycle.RealClock()
	for begin := clock.Now(); !alone(one, 1) || !alone(two, 2) || clock.Now().Sub(begin) < 300*time.Millisecond; {
		if clock.Now().Sub(begin) > 20*time.Second {
			t.Fatalf("members: %v and %v", one.Members(), two.Members())
		}
		if err := lifecycle.Sleep(context.Background(), clock, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	address := testports.Address(t)
	_, stop := start(t, 1, model.NewUUID(), address, nil)
	defer stop()
	group := lifecycle.New(context.Background(), "test", slog.New(slog.DiscardHandler))
	_, err := membership.Start(membership.Config{
		NodeID: 2, Bind: address, Advertised: address,
		Logger: slog.New(slog.DiscardHandler), Clock: lifecycle.RealClock(),
	}, group)
	if !errors.Is(err, membership.ErrBind) {
		t.Errorf("got %v", err)
	}
	if err := group.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// Before the cluster is known nobody is heard, and what comes in does not keep the node from stopping.
func TestStopBeforeTheClusterIsKnown(t *testing.T) {
	a, b := testports.Address(t), testports.Address(t)
	group := lifecycle.New(context.Background(), "test", slog.New(slog.DiscardHandler))
	g, err := membership.Start(membership.Config{
		NodeID: 1, PeerAddress: "peer:1", Bind: a, Advertised: a, Logger: slog.New(slog.DiscardHandler), Clock: lifecycle.RealClock(),
	}, group)
	if err != nil {
		t.Fatal(err)
	}
	_, stopTwo := start(t, 2, model.NewUUID(), b, nil, a)
	defer stopTwo()
	if n := len(g.Members()); n != 0 {
		t.Errorf("%d members", n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := group.Stop(ctx); err != nil {
		t.Error(err)
	}
}
