package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

func TestThreeEmptyVotersBeginACluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	active := c.active()
	id := active.ctl.ClusterID()
	for _, n := range c.nodes {
		until(t, "every controller knows the cluster", func() bool { return n.ctl.ClusterID() == id })
		if n.ctl.QuorumState() != QuorumStateEstablished {
			t.Errorf("node %d holds metadata and says %d", n.id, n.ctl.QuorumState())
		}
		until(t, "every controller names the active one", func() bool {
			got, address, known := n.ctl.ActiveController()
			return known && got == active.id && address == active.address
		})
	}
	for i := range 3 {
		newFakeBroker(model.NodeID(i + 1)).join(c)
	}
	createTopic(c, "t")
	topic, ok := c.active().ctl.Image().Topic("t")
	if p, third := topic.Partition(2); !ok || !third || len(p.Replicas) != 3 {
		t.Fatalf("%v", topic)
	}
	quorum := onActive(c, func(ctl *Controller) (*internalv1.DescribeQuorumResponse, error) {
		return ctl.DescribeQuorum(testContext(t), &internalv1.DescribeQuorumRequest{})
	})
	if model.NodeID(quorum.GetLeaderId()) != c.active().id || len(quorum.GetVoters()) != 3 || quorum.GetFeatureLevel() != 1 {
		t.Fatalf("%v", quorum)
	}
}

func TestSingleVoter(t *testing.T) {
	c := startCluster(t, 1, nil)
	newFakeBroker(1).join(c)
	createTopic(c, "t")
	c.nodes[0].stop()
	c.nodes[0].start()
	if _, ok := c.active().ctl.Image().Topic("t"); !ok {
		t.Fatal("the topic is gone")
	}
}

func TestOthersNameTheActiveController(t *testing.T) {
	c := startCluster(t, 3, nil)
	active := c.active()
	for _, n := range c.nodes {
		if n == active {
			continue
		}
		until(t, "knows the active controller", func() bool { _, _, known := n.ctl.ActiveController(); return known })
		_, err := n.ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"})
		var to *NotControllerError
		if !model.IsCode(err, model.CodeNotController) || !errors.As(err, &to) || to.ID != active.id || to.Address != active.address {
			t.Errorf("got %v", err)
		}
		if _, err := n.ctl.DescribeQuorum(testContext(t), nil); !model.IsCode(err, model.CodeNotController) {
			t.Errorf("got %v", err)
		}
	}
}

func TestKillingTheActiveControllerLosesNothing(t *testing.T) {
	c := startCluster(t, 3, nil)
	newFakeBroker(1).join(c)
	for round := range 3 {
		name := fmt.Sprintf("t%d", round)
		createTopic(c, name)
		old := c.active()
		old.stop()
		next := c.active()
		for i := 0; i <= round; i++ {
			if _, ok := next.ctl.Image().Topic(fmt.Sprintf("t%d", i)); !ok {
				t.Fatalf("topic t%d is gone after %d changes of controllers", i, round+1)
			}
		}
		old.start()
		until(t, "the stopped controller catches up", func() bool {
			_, ok := old.ctl.Image().Topic(name)
			return ok
		})
	}
}

func TestRestartOfAllControllers(t *testing.T) {
	c := startCluster(t, 3, nil)
	newFakeBroker(1).join(c)
	createTopic(c, "t")
	id := c.active().ctl.ClusterID()
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		n.start()
	}
	ctl := c.active().ctl
	if _, ok := ctl.Image().Topic("t"); !ok || ctl.ClusterID() != id {
		t.Fatal("the metadata is gone")
	}
}

func TestMinorityDecidesNothing(t *testing.T) {
	c := startCluster(t, 3, nil)
	newFakeBroker(1).join(c)
	old := c.active()
	offset := old.ctl.Image().Offset()
	c.setCut(old.address, true)
	ctx := testContext(t)
	_, err := old.ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{Name: "cut-off"})
	if !model.IsCode(err, model.CodeUnknownOutcome) && !model.IsCode(err, model.CodeNotController) {
		t.Fatalf("got %v", err)
	}
	next := c.active()
	if next == old {
		t.Fatal("still the same")
	}
	createTopic(c, "majority")
	until(t, "the minority's controller steps down", func() bool { return !old.ctl.Active() })
	if got := old.ctl.Image().Offset(); got != offset {
		t.Errorf("the minority went from %d to %d", offset, got)
	}
	if _, err := old.ctl.CreateTopic(ctx, &internalv1.CreateTopicRequest{Name: "x"}); !model.IsCode(err, model.CodeNotController) {
		t.Errorf("got %v", err)
	}
	c.setCut(old.address, false)
	until(t, "the minority follows again", func() bool {
		_, ok := old.ctl.Image().Topic("majority")
		return ok
	})
	if _, ok := old.ctl.Image().Topic("cut-off"); ok {
		t.Error("what the minority decided took effect after all, behind the majority's back")
	}
}

// TestStaleEntryIsDropped commits an entry that was decided on an older image, as a deposed controller's may be.
func TestStaleEntryIsDropped(t *testing.T) {
	c := startCluster(t, 1, nil) // one voter: nobody can take the leadership away between two steps
	newFakeBroker(1).join(c)
	n := c.active()
	image := n.ctl.Image()
	entry := &internalv1.MetadataEntry{
		DecidedOn: uint64(image.Offset() - 1), TimeMs: image.TimeMs() + 1,
		Records: []*internalv1.MetadataRecord{{Kind: &internalv1.MetadataRecord_ProducerIds{
			ProducerIds: &internalv1.ProducerIDsRecord{NextProducerId: 7},
		}}},
	}
	commit := func() error {
		data, err := proto.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		future := n.ctl.raft.Load().Apply(data, time.Second)
		if err := future.Error(); err != nil {
			t.Fatal(err)
		}
		return future.Response().(applied).err
	}
	if err := commit(); !errors.Is(err, metadata.ErrStaleEntry) || n.ctl.Image() != image {
		t.Fatalf("got %v", err)
	}
	// Somebody else's entry gets ahead of the controller's own: it decides again, and the caller notices nothing.
	entry.DecidedOn++
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	createTopic(c, "t")
	for _, other := range c.nodes {
		until(t, "all images agree", func() bool { return other.ctl.Image().Offset() == n.ctl.Image().Offset() })
		if got := other.ctl.Image().NextProducerID(); got != 7 {
			t.Errorf("node %d: next producer id %d", other.id, got)
		}
	}
}

func TestUnknownEntryStopsTheNode(t *testing.T) {
	c := startCluster(t, 1, nil)
	n := c.active()
	entry := &internalv1.MetadataEntry{DecidedOn: uint64(n.ctl.Image().Offset()), TimeMs: n.ctl.Image().TimeMs()}
	entry.ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 0x01})
	data, err := proto.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ctl.raft.Load().Apply(data, time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if err := n.group.Wait(); !errors.Is(err, ErrUnknownEntry) {
		t.Fatalf("got %v", err)
	}
	n.group = nil
}

func TestSnapshotsAndLateFollower(t *testing.T) {
	tune := func(cfg *Config) {
		cfg.SnapshotInterval, cfg.SnapshotThreshold, cfg.TrailingLogs = 20*time.Millisecond, 8, 16
	}
	c := startCluster(t, 3, tune)
	newFakeBroker(1).join(c)
	first := c.active()
	var late *node
	for _, n := range c.nodes {
		if n != first {
			late = n
		}
	}
	late.stop()
	for i := range 40 {
		createTopic(c, fmt.Sprintf("t%d", i))
	}
	until(t, "the log is cut", func() bool {
		at, err := c.active().ctl.store.FirstIndex()
		return err == nil && at > 20
	})
	late.start()
	until(t, "the late follower gets the snapshot", func() bool { return late.ctl.Image().TopicCount() == 40 })
	want := encoded(t, c.active().ctl.Image())
	for _, n := range c.nodes {
		n.stop()
	}
	for _, n := range c.nodes {
		n.start()
	}
	if !bytes.Equal(encoded(t, c.active().ctl.Image()), want) {
		t.Fatal("the image changed in a restart from a snapshot")
	}
}

func encoded(t testing.TB, image *metadata.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := writeSnapshot(&out, image); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEmptyVoterOfAnEstablishedQuorumWaits(t *testing.T) {
	c := startCluster(t, 3, nil)
	active := c.active()
	var lost *node
	for _, n := range c.nodes {
		if n != active {
			lost = n
		}
	}
	lost.stop()
	lost.dir = t.TempDir() // the disk is gone
	lost.logged.Reset()
	lost.start()
	until(t, "the voter says that it waits", func() bool { return lost.logged.contains("waits to be removed") })
	if lost.ctl.raft.Load() != nil || lost.ctl.QuorumState() != QuorumStateEmpty {
		t.Fatal("a voter without memory takes part")
	}
	if _, err := lost.ctl.CreateTopic(testContext(t), &internalv1.CreateTopicRequest{Name: "t"}); !model.IsCode(err, model.CodeNotController) {
		t.Fatalf("got %v", err)
	}
}

func TestUnreachableVoterHoldsTheBeginBack(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.nodes[0].start()
	c.nodes[1].start()
	feed := c.nodes[0].ctl.Follow(0)
	for range 3 {
		if frame, err := feed.Next(testContext(t)); err != nil || frame.CommittedOffset != 0 || frame.ControllerID != model.NoNode {
			t.Fatalf("%+v, %v", frame, err)
		}
	}
	if c.nodes[0].ctl.raft.Load() != nil || c.nodes[1].ctl.raft.Load() != nil {
		t.Fatal("the quorum begins without the third voter")
	}
	c.nodes[2].start()
	c.active()
}

func TestUnsentRequestsAreAnsweredAtTheStop(t *testing.T) {
	c := startCluster(t, 1, nil)
	ctl := c.active().ctl
	done := make(chan error, 100)
	for range cap(done) {
		go func() {
			for {
				_, err := ctl.CreateTopic(context.Background(), &internalv1.CreateTopicRequest{Name: "t"})
				if !model.IsCode(err, model.CodeBrokerNotAvailable) { // there is no broker to lead it
					done <- err
					return
				}
			}
		}()
	}
	c.nodes[0].stop()
	for range cap(done) {
		err := <-done
		if !model.IsCode(err, model.CodeShuttingDown) && !model.IsCode(err, model.CodeNotController) {
			t.Errorf("got %v", err)
		}
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	good := (&node{t: t, cluster: &cluster{}, id: 1, dir: t.TempDir()}).config()
	good.Listener = &streams{}
	good.Voters = []Voter{{1, "a:1"}, {2, "b:1"}}
	for name, spoil := range map[string]func(*Config){
		"no directory":   func(c *Config) { c.Dir = "" },
		"no listener":    func(c *Config) { c.Listener = nil },
		"not a voter":    func(c *Config) { c.NodeID = 3 },
		"negative voter": func(c *Config) { c.Voters = []Voter{{-1, "a:1"}, {1, "b:1"}} },
		"same id":        func(c *Config) { c.Voters = []Voter{{1, "a:1"}, {1, "b:1"}} },
		"same address":   func(c *Config) { c.Voters = []Voter{{1, "a:1"}, {2, "a:1"}} },
		"no address":     func(c *Config) { c.Voters = []Voter{{1, ""}} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			spoil(&cfg)
			group := lifecycle.New(context.Background(), "test", nil)
			defer func() { _ = group.Stop(context.Background()) }()
			if _, err := Start(cfg, group); err == nil || !strings.HasPrefix(err.Error(), "controller: ") {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// longSilence is far longer than a new leader takes where it does not have to wait for a heartbeat timeout.
const longSilence = 40 * time.Second

// startPatient starts three controllers that come to a leader soon, and from then on wait for longSilence.
func startPatient(t *testing.T) *cluster {
	t.Helper()
	c := startCluster(t, 3, func(cfg *Config) {
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaseTimeout = time.Second, time.Second, time.Second
	})
	c.active()
	for _, n := range c.nodes {
		until(t, "its Raft runs", func() bool { return n.ctl.raft.Load() != nil })
		r := n.ctl.raft.Load()
		patient := r.ReloadableConfig()
		patient.HeartbeatTimeout, patient.ElectionTimeout = longSilence, longSilence
		if err := r.ReloadConfig(patient); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestLeadershipQuicklyMovesOnAStop(t *testing.T) {
	c := startPatient(t)
	old := c.active()
	began := time.Now()
	old.stop()
	if c.active() == old {
		t.Fatal("the same")
	}
	if took := time.Since(began); took > longSilence/2 {
		t.Fatalf("it took %s: leadership was not handed over", took)
	}
}

var _ raft.StreamLayer = (*streams)(nil)

// TestKilledLeaderIsNoticedSoon measures the time from a kill of the active controller to the next one's first decision, where
// silence alone would take far longer.
func TestKilledLeaderIsNoticedSoon(t *testing.T) {
	c := startPatient(t)
	newFakeBroker(1).join(c)
	old := c.active()
	began := time.Now()
	c.kill(old)
	createTopic(c, "t")
	took := time.Since(began)
	t.Logf("%s from the kill to the next decision", took)
	if took > longSilence/2 {
		t.Error("the death of the process was not noticed")
	}
	next := c.active()
	until(t, "the usual timeouts are restored", func() bool {
		return next.ctl.raft.Load().ReloadableConfig().HeartbeatTimeout == longSilence
	})
}
