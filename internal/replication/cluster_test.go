package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/api/gen/internalv1"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/lifecycle"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/record"
	"github.com/penstock-io/penstock/internal/replication/core"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rec = internalv1.MetadataRecord

// cluster is some managers in one process, wired by streams in memory, and a controller that does what the test says. The
// controller grants every valid AlterPartition.
type cluster struct {
	t       testing.TB
	options func(*Options)
	pool    *wire.Pool // finds buffers that leak, are freed twice or are used after that

	mu       sync.Mutex
	image    *metadata.Image
	nodes    map[model.NodeID]*testNode
	cut      map[[2]model.NodeID]bool // links that are down, smaller id first
	streams  map[*memStream]bool
	refuse   model.ErrorCode // refuses proposals with this code
	reported map[model.UUID][]model.NodeID

	alterFrames int // the next so many frames with batches are altered on their way

	surrenders int // seats that were to be given up

	snapshots, failSnapshots int // producer snapshots asked for; the first so many fail
}

// testNode is one broker.
type testNode struct {
	c     *cluster
	id    model.NodeID
	fs    fsys.FS
	mem   *fsys.Mem // nil on a real disk
	path  string
	dir   *storage.Dir
	mgr   *Manager
	group *lifecycle.Group
	lost  []*internalv1.ReplicaState
}

func newCluster(t testing.TB, n int, options func(*Options)) *cluster {
	t.Helper()
	c := &cluster{
		t: t, options: options, pool: wire.NewDebugPool(), image: metadata.Empty(), nodes: map[model.NodeID]*testNode{},
		cut: map[[2]model.NodeID]bool{}, streams: map[*memStream]bool{}, reported: map[model.UUID][]model.NodeID{},
	}
	c.change(clusterRecord())
	for id := model.NodeID(1); id <= model.NodeID(n); id++ {
		mem := fsys.NewMem(uint64(id), fsys.MemOptions{})
		c.nodes[id] = &testNode{c: c, id: id, fs: mem, mem: mem, path: "/data"}
		c.nodes[id].start()
	}
	t.Cleanup(c.stopAll)
	return c
}

func clusterRecord() *rec {
	return &rec{Kind: &internalv1.MetadataRecord_Cluster{Cluster: &internalv1.ClusterRecord{ClusterId: testUUID(99).Bytes()}}}
}

func testUUID(n byte) model.UUID {
	return model.UUID{n, 1, 2, 3, 4, 5, 0x40, 7, 0x80, 9, 10, 11, 12, 13, 14, n}
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// start opens the directory, recovers, registers and unfences.
func (n *testNode) start() {
	t := n.c.t
	var err error
	if n.dir, err = storage.OpenDir(n.fs, n.path, storage.DirOptions{DirectoryID: testUUID(100 + byte(n.id))}); err != nil {
		t.Fatalf("broker %d: %v", n.id, err)
	}
	if err := n.dir.ClearClean("boot"); err != nil {
		t.Fatal(err)
	}
	opts := Options{
		NodeID: n.id, Dir: n.dir, Endpoint: endpoint{n}, Controller: controller{n}, Logger: logger(), Pool: n.c.pool, SweepInterval: 20 * time.Millisecond,
		Core: core.Config{LagTimeMax: 400 * time.Millisecond, RejoinMin: 50 * time.Millisecond},
	}
	if n.c.options != nil {
		n.c.options(&opts)
	}
	mgr, err := NewManager(opts)
	if err != nil {
		t.Fatal(err)
	}
	n.c.mu.Lock()
	n.mgr = mgr
	n.c.mu.Unlock()
	if n.lost, err = n.mgr.Recover(t.Context()); err != nil {
		t.Fatalf("broker %d: %v", n.id, err)
	}
	group := lifecycle.New(context.Background(), fmt.Sprintf("broker-%d", n.id), logger())
	n.mgr.Start(group)
	n.c.mu.Lock()
	n.group = group
	n.c.mu.Unlock()
	n.c.register(n)
}

// stop ends a broker: cleanly, or as kill -9 does.
func (n *testNode) stop(clean bool) {
	if !clean && n.mem != nil {
		n.crash(n.mem.CrashProcess)
		return
	}
	n.end(clean)
}

// crash ends a broker with its process or its machine.
func (n *testNode) crash(how func() *fsys.Mem) {
	n.mem = how()
	n.fs = n.mem
	n.end(false)
}

func (n *testNode) end(clean bool) {
	t := n.c.t
	n.c.mu.Lock()
	group := n.group
	n.group = nil
	n.c.mu.Unlock()
	if group == nil {
		return
	}
	n.c.mu.Lock()
	for s := range n.c.streams {
		if s.from == n.id || s.to == n.id {
			s.cancel(errors.New("broker stopped"))
		}
	}
	n.c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := group.Stop(ctx); err != nil && clean {
		t.Errorf("broker %d: %v", n.id, err)
	}
	if err := n.mgr.Close(ctx); err != nil && clean {
		t.Errorf("broker %d: %v", n.id, err)
	}
	if err := n.dir.Close(); err != nil && clean {
		t.Errorf("broker %d: %v", n.id, err)
	}
}

func (c *cluster) stopAll() {
	for id := model.NodeID(1); int(id) <= len(c.nodes); id++ {
		c.nodes[id].stop(true)
	}
	if c.pool == nil {
		return
	}
	eventually(c.t, fmt.Sprintf("no buffer is out: %v", c.pool.Leaks()), func() bool { return len(c.pool.Leaks()) == 0 })
}

// change applies an entry and publishes it to all that run.
func (c *cluster) change(records ...*rec) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changeLocked(records...)
}

func (c *cluster) changeLocked(records ...*rec) {
	next, delta, err := c.image.Apply(&internalv1.MetadataEntry{DecidedOn: uint64(c.image.Offset()), Records: records})
	if err != nil {
		c.t.Errorf("controller: %v", err)
		return
	}
	c.image = next
	for _, n := range c.nodes {
		if n.group != nil {
			n.mgr.Publish(next, delta)
		}
	}
}

// register gives a broker a new incarnation, lets what it led begin anew and unfences it.
func (c *cluster) register(n *testNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	records := []*rec{{Kind: &internalv1.MetadataRecord_BrokerRegistration{BrokerRegistration: &internalv1.BrokerRegistrationRecord{
		BrokerId: int32(n.id), IncarnationId: model.NewUUID().Bytes(), DirectoryId: testUUID(100 + byte(n.id)).Bytes(),
		Listeners:   []*internalv1.Listener{{Name: "client", Host: "localhost", Port: 9092, Security: "plaintext"}},
		PeerAddress: fmt.Sprintf("localhost:%d", 9000+n.id), MinFeatureLevel: 1, MaxFeatureLevel: 1,
	}}}}
	for topic := range c.image.Topics() {
		for i, p := range topic.AllPartitions() {
			if p.Leader == n.id {
				records = append(records, changeRecord(topic.ID, i, &internalv1.PartitionChangeRecord{NewLeaderEpoch: true}))
			}
		}
	}
	c.changeLocked(records...)
	epoch := model.BrokerEpoch(c.image.Offset())
	n.mgr.Publish(c.image, &metadata.Delta{All: true})
	n.mgr.SetBrokerEpoch(epoch)
	c.changeLocked(&rec{Kind: &internalv1.MetadataRecord_BrokerUnfenced{
		BrokerUnfenced: &internalv1.BrokerUnfencedRecord{BrokerId: int32(n.id), BrokerEpoch: int64(epoch)},
	}})
}

// fence takes a broker that has died out: of the ISR of each partition, unless it is the last member, and of leadership.
func (c *cluster) fence(id model.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, _ := c.image.Broker(id)
	records := []*rec{{Kind: &internalv1.MetadataRecord_BrokerFenced{
		BrokerFenced: &internalv1.BrokerFencedRecord{BrokerId: int32(id), BrokerEpoch: int64(b.Epoch)},
	}}}
	for topic := range c.image.Topics() {
		for i, p := range topic.AllPartitions() {
			if len(p.ISR) < 2 || !p.InISR(id) {
				continue
			}
			isr := slices.DeleteFunc(slices.Clone(p.ISR), func(m model.NodeID) bool { return m == id })
			change := &internalv1.PartitionChangeRecord{Isr: &internalv1.NodeIDs{Ids: metadata.IDs(isr)}}
			if p.Leader == id {
				leader := int32(isr[0])
				change.Leader, change.NewLeaderEpoch = &leader, true
			}
			records = append(records, changeRecord(topic.ID, i, change))
		}
	}
	c.changeLocked(records...)
}

func changeRecord(topicID model.UUID, partition int32, r *internalv1.PartitionChangeRecord) *rec {
	r.TopicId, r.Partition = topicID.Bytes(), partition
	return &rec{Kind: &internalv1.MetadataRecord_PartitionChange{PartitionChange: r}}
}

// topic makes a topic of one partition, led by the first replica.
func (c *cluster) topic(id byte, configs map[string]string, replicas ...model.NodeID) model.TopicPartition {
	c.t.Helper()
	tp := model.TopicPartition{TopicID: testUUID(id)}
	records := []*rec{{Kind: &internalv1.MetadataRecord_Topic{
		Topic: &internalv1.TopicRecord{Name: fmt.Sprintf("topic-%d", id), TopicId: tp.TopicID.Bytes()},
	}}}
	for key, value := range configs {
		records = append(records, &rec{Kind: &internalv1.MetadataRecord_TopicConfig{
			TopicConfig: &internalv1.TopicConfigRecord{TopicId: tp.TopicID.Bytes(), Key: key, Value: &value},
		}})
	}
	records = append(records, &rec{Kind: &internalv1.MetadataRecord_Partition{Partition: &internalv1.PartitionRecord{
		TopicId: tp.TopicID.Bytes(), Replicas: metadata.IDs(replicas), Isr: metadata.IDs(replicas), Leader: int32(replicas[0]),
	}}})
	c.change(records...)
	return tp
}

// configure sets a topic setting.
func (c *cluster) configure(tp model.TopicPartition, key, value string) {
	c.change(&rec{Kind: &internalv1.MetadataRecord_TopicConfig{
		TopicConfig: &internalv1.TopicConfigRecord{TopicId: tp.TopicID.Bytes(), Key: key, Value: &value},
	}})
}

// lead moves the leadership, with this ISR.
func (c *cluster) lead(tp model.TopicPartition, leader model.NodeID, isr ...model.NodeID) {
	c.t.Helper()
	l := int32(leader)
	c.change(changeRecord(tp.TopicID, tp.Partition, &internalv1.PartitionChangeRecord{
		Leader: &l, NewLeaderEpoch: true, Isr: &internalv1.NodeIDs{Ids: metadata.IDs(isr)},
	}))
}

func (c *cluster) partition(tp model.TopicPartition) *metadata.Partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, _ := c.image.Partition(tp)
	return p
}

// link cuts or mends the link of two brokers.
func (c *cluster) link(a, b model.NodeID, up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[[2]model.NodeID{min(a, b), max(a, b)}] = !up
	for s := range c.streams {
		if !up && min(s.from, s.to) == min(a, b) && max(s.from, s.to) == max(a, b) {
			s.cancel(errors.New("link cut"))
		}
	}
}

// controller is the controller as one broker reaches it.
type controller struct{ n *testNode }

func (k controller) AlterPartition(_ context.Context, req *internalv1.AlterPartitionRequest) (*internalv1.AlterPartitionResponse, error) {
	c := k.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &internalv1.AlterPartitionResponse{}
	for _, want := range req.GetPartitions() {
		id, _ := model.UUIDFromBytes(want.GetTopicId())
		p, ok := c.image.Partition(model.TopicPartition{TopicID: id, Partition: want.GetPartition()})
		code := c.refuse
		switch {
		case code != model.CodeNone:
		case !ok:
			code = model.CodeUnknownTopicID
		case p.Leader != k.n.id || p.LeaderEpoch != model.LeaderEpoch(want.GetLeaderEpoch()):
			code = model.CodeFencedLeaderEpoch
		case p.PartitionEpoch != model.PartitionEpoch(want.GetPartitionEpoch()):
			code = model.CodeInvalidUpdateVersion
		}
		var isr []int32
		for _, m := range want.GetIsr() {
			if b, ok := c.image.Broker(model.NodeID(m.GetBrokerId())); !ok || b.Fenced || int64(b.Epoch) != m.GetBrokerEpoch() {
				code = model.CodeIneligibleReplica
			}
			isr = append(isr, m.GetBrokerId())
		}
		if code == model.CodeNone {
			c.changeLocked(changeRecord(id, want.GetPartition(), &internalv1.PartitionChangeRecord{Isr: &internalv1.NodeIDs{Ids: isr}}))
		}
		resp.Results = append(resp.Results, &internalv1.PartitionIsrResult{ErrorCode: int32(code)})
	}
	return resp, nil
}

func (k controller) ReportDeleted(_ context.Context, req *internalv1.ReportDeletedRequest) (*internalv1.ReportDeletedResponse, error) {
	c := k.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range req.GetTopicIds() {
		id, _ := model.UUIDFromBytes(b)
		c.reported[id] = append(c.reported[id], k.n.id)
		c.changeLocked(&rec{Kind: &internalv1.MetadataRecord_ReplicaDeleted{
			ReplicaDeleted: &internalv1.ReplicaDeletedRecord{TopicId: b, BrokerId: int32(k.n.id)},
		}})
	}
	return &internalv1.ReportDeletedResponse{}, nil
}

// endpoint opens streams in memory.
type endpoint struct{ n *testNode }

func (e endpoint) OpenReplicaStream(ctx context.Context, leader *metadata.Broker, hello *internalv1.ReplicaHello) (ReplicaStream, error) {
	c := e.n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.nodes[leader.ID]
	if to == nil || to.group == nil || c.cut[[2]model.NodeID{min(e.n.id, to.id), max(e.n.id, to.id)}] {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d cannot be reached", leader.ID)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &memStream{
		c: c, from: e.n.id, to: to.id, ctx: ctx, cancel: cancel,
		requests: make(chan *internalv1.ReplicateRequest, 64), frames: make(chan *wire.ReplicateResponse, 64),
	}
	s.requests <- &internalv1.ReplicateRequest{Hello: hello}
	c.streams[s] = true
	serve := to.mgr.ServeReplica
	to.group.Go("serve", func(context.Context) error {
		err := serve(ctx, memServer{s})
		cancel(err)
		s.drain()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.streams, s)
		return nil
	})
	return s, nil
}

func (e endpoint) FetchProducerSnapshot(
	_ context.Context, leader *metadata.Broker, req *internalv1.FetchProducerSnapshotRequest,
) ([]byte, error) {
	c := e.n.c
	c.mu.Lock()
	to := c.nodes[leader.ID]
	down := to == nil || to.group == nil || c.cut[[2]model.NodeID{min(e.n.id, leader.ID), max(e.n.id, leader.ID)}]
	c.snapshots++
	fail := c.snapshots <= c.failSnapshots
	c.mu.Unlock()
	if down || fail {
		return nil, model.Errorf(model.CodeBrokerNotAvailable, "broker %d cannot be reached", leader.ID)
	}
	return to.mgr.ProducerSnapshot(req)
}

// memStream is a replica stream without a network.
type memStream struct {
	c        *cluster
	from, to model.NodeID
	ctx      context.Context //nolint:containedctx // as a gRPC stream has one
	cancel   context.CancelCauseFunc
	requests chan *internalv1.ReplicateRequest
	frames   chan *wire.ReplicateResponse
}

func (s *memStream) Send(req *internalv1.ReplicateRequest) error {
	select {
	case s.requests <- req:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *memStream) Recv(m *wire.ReplicateResponse) error {
	select {
	case f := <-s.frames:
		m.Payload = f.Payload
		copyHead(&m.Head, &f.Head)
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// drain frees what nobody will receive.
func (s *memStream) drain() {
	for {
		select {
		case f := <-s.frames:
			f.Free()
		default:
			return
		}
	}
}

func copyHead(to, from *internalv1.ReplicateResponse) {
	to.SubscriptionId, to.LeaderEpoch, to.HighWatermark, to.LogStartOffset = from.SubscriptionId, from.LeaderEpoch, from.HighWatermark, from.LogStartOffset
	to.BaseOffset, to.Diverging, to.ErrorCode, to.Message = from.BaseOffset, from.Diverging, from.ErrorCode, from.Message
}

// alterNext says whether the next frame is to be altered.
func (c *cluster) alterNext() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alterFrames--
	if c.alterFrames < 0 {
		c.alterFrames = 0
		return false
	}
	return true
}

// memServer is its other side.
type memServer struct{ s *memStream }

func (m memServer) Send(f *wire.ReplicateResponse) error {
	frame := new(wire.ReplicateResponse)
	copyHead(&frame.Head, &f.Head)
	frame.Payload = f.Payload.Ref()
	if frame.Payload.Len() > 0 && m.s.c.alterNext() {
		altered := frame.Payload.Materialize()
		frame.Payload.Free()
		altered[len(altered)-1] ^= 1
		frame.Payload = wire.NewPayload(altered)
	}
	select {
	case m.s.frames <- frame:
		return nil
	case <-m.s.ctx.Done():
		frame.Free()
		return context.Cause(m.s.ctx)
	}
}

func (m memServer) Recv() (*internalv1.ReplicateRequest, error) {
	select {
	case req := <-m.s.requests:
		return req, nil
	case <-m.s.ctx.Done():
		return nil, io.EOF
	}
}

// batchOf builds a batch of values.
func batchOf(t testing.TB, producer int64, sequence int32, values ...string) ([]byte, record.Header) {
	t.Helper()
	b := record.NewBuilder(record.BuilderOptions{})
	for _, v := range values {
		if err := b.Add(record.Record{Value: []byte(v), Timestamp: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	epoch := int16(0)
	if producer < 0 {
		epoch, sequence = -1, -1
	}
	batch, err := b.Finish(record.None, producer, epoch, sequence)
	if err != nil {
		t.Fatal(err)
	}
	batch = slices.Clone(batch)
	header, err := record.Validate([][]byte{batch}, record.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return batch, header
}

type answer struct {
	receipt Receipt
	err     error
}

// produce appends at a broker and returns where the answer will come.
func (c *cluster) produce(id model.NodeID, tp model.TopicPartition, acks Acks, timeout time.Duration, batch []byte, header record.Header) <-chan answer {
	done := make(chan answer, 2) // a second answer would be a bug, and is found by mustAnswer
	req := AppendRequest{
		TP: tp, Batch: [][]byte{batch}, Header: header, Acks: acks, LeaderEpoch: model.NoLeaderEpoch,
		Done: func(r Receipt, err error) { done <- answer{r, err} },
	}
	if timeout > 0 {
		req.Deadline = time.Now().Add(timeout)
	}
	c.nodes[id].mgr.Append(req)
	return done
}

// send produces values without an idempotent producer.
func (c *cluster) send(id model.NodeID, tp model.TopicPartition, acks Acks, values ...string) <-chan answer {
	batch, header := batchOf(c.t, -1, -1, values...)
	return c.produce(id, tp, acks, 10*time.Second, batch, header)
}

func mustAnswer(t testing.TB, done <-chan answer) answer {
	t.Helper()
	select {
	case a := <-done:
		select {
		case b := <-done:
			t.Fatalf("answered twice: %+v, %+v", a, b)
		default:
		}
		return a
	case <-time.After(time.Minute):
		t.Fatal("no answer")
		return answer{}
	}
}

func mustAck(t testing.TB, done <-chan answer) Receipt {
	t.Helper()
	a := mustAnswer(t, done)
	if a.err != nil {
		t.Fatalf("append failed: %v", a.err)
	}
	return a.receipt
}

func mustFail(t testing.TB, done <-chan answer, code model.ErrorCode) error {
	t.Helper()
	a := mustAnswer(t, done)
	if !model.IsCode(a.err, code) {
		t.Fatalf("answer %+v, want %v", a, code)
	}
	return a.err
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// values reads the records of a replica below the HighWatermark straight from its log.
func (n *testNode) values(tp model.TopicPartition) []string {
	n.mgr.mu.RLock()
	p := n.mgr.partitions[tp]
	n.mgr.mu.RUnlock()
	if p == nil {
		return nil
	}
	var out []string
	for at, hw := p.log.LogStartOffset(), p.hw.Load(); at < hw; {
		read, err := p.log.Read(at, 1<<20, hw, nil)
		if err != nil || len(read.Data) == 0 {
			n.c.t.Fatalf("broker %d: read at %d: %v", n.id, at, err)
		}
		out = append(out, valuesOf(n.c.t, read.Data)...)
		at = read.NextOffset
	}
	return out
}

func valuesOf(t testing.TB, data []byte) (out []string) {
	t.Helper()
	for len(data) > 0 {
		h, err := record.ParseHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		records, err := record.Records(data[:h.Size()], record.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for records.Next() {
			out = append(out, string(records.Record().Value))
		}
		if err := records.Err(); err != nil {
			t.Fatal(err)
		}
		data = data[h.Size():]
	}
	return out
}

// agree waits until all replicas hold the same committed records, these.
func (c *cluster) agree(tp model.TopicPartition, want []string, ids ...model.NodeID) {
	c.t.Helper()
	for _, id := range ids {
		eventually(c.t, fmt.Sprintf("broker %d has %d records", id, len(want)), func() bool {
			state, err := c.nodes[id].mgr.PartitionState(tp)
			return err == nil && state.HighWatermark == int64(len(want)) && state.LogEndOffset == state.HighWatermark
		})
		if got := c.nodes[id].values(tp); !slices.Equal(got, want) {
			c.t.Fatalf("broker %d has %q, want %q", id, got, want)
		}
	}
}
